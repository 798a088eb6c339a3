"""Outages in a queue: what is held, what goes on, what comes back, and what is told."""

from __future__ import annotations

import asyncio
import gc
import logging
import math
import os
import signal
import sys
import traceback
import weakref
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import aclosing
from functools import partial
from itertools import pairwise
from typing import Any

import pytest

from helpers.handlers import Handler, ignore
from helpers.logs import SILENT
from helpers.services import Away
from helpers.tasks import now, soon, until
from helpers.versions import FROM_3_11
from penstock import (
    CircuitBreaker,
    DeadlineExceededError,
    Limit,
    OutageError,
    Policy,
    QueueStateError,
    RateLimitError,
    RetryBudget,
    RetryPolicy,
    WorkQueue,
)
from penstock.policies import outage, outages
from penstock.policies.outage import ItemFailures
from penstock.policies.outages import Outages
from penstock.testing import VirtualTimeLoop, run
from telemetry.recorder import Recorder

#: Longer than any test.
FOR_EVER = 10_000.0


def queue_of(maxsize: int = 100, attempts: int = 5, **settings: Any) -> WorkQueue[Any]:
    rules = {name: settings.pop(name) for name in ("limits", "breaker") if name in settings}
    return WorkQueue(maxsize, logger=SILENT, retry=RetryPolicy(attempts, **settings), **rules)


async def at_rate(count: int, per_second: float = 20.0) -> AsyncIterator[int]:
    for number in range(count):
        yield number
        await asyncio.sleep(1 / per_second)


async def put_all(queue: WorkQueue[Any], items: Iterable[Any]) -> None:
    for item in items:
        assert await queue.put(item, math.inf)


async def answered(queue: WorkQueue[Any], item: Any = "first") -> None:
    """Have the service answer once, so that it can be away from then on."""
    await put_all(queue, [item])
    await queue.join()


class TestAnOutageInAJob:
    """Of 400 items that come at 20 a second, under nothing but five attempts."""

    @pytest.mark.parametrize("workers", [1, 2, 10])
    @pytest.mark.parametrize("seconds", [1, 3, 10, 30])
    async def test_loses_nothing_and_costs_hardly_any_calls(
        self, seconds: float, workers: int
    ) -> None:
        service, queue = Away(5, 5 + seconds, takes=0.05, fails_in=0.01), queue_of()
        result = await queue.batch_process(at_rate(400), service, workers)
        assert (result.processed, result.failed) == (400, 0)
        assert sorted(service.served) == list(range(400))
        assert len(service.calls) <= 1.1 * 400

    @pytest.mark.parametrize("seconds", [1, 3, 10, 30])
    async def test_nor_does_a_map(self, seconds: float) -> None:
        service, queue = Away(5, 5 + seconds, takes=0.05), queue_of()
        results = [item async for item in queue.map(service, at_rate(400), num_workers=5)]
        assert results == list(range(400))
        assert len(service.calls) <= 1.1 * 400

    async def test_nor_where_all_were_put_at_once(self) -> None:
        service, queue = Away(5, 15, takes=0.05), queue_of(1000, limits=[Limit(20, per=1)])
        await queue.process(service, 10)
        await put_all(queue, range(400))
        await queue.join()
        await queue.stop()
        assert sorted(service.served) == list(range(400))
        assert len(service.calls) <= 1.1 * 400

    async def test_nor_where_items_come_one_a_second(self) -> None:
        """An item has used up its attempts long before five have failed."""
        service, queue = Away(10, 30, takes=0.05), queue_of(budget=None)
        result = await queue.batch_process(at_rate(60, per_second=1), service, 1)
        assert (result.processed, result.failed) == (60, 0)

    async def test_nor_with_a_breaker(self) -> None:
        service = Away(5, 35, takes=0.05)
        queue = queue_of(breaker=CircuitBreaker(open_for=10))
        result = await queue.batch_process(at_rate(400), service, 5)
        assert (result.processed, result.failed) == (400, 0)

    async def test_nor_with_limits_that_have_keys(self) -> None:
        service = Away(5, 20, takes=0.05)
        queue = queue_of(limits=[Limit(10, per=1, key=lambda item: item % 2)])
        result = await queue.batch_process(at_rate(400), service, 5)
        assert (result.processed, result.failed) == (400, 0)

    async def test_nor_does_an_empty_budget_for_retries(self) -> None:
        service, queue = Away(5, 35, takes=0.05), queue_of(budget=RetryBudget(14))
        result = await queue.batch_process(at_rate(400), service, 5)
        assert (result.processed, result.failed) == (400, 0)

    async def test_a_service_that_never_comes_back_ends_it(self) -> None:
        service, queue, read = Away(5, FOR_EVER), queue_of(), []

        async def items() -> AsyncIterator[int]:
            async for item in at_rate(1000):
                read.append(item)
                yield item

        with pytest.raises(OutageError, match=r"down for more than 300 s: .* items have") as raised:
            await queue.batch_process(items(), service, 5, ignore)
        assert 305 <= now() <= 306
        assert len(read) < 205, "it read no further"
        result = raised.value.result
        assert result.processed == len(read)
        assert len(service.served) + result.failed == len(read)
        assert isinstance(raised.value.__cause__, ConnectionError)

    @pytest.mark.parametrize("return_exceptions", [False, True])
    async def test_of_a_map_too(self, return_exceptions: bool) -> None:
        service, queue, read, got = Away(5, FOR_EVER), queue_of(give_up_after=60), [], []

        async def items() -> AsyncIterator[int]:
            async for item in at_rate(1000):
                read.append(item)
                yield item

        results = queue.map(service, items(), return_exceptions=return_exceptions)

        async def read_all() -> None:
            async with aclosing(results):
                async for result in results:
                    got.append(result)  # noqa: PERF401 - what came before the error counts

        with pytest.raises(OutageError):
            await read_all()
        assert 65 <= now() <= 66
        assert len(read) < 210
        assert got[:100] == list(range(100))
        assert len(got) == (len(read) if return_exceptions else len(service.served))


class TestWhatIsNoOutage:
    async def test_a_mistake_in_the_program(self, caplog: pytest.LogCaptureFixture) -> None:
        calls: list[tuple[int, float]] = []

        async def broken(item: int) -> None:
            calls.append((item, now()))
            if item >= 10:
                raise ValueError(f"what is {item}?")

        queue = queue_of(1000)
        result = await queue.batch_process(range(100), broken, 5, ignore)
        assert (result.processed, result.failed) == (100, 90)
        assert now() < 10
        assert "outage" not in caplog.text

    @pytest.mark.parametrize("workers", [1, 10])
    async def test_one_poison_item(self, workers: int, caplog: pytest.LogCaptureFixture) -> None:
        service, handler = Away(takes=0.05), Handler()

        async def call(item: int) -> None:
            if item == 7:
                await asyncio.sleep(0.05)
                raise TimeoutError("it hangs at this one")
            await service(item)

        queue = queue_of()
        await queue.batch_process(at_rate(100), call, workers, handler)
        assert handler.kinds == [(7, TimeoutError)]
        assert sorted(service.served) == [item for item in range(100) if item != 7]
        assert now() < 100 / 20 + 1, "nothing has waited for it"
        assert "outage" not in caplog.text

    async def test_a_poison_item_that_is_alone(self, caplog: pytest.LogCaptureFixture) -> None:
        queue, handler = queue_of(), Handler()

        async def call(item: str) -> None:
            if item == "bad":
                raise TimeoutError

        async with queue:
            await queue.process(call, 1, handler)
            await answered(queue)
            await put_all(queue, ["bad"])
            await queue.join()
        assert handler.items == ["bad"]
        assert now() < 7
        assert "outage" not in caplog.text

    @pytest.mark.parametrize("workers", [1, 10])
    @pytest.mark.parametrize("maxsize", [1, 5, 100])
    async def test_five_per_cent_of_a_healthy_service(
        self, maxsize: int, workers: int, caplog: pytest.LogCaptureFixture
    ) -> None:
        """The rest neither stops nor slows down."""

        async def took(fails: Callable[[int], bool]) -> tuple[float, int]:
            began, queue = now(), queue_of(maxsize, attempts=1)

            async def call(item: int) -> None:
                await asyncio.sleep(0.05)
                if fails(item):
                    raise ConnectionResetError

            result = await queue.batch_process(range(400), call, workers, ignore)
            return now() - began, result.failed

        healthy, _ = await took(lambda item: False)
        failing, failed = await took(lambda item: item % 20 == 10)
        assert failed == 20
        assert failing <= healthy + 0.01
        assert "outage" not in caplog.text

    @pytest.mark.parametrize("maxsize", [1, 5, 100])
    async def test_nor_where_each_of_them_gets_all_its_attempts(self, maxsize: int) -> None:
        async def call(item: int) -> None:
            await asyncio.sleep(0.05)
            if item % 20 == 10:
                raise ConnectionResetError

        async def took(hold: bool | None) -> float:
            began, queue = now(), queue_of(maxsize, attempts=3, hold=hold, budget=None)
            result = await queue.batch_process(range(400), call, 4, ignore)
            assert result.failed == 20
            return now() - began

        assert await took(hold=None) <= await took(hold=False) * 1.1 + 0.5

    async def test_nor_at_the_end_where_these_alone_are_left(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        async def call(item: int) -> None:
            await asyncio.sleep(0.02)
            if item % 20 == 3:
                raise ConnectionResetError

        queue = queue_of(100, attempts=5, budget=None)
        result = await queue.batch_process(range(1000), call, 10, ignore)
        assert result.failed == 50
        assert now() < 10
        assert "outage" not in caplog.text

    async def test_a_poison_item_holds_up_a_queue_with_room_for_one_no_longer(self) -> None:
        handler = Handler()

        async def call(item: int) -> None:
            if item % 20 == 10:
                raise ConnectionResetError

        queue = queue_of(1, attempts=2, backoff=lambda attempt, error: 0.01)
        await queue.batch_process(range(100), call, 1, handler)
        assert handler.items == [10, 30, 50, 70, 90]
        assert now() < 1

    async def test_a_service_that_never_answered(self) -> None:
        """It fails quickly: perhaps its address is wrong."""
        service, queue, handler = Away(0, FOR_EVER), queue_of(), Handler()
        await queue.batch_process(range(50), service, 5, handler)
        assert len(handler.got) == 50
        assert now() < 5

    async def test_fewer_than_five_items_count_their_attempts_as_ever(self) -> None:
        service, handler = Away(1, FOR_EVER), Handler()
        queue = queue_of(attempts=3, backoff=lambda attempt, error: 0.5)
        async with queue:
            await queue.process(service, 2, handler)
            await answered(queue)
            await asyncio.sleep(1)
            began = now()
            await put_all(queue, range(4))
            await queue.join()
        assert sorted(handler.items) == [0, 1, 2, 3]
        assert len(service.during(began, FOR_EVER)) == 12
        assert now() <= began + 1 + 5.1

    async def test_throttles(self, caplog: pytest.LogCaptureFixture) -> None:
        service = Away(1, 20)
        service.error = RateLimitError
        queue = queue_of(backoff=lambda attempt, error: 1.0)
        await queue.batch_process(at_rate(60), service, 5)
        assert "outage" not in caplog.text

    async def test_what_the_service_finds_fault_with(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        class AnsweredError(Exception):
            status = 404

        service = Away(1, 20)
        service.error = AnsweredError
        result = await queue_of().batch_process(at_rate(60), service, 5, ignore)
        assert result.failed > 30
        assert "outage" not in caplog.text


class TestWhileItLasts:
    @pytest.mark.parametrize("how", ["put", "batch", "map"])
    async def test_single_calls_of_different_items_find_out_whether_it_is_over(
        self, how: str
    ) -> None:
        service, queue = Away(1, 60), queue_of()
        if how == "put":
            await queue.process(service, 5)
            async for item in at_rate(100):
                assert await queue.put(item, math.inf)
            await queue.join()
            await queue.stop()
        elif how == "batch":
            await queue.batch_process(at_rate(100), service, 5)
        else:
            assert len([item async for item in queue.map(service, at_rate(100))]) == 100
        probes = [call for call in service.calls if call[1] > 2 and call[1] < 60]
        gaps = [later[1] - earlier[1] for earlier, later in pairwise(probes)]
        for gap, at_least in zip(gaps, [2, 4, 8, 15, 15], strict=False):
            assert at_least <= gap <= at_least + 0.5
        assert len(probes) >= 5
        assert len({item for item, _ in probes}) == len(probes)
        failed_before = {item for item, at in service.calls if 1 <= at <= 2}
        assert not failed_before & {item for item, _ in probes}

    async def test_where_all_have_failed_the_probes_are_different_all_the_same(self) -> None:
        service = Away(1, 100)
        queue = queue_of()
        async with queue:
            await queue.process(service, 10)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(6))
            await asyncio.sleep(70)
            probes = [item for item, at in service.calls if at > 1.9]
            assert len(probes) >= 6
            assert len(set(probes)) == 6
            await queue.join()
        assert sorted(service.served[1:]) == list(range(6))

    async def test_new_puts_wait_too_until_the_queue_is_full(self) -> None:
        service, queue = Away(1, 100), queue_of(10)
        async with queue:
            await queue.process(service, 3)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(8))
            await asyncio.sleep(0.5)
            calls = len(service.calls)
            accepted = 8
            while await queue.put(accepted, timeout=0.01):
                accepted += 1
            assert 10 <= accepted <= 13, "what is held takes up room, but for that in hand"
            assert len(service.calls) <= calls + 1
            assert queue.statistics().retrying >= 10
            assert sorted(queue.unprocessed) == list(range(accepted))
            assert queue.statistics().inflight == 0
            await queue.join()
        assert sorted(service.served[1:]) == list(range(accepted))

    async def test_a_probe_that_says_nothing_is_followed_by_another_one(self) -> None:
        service, queue, handler = Away(1, 3), queue_of(), Handler()

        async def call(item: Any) -> None:
            if item == "odd":
                raise KeyError(item)
            await service(item)

        async with queue:
            await queue.process(call, 5, handler)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(5))
            await asyncio.sleep(0.5)
            await put_all(queue, ["odd"])
            await queue.join()
        assert handler.items == ["odd"]
        assert sorted(service.served[1:]) == list(range(5))
        assert now() < 10

    @pytest.mark.parametrize("key", [None, lambda item: "all"])
    async def test_what_is_held_takes_nothing_from_limits(
        self, key: Callable[[Any], Any] | None
    ) -> None:
        service, queue = Away(1, 60), queue_of(limits=[Limit(100, per=1, key=key)])
        async with queue:
            await queue.process(service, 5)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(50))
            await asyncio.sleep(58)
            assert queue.limits.statistics().grants == len(service.calls) < 30
            await queue.join()

    async def test_the_budget_gets_back_no_more_than_it_has_paid(self) -> None:
        budget = RetryBudget(tokens=1000, cost=10, refund=0)
        while budget.tokens > 500:
            assert budget.take(ConnectionError())
        service, queue = Away(1, 20), queue_of(budget=budget)
        async with queue:
            await queue.process(service, 5)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(50))
            await queue.join()
        assert len(service.served) == 51
        assert budget.tokens <= 500

    async def test_the_budget_does_not_get_back_what_a_retry_cost_that_failed_in_it(self) -> None:
        budget = RetryBudget(tokens=1000, cost=10, refund=0)
        while budget.tokens > 500:
            assert budget.take(ConnectionError())
        service, queue = Away(1, 20), queue_of(budget=budget)
        async with queue:
            await queue.process(service, 1)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(5))
            await queue.join()
        assert len(service.served) == 6
        assert budget.tokens < 500

    async def test_what_somebody_awaits_fails_after_its_attempts(self) -> None:
        service, queue = Away(1, 100), queue_of(attempts=3)
        async with queue:
            await queue.process(service, 5)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(10))
            await asyncio.sleep(1)
            began = now()
            future = await queue.submit("awaited")
            with pytest.raises(ConnectionError):
                await future
            with pytest.raises(ConnectionError):
                await queue.queue._policy.call(service, "called")  # type: ignore[attr-defined]
            assert now() < began + 3
            items = [item for item, _ in service.calls]
            assert items.count("awaited") == items.count("called") == 3
            await queue.stop(timeout=0)

    async def test_with_hold_it_waits_too(self) -> None:
        service, policy = Away(1, 20), Policy(retry=RetryPolicy(3, hold=True))
        await policy.call(service, "first")
        await asyncio.sleep(1)
        results = await asyncio.gather(*[policy.call(service, item) for item in range(20)])
        assert results == list(range(20))
        assert len(service.calls) < 60
        assert policy.statistics().outage_for == 0

    async def test_with_hold_false_nothing_waits(self) -> None:
        service, queue, handler = Away(1, 20), queue_of(attempts=2, hold=False), Handler()
        await queue.batch_process(at_rate(100), service, 5, handler)
        assert len(handler.got) > 60

    async def test_what_must_not_be_repeated_fails(self) -> None:
        """Nor are items lost that were never sent."""

        class SentError(ConnectionError):
            pass

        service, handler = Away(1, 20), Handler()
        service.error = SentError
        queue = queue_of(on=lambda error: not isinstance(error, SentError))
        await queue.batch_process(at_rate(100), service, 5, handler)
        assert 5 <= len(handler.got) < 15, "those that were in hand, and the probes"
        assert sorted([*handler.items, *service.served]) == list(range(100))

    async def test_an_item_fails_at_its_deadline(self) -> None:
        service, handler = Away(1, 100), Handler()
        queue = WorkQueue[Any](100, logger=SILENT, retry=RetryPolicy(5))
        async with queue:
            await queue.process(service, 5, handler)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(5))
            await asyncio.sleep(1)
            began = now()
            assert await queue.put("urgent", deadline=1.3)
            await asyncio.sleep(1.4)
            assert handler.kinds == [("urgent", DeadlineExceededError)]
            assert now() == pytest.approx(began + 1.4)
            await queue.stop(timeout=0)

    async def test_an_item_keeps_what_it_failed_with_before_its_deadline(self) -> None:
        service, handler = Away(1, 100), Handler()
        queue = WorkQueue[Any](100, logger=SILENT, retry=RetryPolicy(5), deadline=10)
        async with queue:
            await queue.process(service, 5, handler)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(5))
            await queue.join()
        assert {type(error) for _, error in handler.got} == {DeadlineExceededError}
        assert {type(error.__cause__) for _, error in handler.got} == {ConnectionError}


class TestWhatComesBack:
    async def test_is_not_all_at_once(self) -> None:
        service, queue = Away(1, 4.2, takes=0.1), queue_of(300)
        async with queue:
            await queue.process(service, 100)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(300))
            await queue.join()
        [first, *others] = service.since(4.2)
        end = first + 0.1
        assert sum(start < end + 0.45 for start in others) == 0
        for seconds, most in ((1.0, 3), (2.0, 15), (3.0, 63)):
            assert sum(start < end + seconds - 0.01 for start in others) <= most
        assert sorted(service.served[1:]) == list(range(300))
        assert len(service.calls) < 1 + 300 + 100 + 10

    async def test_puts_that_come_then_stand_in_line_as_well(self) -> None:
        service, queue = Away(1, 2.2, takes=0.01), queue_of()
        async with queue:
            await queue.process(service, 50)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(6))
            await asyncio.sleep(1.8)
            assert service.served[1:]
            began = now()
            await put_all(queue, range(100, 150))
            await asyncio.sleep(0.5)
            assert len(service.during(began, now())) < 15
            await queue.join()

    async def test_calls_that_were_never_held_are_as_quick_as_before_then(self) -> None:
        service, policy = Away(1, 2), Policy(retry=RetryPolicy(1))
        await policy.call(service, "first")
        await asyncio.sleep(1)
        calls = [policy.call(service, item) for item in range(10)]
        await asyncio.gather(*calls, return_exceptions=True)
        assert policy.statistics().outages == 1
        assert policy._has_checks
        for _ in range(2):
            await asyncio.sleep(10)
            await policy.call(service, "later")
        assert not policy._has_checks

    async def test_after_a_few_seconds_all_is_as_before(self) -> None:
        service, queue = Away(1, 2.2), queue_of()
        async with queue:
            await queue.process(service, 50)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(10))
            await queue.join()
            await asyncio.sleep(5)
            began = now()
            await put_all(queue, range(50))
            await asyncio.sleep(0.01)
            assert len(service.during(began, now())) == 50


class TestTheVerdict:
    """What an item does that has used up its attempts."""

    @pytest.mark.parametrize("is_observed", [False, True])
    @pytest.mark.parametrize("is_queued", [False, True])
    async def test_it_makes_no_further_call_and_tells_of_none(
        self, is_observed: bool, is_queued: bool
    ) -> None:
        recorder = Recorder()
        telemetry = recorder.telemetry() if is_observed else None
        service, handler = Away(1, FOR_EVER), Handler()
        policy = Policy(retry=RetryPolicy(2, hold=True), telemetry=telemetry)
        if is_queued:
            queue = WorkQueue[Any](10, policy=policy, logger=SILENT, telemetry=telemetry)
            async with queue:
                await queue.process(service, 1, handler)
                await answered(queue)
                await asyncio.sleep(1)
                await put_all(queue, ["a"])
                await queue.join()
        else:
            await policy.call(service, "first")
            await asyncio.sleep(1)
            with pytest.raises(ConnectionError):
                await policy.call(service, "a")
        assert len(service.calls) == 3
        assert policy.statistics().retries == 1
        assert 6 <= now() <= 7
        attempts = [span for span in recorder.spans() if "process" in span.name]
        assert len(attempts) == (3 if is_observed else 0)

    @pytest.mark.real_time
    async def test_nor_does_a_plain_call(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(outages, "_VERDICT", 0.1)
        calls: list[str] = []

        def call(item: str) -> None:
            calls.append(item)
            if item != "first":
                raise ConnectionError

        policy = Policy(retry=RetryPolicy(2, hold=True))
        await asyncio.to_thread(policy.call, call, "first")
        with pytest.raises(ConnectionError):
            await asyncio.to_thread(policy.call, call, "a")
        assert calls == ["first", "a", "a"]

    async def test_its_traceback_is_that_of_its_last_call(self) -> None:
        lengths = []
        for hold in (None, False):
            service, handler = Away(now() + 1, FOR_EVER), Handler()
            async with queue_of(attempts=2, hold=hold) as queue:
                await queue.process(service, 1, handler)
                await answered(queue)
                await asyncio.sleep(1)
                await put_all(queue, ["a"])
                await queue.join()
            [(_, error)] = handler.got
            lengths.append(len(traceback.extract_tb(error.__traceback__)))
        # Once more: where it comes back and fails for good.
        assert lengths[0] <= 2 * lengths[1]


class TestGivingUp:
    async def test_what_is_held_fails_and_later_puts_get_one_attempt_each(self) -> None:
        service, queue, handler = Away(1, 100), queue_of(give_up_after=30), Handler()
        async with queue:
            await queue.process(service, 5, handler)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(20))
            await queue.join()
            assert 31 <= now() <= 32
            assert sorted(handler.items) == list(range(20))
            kinds = {type(error) for _, error in handler.got}
            assert kinds == {ConnectionError, OutageError}, "some were never attempted"
            assert queue.statistics().dead_letters == 20

            began = now()
            await put_all(queue, range(20, 30))
            await queue.join()
            assert now() == began
            assert len(service.during(began, FOR_EVER)) == 10
            await asyncio.sleep(100)
            await put_all(queue, ["good"])
            await queue.join()
            assert service.served[-1] == "good"
            assert queue.queue._policy.statistics().outage_for == 0  # type: ignore[attr-defined]

    @FROM_3_11
    async def test_the_errors_say_so(self) -> None:
        service, queue, handler = Away(1, 100), queue_of(give_up_after=30), Handler()
        async with queue:
            await queue.process(service, 5, handler)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(20))
            await queue.join()
        for _, error in handler.got:
            [note] = error.__notes__
            if isinstance(error, OutageError):
                assert note == "penstock: not attempted: its service has been down for 30 s"
            else:
                assert note.startswith("penstock: given up after ")
                assert note.endswith(": its service has been down for 30 s")


class TestStops:
    @staticmethod
    async def in_outage(**settings: Any) -> tuple[WorkQueue[Any], Away]:
        service, queue = Away(1, 100), queue_of(**settings)
        await queue.process(service, 5)
        await answered(queue)
        await asyncio.sleep(1)
        await put_all(queue, range(20))
        await asyncio.sleep(2)
        return queue, service

    @pytest.mark.parametrize("timeout", [0, 2.0])
    async def test_hand_back_what_is_held(self, timeout: float) -> None:
        queue, service = await self.in_outage()
        began = now()
        assert await queue.stop(timeout=timeout) is False
        assert now() - began <= timeout + 0.01
        assert queue.unprocessed == list(range(20))
        service.ended = now()
        await queue.process(service, 5)
        await queue.join()
        assert await queue.stop()
        assert sorted(service.served[1:]) == list(range(20))

    async def test_without_draining_at_once(self) -> None:
        queue, _ = await self.in_outage()
        began = now()
        assert await queue.stop(drain=False) is False
        assert now() == began
        assert queue.unprocessed == list(range(20))

    async def test_without_a_timeout_it_lasts_until_the_outage_is_given_up(self) -> None:
        queue, _ = await self.in_outage(give_up_after=30)
        assert await queue.stop() is True
        assert now() <= 33

    async def test_what_waits_for_the_verdict_is_handed_back_too(self) -> None:
        service, queue, handler = Away(1, 100), queue_of(attempts=2), Handler()
        await queue.process(service, 5, handler)
        await answered(queue)
        await asyncio.sleep(1)
        await put_all(queue, ["a"])
        await asyncio.sleep(1)
        assert len(service.calls) == 3
        assert await queue.stop(timeout=0.5) is False
        assert queue.unprocessed == ["a"]
        await queue.process(service, 5, handler)
        await queue.join()
        assert handler.items == ["a"]
        assert len(service.calls) == 3
        await queue.stop()

    async def test_a_batch_ends_as_under_any_stop(self) -> None:
        service, queue = Away(1, FOR_EVER), queue_of()
        batch = asyncio.create_task(queue.batch_process(at_rate(1000), service, 5))
        await asyncio.sleep(5)
        assert await queue.stop(timeout=1) is False
        with pytest.raises(QueueStateError):
            await batch
        assert now() < 8

    @pytest.mark.real_time
    @pytest.mark.skipif(sys.platform == "win32", reason="there are no such signals")
    async def test_sigterm_is_waited_for_no_longer_than_its_timeout(
        self, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        queue = queue_of(attempts=2)
        service = Away(math.inf, math.inf)
        await queue.process(service, 5)
        await answered(queue)
        service.began = now()
        queue.stop_on_signals(timeout=0.1)
        await put_all(queue, range(20))
        os.kill(os.getpid(), signal.SIGTERM)
        with pytest.raises(QueueStateError):
            await queue.join()
        assert sorted(queue.unprocessed) == list(range(20))


class TestSeveralOfThem:
    async def test_two_services_behind_one_queue_have_an_outage_each(self) -> None:
        away, there = Away(1, 30, takes=0.01), Away(takes=0.01)

        async def call(item: tuple[str, int]) -> None:
            await (away if item[0] == "away" else there)(item)

        policy = Policy(retry=RetryPolicy(5), gate_key=lambda item: item[0])
        queue = WorkQueue[Any](200, logger=SILENT, policy=policy)

        async def items() -> AsyncIterator[tuple[str, int]]:
            async for number in at_rate(100):
                yield ("away", number)
                yield ("there", number)

        await queue.batch_process(items(), call, 5)
        assert sorted(away.served) == [("away", number) for number in range(100)]
        assert [item for item, _ in there.calls] == [("there", number) for number in range(100)]
        for number, (_, at) in enumerate(there.calls):
            assert at <= number / 20 + 0.1, "they have not waited for the others"
        assert len(away.calls) <= 120

    async def test_the_queues_of_one_policy_share_it(self) -> None:
        service, policy = Away(1, 10), Policy(retry=RetryPolicy(5))
        one, other = (WorkQueue[Any](100, logger=SILENT, policy=policy) for _ in range(2))
        async with one, other:
            for queue in (one, other):
                await queue.process(service, 5)
            await answered(one)
            await asyncio.sleep(1)
            await put_all(one, range(20))
            await asyncio.sleep(0.5)
            calls = len(service.calls)
            await put_all(other, range(100, 120))
            await asyncio.sleep(0.4)
            assert len(service.calls) == calls, "it knows already"
            assert policy.statistics().outage_for > 0
            await one.join()
            await other.join()
        assert len(set(service.served)) == 41

    def test_so_do_those_of_two_event_loops(self) -> None:
        """Of which each has a clock of its own."""
        policy = Policy(retry=RetryPolicy(5))

        async def begin() -> None:
            service = Away(101, FOR_EVER)
            await asyncio.sleep(100)
            queue = WorkQueue[Any](100, logger=SILENT, policy=policy)
            await queue.process(service, 5)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(20))
            await asyncio.sleep(3)
            assert await queue.stop(timeout=0) is False

        async def go_on() -> None:
            service = Away(0, 5)
            queue = WorkQueue[Any](100, logger=SILENT, policy=policy)
            await queue.process(service, 5)
            await put_all(queue, range(20))
            await queue.join()
            await queue.stop()
            assert len(service.calls) < 30
            assert sorted(service.served) == list(range(20))

        run(begin())
        run(go_on())

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork")
    def test_a_forked_child_knows_of_none(self) -> None:
        policy = Policy(retry=RetryPolicy(5))
        outages = policy._outages
        assert isinstance(outages, Outages)
        outages.answered(None, None, 0.0)
        for _ in range(5):
            outages.failed(None, ItemFailures(), None, 0.0, ConnectionError())
        policy._look_at_outages()
        child = os.fork()
        if not child:
            is_new = policy._outages is not outages and not policy._has_checks
            os._exit(0 if is_new and policy.call(str, 5) == "5" else 1)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


class TestWhatIsLogged:
    @staticmethod
    async def job(caplog: pytest.LogCaptureFixture, until: float, **settings: Any) -> list[str]:
        caplog.set_level(logging.INFO, logger="penstock")
        service = Away(1, until)
        queue = WorkQueue[Any](100, name="mail", retry=RetryPolicy(5, **settings), logger=SILENT)
        async with queue:
            await queue.process(service, 5, ignore)
            await answered(queue)
            await asyncio.sleep(1)
            await put_all(queue, range(20))
            await queue.join()
        return [
            f"{record.levelname} {record.getMessage()}"
            for record in caplog.records
            if "outage" in record.getMessage()
        ]

    async def test_one_warning_at_its_beginning_and_how_long_it_took(
        self, caplog: pytest.LogCaptureFixture
    ) -> None:
        beginning, end = await self.job(caplog, until=20)
        assert beginning == (
            "WARNING Policy mail: an outage: 5 items failed and none succeeded, the last with "
            "ConnectionError('nobody there'); queued items are held, and one at a time is attempted"
        )
        assert end == "INFO Policy mail: the outage is over, after 30.0 s"

    async def test_that_it_was_given_up(self, caplog: pytest.LogCaptureFixture) -> None:
        [_, given_up] = await self.job(caplog, until=FOR_EVER, give_up_after=30)
        assert given_up == (
            "WARNING Policy mail: the outage has lasted for 30 s: the held items fail, and "
            "from now on each item gets one attempt"
        )

    async def test_nothing_where_none_failed(self, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.INFO, logger="penstock")
        queue = WorkQueue[Any](100, retry=RetryPolicy(5), logger=SILENT)
        await queue.batch_process(range(100), Away(), 5)
        assert not caplog.records


@pytest.mark.real_time
async def test_calls_in_threads_wait_with_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("_FIRST", "_LONGEST", "_LATER", "_PROBING", "_DOUBLES_IN"):
        monkeypatch.setattr(outage, name, 0.01)
    is_away, calls = True, []

    def call(item: str) -> str:
        calls.append(item)
        if is_away:
            raise ConnectionError
        return item

    policy = Policy(retry=RetryPolicy(2, hold=True))
    assert await asyncio.to_thread(policy.call, str, "first") == "first"
    waiting = [asyncio.to_thread(policy.call, partial(call, item)) for item in "abcdef"]
    results = asyncio.gather(*waiting)
    await until(lambda: policy.statistics().outage_for > 0.1)
    is_away = False
    assert await soon(results) == list("abcdef")
    assert Counter(calls).most_common(1)[0][1] > 1


async def test_nothing_of_an_item_is_kept_once_it_is_done() -> None:
    class Item:
        pass

    service, queue, kept = Away(1, 10), queue_of(), []
    async with queue:
        await queue.process(service, 5)
        await answered(queue)
        await asyncio.sleep(1)
        for _ in range(20):
            item = Item()
            kept.append(weakref.ref(item))
            await put_all(queue, [item])
            del item
        await queue.join()
        service.served.clear()
        service.calls.clear()
        gc.collect()
        assert [ref() for ref in kept if ref() is not None] == []


def test_the_settings_are_checked() -> None:
    for value in (1, "yes", 0.5):
        with pytest.raises(TypeError, match="hold must be a bool or None, got"):
            RetryPolicy(hold=value)  # type: ignore[arg-type]
    for wrong in (-1, math.nan, "1"):
        with pytest.raises(ValueError, match="give_up_after must be"):
            RetryPolicy(give_up_after=wrong)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="give_up_after must be above 0, got 0"):
        RetryPolicy(give_up_after=0)
    assert RetryPolicy(give_up_after=math.inf).give_up_after == math.inf


@pytest.mark.parametrize("length", [5.0, 30.0])
async def test_calls_in_threads_are_held_as_well(length: float) -> None:
    """Plain functions, on an event loop."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, VirtualTimeLoop)
    calls: list[int] = []

    def call(item: int) -> int:
        calls.append(item)
        if item and 1 <= loop.time() < 1 + length:
            raise ConnectionError("nobody there")
        return item

    queue = queue_of()
    async with queue:
        await queue.process(call, 5)
        await answered(queue, 0)
        await asyncio.sleep(1)
        await put_all(queue, range(1, 20))
        await queue.join()
    assert len(calls) < 40
    assert queue.metrics["errors"] == 0
