"""From a message to an entry for a worker: decoded, in the context of its trace, under rules."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Context
from typing import Final, Generic, TypeVar

from nats.aio.msg import Msg
from opentelemetry import context as otel_context
from opentelemetry import propagate

from penstock._util.clock import now
from penstock.brokers.codecs import JSON, Codec
from penstock.brokers.nats.queue.delivery import Delivery, DeliveryTicket, Hands
from penstock.errors import BrokerError, CodecError
from penstock.policies.item_state import PolicyScope
from penstock.policies.observer import Observer
from penstock.workers.item import Entry, Ticket
from penstock.workers.observed import ObservedTicket

T = TypeVar("T")

#: Headers that go with an item, beside those of its trace.
CONTENT_TYPE: Final = "Penstock-Content-Type"
DEADLINE: Final = "Penstock-Deadline"
#: How headers begin that are not for whoever propagates traces.
_NO_TRACE = ("Nats-", "Penstock-")


class Intake(Generic[T]):
    """Makes entries of messages; what cannot be one is buried.

    Args:
        bury: called with a delivery that failed for good, and why.
        turn_down: called with one that no worker can have, and why.
    """

    def __init__(
        self,
        codec: Codec[T],
        hands: Hands,
        observer: Observer,
        max_deliveries: int,
        bury: Callable[[Delivery, BaseException], None],
        turn_down: Callable[[Delivery, Exception], None],
    ) -> None:
        self._codec = codec
        self._hands = hands
        self._observer = observer
        self._max_deliveries = max_deliveries
        self._bury = bury
        self._turn_down = turn_down

    def entry(self, message: Msg, scope: PolicyScope) -> Entry[T] | None:
        """What a worker takes; None if it is for none."""
        delivery = Delivery(message)
        self._hands.take(delivery)
        try:
            if delivery.number > self._max_deliveries:
                raise BrokerError(
                    f"The item was handed out {self._max_deliveries} times and nobody finished it: "
                    "it may have killed its workers"
                )
            item = self._decode(delivery)
            inner = self._new_ticket(delivery, item, scope)
        except Exception as error:  # noqa: BLE001 - a codec or a limit may be anybody's code
            self._turn_down(delivery, error)
            return None
        ticket = DeliveryTicket(inner, delivery, self._hands, self._bury)
        return (delivery.sequence, item, _context_of(delivery.headers), ticket)

    def _decode(self, delivery: Delivery) -> T:
        told, ours = delivery.headers.get(CONTENT_TYPE, JSON), self._codec.content_type
        if told != ours:
            raise CodecError(f"The item was put as {told}, and this queue reads {ours}")
        return self._codec.decode(delivery.message.data)

    def _new_ticket(self, delivery: Delivery, item: T, scope: PolicyScope) -> Ticket:
        told = delivery.headers.get(DEADLINE)
        deadline = None if told is None else max(0.0, float(told) - delivery.age)
        ticket: Ticket
        if self._observer.is_enabled():
            ticket = observed = ObservedTicket(scope)
            observed.observed = self._observer.on_item(delivery.age)
        else:
            ticket = Ticket(scope)
        scope.policy.prepare(ticket, item, deadline)
        # What other machines did counts too.
        if delivery.number > 1:
            ticket.attempts = delivery.number - 1
            ticket.began_at = now() - delivery.age
            ticket.failures = self._hands.failures.pop(delivery.sequence, None)
        return ticket


def _context_of(headers: dict[str, str]) -> Context:
    """An empty context, but for the trace and the baggage that came with the item."""
    context = Context()
    if not all(name.startswith(_NO_TRACE) for name in headers):
        around = propagate.extract(headers, otel_context.Context())
        if around:
            context.run(otel_context.attach, around)
    return context
