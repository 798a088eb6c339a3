"""Carrying out a run, and telling people what became of it."""

from __future__ import annotations

import asyncio
import sys
from typing import TextIO

from penstock.cli.display import display_on, say
from penstock.cli.files import STANDARD
from penstock.cli.report.report import ReportError, RunInfo, write_report
from penstock.cli.run.history import History
from penstock.cli.run.job import WRONG_INPUT, RunError, RunJob
from penstock.cli.run.journal import MALFORMED
from penstock.cli.run.results import Totals
from penstock.cli.run.run import Run
from penstock.cli.run.summary import as_json, printed, summary

_AGAIN = "Run the same command again to continue from here."
_GONE = "The results have what is done, but another run cannot read them: use --out FILE."


def carry_out(
    job: RunJob,
    expected: int | None,
    out: str,
    stream: TextIO,
    report: str | None,
    subject: RunInfo,
    style: str = "",
) -> int:
    """Do it, tell it on ``stream``, draw it in ``report``, and return the exit code.

    ``style``: "json" for a summary in JSON, "quiet" for none; "" for people.
    """
    totals = Totals(expected=expected)
    history = History(job.rates[0] if job.rates else None, job.tokens)
    problem: RunError | None = None
    interrupted_by = None
    if job.results.earlier.torn_at is not None:
        say(
            stream,
            f"the last line of {out} is incomplete and was removed; its request is sent again",
        )
    with display_on(stream, totals, history, is_quiet=bool(style)) as display:
        try:
            interrupted_by = asyncio.run(Run(job, totals, display, history)())
        except RunError as error:
            problem = error
        finally:
            job.results.release()
    if problem is not None and problem.code == WRONG_INPUT and not totals.sent:
        job.results.remove_if_new()
        say(sys.stderr, f"penstock: {problem}")
        return problem.code
    elapsed = totals.elapsed
    results = "standard output" if out == STANDARD else out
    rows = summary(totals, history, elapsed, job.capacity, results)
    if not style:
        say(stream, printed(rows))
    has_report = True
    if report is not None:
        try:
            write_report(report, subject, totals, history, elapsed, rows)
            if not style:
                say(stream, printed([("report", report)]))
        except ReportError as error:
            say(sys.stderr, f"penstock: {error}")
            has_report = False
    failed = totals.failed.total() + totals.failed_earlier
    code = 1 if failed or not has_report else 0
    code, why = _end(problem, interrupted_by) or (code, None)
    if style == "json":
        say(stream, as_json(totals, history, elapsed, code, why))
    if why is not None:
        say(sys.stderr, f"penstock: {why}. {_AGAIN if job.results.is_journal else _GONE}")
    elif not style and job.results.is_journal and failed > totals.failed[MALFORMED]:
        say(stream, "Run the same command with --retry-failed to send the failed ones again.")
    return code


def _end(problem: RunError | None, interrupted_by: int | None) -> tuple[int, str] | None:
    """The exit code of a run that stopped before its end, and why it did; None: it did not."""
    if problem is not None:
        return problem.code, str(problem).rstrip(".")
    if interrupted_by is not None:
        return 128 + interrupted_by, "interrupted"
    return None


def settings_of(job: RunJob, rates: list[str], tokens: str | None) -> list[tuple[str, str]]:
    """What was asked for, for the report; nothing that is secret."""
    at_once = f"{job.concurrency} at most, adapted" if job.is_adaptive else str(job.concurrency)
    asked = [
        ("Concurrency", at_once),
        ("Queue", str(job.capacity)),
        ("Rate", ", ".join(rates) or None),
        ("Tokens", tokens),
        ("Attempts", f"{job.attempts} at most"),
        ("Timeout of each", f"{job.timeout:g} s"),
        ("Deadline of each", None if job.deadline is None else f"{job.deadline:g} s"),
    ]
    return [(name, value) for name, value in asked if value is not None]
