"""What a limiter tells about itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class LimiterStatistics:
    """What a limiter has done so far."""

    #: Calls that wait now.
    waiting: int
    #: Calls that were let through.
    grants: int
    #: How often the gate went from open to closed.
    closures: int
    #: Seconds until the gate opens; 0 when it is open.
    closed_for: float
    #: Header fields given to ``observe`` that made no sense.
    ignored_headers: int
    #: By the name of the limit, how much a second it lets through, where refusals showed that the
    #: service takes less than it says, or in bursts less.
    held_back: Mapping[str, float] = field(default_factory=dict)
