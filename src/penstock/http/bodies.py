"""Bodies of httpx's and httpx2's responses that hold a slot until they are read or closed."""

from __future__ import annotations

import sys
import warnings
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

from penstock.http.slot import HeldSlot


class HeldBody:
    """Holds a slot until it is read to its end, or closed, or collected.

    ``begun``: an iterator over ``stream`` that has yielded ``head`` already. ``leftovers``: where a
    stream goes that nobody closed, for somebody who can.
    """

    def __init__(
        self, stream: Any, slot: HeldSlot, leftovers: deque[Any], begun: Any, head: Any
    ) -> None:
        self._stream = stream
        self._slot = slot
        self._leftovers = leftovers
        self._head = head
        self._chunks = stream if begun is None else begun
        self._is_closed = False

    def _end(self) -> None:
        self._is_closed = True
        self._slot.end()

    # Bound here, since at the end of the interpreter this module may be empty already.
    def __del__(self, is_ending: Callable[[], bool] = sys.is_finalizing) -> None:
        if is_ending() or getattr(self, "_is_closed", True):
            return
        # This may run wherever Python collects: in any thread, and within a lock that closing
        # needs. So whoever sends next closes it.
        self._leftovers.append(self._stream)
        self._slot.end()
        warnings.warn("a response was neither read nor closed", ResourceWarning, stacklevel=2)


class TaskBody(HeldBody):
    """For tasks."""

    async def __aiter__(self) -> AsyncIterator[bytes]:
        try:
            for chunk in self._head:
                yield chunk
            async for chunk in self._chunks:
                yield chunk
        except GeneratorExit:  # the reader stopped, and closes it, or reads on
            raise
        except BaseException:
            self._end()
            raise
        self._end()

    async def aclose(self) -> None:
        """Close it; the slot is free then."""
        try:
            await self._stream.aclose()
        finally:
            self._end()


class ThreadBody(HeldBody):
    """For threads."""

    def __iter__(self) -> Iterator[bytes]:
        try:
            yield from self._head
            yield from self._chunks
        except GeneratorExit:  # the reader stopped, and closes it, or reads on
            raise
        except BaseException:
            self._end()
            raise
        self._end()

    def close(self) -> None:
        """Close it; the slot is free then."""
        try:
            self._stream.close()
        finally:
            self._end()
