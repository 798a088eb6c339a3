"""Where a record begins and ends, and what is in it."""

from __future__ import annotations

import io

import pytest

from penstock.cli import records
from penstock.cli.problems import MalformedLineError
from penstock.cli.records import CsvCutter, read_header, row_reader

COLUMNS = ["sku", "note"]


def rows(data: bytes, size: int = 1000) -> tuple[list[tuple[int, object]], int]:
    """The rows of ``data``, in pieces of ``size``; and how many lines were none of their own."""
    blank: list[None] = []
    cutter = CsvCutter(lambda: blank.append(None), 2)
    read = row_reader(COLUMNS)
    pieces = [data[begin : begin + size] for begin in range(0, len(data), size)]
    found = [row for piece in pieces for row in cutter.cut(piece)] + list(cutter.end())
    return [(number, row if row is None else read(row)) for number, row in found], len(blank)


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
@pytest.mark.parametrize("end", [b"\n", b"\r\n"])
def test_a_row_may_have_line_breaks_within_quotes(size: int, end: bytes) -> None:
    data = end.join([b"a,plain", b'b,"two', b"", b'lines ""and"" more"', b"", b'c,5" pipe', b"d,"])
    found, blank = rows(data, size)
    two = f'two{end.decode()}{end.decode()}lines "and" more'
    assert found == [
        (2, {"sku": "a", "note": "plain"}),
        (3, {"sku": "b", "note": two}),
        (7, {"sku": "c", "note": '5" pipe'}),
        (8, {"sku": "d", "note": ""}),
    ]
    assert blank == 3  # two that a row goes on in, and one that is blank


@pytest.mark.parametrize(
    ("row", "problem"),
    [
        (b"a", "has 1 fields, and the first line 2 columns: sku, note"),
        (b"a,b,c", "has 3 fields, and the first line 2 columns: sku, note"),
        (b'a,"b', "not CSV: a quote is opened and never closed"),
        (b'a,"b"c', "not CSV: ',' expected after '\"'"),
        (b"a,b\rc,d", "not CSV: a line break (CR) outside of quotes"),
        (b"a,\xff", "not UTF-8: byte 3 is wrong"),
    ],
)
def test_a_row_that_is_none(row: bytes, problem: str) -> None:
    with pytest.raises(MalformedLineError) as caught:
        rows(row)
    assert str(caught.value) == problem


def test_a_row_that_never_ends_is_not_kept_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(records, "LONGEST_LINE", 20)
    found, _ = rows(b'a,"begins\nand goes\non and on\nb,c\n')
    assert found == [(2, None), (5, {"sku": "b", "note": "c"})]


@pytest.mark.parametrize(
    ("data", "columns", "first_line"),
    [
        (b"sku,note\na,b\n", ["sku", "note"], 2),
        (b'\xef\xbb\xbfsku,"a\nnote"\r\na,b\r\n', ["sku", "a\nnote"], 3),
        (b"\n\nsku\na\n", ["sku"], 4),
    ],
)
def test_the_first_row_names_the_columns(data: bytes, columns: list[str], first_line: int) -> None:
    file = io.BufferedReader(io.BytesIO(data))  # type: ignore[type-var]
    header = read_header(file)
    assert (header.columns, header.next_line) == (columns, first_line)
    assert file.read().startswith(b"a")


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "its first line must have the names of the columns; it is empty"),
        (b"sku,,note\n", "column 2 has no name in the first line"),
        (b"sku,note,sku\n", "two columns have the name 'sku'"),
        (
            b'sku,"note\n',
            "its first line must have the names of the columns: not CSV: a quote is opened",
        ),
        (
            b"sk\xff\n",
            "its first line must have the names of the columns: not UTF-8: byte 3 is wrong",
        ),
    ],
)
def test_a_header_that_is_of_no_use(data: bytes, problem: str) -> None:
    with pytest.raises(ValueError, match=r"first line|two columns") as caught:
        read_header(io.BufferedReader(io.BytesIO(data)))  # type: ignore[type-var]
    assert str(caught.value).startswith(problem)
