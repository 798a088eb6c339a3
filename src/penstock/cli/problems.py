"""What is wrong with a line of the input, said so that it may be shown to anybody.

What a message quotes are keys and never values: those may be secrets.
"""

from __future__ import annotations

import json
from typing import Any, TypeAlias

from penstock.errors import PenstockError

RequestId: TypeAlias = "str | int"


class MalformedLineError(PenstockError):
    """A line that is no request; the message says why. ``id`` is its id if that could be read."""

    def __init__(self, problem: str) -> None:
        super().__init__(problem)
        self.id: RequestId | None = None


def kind(value: Any) -> str:
    """What a JSON value is, in a word or two."""
    if value is None or isinstance(value, bool):
        return json.dumps(value)
    kinds = {dict: "an object", list: "a list", str: "text", int: "a number", float: "a number"}
    return kinds[type(value)]


def quote(text: str) -> str:
    """``text`` in ASCII quotes, short enough for a message and harmless to a terminal."""
    return ascii(text if len(text) <= 40 else f"{text[:37]}...")


def harmless(text: str) -> str:
    """``text`` for a terminal: what is not to be seen, and could be obeyed, as an escape.

    Line breaks stay.
    """
    if text.isascii() and text.isprintable():
        return text
    return "".join(c if c.isprintable() or c == "\n" else ascii(c)[1:-1] for c in text)


def listed(names: list[str]) -> str:
    """``names`` for a message, or the first of them if there are many."""
    shown = ", ".join(quote(name)[1:-1] for name in names[:20])
    return shown if len(names) <= 20 else f"{shown} and {len(names) - 20} more"
