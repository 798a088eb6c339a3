"""Rules on the blocking face: what they promise holds for any number of threads."""

from __future__ import annotations

import asyncio
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import pytest

from helpers.handlers import Handler
from helpers.logs import SILENT
from helpers.retries import every
from helpers.services import Service
from penstock import (
    AdaptiveConcurrency,
    Limit,
    Limiter,
    QueueStatus,
    RateLimitError,
)
from penstock.limits import attempts_made
from penstock.sync import WorkQueue
from sync.helpers import BOUND, eventually, in_thread, queue_threads

KINDS = ["async", "plain"]

#: Longer than any test: what waits for so long does not happen in it.
NEVER = 3 * BOUND


def queue_of(maxsize: int = 1000, **rules: Any) -> WorkQueue[Any]:
    return WorkQueue(maxsize, logger=SILENT, **rules)


def of_kind(kind: str, service: Service) -> Any:
    return service if kind == "async" else service.in_thread


def within_the_bound(func: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
    return in_thread(func, *args, **kwargs).result(BOUND)


def assert_limited(starts: Collection[float], maximum: int, period: float) -> None:
    """No window holds more."""
    times = sorted(starts)
    for first, last in zip(times, times[maximum:], strict=False):
        assert first + period <= last


#: Threads that were there before: those that tests of stuck functions left behind.
OTHERS: set[threading.Thread] = set()


@pytest.fixture(autouse=True)
def know_the_others() -> None:
    OTHERS.clear()
    OTHERS.update(queue_threads())


def all_threads_are_gone() -> bool:
    return not queue_threads() - OTHERS


# -- retries ----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_the_final_outcomes(kind: str) -> None:
    service = Service({1: 2, 2: 9})
    queue = queue_of(retry=every(0.01))
    results = list(
        queue.map(of_kind(kind, service), range(4), num_workers=2, return_exceptions=True)
    )
    assert (results[0], results[1], results[3]) == (0, 1, 3)
    assert isinstance(results[2], ConnectionError)
    assert attempts_made(results[2]) == 3
    assert queue.dead_letters == []


def test_many_items_many_threads_one_call_in_ten_fails() -> None:
    count = threading.Lock()
    calls: Counter[int] = Counter()
    done: Counter[int] = Counter()

    def shaky(item: int) -> None:
        with count:
            calls[item] += 1
            if (item + calls[item]) % 10 == 0:
                raise ConnectionError
            done[item] += 1

    queue = queue_of(20, retry=every(0.001, attempts=5))
    queue.process(shaky, 8)

    def put_some(first: int) -> None:
        for item in range(first, 2000, 4):
            assert queue.put(item, timeout=BOUND)

    putters = [in_thread(put_some, first) for first in range(4)]
    for putter in putters:
        putter.result(BOUND)
    assert within_the_bound(queue.stop) is True
    assert done == Counter(range(2000))
    assert queue.metrics["processed"] == queue.metrics["enqueued"] == 2000
    assert queue.statistics().retries == 200


def test_redrive_from_many_threads_puts_each_back_once() -> None:
    service = Service(dict.fromkeys(range(100), 2))
    with queue_of(retry=every(0.001, attempts=2)) as queue:
        queue.process(service, 4, Handler())
        for item in range(100):
            queue.put(item)
        assert queue.join(timeout=BOUND)
        counts = [in_thread(queue.redrive) for _ in range(6)]
        assert sum(count.result(BOUND) for count in counts) == 100
        assert queue.join(timeout=BOUND)
    assert Counter(service.items) == dict.fromkeys(range(100), 3)


# -- limits -----------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_eight_threads_keep_to_one_limit(kind: str) -> None:
    service = Service(takes=0.005)
    queue = queue_of(limits=[Limit(10, 0.3)])
    began = time.monotonic()
    within_the_bound(queue.batch_process, range(35), of_kind(kind, service), 8)
    assert time.monotonic() - began >= 0.9
    assert_limited(service.counted.values(), 10, 0.3)
    assert sorted(service.items) == sorted(service.counted) == list(range(35))


def test_queues_threads_and_the_event_loop_share_a_limiter() -> None:
    limiter = Limiter([Limit(10, 0.2)])
    service = Service()
    began = time.monotonic()

    def other() -> None:
        for number in range(10):
            with limiter:
                service.in_thread(("other", number))

    jobs = [
        in_thread(queue_of(limits=limiter).batch_process, range(10), service, 4),
        in_thread(queue_of(limits=limiter).batch_process, range(10, 20), service, 4),
        in_thread(other),
    ]
    for job in jobs:
        job.result(BOUND)
    assert len(service.calls) == len(service.counted) == 30
    assert_limited(service.counted.values(), 10, 0.2)
    assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_what_waits_for_a_limit_is_in_no_workers_hand_and_is_there_after_a_stop(kind: str) -> None:
    service, limit = Service(), Limit(1, NEVER)
    queue = queue_of(limits=[limit])
    queue.process(of_kind(kind, service), 3)
    for item in range(5):
        queue.put(item)
    eventually(lambda: service.items and queue.limits.statistics().waiting == 3)
    eventually(lambda: queue.statistics().inflight == 0)
    assert queue.unprocessed == [1, 2, 3, 4]
    assert within_the_bound(queue.stop, timeout=0.05) is False
    assert queue.unprocessed == [1, 2, 3, 4]
    assert queue.limits.statistics().waiting == 0
    limit.change(max=100)
    eventually(all_threads_are_gone)
    assert service.items == [0]
    assert queue.unprocessed == [1, 2, 3, 4]
    queue.process(of_kind(kind, service), 2)
    assert within_the_bound(queue.stop) is True
    assert sorted(service.items) == [0, 1, 2, 3, 4]


@pytest.mark.parametrize(
    "kind",
    [
        "async",
        pytest.param(
            "plain",
        ),
    ],
)
def test_and_they_are_no_dead_letters(kind: str) -> None:
    service, limit = Service(), Limit(1, NEVER)
    queue = queue_of(limits=[limit], retry=every(0.01))
    queue.process(of_kind(kind, service), 3)
    for item in range(3):
        queue.put(item)
    eventually(lambda: service.items and queue.limits.statistics().waiting == 2)
    within_the_bound(queue.stop, timeout=0.02)
    limit.change(max=100)
    eventually(lambda: queue.limits.statistics().waiting == 0)
    eventually(all_threads_are_gone)
    assert queue.unprocessed == [1, 2]
    assert queue.dead_letters == []


def test_what_a_given_up_thread_raises_is_no_attempt_of_the_item() -> None:
    began, may_go_on = threading.Event(), threading.Event()

    def stuck(item: str) -> None:
        began.set()
        assert may_go_on.wait(BOUND)
        raise ConnectionError

    queue = queue_of(retry=every(0.01))
    queue.process(stuck)
    queue.put("a")
    assert began.wait(BOUND)
    assert within_the_bound(queue.stop, timeout=0.02) is False
    may_go_on.set()
    eventually(all_threads_are_gone)
    assert queue.unprocessed == ["a"]
    assert queue.statistics().retries == 0
    handler = Handler()
    queue.process(stuck, 1, handler)
    assert within_the_bound(queue.stop) is True
    assert [attempts_made(error) for _, error in handler.got] == [3]


# -- adaptive concurrency ---------------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_the_number_of_workers_follows(kind: str) -> None:
    overloaded = threading.Event()
    under_way = 0
    lock = threading.Lock()

    def enter(item: int) -> None:
        nonlocal under_way
        with lock:
            under_way += 1
            if overloaded.is_set() and under_way > 4:
                under_way -= 1
                raise RateLimitError

    def leave() -> None:
        nonlocal under_way
        with lock:
            under_way -= 1

    def plain(item: int) -> None:
        enter(item)
        time.sleep(0.005)
        leave()

    async def work(item: int) -> None:
        enter(item)
        await asyncio.sleep(0.005)
        leave()

    adaptive = AdaptiveConcurrency(2, 24)
    queue = queue_of(50, concurrency_limit=adaptive, retry=every(0.01, attempts=1000))
    queue.process(work if kind == "async" else plain)
    assert queue.worker_count == 2
    enough = threading.Event()

    def feed() -> None:
        while not enough.is_set():
            queue.put(0, timeout=0.1)

    feeder = in_thread(feed)
    eventually(lambda: queue.worker_count >= 10)
    overloaded.set()
    eventually(lambda: queue.worker_count <= 5)
    overloaded.clear()
    eventually(lambda: queue.worker_count >= 6)
    enough.set()
    feeder.result(BOUND)
    assert queue.join(timeout=BOUND)
    eventually(lambda: queue.worker_count == adaptive.limit)
    within_the_bound(queue.process, plain, 3)
    assert (queue.worker_count, queue.statistics().concurrency_limit) == (3, None)
    assert within_the_bound(queue.stop) is True
    assert queue.metrics["processed"] == queue.metrics["enqueued"]


@pytest.mark.parametrize("kind", KINDS)
def test_adaptive_concurrency_in_a_batch_and_in_a_map(kind: str) -> None:
    service = Service(takes=0.001)
    queue = queue_of(20, concurrency_limit=AdaptiveConcurrency(2, 16))
    within_the_bound(queue.batch_process, range(200), of_kind(kind, service))
    assert sorted(service.items) == list(range(200))
    results = list(queue.map(of_kind(kind, service), range(100)))
    assert results == list(range(100))
    assert queue.status is QueueStatus.STOPPED
