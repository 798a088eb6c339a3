"""How long to wait before the next attempt."""

from __future__ import annotations

import math
import random
from dataclasses import dataclass
from typing import Literal

from penstock._util import checks
from penstock.limits.failures import is_throttle, retry_after

#: What was told to wait until the same moment comes back spread over so much more of the wait.
_SPREAD = 0.1
#: And so many seconds at most, as the gate has it.
_MOST_SPREAD = 1.0

#: Seconds.
_THROTTLE_BASE = 1.0


@dataclass(frozen=True)
class Backoff:
    """Exponential backoff with full jitter.

    Before attempt ``n + 1``: anything between 0 and ``base * factor ** (n - 1)`` seconds, at most
    ``max``. (AWS Architecture Blog, "Exponential Backoff And Jitter", 2015: of the kinds compared
    there, this one makes the fewest calls.) After "too many requests" ``throttle_base`` takes the
    place of ``base``: one second unless given (but not below ``base``, nor above ``max``). The
    defaults are those of the AWS SDKs of 2026.

    Raises:
        ValueError: A number of seconds is negative or not finite, ``factor`` is below 1, or ``max``
            is below ``base`` or ``throttle_base``.
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
            if checks.seconds(getattr(self, name), name) == math.inf:
                raise ValueError(f"{name} must be finite, got inf")
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

    def wait(self, attempt: int, error: BaseException, rng: random.Random) -> float:
        """Seconds, after attempt number ``attempt`` (from 1) ended with ``error``."""
        base = self.base
        if is_throttle(error):
            given = self.throttle_base
            base = min(self.max, max(base, _THROTTLE_BASE)) if given is None else given
        try:
            longest = min(self.max, base * self.factor ** (attempt - 1))
        except OverflowError:
            longest = self.max
        return rng.uniform(0, longest) if self.jitter == "full" else longest


def not_before(wait: float, error: BaseException, rng: random.Random) -> float:
    """``wait``, or as long as the service asked for where that is longer, and a little more."""
    asked = retry_after(error)
    return wait if wait > asked else asked + rng.uniform(0, min(_SPREAD * asked, _MOST_SPREAD))
