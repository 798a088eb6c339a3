"""Signals that stop queues: the first one gently, the second one at once.

Handlers of signals belong to the process, and several queues may ask for the same signal. So there
is one registry, which installs one handler for each signal. It remembers the handler that was
there before, and installs it again when the last queue that asked has stopped, in whatever order
they stop. A handler that somebody else has installed meanwhile stays.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from abc import ABC, abstractmethod
from collections.abc import Callable, Coroutine, Iterator
from types import FrameType
from typing import Any

from penstock._util import checks
from penstock._util.hooks import tell_forked_child


class SignalHandlers(ABC):
    """What one queue does at the first of ``signals``, and at the second.

    Queues that asked for the same signal run their first calls one after the other, in the order
    of asking: the workers of one may put into the next. The second calls run all at once.
    """

    def __init__(
        self, signals: tuple[int, ...], first: Callable[[], Any], second: Callable[[], Any]
    ) -> None:
        self.signals = signals
        self._first = first
        self._second = second
        #: How many signals it has been told of.
        self.heard = 0
        _registry.add(self)

    def restore(self) -> bool:
        """Hear of no more signals. False if the previous handlers are not installed again yet.

        Only the main thread may install handlers. In another thread the next signal does it, or
        the next call in the main thread.
        """
        return _registry.remove(self)

    def can_run(self) -> bool:
        """Whether a call can still be run."""
        return True

    def run_first(self, done: Callable[[], None]) -> None:
        """Start the first call, and call ``done`` when it has ended. Does not wait."""
        self._start(self._run_first, done)

    def run_second(self) -> None:
        """Start the second call. Does not wait."""
        self._start(self._second)

    @abstractmethod
    def _start(self, func: Callable[..., Any], *args: Any) -> None:
        """Start ``func(*args)``. In a signal handler: it must not wait."""

    @abstractmethod
    def _run_first(self, done: Callable[[], None]) -> Any:
        """Make the first call; call ``done`` when it has ended."""


class LoopSignalHandlers(SignalHandlers):
    """Runs ``first()`` and ``second()`` as tasks of the event loop that is running now.

    When ``first()`` has ended, it hears of no more signals.
    """

    def __init__(
        self,
        signals: tuple[int, ...],
        first: Callable[[], Coroutine[Any, Any, Any]],
        second: Callable[[], Coroutine[Any, Any, Any]],
    ) -> None:
        self._loop = asyncio.get_running_loop()
        self._tasks: list[asyncio.Task[Any]] = []
        super().__init__(signals, first, second)

    def can_run(self) -> bool:
        """Whether the loop is open."""
        return not self._loop.is_closed()

    def _start(self, func: Callable[..., Coroutine[Any, Any, Any]], *args: Any) -> None:
        # This runs between two instructions of the main thread, whatever it is doing. So it leaves
        # the work to the loop.
        self._loop.call_soon_threadsafe(
            lambda: self._tasks.append(self._loop.create_task(func(*args)))
        )

    async def _run_first(self, done: Callable[[], None]) -> None:
        try:
            await self._first()
        finally:
            self.restore()
            done()


class ThreadSignalHandlers(SignalHandlers):
    """Runs ``first()`` and ``second()``, which block, in threads of their own.

    (A signal handler interrupts the main thread, perhaps in the middle of a call of the queue.)
    The caller of ``first()`` calls :meth:`restore` when it has ended.
    """

    def _start(self, func: Callable[..., object], *args: Any) -> None:
        threading.Thread(target=func, args=args, name="penstock-signal", daemon=True).start()

    def _run_first(self, done: Callable[[], None]) -> None:
        try:
            self._first()
        finally:
            done()


class _Registry:
    """The signal handlers of this process."""

    def __init__(self) -> None:
        # Guards changes of the two below. The handler itself must not take it, and only reads: it
        # may interrupt a change in the main thread. So the tuple is replaced and never changed.
        self._lock = threading.Lock()
        self._asked: tuple[SignalHandlers, ...] = ()
        self._previous: dict[int, Any] = {}
        tell_forked_child(self)

    def _after_fork_in_child(self) -> object:
        inherited, self._asked = self._asked, ()  # the next signal finds nobody left
        self._lock = threading.Lock()
        return inherited

    def add(self, handlers: SignalHandlers) -> None:
        with self._lock:
            self._asked = (*self._others(handlers), handlers)
            # signal.signal and not loop.add_signal_handler: that one forgets the previous handler
            # (for example asyncio's own of Ctrl-C), and does not exist on Windows.
            for number in handlers.signals:
                current = signal.getsignal(number)
                if current != self._on_signal:
                    self._previous[number] = current
                    signal.signal(number, self._on_signal)

    def remove(self, handlers: SignalHandlers) -> bool:
        with self._lock:
            self._asked = self._others(handlers)
            unused = [
                number
                for number in self._previous
                if not any(number in other.signals for other in self._asked)
            ]
            if unused and threading.current_thread() is not threading.main_thread():
                return False
            for number in unused:
                # Not where somebody else's is installed, who may yet install ours again.
                if signal.getsignal(number) == self._on_signal:
                    self._install_previous(number)
                    del self._previous[number]
        return True

    def _others(self, handlers: SignalHandlers) -> tuple[SignalHandlers, ...]:
        return tuple(one for one in self._asked if one is not handlers and one.can_run())

    def _install_previous(self, number: int) -> None:
        previous = self._previous.get(number)
        signal.signal(number, signal.SIG_DFL if previous is None else previous)

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        asked = [one for one in self._asked if number in one.signals and one.can_run()]
        if not asked:  # nobody is left
            self._install_previous(number)
            signal.raise_signal(number)
            return
        for one in asked:
            one.heard += 1
        self._run_next(iter([one for one in asked if one.heard == 1]))
        for one in asked:
            if one.heard == 2:
                one.run_second()

    def _run_next(self, waiting: Iterator[SignalHandlers]) -> None:
        for one in waiting:
            if one in self._asked and one.can_run():  # it may have stopped meanwhile
                one.run_first(lambda: self._run_next(waiting))
                return


_registry = _Registry()


def check_signals(signals: tuple[int, ...]) -> None:
    """Raise ``ValueError`` for what is no signal that can be caught, or outside the main thread."""
    uncatchable = {getattr(signal, name, None) for name in ("SIGKILL", "SIGSTOP")}
    for number in signals:
        is_int = isinstance(number, int) and not isinstance(number, bool)
        if not is_int or number not in set(signal.Signals) - uncatchable:
            raise ValueError(
                f"signals must be signals that can be caught, got {checks.shown(number)}"
            )
    if threading.current_thread() is not threading.main_thread():
        raise ValueError("signals can be caught in the main thread only")
