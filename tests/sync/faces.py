"""One script on both faces, ``penstock.WorkQueue`` and ``penstock.sync.WorkQueue``.

A script is an ``async def`` over a :class:`Stage`. On the face for one event loop it is a task in
virtual time. On the blocking face its calls block the thread and never suspend, so no loop runs.

Each call of a script is a step: what it returned or raised, and the whole state that can be seen
when nothing goes on any more. The face for one event loop is run first: in virtual time it is known
when that is. The steps of the other face are to become the same.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import dataclasses
import inspect
import logging
import re
import threading
import time
import warnings
from collections.abc import AsyncGenerator, Awaitable, Callable, Generator, Iterator, Sequence
from concurrent.futures import Executor, Future
from contextlib import contextmanager
from typing import Any, ClassVar

import penstock
import penstock.sync
from penstock.queue.processing import ProcessingBlock
from penstock.queue.stream import StreamBase
from penstock.sync.pool import run_to_completion
from penstock.testing import VirtualTimeLoop

#: Seconds in which a step of the blocking face must become what it is on the other one.
BOUND = 30.0
#: The same, once a step differs.
BRIEFLY = 0.05

#: Virtual seconds in which all that goes on comes to its end. Waits of a script are shorter, or
#: have no end.
SETTLED = 0.05

#: What differs in texts, and why: on the one face, on the other, and the reason.
DIFFERENCES: list[tuple[str, str, str]] = [
    (
        r"items must be an iterable or an async iterable",
        r"items must be an iterable",
        "the blocking face reads no async iterables",
    ),
    (r"BoundedQueue", r"(Bounded|Blocking)Queue", "each face has a queue of its own kind"),
    (
        r", or in a task that it has started: it would wait for itself\. Call it in .* items",
        r": it would wait for itself\. Use threading\.Thread\(target=queue\.join\).* join it there",
        "a task that a worker function starts is inside the item as well, and a thread is not",
    ),
    (
        r"asyncio\.create_task\((queue\.\w+)\(\)\) and do not await it",
        r"threading\.Thread\(target=(queue\.\w+)\)\.start\(\) and do not join it",
        "each has its own way to do something later",
    ),
    (
        r"join\(\) -> None",
        r"join\(\) -> True",
        "a join of the blocking face takes a timeout, and returns whether all was done by then",
    ),
    (
        r"asyncio\.exceptions\.CancelledError: \w*",
        r"(asyncio\.exceptions|concurrent\.futures\._base)\.CancelledError: \w*",
        "futures of asyncio lose the message of a cancellation; those of threads have another one",
    ),
    (
        r"(RuntimeError: async generator raised \w+ {} \[\] from builtins\.)?StopAsyncIteration: ",
        r"StopAsyncIteration: ",
        "Python's own, where the face for one event loop reads a source in a generator",
    ),
]

# What scripts do not compare, or do not do, since the faces differ there or nothing is promised:
#
# * A KeyboardInterrupt or SystemExit out of an item ends the program on one event loop, as asyncio
#   has it. In a thread it would end no program, so there the item fails with it.
# * The future of an item whose call is under way can be cancelled on one event loop; the call goes
#   on. One of concurrent.futures cannot. To cancel one twice returns False there, and True here.
# * How far a job is at an instant: one event loop reads the source of a map beside the results, the
#   blocking map between one result and the next; and threads are faster or slower.
# * The state that an error names where the call waited when the queue was stopped or closed: a
#   thread wakes a moment later.
# * Who gets the next item where workers and callers of get() wait; whose put comes first of two
#   batches that find the queue full; and whether a retry comes before an item that is new.
# * process() while the old workers have items of another job in hand: the blocking face counts
#   these, and the new workers wait for them. On one event loop they go on beside them.
# * stop_on_signals() inside a worker function: signals are for the main thread, and no worker of
#   the blocking face is that.

Script = Callable[["Stage"], Awaitable[None]]


@dataclasses.dataclass
class Step:
    """A call of a script: what became of it, and all that can be seen after it."""

    what: str
    #: The same with what differs between the faces.
    text: str
    state: dict[str, Any]

    def is_like(self, other: Step) -> bool:
        return (self.what, self.state) == (other.what, other.state)


@dataclasses.dataclass
class Call:
    """A call that may wait, in a task or a thread of its own."""

    what: str
    outcome: Future[Any] = dataclasses.field(default_factory=Future)


class Gate:
    """Where a worker function is held until the script releases its item."""

    def __init__(self, is_in_thread: bool) -> None:
        self.opened: Future[None] = Future()
        self.left = threading.Event()
        self._is_in_thread = is_in_thread
        self._thread: _ThreadCall | None = getattr(_current, "call", None)

    def wait(self) -> None:
        if self._thread is not None:
            self._thread.loop.call_soon_threadsafe(self._thread.pause)
        self.opened.result(2 * BOUND)

    def open(self) -> None:
        if self._thread is not None:
            self._thread.resume()
        if not self.opened.done():
            self.opened.set_result(None)
        if self._is_in_thread:
            assert self.left.wait(BOUND), "a worker function does not go on"


# -- threads of the face for one event loop, which wait for a script in its virtual time -----------

_current = threading.local()


class _ThreadCall:
    """A call in a thread. While a script holds it up, the clock of the loop goes on."""

    def __init__(self, loop: ScriptLoop, func: Callable[..., Any]) -> None:
        self.loop = loop
        self._func = func
        self.future: asyncio.Future[Any]
        self._is_paused = False

    def run(self, *args: Any) -> Any:
        _current.call = self
        try:
            return self._func(*args)
        finally:
            del _current.call

    def pause(self) -> None:
        if not self.future.done():
            self._is_paused = True
            self.loop._in_threads -= 1

    def resume(self) -> None:
        if self._is_paused:
            self._is_paused = False
            self.loop._in_threads += 1

    def on_done(self, future: asyncio.Future[Any]) -> None:
        self.resume()  # it was cancelled while it was held up; the loop counts it as ended next


class ScriptLoop(VirtualTimeLoop):
    """A loop in virtual time that does not wait for the threads that a script holds up."""

    def run_in_executor(  # type: ignore[override]
        self, executor: Executor | None, func: Callable[..., Any], *args: Any
    ) -> asyncio.Future[Any]:
        call = _ThreadCall(self, func)
        call.future = super().run_in_executor(executor, call.run, *args)
        call.future.remove_done_callback(self._left_thread)
        call.future.add_done_callback(call.on_done)
        call.future.add_done_callback(self._left_thread)
        return call.future


# -- what a script works with ----------------------------------------------------------------------


class Stage:
    """One run of a script, on one face. ``kind``: that of its worker functions, async or plain."""

    queue_class: ClassVar[Any]
    special: ClassVar[dict[str, str]] = {}

    def __init__(self, kind: str) -> None:
        self.kind = kind
        self.steps: list[Step] = []
        self.queues: list[Any] = []
        self.calls: list[Call] = []
        #: What workers and error handlers have done, in order.
        self.began: list[Any] = []
        self.done: list[Any] = []
        self.handled: list[str] = []
        self.log: list[str] = []
        self.counts: list[str] = []
        self.warnings: list[warnings.WarningMessage] = []
        #: Items that the worker function is to be held at; those at which it is to raise, and what.
        self.held: set[Any] = set()
        self.fails: dict[Any, Any] = {}
        self._gates: dict[Any, Gate] = {}
        self._kept: list[Any] = []
        #: What of the state depends on how fast workers are, in this script.
        self.uncertain: set[str] = set()
        #: Futures of items that were submitted.
        self.futures: list[Any] = []

    # -- steps ------------------------------------------------------------------------------------

    async def do(self, target: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method, or read a property; return its value, or the error that it raised."""
        outcome = await self._outcome(target, name, args, kwargs)
        self._kept.append(outcome)  # an iterator would be closed, once nobody has it
        await self.step(f"{_call(name, args, kwargs)} {shown_outcome(outcome)}")
        return outcome

    async def start(self, target: Any, name: str, /, *args: Any, **kwargs: Any) -> Call:
        """Make a call that may wait."""
        call = Call(normalised(_call(name, args, kwargs), self.texts))
        self.calls.append(call)

        async def run() -> None:
            call.outcome.set_result(await self._outcome(target, name, args, kwargs))

        self.spawn(run)
        await self.step(f"{call.what} started")
        return call

    async def end(self, call: Call) -> Any:
        """Wait for a call that was started."""
        outcome = await self.wait(call.outcome)
        # A call that waits hears of a stop or close a moment later, when the state may be the next.
        text = shown_outcome(outcome)
        if isinstance(outcome, Raised):
            text = re.sub(r"\b(processing|stopping|stopped|closed)\b", "<state>", text)
            text = text.replace("QueueClosedError", "QueueStateError")
        await self.step(f"{call.what} {text}")
        return outcome

    async def make(self, **options: Any) -> Any:
        """Make a queue, whose state is looked at after each step."""
        queue = self.queue_class(**options)
        self.queues.append(queue)
        return queue

    async def step(self, what: str) -> None:
        """Note what was done, and the state when nothing goes on any more."""
        self.steps.append(Step(normalised(what, self.texts), what, await self.settled()))

    async def _outcome(self, target: Any, name: str, args: Any, kwargs: Any) -> Any:
        try:
            result = getattr(target, self.special.get(name, name))
            result = result(*args, **kwargs) if callable(result) else result
            if inspect.isawaitable(result) and not isinstance(result, asyncio.Future):
                result = await result
        except BaseException as error:
            error.__traceback__ = None
            return Raised(error)
        return result

    def state(self) -> dict[str, Any]:
        """All that can be seen."""
        state: dict[str, Any] = {
            "began": self.began.copy(),
            "calls": sorted(self.began, key=str),
            "done": sorted(self.done, key=str),  # workers that were replaced may end beside others
            "handled": self.handled.copy(),
            "calls that wait": [call.what for call in self.calls if not call.outcome.done()],
            "log": self.log.copy(),
            "log of counts": self.counts.copy(),
            "warnings": [normalised(str(one.message), self.texts) for one in self.warnings],
        }
        for number, queue in enumerate(self.queues):
            seen = dict(vars(queue.statistics()))
            for name in VIEWS:
                seen[name] = getattr(queue, name)
            letters = queue.dead_letters
            seen["dead_letters"] = [normalised(shown(one), self.texts) for one in letters]
            for name in self.uncertain & seen.keys():
                del seen[name]
            state |= {f"{name} of queue {number}": value for name, value in seen.items()}
        for name in self.uncertain & state.keys():
            del state[name]
        return state

    # -- worker functions and error handlers ------------------------------------------------------

    @property
    def work(self) -> Callable[[Any], Any]:
        """A worker function of the kind of this run."""
        return self.work_of(self.kind)

    def work_of(self, kind: str) -> Callable[[Any], Any]:
        async def work(item: Any) -> Any:
            gate = self._begin(item, is_in_thread=False)
            if gate is not None:
                await asyncio.wrap_future(gate.opened)
            return self._end(item)

        def plain(item: Any) -> Any:
            gate = self._begin(item, is_in_thread=True)
            try:
                if gate is not None:
                    gate.wait()
                return self._end(item)
            finally:
                if gate is not None:
                    gate.left.set()

        plain.__qualname__ = work.__qualname__ = "work"
        return work if kind == "async" else plain

    @property
    def work_on_many(self) -> Callable[[Any], Any]:
        """A worker function of several items, at none of which it is held."""

        def plain(items: list[Any]) -> list[Any]:
            self.began.extend(items)
            return [self._end(item) for item in items]

        async def work(items: list[Any]) -> list[Any]:
            return plain(items)

        plain.__qualname__ = work.__qualname__ = "work"
        return work if self.kind == "async" else plain

    def work_with(self, call: Callable[[Inside], Any]) -> Callable[[Any], Any]:
        """A worker function that makes calls itself, at the item "a"."""
        inside = Inside(self)

        async def work(item: Any) -> Any:
            gate = self._begin(item, is_in_thread=False)
            if gate is not None:
                await asyncio.wrap_future(gate.opened)
            if item == "a":
                await call(inside)
            return self._end(item)

        def plain(item: Any) -> Any:
            gate = self._begin(item, is_in_thread=False)
            if gate is not None:
                gate.wait()
            if item == "a":
                run_to_completion(call(inside))
            return self._end(item)

        plain.__qualname__ = work.__qualname__ = "work"
        return work if self.kind == "async" else plain

    def _begin(self, item: Any, *, is_in_thread: bool) -> Gate | None:
        gate = None
        if item in self.held:
            gate = self._gates[item] = Gate(is_in_thread)
        self.began.append(item)
        return gate

    def _end(self, item: Any) -> Any:
        error = self.fails.get(item)
        if isinstance(error, list):
            error = error.pop(0) if error else None
        if error is not None:
            raise error
        self.done.append(item)
        return f"{item} is done"

    async def release(self, *items: Any) -> None:
        """Let the worker function go on with items at which it is held; by default with all."""
        for item in items or [*self.held]:
            self.held.discard(item)
            gate = self._gates.pop(item, None)
            if gate is not None:
                gate.open()
        await self.step(f"released {items or 'all'}")

    def handler(self, raises: BaseException | None = None, kind: str = "plain") -> Any:
        """An error handler."""

        def handle(error: BaseException, item: Any) -> None:
            self.handled.append(normalised(f"{item}: {shown(error)}", self.texts))
            if raises is not None:
                raise raises

        async def handle_async(error: BaseException, item: Any) -> None:
            handle(error, item)

        return handle if kind == "plain" else handle_async

    # -- what each face has of its own ------------------------------------------------------------

    texts: int

    def spawn(self, func: Callable[[], Any]) -> None:
        raise NotImplementedError

    async def wait(self, future: Future[Any]) -> Any:
        raise NotImplementedError

    async def settled(self) -> dict[str, Any]:
        raise NotImplementedError

    async def result_of(self, future: Any) -> None:
        """What a future of ``submit`` says."""
        raise NotImplementedError


class Inside:
    """What a worker function has in place of the stage: its calls are no steps of the script."""

    def __init__(self, stage: Stage) -> None:
        self._stage = stage
        self.work = stage.work
        self.work_on_many = stage.work_on_many
        self.special = stage.special
        self.calls: list[Call] = []
        self.futures: list[Any] = []

    async def do(self, target: Any, name: str, /, *args: Any, **kwargs: Any) -> Any:
        outcome = await self._stage._outcome(target, name, args, kwargs)
        text = f"inside: {_call(name, args, kwargs)} {shown_outcome(outcome)}"
        self._stage.handled.append(normalised(text, self._stage.texts))
        return outcome

    async def start(self, target: Any, name: str, /, *args: Any, **kwargs: Any) -> Call:
        call = Call(name)
        self.calls.append(call)
        call.outcome.set_result(await self.do(target, name, *args, **kwargs))
        return call


class LoopStage(Stage):
    """In one event loop."""

    queue_class = penstock.WorkQueue
    texts = 0

    def spawn(self, func: Callable[[], Any]) -> None:
        self._task = asyncio.create_task(func())

    async def wait(self, future: Future[Any]) -> Any:
        return await asyncio.wrap_future(future)

    async def settled(self) -> dict[str, Any]:
        await asyncio.sleep(SETTLED)
        return self.state()

    async def result_of(self, future: Any) -> None:
        try:
            outcome = await future
        except BaseException as error:
            outcome = Raised(error)
        await self.step(f"the future: {shown_outcome(outcome)}")


class ThreadStage(Stage):
    """In threads; the state of each step is to become that of the other face."""

    queue_class = penstock.sync.WorkQueue
    texts = 1
    special: ClassVar[dict[str, str]] = {
        "__aenter__": "__enter__",
        "__aexit__": "__exit__",
        "__aiter__": "__iter__",
        "__anext__": "__next__",
        "aclose": "close",
    }

    def __init__(self, kind: str, expected: Sequence[Step]) -> None:
        super().__init__(kind)
        self._expected = expected

    def spawn(self, func: Callable[[], Any]) -> None:
        threading.Thread(target=run_to_completion, args=(func(),), daemon=True).start()

    async def wait(self, future: Future[Any]) -> Any:
        return future.result(BOUND)

    async def settled(self) -> dict[str, Any]:
        number = len(self.steps)
        expected = self._expected[number].state if number < len(self._expected) else None
        differs = number > 0 and not self.steps[-1].is_like(self._expected[number - 1])
        give_up_at = time.monotonic() + (BRIEFLY if differs else BOUND)
        while (state := self.state()) != expected and time.monotonic() < give_up_at:
            time.sleep(0.0005)  # noqa: ASYNC251 - no event loop runs here
        return state

    async def result_of(self, future: Any) -> None:
        try:
            outcome = future.result(BOUND)
        except BaseException as error:
            outcome = Raised(error)
        await self.step(f"the future: {shown_outcome(outcome)}")


#: Properties that are part of the state.
VIEWS = ["metrics", "unprocessed", "size", "is_empty", "is_full", "is_closed", "status"]


# -- texts -----------------------------------------------------------------------------------------


@dataclasses.dataclass
class Raised:
    """What a call raised."""

    error: BaseException


def shown_outcome(outcome: Any) -> str:
    return (
        f"raised {shown(outcome.error)}" if isinstance(outcome, Raised) else f"-> {shown(outcome)}"
    )


def shown(value: Any) -> str:
    """A value as text, without what is never the same twice."""
    if isinstance(value, BaseException):
        return _shown_error(value)
    if isinstance(value, (asyncio.Future, concurrent.futures.Future)):
        return "a future"
    if isinstance(value, (AsyncGenerator, Generator, StreamBase)):
        return "an iterator"
    if isinstance(value, (penstock.WorkQueue, penstock.sync.WorkQueue)):
        return "the queue"
    if isinstance(value, float):  # seconds, of which some have passed
        return f"{value:.1g}"
    if isinstance(value, ProcessingBlock):
        return "a block"
    if isinstance(value, (list, tuple)):
        return f"[{', '.join(map(shown, value))}]"
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = [
            f"{one.name}={shown(getattr(value, one.name))}" for one in dataclasses.fields(value)
        ]
        return f"{type(value).__name__}({', '.join(fields)})"
    return repr(value)


def _shown_error(error: BaseException) -> str:
    if isinstance(error, (StopAsyncIteration, StopIteration)) and not error.args:
        return "the end of the iteration"
    attributes = {name: shown(value) for name, value in vars(error).items() if name != "__notes__"}
    notes = getattr(error, "__notes__", [])
    cause = "" if error.__cause__ is None else f" from {shown(error.__cause__)}"
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__}: {error} {attributes} {notes}{cause}"


def _call(name: str, args: Any, kwargs: Any) -> str:
    texts = [shown(arg) for arg in args] + [f"{key}={shown(arg)}" for key, arg in kwargs.items()]
    return f"{name}({', '.join(texts)})"


def normalised(text: str, face: int) -> str:
    """The text without what may differ."""
    for pattern, instead in _PATTERNS[face]:
        text = pattern.sub(instead, text)
    return text


#: For each face: what is replaced in texts.
_PATTERNS = [
    [
        *(
            (re.compile(one[face]), f"<difference {number}>")
            for number, one in enumerate(DIFFERENCES)
        ),
        (re.compile(r" at 0x[0-9a-f]+"), ""),
        (re.compile(r"\d+(\.\d+)?(e-\d+)? s(econds?)?\b"), "<time>"),
    ]
    for face in (0, 1)
]


# -- to run and to compare -------------------------------------------------------------------------


class _Lines(logging.Handler):
    def __init__(self, stage: Stage) -> None:
        super().__init__()
        self._stage = stage

    def emit(self, record: logging.LogRecord) -> None:
        error = record.exc_info[1] if record.exc_info else None
        text = f"{record.name} {record.levelname}: {record.getMessage()}"
        text = text if error is None else f"{text} ({shown(error)})"
        # What counts failures is told in between, when the last worker ends.
        lines = self._stage.counts if " more times, the last time " in text else self._stage.log
        lines.append(normalised(text, self._stage.texts))


@contextmanager
def _recording(stage: Stage) -> Iterator[None]:
    handler = _Lines(stage)
    loggers = [logging.getLogger(name) for name in ("penstock", "asyncio", "mine")]
    levels = [logger.level for logger in loggers]
    with warnings.catch_warnings(record=True) as stage.warnings:
        warnings.simplefilter("always")
        try:
            for logger in loggers:
                logger.addHandler(handler)
                logger.setLevel(logging.INFO)
            yield
        finally:
            for logger, level in zip(loggers, levels, strict=True):
                logger.removeHandler(handler)
                logger.setLevel(level)


async def _whole(script: Script, stage: Stage) -> None:
    try:
        await script(stage)
    finally:
        await stage.release()
        for queue in stage.queues:
            await stage.do(queue, "stop", timeout=0, drain=False)
        for call in stage.calls:
            await stage.end(call)


def run_in_loop(script: Script, kind: str) -> list[Step]:
    loop, stage = ScriptLoop(), LoopStage(kind)
    try:
        with _recording(stage):
            loop.run_until_complete(_whole(script, stage))
            loop.run_until_complete(loop.shutdown_asyncgens())
    finally:
        loop.close()
    return stage.steps


def run_in_threads(script: Script, kind: str, expected: Sequence[Step]) -> list[Step]:
    stage = ThreadStage(kind, expected)
    with _recording(stage):
        run_to_completion(_whole(script, stage))  # type: ignore[arg-type]
    return stage.steps


def _unlike(one: Any, other: Any) -> list[str]:
    if isinstance(one, list) and isinstance(other, list):  # what is the same before is long
        same = 0
        while one[same : same + 1] == other[same : same + 1]:
            same += 1
        one, other = one[same:], other[same:]
    return [f"    {one}", f"    {other}"]


def difference(script: Script, kind: str = "async", sync_kind: str | None = None) -> str:
    """Run a script on both faces; return the first step that differs, or an empty text."""
    ours = run_in_loop(script, kind)
    theirs = run_in_threads(script, sync_kind or kind, ours)
    for number, (one, other) in enumerate(zip(ours, theirs, strict=False)):
        lines = [] if one.what == other.what else [f"  {one.what}", f"  {other.what}"]
        for name in one.state:
            if one.state[name] != other.state.get(name):
                lines += [f"  {name}:", *_unlike(one.state[name], other.state.get(name))]
        if lines:
            before = [f"  {step.what}" for step in ours[:number]]
            return "\n".join([f"step {number}, after", *before, "differs:", *lines])
    assert len(ours) == len(theirs)
    return ""
