"""The counters of a queue that many threads use."""

from __future__ import annotations

import asyncio
import threading
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from penstock.queue.counters import Field, QueueCounters
from penstock.queue.store import EntryBuffer

if TYPE_CHECKING:
    from penstock.sync.desks import Desk


class SharedCounters(QueueCounters):
    """QueueCounters that any thread may change; each worker counts at its own desk."""

    def __init__(self, buffer: EntryBuffer[Any]) -> None:
        super().__init__(buffer)
        self._lock = threading.RLock()
        self._desks: set[Desk[Any]] = set()

    def open_desk(self, desk: Desk[Any]) -> None:
        """Add up what this worker counts."""
        with self._lock:
            self._desks.add(desk)

    def close_desk(self, desk: Desk[Any]) -> int:
        """What the worker counts from now on does not; return how many items it had finished."""
        with self._lock:
            processed = desk.processed  # once: it may go on counting in this very moment
            if desk in self._desks:
                self._desks.remove(desk)
                self.processed += processed
                self.errors += desk.errors
            return processed

    def add(self, field: Field) -> None:
        """One more of this."""
        with self._lock:
            super().add(field)

    def get_started(self) -> None:
        """An item goes into the hands of a caller of ``get``."""
        with self._lock:
            super().get_started()

    def task_done(self) -> bool:
        """It is out of them again; False if nobody had one."""
        with self._lock:
            return super().task_done()

    @property
    def all_processed(self) -> int:
        """Items that are done, whoever counted them."""
        with self._lock:
            return self.processed + sum(desk.processed for desk in self._desks)

    @property
    def all_errors(self) -> int:
        """Failures of worker functions, whoever counted them."""
        with self._lock:
            return self.errors + sum(desk.errors for desk in self._desks)

    # -- joining ------------------------------------------------------------------------------

    def notify_if_done(self) -> None:
        """Tell the joiners, if all items are done."""
        if self._buffer.ready:  # most often the answer, at no cost
            return
        with self._lock:
            if not self.unfinished:
                self._notify_joiners(True)

    def _add_joiner(self, joiner: asyncio.Future[bool]) -> None:
        with self._lock:
            super()._add_joiner(joiner)

    def _notify_joiners(self, finished: bool) -> None:
        with self._lock:
            joiners = list(self.joiners)
            self.joiners.clear()
        for joiner in joiners:
            with suppress(RuntimeError):  # its loop is closed
                joiner.get_loop().call_soon_threadsafe(_tell, joiner, finished)


def _tell(joiner: asyncio.Future[bool], finished: bool) -> None:
    if not joiner.done():
        joiner.set_result(finished)
