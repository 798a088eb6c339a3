"""What an attempt came to: an answer that is a success, or why it is none."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, replace
from typing import Any

from penstock.cli.run.client import Response
from penstock.cli.run.requests import Request
from penstock.errors import PenstockError
from penstock.limits.failures import Failure, failure_of_answer

#: Methods that a service may be asked twice for the same (RFC 9110, section 9.2.2).
_IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS", "TRACE", "PUT", "DELETE"})
#: After these a service has done nothing, and says so.
_NOTHING_DONE = frozenset({408, 409, 425})

#: What a body is that is not there, or is no JSON.
_NOTHING: Any = object()


@dataclass
class Answer:
    """How one attempt went."""

    response: Response | None = None
    #: A word to count by, and a sentence; empty after a success.
    kind: str = ""
    message: str = ""
    #: What it means for other attempts; None after a success.
    failure: Failure | None = None
    #: What the JSON of the body is, if it was read.
    value: Any = _NOTHING
    #: The request never left this machine.
    is_unsent: bool = False

    @property
    def has_value(self) -> bool:
        """Whether the body is JSON."""
        return self.value is not _NOTHING


class AttemptError(PenstockError):
    """An attempt failed. The policy looks at ``failure``, and decides whether to make another."""

    def __init__(self, answer: Answer, is_heeded: bool = True) -> None:
        super().__init__(answer.message)
        self.answer = answer
        failure = answer.failure or Failure(is_transient=True)
        #: Unless it is heeded, a refusal does not hold up other requests.
        self.failure = failure if is_heeded else replace(failure, is_throttle=False)


@dataclass(frozen=True)
class FailIf:
    """A place in a body, and the value there that makes the answer a failure.

    Without a value: whatever is neither null, false, 0 nor empty.
    """

    path: tuple[str, ...]
    value: str | None = None

    @classmethod
    def parse(cls, text: str) -> FailIf:
        """Read what ``--fail-if`` says.

        Raises:
            ValueError: it is no path, with or without a value.
        """
        path, sign, value = text.partition("=")
        steps = tuple(path.strip().split("."))
        if not all(steps):
            raise ValueError(f"must look like error or ok=false, got {text!r}")
        return cls(steps, value.strip() if sign else None)

    def applies_to(self, body: Any) -> bool:
        """Whether an answer with this body is a failure."""
        found = value_at(body, self.path)
        if found is None:
            return self.value == "null"
        if self.value is None:
            return bool(found)
        return found == self.value or json.dumps(found) == self.value

    def __str__(self) -> str:
        path = ".".join(self.path)
        return path if self.value is None else f"{path}={self.value}"


@dataclass(frozen=True)
class AnswerJudge:
    """Says of answers whether they are what was asked for.

    Args:
        fail_if: answers that are failures though their status is 2xx.
        retry_on: statuses after which another attempt is made, beside those of the library.
        safe_methods_only: what is not idempotent is sent again only where the service has done
            nothing.
        reads_json: read JSON also where nothing else asks for it.
        wants_json: JSON is asked for unless a request says otherwise.
    """

    fail_if: tuple[FailIf, ...] = ()
    retry_on: frozenset[int] = frozenset()
    safe_methods_only: bool = False
    reads_json: bool = False
    wants_json: bool = True

    def of_response(self, request: Request, response: Response) -> Answer:
        """What an answer of the service comes to."""
        status = response.status
        if 200 <= status < 300:
            answer = self._of_success(request, response)
        elif response.location:
            message = f"{status} to {_place(response.location)}"
            answer = Answer(response, "redirected", message, Failure(status, is_permanent=True))
        else:
            failure = failure_of_answer(status, response.headers, response.content)
            if status in self.retry_on and not failure.is_quota_spent:
                failure = replace(failure, is_permanent=False, is_transient=True)
            message = f"{status} {response.reason}".rstrip()
            answer = Answer(response, f"http_{status}", message, failure)
        return self._checked(request, answer)

    def of_error(self, request: Request, answer: Answer) -> Answer:
        """What there being no answer comes to."""
        return self._checked(request, answer)

    def _of_success(self, request: Request, response: Response) -> Answer:
        kind = response.media_type
        if not response.content:
            return Answer(response)
        if kind in ("text/html", "application/xhtml+xml") and self._asks_for_json(request):
            message = "200 with an HTML page, and not JSON"
            message = message.replace("200", str(response.status), 1)
            return Answer(
                response, "not_json", message, Failure(response.status, is_permanent=True)
            )
        value = _NOTHING
        if kind.endswith(("/json", "+json")):
            try:
                value = json.loads(response.content, parse_constant=_refuse)
            except RecursionError:  # it is JSON; nobody will look at it
                pass
            except ValueError as error:
                why = error.msg if isinstance(error, json.JSONDecodeError) else str(error)
                message = f"{response.status} with JSON that cannot be read: {why}"
                # It may have been cut off; but the service has done what was asked.
                again = may_be_repeated(request)
                failure = Failure(response.status, is_transient=again, is_permanent=not again)
                return Answer(response, "bad_json", message, failure)
        for condition in self.fail_if:
            if value is not _NOTHING and condition.applies_to(value):
                failure = failure_of_answer(response.status, response.headers, response.content)
                found = failure.reason or json.dumps(value_at(value, condition.path))
                message = f"{response.status} with {condition}: {found[:300]}"
                return Answer(response, "fail_if", message, failure, value)
        return Answer(response, value=value)

    def _asks_for_json(self, request: Request) -> bool:
        for name, text in request.headers.items():
            if name.lower() == "accept":
                return text.partition(",")[0].partition(";")[0].strip().endswith("json")
        return self.wants_json

    def _checked(self, request: Request, answer: Answer) -> Answer:
        """``answer``, final if another attempt might do harm."""
        failure = answer.failure
        if not self.safe_methods_only or failure is None or failure.is_permanent:
            return answer
        has_done_nothing = (
            answer.is_unsent or failure.is_throttle or failure.status in {*_NOTHING_DONE, 503}
        )
        if not has_done_nothing and not may_be_repeated(request):
            answer.failure = replace(failure, is_permanent=True, is_transient=False)
        return answer


def may_be_repeated(request: Request) -> bool:
    """Whether sending a request twice does what sending it once does."""
    return request.method in _IDEMPOTENT or any(
        name.lower() == "idempotency-key" for name in request.headers
    )


def value_at(value: Any, path: tuple[str, ...] | list[str]) -> Any:
    """What an answer has at ``path``, such as ``("usage", "total_tokens")``; None: nothing."""
    try:
        for key in path:
            value = value[int(key)] if isinstance(value, list) else value[key]
    except (LookupError, TypeError, ValueError):
        return None
    return value


_QUERY = re.compile(r"[?#].*")


def _place(location: str) -> str:
    """Where a redirect goes, without what may be secret."""
    return re.sub(r"(?<=//)[^/?#]*@", "", _QUERY.sub("", location))[:200]


def _refuse(name: str) -> None:
    raise ValueError(f"{name} is not a JSON number")
