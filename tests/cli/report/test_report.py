"""The report: a page that real people open in a real browser, anywhere, years later."""

from __future__ import annotations

import errno
import os
import re
import signal
import subprocess
import threading
from collections.abc import Iterator
from datetime import datetime, timezone
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from penstock.cli.report.report import ReportError, RunInfo, check_report, write_report
from penstock.cli.run.history import History, Snapshot
from penstock.cli.run.requests import Request
from penstock.cli.run.results import RequestFailure, RequestResult, Totals

BEGAN = datetime(2026, 2, 3, 4, 5, 6, tzinfo=timezone.utc)
EVIL = '<script>document.title = "owned"</script>'
EVIL_END = '</script></style></title><img src="http://127.0.0.1:9/x" onerror="alert(1)">'


def a_run(minutes: float = 2) -> tuple[Totals, History, float]:
    """A run that had its troubles, a request every half second."""
    totals, history = Totals(), History((2, 1.0), (5000, 60.0))
    elapsed = minutes * 60
    for number in range(int(elapsed * 2)):
        at = number / 2
        history.sample(at, Snapshot(8, number % 100, 100, 1.0 if 30 < at < 40 else 0.0))
        history.started(at, at / 100, 1)
        if number % 5 == 0:
            history.ended(at, 0.2, "429")
            history.started(at, 1.5, 2)
        history.ended(at, 0.1 + number % 7 / 10, "404" if number % 50 == 1 else "200")
        history.spent(at, 30)
        failure = RequestFailure("http_404", "404 Not Found") if number % 50 == 1 else None
        result = RequestResult(
            f"id-{number}", number, 200, None, failure, 1, 0.1 + number % 97 / 50
        )
        request = Request(number, result.id, "GET", "http://localhost:80/things", {}, None)
        history.finished(at, result, request)
        totals.add(result)
        totals.sent += 1
    totals.tokens = 60.0 * elapsed
    return totals, history, elapsed


def write(path: Path, run: tuple[Totals, History, float] | None = None, **fields: Any) -> str:
    totals, history, elapsed = a_run() if run is None else run
    subject = RunInfo(**{"requests": "requests.jsonl", "began": BEGAN, **fields})
    write_report(str(path), subject, totals, history, elapsed, [("sent", "240 requests")])
    return path.read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def drawn(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of that run."""
    path = tmp_path_factory.mktemp("drawn") / "report.html"
    write(path, url="https://api.example.com/v1")
    return path


class Page(HTMLParser):
    """What a browser would make of it: elements with their attributes, and texts."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data: str) -> None:
        self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def test_a_report_has_all_the_pictures_and_the_figures_below_them(drawn: Path) -> None:
    text = drawn.read_text(encoding="utf-8")
    page = Page(text)
    titles = re.findall(r"<figcaption><h2>(.+?)(?: <small>.+?)?</h2>", text)
    assert titles == [
        "Throughput",
        "Latency of attempts",
        "429s and other errors",
        "Requests at once",
        "Waiting, on average",
        "Queue",
        "Tokens",
        "Errors by kind",
    ]
    assert len(page.all("svg")) == len(page.all("figure")) == len(page.all("details")) == 8
    alts = [cell["aria-label"] or "" for cell in page.all("div") if cell.get("role") == "img"]
    assert len(alts) == 8
    assert alts[0].startswith("Throughput over 2 min: succeeded ")
    assert alts[-1] == "Attempts that failed: 429 Too Many Requests 48, 404 Not Found 5"
    for told in ("id-96", "GET http://localhost:80/things", "404 Not Found", "240 requests"):
        assert told in page.texts
    assert "2026-02-03 04:05:06 UTC" in page.texts
    assert "https://api.example.com/v1" in page.texts
    assert "held up" in page.texts
    assert page.all("html") == [{"lang": "en"}]
    assert text.count("<h1>") == 1


def test_the_figures_below_a_picture_are_those_of_the_run(drawn: Path) -> None:
    text = drawn.read_text(encoding="utf-8")
    table = re.search(r"<h2>Throughput.*?<table>(.*?)</table>", text, re.DOTALL)
    assert table is not None
    rows = [re.findall(r"<bdi>(.*?)</bdi>", row) for row in re.findall(r"<tr>(.*?)</tr>", table[1])]
    heads = re.findall(r'<th scope="col">(.*?)</th>', table[1])
    assert heads == ["Time", "succeeded, /s", "failed, /s", "attempts, /s", "limit, /s"]
    assert 20 < len(rows[1:]) <= 48
    succeeded = [float(row[1]) for row in rows[1:]]
    failed = [float(row[2]) for row in rows[1:]]
    assert all(1.5 <= good + bad <= 2.6 for good, bad in zip(succeeded, failed, strict=True))
    assert sum(failed) > 0
    assert {row[4] for row in rows[1:]} == {"2"}


def test_a_page_needs_nothing_but_itself_and_runs_nothing(drawn: Path) -> None:
    text = drawn.read_text(encoding="utf-8")
    page = Page(text)
    policy = [meta["content"] for meta in page.all("meta") if "http-equiv" in meta]
    assert policy == [
        "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"
    ]
    assert not {"script", "link", "img", "iframe", "object", "a", "image", "use"} & {
        name for name, _ in page.elements
    }
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)
    for _, attributes in page.elements:
        assert not any(name.startswith("on") or name in ("src", "href") for name in attributes)
    identities = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    assert len(identities) == len(set(identities)), "an id is there twice"
    assert len(text) < 400_000


def test_what_users_and_servers_say_is_quoted_and_never_obeyed(tmp_path: Path) -> None:
    totals, history, elapsed = a_run()
    failure = RequestFailure("connection", EVIL_END)
    result = RequestResult(EVIL, 1, None, None, failure, 2, 999.0)
    request = Request(1, EVIL, EVIL_END, f"http://localhost/{EVIL}", {}, None)
    history.finished(60, result, request)
    history.finished(
        61, RequestResult("half \ud83d a smile", 2, 200, None, None, 1, 998.0), request
    )
    text = write(
        tmp_path / "report.html",
        (totals, history, elapsed),
        requests=EVIL,
        url=f"http://localhost/{EVIL}",
        settings=[(EVIL, EVIL_END)],
    )
    page = Page(text)
    assert not page.all("script")
    assert not page.all("img")
    assert page.texts.count(EVIL) >= 3
    assert EVIL_END in page.texts
    assert "half \\ud83d a smile" in page.texts


def test_no_secret_of_a_url_is_in_it(tmp_path: Path) -> None:
    totals, history, elapsed = a_run()
    url = "https://user:s3cret@host/path?token=s3cret#s3cret"
    failure = RequestFailure("connection", f"no way to {url}")
    result = RequestResult("a", 1, None, None, failure, 2, 999.0)
    history.finished(60, result, Request(1, "a", "GET", url, {"X-Key": "s3cret"}, b"s3cret"))
    text = write(tmp_path / "report.html", (totals, history, elapsed), url=url)
    assert "s3cret" not in text
    assert "https://host/path" in Page(text).texts


def test_a_run_that_sent_nothing_has_a_report_too(tmp_path: Path) -> None:
    text = write(tmp_path / "report.html", (Totals(), History(), 0.0), requests="-")
    assert "Nothing was sent" in text
    assert "standard input" in text


@pytest.mark.parametrize("seconds", [0.05, 3, 200])
def test_short_runs_can_be_drawn(tmp_path: Path, seconds: float) -> None:
    history, totals = History(), Totals()
    history.started(0.01, 0.0, 1)
    history.ended(0.02, 0.01, "200")
    history.sample(0.02, Snapshot(1, 0, 1))
    result = RequestResult(1, 1, 200, None, None, 1, 0.01)
    history.finished(0.02, result)
    totals.add(result)
    assert write(tmp_path / "report.html", (totals, history, seconds)).count("<svg") == 6


NOTHING = (Totals(), History(), 0.0)


# -- the file -------------------------------------------------------------------------------------


def test_a_report_replaces_one_in_one_go_and_leaves_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write(path, NOTHING)
    before = path.stat().st_ino
    check_report(str(path))
    write(path, NOTHING)
    assert path.stat().st_ino != before
    assert os.listdir(tmp_path) == ["report.html"]


def test_a_full_disk_costs_no_more_than_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "report.html"
    before = write(path, NOTHING)

    def full(descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ReportError, match=r"cannot write the report .*: No space left on device"):
        write(path, NOTHING)
    assert path.read_text(encoding="utf-8") == before
    assert os.listdir(tmp_path) == ["report.html"]


@pytest.mark.skipif(os.name == "nt", reason="needs privileges there")
def test_a_link_stays_a_link(tmp_path: Path) -> None:
    (tmp_path / "link.html").symlink_to(tmp_path / "report.html")
    write(tmp_path / "link.html", NOTHING)
    assert (tmp_path / "link.html").is_symlink()
    assert (tmp_path / "report.html").read_text(encoding="utf-8").startswith("<!doctype html>")


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("-", "must be the name of a file"),
        ("nowhere/report.html", r"cannot write nowhere/report.html: there is no folder .*nowhere$"),
        ("precious.txt", "precious.txt exists already and is not a report: give another name"),
        ("folder", "folder exists already and is not a report"),
        ("results.jsonl", "results.jsonl is another file of the run"),
        (os.devnull, f"{os.devnull} exists already and is not a report"),
    ],
)
def test_what_cannot_be_a_report_is_refused_before_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, problem: str
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "precious.txt").write_text("precious")
    with pytest.raises(ReportError, match=problem):
        check_report(name, "results.jsonl")
    assert sorted(os.listdir(tmp_path)) == ["folder", "precious.txt"]


def test_a_missing_extra_is_named_before_the_run(penstock: Any, server: Any) -> None:
    # A module of that name that cannot be imported, as if there were none.
    (penstock.folder / "matplotlib.py").write_text("raise ModuleNotFoundError(name='matplotlib')")
    penstock.environment["PYTHONPATH"] = os.pathsep.join(
        [str(penstock.folder), *filter(None, [os.environ.get("PYTHONPATH")])]
    )
    lines = penstock.lines({"path": "/1"})
    arguments = ("run", lines, "--url", server.url, "--out", "results.jsonl")
    done = penstock.run(*arguments, "--report", "report.html")
    assert done.returncode == 2
    assert done.stderr == (
        "penstock: --report: needs the package matplotlib: pip install 'penstock[report]'\n"
    )
    assert server.seen == []
    assert not (penstock.folder / "results.jsonl").exists()
    assert penstock.run(*arguments).returncode == 0, "without a report nothing needs it"


def test_a_folder_that_goes_away_does_not_cost_the_results(penstock: Any, server: Any) -> None:
    (penstock.folder / "reports").mkdir()

    def answer(seen: Any) -> tuple[int, dict[str, str], bytes]:
        (penstock.folder / "reports").rmdir()
        return 200, {}, b"fine"

    server.answer = answer
    lines = penstock.lines({"path": "/1"})
    done = penstock.run(
        *("run", lines, "--url", server.url, "--out", "results.jsonl"),
        *("--report", "reports/report.html"),
    )
    assert done.returncode == 1
    assert done.stderr == (
        "penstock: cannot write the report reports/report.html: No such file or directory\n"
    )
    assert "succeeded    1" in done.stdout
    assert [result["body"] for result in penstock.results()] == ["fine"]


@pytest.mark.skipif(os.name == "nt", reason="there are no such signals")
def test_a_run_that_is_interrupted_has_its_report(penstock: Any, server: Any) -> None:
    release = threading.Event()
    server.answer = lambda seen: (seen.path == "/1" or release.wait(90), (200, {}, b""))[1]
    lines = penstock.lines({"path": "/1"}, {"path": "/2"})
    with penstock.started(
        *("run", lines, "--url", server.url, "--out", "results.jsonl", "--concurrency", "1"),
        *("--report", "report.html"),
        stdout=subprocess.PIPE,
    ) as process:
        server.wait_for(2)
        process.send_signal(signal.SIGINT)
        assert any(b"once more stops at once" in line for line in process.stdout)
        process.send_signal(signal.SIGINT)
        process.stdout.read()
        assert process.wait(90) == 130
        release.set()
    page = Page((penstock.folder / "report.html").read_text(encoding="utf-8"))
    assert any("were in progress and have no result" in text for text in page.texts)
    assert len(page.all("svg")) == 6


# -- in a browser ---------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def chromium() -> Iterator[Any]:
    """Chromium without a screen and without a network."""
    from chromium import open_chromium  # a module of these tests

    with open_chromium() as browser:
        yield browser


class Visit:
    """A page that was opened, and everything that happened at that."""

    def __init__(self, browser: Any, path: Path, **options: Any) -> None:
        self.context = browser.new_context(offline=True, **options)
        self.page = self.context.new_page()
        self.requests: list[str] = []
        self.troubles: list[str] = []
        self.page.on("request", lambda request: self.requests.append(request.url))
        self.page.on("console", lambda message: self.troubles.append(message.text))
        self.page.on("pageerror", lambda error: self.troubles.append(str(error)))
        self.page.goto(path.as_uri())

    def boxes(self, selector: str) -> list[dict[str, float]]:
        boxes = [element.bounding_box() for element in self.page.query_selector_all(selector)]
        assert None not in boxes, f"a {selector} is not shown"
        return boxes

    def width(self) -> int:
        width: int = self.page.evaluate("document.documentElement.scrollWidth")
        return width


@pytest.mark.slow
def test_the_report_of_a_real_run_in_a_real_browser(
    penstock: Any, api: Any, chromium: Any, tmp_path: Path
) -> None:
    url = api("--rate", "20", "--errors", "0.2", "--latency", "0.02")
    lines = penstock.lines(
        *({"id": EVIL if n == 7 else f"r{n}", "path": f"/items/{n}"} for n in range(60)),
        {"id": "gone", "path": "/nothing?key=s3cret"},
    )
    done = penstock.run(
        *("run", lines, "--url", url, "--out", "results.jsonl", "--rate", "30/s"),
        *("--report", "report.html"),
    )
    assert done.returncode == 1, done.stderr  # one of them was not found
    assert "report       report.html" in done.stdout
    assert len(penstock.results()) == 61

    path = penstock.folder / "report.html"
    visit = Visit(chromium, path, viewport={"width": 1200, "height": 900})
    assert visit.requests == [path.as_uri()], "something was loaded"
    assert visit.troubles == []
    assert visit.page.title() == "requests.jsonl: a run of penstock"
    pictures = visit.boxes("figure svg")
    assert len(pictures) == 7
    assert all(box["width"] > 400 and box["height"] > 80 for box in pictures), pictures
    # What is drawn is really there: coloured shapes of some size in each of them.
    for figure in visit.page.query_selector_all("figure"):
        shapes = [path.bounding_box() for path in figure.query_selector_all("svg path")]
        assert any(box and box["width"] > 20 and box["height"] > 1 for box in shapes)
    text = visit.page.inner_text("body")
    assert "60\nsucceeded" in text
    assert "http_404" in text
    assert "429 Too Many Requests" in visit.page.inner_text("figure:has-text('Errors by kind')")
    assert "s3cret" not in path.read_text(encoding="utf-8")

    # What the pointer is on tells its figures, and a click shows them all.
    pane = visit.page.query_selector("figure .pane")
    assert "succeeded: " in (pane.text_content() or "")
    pane.hover()
    assert pane.evaluate("pane => getComputedStyle(pane).fillOpacity") == "0.12"
    assert not visit.page.is_visible("details table")
    visit.page.click("summary")
    assert visit.page.is_visible("details table")


@pytest.mark.slow
def test_what_is_quoted_is_shown_and_does_nothing(chromium: Any, tmp_path: Path) -> None:
    totals, history, elapsed = a_run()
    result = RequestResult(EVIL, 1, None, None, RequestFailure("connection", EVIL_END), 2, 999.0)
    history.finished(60, result, Request(1, EVIL, "GET", "http://localhost/", {}, None))
    write(tmp_path / "report.html", (totals, history, elapsed), settings=[(EVIL_END, EVIL)])
    visit = Visit(chromium, tmp_path / "report.html")
    assert visit.requests == [(tmp_path / "report.html").as_uri()]
    assert visit.troubles == []
    assert visit.page.title() == "requests.jsonl: a run of penstock"
    text = visit.page.inner_text("body")
    assert EVIL in text
    assert EVIL_END in text


@pytest.fixture(scope="module")
def wide_page(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A report of long words."""
    run = a_run(0.2)
    request = Request(1, "x", "GET", "http://localhost/" + "y" * 500, {}, None)
    run[1].finished(1, RequestResult("x" * 500, 1, 200, None, None, 1, 9e5), request)
    path = tmp_path_factory.mktemp("wide") / "report.html"
    write(path, run, requests="z" * 200, url="http://localhost/" + "y" * 200)
    return path


@pytest.mark.slow
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [320, 375, 768, 1600])
def test_it_fits_on_any_screen_by_day_and_by_night(
    chromium: Any, wide_page: Path, width: int, scheme: str
) -> None:
    view = {"width": width, "height": 700}
    visit = Visit(chromium, wide_page, viewport=view, color_scheme=scheme)
    assert visit.width() == width, "it must be scrolled sideways"
    for box in visit.boxes("figure svg"):
        assert box["x"] >= 0
        assert box["x"] + box["width"] <= width
    contrasts = visit.page.evaluate(CONTRASTS)
    assert min(contrasts.values()) >= 3, contrasts
    assert contrasts["svg text"] >= 4.5
    assert contrasts["p"] >= 4.5


#: How well text and shapes stand out from the page: WCAG asks for 4.5 and 3.
CONTRASTS = """() => {
  const rgb = colour => colour.match(/[0-9.]+/g).slice(0, 3).map(Number);
  const light = colour => rgb(colour).map(v => v / 255)
    .map(v => v <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
    .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
  const card = light(getComputedStyle(document.querySelector("figure")).backgroundColor);
  const contrast = (a, b) => (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
  const style = selector => getComputedStyle(document.querySelector(selector));
  const told = {};
  for (const selector of ["p", "h1", "td", "figure summary"])
    told[selector] = contrast(light(style(selector).color), card);
  told["svg text"] = contrast(light(style("svg text").fill), card);
  const probe = document.body.appendChild(document.createElement("i"));
  for (const name of ["good", "bad", "warn", "other", "ink", "soft"]) {
    probe.style.color = `var(--${name})`;
    told[name] = contrast(light(getComputedStyle(probe).color), card);
  }
  return told;
}"""


@pytest.mark.slow
def test_it_can_be_printed(chromium: Any, drawn: Path) -> None:
    visit = Visit(chromium, drawn, color_scheme="dark")
    visit.page.emulate_media(media="print")
    style = "getComputedStyle(document.body)"
    assert visit.page.evaluate(f"{style}.backgroundColor") == "rgb(255, 255, 255)"
    assert visit.page.evaluate(f"{style}.color") == "rgb(0, 0, 0)"
    pdf = visit.page.pdf()
    assert pdf.startswith(b"%PDF")
    assert len(pdf) > 20_000
