"""Whether the garbage collector runs: finalisers are called in the middle of any line then."""

from __future__ import annotations

import gc
from collections.abc import Callable
from threading import get_ident

from penstock.errors import QueueStateError


class _Collections:
    """Knows which thread collects. Told by Python before and after each collection."""

    thread: int | None = None

    # Bound here, since at the end of the interpreter this module may be empty already.
    def __call__(self, phase: str, info: object, get_ident: Callable[[], int] = get_ident) -> None:
        self.thread = get_ident() if phase == "start" else None


_collections = _Collections()
gc.callbacks.append(_collections)


def is_collecting() -> bool:
    """Whether this thread runs a collection, and so a finaliser, and not what it was about to do.

    What it was about to do may hold any lock, of ours, of ``logging``, of the user's; or be the
    event loop. So a call that waits there may wait for ever.

    False in a finaliser of an object whose last reference was dropped: that is a line of its own.
    """
    return _collections.thread == get_ident()


def refuse_in_collection(call: str) -> None:
    """Refuse a call that waits in a finaliser that the garbage collector runs.

    Raises:
        QueueStateError: a collection runs in this thread.
    """
    if is_collecting():
        raise QueueStateError(
            f"Cannot wait in {call}() in a finaliser: the garbage collector may have interrupted "
            "the very code that it would wait for. In the finaliser only set a flag, and call it "
            "in other code"
        )
