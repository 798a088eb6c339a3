"""Batches: worker functions that take several items at once."""

from __future__ import annotations

import asyncio
import math
from contextlib import aclosing
from typing import Any

import pytest

from contract.conftest import WORK_QUEUES
from contract.helpers import InOrder, MakeQueue, a_while, check_that_it_took, quite_a_while
from helpers.logs import SILENT
from helpers.queues import put_all
from helpers.retries import every
from helpers.tasks import now, soon, until
from penstock import DeadlineExceededError, Limit, QueueStateError

pytestmark = pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)


class Bulk:
    """A worker function of batches that notes what it gets, and can be held up or fail."""

    def __init__(self, *, held: bool = False) -> None:
        self.began: list[list[Any]] = []
        self.done: list[list[Any]] = []
        self.times: list[float] = []
        #: Items that make a call fail, each with its error; each so often.
        self.errors: dict[Any, BaseException] = {}
        self.times_left: dict[Any, int] = {}
        #: What a call returns, unless it is None.
        self.outcome: Any = None
        self.may_go_on = asyncio.Event()
        if not held:
            self.may_go_on.set()

    def fail(self, item: Any, error: BaseException, times: int = 1000) -> None:
        self.errors[item] = error
        self.times_left[item] = times

    async def __call__(self, items: list[Any]) -> Any:
        assert isinstance(items, list)
        self.began.append([*items])
        self.times.append(now())
        await self.may_go_on.wait()
        for item in items:
            if self.times_left.get(item, 0):
                self.times_left[item] -= 1
                raise self.errors[item]
        self.done.append([*items])
        return self.outcome(items) if callable(self.outcome) else self.outcome

    @property
    def items(self) -> list[Any]:
        return [item for items in self.done for item in items]


async def doubled(items: list[int]) -> list[int]:
    return [2 * item for item in items]


class TestProcessBatches:
    async def test_as_many_as_there_are_up_to_the_most(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        await queue.start()
        await put_all(queue, *range(10))
        await queue.process_batches(bulk, max_size=4, max_wait=0)
        await soon(queue.join())
        assert bulk.done == [[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]]
        assert queue.metrics["processed"] == 10
        assert queue.metrics["errors"] == 0

    async def test_the_first_item_waits_for_others(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        await queue.process_batches(bulk, max_size=100, max_wait=0.2)
        began = now()
        await put_all(queue, "a")
        await asyncio.sleep(0.05)
        await put_all(queue, "b")
        await until(lambda: bulk.done)
        check_that_it_took(began, 0.2)
        assert bulk.done == [["a", "b"]]

    async def test_a_full_batch_waits_for_nothing(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        await queue.process_batches(bulk, max_size=3, max_wait=math.inf)
        await put_all(queue, 1, 2)
        await quite_a_while()
        assert bulk.began == []
        await put_all(queue, 3)
        await soon(queue.join())
        assert bulk.done == [[1, 2, 3]]

    async def test_what_came_while_all_were_busy_waits_no_longer_than_it_should(
        self, make_queue: MakeQueue
    ) -> None:
        queue, bulk = make_queue(), Bulk(held=True)
        await queue.process_batches(bulk, max_size=2, max_wait=0.2)
        await put_all(queue, "a", "b")
        await until(lambda: bulk.began)
        await put_all(queue, "c")
        await asyncio.sleep(0.3)
        freed = now()
        bulk.may_go_on.set()
        await until(lambda: len(bulk.done) == 2)
        assert bulk.done[1] == ["c"]
        assert bulk.times[1] - freed < 0.2 or bulk.times[1] - bulk.times[0] >= 0.3

    async def test_a_full_queue_waits_for_nothing(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(maxsize=2), Bulk()
        await queue.process_batches(bulk, max_size=10, max_wait=math.inf)
        await put_all(queue, 1, 2)
        await soon(queue.join())
        assert bulk.done == [[1, 2]]

    async def test_so_many_calls_at_once(self, make_queue: MakeQueue, in_order: InOrder) -> None:
        queue, bulk = make_queue(), Bulk(held=True)
        await queue.process_batches(bulk, max_size=2, max_wait=0, num_workers=2)
        queue.pause()
        await put_all(queue, *range(10))
        queue.resume()
        await until(lambda: len(bulk.began) == 2)
        await a_while()
        assert in_order(bulk.began) == [[0, 1], [2, 3]]
        assert queue.statistics().inflight == 4
        assert queue.unprocessed == [4, 5, 6, 7, 8, 9]
        bulk.may_go_on.set()
        await soon(queue.join())
        assert sorted(bulk.items) == list(range(10))

    async def test_a_stop_does_not_hold_the_last_one_back(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        await queue.process_batches(bulk, max_size=10, max_wait=math.inf)
        await put_all(queue, *range(13))
        assert await soon(queue.stop()) is True
        assert bulk.done == [[*range(10)], [10, 11, 12]]

    async def test_nor_does_a_close(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        await queue.process_batches(bulk, max_size=10, max_wait=math.inf)
        await put_all(queue, 1, 2)
        queue.close()
        await until(lambda: queue.status == "stopped")
        assert bulk.done == [[1, 2]]

    async def test_a_plain_function(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        got: list[list[int]] = []
        await queue.start()
        await put_all(queue, *range(5))
        await queue.process_batches(lambda items: got.append([*items]), max_size=5, max_wait=0.1)
        await soon(queue.join())
        assert got == [[0, 1, 2, 3, 4]]

    async def test_what_waits_when_they_begin(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        await queue.start()
        await put_all(queue, 1, 2)
        await queue.process_batches(bulk, max_size=10, max_wait=0.1)
        await soon(queue.join())
        assert bulk.done == [[1, 2]]

    async def test_process_afterwards_takes_items_one_by_one(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        await queue.process_batches(bulk, max_size=10, max_wait=math.inf)
        await put_all(queue, 1, 2)
        done = []

        async def work(item: int) -> None:
            done.append(item)

        await queue.process(work)
        await soon(queue.join())
        assert done == [1, 2]
        assert bulk.began == []

    async def test_a_stop_with_a_timeout_gives_all_back(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(logger=SILENT), Bulk(held=True)
        await queue.start()
        await put_all(queue, *range(5))
        await queue.process_batches(bulk, max_size=3, max_wait=0)
        await until(lambda: bulk.began == [[0, 1, 2]])
        assert await soon(queue.stop(timeout=0)) is False
        assert queue.unprocessed == [0, 1, 2, 3, 4]
        assert queue.metrics["processed"] == 0
        bulk.may_go_on.set()
        again = Bulk()
        await queue.process_batches(again, max_size=10, max_wait=0)
        await soon(queue.join())
        assert again.items == [0, 1, 2, 3, 4]

    async def test_a_pause(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        await queue.process_batches(bulk, max_size=2, max_wait=0.01)
        queue.pause()
        await put_all(queue, 1, 2, 3)
        await quite_a_while()
        assert bulk.began == []
        queue.resume()
        await soon(queue.join())
        assert sorted(bulk.items) == [1, 2, 3]

    async def test_get_takes_one(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        await queue.process_batches(bulk, max_size=10, max_wait=math.inf)
        await put_all(queue, 1, 2)
        assert await queue.get() == 1
        queue.task_done()
        assert await soon(queue.stop()) is True
        assert bulk.done == [[2]]

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ({"max_size": 0, "max_wait": 0}, "max_size must be at least 1, got 0"),
            ({"max_size": 1.5, "max_wait": 0}, "max_size must be an int, got 1.5"),
            ({"max_size": 1, "max_wait": -1}, "max_wait must be zero or more"),
            ({"max_size": 1, "max_wait": None}, "max_wait must be a number of seconds"),
        ],
    )
    async def test_what_is_not_allowed(
        self, make_queue: MakeQueue, options: Any, message: str
    ) -> None:
        queue = make_queue()
        with pytest.raises((ValueError, TypeError), match=message):
            await queue.process_batches(Bulk(), **options)

    async def test_limits_with_a_key(self, make_queue: MakeQueue) -> None:
        queue = make_queue(limits=[Limit(1, per=1, key=lambda item: item)])
        with pytest.raises(ValueError, match="Batches need limits without a key"):
            await queue.process_batches(Bulk(), max_size=1, max_wait=0)


class TestFailures:
    async def test_an_outcome_that_is_an_exception_fails_its_item(
        self, make_queue: MakeQueue
    ) -> None:
        queue, bulk = make_queue(), Bulk()
        error = LookupError("no such item")
        bulk.outcome = lambda items: [error if item == 1 else item for item in items]
        failed: list[Any] = []
        await queue.start()
        await put_all(queue, 0, 1, 2)
        await queue.process_batches(
            bulk, max_size=3, max_wait=0, error_handler=lambda exc, item: failed.append((exc, item))
        )
        await soon(queue.join())
        assert failed == [(error, 1)]
        assert queue.metrics["processed"] == 3
        assert queue.metrics["errors"] == 1

    async def test_what_raises_fails_all(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        bulk.fail(1, ConnectionError("down"))
        failed: list[Any] = []

        async def on_error(error: BaseException, item: Any) -> None:
            await asyncio.sleep(0)
            failed.append(item)

        await queue.start()
        await put_all(queue, 0, 1, 2)
        await queue.process_batches(bulk, max_size=3, max_wait=0, error_handler=on_error)
        await soon(queue.join())
        assert failed == [0, 1, 2]
        assert bulk.began == [[0, 1, 2]]
        assert queue.metrics["processed"] == queue.metrics["errors"] == 3

    async def test_a_culprit_is_found_by_halves(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        bulk.fail(5, TypeError("no such row"))
        failed: list[Any] = []
        await queue.start()
        await put_all(queue, *range(8))
        await queue.process_batches(
            bulk, max_size=8, max_wait=0, error_handler=lambda error, item: failed.append(item)
        )
        await soon(queue.join())
        assert failed == [5]
        assert sorted(bulk.items) == [0, 1, 2, 3, 4, 6, 7]
        assert len(bulk.began) == 7
        assert queue.metrics["processed"] == 8
        assert queue.metrics["errors"] == 1

    async def test_but_not_without_split(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(logger=SILENT), Bulk()
        bulk.fail(5, TypeError("no such row"))
        await queue.start()
        await put_all(queue, *range(8))
        await queue.process_batches(bulk, max_size=8, max_wait=0, split=False)
        await soon(queue.join())
        assert len(bulk.began) == 1
        assert queue.metrics["errors"] == 8

    async def test_each_failed_item_is_tried_again(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(retry=every(0.05)), Bulk()
        bulk.outcome = lambda items: [
            ConnectionError("once") if item == 1 and len(bulk.began) == 1 else item
            for item in items
        ]
        await queue.start()
        await put_all(queue, 0, 1, 2)
        await queue.process_batches(bulk, max_size=3, max_wait=0)
        await soon(queue.join())
        assert bulk.began == [[0, 1, 2], [1]]
        assert queue.metrics["processed"] == 3
        assert queue.metrics["errors"] == 0

    async def test_a_call_that_fails_is_tried_again_with_all(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(retry=every(0.05)), Bulk()
        bulk.fail(1, ConnectionError("twice"), times=2)
        await queue.start()
        await put_all(queue, 0, 1, 2)
        # The first that comes back waits for the others, which come a moment later.
        await queue.process_batches(bulk, max_size=3, max_wait=60)
        await soon(queue.join())
        assert [sorted(items) for items in bulk.done] == [[0, 1, 2]]
        assert len(bulk.began) == 3
        assert queue.metrics["processed"] == 3

    async def test_what_fails_for_good_is_a_dead_letter(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(retry=every(0.01, attempts=2), logger=SILENT), Bulk()
        bulk.fail(1, ConnectionError("always"))
        await queue.start()
        await put_all(queue, 0, 1)
        await queue.process_batches(bulk, max_size=2, max_wait=0)
        await soon(queue.join())
        letters = queue.dead_letters
        assert [(letter.item, letter.attempts) for letter in letters] == [(0, 2), (1, 2)]
        bulk.errors.clear()
        bulk.times_left.clear()
        assert await queue.redrive() == 2
        await soon(queue.join())
        assert sorted(bulk.items) == [0, 1]

    @pytest.mark.parametrize("outcome", [5, "ab", [1], (1, 2, 3), {}])
    async def test_no_list_of_as_many_outcomes(self, make_queue: MakeQueue, outcome: Any) -> None:
        queue, bulk = make_queue(retry=every(0.01)), Bulk()
        bulk.outcome = outcome
        errors: list[BaseException] = []
        await queue.start()
        await put_all(queue, "a", "b")
        await queue.process_batches(
            bulk, max_size=2, max_wait=0, error_handler=lambda error, item: errors.append(error)
        )
        await soon(queue.join())
        assert len(bulk.began) == 1
        assert [type(error) for error in errors] == [TypeError, TypeError]
        assert "None or a list with one outcome for each item, 2 in all, got" in str(errors[0])

    async def test_futures(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        bulk.outcome = lambda items: [
            LookupError("no") if item == 1 else item * 10 for item in items
        ]
        await queue.start()
        futures = [await queue.submit(number) for number in range(3)]
        await queue.process_batches(bulk, max_size=3, max_wait=0)
        assert await soon(futures[0]) == 0
        with pytest.raises(LookupError, match="no"):
            await soon(futures[1])
        assert await soon(futures[2]) == 20

    async def test_a_future_that_was_cancelled(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        await queue.start()
        futures = [await queue.submit(number) for number in range(3)]
        assert queue.cancel(futures[1]) is True
        await queue.process_batches(bulk, max_size=3, max_wait=0)
        await soon(queue.join())
        assert bulk.done == [[0, 2]]
        assert queue.metrics["processed"] == 3

    @pytest.mark.usefixtures("cancellable_workers")
    async def test_a_call_that_is_cancelled_fails_its_items(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk(held=True)
        failed: list[Any] = []
        await queue.start()
        await put_all(queue, 1, 2, 3)
        await queue.process_batches(
            bulk,
            max_size=2,
            max_wait=0,
            error_handler=lambda error, item: failed.append((type(error), item)),
        )
        await until(lambda: bulk.began)
        await until(queue.in_hand)  # its function waits for the first time
        held = queue.in_hand()
        assert [one.item for one in held] == [[1, 2]]
        assert held[0].cancel() is True
        await until(lambda: len(bulk.began) == 2)
        assert failed == [(asyncio.CancelledError, 1), (asyncio.CancelledError, 2)]
        bulk.may_go_on.set()
        await soon(queue.join())
        assert bulk.done == [[3]]
        assert queue.metrics["processed"] == 3

    async def test_an_item_that_is_too_late_fails_alone(self, make_queue: MakeQueue) -> None:
        queue, bulk = make_queue(), Bulk()
        failed: list[Any] = []
        await queue.start()
        assert await queue.put("late", deadline=0.05)
        await put_all(queue, "in time")
        await asyncio.sleep(0.1)
        await queue.process_batches(
            bulk,
            max_size=2,
            max_wait=0,
            error_handler=lambda error, item: failed.append((type(error), item)),
        )
        await soon(queue.join())
        assert bulk.done == [["in time"]]
        assert failed == [(DeadlineExceededError, "late")]


class TestLimits:
    async def test_a_call_is_one_start(self, make_queue: MakeQueue) -> None:
        limit = Limit(2, per=1000)
        queue, bulk = make_queue(limits=[limit]), Bulk()
        await queue.start()
        await put_all(queue, *range(9))
        await queue.process_batches(bulk, max_size=3, max_wait=0)
        await until(lambda: len(bulk.done) == 2)
        await quite_a_while()
        assert bulk.done == [[0, 1, 2], [3, 4, 5]]
        assert queue.unprocessed == [6, 7, 8]
        assert queue.statistics().inflight == 0
        limit.change(max=3)
        await soon(queue.join())
        assert bulk.done[2] == [6, 7, 8]

    async def test_a_batch_is_filled_when_it_may_start(self, make_queue: MakeQueue) -> None:
        limit = Limit(1, per=1000)
        queue, bulk = make_queue(limits=[limit]), Bulk()
        await queue.process_batches(bulk, max_size=10, max_wait=0)
        await put_all(queue, 0)
        await until(lambda: bulk.done == [[0]])
        await put_all(queue, 1)
        await quite_a_while()
        await put_all(queue, 2, 3)
        limit.change(max=2)
        await soon(queue.join())
        assert bulk.done == [[0], [1, 2, 3]]

    async def test_costs_are_added_up(self, make_queue: MakeQueue) -> None:
        limit = Limit(10, per=1000, cost=lambda item: item)
        queue, bulk = make_queue(limits=[limit]), Bulk()
        await queue.start()
        await put_all(queue, 3, 4, 2, 5, 1)
        await queue.process_batches(bulk, max_size=5, max_wait=0)
        await until(lambda: bulk.done)
        await quite_a_while()
        assert bulk.done == [[3, 4, 2]]  # with 5 more it would be above the max
        assert queue.unprocessed == [5, 1]
        limit.change(max=15)
        await soon(queue.join())
        assert sorted(bulk.items) == [1, 2, 3, 4, 5]


class TestMapBatches:
    @pytest.mark.parametrize("size", [1, 3, 100])
    async def test_the_results_come_item_by_item(self, make_queue: MakeQueue, size: int) -> None:
        queue = make_queue(maxsize=10)
        results = queue.map_batches(doubled, range(50), max_size=size, num_workers=2)
        assert [result async for result in results] == [2 * number for number in range(50)]
        assert queue.status == "stopped"

    async def test_the_last_batch_waits_for_nothing(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        results = queue.map_batches(doubled, range(7), max_size=5, max_wait=math.inf)
        assert [result async for result in results] == [0, 2, 4, 6, 8, 10, 12]

    async def test_one_that_fails(self, make_queue: MakeQueue) -> None:
        async def some(items: list[int]) -> list[Any]:
            return [ValueError(item) if item == 2 else item for item in items]

        queue = make_queue()
        results = queue.map_batches(some, range(4), max_size=4, return_exceptions=True)
        found = [result async for result in results]
        assert [str(one) for one in found] == ["0", "1", "2", "3"]
        assert isinstance(found[2], ValueError)
        with pytest.raises(ValueError, match="2"):
            [result async for result in queue.map_batches(some, range(4), max_size=4)]

    async def test_none_is_no_result(self, make_queue: MakeQueue) -> None:
        async def nothing(items: list[int]) -> Any:
            return None

        queue = make_queue()
        with pytest.raises(TypeError, match="must return a list with one outcome for each item"):
            [result async for result in queue.map_batches(nothing, range(3), max_size=3)]

    async def test_beside_a_map_and_process(self, make_queue: MakeQueue) -> None:
        queue = make_queue(maxsize=4)
        done: list[int] = []

        async def note(item: int) -> None:
            done.append(item)

        async def single(item: int) -> int:
            await asyncio.sleep(0)
            return -item

        async with queue:
            await queue.process(note)

            async def of(results: Any) -> list[int]:
                return [result async for result in results]

            batches = asyncio.create_task(of(queue.map_batches(doubled, range(20), max_size=3)))
            singles = asyncio.create_task(of(queue.map(single, range(20), num_workers=2)))
            for number in range(10):
                assert await queue.put(number, timeout=30)
            assert await soon(batches) == [2 * number for number in range(20)]
            assert await soon(singles) == [-number for number in range(20)]
            await soon(queue.join())
        assert done == list(range(10))

    async def test_one_that_is_left_takes_back_its_items(self, make_queue: MakeQueue) -> None:
        queue = make_queue()
        async with queue:
            async with aclosing(queue.map_batches(doubled, range(50), max_size=3)) as results:
                async for result in results:
                    if result == 8:
                        break
            assert queue.unprocessed == []
            await put_all(queue, "mine")
            assert await queue.get() == "mine"
            queue.task_done()

    async def test_a_stop_by_others(self, make_queue: MakeQueue) -> None:
        bulk = Bulk(held=True)
        bulk.outcome = list
        queue = make_queue(maxsize=3)
        found: list[int] = []

        async def read() -> None:
            async for result in queue.map_batches(bulk, range(50), max_size=2):
                found.append(result)  # noqa: PERF401 - to be seen as it comes

        reading = asyncio.create_task(read())
        await until(lambda: bulk.began)
        stop = asyncio.create_task(queue.stop())
        await until(lambda: queue.status == "stopping")
        bulk.may_go_on.set()
        assert await soon(stop) is True
        with pytest.raises(QueueStateError):
            await soon(reading)
        assert found == list(range(len(found)))
        assert found
