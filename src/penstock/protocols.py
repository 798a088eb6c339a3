"""What things look like to each other. Classes meet these without naming them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


@runtime_checkable
class AsyncResourceManager(Protocol):
    """What is used by ``async with``: opened on the way in, closed on every way out."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...


@runtime_checkable
class Queue(AsyncResourceManager, Protocol[T]):
    """What a ``WorkQueue`` needs of its queue. :class:`penstock.BoundedQueue` documents each."""

    @property
    def maxsize(self) -> int: ...
    @property
    def name(self) -> str: ...
    @property
    def status(self) -> Any: ...
    @property
    def size(self) -> int: ...
    @property
    def is_empty(self) -> bool: ...
    @property
    def is_full(self) -> bool: ...
    @property
    def worker_count(self) -> int: ...
    @property
    def unprocessed(self) -> list[T]: ...
    @property
    def metrics(self) -> dict[str, int]: ...
    def statistics(self) -> Any: ...

    async def start(self) -> None: ...
    async def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool: ...
    async def put(self, item: T, timeout: float | None = None) -> bool: ...
    def put_nowait(self, item: T) -> None: ...
    async def get(self, timeout: float | None = None) -> T: ...
    def get_nowait(self) -> T: ...
    def task_done(self) -> None: ...
    async def join(self) -> None: ...
    async def start_workers(
        self,
        worker_func: Callable[[T], Any],
        num_workers: Any,  # an int, or for some an AdaptiveConcurrency
        error_handler: Callable[[Exception, T], Any] | None = None,
    ) -> None: ...
    async def stop_workers(self, timeout: float | None = None) -> None: ...


@runtime_checkable
class Executor(AsyncResourceManager, Protocol):
    """What runs calls and is shut down."""

    async def execute(
        self, func: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any
    ) -> T: ...
    async def shutdown(self, timeout: float | None = None) -> None: ...


@runtime_checkable
class RateLimiter(Protocol):
    """What lets calls start no faster than allowed."""

    async def acquire(self) -> Any:
        """Wait until one more call may start. What it returns is not looked at."""
