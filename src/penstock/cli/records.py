"""What the input is made of: JSON objects, rows of a table, or URLs.

Either way there is a cutter, which finds where a record ends, and a function that reads one.
"""

from __future__ import annotations

import csv
import functools
import io
import json
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NoReturn, Protocol, TypeAlias

from penstock.cli.lines import BOM, LONGEST_LINE, LineCutter
from penstock.cli.problems import MalformedLineError, kind, listed, quote

#: The number of its first line, and the record, or None where it is too long.
Numbered: TypeAlias = "tuple[int, bytes | None]"

csv.field_size_limit(LONGEST_LINE)


class Cutter(Protocol):
    """Cuts what comes in pieces into numbered records."""

    def cut(self, piece: bytes) -> Iterator[Numbered]:
        """Yield the records that end in ``piece``."""
        ...

    def end(self) -> Iterator[Numbered]:
        """Yield the last record, if it had no end."""
        ...


class JsonCutter:
    """One record a line, but for blank ones."""

    def __init__(self, on_blank: Callable[[], None]) -> None:
        self._lines = LineCutter()
        self._on_blank = on_blank

    def cut(self, piece: bytes) -> Iterator[Numbered]:
        """Yield the lines that end in ``piece``."""
        return self._without_blank(self._lines.cut(piece))

    def end(self) -> Iterator[Numbered]:
        """Yield the last line, if it had no end."""
        return self._without_blank(self._lines.end())

    def _without_blank(self, lines: Iterator[Numbered]) -> Iterator[Numbered]:
        for number, line in lines:
            if line is None or line.strip():
                yield number, line
            else:
                self._on_blank()


class CsvCutter:
    """One record a line, or more lines where a line break is within quotes."""

    def __init__(
        self, on_blank: Callable[[], None], first_line: int = 1, delimiter: str = ","
    ) -> None:
        self._lines = LineCutter(first_line)
        self._on_blank = on_blank
        self._delimiter = delimiter.encode()
        self._blank = b' \t\r\n"' + self._delimiter
        self._begun: list[bytes] = []
        self._began_at = 0
        self._size = 0
        self._is_too_long = False
        self._is_open = False

    def cut(self, piece: bytes) -> Iterator[Numbered]:
        """Yield the rows that end in ``piece``."""
        for number, line in self._lines.cut(piece):
            yield from self._add(number, line)

    def end(self) -> Iterator[Numbered]:
        """Yield the last row, if it had no end."""
        for number, line in self._lines.end():
            yield from self._add(number, line)
        if self._begun:
            yield self._take()

    def _add(self, number: int, line: bytes | None) -> Iterator[Numbered]:
        if not self._begun:
            if line is not None and not line.strip(self._blank):
                self._on_blank()
                return
            self._began_at = number
        else:
            self._on_blank()  # it is no record of its own
        self._size += LONGEST_LINE + 1 if line is None else len(line) + 1
        self._is_too_long = self._is_too_long or self._size > LONGEST_LINE
        self._begun.append(b"" if self._is_too_long or line is None else line)
        self._is_open = not self._is_too_long and ends_open(
            line or b"", self._is_open, self._delimiter
        )
        if not self._is_open:
            yield self._take()

    def _take(self) -> Numbered:
        row = None if self._is_too_long else b"\n".join(self._begun)
        self._begun = []
        self._size, self._is_too_long, self._is_open = 0, False, False
        return self._began_at, row


_NEVER_CLOSED = "unexpected end of data"


#: From within quotes to the one that ends them; from within a field to the next one.
_CLOSING = re.compile(rb'[^"]*(?:""[^"]*)*"(?!")')


@functools.cache
def _next_field(delimiter: bytes) -> re.Pattern[bytes]:
    either = re.escape(delimiter) + rb"\r"
    return re.compile(rb"[^%b]*[%b]" % (either, either))


def ends_open(line: bytes, is_open: bool, delimiter: bytes = b",") -> bool:
    """Whether a line ends within quotes; ``is_open``: whether it begins within them.

    (To have the module csv look at all lines of a row again for each would take time that grows
    with their square, which a hostile file could use.)
    """
    at = 0
    while True:
        if not is_open and line[at : at + 1] == b'"':
            is_open, at = True, at + 1
        found = (_CLOSING if is_open else _next_field(delimiter)).match(line, at)
        if found is None:
            return is_open
        at = found.end()
        if is_open:
            if line[at : at + 1] not in (delimiter, b"\r"):  # it ends here, or is no CSV
                return False
            is_open, at = False, at + 1


@dataclass(frozen=True)
class Header:
    """The first row of a table: the names of its columns, and how it is written."""

    columns: list[str]
    delimiter: str
    #: The line at which the rest begins, and the bytes before that.
    next_line: int
    size: int


#: What may stand between columns, the likelier ones first.
DELIMITERS = (",", ";", "\t", "|")
_SEP = re.compile(rb"(?i)sep=(.)\r?\n")


def read_header(file: io.BufferedReader, delimiter: str | None = None) -> Header:
    """Read the header row of a table.

    Args:
        file: the table.
        delimiter: what stands between columns; None: found out by that row.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no header, or one that is of no use.
    """
    row, lines, size, is_open = bytearray(), 0, 0, False
    while line := file.readline(LONGEST_LINE):
        lines += 1
        size += len(line)
        if not row:
            line = line.removeprefix(BOM)
            named = _SEP.fullmatch(line)
            if named is not None:  # Excel's own
                delimiter = delimiter or named[1].decode("latin-1")
                continue
            if delimiter is None and line.strip():
                delimiter = sniff_delimiter(line)
        is_open = ends_open(line.rstrip(b"\r\n"), is_open, (delimiter or ",").encode())
        row += line
        if (row.strip() and not is_open) or len(row) > LONGEST_LINE:
            break
    delimiter = delimiter or ","
    try:
        columns = [column.strip() for column in _cells(bytes(row).strip(b"\r\n"), delimiter)]
    except MalformedLineError as error:
        raise ValueError(f"its first line must have the names of the columns: {error}") from None
    while columns and not columns[-1]:  # the line ends with a delimiter
        columns.pop()
    if not columns:
        raise ValueError("its first line must have the names of the columns; it is empty")
    for number, column in enumerate(columns, 1):
        if not column:
            raise ValueError(f"column {number} has no name in the first line")
        if column in columns[: number - 1]:
            raise ValueError(f"two columns have the name {quote(column)}")
    return Header(columns, delimiter, lines + 1, size)


def sniff_delimiter(line: bytes) -> str:
    """What stands between the columns of a header: whatever makes most of them."""
    text = re.sub(r'"[^"]*"', "", line.decode("utf-8", "replace"))
    return max(DELIMITERS, key=text.count)


def row_reader(columns: list[str], delimiter: str = ",") -> Callable[[bytes], dict[str, Any]]:
    """What reads a row as the texts in its columns."""

    def read(row: bytes) -> dict[str, Any]:
        cells = _cells(row, delimiter)
        while len(cells) > len(columns) and not cells[-1].strip():
            cells.pop()
        if len(cells) != len(columns):
            raise MalformedLineError(
                f"has {len(cells)} fields, and the first line {len(columns)} columns: "
                f"{listed(columns)}"
            )
        return dict(zip(columns, cells, strict=True))

    return read


def read_url(line: bytes) -> dict[str, Any]:
    """Read a line of a list of URLs."""
    return {"url": _decode(line).strip()}


def _cells(row: bytes, delimiter: str) -> list[str]:
    text = _decode(row)
    try:
        reader = csv.reader(io.StringIO(text, newline=""), strict=True, delimiter=delimiter)
        rows = list(reader)
    except csv.Error as error:
        if str(error) == _NEVER_CLOSED:
            raise MalformedLineError("not CSV: a quote is opened and never closed") from None
        raise MalformedLineError(f"not CSV: {error}") from None
    if len(rows) > 1:
        raise MalformedLineError("not CSV: a line break (CR) outside of quotes")
    return rows[0] if rows else []


class JsonValueCutter:
    """Finds the values of a JSON array, or JSON objects one after the other, over any lines.

    The number of a record is its place, from 1.

    Args:
        before: what stands before the first record, if it is there.
    """

    def __init__(self, before: re.Pattern[bytes] | None = None) -> None:
        self._before = before
        self._begun = bytearray()
        self._depth = self._count = 0
        self._in_string = self._is_escaped = self._is_too_long = self._is_over = False

    def cut(self, piece: bytes) -> Iterator[Numbered]:
        """Yield the values that end in ``piece``."""
        if self._before is not None:
            self._begun += piece
            found = self._before.match(self._begun)
            if found is None:
                return
            piece = bytes(self._begun[found.end() :])
            self._begun.clear()
            self._before = None
        begin = 0
        at = int(self._is_escaped and bool(piece))
        self._is_escaped = self._is_escaped and not piece
        while not self._is_over:
            found = (_STRING_END if self._in_string else _STRUCTURE).search(piece, at)
            if found is None:
                self._add(piece[begin:])
                return
            at, mark = found.end(), found[0]
            if self._in_string:
                self._in_string = mark != b'"'
                self._is_escaped = mark == b"\\"  # at the end of this piece
            elif mark == b'"':
                self._in_string = True
            elif mark in b"{[":
                self._depth += 1
            elif mark in b"}]" and self._depth:
                self._depth -= 1
                if not self._depth:
                    self._add(piece[begin:at])
                    yield from self._take()
                    begin = at
            elif not self._depth:  # a comma between two values, or the end of the array
                self._add(piece[begin : at - 1])
                yield from self._take()
                begin = at
                self._is_over = mark == b"]"

    def end(self) -> Iterator[Numbered]:
        """Yield what is left, if it had no end."""
        yield from self._take()

    def _add(self, part: bytes) -> None:
        if not self._begun:
            part = part.lstrip()
        if self._is_too_long or len(self._begun) + len(part) > LONGEST_LINE:
            self._is_too_long = True
            self._begun.clear()
        else:
            self._begun += part

    def _take(self) -> Iterator[Numbered]:
        record = None if self._is_too_long else bytes(self._begun).strip()
        self._begun.clear()
        self._is_too_long = False
        if record or record is None:
            self._count += 1
            yield self._count, record


_STRUCTURE = re.compile(rb'["{}\[\],]')
_STRING_END = re.compile(rb'"|\\.|\\\Z', re.DOTALL)
#: What may stand before anything.
MARK = re.compile(rb"(?:\xef\xbb\xbf)?")
#: What stands before the records of an array, and of an object that has one.
ARRAY = re.compile(rb"(?:\xef\xbb\xbf)?\s*\[")
WRAPPED = re.compile(rb'(?:\xef\xbb\xbf)?\s*\{\s*"requests"\s*:\s*\[')


def read_json(line: bytes, **hooks: Any) -> Any:
    """Read a line as JSON of any kind.

    ``hooks`` are those of ``json.loads``. Without any, numbers that are not finite pass: whoever
    writes them as JSON again refuses them.

    Raises:
        MalformedLineError: it is none.
    """
    try:
        return json.loads(_decode(line), **hooks)
    except json.JSONDecodeError as error:
        raise MalformedLineError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise MalformedLineError("not readable JSON: nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise MalformedLineError("not readable JSON: a number is too long") from None


def read_object(line: bytes) -> dict[str, Any]:
    """Read a line as a JSON object, whose numbers are finite.

    Raises:
        MalformedLineError: it is none.
    """
    try:
        value = read_json(line, parse_constant=_refuse_constant, parse_float=_finite)
    except MalformedLineError:
        if not line.rstrip().endswith(b"},"):
            raise
        # Taken out of an array, comma and all.
        line = line.rstrip()[:-1]
        value = read_json(line, parse_constant=_refuse_constant, parse_float=_finite)
    if not isinstance(value, dict):
        raise MalformedLineError(f"must be an object, got {kind(value)}")
    return value


def _decode(record: bytes) -> str:
    try:
        return record.decode()
    except UnicodeDecodeError as error:
        raise MalformedLineError(f"not UTF-8: byte {error.start + 1} is wrong") from None


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedLineError(f"not JSON: {name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise MalformedLineError("not readable JSON: a number is too large")
    return number
