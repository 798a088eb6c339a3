"""The command line: its commands, and how each of them ends."""

from __future__ import annotations

import sys
from importlib.metadata import version
from typing import Annotated, Any, cast

import typer

from penstock.cli.brokers.broker import add_commands
from penstock.cli.display import say
from penstock.cli.options import USAGE, UsageError
from penstock.cli.run import command, export

# typer brings a click of its own or uses the one that is there, by version. What their usage
# errors have in common is the base of this one.
_TyperUsageError: type[Exception] = typer.BadParameter.__bases__[0]

app = typer.Typer(
    name="penstock",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(
    "run",
    help=command.HELP,
    short_help="Send the HTTP requests in a file under a service's limits.",
    epilog=command.EPILOG,
)(command.run)
app.command(
    "results",
    help=export.HELP,
    short_help="Write the newest result of each request of a run.",
    epilog=export.EPILOG,
)(export.results)
add_commands(app)


def run_command(arguments: list[str] | None = None) -> int:
    """Run the command with ``arguments``, or those of the process; return the exit code."""
    exit_code = USAGE
    try:
        code = app(arguments, prog_name="penstock", standalone_mode=False)
    except UsageError as error:
        problem, exit_code = str(error), error.code
    except _TyperUsageError as error:
        usage = cast("Any", error)
        command = usage.ctx.command_path if usage.ctx else "penstock"
        problem = f"{usage.format_message().rstrip('.')} (see {command} --help)"
    except typer.Abort:
        return 130
    else:
        return int(code or 0)
    say(sys.stderr, f"penstock: {problem}")
    return exit_code


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"penstock {version('penstock')}")
        raise typer.Exit


@app.callback()
def penstock(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Show the version."),
    ] = False,
) -> None:
    """Send many requests to services that can say "too many requests"."""
