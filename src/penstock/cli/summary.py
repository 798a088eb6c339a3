"""The closing words of a run."""

from __future__ import annotations

from collections import Counter

from penstock.cli.results import Totals


def summary(totals: Totals, capacity: int, results: str) -> str:
    """What was done, one thing a line."""
    elapsed = totals.elapsed
    answered = len(totals.latencies)
    rows = [("sent", f"{totals.sent} requests in {elapsed:.1f} s, {totals.calls} calls")]
    if totals.skipped or totals.failed_earlier:
        earlier = f"{totals.skipped} succeeded, {totals.failed_earlier} failed; not sent again"
        rows.append(("earlier", earlier))
    if totals.duplicates:
        rows.append(("duplicates", f"{totals.duplicates} lines, sent once"))
    rows += [
        ("succeeded", str(totals.succeeded)),
        ("failed", _by_kind(totals.failed)),
        ("retries", _by_kind(totals.retries)),
        (
            "backpressure",
            f"{totals.backpressure_waits} waits; at most {totals.queue_peak} of {capacity} queued",
        ),
    ]
    if totals.held_up:
        rows.append(("held up", f"{totals.held_up} times, as the server asked"))
    if totals.tokens is not None:
        earlier = f", and {totals.tokens_earlier:,.0f} earlier" if totals.tokens_earlier else ""
        rows.append(("tokens", f"{totals.tokens:,.0f}{earlier}"))
    if answered:
        rows += [
            (
                "latency",
                f"p50 {totals.percentile(50):.3f} s, p95 {totals.percentile(95):.3f} s",
            ),
            ("throughput", f"{answered / elapsed:.1f} requests/s"),
        ]
    if totals.unfinished:
        rows.append(("unfinished", f"{totals.unfinished} were under way and have no result"))
    rows.append(("results", results))
    return "\n".join(f"{name:<13}{value}" for name, value in rows)


def _by_kind(counts: Counter[str]) -> str:
    kinds = ", ".join(f"{kind} {count}" for kind, count in counts.most_common() if count)
    return f"{counts.total()} ({kinds})" if kinds else "0"
