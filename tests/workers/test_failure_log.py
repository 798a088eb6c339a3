"""What is logged of failures that nobody handles."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest

import penstock
import penstock.sync
from penstock.telemetry import Telemetry


class Lines(logging.Handler):
    """Keeps the lines of errors, and whether each has a traceback."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.logger = logging.Logger("mine")  # noqa: LOG001 - nobody else has it
        self.logger.addHandler(self)
        self.lines: list[tuple[str, bool]] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append((record.getMessage(), record.exc_info is not None))


@pytest.fixture
def log() -> Lines:
    return Lines()


async def fail(item: int) -> None:
    if item == 13:
        raise LookupError(item)
    raise ValueError(f"bad {item}\nand more of it")


FIRST = ("Worker function fail failed", True)


async def test_the_first_failure_has_its_traceback_and_the_others_are_counted(log: Lines) -> None:
    async with penstock.BoundedQueue[int](logger=log.logger) as queue:
        await queue.start_workers(fail, 2)
        for item in range(100, 150):
            await queue.put(item)
        await queue.join()
        assert log.lines == [FIRST]
        await asyncio.sleep(1)
        last = "the last time with ValueError: bad 149"
        assert log.lines == [FIRST, (f"Worker function fail failed 49 more times, {last}", False)]
        await asyncio.sleep(10)
        assert len(log.lines) == 2


async def test_there_is_one_line_a_second_while_it_goes_on(log: Lines) -> None:
    async def fail_slowly(item: int) -> None:
        await asyncio.sleep(0.25)
        raise ValueError(item)

    async with penstock.BoundedQueue[int](logger=log.logger) as queue:
        await queue.start_workers(fail_slowly, 1)
        for item in range(40):
            await queue.put(item)
        await queue.join()
    assert 10 <= len(log.lines) <= 12


async def test_what_was_counted_is_told_when_the_workers_end(log: Lines) -> None:
    async with penstock.BoundedQueue[int](logger=log.logger) as queue:
        await queue.start_workers(fail, 1)
        for item in range(3):
            await queue.put(item)
    assert log.lines == [
        FIRST,
        ("Worker function fail failed 2 more times, the last time with ValueError: bad 2", False),
    ]


async def test_each_type_and_each_place_is_a_kind_of_its_own(log: Lines) -> None:
    async def fail_elsewhere(item: int) -> None:
        raise ValueError(item)

    async with penstock.BoundedQueue[int](logger=log.logger) as queue:
        await queue.start_workers(fail, 1)
        await queue.put(1)
        await queue.put(13)
        await queue.join()
        await queue.start_workers(fail_elsewhere, 1)
        await queue.put(1)
        await queue.join()
    assert [has_traceback for _, has_traceback in log.lines] == [True, True, True]


async def test_failures_of_the_error_handler_are_counted_likewise(log: Lines) -> None:
    def handle(error: BaseException, item: int) -> None:
        raise KeyError(item)

    async with penstock.BoundedQueue[int](logger=log.logger) as queue:
        await queue.start_workers(fail, 1, handle)
        for item in range(5):
            await queue.put(item)
    about = "Error handler failed on an error of worker function fail"
    assert log.lines == [
        (about, True),
        (f"{about} 4 more times, the last time with KeyError: 4", False),
    ]


async def test_verbose_errors_have_a_traceback_each(log: Lines) -> None:
    queue = penstock.BoundedQueue[int](logger=log.logger, telemetry=Telemetry(verbose_errors=True))
    async with queue:
        await queue.start_workers(fail, 1)
        for item in range(5):
            await queue.put(item)
    assert log.lines == [FIRST] * 5


async def test_exceptions_that_must_not_be_recorded_are_not_logged_either(log: Lines) -> None:
    queue = penstock.BoundedQueue[int](
        logger=log.logger, telemetry=Telemetry(record_exceptions=False)
    )
    async with queue:
        await queue.start_workers(fail, 1)
        for item in range(3):
            await queue.put(item)
    assert log.lines == [
        ("Worker function fail failed: ValueError", False),
        ("Worker function fail failed 2 more times, the last time with ValueError", False),
    ]


async def test_an_exception_that_cannot_tell_its_message_is_counted_all_the_same(
    log: Lines,
) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise RuntimeError

    async def be_mute(item: int) -> None:
        raise MuteError

    async with penstock.BoundedQueue[int](logger=log.logger) as queue:
        await queue.start_workers(be_mute, 1)
        await queue.put(1)
        await queue.put(2)
    assert [line.rpartition(" ")[2] for line, _ in log.lines[1:]] == ["MuteError"]


@pytest.mark.real_time
@pytest.mark.parametrize("is_plain", [True, False])
def test_a_queue_for_threads_counts_likewise(log: Lines, is_plain: bool) -> None:
    def plain(item: int) -> None:
        raise ValueError(item)

    async def coroutine(item: int) -> None:
        raise ValueError(item)

    work: Any = plain if is_plain else coroutine
    with penstock.sync.WorkQueue[int](logger=log.logger) as queue:
        queue.process(work, 2)
        for item in range(20):
            queue.put(item, timeout=60)
        assert queue.join(60)
    assert [has_traceback for _, has_traceback in log.lines] == [True] + [False] * (
        len(log.lines) - 1
    )
    counts = [int(line.split(" more times")[0].rpartition(" ")[2]) for line, _ in log.lines[1:]]
    assert sum(counts) == 19


def test_verbose_errors_is_a_bool() -> None:
    with pytest.raises(TypeError, match="verbose_errors must be a bool, got 1"):
        Telemetry(verbose_errors=1)  # type: ignore[arg-type]
