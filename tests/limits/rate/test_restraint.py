"""What refusals teach about one limit: pure decisions."""

from __future__ import annotations

import pytest

from penstock.limits.rate.restraint import Bounds, Refusal, Restraint

TOLD = Bounds(20, 1.0)


def held(restraint: Restraint) -> tuple[float, float]:
    return restraint.maximum, pytest.approx(restraint.period)  # type: ignore[return-value]


def spread(told: Bounds, fill: int = 21) -> Restraint:
    """One that was refused once, at the start of so many."""
    restraint = Restraint(told)
    restraint.refused(Refusal(0.3, 1, fill), 0.31, 1.0, 1.0)
    return restraint


def test_a_refusal_at_the_limit_makes_the_window_longer_and_spreads_what_is_in_it() -> None:
    restraint = Restraint(TOLD)
    restraint.refused(Refusal(1.0, 1, 20), 1.01, 1.0, 1.0)
    assert held(restraint) == (20, 1.04)
    assert restraint.gap == pytest.approx(1.04 / 20 / 2)


def test_a_margin_of_a_long_window_is_no_share_of_it() -> None:
    restraint = Restraint(Bounds(500, 60.0))
    restraint.refused(Refusal(61.0, 1, 500), 61.0, 1.0, 60.0)
    assert held(restraint) == (500, 60.1)


def test_a_first_refusal_far_below_the_limit_takes_nothing_away_and_leaves_no_bursts() -> None:
    restraint = spread(Bounds(40, 1.0))
    assert held(restraint) == (40, 1.04)
    assert restraint.gap == pytest.approx(1.04 / 40)


def test_another_says_how_much_the_service_takes() -> None:
    restraint = spread(Bounds(40, 1.0))
    restraint.refused(Refusal(2.3, 1, 21), 2.31, 1.0, 1.0)
    assert restraint.maximum == 20


def test_if_spreading_was_in_vain_the_first_refusal_counts_as_well() -> None:
    restraint = spread(Bounds(40, 1.0), 21)
    restraint.refused(Refusal(2.3, 1, 29), 2.31, 1.0, 1.0)  # over two of the service's windows
    assert restraint.maximum == 20


def test_one_refusal_takes_away_half_at_most() -> None:
    restraint = spread(TOLD)
    restraint.refused(Refusal(2.0, 1, 2), 2.1, 1.0, 1.0)
    assert restraint.maximum == 10


@pytest.mark.parametrize("order", [1, -1])
def test_of_many_that_were_sent_at_once_the_order_of_the_answers_does_not_matter(
    order: int,
) -> None:
    restraint = spread(Bounds(40, 1.0))
    for number in list(range(21, 41))[::order]:
        restraint.refused(Refusal(2.0, 1, number), 2.1, 1.0, 1.0)
    assert restraint.maximum == 20


def test_where_the_service_takes_more_before_the_window_is_over_the_rate_it_took_is_kept() -> None:
    restraint = spread(Bounds(600, 60.0), 10)
    restraint.refused(Refusal(2.0, 1, 10), 2.1, 1.0, 1.1)  # nine in 1.1 s
    assert held(restraint) == (600, 60)
    assert 1 / restraint.gap == pytest.approx(9 / 1.1, rel=0.05)


def test_what_is_refused_soon_after_a_cut_cuts_more() -> None:
    restraint = Restraint(Bounds(22, 1.0))
    restraint.refused(Refusal(0.4, 1, 21), 0.41, 1.0, 1.0)
    assert restraint.maximum == 22  # it may have been the way
    restraint.refused(Refusal(2.4, 1, 21), 2.41, 1.0, 1.0)
    assert restraint.maximum == 20  # it was not


def test_what_did_well_for_long_is_eased_step_by_step_until_nothing_is_left() -> None:
    restraint = spread(TOLD, 11)
    restraint.refused(Refusal(2.4, 1, 11), 2.5, 1.0, 1.0)
    assert restraint.eases_at == pytest.approx(42.5)
    seen = []
    while not restraint.is_over:
        seen.append(restraint.maximum)
        restraint.ease(restraint.eases_at)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1], restraint.period, restraint.gap) == (10, 20, 1.0, 0.0)


def test_what_was_eased_too_much_goes_back_one_step_and_is_left_alone_for_twice_as_long() -> None:
    restraint = spread(TOLD, 11)
    restraint.refused(Refusal(2.4, 1, 11), 2.5, 1.0, 1.0)
    for _ in range(2):
        restraint.ease(restraint.eases_at)
    now = restraint.eases_at
    assert restraint.maximum == 12
    restraint.refused(Refusal(now, 1, 12), now, 1.0, 1.0)
    assert restraint.maximum == 11
    assert restraint.eases_at == pytest.approx(now + 80)
