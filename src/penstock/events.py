"""Events: work as an object, with the state of its execution."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import uuid4

from penstock._util.compat import Self


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
    """The execution of an event: its state, and what came of it.

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
        raise NotImplementedError(f"{type(self).__name__} does not say how to invoke it")
