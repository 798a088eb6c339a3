"""The page of a report: what is told, in HTML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timezone
from html import escape
from http import HTTPStatus
from importlib.resources import files

from penstock._version import __version__
from penstock.cli.report.charts import Count, Series, TimeChart, draw_counts, draw_times
from penstock.cli.run.history import History, Segment, public_url
from penstock.cli.run.meter import duration, number
from penstock.cli.run.results import Totals
from penstock.cli.run.sketch import RELATIVE_ERROR, Gauge

#: What a report can be known by, near its beginning.
MARK = "<!-- a report of penstock run -->"
#: Nothing runs, nothing is loaded, nothing is sent.
_POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
_PERCENTILES = ((99, "bad", "wide"), (95, "warn", "line"), (50, "good", "line"))
_SMALL_PRINT = (
    "Held up: the service said to wait. The rate of attempts is an average over five seconds, or "
    "over the time of its limit. "
    f"Percentiles over time are within {100 * RELATIVE_ERROR:g} % of the true ones. "
    "URLs are shown without user and query."
)
#: A chart has so many pieces at most, and shows so many kinds of answers.
_MOST_PIECES, _MOST_KINDS = 48, 12


@dataclass(frozen=True)
class RunInfo:
    """What was run, for the report: the file of the requests, where they went, and how."""

    requests: str
    url: str | None = None
    #: Names and words, for people.
    settings: Sequence[tuple[str, str]] = ()
    began: datetime = field(default_factory=lambda: datetime.now(timezone.utc))


def page(
    subject: RunInfo,
    totals: Totals,
    history: History,
    elapsed: float,
    summary: Sequence[tuple[str, str]],
) -> str:
    """Make the page. See :func:`penstock.cli.report.write_report` for the arguments."""
    pieces = history.segments(elapsed, _MOST_PIECES)
    name = "standard input" if subject.requests == "-" else subject.requests
    began = f"{subject.began:%Y-%m-%d %H:%M:%S} UTC"
    where = "" if subject.url is None else f" to <bdi>{_text(public_url(subject.url))}</bdi>"
    style = files("penstock.cli.report").joinpath("report.css").read_text(encoding="utf-8")
    parts = [
        "<!doctype html>",
        MARK,
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        '<meta name="color-scheme" content="light dark">',
        '<meta name="referrer" content="no-referrer">',
        f"<title>{_text(name)}: a run of penstock</title>",
        f"<style>{style}</style></head><body><main>",
        f"<header><p>A run of penstock</p><h1><bdi>{_text(name)}</bdi></h1>",
        f"<p>Requests sent{where} on <time>{began}</time>, in {duration(elapsed)}</p></header>",
        _tiles(totals, history, elapsed),
        *_pictures(history, pieces),
        '<div class="columns">',
        _section("Summary", _pairs(summary)),
        "<div>",
        _errors(history),
        _section("Asked for", _pairs(subject.settings)) if subject.settings else "",
        "</div></div>",
        _failures(history),
        _slowest(history),
        f"<footer>Made by penstock {__version__}. {_SMALL_PRINT}</footer></main></body></html>",
    ]
    return "\n".join(part for part in parts if part) + "\n"


def _tiles(totals: Totals, history: History, elapsed: float) -> str:
    failed, rejected = totals.failed.total(), history.total().answers["429"]
    tiles = [
        ("succeeded", f"{totals.succeeded:,}", "good"),
        ("failed", f"{failed:,}", "bad" if failed else ""),
        ("attempts", f"{history.total().latency.count:,}", ""),
        ("answers of 429", f"{rejected:,}", "warn" if rejected else ""),
    ]
    if totals.latencies:
        tiles += [
            ("requests/s", number(len(totals.latencies) / elapsed), ""),
            ("median latency", duration(totals.percentile(50)), ""),
            ("p99 of latency", duration(totals.percentile(99)), ""),
        ]
    if totals.tokens is not None:
        tiles.append(("tokens", f"{totals.tokens:,.0f}", ""))
    cells = "".join(
        f'<div class="{colour}"><dd>{value}</dd><dt>{name}</dt></div>'
        for name, value, colour in tiles
    )
    return f'<dl class="tiles">{cells}</dl>'


# -- pictures -------------------------------------------------------------------------------------


def _pictures(history: History, pieces: Sequence[Segment]) -> Iterator[str]:
    if not pieces:
        yield "<p>Nothing was sent, so there is nothing to draw.</p>"
        return
    yield '<div class="pictures">'
    for chart in _charts(history, pieces):
        yield _time_figure(chart, pieces)
    yield "</div>"


def _errors(history: History) -> str:
    answers = history.total().answers
    wrong = [(name, count) for name, count in answers.most_common() if not _is_good(name)]
    if not wrong:
        return ""
    counts = [
        Count(_answer(name), count, "warn" if name == "429" else "bad")
        for name, count in wrong[:_MOST_KINDS]
    ]
    alt = "Attempts that failed: " + ", ".join(f"{one.name} {one.count}" for one in counts)
    table = _table(["Answer", "Attempts"], [[_answer(name), f"{count:,}"] for name, count in wrong])
    return _figure("Errors by kind", "attempts", "", alt, draw_counts("kinds", counts), table)


def _charts(history: History, pieces: Sequence[Segment]) -> Iterator[TimeChart]:
    def per_second(*counts: float) -> list[float]:
        return [count / piece.seconds for count, piece in zip(counts, pieces, strict=True)]

    each = [piece.of for piece in pieces]
    good = per_second(*(one.finished - one.failed for one in each))
    bad = per_second(*(one.failed for one in each))
    throughput = [
        Series("succeeded", "good", good, "area"),
        Series("failed", "bad", bad, "area"),
        Series("attempts", "ink", _means(one.rate for one in each)),
    ]
    rate = history.rate
    if rate.maximum is not None:
        limit = [rate.maximum / rate.per] * len(pieces)
        throughput.append(Series("limit", "soft", limit, "dashes"))
    yield TimeChart("throughput", "Throughput", "/s", throughput)

    percentiles = [
        Series(f"p{percent}", colour, [one.latency.percentile(percent) for one in each], kind)
        for percent, colour, kind in _PERCENTILES
    ]
    yield TimeChart("latency", "Latency of attempts", "s", percentiles, may_be_logarithmic=True)

    rejected = [one.answers["429"] for one in each]
    wrong = [sum(n for what, n in one.answers.items() if not _is_good(what)) for one in each]
    others = [all_ - some for all_, some in zip(wrong, rejected, strict=True)]
    answers = [
        Series("429, too many requests", "warn", per_second(*rejected), "bars"),
        Series("other errors", "bad", per_second(*others), "bars"),
    ]
    yield TimeChart("errors", "429s and other errors", "/s", answers)

    concurrency = [
        Series("under way", "other", _means(one.in_use for one in each), "area"),
        Series("limit", "soft", _means(one.concurrency for one in each), "dashes"),
    ]
    yield TimeChart("concurrency", "Requests at once", "", concurrency)

    waiting = [
        Series("for the first attempt", "good", _means(one.first_wait for one in each)),
        Series("for another attempt", "warn", _means(one.retry_wait for one in each)),
    ]
    yield TimeChart("waiting", "Waiting, on average", "s", waiting)

    queued = [
        Series("in the queue", "other", _means(one.queued for one in each), "area"),
        Series("room", "soft", [history.now.capacity] * len(pieces), "dashes"),
    ]
    yield TimeChart("queue", "Queue", "", queued)

    if history.tokens is not None:
        tokens = [Series("tokens", "good", _means(one.token_rate for one in each))]
        if history.tokens.maximum is not None:
            limit = [history.tokens.maximum / history.tokens.per] * len(pieces)
            tokens.append(Series("limit", "soft", limit, "dashes"))
        yield TimeChart("tokens", "Tokens", "/s", tokens)


def _means(gauges: Iterator[Gauge]) -> list[float | None]:
    return [gauge.mean for gauge in gauges]


def _time_figure(chart: TimeChart, pieces: Sequence[Segment]) -> str:
    keys = [f'<span class="{one.colour} {one.kind}">{one.name}</span>' for one in chart.series]
    if any(piece.of.held_up.total for piece in pieces):
        keys.append('<span class="warn held">held up</span>')
    told = []
    for one in chart.series:
        known = [value for value in one.values if value is not None]
        if known:
            span = f"{number(min(known))} to {number(max(known))} {chart.unit}".rstrip()
            told.append(f"{one.name} {span}")
    alt = f"{chart.title} over {duration(pieces[-1].end)}: {'; '.join(told) or 'nothing'}"
    rows = [
        [
            f"{duration(piece.begin)} to {duration(piece.end)}",
            *("" if (value := one.values[i]) is None else number(value) for one in chart.series),
        ]
        for i, piece in enumerate(pieces)
    ]
    unit = f", {chart.unit}" if chart.unit else ""
    table = _table(["Time", *(f"{one.name}{unit}" for one in chart.series)], rows)
    svg = draw_times(chart, pieces)
    return _figure(chart.title, chart.unit, "".join(keys), alt, svg, table)


def _figure(title: str, unit: str, keys: str, alt: str, svg: str, table: str) -> str:
    unit = f" <small>{unit}</small>" if unit else ""
    keys = f'<p class="keys">{keys}</p>' if keys else ""
    return (
        f"<figure><figcaption><h2>{title}{unit}</h2>{keys}</figcaption>"
        f'<div role="img" aria-label="{_text(alt)}">{svg}</div>'
        f"<details><summary>Figures</summary>{table}</details></figure>"
    )


# -- tables ---------------------------------------------------------------------------------------


def _failures(history: History) -> str:
    if not history.failures:
        return ""
    rows = [
        [kind, f"{count:,}", history.messages.get(kind, "")]
        for kind, count in history.failures.most_common()
    ]
    return _section("Failed for good", _table(["Kind", "Requests", "The first one says"], rows))


def _slowest(history: History) -> str:
    rows = [
        [
            str(slow.id),
            str(slow.line),
            f"{slow.method} {slow.url}",
            f"{slow.seconds:.3f} s",
            str(slow.attempts),
            slow.outcome,
        ]
        for slow in history.slowest
    ]
    if not rows:
        return ""
    heads = ["Id", "Line", "Request", "Took", "Attempts", "Outcome"]
    return _section("Slowest requests", _table(heads, rows))


def _section(title: str, content: str) -> str:
    return f"<section><h2>{title}</h2>{content}</section>"


def _pairs(rows: Sequence[tuple[str, str]]) -> str:
    cells = (
        f'<tr><th scope="row">{_text(name)}</th><td><bdi>{_text(value)}</bdi></td></tr>'
        for name, value in rows
    )
    return f'<div class="scroll"><table class="pairs">{"".join(cells)}</table></div>'


def _table(heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f'<th scope="col">{_text(one)}</th>' for one in heads)
    body = "".join(
        "<tr>" + "".join(f"<td><bdi>{_text(cell)}</bdi></td>" for cell in row) + "</tr>"
        for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _is_good(answer: str) -> bool:
    return len(answer) == 3 and answer.startswith("2")


def _answer(name: str) -> str:
    try:
        return f"{name} {HTTPStatus(int(name)).phrase}"
    except ValueError:  # none that there is a name for, or a word
        return name


def _text(text: str) -> str:
    return escape(text)
