"""The results as a journal: what it says of earlier runs, and how it is opened to be gone on with.

A journal has a line for each request that is finished, and for one id the newest line counts.
Nobody but us writes to it while the run lasts. A last line that is torn (the process or the
machine died in the middle of a write) is cut off, and its request sent again.
"""

from __future__ import annotations

import io
import json
import os
import re
import stat
import sys
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Protocol

from filelock import FileLock, Timeout

from penstock.cli.files import STANDARD, private
from penstock.cli.problems import RequestId
from penstock.cli.run.ids import key
from penstock.cli.run.tokens import Cost
from penstock.errors import PenstockError

#: How each line begins. (Any other file is left alone.)
_BEGIN = b'{"id": '
_HEAD = re.compile(
    rb'\{"id": ("(?:[^"\\]|\\.)*"|-?[0-9]+), "line": .{1,60}?, '
    rb'"(body|body_base64|body_file|error)": '
)
#: What a line has one of.
_OUTCOMES = frozenset({"body", "body_base64", "body_file", "error"})
#: The kind of a failure that no request was behind.
MALFORMED = "malformed"


class HasFileno(Protocol):
    """An open file."""

    def fileno(self) -> int:
        """Its descriptor."""
        ...


class NotAJournalError(PenstockError):
    """The file is no journal, or a broken one; the message says where."""


@dataclass
class PreviousRuns:
    """What earlier runs have done: some 80 bytes for each request, whatever its answer was."""

    #: The keys of the ids.
    succeeded: set[int] = field(default_factory=set)
    #: The same, and where in the file the newest line of each begins.
    failed: dict[int, int] = field(default_factory=dict)
    #: What was asked under each key, where the journal says so; see :func:`asked_number`.
    asked: dict[int, int] = field(default_factory=dict)
    #: Of records that were no requests.
    malformed: dict[int, int] = field(default_factory=dict)
    #: What the answers cost, all together.
    tokens: float = 0.0
    #: Attempts, all together.
    calls: int = 0
    #: Where whole lines end, if something follows them that is none.
    torn_at: int | None = None

    def note(self, entry: dict[str, Any], offset: int, cost: Cost | None) -> None:
        """Take in a line."""
        error = entry.get("error")
        if isinstance(error, dict) and error.get("kind") == MALFORMED:
            self.malformed[malformed_key(entry["id"], str(error.get("message")))] = offset
            return
        which = key(entry["id"])
        number = asked_number(entry.get("asked"))
        if number:
            self.asked[which] = number
        else:
            self.asked.pop(which, None)
        calls = entry.get("attempts")
        self.calls += calls if isinstance(calls, int) else 0
        if error is None:
            self.failed.pop(which, None)
            self.succeeded.add(which)
        else:
            self.succeeded.discard(which)
            self.failed[which] = offset
        if cost is not None:
            self.tokens += cost.of(entry.get("body")) or 0.0

    def has(self, which: int) -> bool:
        """Whether there is an answer, or a failure, under the key of an id."""
        return which in self.succeeded or which in self.failed

    def is_changed(self, which: int, asked: str) -> bool:
        """Whether something else was asked under the key of an id."""
        before = self.asked.get(which)
        return before is not None and before != asked_number(asked)

    def is_elsewhere(self, which: int, asked: str) -> bool:
        """Whether the same was asked, but of another base URL."""
        before = self.asked.get(which, 0)
        return before >> _MARK_BITS == asked_number(asked) >> _MARK_BITS

    def __bool__(self) -> bool:
        return bool(self.succeeded or self.failed or self.malformed)


_ASKED = re.compile(r"([0-9a-f]{20})(?:-([0-9a-f]{8}))?")
_MARK_BITS = 32


def asked_number(text: Any) -> int:
    """What a line of the journal says was asked, as a number: the base URL in its last 32 bits.

    0: it says nothing of the kind.
    """
    found = _ASKED.fullmatch(text) if isinstance(text, str) else None
    return 0 if found is None else int(found[1], 16) << _MARK_BITS | int(found[2] or "0", 16)


def malformed_key(request_id: RequestId, problem: str) -> int:
    """What stands for a record that is no request, and for what is wrong with it."""
    return key(request_id, problem)


def scan(file: BinaryIO, cost: Cost | None = None) -> PreviousRuns:
    """Read a journal, a line at a time.

    Args:
        file: from its beginning.
        cost: where an answer says what it cost, if that is to be added up.

    Raises:
        NotAJournalError: a line is no result, and it is not the last one, torn.
    """
    earlier = PreviousRuns()
    for offset, entry in entries(file, earlier):
        earlier.note(entry, offset, cost)
    return earlier


def entries(
    file: BinaryIO, earlier: PreviousRuns | None = None
) -> Iterator[tuple[int, dict[str, Any]]]:
    """Each line of a journal, and where it begins; ``earlier`` is told where a torn one does.

    Raises:
        NotAJournalError: a line is no result, and it is not the last one, torn.
    """
    offset = 0
    for number, line in enumerate(file, 1):
        entry = _entry(line)
        if entry is None:
            is_last = not file.readline(1)
            if is_last and (number > 1 or _may_be_torn(line)):
                if earlier is not None:
                    earlier.torn_at = offset
                return
            raise NotAJournalError(
                f"line {number} is not a result of penstock run"
                + ("" if number == 1 else ": repair the file, or give another name")
            )
        yield offset, entry
        offset += len(line)


def _entry(line: bytes) -> dict[str, Any] | None:
    if not line.endswith(b"\n"):
        return None
    try:
        entry = json.loads(line)
    except RecursionError:  # an answer that is nested very deeply
        head = _HEAD.match(line)
        is_whole = line.endswith(b"}\n")
        return {"id": json.loads(head[1]), head[2].decode(): {}} if head and is_whole else None
    except ValueError:
        return None
    if not isinstance(entry, dict) or _OUTCOMES.isdisjoint(entry):
        return None
    name = entry.get("id")
    return entry if isinstance(name, (str, int)) and not isinstance(name, bool) else None


def _may_be_torn(line: bytes) -> bool:
    return line.startswith(_BEGIN) or _BEGIN.startswith(line)


@dataclass
class Results:
    """What results are written to."""

    file: io.FileIO
    #: Whether the same command can go on with it.
    is_journal: bool = False
    earlier: PreviousRuns = field(default_factory=PreviousRuns)
    _lock: FileLock | None = None
    #: Whether the file was made for this run.
    is_new: bool = False

    def line_at(self, place: int) -> bytes:
        """The line of the journal that begins there."""
        with open(self.file.name, "rb") as journal:
            journal.seek(place)
            return journal.readline()

    def remove_if_new(self) -> None:
        """Remove the file, if it was made for this run, and nothing was written."""
        with suppress(OSError):
            if self.is_new and os.path.getsize(self.file.name) == 0:
                os.unlink(self.file.name)

    def release(self) -> None:
        """Let others write to it. (If this process dies, that happens by itself.)"""
        if self._lock is not None:
            self._lock.release()


def open_results(
    name: str,
    requests: HasFileno,
    overwrite: bool = False,
    cost: Cost | None = None,
) -> Results:
    """Open what the results go to; ``-`` is standard output.

    Raises:
        OSError: it cannot be written, is the request file, or another run writes to it.
        NotAJournalError: it exists and is no journal.
    """
    if name == STANDARD:
        if sys.stdout is None:
            raise OSError("standard output is closed")
        return Results(io.FileIO(sys.stdout.fileno(), "wb", closefd=False))
    try:
        there = os.stat(name)
    except FileNotFoundError:
        there = None
    if there is not None and not stat.S_ISREG(there.st_mode):  # a device or a pipe
        return Results(io.FileIO(name, "wb"))
    if there is not None and os.path.samestat(there, os.fstat(requests.fileno())):
        raise OSError("it is the file that the requests are read from")
    if there is not None and not overwrite:
        _refuse_other_files(name)
    file = io.FileIO(name, "ab", opener=private)  # nothing in it changes before it is locked
    lock = None
    try:
        lock = _locked(name)
        if overwrite:
            file.truncate(0)
        with open(name, "rb") as journal:
            earlier = scan(journal, cost)
        if earlier.torn_at is not None:
            file.truncate(earlier.torn_at)
    except BaseException:
        file.close()
        if lock is not None:
            lock.release()
        raise
    return Results(file, True, earlier, lock, there is None)


def open_failures(name: str, *others: HasFileno) -> io.FileIO:
    """Open what the failures go to, afresh; ``others`` are the files that it must not be.

    Raises:
        OSError: it cannot be written, or is one of the others.
        NotAJournalError: it exists and has something else in it.
    """
    try:
        there = os.stat(name)
    except FileNotFoundError:
        return io.FileIO(name, "wb", opener=private)
    if any(os.path.samestat(there, os.fstat(other.fileno())) for other in others):
        raise OSError("it is the file of the requests or of the results")
    if stat.S_ISREG(there.st_mode):
        _refuse_other_files(name)
    return io.FileIO(name, "wb")


def _refuse_other_files(name: str) -> None:
    """Raise NotAJournalError if the file has something that we did not write."""
    with open(name, "rb") as file:
        begin = file.read(len(_BEGIN))
    if not _may_be_torn(begin):
        raise NotAJournalError(
            "it exists already, and has no results of penstock run: give another name"
        )


def _locked(name: str) -> FileLock:
    lock = FileLock(os.path.realpath(name) + ".lock")
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise BlockingIOError(
            0, "another penstock run is writing to it: wait for its end, or give another name"
        ) from None
    return lock
