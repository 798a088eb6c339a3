"""What became of the requests: one result each, and the totals of a run."""

from __future__ import annotations

import json
import math
import re
import time
from array import array
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, NewType

from penstock.cli.problems import RequestId

#: A value in the form that goes into the result file. Made once: what is nested as deeply as can
#: be read might be too deep to be written from within something else.
JsonText = NewType("JsonText", str)


_CONTROLS = re.compile("[\x80-\x9f]")


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def to_json(value: Any) -> JsonText:
    """``value`` on one line, as people read it.

    Raises:
        ValueError, RecursionError: JSON has no such number; it is nested too deeply.
    """
    text = json.dumps(value, ensure_ascii=False, allow_nan=False)
    # JSON escapes only half of what a terminal obeys.
    return JsonText(text if text.isascii() else _CONTROLS.sub(_escaped, text))


@dataclass(frozen=True)
class RequestFailure:
    """Why there is no good answer: a word to count by, a sentence, what the server sent."""

    kind: str
    message: str
    body: JsonText | None = None


@dataclass(frozen=True)
class RequestResult:
    """What became of one line."""

    id: RequestId
    line: int
    status: int | None = None
    body: JsonText | None = None
    failure: RequestFailure | None = None
    attempts: int = 0
    seconds: float = 0.0

    def to_line(self) -> bytes:
        """The line for the result file."""
        fields = {
            "id": to_json(self.id),
            "line": to_json(self.line),
            "status": to_json(self.status),
        }
        if self.failure is None:
            fields["body"] = self.body or to_json(None)
        else:
            error = {
                "kind": to_json(self.failure.kind),
                "message": to_json(self.failure.message),
            }
            if self.failure.body is not None:
                error["body"] = self.failure.body
            fields["error"] = _object(error)
        fields["attempts"] = to_json(self.attempts)
        fields["seconds"] = to_json(round(self.seconds, 6))
        # Half a character (a lone surrogate) has no UTF-8 form. With a backslash it is the JSON
        # escape that it came from.
        return _object(fields).encode("utf-8", "backslashreplace") + b"\n"


def _object(fields: dict[str, JsonText]) -> JsonText:
    return JsonText("{" + ", ".join(f'"{key}": {value}' for key, value in fields.items()) + "}")


@dataclass
class Totals:
    """The counts of a run, as it goes."""

    #: Lines in the file, if that can be known.
    expected: int | None = None
    #: Lines that are no record of their own.
    blank: int = 0
    #: Lines that ask for what an earlier line does.
    duplicates: int = 0
    #: Lines that earlier runs have dealt with, well or badly.
    skipped: int = 0
    failed_earlier: int = 0
    sent: int = 0
    calls: int = 0
    succeeded: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    backpressure_waits: int = 0
    queue_peak: int = 0
    #: How often the server's answer held up all requests.
    held_up: int = 0
    #: What the answers say that they cost, if that was asked for; and those of earlier runs.
    tokens: float | None = None
    tokens_earlier: float = 0.0
    #: Seconds from the first attempt to the end, of each request that was sent.
    latencies: array[float] = field(default_factory=lambda: array("d"))
    began: float = field(default_factory=time.monotonic)

    def add(self, result: RequestResult) -> None:
        """Count a result."""
        if result.attempts:
            self.calls += result.attempts
            self.latencies.append(result.seconds)
        if result.failure is None:
            self.succeeded += 1
        else:
            self.failed[result.failure.kind] += 1

    @property
    def finished_now(self) -> int:
        """Lines that this run has dealt with."""
        return self.succeeded + self.failed.total()

    @property
    def done(self) -> int:
        """Lines that are dealt with, blank ones not counted."""
        return self.finished_now + self.skipped + self.failed_earlier + self.duplicates

    @property
    def unfinished(self) -> int:
        """Requests that were sent and have no result."""
        return self.sent - len(self.latencies)

    @property
    def elapsed(self) -> float:
        """Seconds since the beginning."""
        return time.monotonic() - self.began

    def percentile(self, percent: float) -> float:
        """The latency that ``percent`` of the requests did not exceed."""
        rank = math.ceil(percent / 100 * len(self.latencies))
        return sorted(self.latencies)[max(rank, 1) - 1]
