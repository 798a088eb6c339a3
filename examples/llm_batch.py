"""A batch of chat requests, with limits on requests and tokens per minute, and with its cost.

    python examples/llm_batch.py

Runs against ``llm_server.py``, whose minute is two seconds long. For a real service: its address
and a key in ``client``, its model, its limits with ``MINUTE = 60``, and its prices.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import httpx

from penstock import Limit, RetryPolicy, WorkQueue

REQUESTS, TOKENS, MINUTE = 30, 6_000, 2.0
#: Calls reach a service sooner or later than they were sent: windows so much longer allow for that.
MARGIN = 1.05
#: Dollars for a million tokens.
PROMPT_PRICE, ANSWER_PRICE = 0.50, 1.50


@dataclass(frozen=True)
class Chat:
    """One request."""

    prompt: str
    max_tokens: int


def at_most(chat: Chat) -> int:
    """Tokens that it may use: what services count until they know better."""
    return len(chat.prompt) // 4 + 1 + chat.max_tokens


async def run_batch(chats: list[Chat], url: str) -> None:
    """Get an answer to each, and print what it cost."""
    requests = Limit(REQUESTS, per=MINUTE * MARGIN, name="requests")
    tokens = Limit(TOKENS, per=MINUTE * MARGIN, cost=at_most, name="tokens")
    queue = WorkQueue[Chat](
        concurrency_limit=20, limits=[requests, tokens], retry=RetryPolicy(attempts=5)
    )
    answers: dict[Chat, str] = {}
    prompt_tokens = answer_tokens = 0
    # trust_env: the server is on this machine, not behind a proxy.
    client = httpx.AsyncClient(base_url=url, timeout=30, trust_env=False)

    async def ask(chat: Chat) -> None:
        nonlocal prompt_tokens, answer_tokens
        body = {
            "model": "gauge-1",
            "messages": [{"role": "user", "content": chat.prompt}],
            "max_tokens": chat.max_tokens,
        }
        response = await client.post("/v1/chat/completions", json=body)
        # "Too many requests" is for all workers.
        queue.limits.observe(response.headers, response.status_code)
        response.raise_for_status()  # and this call is tried again
        completion = response.json()
        usage = completion["usage"]
        tokens.settle(usage["total_tokens"])  # other calls can use the rest at once
        prompt_tokens += usage["prompt_tokens"]
        answer_tokens += usage["completion_tokens"]
        answers[chat] = completion["choices"][0]["message"]["content"]

    def give_up(error: Exception, chat: Chat) -> None:
        print(f"failed: {chat.prompt[:40]!r}: {error}", file=sys.stderr)

    async with client:
        await queue.batch_process(chats, ask, error_handler=give_up, progress=True)

    dollars = (prompt_tokens * PROMPT_PRICE + answer_tokens * ANSWER_PRICE) / 1_000_000
    print(f"answered         {len(answers)} of {len(chats)}")
    print(f"tokens           {prompt_tokens} in prompts, {answer_tokens} in answers")
    print(f"tokens expected  {sum(map(at_most, chats))} at most")
    print(f"cost             {dollars:.4f} dollars")
    print(f"told to wait     {queue.limits.statistics().closures} times")


def some_chats() -> list[Chat]:
    """Short and long ones."""
    question = "What does a penstock do? " * 20
    return [Chat(f"{number}: {question[: 40 + 7 * number]}", 80 + number) for number in range(80)]


@contextmanager
def server() -> Iterator[str]:
    """Run the server and yield its address."""
    script = Path(__file__).with_name("llm_server.py")
    limits = ["--requests", str(REQUESTS), "--tokens", str(TOKENS), "--minute", str(MINUTE)]
    command = [sys.executable, str(script), *limits]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            url = process.stdout.readline().strip()
            if not url:
                raise SystemExit("the server did not start")
            yield url
        finally:
            process.terminate()


def main() -> None:
    """Run the batch, and ask the server what it saw."""
    with server() as url:
        asyncio.run(run_batch(some_chats(), url))
        print("the server says ", httpx.get(f"{url}/stats", trust_env=False).text)


if __name__ == "__main__":
    main()
