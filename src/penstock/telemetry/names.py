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
#: What held a put up, if it was not the size of the queue; the values are those of
#: ``policies/observer.py``.
PUT_HELD_UP_BY: Final = "penstock.put.held_up_by"
LIMIT_WAIT_TIME: Final = "penstock.limit.wait_time"
LIMIT_NAME: Final = "penstock.limit.name"
#: What became of an attempt; the values are those of ``policies/observer.py``.
OUTCOME: Final = "penstock.outcome"
RETRY_DELAY: Final = "penstock.retry.delay"
ERROR_TYPE: Final = "error.type"

# Values of penstock.put.outcome.
ACCEPTED: Final = "accepted"
FULL: Final = "full"
CANCELLED: Final = "cancelled"
STOPPED: Final = "stopped"
#: Only of queues on a broker: it refused, though there was room; its answer never came.
FAILED: Final = "failed"
UNKNOWN: Final = "unknown"
# The other keys of a queue's totals: items that are done by outcome, and seconds.
PROCESSED: Final = "processed"
GATE_CLOSED: Final = "gate_closed"
OUTCOMES: Final = (ACCEPTED, FULL, CANCELLED, STOPPED)
#: Exported only where a queue counts them.
RARE_OUTCOMES: Final = (FAILED, UNKNOWN)

# Attributes of metrics, beside the name of the queue, and their values.
ITEM_STATE: Final = "penstock.item.state"
READY: Final = "ready"
DELAYED: Final = "delayed"
#: A key of a queue's fair shares, or a priority: the text of it, which is a user's.
ORDER_KEY: Final = "penstock.order.key"
WAIT_CAUSE: Final = "penstock.wait.cause"
FOR_WORKER: Final = "worker"
FOR_LIMIT: Final = "limit"
FOR_RETRY: Final = "retry"
PROCESS_OUTCOME: Final = "penstock.process.outcome"
WORKER_STATE: Final = "penstock.worker.state"
BUSY: Final = "busy"
LIMITED: Final = "limited"
IDLE: Final = "idle"
BREAKER_STATE: Final = "penstock.breaker.state"
BREAKER_STATES: Final = ("closed", "half_open", "open")

# Metrics.
SIZE_METRIC: Final = "penstock.queue.size"
CAPACITY_METRIC: Final = "penstock.queue.capacity"
ORDER_ITEMS_METRIC: Final = "penstock.order.items"
OLDEST_AGE_METRIC: Final = "penstock.queue.oldest_item.age"
PUT_ITEMS_METRIC: Final = "penstock.put.items"
BACKPRESSURE_EVENTS_METRIC: Final = "penstock.backpressure.events"
BACKPRESSURE_WAIT_METRIC: Final = "penstock.backpressure.wait_time"
ITEM_WAIT_METRIC: Final = "penstock.item.wait_time"
DURATION_METRIC: Final = "penstock.process.duration"
PROCESS_ITEMS_METRIC: Final = "penstock.process.items"
WORKER_ERRORS_METRIC: Final = "penstock.worker.errors"
WORKER_COUNT_METRIC: Final = "penstock.worker.count"
RETRIES_METRIC: Final = "penstock.item.retries"
DEAD_LETTERS_METRIC: Final = "penstock.dead_letter.items"
LIMIT_UTILIZATION_METRIC: Final = "penstock.limit.utilization"
LIMIT_WAIT_METRIC: Final = "penstock.limit.wait_time"
GATE_CLOSED_METRIC: Final = "penstock.gate.closed_time"
BREAKER_STATE_METRIC: Final = "penstock.breaker.state"
CONCURRENCY_LIMIT_METRIC: Final = "penstock.concurrency.limit"

#: The buckets that histograms advise, in seconds: of calls, and of waits, which behind a limit may
#: be minutes.
CALL_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
WAIT_BUCKETS: Final = (
    0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0,
    300.0, 900.0, 3600.0,
)  # fmt: skip


def error_type(error: BaseException) -> str:
    """The value of ``error.type``: the qualified name of the class, bare for built-in ones."""
    cls = type(error)
    if cls.__module__ == "builtins":
        return cls.__qualname__
    return f"{cls.__module__}.{cls.__qualname__}"
