"""What the commands for a queue on NATS have in common: the way in, the options, the way out."""

from __future__ import annotations

import ssl
import sys
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Annotated, Any, ParamSpec

from penstock.cli.display import say
from penstock.cli.options import option, refuse
from penstock.errors import BrokerError
from penstock.limits import Limit

if TYPE_CHECKING:
    from penstock.brokers.nats import NatsLimiter, NatsQueue

P = ParamSpec("P")

#: Exit codes, beside 0, 128 + signal, and 1 for what each command says.
BROKER, FILE = 4, 5

_WHERE, _TLS, _MADE = "Server", "Credentials", "The queue, if it does not exist yet"


Servers = Annotated[
    str,
    option(
        *(_WHERE, "--nats", "URL", "URL of the server; of a cluster, several with commas."),
        envvar="NATS_URL",
    ),
]
Name = Annotated[str, option(_WHERE, "--queue", "NAME", "Name of the queue on the server.")]
Creds = Annotated[
    str | None, option(_TLS, "--creds", "FILE", "Credentials in the form of nsc (JWT and seed).")
]
TlsCa = Annotated[
    str | None, option(_TLS, "--tls-ca", "FILE", "Trust these certificates (PEM), no others.")
]
TlsCert = Annotated[str | None, option(_TLS, "--tls-cert", "FILE", "Client certificate (PEM).")]
TlsKey = Annotated[
    str | None, option(_TLS, "--tls-key", "FILE", "Key of the client certificate (PEM).")
]
Maxsize = Annotated[
    int | None,
    option(_MADE, "--maxsize", "N", "Items in the queue at most, those in flight included (100)."),
]
Replicas = Annotated[
    int | None, option(_MADE, "--replicas", "N", "Servers of the cluster that keep each item (1).")
]
AckWait = Annotated[
    float | None,
    option(
        _MADE,
        "--ack-wait",
        "SECONDS",
        "Time until the item of a lost worker goes to another (30).",
    ),
]
Otlp = Annotated[
    str | None,
    option(None, "--otlp", "ENDPOINT", "Send traces and metrics to a collector (extra otel)."),
]
ServiceName = Annotated[
    str | None, option(None, "--service-name", "NAME", "Name of this process in traces.")
]


@dataclass(frozen=True)
class NatsTarget:
    """Where a queue is, and how to get in there."""

    servers: list[str] = field(repr=False)  # there may be passwords in them
    name: str
    options: dict[str, Any] = field(repr=False)


def nats_target(
    servers: str,
    name: str,
    creds: str | None,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
) -> NatsTarget:
    """Check what the options of a command say of where the queue is."""
    options: dict[str, Any] = {}
    if creds is not None:
        _check_readable("--creds", creds)
        options["user_credentials"] = creds
    if tls_key is not None and tls_cert is None:
        refuse("--tls-key is the key of a certificate: give --tls-cert too")
    if tls_ca is not None or tls_cert is not None:
        options["tls"] = _tls(tls_ca, tls_cert, tls_key)
    return NatsTarget([url.strip() for url in servers.split(",")], name, options)


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
            refuse(f"--tls-cert {cert} and its key do not match, or are not in PEM form")
    return context


def _check_readable(name: str, path: str) -> None:
    try:
        with open(path, "rb"):
            pass
    except OSError as error:
        refuse(f"cannot read {name} {path}: {error.strerror or error}")


async def attach(
    where: NatsTarget, *, may_make: bool = True, given: dict[str, Any] | None = None, **more: Any
) -> NatsQueue[Any]:
    """A queue, started, with the settings that it has on the server.

    Args:
        where: where it is.
        may_make: make it there if it is not there yet, and say so.
        given: settings that were asked for; those left out, or None, are as on the server.
        more: what else :class:`NatsQueue` takes.

    Raises:
        UsageError: that cannot be.
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
            f"penstock: created queue {where.name}: at most {settings['maxsize']} items "
            f"(--maxsize), {settings['replicas']} replica(s), ack wait {settings['ack_wait']:g} s",
        )
    return queue


def shared_limiter(where: NatsTarget, limits: list[Limit]) -> NatsLimiter:
    """Limits for all workers of a queue, wherever they are."""
    try:
        from penstock.brokers.nats import NatsLimiter
    except ImportError as error:
        refuse(str(error))
    try:
        return NatsLimiter(where.servers, limits, name=where.name, options=where.options)
    except (TypeError, ValueError) as error:
        refuse(str(error))
