"""What the commands for a queue on a broker share: the way in, the options, the way out."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Annotated, Any, Protocol

import typer

from penstock.cli.brokers.nats import NatsTarget
from penstock.cli.brokers.sqlite import SqliteTarget
from penstock.cli.display import say
from penstock.cli.options import USAGE, option, refuse
from penstock.errors import BrokerError
from penstock.limits import Limit

#: Exit codes, beside 0, 128 + signal, and 1 for what each command says.
BROKER, FILE = 4, 5

_WHERE, _TLS, _MADE = "Server", "Credentials", "The queue, if it does not exist yet"


Url = Annotated[
    str,
    typer.Option(
        "--broker",
        "--nats",
        metavar="URL",
        help="URL of the broker: sqlite:///calls.db, a file; or nats://host:4222; of a cluster, "
        "several with commas.",
        rich_help_panel=_WHERE,
        show_default=False,
        envvar=["PENSTOCK_BROKER", "NATS_URL"],
    ),
]
Name = Annotated[str, option(_WHERE, "--queue", "NAME", "Name of the queue there.")]
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


class Target(Protocol):
    """Where a queue is, and how to get in there: what each kind of broker says of its own.

    Each method may raise ``ImportError`` where an extra is missing, and what the queue raises.
    """

    @property
    def name(self) -> str:
        """The name of the queue."""
        ...

    @property
    def place(self) -> str:
        """Where it is looked for, for people: "on the server"."""
        ...

    async def settings(self) -> dict[str, Any] | None:
        """The settings that the queue has there; None if it is not there. Makes nothing."""
        ...

    def defaults(self) -> dict[str, Any]:
        """The settings of a queue that is made; their names are those that can be given."""
        ...

    def queue(self, **settings: Any) -> Any:
        """The queue, not started. ``settings`` has what else the kind of queue takes, too."""
        ...

    def made(self, settings: dict[str, Any]) -> str:
        """What was made, for people."""
        ...

    def limiter(self, limits: list[Limit]) -> Any:
        """Limits for all workers of the queue, wherever they are."""
        ...


#: Makes a target of a URL, the name of a queue, and the values of --creds and the --tls options.
MakeTarget = Callable[[str, str, dict[str, str | None]], Target]

#: By the scheme of the URL. What has none, or another one, is for NATS to refuse.
TARGETS: dict[str, MakeTarget] = {"nats": NatsTarget.of, "sqlite": SqliteTarget.of}


def target_of(
    url: str,
    name: str,
    creds: str | None,
    tls_ca: str | None,
    tls_cert: str | None,
    tls_key: str | None,
) -> Target:
    """Check what the options of a command say of where the queue is."""
    credentials = {"creds": creds, "tls_ca": tls_ca, "tls_cert": tls_cert, "tls_key": tls_key}
    make = TARGETS.get(url.partition("://")[0], NatsTarget.of)
    return make(url, name, credentials)


async def attach(
    target: Target, *, may_make: bool = True, given: dict[str, Any] | None = None, **more: Any
) -> Any:
    """A queue, started, with the settings that it has there.

    Args:
        target: where it is.
        may_make: make it there if it is not there yet, and say so.
        given: settings that were asked for; those left out, or None, are as they are there.
        more: what else the kind of queue takes.

    Raises:
        UsageError: that cannot be.
    """
    asked = {key: value for key, value in (given or {}).items() if value is not None}
    try:
        there = await target.settings()
        if there is None and not may_make:
            refuse(f"there is no queue {target.name} {target.place}", BROKER)
        defaults = target.defaults()
        for key in asked:
            if key not in defaults:
                refuse(f"--{key.replace('_', '-')} is for queues on another kind of broker")
        settings = {**(there or defaults), **asked}
        queue = target.queue(**settings, **more)
        await queue.start()
    except (BrokerError, ImportError) as error:
        refuse(str(error), BROKER if isinstance(error, BrokerError) else USAGE)
    except (TypeError, ValueError) as error:
        refuse(str(error))
    if there is None:
        say(sys.stderr, f"penstock: created queue {target.name}: {target.made(settings)}")
    return queue


def shared_limiter(target: Target, limits: list[Limit]) -> Any:
    """Limits for all workers of a queue, wherever they are."""
    try:
        return target.limiter(limits)
    except (ImportError, TypeError, ValueError) as error:
        refuse(str(error))
