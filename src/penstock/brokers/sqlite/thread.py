"""The thread that uses a file: calls of the event loop become transactions, many at a time.

To have a commit on the disk takes a disk some milliseconds, whatever is in it. So all calls that
have come meanwhile are carried out in one transaction, and answered together.
"""

from __future__ import annotations

import asyncio
import queue
import sqlite3
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from typing import Any, Final, TypeVar

from penstock.brokers.sqlite.file import SqliteFile
from penstock.brokers.sqlite.problems import FileLockedError
from penstock.errors import QueueUnknownError

R = TypeVar("R")

#: The most calls in one transaction: others want the lock too.
_MOST: Final = 200
#: Seconds between two looks for what other processes did: the first after a change, while somebody
#: waits for them, and while nobody does.
_SHORTEST, _LONGEST, _IDLE = 0.001, 0.05, 1.0


@dataclass(frozen=True, slots=True)
class _Call:
    """A call for the thread."""

    function: Callable[[], Any]
    future: asyncio.Future[Any]
    writes: bool
    is_durable: bool


_Answer = tuple["asyncio.Future[Any]", Any, "BaseException | None"]

#: Wakes the thread; ends it.
_NO_CALL, _LAST = object(), object()


class SqliteThread:
    """A thread with one connection, for one event loop.

    Args:
        on_change: called in the event loop when another connection has changed the file.
    """

    def __init__(
        self,
        open_file: Callable[[], SqliteFile],
        name: str,
        on_change: Callable[[], None],
    ) -> None:
        self._open_file = open_file
        self._on_change = on_change
        self._loop = asyncio.get_running_loop()
        self._calls: queue.SimpleQueue[_Call | object] = queue.SimpleQueue()
        self._is_watching = False
        self._opened: asyncio.Future[SqliteFile] = self._loop.create_future()
        self._ended: asyncio.Future[None] = self._loop.create_future()
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)

    async def start(self) -> SqliteFile:
        """Open the file; it is used in the thread only.

        Raises:
            BrokerError: it cannot be used.
        """
        self._thread.start()
        return await asyncio.shield(self._opened)

    def call(
        self, function: Callable[[], R], *, writes: bool = True, is_durable: bool = True
    ) -> asyncio.Future[R]:
        """Have ``function()`` called in the thread; the future gets its result.

        Args:
            writes: in a write transaction, which it has for itself or with other calls.
            is_durable: as for :meth:`SqliteFile.write`.

        A call whose future is cancelled before its turn is left out.
        """
        future: asyncio.Future[R] = self._loop.create_future()
        self._calls.put(_Call(function, future, writes, is_durable))
        return future

    def watch(self, is_watching: bool) -> None:
        """Look often for what others did, because somebody waits for it; or seldom."""
        is_news = is_watching and not self._is_watching
        self._is_watching = is_watching
        if is_news:
            self._calls.put(_NO_CALL)

    async def close(self) -> None:
        """Carry out what was called before, close the file, and end."""
        self._calls.put(_LAST)
        await asyncio.shield(self._ended)

    def abandon(self) -> None:
        """The same, where the event loop is closed and nobody can wait."""
        self._calls.put(_LAST)

    # -- in the thread --------------------------------------------------------------------------

    def _run(self) -> None:
        try:
            file = self._open_file()
        except BaseException as error:  # noqa: BLE001 - for whoever waits for it
            self._in_loop(self._answer, [(self._opened, None, error), (self._ended, None, None)])
            return
        self._in_loop(self._answer, [(self._opened, file, None)])
        try:
            self._serve(file)
        finally:
            file.close()
            self._in_loop(self._answer, [(self._ended, None, None)])

    def _serve(self, file: SqliteFile) -> None:
        pause, seen, is_open = _SHORTEST, file.changes(), True
        while is_open:
            calls = self._next(pause if self._is_watching else _IDLE)
            if calls:
                is_open = _LAST not in calls
                self._carry_out(file, [call for call in calls if isinstance(call, _Call)])
            changes = seen
            with suppress(sqlite3.Error):  # the next call will say so
                changes = file.changes()
            if changes != seen:
                seen = changes
                # Once the event loop is closed, nobody will ever call again.
                is_open = self._in_loop(self._on_change) and is_open
            elif not calls:
                pause = min(pause * 1.3, _LONGEST)
                continue
            pause = _SHORTEST

    def _next(self, timeout: float) -> list[_Call | object]:
        """The calls that are there; wait for the first one."""
        calls: list[_Call | object] = []
        with suppress(queue.Empty):
            calls.append(self._calls.get(timeout=timeout))
            while len(calls) < _MOST:
                calls.append(self._calls.get_nowait())
        return calls

    def _carry_out(self, file: SqliteFile, calls: list[_Call]) -> None:
        calls = [call for call in calls if not call.future.cancelled()]
        answers = self._write(file, [call for call in calls if call.writes])
        for call in calls:
            if not call.writes:
                answers.append(_answer_of(call, partial(file.patiently, call.function)))
        if answers:
            self._in_loop(self._answer, answers)

    def _write(self, file: SqliteFile, calls: list[_Call]) -> list[_Answer]:
        if not calls:
            return []
        is_durable = any(call.is_durable for call in calls)
        try:
            results = file.write(lambda: [call.function() for call in calls], is_durable=is_durable)
        except (FileLockedError, QueueUnknownError) as error:
            return [(call.future, None, error) for call in calls]
        except BaseException as error:  # noqa: BLE001 - for whoever made the call
            if len(calls) == 1:
                return [(calls[0].future, None, error)]
            # All of it is undone. One alone may be what failed.
            return [answer for call in calls for answer in self._write(file, [call])]
        return [(call.future, result, None) for call, result in zip(calls, results, strict=True)]

    def _in_loop(self, function: Callable[..., None], *args: Any) -> bool:
        try:
            self._loop.call_soon_threadsafe(function, *args)
        except RuntimeError:  # the loop was closed
            return False
        return True

    @staticmethod
    def _answer(answers: list[_Answer]) -> None:
        for future, result, error in answers:
            if future.done():  # cancelled meanwhile
                continue
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)


def _answer_of(call: _Call, function: Callable[[], Any]) -> _Answer:
    try:
        return call.future, function(), None
    except BaseException as error:  # noqa: BLE001 - for whoever made the call
        return call.future, None, error
