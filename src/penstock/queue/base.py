"""What every kind of queue has, wherever its items are: a name, a state, a pool, refusals.

The queues of this process build on it in ``core``, those on a broker in ``brokers``.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from asyncio import _get_running_loop
from collections.abc import Sized
from typing import Any, Generic, NoReturn, TypeVar

from penstock._util import checks
from penstock.errors import QueueFullError, QueueStateError
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.limits.rate.limiter import Limiter
from penstock.policies.governor import Course, Governor, Rules
from penstock.queue.status import QueueStatus, state_error
from penstock.telemetry.api import Telemetry, default_telemetry
from penstock.telemetry.metrics import Totals
from penstock.workers.calls import ErrorHandler, WorkerFunc
from penstock.workers.pool import WorkerPool

T = TypeVar("T")

# What stands in for the loop of a queue that takes nothing, so that one comparison in put()
# tells both the state and the loop. No running loop is ever equal to it.
CLOSED: Any = object()
# Thirty years of seconds: as good as no limit, and an int beyond a float's range is more than that.
LONG = 1e9
#: Seconds between two warnings about backpressure from one queue.
WARNING_INTERVAL = 1.0

_governor_lock = threading.Lock()


class QueueBase(Generic[T]):
    """The parts of a queue that know nothing of where its items are."""

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
        self._loop: asyncio.AbstractEventLoop | None = None
        self._open_in: Any = CLOSED
        self._stops = 0
        #: What keeps its items to rules, if there are any.
        self._governor: Governor | None = None

    def _instrument(self, telemetry: Telemetry | None, totals: Totals, line: Sized) -> None:
        """Have the queue watched; ``line`` tells its size."""
        if telemetry is None:
            telemetry = default_telemetry()
        elif not isinstance(telemetry, Telemetry):
            raise TypeError(
                f"telemetry must be a penstock.telemetry.Telemetry, got {checks.shown(telemetry)}"
            )
        self._probe = telemetry.watch(self, totals, line, self._maxsize)
        # Whether more is to be done for a put than to put: asked at every one.
        self._needs_slow_path = self._probe.is_on

    def _govern(self, rules: Rules) -> Governor:
        """Keep all items from now on to rules, if only to have them counted."""
        if self._governor is None:
            governor = Governor(rules, self._probe)
            with _governor_lock:  # any thread may be the first to ask for one
                if self._governor is None:
                    self._counters.closures = lambda: governor.limiter.statistics().closures
                    self._governor = governor
                    self._needs_slow_path = _always
        return self._governor

    def __repr__(self) -> str:
        name = type(self).__name__
        return f"<{name} {self._name!r} {self._status.value} {self.size}/{self._maxsize}>"

    # -- what it looks like: readable from anywhere -------------------------------------------

    @property
    def maxsize(self) -> int:
        """The most items that may wait; on a broker, those in flight included."""
        return self._maxsize

    @property
    def timeout(self) -> float:
        """Seconds that a put waits for room unless it says otherwise."""
        return self._timeout

    @property
    def logger(self) -> logging.Logger:
        """Where the queue logs."""
        return self._logger

    @property
    def name(self) -> str:
        """What the queue is called in logs and telemetry."""
        return self._name

    @property
    def status(self) -> QueueStatus:
        """What the queue is doing."""
        return self._status

    @property
    def worker_count(self) -> int:
        """How many workers take items."""
        return self._pool.count

    @property
    def limiter(self) -> Limiter:
        """What all workers ask before they call: ``limits``, and the gate that a service closes."""
        return self._govern(Rules()).limiter

    @property
    def size(self) -> int:
        """How many items there are in the queue, as its kind counts them."""
        raise NotImplementedError

    @property
    def metrics(self) -> dict[str, int]:
        """A new dict of four counts: enqueued, processed, errors, backpressure_events.

        They tell what this process did. ``enqueued`` counts accepted items. ``processed`` counts
        items that are done: once each, failed or not. ``errors`` counts failures.
        ``backpressure_events`` counts puts that were refused because the queue was full.
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

    def _course(self, item: T, deadline: float | None) -> Course | None:
        if deadline is not None:
            deadline = checks.seconds(deadline, "deadline")
            return self._govern(Rules()).course(item, deadline)
        return None if self._governor is None else self._governor.course(item, None)

    def _log_full(self) -> None:
        self._logger.warning(
            "Queue %s is full: %d items wait, %d puts refused so far",
            self._name,
            self._maxsize,
            self._counters.full,
        )

    def _full_error(self) -> QueueFullError:
        return QueueFullError(
            f"Queue {self._name} is full: {self.size} of {self._maxsize} places are taken",
            queue_size=self.size,
            queue_capacity=self._maxsize,
        )

    # -- workers ------------------------------------------------------------------------------

    @staticmethod
    def check_workers(
        worker_func: Any, num_workers: Any, error_handler: Any
    ) -> int | AdaptiveConcurrency:
        """Refuse what is not allowed; return the number of workers."""
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
    ) -> None:
        self._leave_closed_loop()
        if self._status is QueueStatus.STOPPING:
            raise state_error("start workers", self._status)
        await self._start()
        if isinstance(size, AdaptiveConcurrency):
            governor = self._govern(Rules())
            governor.adaptive, governor.on_limit = size, self._pool.resize
            self._pool.start(worker_func, lambda: size.limit, error_handler)
        else:
            if self._governor is not None:
                self._governor.adaptive = None
            self._pool.start(worker_func, size, error_handler)

    async def _start(self) -> None:
        """Take items from now on."""
        raise NotImplementedError

    def _leave_closed_loop(self) -> None:
        """A loop that was closed without a stop: the queue is stopped, whatever it says."""
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
        """Its tasks, timers and futures will never go on: let go of them."""
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

    def _stopped_meanwhile(self, verb: str) -> QueueStateError:
        status = self._status
        if status is QueueStatus.PROCESSING:  # it was started again since
            status = QueueStatus.STOPPING
        return state_error(f"{verb} items", status)

    def _refuse(self, verb: str) -> NoReturn:
        if self._status is not QueueStatus.PROCESSING:
            raise state_error(f"{verb} items", self._status)
        self._check_loop(f"{verb} items")
        raise AssertionError("a queue that is open here refused nothing")


def _always() -> bool:
    return True


def policy_statistics(governor: Governor | None) -> dict[str, Any]:
    """What a governor adds to the statistics of its queue."""
    if governor is None:
        return {
            "retries": 0,
            "dead_letters": 0,
            "concurrency_limit": None,
            "gate_closures": 0,
            "breaker_state": None,
        }
    adaptive = governor.adaptive
    return {
        "retries": governor.retries,
        "dead_letters": len(governor.dead_letters),
        "concurrency_limit": None if adaptive is None else adaptive.limit,
        "gate_closures": governor.limiter.statistics().closures,
        "breaker_state": governor.breaker_state,
    }
