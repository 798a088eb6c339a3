"""What the entries of a queue run, and how many workers may have them in hand."""

from __future__ import annotations

import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from penstock._util.functions import may_suspend
from penstock.errors import OutageError
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.workers.calls import AsyncCall, ErrorHandler, WorkerFunc, as_async

T = TypeVar("T")


def _nothing() -> None:
    pass


class Job(Generic[T]):
    """A worker function with its error handler, and the number of workers that it claims.

    Items belong to a job, workers to the queue. The *standing* job is that of ``process``: an item
    of ``put`` or ``submit`` runs whatever job is the standing one when a worker takes it. A ``map``
    or a batch is a job of its own, and its items are of that job to their end.

    Args:
        func: the worker function. On an event loop a plain one runs in threads of the job.
        size: the most items that workers may have in hand at once.
        error_handler: gets the error and the item when ``func`` fails.
        call: is called in place of ``func``.
        can_end_program: whether a KeyboardInterrupt or SystemExit out of an item ends the program.
        is_for_threads: whether its items are for workers that are threads.
    """

    def __init__(
        self,
        func: WorkerFunc[T, Any],
        size: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None = None,
        *,
        call: AsyncCall[T] | None = None,
        can_end_program: bool = True,
        is_for_threads: bool = False,
    ) -> None:
        self.call: AsyncCall[T] = as_async(func, self._get_threads) if call is None else call
        self.error_handler = error_handler
        #: Whether a call may wait for something.
        self.may_suspend = may_suspend(self.call)
        self.can_end_program = can_end_program
        self.is_for_threads = is_for_threads
        #: What the worker function is called in messages.
        self.label = getattr(func, "__qualname__", None) or type(func).__qualname__
        #: Finds out how many workers are best, or None.
        self.adaptive = size if isinstance(size, AdaptiveConcurrency) else None
        self._size = size
        #: Whether it was opened from inside an item of the same queue, whose worker waits for it.
        self.is_nested = False
        #: Whether it is, or was, the standing job of a pool.
        self.is_standing = False
        #: How many of its items wait for another of them: others do the work of their workers.
        self.extra = 0
        #: Whether it has ended: what is left of it is nobody's business.
        self.is_over = False
        #: How many calls are suspended in the event loop.
        self.suspended = 0
        #: How many items workers have in hand, threads too. Guarded by the lock of the buffer.
        self.in_hand = 0
        #: What feeds it, kept here: a task that only its own garbage knows is destroyed with it.
        self.feeder: object = None
        self._workers = 0
        self._threads: ThreadPoolExecutor | None = None
        #: Its items that were accepted, those that are done, and those that failed for good.
        self.accepted = 0
        self.done = 0
        self.failed = 0
        self.dead_letters = 0
        #: The first error of each type.
        self.errors: dict[type[BaseException], BaseException] = {}
        #: Set when an item of it has failed since its service was away for too long.
        self.outage_error: OutageError | None = None
        self._expected = -1
        self._on_all_done: Callable[[], None] = _nothing

    @property
    def claim(self) -> int:
        """How many workers it asks for."""
        size: Any = self._size if self.adaptive is None else self.adaptive.limit
        return int(size)

    @property
    def size(self) -> int:
        """The most items that workers may have in hand at once."""
        return self.claim + self.extra

    @property
    def most(self) -> int:
        """The largest number that ``size`` will ever be."""
        return self.adaptive.max if self.adaptive is not None else self._size  # type: ignore[return-value]

    # -- the threads of a plain function, on an event loop --------------------------------------

    @property
    def is_threaded(self) -> bool:
        """Whether the function runs in threads."""
        return self.is_for_threads or self._threads is not None

    def _get_threads(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self.most, thread_name_prefix="penstock-worker")
        return self._threads

    def add_worker(self) -> None:
        """A worker is there for it, as the standing job."""
        self._workers += 1

    def remove_worker(self) -> None:
        """Such a worker has ended. The last one closes the threads."""
        self._workers -= 1
        if not self._workers:
            self.close_threads()

    def close_threads(self) -> None:
        """Let the threads end when their calls have ended. Another worker gets new ones."""
        threads, self._threads = self._threads, None
        if threads is not None:
            threads.shutdown(wait=False)

    # -- what became of its items ---------------------------------------------------------------

    def add_failure(self, error: BaseException, *, is_dead_letter: bool) -> None:
        """An item failed for good."""
        self.failed += 1
        self.dead_letters += is_dead_letter
        self.errors.setdefault(type(error), error)

    def add_done(self) -> None:
        """An item is done, succeeded or failed."""
        self.done += 1
        if self.done == self._expected:
            self._on_all_done()

    def when_all_done(self, call: Callable[[], None]) -> None:
        """Have ``call`` called once all accepted items are done, or at :meth:`interrupt`."""
        self._expected, self._on_all_done = self.accepted, call
        if self.done >= self.accepted or self.is_over:
            call()

    def interrupt(self) -> None:
        """The queue has stopped: what is not done will not be, though it may start again."""
        self.is_over = True
        self._on_all_done()


class JobFunctions:
    """The functions of a job of threads, which its queue holds and its idle threads do not.

    A thread that waits is never garbage. If it held the worker function, it would hold the object
    whose method that is, and the queue of that object: a queue that nobody stops could never be
    collected.
    """

    def __init__(self, job: ThreadJob[Any], call: Any, error_handler: Any) -> None:
        self.call = call
        self.error_handler = error_handler
        self._job = job

    def keep(self) -> None:
        """Let the job hold them: it is about to end."""
        self._job.keep(self)


class ThreadJob(Job[T]):
    """A job whose items are done in several threads."""

    _functions: weakref.ref[JobFunctions]

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._lock = threading.RLock()
        self._kept = threading.Event()

    def release(self) -> JobFunctions:
        """Hold the functions no longer; the caller does, until :meth:`JobFunctions.keep`."""
        functions = JobFunctions(self, self.call, self.error_handler)
        self._functions = weakref.ref(functions)
        del self.call, self.error_handler
        return functions

    def keep(self, functions: JobFunctions) -> None:
        """Hold the functions again."""
        self.call, self.error_handler = functions.call, functions.error_handler
        self._kept.set()

    def __getattr__(self, name: str) -> Any:  # of functions that are released
        if name not in {"call", "error_handler"}:
            raise AttributeError(name)
        functions = self._functions()
        if functions is None:  # the queue is being collected in this moment, and about to keep them
            self._kept.wait()
            return self.__dict__[name]
        return getattr(functions, name)

    def add_failure(self, error: BaseException, *, is_dead_letter: bool) -> None:
        """An item failed for good."""
        with self._lock:
            super().add_failure(error, is_dead_letter=is_dead_letter)

    def add_done(self) -> None:
        """An item is done, succeeded or failed."""
        with self._lock:
            super().add_done()

    def when_all_done(self, call: Callable[[], None]) -> None:
        """Have ``call`` called once all accepted items are done, or at :meth:`interrupt`."""
        with self._lock:
            super().when_all_done(call)

    def interrupt(self) -> None:
        """The queue has stopped: what is not done will not be."""
        with self._lock:
            super().interrupt()
