"""BlockingQueue: the queue behind ``penstock.sync.WorkQueue``."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
import time
import warnings
from asyncio import _get_running_loop
from collections.abc import Callable, Iterator
from concurrent.futures import Executor
from contextlib import contextmanager, suppress
from contextvars import Context
from typing import Any, NoReturn, TypeVar

from penstock._util import checks
from penstock.errors import QueueStateError
from penstock.limits.adaptive import AdaptiveConcurrency
from penstock.policies.governor import Rules
from penstock.queue.base import CLOSED, NO_LIMIT, WARNING_INTERVAL
from penstock.queue.in_process import InProcessQueue
from penstock.queue.status import NotProcessedError, QueueStatistics, QueueStatus, state_error
from penstock.queue.store import EntryBuffer
from penstock.sync import _exit, _fork
from penstock.sync.blocking import drive, refuse_in_loop
from penstock.sync.bridge import Bridge
from penstock.sync.counters import SharedCounters
from penstock.sync.house import House
from penstock.sync.loop_thread import LoopThread
from penstock.sync.pool import BridgePool
from penstock.sync.result import Result
from penstock.telemetry.telemetry import Telemetry
from penstock.workers.calls import AsyncCall, ErrorHandler, WorkerFunc
from penstock.workers.item import Ticket

T = TypeVar("T")

#: Seconds that a loop gets to show that it turns, when a stop has taken longer than it should. As
#: long as a cancelled worker gets: a busy machine can hold up a thread for a good part of a second.
PATIENCE = 1.0


class BlockingQueue(InProcessQueue[T]):
    """A bounded queue for threads. ``penstock.sync.WorkQueue`` documents its methods.

    Puts and gets happen in the calling thread. Lifecycle and workers belong to an event loop on a
    thread of its own, where calls from many threads come one after the other.
    """

    _buffer: Bridge[T]
    _pool: BridgePool[T]

    def __init__(
        self,
        maxsize: int = 100,
        timeout: float = 0.1,
        logger: logging.Logger | None = None,
        *,
        name: str | None = None,
        telemetry: Telemetry | None = None,
        rules: Rules | None = None,
        loop_thread: LoopThread | None = None,
    ) -> None:
        super().__init__(maxsize, timeout, logger, name, telemetry, rules)
        self._house = House(loop_thread, self._is_at_rest)
        self._warn_after = 0.0
        self._warning_lock = threading.Lock()
        # Why nothing works any more: the loop's thread died, or stayed behind in a forked parent.
        self._dead: str | None = None
        self._is_inherited = False
        _fork.watch(self)

    def _make_parts(self) -> tuple[EntryBuffer[T], SharedCounters, BridgePool[T]]:
        bridge: Bridge[T] = Bridge(self._maxsize)
        counters = SharedCounters(bridge)
        return bridge, counters, BridgePool(bridge, counters, self._name, self._logger)

    def statistics(self) -> QueueStatistics:
        """Everything that can be counted about the queue, at this instant."""
        if self._is_inherited:  # whoever held the lock at the fork holds it for ever
            return super().statistics()
        with self._buffer.lock:
            return super().statistics()

    # -- putting and taking, in the calling thread --------------------------------------------

    def put(self, item: T, timeout: float | None = None, *, deadline: float | None = None) -> bool:
        """Offer an item; True when it is accepted, False when the queue stayed full."""
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        timeout = self._timeout if timeout is None else checks.seconds(timeout)
        if deadline is not None or self._needs_slow_path():
            return drive(self._put_slow(item, timeout, deadline))
        return self._buffer.offer(item) or drive(self._wait_for_room(item, timeout))

    def put_nowait(self, item: T, *, deadline: float | None = None) -> None:
        """Like ``put(item, timeout=0)``, but raises ``QueueFullError``; allowed anywhere."""
        if self._open_in is CLOSED:
            self._refuse("put")
        self._put_nowait(item, deadline)

    def redrive(self, timeout: float | None = None) -> int:
        """Put the items of ``dead_letters`` back, as if they were new."""
        if _get_running_loop() is not self._open_in:
            self._refuse("put")
        return drive(self._redrive(timeout))

    def submit(
        self,
        item: T,
        *,
        timeout: float | None = None,
        deadline: float | None = None,
        call: AsyncCall[T] | None = None,
    ) -> Result:
        """Put an item and return a future of what the worker function makes of it."""
        if _get_running_loop() is not self._open_in:
            self._refuse("submit")
        limit = self._timeout if timeout is None else checks.seconds(timeout)
        future = Result(self._pool)
        drive(self._submit(item, limit, deadline, future, call))
        return future

    async def _wait_for_room(
        self,
        item: T,
        timeout: float,
        ticket: Ticket | None = None,
        context: Context | None = None,
    ) -> bool:
        if timeout > NO_LIMIT and self._pool.owns_this_thread() and not self._buffer.closed:
            raise QueueStateError(
                f"Cannot wait for room in queue {self._name} from inside its own worker function: "
                "if all workers did, none would ever make room. Use a timeout, put_nowait(), or a "
                "queue of its own for what workers put",
                current_state=self._status.value,
            )
        return await super()._wait_for_room(item, timeout, ticket, context)

    def get(self, timeout: float | None = None) -> T:
        """Take the item that has waited longest."""
        return self._check_out(drive(self._take(timeout)))

    def get_nowait(self) -> T:
        """Like ``get(timeout=0)``."""
        return self._check_out(self._take_nowait())

    def task_done(self) -> None:
        """An item that was taken with ``get`` is done."""
        self._check_alive()
        self._task_done()

    def _callers_loop(self, loop: asyncio.AbstractEventLoop) -> None:
        return None

    def _now(self) -> float:
        return time.monotonic()

    def _warn_full(self) -> None:
        now = time.monotonic()
        if now >= self._warn_after:
            with self._warning_lock:
                if now < self._warn_after:  # another thread was faster
                    return
                self._warn_after = now + WARNING_INTERVAL
            self._log_full()

    # -- lifecycle and workers, in the loop ---------------------------------------------------

    def start(self) -> None:
        """Take items from now on."""
        self._check_caller("start")
        with self._visiting() as home:
            home.call(self._start)

    def start_workers(
        self,
        worker_func: WorkerFunc[T, Any],
        num_workers: int | AdaptiveConcurrency,
        error_handler: ErrorHandler[T] | None = None,
    ) -> None:
        """Start workers that call ``worker_func`` on each item; start the queue too, if need be."""
        size = self.check_workers(worker_func, num_workers, error_handler)
        self._check_alive()
        refuse_in_loop("process")  # but not in a worker: to replace the workers is no wait
        with self._visiting() as home:
            home.call(self._start_workers, worker_func, size, error_handler)

    def stop_workers(self, timeout: float | None = None) -> None:
        """Let the workers finish what they hold, and end them; the queue goes on."""
        limit = checks.optional_seconds(timeout)
        self._check_caller("stop_workers")
        if not self._pool.is_empty:
            with self._visiting() as home:
                home.call(self._stop_workers, limit)

    def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """Take no more items, finish what was accepted, end the workers."""
        limit = checks.optional_seconds(timeout)
        self._check_caller("stop")
        with self._house.closed() as is_closed:
            if is_closed and self._is_at_rest():
                return drive(self._stop(limit, drain))
        with self._visiting() as home:
            visit = home.send(self._stop, limit, drain)
            wait = None if limit is None else limit + PATIENCE
            while not home.see(visit, wait):
                if not home.responds(PATIENCE) and not visit.done():
                    self._leave_blocked_loop(home)
                    return not self._leftover
                wait = PATIENCE
            return visit.result()

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every accepted item is done; False if that takes longer than ``timeout``."""
        limit = checks.optional_seconds(timeout)
        self._check_caller("join")
        if not self._counters.unfinished:
            return True
        with self._visiting() as home:
            return home.finishes(self._join, limit)

    def _is_at_rest(self) -> bool:
        return self._status in (QueueStatus.IDLE, QueueStatus.STOPPED)

    @contextmanager
    def _visiting(self) -> Iterator[LoopThread]:
        with self._house.visiting() as home:
            if self._pool.home is not home:
                home.tell_of_death(self._on_death)
                self._pool.home = home
                _exit.drain_at_exit(self)
            yield home

    def _leave_blocked_loop(self, home: LoopThread) -> None:
        """A worker function does not let its event loop turn, and a stop cannot wait for it."""
        if not self._house.abandon(home):
            return  # another thread was faster
        self._logger.error(
            "The event loop of queue %s is blocked by a worker function and was given up",
            self._name,
        )
        self._break_off()
        self._house.give_up(home)

    def _on_death(self, message: str) -> None:
        """The loop's thread is about to end, and nobody asked it to. In that thread."""
        self._dead = f"Queue {self._name} has lost its event loop: {message}"
        self._break_off()

    def _break_off(self) -> None:
        """Stop without the workers' help."""
        self._close(QueueStatus.STOPPING)
        self._pool.abandon()
        self._end_stop()

    def either_way(self, func: Callable[[T], Any], threads: Executor) -> AsyncCall[T]:
        """A call of ``func`` for whichever kind of worker comes to it."""
        return self._pool.either_way(func, lambda: threads)

    @property
    def is_inherited(self) -> bool:
        """Whether this is a forked child of the process that made the queue."""
        return self._is_inherited

    def join_at_exit(self) -> bool:
        """The interpreter ends: wait for what workers have to do; False if they have nothing."""
        counters = self._counters
        if self._can_exit() or not counters.unfinished or not self._pool.count:
            return False
        # An item that somebody took with get() may never be done.
        return not counters.checked_out and self.join()

    def stop_at_exit(self) -> None:
        """The interpreter ends, and all queues are empty."""
        if not self._can_exit():
            self.stop()

    def _can_exit(self) -> bool:
        return not self._house.is_open or self._is_inherited or self._dead is not None

    # -- refusals -----------------------------------------------------------------------------

    def _check_loop(self, what: str) -> None:
        """Lifecycle calls are sent to the right loop; callers are checked before that."""

    def _check_alive(self) -> None:
        if self._is_inherited:
            raise QueueStateError(
                f"Queue {self._name} belongs to the process that this one was forked from: make "
                "and start queues after the fork",
                current_state=self._status.value,
            )
        if self._dead is not None:
            raise QueueStateError(self._dead, current_state=self._status.value)

    def _check_caller(self, call: str) -> None:
        """Refuse a call that would wait for ever, or make others wait."""
        self._check_alive()
        refuse_in_loop(call)
        if self._pool.owns_this_thread():
            raise QueueStateError(
                f"Cannot call {call}() from inside a worker function: it would wait for itself. "
                f"Use threading.Thread(target=queue.{call}).start() and do not join it there",
                current_state=self._status.value,
            )

    def _refuse(self, verb: str) -> NoReturn:
        self._check_alive()
        if self._status is not QueueStatus.PROCESSING:
            raise state_error(f"{'put' if verb == 'submit' else verb} items", self._status)
        refuse_in_loop(verb)
        raise state_error(f"{verb} items", QueueStatus.STOPPING)  # in this very instant

    def _not_processed(self) -> QueueStateError:
        if self._dead is not None:
            return NotProcessedError(self._dead, current_state=self._status.value)
        return super()._not_processed()

    def _stopped_meanwhile(self, verb: str) -> QueueStateError:
        if self._dead is not None:
            return QueueStateError(self._dead, current_state=self._status.value)
        return super()._stopped_meanwhile(verb)

    def disown(self) -> Any:
        """This is a forked child: nothing here is ours."""
        self._is_inherited = self._pool.is_inherited = True
        self._open_in = CLOSED
        return (self._house, self._pool)

    def __reduce__(self) -> Any:
        raise TypeError(f"{self!r} cannot be sent to another process: make a queue there")

    # Bound here, since at the end of the interpreter this module may be empty already.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_ending():
            return
        house: House | None = getattr(self, "_house", None)
        if house is None or not house.is_open or self._is_inherited or self._dead is not None:
            return
        if not self._is_at_rest():
            warnings.warn(
                f"{self!r} was not stopped; it processes what it has accepted and ends",
                ResourceWarning,
                source=self,
                stacklevel=2,
            )
        with suppress(QueueStateError):
            house.leave_after(self._stop, None, True)
