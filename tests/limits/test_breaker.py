"""The circuit breaker: when it opens, whom it lets through then, and when it closes."""

from __future__ import annotations

import asyncio
import logging
import math
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from helpers.tasks import now
from penstock.errors import CircuitBreakerOpenError, RateLimitError
from penstock.limits.breaker import BreakerState, CircuitBreaker

ERROR = OSError("connection lost")


def call(breaker: CircuitBreaker, now: float, error: BaseException | None = None) -> None:
    permit = breaker.allow(now)
    if error is None:
        breaker.succeeded(now, permit)
    else:
        breaker.failed(now, permit, error)


def opened(now: float = 0.0, **settings: Any) -> CircuitBreaker:
    breaker = CircuitBreaker(**{"window": 4, "open_for": 30.0, **settings})
    while breaker.state(now) is BreakerState.CLOSED:
        call(breaker, now, ERROR)
    return breaker


def refused(breaker: CircuitBreaker, now: float) -> float | None:
    with pytest.raises(CircuitBreakerOpenError) as caught:
        breaker.allow(now)
    return caught.value.retry_after


def test_it_is_closed_at_first_and_lets_everything_through() -> None:
    breaker = CircuitBreaker()
    assert breaker.state(0) is BreakerState.CLOSED
    for _ in range(100):
        breaker.allow(0)


def test_it_opens_when_the_share_of_failures_is_reached() -> None:
    breaker = CircuitBreaker(failure_share=0.5, window=10, minimum=10)
    for error in [None] * 5 + [ERROR] * 4:
        call(breaker, 0, error)
    assert breaker.state(0) is BreakerState.CLOSED
    call(breaker, 0, ERROR)
    assert breaker.state(0) is BreakerState.OPEN
    assert breaker.opened == 1


def test_it_does_not_open_before_enough_calls_are_known() -> None:
    breaker = CircuitBreaker(window=20, minimum=5)
    for _ in range(4):
        call(breaker, 0, ERROR)
    assert breaker.state(0) is BreakerState.CLOSED
    call(breaker, 0, ERROR)
    assert breaker.state(0) is BreakerState.OPEN


def test_half_of_the_window_is_enough_unless_it_is_told_otherwise() -> None:
    breaker = CircuitBreaker(window=20)
    for _ in range(10):
        assert breaker.state(0) is BreakerState.CLOSED
        call(breaker, 0, ERROR)
    assert breaker.state(0) is BreakerState.OPEN


def test_calls_of_long_ago_are_forgotten() -> None:
    breaker = CircuitBreaker(failure_share=1, window=3, minimum=3)
    for error in (None, ERROR, ERROR, ERROR):
        call(breaker, 0, error)
    assert breaker.state(0) is BreakerState.OPEN


def test_open_it_refuses_and_says_until_when() -> None:
    breaker = opened(now=100)
    assert refused(breaker, 100) == 30
    assert refused(breaker, 120) == 10
    assert breaker.retry_after(125) == 5


def test_then_it_is_half_open_and_one_success_closes_it() -> None:
    breaker = opened()
    assert breaker.state(30) is BreakerState.HALF_OPEN
    assert breaker.retry_after(30) == 0
    call(breaker, 30)
    assert breaker.state(30) is BreakerState.CLOSED
    call(breaker, 30, ERROR)
    assert breaker.state(30) is BreakerState.CLOSED, "what was before is forgotten"


def test_a_probe_that_fails_opens_it_again() -> None:
    breaker = opened()
    call(breaker, 40, ERROR)
    assert breaker.state(40) is BreakerState.OPEN
    assert refused(breaker, 69) == 1
    assert breaker.state(70) is BreakerState.HALF_OPEN


@pytest.mark.parametrize("probes", [1, 2, 5])
def test_half_open_it_lets_no_more_through_than_its_quota(probes: int) -> None:
    breaker = opened(probes=probes)
    for _ in range(probes):
        breaker.allow(30)
    for _ in range(100):
        wait = refused(breaker, 30.5)
        assert wait is not None
        assert wait > 0


def test_it_takes_as_many_successes_as_there_are_probes_to_close_it() -> None:
    breaker = opened(probes=3)
    permits = [breaker.allow(30) for _ in range(3)]
    for permit in permits:
        assert breaker.state(31) is BreakerState.HALF_OPEN
        breaker.succeeded(31, permit)
    assert breaker.state(31) is BreakerState.CLOSED


def test_a_probe_that_is_cancelled_makes_room_for_another() -> None:
    breaker = opened()
    breaker.cancelled(breaker.allow(30))
    assert breaker.state(31) is BreakerState.HALF_OPEN
    call(breaker, 31)
    assert breaker.state(31) is BreakerState.CLOSED


@pytest.mark.parametrize("error", [asyncio.CancelledError(), RateLimitError()])
def test_so_does_one_that_says_nothing(error: BaseException) -> None:
    breaker = opened()
    call(breaker, 30, error)
    assert breaker.state(30) is BreakerState.HALF_OPEN
    assert breaker.retry_after(30) == 0


def test_one_that_is_cancelled_makes_room_for_just_one() -> None:
    breaker = opened(probes=2)
    cancelled, _ = breaker.allow(30), breaker.allow(30)
    breaker.cancelled(cancelled)
    breaker.allow(30)
    assert refused(breaker, 30) == 1


def test_it_may_be_open_for_less_than_a_second() -> None:
    breaker = opened(open_for=0.5)
    assert refused(breaker, 0.25) == 0.25
    breaker.allow(0.5)


def test_one_that_succeeds_makes_room_for_just_one() -> None:
    breaker = opened(probes=3)
    permits = [breaker.allow(30) for _ in range(3)]
    breaker.succeeded(30, permits[0])
    breaker.allow(30)
    assert refused(breaker, 30) == 1


def test_probes_that_never_come_back_are_given_up() -> None:
    breaker = opened()
    lost = breaker.allow(30)
    refused(breaker, 59)
    permit = breaker.allow(60)
    breaker.failed(61, lost, ERROR)
    assert breaker.state(61) is BreakerState.HALF_OPEN
    breaker.succeeded(62, permit)
    assert breaker.state(62) is BreakerState.CLOSED


def test_calls_that_began_before_it_opened_change_nothing_when_they_end() -> None:
    breaker = CircuitBreaker(window=4)
    stragglers = [breaker.allow(0) for _ in range(10)]
    for _ in range(2):
        call(breaker, 0, ERROR)
    assert breaker.state(0) is BreakerState.OPEN
    breaker.succeeded(31, stragglers[0])
    breaker.failed(31, stragglers[1], ERROR)
    breaker.cancelled(stragglers[2])
    assert breaker.state(31) is BreakerState.HALF_OPEN
    breaker.allow(31)
    breaker.cancelled(stragglers[3])
    refused(breaker, 31)


def test_by_default_answers_that_are_the_callers_fault_do_not_open_it() -> None:
    class NotFoundError(Exception):
        status_code = 404

    breaker = CircuitBreaker(window=4)
    for _ in range(10):
        call(breaker, 0, NotFoundError())
        call(breaker, 0, RateLimitError())
    assert breaker.state(0) is BreakerState.CLOSED


def test_which_errors_count_can_be_told() -> None:
    breaker = CircuitBreaker(window=2, on=(ConnectionError, RateLimitError))
    for _ in range(5):
        call(breaker, 0, ValueError())
    assert breaker.state(0) is BreakerState.CLOSED
    call(breaker, 0, RateLimitError())
    assert breaker.state(0) is BreakerState.OPEN


def test_a_function_that_raises_counts_as_a_failure_and_is_heard_of() -> None:
    def broken(error: Exception) -> bool:
        raise ZeroDivisionError

    breaker = CircuitBreaker(window=1, on=broken)
    with pytest.raises(ZeroDivisionError) as caught:
        call(breaker, 0, ERROR)
    assert caught.value.__cause__ is ERROR
    assert breaker.state(0) is BreakerState.OPEN


def test_a_clock_that_goes_back_is_another_clock() -> None:
    breaker = opened(now=1000)
    assert refused(breaker, 0) == 30
    assert breaker.state(30) is BreakerState.HALF_OPEN


def test_whoever_only_asks_by_another_clock_changes_nothing() -> None:
    breaker = opened(now=1000)
    assert breaker.state(5) is BreakerState.OPEN
    assert breaker.retry_after(5) == 30
    assert breaker.retry_after(1010) == 20, "and not zero: it opened at 1000"
    assert breaker.state(1010) is BreakerState.OPEN
    probe = breaker.allow(1030)
    assert breaker.retry_after(5) == 1
    assert refused(breaker, 1031) == 1, "the probe has just begun"
    breaker.succeeded(1032, probe)
    assert breaker.state(1032) is BreakerState.CLOSED


def test_a_check_raises_what_allow_would_raise_and_counts_no_call() -> None:
    breaker = opened()
    with pytest.raises(CircuitBreakerOpenError, match=r"is open$") as caught:
        breaker.check(10)
    assert caught.value.retry_after == 20
    for _ in range(3):
        breaker.check(30)
    breaker.allow(30)
    with pytest.raises(CircuitBreakerOpenError, match=r"is half-open$"):
        breaker.check(30)


@pytest.mark.parametrize("seconds", [None, 30.0])
async def test_by_hand_it_is_open_for_a_while(seconds: float | None) -> None:
    breaker = CircuitBreaker(open_for=30.0)
    await asyncio.sleep(5)
    breaker.open(seconds)
    assert refused(breaker, now()) == 30
    await asyncio.sleep(29)
    assert refused(breaker, now()) == 1
    await asyncio.sleep(1)
    assert breaker.state(now()) is BreakerState.HALF_OPEN
    call(breaker, now())
    assert breaker.state(now()) is BreakerState.CLOSED
    assert breaker.opened == 1


async def test_by_hand_it_is_open_until_it_is_closed() -> None:
    breaker = CircuitBreaker(open_for=30.0)
    under_way = breaker.allow(now())
    breaker.open(math.inf)
    await asyncio.sleep(1e9)
    breaker.succeeded(now(), under_way)
    assert breaker.state(now()) is BreakerState.OPEN
    assert refused(breaker, now()) == 30, "it is asked again, for it may be closed"
    breaker.close()
    assert breaker.state(now()) is BreakerState.CLOSED
    assert breaker.retry_after(now()) == 0
    call(breaker, now())


def test_closed_by_hand_it_begins_anew() -> None:
    breaker = opened(minimum=2)
    breaker.close()
    call(breaker, 0, ERROR)
    assert breaker.state(0) is BreakerState.CLOSED
    call(breaker, 0, ERROR)
    assert breaker.state(0) is BreakerState.OPEN


def test_open_already_it_is_open_for_the_new_time() -> None:
    breaker = opened(now=time.monotonic())
    breaker.open(1000.0)
    assert breaker.opened == 1
    assert breaker.state(time.monotonic() + 900) is BreakerState.OPEN
    assert breaker.state(time.monotonic() + 1000) is BreakerState.HALF_OPEN


@pytest.mark.parametrize(
    ("wrong", "text"),
    [
        (0, "seconds must be above 0, got 0"),
        (-1, "seconds must be zero or more seconds"),
        (math.nan, "seconds must be zero or more seconds"),
        ("long", "seconds must be a number of seconds, got 'long'"),
    ],
)
def test_it_is_open_for_a_number_of_seconds(wrong: Any, text: str) -> None:
    breaker = CircuitBreaker()
    with pytest.raises(ValueError, match=text):
        breaker.open(wrong)
    assert breaker.state(0) is BreakerState.CLOSED


class _Hook(float):
    """A time at which a look at it calls a function, once."""

    hook: Callable[[], object] | None = None

    def __lt__(self, other: float) -> bool:
        hook, self.hook = self.hook, None
        if hook is not None:
            hook()
        return float(self) < other


def test_of_two_threads_that_ask_at_once_one_is_let_through() -> None:
    """As where two queues share it."""
    breaker = opened()
    outcomes: list[object] = []

    def ask(now: float) -> None:
        try:
            outcomes.append(breaker.allow(now))
        except CircuitBreakerOpenError as error:
            outcomes.append(error)

    def let_the_other_ask() -> None:
        other.start()
        other.join(0.2)  # it waits for this thread, or else it is done long before

    other = threading.Thread(target=ask, args=[30.0])
    at = _Hook(30.0)
    at.hook = let_the_other_ask
    ask(at)
    other.join(30)
    assert sorted(isinstance(one, int) for one in outcomes) == [False, True]


def test_a_call_that_is_collected_in_the_middle_of_another_tells_of_its_end() -> None:
    breaker = opened(probes=2)
    collected = breaker.allow(30)
    at = _Hook(31.0)
    at.hook = lambda: breaker.cancelled(collected)
    breaker.check(at)
    breaker.allow(31)
    breaker.allow(31)
    assert refused(breaker, 31) == 1


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_lock_that_is_held_in_the_parent_is_free_in_a_child() -> None:
    breaker = opened()
    with breaker._lock:
        child = os.fork()
        if not child:
            done: list[BreakerState] = []
            thread = threading.Thread(target=lambda: done.append(breaker.state(0)), daemon=True)
            thread.start()
            thread.join(20)
            os._exit(0 if done == [BreakerState.OPEN] else 1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


def test_a_check_by_another_clock_is_the_beginning_of_its_time() -> None:
    breaker = opened(now=1000)
    with pytest.raises(CircuitBreakerOpenError):
        breaker.check(0)
    breaker.check(30)


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"failure_share": 0}, ValueError, "failure_share must be above 0 and at most 1, got 0"),
        ({"failure_share": 1.5}, ValueError, "failure_share must be above 0 and at most 1"),
        ({"failure_share": math.nan}, ValueError, "failure_share must be above 0 and at most 1"),
        ({"failure_share": "half"}, TypeError, "failure_share must be a number"),
        ({"window": 0}, ValueError, "window must be at least 1"),
        ({"minimum": 0}, ValueError, "minimum must be at least 1"),
        ({"window": 5, "minimum": 6}, ValueError, "minimum must not be above window=5, got 6"),
        ({"open_for": 0}, ValueError, "open_for must be above 0 and finite"),
        ({"open_for": math.inf}, ValueError, "open_for must be above 0 and finite"),
        ({"open_for": -1}, ValueError, "open_for must be zero or more seconds"),
        ({"probes": 0}, ValueError, "probes must be at least 1"),
        ({"on": KeyboardInterrupt}, ValueError, "on must be subclasses of Exception"),
    ],
)
def test_settings_that_make_no_sense(
    kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        CircuitBreaker(**kwargs)


def test_each_change_of_its_state_is_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "penstock")
    breaker = CircuitBreaker(window=4, minimum=2, open_for=10, name="vendor")
    call(breaker, 0, ERROR)
    call(breaker, 0, ERROR)
    refused(breaker, 5)
    call(breaker, 10, ERROR)
    call(breaker, 20)
    call(breaker, 21)
    breaker.open(math.inf)
    breaker.close()
    breaker.close()
    CircuitBreaker().open(2)
    assert [(record.levelname, record.message) for record in caplog.records] == [
        ("WARNING", "Circuit breaker vendor is open for 10 s: 2 of the last 2 calls failed"),
        ("INFO", "Circuit breaker vendor is half-open: calls that it allows at once: 1"),
        ("WARNING", "Circuit breaker vendor is open for 10 s: a probe failed"),
        ("INFO", "Circuit breaker vendor is half-open: calls that it allows at once: 1"),
        ("INFO", "Circuit breaker vendor is closed: the probes succeeded"),
        ("WARNING", "Circuit breaker vendor is open until it is closed: by hand"),
        ("INFO", "Circuit breaker vendor is closed: close() was called"),
        ("WARNING", "Circuit breaker is open for 2 s: by hand"),
    ]


def test_a_handler_of_the_log_may_ask_another_thread_about_it() -> None:
    """So no lock is held while it is called."""
    breaker, seen = CircuitBreaker(), []

    class Asks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            with ThreadPoolExecutor(1) as threads:
                seen.append(threads.submit(breaker.state, 0).result(30))

    handler = Asks()
    logging.getLogger("penstock").addHandler(handler)
    try:
        breaker.open()
    finally:
        logging.getLogger("penstock").removeHandler(handler)
    assert seen == [BreakerState.OPEN]


class AnyCalls(RuleBasedStateMachine):
    """Whatever is called, when it is not closed no more probes are under way than allowed."""

    def __init__(self) -> None:
        super().__init__()
        self.breaker = CircuitBreaker(window=4, minimum=2, open_for=10, probes=2)
        self.now = 0.0
        self.under_way: list[tuple[int, float, bool]] = []  # permit, when it began, a probe

    @rule(seconds=st.floats(0, 12))
    def wait(self, seconds: float) -> None:
        self.now += seconds

    @rule()
    def begin(self) -> None:
        state, wait = self.breaker.state(self.now), self.breaker.retry_after(self.now)
        if wait > 0:
            assert refused(self.breaker, self.now) == wait
            return
        permit = self.breaker.allow(self.now)
        assert state is not BreakerState.OPEN
        self.under_way.append((permit, self.now, state is BreakerState.HALF_OPEN))

    @rule(which=st.integers(0, 100), how=st.sampled_from(["succeeded", "failed", "cancelled"]))
    def end(self, which: int, how: str) -> None:
        if not self.under_way:
            return
        permit, _, _ = self.under_way.pop(which % len(self.under_way))
        if how == "succeeded":
            self.breaker.succeeded(self.now, permit)
        elif how == "failed":
            self.breaker.failed(self.now, permit, ERROR)
        else:
            self.breaker.cancelled(permit)

    @invariant()
    def few_probes(self) -> None:
        if self.breaker.state(self.now) is not BreakerState.CLOSED:
            probes: dict[int, int] = {}
            for permit, _, is_probe in self.under_way:
                probes[permit] = probes.get(permit, 0) + is_probe
            assert all(count <= 2 for count in probes.values())


TestAnyCalls = AnyCalls.TestCase
TestAnyCalls.settings = settings(
    max_examples=30,
    stateful_step_count=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow],
)


@settings(deadline=None)
@given(st.lists(st.booleans(), max_size=60))
def test_closed_it_knows_the_share_of_its_window(ends: list[bool]) -> None:
    breaker = CircuitBreaker(failure_share=0.6, window=10, minimum=5)
    for count, failed in enumerate(ends, 1):
        call(breaker, 0, ERROR if failed else None)
        last = ends[max(0, count - 10) : count]
        if len(last) >= 5 and sum(last) >= 0.6 * len(last):
            assert breaker.state(0) is BreakerState.OPEN
            return
        assert breaker.state(0) is BreakerState.CLOSED
