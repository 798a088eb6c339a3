"""Another attempt or none: throttles, why there is none, and what the log is told of retries."""

from __future__ import annotations

import asyncio
import logging
import math
from typing import Any

import pytest

from helpers.handlers import Handler
from helpers.logs import SILENT
from helpers.retries import every
from helpers.services import Service
from helpers.tasks import now
from helpers.versions import FROM_3_11
from penstock import Policy, RateLimitError, RetryBudget, RetryPolicy, WorkQueue
from penstock.policies.policy import PolicyStatistics


def queue_of(retry: RetryPolicy, **settings: Any) -> WorkQueue[Any]:
    return WorkQueue(1000, logger=SILENT, retry=retry, **settings)


async def fail_in_queue(
    retry: RetryPolicy,
    error: BaseException | type[BaseException],
    fails: int = 999,
    **settings: Any,
) -> tuple[Service, Handler]:
    """Have the item "a" fail so many times."""
    make = error if isinstance(error, type) else lambda: error
    service, handler = Service({"a": fails}, error=make), Handler()  # type: ignore[arg-type]
    async with queue_of(retry, **settings) as queue:
        await queue.process(service, 1, handler)
        assert await queue.put("a")
        await queue.join()
    return service, handler


class TestThrottles:
    @pytest.mark.parametrize("hold", [None, True, False])
    async def test_of_queued_work_use_up_no_attempts(self, hold: bool | None) -> None:
        retry = every(1, attempts=2, hold=hold)
        service, handler = await fail_in_queue(retry, RateLimitError, fails=20)
        assert len(service.calls) == 21
        assert not handler.got

    async def test_nor_do_those_of_a_map(self) -> None:
        service = Service({1: 9}, error=RateLimitError)
        results = queue_of(every(1, attempts=2)).map(service, [1, 2])
        assert [result async for result in results] == [1, 2]

    async def test_nor_do_they_cost_the_budget_anything_or_give_it_anything(self) -> None:
        budget = RetryBudget(tokens=100, throttle_cost=50)
        assert budget.take(ConnectionError())
        left = budget.tokens
        retry = RetryPolicy(2, backoff=lambda attempt, error: 1.0, budget=budget)
        await fail_in_queue(retry, RateLimitError, fails=9)
        assert budget.tokens == left + 1

    async def test_what_somebody_awaits_has_as_many_attempts_as_ever(self) -> None:
        service = Service({"a": 99, "b": 99}, error=RateLimitError)
        policy = Policy(retry=every(1, attempts=3))
        async with WorkQueue[Any](logger=SILENT, policy=policy) as queue:
            await queue.process(service, 1)
            with pytest.raises(RateLimitError):
                await (await queue.submit("a"))
            with pytest.raises(RateLimitError):
                await policy.call(service, "b")
        assert service.items == ["a"] * 3 + ["b"] * 3

    async def test_other_failures_between_them_count(self) -> None:
        errors = [RateLimitError(), ConnectionError(), RateLimitError(), ConnectionError()]
        service = Service({"a": 4}, error=lambda: errors.pop(0))
        async with queue_of(every(1, attempts=2)) as queue:
            await queue.process(service, 1, handler := Handler())
            await queue.put("a")
            await queue.join()
        assert len(service.calls) == 4
        assert handler.kinds == [("a", ConnectionError)]

    async def test_without_retries_they_end_the_item(self) -> None:
        service, handler = await fail_in_queue(RetryPolicy(1), RateLimitError)
        assert len(service.calls) == 1
        assert handler.items == ["a"]

    @FROM_3_11
    async def test_nothing_else_for_too_long_ends_it_and_the_error_says_so(self) -> None:
        retry = every(10, attempts=2, give_up_after=60)
        service, handler = await fail_in_queue(retry, RateLimitError)
        [(_, error)] = handler.got
        assert service.times("a")[-1] == 60
        assert error.__notes__ == [
            "penstock: given up after 7 attempts: the service has refused it for 60 s"
        ]

    async def test_the_time_begins_anew_after_another_failure(self) -> None:
        errors = [RateLimitError() for _ in range(10)]
        errors.insert(5, ConnectionError())
        service = Service({"a": 11}, error=lambda: errors.pop(0))
        async with queue_of(every(10, attempts=2, give_up_after=60)) as queue:
            await queue.process(service, 1, handler := Handler())
            await queue.put("a")
            await queue.join()
        assert len(service.calls) == 12
        assert not handler.got


@FROM_3_11
class TestWhyThereIsNoOther:
    async def notes(self, *args: Any, **settings: Any) -> list[str]:
        _, handler = await fail_in_queue(*args, **settings)
        [(_, error)] = handler.got
        notes: list[str] = error.__notes__
        return notes

    async def test_no_attempts_are_left(self) -> None:
        assert await self.notes(every(1), ConnectionError) == [
            "penstock: given up after 3 attempts: the retry policy allows no more attempts"
        ]

    async def test_no_budget_is_left(self) -> None:
        retry = RetryPolicy(9, budget=RetryBudget(28))
        assert await self.notes(retry, ConnectionError) == [
            "penstock: given up after 3 attempts: the budget for retries is empty"
        ]

    async def test_it_would_end_in_the_same_way(self) -> None:
        assert await self.notes(every(1), KeyError) == [
            "penstock: given up after 1 attempt: another attempt would fail in the same way"
        ]

    async def test_nobody_asked_for_it(self) -> None:
        assert await self.notes(every(1, on=KeyError), ConnectionError) == [
            "penstock: given up after 1 attempt: the retry policy does not retry such an error"
        ]

    async def test_it_would_be_too_late(self) -> None:
        assert await self.notes(every(4), ConnectionError, deadline=5) == [
            "penstock: given up after 2 attempts: another attempt would come after its deadline"
        ]

    async def test_a_call_without_a_queue_says_it_too(self) -> None:
        with pytest.raises(KeyError) as raised:
            await Policy(retry=every(1)).call(Service({"a": 9}, error=KeyError), "a")
        assert raised.value.__notes__ == [
            "penstock: given up after 1 attempt: another attempt would fail in the same way"
        ]

    async def test_an_error_that_was_redriven_says_it_once(self) -> None:
        error = ConnectionError()
        service = Service({"a": 99}, error=lambda: error)
        async with queue_of(every(1, attempts=2)) as queue:
            await queue.process(service, 1, Handler())
            for _ in range(3):
                await queue.put("a")
                await queue.join()
        assert len(error.__notes__) == 1


class TestTheLog:
    @pytest.fixture(autouse=True)
    def _all_of_it(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="penstock")

    @staticmethod
    def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
        return [f"{record.levelname} {record.getMessage()}" for record in caplog.records]

    async def test_a_retry_is_told(self, caplog: pytest.LogCaptureFixture) -> None:
        error = ConnectionError("nobody there")
        await fail_in_queue(every(2.5), error, fails=2, name="mail")
        assert self.lines(caplog) == [
            f"INFO Policy mail: attempt {attempt} failed with ConnectionError('nobody there'); the "
            "next one is in 2.5 s"
            for attempt in (1, 2)
        ]

    async def test_the_first_of_its_kind_in_a_second(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = Service(dict.fromkeys(range(8), 1))
        async with queue_of(every(3)) as queue:
            await queue.process(service, 8)
            for item in range(8):
                await queue.put(item)
            await asyncio.sleep(0.5)
            service.error = KeyError
            service.fails.update({8: 1})
            await queue.put(8)
            await asyncio.sleep(1)
            service.error = ConnectionError
            service.fails.update({9: 1, 10: 1})
            await queue.put(9)
            await queue.put(10)
            await queue.join()
        assert len(self.lines(caplog)) == 2

    async def test_a_long_wait_is_a_warning_and_once(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        service = Service(dict.fromkeys(range(8), 1))
        async with queue_of(every(20)) as queue:
            await queue.process(service, 1)
            for item in range(8):
                await queue.put(item)
                await asyncio.sleep(1)
            await queue.join()
        [line] = self.lines(caplog)
        assert line.startswith("WARNING Policy default: attempt 1 failed with ConnectionError()")

    async def test_that_of_a_throttle_is_none(self, caplog: pytest.LogCaptureFixture) -> None:
        """The gate tells."""
        await fail_in_queue(every(20), RateLimitError, fails=1)
        assert not [line for line in self.lines(caplog) if "WARNING Policy" in line]

    async def test_nothing_where_none_failed(self, caplog: pytest.LogCaptureFixture) -> None:
        await fail_in_queue(every(20), ConnectionError, fails=0)
        assert not self.lines(caplog)


async def test_statistics_say_how_long_it_lasts() -> None:
    policy = Policy(retry=every(0.1, attempts=2))

    def outage_for() -> float:
        statistics: PolicyStatistics = policy.statistics()
        return statistics.outage_for

    async def call(item: int) -> None:
        if item:
            raise ConnectionError

    assert outage_for() == 0
    async with WorkQueue[Any](logger=SILENT, policy=policy) as queue:
        await queue.process(call, 5)
        assert await queue.put(0, math.inf)
        await queue.join()
        for item in range(1, 6):
            await queue.put(item)
        await asyncio.sleep(0)
        began = now()
        await asyncio.sleep(2)
        assert outage_for() == pytest.approx(now() - began, abs=0.01)
        assert policy.statistics().outages == 1
        await queue.stop(timeout=0)
