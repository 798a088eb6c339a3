"""The progress bar of a batch."""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import AsyncIterator
from contextlib import AbstractContextManager, aclosing, closing
from typing import Any

import pytest

from penstock import QueueStatus, RetryPolicy, WorkQueue, sync


class Bar(AbstractContextManager["Bar"]):
    """Stands in for tqdm's, and notes what it was told."""

    bars: list[Bar]

    def __init__(self, total: int | None = None, **kwargs: Any) -> None:
        self.total = total
        self.count = 0
        self.closed = False
        self.bars.append(self)

    def update(self, count: int = 1) -> None:
        self.count += count

    def __exit__(self, *exc_info: object) -> None:
        self.closed = True


@pytest.fixture
def bars(monkeypatch: pytest.MonkeyPatch) -> list[Bar]:
    tqdm = pytest.importorskip("tqdm")
    Bar.bars = []
    monkeypatch.setattr(tqdm, "tqdm", Bar)
    return Bar.bars


async def work(item: int) -> None:
    await asyncio.sleep(1)


async def test_the_bar_counts_every_item_that_is_done(bars: list[Bar]) -> None:
    counts = []

    async def worker(item: int) -> None:
        await asyncio.sleep(1)
        counts.append(bars[0].count)

    await WorkQueue[int](2).batch_process([1, 2, 3], worker, progress=True)
    [bar] = bars
    assert counts == [0, 1, 2]
    assert (bar.total, bar.count, bar.closed) == (3, 3, True)


async def test_the_bar_has_no_total_where_nobody_knows_it(bars: list[Bar]) -> None:
    async def source() -> AsyncIterator[int]:
        yield 1

    await WorkQueue[int]().batch_process(iter([1, 2]), work, progress=True)
    await WorkQueue[int]().batch_process(source(), work, progress=True)
    assert [(bar.total, bar.count) for bar in bars] == [(None, 2), (None, 1)]


async def test_the_bar_counts_plain_functions_too(bars: list[Bar]) -> None:
    await WorkQueue[int]().batch_process(
        range(10), lambda item: time.sleep(0), num_workers=4, progress=True
    )
    assert bars[0].count == 10


async def test_the_bar_waits_for_the_coroutine_that_a_plain_function_returns(
    bars: list[Bar],
) -> None:
    counts = []

    async def send(item: int, seconds: float) -> None:
        await asyncio.sleep(seconds)
        counts.append(bars[0].count)

    await WorkQueue[int]().batch_process(range(2), lambda item: send(item, 1), progress=True)
    assert counts == [0, 1]


def plainly_fails(item: int) -> None:
    raise ValueError(item)


async def fails(item: int) -> None:
    raise ValueError(item)


@pytest.mark.parametrize("fussy", [fails, plainly_fails, lambda item: fails(item + 0)])
async def test_the_bar_counts_items_that_failed(bars: list[Bar], fussy: Any) -> None:
    failed = []

    async def on_error(error: Exception, item: int) -> None:
        failed.append(item)

    await WorkQueue[int]().batch_process([1, 2], fussy, error_handler=on_error, progress=True)
    assert failed == [1, 2]
    assert bars[0].count == 2


async def test_the_bar_is_closed_whatever_happens(bars: list[Bar]) -> None:
    def source() -> Any:
        yield 1
        raise OSError("the file ends here")

    with pytest.raises(OSError, match="ends here"):
        await WorkQueue[int]().batch_process(source(), work, progress=True)
    assert bars[0].closed


async def test_the_log_names_the_worker_function_and_not_what_is_around_it(
    bars: list[Bar], caplog: pytest.LogCaptureFixture
) -> None:
    async def upload(item: int) -> None:
        raise ValueError(item)

    await WorkQueue[int]().batch_process([1], upload, progress=True)
    assert "upload failed" in caplog.text


async def test_there_is_no_bar_unless_one_is_asked_for(
    bars: list[Bar], capsys: pytest.CaptureFixture[str]
) -> None:
    await WorkQueue[int]().batch_process([1, 2], work)
    assert bars == []
    assert capsys.readouterr().err == ""


async def test_the_real_bar_goes_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("tqdm")
    await WorkQueue[int]().batch_process([1, 2, 3], work, progress=True)
    captured = capsys.readouterr()
    assert "3/3" in captured.err
    assert captured.out == ""


async def test_without_tqdm_the_error_says_what_to_install_and_nothing_is_started(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    queue: WorkQueue[int] = WorkQueue()
    with pytest.raises(ImportError, match=r"pip install 'penstock\[progress\]'"):
        await queue.batch_process([1], work, progress=True)
    assert queue.status is QueueStatus.IDLE
    await queue.batch_process([1], work)


async def test_an_item_that_is_tried_again_is_one_item(bars: list[Bar]) -> None:
    tried: set[int] = set()

    async def fails_at_first(item: int) -> None:
        if item not in tried:
            tried.add(item)
            raise ConnectionError

    await WorkQueue[int](retry=RetryPolicy(attempts=2)).batch_process(
        range(5), fails_at_first, 2, progress=True
    )
    [bar] = bars
    assert bar.count == bar.total == 5


async def test_the_bar_of_a_map_counts_results(bars: list[Bar]) -> None:
    queue: WorkQueue[int] = WorkQueue()
    counts = [bars[0].count async for _ in queue.map(work, [1, 2, 3], progress=True)]
    assert counts == [1, 2, 3]
    assert (bars[0].total, bars[0].closed) == (3, True)
    doubled = queue.map_batches(
        lambda items: [item * 2 for item in items], iter([1, 2]), max_size=2, progress=True
    )
    assert [number async for number in doubled] == [2, 4]
    assert (bars[1].total, bars[1].count) == (None, 2)


async def test_a_map_with_a_bar_that_is_closed_takes_back_its_items(bars: list[Bar]) -> None:
    queue: WorkQueue[int] = WorkQueue()
    async with aclosing(queue.map(work, range(9), progress=True)) as results:
        await anext(results)
    assert queue.status is QueueStatus.STOPPED
    assert (bars[0].count, bars[0].closed) == (1, True)


@pytest.mark.real_time
def test_the_bar_of_a_map_of_threads(bars: list[Bar]) -> None:
    queue: sync.WorkQueue[int] = sync.WorkQueue()
    assert list(queue.map(str, range(3), progress=True)) == ["0", "1", "2"]
    doubled = queue.map_batches(lambda items: items * 2, [1], max_size=1, progress=True)
    with closing(doubled), pytest.raises(TypeError, match="one outcome for each item"):
        next(doubled)
    assert [(bar.total, bar.count, bar.closed) for bar in bars] == [(3, 3, True), (1, 0, True)]


def test_a_map_without_tqdm_fails_at_the_call(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tqdm", None)
    for queue in (WorkQueue[int](), sync.WorkQueue[int]()):
        with pytest.raises(ImportError, match=r"pip install 'penstock\[progress\]'"):
            queue.map(str, [1], progress=True)
