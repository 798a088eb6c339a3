"""What became of the requests: one result each, and the totals of a run."""

from __future__ import annotations

import json
import math
import re
import time
from array import array
from base64 import b64encode
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NewType

from penstock.cli.problems import RequestId

#: A value in the form that goes into the result file. Made once: what is nested as deeply as can
#: be read might be too deep to be written from within something else.
JsonText = NewType("JsonText", str)


_CONTROLS = re.compile("[\x80-\x9f]")
_PLAIN = re.compile(r"[ !#-\[\]-~]*")


_encode = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode


def _escaped(found: re.Match[str]) -> str:
    return f"\\u{ord(found[0]):04x}"


def to_json(value: Any) -> JsonText:
    """``value`` on one line, as people read it.

    Raises:
        ValueError, RecursionError: JSON has no such number; it is nested too deeply.
    """
    text = _encode(value)
    # JSON escapes only half of what a terminal obeys.
    return JsonText(text if text.isascii() else _CONTROLS.sub(_escaped, text))


@dataclass(frozen=True)
class RequestFailure:
    """Why there is no good answer: a word to count by, a sentence, and the service's own words."""

    kind: str
    message: str
    reason: str = ""


@dataclass
class RequestResult:
    """What became of one line."""

    id: RequestId
    line: int
    status: int | None = None
    #: The body, where it is text; or its bytes, or the file that they were saved to.
    body: JsonText | None = None
    failure: RequestFailure | None = None
    attempts: int = 0
    seconds: float = 0.0
    binary: bytes | None = None
    body_file: str = ""
    media_type: str = ""
    #: Headers of the answer that were asked for.
    headers: Mapping[str, str] = field(default_factory=dict)
    #: What was asked for: see :class:`penstock.cli.run.requests.Request`.
    asked: str = ""

    def to_line(self) -> bytes:
        """The line for the result file."""
        pieces = [f'{{"id": {_text(self.id)}, "line": {self.line}, "status": {self._status}']
        if self.failure is None:
            pieces += self._body_fields(always=True)
        else:
            error = [f'"kind": {_text(self.failure.kind)}', f'"message": {self._message}']
            error += self._body_fields(always=False)
            pieces.append(f'"error": {{{", ".join(error)}}}')
        if self.headers:
            pieces.append(f'"headers": {to_json(dict(self.headers))}')
        pieces.append(f'"attempts": {self.attempts}, "seconds": {round(self.seconds, 6)!r}')
        if self.asked:
            pieces.append(f'"asked": "{self.asked}"')
        # Half a character (a lone surrogate) has no UTF-8 form. With a backslash it is the JSON
        # escape that it came from.
        return (", ".join(pieces) + "}\n").encode("utf-8", "backslashreplace")

    def _body_fields(self, *, always: bool) -> list[str]:
        if self.body_file:
            return [f'"body_file": {_text(self.body_file)}']
        if self.binary is not None:
            return [f'"body_base64": "{b64encode(self.binary).decode()}"']
        if self.body is None:
            return ['"body": null'] if always else []
        return [f'"body": {self.body}']

    @property
    def _status(self) -> str:
        return "null" if self.status is None else str(self.status)

    @property
    def _message(self) -> str:
        assert self.failure is not None
        return _text(self.failure.message)


def _text(value: RequestId) -> str:
    """An id or a text as JSON; the quick way for what needs no escape."""
    if isinstance(value, str) and _PLAIN.fullmatch(value):
        return f'"{value}"'
    return to_json(value)


@dataclass
class Totals:
    """The counts of a run, as it goes."""

    #: Lines in the file, if that can be known.
    expected: int | None = None
    #: Lines that are no record of their own.
    blank: int = 0
    #: Lines that ask for what an earlier line does.
    duplicates: int = 0
    #: Lines whose id had an answer to something else: sent again, or kept.
    changed: int = 0
    kept: int = 0
    #: Lines that earlier runs have dealt with, well or badly.
    skipped: int = 0
    failed_earlier: int = 0
    sent: int = 0
    calls: int = 0
    succeeded: int = 0
    failed: Counter[str] = field(default_factory=Counter)
    retries: Counter[str] = field(default_factory=Counter)
    #: Attempts that the service refused: too many requests.
    refused: int = 0
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
