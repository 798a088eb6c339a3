"""Parts of newer Pythons that Python 3.10 lacks. All of this goes when 3.10 does."""

from __future__ import annotations

import asyncio
import sys
from types import TracebackType
from typing import Any, BinaryIO

from typing_extensions import TypeVar

__all__ = [
    "CountingTask",
    "Outcome",
    "Self",
    "add_note",
    "cancel_requests",
    "is_being_cancelled",
    "load_toml",
    "load_zstd",
    "timeout_after",
    "uncancel",
]

#: What the worker functions of a queue return; ``Any`` where nobody says. (Defaults: Python 3.13.)
Outcome = TypeVar("Outcome", default=Any)

if sys.version_info >= (3, 11):
    from typing import Self

    CountingTask = asyncio.Task[Any]
    add_note = BaseException.add_note
    cancel_requests = asyncio.Task.cancelling
    timeout_after = asyncio.timeout
    uncancel = asyncio.Task.uncancel

    def is_being_cancelled(task: asyncio.Task[Any]) -> bool:
        """Whether somebody asked the task to cancel itself."""
        return task.cancelling() > 0

else:
    from typing_extensions import Self

    class CountingTask(asyncio.Task[Any]):
        """Counts its cancel requests, as ``cancelling()`` does from Python 3.11 on."""

        requests = 0

        def cancel(self, msg: Any = None) -> bool:
            """Cancel as any task does."""
            self.requests += 1
            return super().cancel(msg)

    class timeout_after:  # noqa: N801 - named as the function that it stands for
        """The part of ``asyncio.timeout`` that is needed here."""

        def __init__(self, delay: float | None) -> None:
            self._delay = delay
            self._is_over = False
            self._timer: asyncio.TimerHandle | None = None

        def expired(self) -> bool:
            """Whether the time was over before the block was."""
            return self._is_over

        async def __aenter__(self) -> Self:
            task = asyncio.current_task()
            assert task is not None
            self._task = task
            if self._delay is not None:
                self.reschedule(asyncio.get_running_loop().time() + self._delay)
            return self

        def reschedule(self, when: float) -> None:
            """Let the time be over at ``when``, by the clock of the event loop."""
            if self._timer is not None:
                self._timer.cancel()
            self._timer = asyncio.get_running_loop().call_at(when, self._cancel)

        def _cancel(self) -> None:
            self._is_over = True
            self._task.cancel()

        async def __aexit__(
            self,
            kind: type[BaseException] | None,
            error: BaseException | None,
            traceback: TracebackType | None,
        ) -> None:
            if self._timer is not None:
                self._timer.cancel()
            if self._is_over and kind is asyncio.CancelledError:
                raise TimeoutError from error

    def add_note(error: BaseException, note: str, /) -> None:
        """Do nothing: tracebacks of Python 3.10 show no notes."""

    def cancel_requests(task: asyncio.Task[Any]) -> int:
        """How often ``cancel()`` was called on the task."""
        return task.requests if isinstance(task, CountingTask) else 0

    def is_being_cancelled(task: asyncio.Task[Any]) -> bool:
        """Whether somebody asked the task to cancel itself."""
        if isinstance(task, CountingTask):
            return task.requests > 0
        waits_for: Any = getattr(task, "_fut_waiter", None)  # which is cancelled in its place
        if isinstance(waits_for, asyncio.Task):
            return is_being_cancelled(waits_for)
        return getattr(task, "_must_cancel", False) or (
            waits_for is not None and waits_for.cancelled()
        )

    def uncancel(task: asyncio.Task[Any]) -> int:
        """Take back one call of ``cancel()`` on the task; return how many are left."""
        if isinstance(task, CountingTask) and task.requests:
            task.requests -= 1
        return cancel_requests(task)


def load_toml(file: BinaryIO) -> dict[str, Any]:
    """Read a TOML file, on Python 3.10 with ``tomli`` of the extra ``penstock[cli]``.

    Raises:
        ValueError: it is no TOML; ``UnicodeDecodeError`` if it is not UTF-8.
    """
    if sys.version_info >= (3, 11):
        import tomllib
    else:
        import tomli as tomllib
    return tomllib.load(file)


def load_zstd() -> Any:
    """The module ``compression.zstd``, on Pythons before 3.14 that of ``penstock[cli]``.

    Raises:
        ImportError: it is not installed.
    """
    if sys.version_info >= (3, 14):
        from compression import zstd
    else:
        from backports import zstd
    return zstd
