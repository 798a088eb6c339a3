"""A limit that several limiters share, as a user of one sees it."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from brokers.servers import NatsServer
from helpers.tasks import soon, until
from penstock import (
    Budget,
    Limit,
    Policy,
    RateLimitedExecutor,
    RateLimitError,
    RetryPolicy,
    WorkQueue,
)
from penstock.brokers.nats import NatsLimiter
from penstock.sync import WorkQueue as SyncWorkQueue

pytestmark = pytest.mark.real_time

#: Seconds in which nothing shall come, and those in which something shall.
SHORT, BOUND = 0.4, 20.0
#: So long that nothing leaves the window during a test.
LONG = 600.0

Make = Callable[..., NatsLimiter]


@pytest.fixture
def make(nats_server: NatsServer) -> Iterator[Make]:
    """Makes limiters of one name."""
    made = []
    shared_name = uuid.uuid4().hex

    def make_one(*limits: Limit, url: str = nats_server.url, **options: Any) -> NatsLimiter:
        options.setdefault("name", shared_name)
        limiter = NatsLimiter(url, limits, **options)
        made.append(limiter)
        return limiter

    yield make_one
    for limiter in made:
        limiter.close()


@asynccontextmanager
async def waiting(limiter: NatsLimiter, item: Any = None) -> AsyncIterator[asyncio.Task[Any]]:
    """One who has waited in vain for a while."""
    task = asyncio.ensure_future(limiter.acquire(item))
    try:
        await asyncio.wait({task}, timeout=SHORT)
        assert not task.done()
        yield task
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


def weighed(most: float, per: float = LONG, name: str = "tokens") -> Limit:
    return Limit(most, per, cost=lambda item: item, name=name)


# -- one rate -------------------------------------------------------------------------------------


async def test_two_share_what_there_is(make: Make) -> None:
    one, two = make(Limit(5, LONG)), make(Limit(5, LONG))
    for limiter in (one, two, one, two, one):
        await soon(limiter.acquire())
    async with waiting(one), waiting(two):
        pass
    assert one.statistics().grants + two.statistics().grants == 5


async def test_other_names_are_other_limits(make: Make) -> None:
    one, two = make(Limit(1, LONG)), make(Limit(1, LONG), name=uuid.uuid4().hex)
    await soon(one.acquire())
    await soon(two.acquire())


async def test_what_leaves_the_window_may_start_elsewhere(make: Make) -> None:
    one, two = make(Limit(1, 0.5)), make(Limit(1, 0.5))
    await soon(one.acquire())
    began = time.monotonic()
    await soon(two.acquire())
    assert time.monotonic() - began >= 0.45


async def test_weights_are_shared(make: Make) -> None:
    one, two = make(weighed(10)), make(weighed(10))
    await soon(one.acquire(6))
    async with waiting(two, 5):
        pass
    await soon(two.acquire(4))


async def test_several_limits_are_taken_as_one(make: Make) -> None:
    one, two = [make(Limit(5, LONG, name="calls"), weighed(10)) for _ in range(2)]
    await soon(one.acquire(10))
    async with waiting(two, 1):
        # It has taken none of the calls while it waits for tokens.
        for _ in range(4):
            await soon(one.acquire(0))
        async with waiting(one, 0):
            pass


async def test_the_true_cost_is_settled_for_all(make: Make) -> None:
    one, two = make(weighed(10)), make(weighed(10))
    permit = await soon(one.acquire(8))
    async with waiting(two, 5) as waiter:
        permit.settle("tokens", 2)
        await soon(waiter)
    permit.settle("tokens", 5)  # as much as there is
    async with waiting(one, 1):
        pass


async def test_a_call_that_is_not_made_costs_nothing(make: Make) -> None:
    one, two = make(Limit(1, LONG)), make(Limit(1, LONG))
    permit = await soon(one.acquire())
    async with waiting(two) as waiter:
        permit.give_back()
        await soon(waiter)


async def test_who_is_cancelled_leaves_his_place_to_the_next(make: Make) -> None:
    limiter = make(Limit(1, 0.6))
    await soon(limiter.acquire())
    first = asyncio.ensure_future(limiter.acquire())
    second = asyncio.ensure_future(limiter.acquire())
    await asyncio.sleep(0.45)  # by now the slot for the first is there
    first.cancel()
    await soon(second)
    assert first.cancelled()


async def test_here_it_is_first_come_first_served(make: Make) -> None:
    limiter = make(Limit(3, 0.2))
    order: list[int] = []

    async def start(number: int) -> None:
        await limiter.acquire()
        order.append(number)

    await soon(asyncio.gather(*[start(number) for number in range(12)]))
    assert order == list(range(12))


async def test_who_comes_too_late_for_his_slot_gets_another(make: Make) -> None:
    """A loop that stands still: the start is in the window in which it is, not when it was due."""
    one, two = make(Limit(2, 0.5)), make(Limit(2, 0.5))
    starts: list[float] = []

    async def start(limiter: NatsLimiter) -> None:
        for _ in range(6):
            await limiter.acquire()
            starts.append(time.monotonic())

    async def stall() -> None:
        for _ in range(5):
            await asyncio.sleep(0.11)
            time.sleep(0.2)  # noqa: ASYNC251 - what a bad citizen does

    await soon(asyncio.gather(start(one), start(two), stall()))
    starts.sort()
    gaps = [later - earlier for earlier, later in zip(starts, starts[2:], strict=False)]
    assert min(gaps) >= 0.49


# -- threads, and those who do not wait -----------------------------------------------------------


def test_threads_share_it_too(make: Make) -> None:
    one, two = make(Limit(4, LONG)), make(Limit(4, LONG))
    threads = [
        threading.Thread(target=limiter.acquire_blocking, args=(None, BOUND))
        for limiter in (one, two, one, two)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(BOUND)
    with pytest.raises(TimeoutError):
        one.acquire_blocking(timeout=SHORT)
    assert one.statistics().grants + two.statistics().grants == 4


async def test_who_does_not_wait_has_it_fetched(make: Make) -> None:
    limiter = make(Limit(1, LONG))
    assert limiter.try_acquire() is None
    await until(limiter.try_acquire)
    assert limiter.try_acquire() is None


async def test_it_is_known_how_long_it_takes(make: Make) -> None:
    one, two = make(Limit(1, 30)), make(Limit(1, 30))
    await soon(one.acquire())
    async with waiting(two):
        assert 25 < two.wait_time() < 31


# -- the gate, and rates that change --------------------------------------------------------------


async def test_closing_the_gate_closes_it_for_all(make: Make) -> None:
    one, two = make(Limit(1000, 1)), make(Limit(1000, 1))
    await soon(one.acquire())
    await soon(two.acquire())
    one.close_for(60)
    began = time.monotonic()
    await until(lambda: two.statistics().closed_for > 50)
    took = time.monotonic() - began
    sys.stdout.write(f"the others knew after {took * 1000:.1f} ms\n")
    async with waiting(two):
        pass
    # And for those who come later.
    async with waiting(make(Limit(1000, 1))) as _:
        pass


async def test_the_headers_of_a_response_count_for_all(make: Make) -> None:
    one, two = make(Limit(1000, 1)), make(Limit(1000, 1))
    await soon(one.acquire())
    await soon(two.acquire())
    one.observe({"Retry-After": "0.8"})
    one.observe({"Retry-After": "1"})
    await until(lambda: two.statistics().closed_for > 0)
    began = time.monotonic()
    await soon(two.acquire())
    assert time.monotonic() - began > 0.5
    assert two.statistics().closures == 1


async def test_a_refusal_without_a_time_closes_it_for_all(make: Make) -> None:
    one, two = make(Limit(1000, 1)), make(Limit(1000, 1))
    await soon(two.acquire())
    one.refused(permit=await soon(one.acquire()))
    await until(lambda: two.statistics().closed_for > 0)
    await soon(asyncio.gather(*[limiter.acquire() for limiter in (one, two) for _ in range(9)]))
    assert (one.statistics().closures, two.statistics().closures) == (1, 1)


async def test_the_gate_of_a_key_is_closed_in_this_process(make: Make) -> None:
    one, two = make(Limit(1000, 1)), make(Limit(1000, 1))
    policy = Policy(limits=one, gate_key=lambda item: item, retry=RetryPolicy(2))
    failed = []

    async def call(item: str) -> None:
        if item == "a" and not failed:
            failed.append(item)
            raise RateLimitError(retry_after=60)

    async with WorkQueue[str](policy=policy, concurrency_limit=1) as queue:
        await queue.process(call)
        for item in "abc":
            assert await queue.put(item, timeout=BOUND)
        await until(lambda: queue.metrics["processed"] == 2)
        assert one.closed_for("a") > 50
        await soon(two.acquire(None, False, "a"))
        assert await queue.stop(timeout=0) is False
        assert queue.unprocessed == ["a"]


async def test_those_who_waited_at_the_gate_all_get_through(make: Make) -> None:
    limiter = make(Limit(1000, 1))
    await soon(limiter.acquire())
    limiter.close_for(0.5)
    await soon(asyncio.gather(*[limiter.acquire() for _ in range(30)]))


async def test_a_rate_changes_for_all(make: Make) -> None:
    one, two = make(Limit(2, LONG, name="calls")), make(Limit(2, LONG, name="calls"))
    await soon(one.acquire())
    await soon(two.acquire())
    async with waiting(two) as waiter:
        one.limit("calls").change(3)
        await soon(waiter)
    assert two.limit("calls").max == 3
    # Who is still told the old one is told the new one.
    three = make(Limit(2, LONG, name="calls"))
    async with waiting(three):
        assert three.limit("calls").max == 3


async def test_other_rates_under_the_same_name_are_refused(make: Make) -> None:
    one, two = make(Limit(100, 1, name="calls")), make(Limit(50, 1, name="calls"))
    await soon(one.acquire())
    with pytest.raises(ValueError, match="'calls' is 100 per 1 s there and 50 per 1 s here"):
        await soon(two.acquire())
    await soon(one.acquire())


async def test_a_queue_keeps_its_items_where_rates_differ(
    make: Make, caplog: pytest.LogCaptureFixture
) -> None:
    one, two = make(Limit(100, 1, name="calls")), make(Limit(50, 1, name="calls"))
    await soon(one.acquire())
    done: list[str] = []

    async def work(item: str) -> None:
        done.append(item)

    queue = WorkQueue[str](limits=two, retry=RetryPolicy(2))
    async with queue:
        await queue.process(work)
        await queue.put("a")
        await until(lambda: "50 per 1 s here" in caplog.text)
        assert queue.dead_letters == []
        two.limit("calls").change(max=100)
        await soon(queue.join())
    assert done == ["a"]
    assert caplog.text.count("50 per 1 s here") == 1


# -- NATS is away ---------------------------------------------------------------------------------


async def test_while_nats_is_away_calls_wait(
    make: Make, start_nats: Callable[..., NatsServer], caplog: pytest.LogCaptureFixture
) -> None:
    server = start_nats(authorization={"user": "me", "password": "hush"})
    url = server.url.replace("://", "://me:hush@")
    server.kill()
    limiter = make(Limit(100, 1), url=url)
    async with waiting(limiter) as waiter:
        server.start()
        await soon(waiter)
    server.kill()
    async with waiting(limiter):
        server.start()
        await soon(limiter.acquire())
    told = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert len([text for text in told if "do not answer" in text]) <= 2
    assert any("answer again" in text for text in told)
    assert "hush" not in caplog.text


async def test_a_request_that_took_long_holds_up_none_after_it(
    make: Make, start_nats: Callable[..., NatsServer]
) -> None:
    """It waited for the server. So long ahead of its start no slot was ever taken."""
    server = start_nats()
    limiter = make(Limit(100, 1), url=server.url)
    await soon(limiter.acquire())
    server.kill()
    async with waiting(limiter), waiting(limiter), waiting(limiter), waiting(limiter):
        server.start()
        await soon(limiter.acquire())


async def test_when_the_bucket_is_lost_nobody_starts_in_excess(
    make: Make, start_nats: Callable[..., NatsServer]
) -> None:
    server = start_nats()
    limiter = make(Limit(3, 2.0), url=server.url, storage="memory")
    for _ in range(3):
        await soon(limiter.acquire())
    began = time.monotonic()
    await asyncio.to_thread(server.restart)
    await soon(limiter.acquire())
    assert time.monotonic() - began >= 1.5


# -- beginning and end ----------------------------------------------------------------------------


async def test_who_waits_when_it_is_closed_is_told(make: Make) -> None:
    limiter = make(Limit(1, LONG))
    await soon(limiter.acquire())
    async with waiting(limiter) as waiter:
        await limiter.aclose()
        with pytest.raises(RuntimeError, match="is closed"):
            await soon(waiter)
    with pytest.raises(RuntimeError, match="is closed"):
        await limiter.acquire()
    limiter.close()
    limiter.close_for(1)  # a call that ends later may still say so


def test_one_that_was_never_used_connects_nowhere() -> None:
    limiter = NatsLimiter("nats://127.0.0.1:1", [Limit(1, 1)], name="idle")
    limiter.close()


async def test_one_that_is_thrown_away_ends_its_thread(nats_server: NatsServer) -> None:
    name = uuid.uuid4().hex
    limiter = NatsLimiter(nats_server.url, [Limit(1, LONG)], name=name)
    await soon(limiter.acquire())
    assert any(name in thread.name for thread in threading.enumerate())
    del limiter

    def is_gone() -> bool:
        gc.collect()  # again and again: its thread may just be at work for it
        return not any(name in thread.name for thread in threading.enumerate())

    await until(is_gone)


@pytest.mark.parametrize("close", [True, False])
def test_a_program_ends_in_silence(nats_server: NatsServer, close: bool) -> None:
    program = f"""
import asyncio
from penstock import Limit
from penstock.brokers.nats import NatsLimiter
limiter = NatsLimiter({nats_server.url!r}, [Limit(1, 60)], name={uuid.uuid4().hex!r})
limiter.acquire_blocking()
if {close}:
    limiter.close()
"""
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", program],
        capture_output=True,
        text=True,
        check=True,
        timeout=BOUND,
    )
    assert done.stdout + done.stderr == ""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_child_is_told_to_make_its_own(make: Make) -> None:
    limiter = make(Limit(1, LONG))
    limiter.acquire_blocking(timeout=BOUND)
    child = os.fork()
    if not child:
        try:
            limiter.acquire_blocking(timeout=1)
        except RuntimeError as error:
            os._exit(0 if "after the fork" in str(error) else 2)
        os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        ({"servers": "http://x"}, "servers must be like nats://"),
        ({"servers": []}, "servers must have at least one URL"),
        ({"limits": []}, "limits must have at least one Limit"),
        ({"limits": [Limit(1, 1, key=str)]}, "has a key, and a NatsLimiter cannot share keys"),
        (
            {"limits": [Budget(9)]},
            "'budget of 9' is a Budget, and a NatsLimiter cannot share budgets",
        ),
        ({"limits": [Limit(1e-7, 1)]}, "must be at least 0.000001"),
        ({"name": "a b"}, "name must be up to 200"),
        ({"bucket": "a.b"}, "bucket must be up to 200"),
        ({"replicas": 0}, "replicas must be at least 1"),
        ({"storage": "paper"}, "storage must be 'file' or 'memory', got 'paper'"),
        ({"options": {"color": "red"}}, "which nats.connect does not know"),
    ],
)
def test_what_is_not_allowed(arguments: dict[str, Any], complaint: str) -> None:
    given: dict[str, Any] = {"servers": "nats://x", "limits": [Limit(1, 1)], "name": "n"}
    with pytest.raises(ValueError, match=complaint):
        NatsLimiter(**{**given, **arguments})


async def test_it_tells_how_much_may_start_here_without_asking(make: Make) -> None:
    limiter = make(Limit(5, LONG, name="calls"))
    assert limiter.remaining() == {"calls": 0}
    permit = await soon(limiter.acquire())
    permit.settle("calls", 0)
    assert 0 <= limiter.remaining()["calls"] <= 5
    assert limiter.utilization() == {}, "nobody here knows what the others use"


# -- wherever a Limiter goes ----------------------------------------------------------------------


async def test_in_a_work_queue(make: Make) -> None:
    one, two = make(Limit(6, LONG)), make(Limit(6, LONG))
    done: list[int] = []

    async def work(item: int) -> None:
        done.append(item)

    async with WorkQueue(limits=one) as first, WorkQueue(limits=two) as second:
        for number, queue in enumerate((first, second, first, second)):
            await queue.put(number)
        await first.process(work, 2)
        await second.process(work, 2)
        await soon(asyncio.gather(first.join(), second.join()))
    assert sorted(done) == [0, 1, 2, 3]
    await soon(one.acquire())
    await soon(two.acquire())
    async with waiting(one):
        pass


async def test_an_answer_of_429_holds_up_the_others(make: Make) -> None:
    one, two = make(Limit(1000, 1)), make(Limit(1000, 1))
    await soon(two.acquire())

    async def refuse(item: int) -> None:
        raise RateLimitError(retry_after=30)

    async with RateLimitedExecutor(one) as executor:
        with pytest.raises(RateLimitError):
            await soon(executor.execute(refuse, 1))
    await until(lambda: two.statistics().closed_for > 20)


def test_in_a_queue_of_threads(make: Make) -> None:
    limiter = make(Limit(4, LONG))
    with SyncWorkQueue(limits=limiter) as queue:
        done = list(queue.map(str, range(4), num_workers=2))
    assert done == ["0", "1", "2", "3"]
    with pytest.raises(TimeoutError):
        limiter.acquire_blocking(timeout=SHORT)
