"""Backoff: how long to wait before the next attempt."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from penstock._util import checks
from penstock.limits.failures import Failure, failure_of

#: Items that a service told to wait until the same moment come back spread over this share of the
#: wait, and over at most ``_MOST_SPREAD`` seconds, as the gate does it.
_SPREAD = 0.1
_MOST_SPREAD = 1.0

#: Seconds: the ``throttle_base`` unless given.
_THROTTLE_BASE = 1.0


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter.

    The wait before attempt ``n + 1`` is drawn between 0 and ``base * factor ** (n - 1)`` seconds,
    at most ``max``. (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015: of the kinds
    compared there, this one makes the fewest calls.) The defaults are those of the AWS SDKs of
    2026.

    Args:
        base: Seconds; zero or more, and finite.
        factor: What the bound is multiplied by for each attempt; at least 1, and finite.
        max: Seconds; at least ``base`` and ``throttle_base``, and finite.
        jitter: ``"full"``, or ``"none"``: each wait is the bound itself.
        throttle_base: Used in place of ``base`` after "too many requests". Default: one second,
            but not below ``base``, nor above ``max``.

    Raises:
        TypeError: ``factor`` is not a number.
        ValueError: A setting is out of its range.
    """

    base: float = 0.05
    factor: float = 2.0
    max: float = 20.0
    jitter: Literal["full", "none"] = "full"
    throttle_base: float | None = None

    def __post_init__(self) -> None:
        names = ["base", "max"]
        if self.throttle_base is not None:
            names.append("throttle_base")
        for name in names:
            checks.finite_seconds(getattr(self, name), name)
        if not 1 <= checks.real(self.factor, "factor") < math.inf:
            raise ValueError(
                f"factor must be at least 1 and finite, got {checks.shown(self.factor)}"
            )
        for name in names:
            if getattr(self, name) > self.max:
                raise ValueError(
                    f"{name} must not be above max={self.max}, got {getattr(self, name)}"
                )
        if not isinstance(self.jitter, str) or self.jitter not in {"full", "none"}:
            raise ValueError(f'jitter must be "full" or "none", got {checks.shown(self.jitter)}')

    def wait(self, attempt: int, error: BaseException | Failure, rng: random.Random) -> float:
        """Seconds to wait after attempt number ``attempt`` (from 1) ended with ``error``."""
        base = self.base
        if failure_of(error).is_throttle:
            given = self.throttle_base
            base = min(self.max, max(base, _THROTTLE_BASE)) if given is None else given
        try:
            longest = min(self.max, base * self.factor ** (attempt - 1))
        except OverflowError:
            longest = self.max
        return rng.uniform(0, longest) if self.jitter == "full" else longest


def not_before(wait: float, error: BaseException | Failure, rng: random.Random) -> float:
    """``wait`` seconds, or what ``error`` asks for if that is longer, and up to a tenth more."""
    asked = failure_of(error).retry_after
    return wait if wait > asked else asked + rng.uniform(0, min(_SPREAD * asked, _MOST_SPREAD))
