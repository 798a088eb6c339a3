"""One request: what it may say, and what is wrong with it if it is wrong.

All that can be wrong is found here, before anything is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote_plus

from yarl import URL

from penstock.cli.problems import MalformedLineError, RequestId, harmless, kind, quote
from penstock.cli.run.bodies import BODIES, Body, Multipart, make_body
from penstock.cli.run.ids import fingerprint

#: What a line may have.
KEYS = ("id", "method", "path", "url", "params", *BODIES, "headers")

#: These follow from the body; one that contradicts it breaks the connection.
OUR_HEADERS = frozenset({"content-length", "transfer-encoding"})
TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
HEADER_VALUE = re.compile(r"(?:[!-~]+(?:[ \t]+[!-~]+)*)?")
#: A path that a URL has as it is. (To parse it takes longer than all the rest.)
_PLAIN_PATH = re.compile(r"(?:/[A-Za-z0-9_-][A-Za-z0-9_.~-]*)+")
_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
#: A user and password in a URL.
_USER = re.compile(r"(?<=://)[^/?#]*@")
#: A host in the form that is sent; a port that is too large; what no URL has.
_HOST = re.compile(r"[A-Za-z0-9._~:%-]+")
_PORT = re.compile(r"://[^/?#]*:([0-9]{5,9})(?=[/?#]|$)")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
#: Headers whose values are secrets, by their names.
_SECRET = re.compile(r"(?i)auth|cookie|key|token|secret|password|signature")


@dataclass
class Request:
    """A request that is ready to be sent."""

    line: int
    id: RequestId
    method: str
    url: str
    headers: dict[str, str]
    content: bytes | None = None
    #: The same for all requests that ask for the same, whatever their ids.
    asks_for: str = ""
    #: What the journal keeps of ``asks_for``: nothing secret in it, and the base URL apart.
    asked: str = ""
    #: A body that is made of files, which are read when it is sent.
    multipart: Multipart | None = None


def base_mark(base: str) -> str:
    """What the journal keeps of a base URL."""
    return fingerprint(_USER.sub("", base))[:8]


def parse_base(text: str) -> str:
    """``text`` as what paths are appended to.

    Raises:
        ValueError: it is no such URL.
    """
    url = parse_url(text)
    if "?" in text or "#" in text:
        raise ValueError("must have no '?' and no '#': write parameters into the lines")
    return str(url).rstrip("/")


class RequestMaker:
    """Makes requests of the fields of lines.

    Args:
        base: what paths are appended to; None: lines have full URLs.
        folder: where the files of ``multipart`` are.
    """

    def __init__(self, base: str | None, folder: Path | None = None) -> None:
        self._base = base
        self._mark = "" if base is None else f"-{base_mark(base)}"
        self._folder = folder

    def make(self, number: int, fields: dict[str, Any]) -> Request:
        """Make the request of line ``number``.

        Raises:
            MalformedLineError: it is no request.
        """
        given_id = _id(fields)
        try:
            return self._make(number, given_id, fields)
        except MalformedLineError as error:
            error.id = given_id
            raise

    def _make(self, number: int, given_id: RequestId | None, fields: dict[str, Any]) -> Request:
        check_keys(fields)
        headers = _headers(fields)
        method, url = _method(fields), _url(fields, self._base)
        body = make_body(fields, self._folder)
        asks_for, asked = self._fingerprints(given_id, method, url, headers, body)
        if body.content_type:
            _set_default(headers, "Content-Type", body.content_type)
        request_id = asks_for if given_id is None else given_id
        if HEADER_VALUE.fullmatch(str(request_id)):
            _set_default(headers, "X-Request-Id", str(request_id))
        return Request(
            number, request_id, method, url, headers, body.content, asks_for, asked, body.multipart
        )

    def _fingerprints(
        self,
        given_id: RequestId | None,
        method: str,
        url: str,
        headers: dict[str, str],
        body: Body,
    ) -> tuple[str, str]:
        base = self._base
        is_below = base is not None and url.startswith(base)
        place = url[len(base or "") :] if is_below else _USER.sub("", url)
        names = sorted((name.lower(), value) for name, value in headers.items())
        public = [(name, value) for name, value in names if not may_be_secret(name)]
        try:
            asked = fingerprint(method, place, public, *body.parts)
            if given_id is None or len(public) < len(names):
                asks_for = fingerprint(method, url, names, *body.parts)
            else:
                asks_for = asked
        except RecursionError:
            raise MalformedLineError("json is nested too deeply") from None
        return asks_for, asked + self._mark if is_below else asked


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
        url = parse_url(text)
    except ValueError as error:
        raise MalformedLineError(f"{key} {error}") from None
    params = _params(fields)
    if not params:
        return str(url)
    try:
        return add_params(str(url), params)
    except UnicodeError:
        raise MalformedLineError("params have an incomplete character (a lone surrogate)") from None


def add_params(url: str, params: dict[str, Any]) -> str:
    """``url`` with ``params`` added to what its query has.

    Raises:
        UnicodeError: there is half a character in them.
    """
    added = "&".join(f"{_encoded(name)}={_encoded(value)}" for name, value in pairs(params))
    if not added:
        return url
    return f"{url}{'&' if '?' in url else '?'}{added}"


def pairs(params: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Names and texts; a list is one pair for each of its values."""
    for name, value in params.items():
        for one in value if isinstance(value, list) else [value]:
            yield name, _text(one)


def _text(value: Any) -> str:
    if isinstance(value, str):
        return value
    if value is None:
        return ""
    return str(value).lower() if isinstance(value, bool) else str(value)


def _encoded(text: str) -> str:
    return quote_plus(text, safe="")


def parse_url(text: str) -> URL:
    """``text`` as a URL that can be asked, in the form that is sent.

    Raises:
        ValueError: it is none; the value is not in the message.
    """
    try:
        text.encode()  # yarl leaves half a character out
        url = URL(text).with_fragment(None)
        host, port = url.raw_host, url.port
    except UnicodeEncodeError:
        raise ValueError("is not a valid URL: it has an incomplete character") from None
    except UnicodeError:
        raise ValueError("is not a valid URL: its host is not a valid name") from None
    except ValueError as error:
        port_of = _PORT.search(text)
        if port_of is not None:
            raise ValueError(f"is not a valid URL: there is no port {port_of[1]}") from None
        raise ValueError(f"is not a valid URL: {harmless(_USER.sub('', str(error)))}") from None
    if url.scheme not in ("http", "https") or not host:
        raise ValueError(
            "must be a full URL that starts with http:// or https://, "
            "for example https://api.example.com/v1"
        )
    if port == 0:
        raise ValueError("is not a valid URL: there is no port 0")
    if not _HOST.fullmatch(host) or _CONTROL.search(text):
        raise ValueError("is not a valid URL: it has a character that is not allowed")
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
            raise MalformedLineError(f"headers: penstock sets {name} from the body: leave it out")
        if not isinstance(value, str):
            raise MalformedLineError(f"headers: {name} must be text, got {kind(value)}")
        if not HEADER_VALUE.fullmatch(value):
            raise MalformedLineError(
                f"headers: {name} must be printable ASCII without spaces at its ends"
            )
    return dict(headers)


def may_be_secret(name: str) -> bool:
    """Whether a header of this name has a secret, by its looks."""
    return _SECRET.search(name) is not None


def _set_default(headers: dict[str, str], name: str, value: str) -> None:
    if name.lower() not in map(str.lower, headers):
        headers[name] = value
