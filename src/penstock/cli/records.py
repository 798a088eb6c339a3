"""What the input is made of: JSON objects, one a line, or the rows of a CSV file.

Either way there is a cutter, which finds where a record ends, and a function that reads one.
"""

from __future__ import annotations

import csv
import io
import json
import math
import re
from collections.abc import Callable, Iterator
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

    def __init__(self, on_blank: Callable[[], None], first_line: int = 1) -> None:
        self._lines = LineCutter(first_line)
        self._on_blank = on_blank
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
            if line is not None and not line.strip():
                self._on_blank()
                return
            self._began_at = number
        else:
            self._on_blank()  # it is no record of its own
        self._size += LONGEST_LINE + 1 if line is None else len(line) + 1
        self._is_too_long = self._is_too_long or self._size > LONGEST_LINE
        self._begun.append(b"" if self._is_too_long or line is None else line)
        self._is_open = not self._is_too_long and ends_open(line or b"", self._is_open)
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
_NEXT_FIELD = re.compile(rb"[^,\r]*[,\r]")


def ends_open(line: bytes, is_open: bool) -> bool:
    """Whether a line ends within quotes; ``is_open``: whether it begins within them.

    (To have the module csv look at all lines of a row again for each would take time that grows
    with their square, which a hostile file could use.)
    """
    at = 0
    while True:
        if not is_open and line[at : at + 1] == b'"':
            is_open, at = True, at + 1
        found = (_CLOSING if is_open else _NEXT_FIELD).match(line, at)
        if found is None:
            return is_open
        at = found.end()
        if is_open:
            if line[at : at + 1] not in (b",", b"\r"):  # it ends here, or is no CSV
                return False
            is_open, at = False, at + 1


def read_header(file: io.BufferedReader) -> tuple[list[str], int]:
    """Read the header row of a CSV file; also tell at which line the rest begins.

    Raises:
        OSError: the file cannot be read.
        ValueError: it has no header, or one that is of no use.
    """
    row, lines, is_open = bytearray(), 0, False
    while line := file.readline(LONGEST_LINE):
        lines += 1
        is_open = ends_open((line if row else line.removeprefix(BOM)).rstrip(b"\r\n"), is_open)
        row += line
        if (row.strip() and not is_open) or len(row) > LONGEST_LINE:
            break
    try:
        columns = _cells(bytes(row).removeprefix(BOM).strip(b"\r\n"))
    except MalformedLineError as error:
        raise ValueError(
            f"its first line cannot be read as the names of columns: {error}"
        ) from None
    if not any(columns):
        raise ValueError("its first line must have the names of the columns; it is empty")
    for number, column in enumerate(columns, 1):
        if not column.strip():
            raise ValueError(f"column {number} has no name in the first line")
        if column in columns[: number - 1]:
            raise ValueError(f"two columns have the name {quote(column)}")
    return columns, lines + 1


def row_reader(columns: list[str]) -> Callable[[bytes], dict[str, Any]]:
    """What reads a row as the texts in its columns."""

    def read(row: bytes) -> dict[str, Any]:
        cells = _cells(row)
        if len(cells) != len(columns):
            raise MalformedLineError(
                f"has {len(cells)} fields, and the first line {len(columns)} columns: "
                f"{listed(columns)}"
            )
        return dict(zip(columns, cells, strict=True))

    return read


def _cells(row: bytes) -> list[str]:
    text = _decode(row)
    try:
        rows = list(csv.reader(io.StringIO(text, newline=""), strict=True))
    except csv.Error as error:
        if str(error) == _NEVER_CLOSED:
            raise MalformedLineError("not CSV: a quote is opened and never closed") from None
        raise MalformedLineError(f"not CSV: {error}") from None
    if len(rows) > 1:
        raise MalformedLineError("not CSV: a line break (CR) that is not within quotes")
    return rows[0] if rows else []


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
        raise MalformedLineError("not JSON that can be read: nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise MalformedLineError("not JSON that can be read: a number is too long") from None


def read_object(line: bytes) -> dict[str, Any]:
    """Read a line as a JSON object, whose numbers are finite.

    Raises:
        MalformedLineError: it is none.
    """
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
        raise MalformedLineError("not JSON that can be read: a number is too large")
    return number
