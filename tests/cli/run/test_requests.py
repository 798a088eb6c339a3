"""What a line of a request file may say, and what people are told if it says something else."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.cli.problems import MalformedLineError
from penstock.cli.records import read_object
from penstock.cli.run.requests import Request, RequestMaker, parse_base

BASE = "http://host/v1"
NO_FULL_URL = (
    "must be a full URL that starts with http:// or https://, "
    "for example https://api.example.com/v1"
)


def parse(line: Any, base: str | None = BASE) -> Request:
    raw = line if isinstance(line, bytes) else json.dumps(line).encode()
    return RequestMaker(base).make(7, read_object(raw))


def test_only_a_path_is_needed() -> None:
    request = parse({"path": "/things"})
    assert (request.line, request.method, request.url) == (7, "GET", "http://host/v1/things")
    assert (request.headers, request.content) == ({"X-Request-Id": request.id}, None)


def test_everything_that_a_line_can_have() -> None:
    request = parse(
        {
            "id": "a1",
            "method": "patch",
            "url": "https://other/x?a=1",
            "params": {"b": [1, 2.5, True], "c": "ü&", "d": None},
            "json": {"k": "é"},
            "headers": {"X-Key": "v"},
        }
    )
    assert request.id == "a1"
    assert request.method == "PATCH"
    assert request.url == "https://other/x?a=1&b=1&b=2.5&b=true&c=%C3%BC%26&d="
    assert json.loads(request.content or b"") == {"k": "é"}
    assert request.headers == {
        "X-Key": "v",
        "Content-Type": "application/json",
        "X-Request-Id": "a1",
    }


@pytest.mark.parametrize(
    ("path", "url"),
    [
        ("things", "http://host/v1/things"),
        ("/things/", "http://host/v1/things/"),
        ("", "http://host/v1"),
        ("?q=1", "http://host/v1?q=1"),
        ("/a b/é", "http://host/v1/a%20b/%C3%A9"),
        ("/a/../b", "http://host/v1/b"),
        ("/a/.b", "http://host/v1/a/.b"),
        ("/a//b", "http://host/v1/a//b"),
        ("/a-1/b_2.c~", "http://host/v1/a-1/b_2.c~"),
        ("@other", "http://host/v1/@other"),
        (":80", "http://host/v1/:80"),
    ],
)
def test_a_path_is_appended_to_the_base(path: str, url: str) -> None:
    assert parse({"path": path}).url == url


def test_params_are_added_to_those_of_the_path() -> None:
    assert parse({"path": "/x?a=1", "params": {"b": 2}}).url == "http://host/v1/x?a=1&b=2"


def test_headers_of_the_line_win() -> None:
    headers = {"x-request-id": "mine", "content-type": "application/vnd.x+json"}
    assert parse({"id": 1, "path": "/", "json": 1, "headers": headers}).headers == headers


def test_an_id_that_no_header_can_carry_is_not_sent() -> None:
    request = parse({"id": "größe\n", "path": "/"})
    assert request.id == "größe\n"
    assert request.headers == {}


def test_null_is_a_body_like_any_other() -> None:
    assert parse({"path": "/", "json": None}).content == b"null"


def test_half_a_character_in_a_body_stays_an_escape() -> None:
    assert parse(rb'{"path": "/", "json": "\ud800"}').content == rb'"\ud800"'


ALLOWED = "id, method, path, url, params, json, form, text, body_base64, multipart, headers"
NO_PARAM = "must be text, a number, true, false, null or a list of these"
MALFORMED: list[tuple[Any, str]] = [
    (b'{"path": }', "not JSON: Expecting value at column 10"),
    (b'{"path": "\xff"}', "not UTF-8: byte 11 is wrong"),
    (b'{"path": "/", "json": NaN}', "not JSON: NaN is not a JSON number"),
    (b'{"path": "/", "json": 1e999}', "not readable JSON: a number is too large"),
    (
        b'{"path": "/", "json": ' + b"1" * 5000 + b"}",
        "not readable JSON: a number is too long",
    ),
    (b"[" * 100_000, "not readable JSON: nested too deeply"),
    ([], "must be an object, got a list"),
    (None, "must be an object, got null"),
    ({}, "has neither path nor url"),
    ({"path": "/", "url": "http://h"}, "has both path and url: give one"),
    (
        {"pth": "/"},
        f"unknown key 'pth'; allowed are {ALLOWED}",
    ),
    (
        {"path": "/", "\x1b[2J" + "k" * 50: 1},
        f"unknown key '\\x1b[2J{'k' * 33}...'; allowed are {ALLOWED}",
    ),
    ({"path": 1}, "path must be text, got a number"),
    ({"path": "http://other/"}, "path must be relative to --url; use url for a full one"),
    ({"path": "\ud800"}, "path is not a valid URL: it has an incomplete character"),
    (
        {"url": "/x"},
        f"url {NO_FULL_URL}",
    ),
    (
        {"url": "ftp://host/"},
        f"url {NO_FULL_URL}",
    ),
    ({"url": "http://h:99999/"}, "url is not a valid URL: there is no port 99999"),
    ({"url": ["http://h"]}, "url must be text, got a list"),
    ({"path": "/", "method": 1}, 'method must be text such as "GET", got a number'),
    ({"path": "/", "method": "G T"}, "method must be a word such as \"GET\", got 'G T'"),
    ({"path": "/", "id": 1.5}, "id must be text or a whole number, got a number"),
    ({"path": "/", "id": True}, "id must be text or a whole number, got true"),
    ({"path": "/", "id": None}, "id must be text or a whole number, got null"),
    ({"path": "/", "params": "a=1"}, "params must be an object, got text"),
    (
        {"path": "/", "params": {"a": {}}},
        f"params: 'a' {NO_PARAM}, got an object",
    ),
    (
        {"path": "/", "params": {"a": [[]]}},
        f"params: 'a' {NO_PARAM}, got a list in a list",
    ),
    (
        {"path": "/", "params": {"a": "\ud800"}},
        "params have an incomplete character (a lone surrogate)",
    ),
    ({"path": "/", "headers": []}, "headers must be an object, got a list"),
    ({"path": "/", "headers": {"a b": "c"}}, "headers: 'a b' cannot be the name of a header"),
    ({"path": "/", "headers": {"A": 1}}, "headers: A must be text, got a number"),
    (
        {"path": "/", "headers": {"A": "secret\n"}},
        "headers: A must be printable ASCII without spaces at its ends",
    ),
    (
        {"path": "/", "headers": {"Content-Length": "9"}},
        "headers: penstock sets Content-Length from the body: leave it out",
    ),
]


@pytest.mark.parametrize(("line", "problem"), MALFORMED, ids=[problem for _, problem in MALFORMED])
def test_a_malformed_line_is_told_in_a_sentence(line: Any, problem: str) -> None:
    with pytest.raises(MalformedLineError) as caught:
        parse(line)
    assert str(caught.value) == problem


def test_a_path_needs_a_base() -> None:
    with pytest.raises(MalformedLineError, match="path needs --url, which was not given"):
        parse({"path": "/"}, base=None)
    assert parse({"url": "http://host/x"}, base=None).url == "http://host/x"


def test_a_malformed_line_keeps_its_id_if_that_can_be_read() -> None:
    with pytest.raises(MalformedLineError) as caught:
        parse({"id": "a1"})
    assert caught.value.id == "a1"


@pytest.mark.parametrize(
    ("given", "used"),
    [
        ("http://host", "http://host/x"),
        ("https://host/v1/", "https://host/v1/x"),
        ("http://user:word@host:8080", "http://user:word@host:8080/x"),
        ("http://[::1]:8080", "http://[::1]:8080/x"),
    ],
)
def test_base_urls(given: str, used: str) -> None:
    assert parse({"path": "/x"}, parse_base(given)).url == used


@pytest.mark.parametrize(
    "given", ["", "host", "//host", "ftp://host", "http://", "http://h:x", "http://h/?a=1"]
)
def test_what_is_no_base_url(given: str) -> None:
    with pytest.raises(ValueError, match=r"must be a full URL|is not a valid URL|must have no"):
        parse_base(given)
