"""What the log says when a gate holds everything up for long."""

from __future__ import annotations

import asyncio
import logging

import pytest

from penstock import Limit, Limiter, Policy, RateLimitError, RetryPolicy


def lines(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    told = [(record.levelname, record.getMessage()) for record in caplog.records]
    return [(level, line) for level, line in told if line.startswith(("No call", "Calls"))]


@pytest.fixture(autouse=True)
def everything(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO, "penstock")


async def test_a_long_wait_is_told_once_with_its_reason_and_so_is_its_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    policy = Policy(retry=RetryPolicy(3), name="api")
    refusals = [RateLimitError(retry_after=30)]

    async def call(item: int) -> None:
        if refusals:
            raise refusals.pop()

    await asyncio.gather(policy.call(call, 1), policy.call(call, 2))
    await asyncio.sleep(10)
    await policy.call(call, 3)
    assert [level for level, _ in lines(caplog)] == ["WARNING", "INFO"]
    assert lines(caplog)[0][1] == (
        "No call of the policy 'api' starts for 30.0 s: a service refused a call "
        "(RateLimitError); calls that wait: 0"
    )
    assert lines(caplog)[1][1].startswith("Calls of the policy 'api' start again, after 3")


async def test_a_short_wait_is_not_told(caplog: pytest.LogCaptureFixture) -> None:
    limiter = Limiter([Limit(5, 1)], name="api")
    limiter.close_for(5)
    await limiter.acquire()
    assert lines(caplog) == []


async def test_several_short_ones_in_a_row_are(caplog: pytest.LogCaptureFixture) -> None:
    limiter = Limiter([Limit(5, 1)], name="api")
    for _ in range(4):
        limiter.refused(permit=await limiter.acquire())
    assert [level for level, _ in lines(caplog)] == ["WARNING"]
    assert lines(caplog)[0][1].startswith("No call of the limiter 'api' starts for ")
    for _ in range(3):
        await limiter.acquire()
    await asyncio.sleep(0)
    assert [level for level, _ in lines(caplog)] == ["WARNING", "INFO"]


async def test_a_key_is_named_and_how_many_wait(caplog: pytest.LogCaptureFixture) -> None:
    limiter = Limiter([Limit(1, 100, key=lambda item: item)])
    permit = await limiter.acquire("a.example")
    waiting = [asyncio.create_task(limiter.acquire("a.example")) for _ in range(3)]
    await asyncio.sleep(1)
    limiter.refused(10, permit=permit)
    assert lines(caplog)[0][1] == (
        "No call of the limiter 'default' with the key 'a.example' starts for 10.0 s: a service "
        "refused a call; calls that wait: 3"
    )
    for task in waiting:
        task.cancel()


async def test_a_handler_of_the_log_may_use_the_limiter(
    caplog: pytest.LogCaptureFixture,
) -> None:
    limiter = Limiter([Limit(5, 1)])
    asked: list[float] = []

    class Asks(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            asked.append(limiter.statistics().closed_for)

    handler = Asks()
    logging.getLogger("penstock").addHandler(handler)
    try:
        limiter.close_for(9)
    finally:
        logging.getLogger("penstock").removeHandler(handler)
    assert asked == [9]
