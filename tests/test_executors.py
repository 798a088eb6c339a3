"""AsyncExecutor and RateLimitedExecutor, which run calls."""

from __future__ import annotations

import asyncio
import contextvars
import gc
import math
import threading
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Any
from unittest.mock import AsyncMock

import pytest

import penstock.testing
from helpers.tasks import for_ever, now, settle
from helpers.versions import FROM_3_11
from penstock import (
    AsyncExecutor,
    Limit,
    Limiter,
    QueueStateError,
    RateLimitedExecutor,
    RateLimitError,
    WorkQueue,
)


class Meter:
    """An async function that notes how many of its calls ran at once."""

    def __init__(self, seconds: float = 1) -> None:
        self.seconds = seconds
        self.running = self.peak = 0
        self.begun: list[Any] = []

    async def __call__(self, item: Any = None) -> Any:
        self.begun.append(item)
        self.running += 1
        self.peak = max(self.peak, self.running)
        try:
            await (for_ever() if self.seconds == math.inf else asyncio.sleep(self.seconds))
        finally:
            self.running -= 1
        return item


# -- AsyncExecutor.execute ------------------------------------------------------------------------


async def test_execute_returns_what_the_function_returns() -> None:
    async def join(*parts: str, end: str) -> str:
        await asyncio.sleep(1)
        return "".join(parts) + end

    async with AsyncExecutor() as executor:
        assert await executor.execute(join, "a", "b", end="!") == "ab!"


async def test_execute_raises_what_the_function_raises() -> None:
    async with AsyncExecutor() as executor:
        with pytest.raises(KeyError, match="lost"):
            await executor.execute(AsyncMock(side_effect=KeyError("lost")))
        assert await executor.execute(AsyncMock(return_value=1)) == 1


async def shows(**kwargs: Any) -> dict[str, Any]:
    return kwargs


def plainly_shows(**kwargs: Any) -> dict[str, Any]:
    return kwargs


@pytest.mark.parametrize(
    "func",
    [
        shows,
        plainly_shows,
    ],
)
async def test_arguments_of_any_name_reach_the_function(func: Any) -> None:
    arguments = {"self": 1, "func": 2, "threads": 3, "args": 4, "kwargs": 5}
    async with AsyncExecutor() as executor:
        assert await executor.execute(func, **arguments) == arguments


@pytest.mark.parametrize("limit", [1, 3])
async def test_no_more_calls_run_at_once_than_allowed(limit: int) -> None:
    meter = Meter()
    async with AsyncExecutor(limit) as executor:
        begun = now()
        await asyncio.gather(*(executor.execute(meter, item) for item in range(9)))
        assert now() - begun == pytest.approx(9 / limit)
    assert meter.peak == limit


async def test_without_a_limit_all_calls_run_at_once() -> None:
    meter = Meter()
    async with AsyncExecutor() as executor:
        assert executor.max_concurrency is None
        await asyncio.gather(*(executor.execute(meter) for _ in range(50)))
    assert meter.peak == 50


async def test_calls_that_wait_are_served_first_come_first_served() -> None:
    meter = Meter()
    async with AsyncExecutor(2) as executor:
        await asyncio.gather(*(executor.execute(meter, item) for item in range(8)))
    assert meter.begun == list(range(8))


async def test_plain_functions_run_in_threads_no_more_at_once_than_allowed() -> None:
    together = threading.Barrier(2)  # passes only when two are inside at once
    lock = threading.Lock()
    inside = peak = 0

    def work() -> int:
        nonlocal inside, peak
        with lock:
            inside += 1
            peak = max(peak, inside)
        together.wait(60)
        with lock:
            inside -= 1
        return threading.get_ident()

    async with AsyncExecutor(2) as executor:
        threads = await asyncio.gather(*(executor.execute(work) for _ in range(6)))
    assert peak == 2
    assert threading.get_ident() not in threads


async def test_a_call_runs_in_the_context_of_its_caller() -> None:
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable")

    async def on_the_loop() -> str:
        await asyncio.sleep(1)
        return variable.get()

    async with AsyncExecutor(1) as executor:
        for name, func in {"one": on_the_loop, "two": variable.get}.items():
            variable.set(name)
            assert await executor.execute(func) == name


async def test_a_cancelled_caller_cancels_its_call() -> None:
    meter = Meter(math.inf)
    async with AsyncExecutor(1) as executor:
        calling = asyncio.create_task(executor.execute(meter, 1))
        await settle()
        assert meter.running == 1
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
        assert meter.running == 0
        assert await executor.execute(AsyncMock(return_value="next")) == "next"


@pytest.mark.parametrize("ending", [None, KeyError("lost")], ids=repr)
async def test_a_caller_cancelled_is_cancelled_whatever_its_call_makes_of_it(
    ending: Exception | None,
) -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))

    async def shrugs() -> None:
        with suppress(asyncio.CancelledError):
            await for_ever()
        if ending is not None:
            raise ending

    async with AsyncExecutor() as executor:
        calling = asyncio.create_task(executor.execute(shrugs))
        await settle()
        calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    gc.collect()
    assert complaints == []


async def test_a_caller_cancelled_twice_leaves_no_exception_that_nobody_looks_at() -> None:
    complaints: list[Any] = []
    asyncio.get_running_loop().set_exception_handler(lambda loop, what: complaints.append(what))

    async def cleans_up() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(1)
            raise KeyError("lost")

    async with AsyncExecutor() as executor:
        calling = asyncio.create_task(executor.execute(cleans_up))
        for _ in range(2):
            await settle()
            calling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await calling
    del calling
    gc.collect()
    assert complaints == []


async def test_a_caller_cancelled_while_it_waits_never_has_its_call_begun() -> None:
    meter = Meter()
    async with AsyncExecutor(1) as executor:
        first, second, third = (
            asyncio.create_task(executor.execute(meter, item)) for item in range(3)
        )
        await settle()
        second.cancel()
        await asyncio.gather(first, third)
        assert second.cancelled()
    assert meter.begun == [0, 2]


async def test_a_call_that_cancels_itself_looks_cancelled_to_its_caller() -> None:
    async with AsyncExecutor() as executor:
        with pytest.raises(asyncio.CancelledError):
            await executor.execute(AsyncMock(side_effect=asyncio.CancelledError))


def test_an_executor_can_be_made_outside_a_loop() -> None:
    executor = AsyncExecutor(2)
    assert executor.max_concurrency == 2
    assert penstock.testing.run(executor.execute(AsyncMock(return_value=1))) == 1


def test_an_executor_can_be_used_in_one_loop_after_another() -> None:
    executor = AsyncExecutor(1)

    async def use() -> None:
        await asyncio.gather(*(executor.execute(Meter()) for _ in range(3)))

    for _ in range(2):
        penstock.testing.run(use())


# -- AsyncExecutor.map ----------------------------------------------------------------------------


@pytest.mark.parametrize("limit", [None, 1, 3])
async def test_map_returns_the_results_in_the_order_of_the_items(limit: int | None) -> None:
    async def slow_first(item: int) -> int:
        await asyncio.sleep(10 - item)
        return item * 2

    async with AsyncExecutor(limit) as executor:
        assert await executor.map(slow_first, range(6)) == [0, 2, 4, 6, 8, 10]


async def test_map_takes_async_iterables_and_plain_functions() -> None:
    async def source() -> AsyncIterator[int]:
        for item in range(3):
            await asyncio.sleep(1)
            yield item

    async with AsyncExecutor(2) as executor:
        assert await executor.map(lambda item: item * 2, source()) == [0, 2, 4]
        assert await executor.map(str, []) == []


async def test_map_reads_items_no_faster_than_calls_start() -> None:
    meter = Meter()
    ahead = []

    def source() -> Iterator[int]:
        for read in range(1, 21):
            ahead.append(read - len(meter.begun))
            yield read

    async with AsyncExecutor(3) as executor:
        await executor.map(meter, source())
    assert max(ahead) <= 3 + 1
    assert meter.peak == 3


async def test_the_first_exception_of_map_cancels_the_rest_and_comes_out() -> None:
    meter = Meter(100)

    async def fussy(item: int) -> Any:
        if item == 2:
            await asyncio.sleep(1)
            raise ValueError(item)
        return await meter(item)

    async with AsyncExecutor(3) as executor:
        begun = now()
        with pytest.raises(ValueError, match="2"):
            await executor.map(fussy, range(1_000_000))
        assert now() - begun == pytest.approx(1)
        assert meter.running == 0
        assert meter.begun == [0, 1]


async def test_an_exception_comes_out_of_map_though_the_next_item_is_long_in_coming() -> None:
    async def source() -> AsyncIterator[int]:
        yield 1
        await asyncio.sleep(1000)
        yield 2

    async with AsyncExecutor(3) as executor:
        begun = now()
        with pytest.raises(ValueError, match="at once"):
            await executor.map(AsyncMock(side_effect=ValueError("at once")), source())
        assert now() - begun < 1


async def test_items_that_fail_to_come_cancel_the_calls_of_map() -> None:
    def source() -> Iterator[int]:
        yield 1
        yield 2
        raise OSError("the file ends here")

    meter = Meter()
    async with AsyncExecutor(3) as executor:
        with pytest.raises(OSError, match="the file ends here"):
            await executor.map(meter, source())
        assert meter.running == 0


@pytest.mark.parametrize("steps", range(5))
async def test_a_source_that_fails_as_the_last_call_ends_is_heard_of(steps: int) -> None:
    is_ending = asyncio.Event()

    async def source() -> AsyncIterator[int]:
        yield 1
        await is_ending.wait()
        for _ in range(steps):  # after some number of them both end in the same step of the loop
            await asyncio.sleep(0)
        raise OSError("the file ends here")

    async def call(item: int) -> int:
        is_ending.set()
        return item

    async with AsyncExecutor(2) as executor:
        with pytest.raises(OSError, match="the file ends here"):
            await executor.map(call, source())


async def test_a_map_that_fails_closes_the_async_generator_that_it_reads() -> None:
    closed = []

    async def source() -> AsyncIterator[int]:
        try:
            for item in range(100):
                yield item
        finally:
            closed.append("source")

    items = source()
    async with AsyncExecutor(2) as executor:
        with pytest.raises(KeyError):
            await executor.map(AsyncMock(side_effect=KeyError), items)
    assert closed == ["source"]


async def test_cancelling_map_cancels_its_calls() -> None:
    meter = Meter(math.inf)
    async with AsyncExecutor(3) as executor:
        mapping = asyncio.create_task(executor.map(meter, range(100)))
        await settle()
        assert meter.running == 3
        mapping.cancel()
        with pytest.raises(asyncio.CancelledError):
            await mapping
        assert meter.running == 0


async def test_map_shares_the_limit_with_other_calls() -> None:
    meter = Meter()
    async with AsyncExecutor(2) as executor:
        await asyncio.gather(
            executor.map(meter, range(4)),
            executor.map(meter, range(4)),
            executor.execute(meter),
        )
    assert meter.peak == 2


# -- AsyncExecutor.shutdown -----------------------------------------------------------------------


async def test_shutdown_waits_for_the_calls_and_takes_no_more() -> None:
    executor = AsyncExecutor(1)
    calls = [asyncio.create_task(executor.execute(Meter(), item)) for item in range(3)]
    await settle()
    closing = asyncio.create_task(executor.shutdown())
    await settle()
    with pytest.raises(QueueStateError, match="Cannot execute calls when executor is stopped"):
        await executor.execute(Meter())
    with pytest.raises(QueueStateError):
        await executor.map(Meter(), [1])
    await closing
    assert await asyncio.gather(*calls) == [0, 1, 2]


@pytest.mark.parametrize("timeout", [0, 3])
async def test_shutdown_cancels_the_calls_after_its_timeout(timeout: float) -> None:
    meter = Meter(math.inf)
    executor = AsyncExecutor(2)
    calls = [asyncio.create_task(executor.execute(meter, item)) for item in range(3)]
    await settle()
    begun = now()
    await executor.shutdown(timeout=timeout)
    assert now() - begun == pytest.approx(timeout)
    assert meter.running == 0
    for call in calls:
        with pytest.raises(QueueStateError, match="shut down before the call ended") as caught:
            await call
        assert caught.value.current_state == "stopped"


@pytest.mark.parametrize("timeout", [None, math.inf])
async def test_shutdown_without_a_timeout_waits_as_long_as_it_takes(timeout: float | None) -> None:
    executor = AsyncExecutor()
    call = asyncio.create_task(executor.execute(Meter(100_000), "done"))
    await settle()
    await executor.shutdown(timeout)
    assert await call == "done"


async def test_no_task_outlives_shutdown() -> None:
    before = asyncio.all_tasks()
    cleaned = []

    async def tidy() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(5)
            cleaned.append(True)

    executor = AsyncExecutor()
    calls = [asyncio.create_task(executor.execute(tidy)) for _ in range(3)]
    await settle()
    await executor.shutdown(timeout=0)
    assert cleaned == [True] * 3
    await asyncio.wait(calls)
    assert asyncio.all_tasks() == before


async def test_cancelling_a_shutdown_cancels_the_calls() -> None:
    meter = Meter(math.inf)
    executor = AsyncExecutor()
    call = asyncio.create_task(executor.execute(meter))
    await settle()
    closing = asyncio.create_task(executor.shutdown())
    await settle()
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert meter.running == 0
    with pytest.raises(QueueStateError):
        await call


async def test_shutdown_twice_or_without_calls_is_fine() -> None:
    executor = AsyncExecutor()
    await executor.shutdown()
    await executor.shutdown(timeout=0)


async def test_two_shutdowns_at_once_are_one() -> None:
    executor = AsyncExecutor()
    call = asyncio.create_task(executor.execute(Meter(10), "done"))
    await settle()
    begun = now()
    await asyncio.gather(executor.shutdown(), executor.shutdown(timeout=2))
    assert now() - begun == pytest.approx(2)
    with pytest.raises(QueueStateError):
        await call


async def test_shutdown_from_inside_a_call_is_an_error_and_no_deadlock() -> None:
    executor = AsyncExecutor()
    with pytest.raises(QueueStateError, match=r"shutdown\(\) from inside a call"):
        await executor.execute(executor.shutdown)
    assert await executor.execute(AsyncMock(return_value=1)) == 1
    await executor.shutdown()


async def test_a_clean_exit_waits_and_an_exit_by_exception_cancels() -> None:
    async with AsyncExecutor() as executor:
        call = asyncio.create_task(executor.execute(Meter(10), "done"))
        await settle()
    assert await call == "done"

    calls = []

    async def fail() -> None:
        async with AsyncExecutor() as executor:
            calls.append(asyncio.create_task(executor.execute(for_ever)))
            await settle()
            raise KeyError("lost")

    with pytest.raises(KeyError):
        await fail()
    with pytest.raises(QueueStateError):
        await calls[0]


async def test_the_threads_end_with_the_executor() -> None:
    async with AsyncExecutor(2) as executor:
        thread = await executor.execute(threading.current_thread)
    thread.join(60)
    assert not thread.is_alive()


async def test_a_call_whose_caller_was_cancelled_twice_does_not_outlive_shutdown() -> None:
    cleaned = []

    async def slow_to_clean_up() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(5)
            cleaned.append(True)

    executor = AsyncExecutor()
    calling = asyncio.create_task(executor.execute(slow_to_clean_up))
    for _ in range(2):
        await settle()
        calling.cancel()
    with suppress(asyncio.CancelledError):
        await calling
    await executor.shutdown()
    assert cleaned == [True]


async def test_a_caller_cancelled_during_a_shutdown_is_cancelled() -> None:
    async def slow_to_clean_up() -> None:
        try:
            await for_ever()
        finally:
            await asyncio.sleep(5)

    executor = AsyncExecutor()
    calling = asyncio.create_task(executor.execute(slow_to_clean_up))
    await settle()
    closing = asyncio.create_task(executor.shutdown(timeout=0))
    await settle()
    calling.cancel()
    await asyncio.wait([calling, closing])
    assert calling.cancelled()


@FROM_3_11
async def test_executors_and_task_groups_go_together() -> None:
    async with AsyncExecutor(2) as executor, asyncio.TaskGroup() as group:
        tasks = [group.create_task(executor.execute(Meter(), item)) for item in range(4)]
    assert [task.result() for task in tasks] == [0, 1, 2, 3]


class TestRateLimitedExecutor:
    async def test_calls_start_no_faster_than_the_limits_allow(self) -> None:
        started: list[float] = []

        async def call(number: int) -> int:
            started.append(now())
            return number

        async with RateLimitedExecutor([Limit(3, per=10)], max_concurrency=5) as executor:
            assert await executor.map(call, range(8)) == list(range(8))
        assert started == [0, 0, 0, 10, 10, 10, 20, 20]

    async def test_what_a_call_costs_is_said_by_its_first_argument(self) -> None:
        tokens = Limit(10, per=1, cost=lambda size: size, name="tokens")
        async with RateLimitedExecutor([tokens]) as executor:

            async def call(size: int, settled: int) -> float:
                tokens.settle(settled)
                return now()

            assert await executor.execute(call, 8, 2) == 0
            assert await executor.execute(call, 8, 8) == 0
            assert await executor.execute(call, 8, 8) == 1
            with pytest.raises(ValueError, match="can never pass"):
                await executor.execute(call, 11, 0)

    async def test_one_limiter_for_an_executor_and_a_queue(self) -> None:
        limiter = Limiter([Limit(2, per=1)])
        times: list[float] = []

        async def call(item: Any) -> None:
            times.append(now())

        async with (
            RateLimitedExecutor(limiter) as executor,
            WorkQueue[int](limits=limiter, concurrency_limit=3) as queue,
        ):
            await queue.process(call)
            await asyncio.gather(*(executor.execute(call, n) for n in range(3)))
            for number in range(3):
                await queue.put(number)
            await queue.join()
        assert times == [0, 0, 1, 1, 2, 2]

    async def test_a_rate_limit_error_holds_up_all(self) -> None:
        times: list[float] = []

        async def call(number: int) -> None:
            times.append(now())
            if number == 0:
                raise RateLimitError(retry_after=10)

        async with RateLimitedExecutor([]) as executor:
            with pytest.raises(RateLimitError):
                await executor.execute(call, 0)
            await executor.execute(call, 1)
        assert times[0] == 0
        assert 10 <= times[1] <= 11

    async def test_any_clients_too_many_requests_holds_up_all(self) -> None:
        class ClientError(Exception):
            """As clients of services raise it."""

            def __init__(self, status: int) -> None:
                super().__init__()
                self.status_code = status
                self.retry_after = 10

        times: list[float] = []

        async def call(status: int) -> None:
            times.append(now())
            raise ClientError(status)

        async with RateLimitedExecutor([]) as executor:
            for status in (503, 429, 400):
                with pytest.raises(ClientError):
                    await executor.execute(call, status)
        assert times[:2] == [0, 0], "what is no refusal holds up nothing"
        assert 10 <= times[2] <= 11

    async def test_a_cancelled_call_uses_nothing_up(self) -> None:
        async def call() -> float:
            return now()

        async with RateLimitedExecutor([Limit(1, per=10)]) as executor:
            assert await executor.execute(call) == 0
            waiting = asyncio.create_task(executor.execute(call))
            await asyncio.sleep(5)
            waiting.cancel()
            assert await executor.execute(call) == 10

    @pytest.mark.parametrize("limits", [None, 5, [5], [Limit(1, 1), Limit(1, 1)]])
    def test_what_are_no_limits(self, limits: Any) -> None:
        with pytest.raises((TypeError, ValueError), match="limits"):
            RateLimitedExecutor(limits)


async def test_the_repr_of_an_executor_tells_its_state() -> None:
    executor = AsyncExecutor(max_concurrency=2)
    call = asyncio.create_task(executor.execute(asyncio.sleep, 1))
    await asyncio.sleep(0)
    assert repr(executor) == "<AsyncExecutor open: calls: 1, at once: 2>"
    await call
    await executor.shutdown()
    assert repr(executor) == "<AsyncExecutor shut down: calls: 0, at once: 2>"
    assert repr(RateLimitedExecutor()).endswith("open: calls: 0, at once: any number>")
