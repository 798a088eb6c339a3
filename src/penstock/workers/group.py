"""The workers of one ``start``, and what they share."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Generic, TypeVar

from penstock.workers.calls import AsyncCall, ErrorHandler, WorkerFunc, as_async

T = TypeVar("T")


class WorkerGroup(Generic[T]):
    """The worker function, error handler and threads that the workers of one ``start`` share.

    Args:
        func: the worker function. A plain one runs in threads of the group.
        size: the number of workers.
        error_handler: gets the error and the item when ``func`` fails.
        call: is called in place of ``func``.
        can_end_program: whether a KeyboardInterrupt or SystemExit out of an item ends the program.
        workers_are_threads: whether the workers are threads themselves.
    """

    def __init__(
        self,
        func: WorkerFunc[T, Any],
        size: int,
        error_handler: ErrorHandler[T] | None,
        *,
        call: AsyncCall[T] | None = None,
        can_end_program: bool = True,
        workers_are_threads: bool = False,
    ) -> None:
        self.call: AsyncCall[T] = as_async(func, self._get_threads) if call is None else call
        self.can_end_program = can_end_program
        self.workers_are_threads = workers_are_threads
        #: What the worker function is called in messages.
        self.label = getattr(func, "__qualname__", None) or type(func).__qualname__
        self.error_handler = error_handler
        #: Whether the workers take no more entries.
        self.retired = False
        #: Workers that have not ended.
        self.alive = size
        self._size = size
        self._threads: ThreadPoolExecutor | None = None

    @property
    def is_threaded(self) -> bool:
        """Whether the function runs in threads."""
        return self.workers_are_threads or self._threads is not None

    def _get_threads(self) -> ThreadPoolExecutor:
        if self._threads is None:
            self._threads = ThreadPoolExecutor(self._size, thread_name_prefix="penstock-worker")
        return self._threads

    def leave(self) -> None:
        """Count a worker that has ended. The last one closes the threads."""
        self.alive -= 1
        if not self.alive and self._threads is not None:
            self._threads.shutdown(wait=False)


class GroupOfOne(WorkerGroup[T]):
    """One worker of a pool whose number of workers changes.

    When there are too many, the first worker that looks for its next entry leaves. (If it were
    always the newest, others would start new calls while the newest still makes its last one.)
    """

    #: Asks the pool whether there are too many workers; it counts this one no more if so.
    is_surplus: Callable[[], bool] | None = None
    _is_retired = False

    @property
    def retired(self) -> bool:
        """Whether the worker takes no more entries. Once True it stays True."""
        if not self._is_retired and self.is_surplus is not None:
            self._is_retired = self.is_surplus()
        return self._is_retired

    @retired.setter
    def retired(self, value: bool) -> None:
        self._is_retired = value
