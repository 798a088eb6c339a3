"""What the commands for a queue on NATS have in common: the way in, the options, the way out."""

from __future__ import annotations

import asyncio
import functools
import os
import signal
import ssl
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Annotated, Any, NoReturn, ParamSpec

import typer

from penstock.cli.display import say
from penstock.errors import BrokerError
from penstock.limits import Limit
from penstock.telemetry import setup

if TYPE_CHECKING:
    from penstock.brokers.nats import NatsLimiter, NatsQueue

P = ParamSpec("P")

#: Exit codes, beside 0, 128 + signal, and 1 for what each command says.
USAGE, BROKER, FILE = 2, 4, 5

_WHERE, _TLS, _MADE = "Server", "Credentials", "The queue, if it is not there yet"


def _option(panel: str | None, name: str, metavar: str, text: str, **more: Any) -> Any:
    return typer.Option(
        name, metavar=metavar, help=text, rich_help_panel=panel, show_default=False, **more
    )


Servers = Annotated[
    str,
    _option(
        *(_WHERE, "--nats", "URL", "Of the server; of several in a cluster with commas between."),
        envvar="NATS_URL",
    ),
]
Name = Annotated[str, _option(_WHERE, "--queue", "NAME", "What the queue is called there.")]
Creds = Annotated[
    str | None, _option(_TLS, "--creds", "FILE", "Credentials as nsc writes them (JWT and seed).")
]
TlsCa = Annotated[
    str | None, _option(_TLS, "--tls-ca", "FILE", "Who signed the server's certificate.")
]
TlsCert = Annotated[str | None, _option(_TLS, "--tls-cert", "FILE", "Our own certificate.")]
TlsKey = Annotated[str | None, _option(_TLS, "--tls-key", "FILE", "And its key.")]
Maxsize = Annotated[
    int | None, _option(_MADE, "--maxsize", "N", "Items in it at most, in flight included (100).")
]
Replicas = Annotated[
    int | None, _option(_MADE, "--replicas", "N", "Servers of the cluster that keep them (1).")
]
AckWait = Annotated[
    float | None,
    _option(_MADE, "--ack-wait", "SECONDS", "Until a silent worker's item goes to another (30)."),
]
Otlp = Annotated[
    str | None, _option(None, "--otlp", "ENDPOINT", "Send traces and metrics there (extra otel).")
]
ServiceName = Annotated[
    str | None, _option(None, "--service-name", "NAME", "The name of this process in traces.")
]


class RefusalError(Exception):
    """It cannot be done; the message says why, and ``code`` is what the process exits with."""

    def __init__(self, problem: str, code: int = USAGE) -> None:
        super().__init__(problem)
        self.code = code


def refuse(problem: str, code: int = USAGE) -> NoReturn:
    """Say that it cannot be done."""
    raise RefusalError(problem, code)


def ending_with_code(command: Callable[P, int]) -> Callable[P, int]:
    """A command that says in one line on standard error why it cannot be done."""

    @functools.wraps(command)
    def run(*args: P.args, **kwargs: P.kwargs) -> int:
        try:
            return command(*args, **kwargs)
        except RefusalError as refusal:
            say(sys.stderr, f"penstock: {refusal}")
            return refusal.code

    return run


@dataclass(frozen=True)
class Place:
    """Where a queue is, and how to get in there."""

    servers: list[str] = field(repr=False)  # there may be passwords in them
    name: str
    options: dict[str, Any] = field(repr=False)


def place(
    servers: str,
    name: str,
    creds: str | None,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
) -> Place:
    """Check what the options of a command say of where the queue is."""
    options: dict[str, Any] = {}
    if creds is not None:
        _check_readable("--creds", creds)
        options["user_credentials"] = creds
    if tls_key is not None and tls_cert is None:
        refuse("--tls-key is the key of a certificate: give --tls-cert too")
    if tls_ca is not None or tls_cert is not None:
        options["tls"] = _tls(tls_ca, tls_cert, tls_key)
    return Place([url.strip() for url in servers.split(",")], name, options)


def _tls(ca: str | None, cert: str | None, key: str | None) -> ssl.SSLContext:
    for name, path in (("--tls-ca", ca), ("--tls-cert", cert), ("--tls-key", key)):
        if path is not None:
            _check_readable(name, path)
    try:
        context = ssl.create_default_context(cafile=ca)
    except ssl.SSLError:
        refuse(f"--tls-ca {ca} has no certificate in PEM form")
    if cert is not None:
        try:
            context.load_cert_chain(cert, key)
        except ssl.SSLError:
            refuse(f"--tls-cert {cert} and its key do not go together, or are not in PEM form")
    return context


def _check_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        refuse(f"cannot read {name} {path}: {error.strerror or error}")


async def attach(
    where: Place, *, may_make: bool = True, given: dict[str, Any] | None = None, **more: Any
) -> NatsQueue[Any]:
    """A queue, started, with the settings that it has on the server.

    Args:
        where: where it is.
        may_make: make it there if it is not there yet, and say so.
        given: settings that were asked for; those left out, or None, are as on the server.
        more: what else :class:`NatsQueue` takes.

    Raises:
        RefusalError: that cannot be.
    """
    try:
        from penstock.brokers.nats import NatsQueue, QueueSettings, existing_settings
    except ImportError as error:
        refuse(str(error))
    asked = {key: value for key, value in (given or {}).items() if value is not None}
    try:
        there = await existing_settings(where.servers, where.name, options=where.options)
        if there is None and not may_make:
            refuse(f"there is no queue {where.name} on the server", BROKER)
        settings = {**(there or QueueSettings()).as_arguments(), **asked}
        queue = NatsQueue[Any](where.servers, where.name, options=where.options, **settings, **more)
        await queue.start()
    except BrokerError as error:
        refuse(str(error), BROKER)
    except (TypeError, ValueError) as error:
        refuse(str(error))
    if there is None:
        say(
            sys.stderr,
            f"penstock: made queue {where.name}: at most {settings['maxsize']} items "
            f"(--maxsize), {settings['replicas']} replica(s), ack wait {settings['ack_wait']:g} s",
        )
    return queue


def shared_limiter(where: Place, limits: list[Limit]) -> NatsLimiter:
    """Limits for all workers of a queue, wherever they are."""
    try:
        from penstock.brokers.nats import NatsLimiter
    except ImportError as error:
        refuse(str(error))
    try:
        return NatsLimiter(where.servers, limits, name=where.name, options=where.options)
    except (TypeError, ValueError) as error:
        refuse(str(error))


def set_up_telemetry(endpoint: str | None, service_name: str | None, default: str) -> None:
    """Send traces and metrics to ``endpoint``, if one is given."""
    if endpoint is None:
        return
    try:
        setup(service_name or os.environ.get("OTEL_SERVICE_NAME") or default, endpoint)
    except (ImportError, ValueError) as error:
        refuse(f"--otlp: {error}")


@contextmanager
def on_signals(call: Callable[[int], None]) -> Iterator[None]:
    """Call ``call(signal)`` in the loop at each Ctrl-C and SIGTERM."""
    loop = asyncio.get_running_loop()

    def react(number: int, frame: FrameType | None) -> None:
        loop.call_soon_threadsafe(call, number)

    before = {number: signal.signal(number, react) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
