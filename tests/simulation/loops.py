"""The event loop of the simulation: virtual time, any order, stalls, threads that are none.

Everything that happens in it follows from its seed.
"""

from __future__ import annotations

import asyncio
import random
import weakref
from collections.abc import Callable
from concurrent.futures import Executor
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from penstock.testing import VirtualTimeLoop

T = TypeVar("T")

#: ``fifo``: as asyncio has it, all that is ready in one go and in its order.
#: ``single``: in that order too, but one callback a step, so that something can be done, or looked
#: at, between any two of them.
#: ``shuffled``: one callback a step, any of those that are ready.
#: ``eager``: as ``fifo``, and each task runs its first step when it is made (Python 3.12).
#:
#: asyncio promises the order of ``call_soon``, and so ``fifo`` shows what users can meet. The
#: queue is not to need that promise: what holds in ``shuffled`` has no hidden assumption about who
#: wakes up first. Only what users may take from the promise is not asked for there: that of two
#: puts that are let in at once the one that came first goes on first.
Order = Literal["fifo", "single", "shuffled", "eager"]

#: Seconds that a stall, the wait for a thread, or the work in one takes. As everywhere in the
#: simulation multiples of an eighth, which floating point adds up exactly.
STALLS = (0.125, 0.25, 1.0, 2.0)
WAITS = (0.0, 0.0, 0.125)
WORK = (0.0, 0.0, 0.125, 0.25, 1.0, 3.0)


class Observer(Protocol):
    """What wants to look."""

    def after_step(self) -> None:
        """Some callbacks have run."""

    def at_rest(self) -> None:
        """Nothing can run before the clock moves on."""


class Moment(NamedTuple):
    """A point in time, and what the clock would show there if nothing had stalled."""

    at: float
    unstalled: float


class SimulatedLoop(VirtualTimeLoop):
    """Runs what is ready in some order, and stalls now and then.

    What the observer raises ends ``run_until_complete``. ``saboteur`` is called between steps.
    """

    _ready: Any  # of the base class, which does not declare them
    _scheduled: Any

    def __init__(self, seed: int = 0, order: Order = "fifo", stalls: float = 0.0) -> None:
        super().__init__()
        self.order: Order = order
        self.observer: Observer | None = None
        self.saboteur: Callable[[], None] | None = None
        #: Called with a function that goes into a thread.
        self.on_thread: Callable[[Any], None] | None = None
        #: How often the loop went round. Equal numbers: the code in between did not suspend.
        self.steps = 0
        #: What asyncio complained of: exceptions that nobody looked at, tasks thrown away.
        self.complaints: list[str] = []
        self.stalls = 0
        self._stalled = 0.0
        self._stall_chance = stalls
        self._random = random.Random(seed)
        self._futures: list[weakref.ref[asyncio.Future[Any]]] = []
        self.set_exception_handler(self._complain)
        if order == "eager":
            self.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]

    # -- one step ------------------------------------------------------------------------------

    def _run_once(self) -> None:
        self.steps += 1
        if self.observer is not None:
            self.observer.after_step()
            if not self._ready and not self._is_timer_due():
                self.observer.at_rest()
        if self.saboteur is not None:
            self.saboteur()
        if self._stall_chance and self._random.random() < self._stall_chance:
            self.stall(self._random.choice(STALLS))
        if len(self._ready) > 1 and self.order in ("single", "shuffled"):
            self._run_one()
        else:
            super()._run_once()  # type: ignore[misc]

    def _run_one(self) -> None:
        ready = self._ready
        chosen = self._random.randrange(len(ready)) if self.order == "shuffled" else 0
        handles = [*ready]
        ready.clear()
        ready.append(handles.pop(chosen))
        super()._run_once()  # type: ignore[misc]
        ready.extendleft(reversed(handles))
        handles.clear()  # the traceback of a task may keep this frame, and what its list holds

    def _is_timer_due(self) -> bool:
        return any(timer.when() <= self._now for timer in self.pending_timers())

    # -- time ----------------------------------------------------------------------------------

    def stall(self, seconds: float) -> None:
        """Something held the loop up for so long."""
        self.stalls += 1
        self._stalled += seconds
        self._advance(seconds)

    def moment(self) -> Moment:
        """Now."""
        return Moment(self._now, self._now - self._stalled)

    # -- threads -------------------------------------------------------------------------------

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        """What a thread would do, done in the loop: after some time, and in no running loop.

        As with a thread, a call that has begun goes on when nobody waits for it any more.
        """
        if getattr(executor, "_shutdown", False):
            raise RuntimeError("cannot schedule new futures after shutdown")
        if self.on_thread is not None:
            self.on_thread(func)
        future = self.create_future()
        self.call_later(self._random.choice(WAITS), self._enter_thread, future, func, args)
        return future

    def _enter_thread(
        self, future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        if not future.cancelled():
            self.call_later(self._random.choice(WORK), self._in_thread, future, func, args)

    @staticmethod
    def _in_thread(
        future: asyncio.Future[Any], func: Callable[..., Any], args: tuple[Any, ...]
    ) -> None:
        running = asyncio.get_running_loop()
        asyncio._set_running_loop(None)
        try:
            result, error = func(*args), None
        except BaseException as raised:
            result, error = None, raised
        finally:
            asyncio._set_running_loop(running)
        if future.cancelled():
            return
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)

    # -- what is left over ---------------------------------------------------------------------

    def create_future(self) -> asyncio.Future[Any]:
        """As any loop; remembers it, weakly."""
        future = super().create_future()
        self._futures.append(weakref.ref(future))
        return future

    def pending_timers(self) -> list[asyncio.TimerHandle]:
        """The timers that are set and were not cancelled."""
        return [timer for timer in self._scheduled if not timer.cancelled()]

    def pending_futures(self) -> list[asyncio.Future[Any]]:
        """The futures that were made in this loop, are not done and not forgotten."""
        futures = (ref() for ref in self._futures)
        return [future for future in futures if future is not None and not future.done()]

    def settle(self, steps: int = 1000) -> None:
        """Let run what is ready, and see that it comes to an end."""
        self.observer = self.saboteur = None
        self._stall_chance = 0.0
        for _ in range(steps):
            if not self._ready:
                return
            self.call_soon(self.stop)
            self.run_forever()

    def left_over(self) -> list[str]:
        """What is there though the program is over."""
        left = [f"task {task!r}" for task in asyncio.all_tasks(self)]
        left += [f"callback {handle!r}" for handle in self._ready if not handle.cancelled()]
        left += [f"timer {timer!r}" for timer in self.pending_timers()]
        return left

    def bury(self) -> None:
        """Close the loop; after a failure, without a word about the tasks that are still there."""
        self.observer = self.saboteur = None
        self._stall_chance = 0.0
        self.set_exception_handler(lambda loop, context: None)
        for _ in range(10):
            tasks = asyncio.all_tasks(self)
            if not tasks:
                break
            for task in tasks:
                task.cancel()
            self.call_later(10, self.stop)
            self.run_forever()
        self.close()

    def _complain(self, _: asyncio.AbstractEventLoop, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.complaints.append(f"{context['message']}: {error!r}")
