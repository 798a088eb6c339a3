"""The closing words."""

from __future__ import annotations

from penstock.cli.run.history import History
from penstock.cli.run.results import RequestFailure, RequestResult, Totals
from penstock.cli.run.summary import printed, summary


def test_a_bill_says_what_it_took() -> None:
    totals, history = Totals(), History()
    totals.sent = 3
    for number, (kind, attempts) in enumerate([("", 1), ("", 3), ("http_404", 1)]):
        for attempt in range(1, attempts + 1):
            history.started(1.0, 4.0 if attempt == 1 else 1.5, attempt)
        failure = RequestFailure(kind, "no") if kind else None
        totals.add(RequestResult(number, number, 200, None, failure, attempts, 0.5 + number))
    totals.retries["http_429"] += 2
    totals.held_up = 2
    totals.tokens = 12_345.0
    totals.backpressure_waits, totals.queue_peak = 1, 2
    rows = summary(totals, history, 10.0, 5, "results.jsonl")
    assert printed(rows).splitlines() == [
        "sent         3 requests in 10.0 s, 5 calls",
        "succeeded    2",
        "failed       1 (http_404 1)",
        "retries      2 (http_429 2)",
        "waiting      4 s for the first attempt, 1.5 s for another one, on average",
        "backpressure 1 waits; at most 2 of 5 queued",
        "held up      2 times, as the server asked",
        "tokens       12,345",
        "latency      p50 1.500 s, p95 2.500 s",
        "throughput   0.3 requests/s",
        "results      results.jsonl",
    ]


def test_a_bill_of_nothing() -> None:
    told = printed(summary(Totals(), History(), 0.0, 5, "-"))
    assert "sent         0 requests in 0.0 s, 0 calls" in told
    assert "waiting      0 s for the first attempt, on average" in told
