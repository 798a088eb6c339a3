"""Error handlers."""

from __future__ import annotations

from typing import Any


def ignore(error: Exception, item: Any) -> None:
    """Let it be."""


class Handler:
    """An error handler that notes what it gets."""

    def __init__(self) -> None:
        self.got: list[tuple[Any, Exception]] = []

    def __call__(self, error: Exception, item: Any) -> None:
        self.got.append((item, error))

    @property
    def items(self) -> list[Any]:
        return [item for item, _ in self.got]

    @property
    def kinds(self) -> list[tuple[Any, type]]:
        return [(item, type(error)) for item, error in self.got]
