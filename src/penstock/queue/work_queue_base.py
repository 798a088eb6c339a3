"""What the WorkQueue for one event loop and the WorkQueue for threads share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Generic, TypeVar
from weakref import WeakMethod

from penstock._util import checks
from penstock.limits import AdaptiveConcurrency, Limiter
from penstock.policies.dead_letters import MAX_DEAD_LETTERS, DeadLetter
from penstock.policies.policy import policy_of
from penstock.protocols import Queue
from penstock.queue.control import ItemInHand
from penstock.queue.in_process import InProcessQueue
from penstock.queue.status import QueueStatistics, QueueStatus
from penstock.workers.batch import Batching

T = TypeVar("T")
Q = TypeVar("Q")

_DEFAULTS = {
    "maxsize": 100,
    "timeout": 0.1,
    "limits": (),
    "max_dead_letters": MAX_DEAD_LETTERS,
}
#: The arguments in whose place a ready policy can be given.
_OF_POLICY = ("limits", "retry", "breaker", "deadline", "attempt_timeout")


class WorkQueueBase(Generic[T]):
    """Has a queue in ``queue``, checks arguments, and passes on the calls that never wait."""

    queue: Any
    concurrency_limit: int | AdaptiveConcurrency | None

    def _set_up(self, concurrency_limit: Any, queue: Any, settings: dict[str, Any]) -> bool:
        """Check the arguments; True if the caller is to make a queue of ``settings``."""
        if concurrency_limit is not None and not isinstance(concurrency_limit, AdaptiveConcurrency):
            concurrency_limit = checks.positive_int(
                concurrency_limit, "concurrency_limit", "Concurrency limit must be at least 1"
            )
        self.concurrency_limit = concurrency_limit
        if queue is None:
            parts = {name: settings.pop(name) for name in _OF_POLICY}
            settings["policy"] = policy = policy_of(settings["policy"], parts, settings["name"])
            self._retries = policy is not None and policy.retry is not None
            return True
        self._retries = False
        if settings["order"] is not None and not isinstance(queue, InProcessQueue):
            raise TypeError(f"order needs a queue in this process, got {checks.shown(queue)}")
        checks.members(queue, "queue", Queue)
        if any(value != _DEFAULTS.get(name) for name, value in settings.items()):
            raise ValueError(
                f"queue={checks.shown(queue)} has its own {', '.join(settings)}: "
                "set them on that queue, and leave them out here"
            )
        self.queue = queue
        return False

    def __repr__(self) -> str:
        return f"<{type(self).__name__} over {self.queue!r}>"

    @property
    def _view(self) -> Queue[T]:
        """The queue, by the members that neither wait nor block."""
        queue: Queue[T] = self.queue
        return queue

    # -- passed on to the queue ---------------------------------------------------------------

    @property
    def name(self) -> str:
        """The name of the queue in logs and telemetry."""
        return self._view.name

    @property
    def maxsize(self) -> int:
        """The largest number of items that may wait."""
        return self._view.maxsize

    @property
    def size(self) -> int:
        """How many items wait."""
        return self._view.size

    @property
    def is_empty(self) -> bool:
        """Whether no item waits."""
        return self._view.is_empty

    @property
    def is_full(self) -> bool:
        """Whether there is no room for another item."""
        return self._view.is_full

    @property
    def status(self) -> QueueStatus:
        """The state of the lifecycle that the queue is in."""
        status: QueueStatus = self._view.status
        return status

    @property
    def worker_count(self) -> int:
        """How many workers take items."""
        return self._view.worker_count

    @property
    def unprocessed(self) -> list[T]:
        """The accepted items that no worker has in hand; after a stop, the items that are left."""
        return self._view.unprocessed

    @property
    def metrics(self) -> dict[str, int]:
        """A new dict of four counts: enqueued, processed, errors, backpressure_events."""
        return self._view.metrics

    def statistics(self) -> QueueStatistics:
        """Everything that can be counted about the queue, at this instant."""
        statistics: QueueStatistics = self._view.statistics()
        return statistics

    def put_nowait(self, item: T, *, priority: float = 0, deadline: float | None = None) -> None:
        """Like ``put(item, timeout=0)``, but raise ``QueueFullError`` instead of returning False.

        Never waits, and needs no ``await``.
        """
        if deadline is None and not priority:
            self._view.put_nowait(item)
        else:  # not every kind knows these
            self.queue.put_nowait(item, **self._put_options(priority, deadline))

    def _put_options(
        self, priority: float, deadline: float | None = None, id: str | None = None
    ) -> dict[str, Any]:
        """What a put has more than most.

        Raises:
            TypeError: a priority for a queue that is not in this process, or an id for one that is.
        """
        options: dict[str, Any] = {}
        if priority:
            if not isinstance(self.queue, InProcessQueue):
                raise TypeError(
                    "priority needs a queue in this process that has order=Priorities(), "
                    f"got {checks.shown(self.queue)}"
                )
            options["priority"] = priority
        if deadline is not None:
            options["deadline"] = deadline
        if id is not None:
            if isinstance(self.queue, InProcessQueue):
                raise TypeError(
                    f"id is for queues on a broker, and {checks.shown(self.queue)} is in this "
                    f"process: it takes no id, got {checks.shown(id)}"
                )
            options["id"] = id
        return options

    def get_nowait(self) -> T:
        """Like ``get(timeout=0)``, without ``await``.

        Raises:
            QueueEmptyError: no item waits.
            QueueStateError: as ``get``.
        """
        return self._view.get_nowait()

    def task_done(self) -> None:
        """Say that an item taken with ``get`` is done: once for each.

        Raises:
            ValueError: called more often than ``get``.
        """
        self._view.task_done()

    # -- for operators ------------------------------------------------------------------------

    @property
    def is_paused(self) -> bool:
        """Whether :meth:`pause` was called, and neither ``resume`` nor a stop or close since."""
        return bool(getattr(self.queue, "is_paused", False))

    def pause(self) -> None:
        """Let no worker take an item until :meth:`resume`. Running calls continue.

        Raises:
            QueueStateError: the queue is not processing; a ``QueueClosedError`` if it is closed.

        Items are accepted until the queue is full. An item that fails waits for its next attempt.
        ``get`` waits, or raises ``QueueEmptyError`` after its timeout. To pause a queue twice is
        the same as once. ``close()`` and ``stop()`` end a pause, and the workers process the items
        that wait; after ``stop(drain=False)`` these items stay. Of a queue on a broker it pauses
        the workers of this process, and others continue; ``pause_all`` pauses all.
        """
        self._call_with("pause")

    def resume(self) -> None:
        """End a pause. Does nothing if the queue is not paused.

        Raises:
            QueueStateError: the queue is not processing.
        """
        self._call_with("resume")

    def clear(self) -> list[T]:
        """Remove all items that wait, and return them in the order of their puts.

        Raises:
            QueueStateError: the queue runs in another event loop.
            TypeError: the queue is on a broker.

        These are the items of ``put`` and ``submit`` that no worker has in hand, also those that
        wait for another attempt or for a limit, and those that a stop has left. The items of a
        ``map`` or a batch are not removed. Futures of ``submit`` are cancelled. A removed item
        counts as done, so ``join()`` does not wait for it. Puts that wait for room get the room.
        """
        items: list[T] = self._call_with("clear")
        return items

    def remove(self, predicate: Callable[[T], object]) -> list[T]:
        """Remove the items that wait and for which ``predicate(item)`` is true; return them.

        As :meth:`clear`, for some of the items. On a queue for threads, an item that a worker takes
        during this call is not removed.

        Raises:
            TypeError: ``predicate`` is not a function of an item, or the queue is on a broker.
            QueueStateError: the queue runs in another event loop.
            Exception: what ``predicate`` raised; then nothing is removed.
        """
        items: list[T] = self._call_with("remove", predicate)
        return items

    def in_hand(self) -> list[ItemInHand[T]]:
        """The items that workers have in hand: each with its worker, its time, a ``cancel()``.

        Items that were taken with ``get`` and similar methods are not listed, nor the item of an
        async function that has not waited for anything yet.

        Raises:
            QueueStateError: the queue runs in another event loop.
            TypeError: the queue is on a broker.
        """
        items: list[ItemInHand[T]] = self._in_this_process("in_hand").in_hand()
        return items

    def cancel(self, future: Any) -> bool:
        """Cancel an item by its future of ``submit``: skip it if it waits, else cancel its call.

        Args:
            future: one that ``submit`` of this queue returned.

        Returns:
            False if nothing was cancelled: the future is done, or the item is in the hands of a
            worker that is a thread.

        Raises:
            TypeError: it is no such future, or the queue is on a broker.
            QueueStateError: the queue runs in another event loop.

        ``future.cancel()`` only drops the result: a running call continues. This method cancels the
        call, and the future is done when the call has ended; as :meth:`ItemInHand.cancel`.
        """
        return self._in_this_process("cancel").cancel(future)

    def _call_with(self, method: str, *args: Any) -> Any:
        """Call a method of the queue that waits for nobody, if its kind has it."""
        return getattr(self._with(method, f"{method}()"), method)(*args)

    def _in_this_process(self, method: str) -> InProcessQueue[T]:
        if not isinstance(self.queue, InProcessQueue):
            raise TypeError(
                f"{method}() needs a queue in this process, got {checks.shown(self.queue)}"
            )
        return self.queue

    # -- the end of a stream ------------------------------------------------------------------

    @property
    def is_closed(self) -> bool:
        """Whether :meth:`close` was called since the last start."""
        return bool(getattr(self.queue, "is_closed", False))

    def _consumed_by(self, kind: type[Q]) -> Q:
        if not isinstance(self.queue, kind):
            raise TypeError(
                "iteration and processing() need a queue in this process, "
                f"got {checks.shown(self.queue)}. Use get() and task_done()"
            )
        return self.queue

    def _call_at_end(self, call: Callable[[], None]) -> None:
        """Have ``call``, a method, called when the queue has stopped by itself."""
        if isinstance(self.queue, InProcessQueue):
            self.queue._end_calls.add(WeakMethod(call))

    # -- rules --------------------------------------------------------------------------------

    @property
    def limits(self) -> Limiter:
        """The limiter that all workers ask before each call.

        ``limits.observe(headers)`` passes it the headers of a response. There is a limiter even if
        no limits were given: a service can close its gate.
        """
        limiter: Limiter = self._with("limiter", "limits").limiter
        return limiter

    @property
    def dead_letters(self) -> list[DeadLetter[T]]:
        """The items that failed for good, with ``retry`` given; the oldest first.

        At most ``max_dead_letters``; then the oldest is removed. Items with a future, those of
        ``submit`` and ``map``, are not among them.
        """
        letters: list[DeadLetter[T]] = self._with("dead_letters").dead_letters
        return letters

    def _with(self, member: str, what: str | None = None) -> Any:
        """The queue, if its kind has ``member``.

        Raises:
            TypeError: it has not.
        """
        if not hasattr(self.queue, member):
            raise TypeError(
                f"{what or member} needs a queue that has it; {checks.shown(self.queue)} does not"
            )
        return self.queue

    def _in_process(self, kind: type[Q], what: str) -> Q:
        if not isinstance(self.queue, kind):
            raise TypeError(
                f"{what}() needs a queue in this process, which can return results, "
                f"got {checks.shown(self.queue)}. Use put() or batch_process()"
            )
        return self.queue

    # -- checks -------------------------------------------------------------------------------

    def _batching(
        self,
        max_size: Any,
        max_wait: Any,
        *,
        split: bool = True,
        needs_results: bool = False,
        per_key: bool = False,
    ) -> Batching:
        """How entries are taken together.

        Raises:
            TypeError, ValueError: for an argument that is not allowed; a limit has a ``key``; or
                there are no keys for ``per_key``.
        """
        size = checks.positive_int(max_size, "max_size", "max_size must be at least 1")
        wait = checks.seconds(max_wait, "max_wait")
        queue = self._in_this_process("process_batches")
        if per_key and not hasattr(queue._buffer.ranks, "shares"):
            raise ValueError("per_key=True needs a queue with order=FairShares(...)")
        policy = queue._policy
        if policy is not None and policy._has_gate_keys:
            raise ValueError(
                "Batches need limits without a key: the items of one call may have different keys"
            )
        return Batching(size, wait, split, needs_results, bool(per_key))

    def _workers_wanted(self, num_workers: Any) -> int | AdaptiveConcurrency:
        limit = self.concurrency_limit
        if num_workers is None:
            return limit or 1
        if not isinstance(num_workers, AdaptiveConcurrency):
            number = checks.positive_int(
                num_workers, "num_workers", "Number of workers must be at least 1"
            )
            most = limit.max if isinstance(limit, AdaptiveConcurrency) else limit
            return number if most is None else min(number, most)
        if isinstance(limit, int) and num_workers.max > limit:
            raise ValueError(
                f"The max of num_workers must be at most concurrency_limit={limit}, got "
                f"{checks.shown(num_workers)}"
            )
        return num_workers

    def _check_job(
        self, items: Any, worker_func: Any, num_workers: Any
    ) -> int | AdaptiveConcurrency:
        checks.items(items)
        checks.function(worker_func, "worker_func", "item")
        if num_workers is None and self.concurrency_limit is None:
            return self.worker_count or 1
        return self._workers_wanted(num_workers)
