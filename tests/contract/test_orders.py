"""Queues with an order: priorities and fair shares, for tasks and threads alike."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from typing import Any

import pytest

from contract.conftest import WORK_QUEUES
from contract.helpers import MakeQueue, a_while, until_waiting
from helpers.queues import put_all
from helpers.retries import every
from helpers.tasks import soon, until
from helpers.workers import Worker
from penstock import FairShares, Limit, Priorities, QueueFullError, RetryPolicy

pytestmark = pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)


def first(item: Any) -> Any:
    """The key of an item such as "a3" or ("a", 3)."""
    return item[0]


async def processed(queue: Any, worker: Worker | None = None, workers: int = 1) -> list[Any]:
    """In what order workers start what is in a queue."""
    worker = worker or Worker()
    await queue.process(worker, workers)
    await soon(queue.join())
    return worker.began


async def with_priorities(make_queue: MakeQueue, *pairs: tuple[Any, float], **rules: Any) -> Any:
    """A queue that runs, with these items and their priorities in it."""
    queue: Any = make_queue(order=rules.pop("order", Priorities()), **rules)
    await queue.start()
    for item, priority in pairs:
        assert await queue.put(item, timeout=0, priority=priority) is True
    return queue


async def with_shares(make_queue: MakeQueue, *items: Any, **rules: Any) -> Any:
    """A queue that runs, with these items of tenants in it."""
    queue: Any = make_queue(order=rules.pop("order", FairShares(first)), **rules)
    await queue.start()
    await put_all(queue, *items)
    return queue


class TestPriorities:
    async def test_the_lowest_goes_first_and_among_equals_the_first(
        self, make_queue: MakeQueue
    ) -> None:
        queue = await with_priorities(
            make_queue, ("a", 1), ("b", 0), ("c", -2.5), ("d", 0), ("e", 1), ("f", math.inf)
        )
        assert queue.unprocessed == ["c", "b", "d", "a", "e", "f"]
        assert await processed(queue) == ["c", "b", "d", "a", "e", "f"]

    async def test_a_function_may_say_the_priority(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue(order=Priorities(key=len))
        await queue.start()
        await put_all(queue, "three", "a", "to", "b")
        assert await processed(queue) == ["a", "b", "to", "three"]

    async def test_every_way_to_put_takes_one(self, make_queue: MakeQueue) -> None:
        queue = await with_priorities(make_queue, ("put", 4))
        queue.put_nowait("put_nowait", priority=1)
        assert await queue.put_many(["many", "more"], priority=2) == 2
        await queue.submit("submit", priority=3)
        assert await queue.put("deadline", priority=0.5, deadline=100) is True
        assert await processed(queue) == [
            "deadline",
            "put_nowait",
            "many",
            "more",
            "submit",
            "put",
        ]

    async def test_the_best_waiting_put_is_served_first(self, make_queue: MakeQueue) -> None:
        queue = await with_priorities(make_queue, ("in", 0), maxsize=1)
        puts = []
        for item, priority in (("late", 2), ("soon", 1), ("next", 0), ("second", 1)):
            puts.append(asyncio.create_task(queue.put(item, math.inf, priority=priority)))
            await until_waiting(queue, len(puts))
        worker = Worker()
        await queue.process(worker, 1)
        assert await soon(asyncio.gather(*puts)) == [True] * 4
        await soon(queue.join())
        assert worker.began == ["in", "next", "soon", "second", "late"]

    async def test_a_put_that_has_given_up_is_passed_over(self, make_queue: MakeQueue) -> None:
        queue = await with_priorities(make_queue, ("in", 0), maxsize=1)
        assert await queue.put("gone", timeout=0.01, priority=-1) is False
        put = asyncio.create_task(queue.put("waits", math.inf, priority=1))
        await until_waiting(queue, 1)
        worker = Worker()
        await queue.process(worker, 1)
        assert await soon(put) is True
        await soon(queue.join())
        assert worker.began == ["in", "waits"]

    async def test_another_attempt_has_the_place_of_its_item(self, make_queue: MakeQueue) -> None:
        queue = await with_priorities(
            make_queue, ("urgent", 0), ("b", 1), ("c", 2), retry=every(0.05)
        )
        began: list[str] = []

        async def work(item: str) -> None:
            began.append(item)
            if began == ["urgent"]:
                raise ValueError("once")
            if item == "b":
                await until(lambda: queue.statistics().retrying == 1)
                await asyncio.sleep(0.2)

        await queue.process(work, 1)
        await soon(queue.join())
        assert began == ["urgent", "b", "urgent", "c"]

    async def test_what_is_given_back_has_its_place_after_a_restart(
        self, make_queue: MakeQueue, cancellable_workers: None
    ) -> None:
        queue = await with_priorities(make_queue, ("b", 1))
        worker = Worker(held=True)
        await queue.process(worker, 1)
        await until(lambda: worker.began == ["b"])
        for item, priority in (("a", 0), ("b2", 1), ("c", 2)):
            assert await queue.put(item, priority=priority) is True
        assert await queue.stop(timeout=0) is False
        assert queue.unprocessed == ["a", "b", "b2", "c"]
        await queue.start()
        assert await queue.put("first", priority=-1) is True
        assert await processed(queue) == ["first", "a", "b", "b2", "c"]

    async def test_get_takes_the_best(self, make_queue: MakeQueue) -> None:
        queue = await with_priorities(make_queue, ("a", 3), ("b", 1), ("c", 2))
        assert await queue.get() == "b"
        assert queue.get_nowait() == "c"
        async with queue.processing() as item:
            assert item == "a"
        queue.task_done()
        queue.task_done()

    async def test_clear_and_remove_return_items_in_their_order(
        self, make_queue: MakeQueue
    ) -> None:
        queue = await with_priorities(make_queue, ("c", 3), ("a", 1), ("b", 2), ("a2", 1), ("d", 4))
        assert queue.remove(lambda item: item in ("c", "a")) == ["a", "c"]
        assert queue.clear() == ["a2", "b", "d"]
        assert queue.size == 0
        await soon(queue.join())

    async def test_dead_letters_are_put_back_with_their_priorities(
        self, make_queue: MakeQueue
    ) -> None:
        queue = await with_priorities(
            make_queue, ("b", 2), ("a", 1), ("c", 3), retry=RetryPolicy(attempts=1)
        )
        worker = Worker()
        worker.failures = [ValueError("no")] * 3
        await processed(queue, worker)
        assert [(one.item, one.priority) for one in queue.dead_letters] == [
            ("a", 1),
            ("b", 2),
            ("c", 3),
        ]
        queue.pause()
        assert await queue.redrive() == 3
        assert await queue.put("between", priority=1.5) is True
        assert queue.unprocessed == ["a", "between", "b", "c"]
        queue.resume()
        await soon(queue.join())

    async def test_a_pause_ends_with_the_best(self, make_queue: MakeQueue) -> None:
        queue = await with_priorities(make_queue)
        queue.pause()
        worker = Worker()
        await queue.process(worker, 1)
        for item, priority in (("b", 1), ("a", 0)):
            assert await queue.put(item, priority=priority) is True
        await a_while()
        assert worker.began == []
        queue.resume()
        await soon(queue.join())
        assert worker.began == ["a", "b"]

    async def test_an_item_is_chosen_when_it_may_start(self, make_queue: MakeQueue) -> None:
        queue = await with_priorities(make_queue, ("b", 1), limits=[Limit(1, 0.2)])
        worker = Worker()
        await queue.process(worker, 2)
        await until(lambda: worker.began == ["b"])
        for item, priority in (("d", 3), ("c", 2)):
            assert await queue.put(item, priority=priority) is True
        await a_while()
        assert await queue.put("a", priority=0) is True
        await soon(queue.join())
        assert worker.began == ["b", "a", "c", "d"]

    async def test_a_better_one_goes_before_one_that_waits_for_its_cost(
        self, make_queue: MakeQueue
    ) -> None:
        queue = await with_priorities(
            make_queue, ("b1", 1), limits=[Limit(2, 0.3, cost=lambda item: int(item[1]))]
        )
        worker = Worker()
        await queue.process(worker, 2)
        await until(lambda: worker.began == ["b1"])
        assert await queue.put("c2", priority=2) is True
        await a_while()
        assert await queue.put("a2", priority=0) is True
        await soon(queue.join())
        assert worker.began == ["b1", "a2", "c2"]

    async def test_batches_are_taken_in_order(self, make_queue: MakeQueue) -> None:
        queue = await with_priorities(make_queue, ("c", 3), ("a", 1), ("b", 2), ("a2", 1), ("d", 4))
        began: list[list[str]] = []

        async def work(items: list[str]) -> None:
            began.append([*items])

        await queue.process_batches(work, max_size=2, max_wait=0)
        await soon(queue.join())
        assert began == [["a", "a2"], ["b", "c"], ["d"]]

    async def test_what_has_waited_for_long_goes_first(self, make_queue: MakeQueue) -> None:
        queue = await with_priorities(
            make_queue, ("old", 9), ("old too", 8), order=Priorities(max_wait=0.3)
        )
        await asyncio.sleep(0.4)
        assert await queue.put("new", priority=0) is True
        assert await queue.put("newer", priority=-1) is True
        assert await processed(queue) == ["old", "old too", "newer", "new"]

    async def test_a_map_and_puts_share_the_order(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue(order=Priorities(key=lambda item: item))
        began: list[int] = []

        async def work(item: int) -> None:
            began.append(item)

        await queue.start()
        queue.pause()
        await queue.process(work, 1)
        await put_all(queue, 3, 1, 5)

        async def drain() -> None:
            async for _ in queue.map(work, [4, 0, 2], num_workers=1):
                pass

        task = asyncio.create_task(drain())
        await until(lambda: queue.size == 6)
        queue.resume()
        await soon(task)
        await soon(queue.join())
        # Two workers: of two neighbours either may be faster.
        assert sorted(began) == [0, 1, 2, 3, 4, 5]
        assert {began[0], began[1]} == {0, 1}


class TestFairShares:
    async def test_each_key_has_its_turn(self, make_queue: MakeQueue) -> None:
        queue = await with_shares(make_queue, "a1", "a2", "a3", "a4", "b1", "c1", "b2")
        assert await processed(queue) == ["a1", "b1", "c1", "a2", "b2", "a3", "a4"]

    async def test_ten_thousand_items_hold_up_ten_of_another_by_their_share(
        self, make_queue: MakeQueue
    ) -> None:
        queue: Any = make_queue(maxsize=10_010, order=FairShares(first))
        await queue.start()
        assert await queue.put_many([("busy", n) for n in range(10_000)]) == 10_000
        await put_all(queue, *[("quiet", n) for n in range(10)])
        began: list[Any] = []
        may_end = asyncio.Event()

        async def work(item: Any) -> None:
            began.append(item)
            if len(began) >= 25:
                await may_end.wait()

        await queue.process(work, 1)
        await until(lambda: len(began) == 25)
        assert sum(item[0] == "quiet" for item in began) == 10
        assert [n for key, n in began if key == "quiet"] == [*range(10)]
        queue.clear()
        may_end.set()
        await soon(queue.join())

    async def test_a_key_gets_as_many_starts_as_its_weight_says(
        self, make_queue: MakeQueue
    ) -> None:
        weights = {"a": 1, "b": 3}
        order = FairShares(first, weight=weights.__getitem__)
        items = [f"{key}{n}" for n in range(12) for key in "ab"]
        queue = await with_shares(make_queue, *items, order=order)
        began = await processed(queue)
        for count in (4, 8, 12):
            assert Counter(map(first, began[:count]))["b"] in (count * 3 // 4, count * 3 // 4 + 1)

    async def test_a_weight_is_asked_for_when_a_key_begins_to_have_items(
        self, make_queue: MakeQueue
    ) -> None:
        asked: list[str] = []

        def weight(key: str) -> float:
            asked.append(key)
            return 1.0

        order = FairShares(first, weight=weight)
        queue = await with_shares(make_queue, "a1", "b1", "a2", "a3", order=order)
        assert asked == ["a", "b"]
        await processed(queue)
        await put_all(queue, "a4")
        assert asked == ["a", "b", "a"]
        await soon(queue.join())

    @pytest.mark.parametrize("weight", [0, -1, math.nan, math.inf, "1", None, True])
    async def test_a_weight_that_is_not_allowed_is_the_error_of_its_put(
        self, make_queue: MakeQueue, weight: Any
    ) -> None:
        weights = {"a": 1, "b": weight}
        order = FairShares(first, weight=weights.__getitem__)
        queue = await with_shares(make_queue, "a1", order=order)
        with pytest.raises((TypeError, ValueError), match="weight of the key 'b'"):
            await queue.put("b1", timeout=0)
        assert queue.unprocessed == ["a1"]
        assert await processed(queue) == ["a1"]

    @pytest.mark.parametrize("which", ["key", "weight"])
    @pytest.mark.parametrize("maxsize", [1, 2], ids=["full", "room"])
    async def test_a_function_that_raises_is_the_error_of_its_put(
        self, make_queue: MakeQueue, which: str, maxsize: int
    ) -> None:
        def check(key: str) -> Any:
            if key[0] == "b":
                raise LookupError("who is b?")
            return key[0] if which == "key" else 1

        order = FairShares(check) if which == "key" else FairShares(first, weight=check)
        queue = await with_shares(make_queue, "a1", order=order, maxsize=maxsize)
        with pytest.raises(LookupError, match="who is b"):
            await queue.put("b1", timeout=10)
        assert queue.statistics().waiting_putters == 0
        assert await processed(queue) == ["a1"]

    async def test_a_key_that_cannot_be_hashed_is_the_error_of_its_put(
        self, make_queue: MakeQueue
    ) -> None:
        queue: Any = make_queue(order=FairShares(list))
        await queue.start()
        with pytest.raises(TypeError, match=r"must be hashable, got \['a', '1'\]"):
            await queue.put("a1")
        assert queue.unprocessed == []

    async def test_waiting_puts_have_their_turn_too(self, make_queue: MakeQueue) -> None:
        queue = await with_shares(make_queue, "a1", "a2", maxsize=2)
        puts = []
        for item in ("a3", "a4", "b1", "b2"):
            puts.append(asyncio.create_task(queue.put(item, math.inf)))
            await until_waiting(queue, len(puts))
        worker = Worker()
        await queue.process(worker, 1)
        assert await soon(asyncio.gather(*puts)) == [True] * 4
        await soon(queue.join())
        assert worker.began.index("b1") < worker.began.index("a3")
        assert [item for item in worker.began if item[0] == "a"] == ["a1", "a2", "a3", "a4"]

    async def test_another_attempt_is_charged_to_its_key(self, make_queue: MakeQueue) -> None:
        items = [f"{key}{n}" for key in "ab" for n in range(6)]
        queue = await with_shares(make_queue, *items, retry=every(0.0, attempts=20))
        began: list[str] = []

        async def work(item: str) -> None:
            began.append(item)
            if item[0] == "a" and began.count(item) < 5:
                raise ValueError("again")

        await queue.process(work, 1)
        await soon(queue.join())
        last = max(place for place, item in enumerate(began) if item[0] == "b")
        assert last < 14  # and not behind the thirty attempts of the other

    async def test_what_did_not_start_is_not_charged(
        self, make_queue: MakeQueue, cancellable_workers: None
    ) -> None:
        queue = await with_shares(make_queue, "a1", "a2", "b1", "b2")
        worker = Worker(held=True)
        await queue.process(worker, 2)
        await until(lambda: len(worker.began) == 2)
        assert await queue.stop(timeout=0) is False
        assert queue.unprocessed == ["a1", "a2", "b1", "b2"]
        await queue.start()
        assert sorted((await processed(queue))[:2]) == ["a1", "b1"]

    async def test_cancelled_items_are_not_charged(self, make_queue: MakeQueue) -> None:
        queue = await with_shares(make_queue)
        queue.pause()
        worker = Worker()
        await queue.process(worker, 1)
        for number in range(5):
            (await queue.submit(f"a{number}")).cancel()
        await put_all(queue, "a5", "a6", "b1", "b2", "b3", "b4")
        await a_while()
        queue.resume()
        await soon(queue.join())
        assert sorted(worker.began[:2]) == ["a5", "b1"]
        assert sorted(worker.began[:4]) == ["a5", "a6", "b1", "b2"]

    async def test_two_jobs_of_a_tenant_have_one_share(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue(order=FairShares(first))
        began: list[str] = []

        async def work(item: str) -> None:
            began.append(item)

        await queue.start()
        queue.pause()

        async def drain(*items: str) -> None:
            async for _ in queue.map(work, items, num_workers=1):
                pass

        one = asyncio.create_task(drain(*[f"a{n}" for n in range(8)]))
        two = asyncio.create_task(drain(*[f"a{n}" for n in range(8, 16)]))
        three = asyncio.create_task(drain(*[f"b{n}" for n in range(8)]))
        await until(lambda: queue.size == 24)
        queue.resume()
        await soon(asyncio.gather(one, two, three))
        last = max(place for place, item in enumerate(began) if item[0] == "b")
        assert last < 20  # if it had one share of three: 24

    async def test_priorities_within_a_key(self, make_queue: MakeQueue) -> None:
        queue = await with_priorities(
            make_queue,
            ("a1", 5),
            ("a2", 1),
            ("b1", 9),
            ("a3", 1),
            ("b2", 0),
            order=FairShares(first, within=Priorities()),
        )
        assert await processed(queue) == ["a2", "b2", "a3", "b1", "a1"]

    async def test_unprocessed_is_in_the_order_of_the_puts(self, make_queue: MakeQueue) -> None:
        queue = await with_shares(make_queue, "a1", "a2", "b1", "a3", "b2")
        assert queue.unprocessed == ["a1", "a2", "b1", "a3", "b2"]
        assert queue.remove(lambda item: item[0] == "b") == ["b1", "b2"]
        assert queue.clear() == ["a1", "a2", "a3"]

    async def test_removed_items_are_not_charged(self, make_queue: MakeQueue) -> None:
        queue = await with_shares(make_queue, *[f"a{n}" for n in range(9)], "b1", "b2", "b3")
        queue.remove(lambda item: item in {f"a{n}" for n in range(6)})
        assert await processed(queue) == ["a6", "b1", "a7", "b2", "a8", "b3"]

    async def test_a_limit_that_is_waited_for_leaves_the_turns_as_they_are(
        self, make_queue: MakeQueue
    ) -> None:
        items = [f"{key}{n}" for key in "abc" for n in range(2)]
        limit = Limit(1, 0.05, cost=lambda item: 1)
        queue = await with_shares(make_queue, *items, limits=[limit])
        began = await processed(queue, workers=3)
        assert sorted(map(first, began[:3])) == ["a", "b", "c"]
        assert sorted(map(first, began[3:])) == ["a", "b", "c"]

    async def test_keys_have_their_turns_in_the_line_of_a_limit(
        self, make_queue: MakeQueue
    ) -> None:
        limit = Limit(1, 0.1, key=lambda item: "the same")
        queue = await with_shares(make_queue, *[f"a{n}" for n in range(6)], limits=[limit])
        worker = Worker()
        await queue.process(worker, 2)
        await until(lambda: worker.began == ["a0"])
        await a_while()  # all have been looked at
        await put_all(queue, "b0", "b1")
        await soon(queue.join())
        assert worker.began.index("b1") <= 5
        assert sorted(worker.began) == [*(f"a{n}" for n in range(6)), "b0", "b1"]


class TestMostOfAKey:
    async def test_a_put_is_refused_while_other_keys_find_room(self, make_queue: MakeQueue) -> None:
        queue = await with_shares(
            make_queue, "a1", "a2", order=FairShares(first, max_per_key=2), maxsize=10
        )
        assert await queue.put("a3", timeout=0) is False
        with pytest.raises(QueueFullError, match="has max_per_key=2 items of the item's key"):
            queue.put_nowait("a3")
        await put_all(queue, "b1", "b2")
        assert queue.metrics["backpressure_events"] == 2
        assert await processed(queue) == ["a1", "b1", "a2", "b2"]

    async def test_a_put_waits_in_the_line_of_its_key(self, make_queue: MakeQueue) -> None:
        queue = await with_shares(
            make_queue, "a1", "a2", order=FairShares(first, max_per_key=2), maxsize=10
        )
        puts = []
        for item in ("a3", "a4"):
            puts.append(asyncio.create_task(queue.put(item, math.inf)))
            await until_waiting(queue, len(puts))
        await put_all(queue, "b1")
        assert queue.size == 3
        worker = Worker()
        await queue.process(worker, 1)
        assert await soon(asyncio.gather(*puts)) == [True, True]
        await soon(queue.join())
        assert worker.began == ["a1", "b1", "a2", "a3", "a4"]

    async def test_what_waits_for_another_attempt_counts(self, make_queue: MakeQueue) -> None:
        queue = await with_shares(
            make_queue, "a1", order=FairShares(first, max_per_key=1), retry=every(5.0)
        )
        worker = Worker()
        worker.failures = [ValueError("later")]
        await queue.process(worker, 1)
        await until(lambda: queue.statistics().retrying == 1)
        assert await queue.put("a2", timeout=0) is False
        assert await queue.put("b1", timeout=0) is True
        await until(lambda: "b1" in worker.done)
        assert await queue.stop(timeout=0) is False

    async def test_what_is_in_hand_does_not_count(self, make_queue: MakeQueue) -> None:
        queue = await with_shares(make_queue, "a1", order=FairShares(first, max_per_key=1))
        worker = Worker(held=True)
        await queue.process(worker, 1)
        await until(lambda: worker.began == ["a1"])
        assert await queue.put("a2", timeout=0) is True
        assert await queue.put("a3", timeout=0) is False
        worker.may_go_on.set()
        await soon(queue.join())

    async def test_what_is_removed_makes_room(self, make_queue: MakeQueue) -> None:
        queue = await with_shares(make_queue, "a1", order=FairShares(first, max_per_key=1))
        put = asyncio.create_task(queue.put("a2", math.inf))
        await until_waiting(queue, 1)
        assert queue.clear() == ["a1"]
        assert await soon(put) is True
        assert queue.unprocessed == ["a2"]


class TestBatchesOfOneKey:
    async def test_a_call_has_items_of_one_key(self, make_queue: MakeQueue) -> None:
        queue = await with_shares(make_queue, "a1", "b1", "a2", "c1", "a3", "b2", "a4")
        began: list[list[str]] = []

        async def work(items: list[str]) -> None:
            began.append([*items])

        await queue.process_batches(work, max_size=3, max_wait=0, per_key=True)
        await soon(queue.join())
        assert sorted(began) == [["a1", "a2", "a3"], ["a4"], ["b1", "b2"], ["c1"]]

    async def test_each_key_waits_for_others_of_its_own(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue(order=FairShares(first))
        began: list[list[str]] = []

        async def work(items: list[str]) -> None:
            began.append([*items])

        await queue.process_batches(work, max_size=2, max_wait=0.3, per_key=True)
        await put_all(queue, "a1", "b1")
        await a_while()
        assert began == []
        await put_all(queue, "b2", "a2")
        await put_all(queue, "c1")
        await until(lambda: len(began) == 2)
        assert began == [["b1", "b2"], ["a1", "a2"]]
        await until(lambda: len(began) == 3)
        assert began[2] == ["c1"]
        await soon(queue.join())

    async def test_the_last_of_each_key_are_not_held_back_by_a_stop(
        self, make_queue: MakeQueue
    ) -> None:
        queue: Any = make_queue(order=FairShares(first))
        began: list[list[str]] = []

        async def work(items: list[str]) -> None:
            began.append([*items])

        await queue.process_batches(work, max_size=5, max_wait=1000, per_key=True)
        await put_all(queue, "a1", "b1", "a2")
        assert await soon(queue.stop()) is True
        assert sorted(began) == [["a1", "a2"], ["b1"]]

    async def test_a_map_of_batches(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue(order=FairShares(first))
        sizes: list[int] = []

        async def work(items: list[str]) -> list[str]:
            assert len({first(item) for item in items}) == 1
            sizes.append(len(items))
            return [item.upper() for item in items]

        items = ["a1", "b1", "a2", "a3", "b2"]
        results = queue.map_batches(work, items, max_size=2, max_wait=10, per_key=True)
        assert [result async for result in results] == ["A1", "B1", "A2", "A3", "B2"]
        assert sorted(sizes) == [1, 2, 2]

    async def test_it_needs_fair_shares(self, make_queue: MakeQueue) -> None:
        queue: Any = make_queue(order=Priorities())
        with pytest.raises(ValueError, match=r"per_key=True needs a queue with order=FairShares"):
            await queue.process_batches(list, max_size=2, max_wait=0, per_key=True)
