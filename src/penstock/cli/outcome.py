"""Carrying out a run, and telling people what became of it."""

from __future__ import annotations

import asyncio
import sys
from typing import TextIO

from penstock.cli.display import display_on, say
from penstock.cli.files import STANDARD
from penstock.cli.journal import MALFORMED
from penstock.cli.results import Totals
from penstock.cli.run import UNAUTHORIZED, Job, Run, RunError
from penstock.cli.summary import summary

_AGAIN = "The same command again goes on from here."
_GONE = "What is done is in the results, but another run cannot know it: --out FILE would."


def carry_out(job: Job, expected: int | None, out: str, stream: TextIO) -> int:
    """Do it, tell it on ``stream``, and return the exit code."""
    totals = Totals(expected=expected)
    problem: RunError | None = None
    interrupted_by = None
    if job.results.earlier.torn_at is not None:
        say(stream, f"the last line of {out} is torn and cut off; its request is sent again")
    with display_on(stream, totals) as display:
        try:
            interrupted_by = asyncio.run(Run(job, totals, display)())
        except RunError as error:
            problem = error
        finally:
            job.results.release()
    say(stream, summary(totals, job.capacity, "standard output" if out == STANDARD else out))
    again = _AGAIN if job.results.is_journal else _GONE
    if problem is not None:
        say(sys.stderr, f"penstock: {_sentence(problem)}. {again}")
        return problem.code
    if interrupted_by is not None:
        say(sys.stderr, f"penstock: interrupted. {again}")
        return 128 + interrupted_by
    failed = totals.failed.total() + totals.failed_earlier
    if job.results.is_journal and failed > totals.failed[MALFORMED]:
        say(stream, "The same command with --retry-failed sends the failed ones again.")
    return 1 if failed else 0


def _sentence(problem: RunError) -> str:
    if problem.code == UNAUTHORIZED:
        return f"{problem}: it wants a valid token (--bearer-env, --header-env)"
    return str(problem)
