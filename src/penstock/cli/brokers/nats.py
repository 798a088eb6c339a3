"""What the commands need to know of queues on NATS."""

from __future__ import annotations

import ssl
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from penstock.cli.options import refuse
from penstock.limits import Limit

if TYPE_CHECKING:
    from penstock.brokers.nats import NatsLimiter, NatsQueue


@dataclass(frozen=True)
class NatsTarget:
    """Where a queue is, and how to get in there. A ``Target``, see ``attach``."""

    servers: list[str] = field(repr=False)  # there may be passwords in them
    name: str
    options: dict[str, Any] = field(repr=False)
    place: str = "on the server"

    @classmethod
    def of(cls, url: str, name: str, credentials: dict[str, str | None]) -> NatsTarget:
        """Check what the options of a command say of where the queue is."""
        given = {key: value for key, value in credentials.items() if value is not None}
        options: dict[str, Any] = {}
        if "creds" in given:
            _check_readable("--creds", given["creds"])
            options["user_credentials"] = given["creds"]
        if "tls_key" in given and "tls_cert" not in given:
            refuse("--tls-key is the key of a certificate: give --tls-cert too")
        if "tls_ca" in given or "tls_cert" in given:
            options["tls"] = _tls(given.get("tls_ca"), given.get("tls_cert"), given.get("tls_key"))
        return cls([one.strip() for one in url.split(",")], name, options)

    async def settings(self) -> dict[str, Any] | None:
        """Those that the queue has on the server; None if it is not there."""
        from penstock.brokers.nats import existing_settings

        there = await existing_settings(self.servers, self.name, options=self.options)
        return None if there is None else there.as_arguments()

    def defaults(self) -> dict[str, Any]:
        """The settings of a queue that is made."""
        from penstock.brokers.nats import QueueSettings

        return QueueSettings().as_arguments()

    def queue(self, **settings: Any) -> NatsQueue[Any]:
        """The queue, not started."""
        from penstock.brokers.nats import NatsQueue

        return NatsQueue[Any](self.servers, self.name, options=self.options, **settings)

    def made(self, settings: dict[str, Any]) -> str:
        """What was made, for people."""
        return (
            f"at most {settings['maxsize']} items (--maxsize), {settings['replicas']} replica(s), "
            f"ack wait {settings['ack_wait']:g} s"
        )

    def limiter(self, limits: list[Limit]) -> NatsLimiter:
        """Limits for all workers of the queue, wherever they are."""
        from penstock.brokers.nats import NatsLimiter

        return NatsLimiter(self.servers, limits, name=self.name, options=self.options)


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
