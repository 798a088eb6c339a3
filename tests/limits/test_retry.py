"""The retry policy: it decides, nobody waits here."""

from __future__ import annotations

import asyncio
import dataclasses
import heapq
import math
import random
import sys
from typing import Any

import pytest
import tenacity
from hypothesis import given, settings
from hypothesis import strategies as st

from helpers.versions import FROM_3_11
from penstock.errors import CircuitBreakerOpenError, QueueStateError, RateLimitError
from penstock.limits.backoff import Backoff
from penstock.limits.budget import RetryBudget
from penstock.limits.retry import RetryPolicy, attempts_made, note_attempts

ERROR = OSError("connection lost")


def test_it_gives_up_after_the_last_attempt() -> None:
    policy = RetryPolicy(attempts=3)
    assert policy.next_wait(1, ERROR) is not None
    assert policy.next_wait(2, ERROR) is not None
    assert policy.next_wait(3, ERROR) is None
    assert policy.next_wait(4, ERROR) is None


def test_one_attempt_is_no_retry() -> None:
    assert RetryPolicy(attempts=1).next_wait(1, ERROR) is None
    assert RetryPolicy(attempts=1, budget=None).next_wait(1, ERROR) is None


def test_the_wait_is_that_of_the_backoff() -> None:
    policy = RetryPolicy(attempts=9, backoff=Backoff(base=1, jitter="none"))
    assert [policy.next_wait(attempt, ERROR) for attempt in (1, 2, 3)] == [1, 2, 4]


def test_the_same_seed_gives_the_same_wait() -> None:
    policy = RetryPolicy()
    assert policy.next_wait(1, ERROR, rng=random.Random(3)) == policy.next_wait(
        1, ERROR, rng=random.Random(3)
    )


def test_a_function_of_attempt_and_error_can_be_the_backoff() -> None:
    def backoff(attempt: int, error: Exception) -> float:
        return attempt * 10 if isinstance(error, OSError) else 0

    policy = RetryPolicy(attempts=5, backoff=backoff)
    assert policy.next_wait(2, ERROR) == 20
    assert policy.next_wait(2, RuntimeError()) == 0


@pytest.mark.parametrize("error", [RateLimitError, CircuitBreakerOpenError])
def test_no_retry_is_earlier_than_the_service_said(error: type[Any]) -> None:
    for backoff in (Backoff(), lambda attempt, error: 0.0):
        wait = RetryPolicy(backoff=backoff).next_wait(1, error("busy", retry_after=30))
        assert wait is not None
        assert wait >= 30


def test_only_errors_that_are_asked_for_are_retried() -> None:
    policy = RetryPolicy(on=(KeyError, ConnectionError))
    assert policy.next_wait(1, KeyError()) is not None
    assert policy.next_wait(1, ConnectionResetError()) is not None
    assert policy.next_wait(1, OSError()) is None


def test_by_default_mistakes_are_not_retried() -> None:
    policy = RetryPolicy()
    assert policy.next_wait(1, TypeError()) is None
    assert policy.next_wait(1, QueueStateError("stopped")) is None


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, asyncio.CancelledError])
def test_what_ends_a_program_or_a_task_is_never_retried(error: type[BaseException]) -> None:
    assert RetryPolicy(on=lambda error: True).next_wait(1, error()) is None


def test_an_empty_budget_ends_the_retries() -> None:
    policy = RetryPolicy(budget=RetryBudget(tokens=28))
    assert [policy.next_wait(1, ERROR) is None for _ in range(3)] == [False, False, True]


def test_giving_up_costs_nothing() -> None:
    budget = RetryBudget()
    policy = RetryPolicy(budget=budget, on=OSError)
    policy.next_wait(3, ERROR)
    policy.next_wait(1, ValueError())
    assert budget.tokens == 500


def test_success_gives_back() -> None:
    budget = RetryBudget()
    policy = RetryPolicy(budget=budget)
    policy.next_wait(1, ERROR)
    policy.next_wait(1, ERROR)
    policy.succeeded(2, ERROR)
    assert budget.tokens == 486
    policy.succeeded(1)
    assert budget.tokens == 487
    RetryPolicy(budget=None).succeeded(1)


def test_each_policy_has_a_budget_of_its_own_unless_it_is_given_one() -> None:
    shared = RetryBudget()
    assert RetryPolicy().budget is not RetryPolicy().budget
    assert RetryPolicy(budget=shared).budget is shared
    assert RetryPolicy(budget=None).budget is None


def test_it_is_frozen() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        RetryPolicy().attempts = 5  # type: ignore[misc]


# --- settings that are wrong -----------------------------------------------------------------


async def async_backoff(attempt: int, error: Exception) -> float:
    return 1.0


@pytest.mark.parametrize(
    ("kwargs", "error", "message"),
    [
        ({"attempts": 0}, ValueError, "attempts must be at least 1, got 0"),
        ({"attempts": -1}, ValueError, "attempts must be at least 1, got -1"),
        ({"attempts": 2.5}, TypeError, "attempts must be an int, got 2.5"),
        ({"attempts": lambda: True}, TypeError, "attempts must accept retry_state"),
        ({"attempts": tenacity.stop_after_attempt}, TypeError, "got the class stop_after_attempt"),
        ({"attempts": 1, "backoff": Backoff()}, ValueError, "leave backoff out, got backoff=Back"),
        ({"attempts": 1, "budget": RetryBudget()}, ValueError, "leave budget out, got budget=Retr"),
        ({"on": ()}, ValueError, "on must have at least one"),
        ({"on": KeyboardInterrupt}, ValueError, "on must be subclasses of Exception"),
        ({"on": "OSError"}, TypeError, "on must be a function"),
        ({"backoff": 5}, TypeError, "backoff must be a function, got 5"),
        ({"backoff": Backoff}, TypeError, "got the class Backoff: write Backoff(...)"),
        ({"backoff": lambda: 5}, TypeError, "backoff must accept attempt and error"),
        ({"backoff": async_backoff}, TypeError, "got the async function"),
        ({"budget": 500}, TypeError, "budget must be a RetryBudget or None, got 500"),
    ],
)
def test_settings_that_make_no_sense(
    kwargs: dict[str, Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        RetryPolicy(**kwargs)


@pytest.mark.parametrize("value", [math.nan, -1, math.inf, None, "1"])
def test_a_backoff_that_returns_no_seconds(value: Any) -> None:
    budget = RetryBudget()
    policy = RetryPolicy(backoff=lambda attempt, error: value, budget=budget)
    with pytest.raises(ValueError, match="what backoff returns must be") as caught:
        policy.next_wait(1, ERROR)
    assert caught.value.__cause__ is ERROR
    assert budget.tokens == 500


@pytest.mark.parametrize("setting", ["on", "backoff", "attempts"])
def test_a_function_that_raises(setting: str) -> None:
    def broken(*args: Any) -> Any:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError) as caught:
        RetryPolicy(**{setting: broken}).next_wait(1, ERROR)
    assert caught.value.__cause__ is ERROR


def test_a_function_that_raises_the_error_itself() -> None:
    def reraise(error: Exception) -> bool:
        raise error

    with pytest.raises(OSError, match="connection lost") as caught:
        RetryPolicy(on=reraise).next_wait(1, ERROR)
    assert caught.value.__cause__ is None


# --- tenacity --------------------------------------------------------------------------------


def test_the_waits_of_tenacity() -> None:
    policy = RetryPolicy(attempts=10, backoff=tenacity.wait_exponential(multiplier=1, max=5))
    assert [policy.next_wait(attempt, ERROR) for attempt in (1, 2, 3, 4)] == [1, 2, 4, 5]


def test_a_wait_of_tenacity_that_looks_at_the_error() -> None:
    wait = tenacity.wait_exception(lambda error: 7.0 if isinstance(error, OSError) else 1.0)
    assert RetryPolicy(backoff=wait).next_wait(1, ERROR) == 7


def test_sums_and_chains_of_waits_of_tenacity() -> None:
    assert RetryPolicy(
        backoff=tenacity.wait_fixed(2) + tenacity.wait_random(0, 1), budget=None
    ).next_wait(1, ERROR) == pytest.approx(2.5, abs=0.5)
    chain = tenacity.wait_chain(tenacity.wait_fixed(1), tenacity.wait_fixed(9))
    assert RetryPolicy(attempts=5, backoff=chain).next_wait(2, ERROR) == 9


def test_the_stops_of_tenacity() -> None:
    policy = RetryPolicy(attempts=tenacity.stop_after_attempt(4))
    assert policy.next_wait(3, ERROR) is not None
    assert policy.next_wait(4, ERROR) is None


def test_stops_of_tenacity_that_look_at_the_time() -> None:
    either = tenacity.stop_after_delay(10) | tenacity.stop_after_attempt(100)
    policy = RetryPolicy(attempts=either)
    assert policy.next_wait(50, ERROR, elapsed=9.9) is not None
    assert policy.next_wait(50, ERROR, elapsed=10) is None


def test_a_stop_of_tenacity_that_looks_at_the_coming_wait() -> None:
    policy = RetryPolicy(attempts=tenacity.stop_before_delay(10), backoff=lambda a, e: 3.0)
    assert policy.next_wait(1, ERROR, elapsed=6.5) is not None
    assert policy.next_wait(1, ERROR, elapsed=7) is None


def test_without_tenacity_its_objects_are_refused_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tenacity", None)
    assert RetryPolicy().next_wait(1, ERROR) is not None
    with pytest.raises(ImportError):
        RetryPolicy(backoff=lambda retry_state: 1.0)


# --- how many attempts -----------------------------------------------------------------------


def test_the_last_error_says_how_many_attempts_were_made() -> None:
    error = OSError("connection lost")
    assert attempts_made(error) == 1
    note_attempts(error, 3)
    assert attempts_made(error) == 3


def test_an_attribute_of_that_name_that_is_no_number_is_not_ours() -> None:
    error: Any = OSError("connection lost")
    error.penstock_attempts = "many"
    assert attempts_made(error) == 1


@FROM_3_11
def test_and_its_traceback_does_too_but_once() -> None:
    error: Any = OSError("connection lost")
    error.add_note("of somebody else")
    note_attempts(error, 3)
    note_attempts(error, 5)
    assert error.__notes__ == ["of somebody else", "penstock: given up after 5 attempts"]
    once: Any = OSError()
    note_attempts(once, 1)
    assert not hasattr(once, "__notes__")


def test_an_error_that_takes_no_attributes_is_left_alone() -> None:
    class ClosedError(Exception):
        def __setattr__(self, name: str, value: object) -> None:
            raise AttributeError(name)

    error = ClosedError()
    note_attempts(error, 3)
    assert attempts_made(error) == 1


# --- simulated -------------------------------------------------------------------------------


def simulate(
    policy: RetryPolicy, items: int, failing: float, seed: int, attempts_per_second: float = 100
) -> tuple[int, int, int]:
    """Calls made, items that succeeded and items given up, where a share of all calls fails."""
    rng = random.Random(seed)
    ready: list[tuple[float, int, int, Exception | None]] = [
        (item / attempts_per_second, item, 1, None) for item in range(items)
    ]
    heapq.heapify(ready)
    calls = succeeded = given_up = 0
    while ready:
        now, item, attempt, last_error = heapq.heappop(ready)
        calls += 1
        if rng.random() >= failing:
            policy.succeeded(attempt, last_error)
            succeeded += 1
            continue
        error = ConnectionError()
        wait = policy.next_wait(attempt, error, rng=rng)
        if wait is None:
            given_up += 1
        else:
            heapq.heappush(ready, (now + wait, item, attempt + 1, error))
    return calls, succeeded, given_up


@pytest.mark.parametrize("seed", range(5))
def test_in_a_total_outage_the_retries_stay_within_the_budget(seed: int) -> None:
    calls, succeeded, given_up = simulate(RetryPolicy(), 2000, 1.0, seed)
    assert (succeeded, given_up) == (0, 2000)
    assert calls - 2000 == 500 // 14


@pytest.mark.parametrize("seed", range(5))
def test_with_one_per_cent_failures_every_item_succeeds(seed: int) -> None:
    _, succeeded, _ = simulate(RetryPolicy(), 2000, 0.01, seed)
    assert succeeded == 2000


@settings(max_examples=50, deadline=None)  # busy machines
@given(failing=st.floats(0, 1), attempts=st.integers(1, 6), seed=st.integers(0, 1000))
def test_every_item_ends_and_no_retry_is_free(failing: float, attempts: int, seed: int) -> None:
    calls, succeeded, given_up = simulate(RetryPolicy(attempts), 100, failing, seed)
    assert succeeded + given_up == 100
    assert 100 <= calls <= 100 * attempts
