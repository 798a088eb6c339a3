"""What an observer hears of a queue: with one of the test's own, in place of telemetry."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from contextvars import Context, ContextVar, copy_context
from types import TracebackType
from typing import Any

import pytest

from contract.conftest import WORK_QUEUES
from contract.helpers import MakeQueue
from helpers.handlers import ignore
from helpers.logs import SILENT
from helpers.retries import every
from helpers.tasks import until
from penstock import Limit
from penstock._util.compat import Self
from penstock.policies.observer import ObserverProvider, Origin

pytestmark = pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)

PUT_BY: ContextVar[str] = ContextVar("PUT_BY")


class Notes:
    """Notes what it is told. It makes itself, so it is what ``telemetry`` takes as well."""

    record_exceptions = True
    verbose_errors = False

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.name = ""
        self.watched: Any = None
        self.read_totals: Callable[[], Any] = dict
        self.waiting: Any = ()
        #: How puts ended.
        self.puts: list[str] = []
        #: Everything else. (A worker may be faster than the end of the put.)
        self.heard: list[Any] = []

    def get_observer(self, name: str) -> Self:
        self.name = name
        return self

    def is_enabled(self) -> bool:
        return self.enabled

    def watch_queue(self, queue: Any, totals: Callable[[], Any], waiting: Any) -> None:
        self.watched, self.read_totals, self.waiting = queue, totals, waiting

    def on_put(self, origin: Origin | None = None) -> NotedPut:
        return NotedPut(self)

    def on_item(self, age: float = 0.0) -> NotedItem:
        return NotedItem(self)

    def on_retry(self, error: BaseException) -> None:
        self.heard.append(("retry", str(error)))

    def on_dead_letter(self, error: BaseException) -> None:
        self.heard.append(("dead letter", str(error)))

    def on_limit_wait(self, name: str, seconds: float) -> None:
        self.heard.append(("limit", name))


class NotedItem:
    def __init__(self, notes: Notes) -> None:
        self.notes = notes

    def attempt(
        self,
        number: int = 1,
        *,
        limit_wait: float | None = None,
        context: Context | None = None,
        is_call: bool = True,
    ) -> NotedAttempt:
        waited = "no limits" if limit_wait is None else "limits"
        put_by = PUT_BY.get() if context is None else context[PUT_BY]
        return NotedAttempt(self.notes, (number, waited, put_by))

    def wait(self) -> AbstractContextManager[object]:
        return nullcontext()

    def age(self) -> float:
        return 0.0

    def origin(self) -> Origin | None:
        return None

    def on_get(self) -> None:
        self.notes.heard.append("get")

    def on_skipped(self) -> None:
        self.notes.heard.append("skipped")

    def on_handler_error(self, error: BaseException) -> None:
        self.notes.heard.append(("handler", str(error)))


class NotedAttempt:
    def __init__(self, notes: Notes, about: tuple[Any, ...]) -> None:
        self.notes = notes
        self.about = about

    def __enter__(self) -> None:
        pass

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.notes.heard.append((*self.about, None if exc is None else str(exc)))

    def stop_clock(self) -> None:
        pass

    def fail(self, error: BaseException, outcome: str, delay: float | None = None) -> None:
        assert (outcome == "retry") == (delay is not None)
        self.notes.heard.append((*self.about, str(error), outcome))


class NotedPut(NotedItem):
    def __init__(self, notes: Notes) -> None:
        super().__init__(notes)
        self.context = copy_context()
        self.context.run(PUT_BY.set, "the observed put")
        self.accepted = False
        self.was_full = False

    def on_full(self, by: str | None = None) -> None:
        self.was_full = True

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.notes.puts.append(("full, " if self.was_full else "") + repr(exc or self.accepted))


@pytest.fixture
def notes() -> Notes:
    notes = Notes()
    _: ObserverProvider = notes  # a type checker sees whether it has all the methods
    return notes


async def test_it_hears_of_each_attempt_and_what_became_of_it(
    make_queue: MakeQueue, notes: Notes
) -> None:
    queue = make_queue(
        name="observed",
        telemetry=notes,
        limits=[Limit(10, 1, name="ten")],
        retry=every(0.01, attempts=2),
        logger=SILENT,
    )

    def fail(item: str) -> None:
        raise ValueError(item)

    async with queue:
        await queue.process(fail, 1, ignore)
        await queue.put("an item")
        await queue.join()
    assert notes.name == "observed"
    assert notes.puts == ["True"]
    assert notes.heard == [
        ("limit", "ten"),
        ("retry", "an item"),
        (1, "limits", "the observed put", "an item", "retry"),
        ("limit", "ten"),
        ("dead letter", "an item"),
        (2, "limits", "the observed put", "an item", "dead_letter"),
    ]


async def test_it_hears_of_a_success_and_of_an_error_handler_that_raises(
    make_queue: MakeQueue, notes: Notes
) -> None:
    queue = make_queue(telemetry=notes, logger=SILENT)

    def work(item: str) -> None:
        if item == "bad":
            raise ValueError(item)

    def fail(error: Exception, item: str) -> None:
        raise LookupError("no handler")

    async with queue:
        await queue.process(work, 1, fail)
        await queue.put("good")
        await queue.put("bad")
        await queue.join()
    assert notes.heard == [
        (1, "no limits", "the observed put", None),
        ("handler", "no handler"),
        (1, "no limits", "the observed put", "bad", "failed"),
    ]


async def test_it_hears_how_puts_end(make_queue: MakeQueue, notes: Notes) -> None:
    queue = make_queue(maxsize=1, telemetry=notes, logger=SILENT)
    async with queue:
        await queue.put(1)
        assert not await queue.put(2, timeout=0)
        with pytest.raises(Exception, match="full"):
            queue.put_nowait(3)
        waiting = asyncio.create_task(queue.put(4, timeout=60))
        await until(lambda: queue.statistics().waiting_putters == 1)
        assert await queue.get() == 1
        assert await waiting
        assert await queue.get() == 4
    assert notes.puts == ["True", "full, False", "full, False", "full, True"]
    assert notes.heard == ["get", "get"]


async def test_it_reads_the_counts_of_the_queue(make_queue: MakeQueue, notes: Notes) -> None:
    queue = make_queue(maxsize=2, name="counted", telemetry=notes, logger=SILENT)
    async with queue:
        for item in range(3):
            await queue.put(item, timeout=0)
        totals = notes.read_totals()
        assert (totals["accepted"], totals["full"], totals["processed"]) == (2, 1, 0)
        assert (notes.watched.name, notes.watched.maxsize) == ("counted", 2)
        assert notes.watched.statistics().size == len(notes.waiting) == 2
        await queue.get()
        await queue.get()
        assert len(notes.waiting) == 0


async def test_one_that_is_not_enabled_hears_of_no_item(make_queue: MakeQueue) -> None:
    notes = Notes(enabled=False)
    queue = make_queue(telemetry=notes, logger=SILENT)
    async with queue:
        await queue.process(lambda item: None, 1)
        await queue.put(1)
        await queue.join()
        notes.enabled = True
        await queue.put(2)
        await queue.join()
    assert notes.puts == ["True"]
    assert len(notes.heard) == 1


async def test_it_hears_nothing_of_an_item_that_was_put_before(
    make_queue: MakeQueue,
) -> None:
    notes = Notes(enabled=False)
    queue = make_queue(
        telemetry=notes, limits=[Limit(10, 1)], retry=every(0.01, attempts=2), logger=SILENT
    )

    def fail(item: str) -> None:
        notes.enabled = True
        raise ValueError(item)

    async with queue:
        await queue.process(fail, 1, ignore)
        await queue.put("before")
        await queue.join()
        assert len(queue.dead_letters) == 1
        assert notes.heard == []
        await queue.put("after")
        await queue.join()
    assert ("retry", "after") in notes.heard
    assert ("dead letter", "after") in notes.heard


@pytest.mark.parametrize("wrong", ["otlp", object(), Notes, 5])
async def test_what_makes_no_observer_is_refused(make_queue: MakeQueue, wrong: Any) -> None:
    with pytest.raises(TypeError, match=r"telemetry must be a penstock\.telemetry\.Telemetry, got"):
        make_queue(telemetry=wrong)
