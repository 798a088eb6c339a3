"""What every request carries because the command line says so, and what nobody is to see of it."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import TypeVar

from yarl import URL

from penstock.cli.run.bearer import BearerCommand
from penstock.cli.run.requests import (
    HEADER_VALUE,
    OUR_HEADERS,
    TOKEN,
    Request,
    add_params,
    may_be_secret,
)

T = TypeVar("T", bound=str)

#: A secret shorter than this is not looked for in answers: it would be found everywhere.
_SHORTEST_SECRET = 8
_VARIABLE = re.compile(r"[A-Z_][A-Z0-9_]{0,60}")
HIDDEN = "***"


class Credentials:
    """Headers and parameters for the requests to one service.

    Args:
        headers: names and values, which nobody is shown.
        secrets: those of the values that must not appear in an answer either.
        base: the service; None for whatever the lines say.
        params: what the query of each URL gets.
        bearer: what prints a token for each request.
    """

    def __init__(
        self,
        headers: Mapping[str, str] | None = None,
        secrets: Sequence[str] = (),
        base: str | None = None,
        params: Mapping[str, str] | None = None,
        bearer: BearerCommand | None = None,
    ) -> None:
        self.headers = dict(headers or {})
        self.params = dict(params or {})
        #: What gives the token of ``Authorization``, if no header does.
        self.bearer = bearer
        self._base = base
        self._origin = None if base is None else origin_of(URL(base))
        self._secrets: set[str] = set()
        for secret in secrets:
            self.hide(secret)

    def hide(self, secret: str) -> None:
        """``secret`` must not appear in an answer, as it is or as JSON has it."""
        for text in (secret, json.dumps(secret)[1:-1]):
            if len(text) >= _SHORTEST_SECRET:
                self._secrets.add(text)

    def given_to(self, request: Request) -> dict[str, str]:
        """The headers that ``request`` gets: none if it goes elsewhere; its own come first."""
        if not self.headers or not self._are_for(request.url):
            return {}
        own = {name.lower() for name in request.headers}
        return {name: value for name, value in self.headers.items() if name.lower() not in own}

    async def bearer_for(self, request: Request) -> str | None:
        """The token that ``request`` gets; None: none, or it has its own.

        Raises:
            BearerError: there is none.
        """
        if self.bearer is None or not self._are_for(request.url):
            return None
        if any(name.lower() == "authorization" for name in request.headers):
            return None
        token = await self.bearer.token()
        self.hide(token)
        return token

    def with_params(self, request: Request) -> str:
        """The URL of ``request`` with the parameters that it gets: none if it goes elsewhere."""
        if not self.params or not self._are_for(request.url):
            return request.url
        return add_params(request.url, self.params)

    def strip_cross_origin(self, headers: Mapping[str, str]) -> dict[str, str]:
        """``headers`` for another service than the one that they were meant for."""
        ours = {name.lower() for name in self.headers}  # Authorization looks like a secret
        return {
            name: value
            for name, value in headers.items()
            if name.lower() not in ours and not may_be_secret(name)
        }

    def redacted(self, text: T) -> T:
        """``text`` without the secrets, should a service send them back."""
        for secret in self._secrets:
            if secret in text:
                text = type(text)(text.replace(secret, HIDDEN))
        return text

    def _are_for(self, url: str) -> bool:
        if self._origin is None:
            return True
        base = self._base or ""
        if url.startswith(base) and url[len(base) : len(base) + 1] in ("", "/", "?"):
            return True  # the quick way: it was appended to the base
        return origin_of(URL(url)) == self._origin


def origin_of(url: URL) -> tuple[str, str | None, int | None]:
    """Scheme, host and port."""
    return url.scheme, url.raw_host, url.port


def read_credentials(
    headers: Sequence[str],
    header_env: Sequence[str],
    bearer_env: str | None,
    base: str | None,
    environ: Mapping[str, str],
    param_env: Sequence[str] = (),
    bearer_command: str | None = None,
) -> Credentials:
    """Read what ``--header``, ``--header-env``, ``--bearer-env`` and ``--param-env`` say.

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
            raise ValueError(f"{option}: penstock sets {name} from the body: leave it out")
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
    params: dict[str, str] = {}
    for param in param_env:
        name, sign, variable = param.partition("=")
        if not (sign and name.strip() and variable.strip()):
            raise ValueError("--param-env must look like key=NAME, NAME being a variable")
        if name.strip() in params:
            raise ValueError(f"--param-env: {name.strip()} is given twice")
        params[name.strip()] = secret("--param-env", variable.strip())
    if bearer_command is not None and "authorization" in map(str.lower, found):
        raise ValueError("--bearer-command and another Authorization were given: give one")
    bearer = None if bearer_command is None else BearerCommand(bearer_command)
    return Credentials(found, secrets, base, params, bearer)
