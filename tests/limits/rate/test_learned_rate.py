"""What refusals teach about one limit: pure decisions."""

from __future__ import annotations

import pytest

from penstock.limits.rate.learned_rate import Bounds, LearnedRate, Refusal

CONFIGURED = Bounds(20, 1.0)


def window(rate: LearnedRate) -> tuple[float, float]:
    return rate.maximum, pytest.approx(rate.period)  # type: ignore[return-value]


def spread(configured: Bounds, fill: int = 21) -> LearnedRate:
    """A rate that was refused once, at a start that made ``fill`` in the window."""
    rate = LearnedRate(configured)
    rate.refused(Refusal(0.3, 1, fill), 0.31, 1.0, 1.0)
    return rate


def test_a_refusal_at_the_limit_makes_the_window_longer_and_spreads_what_is_in_it() -> None:
    rate = LearnedRate(CONFIGURED)
    rate.refused(Refusal(1.0, 1, 20), 1.01, 1.0, 1.0)
    assert window(rate) == (20, 1.04)
    assert rate.gap == pytest.approx(1.04 / 20 / 2)


def test_a_margin_of_a_long_window_is_no_share_of_it() -> None:
    rate = LearnedRate(Bounds(500, 60.0))
    rate.refused(Refusal(61.0, 1, 500), 61.0, 1.0, 60.0)
    assert window(rate) == (500, 60.1)


def test_a_first_refusal_far_below_the_limit_takes_nothing_away_and_leaves_no_bursts() -> None:
    rate = spread(Bounds(40, 1.0))
    assert window(rate) == (40, 1.04)
    assert rate.gap == pytest.approx(1.04 / 40)


def test_another_says_how_much_the_service_takes() -> None:
    rate = spread(Bounds(40, 1.0))
    rate.refused(Refusal(2.3, 1, 21), 2.31, 1.0, 1.0)
    assert rate.maximum == 20


def test_if_spreading_was_insufficient_the_first_refusal_counts_as_well() -> None:
    rate = spread(Bounds(40, 1.0), 21)
    rate.refused(Refusal(2.3, 1, 29), 2.31, 1.0, 1.0)  # over two of the service's windows
    assert rate.maximum == 20


def test_one_refusal_takes_away_half_at_most() -> None:
    rate = spread(CONFIGURED)
    rate.refused(Refusal(2.0, 1, 2), 2.1, 1.0, 1.0)
    assert rate.maximum == 10


@pytest.mark.parametrize("order", [1, -1])
def test_of_many_that_were_sent_at_once_the_order_of_the_answers_does_not_matter(
    order: int,
) -> None:
    rate = spread(Bounds(40, 1.0))
    for number in list(range(21, 41))[::order]:
        rate.refused(Refusal(2.0, 1, number), 2.1, 1.0, 1.0)
    assert rate.maximum == 20


def test_where_the_service_takes_more_before_the_window_is_over_the_rate_it_took_is_kept() -> None:
    rate = spread(Bounds(600, 60.0), 10)
    rate.refused(Refusal(2.0, 1, 10), 2.1, 1.0, 1.1)  # nine in 1.1 s
    assert window(rate) == (600, 60)
    assert 1 / rate.gap == pytest.approx(9 / 1.1, rel=0.05)


def test_what_is_refused_soon_after_a_cut_cuts_more() -> None:
    rate = LearnedRate(Bounds(22, 1.0))
    rate.refused(Refusal(0.4, 1, 21), 0.41, 1.0, 1.0)
    assert rate.maximum == 22  # it may have been the way
    rate.refused(Refusal(2.4, 1, 21), 2.41, 1.0, 1.0)
    assert rate.maximum == 20  # it was not


def test_what_did_well_for_long_is_relaxed_step_by_step_until_nothing_is_left() -> None:
    rate = spread(CONFIGURED, 11)
    rate.refused(Refusal(2.4, 1, 11), 2.5, 1.0, 1.0)
    assert rate.relax_at == pytest.approx(42.5)
    seen = []
    while not rate.is_over:
        seen.append(rate.maximum)
        rate.relax(rate.relax_at)
    assert seen == sorted(seen)
    assert (seen[0], seen[-1], rate.period, rate.gap) == (10, 20, 1.0, 0.0)


def test_what_was_relaxed_too_much_goes_back_one_step_and_is_left_alone_for_twice_as_long() -> None:
    rate = spread(CONFIGURED, 11)
    rate.refused(Refusal(2.4, 1, 11), 2.5, 1.0, 1.0)
    for _ in range(2):
        rate.relax(rate.relax_at)
    now = rate.relax_at
    assert rate.maximum == 12
    rate.refused(Refusal(now, 1, 12), now, 1.0, 1.0)
    assert rate.maximum == 11
    assert rate.relax_at == pytest.approx(now + 80)
