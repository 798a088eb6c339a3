"""A bearer token that a command prints, and prints anew when it has expired."""

from __future__ import annotations

import asyncio
import base64
import json
import time
from dataclasses import dataclass
from typing import Any

from penstock.cli.run.requests import HEADER_VALUE
from penstock.errors import PenstockError

#: Seconds that the command may take; and before its end when a token is no longer used.
_LONGEST, _EARLY = 60.0, 30.0


class BearerError(PenstockError):
    """The command gave no token."""


@dataclass
class _Token:
    text: str
    #: By the wall clock; infinity: it does not say.
    expires_at: float

    @property
    def is_fresh(self) -> bool:
        return time.time() < self.expires_at


class BearerCommand:
    """Runs ``command`` in a shell when a token is needed.

    It prints the token, or JSON with ``access_token`` (or ``token``) and perhaps ``expires_in``
    seconds. A JWT says by itself when it expires.
    """

    def __init__(self, command: str) -> None:
        self._command = command
        self._token: _Token | None = None
        self._lock: asyncio.Lock | None = None
        self._is_in_vain = False

    async def token(self) -> str:
        """The token; many may ask at once, and the command runs once for all of them.

        Raises:
            BearerError: there is none; nothing secret is in the message.
        """
        self._lock = self._lock or asyncio.Lock()
        async with self._lock:
            if self._token is None or not self._token.is_fresh:
                self._token = await self._renewed()
            return self._token.text

    def accepted(self) -> None:
        """The service took a token."""
        self._is_in_vain = False

    def refused(self, text: str) -> bool:
        """The service refuses the token ``text``; whether another one may be better.

        It is not where the last one was got because of a refusal, and has never been accepted.
        """
        if self._token is None or self._token.text != text:
            return True  # there is another one already, or will be
        if self._is_in_vain:
            return False
        self._token, self._is_in_vain = None, True
        return True

    async def _renewed(self) -> _Token:
        process = await asyncio.create_subprocess_shell(
            self._command, stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE
        )
        try:
            said, _ = await asyncio.wait_for(process.communicate(), _LONGEST)
        except asyncio.TimeoutError:
            raise BearerError(f"--bearer-command took longer than {_LONGEST:g} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode:
            raise BearerError(f"--bearer-command ended with exit code {process.returncode}")
        return _read(said.decode("utf-8", "replace").strip())


def _read(said: str) -> _Token:
    text, lasts = said, None
    if said.startswith("{"):
        try:
            fields: Any = json.loads(said)
        except ValueError:
            fields = {}
        text = fields.get("access_token") or fields.get("token") or ""
        lasts = fields.get("expires_in")
    if not isinstance(text, str) or not text or not HEADER_VALUE.fullmatch(text):
        raise BearerError("--bearer-command printed no token")
    expires_at = float("inf")
    if isinstance(lasts, (int, float)) and not isinstance(lasts, bool):
        expires_at = time.time() + lasts
    else:
        expires_at = _expiry_of_jwt(text)
    return _Token(text, expires_at - _EARLY)


def _expiry_of_jwt(text: str) -> float:
    parts = text.split(".")
    if len(parts) == 3:
        try:
            payload = parts[1] + "=" * (-len(parts[1]) % 4)
            expires = json.loads(base64.urlsafe_b64decode(payload))["exp"]
            return float(expires)
        except (KeyError, TypeError, ValueError):
            pass
    return float("inf")
