"""Which of a limiter's limits a refusal is about, and what follows from it for their logs."""

from __future__ import annotations

import math
from collections.abc import Iterable

from penstock.limits.rate.limit import Limit, Meter
from penstock.limits.rate.line import Needs
from penstock.limits.rate.restraint import Bounds, Refusal, Restraint
from penstock.limits.rate.sliding_log import Record


class Lessons:
    """What a limiter learned. Takes the time; reads no clock. Wants its lock to be held."""

    def __init__(self) -> None:
        self._restraints: dict[Meter, Restraint] = {}
        #: When to :meth:`ease` next.
        self.eases_at = math.inf

    def refused(self, needs: Needs, records: Iterable[Record], now: float, pause: float) -> None:
        """A call that took ``needs`` was refused, and the service wants a ``pause``."""
        candidates = [
            (meter, record) for (meter, cost), record in zip(needs, records, strict=True) if cost
        ]
        if not candidates:
            return
        # The one that was used most is the likeliest; if it was held back in vain, all.
        meter, record = max(candidates, key=_use)
        restraint = self._restraints.get(meter)
        if restraint is not None and restraint.was_in_vain(record.at):
            for other in candidates:
                self._restrain(*other, now, pause)
        else:
            self._restrain(meter, record, now, pause)
        self.eases_at = min(one.eases_at for one in self._restraints.values())

    def _restrain(self, meter: Meter, record: Record, now: float, pause: float) -> None:
        limit = meter.limit
        restraint = self._restraints.get(meter)
        if restraint is None:
            restraint = self._restraints[meter] = Restraint(Bounds(float(limit.max), limit.per))
            meter.is_restrained = True
        span = min(limit.per, now + pause - meter.log.busy_since(record.at))
        restraint.refused(Refusal(record.at, record.cost, meter.log.fill(record)), now, pause, span)
        self._apply(meter, restraint)

    def ease(self, now: float) -> None:
        """Let those try a little more that did well for long enough."""
        for meter, restraint in list(self._restraints.items()):
            if restraint.eases_at <= now:
                restraint.ease(now)
                self._apply(meter, restraint)
                if restraint.is_over:
                    del self._restraints[meter]
                    meter.is_restrained = False
        self.eases_at = min((one.eases_at for one in self._restraints.values()), default=math.inf)

    def forget(self, limit: Limit | None = None) -> None:
        """The user says another rate; or, for all limits, the clock is another one."""
        for meter in list(self._restraints):
            if limit is None or meter.limit is limit:
                del self._restraints[meter]
                meter.is_restrained = False
                meter.log.restrain(meter.limit.max, meter.limit.per, 0.0)

    def in_force(self) -> dict[str, float]:
        """By the name of the limit, how much a second it lets through where that is less."""
        rates: dict[str, float] = {}
        for meter, restraint in self._restraints.items():
            if restraint.bounds != restraint.told:
                name, rate = meter.limit.name, restraint.bounds.rate
                rates[name] = min(rate, rates.get(name, rate))
        return rates

    @staticmethod
    def _apply(meter: Meter, restraint: Restraint) -> None:
        meter.log.restrain(restraint.maximum, restraint.period, restraint.gap)


def _use(candidate: tuple[Meter, Record]) -> float:
    meter, record = candidate
    return float(meter.log.fill(record)) / float(meter.limit.max)
