"""What a run came to: the closing words, and a table of the report."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import Any

from penstock.cli.run.history import History, Interval
from penstock.cli.run.journal import MALFORMED
from penstock.cli.run.meter import duration
from penstock.cli.run.results import Totals

#: Kinds of failures that are told with a reason.
_MOST_REASONS = 5


def summary(
    totals: Totals, history: History, elapsed: float, capacity: int, results: str
) -> list[tuple[str, str]]:
    """What a run came to in ``elapsed`` seconds: pairs of a name and what there is to say."""
    answered = len(totals.latencies)
    run = history.total()
    rows = [
        ("sent", f"{totals.sent} requests in {elapsed:.1f} s, {totals.calls} calls"),
        *_earlier(totals),
        ("succeeded", str(totals.succeeded)),
        ("failed", _by_kind(totals.failed)),
        *_reasons(history),
        ("retries", _by_kind(totals.retries)),
        ("waiting", _waiting(run)),
        (
            "backpressure",
            f"{totals.backpressure_waits} waits; at most {totals.queue_peak} of {capacity} queued",
        ),
    ]
    if totals.held_up:
        rows.append(("held up", f"{totals.held_up} times, as the server asked"))
    if totals.tokens is not None:
        before = f", and {totals.tokens_earlier:,.0f} earlier" if totals.tokens_earlier else ""
        rows.append(("tokens", f"{totals.tokens:,.0f}{before}"))
    if answered:
        rows += [
            (
                "latency",
                f"p50 {totals.percentile(50):.3f} s, p95 {totals.percentile(95):.3f} s",
            ),
            ("throughput", f"{answered / elapsed:.1f} requests/s"),
        ]
    if totals.unfinished:
        rows.append(("unfinished", f"{totals.unfinished} were in progress and have no result"))
    rows.append(("results", results))
    return rows


def _earlier(totals: Totals) -> Iterator[tuple[str, str]]:
    if totals.skipped or totals.failed_earlier:
        earlier = f"{totals.skipped} succeeded, {totals.failed_earlier} failed; not sent again"
        yield "earlier", earlier
    if totals.changed:
        yield "changed", f"{totals.changed} lines differ from the earlier run; sent again"
    if totals.kept:
        yield "kept", f"{totals.kept} lines differ from the earlier run; not sent"
    if totals.duplicates:
        yield "duplicates", f"{totals.duplicates} lines, sent once"


def _reasons(history: History) -> Iterator[tuple[str, str]]:
    """Each kind of failure once, in the words of the service, with an id to look for."""
    for kind, _ in history.failures.most_common(_MOST_REASONS):
        if kind in history.messages and kind != MALFORMED:  # those were told one by one
            which = ascii(history.examples[kind])
            yield "", f"{kind}: {history.messages[kind]} (id {which[:60]})"


def as_json(
    totals: Totals, history: History, elapsed: float, code: int, problem: str | None
) -> str:
    """The same as one line of JSON."""
    answered = len(totals.latencies)
    fields: dict[str, Any] = {
        "exit_code": code,
        "problem": problem,
        "seconds": round(elapsed, 3),
        "sent": totals.sent,
        "calls": totals.calls,
        "succeeded": totals.succeeded,
        "failed": dict(totals.failed),
        "failures": {
            kind: {"message": message, "id": history.examples[kind]}
            for kind, message in history.messages.items()
        },
        "retries": dict(+totals.retries),
        "refused": totals.refused,
        "earlier": {"succeeded": totals.skipped, "failed": totals.failed_earlier},
        "changed": totals.changed,
        "kept": totals.kept,
        "duplicates": totals.duplicates,
        "unfinished": totals.unfinished,
        "tokens": totals.tokens,
        "tokens_earlier": totals.tokens_earlier,
        "latency": {
            f"p{percent}": round(totals.percentile(percent), 6) if answered else None
            for percent in (50, 95)
        },
    }
    return json.dumps(fields)


def printed(rows: Sequence[tuple[str, str]]) -> str:
    """The summary on lines of a terminal."""
    return "\n".join(f"{name:<13}{value}" for name, value in rows)


def _waiting(run: Interval) -> str:
    text = f"{duration(run.first_wait.mean or 0.0)} for the first attempt"
    if run.retry_wait.count:
        text += f", {duration(run.retry_wait.mean or 0.0)} for another one"
    return f"{text}, on average"


def _by_kind(counts: Counter[str]) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.most_common() if count)
    return f"{counts.total()} ({kinds})" if kinds else "0"
