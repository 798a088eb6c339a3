"""Which keys have names: the ten with most, cut to a length; all others are one."""

from __future__ import annotations

from penstock._util.busiest import busiest


def test_the_most_come_first_and_nothing_is_lost() -> None:
    assert busiest({"a": 1, "b": 3}) == {"b": 3, "a": 1}
    assert list(busiest({"a": 1, "b": 3})) == ["b", "a"]
    assert busiest({}) == {}


def test_beyond_ten_the_rest_is_one() -> None:
    counts = {number: 100 - number for number in range(15)}
    named = busiest(counts)
    assert list(named) == ["0", "1", "2", "3", "4", "5", "6", "7", "8", "9", "other"]
    assert sum(named.values()) == sum(counts.values())


def test_keys_of_one_text_add_up() -> None:
    assert busiest({1: 2, "1": 3}) == {"1": 5}
    assert busiest({"other": 5, **dict.fromkeys(range(10), 9)})["other"] == 5


def test_keys_that_have_none_are_left_out() -> None:
    assert busiest({"a": 0, "b": 1}) == {"b": 1}


def test_texts_are_cut() -> None:
    (name,) = busiest({"x" * 1000: 1})
    assert name == "x" * 63 + "…"


def test_a_key_whose_text_fails_is_told_by_its_type() -> None:
    class Tenant:
        def __str__(self) -> str:
            raise RuntimeError

    assert busiest({Tenant(): 1}) == {"Tenant": 1}
