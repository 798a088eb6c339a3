"""What a shared limiter and its lease client have to say to each other."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from penstock.brokers.nats.limits.leases import Slot
from penstock.brokers.nats.limits.server_clock import ServerClock


@dataclass
class LeaseRequest:
    """What a limiter wants now."""

    #: What those who wait need and have no slot for, in their order, by the names of limits.
    wants: Sequence[Mapping[str, int]] = ()
    #: Not before this time, on the local clock.
    not_before: float = -math.inf
    #: Until when the gate was closed here, on the local clock.
    closed_until: float = -math.inf
    #: Rates that were changed here.
    rates: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    #: By how much the ledger is wrong, by limits and moments there.
    corrections: Mapping[str, Mapping[int, int]] = field(default_factory=dict)
    #: Whether these give back what others may use.
    frees: bool = False
    #: Until when something can be used that is leased and not used; infinity: there is nothing.
    held_until: float = math.inf


class Client(Protocol):
    """The limiter, as far as its lease client knows it. Called in that one's thread."""

    @property
    def rates(self) -> Mapping[str, tuple[float, float]]:
        """``max`` and ``per`` of each limit, by their names."""
        ...

    def request(self) -> LeaseRequest:
        """What is wanted now."""
        ...

    def told(self, request: LeaseRequest, *, certainly: bool) -> None:
        """These corrections, closings and rates are in the bucket, or (not certainly) may be."""
        ...

    def unused(self, slots: Sequence[Slot]) -> None:
        """These were taken for us, and nobody knew it."""
        ...

    def lease(self, slots: Sequence[Slot], clock: ServerClock, now: float) -> None:
        """These are ours."""
        ...

    def expect(self, when: float) -> None:
        """Nothing more can start before this local time, as far as one knows."""
        ...

    def close_until(self, when: float) -> None:
        """The gate was closed elsewhere, until this local time."""
        ...

    def adopt(self, rates: Mapping[str, tuple[float, float]]) -> None:
        """Rates that were changed elsewhere."""
        ...

    def start_anew(self) -> None:
        """The ledger is another one."""
        ...

    def refuse(self, error: Exception) -> None:
        """Nobody who waits can start, as things are."""
        ...
