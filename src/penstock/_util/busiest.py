"""The keys with most items: a few names, whatever there are, and the rest as one."""

from __future__ import annotations

from collections.abc import Mapping
from heapq import nlargest
from operator import itemgetter
from typing import Any

#: So many keys have names of their own.
MOST = 10
#: The name of all others together.
OTHER = "other"
#: The most characters of a name.
LENGTH = 64


def busiest(counts: Mapping[Any, int]) -> dict[str, int]:
    """The greatest of ``counts`` by the texts of their keys, the greatest first; and the rest.

    Keys of one text add up. Counts of zero are left out.
    """
    named: dict[str, int] = {}
    keys = [one for one in counts.items() if one[1] and one[0] != OTHER]
    for key, count in nlargest(MOST, keys, key=itemgetter(1)):
        name = name_of(key)
        named[name] = named.get(name, 0) + count
    rest = sum(counts.values()) - sum(named.values())
    if rest:
        named[OTHER] = named.get(OTHER, 0) + rest
    return named


def name_of(key: Any) -> str:
    """The text of a key, cut to a length."""
    try:
        text = str(key)
    except Exception:  # noqa: BLE001 - a user's class; nothing depends on it
        text = type(key).__name__
    return text if len(text) <= LENGTH else f"{text[: LENGTH - 1]}…"
