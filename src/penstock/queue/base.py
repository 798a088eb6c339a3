"""What every kind of queue has, wherever its items are: a name, a status, a pool, refusals.

``in_process`` builds on it for queues of this process, ``penstock.brokers`` for those on a broker.
"""

from __future__ import annotations

import asyncio
import logging
from asyncio import _get_running_loop
from collections.abc import Sized
from typing import Any, Generic, TypeVar, cast

from penstock._util import checks
from penstock._util.hooks import ForkSafeLock
from penstock.errors import QueueFullError, QueueStateError
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.limits.rate.limiter import Limiter
from penstock.policies.calling import check_timeout
from penstock.policies.item_state import Hold, PolicyScope
from penstock.policies.observer import ObserverProvider, QueueReadings, ReadTotals, observer_of
from penstock.policies.policy import Policy
from penstock.queue.status import QueueStatus, state_error
from penstock.workers.batch import Batching
from penstock.workers.calls import ErrorHandler, WorkerFunc
from penstock.workers.job import Job
from penstock.workers.pool import WorkerPool

T = TypeVar("T")

# In the place of the loop of a queue that accepts nothing: so one comparison in put() checks both
# the status and the loop. No running loop is ever equal to it.
CLOSED: Any = object()
# Thirty years in seconds: as good as no limit. (Also for an int beyond the range of a float.)
NO_LIMIT = 1e9
#: Seconds between two warnings about backpressure from one queue.
WARNING_INTERVAL = 1.0

_policy_lock = ForkSafeLock()


class QueueBase(Generic[T]):
    """The part of a queue that does not know where its items are."""

    _counters: Any
    _pool: WorkerPool[T]

    def __init__(
        self, maxsize: int, timeout: float, logger: logging.Logger | None, name: str | None
    ) -> None:
        self._maxsize = checks.positive_int(maxsize, "maxsize", "Queue maxsize must be at least 1")
        self._timeout = checks.seconds(timeout)
        checks.logger(logger)
        self._logger = logging.getLogger("penstock") if logger is None else logger
        self._name = "default" if name is None else checks.label(name, "name")
        self._status = QueueStatus.IDLE
        #: The event loop that it was started in last.
        self._loop: asyncio.AbstractEventLoop | None = None
        #: The loop in which calls are accepted; ``None``: in threads without one; or ``CLOSED``.
        self._open_in: Any = CLOSED
        #: How often it was stopped.
        self._stops = 0
        #: The number of refused puts that the log has told last.
        self._refusals_logged = 0
        #: What its items share under a policy, if there is one. (The policy itself is in it: one
        #: attribute more, and each of them would be found more slowly.)
        self._scope: PolicyScope | None = None

    def _observe(
        self, telemetry: ObserverProvider | None, totals: ReadTotals, waiting: Sized
    ) -> None:
        """Have the queue observed; the length of ``waiting`` is its size."""
        self._observer = observer_of(telemetry, self._name)
        self._observer.watch_queue(self, totals, waiting)
        # Asked at every put.
        self._needs_slow_path = self._observer.is_enabled

    def _log_failures(self) -> None:
        """Have failures logged as the observer wants it."""
        self._pool.failures.configure(
            is_verbose=self._observer.verbose_errors,
            shows_exceptions=self._observer.record_exceptions,
        )

    def _use(self, policy: Policy, max_dead_letters: int) -> None:
        """Run all items under ``policy`` from now on, unless there is a policy already."""
        scope = PolicyScope(
            policy,
            self._observer,
            max_dead_letters=0 if policy.retry is None else max_dead_letters,
            postpones=True,
            hold=self._limit_hold(policy),
        )
        with _policy_lock:  # any thread may be the first to ask for one
            if self._scope is None:
                self._counters.gate_closed = policy.limits._gate_closed_from_now()
                self._scope = scope
                self._needs_slow_path = always

    def _limit_hold(self, policy: Policy) -> Hold | None:
        """How the queue waits for limits; None: workers do that, each with its item in hand."""
        return None

    @property
    def _policy(self) -> Policy | None:
        scope = self._scope
        return None if scope is None else cast("Policy", scope.policy)

    def _some_policy(self) -> tuple[Policy, PolicyScope]:
        """The policy, and one that does nothing where none was given."""
        if self._scope is None:
            self._use(Policy(), 0)
        policy, scope = self._policy, self._scope
        assert policy is not None
        assert scope is not None
        return policy, scope

    def __repr__(self) -> str:
        name = type(self).__name__
        state = f"{self._name!r} {self._status.value} {self.size}/{self._maxsize}"
        more = [word for word in ("closed", "paused") if getattr(self, f"is_{word}", False)]
        return f"<{', '.join([f'{name} {state}', *more])}>"

    # -- properties: readable from any thread -------------------------------------------------

    @property
    def maxsize(self) -> int:
        """The most items that may wait; on a broker, items in flight included."""
        return self._maxsize

    @property
    def timeout(self) -> float:
        """Seconds that a put waits for room unless it says otherwise."""
        return self._timeout

    @property
    def logger(self) -> logging.Logger:
        """The logger of the queue."""
        return self._logger

    @property
    def name(self) -> str:
        """The name of the queue in logs and telemetry."""
        return self._name

    @property
    def status(self) -> QueueStatus:
        """The state of the lifecycle that the queue is in."""
        return self._status

    @property
    def worker_count(self) -> int:
        """How many workers take items."""
        return self._pool.count

    @property
    def limiter(self) -> Limiter:
        """The limiter that all workers ask before each call. A service can close its gate."""
        return self._some_policy()[0].limits

    @property
    def size(self) -> int:
        """How many items there are in the queue, as its kind counts them."""
        raise NotImplementedError

    @property
    def metrics(self) -> dict[str, int]:
        """A new dict of four counts of this process.

        ``enqueued``: accepted items. ``processed``: items that are done, once each, failed or not.
        ``errors``: failures. ``backpressure_events``: puts refused because the queue was full.
        """
        return {
            "enqueued": self._counters.accepted,
            "processed": self._counters.all_processed,
            "errors": self._counters.all_errors,
            "backpressure_events": self._counters.full,
        }

    def statistics(self) -> Any:
        """Everything that can be counted about the queue, at this instant."""
        raise NotImplementedError

    def readings(self) -> QueueReadings:
        """What telemetry reads of the queue beside its statistics."""
        raise NotImplementedError

    def _log_full(self) -> None:
        self._refusals_logged = self._counters.full
        self._logger.warning(
            "Queue %s is full: %d items wait, %d puts refused so far",
            self._name,
            self._maxsize,
            self._counters.full,
        )

    def _full_error(self) -> QueueFullError:
        return QueueFullError(
            f"Queue {self._name} {self._why_full()}",
            queue_size=self.size,
            queue_capacity=self._maxsize,
        )

    def _why_full(self) -> str:
        """Why it has no room for an item."""
        return f"is full: {self.size} of {self._maxsize} places are taken"

    # -- workers ------------------------------------------------------------------------------

    @staticmethod
    def check_workers(
        worker_func: Any, num_workers: Any, error_handler: Any
    ) -> int | AdaptiveConcurrency:
        """Return the number of workers.

        Raises:
            TypeError, ValueError: for an argument that is not allowed.
        """
        checks.function(worker_func, "worker_func", "item")
        checks.optional_function(error_handler, "error_handler", "exc", "item")
        if isinstance(num_workers, AdaptiveConcurrency):
            return num_workers
        return checks.positive_int(
            num_workers, "num_workers", "Number of workers must be at least 1"
        )

    async def _start_workers(
        self,
        worker_func: WorkerFunc[T, Any],
        size: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None,
        batching: Batching | None = None,
    ) -> None:
        self._leave_closed_loop()
        if self._status is QueueStatus.STOPPING:
            raise state_error("start workers", self._status)
        job = self._make_job(worker_func, size, error_handler, batching)
        await self._start()
        self._pool.start(job)

    def _make_job(
        self,
        worker_func: WorkerFunc[T, Any],
        size: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None,
        batching: Batching | None = None,
    ) -> Job[T]:
        if self._policy is not None:
            check_timeout(worker_func, self._policy.attempt_timeout)
        if isinstance(size, AdaptiveConcurrency):
            _, scope = self._some_policy()
            scope.on_limit_change = self._pool.resize
        job = self._pool.make_job(worker_func, size, error_handler)
        job.batching = batching
        return job

    async def _stop_workers(self, limit: float | None) -> None:
        if self._pool.is_empty and not self._pool.has_standing:
            return
        self._check_loop("stop workers")
        self._check_not_worker("stop_workers")
        tasks = self._pool.retire_standing()
        try:
            await self._pool.end(limit, tasks=tasks)
        finally:
            await self._without_workers()

    async def _without_workers(self) -> None:
        """The workers have ended, and the queue goes on."""
        raise NotImplementedError

    async def _start(self) -> None:
        """Accept items from now on."""
        raise NotImplementedError

    def _leave_closed_loop(self) -> None:
        """Stop the queue if its event loop was closed without a stop."""
        if (
            self._status in (QueueStatus.PROCESSING, QueueStatus.STOPPING)
            and self._loop is not None
            and self._loop.is_closed()
        ):
            self._open_in = CLOSED
            self._stops += 1
            self._forget_loop()
            self._set_status(QueueStatus.STOPPED)

    def _forget_loop(self) -> None:
        """Drop tasks, timers and futures of the closed loop: none will ever go on."""
        raise NotImplementedError

    # -- states and refusals --------------------------------------------------------------------

    def _set_status(self, status: QueueStatus) -> None:
        self._status = status
        self._logger.info("Queue %s is %s", self._name, status.value)

    def _check_loop(self, what: str) -> None:
        if _get_running_loop() is not self._loop:
            raise QueueStateError(
                f"Cannot {what}: queue {self._name} belongs to another event loop or thread. "
                "To share a queue between threads, use penstock.sync.WorkQueue",
                current_state=self._status.value,
            )

    def _check_not_worker(self, what: str) -> None:
        if self._pool.owns(asyncio.current_task()):
            raise QueueStateError(
                f"Cannot call {what}() from inside a worker function: it would wait for itself. "
                f"Use asyncio.create_task(queue.{what}()) and do not await it there",
                current_state=self._status.value,
            )

    def _check_not_inside(self) -> None:
        """Refuse a join inside an item, in whatever task: it would wait for the item."""
        if self._pool.is_inside:
            raise QueueStateError(
                "Cannot call join() from inside a worker function, or in a task that it has "
                "started: it would wait for itself. Call it in the code that puts the items",
                current_state=self._status.value,
            )

    def _stopped_meanwhile(self, verb: str) -> QueueStateError:
        status = self._status
        if status is QueueStatus.PROCESSING:  # it was started again since
            status = QueueStatus.STOPPING
        return state_error(f"{verb} items", status)

    def _refuse(self, verb: str) -> None:
        """Raise ``QueueStateError``: the call is not allowed here, or not now."""
        if self._status is not QueueStatus.PROCESSING:
            raise state_error(f"{verb} items", self._status)
        self._check_loop(f"{verb} items")
        raise AssertionError("a queue that is open here refused nothing")


def always() -> bool:
    """Return True: every put is slow."""
    return True


def utilization_of(policy: Policy | None) -> dict[str, float]:
    """The share of each limit that is used, by its name."""
    return {} if policy is None or not policy.limits.limits else policy.limits.utilization()


def policy_statistics(
    policy: Policy | None, scope: PolicyScope | None, adaptive: AdaptiveConcurrency | None
) -> dict[str, Any]:
    """The statistics of limits, retries and the like; zeros without a policy."""
    if policy is None or scope is None:
        return {
            "retries": 0,
            "dead_letters": 0,
            "concurrency_limit": None,
            "gate_closures": 0,
            "breaker_state": None,
        }
    return {
        "retries": scope.retries,
        "dead_letters": len(scope.dead_letters),
        "concurrency_limit": None if adaptive is None else adaptive.limit,
        "gate_closures": policy.limits._closures,
        "breaker_state": policy.breaker_state,
    }
