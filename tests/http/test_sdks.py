"""SDKs that send through a queue, unchanged: OpenAI's and Anthropic's."""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
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
        "retry_unsafe": True,
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


async def test_openai_takes_a_refusal_of_ours_for_a_timeout(
    library: Any, ours: Any, llm: str
) -> None:
    transport = ours.PolicyTransport(concurrency=1, maxsize=1)
    http = library.AsyncClient(transport=transport, timeout=BOUND)
    async with openai.AsyncOpenAI(
        base_url=f"{llm}/v1", api_key="-", http_client=http, max_retries=0
    ) as client:
        calls = [client.chat.completions.create(**QUESTION) for _ in range(5)]
        done = await asyncio.gather(*calls, return_exceptions=True)
    refused = [error for error in done if isinstance(error, openai.APITimeoutError)]
    assert len(refused) == 3, "one is under way, and one waits"
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


# -- what a network does ------------------------------------------------------------------------

#: What becomes of the attempts to get one answer, one after the other; the last one is served.
TROUBLES = ("reset", "stall", "cut", "conflict", "error", "busy")


class Unreliable:
    """Each question meets one of the troubles first, and is then answered."""

    def __init__(self, reply: dict[str, Any]) -> None:
        self._reply = json.dumps(reply).encode()
        self._lock = threading.Lock()
        self._seen: set[str] = set()
        self.may_go_on = threading.Event()

    def __call__(self, seen: Seen) -> Answer | None:
        number = json.loads(seen.body)["messages"][0]["content"]
        with self._lock:
            is_first = number not in self._seen
            self._seen.add(number)
        json_type = {"content-type": "application/json"}
        trouble = TROUBLES[int(number) % len(TROUBLES)] if is_first else ""
        if trouble == "reset":
            return None
        if trouble == "stall":
            self.may_go_on.wait(BOUND)
            return None
        if trouble == "cut":
            return Answer(200, json_type, cut_off(self._reply))
        statuses = {"conflict": 409, "error": 500, "busy": 429}
        if trouble:
            return Answer(statuses[trouble], json_type, b'{"error": {"message": "not now"}}')
        return Answer(200, json_type, self._reply)


def cut_off(body: bytes) -> Iterator[bytes]:
    yield body[: len(body) // 2]
    raise ConnectionError


COMPLETION = {
    "id": "1",
    "object": "chat.completion",
    "created": 1,
    "model": "gauge-1",
    "choices": [
        {
            "index": 0,
            "finish_reason": "stop",
            "message": {"role": "assistant", "content": "water"},
        }
    ],
    "usage": {"prompt_tokens": 3, "completion_tokens": 1, "total_tokens": 4},
}


@pytest.fixture
def unreliable(server: Server) -> Iterator[Callable[[dict[str, Any]], None]]:
    answers: list[Unreliable] = []

    def be(reply: dict[str, Any]) -> None:
        answers.append(Unreliable(reply))
        server.answer = answers[-1]

    yield be
    for each in answers:
        each.may_go_on.set()


def as_the_page_says(**options: Any) -> dict[str, Any]:
    """``docs/how-to/sdks.md``."""
    return {
        "retry": RetryPolicy(attempts=5, backoff=Backoff(0.01)),
        "retry_unsafe": True,
        **options,
    }


async def test_openai_loses_nothing(unreliable: Any, server: Server) -> None:
    from penstock.httpx2 import PolicyTransport

    unreliable(COMPLETION)
    http = openai.DefaultAsyncHttpxClient(transport=PolicyTransport(**as_the_page_says()))
    async with openai.AsyncOpenAI(
        base_url=server.url, api_key="-", http_client=http, timeout=1
    ) as client:

        async def ask(number: int) -> Any:
            messages: Any = [{"role": "user", "content": str(number)}]
            return await client.chat.completions.create(model="gauge-1", messages=messages)

        answers = await asyncio.gather(*(ask(number) for number in range(12)))
    assert [answer.choices[0].message.content for answer in answers] == ["water"] * 12
    assert len(server.seen) == 24


def test_openai_loses_nothing_in_threads(unreliable: Any, server: Server) -> None:
    from penstock.httpx2 import SyncPolicyTransport

    unreliable(COMPLETION)
    http = openai.DefaultHttpxClient(transport=SyncPolicyTransport(**as_the_page_says()))
    with (
        openai.OpenAI(base_url=server.url, api_key="-", http_client=http, timeout=1) as client,
        ThreadPoolExecutor(12) as threads,
    ):

        def ask(number: int) -> Any:
            messages: Any = [{"role": "user", "content": str(number)}]
            return client.chat.completions.create(model="gauge-1", messages=messages)

        answers = list(threads.map(ask, range(12)))
    assert [answer.choices[0].message.content for answer in answers] == ["water"] * 12


async def test_anthropic_loses_nothing(unreliable: Any, server: Server) -> None:
    anthropic = pytest.importorskip("anthropic")
    from penstock.httpx2 import PolicyTransport

    unreliable(MESSAGE)
    http = anthropic.DefaultAsyncHttpxClient(transport=PolicyTransport(**as_the_page_says()))
    async with anthropic.AsyncAnthropic(
        base_url=server.url, api_key="-", http_client=http, timeout=1
    ) as client:

        async def ask(number: int) -> Any:
            messages: Any = [{"role": "user", "content": str(number)}]
            return await client.messages.create(model="gauge-1", max_tokens=9, messages=messages)

        answers = await asyncio.gather(*(ask(number) for number in range(12)))
    assert [answer.content[0].text for answer in answers] == ["water"] * 12


def test_the_rows_of_the_page_are_asked_once(llm: str, tmp_path: Path) -> None:
    page = Path(__file__).parents[2] / "docs" / "how-to" / "rows-through-an-sdk.md"
    program = page.read_text(encoding="utf-8").split("```python\n")[1].split("```")[0]
    program = program.replace('model="gpt-5-mini"', 'model="gauge-1", max_tokens=20')
    (tmp_path / "label.py").write_text(program, encoding="utf-8")
    rows = [json.dumps({"id": f"r{number}", "text": "It leaks."}) for number in range(10)]
    answers = tmp_path / "answers.jsonl"
    for count in (4, 10):
        (tmp_path / "rows.jsonl").write_text("\n".join(rows[:count]), encoding="utf-8")
        with answers.open("a", encoding="utf-8") as torn:
            torn.write('{"id": "r0", "ans')  # killed while it wrote
        subprocess.run(
            [sys.executable, "-W", "error", "label.py"],
            cwd=tmp_path,
            env={
                **os.environ,
                "OPENAI_BASE_URL": f"{llm}/v1",
                "OPENAI_API_KEY": "-",
                "NO_PROXY": "127.0.0.1",
            },
            check=True,
            timeout=BOUND,
        )
        written = [json.loads(line) for line in answers.read_text(encoding="utf-8").splitlines()]
        assert sorted(line["id"] for line in written) == [f"r{number}" for number in range(count)]
    assert all("water" in line["answer"] for line in written)
