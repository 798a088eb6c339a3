"""BlockingQueue: the queue behind ``penstock.sync.WorkQueue``."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import warnings
from asyncio import _get_running_loop
from collections import deque
from collections.abc import Callable, Collection, Coroutine, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from typing import Any, NoReturn, TypeVar

from penstock._util import checks, hooks
from penstock._util.garbage import is_collecting, refuse_in_collection
from penstock._util.loop_thread import LoopThread
from penstock.errors import QueueStateError
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.policies.dead_letters import MAX_DEAD_LETTERS
from penstock.policies.observer import ObserverProvider
from penstock.policies.policy import Policy
from penstock.queue.base import CLOSED, WARNING_INTERVAL
from penstock.queue.entry_buffer import EntryBuffer
from penstock.queue.in_process import InProcessQueue
from penstock.queue.orders import Order
from penstock.queue.status import NotProcessedError, QueueStatistics, QueueStatus, state_error
from penstock.sync.batch_buffer import BatchJanusBuffer
from penstock.sync.buffer import JanusBuffer
from penstock.sync.futures import Result
from penstock.sync.ordered_buffer import OrderedBatchJanusBuffer, OrderedJanusBuffer
from penstock.sync.pool import ThreadWorkerPool, run_to_completion
from penstock.sync.provider import LoopThreadProvider, refuse_to_wait
from penstock.sync.slots import SharedCounters
from penstock.sync.stream import BlockingConsumable
from penstock.workers.batch import Batching
from penstock.workers.calls import AsyncCall, ErrorHandler, WorkerFunc
from penstock.workers.inside import Caller
from penstock.workers.item import Entry
from penstock.workers.job import JobFunctions

T = TypeVar("T")

#: Seconds that a loop gets to show that it turns, when a stop has taken longer than it should. As
#: long as a cancelled worker gets: a busy machine can hold up a thread for a good part of a second.
RESPONSE_TIMEOUT = 1.0


class BlockingQueue(BlockingConsumable[T], InProcessQueue[T]):
    """A bounded queue for threads. ``penstock.sync.WorkQueue`` documents its methods.

    Puts and gets happen in the calling thread. Lifecycle and workers belong to an event loop on a
    thread of its own, where calls from many threads come one after the other.
    """

    _buffer: JanusBuffer[T]
    _pool: ThreadWorkerPool[T]
    _grace = 0.05  # a thread needs time to wake up

    def __init__(
        self,
        maxsize: int = 100,
        timeout: float = 0.1,
        logger: logging.Logger | None = None,
        *,
        name: str | None = None,
        telemetry: ObserverProvider | None = None,
        policy: Policy | None = None,
        max_dead_letters: int = MAX_DEAD_LETTERS,
        order: Order | None = None,
        loop_thread: LoopThread | None = None,
    ) -> None:
        super().__init__(maxsize, timeout, logger, name, telemetry, policy, max_dead_letters, order)
        self._provider = LoopThreadProvider(loop_thread, self._is_at_rest)
        self._warn_after = 0.0
        self._warning_lock = threading.Lock()
        # Why no call works any more, once the loop's thread has ended and nobody had closed it.
        self._crash: str | None = None
        self._is_inherited = False
        self._functions: JobFunctions | None = None
        #: What the loop is to do though nobody waits for it.
        self._calls: deque[Callable[[], Coroutine[Any, Any, object]]] = deque()
        hooks.tell_forked_child(self)

    def _make_parts(
        self, order: Order | None
    ) -> tuple[EntryBuffer[T], SharedCounters, ThreadWorkerPool[T]]:
        size = self._maxsize
        buffer: JanusBuffer[T] = (
            JanusBuffer(size) if order is None else OrderedJanusBuffer(size, order)
        )
        counters = SharedCounters(buffer)
        buffer.holders = lambda: counters.slots
        return buffer, counters, ThreadWorkerPool(buffer, counters, self._name, self._logger)

    def _use_batches(self) -> None:
        with self._buffer.lock:
            buffer: Any = self._buffer
            if not isinstance(buffer, BatchJanusBuffer):
                is_ordered = buffer.ranks is not None
                buffer.__class__ = OrderedBatchJanusBuffer if is_ordered else BatchJanusBuffer
                buffer.know_batches()

    def _note_waiting(self) -> None:
        with self._buffer.lock:
            super()._note_waiting()

    @property
    def size(self) -> int:
        """How many items wait, never more than ``maxsize``."""
        # Without the lock, which this very thread may hold: a finalizer tells the size, too. So an
        # item may have left one lane and another one have come between two looks.
        return min(super().size, self._maxsize)

    def statistics(self) -> QueueStatistics:
        """Everything that can be counted about the queue, at this instant."""
        if self._is_inherited:  # a lock that was held at the fork stays held for ever
            return super().statistics()
        with self._buffer.lock:
            return super().statistics()

    # -- putting and taking, in the calling thread --------------------------------------------

    def put(
        self,
        item: T,
        timeout: float | None = None,
        priority: float = 0,
        deadline: float | None = None,
    ) -> bool:
        """Offer an item; True when it is accepted, False when the queue stayed full."""
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        timeout = self._timeout if timeout is None else checks.seconds(timeout)
        if self._needs_slow_path() or deadline is not None:
            return run_to_completion(self._put_slow(item, timeout, deadline, priority=priority))
        if priority:
            priority = self._checked_priority(priority)
            return self._buffer.offer(item, None, None, priority) or run_to_completion(
                self._put_slow(item, timeout, priority=priority)
            )
        return self._buffer.offer(item) or run_to_completion(self._wait_for_room(item, timeout))

    def put_nowait(self, item: T, priority: float = 0, deadline: float | None = None) -> None:
        """Like ``put(item, timeout=0)``, but raises ``QueueFullError``; allowed anywhere."""
        self._check_not_interrupted()
        if self._open_in is CLOSED:
            self._refuse("put")
        self._put_nowait(item, deadline, priority)

    def put_many(
        self, items: Collection[T], timeout: float | None = None, *, priority: float = 0
    ) -> int:
        """Put items in their order; return how many were accepted, from the front."""
        return run_to_completion(self._put_many(items, timeout, priority))

    def redrive(self, timeout: float | None = None) -> int:
        """Put the items of ``dead_letters`` back, as if they were new."""
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        return run_to_completion(self._redrive(timeout))

    def submit(
        self,
        item: T,
        *,
        timeout: float | None = None,
        priority: float = 0,
        deadline: float | None = None,
        call: AsyncCall[T] | None = None,
    ) -> Result:
        """Put an item and return a future of what the worker function makes of it."""
        if _get_running_loop() is not self._open_in:
            self._refuse("submit")
        limit = self._timeout if timeout is None else checks.seconds(timeout)
        future = Result(self._pool)
        run_to_completion(self._submit(item, limit, deadline, future, call, priority))
        return future

    def _waiting_as_worker(self, worker: Caller) -> AbstractContextManager[None]:
        if not self._buffer.closed:
            raise self._none_would_make_room()
        return nullcontext()

    def get(self, timeout: float | None = None) -> T:
        """Take the item that has waited longest."""
        return self._check_out(run_to_completion(self._take(timeout)))

    def get_nowait(self) -> T:
        """Like ``get(timeout=0)``."""
        self._check_not_interrupted()
        return self._check_out(self._take_nowait())

    def task_done(self) -> None:
        """Mark an item that was taken with ``get`` as done."""
        self._check_alive()
        self._task_done()

    async def _wait_for_entry(self, limit: float | None, stops: int) -> bool:
        # The loop's thread may have stopped and started it since the caller looked.
        return await self._buffer.wait_by_hand(limit, lambda: self._stops != stops)

    def _consumed(self) -> InProcessQueue[T]:
        return self

    def _finish_item_later(
        self,
        entry: Entry[T],
        attempt: AbstractContextManager[object],
        how: Callable[[], BaseException | None],
    ) -> None:
        if not self._is_inherited:  # else the loop is the parent's
            super()._finish_item_later(entry, attempt, how)

    def _callers_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        return None

    def _now(self) -> float:
        return time.monotonic()

    def _warn_full(self) -> None:
        now = time.monotonic()
        if now >= self._warn_after:
            # Without a wait: a signal handler may have interrupted this thread in here.
            if not self._warning_lock.acquire(blocking=False):
                return  # another thread is about to tell
            try:
                if now < self._warn_after:  # another thread was faster
                    return
                self._warn_after = now + WARNING_INTERVAL
            finally:
                self._warning_lock.release()
            self._log_full()

    def _set_status(self, status: QueueStatus) -> None:
        if status is QueueStatus.STOPPED:
            self._warn_after = 0.0
        super()._set_status(status)

    # -- lifecycle and workers, in the loop ---------------------------------------------------

    def start(self) -> None:
        """Take items from now on."""
        self._check_alive()
        if self._pool.is_inside and self._open_in is not CLOSED:
            self._is_of_jobs = False  # it runs, and goes on; no worker need wait for that
            return
        self._check_caller("start")
        with self._acquire_thread() as thread:
            thread.call(self._open)

    def start_workers(
        self,
        worker_func: WorkerFunc[T, Any],
        num_workers: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None = None,
        batching: Batching | None = None,
    ) -> None:
        """Start workers that call ``worker_func`` on each item; start the queue too, if need be."""
        size = self.check_workers(worker_func, num_workers, error_handler)
        self._check_alive()
        refuse_to_wait("process")  # but not in a worker: to replace the workers is no wait
        with self._acquire_thread() as thread:
            thread.call(self._start_workers, worker_func, size, error_handler, batching)

    def close(self) -> None:
        """Let nobody put any more; what was accepted is processed, or taken, and then it stops."""
        self._check_alive()
        refuse_in_collection("close")
        with self._provider.closed() as has_no_thread:
            if has_no_thread and self._is_at_rest():
                super().close()
                return
        if not self._is_closed:
            self._refuse_puts()  # here, so that no put of this thread is accepted after it
            with self._acquire_thread() as thread:
                thread.send(self._close_in_loop)

    async def _close_in_loop(self) -> None:
        self._close_stream()  # all of it, since a start() may have come in between

    def _stopped_by_itself(self) -> None:
        super()._stopped_by_itself()
        self._provider.release()

    async def _start_workers(
        self,
        worker_func: WorkerFunc[T, Any],
        size: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None,
        batching: Batching | None = None,
    ) -> None:
        await super()._start_workers(worker_func, size, error_handler, batching)
        self._keep_functions()  # the workers from before finish what they hold
        self._functions = self._pool.release_functions()

    def _keep_functions(self) -> None:
        if self._functions is not None:
            self._functions.keep()
            self._functions = None

    def stop_workers(self, timeout: float | None = None) -> None:
        """Let the workers finish what they hold, and end them; the queue goes on."""
        limit = checks.optional_seconds(timeout)
        self._check_caller("stop_workers")
        if not self._pool.is_empty or self._pool.has_standing:
            with self._acquire_thread() as thread:
                thread.call(self._stop_workers, limit)

    def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """Take no more items, finish what was accepted, end the workers."""
        limit = checks.optional_seconds(timeout)
        if is_collecting():
            self._check_alive()
            self._provider.send(lambda: self._stop_in_loop(limit, drain))
            return self._is_at_rest() and not self._leftover
        self._check_caller("stop")
        with self._provider.closed() as is_closed:
            if is_closed and self._is_at_rest():
                return run_to_completion(self._stop(limit, drain))
        with self._acquire_thread() as thread:
            future = thread.send(self._stop, limit, drain)
            wait = None if limit is None else limit + RESPONSE_TIMEOUT
            while not thread.wait(future, wait):
                if not thread.responds(RESPONSE_TIMEOUT) and not future.done():
                    self._abandon_blocked_loop(thread)
                    return not self._leftover
                wait = RESPONSE_TIMEOUT
            return future.result()

    async def _stop_in_loop(self, limit: float | None, drain: bool) -> None:
        """Stop; nobody waits for it."""
        await self._stop(limit, drain)
        self._stopped_by_itself()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every accepted item is done; False if that takes longer than ``timeout``."""
        limit = checks.optional_seconds(timeout)
        self._check_caller("join")
        if not self._counters.unfinished and (not self._is_closed or self._is_at_rest()):
            return True
        with self._acquire_thread() as thread:
            return thread.run_with_timeout(self._join, limit)

    def _is_at_rest(self) -> bool:
        return self._status in (QueueStatus.IDLE, QueueStatus.STOPPED)

    @contextmanager
    def _acquire_thread(self) -> Iterator[LoopThread]:
        with self._provider.acquire() as thread:
            if self._pool.loop_thread is not thread:
                thread.on_crash(self._on_crash)
                thread.on_end(self._finish_left_items)
                self._pool.loop_thread = thread
                hooks.drain_at_exit(self)
            self._send_calls()
            yield thread

    def _call_soon(self, func: Callable[[], Coroutine[Any, Any, object]]) -> None:
        """Have the loop make a call, without waiting; once there is a loop, if there is none now.

        For finalisers, and for a thread whose event loop must go on.
        """
        if self._crash is None and not self._is_inherited:
            self._calls.append(func)
            self._send_calls()  # after that: another thread may have started the loop meanwhile

    def _send_calls(self) -> None:
        for _ in range(len(self._calls)):
            self._provider.send(self._make_call)

    async def _make_call(self) -> None:
        if self._calls:
            await self._calls.popleft()()
            self._provider.release()

    def _abandon_blocked_loop(self, thread: LoopThread) -> None:
        """A worker function does not let its event loop turn, and a stop cannot wait for it."""
        if not self._provider.discard(thread):
            return  # another thread was faster
        self._logger.error(
            "The event loop of queue %s is blocked by a worker function and was abandoned",
            self._name,
        )
        self._stop_without_loop()
        self._provider.close_blocked(thread)

    def _on_crash(self, message: str) -> None:
        """The loop's thread is about to end, and nobody asked it to. In that thread."""
        self._crash = f"Queue {self._name} has lost its event loop: {message}"
        self._stop_without_loop()

    def _stop_without_loop(self) -> None:
        """Stop at once; take back what the workers hold."""
        self._close(QueueStatus.STOPPING, drain=False)
        self._pool.abandon()
        self._end_stop()

    # -- the end of the process, and forks ----------------------------------------------------

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child of the process that made the queue."""
        return self._is_inherited

    def _join_at_exit(self) -> bool:
        """Wait until the workers have done all items; False if they had none. For ``hooks``."""
        counters = self._counters
        if self._can_exit() or not counters.unfinished or not self._pool.count:
            return False
        # An item that somebody took with get() may never be done.
        return not counters.checked_out and self.join()

    def _stop_at_exit(self) -> None:
        """Stop, when all queues are empty. For ``hooks``."""
        if not self._can_exit():
            self.stop()

    def _can_exit(self) -> bool:
        return not self._provider.is_open or self._is_inherited or self._crash is not None

    def _after_fork_in_child(self) -> object:
        self._is_inherited = self._pool.is_inherited = True
        self._open_in = self._takes_in = CLOSED
        return (self._provider, self._pool)

    # -- refusals -----------------------------------------------------------------------------

    def _check_not_interrupted(self, what: str = "put or take") -> None:
        if self._buffer.is_interrupted():
            raise QueueStateError(
                f"Cannot {what} here: a signal handler or a finaliser has interrupted queue "
                f"{self._name} itself in the middle of a change. There only set a flag, and do "
                "it in other code",
                current_state=self._status.value,
            )

    def _check_control(self, what: str) -> None:
        self._check_alive()
        self._check_not_interrupted(what)

    def _check_loop(self, what: str) -> None:
        """Lifecycle calls are sent to the right loop; callers are checked before that."""

    def _check_alive(self) -> None:
        if self._is_inherited:
            raise QueueStateError(
                f"Queue {self._name} belongs to the process that this one was forked from: make "
                "and start queues after the fork",
                current_state=self._status.value,
            )
        if self._crash is not None:
            raise QueueStateError(self._crash, current_state=self._status.value)

    def _check_caller(self, call: str) -> None:
        """Refuse a call that would wait for ever, or make others wait."""
        self._check_alive()
        if self._pool.is_inside:
            raise QueueStateError(
                f"Cannot call {call}() from inside a worker function: it would wait for itself. "
                f"Use threading.Thread(target=queue.{call}).start() and do not join it there",
                current_state=self._status.value,
            )
        refuse_to_wait(call)

    def _refuse(self, verb: str) -> None:
        """Raise ``QueueStateError``; but return in a cell of a notebook, which may go on."""
        self._check_alive()
        verb = "put" if verb == "submit" else verb
        error = self._closed_error(verb)
        if error is not None:
            raise error
        if self._status is not QueueStatus.PROCESSING:
            raise state_error(f"{verb} items", self._status)
        refuse_to_wait(verb)
        if (self._takes_in if verb == "get" else self._open_in) is CLOSED:  # in this very instant
            raise state_error(f"{verb} items", QueueStatus.STOPPING)

    def _not_processed(self, what: str = "the item was") -> QueueStateError:
        if self._crash is not None:
            return NotProcessedError(self._crash, current_state=self._status.value)
        return super()._not_processed(what)

    def _stopped_meanwhile(self, verb: str) -> QueueStateError:
        if self._crash is not None:
            return QueueStateError(self._crash, current_state=self._status.value)
        return super()._stopped_meanwhile(verb)

    def __reduce__(self) -> NoReturn:
        raise TypeError(f"{self!r} cannot be sent to another process: make a queue there")

    # Bound here, since at the end of the interpreter this module may be empty already.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_ending():
            return
        provider: LoopThreadProvider | None = getattr(self, "_provider", None)
        if provider is None:
            return
        self._keep_functions()
        if self._can_exit():
            return
        if not self._is_at_rest():
            warnings.warn(
                f"{self!r} was not stopped; it processes what it has accepted and ends",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        with suppress(QueueStateError):
            provider.run_then_close(self._stop, None, True)
