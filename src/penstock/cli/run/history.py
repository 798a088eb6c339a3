"""What a run remembers of itself, in little memory however long it lasts.

Nothing here reads a clock: ``at`` is in seconds from the beginning of the run.
"""

from __future__ import annotations

import heapq
import math
import re
from collections import Counter
from dataclasses import dataclass, field, fields

from penstock.cli.problems import RequestId
from penstock.cli.run.meter import Meter
from penstock.cli.run.requests import Request
from penstock.cli.run.results import RequestFailure, RequestResult
from penstock.cli.run.sketch import Gauge, Sketch

#: Seconds of an interval at first, and how many there are at most: a run of 150 s has intervals of
#: 0.25 s, one of a night has some of a minute.
_SHORTEST, _MOST_INTERVALS = 0.25, 600
#: The slowest requests that are remembered.
_MOST_SLOW = 10
#: Kinds of failures that are told apart, and how much is kept of a message or an id.
_MOST_KINDS, _MOST_TEXT = 50, 200
#: Seconds that the pace is taken over at least, or else this share of the run.
_PACE_SECONDS, _PACE_SHARE = 15.0, 0.25

_AUTHORITY_AND_REST = re.compile(r"(?i)\b([a-z][a-z0-9+.-]{0,20}://)(?:[^\s/?#]*@)?([^\s?#]*)\S*")


def public_url(text: str) -> str:
    """``text`` with each URL in it without user, password, query and fragment."""
    return _AUTHORITY_AND_REST.sub(r"\1\2", text)


@dataclass(frozen=True)
class Snapshot:
    """How things stand at one moment."""

    #: Requests that may be under way at once.
    concurrency: int = 0
    #: Requests that wait in the queue, and how many may.
    queued: int = 0
    capacity: int = 0
    #: Seconds for which nothing starts, since the service said so.
    closed_for: float = 0.0
    #: What the requests that wait are waiting for; "" if none waits, or nobody knows.
    waits_for: str = ""


@dataclass
class Interval:
    """What happened in a piece of the run."""

    #: Attempts that began, and requests that got their result in it.
    started: int = 0
    finished: int = 0
    failed: int = 0
    tokens: float = 0.0
    #: Attempts that ended, by status or by what went wrong.
    answers: Counter[str] = field(default_factory=Counter)
    #: Seconds of the attempts that ended.
    latency: Sketch = field(default_factory=Sketch)
    #: Seconds waited by what began: from the reading of a request to its first attempt, and from
    #: one attempt to the next.
    first_wait: Gauge = field(default_factory=Gauge)
    retry_wait: Gauge = field(default_factory=Gauge)
    #: What was seen of the rates of attempts and of tokens, as the meters tell them, per second.
    rate: Gauge = field(default_factory=Gauge)
    token_rate: Gauge = field(default_factory=Gauge)
    #: What was seen of attempts under way, of how many might be, of the queue, and whether the
    #: service held everything up.
    in_use: Gauge = field(default_factory=Gauge)
    concurrency: Gauge = field(default_factory=Gauge)
    queued: Gauge = field(default_factory=Gauge)
    held_up: Gauge = field(default_factory=Gauge)

    def merge(self, other: Interval) -> None:
        """Add what happened in ``other``."""
        for each in fields(self):
            mine, theirs = getattr(self, each.name), getattr(other, each.name)
            if isinstance(mine, Counter):
                mine.update(theirs)
            elif isinstance(mine, (Sketch, Gauge)):
                mine.merge(theirs)
            else:
                setattr(self, each.name, mine + theirs)


@dataclass(frozen=True)
class Segment:
    """An interval, and where it lies: seconds from the beginning of the run."""

    begin: float
    end: float
    of: Interval

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.end - self.begin


@dataclass(frozen=True)
class Slow:
    """A request that took long. The URL has neither user nor query."""

    seconds: float
    id: RequestId
    line: int
    method: str
    url: str
    attempts: int
    outcome: str


class History:
    """Remembers a run: what happened when, how long things took, what failed, what was slow.

    It keeps 600 intervals at most: when these are full, each two become one of twice the length.
    Percentiles are within 2.5 % of the true ones (see :class:`penstock.cli.run.sketch.Sketch`).

    Args:
        rate, tokens: the limits, as so much in so many seconds; what the meters are held against.
    """

    def __init__(
        self,
        rate: tuple[float, float] | None = None,
        tokens: tuple[float, float] | None = None,
    ) -> None:
        self.rate = Meter() if rate is None else Meter(*rate)
        self.tokens = None if tokens is None else Meter(*tokens)
        self.now = Snapshot()
        #: Attempts under way.
        self.in_use = 0
        #: Requests that failed for good by kind, and the first message of each.
        self.failures: Counter[str] = Counter()
        self.messages: dict[str, str] = {}
        #: The id of the first failure of each kind.
        self.examples: dict[str, RequestId] = {}
        self._width = _SHORTEST
        self._intervals: list[Interval] = []
        self._slow: list[tuple[float, int, Slow]] = []
        self._finished = 0

    # -- what happens -----------------------------------------------------------------------------

    def started(self, at: float, waited: float, attempt: int) -> None:
        """An attempt begins, the first being 1, after a wait of so many seconds."""
        interval = self._interval(at)
        interval.started += 1
        self.rate.add(at)
        self.in_use += 1
        if attempt > 1:
            interval.retry_wait.add(waited)
        else:
            interval.first_wait.add(waited)

    def ended(self, at: float, seconds: float, outcome: str) -> None:
        """An attempt ended: ``outcome`` is its status, or a word for what went wrong."""
        interval = self._interval(at)
        self.in_use -= 1
        _count(interval.answers, outcome)
        interval.latency.add(seconds)

    def spent(self, at: float, tokens: float) -> None:
        """An answer said that it cost so many tokens."""
        self._interval(at).tokens += tokens
        if self.tokens is not None:
            self.tokens.add(at, tokens)

    def finished(self, at: float, result: RequestResult, request: Request | None = None) -> None:
        """A line has its result. ``request``: what it was, unless it was malformed."""
        interval = self._interval(at)
        interval.finished += 1
        self._finished += 1
        if result.failure is not None:
            interval.failed += 1
            kind = _count(self.failures, result.failure.kind)
            if kind not in self.messages:
                self.messages[kind] = _short(public_url(_told(result.failure)))
                self.examples[kind] = result.id
        if request is None or not result.attempts:
            return
        if len(self._slow) == _MOST_SLOW and result.seconds <= self._slow[0][0]:
            return
        slow = Slow(
            result.seconds,
            _short(result.id) if isinstance(result.id, str) else result.id,
            result.line,
            _short(request.method),
            _short(public_url(request.url)),
            result.attempts,
            str(result.status) if result.failure is None else result.failure.kind,
        )
        # The older one comes first where two took as long.
        entry = (result.seconds, -self._finished, slow)
        if len(self._slow) < _MOST_SLOW:
            heapq.heappush(self._slow, entry)
        else:
            heapq.heapreplace(self._slow, entry)

    def sample(self, at: float, now: Snapshot) -> None:
        """This is how things stand now. To be told at regular times."""
        self.now = now
        interval = self._interval(at)
        interval.rate.add(self.rate.rate(at) / self.rate.per)
        if self.tokens is not None:
            interval.token_rate.add(self.tokens.rate(at) / self.tokens.per)
        interval.in_use.add(self.in_use)
        interval.concurrency.add(now.concurrency)
        interval.queued.add(now.queued)
        interval.held_up.add(now.closed_for > 0)

    # -- what happened ----------------------------------------------------------------------------

    @property
    def slowest(self) -> list[Slow]:
        """The requests that took longest, the slowest first."""
        return [slow for _, _, slow in sorted(self._slow, reverse=True, key=lambda one: one[:2])]

    def pace(self, at: float) -> float:
        """Requests that get their result in a second, of late."""
        begin = at - max(_PACE_SECONDS, _PACE_SHARE * at)
        first = max(0, math.ceil(begin / self._width))
        seconds = at - first * self._width
        if seconds <= 0:
            return 0.0
        return sum(interval.finished for interval in self._intervals[first:]) / seconds

    def total(self) -> Interval:
        """All of the run as one interval."""
        return _merged(self._intervals)

    def segments(self, until: float, at_most: int) -> list[Segment]:
        """The run up to ``until`` in ``at_most`` pieces, of the same length but for the last."""
        if not self._intervals or until <= 0:
            return []
        count = min(len(self._intervals), math.ceil(until / self._width))
        step = math.ceil(count / at_most)
        starts = list(range(0, len(self._intervals), step))
        # What is too short says nothing about rates, and belongs to the piece before it.
        if len(starts) > 1 and until - starts[-1] * self._width < step * self._width / 2:
            starts.pop()
        ends = [*starts[1:], len(self._intervals)]
        return [
            Segment(
                start * self._width,
                end * self._width if end < len(self._intervals) else until,
                _merged(self._intervals[start:end]),
            )
            for start, end in zip(starts, ends, strict=True)
            if start * self._width < until
        ]

    def _interval(self, at: float) -> Interval:
        intervals = self._intervals
        while (index := max(0, math.floor(at / self._width))) >= _MOST_INTERVALS:
            self._width *= 2
            for pair in range(0, len(intervals), 2):
                intervals[pair // 2] = _merged(intervals[pair : pair + 2])
            del intervals[(len(intervals) + 1) // 2 :]
        while len(intervals) <= index:
            intervals.append(Interval())
        return intervals[index]


def _merged(intervals: list[Interval]) -> Interval:
    merged = Interval()
    for interval in intervals:
        merged.merge(interval)
    return merged


def _count(counts: Counter[str], kind: str) -> str:
    """Count ``kind``, or "other" when there are too many; return which."""
    if kind not in counts and len(counts) >= _MOST_KINDS:
        kind = "other"
    counts[kind] += 1
    return kind


def _told(failure: RequestFailure) -> str:
    """What failed, and why in the words of the service."""
    if not failure.reason or failure.reason in failure.message:
        return failure.message
    return f"{failure.message}: {failure.reason}"


def _short(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else text[: _MOST_TEXT - 1] + "…"
