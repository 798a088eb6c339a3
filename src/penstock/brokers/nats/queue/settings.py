"""The settings of a queue that is on a server already, for those who join it."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from penstock.brokers.nats.connection.addresses import check_options, check_servers
from penstock.brokers.nats.connection.codes import NO_CONSUMER, NO_STREAM
from penstock.brokers.nats.connection.connection import Connection
from penstock.brokers.nats.connection.replies import ApiError
from penstock.brokers.nats.queue.streams import CONSUMER, DEDUPE, NANO, QueueStreams, check_name
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
    #: In seconds.
    dedupe: float = DEDUPE

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
    connection = Connection(check_servers(servers), check_options(options), _logger)
    defaults = QueueSettings()
    streams = QueueStreams(connection, check_name(name), **defaults.as_arguments())
    await connection.open()
    try:
        stream = await _config(streams, connection, f"STREAM.INFO.{name}")
        if stream is None:
            return None
        if stream.get("subjects") != [streams.subject] or stream.get("max_msgs", 0) < 1:
            raise BrokerError(
                f"Stream {name} at {connection.where} exists, and is no queue of penstock: "
                "give the queue another name"
            )
        consumer = await _config(streams, connection, f"CONSUMER.INFO.{name}.{CONSUMER}")
        dead = await _config(streams, connection, f"STREAM.INFO.{streams.dead_name}")
    finally:
        await connection.close()
    if dead is not None:
        most_dead = dead["max_msgs"]
    else:  # the stream for them is made before the consumer
        most_dead = defaults.max_dead_letters if consumer is None else 0
    return QueueSettings(
        maxsize=stream["max_msgs"],
        replicas=stream["num_replicas"],
        ack_wait=defaults.ack_wait if consumer is None else consumer["ack_wait"] / NANO,
        max_dead_letters=most_dead,
        dedupe=stream["duplicate_window"] / NANO,
    )


async def _config(
    streams: QueueStreams, connection: Connection, subject: str
) -> dict[str, Any] | None:
    """What a stream or a consumer is set to; None if it is not there."""
    try:
        told = await streams.patiently(lambda: connection.api(subject))
    except ApiError as error:
        if error.code in (NO_STREAM, NO_CONSUMER):
            return None
        raise streams.refusal(f"look at queue {streams.name}", error) from error
    config: dict[str, Any] = told["config"]
    return config
