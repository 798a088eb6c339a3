"""What a queue does in its schema: one statement each. See ``migrations`` for the functions."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, NamedTuple

from penstock.brokers.engine import Stored
from penstock.brokers.postgres import problems
from penstock.brokers.postgres.connections import PostgresConnections
from penstock.brokers.postgres.schema import channel_of, check_version
from penstock.brokers.sql.rows import Counts, DeadRow, Kept, NewItem, headers_of
from penstock.brokers.sql.settings import SqlSettings


class SlotLease(NamedTuple):
    """The right to settle an item that was handed out, until the lease ends."""

    slot: int
    #: The item. Numbers grow with the puts, and none is used twice.
    number: int
    #: Each handing-out of the item has another one.
    token: int


class TakenItem(NamedTuple):
    """An item that was handed out."""

    lease: SlotLease
    data: bytes
    headers: dict[str, str]
    #: Seconds since it was put.
    age: float

    @property
    def deliveries(self) -> int:
        """How many times it has been handed out, this time included."""
        return self.lease.token


class SlotStorage:
    """One queue.

    Args:
        schema: a checked name.
        name: that of the queue.
    """

    def __init__(self, connections: PostgresConnections, schema: str, name: str) -> None:
        self._connections = connections
        self._schema = schema
        self._name = name
        self._queue = 0
        self.channel = ""

        def call(function: str, types: str) -> str:
            values = ", ".join(f"%b::{type_}" for type_ in types.split())
            return f'SELECT * FROM "{schema}".{function}({values})'  # noqa: S608 - checked

        # With %b values go as bytes, not as text.
        self._put = call("put", "text bytea text text")
        self._put_many = call("put_many", "int bytea[] text[] float8[]")
        self._take = call("take", "int int")
        self._extend = call("extend", "int int[] bigint[] int[]")
        self._done = call("done", "int int[] bigint[]")
        self._give_back = call("give_back", "int int[] bigint[] int[] float8[]")
        self._add_dead_letter = call("add_dead_letter", "int int bigint int text text")
        self._redrive = call("redrive", "int bigint")
        self._size = call("size", "int")
        self._tell = call("tell", "int text text")

    async def _value(self, query: str, *values: Any) -> Any:
        return (await self._connections.execute(query, values))[0][0]

    async def _rows(self, query: str, *values: Any) -> list[tuple[Any, ...]]:
        return await self._connections.execute(query.format(schema=f'"{self._schema}"'), values)

    # -- the queue ------------------------------------------------------------------------------

    async def settings(self) -> SqlSettings | None:
        """What the queue is set to; None if it is not there.

        Raises:
            BrokerError: the schema is not there, or newer.
        """
        is_there = await self._rows(_HAS_TABLE, f'"{self._schema}".schema_version')
        if not is_there[0][0]:
            raise problems.no_schema(self._connections.where, self._schema)
        ((version,),) = await self._rows(_VERSION)
        check_version(version or 0, self._connections.where)
        if (version or 0) < 1:
            raise problems.no_schema(self._connections.where, self._schema)
        rows = await self._rows(_SETTINGS, self._name)
        if not rows:
            return None
        self._queue = rows[0][0]
        self.channel = channel_of(self._schema, self._queue)
        return SqlSettings(*rows[0][1:])

    async def open(self, settings: SqlSettings) -> None:
        """Make the queue if it is not there, or check that it is the one that is meant.

        Raises:
            BrokerError: it has other settings; or as :meth:`settings`.
        """
        there = await self.settings()
        if there is None:
            values = settings.as_arguments().values()
            await self._rows(_ADD_QUEUE, self._name, *values)
            there = await self.settings()
            assert there is not None
        table = f"{self._schema}.queues"
        settings.check_against(there, self._name, self._connections.where, table)

    # -- items in -------------------------------------------------------------------------------

    async def put(self, item: NewItem) -> Stored:
        """Store an item with an id."""
        headers = headers_text(item.headers)
        return Stored(await self._value(self._put, self._name, item.data, headers, item.id))

    async def put_many(self, items: Sequence[NewItem]) -> tuple[int, bool]:
        """Store the first of the items, as many as there is room for.

        Returns:
            How many; and whether no item was ready before, so that workers may wait.
        """
        ((count, was_idle),) = await self._rows(
            self._put_many,
            self._queue,
            [item.data for item in items],
            [headers_text(item.headers) for item in items],
            [float(item.rank) for item in items],
        )
        return count, was_idle

    # -- handing out ----------------------------------------------------------------------------

    async def take(self, most: int) -> tuple[list[TakenItem], float | None]:
        """Hand out up to ``most`` items; and the seconds until another may be ready, if known."""
        items, left = [], None
        for slot, number, token, data, headers, age in await self._rows(
            self._take, self._queue, most
        ):
            if slot is None:
                left = max(0.0, age)
            else:
                lease = SlotLease(slot, number, token)
                items.append(TakenItem(lease, data, headers_of(headers), age))
        return items, left

    async def extend(self, leases: Sequence[SlotLease]) -> int:
        """Let leases end later; how many hold."""
        if not leases:
            return 0
        count: int = await self._value(
            self._extend, self._queue, *map(list, zip(*leases, strict=True))
        )
        return count

    async def done(self, leases: Sequence[SlotLease]) -> bool:
        """The items are done, whoever has them; whether the queue was full before."""
        slots, numbers, _ = map(list, zip(*leases, strict=True))
        was_full: bool = await self._value(self._done, self._queue, slots, numbers)
        return was_full

    async def give_back(self, returns: Sequence[tuple[SlotLease, float]]) -> int:
        """Have items handed out again in so many seconds; for how many the lease still held."""
        columns = map(list, zip(*(lease for lease, _ in returns), strict=True))
        delays = [float(delay) for _, delay in returns]
        count: int = await self._value(self._give_back, self._queue, *columns, delays)
        return count

    async def add_dead_letter(self, lease: SlotLease, error_type: str, error: str) -> Kept:
        """Make a dead letter of an item."""
        values = (self._queue, *lease, error_type, error)
        return Kept(await self._value(self._add_dead_letter, *values))

    async def set_paused(self, is_paused: bool) -> None:
        """Hand out nothing, to anybody, until it is set back."""
        await self._rows(_PAUSE, is_paused, self._queue)

    # -- dead letters -----------------------------------------------------------------------------

    async def dead_letters(self, limit: int, *, after: int = 0, last: int) -> list[DeadRow]:
        """The oldest ``limit`` dead letters with numbers above ``after``, up to ``last``."""
        rows = await self._rows(_DEAD_LETTERS, self._queue, after, last, limit)
        return [
            DeadRow(number, data, headers_of(headers), deliveries, error_type, error)
            for number, data, headers, deliveries, error_type, error in rows
        ]

    async def last_dead_letter(self) -> int:
        """The number of the newest one; 0 if there is none."""
        return (await self._rows(_LAST_DEAD, self._queue))[0][0] or 0

    async def redrive(self, number: int) -> Stored:
        """Put a dead letter back as if it were new, and remove it; where it is full it stays."""
        return Stored(await self._value(self._redrive, self._queue, number))

    # -- looking ----------------------------------------------------------------------------------

    async def size(self) -> int:
        """How many items are accepted and not done."""
        count: int = await self._value(self._size, self._queue)
        return count

    async def counts(self) -> Counts:
        """How many items of which kind there are."""
        return Counts(*(await self._rows(_COUNTS, self._queue))[0])

    async def tell(self, key: str, told: str | None) -> None:
        """Note what the process ``key`` did, for others who ask; None: it has gone."""
        await self._rows(self._tell, self._queue, key, told)

    async def processes(self, key: str) -> list[str]:
        """What the other processes noted that have it open."""
        return [row[0] for row in await self._rows(_PROCESSES, self._queue, key)]

    async def notify(self, sender: str, *what: str) -> None:
        """Tell whoever listens to the queue. That need not wait for the disk."""
        calls = ", ".join("pg_notify(%s, %s)" for _ in what)
        values = [value for one in what for value in (self.channel + one, sender)]
        await self._connections.execute(f"SELECT {_NOT_DURABLE}, {calls}", values)


def headers_text(headers: dict[str, str]) -> str:
    """Headers as they are stored."""
    return json.dumps(headers) if headers else ""


_NOT_DURABLE = "set_config('synchronous_commit', 'off', true)"
_HAS_TABLE = "SELECT to_regclass(%s) IS NOT NULL"
_VERSION = "SELECT max(version) FROM {schema}.schema_version"
_SETTINGS = """
SELECT id, maxsize, ack_wait, max_dead_letters, dedupe FROM {schema}.queues WHERE name = %s
"""
_ADD_QUEUE = """
INSERT INTO {schema}.queues (name, maxsize, ack_wait, max_dead_letters, dedupe)
VALUES (%s, %s, %s, %s, %s) ON CONFLICT (name) DO NOTHING
"""
_PAUSE = "UPDATE {schema}.queues SET is_paused = %s WHERE id = %s"
_DEAD_LETTERS = """
SELECT number, data, headers, deliveries, error_type, error FROM {schema}.dead_letters
WHERE queue = %s AND number > %s AND number <= %s ORDER BY number LIMIT %s
"""
_LAST_DEAD = "SELECT max(number) FROM {schema}.dead_letters WHERE queue = %s"
_COUNTS = """
SELECT maxsize, is_paused, n, in_flight, delayed, redelivered,
    (SELECT count(*) FROM {schema}.dead_letters WHERE queue = id), volume
FROM {schema}.queues, LATERAL (
    SELECT count(*) AS n, count(lease) AS in_flight,
        count(*) FILTER (WHERE due IS NOT NULL AND lease IS NULL) AS delayed,
        count(*) FILTER (WHERE deliveries > 1) AS redelivered,
        coalesce(sum(octet_length(data)), 0)::bigint AS volume
    FROM {schema}.slots WHERE queue = id AND number IS NOT NULL
) AS items WHERE id = %s
"""
_PROCESSES = """
SELECT told FROM {schema}.processes JOIN {schema}.queues ON id = queue
WHERE queue = %s AND key != %s AND seen_at >= clock_timestamp() - make_interval(secs => ack_wait)
"""
