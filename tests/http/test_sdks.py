"""SDKs that send through a queue, unchanged: OpenAI's and Anthropic's."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from helpers.http_server import BOUND, Answer, Seen, Server
from penstock import Limit, RetryPolicy
from penstock.limits import Backoff

pytestmark = [pytest.mark.slow, pytest.mark.real_time]

#: `make test`, which leaves these tests out, does not install it.
openai: Any = pytest.importorskip("openai")

LLM_SERVER = Path(__file__).parents[2] / "examples" / "llm_server.py"
#: What the account may do in its "minute" of a second; calls arrive sooner or later than sent.
REQUESTS, WINDOW = 15, 1.1
#: With the last of them the account is used up, for a second.
CALLS = 45

QUESTION: Any = {
    "model": "gauge-1",
    "messages": [{"role": "user", "content": "What is a weir?"}],
    "max_tokens": 20,
}


@pytest.fixture
def llm() -> Iterator[str]:
    """The address of the server of the examples."""
    command = [sys.executable, str(LLM_SERVER), "--minute", "1", "--latency", "0.05"]
    options = ["--requests", str(REQUESTS), "--tokens", "100000"]
    with subprocess.Popen([*command, *options], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def rules() -> dict[str, Any]:
    return {
        "limits": [Limit(REQUESTS, per=WINDOW)],
        "retry": RetryPolicy(9, backoff=Backoff(0.01, throttle_base=0.01), budget=None),
    }


def check(library: Any, llm: str) -> None:
    stats = library.get(f"{llm}/stats", trust_env=False).json()
    assert stats["served"] == CALLS, "nothing was asked twice"
    assert stats["most_requests"] <= REQUESTS


async def test_openai_keeps_to_the_limits(library: Any, ours: Any, llm: str) -> None:
    transport = ours.PolicyTransport(**rules())
    http = library.AsyncClient(transport=transport, timeout=BOUND)
    async with openai.AsyncOpenAI(
        base_url=f"{llm}/v1", api_key="-", http_client=http, max_retries=0
    ) as client:
        answers = await asyncio.gather(
            *(client.chat.completions.create(**QUESTION) for _ in range(CALLS))
        )
    assert all("water" in (answer.choices[0].message.content or "") for answer in answers)
    check(library, llm)


def test_openai_keeps_to_the_limits_in_threads(library: Any, ours: Any, llm: str) -> None:
    http = library.Client(transport=ours.SyncPolicyTransport(**rules()), timeout=BOUND)
    with (
        openai.OpenAI(base_url=f"{llm}/v1", api_key="-", http_client=http, max_retries=0) as client,
        ThreadPoolExecutor(CALLS) as threads,
    ):
        calls = [threads.submit(client.chat.completions.create, **QUESTION) for _ in range(CALLS)]
        answers: list[Any] = [call.result(BOUND) for call in calls]
    assert all("water" in answer.choices[0].message.content for answer in answers)
    check(library, llm)


async def test_openai_streams(library: Any, ours: Any, llm: str) -> None:
    transport = ours.PolicyTransport(concurrency=1)
    http = library.AsyncClient(transport=transport, timeout=BOUND)
    async with openai.AsyncOpenAI(base_url=f"{llm}/v1", api_key="-", http_client=http) as client:
        stream = await client.chat.completions.create(**QUESTION, stream=True)
        waiting = asyncio.create_task(client.chat.completions.create(**QUESTION))
        words = []
        async for chunk in stream:
            assert not waiting.done(), "there is one place, and the stream has it"
            words += [choice.delta.content for choice in chunk.choices]
            usage = chunk.usage
        assert "".join(word or "" for word in words).startswith("water water")
        assert usage is not None
        assert usage.completion_tokens // 2 == len(words) - 1
        assert (await asyncio.wait_for(waiting, BOUND)).usage


def test_openai_streams_in_threads(library: Any, ours: Any, llm: str) -> None:
    http = library.Client(transport=ours.SyncPolicyTransport(concurrency=1), timeout=BOUND)
    with openai.OpenAI(base_url=f"{llm}/v1", api_key="-", http_client=http) as client:
        for _ in range(2):
            with client.chat.completions.create(**QUESTION, stream=True) as stream:
                assert next(iter(stream)).choices[0].delta.content == "water"
        assert client.chat.completions.create(**QUESTION).usage


async def test_openai_raises_its_own_errors(library: Any, ours: Any, server: Server) -> None:
    error = {"error": {"message": "slow down", "code": "rate_limit_exceeded"}}
    server.answer = lambda seen: Answer(
        429, {"content-type": "application/json"}, json.dumps(error).encode()
    )
    transport = ours.PolicyTransport(**rules())
    http = library.AsyncClient(transport=transport, timeout=BOUND)
    async with openai.AsyncOpenAI(
        base_url=server.url, api_key="-", http_client=http, max_retries=0
    ) as client:
        with pytest.raises(openai.RateLimitError, match="slow down") as caught:
            await client.chat.completions.create(**QUESTION)
        assert caught.value.code == "rate_limit_exceeded"
        assert len(server.seen) == 9
        server.answer = lambda seen: None
        with pytest.raises(openai.APIConnectionError):
            await client.chat.completions.create(**QUESTION)


async def test_openai_takes_a_queue_without_room_for_a_timeout(
    library: Any, ours: Any, llm: str
) -> None:
    transport = ours.PolicyTransport(concurrency=1, maxsize=1, timeout=0)
    http = library.AsyncClient(transport=transport, timeout=BOUND)
    async with openai.AsyncOpenAI(
        base_url=f"{llm}/v1", api_key="-", http_client=http, max_retries=0
    ) as client:
        calls = [client.chat.completions.create(**QUESTION) for _ in range(5)]
        done = await asyncio.gather(*calls, return_exceptions=True)
    refused = [error for error in done if isinstance(error, openai.APITimeoutError)]
    assert len(refused) in (3, 4), "one is under way, and one waits if the first was taken by then"
    assert all(answer in refused or answer.choices for answer in done)
    assert all(isinstance(error.__cause__, ours.QueueFullError) for error in refused)


MESSAGE = {
    "id": "msg_1",
    "type": "message",
    "role": "assistant",
    "model": "gauge-1",
    "content": [{"type": "text", "text": "water"}],
    "stop_reason": "end_turn",
    "stop_sequence": None,
    "usage": {"input_tokens": 3, "output_tokens": 1},
}


def overloaded_at_first(seen: Seen) -> Answer:
    """As Anthropic's API: 529 means that it has too much to do."""
    json_type = {"content-type": "application/json"}
    if seen.number == 1:
        error = {"type": "error", "error": {"type": "overloaded_error", "message": "busy"}}
        return Answer(529, json_type | {"retry-after": "1"}, json.dumps(error).encode())
    if not json.loads(seen.body).get("stream"):
        return Answer(200, json_type, json.dumps(MESSAGE).encode())
    events = [
        {"type": "message_start", "message": {**MESSAGE, "content": []}},
        {
            "type": "content_block_start",
            "index": 0,
            "content_block": {"type": "text", "text": ""},
        },
        {
            "type": "content_block_delta",
            "index": 0,
            "delta": {"type": "text_delta", "text": "water"},
        },
        {"type": "content_block_stop", "index": 0},
        {
            "type": "message_delta",
            "delta": {"stop_reason": "end_turn", "stop_sequence": None},
            "usage": {"output_tokens": 1},
        },
        {"type": "message_stop"},
    ]
    return Answer(
        headers={"content-type": "text/event-stream"},
        body=[
            f"event: {event['type']}\ndata: {json.dumps(event)}\n\n".encode() for event in events
        ],
    )


async def test_anthropic_waits_and_streams(library: Any, ours: Any, server: Server) -> None:
    if library.__name__ != "httpx2":
        pytest.skip("this SDK takes clients of httpx2 alone")
    anthropic = pytest.importorskip("anthropic")
    server.answer = overloaded_at_first
    transport = ours.PolicyTransport(concurrency=1, **rules())
    http = library.AsyncClient(transport=transport, timeout=BOUND)
    async with anthropic.AsyncAnthropic(
        base_url=server.url, api_key="-", http_client=http, max_retries=0
    ) as client:
        message = await client.messages.create(**QUESTION)
        assert message.content[0].text == "water"
        async with client.messages.stream(**QUESTION) as stream:
            assert [text async for text in stream.text_stream] == ["water"]
        await asyncio.wait_for(client.messages.create(**QUESTION), BOUND)
    assert len(server.seen) == 4
    assert server.seen[1].at - server.seen[0].at >= 0.99


def test_anthropic_waits_in_threads(library: Any, ours: Any, server: Server) -> None:
    if library.__name__ != "httpx2":
        pytest.skip("this SDK takes clients of httpx2 alone")
    anthropic = pytest.importorskip("anthropic")
    server.answer = overloaded_at_first
    http = library.Client(transport=ours.SyncPolicyTransport(**rules()), timeout=BOUND)
    with anthropic.Anthropic(
        base_url=server.url, api_key="-", http_client=http, max_retries=0
    ) as client:
        assert client.messages.create(**QUESTION).content[0].text == "water"
    assert server.seen[1].at - server.seen[0].at >= 0.99
