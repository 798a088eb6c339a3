"""The fields ``RateLimit`` and ``RateLimit-Policy``: lists of limits with parameters.

Since draft-ietf-httpapi-ratelimit-headers-08 they are structured fields (RFC 9651); version 07 had
a list of parameters, and policies such as ``100;w=60``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field

from penstock.limits.rate.header_values import number, wait

_FIGURES = {
    "limit": "limit",
    "remaining": "remaining",
    "reset": "reset",
    "q": "limit",
    "r": "remaining",
    "t": "reset",
    "w": "window",
}


@dataclass
class PolicyItem:
    """One limit in such a field."""

    name: str
    #: The caller whose quota it is; None if it is not said.
    partition: str | None = None
    #: What is counted; "" if it is not said.
    unit: str = ""
    figures: dict[str, float] = field(default_factory=dict)
    #: Whether all of it made sense.
    is_good: bool = True


def items(value: str) -> Iterator[PolicyItem]:
    """The limits in the value of a field."""
    for part in split(value, ","):
        name, *parameters = [piece.strip() for piece in split(part, ";")]
        if "=" in name and not name.startswith('"'):
            name, parameters = "", [name, *parameters]
        elif name[:1].isdigit():  # a policy of version 07: 100;w=60
            name, parameters = "", [f"q={name}", *parameters]
        yield _item(name.strip('"'), parameters)


def split(text: str, separator: str) -> list[str]:
    """The parts of ``text`` between separators, except separators in quotes."""
    parts = re.findall(rf'((?:[^{separator}"]|"(?:[^"\\]|\\.)*"?)+)', text)
    return [part for part in parts if part.strip()]


def _item(name: str, parameters: list[str]) -> PolicyItem:
    item = PolicyItem(name, is_good=bool(parameters))
    for parameter in parameters:
        key, equals, value = (piece.strip() for piece in parameter.partition("="))
        key = key.lower()
        if key == "pk":
            item.partition = value.strip(":")
        elif key == "qu":
            item.unit = value.strip('"').lower()
        elif key in _FIGURES:  # or it is something newer
            try:
                if not equals:
                    raise ValueError(parameter)
                figure = number(value)
                item.figures[_FIGURES[key]] = wait(figure) if key in {"t", "reset"} else figure
            except ValueError:
                item.is_good = False
    return item
