"""Telemetry: its arguments, whose providers it uses, and that it never makes anything fail."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
from collections.abc import Mapping, Sequence
from functools import partial
from typing import Any

import pytest
from opentelemetry import metrics, trace
from opentelemetry.metrics import NoOpMeter, NoOpMeterProvider
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import ReadableSpan, SpanProcessor
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter, SpanExportResult
from opentelemetry.sdk.trace.sampling import Decision, Sampler, SamplingResult
from opentelemetry.trace import NonRecordingSpan, SpanContext, StatusCode, TraceFlags

import penstock
from penstock.telemetry import Telemetry
from penstock.telemetry.sdk import has_global_provider
from penstock.telemetry.spans import TelemetryObserver
from penstock.workers.item import Ticket
from telemetry.receiver import script
from telemetry.recorder import Recorder, span_id, trace_id


async def work(item: Any) -> Any:
    if isinstance(item, BaseException):
        raise item
    return item


async def run(queue: penstock.BoundedQueue[Any], *items: Any) -> None:
    """Put the items and have them processed."""
    async with queue:
        await queue.start_workers(work, 2, lambda error, item: None)
        for item in items:
            assert await queue.put(item)


def logged_errors(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [
        record.getMessage()
        for record in caplog.records
        if record.name == "penstock" and record.levelno >= logging.ERROR
    ]


# -- arguments --------------------------------------------------------------------------------


def test_it_records_everything_unless_told_otherwise() -> None:
    telemetry = Telemetry()
    assert (telemetry.spans, telemetry.relation, telemetry.record_exceptions) == (
        "all",
        "parent",
        True,
    )


@pytest.mark.parametrize(
    ("argument", "value", "error"),
    [
        ("tracer_provider", "jaeger", TypeError),
        ("tracer_provider", metrics.NoOpMeterProvider(), TypeError),
        ("meter_provider", object, TypeError),
        ("meter_provider", trace.NoOpTracerProvider(), TypeError),
        ("spans", "some", ValueError),
        ("spans", None, ValueError),
        ("relation", "child", ValueError),
        ("relation", [], ValueError),
        ("record_exceptions", 1, TypeError),
        ("record_exceptions", None, TypeError),
    ],
)
def test_an_argument_that_is_not_allowed_is_named(
    argument: str, value: Any, error: type[Exception]
) -> None:
    with pytest.raises(error, match=argument) as caught:
        Telemetry(**{argument: value})
    assert repr(value) in str(caught.value)


def test_a_queue_takes_a_telemetry_and_nothing_else() -> None:
    with pytest.raises(TypeError, match=r"telemetry must be a penstock\.telemetry\.Telemetry"):
        penstock.BoundedQueue(telemetry=trace.NoOpTracerProvider())  # type: ignore[arg-type]


# -- without an SDK ---------------------------------------------------------------------------


async def test_without_an_sdk_nothing_is_observed(monkeypatch: pytest.MonkeyPatch) -> None:
    def observed(*args: object) -> None:
        raise AssertionError("this put is observed, but there is no SDK")

    monkeypatch.setattr(TelemetryObserver, "on_put", observed)
    assert not has_global_provider(), "another test has set a global provider in this process"
    queue: penstock.BoundedQueue[int] = penstock.BoundedQueue(maxsize=2)
    async with queue:
        await queue.put(1)
        queue.put_nowait(2)
        assert not await queue.put(3, timeout=0)
        assert [entry[3] for entry in queue._buffer.snapshot()] == [None, None]
        queue.get_nowait(), queue.get_nowait()
        future = await queue.submit(4)
        (entry,) = queue._buffer.snapshot()
        assert type(entry[3]) is Ticket
        await queue.start_workers(work, 1)
        assert await future == 4


async def test_without_an_sdk_the_trace_of_the_caller_goes_with_the_item() -> None:
    caller = SpanContext(0xABC, 0xDEF, is_remote=True, trace_flags=TraceFlags(1))
    seen = []

    async def look(item: int) -> None:
        seen.append(trace.get_current_span().get_span_context())

    async with penstock.BoundedQueue[int]() as queue:
        await queue.start_workers(look, 1)
        with trace.use_span(NonRecordingSpan(caller)):
            await queue.put(1)
    assert seen == [caller]


def test_queues_that_live_as_long_as_the_program_leave_without_a_word() -> None:
    script(
        "import asyncio, builtins, penstock\n"
        "queue = penstock.BoundedQueue()\n"
        "builtins.known_to_all = [penstock.BoundedQueue()]\n"
        "known_to_all.append(known_to_all)\n"
        "async def main():\n"
        "    await queue.start()\n"
        "    await queue.put(queue.put)\n"
        "    queue.get_nowait()\n"
        "    queue.task_done()\n"
        "    queue.itself = queue\n"
        "asyncio.run(main())"
    )


def test_importing_penstock_imports_no_sdk() -> None:
    out = script(
        "import sys, penstock, penstock.telemetry\n"
        "print([name for name in sys.modules"
        " if name.startswith(('opentelemetry.sdk', 'opentelemetry.exporter', 'grpc'))])"
    )
    assert out == "[]\n"


def test_with_an_api_that_keeps_its_providers_elsewhere_it_observes_always() -> None:
    out = script(
        "import opentelemetry.trace as api\n"
        "set_elsewhere = api.__dict__.pop('_TRACER_PROVIDER')\n"
        "from penstock.telemetry.sdk import has_global_provider\n"
        "print(has_global_provider())"
    )
    assert out == "True\n"


# -- whose providers --------------------------------------------------------------------------


async def test_with_only_a_meter_provider_there_are_metrics(recorder: Recorder) -> None:
    telemetry = Telemetry(meter_provider=recorder.meter_provider)
    queue: Any = penstock.BoundedQueue(name="q", telemetry=telemetry)
    await run(queue, 1, ValueError("x"))
    assert recorder.values("penstock.put.items")["q", "accepted"] == 2
    assert recorder.values("penstock.item.wait_time")["q", "worker"][0] == 2
    assert recorder.values("penstock.worker.errors") == {("q", "ValueError"): 1}
    assert recorder.spans() == []


async def test_with_only_a_tracer_provider_there_are_spans(recorder: Recorder) -> None:
    telemetry = Telemetry(recorder.tracer_provider)
    await run(penstock.BoundedQueue(name="q", telemetry=telemetry), 1)
    assert recorder.names() == ["process q", "put q"]
    assert recorder.metrics() == {}


async def test_two_of_one_meter_provider_share_their_instruments(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("one", "two"):
        queue: Any = penstock.BoundedQueue(name=name, telemetry=recorder.telemetry())
        await run(queue, 1)
        assert recorder.values("penstock.process.items")[name, "ok"] == 1
        assert (name,) in recorder.values("penstock.process.duration")
    assert [record for record in caplog.records if "opentelemetry" in record.name] == []


ONE_PROVIDER = """
import asyncio, os, sys
from opentelemetry import metrics
from telemetry.recorder import Recorder
import penstock
from penstock.telemetry import Telemetry

recorder = Recorder()
queues = []

def explicit():
    telemetry = Telemetry(meter_provider=recorder.meter_provider)
    queues.append(penstock.BoundedQueue(name="explicit", telemetry=telemetry))

def default():
    queues.append(penstock.BoundedQueue(name="default"))

def make_global():
    metrics.set_meter_provider(recorder.meter_provider)

async def main():
    for queue in queues:
        await queue.start_workers(asyncio.sleep, 1)
        await queue.put(0)
        await queue.join()

def report(steps):
    for step in steps:
        step()
    asyncio.run(main())
    for name in ("penstock.process.items", "penstock.process.duration", "penstock.worker.count"):
        found = {key[0] for key in recorder.values(name)}
        assert found == {"default", "explicit"}, name

for steps in (
    [make_global, explicit, default],
    [make_global, default, explicit],
    [explicit, make_global, default],
    [default, make_global, explicit],
):
    if not os.fork():
        report(steps)
        sys.exit()
    assert os.wait()[1] == 0, steps
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks, to set the global provider four times")
def test_the_global_provider_may_be_named_as_well() -> None:
    script(ONE_PROVIDER)


LATE = """
import asyncio
from opentelemetry import metrics, trace
from telemetry.recorder import Recorder
import penstock

async def main():
    queue = penstock.BoundedQueue(name="late")
    async with queue:
        await queue.put(0)
        recorder = Recorder()
        trace.set_tracer_provider(recorder.tracer_provider)
        metrics.set_meter_provider(recorder.meter_provider)
        await queue.put(0)
        await queue.start_workers(asyncio.sleep, 1)
        await queue.join()
        print(recorder.names())
        print(recorder.values("penstock.process.items")["late", "ok"])
        print(recorder.values("penstock.put.items")["late", "accepted"])
        print(recorder.points("penstock.process.duration")["late",].explicit_bounds[0])

asyncio.run(main())
"""


def test_providers_may_be_set_after_the_queue_was_made() -> None:
    out = script(LATE)
    assert out.splitlines() == ["['process late', 'put late']", "2", "2", "0.001"]


class UnhashableMeterProvider(MeterProvider):
    """As those are that some distributions of OpenTelemetry have: a dataclass, say."""

    __hash__ = None  # type: ignore[assignment]

    def __eq__(self, other: object) -> bool:
        return isinstance(other, UnhashableMeterProvider)


async def test_meter_providers_are_told_apart_by_identity() -> None:
    """They need not be hashable, and two that are equal are two."""
    readers = [InMemoryMetricReader() for _ in range(2)]
    providers = [UnhashableMeterProvider([each], shutdown_on_exit=False) for each in readers]
    for name, provider in zip(("one", "two"), providers, strict=True):
        telemetry = Telemetry(meter_provider=provider)
        await run(penstock.BoundedQueue(name=name, telemetry=telemetry), 1)
    assert [names_in(reader) for reader in readers] == [{"one"}, {"two"}]
    for provider in providers:
        provider.shutdown()


def names_in(reader: InMemoryMetricReader) -> set[str]:
    """The names of the queues whose items are told to a reader."""
    data: Any = reader.get_metrics_data()
    return {
        point.attributes["penstock.queue.name"]
        for metric in data.resource_metrics[0].scope_metrics[0].metrics
        if metric.name == "penstock.process.items"
        for point in metric.data.data_points
    }


async def test_a_meter_provider_that_is_gone_is_not_taken_for_the_next_at_its_place() -> None:
    for name in ("one", "two", "three"):
        reader = InMemoryMetricReader()
        provider = MeterProvider([reader], shutdown_on_exit=False)
        telemetry = Telemetry(meter_provider=provider)
        await run(penstock.BoundedQueue(name=name, telemetry=telemetry), 1)
        assert names_in(reader) == {name}
        provider.shutdown()
        del provider, telemetry
        gc.collect()


async def test_a_meter_provider_that_makes_no_meter_makes_no_queue_fail(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    class Unwilling(NoOpMeterProvider):
        def get_meter(self, *args: Any, **kwargs: Any) -> Any:
            raise BrokenError

    telemetry = Telemetry(recorder.tracer_provider, Unwilling())
    await run(penstock.BoundedQueue(name="q", telemetry=telemetry), 1)
    assert recorder.names() == ["process q", "put q"]
    assert len(logged_errors(caplog)) == 1


FORKED = """
import asyncio, os
from telemetry.recorder import Recorder
import penstock

recorder = Recorder()

def queue(name):
    return penstock.BoundedQueue(name=name, telemetry=recorder.telemetry())

async def fill(queue):
    await queue.start()
    await queue.put(1)

async def of_parent():
    await fill(parents)
    if os.fork():
        os.wait()
        names = sorted({key[0] for key in recorder.values("penstock.queue.size")})
        print("parent", names, flush=True)
        os._exit(0)

parents = queue("parents")
asyncio.run(of_parent())
childs = queue("childs")
asyncio.run(fill(childs))
print("child", sorted({key[0] for key in recorder.values("penstock.queue.size")}), flush=True)
print("child", sorted({key[0] for key in recorder.values("penstock.put.items")}), flush=True)
os._exit(0)
"""


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_exports_its_own_queues_only() -> None:
    out = script(FORKED)
    assert out.splitlines() == ["child ['childs']"] * 2 + ["parent ['parents']"]


# -- telemetry that fails ---------------------------------------------------------------------


class BrokenError(Exception):
    """What the broken parts raise."""


class BrokenSampler(Sampler):
    def should_sample(self, *args: Any, **kwargs: Any) -> SamplingResult:
        raise BrokenError

    def get_description(self) -> str:
        return "broken"


class BrokenAtTheStart(SpanProcessor):
    def on_start(self, span: Any, parent_context: Any = None) -> None:
        raise BrokenError


class BrokenAtTheEnd(SpanProcessor):
    def on_end(self, span: ReadableSpan) -> None:
        raise BrokenError


class BrokenExporter(SpanExporter):
    def export(self, spans: Sequence[ReadableSpan]) -> SpanExportResult:
        raise BrokenError


class BrokenInstrument:
    def record(self, *args: object, **kwargs: object) -> None:
        raise BrokenError

    add = record


class BrokenMeterProvider(NoOpMeterProvider):
    """Its histograms and counters raise."""

    def get_meter(self, *args: Any, **kwargs: Any) -> Any:
        class Meter(NoOpMeter):
            def create_histogram(self, *args: Any, **kwargs: Any) -> Any:
                return BrokenInstrument()

            create_counter = create_histogram

        return Meter("broken")


async def use_all_of(queue: penstock.BoundedQueue[Any]) -> None:
    """Every kind of put and take, with what comes of it checked."""

    def fail_too(error: Exception, item: Any) -> None:
        raise RuntimeError("the handler fails as well")

    await queue.start()
    await queue.put(1)
    queue.put_nowait(2)
    assert not await queue.put(3, timeout=0)
    with pytest.raises(penstock.QueueFullError):
        queue.put_nowait(3)
    assert await queue.get() == 1
    queue.task_done()
    async with queue.processing() as item:
        assert item == 2
    await queue.put(4)
    with pytest.raises(ZeroDivisionError):
        async with queue.processing():
            raise ZeroDivisionError
    await queue.start_workers(work, 1, fail_too)
    assert await (await queue.submit(5)) == 5
    with pytest.raises(ValueError, match="six"):
        await (await queue.submit(ValueError("six")))
    await queue.put(KeyError("seven"))
    await queue.join()
    await queue.stop_workers()
    await queue.put(8)
    await queue.put(9)
    waiting = asyncio.create_task(queue.put(10, timeout=60))
    cancelled = asyncio.create_task(queue.put(11, timeout=60))
    await asyncio.sleep(1)
    cancelled.cancel()
    assert not await queue.stop()
    with pytest.raises(penstock.QueueStateError):
        await waiting
    with pytest.raises(asyncio.CancelledError):
        await cancelled
    assert queue.unprocessed == [8, 9]
    assert queue.statistics().errors == 3


def broken_telemetry(part: str) -> Telemetry:
    recorder = Recorder(**({"sampler": BrokenSampler()} if part == "sampler" else {}))
    meter_provider: Any = recorder.meter_provider
    if part == "on_start":
        recorder.tracer_provider.add_span_processor(BrokenAtTheStart())
    elif part == "on_end":
        recorder.tracer_provider.add_span_processor(BrokenAtTheEnd())
    elif part == "exporter":
        recorder.tracer_provider.add_span_processor(SimpleSpanProcessor(BrokenExporter()))
    elif part == "instruments":
        meter_provider = BrokenMeterProvider()
    return Telemetry(recorder.tracer_provider, meter_provider)


@pytest.mark.parametrize("part", ["sampler", "on_start", "on_end", "instruments"])
async def test_what_raises_in_an_sdk_is_logged_once_and_nothing_else_happens(
    part: str, caplog: pytest.LogCaptureFixture
) -> None:
    await use_all_of(penstock.BoundedQueue(maxsize=2, name="q", telemetry=broken_telemetry(part)))
    about_telemetry = [text for text in logged_errors(caplog) if "Telemetry failed" in text]
    assert len(about_telemetry) == 1
    (record,) = [record for record in caplog.records if "Telemetry failed" in record.getMessage()]
    assert record.exc_info is not None
    assert record.exc_info[0] is BrokenError


async def test_a_raising_exporter_is_the_business_of_the_sdk(
    caplog: pytest.LogCaptureFixture,
) -> None:
    await use_all_of(
        penstock.BoundedQueue(maxsize=2, name="q", telemetry=broken_telemetry("exporter"))
    )
    assert not [text for text in logged_errors(caplog) if "Telemetry" in text]


async def test_spans_are_whole_when_metrics_fail(recorder: Recorder) -> None:
    telemetry = Telemetry(recorder.tracer_provider, BrokenMeterProvider())
    queue: penstock.BoundedQueue[Any] = penstock.BoundedQueue(1, name="q", telemetry=telemetry)
    async with queue:
        await queue.put(ValueError("x"))
        assert not await queue.put(2)
        await queue.start_workers(work, 1, lambda error, item: None)
    assert recorder.names() == ["backpressure q", "process q", "put q", "put q"]
    assert recorder.span("process q").status.status_code is StatusCode.ERROR
    assert [(put.attributes or {})["penstock.put.outcome"] for put in recorder.spans("put q")] == [
        "accepted",
        "full",
    ]


async def test_metrics_are_whole_when_spans_fail() -> None:
    recorder = Recorder(sampler=BrokenSampler())
    queue: Any = penstock.BoundedQueue(name="q", telemetry=recorder.telemetry())
    await run(queue, 1, ValueError("x"))
    assert recorder.values("penstock.process.duration").keys() == {("q",), ("q", "ValueError")}
    assert recorder.values("penstock.put.items")["q", "accepted"] == 2
    assert recorder.values("penstock.item.wait_time")["q", "worker"][0] == 2
    recorder.shutdown()


async def test_an_exception_that_cannot_tell_its_message_fails_its_span_like_any_other(
    recorder: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    class MuteError(Exception):
        def __str__(self) -> str:
            raise BrokenError

    await run(penstock.BoundedQueue(name="q", telemetry=recorder.telemetry()), MuteError())
    span = recorder.span("process q")
    assert span.status.status_code is StatusCode.ERROR
    assert str((span.attributes or {})["error.type"]).endswith("MuteError")
    assert len(logged_errors(caplog)) == 1


async def test_a_queue_whose_counts_cannot_be_read_is_logged_once(
    recorder: Recorder, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    queue: penstock.BoundedQueue[int] = penstock.BoundedQueue(
        name="q", telemetry=recorder.telemetry()
    )
    await run(queue, 1)

    def broken() -> None:
        raise BrokenError

    monkeypatch.setattr(queue, "statistics", broken)
    for _ in range(2):
        assert recorder.values("penstock.queue.size") == {}
        assert recorder.values("penstock.process.items")["q", "ok"] == 1
    assert [each.name for each in caplog.records if each.levelno >= logging.ERROR] == ["penstock"]


# -- what a sampler is asked ------------------------------------------------------------------


class Asked(Sampler):
    """Makes one decision, and remembers what it was asked."""

    def __init__(self, decision: Decision = Decision.RECORD_AND_SAMPLE) -> None:
        self.decision = decision
        self.asked: list[tuple[str, dict[str, Any], list[Any]]] = []

    def should_sample(
        self,
        parent_context: Any,
        trace_id: int,
        name: str,
        kind: Any = None,
        attributes: Mapping[str, Any] | None = None,
        links: Any = None,
        trace_state: Any = None,
    ) -> SamplingResult:
        self.asked.append((name, dict(attributes or {}), list(links or ())))
        return SamplingResult(self.decision, attributes)

    def get_description(self) -> str:
        return "asked"


async def test_a_sampler_is_told_the_queue_the_operation_and_the_attempt() -> None:
    sampler = Asked()
    recorder = Recorder(sampler=sampler)
    queue: penstock.BoundedQueue[int] = penstock.BoundedQueue(
        1, name="q", telemetry=recorder.telemetry()
    )
    async with queue:
        await queue.put(1)
        await queue.put(2)
        await queue.start_workers(work, 1)
    about = {"penstock.queue.name": "q"}
    first_put = recorder.spans("put q")[0]
    *_, links = sampler.asked[-1]
    assert [(name, attributes) for name, attributes, _ in sampler.asked] == [
        ("put q", {**about, "penstock.operation": "put"}),
        ("put q", {**about, "penstock.operation": "put"}),
        ("backpressure q", {**about, "penstock.operation": "backpressure"}),
        ("process q", {**about, "penstock.operation": "process", "penstock.attempt": 1}),
    ]
    assert [link.context.span_id for link in links] == [span_id(first_put)]
    recorder.shutdown()


async def test_a_span_that_is_not_sampled_costs_no_attributes(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sampler = Asked(Decision.DROP)
    recorder = Recorder(sampler=sampler)
    queue: penstock.BoundedQueue[Any] = penstock.BoundedQueue(
        1, name="q", telemetry=recorder.telemetry()
    )

    made_for_nobody: list[str] = []
    for cls, method in (
        (NonRecordingSpan, "set_attribute"),
        (NonRecordingSpan, "set_attributes"),
        (NonRecordingSpan, "set_status"),
        (NonRecordingSpan, "record_exception"),
        (TelemetryObserver, "size_attributes"),
    ):
        note = partial(made_for_nobody.append, method)
        monkeypatch.setattr(cls, method, lambda *args, note=note, **kwargs: note() or {})
    async with queue:
        await queue.put(ValueError("x"))
        assert not await queue.put(2)
        await queue.start_workers(work, 1, lambda error, item: None)
    assert made_for_nobody == []
    assert len(sampler.asked) == 3  # two puts and an attempt; backpressure of no put is nothing
    assert recorder.spans() == []
    assert recorder.values("penstock.worker.errors") == {("q", "ValueError"): 1}
    recorder.shutdown()


async def test_what_is_not_sampled_is_still_one_trace(recorder: Recorder) -> None:
    recorder = Recorder(sampler=Asked(Decision.DROP))
    seen = []

    async def look(item: int) -> None:
        seen.append(trace.get_current_span().get_span_context())

    queue: penstock.BoundedQueue[int] = penstock.BoundedQueue(telemetry=recorder.telemetry())
    async with queue:
        await queue.start_workers(look, 1)
        with recorder.tracer.start_as_current_span("request") as request:
            await queue.put(1)
    assert seen[0].trace_id == request.get_span_context().trace_id
    assert not seen[0].trace_flags.sampled
    recorder.shutdown()


# -- what must not leave ----------------------------------------------------------------------

SECRET = "f81d4fae-7dec-11d0"


def everything(recorder: Recorder) -> str:
    """All that would be exported, as text."""
    spans = [span.to_json() for span in recorder.spans()]
    return "\n".join([*spans, *(metric.to_json() for metric in recorder.metrics().values())])


class Secret:
    """An item that shows itself wherever it is shown."""

    def __repr__(self) -> str:
        return SECRET

    __str__ = __repr__


async def test_items_are_never_recorded(recorder: Recorder) -> None:
    queue: penstock.WorkQueue[Any] = penstock.WorkQueue(2, name="q", telemetry=recorder.telemetry())
    bounded = queue.queue
    assert isinstance(bounded, penstock.BoundedQueue)

    async def fail(item: Any) -> None:
        raise ValueError("the message is the author's business")

    def fail_too(error: Exception, item: Any) -> None:
        raise KeyError("the handler")

    async with queue:
        await queue.put(Secret())
        queue.put_nowait(Secret())
        assert not await queue.put(Secret())
        with pytest.raises(penstock.QueueFullError):
            await queue.submit(Secret())
        await queue.get()
        queue.task_done()
        async with bounded.processing():
            pass
        assert [str(each) async for each in queue.map(work, [Secret()])] == [SECRET]
        await queue.process(fail, 1, fail_too)
        await queue.put(Secret())
        await queue.put({"key": SECRET})
        await queue.join()
    assert recorder.spans("backpressure q")
    assert "ValueError" in everything(recorder)
    assert "the message is the author's business" in everything(recorder)
    assert SECRET not in everything(recorder)


async def test_messages_and_stacks_of_exceptions_can_be_left_out(recorder: Recorder) -> None:
    telemetry = recorder.telemetry(record_exceptions=False)
    queue: penstock.BoundedQueue[Any] = penstock.BoundedQueue(1, name="q", telemetry=telemetry)

    async def fail(item: str) -> None:
        try:
            raise KeyError(item)
        except KeyError as error:
            raise ValueError(f"cannot parse {item}") from error

    async with queue:
        await queue.start_workers(fail, 1, lambda error, item: None)
        await queue.put(SECRET)
        await queue.join()
        await queue.stop_workers()
        await queue.put(SECRET)
        with pytest.raises(ValueError, match=SECRET):
            async with queue.processing() as item:
                await fail(item)
        await queue.put("left")
        waiting = asyncio.create_task(queue.put(SECRET, timeout=60))
        await asyncio.sleep(1)
    with pytest.raises(penstock.QueueStateError):
        await waiting
    for span in recorder.spans("process q"):
        assert span.status.status_code is StatusCode.ERROR
        assert not span.status.description
        assert (span.attributes or {})["error.type"] == "ValueError"
        assert span.events == ()
    assert len(recorder.spans("process q")) == 2
    text = everything(recorder)
    assert SECRET not in text
    assert "Traceback" not in text
    assert "cannot parse" not in text


async def test_what_an_exception_says_is_recorded_unless_told_otherwise(
    recorder: Recorder,
) -> None:
    await run(
        penstock.BoundedQueue(name="q", telemetry=recorder.telemetry()), ValueError("out of range")
    )
    span = recorder.span("process q")
    assert span.status.description == "out of range"
    (event,) = span.events
    assert (event.attributes or {})["exception.message"] == "out of range"
    assert "in work" in str((event.attributes or {})["exception.stacktrace"])


async def test_two_queues_keep_their_own_telemetry(recorder: Recorder) -> None:
    other = Recorder()
    await run(penstock.BoundedQueue(name="one", telemetry=recorder.telemetry()), 1)
    await run(penstock.BoundedQueue(name="two", telemetry=other.telemetry()), 1)
    assert recorder.names() == ["process one", "put one"]
    assert other.names() == ["process two", "put two"]
    assert trace_id(recorder.span("put one")) != trace_id(other.span("put two"))
    assert set(other.values("penstock.queue.capacity")) <= {("two",)}
    other.shutdown()
