"""What a queue on a broker needs of the engine that keeps its items, and what the engine gets.

``BrokerQueue`` is the same for all: states, workers, waiting puts, leases, retries, dead letters,
traces. An engine stores, hands out and forgets messages, and keeps the bound.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Generic, Protocol, TypeVar

from penstock.brokers.messages import Delivery, Message

T = TypeVar("T")


class Stored(Enum):
    """What became of a message that was offered."""

    #: It is stored.
    NEW = "new"
    #: It was stored before, by a put with the same id.
    DUPLICATE = "duplicate"
    #: There is no room for it, and nothing of it is left.
    FULL = "full"


@dataclass(frozen=True)
class BrokerDeadLetter(Generic[T]):
    """An item that failed for good, and why."""

    #: Its place among the dead letters; they are numbered in the order of their deaths.
    number: int
    #: None if it cannot be decoded; ``data`` is what it was.
    item: T | None
    data: bytes
    #: The type and the message of the last error.
    error_type: str
    error: str
    #: How many times it was handed out.
    deliveries: int


@dataclass(frozen=True)
class BrokerQueueInfo:
    """A queue as its broker sees it, at one instant, over all processes."""

    name: str
    #: Items accepted and not done: those that wait, and those in flight.
    size: int
    maxsize: int
    #: Items handed out and not done; on NATS also those that wait for a retry.
    in_flight: int
    #: Items that were handed out more than once so far.
    redelivered: int
    dead_letters: int
    #: Whether nothing is handed out, by ``pause_all``.
    is_paused: bool


@dataclass(frozen=True)
class BrokerProcess:
    """What one process says that it did with a queue since the queue was made there."""

    #: The name of its machine, and its number there.
    host: str
    pid: int
    #: Puts that returned True, and those that returned False.
    accepted: int
    refused: int
    processed: int
    errors: int
    #: Items in its hands.
    in_flight: int
    workers: int


@dataclass(frozen=True)
class KeptMessage:
    """A dead letter as the engine keeps it: as :class:`BrokerDeadLetter`, but not decoded."""

    number: int
    message: Message
    error_type: str
    error: str
    deliveries: int


class Receiver(Protocol):
    """What an engine tells: the queue. All of it in the event loop, and none of it waits."""

    @property
    def wanted(self) -> int:
        """For how many items workers wait, those included that the engine has been asked for."""
        ...

    def ask_soon(self, seconds: float = ...) -> None:
        """Have ``QueueEngine.ask`` called in the next turn of the loop, if items are wanted."""

    def receive(self, delivery: Delivery) -> None:
        """An item was delivered. If no worker waits any more, it is handed back."""

    def on_room(self) -> None:
        """There may be room for another item."""


class QueueEngine(Protocol):
    """Keeps the items of one queue. Used in one event loop at a time, from ``open`` to ``close``.

    Every call may raise ``BrokerError``: the broker does not answer, or refuses.
    """

    #: Seconds after which an item whose worker is not heard of any more is handed out again.
    ack_wait: float

    @property
    def where(self) -> str:
        """Where the queue is kept, for people: no password, no token."""
        ...

    @property
    def is_lost(self) -> bool:
        """Whether there is no connection just now."""
        ...

    @property
    def keeps_dead_letters(self) -> bool:
        """Whether items that failed for good are kept."""
        ...

    # -- the connection -----------------------------------------------------------------------

    async def open(self, receiver: Receiver) -> int:
        """Connect, make the queue or check that it is the one that is meant; return its size.

        Leaves nothing open where it fails.
        """
        ...

    async def close(self) -> None:
        """Send what is to be sent still, and disconnect."""

    def forget(self) -> None:
        """The event loop was closed: nothing will come of anything."""

    # -- items in -----------------------------------------------------------------------------

    async def put(self, message: Message, message_id: str | None = None) -> Stored:
        """Store a message, if there is room: never more than ``maxsize`` are stored.

        Args:
            message_id: of two messages with one id within the dedupe time one is stored.

        Raises:
            QueueUnknownError: it is not known whether it is stored. It is stored at most once.
            BrokerError, CodecError: it is not stored.
        """
        ...

    async def put_many(self, messages: Sequence[Message]) -> int:
        """Store the first of the messages, as many as there is room for; return how many.

        Raises:
            QueueUnknownError, BrokerError, CodecError: as :meth:`put`, of the first of them. What
            happens to a later one ends the call, with those before it.
        """
        ...

    # -- items out ----------------------------------------------------------------------------

    def ask(self, wanted: int, seconds: float) -> None:
        """Workers wait for ``wanted`` items in all: give each to ``Receiver.receive``.

        Called whenever that number may have grown. It holds for ``seconds`` at least; afterwards,
        and when less than that came, the engine calls ``Receiver.ask_soon``. (Or it continues, and
        looks at ``Receiver.wanted`` before each look for items.)
        """

    async def hush(self) -> None:
        """Take nothing more for what was asked so far. What is on its way may still arrive."""

    # -- settling -----------------------------------------------------------------------------

    async def ack(self, delivery: Delivery) -> None:
        """The item is done. Called again if it raises, until ``ack_wait`` is over."""

    async def nak(self, delivery: Delivery, delay: float) -> None:
        """Hand the item out again in ``delay`` seconds, to any process."""

    async def term(self, delivery: Delivery) -> None:
        """Never hand the item out again, as :meth:`ack`. It may be a dead letter by now."""

    async def extend(self, deliveries: Sequence[Delivery]) -> None:
        """All these are being worked on: they are not to be handed out for another ``ack_wait``."""

    # -- dead letters -------------------------------------------------------------------------

    async def add_dead_letter(self, delivery: Delivery, error_type: str, error: str) -> bool:
        """Keep the item as a dead letter; :meth:`term` follows. False: they are as many as may be.

        If the same item is added twice, it is kept once.
        """
        ...

    def dead_letters(self) -> AsyncIterator[KeptMessage]:
        """Those that are there now, the oldest first."""
        ...

    async def redrive(self, letter: KeptMessage) -> Stored:
        """Move a dead letter back into the queue, as if it were new; ``FULL``: it stays."""
        ...

    # -- looking ------------------------------------------------------------------------------

    async def size(self) -> int:
        """How many items are accepted and not done, in flight and delayed ones included."""
        ...

    async def on_stall(self, looks: int) -> bool:
        """Workers wait though there are items, at ``looks`` looks in a row, one a second.

        (They may all be in flight, delayed or paused.) Return True to start the count again.
        """
        ...

    async def set_paused(self, is_paused: bool) -> None:
        """Hand out nothing, to any process, until it is set back."""
