"""Events: work as objects with a state of their own, and the executor that runs them."""

from __future__ import annotations

import asyncio
import logging
import math
from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Generic, TypeVar
from uuid import uuid4

from penstock._util import checks
from penstock._util.compat import Self
from penstock._util.functions import is_async
from penstock._util.lifecycle import Lifecycle
from penstock.executors import LoopLocal
from penstock.limits.rate.limit import Limit
from penstock.policies.observer import ObserverProvider
from penstock.work_queue import WorkQueue

if TYPE_CHECKING:
    from penstock.config import QueueConfig


class ExecutionStatus(str, Enum):
    """The state of an execution. A member equals its value."""

    #: Not started yet.
    PENDING = "pending"
    #: ``invoke`` is running.
    PROCESSING = "processing"
    #: ``invoke`` returned.
    COMPLETED = "completed"
    #: ``invoke`` raised; ``error`` has the exception.
    FAILED = "failed"
    #: ``invoke`` was cancelled.
    CANCELLED = "cancelled"


@dataclass(slots=True)
class Execution:
    """The execution of an event: its state and its result.

    ``result`` is what ``invoke`` returned. ``error`` is what it raised, or why the event was not
    started. ``duration`` is the seconds that ``invoke`` took; ``None`` until it has ended.
    """

    status: ExecutionStatus = ExecutionStatus.PENDING
    result: Any = None
    error: BaseException | None = None
    duration: float | None = None


class Event:
    """Base of the events of an :class:`penstock.Executor`: subclass it and write ``invoke``.

    ``id`` and ``execution`` are set before ``__init__`` runs, so a subclass, for example a
    dataclass, need not call ``super().__init__()``.
    """

    id: str
    execution: Execution

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: D102
        event = super().__new__(cls)
        # Not by the class's own __setattr__: that of a frozen dataclass raises.
        object.__setattr__(event, "id", str(uuid4()))
        object.__setattr__(event, "execution", Execution())
        return event

    async def invoke(self) -> Any:
        """Do the work. Its result or exception is recorded in ``execution``."""
        raise NotImplementedError(f"{type(self).__name__} must define invoke()")


E = TypeVar("E", bound=Event)


class Executor(Lifecycle, Generic[E]):
    """Runs events, objects with a state of their own, through a ``WorkQueue``.

    Args:
        event_type: a subclass of :class:`penstock.Event`; only such events are accepted.
        queue_config: the settings of the queue. ``None``: the defaults of ``QueueConfig``. At most
            ``queue_capacity`` events start in any ``capacity_refresh_time`` seconds: this is one of
            the limits of the queue, besides ``limits``, and an event must pass all of them.
        logger, name, telemetry: as for :class:`penstock.BoundedQueue`.

    Raises:
        TypeError: for an argument that is not allowed.

    The status, result, error and duration of an event are in its ``execution``; a failure is not
    logged. An event stays pending until it starts, also while it waits for limits, and its duration
    is that of its ``invoke``. Where events can no longer start (the deadline of ``queue_config`` is
    over, its breaker is open), they fail without a duration.
    """

    def __init__(
        self,
        event_type: type[E],
        queue_config: QueueConfig | None = None,
        *,
        logger: logging.Logger | None = None,
        name: str | None = None,
        telemetry: ObserverProvider | None = None,
    ) -> None:
        if not (isinstance(event_type, type) and issubclass(event_type, Event)):
            raise TypeError(
                f"event_type must be a subclass of penstock.Event, got {checks.shown(event_type)}"
            )
        if not is_async(event_type.invoke):
            raise TypeError(f"{event_type.__qualname__}.invoke must be async def")
        from penstock.config import QueueConfig  # and pydantic, for those who need it

        config = QueueConfig() if queue_config is None else queue_config
        if not isinstance(config, QueueConfig):
            raise TypeError(f"queue_config must be a QueueConfig, got {checks.shown(config)}")
        self.event_type = event_type
        self.queue: WorkQueue[E] = WorkQueue.from_config(
            config,
            logger=logger,
            name=name,
            telemetry=telemetry,
            limits=[_capacity_limit(config)],
        )
        self._logger = logging.getLogger("penstock") if logger is None else logger
        self._retries = config.retry is not None
        self._events: dict[str, E] = {}
        self._unsettled: set[str] = set()
        self._unforwarded: deque[E] = deque()
        self._forwarding = LoopLocal(asyncio.Lock)

    def __repr__(self) -> str:
        kind = f"{type(self).__name__} of {self.event_type.__qualname__}"
        return f"<{kind}: events that have not ended: {len(self._unsettled)}, {self.queue!r}>"

    def append(self, event: E) -> None:
        """Add an event; :meth:`forward` moves it into the queue.

        Raises:
            TypeError: it is not an ``event_type``.
            ValueError: it is appended already.
        """
        if not isinstance(event, self.event_type):
            raise TypeError(
                f"event must be a {self.event_type.__qualname__}, got {checks.shown(event)}"
            )
        if event.id in self._events:
            raise ValueError(f"event {event.id} is appended already")
        self._events[event.id] = event
        self._unsettled.add(event.id)
        self._unforwarded.append(event)

    async def forward(self) -> None:
        """Move all appended events into the queue, and wait while it is full.

        Raises:
            QueueStateError: the executor is not started, or stops during the call.

        If this is cancelled, the next call moves the events that are left.
        """
        async with self._forwarding.get():
            while self._unforwarded:
                await self.queue.put(self._unforwarded[0], timeout=math.inf)
                self._unforwarded.popleft()

    async def wait(self) -> None:
        """Forward all appended events, and return when all events have ended.

        Raises:
            QueueStateError: the executor is not started, or stops before all events have ended.
        """
        await self.forward()
        await self.queue.join()

    @property
    def is_all_processed(self) -> bool:
        """Whether every event has ended: completed, failed or cancelled."""
        return not self._unsettled

    @property
    def pending(self) -> list[E]:
        """Events that have not started."""
        return self._in_status(ExecutionStatus.PENDING)

    @property
    def processing(self) -> list[E]:
        """Events that are running."""
        return self._in_status(ExecutionStatus.PROCESSING)

    @property
    def completed(self) -> list[E]:
        """Events whose ``invoke`` returned."""
        return self._in_status(ExecutionStatus.COMPLETED)

    @property
    def failed(self) -> list[E]:
        """Events whose ``invoke`` raised, or that can no longer start. Some may be tried again."""
        return self._in_status(ExecutionStatus.FAILED)

    @property
    def cancelled(self) -> list[E]:
        """Events that were cancelled while they ran; the next ``start()`` runs them again."""
        return self._in_status(ExecutionStatus.CANCELLED)

    def _in_status(self, status: ExecutionStatus) -> list[E]:
        return [event for event in self._events.values() if event.execution.status is status]

    def forget_ended(self) -> list[E]:
        """Forget completed and failed events, and return them: for executors that live long."""
        ended = [event for event in self.completed + self.failed if event.id not in self._unsettled]
        for event in ended:
            del self._events[event.id]
        return ended

    async def start(self) -> None:
        """Start the queue and its workers. Do nothing if they are running.

        Raises:
            QueueStateError: they are running in another event loop.
        """
        await self.queue.start()
        if not self.queue.worker_count:
            await self.queue.process(self._run, error_handler=self._on_failure)

    async def stop(self, timeout: float | None = None, *, drain: bool = True) -> bool:
        """Stop as :meth:`penstock.BoundedQueue.stop` does; False if forwarded events are left.

        Events that were never forwarded stay pending, and their number is logged.
        """
        if self._unforwarded:
            self._logger.warning(
                "Executor of %s stops with %d events that were not forwarded",
                self.event_type.__qualname__,
                len(self._unforwarded),
            )
        return await self.queue.stop(timeout, drain=drain)

    async def _run(self, event: E) -> None:
        clock = asyncio.get_running_loop().time
        execution = event.execution
        self._unsettled.add(event.id)
        execution.status = ExecutionStatus.PROCESSING
        started = clock()
        may_be_retried = False
        try:
            result = await event.invoke()
        except asyncio.CancelledError:
            execution.status = ExecutionStatus.CANCELLED
            raise
        except BaseException as error:
            execution.status = ExecutionStatus.FAILED
            execution.error = error
            may_be_retried = self._retries and isinstance(error, Exception)
            raise
        else:
            execution.status = ExecutionStatus.COMPLETED
            execution.error = None
            # An event may have recorded its result itself.
            execution.result = execution.result if result is None else result
        finally:
            execution.duration = clock() - started
            if not may_be_retried:
                self._unsettled.discard(event.id)

    def _on_failure(self, error: Exception, event: E) -> None:
        """The error handler: the event has failed for good, or it was not started at all.

        Nothing is logged: the event has the error, and its owner decides.
        """
        execution = event.execution
        if isinstance(error, asyncio.CancelledError):
            return  # ``invoke`` raised it, and ``_run`` has recorded it
        if execution.error is not error:  # ``invoke`` did not raise it
            execution.status = ExecutionStatus.FAILED
            execution.error = error
        self._unsettled.discard(event.id)


def _capacity_limit(config: QueueConfig) -> Limit:
    name = "queue_capacity"
    while any(limit.name == name for limit in config.limits):
        name = f"_{name}"
    return Limit(config.queue_capacity, config.capacity_refresh_time, name=name)
