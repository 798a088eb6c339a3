"""When to go on makes no sense: the rest would fail like what has been sent."""

from __future__ import annotations

from yarl import URL

from penstock.cli.run.answers import Answer
from penstock.cli.run.requests import Request
from penstock.cli.run.results import RequestResult

_UNAUTHORIZED = 401
#: So many requests that get no answer, before any got one, stand for all.
_ENOUGH = 10


class FailFast:
    """Looks at what becomes of requests.

    Args:
        keep_going: nothing is a reason to stop.
    """

    def __init__(self, keep_going: bool) -> None:
        self._is_off = keep_going
        self._has_answer = keep_going
        self._held: list[tuple[RequestResult, Request]] = []

    def refusal(self, request: Request, answer: Answer) -> str | None:
        """What to say when the service refuses all requests; None: it refuses this one at most.

        It wants other credentials than it would get with each request, or the account has no more
        credit or quota.
        """
        failure = answer.failure
        if self._is_off or failure is None or not failure.is_permanent:
            return None
        if answer.kind == "token":
            return answer.message
        if "authorization" in map(str.lower, request.headers):
            return None  # it is that request's own fault
        said = f"{place(request)} answered {answer.message}"
        if failure.is_quota_spent:
            return f"{said}: {failure.reason}" if failure.reason else said
        if failure.status == _UNAUTHORIZED:
            return f"{said}: it wants a valid token (--bearer-env, --header-env)"
        return None

    def answered(self) -> list[tuple[RequestResult, Request]]:
        """There is an answer, so somebody is there; return the results that were held back."""
        self._has_answer = True
        held, self._held = self._held, []
        return held

    def holds_back(self, result: RequestResult, request: Request) -> bool:
        """Whether a result is to wait until it is known whether anybody is there."""
        if self._has_answer or result.failure is None:
            return False
        if result.failure.kind not in ("connection", "timeout"):
            return False
        self._held.append((result, request))
        return True

    def nobody_is_there(self, at_end: bool = False) -> str | None:
        """What to say when nobody is there; None as long as somebody may be."""
        if self._has_answer or not self._held or (len(self._held) < _ENOUGH and not at_end):
            return None
        first, request = self._held[0]
        attempts = sum(result.attempts for result, _ in self._held)
        why = "" if first.failure is None else first.failure.message
        return f"no answer from {place(request)} to {attempts} attempts: {why}"


def place(request: Request) -> str:
    """Where a request goes, without what may be secret."""
    url = URL(request.url)
    return str(url.origin())
