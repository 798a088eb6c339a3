"""Orders as a user states them, and what they refuse."""

from __future__ import annotations

import math
from fractions import Fraction
from typing import Any

import pytest

import penstock
import penstock.sync
from penstock import BoundedQueue, FairShares, Priorities, WorkQueue
from penstock.queue.orders import checked_priority


class Elsewhere:
    """A queue that is not in this process: it has what the protocol has, and no more."""

    name, maxsize, size, is_empty, is_full = "elsewhere", 1, 0, True, False
    worker_count, status, unprocessed = 0, "processing", []
    metrics: dict[str, int] = {}  # noqa: RUF012

    def _call(self, *args: Any, **options: Any) -> Any:
        raise AssertionError("nothing is to be called")

    statistics = put_nowait = get_nowait = task_done = _call
    start = stop = put = get = join = start_workers = stop_workers = _call
    __aenter__ = __aexit__ = _call


class TestPriorities:
    @pytest.mark.parametrize("key", [5, "key", lambda: 0])
    def test_the_key_is_a_function_of_an_item(self, key: Any) -> None:
        with pytest.raises(TypeError, match="key must"):
            Priorities(key)

    @pytest.mark.parametrize("max_wait", [-1, math.nan, "1", True])
    def test_the_longest_wait_is_in_seconds(self, max_wait: Any) -> None:
        with pytest.raises(ValueError, match="max_wait must be"):
            Priorities(max_wait=max_wait)

    def test_two_that_say_the_same_are_equal(self) -> None:
        assert Priorities(len, max_wait=3) == Priorities(len, max_wait=3) != Priorities(len)

    @pytest.mark.parametrize("value", [0, -3, 2.5, math.inf, Fraction(1, 3), 10**30])
    def test_a_priority_is_a_number(self, value: Any) -> None:
        assert checked_priority(value) == pytest.approx(float(value))

    @pytest.mark.parametrize("value", ["1", None, True, 1j, [1]])
    def test_and_nothing_else(self, value: Any) -> None:
        with pytest.raises(TypeError, match="priority must be a number"):
            checked_priority(value)

    def test_but_not_what_no_number_is_above_or_below(self) -> None:
        with pytest.raises(ValueError, match="priority must not be NaN, got nan"):
            checked_priority(math.nan)


class TestFairShares:
    @pytest.mark.parametrize("name", ["key", "weight"])
    @pytest.mark.parametrize("value", [5, "key", lambda: 0])
    def test_functions_of_one_argument(self, name: str, value: Any) -> None:
        with pytest.raises(TypeError, match=f"{name} must"):
            FairShares(**{"key": str, name: value})

    @pytest.mark.parametrize(("value", "error"), [(0, ValueError), (1.5, TypeError)])
    def test_the_most_of_a_key(self, value: Any, error: type[Exception]) -> None:
        with pytest.raises(error, match="max_per_key must be"):
            FairShares(str, max_per_key=value)

    @pytest.mark.parametrize("value", [Priorities, FairShares(str), len])
    def test_what_may_stand_within(self, value: Any) -> None:
        with pytest.raises(TypeError, match="within must be a Priorities or None"):
            FairShares(str, within=value)


@pytest.mark.parametrize("make", [BoundedQueue, WorkQueue, penstock.sync.WorkQueue])
class TestQueues:
    @pytest.mark.parametrize("order", [Priorities, FairShares])
    def test_an_order_is_an_object(self, make: Any, order: Any) -> None:
        with pytest.raises(TypeError, match=r"order must be .* got <class .*>: call it"):
            make(order=order)

    def test_one_order_may_be_that_of_several(self, make: Any) -> None:
        order = FairShares(str)
        one, two = make(order=order), make(order=order)
        assert one.size == two.size == 0


@pytest.mark.parametrize("make", [WorkQueue, penstock.sync.WorkQueue])
class TestQueuesThatAreElsewhere:
    def test_a_broker_has_no_order(self, make: Any) -> None:
        with pytest.raises(TypeError, match="order needs a queue in this process"):
            make(queue=Elsewhere(), order=Priorities())

    def test_a_queue_that_is_given_has_its_own(self, make: Any) -> None:
        if make is penstock.sync.WorkQueue:
            pytest.skip("it takes no BoundedQueue")
        with pytest.raises(ValueError, match=r"has its own .*order"):
            make(queue=BoundedQueue(), order=Priorities())

    def test_it_takes_no_priority(self, make: Any) -> None:
        queue = make(queue=Elsewhere())
        with pytest.raises(TypeError, match="priority needs a queue in this process"):
            queue.put_nowait(1, priority=1)


class TestPutsOfAPriority:
    async def test_only_where_the_order_has_priorities(self) -> None:
        for order in (None, FairShares(str)):
            async with BoundedQueue[int](order=order) as queue:
                with pytest.raises(TypeError, match=r"priority needs a queue with order=.* got 1"):
                    await queue.put(1, priority=1)
                with pytest.raises(TypeError, match="priority needs"):
                    await queue.put_many([1], priority=1)
                with pytest.raises(TypeError, match="priority needs"):
                    queue.put_nowait(1, priority=1)
                with pytest.raises(TypeError, match="priority needs"):
                    await queue.submit(1, priority=1)
                assert queue.unprocessed == []

    async def test_and_no_function_that_says_it(self) -> None:
        async with BoundedQueue[int](order=Priorities(int)) as queue:
            with pytest.raises(TypeError, match="Priorities have a key"):
                await queue.put(1, priority=1)

    @pytest.mark.parametrize("maxsize", [1, 5], ids=["full", "room"])
    async def test_one_that_is_none_is_refused_also_by_a_full_queue(self, maxsize: int) -> None:
        async with BoundedQueue[int](maxsize, order=Priorities()) as queue:
            await queue.put(0)
            for value, error in (("high", TypeError), (math.nan, ValueError)):
                with pytest.raises(error, match="priority must"):
                    await queue.put(1, 0, priority=value)  # type: ignore[arg-type]
            assert queue.clear() == [0]

    @pytest.mark.parametrize("priority", ["1", None, math.nan])
    async def test_a_key_that_returns_none_is_the_error_of_the_put(self, priority: Any) -> None:
        async with BoundedQueue[int](order=Priorities(lambda item: priority)) as queue:
            with pytest.raises((TypeError, ValueError), match="the priority that key gave an item"):
                await queue.put(1)
            assert queue.unprocessed == []

    async def test_a_key_that_puts_into_its_own_queue_finds_the_bound_as_it_is(self) -> None:
        def key(item: int) -> int:
            if item == 1:
                queue.put_nowait(2)
            return item

        async with BoundedQueue[int](1, order=Priorities(key)) as queue:
            assert await queue.put(1, timeout=0) is False
            assert queue.clear() == [2]
        async with BoundedQueue[int](1, order=FairShares(key)) as queue:
            assert await queue.put(1, timeout=0) is False
            assert queue.clear() == [2]
