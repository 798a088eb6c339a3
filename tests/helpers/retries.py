"""Retry policies that leave nothing to chance."""

from __future__ import annotations

from typing import Any

from penstock import RetryPolicy


def every(seconds: float, attempts: int = 3, **options: Any) -> RetryPolicy:
    """Another attempt after exactly these seconds, whatever it costs."""
    return RetryPolicy(attempts, backoff=lambda attempt, error: seconds, budget=None, **options)
