"""An asynchronous queue, used from threads: each call runs in the queue's event loop thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

from penstock._util import checks
from penstock._util.loop_thread import LoopThread
from penstock.protocols import Queue
from penstock.queue.status import QueueStatus
from penstock.sync.provider import LoopThreadProvider, refuse_to_wait

T = TypeVar("T")


class BlockingAdapter:
    """The blocking calls of :class:`penstock.sync.WorkQueue` over any ``protocols.Queue``.

    For queues on a broker, where each call goes over the network. A queue in this process is faster
    without it: leave ``queue`` out.
    """

    def __init__(self, queue: Queue[Any], loop_thread: LoopThread | None) -> None:
        self._queue = queue
        self._provider = LoopThreadProvider(loop_thread, self._is_at_rest)

    def _is_at_rest(self) -> bool:
        return self._queue.status in (QueueStatus.IDLE, QueueStatus.STOPPED)

    def call(self, name: str, *args: Any, **kwargs: Any) -> Any:
        """Call a method of the queue, async or not, in its loop."""
        refuse_to_wait(name)

        async def call() -> Any:
            result = getattr(self._queue, name)(*args, **kwargs)
            return await result if hasattr(result, "__await__") else result

        with self._provider.acquire() as thread:
            return thread.call(call)

    def start(self) -> None:
        """Take items from now on."""
        self.call("start")

    def close(self) -> None:
        """Let nobody put any more."""
        self.call("close")

    def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """Take no more items, finish what was accepted, end the workers."""
        options = {} if drain else {"drain": False}
        return bool(self.call("stop", timeout=timeout, **options))

    def start_workers(
        self, worker_func: Callable[[Any], Any], num_workers: Any, error_handler: Any = None
    ) -> None:
        """Start workers."""
        self.call(
            "start_workers",
            worker_func=worker_func,
            num_workers=num_workers,
            error_handler=error_handler,
        )

    def stop_workers(self, timeout: float | None = None) -> None:
        """Let the workers finish what they hold, and end them."""
        self.call("stop_workers", timeout=timeout)

    def put(self, item: Any, timeout: float | None = None, **more: Any) -> bool:
        """Offer an item; ``more``: its deadline, an id."""
        options = {name: value for name, value in more.items() if value is not None}
        if timeout is not None:
            options["timeout"] = timeout
        return bool(self.call("put", item, **options))

    def put_nowait(self, item: Any, *, deadline: float | None = None) -> None:
        """Offer an item without waiting for room."""
        options = {} if deadline is None else {"deadline": deadline}
        self.call("put_nowait", item, **options)

    def get(self, timeout: float | None = None) -> Any:
        """Take an item."""
        return self.call("get") if timeout is None else self.call("get", timeout=timeout)

    def get_nowait(self) -> Any:
        """Take an item that is there."""
        return self.call("get_nowait")

    def task_done(self) -> None:
        """An item that was taken is done."""
        self.call("task_done")

    def put_many(self, items: Any, timeout: float | None = None) -> int:
        """Put items in their order."""
        return int(self.call("put_many", items, timeout))

    def redrive(self, timeout: float | None = None) -> int:
        """Put the dead letters back."""
        return int(self.call("redrive", timeout=timeout))

    def join(self, timeout: float | None = None) -> bool:
        """Wait until every accepted item is done."""
        limit = checks.optional_seconds(timeout)
        refuse_to_wait("join")
        with self._provider.acquire() as thread:
            return thread.run_with_timeout(self._queue.join, limit)
