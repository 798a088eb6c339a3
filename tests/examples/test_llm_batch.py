"""The batch of chat requests: all answered within the limits, and a bill that adds up."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

pytestmark = pytest.mark.slow

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # its dataclasses look for it there
    spec.loader.exec_module(module)
    return module


llm_server = load("llm_server")
llm_batch = load("llm_batch")


def test_all_are_answered_within_the_limits_and_the_bill_adds_up(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "dev", EXAMPLES / "llm_batch.py"],
        cwd=tmp_path,  # it does not matter where it is started
        capture_output=True,
        encoding="utf-8",
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    assert "failed" not in done.stderr
    summary = done.stdout
    assert "answered         80 of 80\n" in summary

    seen = json.loads(summary.partition("the server says")[2])
    assert seen["served"] == 80, "nothing was asked twice"
    assert seen["most_requests"] <= llm_batch.REQUESTS
    assert seen["most_tokens"] <= llm_batch.TOKENS

    counts = re.search(r"tokens +(\d+) in prompts, (\d+) in answers", summary)
    assert counts is not None
    prompts, answers = int(counts[1]), int(counts[2])
    assert prompts + answers == seen["total_tokens"]
    most = re.search(r"tokens expected +(\d+) at most", summary)
    assert most is not None
    assert prompts + answers < int(most[1])
    cost = re.search(r"cost +([\d.]+) dollars", summary)
    assert cost is not None
    assert float(cost[1]) == pytest.approx((prompts * 0.5 + answers * 1.5) / 1e6, abs=0.0001)

    if seen["refused"]:
        waited = re.search(r"told to wait +(\d+) times", summary)
        assert waited is not None
        assert int(waited[1]) > 0


def account(**changed: Any) -> Any:
    return llm_server.Account(**{"requests": 3, "tokens": 100, "minute": 60.0} | changed)


def test_the_server_never_lets_more_through_than_it_says() -> None:
    one = account()
    assert [one.begin(0.0, 10) is None for _ in range(4)] == [False, False, False, True]
    assert one.begin(59.9, 10) is None
    assert one.begin(60.0, 101) is None
    assert one.begin(60.0, 100) is not None
    assert one.begin(60.0, 1) is None
    assert (one.served, one.refused, one.most_requests) == (4, 4, 3)


def test_what_a_call_did_not_use_is_free_again() -> None:
    one = account()
    entry = one.begin(0.0, 100)
    assert one.begin(1.0, 50) is None
    one.end(2.0, entry, 50)
    assert one.begin(3.0, 50) is not None
    assert one.headers(4.0)["x-ratelimit-remaining-tokens"] == "0"
    assert one.headers(4.0)["x-ratelimit-reset-tokens"] == "56000ms"


def test_somebody_else_uses_the_account_up() -> None:
    one = account(requests=1000, tokens=1000)
    for _ in range(llm_server.USED_UP_AFTER):
        assert one.begin(0.0, 1) is not None
    assert one.begin(llm_server.USED_UP_FOR / 2, 1) is None
    assert one.begin(llm_server.USED_UP_FOR, 1) is not None


@pytest.mark.real_time
async def test_it_speaks_the_wire_format() -> None:
    app = llm_server.make_app(account(requests=1), latency=0.01)
    transport = httpx.ASGITransport(app)
    body = {
        "model": "gauge-1",
        "messages": [{"role": "user", "content": "What is a weir?"}],
        "max_tokens": 20,
    }
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        good, refused = await asyncio.gather(
            *(client.post("/v1/chat/completions", json=body) for _ in range(2))
        )
    completion = good.json()
    usage = completion["usage"]
    assert usage["total_tokens"] == usage["prompt_tokens"] + usage["completion_tokens"] <= 24
    assert completion["choices"][0]["message"]["role"] == "assistant"
    assert good.headers["x-ratelimit-remaining-requests"] == "0"
    assert refused.status_code == 429
    assert refused.headers["retry-after"] == "1"


@pytest.mark.real_time
async def test_it_streams_the_wire_format() -> None:
    one = account()
    transport = httpx.ASGITransport(llm_server.make_app(one, latency=0.01))
    body = {
        "model": "gauge-1",
        "messages": [{"role": "user", "content": "What is a weir?"}],
        "max_tokens": 20,
        "stream": True,
    }
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        answer = await client.post("/v1/chat/completions", json=body)
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.headers["x-ratelimit-remaining-requests"] == "2"
    *events, done = [line[6:] for line in answer.text.split("\n\n") if line]
    assert done == "[DONE]"
    *words, end, cost = map(json.loads, events)
    assert {event["object"] for event in words} == {"chat.completion.chunk"}
    assert words[0]["choices"][0]["delta"]["content"] == "water"
    assert end["choices"][0]["finish_reason"] == "stop"
    assert cost["usage"]["total_tokens"] == one.total_tokens
