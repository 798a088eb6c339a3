"""What requests cost, where the answer alone says how much that was: the bill, and a limit."""

from __future__ import annotations

import sys
from typing import Any

from penstock.cli.run.answers import Answer
from penstock.limits import Limit

#: How much of the estimate is the newest cost.
_WEIGHT = 0.2


class Tokens:
    """Counts what requests cost, and holds them to a limit if there is one.

    Args:
        path: where an answer says its cost, such as ``usage.total_tokens``.
        rate: at most so many in so many seconds.
        concurrency: the most requests at once.

    What a request will cost is not known before: it is taken to be what requests cost on average.
    Until one has been answered, requests together take no more than the limit.
    """

    def __init__(self, path: str, rate: tuple[float, float] | None, concurrency: int) -> None:
        self._path = path.split(".")
        self._is_known = False
        self.limit: Limit | None = None
        #: What all answers together said.
        self.total = 0.0
        if rate is not None:
            self._most, per = rate
            self._expected = self._most / concurrency
            self.limit = Limit(self._most, per, cost=lambda item: self._expected, name="tokens")

    def settle(self, answer: Answer) -> None:
        """The request under way was answered."""
        cost = cost_of(answer.value, self._path) if answer.has_value else None
        if cost is None:
            return
        self.total += cost
        if self.limit is None:
            return
        self.limit.settle(cost)
        weight = _WEIGHT if self._is_known else 1.0
        self._expected = min(self._most, self._expected + weight * (cost - self._expected))
        self._is_known = True


def cost_of(value: Any, path: list[str]) -> float | None:
    """The number that an answer has at ``path``, such as ``["usage", "total_tokens"]``, or None."""
    try:
        for key in path:
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (LookupError, TypeError, ValueError):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return float(value) if 0 <= value <= sys.float_info.max else None
