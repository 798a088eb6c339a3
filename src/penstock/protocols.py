"""The protocols of penstock. A class need not derive from them to meet them."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")
T_contra = TypeVar("T_contra", contravariant=True)


@runtime_checkable
class AsyncResourceManager(Protocol):
    """An object for ``async with``: opened when the block is entered, closed when it is left."""

    async def __aenter__(self) -> Any: ...

    async def __aexit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> bool | None: ...


@runtime_checkable
class Queue(AsyncResourceManager, Protocol[T]):
    """The members of a queue that a ``WorkQueue`` uses; see :class:`penstock.BoundedQueue`."""

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
        num_workers: Any,  # an int, or for some queues an AdaptiveConcurrency
        error_handler: Callable[[Exception, T], Any] | None = None,
    ) -> None: ...
    async def stop_workers(self, timeout: float | None = None) -> None: ...


@runtime_checkable
class Executor(AsyncResourceManager, Protocol):
    """An object that runs calls until it is shut down."""

    async def execute(
        self, func: Callable[..., Awaitable[T]], /, *args: Any, **kwargs: Any
    ) -> T: ...
    async def shutdown(self, timeout: float | None = None) -> None: ...


@runtime_checkable
class RateLimiter(Protocol):
    """An object that bounds how fast calls start."""

    async def acquire(self) -> Any:
        """Wait until one more call may start. The result is ignored."""
