"""Plain threads and requests, without asyncio: threads put, other threads call a server.

Starts ``api_server.py``, calls it through a queue, and prints the results and their traces.
With ``OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317`` these go to Jaeger instead. Needs
penstock[otel] and requests.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterable
from functools import partial

import requests
from demo import server
from opentelemetry import trace
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

import penstock.sync
import penstock.telemetry

tracer = trace.get_tracer("threaded_app")


def fetch(url: str, number: int) -> str:
    """The worker function. A plain one: each worker is a thread, and may block."""
    headers = {"X-Request-Id": f"item-{number}"}
    response = requests.get(f"{url}/items/{number}", headers=headers, timeout=10)
    response.raise_for_status()
    return str(response.json()["name"])


def note_failure(error: BaseException, number: int) -> None:
    """Where a program would note what has to be sent again."""
    print(f"item {number} failed: {error}")


def produce(queue: penstock.sync.WorkQueue[int], numbers: Iterable[int]) -> None:
    """One of the threads that have something to send."""
    for number in numbers:
        with tracer.start_as_current_span(f"order {number}"):
            while not queue.put(number, timeout=0.2):
                print(f"no room for item {number} in 0.2 s; trying again")


def run(url: str) -> None:
    """Send 30 items by three threads, and ask for the results of two more."""
    # Leaving the block finishes what was accepted and stops the workers.
    with penstock.sync.WorkQueue[int](maxsize=4, concurrency_limit=4, name="items") as queue:
        queue.process(partial(fetch, url), error_handler=note_failure)
        producers = [
            threading.Thread(target=produce, args=(queue, range(first, 30, 3)))
            for first in range(3)
        ]
        for thread in producers:
            thread.start()
        with tracer.start_as_current_span("order with results"):
            results = [queue.submit(number, timeout=10) for number in (100, 101)]
        for result in results:
            print("result:", result.result(timeout=10))
        for thread in producers:
            thread.join()
    print(f"queue: {queue.metrics}")


def count_traces(exporter: InMemorySpanExporter) -> str:
    """How many items were processed as a part of their put, which is in its caller's trace."""
    spans = exporter.get_finished_spans()
    puts = {span.context.span_id for span in spans if span.context and span.name == "put items"}
    parents = [span.parent for span in spans if span.name == "process items"]
    shared = sum(parent is not None and parent.span_id in puts for parent in parents)
    return f"traces: {shared} of {len(parents)} items were processed in the trace of their put"


def main() -> None:
    """Set up tracing, serve, send, and show the traces or say where they are."""
    endpoint = os.environ.get("OTEL_EXPORTER_OTLP_ENDPOINT")
    exporter = InMemorySpanExporter()
    if endpoint:
        penstock.telemetry.setup("threaded-app")
    else:
        provider = TracerProvider()
        provider.add_span_processor(SimpleSpanProcessor(exporter))
        trace.set_tracer_provider(provider)
    os.environ["no_proxy"] = "127.0.0.1"  # the server is on this machine

    with server() as url:
        run(url)

    if endpoint:
        print(f"traces went to {endpoint}: look for service threaded-app in Jaeger")
    else:
        print(count_traces(exporter))
        print("set OTEL_EXPORTER_OTLP_ENDPOINT=http://localhost:4317 to see them in Jaeger")


if __name__ == "__main__":
    main()
