"""The commands for a queue that more than one machine has."""

from __future__ import annotations

import typer

from penstock.cli.brokers import put, watch, worker


def add_commands(app: typer.Typer) -> None:
    """Add ``put``, ``worker`` and ``queue``."""
    for name, short, module, function in (
        ("put", "Put the lines of a file into a queue on a broker.", put, put.put),
        ("worker", "Call a function with each item of a queue on a broker.", worker, worker.worker),
        ("queue", "Show a queue on a broker, and its dead letters.", watch, watch.watch),
    ):
        app.command(name, help=module.HELP, short_help=short, epilog=module.EPILOG)(function)
