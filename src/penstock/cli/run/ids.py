"""How a request is known: by the id that its line gives, or else by what it asks for."""

from __future__ import annotations

import json
from hashlib import blake2b
from typing import Any

from penstock.cli.problems import RequestId

_to_json = json.JSONEncoder(sort_keys=True).encode

_CONTENT_BITS = 64


def fingerprint(*parts: Any) -> str:
    """A short text that is the same for the same JSON values, in whatever order their keys are.

    80 bits: that two of a million requests have the same one has a chance of 1 in 10**12.

    Raises:
        RecursionError: a part is nested too deeply.
    """
    digest = blake2b(digest_size=10)
    for part in parts:
        digest.update(_to_json(part).encode() + b"\n")
    return digest.hexdigest()


def key(*parts: RequestId | None) -> int:
    """What stands for an id in memory: 128 bits, however long it is. 1 and "1" are different."""
    return int.from_bytes(blake2b(json.dumps(parts).encode(), digest_size=16).digest(), "big")


class SeenIds:
    """The ids of the lines that have been read: about 130 bytes each."""

    def __init__(self) -> None:
        # The number of the line and what it asks for share an integer: it takes less than two.
        self._lines: dict[int, int] = {}

    def earlier(self, line: int, of: int, content: str) -> tuple[int, bool] | None:
        """The line that has the id with the key ``of`` already, and whether it asks for the same.

        None if there is none; from now on it is ``line``.
        """
        asked = int(content, 16) % (1 << _CONTENT_BITS)
        found = self._lines.setdefault(of, line << _CONTENT_BITS | asked)
        first = found >> _CONTENT_BITS
        if first == line:
            return None
        return first, found % (1 << _CONTENT_BITS) == asked
