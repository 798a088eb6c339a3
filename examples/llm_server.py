"""A small server with the chat API of OpenAI, and limits on requests and tokens per minute.

    python examples/llm_server.py --requests 30 --tokens 6000 --minute 2

It listens on the loopback interface and prints its address as its first line. Its "minute" may be
shorter. Answers have their cost in ``usage``, and in ``x-ratelimit-*`` what is left. With
``"stream": true`` they come word by word, as events. Once, the account is used up by another user:
then all requests get 429 for a second.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import socket
from collections import deque
from collections.abc import AsyncIterator
from dataclasses import dataclass
from time import monotonic
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

#: The account is used up by somebody else, for so many seconds, once so many calls were served.
USED_UP_AFTER, USED_UP_FOR = 40, 1.0


def count_tokens(text: str) -> int:
    """About so many tokens, as OpenAI says: four characters each."""
    return len(text) // 4 + 1


@dataclass
class Entry:
    """A call that was served."""

    at: float
    tokens: int


class Account:
    """What one account may do in a minute and has done. Gets the time as ``now``."""

    def __init__(self, requests: int, tokens: int, minute: float) -> None:
        self.requests = requests
        self.tokens = tokens
        self.minute = minute
        self.served = self.refused = self.most_requests = self.most_tokens = self.total_tokens = 0
        self._entries: deque[Entry] = deque()
        self._used_up_until = 0.0

    def used(self, now: float) -> tuple[int, int]:
        """Requests and tokens in the last minute."""
        while self._entries and self._entries[0].at <= now - self.minute:
            self._entries.popleft()
        return len(self._entries), sum(entry.tokens for entry in self._entries)

    def begin(self, now: float, tokens: int) -> Entry | None:
        """Write down a call that may use so many tokens; None if it is one too many."""
        requests, used = self.used(now)
        is_full = requests >= self.requests or used + tokens > self.tokens
        if is_full or now < self._used_up_until:
            self.refused += 1
            return None
        entry = Entry(now, tokens)
        self._entries.append(entry)
        self.served += 1
        self.most_requests = max(self.most_requests, requests + 1)
        if self.served == USED_UP_AFTER:
            self._used_up_until = now + USED_UP_FOR
        return entry

    def end(self, now: float, entry: Entry, tokens: int) -> None:
        """The call used so many tokens in truth."""
        self.total_tokens += tokens
        entry.tokens = tokens
        self.most_tokens = max(self.most_tokens, self.used(now)[1])

    def headers(self, now: float) -> dict[str, str]:
        """What is left, in OpenAI's form."""
        requests, used = self.used(now)
        oldest = self._entries[0].at if self._entries else now
        room_in = f"{max(0, round((oldest + self.minute - now) * 1000))}ms"
        return {
            "x-ratelimit-limit-requests": str(self.requests),
            "x-ratelimit-limit-tokens": str(self.tokens),
            "x-ratelimit-remaining-requests": str(self.requests - requests),
            "x-ratelimit-remaining-tokens": str(max(0, self.tokens - used)),
            "x-ratelimit-reset-requests": room_in,
            "x-ratelimit-reset-tokens": room_in,
        }


async def pieces(
    account: Account,
    entry: Entry,
    completion: dict[str, Any],
    words: list[str],
    usage: dict[str, int],
    took: float,
) -> AsyncIterator[str]:
    """The answer as events, a word each; the last one tells what it cost."""

    def event(choices: list[dict[str, Any]], usage: dict[str, int] | None = None) -> str:
        kind = "chat.completion.chunk"
        chunk = {**completion, "object": kind, "choices": choices, "usage": usage}
        return f"data: {json.dumps(chunk)}\n\n"

    try:
        for number, word in enumerate(words):
            await asyncio.sleep(took / len(words))
            delta = {"role": "assistant", "content": f" {word}" if number else word}
            yield event([{"index": 0, "delta": delta, "finish_reason": None}])
        yield event([{"index": 0, "delta": {}, "finish_reason": "stop"}])
        yield event([], usage)
        yield "data: [DONE]\n\n"
    finally:  # also when nobody listens any more
        account.end(monotonic(), entry, usage["total_tokens"])


def make_app(account: Account, latency: float) -> Starlette:
    """The API, and /stats, which tells what the account saw."""
    luck = random.Random(1)

    async def complete(request: Request) -> Response:
        body: dict[str, Any] = await request.json()
        prompt = sum(count_tokens(message["content"]) for message in body["messages"])
        entry = account.begin(monotonic(), prompt + body["max_tokens"])
        if entry is None:
            error = {"message": "Rate limit reached", "code": "rate_limit_exceeded"}
            return JSONResponse({"error": error}, 429, headers={"retry-after": "1"})
        answer = luck.randint(body["max_tokens"] // 4, body["max_tokens"])
        took = latency * luck.uniform(0.5, 1.5)
        words = ["water"] * (answer // 2)
        usage = {
            "prompt_tokens": prompt,
            "completion_tokens": answer,
            "total_tokens": prompt + answer,
        }
        completion = {
            "id": f"chatcmpl-{account.served}",
            "object": "chat.completion",
            "created": 0,
            "model": body["model"],
        }
        if body.get("stream"):
            headers = account.headers(monotonic())
            events = pieces(account, entry, completion, words, usage, took)
            return StreamingResponse(events, media_type="text/event-stream", headers=headers)
        await asyncio.sleep(took)
        account.end(monotonic(), entry, prompt + answer)
        message = {"role": "assistant", "content": " ".join(words)}
        choice = {"index": 0, "message": message, "finish_reason": "stop"}
        return JSONResponse(
            {**completion, "choices": [choice], "usage": usage},
            headers=account.headers(monotonic()),
        )

    async def stats(request: Request) -> Response:
        figures = {
            "served": account.served,
            "refused": account.refused,
            "most_requests": account.most_requests,
            "most_tokens": account.most_tokens,
            "total_tokens": account.total_tokens,
        }
        return Response(json.dumps(figures), media_type="application/json")

    return Starlette(
        routes=[
            Route("/v1/chat/completions", complete, methods=["POST"]),
            Route("/stats", stats),
        ]
    )


def main() -> None:
    """Serve until the process is ended."""
    parser = argparse.ArgumentParser(description="A server that speaks OpenAI's chat completions.")
    parser.add_argument("--port", type=int, default=0, help="0, the default: a free one")
    parser.add_argument("--requests", type=int, default=500, help="a minute")
    parser.add_argument("--tokens", type=int, default=90_000, help="a minute")
    parser.add_argument("--minute", type=float, default=60.0, help="seconds")
    parser.add_argument("--latency", type=float, default=0.3, help="seconds, about")
    options = parser.parse_args()
    account = Account(options.requests, options.tokens, options.minute)
    listener = socket.create_server(("127.0.0.1", options.port))
    print(f"http://127.0.0.1:{listener.getsockname()[1]}", flush=True)
    # Longer than clients keep a connection, so that not both close one at the same time.
    config = uvicorn.Config(
        make_app(account, options.latency), log_level="warning", timeout_keep_alive=60
    )
    uvicorn.Server(config).run(sockets=[listener])


if __name__ == "__main__":
    main()
