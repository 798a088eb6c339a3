"""When there is an outage, who may start in it, and when: it decides, nobody waits here."""

from __future__ import annotations

import math
import weakref
from typing import Any

import pytest

from penstock.policies.outage import ItemFailures
from penstock.policies.outages import Outages

ERROR = ConnectionError("nobody there")


def outages_of(give_up_after: float = 300.0, *, has_answered: bool = True, **kind: Any) -> Outages:
    outages = Outages(give_up_after, **kind)
    if has_answered:
        outages.answered(None, None, -1.0)
    return outages


def fail(outages: Outages, *items: ItemFailures, at: float = 0.0, key: Any = None) -> None:
    for item in items:
        outages.failed(key, item, None, at, ERROR)


def away(give_up_after: float = 300.0, at: float = 0.0) -> tuple[Outages, list[ItemFailures]]:
    """An outage since ``at``, and what has failed in it."""
    outages, items = outages_of(give_up_after), [ItemFailures() for _ in range(5)]
    fail(outages, *items, at=at)
    return outages, items


def texts(outages: Outages) -> list[str]:
    return [text for _, text in outages.news]


class TestTheVerdict:
    def test_five_different_items_that_fail_are_an_outage(self) -> None:
        outages, items = outages_of(), [ItemFailures() for _ in range(5)]
        fail(outages, *items[:4])
        assert not outages.is_any
        fail(outages, items[4])
        assert outages.is_any
        [text] = texts(outages)
        assert text.startswith("an outage: 5 items failed and none succeeded, the last with ")
        assert "ConnectionError('nobody there')" in text

    def test_one_item_is_none_however_often_it_fails(self) -> None:
        outages, poison = outages_of(), ItemFailures()
        fail(outages, *[poison] * 100)
        assert not outages.is_any

    def test_a_success_between_begins_anew(self) -> None:
        outages, items = outages_of(), [ItemFailures() for _ in range(8)]
        fail(outages, *items[:4], at=1)
        outages.answered(None, 1, 2)
        fail(outages, *items[4:], at=3)
        assert not outages.is_any

    def test_items_that_failed_while_others_succeeded_are_none(self) -> None:
        outages, items = outages_of(), [ItemFailures() for _ in range(8)]
        for at, item in enumerate(items):
            fail(outages, item, at=at)
            outages.answered(None, at, at)
        fail(outages, *items, at=10)  # the others are done by now
        assert not outages.is_any
        fail(outages, *[ItemFailures() for _ in range(5)], at=11)
        assert outages.is_any

    def test_items_that_fell_into_an_outage_are_signs_of_the_next(self) -> None:
        outages, items = away()
        outages.answered(None, 1, 1)
        fail(outages, *items, at=2)
        assert outages.is_any
        assert "an outage" in texts(outages)[-1]

    def test_a_service_that_never_answered_is_not_away(self) -> None:
        outages = outages_of(has_answered=False)
        fail(outages, *[ItemFailures() for _ in range(100)])
        assert not outages.is_any

    def test_a_call_that_began_before_the_last_answer_says_nothing(self) -> None:
        outages = outages_of()
        fail(outages, ItemFailures(), at=1)
        outages.answered(None, 1, 10)
        for _ in range(5):
            outages.failed(None, ItemFailures(), 9.0, 12.0, ERROR)
        assert not outages.is_any

    def test_attempts_in_it_are_given_back_and_no_others(self) -> None:
        outages, items = outages_of(), [ItemFailures() for _ in range(5)]
        first = items[0]
        fail(outages, first, first, at=1)
        outages.answered(None, 1, 2)
        fail(outages, first, *items, ItemFailures(), at=3)
        assert first.in_outages == 2, "those before the answer count"
        outages.answered(None, 20, 21)
        fail(outages, first, at=22)
        assert first.in_outages == 2

    def test_it_is_told_of_successes_only_while_they_are_news(self) -> None:
        outages = Outages(300)
        assert outages.hears_success, "the first says that the service is there"
        outages.answered(None, 0, 1)
        assert not outages.hears_success
        fail(outages, ItemFailures(), at=2)
        assert outages.hears_success
        outages.answered(None, 2, 3)
        assert not outages.hears_success


class TestProbes:
    def test_they_are_1_2_4_8_and_15_seconds_apart(self) -> None:
        outages, items = away()
        moments, now = [], 0.0
        for _ in range(7):
            probe = items[0]
            while (delay := outages.start(None, probe, now)) > 0:
                probe.probes = 0  # as if it were another one each time
                now += delay
            moments.append(now)
            fail(outages, probe, at=now)
        gaps = [after - before for before, after in zip([0.0, *moments], moments, strict=False)]
        for gap, at_least in zip(gaps, (1, 2, 4, 8, 15, 15, 15), strict=True):
            assert at_least <= gap < at_least + 1

    def test_one_at_a_time(self) -> None:
        outages, items = away()
        assert outages.start(None, items[0], 1.0) == 0
        assert outages.start(None, items[1], 1.0) > 0
        assert outages.start(None, items[1], 10.0) > 0
        assert outages.start(None, items[1], 62.0) == 0, "the first is lost, it seems"

    def test_first_those_that_have_not_failed_then_those_that_were_no_probe(self) -> None:
        outages, items = away()
        fresh, failed, was_probe = ItemFailures(), items[0], items[1]
        was_probe.probes = 1
        delays = [outages.delay(None, item, 0.0) for item in (was_probe, failed, fresh)]
        assert delays == sorted(delays, reverse=True)
        assert 1.0 <= delays[2] < 1.1

    def test_one_that_says_nothing_is_followed_by_the_next_no_later(self) -> None:
        outages, items = away()
        assert outages.start(None, items[0], 1.0) == 0
        outages.said_nothing(None, items[0], 1.5)
        assert outages.delay(None, ItemFailures(), 2.4) > 0
        assert outages.delay(None, ItemFailures(), 2.5) == 0

    def test_calls_that_are_none_change_nothing(self) -> None:
        outages, items = away()
        fail(outages, *items, at=0.9)
        outages.said_nothing(None, items[0], 0.9)
        assert outages.delay(None, ItemFailures(), 1.0) == 0

    def test_those_that_ask_come_back_one_after_the_other(self) -> None:
        outages, _ = away()
        delays = [outages.delay(None, ItemFailures(), 0.0) for _ in range(100)]
        assert len(set(delays)) == 100
        assert max(delays) < 2


class TestTheEnd:
    def test_the_first_success_ends_it(self) -> None:
        outages, items = away()
        assert outages.start(None, items[0], 1.0) == 0
        outages.answered(None, 1.0, 1.5)
        assert texts(outages)[1:] == ["the outage is over, after 1.5 s"]
        assert outages.longest(2.0) == 0

    def test_nothing_of_its_items_is_kept_then(self) -> None:
        outages, items = away()
        assert outages.start(None, items[0], 1.0) == 0
        outages.answered(None, 1.0, 1.5)
        probe = weakref.ref(items.pop(0))
        assert probe() is None, "not even until a garbage collection"

    def test_a_call_that_was_on_its_way_before_does_not(self) -> None:
        outages, _ = away(at=10.0)
        outages.answered(None, 9.0, 11.0)
        assert outages.longest(12.0) == 2
        outages.answered(None, None, 12.0)
        assert outages.longest(12.0) == 0

    def test_then_items_start_faster_and_faster(self) -> None:
        outages, _ = away()
        outages.answered(None, 1.0, 2.0)
        items = [ItemFailures() for _ in range(50)]
        turns = [outages.delay(None, item, 2.0) for item in items]
        assert turns == sorted(turns)
        assert [sum(turn <= second for turn in turns) for second in (0.1, 0.5, 1, 2)] == [
            0,
            1,
            3,
            15,
        ]
        assert outages.start(None, items[0], 2.0 + turns[0]) == 0
        assert outages.delay(None, items[1], 2.0 + turns[1] / 2) == pytest.approx(turns[1] / 2)

    def test_and_after_a_while_nobody_is_asked_any_more(self) -> None:
        outages, _ = away()
        outages.answered(None, 1.0, 2.0)
        assert outages.is_any
        assert outages.delay(None, ItemFailures(), 8.0) == 0
        assert not outages.is_any


class TestGivingUp:
    def test_what_was_held_fails_and_what_comes_later_may_start(self) -> None:
        outages, items = away(give_up_after=30)
        held, later = items[0], ItemFailures()
        assert 0 < outages.delay(None, held, 0.0) <= 30
        assert outages.delay(None, held, 29.0) <= 1
        assert outages.delay(None, held, 30.0) == math.inf
        assert outages.start(None, later, 30.0) == 0
        [_, text] = texts(outages)
        assert text == (
            "the outage has lasted for 30 s: the held items fail, and from now on each item "
            "gets one attempt"
        )

    def test_one_success_and_all_is_well(self) -> None:
        outages, items = away(give_up_after=30)
        outages.delay(None, items[0], 0.0)
        assert outages.delay(None, items[0], 31.0) == math.inf
        outages.answered(None, 40.0, 41.0)
        assert outages.delay(None, items[0], 50.0) == 0


class TestTheLastFailureOfAnItem:
    def test_waits_five_seconds_with_looks_that_become_rarer(self) -> None:
        outages, item = outages_of(), ItemFailures()
        fail(outages, item)
        now, looks = 0.0, []
        while (wait := outages.until_verdict(None, item, now)) is not None:
            now += wait
            looks.append(now)
        assert now == pytest.approx(5)
        assert len(looks) < 10
        assert looks[0] < 0.1

    def test_not_once_the_service_has_answered(self) -> None:
        outages, item = outages_of(), ItemFailures()
        fail(outages, item)
        outages.answered(None, None, 0.1)
        assert outages.until_verdict(None, item, 0.2) is None

    def test_not_where_it_never_answered(self) -> None:
        outages, item = outages_of(has_answered=False), ItemFailures()
        fail(outages, item)
        assert outages.until_verdict(None, item, 0.0) is None


class TestSeveralServices:
    def test_each_has_its_own(self) -> None:
        outages = Outages(300, is_keyed=True)
        for key in "ab":
            outages.answered(key, None, 0.0)
        fail(outages, *[ItemFailures() for _ in range(5)], key="a", at=1)
        assert outages.delay("a", ItemFailures(), 1.0) > 0
        assert outages.delay("b", ItemFailures(), 1.0) == 0
        outages.answered("b", None, 2.0)
        assert outages.delay("a", ItemFailures(), 1.5) > 0
        assert texts(outages)[0].startswith("'a': an outage")

    def test_of_many_those_that_are_away_are_remembered(self) -> None:
        outages = Outages(300, is_keyed=True)
        outages.answered("a", None, 0.0)
        fail(outages, *[ItemFailures() for _ in range(5)], key="a", at=1)
        for key in range(5000):
            outages.answered(key, None, 2.0)
        assert len(outages._services) <= 1000
        assert outages.delay("a", ItemFailures(), 1.5) > 0


class TestTheClockOfAnotherLoop:
    def test_the_time_begins_anew(self) -> None:
        outages, items = away(at=10_000.0)
        held = items[0]
        assert outages.delay(None, held, 10_000.5) < 3
        assert outages.delay(None, held, 5.0) < 3
        assert outages.delay(None, ItemFailures(), 6.0) == 0
        assert outages.delay(None, held, 304.0) <= 1
        assert outages.delay(None, held, 306.0) == math.inf

    def test_a_ramp_is_over(self) -> None:
        outages, _ = away(at=10_000.0)
        outages.answered(None, None, 10_001.0)
        assert outages.delay(None, ItemFailures(), 3.0) == 0
