"""Every name that penstock gives to a span, a metric or an attribute, once.

The names are our own: OpenTelemetry's conventions for messaging are for brokers between processes,
and say so. Penstock's names have the same shapes. Units are UCUM codes, as OpenTelemetry asks.
"""

from __future__ import annotations

from typing import Final

#: The version of OpenTelemetry's conventions that ``error.type`` and the shapes follow.
SCHEMA_URL: Final = "https://opentelemetry.io/schemas/1.37.0"
#: The name of the tracer and of the meter.
SCOPE: Final = "penstock"

# The name of a span is the operation, a space, and the name of the queue.
PUT: Final = "put"
BACKPRESSURE: Final = "backpressure"
PROCESS: Final = "process"

# Attributes of spans. The first three are set when the span starts, for samplers.
QUEUE_NAME: Final = "penstock.queue.name"
OPERATION: Final = "penstock.operation"
ATTEMPT: Final = "penstock.attempt"
QUEUE_SIZE: Final = "penstock.queue.size"
QUEUE_CAPACITY: Final = "penstock.queue.capacity"
WAIT_TIME: Final = "penstock.wait_time"
WORKER_ID: Final = "penstock.worker.id"
BATCH_SIZE: Final = "penstock.batch.size"
PUT_OUTCOME: Final = "penstock.put.outcome"
LIMIT_WAIT_TIME: Final = "penstock.limit.wait_time"
LIMIT_NAME: Final = "penstock.limit.name"
ERROR_TYPE: Final = "error.type"

# Values of penstock.put.outcome.
ACCEPTED: Final = "accepted"
FULL: Final = "full"
CANCELLED: Final = "cancelled"
STOPPED: Final = "stopped"
#: Only of queues on a broker: it refused, though there was room; its answer never came.
FAILED: Final = "failed"
UNKNOWN: Final = "unknown"
# The other keys of a queue's totals.
PROCESSED: Final = "processed"
CLOSURES: Final = "closures"
OUTCOMES: Final = (ACCEPTED, FULL, CANCELLED, STOPPED)
#: Exported only where there are any.
RARE_OUTCOMES: Final = (FAILED, UNKNOWN)

# Metrics.
SIZE_METRIC: Final = "penstock.queue.size"
CAPACITY_METRIC: Final = "penstock.queue.capacity"
PUT_ITEMS_METRIC: Final = "penstock.put.items"
BACKPRESSURE_EVENTS_METRIC: Final = "penstock.backpressure.events"
BACKPRESSURE_WAIT_METRIC: Final = "penstock.backpressure.wait_time"
ITEM_WAIT_METRIC: Final = "penstock.item.wait_time"
DURATION_METRIC: Final = "penstock.process.duration"
PROCESS_ITEMS_METRIC: Final = "penstock.process.items"
WORKER_ERRORS_METRIC: Final = "penstock.worker.errors"
INFLIGHT_METRIC: Final = "penstock.item.inflight"
WORKER_COUNT_METRIC: Final = "penstock.worker.count"
RETRIES_METRIC: Final = "penstock.item.retries"
RETRYING_METRIC: Final = "penstock.item.retrying"
DEAD_LETTERS_METRIC: Final = "penstock.item.dead_letters"
LIMIT_WAIT_METRIC: Final = "penstock.limit.wait_time"
GATE_CLOSURES_METRIC: Final = "penstock.limit.gate.closures"
CONCURRENCY_LIMIT_METRIC: Final = "penstock.concurrency.limit"
BREAKER_STATE_METRIC: Final = "penstock.breaker.state"

#: The buckets that the histograms advise, in seconds.
SECONDS_BUCKETS: Final = (
    0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5,
    5.0, 10.0,
)  # fmt: skip


def error_type(error: BaseException) -> str:
    """The value of ``error.type``: the qualified name of the class, bare for built-in ones."""
    cls = type(error)
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"
