"""What is kept of items that failed for good."""

from __future__ import annotations

from penstock import DeadLetter
from penstock.policies.dead_letters import DeadLetters


def letter(item: int) -> DeadLetter[int]:
    return DeadLetter(item, OSError(), 1)


def items_of(letters: DeadLetters) -> list[int]:
    return [one.item for one in letters.snapshot()]


def test_the_oldest_go_when_there_are_too_many() -> None:
    letters = DeadLetters(2)
    assert [letters.add(letter(item)) for item in range(3)] == [True, True, True]
    assert items_of(letters) == [1, 2]
    assert len(letters) == 2


def test_none_are_kept_where_none_are_wanted() -> None:
    letters = DeadLetters(0)
    assert not letters.add(letter(1))
    assert letters.pop() is None


def test_what_is_restored_is_the_oldest_or_the_newest() -> None:
    letters = DeadLetters(5)
    for item in range(3):
        letters.add(letter(item))
    first = letters.pop()
    second = letters.pop()
    assert first is not None
    assert second is not None
    letters.restore(second, as_newest=False)
    assert items_of(letters) == [1, 2]
    letters.restore(first, as_newest=True)
    assert items_of(letters) == [1, 2, 0]


def test_what_is_restored_is_not_lost_though_there_are_many_by_now() -> None:
    letters = DeadLetters(1)
    letters.add(letter(1))
    taken = letters.pop()
    letters.add(letter(2))
    assert taken is not None
    letters.restore(taken, as_newest=False)
    assert items_of(letters) == [1, 2]
