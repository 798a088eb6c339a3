"""Work that is an object with a state: an event, and how its execution went."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Any
from uuid import uuid4

from penstock._util.compat import Self


class ExecutionStatus(str, Enum):
    """How far the execution of an event has come. A member equals its value."""

    #: Not started, or handed back before it was finished.
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
    """The state of an event's execution.

    ``result`` is what ``invoke`` returned, ``error`` what it raised, ``duration`` the seconds
    that it took (``None`` until it has ended).
    """

    status: ExecutionStatus = ExecutionStatus.PENDING
    result: Any = None
    error: BaseException | None = None
    duration: float | None = None


class Event:
    """Base of work with a state: subclass it and write ``invoke``.

    ``id`` and ``execution`` are there before ``__init__`` runs, so that a subclass, a dataclass
    for example, need not call ``super().__init__()``.
    """

    id: str
    execution: Execution

    def __new__(cls, *args: Any, **kwargs: Any) -> Self:  # noqa: D102
        event = super().__new__(cls)
        # Around the class's own __setattr__, which may refuse: a frozen dataclass has one.
        object.__setattr__(event, "id", str(uuid4()))
        object.__setattr__(event, "execution", Execution())
        return event

    async def invoke(self) -> Any:
        """Do the work. What it returns or raises is recorded in ``execution``."""
        raise NotImplementedError(f"{type(self).__name__} does not say how to invoke it")
