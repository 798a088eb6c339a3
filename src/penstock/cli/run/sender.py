"""Sending one request: an attempt, what came of it, and the result at the end."""

from __future__ import annotations

import asyncio
import json
import math
import os
import socket
import ssl
from dataclasses import dataclass, replace
from typing import Protocol

import aiohttp
from yarl import URL

from penstock.cli.run.answers import Answer, AnswerJudge
from penstock.cli.run.bearer import BearerError
from penstock.cli.run.client import AnswerTooLongError, RedirectsError, Response
from penstock.cli.run.connections import Connections
from penstock.cli.run.credentials import Credentials
from penstock.cli.run.requests import Request
from penstock.cli.run.results import JsonText, RequestFailure, RequestResult, to_json
from penstock.cli.run.tracing import attempt_span
from penstock.limits.failures import Failure, failure_of

_UNAUTHORIZED = 401
_PERMANENT = Failure(is_permanent=True)
#: Kinds of content that are text though their names do not begin with "text/".
_TEXT_KINDS = ("json", "xml", "javascript", "x-www-form-urlencoded", "yaml", "csv", "graphql")


class RequestClient(Protocol):
    """What sends a request."""

    connections: Connections

    async def request(self, request: Request, headers: dict[str, str]) -> Response:
        """Send ``request`` with ``headers``, and read the answer."""
        ...


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
    """Sends requests, each attempt in up to ``timeout`` seconds.

    Args:
        client: what sends them; it keeps to ``timeout``.
        timeout: seconds, for messages.
        credentials: what they carry, and nobody is to see.
        judge: says whether an answer is a success.
        keep_headers: names of headers of answers that go into the results.
        is_traced: whether somebody collects traces.
    """

    def __init__(
        self,
        client: RequestClient,
        timeout: float = math.inf,
        credentials: Credentials | None = None,
        judge: AnswerJudge | None = None,
        keep_headers: tuple[str, ...] = (),
        is_traced: bool = True,
    ) -> None:
        self._client = client
        self._credentials = credentials or Credentials()
        self._timeout = timeout
        self._judge = judge or AnswerJudge()
        self._keep_headers = keep_headers
        self._is_traced = is_traced

    async def send(self, pending: Pending) -> Answer:
        """Make the next attempt. Nothing that can happen to it raises."""
        pending.attempts += 1
        if pending.attempts == 1:
            pending.began = asyncio.get_running_loop().time()
        request = pending.request
        if self._is_traced:
            with attempt_span(request, pending.attempts) as span:
                answer = await self._attempt(request, span.headers)
                span.end(answer.response, answer.kind)
        else:
            answer = await self._attempt(request, request.headers)
        pending.answer = answer
        return answer

    def result(self, pending: Pending, answer: Answer) -> RequestResult:
        """What became of a request whose last attempt gave this answer."""
        request, response = pending.request, answer.response
        result = RequestResult(
            id=request.id,
            line=request.line,
            status=None if response is None else response.status,
            attempts=pending.attempts,
            seconds=asyncio.get_running_loop().time() - pending.began if pending.attempts else 0.0,
            asked=request.asked,
        )
        if response is not None:
            text = body_text(answer)
            if text is not None:
                result.body = self._credentials.redacted(text)
            elif response.content:
                result.binary = response.content
                result.media_type = response.media_type
            kept = {
                name: self._credentials.redacted(response.headers[name])
                for name in self._keep_headers
                if name in response.headers
            }
            result.headers = kept
        if answer.kind:
            message = self._credentials.redacted(answer.message)
            reason = "" if answer.failure is None else answer.failure.reason
            result.failure = RequestFailure(
                answer.kind, message, self._credentials.redacted(reason)
            )
        return result

    def late(self, pending: Pending, deadline: float) -> RequestResult:
        """What became of a request whose deadline passed before it could be done."""
        message = f"not done within {deadline:g} s"
        if pending.answer is not None:
            message += f"; the last attempt: {pending.answer.message}"
        response = None if pending.answer is None else pending.answer.response
        return self.result(pending, Answer(response, "deadline", message))

    async def _attempt(self, request: Request, headers: dict[str, str]) -> Answer:
        ours = self._credentials.given_to(request)
        token = None
        try:
            token = await self._credentials.bearer_for(request)
            if token is not None:
                ours = ours | {"Authorization": f"Bearer {token}"}
            response = await self._client.request(request, headers | ours if ours else headers)
        except Exception as error:  # noqa: BLE001 - one request must not end the run
            return self._judge.of_error(request, self._unanswered(request, error))
        answer = self._judge.of_response(request, response)
        bearer = self._credentials.bearer
        if token is None or bearer is None:
            return answer
        if response.status != _UNAUTHORIZED:
            bearer.accepted()
        elif bearer.refused(token) and answer.failure is not None:
            answer.failure = replace(answer.failure, is_permanent=False, is_transient=True)
        return answer

    def _unanswered(self, request: Request, error: Exception) -> Answer:
        """What it comes to that there is no answer."""
        failure = failure_of(error)
        if isinstance(error, BearerError):
            return Answer(None, "token", str(error), _PERMANENT, is_unsent=True)
        if isinstance(error, asyncio.TimeoutError):
            return self._too_late(request, error, failure)
        if isinstance(error, aiohttp.ClientHttpProxyError):
            message = f"{self._proxy(request)} answered {error.status} {error.message}"
            return Answer(None, "connection", message, failure, is_unsent=True)
        if isinstance(error, aiohttp.ClientConnectorError):
            return self._unconnected(request, error, failure)
        if failure.is_transient:
            return Answer(None, "connection", _reason(error), failure)
        return _impossible(error)

    def _too_late(self, request: Request, error: asyncio.TimeoutError, failure: Failure) -> Answer:
        if isinstance(error, aiohttp.ConnectionTimeoutError):
            seconds = min(self._client.connections.connect_timeout, self._timeout)
            message = f"no connection{self._way(request)} within {seconds:g} s"
            return Answer(None, "timeout", message, failure, is_unsent=True)
        message = f"no complete answer within {self._timeout:g} s (--timeout)"
        return Answer(None, "timeout", message, failure)

    def _unconnected(
        self, request: Request, error: aiohttp.ClientConnectorError, failure: Failure
    ) -> Answer:
        reason = _reason(error)
        if isinstance(error, aiohttp.ClientConnectorCertificateError):
            reason += " (say with --cacert which one to trust)"
            failure = _PERMANENT
        if isinstance(error, aiohttp.ClientProxyConnectionError):
            reason = f"{self._proxy(request)} cannot be reached: {reason}"
        return Answer(None, "connection", reason, failure, is_unsent=True)

    def _proxy(self, request: Request) -> str:
        return self._client.connections.proxy_name(URL(request.url)) or "the proxy"

    def _way(self, request: Request) -> str:
        proxy = self._client.connections.proxy_name(URL(request.url))
        return f" to {proxy}" if proxy else ""


def _impossible(error: Exception) -> Answer:
    """Another attempt would end in the same way."""
    name = type(error).__name__
    if isinstance(error, (AnswerTooLongError, RedirectsError)):
        return Answer(None, "protocol", str(error), _PERMANENT)
    if isinstance(error, ValueError):  # InvalidURL too; the rest may be a secret
        return Answer(None, "protocol", f"cannot be sent ({name})", _PERMANENT, is_unsent=True)
    kind = "protocol" if isinstance(error, (aiohttp.ClientError, OSError)) else "unexpected"
    return Answer(None, kind, f"{name}: {_reason(error)}", _PERMANENT)


def _reason(error: BaseException) -> str:
    """What the system says, if it is behind the error; else what the error says."""
    if isinstance(error, aiohttp.ServerDisconnectedError):
        return "the service closed the connection without an answer"
    cause: BaseException | None = error
    reason = str(error.message if isinstance(error, aiohttp.ClientResponseError) else error)
    while cause is not None:
        untrusted = getattr(cause, "verify_message", None)  # of ssl.SSLCertVerificationError
        if isinstance(untrusted, str):
            reason = f"certificate not trusted: {untrusted}"
        elif isinstance(cause, (socket.gaierror, ssl.SSLError)):
            reason = cause.strerror or str(cause)
        elif isinstance(cause, OSError) and cause.errno and cause.errno > 0:
            reason = os.strerror(cause.errno)  # asyncio has words of its own
        cause = getattr(cause, "os_error", None) or cause.__cause__ or cause.__context__
    return reason or type(error).__name__


def body_text(answer: Answer) -> JsonText | None:
    """The body: as it is if it is JSON, and as one string if it is other text.

    None: there is none, or it is no text.
    """
    response = answer.response
    if response is None or not response.content:
        return None
    if answer.has_value:
        try:
            return to_json(answer.value)
        except (RecursionError, ValueError):  # too deep, or a number that JSON does not have
            pass
    elif answer.kind and response.media_type.endswith(("/json", "+json")):
        try:
            return to_json(json.loads(response.content))
        except (RecursionError, ValueError):
            pass
    text = _decoded(response)
    return None if text is None else to_json(text)


def _decoded(response: Response) -> str | None:
    kind, charset = response.media_type, response.charset
    if charset:
        try:
            return response.content.decode(charset, "replace")
        except LookupError:  # there is no such encoding
            pass
    is_text = not kind or kind.startswith("text/") or kind.endswith(_TEXT_KINDS)
    try:
        text = response.content.decode()
    except UnicodeDecodeError:
        if kind.startswith("text/"):
            return response.content.decode("latin-1")
        return None
    return text if is_text or text.isprintable() or not _has_controls(text) else None


def _has_controls(text: str) -> bool:
    return any(c < " " and c not in "\t\n\r" for c in text)
