"""The command line: what can be asked for, and what is checked before anything is done."""

from __future__ import annotations

import asyncio
import io
import math
import os
import sys
from contextlib import ExitStack
from importlib.metadata import version
from typing import Annotated, Any, NoReturn, TextIO, cast

import typer

from penstock.cli.broker import add_commands
from penstock.cli.display import display_on, say, summary
from penstock.cli.files import STANDARD, count_lines, open_requests, open_results
from penstock.cli.requests import KEYS, parse_base
from penstock.cli.results import Totals
from penstock.cli.run import Job, Run, RunError
from penstock.cli.sender import open_client
from penstock.config import parse_rate
from penstock.telemetry import setup

# typer brings a click of its own or uses the one that is there, by version. What their usage
# errors have in common is the base of this one.
_TyperUsageError: type[Exception] = typer.BadParameter.__bases__[0]

_HELP = f"""
Send the HTTP requests in FILE through a bounded queue.

Each line of FILE is a JSON object: a "path" under --url or a full "url"; "method" (GET if left
out), "params", "json" (the body), "headers", and an "id" (else the number of the line), which is
also sent as X-Request-Id. Nothing but {", ".join(KEYS)}. Blank lines are skipped. A malformed
line is told, counts as failed, and the run goes on.

Answers of 429, 500, 502, 503 and 504, broken connections and timeouts are tried again, whatever
the method: after what Retry-After says, or else after a random and growing pause. When an answer
says how long to wait, or that nothing remains of a rate limit, all requests wait. Redirects are
followed. A status of 2xx is a success, and any other a failure.

Each result is a line, written as it comes: "id", "line", "status", "body" or "error" ("kind",
"message", and the "body" of the answer if it has one), "attempts", and "seconds" from the first
attempt to the end.
"""

_EXIT_HELP = """
Exit codes:

0  every line has a successful result

1  some have not, or a file could not be read or written to its end

2  wrong usage; nothing was sent

130  interrupted by Ctrl-C (143: by SIGTERM); what was complete is in the results
"""


def _flowing(text: str) -> str:
    """``text`` without its line breaks, but for those between paragraphs."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


app = typer.Typer(
    name="penstock",
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
add_commands(app)


class UsageError(Exception):
    """What was asked for cannot be done; the message says why."""


def run_command(arguments: list[str] | None = None) -> int:
    """Run the command with ``arguments``, or those of the process; return the exit code."""
    try:
        code = app(arguments, prog_name="penstock", standalone_mode=False)
    except UsageError as error:
        problem = str(error)
    except _TyperUsageError as error:
        usage = cast("Any", error)
        command = usage.ctx.command_path if usage.ctx else "penstock"
        problem = f"{usage.format_message().rstrip('.')} (see {command} --help)"
    except typer.Abort:
        return 130
    else:
        return int(code or 0)
    say(sys.stderr, f"penstock: {problem}")
    return 2


def _show_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"penstock {version('penstock')}")
        raise typer.Exit


@app.callback()
def penstock(
    show_version: Annotated[
        bool,
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    """Send many requests to services that can say "too many requests"."""


@app.command(help=_flowing(_HELP), epilog=_flowing(_EXIT_HELP))
def run(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The requests; - is standard input.")],
    out: Annotated[
        str, typer.Option(metavar="RESULTS", help="Where results go; - is standard output.")
    ],
    url: Annotated[
        str | None, typer.Option(metavar="BASE", help="What each path is appended to.")
    ] = None,
    concurrency: Annotated[int, typer.Option(help="Requests that run at once.")] = 10,
    capacity: Annotated[int, typer.Option(help="Requests that wait at most.")] = 100,
    rate: Annotated[
        str | None, typer.Option(metavar="N/TIME", help="Requests at most, as in 500/min.")
    ] = None,
    tokens: Annotated[
        str | None, typer.Option(metavar="N/TIME", help="Tokens at most, as in 90000/min.")
    ] = None,
    cost: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="Where an answer says its tokens (usage.total_tokens)."),
    ] = None,
    adaptive: Annotated[
        bool, typer.Option(help="Find out how many at once, up to --concurrency.")
    ] = False,
    retry: Annotated[
        int | None, typer.Option(metavar="N", help="Retries of each request at most (4).")
    ] = None,
    attempts: Annotated[
        int | None, typer.Option(metavar="N", help="The same, and the first attempt with them.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds for each attempt at most.")] = 30.0,
    overwrite: Annotated[bool, typer.Option(help="Replace RESULTS if it exists.")] = False,
    otlp: Annotated[
        str | None,
        typer.Option(metavar="ENDPOINT", help="Send traces and metrics there (extra otel)."),
    ] = None,
    service_name: Annotated[
        str | None, typer.Option(metavar="NAME", help="The name of this run in traces.")
    ] = None,
) -> int:
    """Check everything, then carry it out."""
    _check_at_least_one("--concurrency", concurrency)
    _check_at_least_one("--capacity", capacity)
    most_attempts = _attempts(retry, attempts)
    limits = _limits(rate, tokens, cost)
    if math.isnan(timeout) or timeout <= 0:
        _refuse(f"--timeout must be more than 0 seconds, got {timeout:g}")
    base = None
    if url is not None:
        try:
            base = parse_base(url)
        except ValueError as error:  # without the value: there may be a password in it
            _refuse(f"--url {error}")
    try:
        client = open_client(concurrency)
    except (ImportError, ValueError) as error:
        _refuse(f"the proxy settings in the environment cannot be used: {error}")
    if otlp is not None:
        _set_up_telemetry(otlp, service_name)
    with ExitStack() as opened:
        try:
            requests = opened.enter_context(open_requests(file))
            expected = count_lines(requests)
        except OSError as error:
            _refuse(f"cannot read {file}: {error.strerror or error}")
        try:
            results = open_results(out, requests, overwrite)
        except OSError as error:
            _refuse(f"cannot write --out {out}: {error.strerror or error}")
        opened.pop_all()  # from here on the run closes them
    job = Job(
        requests,
        results,
        client,
        base,
        concurrency,
        capacity,
        most_attempts,
        timeout,
        *limits,
        cost=cost or "usage.total_tokens",
        is_adaptive=adaptive,
    )
    return _carry_out(job, expected, out)


def _attempts(retry: int | None, attempts: int | None) -> int:
    if retry is not None and attempts is not None:
        _refuse("--retry and --attempts say the same in two ways: give one")
    if retry is not None:
        if retry < 0:
            _refuse(f"--retry must be at least 0, got {retry}")
        return retry + 1
    if attempts is not None:
        _check_at_least_one("--attempts", attempts)
        return attempts
    return 5


def _limits(
    rate: str | None, tokens: str | None, cost: str | None
) -> tuple[tuple[float, float] | None, tuple[float, float] | None]:
    if cost is not None and tokens is None:
        _refuse("--cost says where the --tokens of a request are told: give --tokens too")
    if cost is not None and not all(cost.split(".")):
        _refuse(f"--cost must be a path such as usage.total_tokens, got {cost!r}")
    return _rate("--rate", rate), _rate("--tokens", tokens)


def _rate(name: str, text: str | None) -> tuple[float, float] | None:
    try:
        return None if text is None else parse_rate(text)
    except ValueError as error:
        _refuse(f"{name}: {error}")


def _set_up_telemetry(endpoint: str, service_name: str | None) -> None:
    name = service_name or os.environ.get("OTEL_SERVICE_NAME") or "penstock-run"
    try:
        setup(name, endpoint)
    except (ImportError, ValueError) as error:
        _refuse(f"--otlp: {error}")


def _check_at_least_one(name: str, value: int) -> None:
    if value < 1:
        _refuse(f"{name} must be at least 1, got {value}")


def _refuse(problem: str) -> NoReturn:
    raise UsageError(problem)


def _carry_out(job: Job, expected: int | None, out: str) -> int:
    stream = _stream_for_people(out)
    totals = Totals(expected=expected)
    problem = interrupted_by = None
    with display_on(stream, totals) as display:
        try:
            interrupted_by = asyncio.run(Run(job, totals, display)())
        except RunError as error:
            problem = str(error)
    say(stream, summary(totals, job.capacity, "standard output" if out == STANDARD else out))
    if problem is not None:
        say(sys.stderr, f"penstock: {problem}")
        return 1
    if interrupted_by is not None:
        say(sys.stderr, "penstock: interrupted")
        return 128 + interrupted_by
    return 1 if totals.failed else 0


def _stream_for_people(out: str) -> TextIO:
    stream = sys.stderr if out == STANDARD else sys.stdout
    if stream is None:
        return io.TextIOWrapper(open(os.devnull, "wb"))
    if isinstance(stream, io.TextIOWrapper):
        stream.reconfigure(errors="backslashreplace")  # a file's name may be in no encoding
    return stream
