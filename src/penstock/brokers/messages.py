"""From an item to a message of a broker, and from a delivery to an entry for a worker."""

from __future__ import annotations

from contextvars import Context
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from opentelemetry import context as otel_context
from opentelemetry import propagate

from penstock._util import checks
from penstock._util.clock import now
from penstock.brokers.codecs import JSON, Codec, JsonCodec
from penstock.errors import BrokerError, CodecError
from penstock.policies.item_state import PolicyScope
from penstock.policies.observer import Observer
from penstock.workers.item import Ticket
from penstock.workers.observed import ObservedTicket

T = TypeVar("T")

#: Headers that go with an item, beside those of its trace.
CONTENT_TYPE: Final = "Penstock-Content-Type"
DEADLINE: Final = "Penstock-Deadline"
#: How headers begin that have nothing to do with traces: ours, and those of NATS.
_NO_TRACE = ("Penstock-", "Nats-")


@dataclass(slots=True)
class Message:
    """An item as a broker stores it."""

    payload: bytes
    #: Content type, deadline and trace, all of it text.
    headers: dict[str, str]


class Delivery:
    """One handing-out of one item by its broker.

    Args:
        key: what the broker knows the item by: the same at each delivery, ascending in the order in
            which items are to be handed out.
        number: how many times the item has been handed out, this time included.
        age: seconds since it was stored.
        message: what was stored.
        handle: what its engine needs to settle this delivery, and no other of the same item.
    """

    __slots__ = ("age", "handle", "is_done", "key", "message", "number")

    def __init__(self, key: int, number: int, age: float, message: Message, handle: Any) -> None:
        self.key = key
        self.number = number
        self.age = age
        self.message = message
        self.handle = handle
        #: Whether its call has ended, so that it must not be handed back any more.
        self.is_done = False


class DeliveryTicket(Ticket):
    """The ticket of an item that a broker has delivered."""

    __slots__ = ("delivery",)
    delivery: Delivery


class ObservedDeliveryTicket(ObservedTicket):
    """The same, of an item that is observed."""

    __slots__ = ("delivery",)
    delivery: Delivery


class MessageCodec(Generic[T]):
    """Makes messages of items, and entries of deliveries.

    Args:
        codec: how items become bytes; ``None``: as JSON.
        max_item_size: the most bytes that an item may have, or None.
        max_deliveries: the most times that an item may be handed out.

    Raises:
        TypeError, ValueError: ``codec`` is none, or ``max_item_size`` is no number of bytes.
    """

    def __init__(
        self, codec: Codec[T] | None, max_item_size: int | None, max_deliveries: int
    ) -> None:
        self._codec: Codec[T] = JsonCodec() if codec is None else codec
        checks.members(self._codec, "codec", Codec)
        if max_item_size is not None:
            checks.positive_int(max_item_size, "max_item_size", "max_item_size must be at least 1")
        self._max_item_size = max_item_size
        self._max_deliveries = max_deliveries

    def pack(self, item: T, deadline: float | None) -> Message:
        """The message of an item, without its trace.

        Raises:
            CodecError: it cannot be encoded, or is too large.
        """
        payload, content_type = self._codec.encode(item), self._codec.content_type
        if self._max_item_size is not None and len(payload) > self._max_item_size:
            raise CodecError(
                f"The item is {len(payload)} bytes as {content_type}, and "
                f"max_item_size allows {self._max_item_size}"
            )
        headers = {} if content_type == JSON else {CONTENT_TYPE: content_type}
        if deadline is not None:
            headers[DEADLINE] = repr(deadline)
        return Message(payload, headers)

    def unpack(
        self, delivery: Delivery, scope: PolicyScope | None, observer: Observer
    ) -> tuple[int, T, Context, Ticket]:
        """The entry of a delivery. It needs a scope if it has a deadline, or was delivered before.

        Raises:
            Exception: no worker can have it. (A codec, or a function of a limit, may be anybody's.)
        """
        if delivery.number > self._max_deliveries:
            raise BrokerError(
                f"The item was delivered {self._max_deliveries} times and never finished: "
                "it may have killed its workers"
            )
        headers = delivery.message.headers
        item = self.decode(delivery.message)
        ticket: DeliveryTicket | ObservedDeliveryTicket
        if observer.is_enabled():
            ticket = ObservedDeliveryTicket(scope)
            ticket.observed = observer.on_item(delivery.age)
        else:
            ticket = DeliveryTicket(scope)
        ticket.delivery = delivery
        if scope is not None:
            told = headers.get(DEADLINE)
            deadline = None if told is None else max(0.0, float(told) - delivery.age)
            scope.policy.prepare(ticket, item, deadline)
        if delivery.number > 1:  # what other machines did counts too
            ticket.attempts = delivery.number - 1
            ticket.began_at = now() - delivery.age
        return (delivery.key, item, _context_of(headers), ticket)

    def decode(self, message: Message) -> T:
        """The item of a message.

        Raises:
            CodecError: it has none.
        """
        told, ours = message.headers.get(CONTENT_TYPE, JSON), self._codec.content_type
        if told != ours:
            raise CodecError(f"The item was put as {told}, and this queue reads {ours}")
        return self._codec.decode(message.payload)


def _context_of(headers: dict[str, str]) -> Context:
    """An empty context, but for the trace and the baggage that came with the item."""
    context = Context()
    for name in headers:
        if not name.startswith(_NO_TRACE):
            around = propagate.extract(headers, otel_context.Context())
            if around:
                context.run(otel_context.attach, around)
            break
    return context
