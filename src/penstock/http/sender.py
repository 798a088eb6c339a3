"""What sends: the settings that all clients take, and the decisions of one request's way.

The decisions are plain functions. ``tasks.py`` and ``threads.py`` wait and send.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import replace
from typing import Any

from penstock._util import checks
from penstock._util.clock import now
from penstock.errors import (
    DeadlineExceededError,
    PenstockError,
    QueueFullError,
    QueueStateError,
)
from penstock.http.client import HttpClient, Judge, as_clients
from penstock.http.judgement import may_concern_limits
from penstock.http.slot import HeldSlot
from penstock.limits import (
    AdaptiveConcurrency,
    CircuitBreaker,
    Limit,
    Limiter,
    RetryPolicy,
    failures,
)
from penstock.limits.retry import note_attempts
from penstock.policies.capacity import CapacityLimiter
from penstock.policies.gate_keys import GateKey
from penstock.policies.holding import Postponed
from penstock.policies.item_state import ItemState, ObservedState, PolicyScope
from penstock.policies.observed_attempts import ObservedAttempts
from penstock.policies.observer import ObserverProvider, observer_of
from penstock.policies.open_attempt import OpenAttempt
from penstock.policies.policy import Policy, PolicyStatistics

#: As many as httpx's and aiohttp's own pools have connections.
CONCURRENCY = 100

_NOTHING = nullcontext()


class RequestSender:
    """Sends requests of one client's kind under a policy. ``penstock.httpx`` has the arguments."""

    def __init__(
        self,
        client: HttpClient,
        limits: Iterable[Limit | str] | Limiter,
        *,
        retry: RetryPolicy | None,
        breaker: CircuitBreaker | None,
        concurrency: int | AdaptiveConcurrency,
        timeout: float,
        deadline: float | None,
        maxsize: int | None,
        retry_unsafe: bool,
        is_failure: Callable[[Any], bool] | None,
        gate_key: GateKey | None,
        policy: Policy | None,
        name: str | None,
        telemetry: ObserverProvider | None,
    ) -> None:
        self.client = client
        self.judge = Judge(client, is_failure, retry_unsafe)
        if gate_key is None and policy is None:
            limits, gate_key = _gate_of(limits, client)
        self.policy = _policy(
            policy, limits=limits, retry=retry, breaker=breaker, gate_key=gate_key
        )
        self.name = _name(policy, name)
        self._concurrency = _concurrency(concurrency)
        self.adaptive = concurrency if isinstance(concurrency, AdaptiveConcurrency) else None
        #: The most requests at once that what sends has connections for.
        self.connections = sys.maxsize
        self.slots = CapacityLimiter(self._total)
        self.timeout = checks.seconds(timeout, "timeout")
        self._deadline = None if deadline is None else checks.seconds(deadline, "deadline")
        self._maxsize = (
            math.inf
            if maxsize is None
            else checks.positive_int(maxsize, "maxsize", "maxsize must be at least 1")
        )
        self._observer = observer_of(telemetry, self.name)
        self._scope = PolicyScope(self.policy, self._observer, max_dead_letters=0, postpones=False)
        self._scope.on_limit_change = self.slots.adapt
        own_retry = self.policy.retry
        #: Whether the user decides which failures are tried again.
        self.has_own_on = own_retry is not None and own_retry.on is not failures.worth_retrying
        self._waiting = 0
        self.is_closed = False

    def __repr__(self) -> str:
        return f"<{self.client.name} {self.name!r} under {self.policy!r}>"

    @property
    def pool_size(self) -> int:
        """The most requests that will ever be under way at once."""
        return self._concurrency if self.adaptive is None else self.adaptive.max

    def _total(self) -> int:
        most = self._concurrency if self.adaptive is None else self.adaptive.limit
        return min(most, self.connections)

    def statistics(self) -> PolicyStatistics:
        """What was done so far: that of the policy, with the slots of this one. From any thread."""
        return replace(
            self.policy.statistics(),
            name=self.name,
            concurrency_limit=self.slots.total,
            under_way=self.slots.taken,
            waiting_for_slots=self.slots.waiting,
        )

    # -- one request ----------------------------------------------------------------------------

    def check_open(self) -> None:
        """Raise ``QueueStateError`` once it is closed."""
        if self.is_closed:
            raise QueueStateError(
                f"Cannot send requests: the {self.client.name} {self.name} is closed",
                current_state="stopped",
            )

    def begin(self, request: Any) -> Sending:
        """A new request.

        Raises:
            QueueStateError: it is closed.
            ValueError, TypeError: the limits can never let it pass.
        """
        self.check_open()
        is_observed = self._observer.is_enabled()
        state = ObservedState(self._scope) if is_observed else ItemState(self._scope)
        # Before there is any span, as such an error names the request, and so its URL.
        self.policy.prepare(state, request, self._deadline)
        return Sending(self, request, state, self._observer.on_item() if is_observed else None)

    @contextmanager
    def waiting(self, sending: Sending) -> Iterator[None]:
        """Count a request that waits for its first attempt among those that ``maxsize`` bounds.

        Raises:
            QueueFullError: as many wait already.
        """
        if sending.state.attempts or self._maxsize == math.inf:
            yield
            return
        if self._waiting >= self._maxsize:
            raise QueueFullError(
                f"The {self.client.name} {self.name} is full: {self._waiting} of "
                f"{self._maxsize} requests wait",
                queue_size=self._waiting,
                queue_capacity=int(self._maxsize),
            )
        self._waiting += 1
        try:
            yield
        finally:
            self._waiting -= 1

    def time_for_slot(self, sending: Sending) -> float | None:
        """Seconds for which a request may wait for a slot; None: for ever."""
        left = sending.time_left()
        patience = min(self.timeout, left)
        return None if patience == math.inf else patience

    def no_slot(self, sending: Sending) -> PenstockError:
        """Why it gets none."""
        if sending.time_left() <= 0:
            return too_late()
        return QueueFullError(
            f"The {self.client.name} {self.name} has {self.slots.total} requests under way, and "
            f"none ended in {self.timeout:g} seconds",
            queue_size=self.slots.waiting,
            queue_capacity=None if self._maxsize == math.inf else int(self._maxsize),
        )

    def is_ready(self, sending: Sending) -> bool:
        """Whether it need not wait for limits now, or may not start at all."""
        limits, key = self.policy.limits, sending.state.gate_key
        try:
            return limits.wait_time(sending.request, gate_key=key) <= 0
        except Exception:  # noqa: BLE001 - the policy says so, too
            return True

    def as_clients(self, error: PenstockError) -> PenstockError:
        """An error of penstock as one of the client too."""
        return as_clients(error, self.client.errors)


class Sending:
    """A request on its way."""

    __slots__ = (
        "_answer",
        "_ending",
        "_is_last",
        "_observed",
        "_told",
        "request",
        "sender",
        "state",
    )

    def __init__(
        self, sender: RequestSender, request: Any, state: ItemState, observed: Any
    ) -> None:
        self.sender = sender
        self.request = request
        self.state = state
        self._observed = None if observed is None else ObservedAttempts(observed)
        #: What the last attempt ended with: as the policy was told, and as the caller gets it,
        #: which is an exception or a response.
        self._told: BaseException | None = None
        self._ending: Any = None
        #: The response, if there was one; and whether it must be the last.
        self._answer: Any = None
        self._is_last = False

    def time_left(self) -> float:
        """Seconds until its deadline."""
        deadline_at = self.state.deadline_at
        return math.inf if deadline_at is None else max(0.0, deadline_at - now())

    def observed(self) -> AbstractContextManager[object]:
        """The block of one attempt."""
        if self._observed is None:
            return _NOTHING
        return _numbered(self._observed.block(self.state), self.state)

    def start(self, slot: HeldSlot | None) -> OpenAttempt:
        """An attempt begins, which has the slot.

        Raises:
            Exception: it may not, ever; so it has none.
        """
        sender = self.sender
        attempt = OpenAttempt(sender.policy, self.state, sender.adaptive)
        assert slot is not None
        slot.attempt = attempt
        return attempt

    def is_failure(self, response: Any) -> bool:
        """Hear what the headers say to all, and whether the response is a failure."""
        sender, client = self.sender, self.sender.client
        status = client.status(response)
        if may_concern_limits(client.header_names(response)):
            sender.policy.limits.observe(client.headers(response), status)
        return (status >= 400 or sender.judge.has_own) and sender.judge.is_failure(response)

    def refused(self, response: Any, attempt: OpenAttempt, *, is_whole: bool) -> Exception:
        """The attempt ended with a response that is a failure. ``is_whole``: its body is read."""
        client = self.sender.client
        error = client.failure(self.request, response)
        self._told, self._answer, self._is_last = error, response, not is_whole
        self._ending = client.answer(response) if is_whole else response
        client.add_permit(self._ending, attempt.permit)
        attempt.failed(error)
        if self.state.failure is not None:
            self.state.failure = self.sender.judge.corrected(self.state.failure)
        return error

    def broke(self, error: BaseException, attempt: OpenAttempt) -> BaseException:
        """The attempt ended without a response."""
        told = error
        if isinstance(error, Exception):
            told = self.sender.client.told(self.request, error)
        self._told, self._ending, self._answer, self._is_last = told, error, None, False
        attempt.failed(told)
        return told

    def after(self, error: Exception) -> float | None:
        """Seconds until another attempt; None: ``error`` is final."""
        state, policy = self.state, self.sender.policy
        delay: float | None = None
        try:
            may_go_on = self._may_be_repeated(error) if error is self._told else is_early(error)
            delay = policy.after(state, error) if may_go_on else None
        except BaseException as broken:
            note_attempts(broken, state.attempts)
            raise
        finally:
            if self._observed is not None:
                self._observed.ended(error, delay)
        if delay is None:
            ending = self._ending
            final = ending if isinstance(ending, BaseException) else error
            note_attempts(final, state.attempts, state.why)
        return delay

    def check_refusal(self) -> None:
        """Raise why there is no other attempt, if that was known after the last one."""
        if self.state.refusal is not None:
            raise self.state.refusal

    def _may_be_repeated(self, error: Exception) -> bool:
        sender, state = self.sender, self.state
        if sender.policy.retry is None or self._is_last:
            return False
        if not sender.client.can_resend(self.request):
            state.why = "its body can be sent only once"
            return False
        failure = state.failure
        if sender.has_own_on or failure is None:
            return failure is not None
        ending = self._ending if isinstance(self._ending, BaseException) else error
        if sender.judge.may_be_repeated(self.request, ending, failure, self._answer):
            return True
        if not failure.is_permanent:
            state.why = "it may have been processed, and retry_unsafe is False"
        return False

    def outcome(self, error: Exception) -> Any:
        """What the caller gets when ``error`` is final: a response.

        Raises what there is in its place.
        """
        ending = self._ending
        if ending is None:  # it was not sent
            raise self.sender.as_clients(error) if isinstance(error, PenstockError) else error
        if isinstance(ending, BaseException):
            raise ending
        return ending


def is_early(error: Exception) -> bool:
    """Whether ``error`` says that a request may not be sent yet."""
    return isinstance(error, Postponed)


def too_late() -> DeadlineExceededError:
    """The error of a request that was not sent in time."""
    return DeadlineExceededError("The request could not be sent before its deadline")


@contextmanager
def _numbered(block: AbstractContextManager[object], state: ItemState) -> Iterator[None]:
    with block:
        if state.attempts:
            from opentelemetry import trace

            trace.get_current_span().set_attribute("http.request.resend_count", state.attempts)
        yield


def _gate_of(limits: Any, client: HttpClient) -> tuple[Limiter, GateKey | None]:
    """The limiter, and the gate that a request has to pass: that of its host.

    Not so where limits have keys, which are closer; or where other machines share the gate.
    """
    limiter = limits if isinstance(limits, Limiter) else Limiter(limits)
    has_keys = any(limit.key is not None for limit in limiter.limits)
    return limiter, None if has_keys or type(limiter) is not Limiter else client.host


def _policy(given: Policy | None, **parts: Any) -> Policy:
    if given is None:
        return Policy(**parts)
    if not isinstance(given, Policy):
        raise TypeError(f"policy must be a penstock.Policy or None, got {checks.shown(given)}")
    named = [name for name, value in parts.items() if value is not None and value != ()]
    if named:
        raise ValueError(
            f"{' and '.join(named)} and policy were given, and a policy has its own: "
            f"leave out policy, or {' and '.join(named)}"
        )
    if given.attempt_timeout is not None:
        raise ValueError(
            "policy must have no attempt_timeout: an HTTP client has timeouts of its own"
        )
    return given


def _name(policy: Policy | None, name: str | None) -> str:
    if name is not None:
        return checks.label(name, "name")
    return "http" if policy is None else policy.name


def _concurrency(value: Any) -> int:
    if value is None:
        raise TypeError("concurrency must be an int or an AdaptiveConcurrency, got None")
    if isinstance(value, AdaptiveConcurrency):
        return value.max
    return checks.positive_int(value, "concurrency", "concurrency must be at least 1")
