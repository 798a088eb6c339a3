"""Sending one request, as often as it takes: httpx sends, tenacity repeats."""

from __future__ import annotations

import asyncio
import json
import math
import random
import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timezone
from email.utils import parsedate_to_datetime
from http.cookiejar import CookieJar, DefaultCookiePolicy
from importlib.metadata import version

import httpx
from tenacity import (
    AsyncRetrying,
    RetryCallState,
    retry_if_result,
    stop_after_attempt,
    wait_random_exponential,
)

from penstock.cli.requests import Request
from penstock.cli.results import Failure, JsonText, Result, to_json
from penstock.cli.tracing import attempt_span

#: Statuses that say "not now".
_TRANSIENT_STATUSES = frozenset({429, 500, 502, 503, 504})
#: The longest that a server can make us wait, in seconds.
_LONGEST_PAUSE = 86_400.0
_SECONDS = re.compile(r"[0-9]{1,9}(?:\.[0-9]{1,9})?")
#: Full jitter: anything from nothing to twice as long each time.
_backoff = wait_random_exponential(multiplier=0.5, max=30)


@dataclass(frozen=True)
class _Answer:
    """How one attempt went: a response, or why there is none."""

    response: httpx.Response | None = None
    kind: str = ""
    message: str = ""
    is_transient: bool = False


def open_client(concurrency: int) -> httpx.AsyncClient:
    """Make the client for ``concurrency`` requests at a time.

    Raises:
        ImportError, ValueError: the proxy settings in the environment cannot be used.
    """
    return httpx.AsyncClient(
        follow_redirects=True,
        timeout=None,  # noqa: S113 - Sender limits each attempt as a whole
        limits=httpx.Limits(max_connections=concurrency, max_keepalive_connections=concurrency),
        headers={"User-Agent": f"penstock/{version('penstock')}"},
        # No cookies: requests are independent of each other, in whatever order they run.
        cookies=CookieJar(DefaultCookiePolicy(allowed_domains=[])),
    )


class Sender:
    """Sends requests, each in up to ``attempts`` attempts of up to ``timeout`` seconds."""

    def __init__(
        self,
        client: httpx.AsyncClient,
        attempts: int,
        timeout: float,
        on_retry: Callable[[str], None],
    ) -> None:
        self._client = client
        self._attempts = attempts
        self._timeout = timeout
        self._on_retry = on_retry

    async def send(self, request: Request) -> Result:
        """Send it and say what became of it; nothing that can happen to it raises."""
        retrying = AsyncRetrying(
            sleep=asyncio.sleep,
            stop=stop_after_attempt(self._attempts),
            wait=_pause,
            retry=retry_if_result(lambda answer: answer.is_transient),
            before_sleep=lambda state: self._on_retry(_answer_of(state).kind),
            retry_error_callback=_answer_of,
        )
        attempts = 0

        async def attempt() -> _Answer:
            nonlocal attempts
            attempts += 1
            with attempt_span(request, attempts) as span:
                answer = await self._attempt(request, span.headers)
                span.end(answer.response, answer.kind)
                return answer

        clock = asyncio.get_running_loop().time
        began = clock()
        answer: _Answer = await retrying(attempt)
        seconds = clock() - began
        body = None if answer.response is None else _body(answer.response)
        failure = Failure(answer.kind, answer.message, body) if answer.kind else None
        return Result(
            id=request.id,
            line=request.line,
            status=None if answer.response is None else answer.response.status_code,
            body=body,
            failure=failure,
            attempts=attempts,
            seconds=seconds,
        )

    async def _attempt(self, request: Request, headers: dict[str, str]) -> _Answer:
        call = self._client.request(
            request.method, request.url, headers=headers, content=request.content
        )
        try:
            response = await asyncio.wait_for(
                call, None if self._timeout == math.inf else self._timeout
            )
        except (asyncio.TimeoutError, httpx.TimeoutException):
            message = f"no complete answer within {self._timeout:g} s"
            return _Answer(None, "timeout", message, is_transient=True)
        except Exception as error:  # noqa: BLE001 - one request must not end the run
            return _unanswered(error)
        if response.is_success:
            return _Answer(response)
        status = response.status_code
        message = f"{status} {response.reason_phrase}".rstrip()
        return _Answer(response, f"http_{status}", message, status in _TRANSIENT_STATUSES)


def _unanswered(error: Exception) -> _Answer:
    name = type(error).__name__
    if isinstance(error, (httpx.UnsupportedProtocol, httpx.LocalProtocolError)):
        return _Answer(None, "protocol", f"cannot be sent ({name})")  # the rest may be a secret
    message = f"{name}: {error}" if str(error) else name
    if isinstance(error, httpx.TransportError):
        return _Answer(None, "connection", message, is_transient=True)
    if isinstance(error, httpx.RequestError):  # redirected in circles, or an answer in no code
        return _Answer(None, "protocol", message)
    return _Answer(None, "unexpected", message)


def _answer_of(state: RetryCallState) -> _Answer:
    assert state.outcome is not None
    answer: _Answer = state.outcome.result()
    return answer


def _pause(state: RetryCallState) -> float:
    """Seconds before the next attempt: what the server asks for, or else our own backoff."""
    response = _answer_of(state).response
    asked = None if response is None else retry_after(response.headers.get("Retry-After", ""))
    if asked is None:
        return float(_backoff(state))
    # A little later than asked, or all who were told the same would be back at the same instant.
    return asked + random.uniform(0, min(0.1 * asked, 1.0))  # noqa: S311 - not a secret


def retry_after(value: str) -> float | None:
    """Read a ``Retry-After`` header, in seconds or a date; None if it is neither."""
    value = value.strip()
    if _SECONDS.fullmatch(value):
        seconds = float(value)
    else:
        try:
            when = parsedate_to_datetime(value)
            if when.tzinfo is None:
                when = when.replace(tzinfo=timezone.utc)
            seconds = (when - datetime.now(timezone.utc)).total_seconds()
        except (IndexError, OverflowError, TypeError, ValueError):
            return None
    return min(max(seconds, 0.0), _LONGEST_PAUSE)


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
