"""The log of failures that nobody handles: the first of a kind whole, the others as a count."""

from __future__ import annotations

import asyncio
import logging
import threading
from asyncio import _get_running_loop
from contextlib import suppress
from contextvars import Context
from typing import Any

#: Seconds between two lines about failures of one kind.
_INTERVAL = 1.0
#: How many kinds are told apart. Beyond that everything begins anew.
_MOST_KINDS = 1000


class _Kind:
    """The failures of one kind that the log has not told of yet."""

    __slots__ = ("count", "last")

    def __init__(self) -> None:
        self.count = 0
        self.last = ""


class FailureLog:
    """Logs the first failure of a kind with its traceback, and counts those that follow.

    Failures are of one kind if the same function fails with the same type of exception, raised at
    the same place. What was counted is told in one line a second, and by :meth:`flush`.

    The methods may be called from any thread.
    """

    def __init__(self, logger: logging.Logger) -> None:
        #: Where it logs.
        self.logger = logger
        self._is_verbose = False
        self._shows_exceptions = True
        self._kinds: dict[Any, _Kind] = {}
        self._lock = threading.RLock()
        self._has_timer = False

    def configure(self, *, is_verbose: bool, shows_exceptions: bool) -> None:
        """Say what is logged.

        Args:
            is_verbose: each failure, with its traceback.
            shows_exceptions: messages and tracebacks of exceptions; or else their types only.
        """
        self._is_verbose, self._shows_exceptions = is_verbose, shows_exceptions

    def add(
        self,
        message: str,
        label: str,
        error: BaseException,
        loop: asyncio.AbstractEventLoop,
    ) -> None:
        """Log or count a failure.

        Args:
            message: what happened, with a place for ``label``, which is what failed.
            label: the name of the function.
            error: what it raised.
            loop: where a timer can tell what was counted.
        """
        if self._is_verbose:
            self._log(message, label, error)
            return
        key = (message, label, type(error), _place_of(error))
        needs_timer = False
        with self._lock:
            kind = self._kinds.get(key)
            if kind is not None:
                kind.count += 1
                kind.last = self._shown(error)
                needs_timer = not self._has_timer
                self._has_timer = True
            else:
                if len(self._kinds) >= _MOST_KINDS:
                    self._kinds.clear()
                self._kinds[key] = _Kind()
        if kind is None:
            try:
                self._log(message, label, error)
            except BaseException:  # it was not told, so the next one is
                self._kinds.pop(key, None)
                raise
        elif needs_timer:
            self._start_timer(loop)

    def _log(self, message: str, label: str, error: BaseException) -> None:
        if self._shows_exceptions:
            self.logger.exception(  # noqa: LOG004 - the exception is at hand, not under way
                message, label, exc_info=error
            )
        else:
            self.logger.error(message + ": %s", label, type(error).__name__)  # noqa: G003

    def _shown(self, error: BaseException) -> str:
        name = type(error).__name__
        # (A cancellation may have lost its message on its way out of a thread.)
        if not self._shows_exceptions or not isinstance(error, Exception):
            return name
        try:
            lines = str(error).splitlines()
        except Exception:  # noqa: BLE001 - the exception is the user's
            return name
        return f"{name}: {lines[0]}" if lines else name

    def _start_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        try:
            if _get_running_loop() is loop:
                loop.call_later(_INTERVAL, self._on_timer, loop, context=Context())
            else:
                loop.call_soon_threadsafe(self._start_timer, loop, context=Context())
        except RuntimeError:  # the loop is closed
            self._has_timer = False

    def _on_timer(self, loop: asyncio.AbstractEventLoop) -> None:
        with self._lock:
            self._has_timer = has_more = any(kind.count for kind in self._kinds.values())
        self.flush()
        if has_more:  # it goes on for as long as there is something to tell
            self._start_timer(loop)

    def flush(self) -> None:
        """Log what was counted and not told yet."""
        lines = []
        with self._lock:
            for (message, label, *_), kind in self._kinds.items():
                if kind.count:
                    lines.append((message, label, kind.count, kind.last))
                    kind.count, kind.last = 0, ""
        for message, label, count, last in lines:
            with suppress(Exception):  # of the user's logger
                text = message + " %d more times, the last time with %s"
                self.logger.error(text, label, count, last)


def _place_of(error: BaseException) -> object:
    """Where an exception was raised: the file and the line."""
    traceback = error.__traceback__
    if traceback is None:
        return None
    while traceback.tb_next is not None:
        traceback = traceback.tb_next
    return traceback.tb_frame.f_code.co_filename, traceback.tb_lineno
