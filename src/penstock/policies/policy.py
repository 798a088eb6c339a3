"""The public policy: its settings, and calls that are made under it without a queue."""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from typing import Any, ParamSpec, TypeVar, overload

from penstock._util import checks
from penstock._util.clock import now
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.limits.breaker import CircuitBreaker
from penstock.limits.rate.limit import Limit
from penstock.limits.rate.limiter import Limiter
from penstock.limits.retry import RetryPolicy
from penstock.policies.calling import PolicyCall, check_func, decorated
from penstock.policies.classify import Classify
from penstock.policies.engine import PolicyEngine
from penstock.policies.gate_keys import GateKey
from penstock.policies.item_state import PolicyScope
from penstock.policies.observer import ObserverProvider, observer_of

P = ParamSpec("P")
R = TypeVar("R")


@dataclass(frozen=True)
class PolicyStatistics:
    """What was done under a policy so far, by all that use it."""

    name: str
    #: Calls that started, and calls that wait for a limit, in the limiter of the policy: with
    #: those of others that share the limiter.
    starts: int
    waiting: int
    #: Calls that failed, and those of them that were retried.
    failures: int
    retries: int
    #: With ``concurrency``: how many calls may run at once, run now, and wait for a slot.
    concurrency_limit: int | None
    under_way: int
    waiting_for_slots: int
    #: How often the service closed the gate (any of them, if each key has one); seconds until the
    #: last of them opens, 0 when all are open.
    gate_closures: int
    gate_closed_for: float
    #: ``"closed"``, ``"open"`` or ``"half_open"``; ``None`` without a breaker.
    breaker_state: str | None
    #: With ``retry``: how often a service went down; seconds for which it has been down, 0 if it
    #: is not down as far as is known. Of several services, the one that has been down longest.
    outages: int
    outage_for: float


class Policy(PolicyEngine):
    """Limits, retries, a breaker, deadlines and concurrency together, for calls of functions.

    >>> policy = Policy(limits=[Limit(500, per=60)], retry=RetryPolicy(5), concurrency=20)
    >>> result = await policy.call(fetch, item)  # or policy.call(plain, item), in a thread
    >>> @policy
    ... async def fetch(item): ...

    Args:
        limits: how fast calls may start: a list of :class:`penstock.Limit`, or of texts such as
            ``"500/min"``; or a :class:`penstock.Limiter` that others share.
        retry: how failed calls are retried: a :class:`penstock.RetryPolicy`. ``None``: they are
            not retried.
        breaker: a :class:`penstock.CircuitBreaker`. With ``retry``, calls that the breaker refuses
            wait until it allows them; without, they fail with ``CircuitBreakerOpenError``.
        deadline: seconds after its beginning in which each call must be done, with all its attempts
            and waits. A call that can no longer be done in time is not attempted, and fails with
            ``DeadlineExceededError``. ``None``: no deadline.
        attempt_timeout: seconds, above 0 and finite, that one attempt of an async function may
            take; then it is cancelled, and fails with ``APITimeoutError``. A plain function cannot
            be cancelled, and is refused with this. ``None``: no limit.
        concurrency: how many calls may run at once, for all users of the policy together: at least
            1, or a :class:`penstock.AdaptiveConcurrency` that adapts the number. ``None``: any
            number.
        classify: a function from an exception to a :class:`penstock.Failure`, or to None if it does
            not know the exception. It is called once for each failed attempt, before penstock reads
            the exception itself. If it raises, the attempt fails with that exception.
        gate_key: a function from the item to a key, which must be hashable: which service, or which
            user of it, the item is for, if one policy is for several. When a service says "too many
            requests", only the items with its key wait. If it raises, the put or the call raises a
            ``ValueError``. ``None``: the keys of ``limits`` are used, if any has ``key=``; if not,
            all items wait.
        max_retry_after: the longest wait that a service may ask for, in seconds, above 0. If it
            asks for more, the call is not retried, and fails with a note that says how long the
            wait was. ``math.inf``: any wait is accepted.
        name: its name in telemetry; "policy" by default.
        telemetry: where the spans and metrics of calls without a queue go; by default to
            OpenTelemetry's global providers.

    Raises:
        TypeError, ValueError: for an argument that is not allowed.

    Any number of event loops, threads and queues can use one policy at once. They share its limits,
    its breaker, its budget for retries and its ``concurrency``. For queues:
    ``WorkQueue(policy=policy)``.
    """

    def __init__(
        self,
        limits: Iterable[Limit | str] | Limiter = (),
        *,
        retry: RetryPolicy | None = None,
        breaker: CircuitBreaker | None = None,
        deadline: float | None = None,
        attempt_timeout: float | None = None,
        concurrency: int | AdaptiveConcurrency | None = None,
        classify: Classify | None = None,
        gate_key: GateKey | None = None,
        max_retry_after: float = 900,
        name: str | None = None,
        telemetry: ObserverProvider | None = None,
    ) -> None:
        if attempt_timeout is not None:
            attempt_timeout = checks.finite_seconds(attempt_timeout, "attempt_timeout")
            if not attempt_timeout:
                raise ValueError("attempt_timeout must be above 0, got 0")
        if concurrency is not None and not isinstance(concurrency, AdaptiveConcurrency):
            concurrency = checks.positive_int(
                concurrency, "concurrency", "concurrency must be at least 1"
            )
        checks.optional_function(classify, "classify", "error")
        checks.optional_function(gate_key, "gate_key", "item")
        longest = checks.seconds(max_retry_after, "max_retry_after")
        if not longest:
            raise ValueError("max_retry_after must be above 0, got 0")
        is_own = not isinstance(limits, Limiter)
        if inspect.isroutine(limits):
            raise TypeError(
                f"limits must be a list of Limit, got {checks.shown(limits)}. As a decorator, a "
                "policy needs parentheses: @Policy(limits=['500/min'])"
            )
        if not isinstance(limits, Limiter):
            limits = Limiter(limits)
            limits.max_retry_after = longest
        super().__init__(
            limits,
            _checked(retry, RetryPolicy, "retry"),
            _checked(breaker, CircuitBreaker, "breaker"),
            None if deadline is None else checks.seconds(deadline, "deadline"),
            attempt_timeout,
            concurrency,
            classify,
            gate_key,
            longest,
        )
        self.name = "policy" if name is None else checks.label(name, "name")
        if is_own:
            limits._standstills.whose = f"of the policy {checks.shown(self.name)}"
        self._telemetry = telemetry
        # Of calls without a queue; made by the first of them, unless telemetry was given.
        self._scope: PolicyScope | None = None
        if telemetry is not None:
            self._own_scope()

    def __repr__(self) -> str:
        parts: dict[str, Any] = {
            "limits": list(self.limits.limits) or None,
            "retry": self.retry,
            "breaker": self.breaker,
            "deadline": self.deadline,
            "attempt_timeout": self.attempt_timeout,
            "concurrency": self.concurrency,
        }
        given = [f"{name}={value!r}" for name, value in parts.items() if value is not None]
        return f"<Policy {self.name!r}: {', '.join(given) or 'nothing'}>"

    # -- calls without a queue ----------------------------------------------------------------

    @overload
    def call(
        self, func: Callable[P, Awaitable[R]], /, *args: P.args, **kwargs: P.kwargs
    ) -> Coroutine[Any, Any, R]: ...
    @overload
    def call(self, func: Callable[P, R], /, *args: P.args, **kwargs: P.kwargs) -> R: ...
    def call(self, func: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any:
        """Call ``func(*args, **kwargs)`` under the policy, in the caller's own task or thread.

        Args:
            func: an async function: await the return value of this method. A plain function: this
                method blocks the calling thread until the call is done, and returns the result. If
                a plain function returns an awaitable in an event loop, await it. ``cost``, ``key``
                and ``gate_key`` get the first positional argument, or None if there is none.

        Raises:
            Exception: the exception of the last attempt, or of a function of the policy.
            DeadlineExceededError, CircuitBreakerOpenError, BudgetExceededError, ValueError: the
                call can never start.
            QueueStateError: a plain function would wait, for a limit or for another attempt, in a
                thread in which an event loop runs: use ``asyncio.to_thread``.
            TypeError: ``func`` is not a function, or is a generator.

        A call inside a call of the same policy counts towards the limits again, and is retried by
        itself; but it takes no second slot of ``concurrency``. A call that is cancelled while it
        waits uses up nothing; a call that is cancelled later counts as neither success nor failure.
        """
        check_func(func, self.attempt_timeout)
        item = args[0] if args else None
        return PolicyCall(self, self._own_scope(), func, args, kwargs, item).start()

    def __call__(self, func: Callable[P, R]) -> Callable[P, R]:
        """``@policy``: each call of the function is a :meth:`call`.

        ``cost``, ``key`` and ``gate_key`` get the first argument; of a method that after ``self``.

        Raises:
            TypeError: as :meth:`call`.
        """
        check_func(func, self.attempt_timeout)

        def start(item: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
            return PolicyCall(self, self._own_scope(), func, args, kwargs, item).start()

        return decorated(func, start)

    def statistics(self) -> PolicyStatistics:
        """What was done under the policy so far. From any thread."""
        limits, slots = self.limits.statistics(), self._slots
        return PolicyStatistics(
            name=self.name,
            starts=limits.grants,
            waiting=limits.waiting,
            failures=self._failures,
            retries=self._retries,
            concurrency_limit=None if slots is None else slots.total,
            under_way=0 if slots is None else slots.taken,
            waiting_for_slots=0 if slots is None else slots.waiting,
            gate_closures=limits.closures,
            gate_closed_for=limits.closed_for,
            breaker_state=self.breaker_state,
            outages=0 if self._outages is None else self._outages.begun,
            outage_for=self._outage_for(),
        )

    def _own_scope(self) -> PolicyScope:
        if self._scope is None:
            observer = observer_of(self._telemetry, self.name)
            scope = PolicyScope(self, observer, max_dead_letters=0, postpones=False)
            with self._lock:  # any thread may make the first call
                self._scope = self._scope or scope
        return self._scope

    @property
    def breaker_state(self) -> str | None:
        """What the breaker does now, if there is one."""
        return None if self.breaker is None else self.breaker.state(now()).value


def _checked(value: Any, kind: type, name: str) -> Any:
    if value is not None and not isinstance(value, kind):
        cure = ""
        if kind is RetryPolicy and type(value) is int:  # not a bool
            cure = f": write {name}=RetryPolicy(attempts={checks.shown(value)})"
        elif value is kind or value is True:
            cure = f": write {name}={kind.__name__}()"
        raise TypeError(
            f"{name} must be a {kind.__name__} or None, got {checks.shown(value)}{cure}"
        )
    return value


def policy_of(policy: Any, parts: dict[str, Any], name: str | None = None) -> Policy | None:
    """The policy that a user gave, or one of the ``parts`` that were; None where that is nothing.

    ``parts`` are arguments of :class:`Policy`: None, or an empty tuple, is not given. ``name``:
    that of the queue, which a policy that is made gets too.

    Raises:
        TypeError, ValueError: for what is not allowed; or both were given.
    """
    given = [name for name, value in parts.items() if value is not None and value != ()]
    if policy is None:
        made = Policy(**parts, name="default" if name is None else name)  # which checks them
        is_nothing = not made.limits.limits and made.limits is not parts["limits"]
        return None if is_nothing and set(given) <= {"limits"} else made
    if not isinstance(policy, Policy):
        raise TypeError(f"policy must be a penstock.Policy or None, got {checks.shown(policy)}")
    if given:
        raise ValueError(
            f"{' and '.join(given)} and policy were given, and a policy has its own: "
            f"leave out policy, or {' and '.join(given)}"
        )
    return policy
