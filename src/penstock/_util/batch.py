"""The items of one call of a worker function that takes several."""

from __future__ import annotations

from typing import TypeVar

T = TypeVar("T")


class Batch(list[T]):
    """A list that stands in the place of an item: limits count it as one start, or by its costs."""
