"""What a queue is on the server: a stream that is its line, one that keeps its dead letters.

The stream has work-queue retention, so that what is acknowledged is gone; ``max_msgs`` with
``discard: new`` is the bound. One durable consumer hands its messages out to all machines.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final, TypeVar

from penstock._util import checks
from penstock.brokers.engine import BrokerQueueInfo
from penstock.brokers.nats.connection.codes import (
    ADVICE,
    NAME_IN_USE,
    NO_CONSUMER,
    NO_LEADER,
    NO_STREAM,
    SUBJECT_IN_USE,
)
from penstock.brokers.nats.connection.connection import Connection
from penstock.brokers.nats.connection.replies import ApiError, NoReplyError, NoRespondersError
from penstock.errors import BrokerError

R = TypeVar("R")

#: Seconds in which the server knows a message again that it has seen: JetStream's default.
DEDUPE: Final = 120.0
#: The durable consumer that all workers share.
CONSUMER: Final = "workers"

#: Seconds that a cluster gets to find a leader.
_ELECTION = 20.0
#: Nanoseconds in a second.
NANO: Final = 1_000_000_000
#: Until when a queue is paused that is not resumed.
_FOR_EVER: Final = "2200-01-01T00:00:00Z"
_NAME = re.compile(r"[A-Za-z0-9_-]{1,200}")


@dataclass(frozen=True)
class QueueInfo(BrokerQueueInfo):
    """A queue as the server sees it, at one instant, over all machines."""

    #: Bytes that its items take up on the server, without the dead letters.
    bytes: int
    replicas: int
    #: Requests of workers, anywhere, that wait for an item.
    idle_workers: int


class QueueStreams:
    """The streams of one queue: made, checked, looked at."""

    def __init__(
        self,
        connection: Connection,
        name: str,
        *,
        maxsize: int,
        replicas: int,
        ack_wait: float,
        max_dead_letters: int,
        dedupe: float = DEDUPE,
    ) -> None:
        self._connection = connection
        self._replicas = replicas
        self.name = name
        self.subject = f"penstock.{name}"
        self.dead_name = f"{name}-dead"
        #: Whether what failed for good is kept.
        self.keeps_dead_letters = max_dead_letters > 0
        self.dead_subject = f"penstock.{name}.dead"
        #: Where processes that have the queue open are asked what they did.
        self.processes_subject = f"penstock.{name}.roll"
        common = {"storage": "file", "num_replicas": replicas, "discard": "new"}
        self._stream = {
            "name": name,
            "subjects": [self.subject],
            "retention": "workqueue",
            "max_msgs": maxsize,
            "duplicate_window": int(dedupe * NANO),
            **common,
        }
        self._dead = {
            "name": self.dead_name,
            "subjects": [self.dead_subject],
            "retention": "limits",
            "max_msgs": max_dead_letters,
            "duplicate_window": int(DEDUPE * NANO),
            **common,
        }
        self._consumer = {
            "durable_name": CONSUMER,
            "ack_policy": "explicit",
            "ack_wait": int(ack_wait * NANO),
            "max_deliver": -1,
            "max_ack_pending": maxsize,
            "deliver_policy": "all",
            "replay_policy": "instant",
        }

    async def set_paused(self, is_paused: bool) -> None:
        """Have the consumer hand out nothing, to any process, or go on.

        Raises:
            BrokerError: the server does not do that, or cannot just now.
        """
        self._check_version((2, 11, 0), "pause_all()")
        until = {"pause_until": _FOR_EVER} if is_paused else {}
        try:
            await self._ask(f"CONSUMER.PAUSE.{self.name}.{CONSUMER}", until)
        except ApiError as error:
            raise self.refusal(f"pause queue {self.name}", error) from error

    def check_ids(self) -> None:
        """Raise ``BrokerError`` where a message that was refused would leave its id behind."""
        if self._replicas > 1:
            self._check_version((2, 15, 1), "put(id=...) on a cluster")

    def _check_version(self, needed: tuple[int, int, int], what: str) -> None:
        version: Any = self._connection.client.connected_server_version
        there = (version.major, version.minor, version.patch)
        if there < needed:
            raise BrokerError(
                f"{what} needs nats-server {'.'.join(map(str, needed))} or newer; the one at "
                f"{self._connection.where} is {'.'.join(map(str, there))}"
            )

    async def set_up(self) -> None:
        """Make what is not there, and check what is.

        Raises:
            BrokerError: there is one already that differs, or the server does not let us.
        """
        await self._have_stream(self._stream)
        if self.keeps_dead_letters:
            await self._have_stream(self._dead)
        await self._have_consumer()

    async def _have_stream(self, wanted: dict[str, Any]) -> None:
        name = wanted["name"]
        info = await self._stream_info(name)
        if info is None:
            try:
                info = await self._ask(f"STREAM.CREATE.{name}", wanted)
            except ApiError as failure:
                # Mostly another machine was faster. A server that makes its stream just now may say
                # as well that the subjects are in use: by the very stream.
                is_there = failure.code in (NAME_IN_USE, SUBJECT_IN_USE)
                info = await self._stream_info(name) if is_there else None
                if info is None:
                    raise self.refusal(f"create stream {name}", failure) from failure
        self._compare(f"stream {name}", wanted, info["config"])

    async def _stream_info(self, name: str) -> dict[str, Any] | None:
        """What the server says of a stream; None if there is none."""
        try:
            return await self._ask(f"STREAM.INFO.{name}")
        except ApiError as error:
            if error.code != NO_STREAM:
                raise self.refusal(f"look at stream {name}", error) from error
            return None

    async def _have_consumer(self) -> None:
        wanted = self._consumer
        try:
            info = await self._ask(f"CONSUMER.INFO.{self.name}.{CONSUMER}")
        except ApiError as error:
            if error.code != NO_CONSUMER:
                raise self.refusal(f"look at the consumer of {self.name}", error) from error
            try:
                info = await self._ask(
                    f"CONSUMER.DURABLE.CREATE.{self.name}.{CONSUMER}",
                    {"stream_name": self.name, "config": wanted},
                )
            except ApiError as failure:
                raise self.refusal(f"create the consumer of {self.name}", failure) from failure
        self._compare(f"the consumer of stream {self.name}", wanted, info["config"])

    async def has_forgotten(self) -> bool:
        """Whether there are items that the consumer takes for done.

        nats-server 2.9 that is killed has them at times when it starts again: it knows that they
        were acknowledged, or handed out, and not that it has removed them.

        Raises:
            ApiError, NoReplyError, NoRespondersError, BrokerError: it cannot be told now.
        """
        told = await self._connection.api(f"CONSUMER.INFO.{self.name}.{CONSUMER}")
        if told["num_pending"] or told["num_ack_pending"]:
            return False
        return await self.size() > 0

    async def remind(self) -> None:
        """Have all items handed out that are there, also those that the consumer takes for done.

        Raises:
            ApiError, NoReplyError, NoRespondersError, BrokerError: it cannot be done now.
        """
        # Not a purge: what it forgets may also be that an item was not done.
        await self._connection.api(f"CONSUMER.DELETE.{self.name}.{CONSUMER}")
        await self._have_consumer()

    def _compare(self, what: str, wanted: dict[str, Any], there: dict[str, Any]) -> None:
        differences = [
            f"{key} is {_shown(key, there.get(key))} there and {_shown(key, value)} here"
            for key, value in wanted.items()
            if there.get(key) != value
        ]
        # What would take items away behind our backs.
        differences += [
            f"{key} is {_shown(key, there[key])} there and must not be set"
            for key in ("max_age", "max_bytes", "max_msgs_per_subject", "sealed")
            if there.get(key) not in (None, 0, -1, False)
        ]
        if differences:
            raise BrokerError(
                f"Queue {self.name} does not match {what} at {self._connection.where}: "
                f"{'; '.join(differences)}. Give all machines the same settings, or change those "
                "on the server (nats stream edit, nats consumer edit)"
            )

    def refusal(self, what: str, error: ApiError) -> BrokerError:
        """What to raise when the server says no: what it said, and what to do."""
        advice = ADVICE.get(error.code)
        return BrokerError(
            f"Cannot {what} at {self._connection.where}: {error} ({error.code})"
            + (f". {advice}" if advice else "")
        )

    async def _ask(self, subject: str, request: dict[str, Any] | None = None) -> dict[str, Any]:
        """Ask JetStream, and give a cluster time to find a leader.

        Raises:
            ApiError: it says no.
            BrokerError: it does not answer, or there is none.
        """
        return await self.patiently(lambda: self._connection.api(subject, request))

    async def patiently(self, call: Callable[[], Awaitable[R]]) -> R:
        """Await ``call()``, again for a while if nobody can answer just now."""
        loop = asyncio.get_running_loop()
        give_up_at = loop.time() + _ELECTION
        while True:
            try:
                return await call()
            except NoRespondersError as error:
                if self._connection.is_lost:
                    raise BrokerError(f"JetStream does not answer: {error}") from None
                raise BrokerError(
                    f"The NATS server at {self._connection.where} has no JetStream for this user: "
                    "start nats-server with -js, or give the account jetstream: enabled"
                ) from None
            except NoReplyError:
                if loop.time() >= give_up_at:
                    raise BrokerError(
                        f"JetStream at {self._connection.where} does not answer: are most "
                        "servers of the cluster running?"
                    ) from None
            except ApiError as error:
                if error.code != NO_LEADER or loop.time() >= give_up_at:
                    raise
            await asyncio.sleep(0.25)

    # -- looking ------------------------------------------------------------------------------

    async def size(self) -> int:
        """How many items are accepted and not done.

        Raises:
            ApiError, NoReplyError, NoRespondersError, BrokerError: it cannot be told now.
        """
        told = await self._connection.api(f"STREAM.INFO.{self.name}")
        size: int = told["state"]["messages"]
        return size

    async def last_dead_letter(self) -> int:
        """The number of the newest dead letter; those that are there have lower ones.

        Raises:
            BrokerError: it cannot be told now.
        """
        told = await self._ask(f"STREAM.INFO.{self.dead_name}")
        number: int = told["state"]["last_seq"]
        return number

    async def info(self) -> QueueInfo:
        """The queue as the server sees it.

        Raises:
            BrokerError: it cannot be told now.
        """
        try:
            stream = await self._ask(f"STREAM.INFO.{self.name}")
            consumer = await self._ask(f"CONSUMER.INFO.{self.name}.{CONSUMER}")
            dead = 0
            if self.keeps_dead_letters:
                told = await self._ask(f"STREAM.INFO.{self.dead_name}")
                dead = told["state"]["messages"]
        except ApiError as error:
            raise self.refusal(f"look at queue {self.name}", error) from error
        return QueueInfo(
            name=self.name,
            size=stream["state"]["messages"],
            maxsize=stream["config"]["max_msgs"],
            in_flight=consumer["num_ack_pending"],
            redelivered=consumer["num_redelivered"],
            dead_letters=dead,
            bytes=stream["state"]["bytes"],
            replicas=stream["config"]["num_replicas"],
            idle_workers=consumer["num_waiting"],
            is_paused=bool(consumer.get("paused")),
        )


def check_name(name: Any) -> str:
    """A name for a queue on NATS, where it becomes the name of streams.

    Raises:
        TypeError, ValueError: it cannot be one.
    """
    label = checks.label(name, "name")
    if not _NAME.fullmatch(label):
        raise ValueError(
            "name must be up to 200 of the letters A to Z, a to z, digits, _ and -, "
            f"got {checks.shown(label)}"
        )
    return label


def _shown(key: str, value: Any) -> str:
    if key in ("ack_wait", "duplicate_window", "max_age") and isinstance(value, int):
        return f"{value / NANO:g} s"
    return repr(value)
