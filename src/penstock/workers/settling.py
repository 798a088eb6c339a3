"""Workers whose source is told what became of each entry."""

from __future__ import annotations

from collections.abc import Generator
from typing import Any, ClassVar, TypeVar

from penstock.policies.observer import outcome_of
from penstock.workers.calls import FINISHED
from penstock.workers.item import Entry
from penstock.workers.job import Job
from penstock.workers.pool import WorkerPool
from penstock.workers.source import SettlingSource
from penstock.workers.worker import Worker

T = TypeVar("T")


class SettlingWorker(Worker[T]):
    """A worker over a ``SettlingSource``. A class of its own, so that others ask nothing."""

    __slots__ = ()

    # No item is done after its first step: its source is to hear of it.
    _done_at_once: ClassVar[object] = object()
    _source: SettlingSource[T]

    async def _drive(  # type: ignore[override]
        self, entry: Entry[T], steps: Generator[Any, Any, Any], awaited: Any
    ) -> BaseException | None:
        error = await super()._drive(entry, steps, awaited)
        if error is None:
            steps = self._source.done(entry).__await__()
            error = await super()._drive(entry, steps, entry[2].run(next, steps, FINISHED))
        return error

    async def _drive_handler(
        self, entry: Entry[T], steps: Generator[Any, Any, Any], awaited: Any
    ) -> BaseException | None:
        return await super()._drive(entry, steps, awaited)

    def _on_failure(self, entry: Entry[T], error: BaseException) -> str:
        return entry[2].run(self._settle_failure, entry, error)

    def _settle_failure(self, entry: Entry[T], error: BaseException) -> str:
        outcome = outcome_of(error, is_kept=self._source.failed(entry, error))
        ticket = entry[3]
        if ticket is not None:
            ticket.end(error, outcome)
        return outcome


class SettlingPool(WorkerPool[T]):
    """A pool of these, all in one event loop."""

    def _make_worker(self, standing: Job[T] | None, is_for_threads: bool) -> Worker[T]:
        source: Any = self._source
        return SettlingWorker(source, self._counters, standing, self.failures, self._may_go_on)
