"""Sending one request: an attempt, what came of it, and whether another is worth it."""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import ssl
from dataclasses import dataclass, replace

import httpx
from tenacity import wait_random_exponential

from penstock.cli.run.clients import Clients
from penstock.cli.run.credentials import Credentials, origin_of
from penstock.cli.run.requests import Request
from penstock.cli.run.results import JsonText, RequestFailure, RequestResult, to_json
from penstock.cli.run.tracing import attempt_span
from penstock.errors import PenstockError
from penstock.limits import RetryPolicy
from penstock.limits.failures import Failure, failure_of_answer

#: Full jitter: anything from nothing to twice as long each time.
_backoff = wait_random_exponential(multiplier=0.5, max=30)


@dataclass(frozen=True)
class Answer:
    """How one attempt went: a response, or why there is none."""

    response: httpx.Response | None = None
    kind: str = ""
    message: str = ""
    is_transient: bool = False
    #: What the response says, if it is a failure.
    failure: Failure | None = None


class TransientError(PenstockError):
    """An attempt failed in a way that may pass.

    Args:
        answer: how it went.
        is_heeded: whether a refusal holds up the other requests too.
    """

    def __init__(self, answer: Answer, is_heeded: bool = True) -> None:
        super().__init__(answer.message)
        self.answer = answer
        failure = answer.failure or Failure(is_transient=True)
        #: What the queue gets to know.
        self.failure = failure if is_heeded else replace(failure, is_throttle=False)


def retry_policy(attempts: int) -> RetryPolicy | None:
    """Up to ``attempts`` attempts for each request; None where there is to be but one."""
    if attempts == 1:
        return None
    # No budget: whoever sends a file of requests said how often.
    return RetryPolicy(attempts, TransientError, _backoff, budget=None)


@dataclass
class Pending:
    """A request on its way."""

    request: Request
    attempts: int = 0
    #: How the newest attempt went.
    answer: Answer | None = None
    #: When the first attempt began, by the clock of the loop.
    began: float = 0.0
    #: Since when it waits for its next attempt, in seconds from the beginning of the run.
    waits_since: float = 0.0


class Sender:
    """Sends requests, each attempt in up to ``timeout`` seconds."""

    def __init__(
        self,
        client: httpx.AsyncClient | Clients,
        attempts: int,
        timeout: float,
        credentials: Credentials | None = None,
    ) -> None:
        self._client = client
        self._credentials = credentials or Credentials()
        self._attempts = attempts
        self._timeout = timeout

    async def send(self, pending: Pending) -> Answer:
        """Make the next attempt. Nothing that can happen to it raises."""
        clock = asyncio.get_running_loop().time
        pending.attempts += 1
        if pending.attempts == 1:
            pending.began = clock()
        with attempt_span(pending.request, pending.attempts) as span:
            answer = await self._attempt(pending.request, span.headers)
            span.end(answer.response, answer.kind)
        pending.answer = answer
        return answer

    def may_pass(self, pending: Pending, answer: Answer) -> bool:
        """Whether another attempt is to be made."""
        return answer.is_transient and pending.attempts < self._attempts

    def result(self, pending: Pending, answer: Answer) -> RequestResult:
        """What became of a request whose last attempt gave this answer."""
        body = None if answer.response is None else _body(answer.response)
        if body is not None:
            body = self._credentials.redacted(body)
        failure = RequestFailure(answer.kind, answer.message, body) if answer.kind else None
        return RequestResult(
            id=pending.request.id,
            line=pending.request.line,
            status=None if answer.response is None else answer.response.status_code,
            body=body,
            failure=failure,
            attempts=pending.attempts,
            seconds=asyncio.get_running_loop().time() - pending.began if pending.attempts else 0.0,
        )

    def late(self, pending: Pending, deadline: float) -> RequestResult:
        """What became of a request whose deadline passed before it could be done."""
        message = f"not done within {deadline:g} s"
        if pending.answer is not None:
            message += f"; the last attempt: {pending.answer.message}"
        response = None if pending.answer is None else pending.answer.response
        return self.result(pending, Answer(response, "deadline", message))

    async def _attempt(self, request: Request, headers: dict[str, str]) -> Answer:
        ours = self._credentials.given_to(request)
        call = self._client.request(
            request.method,
            request.url,
            headers=headers | ours,
            content=request.content,
            extensions={"penstock.origin": origin_of(request.url)} if ours else None,
        )
        try:
            response = await asyncio.wait_for(
                call, None if self._timeout == math.inf else self._timeout
            )
        except (asyncio.TimeoutError, httpx.TimeoutException):
            message = f"no complete answer within {self._timeout:g} s"
            return Answer(None, "timeout", message, is_transient=True)
        except Exception as error:  # noqa: BLE001 - one request must not end the run
            return _unanswered(error)
        if response.is_success:
            return Answer(response)
        status = response.status_code
        message = f"{status} {response.reason_phrase}".rstrip()
        message = self._credentials.redacted(message)
        failure = failure_of_answer(status, response.headers, response.content)
        failure = replace(failure, reason=self._credentials.redacted(failure.reason))
        return Answer(response, f"http_{status}", message, not failure.is_permanent, failure)


def _unanswered(error: Exception) -> Answer:
    name = type(error).__name__
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return Answer(None, "protocol", f"cannot be sent ({name})")  # the rest may be a secret
    reason = _reason(error)
    message = f"{name}: {reason}" if reason else name
    if isinstance(error, httpx.TransportError):
        return Answer(None, "connection", message, is_transient=True)
    if isinstance(error, httpx.RequestError):  # redirected in circles, or an answer in no code
        return Answer(None, "protocol", message)
    return Answer(None, "unexpected", message)


def _reason(error: BaseException) -> str:
    """What the system says, if it is behind the error; else what the error says."""
    cause: BaseException | None = error
    reason = str(error)
    while cause is not None:
        if isinstance(cause, (socket.gaierror, ssl.SSLError)):
            reason = cause.strerror or str(cause)
        elif isinstance(cause, OSError) and cause.errno:
            reason = os.strerror(cause.errno)  # asyncio has words of its own
        cause = cause.__cause__ or cause.__context__
    return reason


def _body(response: httpx.Response) -> JsonText | None:
    """The body, as it is if it is JSON and as one string if it is not; None if there is none."""
    if not response.content:
        return None
    kind = response.headers.get("Content-Type", "").partition(";")[0].strip().lower()
    if kind.endswith(("/json", "+json")):
        try:
            return to_json(json.loads(response.content))
        except (RecursionError, ValueError):  # not JSON, or only what Python takes for JSON
            pass
    return to_json(response.text)
