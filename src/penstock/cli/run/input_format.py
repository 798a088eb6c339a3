"""What the input is written in: found out by its name and its first bytes, or said by options."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Any

from penstock.cli.files import STANDARD
from penstock.cli.input_file import InputFile, check_utf8
from penstock.cli.lines import BOM
from penstock.cli.problems import listed
from penstock.cli.records import (
    ARRAY,
    MARK,
    WRAPPED,
    CsvCutter,
    Cutter,
    JsonCutter,
    JsonValueCutter,
    read_header,
    read_object,
    read_url,
    row_reader,
    sniff_delimiter,
)
from penstock.cli.run.batch_lines import as_request
from penstock.cli.run.template import Template


class InputKind(str, Enum):
    """What the input is written in; auto: that is found out."""

    AUTO = "auto"
    JSONL = "jsonl"
    JSON = "json"
    CSV = "csv"
    TSV = "tsv"
    URLS = "urls"


@dataclass(frozen=True)
class InputFormat:
    """How to cut the input into records, and to read each as the fields of a request."""

    base: str | None = None
    template: Template | None = None
    kind: InputKind = InputKind.JSONL
    #: Of a table: its columns, what stands between them, and where its rows begin.
    columns: tuple[str, ...] = ()
    delimiter: str = ","
    first_line: int = 1
    #: What stands before the records of a JSON array.
    before: re.Pattern[bytes] | None = None
    #: Where the files of the input's requests are.
    folder: Path | None = None

    @property
    def is_on_many_lines(self) -> bool:
        """Whether the number of lines says nothing of the number of records."""
        return self.kind is InputKind.JSON

    def cutter(self, on_blank: Callable[[], None]) -> Cutter:
        """What finds the records."""
        if self.kind is InputKind.CSV:
            return CsvCutter(on_blank, self.first_line, self.delimiter)
        if self.kind is InputKind.JSON:
            return JsonValueCutter(self.before)
        return JsonCutter(on_blank)

    def record_reader(self) -> Callable[[bytes], dict[str, Any]]:
        """What reads a record as it stands there."""
        if self.kind is InputKind.CSV:
            return row_reader(list(self.columns), self.delimiter)
        return read_url if self.kind is InputKind.URLS else read_object

    def reader(self) -> Callable[[int, bytes], dict[str, Any]]:
        """What reads a record, and its number, as the fields of a request."""
        read, template = self.record_reader(), self.template
        if template is not None:
            return lambda number, record: template.fill(read(record), number)
        if self.kind in (InputKind.CSV, InputKind.URLS):
            return lambda number, record: read(record)
        base = self.base
        return lambda number, record: as_request(read(record), base)


def find_format(
    name: str,
    file: InputFile,
    kind: InputKind = InputKind.AUTO,
    *,
    base: str | None = None,
    template: Template | None = None,
    delimiter: str | None = None,
    needs_template: bool = True,
) -> InputFormat:
    """What ``file``, called ``name``, is written in; of a table it reads the names of the columns.

    Raises:
        OSError: the input cannot be read.
        ValueError: it is nothing that can be read; the message says what it may be.
    """
    folder = Path() if name == STANDARD else Path(name).parent
    before = None
    if kind is InputKind.AUTO:
        kind = _kind_by_name(name) if delimiter is None else InputKind.CSV
    head = file.head.removeprefix(BOM)
    if kind is InputKind.AUTO:
        kind = _kind_by_content(head, template)
    if kind in (InputKind.JSON, InputKind.JSONL):
        before = next((each for each in (ARRAY, WRAPPED) if each.match(head)), None)
        is_pretty = before is None and _is_pretty(head)
        kind = InputKind.JSON if before is not None or is_pretty else InputKind.JSONL
        before = MARK if is_pretty else before
    if kind not in (InputKind.CSV, InputKind.TSV):
        return InputFormat(base, template, kind, before=before, folder=folder)
    if template is None and needs_template:
        raise ValueError(
            "a table needs a --template that makes requests from its rows, such as "
            '{"path": "/items/{sku}"}'
        )
    check_utf8(file.head)
    header = read_header(file.reader, "\t" if kind is InputKind.TSV else delimiter)
    file.skipped = header.size
    if template is not None:
        template.check_columns(header.columns)
    return InputFormat(
        base,
        template,
        InputKind.CSV,
        tuple(header.columns),
        header.delimiter,
        header.next_line,
        folder=folder,
    )


def _kind_by_name(name: str) -> InputKind:
    lower = name.lower().removesuffix(".gz").removesuffix(".zst").removesuffix(".zstd")
    suffix = Path(lower).suffix
    kinds = {".csv": InputKind.CSV, ".tsv": InputKind.TSV, ".tab": InputKind.TSV}
    return kinds.get(suffix, InputKind.AUTO)


def _kind_by_content(head: bytes, template: Template | None) -> InputKind:
    text = head.lstrip()
    if re.match(rb"(?i)https?://", text):
        return InputKind.URLS
    if not text or text[:1] in (b"{", b"[") or template is None:
        return InputKind.JSONL
    first = text.partition(b"\n")[0]
    has_columns = first.count(sniff_delimiter(first).encode()) > 0
    return InputKind.CSV if has_columns or re.match(rb"[\w ]+\r?\n", text) else InputKind.JSONL


def _is_pretty(head: bytes) -> bool:
    """Whether the first line begins an object that does not end there."""
    first = head.lstrip().partition(b"\n")[0].strip()
    return first == b"{"


def guess(head: bytes, problem: str) -> str:
    """What an input may be whose first records are no requests; ``problem`` is the first one."""
    text = head.removeprefix(BOM).lstrip()
    first = text.partition(b"\n")[0].strip()
    hint = ""
    if text[:1] == b"<":
        hint = "It looks like HTML or XML."
    elif text[:1] == b"{":
        hint = _hint_of_fields(first)
    elif first.count(sniff_delimiter(first).encode()):
        hint = (
            "It looks like a table: give a --template that makes requests from its rows, such as "
            '{"path": "/items/{sku}"}, and --input-format csv.'
        )
    elif "UTF-8" in problem:
        hint = "It may be in another encoding: give --encoding cp1252, or latin-1."
    return hint


def _hint_of_fields(record: bytes) -> str:
    try:
        fields = json.loads(record)
    except (RecursionError, ValueError):
        return ""
    if not isinstance(fields, dict) or not fields:
        return ""
    return (
        f"Its records have {listed(list(fields))}: a --template makes requests from them, such as "
        f'{{"path": "/items/{{{next(iter(fields))}}}"}}.'
    )
