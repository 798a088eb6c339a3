"""What a forked child must know: its threads and event loops are those of its parent."""

from __future__ import annotations

import os
import weakref
from typing import Any, Protocol


class Inherited(Protocol):
    """What must hear of a fork, in the child."""

    def disown(self) -> Any:
        """Refuse every call from now on. Returns what must not even be collected."""


_watching: weakref.WeakSet[Inherited] = weakref.WeakSet()
# To collect an event loop is to close it, and that would reach into the parent's: they share what
# the kernel has of it.
_never_collected: list[Any] = []


def watch(thing: Inherited) -> None:
    """Tell ``thing`` if it is inherited by a forked child. Keeps it no longer than others do."""
    _watching.add(thing)


def _disown_all() -> None:
    _never_collected.extend([thing.disown() for thing in list(_watching)])


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_disown_all)
