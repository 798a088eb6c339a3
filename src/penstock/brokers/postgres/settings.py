"""The settings of a queue that is in a database already, for those who join it."""

from __future__ import annotations

from penstock._util import checks
from penstock.brokers.postgres.connecting import check_dsn
from penstock.brokers.postgres.connections import PostgresConnections
from penstock.brokers.postgres.schema import check_schema
from penstock.brokers.postgres.storage import SlotStorage
from penstock.brokers.sql.settings import SqlSettings


async def existing_settings(dsn: str, name: str, *, schema: str = "penstock") -> SqlSettings | None:
    """The settings of the queue ``name`` in this database; None if there is none.

    It makes nothing, so that a name that was mistyped stays without consequences.

    Args:
        dsn, name, schema: as for :class:`PostgresQueue`.

    Raises:
        ValueError, TypeError: for an argument that is not allowed.
        BrokerError: the database cannot be reached or does not let us, or the schema is not there,
            or from a newer penstock.
    """
    checks.label(name, "name")
    connections = PostgresConnections(check_dsn(dsn), check_schema(schema))
    await connections.open()
    try:
        return await SlotStorage(connections, schema, name).settings()
    finally:
        await connections.close()
