"""One request: what it may say, and what is wrong with it if it is wrong.

All that can be wrong is found here, before anything is sent.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from typing import Any

import httpx

from penstock.cli.problems import MalformedLineError, RequestId, harmless, kind, quote
from penstock.cli.run.ids import fingerprint

#: What a line may have.
KEYS = ("id", "method", "path", "url", "params", "json", "headers")

#: These follow from the body; one that contradicts it breaks the connection.
OUR_HEADERS = frozenset({"content-length", "transfer-encoding"})
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"(?:[!-~]+(?:[ \t]+[!-~]+)*)?")
#: A path that a URL has as it is. (To have httpx see to it takes longer than all the rest.)
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9_.~-]*)+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")


@dataclass(frozen=True)
class Request:
    """A request that is ready to be sent."""

    line: int
    id: RequestId
    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None
    #: The same for all requests that ask for the same, whatever their ids.
    asks_for: str = ""


def parse_base(text: str) -> str:
    """``text`` as what paths are appended to.

    Raises:
        ValueError: it is no such URL.
    """
    url = _parse_url(text)
    if "?" in text or "#" in text:
        raise ValueError("must have no '?' and no '#': put parameters into the lines")
    return str(url).rstrip("/")


def make_request(number: int, fields: dict[str, Any], base: str | None) -> Request:
    """Make the request of line ``number``.

    Raises:
        MalformedLineError: it is no request.
    """
    given_id = _id(fields)
    try:
        return _make_request(number, given_id, fields, base)
    except MalformedLineError as error:
        error.id = given_id
        raise


def _make_request(
    number: int, given_id: RequestId | None, fields: dict[str, Any], base: str | None
) -> Request:
    check_keys(fields)
    headers = _headers(fields)
    method, url = _method(fields), _url(fields, base)
    names = sorted((name.lower(), value) for name, value in headers.items())
    body = [fields["json"]] if "json" in fields else []
    try:
        content = json.dumps(*body, separators=(",", ":")).encode() if body else None
        asks_for = fingerprint(method, url, names, *body)
    except RecursionError:
        raise MalformedLineError("json is nested too deeply") from None
    if body:
        _set_default(headers, "Content-Type", "application/json")
    request_id = asks_for if given_id is None else given_id
    if HEADER_VALUE.fullmatch(str(request_id)):
        _set_default(headers, "X-Request-Id", str(request_id))
    return Request(number, request_id, method, url, headers, content, asks_for)


def check_keys(fields: dict[str, Any]) -> None:
    """Refuse what no request has.

    Raises:
        MalformedLineError: there is a key that is not allowed.
    """
    unknown = [key for key in fields if key not in KEYS]
    if unknown:
        raise MalformedLineError(f"unknown key {quote(unknown[0])}; allowed are {', '.join(KEYS)}")


def _id(fields: dict[str, Any]) -> RequestId | None:
    value = fields.get("id")
    if "id" in fields and (isinstance(value, bool) or not isinstance(value, (str, int))):
        raise MalformedLineError(f"id must be text or a whole number, got {kind(value)}")
    return value


def _method(fields: dict[str, Any]) -> str:
    value = fields.get("method", "GET")
    if not isinstance(value, str):
        raise MalformedLineError(f'method must be text such as "GET", got {kind(value)}')
    if not TOKEN.fullmatch(value):
        raise MalformedLineError(f'method must be a word such as "GET", got {quote(value)}')
    return value.upper()


def _url(fields: dict[str, Any], base: str | None) -> str:
    if ("path" in fields) == ("url" in fields):
        raise MalformedLineError(
            "has both path and url: give one" if "path" in fields else "has neither path nor url"
        )
    key = "path" if "path" in fields else "url"
    text = fields[key]
    if not isinstance(text, str):
        raise MalformedLineError(f"{key} must be text, got {kind(text)}")
    if key == "path":
        if base is None:
            raise MalformedLineError("path needs --url, which was not given")
        if _SCHEME.match(text):
            raise MalformedLineError("path must be relative to --url; use url for a full one")
        text = base + text if text[:1] in ("", "?") else f"{base}/{text.removeprefix('/')}"
        if "params" not in fields and _PLAIN_PATH.fullmatch(fields[key]):
            return text
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
    except httpx.InvalidURL:  # all parts of it are good, so it is this
        raise MalformedLineError("params are too long for a URL") from None


def _parse_url(text: str) -> httpx.URL:
    try:
        url = httpx.URL(text)
        host = url.host
    except httpx.InvalidURL as error:
        raise ValueError(f"is not a valid URL: {harmless(str(error))}") from None
    except UnicodeEncodeError:
        raise ValueError("is not a valid URL: it has half a character in it") from None
    except UnicodeError:
        raise ValueError("is not a valid URL: no host can be called that") from None
    if url.scheme not in ("http", "https") or not host:
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
        raise MalformedLineError(f"params must be an object, got {kind(params)}")
    for name, value in params.items():
        for one in value if isinstance(value, list) else [value]:
            if isinstance(one, (dict, list)):
                raise MalformedLineError(
                    f"params: {quote(name)} must be text, a number, true, false, null or a list "
                    f"of these, got {kind(one)}" + (" in a list" if one is not value else "")
                )
    return params


def _headers(fields: dict[str, Any]) -> dict[str, str]:
    headers = fields.get("headers", {})
    if not isinstance(headers, dict):
        raise MalformedLineError(f"headers must be an object, got {kind(headers)}")
    for name, value in headers.items():
        if not TOKEN.fullmatch(name):
            raise MalformedLineError(f"headers: {quote(name)} cannot be the name of a header")
        if name.lower() in OUR_HEADERS:
            raise MalformedLineError(f"headers: {name} follows from the body; leave it out")
        if not isinstance(value, str):
            raise MalformedLineError(f"headers: {name} must be text, got {kind(value)}")
        if not HEADER_VALUE.fullmatch(value):
            raise MalformedLineError(
                f"headers: {name} must be printable ASCII without spaces at its ends"
            )
    return dict(headers)


def _set_default(headers: dict[str, str], name: str, value: str) -> None:
    if name.lower() not in map(str.lower, headers):
        headers[name] = value
