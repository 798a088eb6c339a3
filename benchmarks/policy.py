"""Calls under a policy, without a queue, against aiolimiter and tenacity.

``python -m benchmarks.policy``. What each figure means is told in ``README.md``.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from time import process_time
from typing import Any, TypeAlias

import aiolimiter
import tenacity

from benchmarks import harness
from benchmarks.harness import Contest, Contestant
from penstock import Backoff, Limiter, Policy, RetryPolicy

#: Calls in a slice, of the fast contestants and of the slow ones.
MANY, FEW = 5_000, 1_000
#: Calls a minute: a limit that leaves room for all of them.
ROOM = 1_000_000
ATTEMPTS = 3

TENACITY_GOAL = 1.0

AsyncCall: TypeAlias = Callable[[], Awaitable[object]]
PlainCall: TypeAlias = Callable[[], object]
#: Puts a call under limits or retries.
Wrap: TypeAlias = Callable[[AsyncCall], AsyncCall]

CALL, DECORATED = "penstock, policy.call", "penstock, @policy"
AIOLIMITER, TENACITY = "aiolimiter", "tenacity, @retry"
PEERS = "aiolimiter in tenacity, @retry"


# -- what is called -------------------------------------------------------------------------------


async def answer() -> int:
    return 1


def plain_answer() -> int:
    return 1


def fails_every_other_time() -> AsyncCall:
    """Each call of it needs two attempts."""
    fails = False

    async def call() -> int:
        nonlocal fails
        fails = not fails
        if fails:
            raise ConnectionError("not this time")
        return 1

    return call


# -- under one limit ------------------------------------------------------------------------------


def room() -> list[str]:
    return [f"{ROOM}/min"]


def limited_by_limiter(function: AsyncCall) -> AsyncCall:
    limiter = Limiter(room())

    async def call() -> object:
        async with limiter:
            return await function()

    return call


def limited_by_aiolimiter(function: AsyncCall) -> AsyncCall:
    limiter = aiolimiter.AsyncLimiter(ROOM, 60)

    async def call() -> object:
        async with limiter:
            return await function()

    return call


# -- under retries --------------------------------------------------------------------------------


def retries() -> RetryPolicy:
    # As tenacity has it unless told otherwise: no waits, and no budget.
    return RetryPolicy(ATTEMPTS, backoff=Backoff(base=0), budget=None)


def tenacity_settings() -> dict[str, Any]:
    return {"stop": tenacity.stop_after_attempt(ATTEMPTS), "reraise": True}


def retried_by_tenacity(function: Any) -> Any:
    return tenacity.retry(**tenacity_settings())(function)


def retried_by_tenacity_block(function: AsyncCall) -> AsyncCall:
    async def call() -> object:
        async for attempt in tenacity.AsyncRetrying(**tenacity_settings()):
            with attempt:
                return await function()
        return None

    return call


def retried_by_hand(function: AsyncCall) -> AsyncCall:
    async def call() -> object:
        for attempt in range(1, ATTEMPTS + 1):
            try:
                return await function()
            except Exception:  # noqa: PERF203 - that is what it costs
                if attempt == ATTEMPTS:
                    raise
                await asyncio.sleep(0)
        return None

    return call


def limited_and_retried_by_peers(function: AsyncCall) -> Any:
    return retried_by_tenacity(limited_by_aiolimiter(function))


# -- the contests ---------------------------------------------------------------------------------


def called(make_policy: Callable[[], Policy]) -> Callable[[Any], Any]:
    return lambda function: partial(make_policy().call, function)


def decorated(make_policy: Callable[[], Policy]) -> Callable[[Any], Any]:
    def wrap(function: Any) -> Any:
        return make_policy()(function)

    return wrap


def limited() -> Policy:
    return Policy(limits=room())


def retried() -> Policy:
    return Policy(retry=retries())


def limited_and_retried() -> Policy:
    return Policy(limits=room(), retry=retries())


LIMITED: dict[str, Wrap] = {
    CALL: called(limited),
    DECORATED: decorated(limited),
    "penstock, async with Limiter": limited_by_limiter,
    AIOLIMITER: limited_by_aiolimiter,
}
RETRIED: dict[str, Wrap] = {
    CALL: called(retried),
    DECORATED: decorated(retried),
    TENACITY: retried_by_tenacity,
    "tenacity, AsyncRetrying": retried_by_tenacity_block,
    "a loop by hand": retried_by_hand,
}
BOTH: dict[str, Wrap] = {
    CALL: called(limited_and_retried),
    DECORATED: decorated(limited_and_retried),
    PEERS: limited_and_retried_by_peers,
}
PLAIN: dict[str, Callable[[PlainCall], PlainCall]] = {
    CALL: called(retried),
    DECORATED: decorated(retried),
    TENACITY: retried_by_tenacity,
}


async def repeat(call: AsyncCall, count: int) -> float:
    begin = process_time()
    for _ in range(count):
        await call()
    return process_time() - begin


def in_loop(wrap: Wrap, make: Callable[[], AsyncCall], count: int) -> float:
    return asyncio.run(repeat(wrap(make()), count))


def in_thread(wrap: Callable[[PlainCall], PlainCall], count: int) -> float:
    call = wrap(plain_answer)
    begin = process_time()
    for _ in range(count):
        call()
    return process_time() - begin


def awaited(
    title: str, make: Callable[[], AsyncCall], wraps: dict[str, Wrap], baseline: str
) -> Contest:
    contestants = [
        Contestant(name, partial(in_loop, wrap, make), FEW if "tenacity" in name else MANY)
        for name, wrap in wraps.items()
    ]
    return Contest(title, baseline, contestants)


def contests() -> list[Contest]:
    plain = [
        Contestant(name, partial(in_thread, wrap), FEW if "tenacity" in name else MANY)
        for name, wrap in PLAIN.items()
    ]
    under_limit = awaited("A limit with room", lambda: answer, LIMITED, AIOLIMITER)
    under_retries = [
        awaited("Retries, and none is needed", lambda: answer, RETRIED, TENACITY),
        awaited("Retries, and one is needed", fails_every_other_time, RETRIED, TENACITY),
        awaited("A limit and retries", lambda: answer, BOTH, PEERS),
        Contest("Retries of a plain function, and none is needed", TENACITY, plain),
    ]
    for contest in under_retries:
        contest.goals[CALL] = TENACITY_GOAL
    return [under_limit, *under_retries]


def main() -> None:
    options = harness.options("Compare calls under a policy with their peers.", rounds=21)
    held = contests()
    harness.hold(held, options)
    about = harness.surroundings(("penstock", "aiolimiter", "tenacity"))
    goals = [goal for contest in held for goal in contest.reached()]
    report = harness.report(f"{about}; {options.rounds} rounds", goals, held)
    harness.publish("calls without a queue", report, write=options.write)


if __name__ == "__main__":
    main()
