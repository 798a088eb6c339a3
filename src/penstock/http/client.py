"""What a client's module says of its requests, responses and errors."""

from __future__ import annotations

from typing import Any, Protocol

from penstock._util import checks
from penstock.errors import (
    BudgetExceededError,
    CircuitBreakerOpenError,
    DeadlineExceededError,
    PenstockError,
    QueueFullError,
)
from penstock.http import judgement
from penstock.http.slot import HeldSlot
from penstock.limits.failures import Failure
from penstock.limits.rate.permit import Permit

#: The most of a failure's body that is read before it is known whether it is tried again.
LONGEST_FAILURE = 2**20


#: The attribute of a response of a client that has no place for such things.
_PERMIT = "_penstock_permit"


class HttpClient(Protocol):
    """One package, for tasks or for threads. The methods for tasks that read or close are async."""

    #: What one of its things that sends is called, for messages.
    name: str
    #: Its errors that stand for penstock's, by these.
    errors: dict[type[PenstockError], type[PenstockError]]

    def status(self, response: Any) -> int: ...
    def headers(self, response: Any) -> Any: ...
    def header_names(self, response: Any) -> list[Any]:
        """Their names, bytes or str."""
        ...

    def host(self, request: Any) -> str: ...
    def can_resend(self, request: Any) -> bool:
        """Whether the body is still there, and is put back to its beginning."""
        ...

    def add_permit(self, response: Any, permit: Permit) -> None:
        """Let ``permit_of(response)`` find it."""
        ...

    def hold(self, response: Any, slot: HeldSlot) -> None:
        """Have ``slot.end()`` called when the response is read or closed."""
        ...

    def read_failure(self, response: Any) -> Any:
        """Read the body; False if it is too long: then it is to come as ever."""
        ...

    def close(self, response: Any) -> Any:
        """Close it; it was not handed out."""
        ...

    def failure(self, request: Any, response: Any) -> Exception:
        """The client's own error for a response that is a failure. It names no URL."""
        ...

    def answer(self, response: Any) -> Any:
        """What the caller gets, if the response was a failure and is the last one."""
        ...

    def told(self, request: Any, error: Exception) -> Exception:
        """The error of an attempt without a response, as the policy and telemetry may see it."""
        ...


class Judge:
    """Decides what is a failure, and what may be sent again."""

    def __init__(self, client: HttpClient, is_failure: Any, retry_unsafe: bool) -> None:
        if is_failure is not None:
            checks.function(is_failure, "is_failure", "response")
        if not isinstance(retry_unsafe, bool):
            raise TypeError(f"retry_unsafe must be a bool, got {checks.shown(retry_unsafe)}")
        self._client = client
        self._own = is_failure
        #: Whether the user says what a failure is.
        self.has_own = is_failure is not None
        self._retry_unsafe = retry_unsafe

    def is_failure(self, response: Any) -> bool:
        """Whether the response, whose body is not read yet, is one."""
        client = self._client
        if self._own is None:
            status = client.status(response)
            return status >= 400 and judgement.is_failure(status, client.headers(response))
        verdict = self._own(response)
        if not isinstance(verdict, bool):
            raise TypeError(f"is_failure must return a bool, got {checks.shown(verdict)}")
        return verdict

    def corrected(self, failure: Failure) -> Failure:
        """What an answer says, which is a failure by the user's word perhaps."""
        return failure if self._own is None else judgement.corrected(failure)

    def may_be_repeated(
        self, request: Any, error: BaseException, failure: Failure, answer: Any
    ) -> bool:
        """Whether a request may be sent again. ``answer``: the response, or None."""
        headers = None if answer is None else self._client.headers(answer)
        is_safe = self._retry_unsafe or judgement.is_idempotent(request.method, request.headers)
        return judgement.may_be_repeated(error, failure, is_safe=is_safe, answer=headers)


def errors_of(
    full: Any, open_: Any, spent: Any, late: Any
) -> dict[type[PenstockError], type[PenstockError]]:
    """The errors that a client's module raises, by those of penstock."""
    return {
        QueueFullError: full,
        CircuitBreakerOpenError: open_,
        BudgetExceededError: spent,
        DeadlineExceededError: late,
    }


def as_clients(error: PenstockError, errors: dict[Any, Any]) -> PenstockError:
    """The error as one of the client too, which users of that expect; or as it is."""
    ours = next((own for base, own in errors.items() if isinstance(error, base)), None)
    if ours is None or isinstance(error, ours):
        return error
    new: PenstockError = ours(str(error))
    new.__dict__.update(error.__dict__)
    return new


def put_permit_on(response: Any, permit: Permit) -> None:
    """Keep what a request took from the limits, as an attribute of its response."""
    setattr(response, _PERMIT, permit)


def permit_on(response: Any) -> Permit | None:
    """What :func:`put_permit_on` has kept."""
    permit = getattr(response, _PERMIT, None)
    return permit if isinstance(permit, Permit) else None
