"""What every request carries because the command line says so, and what nobody is to see of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

import httpx

from penstock.cli.run.requests import HEADER_VALUE, OUR_HEADERS, TOKEN, Request

T = TypeVar("T", bound=str)

#: A secret shorter than this is not looked for in answers: it would be found everywhere.
_SHORTEST_SECRET = 8
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,60}")
HIDDEN = "***"


class Credentials:
    """Headers for the requests to one service.

    Args:
        headers: names and values, which nobody is shown.
        secrets: those of the values that must not appear in an answer either.
        base: the service; None for whatever the lines say.
    """

    def __init__(
        self,
        headers: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
        base: str | None = None,
    ) -> None:
        self.headers = dict(headers or {})
        self._origin = None if base is None else _origin(httpx.URL(base))
        texts = (text for secret in secrets for text in (secret, json.dumps(secret)[1:-1]))
        self._secrets = {text for text in texts if len(text) >= _SHORTEST_SECRET}

    def given_to(self, request: Request) -> dict[str, str]:
        """The headers that ``request`` gets: none if it goes elsewhere; its own come first."""
        if not self.headers or not self._are_for(httpx.URL(request.url)):
            return {}
        own = {name.lower() for name in request.headers}
        return {name: value for name, value in self.headers.items() if name.lower() not in own}

    async def strip_cross_origin(self, request: httpx.Request) -> None:
        """Take the headers out of a request that was redirected to another service.

        (httpx does so with ``Authorization`` only.)
        """
        home = request.extensions.get("penstock.origin")
        if home is not None and _origin(request.url) != home:
            for name, value in self.headers.items():
                if request.headers.get(name) == value:
                    del request.headers[name]

    def redacted(self, text: T) -> T:
        """``text`` without the secrets, should a service send them back."""
        for secret in self._secrets:
            if secret in text:
                text = type(text)(text.replace(secret, HIDDEN))
        return text

    def _are_for(self, url: httpx.URL) -> bool:
        return self._origin is None or _origin(url) == self._origin


def origin_of(url: str) -> tuple[str, str, int | None]:
    """Scheme, host and port."""
    return _origin(httpx.URL(url))


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port or {"http": 80, "https": 443}.get(url.scheme)


def read_credentials(
    headers: Sequence[str],
    header_env: Sequence[str],
    bearer_env: str | None,
    base: str | None,
    environ: Mapping[str, str],
) -> Credentials:
    """Read what ``--header``, ``--header-env`` and ``--bearer-env`` say.

    Raises:
        ValueError: it is wrong; no value of a header is in the message.
    """
    found: dict[str, str] = {}
    secrets: list[str] = []

    def add(option: str, name: str, value: str) -> None:
        name, value = name.strip(), value.strip()
        if not TOKEN.fullmatch(name):
            raise ValueError(f"{option}: the name of a header must be a word such as X-Api-Key")
        if name.lower() in OUR_HEADERS:
            raise ValueError(f"{option}: {name} follows from the body; leave it out")
        if name.lower() in map(str.lower, found):
            raise ValueError(f"{option}: {name} is given twice")
        if not HEADER_VALUE.fullmatch(value):
            raise ValueError(f"{option}: the value of {name} must be printable ASCII")
        found[name] = value

    def secret(option: str, variable: str) -> str:
        value = environ.get(variable, "").strip()
        if not value:
            # Somebody may have given the secret itself: quote only what looks like a name.
            named = variable if _VARIABLE.fullmatch(variable) else "that it names"
            raise ValueError(f"{option}: the environment variable {named} is not set, or empty")
        secrets.append(value)
        return value

    for header in headers:
        name, colon, value = header.partition(":")
        if not colon:
            raise ValueError("--header must look like 'Name: value'")
        add("--header", name, value)
    for header in header_env:
        name, sign, variable = header.partition("=")
        if not (sign and variable.strip()):
            raise ValueError("--header-env must look like X-Api-Key=NAME, NAME being a variable")
        add("--header-env", name, secret("--header-env", variable.strip()))
    if bearer_env is not None:
        add("--bearer-env", "Authorization", f"Bearer {secret('--bearer-env', bearer_env)}")
    return Credentials(found, secrets, base)
