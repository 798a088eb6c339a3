"""What the producer and the workers must agree on, on whichever machines they are."""

from __future__ import annotations

import os
from typing import TypedDict

from penstock import RetryPolicy, WorkQueue
from penstock.brokers.nats import NatsQueue


class Call(TypedDict):
    """One item. The id makes it the same when it comes a second time."""

    id: int


def work_queue() -> WorkQueue[Call]:
    """The queue. All machines must give the same name, maxsize and ack_wait."""
    return WorkQueue(
        queue=NatsQueue(
            os.environ.get("NATS_URL", "nats://127.0.0.1:4222"),
            name="calls",
            # Items that wait and items in flight, together: several times all workers.
            maxsize=50,
            # How long the items of a killed worker wait for another one. Live workers tell the
            # server every third of it that they are at work, so calls may take longer. Short, for
            # nobody wants to wait in an example; 30 is the default.
            ack_wait=2,
            retry=RetryPolicy(attempts=5),
        )
    )
