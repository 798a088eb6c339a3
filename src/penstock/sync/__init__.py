"""Penstock for threads: the same queue, blocking, for programs without an event loop.

>>> import penstock.sync
>>> with penstock.sync.WorkQueue(maxsize=100, concurrency_limit=5) as queue:
...     queue.process(print)
...     queue.put("an item")
an item
True
"""

from penstock._util.loop_thread import LoopThread
from penstock.sync.futures import Result
from penstock.sync.work_queue import WorkQueue

__all__ = ["LoopThread", "Result", "WorkQueue"]
