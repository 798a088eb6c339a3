"""Events and their executions, before any executor has a hand in them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, field
from typing import Any

import pytest

from penstock import Event, Execution, ExecutionStatus


class Greeting(Event):
    """Takes arguments and does not call ``super().__init__()``."""

    def __init__(self, name: str) -> None:
        self.name = name

    async def invoke(self) -> str:
        return f"hello {self.name}"


def test_an_event_is_pending_and_has_no_outcome_yet() -> None:
    execution = Greeting("you").execution
    assert execution == Execution(
        status=ExecutionStatus.PENDING, result=None, error=None, duration=None
    )


def test_each_event_has_an_id_and_an_execution_of_its_own() -> None:
    one, other = Greeting("one"), Greeting("one")
    assert one.id != other.id
    assert one.execution is not other.execution


async def test_an_event_that_does_not_say_how_to_invoke_it_says_so() -> None:
    class Silent(Event):
        pass

    with pytest.raises(NotImplementedError, match="Silent"):
        await Silent().invoke()


def test_a_dataclass_can_be_an_event() -> None:
    @dataclass
    class Upload(Event):
        path: str
        tags: list[str] = field(default_factory=list)

    upload = Upload("a.txt")
    assert upload.path == "a.txt"
    assert upload.execution.status is ExecutionStatus.PENDING
    assert upload.id


def test_a_frozen_dataclass_can_be_an_event() -> None:
    @dataclass(frozen=True)
    class Upload(Event):
        path: str

    assert Upload("a.txt").execution.status is ExecutionStatus.PENDING


def test_an_event_may_choose_its_own_id() -> None:
    class Order(Event):
        def __init__(self, number: int) -> None:
            self.id = f"order-{number}"

    assert Order(7).id == "order-7"


def test_events_keep_their_identity_when_pickled() -> None:
    event = Greeting("you")
    event.execution.status = ExecutionStatus.COMPLETED
    event.execution.result = "hello you"
    twin: Any = pickle.loads(pickle.dumps(event))
    assert (twin.id, twin.name, twin.execution) == (event.id, event.name, event.execution)


def test_events_keep_their_identity_when_copied() -> None:
    event = Greeting("you")
    assert copy.copy(event).id == event.id


@pytest.mark.parametrize("status", ExecutionStatus)
def test_a_status_equals_its_value(status: ExecutionStatus) -> None:
    assert status == status.value == status.name.lower()


def test_an_execution_has_no_room_for_misspelt_fields() -> None:
    with pytest.raises(AttributeError):
        Execution().stauts = ExecutionStatus.FAILED  # type: ignore[attr-defined]
