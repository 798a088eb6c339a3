"""What whoever is on call sees of an attempt: what became of it, what it waited for, its log."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

import pytest
from opentelemetry import trace
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.trace import StatusCode

import penstock
from helpers.handlers import ignore
from helpers.retries import every
from penstock import Limit, Policy, RetryPolicy, WorkQueue
from telemetry.receiver import script
from telemetry.recorder import Recorder, span_id, trace_id

pytestmark = pytest.mark.usefixtures("exact_times")


def queue_of(recorder: Recorder, **options: Any) -> WorkQueue[Any]:
    return WorkQueue(name="q", telemetry=recorder.telemetry(), **options)


async def fail(item: Any) -> None:
    await asyncio.sleep(1)
    raise ConnectionError(str(item))


def outcomes(recorder: Recorder) -> list[Any]:
    return [(span.attributes or {})["penstock.outcome"] for span in recorder.spans("process q")]


def events(span: ReadableSpan) -> list[str]:
    return [event.name for event in span.events if event.name != "exception"]


class SpanIds(logging.Handler):
    """Notes under which span each line was logged."""

    def __init__(self) -> None:
        super().__init__()
        self.lines: list[tuple[str, int]] = []

    def emit(self, record: logging.LogRecord) -> None:
        context = trace.get_current_span().get_span_context()
        self.lines.append((record.levelname, context.span_id))


# -- what became of it ------------------------------------------------------------------------


async def test_each_attempt_says_what_became_of_it_and_when_the_next_one_is(
    recorder: Recorder,
) -> None:
    async with queue_of(recorder, retry=every(0.8, attempts=3)) as queue:
        await queue.process(fail, 1, ignore)
        await queue.put("item")
        await queue.join()
    assert outcomes(recorder) == ["retry", "retry", "dead_letter"]
    first, second, last = recorder.spans("process q")
    assert events(first) == ["retry in 0.8 s"]
    assert events(second) == ["waited for a retry", "retry in 0.8 s"]
    assert events(last) == ["waited for a retry"]
    for span in (first, second, last):
        assert span.status.status_code is StatusCode.ERROR


async def test_an_item_that_is_not_kept_has_failed(recorder: Recorder) -> None:
    async with queue_of(recorder) as queue:
        await queue.process(fail, 1, ignore)
        await queue.put("item")
        await queue.join()
    assert outcomes(recorder) == ["failed"]


async def test_an_item_that_would_be_late_ends_by_its_deadline(recorder: Recorder) -> None:
    async with queue_of(recorder, limits=[Limit(1, 60)]) as queue:
        await queue.process(asyncio.sleep, 1, ignore)
        await queue.put(0)
        await queue.put(0, deadline=5)
        await queue.join()
    assert outcomes(recorder) == ["ok", "deadline"]


async def test_the_wait_for_a_limit_is_an_event_with_its_cause(recorder: Recorder) -> None:
    async with queue_of(recorder, limits=[Limit(1, 10)]) as queue:
        await queue.process(asyncio.sleep, 1)
        await queue.put(0)
        await queue.put(0)
        await queue.join()
    first, second = recorder.spans("process q")
    assert events(first) == []
    (waited,) = second.events
    assert waited.name == "waited for a limit"
    assert (waited.attributes or {})["penstock.wait_time"] == pytest.approx(10)


async def test_the_span_ends_with_the_call_and_not_with_the_error_handler(
    recorder: Recorder,
) -> None:
    ended: list[int] = []

    async def handle(error: BaseException, item: Any) -> None:
        await asyncio.to_thread(int)  # some real time passes
        ended.append(recorder.tracer.start_span("after").start_time)  # type: ignore[attr-defined]

    async with queue_of(recorder) as queue:
        await queue.process(fail, 1, handle)
        await queue.put("item")
        await queue.join()
    assert (recorder.span("process q").end_time or 0) < ended[0]


# -- dead letters -----------------------------------------------------------------------------


async def test_a_dead_letter_is_found_by_its_trace_and_linked_to_when_it_is_put_back(
    recorder: Recorder,
) -> None:
    async with queue_of(recorder, retry=every(1, attempts=2)) as queue:
        await queue.process(fail, 1, ignore)
        await queue.put("item")
        await queue.join()
        last = recorder.spans("process q")[-1]
        (letter,) = queue.dead_letters
        assert letter.trace_id == trace.format_trace_id(trace_id(last))
        await queue.process(lambda item: None)
        assert await queue.redrive() == 1
        await queue.join()
    again = recorder.spans("put q")[-1]
    assert [link.context.span_id for link in again.links] == [span_id(last)]


async def test_without_telemetry_a_dead_letter_has_no_trace() -> None:
    async with WorkQueue[str](retry=RetryPolicy(1)) as queue:
        await queue.process(fail, 1, ignore)
        await queue.put("item")
        await queue.join()
        assert [letter.trace_id for letter in queue.dead_letters] == [None]


# -- logs -------------------------------------------------------------------------------------


@pytest.mark.parametrize("retry", [None, RetryPolicy(1)])
async def test_the_log_of_a_failure_is_under_its_attempt(
    recorder: Recorder, retry: RetryPolicy | None
) -> None:
    logger, seen = logging.Logger("mine"), SpanIds()  # noqa: LOG001 - nobody else has it
    logger.addHandler(seen)
    async with queue_of(recorder, retry=retry, logger=logger) as queue:
        await queue.process(fail, 1)
        await queue.put("item")
        await queue.join()
    errors = [span for level, span in seen.lines if level == "ERROR"]
    assert errors == [span_id(recorder.span("process q"))]


async def test_the_error_handler_is_under_the_attempt_and_so_is_the_log_of_its_failure(
    recorder: Recorder,
) -> None:
    logger, seen = logging.Logger("mine"), SpanIds()  # noqa: LOG001 - nobody else has it
    logger.addHandler(seen)

    async def handle(error: BaseException, item: Any) -> None:
        await asyncio.sleep(1)
        logger.warning("about to fail")
        raise LookupError

    telemetry = recorder.telemetry(verbose_errors=True)
    async with WorkQueue[str](name="q", telemetry=telemetry, logger=logger) as queue:
        await queue.process(fail, 1, handle)
        await queue.put("item")
        await queue.put("another")
        await queue.join()
    told = [span for level, span in seen.lines if level in ("WARNING", "ERROR")]
    one, other = map(span_id, recorder.spans("process q"))
    assert told == [one, one, other, other]


EXCEPTIONS = """
import asyncio
from opentelemetry import _logs
from opentelemetry.sdk._logs import LoggerProvider
from opentelemetry.sdk._logs.export import SimpleLogRecordProcessor
from opentelemetry.sdk._logs import export
from telemetry.receiver import script
from telemetry.recorder import Recorder
import penstock

exporter = export.InMemoryLogRecordExporter()
provider = LoggerProvider(shutdown_on_exit=False)
provider.add_log_record_processor(SimpleLogRecordProcessor(exporter))
_logs.set_logger_provider(provider)
recorder = Recorder()

async def fail(item):
    raise ValueError(item)

async def main():
    async with penstock.WorkQueue(name="q", telemetry=recorder.telemetry()) as queue:
        await queue.process(fail, 1, lambda error, item: None)
        await queue.put("bad")

asyncio.run(main())
span = recorder.span("process q")
records = [each.log_record for each in exporter.get_finished_logs()]
assert all(each.span_id == span.context.span_id for each in records)
print([event.name for event in span.events if event.name == "exception"])
print([(each.event_name, each.attributes["exception.type"], each.body) for each in records])
"""
EVENT, LOG = "['exception']", "[('exception', 'ValueError', 'bad')]"


@pytest.mark.parametrize(
    ("opt_in", "lines"),
    [("", [EVENT, "[]"]), ("logs", ["[]", LOG]), ("http,logs/dup", [EVENT, LOG])],
)
def test_exceptions_are_events_or_logs_as_the_environment_says(
    opt_in: str, lines: list[str]
) -> None:
    environment = {"OTEL_SEMCONV_EXCEPTION_SIGNAL_OPT_IN": opt_in}
    assert script(EXCEPTIONS, env=environment).splitlines() == lines


# -- calls without a queue --------------------------------------------------------------------


async def test_the_attempts_of_a_call_under_a_policy_say_the_same(recorder: Recorder) -> None:
    retry, limits = every(0.8, attempts=2), [Limit(1, 10)]
    policy = Policy(name="q", retry=retry, limits=limits, telemetry=recorder.telemetry())
    with pytest.raises(ConnectionError):
        await policy.call(fail, "item")
    assert outcomes(recorder) == ["retry", "failed"]
    first, last = recorder.spans("process q")
    assert events(first) == ["retry in 0.8 s"]
    assert events(last) == ["waited for a limit", "waited for a retry"]
    assert [link.context for link in last.links] == [first.context], "it is in another trace"


@pytest.mark.real_time
def test_so_do_those_of_a_plain_function(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()  # there is no loop whose time could be told

    def plain(item: str) -> None:
        raise ConnectionError(item)

    policy = Policy(name="q", retry=every(0, attempts=2), telemetry=recorder.telemetry())
    with pytest.raises(ConnectionError):
        policy.call(plain, "item")
    assert outcomes(recorder) == ["retry", "failed"]


async def test_a_call_that_is_cancelled_looks_cancelled(recorder: Recorder) -> None:
    policy = Policy(name="q", telemetry=recorder.telemetry())
    with pytest.raises(asyncio.TimeoutError):
        await asyncio.wait_for(policy.call(asyncio.sleep, 60), 1)
    assert outcomes(recorder) == ["cancelled"]
    assert recorder.span("process q").status.status_code is StatusCode.UNSET
    assert penstock.Policy is Policy
