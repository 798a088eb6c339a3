"""The queue in one process: states, what it stores, who waits for room, its counters."""

from penstock.queue.bounded import BoundedQueue
from penstock.queue.status import QueueStatistics, QueueStatus

__all__ = ["BoundedQueue", "QueueStatistics", "QueueStatus"]
