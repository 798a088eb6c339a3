"""What a policy knows of an item, and of those whose items it runs: data, which it alone writes.

``policy.py`` has the decisions.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable, Sequence
from typing import Any, ClassVar, Protocol

from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.limits.failures import Failure
from penstock.limits.rate.permit import Permit
from penstock.limits.rate.sliding_log import Record
from penstock.policies.dead_letters import DeadLetters
from penstock.policies.observer import Observer
from penstock.policies.outage import ItemFailures


class ItemRunner(Protocol):
    """What queues and other callers need of a :class:`penstock.Policy`, which documents it."""

    def prepare(self, state: ItemState, item: Any, deadline: float | None) -> None: ...
    def admit(self, state: ItemState, item: Any) -> bool: ...
    async def wait(self, state: ItemState, item: Any) -> None: ...
    def wait_blocking(self, state: ItemState, item: Any) -> None: ...
    async def run(
        self,
        state: ItemState,
        call: Callable[[Any], Awaitable[Any]],
        item: Any,
        adaptive: AdaptiveConcurrency | None = None,
    ) -> Any: ...
    def after(self, state: ItemState, error: BaseException) -> float | None: ...
    def responded(self, attempt: ItemAttempt) -> None: ...


class Hold(Protocol):
    """How a queue waits for the limits of its policy, with no item in a worker's hand."""

    #: Whether its items have been waiting for limits, one after the other; since when; and when one
    #: of them found no room last.
    is_limited: bool
    limited_since: float
    held_at: float

    @property
    def granted(self) -> Sequence[Any]:
        """What is reserved for the next item, whatever that is: at most one."""
        ...

    def start(self, state: ItemState, item: Any) -> Permit:
        """A permit; or raise ``NoRoom``, and hold the queue."""
        ...

    def is_reserved_for(self, state: ItemState) -> bool:
        """Whether what the item needs is reserved."""
        ...


class NotBegun(GeneratorExit):
    """A plain function returned an awaitable: what that stands for has not begun.

    By its base, the attempt has neither succeeded nor failed. Is never seen outside of a call.
    """

    def __init__(self, awaitable: Awaitable[Any]) -> None:
        super().__init__()
        self.awaitable = awaitable


class PolicyScope:
    """What the items of one queue share under a policy; or the calls that are made without a queue.

    One policy may serve several queues.
    """

    __slots__ = (
        "dead_letters",
        "granted",
        "hold",
        "inflight",
        "loop",
        "observer",
        "on_limit_change",
        "policy",
        "postpones",
        "retries",
    )

    def __init__(
        self,
        policy: ItemRunner,
        observer: Observer,
        *,
        max_dead_letters: int,
        postpones: bool,
        hold: Hold | None = None,
    ) -> None:
        self.policy = policy
        self.observer = observer
        self.dead_letters = DeadLetters(max_dead_letters)
        #: Whether an item goes back where its key holds it up: others may go on.
        self.postpones = postpones
        #: The event loop in which all of its items run; None: nobody knows. (Python is not asked
        #: for each item, since that is a system call before Python 3.12.)
        self.loop: Any = None
        #: How its queue waits for limits, if that is not up to each worker; and what that has
        #: reserved for the next item, if anything.
        self.hold = hold
        self.granted: Sequence[Any] = () if hold is None else hold.granted
        #: How many attempts were followed by another one.
        self.retries = 0
        #: How many calls are under way of which an adaptive concurrency is told.
        self.inflight = 0
        #: Called when an adaptive concurrency has changed its limit.
        self.on_limit_change: Callable[[], None] | None = None


class ItemState:
    """What one item has been through under a policy. One thread at a time has the item."""

    __slots__ = (
        "_closing",
        "_why",
        "attempts",
        "began_at",
        "call",
        "deadline_at",
        "failure",
        "failures",
        "future",
        "gate_key",
        "is_postponed",
        "is_revoked",
        "job",
        "paid_failure",
        "permit",
        "place",
        "refusal",
        "scope",
        "waited",
        "waits_since",
    )

    #: Whether an observer hears of it.
    is_observed: ClassVar[bool] = False

    def __init__(self, scope: PolicyScope | None = None) -> None:
        #: Its ``PolicyScope``; ``None``: it is under no policy. (Any, as a policy sees no others.)
        self.scope: Any = scope
        #: When the item is to be done at the latest, by ``now()``.
        self.deadline_at: float | None = None
        #: Calls that were made, that under way included.
        self.attempts = 0
        #: When the first attempt began, where somebody asks for it.
        self.began_at = 0.0
        #: What it took from the limits: from the moment in which it may start until it does.
        self.permit: Permit | Record | None = None
        #: Why it may not start, ever.
        self.refusal: Exception | None = None
        #: Whether it was put back without an attempt that counts.
        self.is_postponed = False
        #: Seconds that the last attempt waited for limits, if there are any; and since when it
        #: waits for that of its key.
        self.waited: float | None = None
        self.waits_since: float | None = None
        #: Where it waits for the limits of its keys.
        self.place: Any = None
        #: The key of the service that it is for; None: its policy has no such keys.
        self.gate_key: Hashable = None
        #: What the error of the last attempt said.
        self.failure: Failure | None = None
        #: The same, where a budget has paid for the attempt that follows.
        self.paid_failure: Failure | None = None
        #: How its calls have failed, as far as outages and throttles go; None: they have not.
        self.failures: ItemFailures | None = None
        #: Whether somebody else has the item now.
        self.is_revoked = False
        # What a queue keeps with an item. It is the ticket's, and is set here for speed.
        self.future: Any = None
        self.call: Any = None
        self.job: Any = None

    @property
    def limiter(self) -> Any:
        """What lets its calls start. (Its permit is made of it on demand.)"""
        return self.scope.policy.limits

    @property
    def policy(self) -> Any:
        """What it runs under."""
        return self.scope.policy

    @property
    def closing(self) -> int:
        """The number of the closing of its gate that its refusal caused last; 0: none."""
        # Not set for each item, as hardly any has one.
        return getattr(self, "_closing", 0)

    @closing.setter
    def closing(self, number: int) -> None:
        self._closing = number

    @property
    def why(self) -> str:
        """Why it is not tried again, if it has failed for good."""
        return getattr(self, "_why", "")

    @why.setter
    def why(self, why: str) -> None:
        self._why = why

    @property
    def is_queued(self) -> bool:
        """Whether nobody waits for it in particular: it is of ``put``, or of a map or a batch."""
        return self.scope.postpones and (self.future is None or self.job is not None)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody may be waiting for it: it is a call, or has a future, or is nested."""
        if not self.scope.postpones or self.future is not None:
            return True
        return self.job is not None and self.job.is_nested


class ObservedState(ItemState):
    """What an item has been through of which an observer hears."""

    __slots__ = ()

    is_observed = True


class ItemAttempt:
    """What there is more to one attempt, where somebody wants to know. Its permit has it.

    It is not in the state: a worker that ignores its cancellation may still be at its attempt when
    another one makes the next.
    """

    __slots__ = (
        "adaptive",
        "breaker_permit",
        "called_at",
        "has_responded",
        "has_slot",
        "passed_at",
        "state",
    )

    def __init__(self, state: ItemState) -> None:
        self.state = state
        #: Whether it has one of the calls at once that the policy allows.
        self.has_slot = False
        #: What it got from the breaker.
        self.breaker_permit: int | None = None
        #: When it passed the gate, where that was closed not long before.
        self.passed_at: float | None = None
        #: When its call began, if its time is taken.
        self.called_at: float | None = None
        #: Who is told how it went, beside those of the policy.
        self.adaptive: AdaptiveConcurrency | None = None
        #: Whether its call has the response already, and goes on.
        self.has_responded = False

    @property
    def limiter(self) -> Any:
        """What lets its call start."""
        return self.state.limiter

    @property
    def policy(self) -> Any:
        """What it runs under."""
        return self.state.policy

    @property
    def gate_key(self) -> Hashable:
        """The key of the service that it is for."""
        return self.state.gate_key
