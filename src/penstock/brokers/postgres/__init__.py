"""The queue in a PostgreSQL database, for any number of machines. Extra ``postgres``.

::

    from penstock import WorkQueue
    from penstock.brokers.postgres import PostgresQueue

    queue = WorkQueue(queue=PostgresQueue("postgresql://localhost/shop", name="calls"))

``put`` returning True says that the item is committed; each is processed at least once. An item can
be put in a transaction of your own. ``penstock postgres init URL`` prepares the database.
"""

try:
    import psycopg as _psycopg  # noqa: F401 - to say what is missing
    import psycopg_pool as _psycopg_pool  # noqa: F401
except ImportError as error:
    raise ImportError(
        "penstock.brokers.postgres needs the extra postgres: pip install 'penstock[postgres]'"
    ) from error

from penstock.brokers.engine import BrokerProcess
from penstock.brokers.postgres.queue import PostgresQueue
from penstock.brokers.postgres.schema import PostgresStatus, PostgresTable, init, status, vacuum
from penstock.brokers.postgres.settings import existing_settings
from penstock.brokers.sql.queue import SqlQueueInfo
from penstock.brokers.sql.settings import SqlSettings

__all__ = [
    "BrokerProcess",
    "PostgresQueue",
    "PostgresStatus",
    "PostgresTable",
    "SqlQueueInfo",
    "SqlSettings",
    "existing_settings",
    "init",
    "status",
    "vacuum",
]
