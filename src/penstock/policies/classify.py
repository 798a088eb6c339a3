"""What the error of an attempt says, asked once an attempt."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from penstock._util import checks
from penstock.limits.failures import Failure, failure_of

#: A user's own: what an error says, or None where the function does not know the error.
Classify: TypeAlias = "Callable[[Exception], Failure | None]"


def classify(error: BaseException, own: Classify | None = None) -> Failure:
    """What ``error`` says: to ``own``, and where that does not know it, to penstock.

    Raises:
        TypeError, ValueError: ``own`` returned something else, or ``retry_after`` is no number of
            seconds, zero or more and finite. ``error`` is its cause.
        Exception: what ``own`` raised, with ``error`` as its cause.
    """
    if own is None or not isinstance(error, Exception):
        return failure_of(error)
    try:
        failure = own(error)
        if isinstance(failure, Failure):
            checks.finite_seconds(failure.retry_after, "retry_after")
        elif failure is not None:
            raise TypeError(f"classify must return a Failure or None, got {checks.shown(failure)}")
    except Exception as broken:
        if broken is error:
            raise
        raise broken from error
    return failure_of(error) if failure is None else failure
