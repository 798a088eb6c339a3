"""The example server: the same fate for the same request, and never more than its rate."""

from __future__ import annotations

import asyncio
import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import pytest

EXAMPLES = Path(__file__).parents[2] / "examples"


def load(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(f"example_{name}", EXAMPLES / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


api_server = load("api_server")


def fate(**changed: Any) -> Any:
    return api_server.Fate(**{"seed": 1, "rate": 3, "errors": 0.2, "latency": 0.1} | changed)


def attempts(of: Any, request_id: str) -> list[tuple[float, bool]]:
    """All attempts until one succeeds."""
    taken = [of.attempt(request_id)]
    while taken[-1][1]:
        taken.append(of.attempt(request_id))
    return taken


IDS = [f"r{number}" for number in range(1000)]


def test_what_happens_to_a_request_depends_on_the_seed_and_its_id_alone() -> None:
    one, other = fate(), fate()
    forwards = {request_id: attempts(one, request_id) for request_id in IDS}
    backwards = {request_id: attempts(other, request_id) for request_id in reversed(IDS)}
    assert forwards == backwards
    assert forwards == {request_id: attempts(one, request_id) for request_id in IDS}, "again"
    third = fate(seed=2)
    assert forwards != {request_id: attempts(third, request_id) for request_id in IDS}


def test_some_fail_and_none_fails_for_ever() -> None:
    counts = [len(attempts(fate(), request_id)) for request_id in IDS]
    assert set(counts) == {1, 2, 3}
    assert sum(count > 1 for count in counts) == pytest.approx(200, abs=50)
    assert {len(attempts(fate(errors=1), request_id)) for request_id in IDS} == {3}
    assert {len(attempts(fate(errors=0), request_id)) for request_id in IDS} == {1}


def test_latency_varies() -> None:
    seconds = sorted(fate().attempt(request_id)[0] for request_id in IDS)
    assert 0.05 <= seconds[0] < seconds[500] < seconds[-1] <= 0.55
    assert seconds[500] == pytest.approx(0.1, rel=0.1)
    assert seconds[990] > 3 * seconds[500], "a few take much longer"


def test_never_more_than_the_rate_in_any_second() -> None:
    one = fate()
    assert [one.seconds_to_wait(name, now=10.0) for name in "abcd"] == [0, 0, 0, 1]
    assert one.seconds_to_wait("e", now=10.999) == 1
    assert one.seconds_to_wait("f", now=11.0) == 0


def test_retry_after_is_a_promise() -> None:
    one = fate(rate=1)
    assert one.seconds_to_wait("a", now=10.0) == 0
    assert one.seconds_to_wait("b", now=10.5) == 1
    assert one.seconds_to_wait("b", now=10.9) == 1, "too early"
    assert one.seconds_to_wait("c", now=11.1) == 0
    assert one.seconds_to_wait("d", now=11.6) == 1
    assert one.seconds_to_wait("b", now=11.6) == 0, "it came back when it was told"


async def test_the_pages() -> None:
    app = api_server.make_app(fate(rate=1000, errors=0.0))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:

        async def page(method: str, path: str, **options: Any) -> Any:
            response = await client.request(method, path, **options)
            assert response.is_success, path
            return response.json() if "json" in response.headers.get("content-type", "") else None

        assert await page("GET", "/items/7") == {"number": 7, "name": "item 7", "price": 16.99}
        assert await page("GET", "/items/7", params={"field": ["name"]}) == {"name": "item 7"}
        assert await page("PUT", "/items/7", json=[1]) == {"number": 7, "stored": [1]}
        assert await page("DELETE", "/items/7") is None
        assert await page("GET", "/search?q=weir&limit=2") == {"found": ["weir-0", "weir-1"]}
        echoed = await page("POST", "/echo", json={"a": 1}, headers={"X-Request-Id": "r1"})
        assert echoed == {"id": "r1", "json": {"a": 1}}
        assert (await client.get("/reports/2025-01-31")).text.startswith("Report for 2025-01-31")
        assert (await client.get("/health")).text == "ok"
        assert await page("GET", "/stats") == {"200": 6, "204": 1}


async def test_answers_of_429_and_500() -> None:
    app = api_server.make_app(fate(rate=1, errors=1.0))
    transport = httpx.ASGITransport(app)
    async with httpx.AsyncClient(transport=transport, base_url="http://api") as client:
        broken, refused = await asyncio.gather(
            *(client.get("/items/1", headers={"X-Request-Id": name}) for name in "ab")
        )
        assert (broken.status_code, refused.status_code) == (500, 429)
        assert refused.headers["Retry-After"] == "1"
        assert (await client.get("/stats")).json() == {"429": 1, "500": 1}


def test_the_request_file_is_what_its_script_makes() -> None:
    script = EXAMPLES / "make_requests.py"
    made = subprocess.run([sys.executable, script], capture_output=True, check=True, timeout=30)
    kept = (EXAMPLES / "requests.jsonl").read_bytes()
    assert made.stdout.splitlines() == kept.splitlines()
    lines = [json.loads(line) for line in kept.splitlines()]
    assert len(lines) == len({line["id"] for line in lines}) == 500
    assert {line.get("method", "GET") for line in lines} == {"GET", "POST", "PUT", "DELETE"}
