"""The configuration of a queue, checked by pydantic."""

from __future__ import annotations

import os
from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, field_validator


class QueueConfig(BaseModel):
    """How a queue is set up. Frozen; unknown names and wrong values are a ``ValidationError``.

    A pydantic ``ValidationError`` is a ``ValueError``.

    Attributes:
        queue_capacity: the most items that may wait, at least 1.
        capacity_refresh_time: seconds, more than 0, in any stretch of which an
            :class:`penstock.Executor` starts at most ``queue_capacity`` events. A ``WorkQueue``
            has no use for it.
        concurrency_limit: how many items are processed at once, at least 1. ``None``: one, or
            what ``process`` is told.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue_capacity: int = 100
    capacity_refresh_time: float = Field(default=1.0, allow_inf_nan=False)
    concurrency_limit: int | None = None

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool(cls, value: object) -> object:
        if isinstance(value, bool):  # which pydantic would take for 0 or 1
            raise ValueError(f"must be a number, got {value}")
        return value

    @field_validator("queue_capacity")
    @classmethod
    def _check_capacity(cls, value: int) -> int:
        if value < 1:
            raise ValueError("Queue capacity must be at least 1")
        return value

    @field_validator("capacity_refresh_time")
    @classmethod
    def _check_refresh_time(cls, value: float) -> float:
        if value <= 0:
            raise ValueError("Capacity refresh time must be positive")
        return value

    @field_validator("concurrency_limit")
    @classmethod
    def _check_concurrency(cls, value: int | None) -> int | None:
        if value is not None and value < 1:
            raise ValueError("Concurrency limit must be at least 1")
        return value

    @classmethod
    def from_env(
        cls, prefix: str = "PENSTOCK_", environ: Mapping[str, str] | None = None
    ) -> QueueConfig:
        """Read the fields from environment variables, ``PENSTOCK_QUEUE_CAPACITY`` and so on.

        Args:
            prefix: what stands before the field's name in capitals.
            environ: read this instead of ``os.environ``.

        A variable that is missing or empty leaves the default. Other variables are not looked at.

        Raises:
            ValidationError: a value is not allowed.
        """
        source = os.environ if environ is None else environ
        found = {name: source.get(prefix + name.upper(), "") for name in cls.model_fields}
        return cls.model_validate({name: text for name, text in found.items() if text})
