"""One line of a request file: what it may say, and what is wrong with it if it is wrong.

All that can be wrong is found here, before anything is sent. What a message quotes are keys and
never values: those may be secrets.
"""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn, TypeAlias

import httpx

RequestId: TypeAlias = "str | int"

#: What a line may have.
KEYS = ("id", "method", "path", "url", "params", "json", "headers")

#: These follow from the body; one that contradicts it breaks the connection.
_OUR_HEADERS = frozenset({"content-length", "transfer-encoding"})
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HEADER_VALUE = re.compile(r"(?:[!-~]+(?:[ \t]+[!-~]+)*)?")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


class MalformedLineError(Exception):
    """A line that is no request; the message says why. ``id`` is its id if that could be read."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.id: RequestId | None = None


@dataclass(frozen=True)
class Request:
    """A request that is ready to be sent."""

    line: int
    id: RequestId
    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None


def parse_base(text: str) -> str:
    """``text`` as what paths are appended to.

    Raises:
        ValueError: it is no such URL.
    """
    url = _parse_url(text)
    if "?" in text or "#" in text:
        raise ValueError("must have no '?' and no '#': put parameters into the lines")
    return str(url).rstrip("/")


def parse_request(number: int, line: bytes, base: str | None) -> Request:
    """Read line ``number``.

    Raises:
        MalformedLineError: it is no request.
    """
    fields = _parse_object(line)
    given_id = _id(fields)
    try:
        return _parse_fields(number, given_id, fields, base)
    except MalformedLineError as error:
        error.id = given_id
        raise


def _parse_fields(
    number: int, given_id: RequestId | None, fields: dict[str, Any], base: str | None
) -> Request:
    unknown = [key for key in fields if key not in KEYS]
    if unknown:
        raise MalformedLineError(f"unknown key {_quote(unknown[0])}; allowed are {', '.join(KEYS)}")
    headers = _headers(fields)
    content = None
    if "json" in fields:
        content = _content(fields["json"])
        _set_default(headers, "Content-Type", "application/json")
    if given_id is not None and _HEADER_VALUE.fullmatch(str(given_id)):
        _set_default(headers, "X-Request-Id", str(given_id))
    return Request(
        line=number,
        id=number if given_id is None else given_id,
        method=_method(fields),
        url=_url(fields, base),
        headers=headers,
        content=content,
    )


def _parse_object(line: bytes) -> dict[str, Any]:
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        raise MalformedLineError(f"not UTF-8: byte {error.start + 1} is wrong") from None
    try:
        value = json.loads(text, parse_constant=_refuse_constant, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise MalformedLineError(f"not JSON: {error.msg} at column {error.colno}") from None
    except RecursionError:
        raise MalformedLineError("not JSON that can be read: nested too deeply") from None
    except ValueError:  # an integer of thousands of digits
        raise MalformedLineError("not JSON that can be read: a number is too long") from None
    if not isinstance(value, dict):
        raise MalformedLineError(f"must be an object, got {_kind(value)}")
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise MalformedLineError(f"not JSON: {name} is not a JSON number")


def _finite(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise MalformedLineError("not JSON that can be read: a number is too large")
    return number


def _content(value: Any) -> bytes:
    try:
        return json.dumps(value, separators=(",", ":")).encode()
    except RecursionError:
        raise MalformedLineError("json is nested too deeply") from None


def _id(fields: dict[str, Any]) -> RequestId | None:
    value = fields.get("id")
    if "id" in fields and (isinstance(value, bool) or not isinstance(value, (str, int))):
        raise MalformedLineError(f"id must be text or a whole number, got {_kind(value)}")
    return value


def _method(fields: dict[str, Any]) -> str:
    value = fields.get("method", "GET")
    if not isinstance(value, str):
        raise MalformedLineError(f'method must be text such as "GET", got {_kind(value)}')
    if not _TOKEN.fullmatch(value):
        raise MalformedLineError(f'method must be a word such as "GET", got {_quote(value)}')
    return value.upper()


def _url(fields: dict[str, Any], base: str | None) -> str:
    if ("path" in fields) == ("url" in fields):
        raise MalformedLineError(
            "has both path and url: give one" if "path" in fields else "has neither path nor url"
        )
    key = "path" if "path" in fields else "url"
    text = fields[key]
    if not isinstance(text, str):
        raise MalformedLineError(f"{key} must be text, got {_kind(text)}")
    if key == "path":
        if base is None:
            raise MalformedLineError("path needs --url, which was not given")
        if _SCHEME.match(text):
            raise MalformedLineError("path must be relative to --url; use url for a full one")
        text = base + text if text[:1] in ("", "?") else f"{base}/{text.removeprefix('/')}"
    try:
        url = _parse_url(text)
    except ValueError as error:
        raise MalformedLineError(f"{key} {error}") from None
    params = _params(fields)
    try:
        # Not the argument params of httpx, which would replace what the URL has.
        return str(url.copy_merge_params(params) if params else url)
    except UnicodeError:
        raise MalformedLineError("params have half a character in them") from None


def _parse_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
    except httpx.InvalidURL as error:
        raise ValueError(f"is not a valid URL: {error}") from None
    except UnicodeError:
        raise ValueError("is not a valid URL: it has half a character in it") from None
    if url.scheme not in ("http", "https") or not url.host:
        raise ValueError(
            "must be a full URL that starts with http:// or https://, "
            "for example https://api.example.com/v1"
        )
    if url.port is not None and not 0 < url.port < 65536:
        raise ValueError(f"is not a valid URL: there is no port {url.port}")
    return url


def _params(fields: dict[str, Any]) -> dict[str, Any]:
    params = fields.get("params", {})
    if not isinstance(params, dict):
        raise MalformedLineError(f"params must be an object, got {_kind(params)}")
    for name, value in params.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, (dict, list)):
                raise MalformedLineError(
                    f"params: {_quote(name)} must be text, a number, true, false, null or a list "
                    f"of these, got {_kind(one)}" + (" in a list" if one is not value else "")
                )
    return params


def _headers(fields: dict[str, Any]) -> dict[str, str]:
    headers = fields.get("headers", {})
    if not isinstance(headers, dict):
        raise MalformedLineError(f"headers must be an object, got {_kind(headers)}")
    for name, value in headers.items():
        if not _TOKEN.fullmatch(name):
            raise MalformedLineError(f"headers: {_quote(name)} cannot be the name of a header")
        if name.lower() in _OUR_HEADERS:
            raise MalformedLineError(f"headers: {name} follows from the body; leave it out")
        if not isinstance(value, str):
            raise MalformedLineError(f"headers: {name} must be text, got {_kind(value)}")
        if not _HEADER_VALUE.fullmatch(value):
            raise MalformedLineError(
                f"headers: {name} must be printable ASCII without spaces at its ends"
            )
    return dict(headers)


def _set_default(headers: dict[str, str], name: str, value: str) -> None:
    if name.lower() not in map(str.lower, headers):
        headers[name] = value


def _kind(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
    return kinds[type(value)]


def _quote(text: str) -> str:
    """``text`` in ASCII quotes, short enough for a message and harmless to a terminal."""
    return ascii(text if len(text) <= 40 else f"{text[:37]}...")
