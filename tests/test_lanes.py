"""Lanes: who waits for the limit of a key, and how much is before each."""

from __future__ import annotations

from penstock.lanes import Lanes


def test_a_place_knows_how_many_are_before_it_and_what_they_cost() -> None:
    lanes = Lanes()
    first, second = lanes.enter(("a",), (3,)), lanes.enter(("a",), (4,))
    other, third = lanes.enter(("b",), (9,)), lanes.enter(("a",), (1,))
    assert [lanes.ahead(place) for place in (first, second, other, third)] == [
        (0, (0,)),
        (1, (3,)),
        (0, (0,)),
        (2, (7,)),
    ]
    del first
    assert lanes.ahead(second) == (0, (0,))
    assert lanes.ahead(third) == (1, (4,))


def test_one_that_leaves_from_behind_lets_nobody_wait_longer() -> None:
    lanes = Lanes()
    places = [lanes.enter(("a",), (1,)) for _ in range(3)]
    del places[2]
    assert [lanes.ahead(place) for place in places] == [(0, (0,)), (0, (0,))]


def test_a_lane_is_there_as_long_as_anybody_is_in_it() -> None:
    lanes = Lanes()
    places = [lanes.enter((key,), (1,)) for key in "aab"]
    assert len(lanes) == 2
    del places[2]
    assert len(lanes) == 1
    places.clear()
    assert not lanes
