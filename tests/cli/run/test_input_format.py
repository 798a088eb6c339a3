"""Which files are read: each kind from a small one, with the traps that such files have."""

from __future__ import annotations

import gzip
import io
import json
import zipfile
from pathlib import Path
from typing import Any

import pytest
from backports import zstd

from cli.conftest import Command, Server
from penstock.cli.input_file import UnreadableError, open_input
from penstock.cli.run.input_format import find_format
from penstock.cli.run.look_ahead import look_ahead
from penstock.cli.run.requests import Request
from penstock.cli.run.source import Malformed, read_now
from penstock.cli.run.template import Template

BASE = "http://host/v1"
ITEM = {"path": "/items/{sku}", "json": {"name": "{name}"}}
TABLE = "sku,name\r\n17,Müller\r\n23,Émile\r\n"


def made_of(
    folder: Path,
    name: str,
    content: bytes,
    template: Any = None,
    encoding: str | None = None,
    base: str = BASE,
    **options: Any,
) -> list[Request | Malformed]:
    """What the records of a file are."""
    path = folder / name
    path.write_bytes(content)
    file = open_input(str(path), encoding)
    filled = None if template is None else Template(template)
    try:
        form = find_format(name, file, base=base, template=filled, **options)
        first = list(read_now(file.reader, form))
        file.rewind()
        assert list(read_now(file.reader, form)) == first, "the second reading is another"
        return first
    finally:
        file.close()


def said(made: list[Request | Malformed]) -> list[Any]:
    """URLs and bodies, or what is wrong."""
    return [
        one.problem
        if isinstance(one, Malformed)
        else (one.url.removeprefix(BASE), json.loads(one.content or b"null"))
        for one in made
    ]


ROWS = [("/items/17", {"name": "Müller"}), ("/items/23", {"name": "Émile"})]
TABLES = {
    "plain": ("a.csv", TABLE.encode(), None),
    "BOM": ("a.csv", b"\xef\xbb\xbf" + TABLE.encode(), None),
    "LF": ("a.csv", TABLE.replace("\r", "").encode(), None),
    "no end": ("a.csv", TABLE.rstrip().encode(), None),
    "semicolons": ("a.csv", TABLE.replace(",", ";").encode(), None),
    "bars": ("a.csv", TABLE.replace(",", "|").encode(), None),
    "tabs": ("a.tsv", TABLE.replace(",", "\t").encode(), None),
    "tabs, called CSV": ("a.csv", TABLE.replace(",", "\t").encode(), None),
    "named by Excel": ("a.csv", b"sep=;\r\n" + TABLE.replace(",", ";").encode(), None),
    "quoted": ("a.csv", TABLE.replace("Müller", '"Müller"').encode(), None),
    "blank rows": ("a.csv", TABLE.replace("\r\n", "\r\n\r\n,\r\n").encode(), None),
    "trailing delimiters": ("a.csv", TABLE.replace("\r\n", ",,\r\n").encode(), None),
    "blanks in the header": ("a.csv", TABLE.replace("sku,name", " sku , name ").encode(), None),
    "latin-1": ("a.csv", TABLE.encode("latin-1"), "latin-1"),
    "cp1252": ("a.csv", TABLE.encode("cp1252"), "cp1252"),
    "UTF-16 with a mark": ("a.csv", TABLE.encode("utf-16"), None),
    "UTF-16 without": ("a.csv", TABLE.encode("utf-16-be"), "utf-16-be"),
    "gzip": ("a.csv.gz", gzip.compress(TABLE.encode()), None),
    "gzip in two parts": (
        *("a.csv.gz", gzip.compress(TABLE[:15].encode()) + gzip.compress(TABLE[15:].encode())),
        None,
    ),
    "gzip under another name": ("a.csv", gzip.compress(TABLE.encode("utf-16")), None),
    "Zstandard": ("a.csv.zst", zstd.compress(TABLE.encode()), None),
    "no name that tells": ("a.dat", TABLE.encode(), None),
}


@pytest.mark.parametrize(("name", "content", "encoding"), TABLES.values(), ids=TABLES)
def test_tables(tmp_path: Path, name: str, content: bytes, encoding: str | None) -> None:
    assert said(made_of(tmp_path, name, content, ITEM, encoding)) == ROWS


def test_a_cell_may_have_line_breaks_and_delimiters(tmp_path: Path) -> None:
    content = b'sku;name\n17;"a;b\nc ""d"""\n23;e\n'
    assert said(made_of(tmp_path, "a.csv", content, ITEM)) == [
        ("/items/17", {"name": 'a;b\nc "d"'}),
        ("/items/23", {"name": "e"}),
    ]


def test_a_delimiter_that_is_given_counts(tmp_path: Path) -> None:
    content = b"sku:name\n17:a,b,c\n"
    made = made_of(tmp_path, "a.csv", content, ITEM, delimiter=":")
    assert said(made) == [("/items/17", {"name": "a,b,c"})]


REQUESTS = [{"path": "/1"}, {"path": "/2", "json": {"a": 'x"],[{\\'}}]
DONE = [("/1", None), ("/2", {"a": 'x"],[{\\'})]
JSON = {
    "lines": ("a.jsonl", "\n".join(map(json.dumps, REQUESTS))),
    "CRLF and blank lines": ("a.jsonl", "\r\n\r\n".join(map(json.dumps, REQUESTS)) + "\r\n"),
    "trailing commas": ("a.jsonl", ",\n".join(map(json.dumps, REQUESTS)) + ",\n"),
    "an array": ("a.json", json.dumps(REQUESTS)),
    "an array over lines": ("a.json", json.dumps(REQUESTS, indent=2)),
    "an array with a trailing comma": ("a.json", json.dumps(REQUESTS)[:-1] + ",\n]\n"),
    "an array called lines": ("a.jsonl", json.dumps(REQUESTS)),
    "an array with a mark": ("a.json", "\ufeff" + json.dumps(REQUESTS)),
    "an object": ("a.json", json.dumps({"requests": REQUESTS, "more": [1, {"path": "/no"}]})),
    "an object over lines": ("a.json", json.dumps({"requests": REQUESTS}, indent=1)),
    "objects over lines": ("a.json", "\n".join(json.dumps(one, indent=2) for one in REQUESTS)),
}


@pytest.mark.parametrize(("name", "text"), JSON.values(), ids=JSON)
def test_json(tmp_path: Path, name: str, text: str) -> None:
    assert said(made_of(tmp_path, name, text.encode())) == DONE
    assert said(made_of(tmp_path, f"{name}.gz", gzip.compress(text.encode()))) == DONE


@pytest.mark.parametrize("size", [1, 2, 3, 7])
def test_an_array_is_the_same_in_whatever_pieces_it_comes(size: int) -> None:
    from penstock.cli.records import ARRAY, JsonValueCutter

    data = json.dumps([*REQUESTS, 7, "a", [], {"b": ["\\", '"', "é"]}], indent=1).encode()
    cutter = JsonValueCutter(ARRAY)
    found = [
        record
        for begin in range(0, len(data), size)
        for _, record in cutter.cut(data[begin : begin + size])
    ]
    assert [json.loads(record or b"") for record in [*found]] == json.loads(data)
    assert list(cutter.end()) == []


def test_an_array_that_is_cut_off_tells_it(tmp_path: Path) -> None:
    made = made_of(tmp_path, "a.json", b'[{"path": "/1"}, {"path": "/')
    assert said(made)[0] == ("/1", None)
    assert "not JSON: Unterminated string" in said(made)[1]


def test_a_list_of_urls(tmp_path: Path) -> None:
    content = b"\xef\xbb\xbfhttps://a/1?q=1,2\r\n\r\nhttps://b/2\r\nftp://c\r\n"
    made = made_of(tmp_path, "a.txt", content)
    assert said(made)[:2] == [("https://a/1?q=1,2", None), ("https://b/2", None)]
    assert "must be a full URL" in said(made)[2]


@pytest.mark.parametrize("base", ["https://api.example.com", "https://api.example.com/v1"])
def test_batch_lines_of_openai(tmp_path: Path, base: str) -> None:
    body = {"model": "m", "messages": [{"role": "user", "content": "Hi"}]}
    line = {"custom_id": "r-1", "method": "POST", "url": "/v1/chat/completions", "body": body}
    (request,) = made_of(tmp_path, "a.jsonl", json.dumps(line).encode(), base=base)
    assert isinstance(request, Request)
    assert (request.id, request.method) == ("r-1", "POST")
    assert request.url == "https://api.example.com/v1/chat/completions"
    assert json.loads(request.content or b"") == body


@pytest.mark.parametrize("is_wrapped", [False, True])
def test_batch_lines_of_anthropic(tmp_path: Path, is_wrapped: bool) -> None:
    params = {"model": "m", "max_tokens": 9, "messages": [{"role": "user", "content": "Hi"}]}
    line: Any = {"custom_id": "r-1", "params": params}
    content = json.dumps({"requests": [line]} if is_wrapped else line).encode()
    (request,) = made_of(tmp_path, "a.jsonl", content, base="https://api.example.com")
    assert isinstance(request, Request)
    assert (request.id, request.method) == ("r-1", "POST")
    assert request.url == "https://api.example.com/v1/messages"
    assert json.loads(request.content or b"") == params


# -- templates ------------------------------------------------------------------------------------


def test_names_inside_of_others_the_whole_record_and_its_line(tmp_path: Path) -> None:
    template = {
        "id": "row-{line}",
        "path": "/users/{user.name}/{tags.1}",
        "json": {"record": "{*:json}", "text": "{user}", "n": "{line:number}"},
    }
    record = {"user": {"name": "a b"}, "tags": ["x", "y"]}
    (made,) = made_of(tmp_path, "a.jsonl", json.dumps(record).encode(), template)
    assert isinstance(made, Request)
    assert (made.id, made.url) == ("row-1", f"{BASE}/users/a%20b/y")
    assert json.loads(made.content or b"") == {
        "record": record,
        "text": '{"name": "a b"}',
        "n": 1,
    }


def test_a_column_comes_before_what_its_name_would_mean(tmp_path: Path) -> None:
    template = {"path": "/{user.name}/{line}"}
    made = made_of(tmp_path, "a.csv", b"user.name,line\nb,c\n", template)
    assert said(made) == [("/b/c", None)]


@pytest.mark.parametrize("template", ["/items/{sku}", "/items/{sku:raw}/x", "{sku}"])
def test_what_is_empty_makes_no_path(tmp_path: Path, template: str) -> None:
    content = b"sku,name\n17,a\n,b\n  ,c\n23,d\n"
    made = made_of(tmp_path, "a.csv", content, {"method": "DELETE", "path": template})
    problem = "'sku' is empty, and the path would be that of something else"
    assert [isinstance(one, Malformed) for one in made] == [False, True, True, False]
    assert said(made)[1] == said(made)[2] == problem
    null = made_of(tmp_path, "a.jsonl", b'{"sku": null}', {"path": template})
    assert said(null) == [problem]


# -- what is refused ------------------------------------------------------------------------------


def workbook() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return file.getvalue()


REFUSED = {
    "a workbook": (workbook(), "save the table as CSV (UTF-8)"),
    "Parquet": (b"PAR1\x15\x04", "a Parquet file: export it as CSV or JSON lines"),
    "SQLite": (b"SQLite format 3\0", "an SQLite database: export the table as CSV"),
    "bzip2": (b"BZh91AY", "bzcat FILE | penstock run -"),
    "zeros": (b"abc\0def" * 10, "it is not text: it has zero bytes"),
    "UTF-16": (TABLE.encode("utf-16-le"), "give --encoding utf-16-le"),
    "latin-1": (TABLE.encode("latin-1"), "give --encoding cp1252 if it comes from Windows"),
}


@pytest.mark.parametrize(("content", "problem"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_read_is_told_with_a_guess(
    tmp_path: Path, content: bytes, problem: str
) -> None:
    with pytest.raises(UnreadableError) as caught:
        made_of(tmp_path, "a.csv", content, ITEM)
    assert problem in str(caught.value)


def test_a_packed_file_that_is_broken_is_an_error(tmp_path: Path) -> None:
    packed = gzip.compress(TABLE.encode() * 1000)
    with pytest.raises(OSError, match="its compressed data is damaged"):
        made_of(tmp_path, "a.csv.gz", packed[: len(packed) // 2], ITEM)


WRONG = {
    "a table": (b"sku,name\n17,a\n", "It looks like a table: give a --template"),
    "other objects": (
        b'{"sku": 1, "name": "a"}\n' * 30,
        "Its records have sku, name: a --template",
    ),
    "HTML": (b"<!doctype html>\n<p>", "It looks like HTML or XML."),
    "prose": (b"Dear all\n", "The only record of a.txt is not a request; line 1: not JSON"),
}


@pytest.mark.parametrize(("content", "problem"), WRONG.values(), ids=WRONG)
def test_a_file_without_a_request_is_refused_before_anything_is_done(
    penstock: Command, server: Server, content: bytes, problem: str
) -> None:
    (penstock.folder / "a.txt").write_bytes(content)
    options = ("--url", server.url, "--out", "results.jsonl")
    done = penstock.run("run", "a.txt", *options)
    assert done.returncode == 2
    assert problem in done.stderr
    assert [path.name for path in penstock.folder.iterdir()] == ["a.txt"]
    with open(penstock.folder / "a.txt") as pipe:
        done = penstock.run("run", "-", *options, stdin=pipe)
    assert done.returncode == 2
    assert done.stderr.count("\n") == 1
    assert not (penstock.folder / "results.jsonl").exists()
    assert not server.seen


def test_one_request_among_the_first_is_enough(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"no\n" * 19 + b'{"path": "/"}\n' + b"no\n" * 50)
    file = open_input(str(path))
    form = find_format("a.jsonl", file, base=BASE)
    assert look_ahead("a.jsonl", file, form) is None
    file.close()
    path.write_bytes(b"no\n" * 20 + b'{"path": "/"}\n')
    file = open_input(str(path))
    told = look_ahead("a.jsonl", file, form)
    assert told is not None
    assert told.startswith("None of the first 20 records of a.jsonl is a request; line 1: not JSON")
    file.close()
