"""``async with`` for everything that starts and stops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from penstock._util.compat import Self

if TYPE_CHECKING:
    from types import TracebackType


class Lifecycle(ABC):
    """Starts when an ``async with`` block is entered, and stops when it is left."""

    @abstractmethod
    async def start(self) -> None:
        """Start."""

    @abstractmethod
    async def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """Stop, by default when all accepted items are done.

        Args:
            timeout: seconds to wait for them; ``None``: without a limit.
            drain: False: process no more items.

        Returns:
            False if items are left.
        """

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Call ``stop()``; after an exception, without draining and without waiting."""
        if exc_type is None:
            await self.stop()
        else:
            await self.stop(timeout=0, drain=False)
