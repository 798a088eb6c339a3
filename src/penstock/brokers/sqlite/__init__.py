"""The queue in a file of SQLite, for the processes of one machine. It needs no extra.

::

    from penstock import WorkQueue
    from penstock.brokers.sqlite import SqliteQueue

    queue = WorkQueue(queue=SqliteQueue("calls.db", name="calls", maxsize=10_000))

``put`` returning True says that the item is on the disk: it survives a crash of the program and of
the machine. Each is processed at least once. Whoever puts and whoever processes may be different
processes; for several machines there is :mod:`penstock.brokers.nats`.
"""

from penstock.brokers.engine import BrokerProcess
from penstock.brokers.sql.settings import SqlSettings
from penstock.brokers.sqlite.queue import SqliteQueue, SqliteQueueInfo
from penstock.brokers.sqlite.settings import existing_settings

__all__ = [
    "BrokerProcess",
    "SqlSettings",
    "SqliteQueue",
    "SqliteQueueInfo",
    "existing_settings",
]
