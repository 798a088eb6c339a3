"""Journals that are torn, flipped, swapped or mixed: gone on with, or refused by line."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cli.conftest import Command, Server, penstock, server  # noqa: F401
from fuzz.values import few
from penstock.cli.run.ids import key
from penstock.cli.run.journal import NotAJournalError, PreviousRuns, open_results, scan
from penstock.cli.run.results import JsonText, RequestFailure, RequestResult
from penstock.cli.run.tokens import Cost

RESULTS = [
    RequestResult("a", 1, 200, JsonText('{"usage": {"total_tokens": 3}}'), attempts=1),
    RequestResult(2, 2, 500, JsonText('"no"'), RequestFailure("http_500", "500"), 3, 1.5),
    RequestResult("ü\n\x1b", 3, None, None, RequestFailure("connection", "refused"), 2),
    RequestResult("d", 4, None, None, RequestFailure("malformed", "not JSON")),
    RequestResult("a", 5, 404, None, RequestFailure("http_404", "404"), 1),
]
LINES = [result.to_line() for result in RESULTS]
JOURNAL = b"".join(LINES)
COST = Cost.parse("usage.total_tokens")


def read(data: bytes) -> PreviousRuns:
    return scan(io.BufferedReader(io.BytesIO(data)), COST)  # type: ignore[arg-type]


def known(earlier: PreviousRuns) -> set[int]:
    return earlier.succeeded | set(earlier.failed) | set(earlier.malformed)


def test_torn_anywhere_it_knows_what_is_whole_and_no_more() -> None:
    for end in range(len(JOURNAL) + 1):
        earlier = read(JOURNAL[:end])
        whole = JOURNAL[:end].count(b"\n")
        assert known(earlier) == known(read(b"".join(LINES[:whole])))
        size = sum(map(len, LINES[:whole]))
        assert earlier.torn_at == (None if end == size else size)


@few
@given(data=st.data())
def test_flipped_bytes_are_refused_by_line_or_leave_the_others_as_they_were(
    data: st.DataObject,
) -> None:
    flipped = bytearray(JOURNAL)
    place = data.draw(st.integers(0, len(JOURNAL) - 1))
    flipped[place] ^= data.draw(st.integers(1, 255))
    number = JOURNAL[:place].count(b"\n")
    try:
        earlier = read(bytes(flipped))
    except NotAJournalError as error:
        said = str(error).split()
        assert said[0] == "line"
        assert int(said[1]) - 1 in (number, number + 1)
    else:
        others = read(b"".join(LINES[:number]))
        if earlier.torn_at is None:  # the newest line of each id counts
            others = read(b"".join(LINES[:number] + LINES[number + 1 :]))
        missing = known(others) - known(earlier)
        assert not missing


@few
@given(order=st.permutations(range(len(LINES))))
def test_swapped_lines_say_the_same_but_for_which_is_newest(order: list[int]) -> None:
    earlier = read(b"".join(LINES[number] for number in order))
    assert known(earlier) == known(read(JOURNAL))
    newest_is_good = order.index(0) > order.index(4)
    assert (key("a") in earlier.succeeded) == newest_is_good
    assert (key("a") in earlier.failed) != newest_is_good
    assert earlier.tokens == 3


@few
@given(cut=st.integers(1, len(LINES[1]) - 2), after=st.sampled_from(LINES))
def test_a_line_into_which_another_run_wrote_is_refused_by_its_number(
    cut: int, after: bytes
) -> None:
    with pytest.raises(NotAJournalError, match=r"line 2 is not a result .*repair the file"):
        read(LINES[0] + LINES[1][:cut] + after + LINES[1][cut:])


@few
@given(
    data=st.one_of(st.binary(), st.text().map(str.encode), st.sampled_from(LINES)), tail=st.binary()
)
def test_any_bytes_are_a_journal_or_refused(data: bytes, tail: bytes) -> None:
    try:
        earlier = read(JOURNAL + data + tail)
    except NotAJournalError as error:
        assert str(error).startswith("line ")
    else:
        assert known(read(JOURNAL)) <= known(earlier)


@pytest.mark.parametrize("digits", ["9" * 400, "1e999", "-1", "NaN", '"5"', "true", "[]"])
def test_an_absurd_cost_in_a_journal_counts_as_none(digits: str) -> None:
    absurd = b'{"id": 1, "line": 1, "body": {"usage": {"total_tokens": %s}}}\n' % digits.encode()
    assert read(absurd + LINES[0]).tokens == 3


@pytest.mark.parametrize("id_", [b"9" * 5_000, b'"\\ud800"', b'"a', b"1.5"])
def test_a_line_that_is_nested_very_deeply_can_have_any_id(id_: bytes) -> None:
    deep = b'{"id": %s, "line": 1, "status": 200, "body": %s}\n'
    line = deep % (id_, b"[" * 99_999 + b"]" * 99_999)
    try:
        read(LINES[0] + line + LINES[1])
    except NotAJournalError as error:
        assert str(error).startswith("line 2 ")


def test_a_journal_that_is_refused_is_left_as_it_was(tmp_path: Path) -> None:
    journal = tmp_path / "results.jsonl"
    journal.write_bytes(LINES[0] + b"garbage\n" + LINES[1])
    with open(__file__, "rb") as requests, pytest.raises(NotAJournalError):
        open_results(str(journal), requests)  # type: ignore[arg-type]
    assert journal.read_bytes() == LINES[0] + b"garbage\n" + LINES[1]


REQUESTS: list[Any] = [
    {"path": "/1", "id": 1},
    {"path": "/1", "id": 1},  # twice
    {"path": "/other", "id": 1},  # an id for something else
    b"\xef\xbb\xbf{}",
    b"\xff",
    {"path": "/2", "params": {"q": "x" * 70_000}},
    {"path": "/3", "id": "\x1b[31m\n"},
    b"[" * 50_000,
    {"path": "/4", "json": "\ud800"},
]


@pytest.mark.real_time
def test_a_run_accounts_for_each_line_of_a_hostile_file_and_goes_on_after_any_tear(
    penstock: Command,  # noqa: F811
    server: Server,  # noqa: F811
) -> None:
    file = penstock.lines(*REQUESTS)
    done = penstock.run("run", file, "--url", server.url, "--out", "results.jsonl")
    assert done.returncode == 1
    lines = [result["line"] for result in penstock.results()]
    assert lines == [1, 3, 4, 5, 6, 7, 8, 9]  # 2 asks for the same as 1
    assert "\x1b" not in done.stdout + done.stderr
    whole = (penstock.folder / "results.jsonl").read_bytes()
    sent = len(server.seen)
    for end in (len(whole) // 3, len(whole) - 1):
        (penstock.folder / "results.jsonl").write_bytes(whole[:end])
        again = penstock.run("run", file, "--url", server.url, "--out", "results.jsonl")
        assert again.returncode == 1
        ids = [json.dumps(result["id"]) for result in penstock.results()]
        assert len(ids) == len(set(ids)) == len(lines)
    assert len(server.seen) > sent
