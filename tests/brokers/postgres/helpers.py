"""What the tests of the queue in PostgreSQL have in common."""

from __future__ import annotations

from typing import Any

from penstock.brokers.postgres.connections import PostgresConnections
from penstock.brokers.postgres.storage import SlotLease, SlotStorage, TakenItem
from penstock.brokers.sql.rows import NewItem
from penstock.brokers.sql.settings import SqlSettings


class Opened:
    """A queue, each of its calls in a transaction of its own."""

    def __init__(self, url: str, name: str, schema: str = "penstock") -> None:
        self.connections = PostgresConnections(url, schema)
        self.storage = SlotStorage(self.connections, schema, name)

    async def open(self, **settings: Any) -> None:
        await self.connections.open()
        await self.storage.open(SqlSettings(**settings))

    async def close(self) -> None:
        await self.connections.close()

    async def put(self, *data: bytes, rank: float = 0, **more: Any) -> int:
        """Put items of these bytes; how many were accepted."""
        items = [NewItem(one, rank=rank, **more) for one in data]
        return (await self.storage.put_many(items))[0]

    async def take(self, most: int = 1) -> list[TakenItem]:
        return (await self.storage.take(most))[0]

    async def take_one(self) -> TakenItem:
        (item,) = await self.take()
        return item

    async def take_data(self, most: int = 100) -> list[bytes]:
        return [item.data for item in await self.take(most)]

    async def done(self, *leases: SlotLease) -> bool:
        return await self.storage.done(leases)

    async def execute(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return await self.connections.execute(query, values)

    async def pass_time(self, seconds: float) -> None:
        """Let all that is noted have happened earlier: the clock is the database's."""
        ago = f"interval '{seconds} s'"
        for table, columns in (
            ("slots", ("due", "put_at")),
            ("ids", ("put_at",)),
            ("processes", ("seen_at",)),
        ):
            changes = ", ".join(f"{column} = {column} - {ago}" for column in columns)
            await self.execute(f"UPDATE penstock.{table} SET {changes}")
