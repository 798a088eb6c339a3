"""What ``async with`` means for everything that starts and stops."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING

from penstock._util.compat import Self

if TYPE_CHECKING:
    from types import TracebackType


class Lifecycle(ABC):
    """Starts on the way into a block, and stops on every way out."""

    @abstractmethod
    async def start(self) -> None:
        """Begin."""

    @abstractmethod
    async def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """End, by default after what was accepted is done; False if something is left."""

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        """Stop, as ``stop()`` does; after an exception, do not drain and wait for nobody."""
        if exc_type is None:
            await self.stop()
        else:
            await self.stop(timeout=0, drain=False)
