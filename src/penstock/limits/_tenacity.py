"""What tenacity's ``wait_...`` and ``stop_...`` objects look at. Imported when one is given."""

from __future__ import annotations

from tenacity import Future, RetryCallState, Retrying

_RETRYING = Retrying()


def retry_state(
    attempt: int, error: Exception, elapsed: float, upcoming_wait: float
) -> RetryCallState:
    """The state after attempt ``attempt`` ended with ``error``, ``elapsed`` s after the first."""
    state = RetryCallState(_RETRYING, None, (), {})
    state.attempt_number = attempt
    state.outcome = Future(attempt)
    state.outcome.set_exception(error)
    state.start_time = 0.0  # on a clock of its own: only the difference is looked at
    state.outcome_timestamp = elapsed
    state.upcoming_sleep = upcoming_wait
    return state
