"""Limits on what requests cost, where the answer alone says how much that was."""

from __future__ import annotations

import json
import math
from typing import Any

import httpx

from penstock.limits import Limit

#: How much of the estimate is the newest cost.
_WEIGHT = 0.2


class TokenLimit:
    """At most so many tokens in so many seconds; ``path`` says where an answer tells its cost.

    What a request will cost is not known before: it is taken to be what requests cost on average.
    Until one has been answered, requests together take no more than the limit.
    """

    def __init__(self, maximum: float, per: float, path: str, concurrency: int) -> None:
        self._path = path.split(".")
        self._expected = maximum / concurrency
        self._is_known = False
        self._most = maximum
        self.limit = Limit(maximum, per, cost=lambda item: self._expected, name="tokens")
        #: What all answers together said.
        self.total = 0.0

    def settle(self, response: httpx.Response | None) -> None:
        """The request under way was answered."""
        cost = None if response is None else _number(response, self._path)
        if cost is None:
            return
        self.total += cost
        self.limit.settle(cost)
        weight = _WEIGHT if self._is_known else 1.0
        self._expected = min(self._most, self._expected + weight * (cost - self._expected))
        self._is_known = True


def _number(response: httpx.Response, path: list[str]) -> float | None:
    try:
        value: Any = json.loads(response.content)
        for key in path:
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (LookupError, RecursionError, TypeError, ValueError):
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    return value if 0 <= value < math.inf else None
