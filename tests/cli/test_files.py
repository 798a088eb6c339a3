"""Reading line by line, counting, writing."""

from __future__ import annotations

import asyncio
import errno
import io
import json
import os
import threading
from pathlib import Path

import pytest

from penstock.cli import lines
from penstock.cli.input_file import InputFile, open_input
from penstock.cli.lines import LineWriter, Reader
from penstock.cli.records import JsonCutter
from penstock.cli.run.results import JsonText, RequestFailure, RequestResult, Totals, to_json


def cut(data: bytes, size: int) -> tuple[list[tuple[int, bytes | None]], int]:
    """Cut ``data``, in pieces of ``size``, into lines; also tell how many were blank."""
    blank: list[None] = []
    cutter = JsonCutter(lambda: blank.append(None))
    pieces = [data[begin : begin + size] for begin in range(0, len(data), size)]
    found = [line for piece in pieces for line in cutter.cut(piece)]
    return [*found, *cutter.end()], len(blank)


@pytest.mark.parametrize("size", [1, 2, 3, 1000])
class TestCutting:
    def test_lines_have_their_numbers_and_blank_ones_are_skipped(self, size: int) -> None:
        found, blank = cut(b"a\n\n  \t\r\nb\r\nc", size)
        assert found == [(1, b"a"), (4, b"b\r"), (5, b"c")]
        assert blank == 2

    def test_a_byte_order_mark_is_no_part_of_the_first_line(self, size: int) -> None:
        bom = b"\xef\xbb\xbf"
        assert cut(bom + b"a\n" + bom + b"b\n", size) == ([(1, b"a"), (2, bom + b"b")], 0)
        assert cut(bom + b"\n", size) == ([], 1)

    def test_a_line_that_is_too_long_is_dropped(
        self, size: int, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(lines, "LONGEST_LINE", 10)
        longest, longer = b"x" * 10, b"x" * 35
        found, _ = cut(b"\n".join([longest, longer, longest, longer]), size)
        assert found == [(1, longest), (2, None), (3, longest), (4, None)]


@pytest.mark.parametrize(
    ("data", "count"), [(b"", 0), (b"a", 1), (b"a\n", 1), (b"a\nb", 2), (b"\n\n", 2)]
)
def test_counting_lines_leaves_the_file_as_it_was(tmp_path: Path, data: bytes, count: int) -> None:
    path = tmp_path / "file"
    path.write_bytes(data)
    file = open_input(str(path))
    assert file.count_lines() == count
    assert file.reader.read() == data
    file.close()


def test_the_lines_of_a_pipe_are_not_counted() -> None:
    reading, writing = os.pipe()
    os.close(writing)
    with open(reading, "rb") as file:
        assert InputFile(file).count_lines() is None


class Reluctant(io.FileIO):
    """Takes three bytes at a time, and no more after ``room``."""

    room = 1000

    def write(self, data: object) -> int:
        taken = bytes(data)[: min(3, self.room)]  # type: ignore[call-overload]
        if not taken:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.room -= len(taken)
        return super().write(taken)


@pytest.mark.real_time  # it has a thread
async def test_lines_are_written_in_order_and_in_whole(tmp_path: Path) -> None:
    path = tmp_path / "file"
    writer = LineWriter(Reluctant(path, "wb"))
    await writer.write(b"first\n")
    assert path.read_bytes() == b"first\n"
    await asyncio.gather(*(writer.write(f"line {n}\n".encode()) for n in range(50)))
    assert path.read_text().splitlines() == ["first", *(f"line {n}" for n in range(50))]
    await writer.close()


@pytest.mark.real_time  # it has a thread
async def test_what_nobody_waits_for_is_written_all_the_same(tmp_path: Path) -> None:
    path = tmp_path / "file"
    writer = LineWriter(io.FileIO(path, "wb"))
    for future in [writer.write(b"1\n"), writer.write(b"2\n"), writer.write(b"3\n")]:
        future.cancel()
    await writer.close()
    assert path.read_bytes() == b"1\n2\n3\n"


@pytest.mark.real_time  # it has a thread
@pytest.mark.usefixtures("no_thread_is_left")
async def test_after_an_error_nothing_is_added_to_what_is_there(tmp_path: Path) -> None:
    path = tmp_path / "file"
    file = Reluctant(path, "wb")
    file.room = 4
    writer = LineWriter(file)
    with pytest.raises(OSError, match="No space left"):
        await writer.write(b"first\n")
    file.room = 1000
    with pytest.raises(OSError, match="No space left"):
        await writer.write(b"second\n")
    await writer.close()
    assert path.read_bytes() == b"firs"


@pytest.mark.real_time  # it has a thread
@pytest.mark.usefixtures("no_thread_is_left")
async def test_a_reader_that_is_closed_in_the_middle_of_a_read_ends_after_it() -> None:
    """Nobody waits for a read from a pipe, for it may never end."""
    before = set(threading.enumerate())
    reading, writing = os.pipe()
    file = io.BufferedReader(io.FileIO(reading))
    reader = Reader(file)
    pieces = aiter(reader)
    piece = asyncio.ensure_future(anext(pieces))
    await asyncio.sleep(0)  # it has asked for one
    (thread,) = set(threading.enumerate()) - before
    await reader.close()
    assert thread.is_alive()
    os.write(writing, b"late")
    assert await piece == b"late"
    thread.join(90)
    assert not thread.is_alive()
    assert file.closed
    os.close(writing)
    await pieces.aclose()


def test_a_result_is_a_line_of_json_that_people_can_read() -> None:
    result = RequestResult(id="ä", line=3, status=200, body=to_json({"k": "ü\n\ud800"}), attempts=1)
    line = result.to_line()
    assert (
        line
        == (
            '{"id": "ä", "line": 3, "status": 200, "body": {"k": "ü\\n\\ud800"}, '
            '"attempts": 1, "seconds": 0.0}\n'
        ).encode()
    )
    assert json.loads(line)["body"] == {"k": "ü\n\ud800"}


def test_a_failure_has_an_error_in_place_of_a_body() -> None:
    failure = RequestFailure("http_422", "422 No")
    fields = json.loads(RequestResult(1, 1, 422, JsonText('["why"]'), failure).to_line())
    assert fields["error"] == {"kind": "http_422", "message": "422 No", "body": ["why"]}
    assert "body" not in fields


def test_percentiles_are_latencies_that_were_measured() -> None:
    totals = Totals()
    for number in range(1, 101):
        totals.add(RequestResult(number, number, 200, attempts=1, seconds=float(101 - number)))
    assert (totals.percentile(50), totals.percentile(95)) == (50.0, 95.0)
    only = Totals()
    only.add(RequestResult(1, 1, 200, attempts=1, seconds=2.5))
    assert (only.percentile(50), only.percentile(95)) == (2.5, 2.5)
