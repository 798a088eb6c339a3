"""The configuration of a queue: plain values, checked by pydantic."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from penstock._util.rates import parse_rate
from penstock.limits import AdaptiveConcurrency, Backoff, CircuitBreaker, Limit, RetryPolicy


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class LimitConfig(_Frozen):
    """At most ``max`` starts in any ``per`` seconds; also written as ``"500/min"``."""

    max: float = Field(gt=0)
    per: float = Field(gt=0)
    name: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            maximum, per = parse_rate(value)
            return {"max": maximum, "per": per}
        return value


class RetryConfig(_Frozen):
    """How often an item is attempted; also written as the number of ``attempts`` alone.

    ``attempts``: the largest number of calls for each item. ``base``, ``max``: the seconds of the
    first and of the longest pause between two calls. ``hold``, ``give_up_after``: whether items
    wait while their service is down, as for :class:`penstock.RetryPolicy`.
    """

    attempts: int = Field(default=3, ge=1, le=sys.maxsize)
    base: float = Field(default=0.05, gt=0)
    max: float = Field(default=20.0, gt=0)
    hold: bool | None = None
    give_up_after: float = Field(default=300.0, gt=0)

    @model_validator(mode="before")
    @classmethod
    def _read_number(cls, value: Any) -> Any:
        return {"attempts": value} if isinstance(value, (int, str)) else value


class AdaptiveConfig(_Frozen):
    """The smallest and the largest number of calls at once; also written as ``"1-50"``."""

    min: int = Field(default=1, ge=1, le=sys.maxsize)
    max: int = Field(default=1000, ge=1, le=sys.maxsize)

    @model_validator(mode="before")
    @classmethod
    def _read_text(cls, value: Any) -> Any:
        if isinstance(value, str):
            low, _, high = value.partition("-")
            return {"min": low, "max": high}
        return value

    @model_validator(mode="after")
    def _check_order(self) -> AdaptiveConfig:
        if self.min > self.max:
            raise ValueError(f"min must not be above max, got {self.min} and {self.max}")
        return self


class BreakerConfig(_Frozen):
    """The circuit breaker: see :class:`penstock.CircuitBreaker`. ``open_for`` in seconds."""

    failure_share: float = Field(default=0.5, gt=0, le=1)
    window: int = Field(default=20, ge=1, le=sys.maxsize)
    open_for: float = Field(default=30.0, gt=0)
    probes: int = Field(default=1, ge=1, le=sys.maxsize)


class QueueConfig(BaseModel):
    """The configuration of a queue, frozen.

    Unknown names and values that are not allowed raise pydantic's ``ValidationError``, which is a
    ``ValueError``.

    Attributes:
        queue_capacity: the largest number of items that may wait, at least 1.
        capacity_refresh_time: seconds, more than 0. In any such time an :class:`penstock.Executor`
            starts at most ``queue_capacity`` events. A ``WorkQueue`` does not use it.
        concurrency_limit: the largest number of items that are processed at once, at least 1.
            ``None``: one, or the ``num_workers`` of ``process``.
        limits: how fast items may start, for example ``["500/min", "20/s"]``.
        retry: how failed items are retried, for example ``{"attempts": 5}``. ``None``: they go
            to the error handler.
        adaptive: the bounds between which the number of items that are processed at once adapts to
            the service, for example ``"1-50"``. Not together with ``concurrency_limit``.
        breaker: the circuit breaker for a service that fails. ``None``: none.
        deadline: seconds in which each item must be done, more than 0. ``None``: no deadline.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    queue_capacity: int = Field(default=100, le=sys.maxsize)
    capacity_refresh_time: float = Field(default=1.0, allow_inf_nan=False)
    concurrency_limit: int | None = Field(default=None, le=sys.maxsize)
    limits: tuple[LimitConfig, ...] = ()
    retry: RetryConfig | None = None
    adaptive: AdaptiveConfig | None = None
    breaker: BreakerConfig | None = None
    deadline: float | None = Field(default=None, gt=0, allow_inf_nan=False)

    @field_validator("limits", mode="before")
    @classmethod
    def _read_limits(cls, value: Any) -> Any:
        if isinstance(value, str):
            return [part.strip() for part in value.split(",") if part.strip()]
        return value

    @model_validator(mode="after")
    def _check_one_concurrency(self) -> QueueConfig:
        if self.adaptive is not None and self.concurrency_limit is not None:
            raise ValueError("concurrency_limit and adaptive exclude each other: give one")
        return self

    @field_validator("*", mode="before")
    @classmethod
    def _refuse_bool(cls, value: object) -> object:
        if isinstance(value, bool):  # pydantic takes it for 0 or 1
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
            prefix: the start of each variable's name; the field's name follows, in capitals.
            environ: a mapping to read in place of ``os.environ``.

        Limits are written as ``500/min, 20/s``, a retry as the number of attempts, ``adaptive`` as
        ``1-50``, and longer values as JSON. If a variable is missing or empty, the default is
        used. Other variables are ignored.

        Raises:
            ValidationError: a value is not allowed.
        """
        source = os.environ if environ is None else environ
        found = {name: source.get(prefix + name.upper(), "") for name in cls.model_fields}
        return cls.model_validate({name: _read(text) for name, text in found.items() if text})


def _read(text: str) -> Any:
    if text.lstrip()[:1] not in ("{", "["):
        return text
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return text  # the field refuses it, with its name in the error


def settings_of(config: QueueConfig, name: str | None) -> dict[str, Any]:
    """The arguments of a ``WorkQueue`` called ``name`` that has these settings."""
    adaptive, breaker = config.adaptive, config.breaker
    return {
        "maxsize": config.queue_capacity,
        "concurrency_limit": (
            config.concurrency_limit
            if adaptive is None
            else AdaptiveConcurrency(adaptive.min, adaptive.max)
        ),
        "limits": [Limit(one.max, one.per, name=one.name) for one in config.limits],
        "retry": None if config.retry is None else _retry_policy(config.retry),
        "breaker": (None if breaker is None else CircuitBreaker(**breaker.model_dump(), name=name)),
        "deadline": config.deadline,
    }


def _retry_policy(config: RetryConfig) -> RetryPolicy:
    held: dict[str, Any] = {"hold": config.hold, "give_up_after": config.give_up_after}
    if config.attempts == 1:
        return RetryPolicy(attempts=1, **held)
    return RetryPolicy(config.attempts, backoff=Backoff(config.base, max=config.max), **held)
