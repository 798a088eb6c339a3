"""Several jobs on one queue: each has its own function, items and number of workers."""

from __future__ import annotations

import asyncio
import gc
import weakref
from collections.abc import AsyncIterator, Iterator
from contextlib import aclosing
from contextvars import ContextVar
from typing import Any

import pytest

from contract.conftest import BLOCKING, WORK_QUEUES, Kind
from contract.helpers import MakeQueue, a_while
from helpers.queues import put_all
from helpers.tasks import until
from helpers.versions import FROM_3_11
from helpers.workers import Worker
from penstock import Backoff, QueueStateError, RetryPolicy

pytestmark = pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)


held: ContextVar[object] = ContextVar("held")


def named(name: str) -> Any:
    async def work(item: int) -> tuple[str, int]:
        await asyncio.sleep(0)
        return name, item

    return work


async def results_of(results: AsyncIterator[Any]) -> list[Any]:
    return [result async for result in results]


class Crowd(Worker):
    """A worker that notes how many calls were under way at once, at most."""

    def __init__(self, *, held: bool = False) -> None:
        super().__init__(held=held)
        self.most = 0

    async def __call__(self, item: Any) -> Any:
        self.most = max(self.most, len(self.began) + 1 - len(self.done))
        return await super().__call__(item)


class TestSeveralJobs:
    async def test_each_gets_the_results_of_its_own_function(self, make_queue: MakeQueue) -> None:
        queue = make_queue(maxsize=3)
        found = await asyncio.gather(
            *(
                results_of(queue.map(named(name), range(20), num_workers=workers))
                for name, workers in (("a", 1), ("b", 2), ("c", 4))
            )
        )
        assert found == [[(name, item) for item in range(20)] for name in "abc"]
        assert queue.status == "stopped"
        assert queue.worker_count == 0

    async def test_the_first_to_end_leaves_the_others_theirs(self, make_queue: MakeQueue) -> None:
        queue = make_queue(maxsize=5)
        short, long = Worker(held=True), Worker(held=True)
        shorter = asyncio.create_task(queue.batch_process(range(2), short, 2))
        await until(lambda: len(short.began) == 2)
        longer = asyncio.create_task(queue.batch_process(range(9), long, 2))
        await until(lambda: queue.statistics().waiting_putters == 1)
        short.may_go_on.set()
        assert (await shorter).processed == 2
        assert queue.status == "processing"
        long.may_go_on.set()
        assert (await longer).processed == 9
        assert sorted(long.done) == list(range(9))
        assert queue.status == "stopped"

    async def test_process_meanwhile_has_no_part_in_them(self, make_queue: MakeQueue) -> None:
        queue = make_queue(maxsize=3)
        usual = Worker()
        found = []
        async with aclosing(queue.map(named("map"), range(20), num_workers=2)) as results:
            async for result in results:
                found.append(result)
                if len(found) == 5:
                    await queue.process(usual, 2)
                    assert await queue.put("own", timeout=60)
        assert found == [("map", item) for item in range(20)]
        await queue.join()
        assert usual.done == ["own"]
        assert queue.status == "processing"
        assert queue.worker_count == 2

    async def test_the_most_that_waited_at_once_is_that_of_all_jobs_together(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue(maxsize=9)
        jobs = [Worker(held=True), Worker(held=True)]
        batches = []
        for number, job in enumerate(jobs):
            batches.append(asyncio.create_task(queue.batch_process(range(3), job, 1)))
            await until(lambda seen=number: queue.statistics().enqueued == 3 * (seen + 1))
        await until(lambda: queue.statistics().inflight == 1)
        await put_all(queue, "own", "and another")
        assert queue.statistics().peak_size == queue.size == 7
        for job in jobs:
            job.may_go_on.set()
        await asyncio.gather(*batches)
        assert queue.statistics().peak_size == 7
        await put_all(queue, *range(5))
        assert queue.statistics().peak_size == queue.size == 7
        await put_all(queue, "one more")
        assert queue.statistics().peak_size == queue.size == 8

    @pytest.mark.parametrize(("usual", "own", "workers"), [(2, 1, 2), (1, 3, 3), (2, 2, 2)])
    async def test_none_has_more_in_hand_than_it_asked_for(
        self, make_queue: MakeQueue, usual: int, own: int, workers: int
    ) -> None:
        queue = make_queue()
        standing, job = Crowd(held=True), Crowd(held=True)
        await queue.process(standing, usual)
        await put_all(queue, *range(5))
        await until(lambda: len(standing.began) == usual)
        batch = asyncio.create_task(queue.batch_process(range(5), job, own))
        await until(lambda: queue.statistics().enqueued == 10)
        await until(lambda: len(standing.began) + len(job.began) == workers)
        await a_while()
        assert len(standing.began) == usual
        assert len(job.began) == workers - usual
        assert queue.worker_count == workers
        standing.may_go_on.set()
        await until(lambda: len(job.began) == own)
        job.may_go_on.set()
        assert (await batch).processed == 5
        await queue.join()
        assert standing.most <= usual
        assert job.most <= own
        assert queue.worker_count == usual

    async def test_one_at_its_number_holds_up_no_other(self, make_queue: MakeQueue) -> None:
        queue = make_queue(maxsize=10)
        slow = Worker(held=True)
        first = asyncio.create_task(queue.batch_process(range(8), slow, 1))
        await until(lambda: queue.statistics().enqueued == 8)
        second = await queue.batch_process(range(30), named("quick"), 2)
        assert second.processed == 30
        assert slow.done == []
        slow.may_go_on.set()
        assert (await first).processed == 8

    async def test_stop_workers_ends_the_standing_one_alone(self, make_queue: MakeQueue) -> None:
        queue = make_queue(maxsize=10)
        usual, job = Worker(), Worker(held=True)
        await queue.process(usual, 2)
        batch = asyncio.create_task(queue.batch_process(range(5), job, 1))
        await until(lambda: len(job.began) == 1)
        await (queue.queue if hasattr(queue, "queue") else queue).stop_workers()
        await put_all(queue, "later")
        job.may_go_on.set()
        assert (await batch).processed == 5
        assert usual.done == []
        assert queue.unprocessed == ["later"]
        await queue.process(usual)
        await queue.join()
        assert usual.done == ["later"]


class TestTheEndOfAJob:
    @pytest.mark.parametrize("use", ["start", "process", "put"])
    async def test_a_queue_that_was_used_meanwhile_goes_on(
        self, make_queue: MakeQueue, use: str
    ) -> None:
        queue = make_queue()
        worker = Worker(held=True)
        batch = asyncio.create_task(queue.batch_process([1], worker))
        await until(lambda: worker.began == [1])
        await getattr(queue, use)(*{"start": (), "process": (print,), "put": (2,)}[use])
        worker.may_go_on.set()
        await batch
        assert queue.status == "processing"
        assert queue.unprocessed == ([2] if use == "put" else [])

    async def test_a_break_takes_back_what_is_not_done(
        self, make_queue: MakeQueue, cancellable_workers: None
    ) -> None:
        queue = make_queue(maxsize=5)
        await queue.start()
        held = Worker(held=True)
        other = Worker()
        read = []

        def source() -> Iterator[int]:
            for item in range(100):
                read.append(item)
                yield item

        async def work(item: int) -> Any:
            if item:
                return await held(item)
            await until(lambda: len(read) > 3)  # a blocking map puts none while a result is used
            return item

        async with aclosing(queue.map(work, source(), num_workers=2)) as results:
            async for result in results:
                assert result == 0
                await until(lambda: len(held.began) == 2)
                break
        assert queue.unprocessed == []
        assert queue.statistics().unfinished == 0
        assert (await queue.batch_process(range(3), other)).processed == 3
        assert other.done == [0, 1, 2]
        assert len(held.began) == 2
        assert held.done == []

    async def test_what_waits_for_its_next_attempt_is_taken_back_too(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue(
            maxsize=5, retry=RetryPolicy(attempts=3, backoff=Backoff(3600, max=3600))
        )
        done = Worker(held=True)

        async def work(item: int) -> Any:
            if item:
                raise OSError(item)
            return await done(item)

        stream = queue.map(work, [0, 1, 2], num_workers=3, ordered=False)
        async with aclosing(stream) as results:
            reading = asyncio.ensure_future(anext(results))
            await until(lambda: queue.statistics().retrying == 2)
            done.may_go_on.set()
            assert await reading == 0
        assert queue.statistics().retrying == queue.statistics().unfinished == 0
        assert queue.dead_letters == []
        assert queue.status == "stopped"

    async def test_a_source_that_breaks_does_so_after_the_results_of_what_came(
        self, make_queue: MakeQueue
    ) -> None:
        def items() -> Iterator[int]:
            yield from range(6)
            raise KeyError("the source breaks")

        found: list[Any] = []

        async def read() -> None:
            async for result in make_queue(maxsize=10).map(named("map"), items()):
                found.append(result)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(KeyError, match="the source breaks"):
            await read()
        assert found == [("map", item) for item in range(6)]


class TestAStopBySomebodyElse:
    async def test_what_was_accepted_is_done_first(self, make_queue: MakeQueue) -> None:
        queue = make_queue(maxsize=3)
        worker, batch_worker = Worker(held=True), Worker(held=True)
        found: list[Any] = []

        async def read() -> None:
            async for result in queue.map(worker, range(100)):
                found.append(result)  # noqa: PERF401 - what came before the error counts

        reading = asyncio.create_task(read())
        await until(lambda: worker.began == [0])
        batch = asyncio.create_task(queue.batch_process(range(100), batch_worker))
        await until(lambda: queue.statistics().waiting_putters >= 1)
        accepted = queue.metrics["enqueued"]
        stopping = asyncio.create_task(queue.stop(timeout=60))
        await until(lambda: queue.status == "stopping")
        worker.may_go_on.set()
        batch_worker.may_go_on.set()
        assert await stopping is True
        for task in (reading, batch):
            with pytest.raises(QueueStateError):
                await task
        assert found == worker.done
        assert len(worker.done) + len(batch_worker.done) == accepted

    @FROM_3_11
    async def test_the_error_says_that_it_was_stopped_and_how_far_it_was(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue(maxsize=3)
        worker = Worker(held=True)
        batch = asyncio.create_task(queue.batch_process(range(100), worker))
        await until(lambda: queue.statistics().waiting_putters == 1)
        # Not at once: a map that filled the queue alone would wait for its results, and not put.
        mapped = asyncio.create_task(results_of(queue.map(worker, range(100))))
        await until(lambda: queue.statistics().waiting_putters == 2)
        stopping = asyncio.create_task(queue.stop(timeout=60))
        await until(lambda: queue.status == "stopping")
        worker.may_go_on.set()
        await stopping
        put = 0
        for job in (batch, mapped):
            with pytest.raises(QueueStateError) as caught:
                await job
            (note,) = caught.value.__notes__
            assert note.startswith("penstock: the queue was stopped or closed before this map or")
            put += int(note.split()[-1])
        assert put == queue.metrics["enqueued"]

    async def test_what_it_leaves_is_handed_back_and_belongs_to_nobody(
        self, make_queue: MakeQueue, cancellable_workers: None
    ) -> None:
        queue = make_queue(maxsize=3)
        worker = Worker(held=True)
        batch = asyncio.create_task(queue.batch_process(range(100), worker))
        await until(lambda: queue.statistics().waiting_putters == 1 and worker.began == [0])
        assert await queue.stop(timeout=0) is False
        with pytest.raises(QueueStateError):
            await batch
        assert queue.unprocessed == [0, 1, 2, 3]
        other = Worker()
        await queue.process(other)
        await queue.join()
        assert other.done == [0, 1, 2, 3]
        assert worker.done == []

    async def test_a_job_that_was_stopped_is_over_though_the_queue_was_started_again(
        self, make_queue: MakeQueue
    ) -> None:
        queue = make_queue(maxsize=3)
        worker, other = Worker(), Worker()
        has_begun, is_restarted = asyncio.Event(), asyncio.Event()

        async def read() -> None:
            async for _ in queue.map(worker, range(100)):
                has_begun.set()
                await is_restarted.wait()

        reading = asyncio.create_task(read())
        await has_begun.wait()
        await queue.stop(timeout=60)
        await queue.process(other)
        is_restarted.set()
        with pytest.raises(QueueStateError):
            await asyncio.wait_for(reading, 60)
        done = [*worker.done]
        await queue.join()
        assert queue.unprocessed == []
        assert worker.done == done
        assert other.done == []


class TestBatchResult:
    async def test_it_counts_its_own_items(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        handled: list[Any] = []

        async def half(item: int) -> float:
            if item == 3:
                raise KeyError(item)
            return 1 / (item % 2)

        await queue.process(named("usual"))
        await put_all(queue, "own")
        result = await queue.batch_process(
            range(6), half, 1, lambda exc, item: handled.append(item)
        )
        assert (result.processed, result.failed, result.dead_letters) == (6, 4, 0)
        assert [type(error) for error in result.errors] == [ZeroDivisionError, KeyError]
        assert sorted(handled) == [0, 2, 3, 4]
        with pytest.raises(Exception, match="4 of 6 items failed; the first error: ZeroDivision"):
            result.raise_if_failed()

    async def test_a_batch_that_went_well(self, make_queue: MakeQueue) -> None:
        result = await make_queue().batch_process(range(6), named("well"), 3)
        assert (result.processed, result.failed, result.errors) == (6, 0, ())
        result.raise_if_failed()

    async def test_dead_letters_are_counted(self, make_queue: MakeQueue) -> None:
        queue = make_queue(retry=RetryPolicy(attempts=2, backoff=Backoff(0)))
        worker = Worker()
        worker.failures = [OSError(), OSError()]
        result = await queue.batch_process(["a", "b"], worker, 1, lambda exc, item: None)
        assert (result.processed, result.failed, result.dead_letters) in {(2, 1, 1), (2, 0, 0)}
        assert result.dead_letters == len(queue.dead_letters)


@pytest.mark.parametrize("workers", [1, 2])
class TestAJobInsideAnItem:
    """Its worker waits for it, and one more worker does its work meanwhile."""

    @pytest.fixture(autouse=True)
    def can_wait(self, kind: Kind) -> None:
        if kind is BLOCKING:
            pytest.skip("a blocking call in an event loop is refused")

    async def test_a_map(self, make_queue: MakeQueue, workers: int) -> None:
        queue = make_queue(maxsize=2)

        async def work(item: int) -> int:
            return sum(await results_of(queue.map(double, range(item), num_workers=1)))

        async def double(item: int) -> int:
            await asyncio.sleep(0)
            return 2 * item

        found = await results_of(queue.map(work, range(8), num_workers=workers))
        assert found == [item * (item - 1) for item in range(8)]
        assert queue.status == "stopped"

    async def test_a_batch(self, make_queue: MakeQueue, workers: int) -> None:
        queue = make_queue(maxsize=2)
        inner = Worker()

        async def work(item: int) -> None:
            await queue.batch_process(range(item), inner, 3)

        await queue.process(work, workers)
        for item in range(5):
            await queue.put(item, timeout=60)
        await queue.join()
        assert len(inner.done) == sum(range(5))
        assert queue.worker_count == workers

    async def test_a_map_that_is_left_ends_the_jobs_inside_its_items_too(
        self, make_queue: MakeQueue, cancellable_workers: None, workers: int
    ) -> None:
        queue = make_queue(maxsize=2)
        inner = Worker(held=True)

        async def work(item: int) -> int:
            if item:
                await queue.batch_process([item], inner)
            return item

        async with aclosing(queue.map(work, range(3), num_workers=workers)) as results:
            async for _ in results:
                await until(lambda: len(inner.began) > 0)
                break
        assert queue.status == "stopped"
        assert queue.worker_count == 0
        assert inner.done == []
        assert queue.unprocessed == []

    async def test_a_stop_that_does_not_drain_waits_for_none_that_waits_for_it(
        self, make_queue: MakeQueue, workers: int
    ) -> None:
        queue = make_queue(maxsize=2)
        inner = Worker(held=True)
        raised: list[BaseException] = []

        async def work(item: int) -> None:
            try:
                await queue.batch_process(range(3), inner, 1)
            except QueueStateError as error:
                raised.append(error)

        await queue.process(work, workers)
        await queue.put(0)
        await until(lambda: len(inner.began) == 1 and queue.statistics().size > 0)
        await asyncio.wait_for(queue.stop(drain=False), 60)
        assert len(raised) == 1
        assert inner.done == []
        assert queue.status == "stopped"


class Heavy:
    """Something that can be looked at weakly."""

    def __init__(self, number: int) -> None:
        self.number = number


class TestNothingIsHeld:
    """Nobody keeps what is done while workers are idle or the reader of results thinks."""

    async def test_no_result_that_was_handed_out(self, make_queue: MakeQueue) -> None:
        seen: list[weakref.ref[Heavy]] = []

        async def work(item: int) -> Heavy:
            return Heavy(item)

        async with aclosing(make_queue().map(work, range(3), num_workers=1)) as results:
            for number in range(3):
                result = await anext(results)
                assert result.number == number
                seen.append(weakref.ref(result))
                del result
                await until(lambda: (gc.collect(), seen[-1]())[1] is None)

    @pytest.mark.parametrize("way", ["put", "submit", "batch", "map"])
    async def test_no_item_of_an_idle_worker(self, make_queue: MakeQueue, way: str) -> None:
        queue = make_queue()
        results: list[weakref.ref[Heavy]] = []

        async def work(item: Heavy) -> Heavy:
            result = Heavy(item.number)
            results.append(weakref.ref(result))
            return result

        await queue.process(work, 2)
        item = Heavy(0)
        seen = weakref.ref(item)
        token = held.set(item)
        if way == "put":
            await queue.put(item)
        elif way == "submit":
            await (await queue.submit(item))
        elif way == "batch":
            await queue.batch_process(iter([item]), work)
        else:
            assert len(await results_of(queue.map(work, iter([item])))) == 1
        held.reset(token)
        del item
        await queue.join()
        await until(lambda: (gc.collect(), seen(), results[0]())[1:] == (None, None))
