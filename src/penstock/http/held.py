"""The body of a response, and the worker that it holds."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from typing import Any

from penstock.http.exchange import Turn


class Held:
    """Holds a worker until it is read to its end or closed.

    ``begun``: an iterator over ``stream`` that has yielded ``head`` already.
    """

    def __init__(self, stream: Any, turn: Turn, owner: Any, begun: Any, head: Any) -> None:
        self._stream = stream
        self._turn = turn
        self._owner = owner  # is not to be collected before
        self._head = head
        self._chunks = stream if begun is None else begun
        self._is_closed = False

    def _end(self) -> None:
        self._is_closed = True
        self._turn.end()

    # Bound here, since at the end of the interpreter this module may be empty already.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_ending() or getattr(self, "_is_closed", True):
            return
        warnings.warn("a response was neither read nor closed", ResourceWarning, stacklevel=2)
        # The worker closes it, and not this, which may run wherever Python collects: in any
        # thread, and within a lock that closing needs.
        self._turn.end(leftover=self._stream)
