"""The commands for a queue that more than one machine has."""

from __future__ import annotations

import typer

from penstock.cli.brokers import put, watch, worker


def add_commands(app: typer.Typer) -> None:
    """Add ``worker``, ``put`` and ``queue``."""
    app.command("worker", help=worker.HELP, epilog=worker.EPILOG)(worker.worker)
    app.command("put", help=put.HELP, epilog=put.EPILOG)(put.put)
    app.command("queue", help=watch.HELP, epilog=watch.EPILOG)(watch.watch)
