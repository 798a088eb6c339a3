"""Results: ``submit``, which gives a future, and ``map``, which gives them all."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import aclosing, suppress
from typing import Any
from unittest.mock import AsyncMock, Mock

import pytest

from helpers.tasks import now, settle
from helpers.workers import Worker
from penstock import (
    AdaptiveConcurrency,
    QueueFullError,
    QueueStateError,
    QueueStatus,
    RetryPolicy,
    WorkQueue,
)

IDLE, PROCESSING, STOPPING, STOPPED = QueueStatus


async def double(item: int) -> int:
    await asyncio.sleep(1)
    return item * 2


# -- submit ---------------------------------------------------------------------------------------


async def test_submit_gives_a_future_of_what_the_worker_function_returns() -> None:
    async with WorkQueue[int](concurrency_limit=2) as queue:
        await queue.process(double)
        futures = [await queue.submit(item) for item in range(4)]
        assert all(isinstance(future, asyncio.Future) for future in futures)
        assert not any(future.done() for future in futures)
        assert await asyncio.gather(*futures) == [0, 2, 4, 6]
        assert queue.metrics["processed"] == 4


async def test_an_exception_goes_to_the_future_and_to_nobody_else(
    caplog: pytest.LogCaptureFixture,
) -> None:
    handler = Mock()
    async with WorkQueue[int]() as queue:
        await queue.process(AsyncMock(side_effect=KeyError("lost")), error_handler=handler)
        future = await queue.submit(1)
        with pytest.raises(KeyError, match="lost"):
            await future
        await queue.join()
    handler.assert_not_called()
    assert "lost" not in caplog.text
    assert queue.metrics["errors"] == queue.metrics["processed"] == 1


async def test_submitted_items_and_put_ones_stand_in_the_same_line() -> None:
    seen = []

    async def worker(item: str) -> None:
        seen.append(item)

    async with WorkQueue[str]() as queue:
        await queue.put("a")
        future = await queue.submit("b")
        await queue.put("c")
        await queue.process(worker)
        await queue.join()
        assert future.done()
    assert seen == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("timeout", "waited"), [(None, 0.5), (0, 0), (2, 2)], ids=["the queue's", "none", "its own"]
)
async def test_submit_to_a_full_queue_raises(timeout: float | None, waited: float) -> None:
    async with WorkQueue[int](1, timeout=0.5) as queue:
        await queue.put(1)
        begun = now()
        with pytest.raises(QueueFullError, match="is full") as caught:
            await queue.submit(2, timeout=timeout)
        assert now() - begun == pytest.approx(waited)
        assert (caught.value.queue_size, caught.value.queue_capacity) == (1, 1)
        assert queue.metrics["backpressure_events"] == 1
        assert queue.unprocessed == [1]


async def test_submit_waits_for_room() -> None:
    async with WorkQueue[int](1) as queue:
        await queue.put(1)
        submitting = asyncio.create_task(queue.submit(2, timeout=math.inf))
        await settle()
        assert queue.get_nowait() == 1
        future = await submitting
        await queue.process(double)
        assert await future == 4


async def test_a_submit_cancelled_while_it_waits_leaves_nothing() -> None:
    async with WorkQueue[int](1) as queue:
        await queue.put(1)
        submitting = asyncio.create_task(queue.submit(2, timeout=math.inf))
        await settle()
        submitting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await submitting
        assert queue.unprocessed == [1]


async def test_cancelling_the_future_of_an_item_that_waits_skips_the_item() -> None:
    worker = Worker(held=True)
    async with WorkQueue[int]() as queue:
        await queue.process(worker)
        futures = [await queue.submit(item) for item in range(3)]
        await settle()
        assert futures[1].cancel()
        assert queue.unprocessed == [2]
        worker.may_go_on.set()
        await queue.join()
        assert worker.began == [0, 2]
        assert queue.metrics == {
            "enqueued": 3,
            "processed": 3,
            "errors": 0,
            "backpressure_events": 0,
        }


async def test_cancelling_the_future_of_an_item_that_runs_lets_it_run() -> None:
    worker = Worker(held=True)
    async with WorkQueue[int]() as queue:
        await queue.process(worker)
        future = await queue.submit(1)
        await settle()
        future.cancel()
        await settle()
        assert queue.worker_count == 1
        assert queue.metrics["processed"] == 0
        worker.may_go_on.set()
        await queue.join()
        assert queue.metrics["processed"] == 1
        assert queue.metrics["errors"] == 0


async def test_an_error_whose_future_was_cancelled_goes_to_the_error_handler() -> None:
    async def fails(item: int) -> None:
        await asyncio.sleep(1)
        raise KeyError("lost")

    handler = AsyncMock()
    async with WorkQueue[int]() as queue:
        await queue.process(fails, error_handler=handler)
        future = await queue.submit(1)
        await settle()
        future.cancel()
        await queue.join()
    assert isinstance(handler.await_args.args[0], KeyError)


async def test_whoever_awaits_a_future_and_is_cancelled_cancels_the_item_that_waits() -> None:
    seen = AsyncMock()

    async def caller(queue: WorkQueue[int]) -> None:
        await (await queue.submit(1))

    async with WorkQueue[int]() as queue:
        calling = asyncio.create_task(caller(queue))
        await settle()
        calling.cancel()
        await settle()
        await queue.process(seen)
        await queue.join()
    seen.assert_not_awaited()


@pytest.mark.parametrize("workers", [True, False])
async def test_futures_fail_when_the_queue_stops_before_their_items_are_done(
    workers: bool,
) -> None:
    queue: WorkQueue[int] = WorkQueue()
    await queue.start()
    if workers:
        await queue.process(Worker(held=True))
    futures = [await queue.submit(item) for item in range(3)]
    await settle()
    assert await queue.stop(timeout=0) is False
    for future in futures:
        with pytest.raises(QueueStateError, match="stopped before the item was processed"):
            await future
    assert queue.unprocessed == [0, 1, 2]


async def test_the_item_of_a_future_that_failed_by_a_stop_is_taken_up_again() -> None:
    seen = AsyncMock()
    queue: WorkQueue[int] = WorkQueue()
    await queue.start()
    future = await queue.submit(1)
    await queue.stop()
    assert isinstance(future.exception(), QueueStateError)
    await queue.process(seen)
    await queue.join()
    seen.assert_awaited_once_with(1)
    assert await queue.stop() is True


async def test_a_stop_with_nothing_left_but_cancelled_items_left_nothing() -> None:
    queue: WorkQueue[int] = WorkQueue(2)
    await queue.start()
    joined = [(await queue.submit(item)).cancel() for item in range(2)]
    assert joined == [True, True]
    assert queue.unprocessed == []
    assert await queue.stop() is True
    assert queue.size == 0
    await queue.join()
    assert queue.metrics["processed"] == 2


async def test_a_stop_that_drops_cancelled_items_in_hand_left_nothing() -> None:
    queue: WorkQueue[int] = WorkQueue()
    await queue.process(Worker(held=True))
    future = await queue.submit(1)
    await settle()
    future.cancel()
    assert await queue.stop(timeout=0) is True
    assert queue.unprocessed == []


async def test_stop_workers_drops_the_items_that_nobody_waits_for() -> None:
    async with WorkQueue[int](2) as queue:
        await queue.process(Worker(held=True))
        futures = [await queue.submit(item) for item in range(3)]
        await settle()
        waiting = asyncio.create_task(queue.put(3, timeout=math.inf))
        await settle()
        futures[1].cancel()
        await queue.queue.stop_workers(timeout=0)
        assert await waiting is True, "its place went to the one who waited"
        assert queue.unprocessed == [0, 2, 3]
        futures[0].cancel()
        futures[2].cancel()


async def test_get_passes_over_items_that_nobody_waits_for() -> None:
    async with WorkQueue[int]() as queue:
        (await queue.submit(1)).cancel()
        await queue.put(2)
        assert queue.get_nowait() == 2
        queue.task_done()
        await queue.join()


async def test_an_item_taken_by_get_has_no_result() -> None:
    async with WorkQueue[int]() as queue:
        future = await queue.submit(1)
        assert await queue.get() == 1
        with pytest.raises(QueueStateError, match="no result"):
            await future
        queue.task_done()


async def test_an_item_taken_by_processing_has_the_outcome_of_the_block() -> None:
    async with WorkQueue[int]() as queue:
        good, bad = await queue.submit(1), await queue.submit(2)
        async with queue.queue.processing():
            pass
        with pytest.raises(KeyError):
            async with queue.queue.processing():
                raise KeyError
        assert await good is None
        with pytest.raises(KeyError):
            await bad


async def test_an_item_handed_back_keeps_its_future() -> None:
    async with WorkQueue[int]() as queue:
        await queue.process(Worker(held=True))
        future = await queue.submit(21)
        await settle()
        await queue.queue.stop_workers(timeout=0)
        assert not future.done()
        await queue.process(double)
        assert await future == 42


async def test_a_result_that_comes_after_the_stop_is_dropped() -> None:
    let_go = asyncio.Event()

    async def stubborn(item: int) -> str:
        while not let_go.is_set():
            with suppress(asyncio.CancelledError):
                await let_go.wait()
        return "late"

    queue: WorkQueue[int] = WorkQueue()
    await queue.process(stubborn)
    future = await queue.submit(1)
    await settle()
    await queue.stop(timeout=0)
    let_go.set()
    await settle()
    with pytest.raises(QueueStateError):
        await future


# -- map: what comes out --------------------------------------------------------------------------


@pytest.mark.parametrize("workers", [1, 3, 20])
async def test_map_gives_results_in_the_order_of_the_items(workers: int) -> None:
    async def slow_first(item: int) -> int:
        await asyncio.sleep(10 - item)
        return item * 2

    queue: WorkQueue[int] = WorkQueue(3)
    results = [result async for result in queue.map(slow_first, range(10), num_workers=workers)]
    assert results == [0, 2, 4, 6, 8, 10, 12, 14, 16, 18]
    assert queue.status is STOPPED


async def test_map_gives_results_as_they_come_if_order_does_not_matter() -> None:
    async def slow_first(item: int) -> int:
        await asyncio.sleep(10 - item)
        return item

    queue: WorkQueue[int] = WorkQueue()
    unordered = queue.map(slow_first, range(4), num_workers=4, ordered=False)
    arrivals = [(result, now()) async for result in unordered]
    assert [result for result, _ in arrivals] == [3, 2, 1, 0]
    assert [at - arrivals[0][1] for _, at in arrivals] == pytest.approx([0, 1, 2, 3])


async def test_map_gives_each_result_as_soon_as_it_is_there() -> None:
    begun = now()
    arrivals = [now() - begun async for _ in WorkQueue[int]().map(double, range(4))]
    assert arrivals == pytest.approx([1, 2, 3, 4])


async def test_map_takes_plain_functions() -> None:
    results = [r async for r in WorkQueue[int]().map(lambda item: item * 2, range(5))]
    assert results == [0, 2, 4, 6, 8]


@pytest.mark.parametrize("ordered", [True, False])
async def test_map_over_nothing_gives_nothing(ordered: bool) -> None:
    queue: WorkQueue[int] = WorkQueue()
    assert [r async for r in queue.map(double, [], ordered=ordered)] == []
    assert queue.status is STOPPED


async def test_map_takes_any_iterable_and_any_async_iterable() -> None:
    async def source() -> AsyncIterator[int]:
        for item in range(3):
            await asyncio.sleep(1)
            yield item

    class Source:
        def __aiter__(self) -> AsyncIterator[int]:
            return source()

    for items in (range(3), [0, 1, 2], iter([0, 1, 2]), (i for i in range(3)), {0: 1, 1: 1, 2: 1}):
        assert [r async for r in WorkQueue[int]().map(double, items)] == [0, 2, 4]
    for async_items in (source(), Source()):
        assert [r async for r in WorkQueue[int]().map(double, async_items)] == [0, 2, 4]


async def test_results_may_be_none_or_exceptions_or_awaitables() -> None:
    future = asyncio.get_running_loop().create_future()
    for value in (None, ValueError("as a value"), future):
        results = [r async for r in WorkQueue[int]().map(AsyncMock(return_value=value), [1])]
        assert results == [value]


# -- map: errors ----------------------------------------------------------------------------------


async def fussy(item: int) -> int:
    await asyncio.sleep(1)
    if item == 2:
        raise ValueError(item)
    return item


@pytest.mark.parametrize("ordered", [True, False])
async def test_the_first_exception_comes_out_of_map_and_ends_all(ordered: bool) -> None:
    queue: WorkQueue[int] = WorkQueue()
    results = []

    async def read() -> None:
        async for result in queue.map(fussy, range(10), ordered=ordered):
            results.append(result)  # noqa: PERF401

    with pytest.raises(ValueError, match="2"):
        await read()
    assert results == [0, 1]
    assert queue.status is STOPPED
    assert queue.worker_count == 0
    assert queue.unprocessed == []


@pytest.mark.parametrize("ordered", [True, False])
async def test_map_gives_exceptions_as_results_if_asked_to(ordered: bool) -> None:
    queue: WorkQueue[int] = WorkQueue()
    results = [
        result
        async for result in queue.map(fussy, range(4), ordered=ordered, return_exceptions=True)
    ]
    assert results[:2] + results[3:] == [0, 1, 3]
    assert isinstance(results[2], ValueError)


async def test_an_item_that_cancels_itself_is_an_exception_among_the_results() -> None:
    async def cancels_itself(item: int) -> int:
        if item:
            raise asyncio.CancelledError
        return item

    results = [
        result
        async for result in WorkQueue[int]().map(cancels_itself, range(2), return_exceptions=True)
    ]
    assert results[0] == 0
    assert isinstance(results[1], asyncio.CancelledError)


async def test_an_item_that_cancels_itself_ends_map() -> None:
    async def cancels_itself(item: int) -> int:
        raise asyncio.CancelledError

    queue: WorkQueue[int] = WorkQueue()
    with pytest.raises(asyncio.CancelledError):
        await anext(queue.map(cancels_itself, range(2)))
    assert queue.status is STOPPED


@pytest.mark.parametrize("ordered", [True, False])
async def test_items_that_fail_to_come_raise_after_the_results_of_those_that_came(
    ordered: bool,
) -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the file ends here")

    queue: WorkQueue[int] = WorkQueue()
    results = []

    async def read() -> None:
        async for result in queue.map(double, source(), ordered=ordered):
            results.append(result)  # noqa: PERF401

    with pytest.raises(OSError, match="the file ends here"):
        await read()
    assert results == [2, 4]
    assert queue.status is STOPPED


async def test_async_items_that_fail_to_come_raise_too() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(5)
        raise OSError("connection lost")

    with pytest.raises(OSError, match="connection lost"):
        assert [r async for r in WorkQueue[int]().map(double, source())] == []


async def test_map_says_so_when_the_queue_is_stopped_under_it() -> None:
    queue: WorkQueue[int] = WorkQueue()
    results = []

    async def read() -> None:
        async for result in queue.map(double, range(100)):
            results.append(result)
            if len(results) == 3:
                await queue.stop(timeout=0)

    with pytest.raises(QueueStateError):
        await read()
    assert results == [0, 2, 4]
    assert queue.status is STOPPED


# -- map: bounded at both ends --------------------------------------------------------------------


def counted(limit: float = math.inf) -> tuple[Iterator[int], Callable[[], int]]:
    """Numbers, and a function that tells how many were read."""
    read = 0

    def numbers() -> Iterator[int]:
        nonlocal read
        while read < limit:
            read += 1
            yield read - 1

    return numbers(), lambda: read


@pytest.mark.parametrize("ordered", [True, False])
@pytest.mark.parametrize(("maxsize", "workers"), [(1, 1), (1, 4), (5, 1), (5, 3)])
async def test_a_slow_reader_slows_the_reading_of_items_down(
    maxsize: int, workers: int, ordered: bool
) -> None:
    items, read = counted()
    queue: WorkQueue[int] = WorkQueue(maxsize)
    ahead = []
    async with aclosing(
        queue.map(AsyncMock(), items, num_workers=workers, ordered=ordered)
    ) as results:
        for taken in range(8):
            await anext(results)
            await asyncio.sleep(100)
            ahead.append(read() - taken)  # the result in hand counts: it is not dealt with yet
    assert max(ahead) == maxsize + workers


async def test_map_reads_nothing_before_it_is_iterated() -> None:
    items, read = counted()
    queue: WorkQueue[int] = WorkQueue()
    results = queue.map(double, items)
    await settle()
    assert read() == 0
    assert queue.status is IDLE
    await results.aclose()


async def test_map_can_go_on_for_ever() -> None:
    items, _ = counted()
    queue: WorkQueue[int] = WorkQueue(2)
    total = 0
    async with aclosing(queue.map(double, items)) as results:
        async for result in results:
            total += result
            if result >= 1000:
                break
    assert total == 250500


async def test_slow_items_do_not_delay_the_results_of_those_that_came() -> None:
    async def source() -> AsyncIterator[int]:
        for item in range(3):
            yield item
            await asyncio.sleep(10)

    begun = now()
    arrivals = [now() - begun async for _ in WorkQueue[int]().map(double, source())]
    assert arrivals == pytest.approx([1, 11, 21])


# -- map: its end ---------------------------------------------------------------------------------


@pytest.mark.parametrize("ordered", [True, False])
async def test_breaking_out_of_map_stops_everything_it_started(ordered: bool) -> None:
    queue: WorkQueue[int] = WorkQueue()
    before = asyncio.all_tasks()
    async with aclosing(queue.map(double, range(100), num_workers=3, ordered=ordered)) as results:
        async for _ in results:
            break
    assert queue.status is STOPPED
    assert queue.worker_count == 0
    assert queue.unprocessed == [], "nobody waits for the rest"
    assert asyncio.all_tasks() == before


async def test_breaking_out_without_closing_stops_everything_a_moment_later() -> None:
    queue: WorkQueue[int] = WorkQueue()
    before = asyncio.all_tasks()
    async for _ in queue.map(double, range(100), num_workers=3):
        break
    gc.collect()
    await settle()
    assert queue.status is STOPPED
    assert asyncio.all_tasks() == before


async def test_cancelling_the_reader_of_map_stops_everything_it_started() -> None:
    queue: WorkQueue[int] = WorkQueue()
    worker = Worker(held=True)

    async def read() -> None:
        async with aclosing(queue.map(worker, range(100), num_workers=3)) as results:
            async for _ in results:
                pytest.fail("nothing was let through")

    before = asyncio.all_tasks()
    reading = asyncio.create_task(read())
    await settle()
    assert worker.began == [0, 1, 2]
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert queue.status is STOPPED
    assert queue.unprocessed == []
    assert asyncio.all_tasks() == before


def test_a_map_still_open_at_the_end_of_asyncio_run_is_closed_there(
    caplog: pytest.LogCaptureFixture,
) -> None:
    kept: list[Any] = []

    async def main() -> None:
        queue: WorkQueue[int] = WorkQueue()
        results = queue.map(AsyncMock(), range(100))
        await anext(results)
        kept.extend([queue, results])

    asyncio.run(main())
    assert caplog.text == ""
    queue, _ = kept
    assert (queue.status, queue.worker_count) == (STOPPED, 0)


class Rows:
    """Iterating over it makes an async generator, which is kept: nothing closes it by chance."""

    def __init__(self) -> None:
        self.made: list[AsyncIterator[int]] = []
        self.closed = 0

    def __aiter__(self) -> AsyncIterator[int]:
        self.made.append(self.read())
        return self.made[-1]

    async def read(self) -> AsyncIterator[int]:
        try:
            for item in range(100):
                yield item
        finally:
            await asyncio.sleep(1)  # as closing a file or a connection may
            self.closed += 1


@pytest.mark.parametrize("make_items", [Rows.__aiter__, lambda rows: rows], ids=["it", "its own"])
async def test_map_closes_the_async_generator_that_it_does_not_read_to_its_end(
    make_items: Callable[[Rows], Any],
) -> None:
    rows = Rows()
    async with aclosing(WorkQueue[int](1).map(double, make_items(rows))) as results:
        await anext(results)
        assert rows.closed == 0
    assert rows.closed == 1


async def test_map_leaves_open_what_is_no_generator() -> None:
    class Stream:
        closed = False

        def __aiter__(self) -> AsyncIterator[int]:
            return self

        async def __anext__(self) -> int:
            return 1

        async def aclose(self) -> None:
            self.closed = True

    stream = Stream()
    async with aclosing(WorkQueue[int](1).map(double, stream)) as results:
        await anext(results)
    assert not stream.closed


async def test_a_source_that_broke_is_no_news_to_a_reader_that_broke_off_before() -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))

    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the file ends here")

    async with aclosing(WorkQueue[int]().map(AsyncMock(), source())) as results:
        await anext(results)
        await asyncio.sleep(10)
    gc.collect()
    await settle()
    assert complaints == []


async def test_map_on_a_running_queue_leaves_it_running() -> None:
    async with WorkQueue[int](concurrency_limit=2) as queue:
        assert [r async for r in queue.map(double, range(3))] == [0, 2, 4]
        assert queue.status is PROCESSING
        assert queue.worker_count == 0, "its own workers are gone"
        assert await queue.put(1)
        queue.get_nowait()
        queue.task_done()


async def test_map_on_a_queue_that_has_workers_has_them_do_the_work() -> None:
    usual = AsyncMock(return_value="usual")
    async with WorkQueue[int]() as queue:
        await queue.process(usual, 2)
        await queue.put(-1)
        results = [r async for r in queue.map(double, range(3))]
        assert results == [0, 2, 4]
        assert queue.worker_count == 2
        assert queue.status is PROCESSING
        assert await (await queue.submit(-2)) == "usual"
    assert [call.args[0] for call in usual.await_args_list] == [-1, -2]


async def test_map_runs_plain_functions_on_a_queue_that_has_workers() -> None:
    async with WorkQueue[int]() as queue:
        await queue.process(AsyncMock(), 2)
        threads = {t async for t in queue.map(lambda item: threading.get_ident(), range(4))}
    assert threading.get_ident() not in threads


async def test_breaking_out_of_map_on_borrowed_workers_skips_what_waits_and_leaves_them() -> None:
    seen = []

    async def slow(item: int) -> int:
        seen.append(item)
        await asyncio.sleep(1)
        return item

    usual = AsyncMock()
    async with WorkQueue[int](10) as queue:
        await queue.process(usual, 1)
        async with aclosing(queue.map(slow, range(100))) as results:
            assert await anext(results) == 0
        await queue.put(-1)
        await queue.join()
        assert queue.worker_count == 1
        assert queue.metrics["errors"] == 0
        assert seen == [0, 1], "the one under way is finished, the rest is skipped"
    usual.assert_awaited_once_with(-1)


async def test_two_maps_at_once_share_a_queue_that_has_workers() -> None:
    async def triple(item: int) -> int:
        await asyncio.sleep(1)
        return item * 3

    async def collect(results: AsyncIterator[int]) -> list[int]:
        return [result async for result in results]

    async with WorkQueue[int](2) as queue:
        await queue.process(AsyncMock(), 2)
        doubled, tripled = await asyncio.gather(
            collect(queue.map(double, range(5))), collect(queue.map(triple, range(5)))
        )
    assert doubled == [0, 2, 4, 6, 8]
    assert tripled == [0, 3, 6, 9, 12]


async def test_map_after_map_on_the_same_queue_works() -> None:
    queue: WorkQueue[int] = WorkQueue()
    for _ in range(3):
        assert [r async for r in queue.map(double, range(3))] == [0, 2, 4]


@pytest.mark.parametrize(("told", "expected"), [(None, 2), (1, 1), (3, 3)])
async def test_map_has_no_more_in_hand_than_it_asks_for(told: int | None, expected: int) -> None:
    """Beside other workers it asks for as many as these by default."""
    in_hand = most = 0

    async def work(item: int) -> None:
        nonlocal in_hand, most
        in_hand += 1
        most = max(most, in_hand)
        await asyncio.sleep(1)
        in_hand -= 1

    async with WorkQueue[int]() as queue:
        await queue.process(AsyncMock(), 2)
        assert len([r async for r in queue.map(work, range(9), num_workers=told)]) == 9
        assert queue.worker_count == 2
    assert most == expected


async def test_map_has_as_many_workers_as_it_is_told_and_the_queue_allows() -> None:
    wide = AdaptiveConcurrency(2, 4)
    cases = [(None, None, 1), (3, None, 3), (3, 2, 2), (3, 5, 3), (None, 5, 5), (wide, 5, 4)]
    for limit, told, expected in cases:
        queue: WorkQueue[int] = WorkQueue(concurrency_limit=limit)
        async with aclosing(queue.map(double, range(20), num_workers=told)) as results:
            await anext(results)
            assert queue.worker_count == expected


async def test_items_of_map_run_in_the_context_of_its_reader() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def worker(item: int) -> str:
        return variable.get()

    variable.set("reader")
    assert [r async for r in WorkQueue[int]().map(worker, range(2))] == ["reader"] * 2


async def test_map_starts_a_queue_that_is_just_stopping() -> None:
    worker = Worker(held=True)
    queue: WorkQueue[int] = WorkQueue()
    await queue.process(worker)
    await queue.put(-1)
    await settle()
    stopping = asyncio.create_task(queue.stop())
    await settle()
    results = asyncio.create_task(collect_all(queue.map(double, range(2))))
    await settle()
    worker.may_go_on.set()
    assert await stopping is True
    assert await results == [0, 2]
    assert queue.status is STOPPED


async def collect_all(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


async def test_a_map_that_is_collected_with_a_cycle_is_closed_without_a_complaint() -> None:
    complaints = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _, context: complaints.append(context["message"]))

    async def leave(queue: WorkQueue[int]) -> None:
        results = queue.map(str, range(100))
        cycle: list[Any] = [results]
        cycle.append(cycle)
        assert await anext(results) == "0"

    async with WorkQueue[int](2) as queue:
        await leave(queue)
        gc.collect()
        await settle()
        assert queue.statistics().unfinished == 0
    assert complaints == []


async def test_an_item_that_fails_after_its_map_has_ended_gets_no_other_attempt() -> None:
    calls = []

    async def fails_late(item: int) -> int:
        calls.append(item)
        if item:
            try:
                await asyncio.sleep(10)
            finally:
                raise OSError("as it was cancelled")
        return item

    policy = RetryPolicy(3, backoff=lambda attempt, error: 1.0, budget=None)
    async with WorkQueue[int](5, retry=policy) as queue:
        async with aclosing(queue.map(fails_late, range(3), num_workers=2)) as results:
            assert await anext(results) == 0
            await asyncio.sleep(1)
        assert queue.statistics().retrying == queue.statistics().unfinished == 0
        await asyncio.sleep(5)
    assert calls == [0, 1, 2]
    assert queue.dead_letters == []
