"""What requests cost, where the answer alone says how much that was: counted, limited, budgeted."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from penstock.cli.run.answers import Answer, value_at
from penstock.limits import Limit
from penstock.limits.rate.budget import Budget

#: How much of the estimate is the newest cost.
_WEIGHT = 0.2
#: So many answers without a cost, and none with one, stand for all.
_ENOUGH = 20
#: Where services tell their tokens: the first sum of which all parts are there counts.
_SHAPES = (
    ("usage.total_tokens",),
    ("usage.input_tokens", "usage.output_tokens"),
    ("usage.prompt_tokens", "usage.completion_tokens"),
    ("usageMetadata.totalTokenCount",),
)


@dataclass(frozen=True)
class Cost:
    """Where an answer says what it cost: a sum of places, or the first of the usual sums."""

    sums: tuple[tuple[tuple[str, ...], ...], ...]

    @classmethod
    def parse(cls, text: str | None) -> Cost:
        """Read what ``--cost`` says; None: the usual places.

        Raises:
            ValueError: it is neither a path nor a sum of paths.
        """
        sums = _SHAPES if text is None else (tuple(text.split("+")),)
        paths = tuple(tuple(_path(place) for place in places) for places in sums)
        return cls(paths)

    def of(self, value: Any) -> float | None:
        """What an answer cost; None: it does not say."""
        for places in self.sums:
            costs = [cost_of(value, place) for place in places]
            if None not in costs:
                return sum(cost for cost in costs if cost is not None)
        return None


def _path(text: str) -> tuple[str, ...]:
    path = tuple(text.strip().split("."))
    if not all(path):
        raise ValueError("not a path")
    return path


class Tokens:
    """Counts what requests cost, and holds them to a limit and to a budget, if there are any.

    Args:
        cost: where an answer says its cost.
        rate: at most so many in so many seconds.
        budget: at most so many in all that is left of the run.
        concurrency: the most requests at once.

    What a request will cost is not known before: it is taken to be what requests cost on average.
    Until one has been answered, requests together take no more than the limit.
    """

    def __init__(
        self,
        cost: Cost,
        rate: tuple[float, float] | None,
        concurrency: int,
        budget: float | None = None,
    ) -> None:
        self._cost = cost
        self._unknown = 0
        #: Whether an answer has said what it cost.
        self.is_known = False
        #: What all answers together said.
        self.total = 0.0
        self.limits: list[Limit] = []
        self._budget: Limit | None = None
        most = [amount for amount in (None if rate is None else rate[0], budget) if amount]
        self._expected = min(most, default=0.0) / concurrency
        if rate is not None:
            self.limits.append(Limit(*rate, cost=self._estimate(rate[0]), name="tokens"))
        if budget is not None:
            self._budget = Budget(budget, cost=self._estimate(budget), name=MAX_TOKENS)
            self.limits.append(self._budget)

    def _estimate(self, most: float) -> Callable[[Any], float]:
        return lambda item: min(most, self._expected)

    def settle(self, answer: Answer) -> None:
        """The request under way was answered."""
        cost = self._cost.of(answer.value) if answer.has_value else None
        if cost is None:
            if answer.failure is None:
                self._unknown += 1
            elif self._budget is not None:
                self._budget.settle(0)
            return
        self.total += cost
        for limit in self.limits:
            limit.settle(cost)
        weight = _WEIGHT if self.is_known else 1.0
        self._expected += weight * (cost - self._expected)
        self.is_known = True

    @property
    def are_nowhere(self) -> bool:
        """Whether so many answers have said nothing that none will."""
        return not self.is_known and self._unknown >= _ENOUGH


#: The names of budgets: the options that set them.
MAX_TOKENS, MAX_REQUESTS = "--max-tokens", "--max-requests"


def cost_of(value: Any, path: tuple[str, ...]) -> float | None:
    """The number that an answer has at ``path``, such as ``("usage", "total_tokens")``, or None."""
    found = value_at(value, path)
    if isinstance(found, bool) or not isinstance(found, (int, float)):
        return None
    return float(found) if 0 <= found <= sys.float_info.max else None
