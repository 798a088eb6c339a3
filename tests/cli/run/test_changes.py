"""The same id with another request: sent again, or asked about; old answers do not pass for new."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
from typing import Any

import pytest

from cli.conftest import Command, Server

OUT = ("--out", "results.jsonl")


def ask(
    penstock: Command, server: Server, count: int, word: str, *options: str, **more: Any
) -> Any:
    """Run so many requests whose bodies have ``word`` in them; those from ``since`` on."""
    since = more.get("since", 0)
    lines = penstock.lines(
        *(
            {"id": n, "method": "POST", "path": f"/{n}", "json": {"w": word if n >= since else "a"}}
            for n in range(count)
        )
    )
    url = more.get("url", server.url)
    return penstock.run("run", lines, "--url", url, *OUT, *options)


def words(server: Server) -> list[str]:
    return [json.loads(seen.body)["w"] for seen in server.seen]


def test_a_few_changes_are_sent_again_and_told(penstock: Command, server: Server) -> None:
    assert ask(penstock, server, 30, "a").returncode == 0
    server.seen.clear()
    done = ask(penstock, server, 30, "b", since=20)
    assert done.returncode == 0, done.stderr
    assert words(server) == ["b"] * 10
    assert "changed      10 lines differ from the earlier run; sent again" in done.stdout
    assert ask(penstock, server, 30, "b", since=20).stdout.startswith("sent         0 requests")


def test_many_changes_are_asked_about_and_nothing_is_sent(
    penstock: Command, server: Server
) -> None:
    assert ask(penstock, server, 30, "a").returncode == 0
    written = (penstock.folder / "results.jsonl").read_bytes()
    server.seen.clear()
    done = ask(penstock, server, 30, "b")
    assert done.returncode == 2
    assert done.stderr == (
        "penstock: 30 of the 30 requests that have a result differ from the earlier run "
        "(another body, template or URL). Give --send-changed to send them again, --keep-changed "
        "to keep their answers, or another --out\n"
    )
    assert not server.seen
    assert (penstock.folder / "results.jsonl").read_bytes() == written
    done = ask(penstock, server, 30, "b", "--keep-changed")
    assert done.returncode == 0
    assert "kept         30 lines differ from the earlier run; not sent" in done.stdout
    assert not server.seen
    done = ask(penstock, server, 30, "b", "--send-changed")
    assert (done.returncode, words(server)) == (0, ["b"] * 30)


def test_another_base_url_is_asked_about(penstock: Command, server: Server) -> None:
    assert ask(penstock, server, 30, "a").returncode == 0
    server.seen.clear()
    other = server.url.replace("127.0.0.1", "localhost")
    done = ask(penstock, server, 30, "a", url=other)
    assert done.returncode == 2
    assert "have another base URL than before (--url)" in done.stderr
    assert not server.seen
    with_user = server.url.replace("//", "//user:word@")  # which is a secret, and no place
    assert ask(penstock, server, 30, "a", url=with_user).returncode == 0
    assert not server.seen


def test_a_failure_that_asks_for_something_else_now_is_sent(
    penstock: Command, server: Server
) -> None:
    server.answer = lambda seen: (404 if b'"a"' in seen.body else 200, {}, b"")
    assert ask(penstock, server, 3, "a").returncode == 1
    assert ask(penstock, server, 3, "b").returncode == 0
    assert len(server.seen) == 6


def test_a_line_of_before_is_taken_for_the_same(penstock: Command, server: Server) -> None:
    old = [{"id": n, "line": n + 1, "status": 200, "body": None} for n in range(30)]
    penstock.lines(*old, name="results.jsonl")
    assert ask(penstock, server, 30, "b").returncode == 0
    assert not server.seen


def test_secrets_may_change(penstock: Command, server: Server) -> None:
    def send(key: str, plain: str) -> Any:
        headers = {"X-Api-Key": key, "X-Plain": plain}
        lines = penstock.lines(*({"id": n, "path": f"/{n}", "headers": headers} for n in range(30)))
        return penstock.run("run", lines, "--url", server.url, *OUT)

    assert send("key-1", "a").returncode == 0
    assert send("key-2", "a").returncode == 0
    assert len(server.seen) == 30
    assert send("key-2", "b").returncode == 2


def test_of_a_pipe_it_is_told_before_many_are_sent(penstock: Command, server: Server) -> None:
    assert ask(penstock, server, 30, "a").returncode == 0
    server.seen.clear()
    lines = [{"id": n, "path": f"/{n}"} for n in range(30)]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    done = penstock.run("run", "-", "--url", server.url, *OUT, input=text)
    assert done.returncode == 2
    assert len(server.seen) <= 10


# -- penstock results -----------------------------------------------------------------------------


@pytest.fixture
def results(penstock: Command, server: Server) -> Command:
    """Rows, of which the second failed at first, and the third still does."""
    (penstock.folder / "items.csv").write_text('sku,name\nb,"B; ""b"""\na,A\nc,C\n')
    kind = {"Content-Type": "application/json"}
    template = ("--template", '{"id": "{sku}", "path": "/{sku}"}')

    def run(*broken: str) -> Any:
        server.answer = lambda seen: (
            *(404 if seen.path[1:] in broken else 200, kind),
            json.dumps({"n": seen.path, "tags": [1]}).encode(),
        )
        return penstock.run(
            *("run", "items.csv", "--url", server.url, *OUT, *template, "--retry-failed")
        )

    assert run("a", "c").returncode == 1
    assert run("c").returncode == 1
    assert len(penstock.results()) == 5
    return penstock


def test_the_newest_line_of_each_id_in_the_order_of_the_input(results: Command) -> None:
    done = results.run("results", "results.jsonl")
    assert done.returncode == 0, done.stderr
    newest = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(one["id"], one["status"]) for one in newest] == [("b", 200), ("a", 200), ("c", 404)]
    done = results.run("results", "results.jsonl", "--input", "items.csv")
    newest = [json.loads(line) for line in done.stdout.splitlines()]
    assert [one["input"]["name"] for one in newest] == ['B; "b"', "A", "C"]


def test_results_as_a_table_beside_the_rows(results: Command) -> None:
    done = results.run("results", "results.jsonl", "--format", "csv", "--input", "items.csv")
    assert done.returncode == 0, done.stderr
    head, *rows = list(csv.reader(io.StringIO(done.stdout)))
    assert head == [
        *("sku", "name", "id", "line", "status", "error", "message", "attempts", "seconds"),
        *("body.n", "body.tags"),
    ]
    assert [row[:7] for row in rows] == [
        ["b", 'B; "b"', "b", "2", "200", "", ""],
        ["a", "A", "a", "3", "200", "", ""],
        ["c", "C", "c", "4", "404", "http_404", "404 Not Found"],
    ]
    assert [row[-2:] for row in rows] == [["/b", "[1]"], ["/a", "[1]"], ["/c", "[1]"]]


def test_nobody_need_read_all_of_the_results(results: Command) -> None:
    reading, writing = os.pipe()
    os.close(reading)  # as head does when it has its lines
    try:
        done = results.run(
            *("results", "results.jsonl"),
            capture_output=False,
            stdout=writing,
            stderr=subprocess.PIPE,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (141, "")


def test_what_are_no_results_is_told(penstock: Command) -> None:
    (penstock.folder / "a").write_text("letters\n")
    done = penstock.run("results", "a")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "penstock: cannot read a: line 1 is not a result of penstock run\n"
    assert penstock.run("results", "none").returncode == 2
