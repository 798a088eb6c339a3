"""What one machine makes of its leases. Time is a number here."""

from __future__ import annotations

import math

import pytest

from penstock.brokers.nats.limits.leased_log import Lease, LeasedLog
from penstock.brokers.nats.limits.leases import UNITS, amount


def log_with(*leases: tuple[float, float, float]) -> LeasedLog:
    """A log with leases of (start, until, cost); the server's clock is the local one."""
    log = LeasedLog(10, 1)
    log.server_time = lambda now: int(now * UNITS)
    for start, until, cost in leases:
        log.lease(Lease(start, until, int(until * UNITS), amount(cost)))
    return log


def test_without_a_lease_nothing_can_start() -> None:
    log = log_with()
    assert log.free_at(0) == math.inf
    assert log.lacks


def test_a_lease_can_be_used_from_its_start_until_its_end() -> None:
    log = log_with((1, 2, 1))
    assert log.free_at(0) == 1
    assert log.free_at(1) <= 1
    assert log.free_at(1.9) <= 1.9
    assert log.free_at(2) == math.inf


def test_what_can_be_used_together_adds_up() -> None:
    log = log_with((1, 5, 2), (3, 4, 2), (6, 7, 3))
    assert log.free_at(0, 2) == 1
    assert log.free_at(0, 4) == 3
    assert log.free_at(0, 3) == 3
    assert log.free_at(5, 3) == 6
    assert log.free_at(0, 5) == math.inf


def test_what_can_start_now_is_what_leases_of_now_have_left() -> None:
    log = log_with((1, 5, 2), (3, 4, 2.5))
    assert [log.room(now) for now in (0, 1, 3)] == [0, 2, 4.5]
    log.reserve(1)
    assert [log.room(now) for now in (3, 4, 5)] == [3.5, 2, 0]


def test_what_is_taken_is_gone_and_what_ends_first_goes_first() -> None:
    log = log_with((0, 5, 1), (0, 3, 1))
    assert log.free_at(1) <= 1
    log.confirm(log.reserve(1), 1)
    assert log.free_at(4) <= 4, "the one that ends later is left"
    log.confirm(log.reserve(1), 4)
    assert log.free_at(4) == math.inf


def test_a_start_counts_from_when_it_was_and_not_from_the_end_of_its_lease() -> None:
    log = log_with((0, 5, 3))
    assert log.free_at(1, 2) <= 1
    log.confirm(log.reserve(2), 1)
    assert log.corrections == {5 * UNITS: -2 * UNITS, 1 * UNITS: 2 * UNITS}


def test_what_was_not_used_is_given_back_to_all() -> None:
    log = log_with((0, 5, 3))
    log.free_at(5)
    assert log.corrections == {5 * UNITS: -3 * UNITS}
    assert log.freed


def test_who_comes_after_the_end_of_the_lease_is_late() -> None:
    log = log_with((0, 5, 1))
    assert log.free_at(4) <= 4
    record = log.reserve(1)
    assert not log.is_late(record, 4.9)
    assert log.is_late(record, 5)
    log.cancel(record)
    assert log.free_at(5) == math.inf
    assert log.corrections == {5 * UNITS: -1 * UNITS}


def test_what_one_does_not_use_the_next_may() -> None:
    log = log_with((0, 5, 1))
    assert log.free_at(1) <= 1
    log.cancel(log.reserve(1))
    assert log.free_at(1) <= 1
    assert log.corrections == {}


def test_what_has_started_is_not_given_back() -> None:
    log = log_with((0, 5, 1))
    assert log.free_at(1) <= 1
    record = log.reserve(1)
    log.confirm(record, 1)
    log.cancel(record)
    assert log.free_at(1) == math.inf


@pytest.mark.parametrize(("actual", "more"), [(0.5, -1.5), (0, -2), (3, 1), (2, 0)])
def test_the_true_cost_is_told(actual: float, more: float) -> None:
    log = log_with((0, 5, 2))
    assert log.free_at(1, 2) <= 1
    record = log.reserve(2)
    log.confirm(record, 1)
    log.settle(record, actual)
    assert log.corrections.get(1 * UNITS, 0) == (2 + more) * UNITS
    assert log.freed == (more < 0)


def test_a_start_that_was_not_leased_is_charged() -> None:
    log = log_with()
    log.record(1, 4)
    assert log.corrections == {1 * UNITS: 4 * UNITS}


def test_of_another_ledger_nothing_is_left() -> None:
    log = log_with((0, 5, 1), (0, 1, 1))
    log.free_at(2)
    log.clear()
    assert log.free_at(2) == math.inf
    assert log.corrections == {}
    assert log.is_idle(2)


def test_leases_of_the_same_time_are_kept_as_one() -> None:
    log = log_with((0, 5, 1), (0, 5, 1))
    assert len(log) == 1
    assert log.free_at(0, 2) <= 0
