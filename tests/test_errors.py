"""The exceptions: what they are besides, what they carry, and that they travel."""

from __future__ import annotations

import ast
import asyncio
import copy
import pickle
import queue
from pathlib import Path

import pytest

import penstock.testing
from penstock import (
    APIClientError,
    APITimeoutError,
    BatchError,
    BatchResult,
    BrokerError,
    BudgetExceededError,
    CircuitBreakerOpenError,
    CodecError,
    DeadlineExceededError,
    OutageError,
    PenstockError,
    QueueClosedError,
    QueueEmptyError,
    QueueError,
    QueueFullError,
    QueueStateError,
    QueueUnknownError,
    RateLimitError,
)
from penstock.limits.rate.limiter import UnusableLimiterError

EXAMPLES = [
    PenstockError("it went wrong"),
    QueueError("no"),
    QueueFullError(),
    QueueFullError("no room", queue_size=3, queue_capacity=4),
    QueueEmptyError(),
    QueueEmptyError("nothing there"),
    QueueStateError("not now", current_state="idle"),
    QueueStateError("not now"),
    QueueClosedError(),
    QueueClosedError("no more", current_state="processing"),
    BrokerError("no server"),
    QueueUnknownError("who knows", message_id="17"),
    CodecError("no JSON"),
    BatchError("some failed", result=BatchResult(3, 1, 0)),
    OutageError(),
    OutageError("away for an hour", result=BatchResult(3, 1, 0)),
    RateLimitError(),
    RateLimitError("slow down", retry_after=2.5),
    CircuitBreakerOpenError("broken", retry_after=1.0),
    BudgetExceededError(),
    BudgetExceededError("spent", budget="money", max=5.0, used=4.5, cost=1.0),
    APITimeoutError("too late"),
    DeadlineExceededError("too late to begin"),
]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
def test_an_error_pickles_with_all_it_carries(error: PenstockError, protocol: int) -> None:
    twin = pickle.loads(pickle.dumps(error, protocol))
    assert type(twin) is type(error)
    assert twin.args == error.args
    assert str(twin) == str(error) == error.message
    assert vars(twin) == vars(error)


@pytest.mark.parametrize("error", EXAMPLES, ids=repr)
def test_an_error_copies_with_all_it_carries(error: PenstockError) -> None:
    twin = copy.copy(error)
    assert type(twin) is type(error)
    assert twin is not error
    assert vars(twin) == vars(error)


class UploadError(RateLimitError):
    """A user's own, with an ``__init__`` unlike that of its base."""

    def __init__(self, file: str, *, part: int) -> None:
        super().__init__(f"{file} was refused", retry_after=3.0)
        self.file = file
        self.part = part


def test_an_error_derived_by_a_user_pickles_whatever_its_init_takes() -> None:
    twin = pickle.loads(pickle.dumps(UploadError("a.txt", part=2)))
    assert (str(twin), twin.file, twin.part, twin.retry_after) == (
        "a.txt was refused",
        "a.txt",
        2,
        3.0,
    )


def test_what_a_user_hangs_on_an_error_pickles_too() -> None:
    error = QueueError("no")
    error.request_id = "r1"  # type: ignore[attr-defined]
    assert pickle.loads(pickle.dumps(error)).request_id == "r1"


@pytest.mark.parametrize(
    ("error", "bases"),
    [
        (PenstockError, {Exception}),
        (QueueError, {PenstockError, APIClientError}),
        (QueueFullError, {QueueError, queue.Full, asyncio.QueueFull}),
        (QueueEmptyError, {QueueError, queue.Empty, asyncio.QueueEmpty}),
        (QueueStateError, {QueueError, RuntimeError}),
        (QueueClosedError, {QueueStateError, RuntimeError}),
        (RateLimitError, {PenstockError}),
        (CircuitBreakerOpenError, {PenstockError}),
        (APITimeoutError, {PenstockError}),
        (DeadlineExceededError, {PenstockError}),
    ],
)
def test_handlers_written_for_its_bases_catch_an_error(
    error: type[Exception], bases: set[type]
) -> None:
    for base in bases:
        with pytest.raises(base):
            raise error("why")


@pytest.mark.parametrize(("module", "name"), [(queue, "ShutDown"), (asyncio, "QueueShutDown")])
def test_where_python_has_errors_for_the_end_of_a_queue_they_catch_ours(
    module: object, name: str
) -> None:
    base = getattr(module, name, RuntimeError)
    with pytest.raises(base):
        raise QueueClosedError


def test_only_errors_of_the_queue_are_queue_errors() -> None:
    for error in (RateLimitError, CircuitBreakerOpenError, APITimeoutError, DeadlineExceededError):
        assert not issubclass(error, QueueError)


def test_errors_say_something_by_themselves_where_there_is_one_thing_to_say() -> None:
    assert str(QueueFullError()) == "Queue is full"
    assert str(QueueEmptyError()) == "Queue is empty"
    assert str(QueueClosedError()) == "Queue is closed"
    assert str(RateLimitError()) == "Rate limit exceeded"


def test_what_is_not_known_is_none() -> None:
    assert QueueFullError().queue_size is None
    assert QueueFullError().queue_capacity is None
    assert QueueStateError("no").current_state is None
    assert RateLimitError().retry_after is None
    assert CircuitBreakerOpenError("no").retry_after is None


def test_every_error_is_offered_by_the_package_itself() -> None:
    offered = {name for name in penstock.__all__ if name.endswith("Error")}
    assert offered == {type(error).__name__ for error in EXAMPLES} | {"APIClientError"}


def test_the_base_has_two_names() -> None:
    assert APIClientError is PenstockError
    for error in EXAMPLES:
        with pytest.raises(APIClientError):
            raise error


def test_an_error_that_was_pickled_under_the_other_name_of_the_base_comes_back() -> None:
    old = pickle.dumps(PenstockError("it went wrong"), 0)
    assert b"PenstockError" in old
    twin = pickle.loads(old.replace(b"PenstockError", b"APIClientError"))
    assert (type(twin), twin.message) == (PenstockError, "it went wrong")


def error_classes() -> dict[str, set[str]]:
    """The bases of each error class of the package, by their names."""
    found: dict[str, set[str]] = {}
    for path in Path(penstock.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef):
                bases = {ast.unparse(base).rpartition(".")[2] for base in node.bases}
                if node.name.endswith("Error") or any(base.endswith("Error") for base in bases):
                    found.setdefault(node.name, set()).update(bases)
    return found


def test_every_error_of_the_package_is_a_penstock_error() -> None:
    classes = error_classes()
    assert {"PenstockError", "QueueError", "DeadlockError", "UsageError"} <= classes.keys()
    known = {"PenstockError"}
    while more := {name for name, bases in classes.items() if bases & known} - known:
        known |= more
    # An answer of aiohttp's as an exception of aiohttp's, as the other clients make it themselves.
    assert classes.keys() - known == {"ResponseError"}


def test_an_error_that_was_a_builtin_one_as_well_still_is() -> None:
    for error, base in (
        (penstock.testing.DeadlockError(), RuntimeError),
        (UnusableLimiterError("the server has no bucket"), ValueError),
    ):
        assert isinstance(error, base)
        assert isinstance(error, PenstockError)
        twin = pickle.loads(pickle.dumps(error))
        assert (type(twin), str(twin)) == (type(error), str(error))
    assert "every task waits" in str(penstock.testing.DeadlockError())
