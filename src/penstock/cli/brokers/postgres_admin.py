"""``penstock postgres``: the tables of queues in a PostgreSQL database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Coroutine
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from penstock.cli.brokers.attach import BROKER
from penstock.cli.brokers.postgres import split_schema
from penstock.cli.options import USAGE, refuse
from penstock.errors import BrokerError

if TYPE_CHECKING:
    from penstock.brokers.postgres import PostgresStatus

T = TypeVar("T")

app = typer.Typer(
    name="postgres",
    help="Prepare a PostgreSQL database for queues, and look after it.",
    no_args_is_help=True,
)

Database = Annotated[
    str,
    typer.Argument(
        metavar="URL",
        help="postgresql://user@host/database.",
        envvar="PENSTOCK_BROKER",
        show_default=False,
    ),
]
Schema = Annotated[
    str | None,
    typer.Option("--schema", metavar="NAME", help="Where the tables are (penstock)."),
]


@app.command("init")
def init(url: Database, schema: Schema = None) -> None:
    """Make the tables, or bring them up to date. What is there stays; it can be run again."""

    async def work(url: str, schema: str) -> int:
        from penstock.brokers.postgres import init

        return await init(url, schema=schema)

    version, name = _run(work, url, schema)
    typer.echo(f"schema {name} has version {version}")


@app.command("status")
def status(
    url: Database,
    schema: Schema = None,
    as_json: Annotated[bool, typer.Option("--json", help="Write one JSON object.")] = False,
) -> int:
    """Show the version, the queues, the size of the tables. Exit code 1: run init."""

    async def work(url: str, schema: str) -> PostgresStatus:
        from penstock.brokers.postgres import status

        return await status(url, schema=schema)

    told, name = _run(work, url, schema)
    if as_json:
        typer.echo(json.dumps({"schema": name, **asdict(told)}))
        return int(told.version < told.newest)
    newest = "" if told.version == told.newest else f"; this penstock makes {told.newest}: run init"
    typer.echo(f"schema {name} has version {told.version}{newest}")
    for queue, (size, maxsize) in told.queues.items():
        typer.echo(f"queue {queue}: {size} of {maxsize}")
    for table in told.tables:
        typer.echo(
            f"table {table.name}: {table.bytes / 1e6:.1f} MB, {table.rows} rows, "
            f"{table.dead_rows} to be removed"
        )
    typer.echo(f"oldest snapshot in the database: {told.oldest_snapshot:.0f} s")
    return int(told.version < told.newest)


@app.command("vacuum")
def vacuum(url: Database, schema: Schema = None) -> None:
    """Remove what is left of items that are done, now. The server does it by itself, too."""

    async def work(url: str, schema: str) -> None:
        from penstock.brokers.postgres import vacuum

        await vacuum(url, schema=schema)

    _, name = _run(work, url, schema)
    typer.echo(f"vacuumed the tables in {name}")


def _run(
    work: Callable[[str, str], Coroutine[Any, Any, T]], url: str, schema: str | None
) -> tuple[T, str]:
    """Do it; the result, and the name of the schema."""
    try:
        url, _, in_url = split_schema(url, "")
        name = in_url if schema is None else schema
        return asyncio.run(work(url, name)), name
    except (BrokerError, ImportError) as error:
        refuse(str(error), BROKER if isinstance(error, BrokerError) else USAGE)
    except (TypeError, ValueError) as error:
        refuse(str(error))
