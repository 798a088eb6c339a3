"""Which gate an item has to pass: ``gate_key=``, or the keys of limits."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from helpers.tasks import now
from penstock import (
    DeadlineExceededError,
    Limit,
    Policy,
    QueueStateError,
    RateLimitError,
    RetryPolicy,
    WorkQueue,
)
from penstock.policies.item_state import ItemState


def key_of(policy: Policy, item: Any) -> Any:
    state = ItemState(policy._own_scope())
    policy.prepare(state, item, None)
    return state.gate_key


def test_the_function_says_which() -> None:
    policy = Policy(gate_key=lambda item: item[0], limits=[Limit(1, 1, key=lambda item: item)])
    assert key_of(policy, "ab") == "a"


def test_or_else_the_keys_of_limits_do() -> None:
    first, last = (lambda item: item[0]), (lambda item: item[-1])
    assert key_of(Policy(limits=["5/s", Limit(1, 1, key=first)]), "ab") == "a"
    both = [Limit(1, 1, key=first), Limit(2, 1, key=last)]
    assert key_of(Policy(limits=both), "ab") == ("a", "b")


def test_or_else_there_is_one_gate_for_all() -> None:
    assert key_of(Policy(limits=["5/s"]), "ab") is None
    assert key_of(Policy(gate_key=lambda item: None), "ab") is None


@pytest.mark.parametrize(
    ("gate_key", "error", "words"),
    [
        (lambda item: item.host, ValueError, "gate_key function raised for a str: AttributeError"),
        (lambda item: [item], TypeError, "gate_key of a str must be hashable, got a list"),
    ],
)
async def test_an_item_without_a_key_is_refused_at_the_call(
    gate_key: Any, error: type[Exception], words: str
) -> None:
    policy = Policy(gate_key=gate_key)
    with pytest.raises(error, match=words):
        await policy.call(print, "a")
    async with WorkQueue[str](policy=policy) as queue:
        with pytest.raises(error, match=words):
            await queue.put("a")
        assert queue.statistics().size == 0


def test_bad_settings_are_refused() -> None:
    with pytest.raises(TypeError, match="gate_key must be a function"):
        Policy(gate_key="host")  # type: ignore[arg-type]
    with pytest.raises(TypeError, match="gate_key must accept item"):
        Policy(gate_key=lambda: 1)  # type: ignore[arg-type,misc]
    for bad in (-1, 0, float("nan"), "900", None):
        with pytest.raises(ValueError, match="max_retry_after must be"):
            Policy(max_retry_after=bad)  # type: ignore[arg-type]


# -- what the gates of keys do ----------------------------------------------------------------


class Services:
    """A worker function for items ``(service, number)``, of which services may refuse some."""

    def __init__(self, **refusals: list[Exception]) -> None:
        self.refusals = refusals
        self.starts: dict[str, list[float]] = {}

    async def __call__(self, item: tuple[str, int]) -> None:
        name, _ = item
        self.starts.setdefault(name, []).append(now())
        await asyncio.sleep(0.01)
        if self.refusals.get(name):
            raise self.refusals[name].pop()


def by_service(item: tuple[str, int]) -> str:
    return item[0]


@pytest.mark.parametrize(
    "rules",
    [
        {"gate_key": by_service},
        {"gate_key": by_service, "limits": ["1000/s"]},
        {"limits": [("key", 1000)]},
        {"gate_key": by_service, "limits": [("key", 1000), "2000/s"]},
    ],
    ids=["gate_key", "and a limit", "a limit with key", "both"],
)
@pytest.mark.parametrize("how", ["queue", "call"])
async def test_two_services_behind_one_policy_have_a_gate_each(
    rules: dict[str, Any], how: str
) -> None:
    limits = [
        Limit(each[1], 1, key=by_service) if isinstance(each, tuple) else each
        for each in rules.get("limits", [])
    ]
    policy = Policy(**rules | {"limits": limits, "retry": RetryPolicy(3)})
    services = Services(a=[RateLimitError(retry_after=60)])
    items = [(name, number) for number in range(20) for name in "ab"]
    if how == "queue":
        queue = WorkQueue[tuple[str, int]](concurrency_limit=4, policy=policy)
        await queue.batch_process(items, services)
    else:
        first = asyncio.create_task(policy.call(services, items[0]))
        await asyncio.sleep(0.1)
        await asyncio.gather(first, *[policy.call(services, item) for item in items[1:]])
    assert len(services.starts["a"]) == 21
    assert len(services.starts["b"]) == 20
    assert max(services.starts["b"]) < 1
    assert sum(at >= 60 for at in services.starts["a"]) >= 17
    assert policy.statistics().gate_closures == 1


async def test_a_refusal_without_a_time_closes_the_gate_of_its_service() -> None:
    policy = Policy(gate_key=by_service, retry=RetryPolicy(3))
    services = Services(a=[RateLimitError()])
    queue = WorkQueue[tuple[str, int]](concurrency_limit=4, policy=policy)
    await queue.batch_process([(name, n) for n in range(50) for name in "ab"], services)
    refused = services.starts["a"][0] + 0.01
    assert [at for at in services.starts["a"] if refused < at < refused + 1] == []
    assert max(services.starts["b"]) < 1


async def test_an_item_that_is_too_late_for_its_gate_fails_at_once() -> None:
    policy = Policy(gate_key=by_service, deadline=5)
    policy.limits.close_for(60, key="a")
    with pytest.raises(DeadlineExceededError):
        await policy.call(Services(), ("a", 1))
    assert now() == 0
    await policy.call(Services(), ("b", 1))


async def test_headers_that_are_read_in_a_call_close_its_gate() -> None:
    policy = Policy(gate_key=by_service)

    async def call(item: tuple[str, int]) -> None:
        policy.limits.observe({"Retry-After": "9"}, 503)

    await policy.call(call, ("a", 1))
    assert policy.limits.closed_for("a") == 9
    assert policy.limits.closed_for() == 0


async def test_a_plain_call_in_a_loop_is_refused_where_it_would_wait_for_its_gate() -> None:
    policy = Policy(gate_key=lambda item: item)
    policy.limits.close_for(60, key="a")
    with pytest.raises(QueueStateError, match=r"asyncio\.to_thread"):
        policy.call(str, "a")
    assert policy.call(str, "b") == "b"
    assert policy.limits.statistics().waiting == 0
