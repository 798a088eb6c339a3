"""Rules on the blocking face: what they promise holds for any number of threads."""

from __future__ import annotations

import asyncio
import logging
import math
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection
from typing import Any

import pytest

from penstock import (
    AdaptiveConcurrency,
    CircuitBreaker,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    Limit,
    Limiter,
    QueueStateError,
    QueueStatus,
    RateLimitError,
    RetryPolicy,
)
from penstock.limits import attempts_made
from penstock.limits.permit import current_permits
from penstock.sync import WorkQueue
from sync.helpers import BOUND, eventually, in_thread, queue_threads

KINDS = ["async", "plain"]
SILENT = logging.getLogger("tests.sync.rules")
SILENT.setLevel(logging.CRITICAL + 1)

#: Longer than any test: what waits for so long does not happen in it.
NEVER = 3 * BOUND


def queue_of(maxsize: int = 1000, **rules: Any) -> WorkQueue[Any]:
    return WorkQueue(maxsize, logger=SILENT, **rules)


def every(seconds: float, attempts: int = 3) -> RetryPolicy:
    """Another attempt after just so many seconds, whatever it costs."""
    return RetryPolicy(attempts, backoff=lambda attempt, error: seconds, budget=None)


class Service:
    """A worker function that fails as often as it is told to; plain, or async as ``work``."""

    def __init__(
        self,
        fails: dict[Any, int] | None = None,
        *,
        takes: float = 0.0,
        error: Callable[[], BaseException] = ConnectionError,
    ) -> None:
        self.fails = Counter(fails or {})
        self.takes = takes
        self.error = error
        self.calls: list[tuple[Any, float]] = []
        #: When a limit counted each call, which the call itself notes later, by any time.
        self.counted: dict[Any, float] = {}
        self._lock = threading.Lock()

    def __call__(self, item: Any) -> Any:
        fails = self._begins(item)
        if self.takes:
            time.sleep(self.takes)
        if fails:
            raise self.error()
        return item

    async def work(self, item: Any) -> Any:
        fails = self._begins(item)
        await asyncio.sleep(self.takes)
        if fails:
            raise self.error()
        return item

    def of_kind(self, kind: str) -> Any:
        return self.work if kind == "async" else self

    def _begins(self, item: Any) -> bool:
        with self._lock:
            self.calls.append((item, time.monotonic()))
            for permit in current_permits():
                self.counted.update((item, record.at) for record in permit._records)
            fails = self.fails[item] > 0
            self.fails[item] -= fails
            return fails

    @property
    def items(self) -> list[Any]:
        return [item for item, _ in self.calls]

    def times(self, item: Any) -> list[float]:
        return [at for called, at in self.calls if called == item]


class Handler:
    def __init__(self) -> None:
        self.got: list[tuple[Any, Exception]] = []

    def __call__(self, error: Exception, item: Any) -> None:
        self.got.append((item, error))

    @property
    def kinds(self) -> list[tuple[Any, type]]:
        return [(item, type(error)) for item, error in self.got]


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
def test_no_worker_is_held_while_an_item_waits_for_its_next_attempt(kind: str) -> None:
    service = Service({"a": 1})
    queue = queue_of(retry=every(NEVER))
    queue.process(service.of_kind(kind), 1)
    for item in "abc":
        queue.put(item)
    eventually(lambda: queue.metrics["processed"] == 2)
    assert service.items == ["a", "b", "c"]
    now = queue.statistics()
    assert (now.retrying, now.inflight, now.unfinished) == (1, 0, 1)
    assert queue.unprocessed == ["a"]
    assert queue.join(timeout=0.05) is False
    assert within_the_bound(queue.stop, timeout=0.05) is False


@pytest.mark.parametrize("workers", [1, 3])
@pytest.mark.parametrize("kind", KINDS)
def test_join_and_stop_wait_for_it(kind: str, workers: int) -> None:
    service, handler = Service({1: 1, 3: 2, 4: 9}), Handler()
    queue = queue_of(retry=every(0.02))
    queue.process(service.of_kind(kind), workers, handler)
    for item in range(6):
        queue.put(item)
    assert queue.join(timeout=BOUND)
    assert Counter(service.items) == {0: 1, 1: 2, 2: 1, 3: 3, 4: 3, 5: 1}
    service.fails[6] = 2
    queue.put(6)
    assert within_the_bound(queue.stop) is True
    assert len(service.times(6)) == 3
    assert handler.kinds == [(4, ConnectionError)]
    assert attempts_made(handler.got[0][1]) == 3
    assert (queue.metrics["errors"], queue.statistics().retries) == (1, 7)
    assert [letter.item for letter in queue.dead_letters] == [4]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("options", [{"timeout": 0.05}, {"drain": False}])
def test_a_stop_that_does_not_hands_it_back(options: dict[str, Any], kind: str) -> None:
    service = Service({"a": 1, "c": 1})
    queue = queue_of(retry=every(NEVER))
    queue.process(service.of_kind(kind), 2)
    results = [queue.submit(item) for item in "abc"]
    eventually(lambda: queue.statistics().retrying == 2 and results[1].done())
    assert within_the_bound(queue.stop, **options) is False
    assert queue.status is QueueStatus.STOPPED
    assert queue.unprocessed == ["a", "c"]
    for item in (0, 2):
        assert isinstance(results[item].exception(BOUND), QueueStateError)
    queue.process(service.of_kind(kind), 2)
    assert within_the_bound(queue.stop) is True
    assert Counter(service.items) == {"a": 2, "b": 1, "c": 2}
    assert queue.metrics["processed"] == queue.metrics["enqueued"] == 3


@pytest.mark.parametrize("kind", KINDS)
def test_an_outage_does_not_let_the_queue_grow(kind: str) -> None:
    service = Service(dict.fromkeys(range(20), 1))
    queue = queue_of(5, retry=every(NEVER))
    queue.process(service.of_kind(kind), 2)
    for item in range(5):
        assert queue.put(item, timeout=math.inf)
    eventually(lambda: queue.statistics().retrying == 5)
    assert not queue.put(5, timeout=0)
    assert not queue.put(5, timeout=0.05)
    waiting = in_thread(queue.put, 5, math.inf)
    eventually(lambda: queue.statistics().waiting_putters == 1)
    assert within_the_bound(queue.stop, timeout=0.05) is False
    assert isinstance(waiting.exception(BOUND), QueueStateError)
    assert queue.unprocessed == list(range(5))


@pytest.mark.parametrize("kind", KINDS)
def test_a_putter_goes_on_when_a_postponed_item_is_taken_again(kind: str) -> None:
    service = Service({"a": 1})
    with queue_of(1, retry=every(0.05)) as queue:
        queue.process(service.of_kind(kind))
        queue.put("a")
        eventually(lambda: service.items)
        assert in_thread(queue.put, "b", math.inf).result(BOUND) is True
        assert queue.join(timeout=BOUND)
    assert service.items == ["a", "a", "b"]


@pytest.mark.parametrize("kind", KINDS)
def test_results_are_the_final_outcomes(kind: str) -> None:
    service = Service({1: 2, 2: 9})
    queue = queue_of(retry=every(0.01))
    results = list(
        queue.map(service.of_kind(kind), range(4), num_workers=2, return_exceptions=True)
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


@pytest.mark.parametrize("kind", KINDS)
def test_redrive(kind: str) -> None:
    service = Service(dict.fromkeys(range(4), 2))
    with queue_of(2, retry=every(0.001, attempts=2)) as queue:
        queue.process(service.of_kind(kind), 2, Handler())
        for item in range(4):
            assert queue.put(item, timeout=math.inf)
        assert queue.join(timeout=BOUND)
        assert sorted(letter.item for letter in queue.dead_letters) == [0, 1, 2, 3]
        queue.queue.stop_workers()
        assert queue.redrive(timeout=0.02) == 2  # there is no room for more
        assert len(queue.dead_letters) == 2
        queue.process(service.of_kind(kind), 2)
        assert within_the_bound(queue.redrive, timeout=math.inf) == 2
        assert queue.join(timeout=BOUND)
        assert queue.dead_letters == []
    assert Counter(service.items) == dict.fromkeys(range(4), 3)
    with pytest.raises(QueueStateError, match="when queue is stopped"):
        queue.redrive()


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
    within_the_bound(queue.batch_process, range(35), service.of_kind(kind), 8)
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
                service(("other", number))

    jobs = [
        in_thread(queue_of(limits=limiter).batch_process, range(10), service, 4),
        in_thread(queue_of(limits=limiter).batch_process, range(10, 20), service.work, 4),
        in_thread(other),
    ]
    for job in jobs:
        job.result(BOUND)
    assert len(service.calls) == len(service.counted) == 30
    assert_limited(service.counted.values(), 10, 0.2)
    assert time.monotonic() - began >= 0.4


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_takes_the_items_of_those_who_wait_for_a_limit(kind: str) -> None:
    service, limit = Service(), Limit(1, NEVER)
    queue = queue_of(limits=[limit])
    queue.process(service.of_kind(kind), 3)
    for item in range(5):
        queue.put(item)
    eventually(lambda: service.items and queue.statistics().inflight == 3)
    assert within_the_bound(queue.stop, timeout=0.05) is False
    assert queue.unprocessed == [1, 2, 3, 4]
    limit.change(max=100)  # those who still wait for it must not make a call any more
    eventually(lambda: queue.limits.statistics().waiting == 0)
    eventually(all_threads_are_gone)
    assert service.items == [0]
    assert queue.unprocessed == [1, 2, 3, 4]
    queue.process(service.of_kind(kind), 2)
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
    queue.process(service.of_kind(kind), 3)
    for item in range(3):
        queue.put(item)
    eventually(lambda: service.items and queue.statistics().inflight == 2)
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


@pytest.mark.parametrize("kind", KINDS)
def test_a_rate_limit_error_closes_the_gate_for_all(kind: str) -> None:
    service = Service({0: 1}, error=lambda: RateLimitError(retry_after=0.3))
    queue = queue_of(retry=every(0.01))
    began = time.monotonic()
    queue.process(service.of_kind(kind), 1)
    queue.put(0)
    eventually(lambda: queue.statistics().gate_closures == 1)
    queue.process(service.of_kind(kind), 6)
    for item in range(1, 12):
        queue.put(item)
    assert within_the_bound(queue.stop) is True
    assert all(at - began >= 0.3 for _, at in service.calls[1:])
    assert Counter(service.items) == Counter([*range(12), 0])


@pytest.mark.parametrize("kind", KINDS)
def test_a_busy_key_does_not_hold_up_the_others(kind: str) -> None:
    service = Service()
    queue = queue_of(limits=[Limit(1, 1, key=lambda item: item[0])])
    queue.process(service.of_kind(kind), 2)
    for item in ["a1", "a2", "b1", "c1"]:
        queue.put(item)
    assert within_the_bound(queue.stop) is True
    assert sorted(service.items[:3]) == ["a1", "b1", "c1"]
    assert service.items[3:] == ["a2"]
    assert_limited([at for item, at in service.counted.items() if item[0] == "a"], 1, 1)


@pytest.mark.parametrize("kind", KINDS)
def test_settle(kind: str) -> None:
    tokens = Limit(10, NEVER, cost=lambda item: 5, name="tokens")
    calls: list[int] = []

    def call(item: int) -> None:
        calls.append(item)
        tokens.settle(1)

    async def call_async(item: int) -> None:
        call(item)

    queue = queue_of(limits=[tokens])
    queue.process(call_async if kind == "async" else call)
    for item in range(8):
        queue.put(item)
    eventually(lambda: len(calls) == 6 and queue.limits.statistics().waiting == 1)
    tokens.change(max=12)
    assert within_the_bound(queue.stop) is True
    assert calls == list(range(8))


@pytest.mark.parametrize("how", ["put", "put_nowait", "submit"])
def test_an_item_that_no_limit_can_let_pass_is_refused_at_once(how: str) -> None:
    with queue_of(limits=[Limit(5, 1, cost=lambda item: item)]) as queue:
        for cost in (6, -1, math.nan):
            with pytest.raises(ValueError, match="cost"):
                getattr(queue, how)(cost)
        with pytest.raises(TypeError, match="must be a number"):
            getattr(queue, how)("much")
        assert (queue.metrics["enqueued"], queue.size) == (0, 0)
        assert queue.put(5)
        assert queue.get(timeout=BOUND) == 5
        queue.task_done()


@pytest.mark.parametrize("kind", KINDS)
def test_a_max_lowered_below_a_waiting_cost_fails_the_item(kind: str) -> None:
    limit = Limit(8, NEVER, cost=lambda item: item)
    service, handler = Service(), Handler()
    queue = queue_of(limits=[limit], retry=every(0.01))
    queue.process(service.of_kind(kind), 1, handler)
    for cost in (8, 7, 6, 0):
        queue.put(cost)
    eventually(lambda: queue.limits.statistics().waiting == 1)
    limit.change(max=5)
    assert within_the_bound(queue.stop) is True
    assert service.items == [8, 0]
    assert handler.kinds == [(7, ValueError), (6, ValueError)]
    assert queue.metrics["processed"] == 4


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
    within_the_bound(queue.batch_process, range(200), service.of_kind(kind))
    assert sorted(service.items) == list(range(200))
    results = list(queue.map(service.of_kind(kind), range(100)))
    assert results == list(range(100))
    assert queue.status is QueueStatus.STOPPED


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_ends_the_workers_that_were_added_meanwhile(kind: str) -> None:
    service = Service(takes=0.01)
    queue = queue_of(concurrency_limit=AdaptiveConcurrency(1, 32))
    try:
        for number in range(1, 5):
            queue.process(service.of_kind(kind), AdaptiveConcurrency(1, 32))
            for item in range(100):
                queue.put(item)
            assert within_the_bound(queue.stop) is True
            now = queue.statistics()
            assert now.status is QueueStatus.STOPPED
            assert (now.inflight, now.worker_count, now.processed) == (0, 0, 100 * number)
    finally:
        within_the_bound(queue.stop)


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_in_the_middle_of_growth(kind: str) -> None:
    service = Service(takes=0.01)
    queue = queue_of(concurrency_limit=AdaptiveConcurrency(1, 32))
    queue.process(service.of_kind(kind))
    for item in range(300):
        queue.put(item)
    eventually(lambda: queue.worker_count >= 4)
    within_the_bound(queue.stop, timeout=0, drain=False)
    assert queue.status is QueueStatus.STOPPED
    assert queue.worker_count == 0
    left = queue.unprocessed
    assert queue.metrics["processed"] + len(left) == 300
    assert left == sorted(left)


# -- deadlines and the breaker ----------------------------------------------------------------


@pytest.mark.parametrize("kind", KINDS)
def test_what_cannot_be_in_time_is_not_attempted(kind: str) -> None:
    service, handler = Service(), Handler()
    with queue_of(limits=[Limit(1, NEVER)], deadline=BOUND) as queue:
        queue.process(service.of_kind(kind), 1, handler)
        queue.put("a")
        queue.put("b")
        late = queue.submit("c", deadline=1)
        assert queue.join(timeout=BOUND)
    assert service.items == ["a"]
    assert handler.kinds == [("b", DeadlineExceededError)]
    assert isinstance(late.exception(BOUND), DeadlineExceededError)


@pytest.mark.parametrize("how", ["put", "put_nowait", "submit"])
@pytest.mark.parametrize("kind", KINDS)
def test_a_deadline_that_passes_in_the_line(kind: str, how: str) -> None:
    service, handler = Service(), Handler()
    with queue_of() as queue:
        if how == "submit":
            late = queue.submit("a", deadline=0.01)
        else:
            getattr(queue, how)("a", deadline=0.01)
        getattr(queue, how)("b", deadline=BOUND)
        time.sleep(0.02)  # for the deadline, and nothing else
        queue.process(service.of_kind(kind), 1, handler)
        assert queue.join(timeout=BOUND)
    assert service.items == ["b"]
    if how == "submit":
        assert isinstance(late.exception(BOUND), DeadlineExceededError)
        assert handler.kinds == []
    else:
        assert handler.kinds == [("a", DeadlineExceededError)]


def test_a_deadline_that_is_none_is_refused_at_the_put() -> None:
    with queue_of(1) as queue:
        for put in (queue.put, queue.put_nowait, queue.submit):
            with pytest.raises(ValueError, match="deadline must be zero or more"):
                put("a", deadline=-1)
        assert queue.is_empty
        assert queue.metrics["enqueued"] == 0


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_breaker_refuses(kind: str) -> None:
    service, handler = Service({"a": 1}), Handler()
    with queue_of(breaker=CircuitBreaker(window=1, open_for=NEVER)) as queue:
        queue.process(service.of_kind(kind), 1, handler)
        for item in "abc":
            queue.put(item)
        assert queue.join(timeout=BOUND)
        assert queue.statistics().breaker_state == "open"
    assert service.items == ["a"]
    assert handler.kinds[1:] == [("b", CircuitBreakerOpenError), ("c", CircuitBreakerOpenError)]


@pytest.mark.parametrize("kind", KINDS)
def test_with_retries_items_wait_for_it(kind: str) -> None:
    service = Service({"a": 1})
    breaker = CircuitBreaker(window=1, open_for=0.3)
    queue = queue_of(breaker=breaker, retry=every(0.01, attempts=2))
    queue.process(service.of_kind(kind), 1)
    queue.put("a")
    eventually(lambda: service.items)
    queue.process(service.of_kind(kind), 4)
    for item in "bcd":
        queue.put(item)
    assert within_the_bound(queue.stop) is True
    assert Counter(service.items) == {"a": 2, "b": 1, "c": 1, "d": 1}
    assert service.calls[1][1] - service.calls[0][1] >= 0.3


@pytest.mark.parametrize("kind", KINDS)
def test_a_stop_while_it_is_open(kind: str) -> None:
    service = Service({"a": 1})
    breaker = CircuitBreaker(window=1, open_for=NEVER)
    queue = queue_of(breaker=breaker, retry=every(0.01))
    queue.process(service.of_kind(kind), 2)
    queue.put("a")
    eventually(lambda: queue.statistics().breaker_state == "open")
    queue.put("b")
    queue.put("c")
    eventually(lambda: queue.statistics().retrying == 3)
    assert within_the_bound(queue.stop, timeout=0.05) is False
    assert queue.unprocessed == ["a", "b", "c"]
    assert service.items == ["a"]
