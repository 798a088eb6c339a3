"""The two faces agree: each situation has the same outcome on both. How: see ``faces``."""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
import re
from collections.abc import Callable
from typing import Any

import pytest

import penstock
import penstock.sync
from penstock import QueueConfig, RetryPolicy
from penstock._util import checks
from sync.faces import Script, Stage, difference, run_in_loop, shown
from sync.helpers import KINDS
from sync.test_work_queue import public

pytestmark = pytest.mark.usefixtures("no_warning_by_the_clock")


# -- every call in every state ---------------------------------------------------------------------


async def idle(stage: Stage, queue: Any) -> None:
    pass


async def empty(stage: Stage, queue: Any) -> None:
    await stage.do(queue, "start")


async def with_items(stage: Stage, queue: Any) -> None:
    await stage.do(queue, "start")
    await stage.do(queue, "put", "a")


async def full(stage: Stage, queue: Any) -> None:
    await with_items(stage, queue)
    await stage.do(queue, "put", "b")


async def with_workers(stage: Stage, queue: Any) -> None:
    await stage.do(queue, "process", stage.work)


async def busy(stage: Stage, queue: Any) -> None:
    stage.held.add("a")
    await with_workers(stage, queue)
    await stage.do(queue, "put", "a")
    await stage.do(queue, "put", "b")


async def with_one_taken(stage: Stage, queue: Any) -> None:
    await full(stage, queue)
    await stage.do(queue, "get")


async def stopping(stage: Stage, queue: Any) -> None:
    await busy(stage, queue)
    await stage.start(queue, "stop")


async def stopping_without_drain(stage: Stage, queue: Any) -> None:
    await busy(stage, queue)
    await stage.start(queue, "stop", drain=False)


async def stopped(stage: Stage, queue: Any) -> None:
    await empty(stage, queue)
    await stage.do(queue, "stop")


async def stopped_while_idle(stage: Stage, queue: Any) -> None:
    await stage.do(queue, "stop")


async def stopped_with_items(stage: Stage, queue: Any) -> None:
    await full(stage, queue)
    await stage.do(queue, "stop")


async def closed_while_idle(stage: Stage, queue: Any) -> None:
    await stage.do(queue, "close")


async def closed(stage: Stage, queue: Any) -> None:
    await empty(stage, queue)
    await stage.do(queue, "close")


async def closed_with_items(stage: Stage, queue: Any) -> None:
    await full(stage, queue)
    await stage.do(queue, "close")


async def closed_with_one_taken(stage: Stage, queue: Any) -> None:
    await stage.do(queue, "start")
    await stage.do(queue, "put", "a")
    await stage.do(queue, "get")
    await stage.do(queue, "close")


async def closed_and_busy(stage: Stage, queue: Any) -> None:
    await busy(stage, queue)
    await stage.do(queue, "close")


async def closed_and_stopping(stage: Stage, queue: Any) -> None:
    await busy(stage, queue)
    await stage.do(queue, "close")
    await stage.start(queue, "stop")


async def closed_and_stopped(stage: Stage, queue: Any) -> None:
    await with_workers(stage, queue)
    await stage.do(queue, "close")
    await stage.do(queue, "join")


async def in_a_map(stage: Stage, queue: Any) -> None:
    stage.held.add("a")
    results = await stage.do(queue, "map", stage.work, ["a"])
    await stage.start(results, "__anext__")


async def in_a_batch(stage: Stage, queue: Any) -> None:
    stage.held.add("a")
    await stage.start(queue, "batch_process", ["a"], stage.work)


STATES = [
    idle,
    empty,
    with_items,
    full,
    with_workers,
    busy,
    with_one_taken,
    stopping,
    stopping_without_drain,
    stopped,
    stopped_while_idle,
    stopped_with_items,
    closed_while_idle,
    closed,
    closed_with_items,
    closed_with_one_taken,
    closed_and_busy,
    closed_and_stopping,
    closed_and_stopped,
    in_a_map,
    in_a_batch,
]

#: Those in which the kind of the worker functions hardly matters.
WITHOUT_WORKERS = {
    with_items,
    full,
    with_one_taken,
    stopped,
    stopped_while_idle,
    closed_while_idle,
    closed,
    closed_with_items,
    closed_with_one_taken,
}


async def iterate(stage: Stage, results: Any, most: int = 5) -> None:
    """Ask an iterator for what comes next, while there is something."""
    for _ in range(most):
        if not hasattr(results, stage.special.get("__anext__", "__anext__")):
            return
        await stage.start(results, "__anext__")
        if not stage.calls[-1].outcome.done():
            return


async def map_all(stage: Stage, queue: Any) -> None:
    await iterate(stage, await stage.do(queue, "map", stage.work, ["x", "y"]))


async def map_batches(stage: Stage, queue: Any) -> None:
    results = await stage.do(queue, "map_batches", stage.work_on_many, ["x", "y"], max_size=2)
    await iterate(stage, results)


async def items(stage: Stage, queue: Any, name: str = "items") -> None:
    iterator = await stage.do(queue, name)
    await iterate(stage, iterator)
    if stage.calls and stage.calls[-1].outcome.done():
        await stage.do(iterator, "aclose")


async def processing(stage: Stage, queue: Any) -> None:
    block = await stage.do(queue, "processing", timeout=0)
    item = await stage.do(block, "__aenter__")
    if isinstance(item, str):
        await stage.do(block, "__aexit__", None, None, None)


async def submit(stage: Stage, queue: Any) -> None:
    future = await stage.do(queue, "submit", "x", timeout=0)
    if hasattr(future, "cancel"):
        stage.futures.append(future)


async def in_hand(stage: Stage, queue: Any) -> None:
    outcome = await stage._outcome(queue, "in_hand", (), {})
    items = [one.item for one in outcome] if isinstance(outcome, list) else outcome.error
    await stage.step(f"in_hand: {items}")


async def pause_and_resume(stage: Stage, queue: Any) -> None:
    await stage.do(queue, "pause")
    await stage.start(queue, "put", "x", timeout=0)
    await stage.do(queue, "resume")


async def leave(stage: Stage, queue: Any, error: BaseException | None = None) -> None:
    kind = None if error is None else type(error)
    await stage.start(queue, "__aexit__", kind, error, None)


async def leave_by_an_error(stage: Stage, queue: Any) -> None:
    await leave(stage, queue, ValueError("mine"))


async def stop_on_signals(stage: Stage, queue: Any) -> None:
    await stage.do(queue, "stop_on_signals", timeout=1)


def calling(name: str, *args: Any, **kwargs: Any) -> Any:
    async def call(stage: Stage, queue: Any) -> None:
        changed = [getattr(stage, arg[1:]) if _is_member(arg) else arg for arg in args]
        await stage.start(queue, name, *changed, **kwargs)

    return call


def _is_member(arg: Any) -> bool:
    return isinstance(arg, str) and arg.startswith(".")


async def look(stage: Stage, queue: Any) -> None:
    for name in LOOKS:
        await stage.do(queue, name)
    await stage.do(queue, "__repr__")


#: What only looks.
LOOKS = [
    "dead_letters",
    "is_closed",
    "is_empty",
    "is_full",
    "is_paused",
    "limits",
    "maxsize",
    "metrics",
    "name",
    "size",
    "statistics",
    "status",
    "unprocessed",
    "worker_count",
]

#: Every public name, and what to try with it.
CALLS: dict[str, list[Any]] = {
    "__init__": [],  # see TestArguments
    "from_config": [],
    "__aenter__": [calling("__aenter__")],
    "__aexit__": [leave, leave_by_an_error],
    "__aiter__": [lambda stage, queue: items(stage, queue, "__aiter__")],
    "batch_process": [calling("batch_process", ["x", "y"], ".work")],
    "cancel": [calling("cancel", None)],
    "clear": [calling("clear")],
    "close": [calling("close")],
    "get": [calling("get", timeout=0), calling("get")],
    "get_nowait": [calling("get_nowait")],
    "in_hand": [in_hand],
    "items": [items],
    "join": [calling("join")],
    "map": [map_all],
    "map_batches": [map_batches],
    "pause": [calling("pause")],
    "process": [calling("process", ".work", 2)],
    "process_batches": [
        calling("process_batches", ".work_on_many", max_size=2, max_wait=0, num_workers=2),
        calling("process_batches", ".work_on_many", max_size=2, max_wait=math.inf),
    ],
    "processing": [processing],
    "put": [calling("put", "x", timeout=0), calling("put", "x", timeout=math.inf)],
    "put_nowait": [calling("put_nowait", "x"), calling("put_nowait", "x", deadline=1e6)],
    "put_many": [
        calling("put_many", ["x", "y"], timeout=0),
        calling("put_many", ["x", "y", "z"], timeout=math.inf),
    ],
    "redrive": [calling("redrive")],
    "remove": [calling("remove", "b".__eq__), calling("remove", {}.__getitem__)],
    "resume": [calling("resume"), pause_and_resume],
    "start": [calling("start")],
    "stop": [calling("stop"), calling("stop", 0), calling("stop", drain=False)],
    "stop_on_signals": [stop_on_signals],
    "stop_workers": [calling("stop_workers"), calling("stop_workers", 0)],
    "submit": [submit],
    "task_done": [calling("task_done")],
    **{name: [look] for name in LOOKS},
}


def in_state(state: Any, call: Any) -> Script:
    """Bring a queue into a state, make a call, and then let everything come to its end."""

    async def script(stage: Stage) -> None:
        stage.uncertain = HOW_FULL
        queue = await stage.make(maxsize=2, timeout=0.001)
        await state(stage, queue)
        await call(stage, queue)
        await stage.release()
        await stage.do(queue, "close")
        await stage.do(queue, "stop", 0)
        await stage.do(queue, "task_done")
        for future in stage.futures:
            await stage.result_of(future)

    return script


class TestEveryCallInEveryState:
    def test_no_public_name_is_left_out(self) -> None:
        assert set(CALLS) == public(penstock.WorkQueue)

    @pytest.mark.parametrize(
        ("state", "kind"),
        [
            pytest.param(state, kind, id=f"{state.__name__}-{kind}")
            for state in STATES
            for kind in (KINDS if state not in WITHOUT_WORKERS else KINDS[:1])
        ],
    )
    def test_both_faces_do_the_same(self, state: Any, kind: str) -> None:
        calls = {call: name for name, calls in CALLS.items() for call in calls}
        found = [
            f"{name}: {text}"
            for call, name in calls.items()
            if (text := difference(in_state(state, call), kind))
        ]
        if found:
            pytest.fail("\n".join(found), pytrace=False)


# -- bad arguments ---------------------------------------------------------------------------------


class Made:
    """A value that has to be made anew for each call."""

    def __init__(self, make: Callable[[], Any]) -> None:
        self.make = make


async def _coroutine() -> None:
    pass


def _generator(item: Any) -> Any:
    yield item


NOT_SECONDS = [-1, -0.5, -math.inf, math.nan, "1", b"1", [], True, 1j]
NOT_COUNTS = [0, -1, 1.5, "2", True, [], 10**30]
NOT_FUNCTIONS = [None, 5, "f", Made(_coroutine), _generator, lambda: None, lambda item, more: None]
NOT_HANDLERS = [5, "f", Made(_coroutine), lambda: None, lambda error: None]
NOT_ITEMS = [None, 5, object()]
NOT_LOGGERS = [5, "root"]
NOT_NAMES = [5, "", "a\nb"]
NOT_LIMITS = [5, None, ["x"], penstock.Limit(1, per=1)]

_WORK = {"worker_func": NOT_FUNCTIONS, "num_workers": NOT_COUNTS}
_JOB = {"items": NOT_ITEMS, **_WORK}
_BATCH = {
    "max_size": [None, *NOT_COUNTS],
    "max_wait": [None, *NOT_SECONDS],
    "per_key": [True],  # a queue without keys
}
#: Priorities that a queue without an order refuses.
NOT_WITHOUT_ORDER = [1, -2.5, "high", True, math.nan]
_PUT = {"timeout": NOT_SECONDS, "deadline": NOT_SECONDS, "priority": NOT_WITHOUT_ORDER}
_QUEUE = {"logger": NOT_LOGGERS, "name": NOT_NAMES, "limits": NOT_LIMITS, "telemetry": [5, "otel"]}

#: What each argument of each call refuses.
REFUSED: dict[str, dict[str, list[Any]]] = {
    "__init__": {
        **_QUEUE,
        "maxsize": [None, *NOT_COUNTS],
        "timeout": [None, *NOT_SECONDS],
        "concurrency_limit": NOT_COUNTS,
        "queue": [5, object(), penstock.BoundedQueue],
        "retry": [5, True],
        "breaker": [5, True],
        "deadline": NOT_SECONDS,
        "attempt_timeout": [*NOT_SECONDS, 0, math.inf],
        "policy": [1, "policy", [], RetryPolicy()],
        "max_dead_letters": [-1, 1.5, "1", True, None],
        "order": [5, "first", penstock.Priorities],
    },
    "from_config": {**_QUEUE, "config": [None, 5, {}]},
    "batch_process": {**_JOB, "error_handler": NOT_HANDLERS},
    "cancel": {"future": [None, 5, asyncio.Future]},
    "get": {"timeout": NOT_SECONDS},
    "map": _JOB,
    "map_batches": {**_JOB, **_BATCH},
    "process": {**_WORK, "error_handler": NOT_HANDLERS},
    "process_batches": {**_WORK, **_BATCH, "error_handler": NOT_HANDLERS},
    "processing": {"timeout": NOT_SECONDS},
    "put": _PUT,
    "put_many": {
        "items": [*NOT_ITEMS, "text"],
        "timeout": NOT_SECONDS,
        "priority": NOT_WITHOUT_ORDER,
    },
    "put_nowait": {"deadline": NOT_SECONDS, "priority": NOT_WITHOUT_ORDER},
    "redrive": {"timeout": NOT_SECONDS},
    "remove": {"predicate": NOT_FUNCTIONS},
    "stop": {"timeout": NOT_SECONDS},
    "stop_on_signals": {"signals": [0, -5, "TERM", None], "timeout": NOT_SECONDS},
    "stop_workers": {"timeout": NOT_SECONDS},
    "submit": _PUT,
}

#: Arguments that take anything.
FREE = {"self", "cls", "item", "drain", "ordered", "return_exceptions", "progress", "split"}

#: What a call needs besides.
NEEDED: dict[str, dict[str, Any]] = {
    "from_config": {"config": QueueConfig()},
    "batch_process": {"items": [], "worker_func": str},
    "map": {"items": [], "worker_func": str},
    "map_batches": {"items": [], "worker_func": str, "max_size": 1},
    "process": {"worker_func": str},
    "process_batches": {"worker_func": str, "max_size": 1, "max_wait": 0},
    "put": {"item": 1},
    "put_many": {"items": [1]},
    "put_nowait": {"item": 1},
    "submit": {"item": 1},
}


def with_argument(name: str, parameter: str, value: Any, *, is_running: bool) -> Script:
    async def script(stage: Stage) -> None:
        given = value.make() if isinstance(value, Made) else value
        queue: Any = stage.queue_class
        if name not in {"__init__", "from_config"}:
            queue = await stage.make(maxsize=2, retry=RetryPolicy(attempts=1))
            if is_running:
                await stage.do(queue, "start")
        args = [given] if parameter == "signals" else []
        named = {} if args else {parameter: given}
        result = await stage.do(
            queue,
            "__call__" if name == "__init__" else name,
            *args,
            **{**NEEDED.get(name, {}), **named},
        )
        if name == "processing":
            await stage.do(result, "__aenter__")

    return script


class TestArguments:
    @pytest.mark.parametrize("name", sorted(public(penstock.WorkQueue)))
    def test_no_argument_is_left_out(self, name: str) -> None:
        member = getattr(penstock.WorkQueue, name)
        parameters = set(inspect.signature(member).parameters) if callable(member) else set()
        if name != "__aexit__":
            assert parameters - FREE == set(REFUSED.get(name, {}))

    @pytest.mark.parametrize("is_running", [True, False])
    @pytest.mark.parametrize("name", REFUSED)
    def test_both_faces_refuse_the_same_in_the_same_words(
        self, name: str, is_running: bool
    ) -> None:
        for parameter, values in REFUSED[name].items():
            for value in values:
                script = with_argument(name, parameter, value, is_running=is_running)
                if text := difference(script):
                    pytest.fail(f"{parameter}={shown(value)}: {text}", pytrace=False)

    @pytest.mark.parametrize("name", REFUSED)
    def test_the_error_names_the_value(self, name: str) -> None:
        for parameter, values in REFUSED[name].items():
            for value in values:
                script = with_argument(name, parameter, value, is_running=True)
                what = next(s.text for s in run_in_loop(script, "async") if " raised " in s.text)
                assert re.search(r"raised builtins\.(Value|Type)Error: ", what), what
                told = what.split(" raised ")[1]
                assert parameter.split("_")[-1].rstrip("s") in told.lower()
                if not isinstance(value, Made):
                    assert checks.shown(value).strip("[]") in told


# -- situations ------------------------------------------------------------------------------------

SITUATIONS: list[Script] = []


def situation(script: Script) -> Script:
    SITUATIONS.append(script)
    return script


class Odd(BaseException):
    """What no ``except Exception`` catches."""


def any_errors() -> dict[str, BaseException]:
    """One of each kind that a function of the user may raise; for an item of its own each."""
    return {
        "value": ValueError("mine"),
        "odd": Odd("mine"),
        "cancelled": asyncio.CancelledError("mine"),
        "exit": GeneratorExit("mine"),
        "stop": StopIteration("mine"),
        "async stop": StopAsyncIteration("mine"),
        "state": penstock.QueueStateError("mine", current_state="idle"),
        "throttle": penstock.RateLimitError("mine", retry_after=0.0),
    }


async def put_all(stage: Stage, queue: Any, *items: Any) -> None:
    for item in items:
        await stage.do(queue, "put", item, timeout=0)


@situation
async def items_in_order(stage: Stage) -> None:
    queue = await stage.make(maxsize=3)
    await stage.do(queue, "process", stage.work)
    await put_all(stage, queue, "a", "b", "c")
    await stage.do(queue, "join")
    await stage.do(queue, "stop")


@situation
async def settings_and_names(stage: Stage) -> None:
    queue = await stage.make(
        maxsize=3, concurrency_limit=2, name="uploads", logger=logging.getLogger("mine")
    )
    for name in ("maxsize", "name", "concurrency_limit", "is_full"):
        await stage.do(queue, name)
    await stage.do(queue, "__repr__")
    await stage.do(queue, "process", stage.work)
    await stage.do(queue, "__repr__")
    await stage.do(queue, "process", stage.work, 5)


@situation
async def settings_of_a_configuration(stage: Stage) -> None:
    config = QueueConfig(
        queue_capacity=4,
        concurrency_limit=3,
        limits=[{"max": 10, "per": 1.0}],
        retry={"attempts": 2},
        deadline=30.0,
    )
    queue = stage.queue_class.from_config(config, name="mine")
    stage.queues.append(queue)
    for name in ("maxsize", "name", "concurrency_limit"):
        await stage.do(queue, name)
    await stage.do(queue.limits.limits[0], "max")
    await stage.do(queue, "process", stage.work)


@situation
async def functions_that_raise_anything(stage: Stage) -> None:
    queue = await stage.make()
    stage.fails = any_errors()
    await stage.do(queue, "process", stage.work)
    await put_all(stage, queue, *stage.fails, "fine")
    await stage.do(queue, "join")


@situation
async def handlers_that_raise_anything(stage: Stage) -> None:
    for kind in KINDS:
        for raises in (None, *any_errors().values()):
            queue = await stage.make()
            stage.fails = any_errors()
            await stage.do(queue, "process", stage.work, 1, stage.handler(raises, kind))
            await put_all(stage, queue, *stage.fails, "fine")
            await stage.do(queue, "join")
            await stage.do(queue, "stop")
            stage.queues.clear()  # each is looked at for itself


@situation
async def puts_that_wait(stage: Stage) -> None:
    queue = await stage.make(maxsize=1)
    await stage.do(queue, "start")
    await put_all(stage, queue, "a", "b")
    first = await stage.start(queue, "put", "c", timeout=math.inf)
    await stage.start(queue, "put", "d", timeout=math.inf)
    await stage.start(queue, "submit", "e", timeout=math.inf)
    await stage.do(queue, "put", "f", timeout=0.001)
    await stage.do(queue, "put_nowait", "f")
    await stage.do(queue, "get")
    await stage.end(first)
    await stage.do(queue, "task_done")
    await stage.do(queue, "get_nowait")
    await stage.do(queue, "stop")
    await stage.do(queue, "start")
    await stage.do(queue, "get", timeout=0)


@situation
async def puts_that_a_close_ends(stage: Stage) -> None:
    queue = await stage.make(maxsize=1)
    await stage.do(queue, "start")
    await put_all(stage, queue, "a")
    await stage.start(queue, "put", "b", timeout=math.inf)
    await stage.do(queue, "close")
    await stage.do(queue, "put", "c")
    await stage.do(queue, "start")
    await stage.do(queue, "put", "c")
    await stage.do(queue, "get")
    await stage.do(queue, "put", "c")


@situation
async def gets_that_wait(stage: Stage) -> None:
    queue = await stage.make(maxsize=2)
    await stage.do(queue, "start")
    await stage.do(queue, "get", timeout=0.001)
    await stage.do(queue, "get_nowait")
    # One at a time: a thread that is slow to begin its wait would be overtaken by the next.
    await stage.start(queue, "get")
    await put_all(stage, queue, "a")
    await stage.start(queue, "get", timeout=math.inf)
    await put_all(stage, queue, "b", "c")
    await stage.start(queue, "get")
    await stage.start(queue, "get")
    await stage.do(queue, "stop")
    await stage.do(queue, "task_done")
    await stage.do(queue, "task_done")
    await stage.do(queue, "task_done")
    await stage.do(queue, "task_done")


@situation
async def blocks_of_processing(stage: Stage) -> None:
    queue = await stage.make(maxsize=9)
    await stage.do(queue, "start")
    await put_all(stage, queue, *"abcde")
    for error in (None, ValueError("mine"), Odd("mine"), asyncio.CancelledError()):
        block = await stage.do(queue, "processing", timeout=0)
        await stage.do(block, "__aenter__")
        await stage.do(queue, "task_done")
        await stage.do(block, "__aexit__", None if error is None else type(error), error, None)
    left_open = await stage.do(queue, "processing")
    await stage.do(left_open, "__aenter__")
    await stage.do(queue, "stop")
    await stage.do(left_open, "__aexit__", None, None, None)


@situation
async def iterators(stage: Stage) -> None:
    queue = await stage.make(maxsize=9)
    first = await stage.do(queue, "items")
    await stage.do(first, "__anext__")
    await stage.do(queue, "start")
    await put_all(stage, queue, *"abcd")
    await stage.do(first, "__anext__")
    await stage.do(first, "__anext__")
    second = await stage.do(queue, "__aiter__")
    await stage.do(second, "__anext__")
    await stage.do(first, "aclose")
    await stage.do(first, "__anext__")
    await stage.do(queue, "close")
    await iterate(stage, second)
    await stage.do(second, "__anext__")


@situation
async def an_iterator_at_a_stop(stage: Stage) -> None:
    queue = await stage.make(maxsize=9)
    await stage.do(queue, "start")
    await put_all(stage, queue, *"ab")
    iterator = await stage.do(queue, "items")
    await stage.do(iterator, "__anext__")
    await stage.do(queue, "stop")
    await stage.do(iterator, "__anext__")
    await stage.do(queue, "start")
    await stage.do(iterator, "__anext__")
    await stage.do(iterator, "aclose")


@situation
async def submitted_items(stage: Stage) -> None:
    queue = await stage.make(maxsize=20)
    stage.fails = any_errors()
    await stage.do(queue, "start")
    futures = [await stage.do(queue, "submit", item) for item in (*stage.fails, "fine")]
    await stage.do(queue, "process", stage.work, 1, stage.handler())
    for future in futures:
        await stage.result_of(future)


@situation
async def submitted_items_that_are_not_done(stage: Stage) -> None:
    queue = await stage.make(maxsize=3)
    await stage.do(queue, "start")
    futures = [await stage.do(queue, "submit", item) for item in "abc"]
    await stage.do(queue, "submit", "d", timeout=0)
    await stage.do(queue, "submit", "d", timeout=0.001)
    await stage.do(futures[1], "cancel")
    await stage.do(queue, "get")
    await stage.do(queue, "task_done")
    await stage.result_of(futures[0])
    await stage.do(queue, "stop")
    for future in futures[1:]:
        await stage.result_of(future)
    await stage.do(queue, "process", stage.work)
    await stage.do(queue, "join")


@situation
async def futures_that_are_cancelled(stage: Stage) -> None:
    queue = await stage.make(maxsize=3)
    stage.held.add("a")
    await stage.do(queue, "process", stage.work)
    futures = [await stage.do(queue, "submit", item) for item in "abc"]
    await stage.do(futures[1], "cancel")
    await stage.do(futures[1], "cancelled")
    await stage.release("a")
    await stage.do(queue, "join")
    for future in futures:
        await stage.result_of(future)


@situation
async def a_stop_that_drains(stage: Stage) -> None:
    queue = await stage.make(maxsize=3)
    stage.held.add("a")
    await stage.do(queue, "process", stage.work)
    await put_all(stage, queue, "a", "b", "c")
    joined = await stage.start(queue, "join")
    stopped = await stage.start(queue, "stop")
    also = await stage.start(queue, "stop", timeout=math.inf)
    started = await stage.start(queue, "start")
    await stage.do(queue, "process", stage.work)
    await stage.release()
    for call in (joined, stopped, also, started):
        await stage.end(call)


@situation
async def a_stop_that_does_not_drain(stage: Stage) -> None:
    queue = await stage.make(maxsize=3)
    stage.held.add("a")
    await stage.do(queue, "process", stage.work)
    await put_all(stage, queue, "a", "b", "c", "d")
    joined = await stage.start(queue, "join")
    stopped = await stage.start(queue, "stop", drain=False)
    await stage.release()
    await stage.end(stopped)
    await stage.end(joined)
    await stage.do(queue, "join")
    await stage.do(queue, "start")
    await put_all(stage, queue, "d")
    await stage.do(queue, "process", stage.work)
    await stage.do(queue, "stop")
    await stage.do(queue, "join")


@situation
async def a_stop_that_cancels(stage: Stage) -> None:
    queue = await stage.make(maxsize=3)
    stage.held.add("a")
    await stage.do(queue, "process", stage.work)
    await put_all(stage, queue, "a", "b")
    future = await stage.do(queue, "submit", "c")
    await stage.do(queue, "stop", timeout=0)
    await stage.result_of(future)
    await stage.release()
    await stage.do(queue, "process", stage.work)
    await stage.do(queue, "join")


@situation
async def blocks_of_a_queue(stage: Stage) -> None:
    for error in (None, ValueError("mine"), Odd("mine")):
        queue = await stage.make(maxsize=3)
        await stage.do(queue, "__aenter__")
        await put_all(stage, queue, "a", "b")
        stage.held.add("a")
        await stage.do(queue, "process", stage.work)
        left = await stage.start(
            queue, "__aexit__", None if error is None else type(error), error, None
        )
        await stage.release()
        await stage.end(left)


@situation
async def workers_that_are_replaced(stage: Stage) -> None:
    queue = await stage.make(maxsize=9)
    stage.held.update("ab")
    await stage.do(queue, "process", stage.work, 2)
    await put_all(stage, queue, "a", "b", "c")
    await stage.do(queue, "process", stage.work, 1)
    await stage.release("a")
    await stage.do(queue, "process", stage.work, 0)
    await stage.do(queue, "process", stage.work, 3)
    await stage.release("b")
    await stage.do(queue, "stop_workers")
    await put_all(stage, queue, "d")
    await stage.do(queue, "stop")


#: How full the queue was depends on who is faster, workers or those who put.
HOW_FULL = {"peak_size", "put_waits"}

#: A job is fed beside its workers: how far they are when it ends depends on who is faster. And the
#: blocking map reads its source between one result and the next, in the thread that iterates.
HOW_FAR = HOW_FULL | {
    "began",
    "calls",
    "done",
    "enqueued",
    "errors",
    "inflight",
    "log",
    "metrics",
    "processed",
    "unfinished",
}


def _source(error: BaseException | None, after: int) -> Any:
    for number in range(after):
        yield f"item {number}"
    if error is not None:
        raise error


async def _read_sources_that_raise(stage: Stage, after: int) -> None:
    stage.uncertain = HOW_FAR
    for raises in any_errors().values():
        queue = await stage.make(maxsize=2)
        await stage.do(queue, "batch_process", _source(raises, after), stage.work)
        for ordered in (True, False):
            results = await stage.do(
                queue, "map", stage.work, _source(raises, after), ordered=ordered
            )
            await iterate(stage, results, 9)
        stage.queues.clear()


@situation
async def sources_that_raise_at_once(stage: Stage) -> None:
    await _read_sources_that_raise(stage, 0)


@situation
async def sources_that_raise_after_the_first_item(stage: Stage) -> None:
    await _read_sources_that_raise(stage, 1)


@situation
async def sources_that_raise_in_the_middle(stage: Stage) -> None:
    await _read_sources_that_raise(stage, 5)


@situation
async def batches(stage: Stage) -> None:
    stage.uncertain = HOW_FULL
    queue = await stage.make(maxsize=2)
    stage.fails = {"item 1": ValueError("mine"), "item 3": KeyError("mine")}
    await stage.do(queue, "batch_process", [], stage.work)
    await stage.do(queue, "batch_process", _source(None, 5), stage.work)
    result = await stage.do(
        queue, "batch_process", _source(None, 5), stage.work, 1, stage.handler()
    )
    await stage.do(result, "raise_if_failed")
    await stage.do(queue, "start")
    await put_all(stage, queue, "a")
    await stage.do(queue, "batch_process", _source(None, 5), stage.work)


@situation
async def a_batch_under_a_stop(stage: Stage) -> None:
    stage.uncertain = HOW_FULL
    for options in ({}, {"drain": False}, {"timeout": 0}):
        queue = await stage.make(maxsize=2)
        stage.held.add("item 0")
        batch = await stage.start(queue, "batch_process", _source(None, 5), stage.work)
        stopped = await stage.start(queue, "stop", **options)
        await stage.release()
        await stage.end(stopped)
        await stage.end(batch)


@situation
async def a_batch_under_a_close(stage: Stage) -> None:
    stage.uncertain = HOW_FULL
    queue = await stage.make(maxsize=2)
    stage.held.add("item 0")
    batch = await stage.start(queue, "batch_process", _source(None, 5), stage.work)
    await stage.do(queue, "close")
    await stage.release()
    await stage.end(batch)


@situation
async def results_of_a_map(stage: Stage) -> None:
    stage.uncertain = HOW_FAR
    for ordered in (True, False):
        for return_exceptions in (True, False):
            queue = await stage.make(maxsize=9)
            stage.fails = any_errors()
            results = await stage.do(
                queue,
                "map",
                stage.work,
                ["fine", *stage.fails, "fine too"],
                ordered=ordered,
                return_exceptions=return_exceptions,
            )
            await iterate(stage, results, 12)
            await stage.do(results, "__anext__")


@situation
async def a_map_that_is_left(stage: Stage) -> None:
    stage.uncertain = HOW_FULL
    queue = await stage.make(maxsize=1)
    results = await stage.do(queue, "map", stage.work, _source(None, 2))
    await stage.do(results, "aclose")
    await stage.do(results, "__anext__")
    stage.held.add("item 1")
    results = await stage.do(queue, "map", stage.work, _source(None, 2))
    await stage.do(results, "__anext__")
    await stage.do(results, "aclose")
    await stage.do(results, "__anext__")
    await stage.release()


@situation
async def a_map_under_a_stop(stage: Stage) -> None:
    stage.uncertain = HOW_FULL
    for options in ({}, {"drain": False}, {"timeout": 0}):
        queue = await stage.make(maxsize=9)
        stage.held.add("item 0")
        results = await stage.do(queue, "map", stage.work, _source(None, 3))
        first = await stage.start(results, "__anext__")
        stopped = await stage.start(queue, "stop", **options)
        await stage.release()
        await stage.end(stopped)
        await stage.end(first)
        await iterate(stage, results, 9)


@situation
async def several_jobs(stage: Stage) -> None:
    stage.uncertain = HOW_FULL
    queue = await stage.make(maxsize=9, concurrency_limit=2)
    stage.held.update(["a", "item 0", "x"])
    await stage.do(queue, "process", stage.work, 2)
    await put_all(stage, queue, "a", "b")
    batch = await stage.start(queue, "batch_process", _source(None, 2), stage.work, 1)
    results = await stage.do(queue, "map", stage.work, ["x", "y"], num_workers=3)
    first = await stage.start(results, "__anext__")
    for item in ("a", "item 0", "x"):
        await stage.release(item)
    await stage.end(batch)
    await stage.end(first)
    await iterate(stage, results)
    await stage.do(queue, "join")
    await stage.do(queue, "stop")


@situation
async def retries_and_dead_letters(stage: Stage) -> None:
    stage.uncertain = HOW_FULL
    queue = await stage.make(
        maxsize=9,
        retry=RetryPolicy(attempts=3, backoff=lambda attempt, error: 0.001, budget=None),
        max_dead_letters=2,
    )
    stage.fails = {"twice": [ValueError("1"), ValueError("2")], "state": TypeError("no")}
    stage.fails |= {item: [ValueError(item)] * 3 for item in ("x", "y", "z")}
    await stage.do(queue, "process", stage.work, 1, stage.handler())
    for item in ("fine", "twice", "state", "x", "y", "z"):
        await stage.do(queue, "put", item)
        await stage.do(queue, "join")
    future = await stage.do(queue, "submit", "state")
    await stage.result_of(future)
    await stage.do(queue, "redrive")
    await stage.do(queue, "join")
    await stage.do(queue, "dead_letters")
    await stage.do(queue, "batch_process", ["state"], stage.work)
    await stage.do(queue, "stop")
    await stage.do(queue, "redrive")


@situation
async def dead_letters_that_find_no_room(stage: Stage) -> None:
    queue = await stage.make(maxsize=1, retry=RetryPolicy(attempts=1))
    stage.fails = {"a": ValueError("a"), "b": Odd("b"), "c": asyncio.CancelledError("c")}
    await stage.do(queue, "process", stage.work, 1, stage.handler())
    for item in stage.fails:
        await stage.do(queue, "put", item)
        await stage.do(queue, "join")
    await stage.do(queue, "stop_workers")
    await stage.do(queue, "redrive", timeout=0)
    await stage.do(queue, "get")
    await stage.do(queue, "redrive", 0.001)


@situation
async def a_backoff_that_raises(stage: Stage) -> None:
    for error in any_errors().values():

        def backoff(attempt: int, raised: BaseException, error: BaseException = error) -> float:
            raise error

        queue = await stage.make(maxsize=9, retry=RetryPolicy(3, backoff=backoff, budget=None))
        stage.fails = {"a": ValueError("a")}
        await stage.do(queue, "process", stage.work, 1, stage.handler())
        await put_all(stage, queue, "a", "fine")
        await stage.do(queue, "join")


@situation
async def limits(stage: Stage) -> None:
    queue = await stage.make(maxsize=9, limits=[penstock.Limit(3, per=0.01, cost=len)])
    await stage.do(queue, "process", stage.work)
    for item in ("ab", "abcd", "abc", "d", 5):
        await stage.do(queue, "put", item)
        await stage.do(queue, "put_nowait", item)
        await stage.do(queue, "submit", item)
    await stage.do(queue, "join")


@situation
async def limits_that_refuse_an_item_of_a_job(stage: Stage) -> None:
    stage.uncertain = HOW_FAR
    queue = await stage.make(maxsize=9, limits=[penstock.Limit(3, per=0.01, cost=len)])
    await stage.do(queue, "batch_process", ["ab", "abcd"], stage.work)
    await iterate(stage, await stage.do(queue, "map", stage.work, ["ab", "abcd"]))


@situation
async def deadlines(stage: Stage) -> None:
    queue = await stage.make(maxsize=9, deadline=1000)
    await stage.do(queue, "start")
    await stage.do(queue, "put", "a", deadline=0)
    await stage.do(queue, "put_nowait", "b", deadline=0)
    future = await stage.do(queue, "submit", "c", deadline=0)
    await put_all(stage, queue, "d")
    await stage.do(queue, "process", stage.work, 1, stage.handler())
    await stage.result_of(future)
    await stage.do(queue, "join")


@situation
async def a_breaker(stage: Stage) -> None:
    queue = await stage.make(
        maxsize=9, breaker=penstock.CircuitBreaker(minimum=2, window=2, open_for=1000)
    )
    stage.fails = {item: ConnectionError(item) for item in "abcde"}
    await stage.do(queue, "process", stage.work, 1, stage.handler())
    for item in "abcde":
        await stage.do(queue, "put", item)
        await stage.do(queue, "join")


@situation
async def calls_of_a_stopped_queue_that_is_started_again(stage: Stage) -> None:
    queue = await stage.make(maxsize=2)
    for _ in range(3):
        await stage.do(queue, "start")
        await stage.do(queue, "start")
        await put_all(stage, queue, "a", "b", "c")
        await stage.do(queue, "close")
        await stage.do(queue, "close")
        await stage.do(queue, "stop")
        await stage.do(queue, "stop")


@situation
async def a_closed_queue_with_workers(stage: Stage) -> None:
    queue = await stage.make(maxsize=3)
    stage.held.add("a")
    await stage.do(queue, "process", stage.work)
    await put_all(stage, queue, "a", "b")
    await stage.do(queue, "close")
    joined = await stage.start(queue, "join")
    await stage.do(queue, "put", "c")
    await stage.release()
    await stage.end(joined)
    await stage.do(queue, "process", stage.work)
    await put_all(stage, queue, "c")


@situation
async def a_queue_that_is_forgotten(stage: Stage) -> None:
    queue = await stage.make(maxsize=3)
    await stage.do(queue, "start")
    await put_all(stage, queue, "a")
    await stage.do(queue, "get")
    await stage.do(queue, "task_done")


class TestSituations:
    @pytest.mark.parametrize("kind", KINDS)
    @pytest.mark.parametrize("script", SITUATIONS)
    def test_both_faces_do_the_same(self, script: Script, kind: str) -> None:
        if text := difference(script, kind):
            pytest.fail(text, pytrace=False)


# -- from inside a worker function -----------------------------------------------------------------


def inside(call: Any) -> Script:
    """A worker function makes a call of its own queue, in which an item waits."""

    async def script(stage: Stage) -> None:
        stage.uncertain = HOW_FULL | {"done"}  # workers that replace others go on beside them
        queue = await stage.make(maxsize=2)
        stage.held.add("a")
        await stage.do(queue, "process", stage.work_with(lambda inner: call(inner, queue)))
        await put_all(stage, queue, "a", "b")
        await stage.release()
        await stage.do(queue, "close")
        await stage.do(queue, "stop", 0)

    return script


#: Signals are for the main thread, which no worker of the blocking face is. And what a task has not
#: waited for yet is not in hand.
NOT_INSIDE = {"__init__", "from_config", "stop_on_signals", "in_hand"}


class TestInsideAWorkerFunction:
    """There the calls of one face are made in a task, and those of the other in a thread."""

    @pytest.mark.parametrize("name", sorted({*CALLS} - NOT_INSIDE))
    def test_both_faces_do_the_same(self, name: str) -> None:
        for call in CALLS[name]:
            if text := difference(inside(call), "async", "plain"):
                pytest.fail(text, pytrace=False)
