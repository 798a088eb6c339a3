"""What the headers of a response say of limits."""

from __future__ import annotations

from dataclasses import dataclass

from penstock.limits.rate.header_values import LONGEST_WAIT

#: In the name of what counts calls that are under way, and not calls that start.
_CONCURRENCY = "concurren"


@dataclass(frozen=True)
class Dimension:
    """What a service says about one of its limits."""

    #: "requests", "tokens", or whatever the service calls it; "" if it has no name.
    name: str
    #: How much a window allows, how much is left of it, and the seconds until there is more.
    limit: float | None = None
    remaining: float | None = None
    reset: float | None = None
    #: The length of the window in seconds.
    window: float | None = None
    #: The key of the caller whose quota this is; ``None``: it is for all callers.
    partition: str | None = None
    #: What is counted, such as "concurrent-requests"; "" if the service does not say.
    unit: str = ""

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing remains."""
        return self.remaining == 0

    @property
    def is_concurrency(self) -> bool:
        """Whether it limits the calls that are under way at once."""
        return _CONCURRENCY in self.unit or _CONCURRENCY in self.name

    @property
    def wait(self) -> float:
        """The seconds until there is more, if nothing remains: the reset, at most the window."""
        if not self.is_exhausted or self.is_concurrency:
            return 0.0
        if self.reset is not None:
            return self.reset
        return min(self.window or 0.0, LONGEST_WAIT)


@dataclass(frozen=True)
class Feedback:
    """What the headers of one response say."""

    #: Seconds to wait before the next call, if the service named them.
    retry_after: float | None = None
    dimensions: tuple[Dimension, ...] = ()
    #: How many values made no sense.
    ignored: int = 0
    #: Whether the service wants this call to be made again, if it said so.
    should_retry: bool | None = None
    #: Why the service refused the call, in its words, or what was used up where only quotas of
    #: calls under way were; "" if nobody knows.
    reason: str = ""

    @property
    def wait(self) -> float:
        """The seconds in which no call should start; 0: calls may start.

        It is ``retry_after`` if the service named that, which takes precedence by the draft; or
        else the longest wait of a dimension with nothing remaining. Limits on calls at once, and
        the quotas of single callers (:attr:`partitions`), are no reason to make all calls wait.
        """
        if self.is_concurrency:
            return 0.0
        if self.retry_after is not None:
            return self.retry_after
        return max((each.wait for each in self.dimensions if each.partition is None), default=0.0)

    @property
    def is_concurrency(self) -> bool:
        """Whether the service refused the call because too many are under way."""
        return _CONCURRENCY in self.reason.lower()

    @property
    def is_exhausted(self) -> bool:
        """Whether nothing remains of a limit."""
        return any(each.is_exhausted for each in self.dimensions)

    @property
    def partitions(self) -> dict[str, float]:
        """The seconds in which no call of a caller should start, by the key of the caller."""
        waits: dict[str, float] = {}
        for each in self.dimensions:
            if each.partition is not None:
                waits[each.partition] = max(each.wait, waits.get(each.partition, 0.0))
        return waits
