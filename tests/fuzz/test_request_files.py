"""Request files of any kind: each line is a request, or is told with its number; none is lost."""

from __future__ import annotations

import asyncio
import csv
import io
import json
import sys
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fuzz.values import few
from penstock.cli.options import UsageError, read_concurrency, read_cost
from penstock.cli.problems import MalformedLineError
from penstock.cli.records import Header, ends_open, read_header
from penstock.cli.run.credentials import read_credentials
from penstock.cli.run.input_format import InputFormat, InputKind
from penstock.cli.run.requests import Request, parse_base
from penstock.cli.run.results import RequestFailure, RequestResult
from penstock.cli.run.source import Malformed, RequestSource
from penstock.cli.run.template import Template
from penstock.cli.settings import read_settings

#: Lines that have been trouble somewhere.
ODD_LINES = [
    *(
        b"",
        b" ",
        b"\r",
        b"\0",
        b"\xef\xbb\xbf",
        b"\xff\xfe{\0",
        b"null",
        b"[]",
        b"{}",
        b"1",
        b'"x"',
    ),
    *(b"[" * 50_000, b'{"json": ' + b"[" * 50_000 + b"]" * 50_000 + b', "path": "/a"}'),
    *(b'{"path": "/a", "id": ' + b"9" * 5_000 + b"}", b'{"path": "/a", "json": 1e999}'),
    *(
        b'{"path": "/a", "json": NaN}',
        b'{"path": "/a", "path": "/b"}',
        b'{"path": "/a", "id": "a\\n"}',
    ),
    *(b'{"path": "/a", "id": "\\ud800", "json": "\\udfff"}', b'{"url": "http://xn--/"}'),
    *(b'{"url": "http://[::1"}', b'{"url": "http://h:99999999999"}', b'{"url": "http://\\u2100/"}'),
    *(
        b'{"path": "/' + b"x" * 70_000 + b'"}',
        b'{"path": "/a", "params": {"q": "' + b"x" * 70_000 + b'"}}',
    ),
    *(
        b'{"path": "/a", "params": {"\\ud800": [null, true, 1.5, "\\u0000"]}}',
        b'{"path": "\\u0000\\r\\n"}',
    ),
    *(
        b'{"path": "/a", "headers": {"A": "b\\r\\nC: d"}}',
        b'{"path": "/a", "headers": {"A\\n": "b"}}',
    ),
    *(b'{"path": "/a", "method": "GET / HTTP/1.1\\r\\nX: y"}', b'{"path": "//evil.example/a"}'),
    *(
        b'{"path": "@evil.example"}',
        b'{"path": ".evil.example"}',
        b'{"path": "\\\\\\\\evil.example"}',
    ),
]
values = st.recursive(
    st.one_of(st.none(), st.booleans(), st.integers(), st.text(max_size=8), st.floats()),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.text(max_size=4), inner, max_size=3)
    ),
    max_leaves=6,
)
fields = st.fixed_dictionaries(
    {},
    optional={
        "id": st.one_of(values, st.text()),
        "method": st.one_of(values, st.sampled_from(["GET", "post"])),
        "path": st.one_of(values, st.text().map("/".__add__)),
        "url": st.one_of(
            values, st.text().map("http://h/".__add__), st.text().map("http://".__add__)
        ),
        "params": st.one_of(values, st.dictionaries(st.text(max_size=4), values)),
        "json": values,
        "headers": st.one_of(values, st.dictionaries(st.text(max_size=4), st.text(max_size=4))),
        "other": values,
    },
)
lines = st.one_of(
    st.sampled_from(ODD_LINES),
    fields.map(lambda one: json.dumps(one).encode()),
    fields.map(lambda one: json.dumps(one, ensure_ascii=False).encode("utf-8", "surrogatepass")),
    st.binary(max_size=60),
)


def table(template: Template, columns: list[str], header: Header | None = None) -> InputFormat:
    return InputFormat(
        *("http://h", template, InputKind.CSV),
        columns=tuple(columns),
        delimiter="," if header is None else header.delimiter,
        first_line=1 if header is None else header.next_line,
    )


def made_of(data: bytes, form: InputFormat) -> tuple[list[Request | Malformed], int]:
    """What a file holds, and how many of its lines are blank or part of another."""
    blank = 0

    def count() -> None:
        nonlocal blank
        blank += 1

    async def read() -> list[Request | Malformed]:
        file = io.BufferedReader(io.BytesIO(data))  # type: ignore[arg-type]
        source = RequestSource(file, form, count)
        found = [made async for made in source]
        await source.close()
        return found

    return asyncio.run(read()), blank


def check(made: list[Request | Malformed]) -> None:
    for one in made:
        if isinstance(one, Malformed):
            assert one.problem.isprintable()
            assert len(one.problem) < 1_000
        else:
            assert one.url.startswith(("http://", "https://"))
            for name, value in one.headers.items():
                assert (name + value).isprintable()
        result = RequestResult(one.id, one.line, failure=RequestFailure("x", "y"))
        assert json.loads(result.to_line())["line"] == one.line


@few
@given(given_lines=st.lists(lines, max_size=6), end=st.sampled_from([b"\n", b"\r\n"]))
def test_every_line_is_a_request_or_told_or_blank(given_lines: list[bytes], end: bytes) -> None:
    data = b"".join(line + end for line in given_lines)
    made, blank = made_of(data, InputFormat("http://h/v1"))
    check(made)
    numbers = [one.line for one in made]
    assert numbers == sorted(set(numbers))
    assert len(numbers) + blank == data.count(b"\n")


@pytest.mark.parametrize("line", ODD_LINES, ids=[str(number) for number in range(len(ODD_LINES))])
def test_an_odd_line_leaves_its_neighbours_alone(line: bytes) -> None:
    good = b'{"path": "/good"}'
    made, _ = made_of(b"\n".join([good, line, good]), InputFormat("http://h"))
    check(made)
    for one in (made[0], made[-1]):
        assert isinstance(one, Request)
        assert one.url == "http://h/good"


@pytest.mark.parametrize("line", [line for line in ODD_LINES if b"evil" in line])
def test_no_path_leads_to_another_host(line: bytes) -> None:
    for one in made_of(line, InputFormat("http://good.example/v1"))[0]:
        assert isinstance(one, Malformed) or one.url.startswith("http://good.example/")


@few
@given(
    data=st.one_of(
        st.binary(max_size=200),
        st.lists(
            st.sampled_from(["a", '"', ",", "\n", "\r\n", "\r", "\0", "é", '""', " ", "b"])
        ).map(lambda parts: "".join(parts).encode()),
    )
)
def test_a_csv_file_of_any_kind(data: bytes) -> None:
    file = io.BufferedReader(io.BytesIO(b"a,b\n" + data))  # type: ignore[arg-type]
    header = read_header(file)
    template = Template({"path": "/{a}", "json": ["{b}", "{a:json}", "{b:number}"]})
    made, rest = made_of(data, table(template, header.columns, header))
    check(made)
    total = data.count(b"\n") + bool(data and not data.endswith(b"\n"))
    assert len(made) + rest == total


@given(parts=st.lists(st.sampled_from(["a", '"', '""', ",", "\n", "\r\n", "é"])))
def test_a_row_ends_where_the_module_csv_says(parts: list[str]) -> None:
    is_open, begun = False, ""
    for line in "".join(parts).split("\n"):
        begun += line
        is_open = ends_open(line.encode(), is_open)
        try:
            list(csv.reader(io.StringIO(begun, newline=""), strict=True))
        except csv.Error as error:
            assert is_open == (str(error) == "unexpected end of data")
        else:
            assert not is_open
        begun = begun + "\n" if is_open else ""


def test_a_row_of_very_many_lines_takes_no_more_time_than_it_has_bytes() -> None:
    data = b'"a\n' + b'""\n' * 300_000 + b'"\n'  # for the square of that nobody has the time
    template = Template({"path": "/{a}"})
    made, rest = made_of(data, table(template, ["a"]))
    assert len(made) + rest == 300_002


@few
@given(data=st.binary(max_size=100))
def test_a_csv_header_of_any_kind(data: bytes) -> None:
    try:
        read_header(io.BufferedReader(io.BytesIO(data)))  # type: ignore[arg-type]
    except ValueError as error:
        assert str(error).isprintable()


def test_a_line_of_ten_megabytes_is_a_request_and_one_of_more_than_sixteen_is_told() -> None:
    long, longer = (
        b'{"path": "/a", "json": "' + b"x" * (size * 2**20) + b'"}' for size in (10, 17)
    )
    made, _ = made_of(b"\n".join([long, longer, b'{"path": "/b"}']), InputFormat("http://h"))
    assert [type(one) for one in made] == [Request, Malformed, Request]
    assert made[1].problem == "longer than 16 MiB"  # type: ignore[union-attr]


@few
@given(
    template=st.one_of(
        values, fields, st.dictionaries(st.sampled_from(["path", "json"]), st.text())
    ),
    record=st.dictionaries(st.text(max_size=3), values),
)
def test_a_template_of_any_kind(template: Any, record: dict[str, Any]) -> None:
    try:
        Template(template).fill(record)
    except (ValueError, MalformedLineError) as error:
        assert str(error).isprintable()


def test_a_template_that_is_nested_too_deeply_is_told() -> None:
    deep: Any = "{a}"
    for _ in range(sys.getrecursionlimit()):
        deep = [deep]
    with pytest.raises(ValueError, match="nested so deeply"):
        Template({"path": "/", "json": deep})


@pytest.mark.parametrize("step", ["..", "."])
def test_no_field_leads_up_from_the_path_of_a_template(step: str) -> None:
    template = Template({"path": "/items/{sku}/price"})
    with pytest.raises(MalformedLineError, match="a part of the path"):
        template.fill({"sku": step})
    assert template.fill({"sku": "...", "x": 1}) == {"path": "/items/.../price"}
    two = Template({"path": "/items/{a}{b}"})
    with pytest.raises(MalformedLineError, match="a part of the path"):
        two.fill({"a": ".", "b": "."})


@few
@given(data=st.one_of(st.binary(max_size=80), st.text(max_size=80).map(str.encode)))
def test_a_settings_file_of_any_kind(data: bytes, tmp_path_factory: Any) -> None:
    path = tmp_path_factory.getbasetemp() / "settings.toml"
    path.write_bytes(data)
    try:
        read_settings(str(path), ["url", "rate", "header"], [], ["header"])
    except ValueError as error:
        assert "Traceback" not in str(error)


@few
@given(
    headers=st.lists(st.text(max_size=30), max_size=3),
    header_env=st.lists(st.one_of(st.text(max_size=20), st.just("X-Key=KEY")), max_size=3),
    secret=st.text(max_size=20),
)
def test_credentials_of_any_kind(headers: list[str], header_env: list[str], secret: str) -> None:
    secret = f"hunter22{secret}"
    try:
        made = read_credentials(headers, header_env, None, None, {"KEY": secret})
    except ValueError as error:
        assert secret not in str(error)
    else:
        for name, value in made.headers.items():
            assert (name + value).isascii()
            assert (name + value).isprintable()


@few
@given(text=st.text(max_size=30))
def test_options_of_any_kind(text: str) -> None:
    checks: list[Callable[[str], Any]] = [
        parse_base,
        read_concurrency,
        lambda t: read_cost(t, None),
    ]
    for read in checks:
        try:
            read(text)
        except (ValueError, UsageError) as error:
            assert str(error)
