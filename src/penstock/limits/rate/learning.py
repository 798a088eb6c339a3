"""Which of a limiter's limits a refusal is about, and what its log allows from then on."""

from __future__ import annotations

import math
from collections.abc import Iterable

from penstock.limits.rate.learned_rate import Bounds, LearnedRate, Refusal
from penstock.limits.rate.sliding_log import Record
from penstock.limits.rate.window import Demand, LimitState, LimitWindow


class RefusalLearner:
    """What a limiter learned from refusals, by window.

    Takes the time; reads no clock. The limiter's lock must be held.
    """

    def __init__(self) -> None:
        self._rates: dict[LimitWindow, LearnedRate] = {}
        #: When to :meth:`relax` next.
        self.relax_at = math.inf

    def refused(self, demand: Demand, records: Iterable[Record], now: float, pause: float) -> None:
        """A call was refused at ``now``, and the service wants a pause of ``pause`` seconds.

        ``demand`` and ``records``: what the call needed, and its starts in the logs.
        """
        candidates = [
            (window, record)
            for (window, cost), record in zip(demand, records, strict=True)
            if cost and window.owner.per < math.inf  # a budget is no rate
        ]
        if not candidates:
            return
        # The limit of which most was used is the likeliest. If it was cut already, and that was
        # insufficient, another limit may be meant: then all of them learn.
        window, record = max(candidates, key=_used_share)
        rate = self._rates.get(window)
        if rate is not None and rate.was_insufficient(record.at):
            for candidate in candidates:
                self._learn(*candidate, now, pause)
        else:
            self._learn(window, record, now, pause)
        self._set_relax_at()

    def _learn(self, window: LimitWindow, record: Record, now: float, pause: float) -> None:
        limit = window.owner
        rate = self._rates.get(window)
        if rate is None:
            rate = self._rates[window] = LearnedRate(Bounds(float(limit.max), limit.per))
            window.has_learned_rate = True
        span = min(limit.per, now + pause - window.log.busy_since(record.at))
        rate.refused(Refusal(record.at, record.cost, window.log.fill(record)), now, pause, span)
        self._apply(window, rate)

    def relax(self, now: float) -> None:
        """Allow a little more in the windows that were not refused for long enough."""
        for window, rate in list(self._rates.items()):
            if rate.relax_at <= now:
                rate.relax(now)
                self._apply(window, rate)
                if rate.is_over:
                    del self._rates[window]
                    window.has_learned_rate = False
        self._set_relax_at()

    def forget(self, limit: LimitState | None = None) -> None:
        """Forget what was learned about ``limit``, or about all limits: its rate is another one."""
        for window in list(self._rates):
            if limit is None or window.owner is limit:
                del self._rates[window]
                window.has_learned_rate = False
                window.log.restrict(window.owner.max, window.owner.per, 0.0)

    def learned_rates(self) -> dict[str, float]:
        """By the name of the limit, the rate a second, where less than the limit is allowed."""
        rates: dict[str, float] = {}
        for window, learned in self._rates.items():
            if learned.bounds != learned.configured:
                name, rate = window.owner.name, learned.bounds.rate
                rates[name] = min(rate, rates.get(name, rate))
        return rates

    def _set_relax_at(self) -> None:
        self.relax_at = min((rate.relax_at for rate in self._rates.values()), default=math.inf)

    @staticmethod
    def _apply(window: LimitWindow, rate: LearnedRate) -> None:
        window.log.restrict(rate.maximum, rate.period, rate.gap)


def _used_share(candidate: tuple[LimitWindow, Record]) -> float:
    window, record = candidate
    return float(window.log.fill(record)) / float(window.owner.max)
