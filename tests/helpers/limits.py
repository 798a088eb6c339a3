"""Limits that cannot let some item pass."""

from __future__ import annotations

import math
from typing import Any


def raises(item: Any) -> Any:
    if item == "bad":
        raise RuntimeError("no such account")
    return 1


#: Settings of a limit with a max of 5, and how the item "bad" is refused then.
BAD: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "cost raises": ({"cost": raises}, ValueError, "cost function .* raised for a str: "),
    "cost is NaN": (
        {"cost": lambda item: math.nan if item == "bad" else 1},
        ValueError,
        "must be finite and zero or more, got nan",
    ),
    "cost is negative": (
        {"cost": lambda item: -1 if item == "bad" else 1},
        ValueError,
        "must be finite and zero or more, got -1",
    ),
    "cost is above max": (
        {"cost": lambda item: 6 if item == "bad" else 1},
        ValueError,
        "cost of 6 can never pass the limit",
    ),
    "cost is no number": (
        {"cost": lambda item: None if item == "bad" else 1},
        TypeError,
        "must be a number, got None",
    ),
    "key raises": ({"key": raises}, ValueError, "key function .* raised for a str: "),
    "key is unhashable": (
        {"key": lambda item: [] if item == "bad" else 1},
        TypeError,
        "must be hashable",
    ),
}
