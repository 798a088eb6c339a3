"""The settings of a queue that is on a server already, for those who join it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from penstock.brokers.nats.connection.addresses import check_options, check_servers
from penstock.brokers.nats.connection.answers import ApiError
from penstock.brokers.nats.connection.codes import NO_CONSUMER, NO_STREAM
from penstock.brokers.nats.connection.wire import Wire
from penstock.brokers.nats.queue.engine import CONSUMER, NANO, Engine, check_name
from penstock.errors import BrokerError
from penstock.policies.dead_letters import MAX_DEAD_LETTERS

_logger = logging.getLogger("penstock")


@dataclass(frozen=True)
class QueueSettings:
    """What all machines must give alike, with the defaults of :class:`NatsQueue`."""

    maxsize: int = 100
    replicas: int = 1
    #: In seconds.
    ack_wait: float = 30.0
    max_dead_letters: int = 10 * MAX_DEAD_LETTERS

    def as_arguments(self) -> dict[str, Any]:
        """For :class:`NatsQueue`: ``NatsQueue(servers, name, **settings.as_arguments())``."""
        return asdict(self)


async def existing_settings(
    servers: str | Sequence[str], name: str, *, options: Mapping[str, Any] | None = None
) -> QueueSettings | None:
    """The settings of the queue ``name`` on these servers; None if there is none.

    It makes nothing, so that a name that was mistyped stays without consequences.

    Args:
        servers, name, options: as for :class:`NatsQueue`.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.
        BrokerError: the server cannot be reached, does not let us, or has a stream of that name
            that is no queue.
    """
    wire = Wire(check_servers(servers), check_options(options), _logger)
    defaults = QueueSettings()
    engine = Engine(wire, check_name(name), **defaults.as_arguments())
    await wire.open()
    try:
        stream = await _config(engine, wire, f"STREAM.INFO.{name}")
        if stream is None:
            return None
        if stream.get("subjects") != [engine.subject] or stream.get("max_msgs", 0) < 1:
            raise BrokerError(
                f"Stream {name} at {wire.where} is there, and no queue of penstock: "
                "give the queue another name"
            )
        consumer = await _config(engine, wire, f"CONSUMER.INFO.{name}.{CONSUMER}")
        dead = await _config(engine, wire, f"STREAM.INFO.{engine.dead_name}")
    finally:
        await wire.close()
    if dead is not None:
        most_dead = dead["max_msgs"]
    else:  # the stream for them is made before the consumer
        most_dead = defaults.max_dead_letters if consumer is None else 0
    return QueueSettings(
        maxsize=stream["max_msgs"],
        replicas=stream["num_replicas"],
        ack_wait=defaults.ack_wait if consumer is None else consumer["ack_wait"] / NANO,
        max_dead_letters=most_dead,
    )


async def _config(engine: Engine, wire: Wire, subject: str) -> dict[str, Any] | None:
    """What a stream or a consumer is set to; None if it is not there."""
    try:
        told = await engine.patiently(lambda: wire.api(subject))
    except ApiError as error:
        if error.code in (NO_STREAM, NO_CONSUMER):
            return None
        raise engine.refusal(f"look at queue {engine.name}", error) from error
    config: dict[str, Any] = told["config"]
    return config
