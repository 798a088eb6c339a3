"""The items of a queue that failed for good."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

from penstock._util import checks
from penstock.policies.observer import Origin

T = TypeVar("T")

#: How many are kept unless it is said.
MAX_DEAD_LETTERS = 1000


@dataclass(frozen=True)
class DeadLetter(Generic[T]):
    """An item that failed for good, and why."""

    item: T
    error: BaseException
    #: Calls of the worker function that were made; 0 if the item could not start.
    attempts: int
    #: Where telemetry has its last attempt; None if it was not observed.
    origin: Origin | None = field(default=None, repr=False, compare=False)
    #: That of its put, in a queue with priorities; ``redrive`` puts it back with that.
    priority: float = field(default=0, repr=False)

    @property
    def trace_id(self) -> str | None:
        """The trace of its last attempt, in hexadecimal, as Jaeger and Grafana find it."""
        return None if self.origin is None else self.origin.trace_id


def check_max_dead_letters(value: Any) -> int:
    """How many are to be kept.

    Raises:
        TypeError, ValueError: it is no int of zero or more.
    """
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"max_dead_letters must be an int, got {checks.shown(value)}")
    if value < 0:
        raise ValueError(f"max_dead_letters must be zero or more, got {checks.shown(value)}")
    return value


class DeadLetters:
    """The dead letters of one queue, the oldest first; ``maximum`` of them. From any thread."""

    def __init__(self, maximum: int) -> None:
        self._maximum = maximum
        self._letters: deque[DeadLetter[Any]] = deque()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._letters)

    def snapshot(self) -> list[DeadLetter[Any]]:
        """All of them."""
        return list(self._letters)

    def add(self, letter: DeadLetter[Any]) -> bool:
        """Keep an item that failed for good; the oldest goes when there are too many.

        Returns:
            Whether any are kept.
        """
        if not self._maximum:
            return False
        with self._lock:
            self._letters.append(letter)
            while len(self._letters) > self._maximum:
                self._letters.popleft()
        return True

    def pop(self) -> DeadLetter[Any] | None:
        """Take the oldest."""
        with self._lock:
            return self._letters.popleft() if self._letters else None

    def restore(self, letter: DeadLetter[Any], *, as_newest: bool) -> None:
        """Keep one again that was popped, as the oldest or the newest."""
        with self._lock:
            if as_newest:
                self._letters.append(letter)
            else:
                self._letters.appendleft(letter)
