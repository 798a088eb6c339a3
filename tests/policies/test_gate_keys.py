"""Which gate an item has to pass: ``gate_key=``, or the keys of limits."""

from __future__ import annotations

from typing import Any

import pytest

from penstock import Limit, Policy, WorkQueue
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
    for bad in (-1, float("nan"), "900", None):
        with pytest.raises(ValueError, match="max_retry_after must be"):
            Policy(max_retry_after=bad)  # type: ignore[arg-type]
