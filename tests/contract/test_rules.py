"""What limits, retries, deadlines and a breaker promise, whether workers are tasks or threads."""

from __future__ import annotations

import asyncio
import math
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any

import pytest

from contract.conftest import WORK_QUEUES
from contract.helpers import InOrder, MakeQueue, a_while, quite_a_while
from helpers.handlers import Handler, ignore
from helpers.limits import BAD
from helpers.logs import SILENT
from helpers.queues import put_all
from helpers.retries import every
from helpers.services import Service
from helpers.tasks import for_ever, now, soon, until
from helpers.workers import Worker
from penstock import (
    AdaptiveConcurrency,
    Budget,
    BudgetExceededError,
    CircuitBreaker,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    Limit,
    Policy,
    QueueFullError,
    QueueStateError,
    QueueStatus,
    RateLimitError,
    RetryPolicy,
)
from penstock.limits import attempts_made

pytestmark = pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)

#: Seconds. Longer than any test: what waits for so long does not happen in it.
NEVER = 1000.0

QueueOf = Callable[..., Any]


@pytest.fixture
def queue_of(make_queue: MakeQueue) -> QueueOf:
    """Makes queues with rules."""
    return partial(make_queue, maxsize=1000, logger=SILENT)


async def offer(queue: Any, how: str, item: Any, **options: Any) -> Any:
    """Put an item by one of three calls, and return what that returns."""
    if how == "put_nowait":
        return queue.put_nowait(item, **options)
    return await getattr(queue, how)(item, **options)


class TestAReadyPolicy:
    async def test_is_what_the_items_run_under(self, queue_of: QueueOf) -> None:
        policy = Policy(limits=[Limit(1000, 1)], retry=every(0.01))
        service, handler = Service({"a": 1, "b": 9}), Handler()
        async with queue_of(policy=policy) as queue:
            await queue.process(service, 2, handler)
            await put_all(queue, *"abc")
            await soon(queue.join())
            assert queue.limits is policy.limits
            assert [letter.item for letter in queue.dead_letters] == ["b"]
            assert queue.statistics().retries == policy.statistics().retries == 3
        assert Counter(service.items) == {"a": 2, "b": 3, "c": 1}
        assert policy.statistics().failures == 4

    async def test_bounds_the_calls_of_all_its_queues_together(self, queue_of: QueueOf) -> None:
        policy = Policy(concurrency=2)
        service = Service(takes=0.01)
        async with queue_of(policy=policy) as one, queue_of(policy=policy) as other:
            for queue in (one, other):
                await queue.process(service, 3)
                await put_all(queue, *range(5))
            for queue in (one, other):
                await soon(queue.join())
        assert service.peak == 2
        assert policy.statistics().under_way == 0

    async def test_an_item_that_an_item_puts_takes_a_slot_of_its_own(
        self, queue_of: QueueOf
    ) -> None:
        """It runs in the context of its put, and not inside of the item that put it."""
        policy = Policy(concurrency=1)
        service = Service(takes=0.01)
        queue = queue_of(policy=policy)

        async def crawl(item: int) -> None:
            if item < 3:
                queue.put_nowait(item + 1)
            await service(item)

        await queue.process(crawl, 3)
        await queue.put(0)
        await until(lambda: len(service.items) == 4)
        await soon(queue.join())
        assert service.peak == 1

    async def test_a_stop_gives_back_what_waits_for_a_slot(self, queue_of: QueueOf) -> None:
        policy = Policy(concurrency=1)
        holder = asyncio.create_task(policy.call(for_ever))
        await until(lambda: policy.statistics().under_way)
        service = Service()
        queue = queue_of(policy=policy)
        await queue.process(service, 2)
        await put_all(queue, *"abc")
        await until(lambda: policy.statistics().waiting_for_slots == 2)
        assert await soon(queue.stop(timeout=0)) is False
        assert sorted(queue.unprocessed) == ["a", "b", "c"]
        holder.cancel()
        await asyncio.wait([holder])
        await until(lambda: not policy.statistics().waiting_for_slots)
        await queue.process(service, 2)
        assert await soon(queue.stop())
        assert sorted(service.items) == ["a", "b", "c"]

    async def test_an_item_that_was_taken_from_a_stuck_worker_starts_anew(
        self, queue_of: QueueOf
    ) -> None:
        """It takes from the limits again, and a slot of its own."""
        policy = Policy(limits=[Limit(1000, 1)], concurrency=1)
        may_end, calls = threading.Event(), []

        async def stubborn(item: str) -> None:
            calls.append(item)
            while len(calls) == 1 and not may_end.is_set():
                with suppress(asyncio.CancelledError):
                    await asyncio.sleep(0.005)

        queue = queue_of(policy=policy)
        await queue.process(stubborn, 1)
        await queue.put("a")
        await until(lambda: calls)
        assert await soon(queue.stop(timeout=0)) is False
        assert queue.unprocessed == ["a"]
        await queue.process(stubborn, 1)
        await until(lambda: policy.statistics().waiting_for_slots)
        assert (calls, policy.statistics().starts) == (["a"], 1)
        may_end.set()
        assert await soon(queue.stop())
        assert (calls, policy.statistics().starts) == (["a", "a"], 2)
        assert policy.statistics().under_way == 0

    @pytest.mark.parametrize(
        "options",
        [
            {"limits": [Limit(1, 1)]},
            {"retry": RetryPolicy()},
            {"breaker": CircuitBreaker()},
            {"deadline": 5},
            {"attempt_timeout": 5},
        ],
    )
    async def test_takes_no_second_of_its_parts(
        self, queue_of: QueueOf, options: dict[str, Any]
    ) -> None:
        [name] = options
        with pytest.raises(ValueError, match=f"{name} and policy were given"):
            queue_of(policy=Policy(), **options)

    async def test_is_a_policy(self, queue_of: QueueOf) -> None:
        with pytest.raises(TypeError, match=r"policy must be a penstock\.Policy or None, got 5"):
            queue_of(policy=5)


class Odd(BaseException):
    """What no ``except Exception`` catches."""


@pytest.mark.parametrize("how", ["put", "submit"])
class TestFunctionsOfTheUserThatRaise:
    """None of them can end a worker, lose an item, or leave a future pending."""

    @pytest.mark.parametrize("kind_of", [OSError, Odd, GeneratorExit, asyncio.CancelledError])
    @pytest.mark.parametrize("where", ["backoff", "on", "breaker"])
    async def test_the_item_fails_with_that(
        self, queue_of: QueueOf, how: str, where: str, kind_of: type[BaseException]
    ) -> None:
        def broken(*_: Any) -> Any:
            raise kind_of("broken")

        queue = queue_of(
            retry=None if where == "breaker" else RetryPolicy(3, budget=None, **{where: broken}),
            breaker=CircuitBreaker(on=broken) if where == "breaker" else None,
        )
        await self.check_that_one_fails(queue, how, kind_of)

    @pytest.mark.parametrize("where", ["backoff", "on"])
    async def test_waits_that_are_at_their_end_end_the_retries(
        self, queue_of: QueueOf, how: str, where: str
    ) -> None:
        waits = iter([0.01, 0.01])
        service = Service({"a": 9})
        queue = queue_of(retry=RetryPolicy(9, budget=None, **{where: lambda *_: next(waits)}))
        error = await self.check_that_one_fails(queue, how, ConnectionError, service)
        assert service.items.count("a") == 3
        assert attempts_made(error) == 3

    @pytest.mark.parametrize("kind_of", [OSError, Odd, StopIteration])
    async def test_an_error_whose_properties_raise(
        self, queue_of: QueueOf, how: str, kind_of: type[BaseException]
    ) -> None:
        class OpaqueError(Exception):
            @property
            def response(self) -> Any:
                raise kind_of("nobody may look")

            retry_after = status_code = status = response

        queue = queue_of(limits=[Limit(100, 1)], retry=every(0.01))
        await self.check_that_one_fails(
            queue, how, BaseException, Service({"a": 9}, error=OpaqueError)
        )

    @staticmethod
    async def check_that_one_fails(
        queue: Any, how: str, kind_of: type[BaseException], service: Service | None = None
    ) -> BaseException:
        service, handler = service or Service({"a": 9}), Handler()
        await queue.process(service, 1, handler)
        result = await offer(queue, how, "a")
        await put_all(queue, "b")
        await soon(queue.join())
        assert "b" in service.items, "the worker goes on"
        assert queue.worker_count == 1
        assert (queue.metrics["processed"], queue.metrics["errors"]) == (2, 1)
        assert queue.unprocessed == []
        if how == "put":
            [(item, _)] = handler.kinds
            assert item == "a"
            error: BaseException = handler.got[0][1]
        else:
            assert handler.kinds == []
            with pytest.raises(BaseException) as caught:  # noqa: PT011 - looked at below
                await result
            error = caught.value
        assert isinstance(error, kind_of)
        return error


class ClientError(Exception):
    """As those of HTTP clients."""

    def __init__(self, status: int, headers: Any = None, body: Any = None) -> None:
        super().__init__(f"answered {status}")
        self.status_code, self.headers, self.body = status, headers, body


class TestRetries:
    @pytest.mark.parametrize(
        ("error", "attempts"),
        [
            (ClientError(429, body={"error": {"code": "insufficient_quota"}}), 1),
            (ClientError(402), 1),
            (ClientError(500, {"x-should-retry": "false"}), 1),
            (ClientError(409, {"x-should-retry": "true"}), 3),
            (ClientError(529), 3),
        ],
    )
    async def test_what_a_service_says_is_of_no_use_is_not_tried_again(
        self, queue_of: QueueOf, error: Exception, attempts: int
    ) -> None:
        for policy, calls in ((every(0.01), attempts), (every(0.01, on=ClientError), 3)):
            service, handler = Service({"a": 9}, error=lambda: error), Handler()
            async with queue_of(retry=policy) as queue:
                await queue.process(service, 1, handler)
                await put_all(queue, "a")
                await soon(queue.join())
            assert len(service.calls) == calls, "what the user says wins"
            assert [item for item, _ in handler.got] == ["a"]

    async def test_no_worker_is_held_while_an_item_waits_for_its_next_attempt(
        self, queue_of: QueueOf
    ) -> None:
        service = Service({"a": 1})
        queue = queue_of(retry=every(NEVER))
        await queue.process(service, 1)
        await put_all(queue, *"abc")
        await until(lambda: queue.metrics["processed"] == 2)
        assert service.items == ["a", "b", "c"]
        counts = queue.statistics()
        assert (counts.retrying, counts.inflight, counts.size, counts.unfinished) == (1, 0, 0, 1)
        assert queue.unprocessed == ["a"]

    @pytest.mark.parametrize("workers", [1, 3])
    async def test_join_and_stop_wait_for_it(self, queue_of: QueueOf, workers: int) -> None:
        service, handler = Service({1: 1, 3: 2, 4: 9}), Handler()
        queue = queue_of(retry=every(0.02))
        await queue.process(service, workers, handler)
        await put_all(queue, *range(6))
        await queue.join()
        assert Counter(service.items) == {0: 1, 1: 2, 2: 1, 3: 3, 4: 3, 5: 1}
        first, second, third = service.times(3)
        assert second - first >= 0.02 - 1e-9
        assert third - second >= 0.02 - 1e-9
        service.fails[6] = 2
        await put_all(queue, 6)
        assert await queue.stop() is True
        assert queue.status is QueueStatus.STOPPED
        assert queue.unprocessed == []
        assert len(service.times(6)) == 3
        assert handler.kinds == [(4, ConnectionError)]
        assert attempts_made(handler.got[0][1]) == 3
        assert (queue.metrics["errors"], queue.statistics().retries) == (1, 7)
        assert [letter.item for letter in queue.dead_letters] == [4]

    @pytest.mark.parametrize("workers", [1, 3])
    @pytest.mark.parametrize("options", [{"timeout": 0.05}, {"drain": False}, {"timeout": 0}])
    async def test_a_stop_that_does_not_hands_it_back_in_its_place(
        self, queue_of: QueueOf, in_order: InOrder, options: dict[str, Any], workers: int
    ) -> None:
        service = Service({"a": 1, "c": 1, "d": 1})
        queue = queue_of(retry=every(NEVER))
        await queue.process(service, workers)
        results = [await queue.submit(item) for item in "abcd"]
        await until(lambda: queue.statistics().retrying == 3 and results[1].done())
        assert await queue.stop(**options) is False
        assert queue.status is QueueStatus.STOPPED
        assert queue.unprocessed == ["a", "c", "d"]
        assert await results[1] == "b"
        for item in (0, 2, 3):
            with pytest.raises(QueueStateError, match="stopped before the item was processed"):
                await results[item]
        stopped_at = now()
        await queue.process(service, workers)
        assert await queue.stop() is True
        assert now() - stopped_at < NEVER, "the next workers take it at once"
        assert in_order(service.items[4:]) == ["a", "c", "d"]
        assert queue.metrics["processed"] == queue.metrics["enqueued"] == 4

    async def test_an_outage_does_not_let_the_queue_grow(self, queue_of: QueueOf) -> None:
        service = Service(dict.fromkeys(range(20), 1))
        queue = queue_of(maxsize=5, timeout=0, retry=every(NEVER))
        await queue.process(service, 2)
        for item in range(5):
            assert await queue.put(item, timeout=math.inf)
        await until(lambda: queue.statistics().retrying == 5)
        assert queue.is_full
        assert await queue.put(5) is False
        assert await queue.put(5, timeout=0.05) is False
        with pytest.raises(QueueFullError):
            queue.put_nowait(5)
        with pytest.raises(QueueFullError):
            await queue.submit(5)
        assert queue.metrics["backpressure_events"] == 4
        waiting = asyncio.create_task(queue.put(5, timeout=math.inf))
        await until(lambda: queue.statistics().waiting_putters == 1)
        assert await queue.stop(timeout=0) is False
        with pytest.raises(QueueStateError):
            await waiting
        assert queue.unprocessed == list(range(5))

    async def test_a_put_waits_until_a_postponed_item_is_taken_again(
        self, queue_of: QueueOf
    ) -> None:
        service = Service({"a": 1})
        queue = queue_of(maxsize=1, retry=every(0.3))
        await queue.process(service, 1)
        await put_all(queue, "a")
        await until(lambda: queue.statistics().retrying or len(service.items) > 1)
        assert await queue.put("b", timeout=math.inf) is True
        await queue.join()
        assert service.items == ["a", "a", "b"]

    @pytest.mark.parametrize("end", ["stop", "close"])
    async def test_what_a_worker_had_that_was_replaced_is_tried_again_at_the_end(
        self, queue_of: QueueOf, end: str
    ) -> None:
        worker = Worker(held=True)
        worker.failures = [ConnectionError("1"), ConnectionError("2")]
        queue = queue_of(retry=every(0.01))
        await queue.process(worker, 1)
        await put_all(queue, "a")
        await until(lambda: worker.began == ["a"])
        await queue.process(worker, 1)
        if end == "close":
            queue.close()
        ending = asyncio.create_task(queue.stop() if end == "stop" else queue.join())
        await a_while()  # the new worker leaves: nothing is there for it
        worker.may_go_on.set()
        await soon(ending)
        assert worker.done == ["a"]
        assert queue.unprocessed == []
        assert queue.status == "stopped"

    async def test_a_future_gets_the_final_outcome(self, queue_of: QueueOf) -> None:
        service, handler = Service({1: 2, 2: 9}), Handler()
        queue = queue_of(retry=every(0.01))
        await queue.process(service, 2, handler)
        futures = [await queue.submit(item) for item in range(4)]
        zero, one, error, three = await asyncio.gather(*futures, return_exceptions=True)
        assert (zero, one, three) == (0, 1, 3)
        assert error is service.raised[-1]
        assert attempts_made(error) == 3
        assert handler.got == []
        assert queue.dead_letters == []


class TestRedrive:
    async def test_it_puts_each_back_once(self, queue_of: QueueOf) -> None:
        service = Service(dict.fromkeys(range(5), 2))
        queue = queue_of(retry=every(0.001, attempts=2))
        await queue.process(service, 1, ignore)
        await put_all(queue, *range(5))
        await queue.join()
        assert await queue.redrive() == 5
        assert queue.dead_letters == []
        assert await queue.redrive() == 0
        await queue.join()
        assert Counter(service.items) == dict.fromkeys(range(5), 3)
        assert queue.metrics == {
            "enqueued": 10,
            "processed": 10,
            "errors": 5,
            "backpressure_events": 0,
        }

    async def test_into_a_full_queue_it_loses_none(self, queue_of: QueueOf) -> None:
        service = Service(dict.fromkeys(range(5), 2))
        queue = queue_of(maxsize=2, timeout=0.02, retry=every(0.001, attempts=2))
        await queue.process(service, 1, ignore)
        for item in range(5):
            assert await queue.put(item, timeout=math.inf)
        await queue.join()
        letters = [letter.item for letter in queue.dead_letters]
        assert sorted(letters) == [0, 1, 2, 3, 4]
        await queue.stop()
        await queue.start()  # and there are no workers
        assert await queue.redrive() == 2
        assert queue.unprocessed == letters[:2]
        assert [letter.item for letter in queue.dead_letters] == letters[2:]
        await queue.process(service, 1)
        assert await queue.redrive(timeout=math.inf) == 3
        await queue.join()
        assert queue.dead_letters == []
        assert Counter(service.items) == dict.fromkeys(range(5), 3)

    async def test_into_a_stopped_queue_it_loses_none(self, queue_of: QueueOf) -> None:
        queue = queue_of(maxsize=1, retry=every(0.001, attempts=2))
        await queue.process(Service({"a": 9, "b": 9}), 1, ignore)
        for item in "ab":
            assert await queue.put(item, timeout=math.inf)
        await queue.join()
        letters = [letter.item for letter in queue.dead_letters]
        assert sorted(letters) == ["a", "b"]
        await queue.stop()
        await queue.start()
        await put_all(queue, "in the way")
        waiting = asyncio.create_task(queue.redrive(timeout=math.inf))
        await until(lambda: queue.statistics().waiting_putters == 1)
        await queue.stop(drain=False)
        with pytest.raises(QueueStateError):
            await waiting
        with pytest.raises(QueueStateError, match="Cannot put items when queue is stopped"):
            await queue.redrive()
        assert [letter.item for letter in queue.dead_letters] == letters
        assert queue.unprocessed == ["in the way"]


class TestLimits:
    @pytest.mark.parametrize("how", ["put", "put_nowait", "submit"])
    @pytest.mark.parametrize("what", BAD)
    async def test_an_item_that_no_limit_can_let_pass_is_refused_at_once(
        self, queue_of: QueueOf, what: str, how: str
    ) -> None:
        settings, error, message = BAD[what]
        service = Service()
        queue = queue_of(limits=[Limit(100, 1, name="all"), Limit(5, 10, name="bad", **settings)])
        await queue.process(service, 1)
        with pytest.raises(error, match=message):
            await offer(queue, how, "bad")
        assert (queue.metrics["enqueued"], queue.size, queue.unprocessed) == (0, 0, [])
        await put_all(queue, "good")
        await queue.join()
        assert service.items == ["good"]

    async def test_they_may_be_written_as_text(self, queue_of: QueueOf) -> None:
        service = Service()
        queue = queue_of(limits=["2 per day"])
        await queue.process(service, 1)
        await put_all(queue, *range(4))
        await until(lambda: queue.limits.statistics().waiting == 1)
        assert service.items == [0, 1]
        queue.limits.limit("2 per 86400 s").change(max=4)
        assert await queue.stop() is True
        assert service.items == [0, 1, 2, 3]

    async def test_settle_in_a_worker_function_gives_back_the_difference(
        self, queue_of: QueueOf
    ) -> None:
        tokens = Limit(10, NEVER, cost=lambda item: 5, name="tokens")
        service = Service()

        async def call(item: int) -> None:
            await service(item)
            tokens.settle(1)

        queue = queue_of(limits=[tokens])
        await queue.process(call, 1)
        await put_all(queue, *range(8))
        await until(lambda: len(service.items) == 6 and queue.limits.statistics().waiting == 1)
        tokens.change(max=12)
        assert await queue.stop() is True
        assert service.items == list(range(8))

    async def test_a_rate_limit_error_closes_the_gate_for_all_workers(
        self, queue_of: QueueOf
    ) -> None:
        service = Service({0: 1}, error=lambda: RateLimitError(retry_after=0.3))
        queue = queue_of(limits=[Limit(1000, 1)], retry=every(0.01))
        await queue.process(service, 1)
        began = now()
        await put_all(queue, 0)
        await until(lambda: queue.statistics().gate_closures == 1)
        await queue.process(service, 6)
        await put_all(queue, *range(1, 12))
        assert await queue.stop() is True
        assert all(at - began >= 0.3 for _, at in service.calls[1:])
        assert Counter(service.items) == Counter([*range(12), 0])
        assert len({at for _, at in service.calls[1:]}) > 1, "they do not start in step"

    async def test_an_error_of_a_client_closes_it_too(self, queue_of: QueueOf) -> None:
        service = Service({0: 1}, error=lambda: ClientError(429, {"Retry-After": "0.3"}))
        queue = queue_of(limits=[Limit(1000, 1)], retry=every(0.01))
        await queue.process(service, 1)
        began = now()
        await put_all(queue, 0, 1, 2)
        assert await queue.stop() is True
        assert queue.statistics().gate_closures == 1
        assert all(at - began >= 0.3 for _, at in service.calls[1:])

    async def test_calls_that_are_too_many_at_once_do_not_close_it(self, queue_of: QueueOf) -> None:
        headers = {"Retry-After": "60", "Stripe-Rate-Limited-Reason": "global-concurrency"}
        service = Service({0: 1}, error=lambda: ClientError(429, headers))
        queue = queue_of(limits=[Limit(1000, 1)])
        await queue.process(service, 1, ignore)
        await put_all(queue, 0, 1, 2)
        assert await queue.stop() is True
        assert service.items == [0, 1, 2]
        assert queue.statistics().gate_closures == 0

    async def test_a_busy_key_does_not_hold_up_the_others(self, queue_of: QueueOf) -> None:
        service = Service()
        limit = Limit(1, NEVER, key=lambda item: item[0])
        queue = queue_of(limits=[limit])
        await queue.process(service, 1)
        await put_all(queue, "a1", "a2", "a3", "b1", "c1")
        await until(lambda: len(service.items) == 3 and queue.statistics().retrying == 2)
        assert service.items == ["a1", "b1", "c1"]
        limit.change(max=3)
        assert await queue.stop() is True
        assert service.items[3:] == ["a2", "a3"]

    @pytest.mark.parametrize("keyed", [True, False])
    async def test_a_max_lowered_below_a_waiting_cost_fails_the_item(
        self, queue_of: QueueOf, keyed: bool
    ) -> None:
        key = (lambda item: 0) if keyed else None
        limit = Limit(8, NEVER, cost=lambda item: item, key=key)
        service, handler = Service(), Handler()
        queue = queue_of(limits=[limit], retry=every(0.01))
        await queue.process(service, 1, handler)
        await put_all(queue, 8, 7, 6, 0)
        if keyed:  # no worker is held: both that cost too much wait for their next attempt
            await until(lambda: queue.statistics().retrying >= 2)
        else:
            await until(lambda: queue.limits.statistics().waiting == 1)
        limit.change(max=5)
        assert await queue.stop() is True
        assert service.items == [8, 0]
        assert handler.kinds == [(7, ValueError), (6, ValueError)]
        assert queue.metrics["processed"] == 4
        assert [letter.attempts for letter in queue.dead_letters] == [0, 0]


class TestBudget:
    @pytest.mark.parametrize("how", ["put", "submit"])
    @pytest.mark.parametrize("keyed", [True, False])
    async def test_when_it_is_spent_items_fail_and_are_not_tried_again(
        self, queue_of: QueueOf, how: str, keyed: bool
    ) -> None:
        budget = Budget(7, cost=lambda item: item, name="money")
        rate = Limit(1000, NEVER, key=(lambda item: 0) if keyed else None)
        service, handler = Service(), Handler()
        queue = queue_of(limits=[rate, budget], retry=every(0.01))
        await queue.process(service, 1, handler)
        futures = [await offer(queue, how, item) for item in (3, 8, 5, 4, 1)]
        assert await queue.stop() is True
        assert service.items == [3, 4]
        if how == "submit":
            errors = [future.exception() for future in futures]
            assert [type(errors[place]) for place in (1, 2, 4)] == [BudgetExceededError] * 3
            assert (errors[0], errors[3]) == (None, None)
            return
        assert handler.kinds == [(item, BudgetExceededError) for item in (8, 5, 1)]
        assert [letter.attempts for letter in queue.dead_letters] == [0, 0, 0]
        budget.change(max=13)
        await queue.start()
        await queue.process(service, 1, handler)
        assert await queue.redrive() == 3
        assert await queue.stop() is True
        assert service.items == [3, 4, 5, 1]

    @pytest.mark.parametrize("keyed", [True, False])
    async def test_an_item_waits_that_fits_if_one_under_way_was_cheaper(
        self, queue_of: QueueOf, keyed: bool
    ) -> None:
        budget = Budget(10, cost=lambda item: 6, name="money")
        rate = Limit(1000, NEVER, key=(lambda item: 0) if keyed else None)
        service, handler = Service(), Handler()
        may_end: list[bool] = []
        queue = queue_of(limits=[rate, budget])

        async def call(item: str) -> None:
            await service(item)
            if item == "slow":
                await until(lambda: may_end)
                budget.settle(4)

        await queue.process(call, 2, handler)
        await put_all(queue, "slow", "one", "other")
        await until(lambda: service.items == ["slow"])
        assert not handler.kinds
        may_end.append(True)
        assert await queue.stop() is True
        assert len(service.items) == 2, "one of those that waited"
        assert {*service.items, *handler.items} == {"slow", "one", "other"}
        assert [kind for _, kind in handler.kinds] == [BudgetExceededError]

    async def test_each_attempt_costs(self, queue_of: QueueOf) -> None:
        budget = Budget(2)
        service, handler = Service({0: 5}), Handler()
        queue = queue_of(limits=[budget], retry=every(0.01, attempts=5))
        await queue.process(service, 1, handler)
        await put_all(queue, 0)
        assert await queue.stop() is True
        assert service.items == [0, 0]
        assert handler.kinds == [(0, BudgetExceededError)]
        assert budget.used == 2


class TestAdaptiveConcurrency:
    async def test_a_stop_ends_the_workers_that_were_added_meanwhile(
        self, queue_of: QueueOf
    ) -> None:
        service = Service(takes=0.01)
        queue = queue_of()
        for number in range(1, 5):
            await queue.process(service, AdaptiveConcurrency(1, 32))
            await put_all(queue, *range(100))
            assert await queue.stop() is True
            counts = queue.statistics()
            assert counts.status is QueueStatus.STOPPED
            assert (counts.inflight, counts.worker_count) == (0, 0)
            assert counts.processed == len(service.calls) == 100 * number

    @pytest.mark.parametrize("options", [{"timeout": 0, "drain": False}, {"timeout": 0.02}])
    async def test_a_stop_in_the_middle_of_growth(
        self, queue_of: QueueOf, options: dict[str, Any]
    ) -> None:
        service, grown = Service(takes=0.01), asyncio.Event()

        async def work(item: int) -> None:
            await service(item)
            if queue.worker_count >= 4:
                grown.set()
            if grown.is_set():  # whenever the stop comes, there is something left
                await for_ever()

        queue = queue_of(concurrency_limit=AdaptiveConcurrency(1, 16))
        await queue.process(work)
        await put_all(queue, *range(1000))
        await soon(grown.wait())
        assert await queue.stop(**options) is False
        assert queue.status is QueueStatus.STOPPED
        counts = queue.statistics()
        assert (counts.inflight, counts.worker_count) == (0, 0)
        left = queue.unprocessed
        assert left == sorted(left)
        assert queue.metrics["processed"] + len(left) == 1000
        assert {*service.items, *left} == set(range(1000))


class TestDeadlines:
    async def test_it_fails_at_once_when_the_wait_would_be_for_a_limit(
        self, queue_of: QueueOf
    ) -> None:
        service, handler = Service(), Handler()
        queue = queue_of(limits=[Limit(1, NEVER)], deadline=NEVER / 2)
        await queue.process(service, 1, handler)
        began = now()
        await put_all(queue, "a", "b")
        late = await queue.submit("c", deadline=NEVER / 4)
        await queue.join()
        assert now() - began < NEVER / 4
        assert service.items == ["a"]
        assert handler.kinds == [("b", DeadlineExceededError)]
        assert attempts_made(handler.got[0][1]) == 0
        with pytest.raises(DeadlineExceededError):
            await late

    @pytest.mark.parametrize("how", ["put", "put_nowait", "submit"])
    async def test_one_of_its_own_that_passes_in_the_line(
        self, queue_of: QueueOf, how: str
    ) -> None:
        service, handler = Service(), Handler()
        queue = queue_of(deadline=NEVER)
        await queue.start()
        late = await offer(queue, how, "late", deadline=0.01)
        await offer(queue, how, "in time", deadline=NEVER)
        await put_all(queue, "whenever")
        await asyncio.sleep(0.02)  # for the deadline, and nothing else
        await queue.process(service, 1, handler)
        await queue.join()
        assert service.items == ["in time", "whenever"]
        if how == "submit":
            assert handler.kinds == []
            with pytest.raises(DeadlineExceededError):
                await late
        else:
            assert handler.kinds == [("late", DeadlineExceededError)]

    @pytest.mark.parametrize("deadline", [-1, math.nan, "soon"])
    @pytest.mark.parametrize("how", ["put", "put_nowait", "submit"])
    async def test_one_that_is_none_is_refused_at_once(
        self, queue_of: QueueOf, how: str, deadline: Any
    ) -> None:
        queue = queue_of()
        await queue.start()
        with pytest.raises((ValueError, TypeError), match="deadline must be"):
            await offer(queue, how, "a", deadline=deadline)
        assert queue.is_empty
        assert queue.metrics["enqueued"] == 0
        with pytest.raises((ValueError, TypeError), match="deadline must be"):
            queue_of(deadline=deadline)


class TestBreaker:
    async def test_an_open_one_refuses(self, queue_of: QueueOf) -> None:
        service, handler = Service({"a": 1}), Handler()
        queue = queue_of(breaker=CircuitBreaker(window=1, open_for=NEVER))
        await queue.process(service, 1, handler)
        assert queue.statistics().breaker_state == "closed"
        await put_all(queue, *"abc")
        await queue.join()
        assert queue.statistics().breaker_state == "open"
        assert service.items == ["a"]
        kinds = [("a", ConnectionError), *[(item, CircuitBreakerOpenError) for item in "bc"]]
        assert handler.kinds == kinds
        assert {attempts_made(error) for _, error in handler.got[1:]} == {0}

    async def test_opened_by_hand_it_holds_items_until_it_is_closed(
        self, queue_of: QueueOf
    ) -> None:
        service, breaker = Service(), CircuitBreaker(open_for=0.01)
        queue = queue_of(breaker=breaker, retry=every(0.01))
        await queue.process(service, 1)
        breaker.open(math.inf)
        await put_all(queue, *"ab")
        await until(lambda: queue.statistics().retrying == 2)
        assert queue.statistics().breaker_state == "open"
        await quite_a_while()
        assert service.items == []
        breaker.close()
        assert await queue.stop() is True
        assert queue.statistics().breaker_state == "closed"
        assert Counter(service.items) == {"a": 1, "b": 1}

    async def test_with_retries_items_wait_for_it_and_use_no_attempt(
        self, queue_of: QueueOf
    ) -> None:
        service = Service({"a": 1})
        breaker = CircuitBreaker(window=1, open_for=0.3)
        queue = queue_of(breaker=breaker, retry=every(0.01, attempts=2))
        await queue.process(service, 1)
        await put_all(queue, "a")
        await until(lambda: queue.statistics().retrying or len(service.items) > 1)
        await queue.process(service, 4)
        await put_all(queue, *"bcd")
        assert await queue.stop() is True
        assert Counter(service.items) == {"a": 2, "b": 1, "c": 1, "d": 1}
        assert queue.dead_letters == []
        assert service.calls[1][1] - service.calls[0][1] >= 0.3

    async def test_a_stop_while_it_is_open(self, queue_of: QueueOf) -> None:
        service = Service({"a": 1})
        breaker = CircuitBreaker(window=1, open_for=NEVER)
        queue = queue_of(breaker=breaker, retry=every(0.01))
        await queue.process(service, 2)
        await put_all(queue, "a")
        await until(lambda: queue.statistics().breaker_state == "open")
        await put_all(queue, "b", "c")
        await until(lambda: queue.statistics().retrying == 3)
        assert await queue.stop(timeout=0.05) is False
        assert queue.unprocessed == ["a", "b", "c"]
        await queue.process(service, 2)
        await until(lambda: queue.statistics().retrying == 3)  # it is open still
        assert await queue.stop(timeout=0) is False
        assert queue.unprocessed == ["a", "b", "c"]
        assert service.items == ["a"]


class TestTheGateOfAKey:
    """Which service an item is for, ``gate_key`` says, or the key of a limit."""

    RULES: tuple[Any, ...] = (
        lambda: Policy(gate_key=lambda item: item[0], retry=RetryPolicy(5)),
        lambda: Policy(limits=[Limit(1000, 1, key=lambda item: item[0])], retry=RetryPolicy(5)),
    )

    @pytest.mark.parametrize("rules", RULES, ids=["gate_key", "key"])
    async def test_holds_up_its_items_and_no_others(
        self, queue_of: QueueOf, rules: Callable[[], Policy]
    ) -> None:
        service = Service({"a0": 1}, error=lambda: RateLimitError(retry_after=500))
        policy = rules()
        queue = queue_of(policy=policy)
        await queue.process(service, 1)
        await queue.put("a0")
        await until(lambda: policy.limits.closed_for("a"))
        await put_all(queue, "a1", "b1", "a2", "b2", "c1")
        await until(lambda: len(service.items) == 4)
        await a_while()
        assert service.items == ["a0", "b1", "b2", "c1"]
        assert queue.statistics().inflight == 0
        assert await queue.stop(drain=False) is False
        assert sorted(queue.unprocessed) == ["a0", "a1", "a2"]
        assert policy.statistics().gate_closures == 1

    async def test_opens_by_itself(self, queue_of: QueueOf) -> None:
        service = Service({"a0": 1}, error=lambda: RateLimitError(retry_after=0.2))
        policy = self.RULES[0]()
        async with queue_of(policy=policy) as queue:
            await queue.process(service, 2)
            await queue.put("a0")
            await until(lambda: policy.statistics().retries)
            closed_at = now()
            await put_all(queue, "a1", "a2")
            await soon(queue.join())
        assert sorted(service.items) == ["a0", "a0", "a1", "a2"]
        assert now() - closed_at >= 0.1

    async def test_an_item_whose_key_cannot_be_told_is_refused_at_the_put(
        self, queue_of: QueueOf
    ) -> None:
        async with queue_of(policy=Policy(gate_key=lambda item: item.host)) as queue:
            for how in ("put", "put_nowait"):
                with pytest.raises(ValueError, match="gate_key function raised for a str"):
                    await offer(queue, how, "a")
            assert queue.statistics().size == 0
