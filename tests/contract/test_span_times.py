"""When the spans of a queue begin and end, beside those above them."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from contract.conftest import WORK_QUEUES
from contract.helpers import MakeQueue
from helpers.handlers import ignore
from helpers.logs import SILENT
from helpers.retries import every
from helpers.tasks import until
from penstock import Limit
from telemetry.recorder import Recorder, span_id

pytestmark = pytest.mark.parametrize("kind", WORK_QUEUES, indirect=True)


async def test_no_span_begins_before_the_one_above_it(make_queue: MakeQueue) -> None:
    """Puts that wait and are refused, attempts that are made again: by one clock all of them."""
    recorder = Recorder()
    queue = make_queue(
        maxsize=1,
        name="q",
        telemetry=recorder.telemetry(),
        limits=[Limit(50, per=0.01)],
        retry=every(0.001, attempts=2),
        logger=SILENT,
    )
    calls: list[int] = []

    def work(item: int) -> None:
        calls.append(item)
        if item % 3 == 0:
            raise ValueError(item)

    async def put(item: int, timeout: float) -> None:
        with recorder.tracer.start_as_current_span("request"):
            await queue.put(item, timeout=timeout)

    async with queue:
        puts = [asyncio.create_task(put(item, timeout=60)) for item in range(12)]
        await until(lambda: queue.statistics().waiting_putters == 11)
        await put(-1, timeout=0)
        await queue.process(work, 2, ignore)
        await asyncio.gather(*puts)
        await queue.join()

    spans = {span_id(span): span for span in recorder.spans()}
    names = [span.name for span in spans.values()]
    assert names.count("backpressure q") >= 10
    assert names.count("put q") == 13
    assert names.count("process q") == len(calls)
    for span in spans.values():
        began, ended = times(span)
        assert began <= ended
        assert all(began <= event.timestamp <= ended for event in span.events), span.name
        if span.parent is not None:
            above = spans[span.parent.span_id]
            assert times(above)[0] <= began, f"{span.name} under {above.name}"
            if span.name == "backpressure q":
                assert ended <= times(above)[1]
    recorder.shutdown()


def times(span: Any) -> tuple[int, int]:
    return span.start_time, span.end_time
