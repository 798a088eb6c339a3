"""Which of the services, or of their users, an item is for: each has a gate of its own."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from typing import Any, TypeAlias

from penstock._util import checks
from penstock.limits.rate.limit import type_of

#: A function of the user's: the key of the gate that an item has to pass.
GateKey: TypeAlias = "Callable[[Any], Hashable]"


def gate_key_of(gate_key: GateKey, item: Any) -> Hashable:
    """What ``gate_key`` says of an item.

    Raises:
        ValueError: the function raised.
        TypeError: it returned something that is not hashable.
    """
    try:
        key = gate_key(item)
    except Exception as error:
        raise ValueError(
            f"the gate_key function raised for {type_of(item)}: {checks.shown(error)}"
        ) from error
    try:
        hash(key)
    except Exception as error:
        raise TypeError(
            f"the gate_key of {type_of(item)} must be hashable, got {type_of(key)}"
        ) from error
    return key
