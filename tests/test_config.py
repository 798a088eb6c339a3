"""QueueConfig: what it takes, what it refuses, and how it reads the environment."""

from __future__ import annotations

import math
from typing import Any

import pytest
from pydantic import ValidationError

import penstock
import penstock.sync
from penstock import QueueConfig
from penstock.config import parse_rate


def test_the_defaults_are_as_documented() -> None:
    config = QueueConfig()
    assert config.queue_capacity == 100
    assert config.capacity_refresh_time == 1.0
    assert config.concurrency_limit is None


@pytest.mark.plan("UT-20")
@pytest.mark.parametrize("value", [0, -1, -100])
def test_a_capacity_below_one_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="Queue capacity must be at least 1") as caught:
        QueueConfig(queue_capacity=value)
    assert f"input_value={value}" in str(caught.value)


@pytest.mark.plan("UT-20")
@pytest.mark.parametrize("value", [1, 2, 1_000_000])
def test_a_capacity_of_one_or_more_is_taken(value: int) -> None:
    assert QueueConfig(queue_capacity=value).queue_capacity == value


@pytest.mark.plan("UT-21")
@pytest.mark.parametrize("value", [0, 0.0, -0.001, -5])
def test_a_refresh_time_that_is_not_positive_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="Capacity refresh time must be positive") as caught:
        QueueConfig(capacity_refresh_time=value)
    assert f"input_value={value}" in str(caught.value)


@pytest.mark.plan("UT-21")
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_refresh_time_that_is_no_finite_number_is_refused(value: float) -> None:
    with pytest.raises(ValueError, match="capacity_refresh_time"):
        QueueConfig(capacity_refresh_time=value)


@pytest.mark.plan("UT-21")
@pytest.mark.parametrize("value", [0.001, 1, 3600.0])
def test_a_positive_refresh_time_is_taken(value: float) -> None:
    assert QueueConfig(capacity_refresh_time=value).capacity_refresh_time == value


@pytest.mark.plan("UT-22")
@pytest.mark.parametrize("value", [0, -1])
def test_a_concurrency_limit_below_one_is_refused(value: int) -> None:
    with pytest.raises(ValueError, match="Concurrency limit must be at least 1") as caught:
        QueueConfig(concurrency_limit=value)
    assert f"input_value={value}" in str(caught.value)


@pytest.mark.plan("UT-22")
@pytest.mark.parametrize("value", [None, 1, 64])
def test_a_concurrency_limit_of_one_or_more_or_none_is_taken(value: int | None) -> None:
    assert QueueConfig(concurrency_limit=value).concurrency_limit == value


FIELDS = ["queue_capacity", "capacity_refresh_time", "concurrency_limit"]


@pytest.mark.parametrize(
    "value",
    ["many", [], {}, object(), 1j],
    ids=["a str", "a list", "a dict", "an object", "complex"],
)
@pytest.mark.parametrize("field", FIELDS)
def test_what_is_no_number_is_refused_by_name(field: str, value: Any) -> None:
    with pytest.raises(ValidationError, match=field):
        QueueConfig(**{field: value})


@pytest.mark.parametrize("field", ["queue_capacity", "concurrency_limit"])
@pytest.mark.parametrize("value", [1.5, math.nan, math.inf])
def test_a_fraction_of_an_item_is_refused(field: str, value: float) -> None:
    with pytest.raises(ValidationError, match=field):
        QueueConfig(**{field: value})


@pytest.mark.parametrize("field", FIELDS)
def test_a_bool_is_no_number(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        QueueConfig(**{field: True})


@pytest.mark.parametrize("field", ["queue_capacity", "capacity_refresh_time"])
def test_none_is_no_number(field: str) -> None:
    with pytest.raises(ValidationError, match=field):
        QueueConfig(**{field: None})


def test_a_misspelt_field_is_refused_by_name() -> None:
    with pytest.raises(ValidationError, match="queue_capcity"):
        QueueConfig(queue_capcity=5)  # type: ignore[call-arg]


def test_a_config_cannot_be_changed() -> None:
    config = QueueConfig()
    with pytest.raises(ValidationError, match="frozen"):
        config.queue_capacity = 5  # type: ignore[misc]
    assert config.queue_capacity == 100


def test_equal_configs_are_equal_and_hash_alike() -> None:
    assert QueueConfig(queue_capacity=5) == QueueConfig(queue_capacity=5)
    assert len({QueueConfig(), QueueConfig()}) == 1


def test_the_environment_is_read_under_the_prefix() -> None:
    environ = {
        "PENSTOCK_QUEUE_CAPACITY": "7",
        "PENSTOCK_CAPACITY_REFRESH_TIME": "2.5",
        "PENSTOCK_CONCURRENCY_LIMIT": "3",
    }
    assert QueueConfig.from_env(environ=environ) == QueueConfig(
        queue_capacity=7, capacity_refresh_time=2.5, concurrency_limit=3
    )


def test_os_environ_is_what_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPLOADS_QUEUE_CAPACITY", "9")
    assert QueueConfig.from_env("UPLOADS_").queue_capacity == 9


def test_missing_empty_and_foreign_variables_change_nothing() -> None:
    environ = {"PENSTOCK_QUEUE_CAPACITY": "", "PENSTOCK_COLOUR": "blue", "QUEUE_CAPACITY": "9"}
    assert QueueConfig.from_env(environ=environ) == QueueConfig()


@pytest.mark.parametrize(
    ("name", "text", "complaint"),
    [
        ("QUEUE_CAPACITY", "0", "Queue capacity must be at least 1"),
        ("QUEUE_CAPACITY", "many", "queue_capacity"),
        ("CAPACITY_REFRESH_TIME", "-1", "Capacity refresh time must be positive"),
        ("CAPACITY_REFRESH_TIME", "nan", "capacity_refresh_time"),
        ("CONCURRENCY_LIMIT", "0", "Concurrency limit must be at least 1"),
        pytest.param("QUEUE_CAPACITY", "[" * 100_000, "queue_capacity", id="nested too deeply"),
    ],
)
def test_a_bad_variable_is_refused(name: str, text: str, complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint):
        QueueConfig.from_env(environ={f"PENSTOCK_{name}": text})


def test_what_is_held_in_an_outage_can_be_configured() -> None:
    for attempts in (1, 5):
        retry = {"attempts": attempts, "hold": False, "give_up_after": 60}
        queue = penstock.WorkQueue[int].from_config(QueueConfig(retry=retry))  # type: ignore[arg-type]
        policy = queue.queue._policy.retry  # type: ignore[attr-defined]
        assert (policy.attempts, policy.hold, policy.give_up_after) == (attempts, False, 60)


@pytest.mark.parametrize("text", ["500/min", "0.5/hours", "200 per 10 s"])
def test_a_limit_as_people_write_it(text: str) -> None:
    (limit,) = QueueConfig(limits=[text]).limits  # type: ignore[list-item, arg-type]
    assert (limit.max, limit.per) == parse_rate(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"limits": ["500"]}, "a rate must look like"),
        ({"limits": [{"max": 0, "per": 1}]}, "greater than 0"),
        ({"limits": [{"max": 1, "per": math.inf}]}, "finite"),
        ({"retry": 0}, "greater than or equal to 1"),
        ({"retry": {"attempts": 2, "base": -1}}, "greater than 0"),
        ({"retry": {"attempts": 2, "give_up_after": 0}}, "greater than 0"),
        ({"adaptive": "5-2"}, "min must not be above max, got 5 and 2"),
        ({"adaptive": "5"}, "adaptive.max"),
        ({"adaptive": "1-5", "concurrency_limit": 2}, "exclude each other"),
        ({"breaker": {"failure_share": 2}}, "less than or equal to 1"),
        ({"deadline": 0}, "greater than 0"),
        ({"deadline": math.nan}, "finite"),
    ],
)
def test_rules_that_are_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        QueueConfig(**fields)


def test_rules_from_the_environment_make_a_queue_that_keeps_to_them() -> None:
    config = QueueConfig.from_env(
        environ={
            "PENSTOCK_LIMITS": "500/min, 20/s",
            "PENSTOCK_RETRY": "4",
            "PENSTOCK_ADAPTIVE": "2-50",
            "PENSTOCK_DEADLINE": "30",
            "PENSTOCK_BREAKER": '{"window": 5}',
        }
    )
    for kind in (penstock.WorkQueue, penstock.sync.WorkQueue):
        tokens = penstock.Limit(1000, per=60, cost=len, name="tokens")
        queue = kind.from_config(config, limits=[tokens])
        assert [(limit.max, limit.per) for limit in queue.limits.limits] == [
            (500, 60),
            (20, 1),
            (1000, 60),
        ]
        assert isinstance(queue.concurrency_limit, penstock.AdaptiveConcurrency)
        assert (queue.concurrency_limit.min, queue.concurrency_limit.max) == (2, 50)
        assert queue.statistics().breaker_state == "closed"


def test_json_that_is_none_is_told_by_the_name_of_its_field() -> None:
    with pytest.raises(ValidationError, match="breaker"):
        QueueConfig.from_env(environ={"PENSTOCK_BREAKER": "{window: 5}"})
