"""The command line: what can be asked for, and what is checked before anything is done."""

from __future__ import annotations

import sys
from contextlib import ExitStack
from enum import Enum
from importlib.metadata import version
from typing import Annotated, Any, cast

import typer

from penstock.cli.brokers.broker import add_commands
from penstock.cli.display import say
from penstock.cli.files import STANDARD, count_lines, open_requests
from penstock.cli.options import (
    COST,
    USAGE,
    UsageError,
    check_at_least,
    check_seconds,
    option,
    read_base,
    read_concurrency,
    read_config,
    read_cost,
    read_form,
    read_rate,
    read_secrets,
    read_template,
    refuse,
    said,
    set_up_telemetry,
    stream_for_people,
)
from penstock.cli.report.report import ReportError, RunInfo, check_report
from penstock.cli.run.clients import Clients
from penstock.cli.run.job import RunJob
from penstock.cli.run.journal import NotAJournalError, open_failures, open_results
from penstock.cli.run.outcome import carry_out, settings_of
from penstock.cli.run.preview import preview
from penstock.cli.run.requests import KEYS

# typer brings a click of its own or uses the one that is there, by version. What their usage
# errors have in common is the base of this one.
_TyperUsageError: type[Exception] = typer.BadParameter.__bases__[0]

_HELP = f"""
Send the HTTP requests in FILE (- is standard input) under a service's limits. A line is a JSON
object: "path" (under --url) or "url", and {", ".join(KEYS[:2])}, {", ".join(KEYS[4:])} if need be;
or a row that fills --template. The same command again goes on where it stopped.
"""

_EPILOG = """
Exit codes: 0 all succeeded; 1 some failed; 2 wrong usage, or RESULTS is in use: nothing was sent;
stopped by 3 a 401 or spent credit, 4 no answer from anybody, 5 a file, 130 Ctrl-C, 143 SIGTERM.
"""

_FILES, _PACE, _SERVICE = "Files", "Pace", "Service"


class InputKind(str, Enum):
    """What FILE is written in; auto: CSV if its name ends so."""

    AUTO = "auto"
    JSONL = "jsonl"
    CSV = "csv"


def _flowing(text: str) -> str:
    """``text`` without its line breaks, but for those between paragraphs."""
    return "\n\n".join(" ".join(part.split()) for part in text.strip().split("\n\n"))


app = typer.Typer(
    name="penstock",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
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
        typer.Option("--version", callback=_show_version, is_eager=True, help="Say the version."),
    ] = False,
) -> None:
    """Send many requests to services that can say "too many requests"."""


@app.command(help=_flowing(_HELP), epilog=_flowing(_EPILOG))
def run(
    file: Annotated[str, typer.Argument(metavar="FILE", hidden=True)],
    config: Annotated[
        str | None,
        option(
            *(None, "--config", "FILE", 'These options as TOML: rate = "500/min".'),
            callback=read_config,
            is_eager=True,
        ),
    ] = None,
    dry_run: Annotated[
        bool, option(None, "--dry-run", " ", "Show the first requests, send nothing.")
    ] = False,
    report: Annotated[
        str | None, option(None, "--report", "PAGE", "Draw it there as HTML (extra report).")
    ] = None,
    otlp: Annotated[
        str | None, option(None, "--otlp", "ENDPOINT", "Send traces and metrics there.")
    ] = None,
    service_name: Annotated[
        str | None, option(None, "--service-name", "NAME", "The name of this run in traces.")
    ] = None,
    url: Annotated[
        str | None, option(_FILES, "--url", "BASE", "What each path is appended to.")
    ] = None,
    template: Annotated[
        str | None, option(_FILES, "--template", "FILE|JSON", 'As {"path": "/items/{column}"}.')
    ] = None,
    input_format: Annotated[
        InputKind, option(_FILES, "--input-format", "jsonl|csv", "If FILE's name does not tell.")
    ] = InputKind.AUTO,
    out: Annotated[
        str | None, option(_FILES, "--out", "RESULTS", "Where answers go; - is standard output.")
    ] = None,
    failures: Annotated[
        str | None, option(_FILES, "--failures", "FILE", "Where failures go as well.")
    ] = None,
    retry_failed: Annotated[
        bool, option(_FILES, "--retry-failed", " ", "Send again what failed in earlier runs.")
    ] = False,
    overwrite: Annotated[bool, option(_FILES, "--overwrite", " ", "Begin RESULTS anew.")] = False,
    rate: Annotated[
        str | None, option(_PACE, "--rate", "N/TIME", "Requests at most, as in 500/min.")
    ] = None,
    tokens: Annotated[
        str | None, option(_PACE, "--tokens", "N/TIME", "Tokens at most, as in 90000/min.")
    ] = None,
    cost: Annotated[
        str | None, option(_PACE, "--cost", "PATH", f"Where answers tell them ({COST}).")
    ] = None,
    concurrency: Annotated[
        str, option(_PACE, "--concurrency", "N|auto", "Requests at once (10); auto finds out.")
    ] = "10",
    capacity: Annotated[
        int, option(_PACE, "--capacity", "N", "Requests that wait at most (100).")
    ] = 100,
    no_feedback: Annotated[
        bool, option(_PACE, "--no-feedback", " ", "Ignore what headers say of limits.")
    ] = False,
    retry: Annotated[
        int, option(_PACE, "--retry", "N", "Retries of each request at most (4).")
    ] = 4,
    timeout: Annotated[
        float, option(_PACE, "--timeout", "SECONDS", "For each attempt (30).")
    ] = 30.0,
    deadline: Annotated[
        float | None, option(_PACE, "--deadline", "SECONDS", "For each request, waits included.")
    ] = None,
    bearer_env: Annotated[
        str | None, option(_SERVICE, "--bearer-env", "NAME", "Variable that has the token.")
    ] = None,
    header: Annotated[
        list[str] | None, option(_SERVICE, "--header", "'NAME: VALUE'", "For each request.")
    ] = None,
    header_env: Annotated[
        list[str] | None, option(_SERVICE, "--header-env", "NAME=VAR", "The same, of a variable.")
    ] = None,
    keep_going: Annotated[
        bool, option(_SERVICE, "--keep-going", " ", "Whatever it answers, or does not.")
    ] = False,
) -> int:
    """Check everything, then carry it out."""
    check_at_least("--capacity", capacity, 1)
    check_at_least("--retry", retry, 0)
    check_seconds("--timeout", timeout)
    if deadline is not None:
        check_seconds("--deadline", deadline)
    most, is_adaptive = read_concurrency(concurrency)
    request_rate, token_rate = read_rate("--rate", rate), read_rate("--tokens", tokens)
    cost = read_cost(cost, tokens)
    base = read_base(url)
    credentials = read_secrets(header, header_env, bearer_env, base)
    filled = read_template(template, base)
    if out is None and not dry_run:
        refuse("--out is missing: the file that results go to, or - for standard output")
    if failures == STANDARD:
        refuse("--failures must be the name of a file, and not standard output")
    if retry_failed and (overwrite or out == STANDARD):
        other = "--overwrite" if overwrite else "--out -"
        refuse(f"--retry-failed needs the results of earlier runs, and {other} leaves none")
    try:
        clients = Clients(most, credentials)
    except (ImportError, ValueError) as error:
        refuse(f"the proxy settings in the environment cannot be used: {error}")
    if report is not None and not dry_run:
        _check_report(report, file, out, failures)
    if otlp is not None and not dry_run:
        set_up_telemetry(otlp, service_name, "penstock-run")
    with ExitStack() as opened:
        try:
            requests = opened.enter_context(open_requests(file))
            form = read_form(file, input_format.value, filled, base, requests)
            if out is None or dry_run:
                opened.pop_all()  # it closes it itself, as the run does
                say(sys.stdout, preview(requests, form, credentials))
                return 0
            expected = count_lines(requests)
        except OSError as error:
            refuse(f"cannot read {file}: {said(error)}")
        try:
            path = None if cost is None else cost.split(".")
            results = open_results(out, requests, overwrite, path)
        except (NotAJournalError, OSError) as error:
            refuse(f"cannot write --out {out}: {said(error)}")
        opened.callback(results.release)
        try:
            failed = open_failures(failures, requests, results.file) if failures else None
        except (NotAJournalError, OSError) as error:
            refuse(f"cannot write --failures {failures}: {said(error)}")
        job = RunJob(
            requests=requests,
            form=form,
            results=results,
            clients=clients,
            credentials=credentials,
            concurrency=most,
            capacity=capacity,
            attempts=retry + 1,
            timeout=timeout,
            deadline=deadline,
            failures=failed,
            rate=request_rate,
            tokens=token_rate,
            cost=cost,
            is_adaptive=is_adaptive,
            feedback=not no_feedback,
            retry_failed=retry_failed,
            keep_going=keep_going,
        )
        opened.pop_all()  # the run closes them; a read that never ends would keep us from it
    subject = RunInfo(file, url, settings_of(job, rate, tokens))
    return carry_out(job, expected, out, stream_for_people(out), report, subject)


def _check_report(report: str, *others: str | None) -> None:
    files = [name for name in others if name is not None and name != STANDARD]
    try:
        check_report(report, *files)
    except ReportError as error:
        refuse(f"--report: {error}")
