"""``penstock results``: the newest line of each id, in the order of the input."""

from __future__ import annotations

import csv
import io
import json
import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from enum import Enum
from typing import Annotated, Any, BinaryIO

import typer

from penstock.cli.input_file import open_input
from penstock.cli.options import flowing, option, refuse, said
from penstock.cli.problems import MalformedLineError
from penstock.cli.run.ids import key
from penstock.cli.run.input_format import find_format
from penstock.cli.run.journal import MALFORMED, NotAJournalError, entries, malformed_key
from penstock.cli.run.source import records_now

HELP = flowing(
    """
Write the newest result of each id in FILE, which penstock run wrote, in the order of the input.

\b
  penstock results results.jsonl > newest.jsonl
  penstock results results.jsonl --format csv > newest.csv
  penstock results results.jsonl --format csv --input items.csv > both.csv
"""
)
EPILOG = flowing(
    """
Exit codes: 0 written; 2 FILE cannot be read, or has no results of penstock run; 5 the results
cannot be written.
"""
)

#: Columns of a CSV file, before those of the body and after those of the input.
_COLUMNS = ("id", "line", "status", "error", "message", "attempts", "seconds")
_FILE_TROUBLE = 5
#: What a shell says of a program that SIGPIPE has ended.
_PIPE_CLOSED = 141


class OutputKind(str, Enum):
    """What the results are written as."""

    JSONL = "jsonl"
    CSV = "csv"


def results(
    file: Annotated[str, typer.Argument(metavar="FILE", show_default=False)],
    output: Annotated[
        OutputKind,
        option(None, "--format", "jsonl|csv", "Lines of JSON, or a table of columns (jsonl)."),
    ] = OutputKind.JSONL,
    source: Annotated[
        str | None,
        option(
            None, "--input", "FILE", "Requests or rows that were sent, to write beside results."
        ),
    ] = None,
) -> int:
    """Check everything, then write."""
    try:
        with open(file, "rb") as journal:
            newest = newest_lines(journal)
            rows = None if source is None else _input_rows(source)
            write = _write_csv if output is OutputKind.CSV else _write_json
            stream = io.TextIOWrapper(
                open(sys.stdout.fileno(), "wb", closefd=False),  # noqa: SIM115 - it is closed
                "utf-8",
                "backslashreplace",
                newline="",
            )
            try:
                with stream:
                    write(stream, journal, newest, rows)
            except OSError as error:
                with suppress(OSError):
                    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
                if isinstance(error, BrokenPipeError):  # as in "penstock results FILE | head"
                    return _PIPE_CLOSED
                refuse(f"cannot write the results: {said(error)}", _FILE_TROUBLE)
    except (OSError, NotAJournalError) as error:
        refuse(f"cannot read {file}: {said(error)}")
    return 0


def newest_lines(journal: BinaryIO) -> list[tuple[int, int]]:
    """The lines of the input, in their order, and where the newest result of each begins.

    Raises:
        NotAJournalError: it is no journal.
    """
    found: dict[int, tuple[int, int]] = {}
    for offset, entry in entries(journal):
        error = entry.get("error")
        if isinstance(error, dict) and error.get("kind") == MALFORMED:
            which = malformed_key(entry["id"], str(error.get("message")))
        else:
            which = key(entry["id"])
        line = entry.get("line")
        found[which] = (line if isinstance(line, int) else 0, offset)
    return sorted(found.values())


def _entries_at(journal: BinaryIO, newest: list[tuple[int, int]]) -> Iterator[dict[str, Any]]:
    for _, offset in newest:
        journal.seek(offset)
        entry: dict[str, Any] = json.loads(journal.readline())
        yield entry


def _input_rows(name: str) -> dict[int, dict[str, Any]]:
    """What stands in each line of the input."""
    try:
        file = open_input(name)
        form = find_format(name, file, needs_template=False)
        reader = form.record_reader()
        rows = {}
        for number, record in records_now(file.reader, form):
            with suppress(MalformedLineError):
                rows[number] = {} if record is None else reader(record)
        file.close()
        return rows
    except (OSError, ValueError) as error:
        refuse(f"cannot read --input {name}: {said(error)}")


def _joined(
    entries_: Iterator[dict[str, Any]], rows: dict[int, dict[str, Any]] | None
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Each result, and the row that it belongs to: that with its id, or else that of its line."""
    if rows is None:
        yield from ((entry, {}) for entry in entries_)
        return
    by_id = {key(row["id"]): row for row in rows.values() if isinstance(row.get("id"), (str, int))}
    for entry in entries_:
        yield entry, by_id.get(key(entry["id"])) or rows.get(entry.get("line", 0)) or {}


def _write_json(
    stream: io.TextIOWrapper,
    journal: BinaryIO,
    newest: list[tuple[int, int]],
    rows: dict[int, dict[str, Any]] | None,
) -> None:
    for entry, row in _joined(_entries_at(journal, newest), rows):
        shown = entry if rows is None else {"input": row, **entry}
        stream.write(json.dumps(shown, ensure_ascii=False) + "\n")


def _write_csv(
    stream: io.TextIOWrapper,
    journal: BinaryIO,
    newest: list[tuple[int, int]],
    rows: dict[int, dict[str, Any]] | None,
) -> None:
    columns: dict[str, None] = {}
    of_body: dict[str, None] = {}
    for entry, row in _joined(_entries_at(journal, newest), rows):
        columns.update(dict.fromkeys(row))
        of_body.update(dict.fromkeys(_body_cells(entry)))
    taken = {name: name if name not in columns else f"result.{name}" for name in _COLUMNS}
    writer = csv.writer(stream)
    writer.writerow([*columns, *taken.values(), *of_body])
    for entry, row in _joined(_entries_at(journal, newest), rows):
        error = entry.get("error") or {}
        cells = entry | {"error": error.get("kind"), "message": error.get("message")}
        body = _body_cells(entry)
        writer.writerow(
            [
                *(_cell(row.get(name)) for name in columns),
                *(_cell(cells.get(name)) for name in _COLUMNS),
                *(_cell(body.get(name)) for name in of_body),
            ]
        )


def _body_cells(entry: dict[str, Any]) -> dict[str, Any]:
    holder = entry.get("error") or entry
    body = holder.get("body")
    if isinstance(body, dict):
        return {f"body.{name}": value for name, value in body.items()}
    names = ("body", "body_base64", "body_file")
    return {name: holder[name] for name in names if holder.get(name) is not None}


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
