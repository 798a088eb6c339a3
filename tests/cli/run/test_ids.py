"""Ids: what is the same, and what is not."""

from __future__ import annotations

import pytest

from penstock.cli.run.ids import SeenIds, fingerprint, key


def test_the_order_of_keys_does_not_matter_and_everything_else_does() -> None:
    first = fingerprint("GET", "http://h/", [], {"a": 1, "b": {"c": 2, "d": [3]}})
    assert first == fingerprint("GET", "http://h/", [], {"b": {"d": [3], "c": 2}, "a": 1})
    others = [
        fingerprint("PUT", "http://h/", [], {"a": 1, "b": {"c": 2, "d": [3]}}),
        fingerprint("GET", "http://h", [], {"a": 1, "b": {"c": 2, "d": [3]}}),
        fingerprint("GET", "http://h/", [["x", "y"]], {"a": 1, "b": {"c": 2, "d": [3]}}),
        fingerprint("GET", "http://h/", [], {"a": 1, "b": {"c": 2, "d": ["3"]}}),
        fingerprint("GET", "http://h/", []),
        fingerprint("GET", "http://h/", [], None),
    ]
    assert len({first, *others}) == 7


@pytest.mark.parametrize(("one", "other"), [(1, "1"), ("a", "A"), ("ä", "a\u0308"), ("", 0)])
def test_ids_that_are_not_the_same(one: str | int, other: str | int) -> None:
    assert key(one) == key(one)
    assert key(one) != key(other)
    assert key(one, "x") != key(one)


def test_half_a_character_can_be_an_id() -> None:
    assert key("\ud800") != key("\ud801")


def test_a_twin_names_its_line_and_whether_it_asks_for_the_same() -> None:
    seen = SeenIds()
    content, other = fingerprint("a"), fingerprint("b")
    assert seen.earlier(7, key("x"), content) is None
    assert seen.earlier(8, key("y"), content) is None
    assert seen.earlier(9, key("x"), content) == (7, True)
    assert seen.earlier(10**9, key("x"), other) == (7, False)
