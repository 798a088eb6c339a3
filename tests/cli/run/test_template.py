"""Requests made of the fields of records."""

from __future__ import annotations

import json
from typing import Any

import pytest

from penstock.cli.app import run_command
from penstock.cli.problems import MalformedLineError
from penstock.cli.run.template import Template

CSV = 'sku,amount,note\nA 1/x,3,"says ""hi"",\nü"\nB,2.5,\n'
TEMPLATE = {
    "id": "order-{sku}",
    "method": "POST",
    "path": "/items/{sku}",
    "params": {"q": "{sku}"},
    "json": {"amount": "{amount:number}", "text": "{note}", "all": ["{{{sku}}}", 1]},
}


def fill(template: Any, **fields: Any) -> Any:
    return Template(template).fill(fields)


@pytest.mark.parametrize(
    ("text", "filled"),
    [
        ("{a}", "x y/ü"),
        ("a {a} b {n}", "a x y/ü b 5"),
        ("{n}", "5"),
        ("{n:json}", 5),
        ("{n:number}", 5),
        ("{t:number}", -2.5),
        ("{t:json}", -2.5),
        ("{l:json}", [1, {"b": None}]),
        ("{l}", '[1, {"b": null}]'),
        ("{{a}} {a:raw}", "{a} x y/ü"),
        ("{b:c}", "colon"),
        ("", ""),
    ],
)
def test_gaps_in_texts(text: str, filled: Any) -> None:
    fields = {"a": "x y/ü", "n": 5, "t": "-2.5", "l": [1, {"b": None}], "b:c": "colon"}
    made = fill({"path": "/", "json": {"deep": [text]}}, **fields)
    assert made["json"] == {"deep": [filled]}


@pytest.mark.parametrize(
    ("path", "filled"),
    [
        ("/items/{a}?q={a}", "/items/x%20y%2F%C3%BC%3F?q=x%20y%2F%C3%BC%3F"),
        ("/items/{a:raw}", "/items/x y/ü?"),
        ("{a}", "x y/ü?"),
    ],
)
def test_in_a_path_values_are_encoded(path: str, filled: str) -> None:
    assert fill({"path": path}, a="x y/ü?") == {"path": filled}


@pytest.mark.parametrize(
    ("fields", "problem"),
    [
        ({}, "has no 'n', which the template needs"),
        ({"n": "a secret"}, "'n' must be a number, got other text"),
        ({"n": ""}, "'n' must be a number, got other text"),
        ({"n": "NaN"}, "'n' must be a number, got other text"),
        ({"n": "1e999"}, "'n' must be a number, got other text"),
        ({"n": "true"}, "'n' must be a number, got true"),
        ({"n": [1]}, "'n' must be a number, got a list"),
    ],
)
def test_a_record_that_does_not_fit(fields: dict[str, Any], problem: str) -> None:
    with pytest.raises(MalformedLineError) as caught:
        fill({"path": "/", "json": "{n:number}"}, **fields)
    assert str(caught.value) == problem


@pytest.mark.parametrize(
    ("template", "problem"),
    [
        ([], "must be a JSON object, got a list"),
        ({"pth": "/"}, "unknown key 'pth'; allowed are id, method, path"),
        ({"method": "GET"}, "must have either path or url"),
        ({"path": "/{"}, "there is a single '{' in '/{'"),
        ({"path": "/}"}, "there is a single '}' in '/}'"),
        ({"path": "/{}"}, "there is a single '{' in '/{}'"),
        ({"path": "/", "json": "n={n:number}"}, "{n:number} must be alone in its string"),
    ],
)
def test_what_is_no_template(template: Any, problem: str) -> None:
    with pytest.raises(ValueError, match=r"must|unknown|single") as caught:
        Template(template)
    assert str(caught.value).startswith(problem)


@pytest.mark.parametrize("from_file", [True, False])
@pytest.mark.parametrize("from_input", [True, False])
def test_rows_become_requests(
    penstock: Any, server: Any, from_file: bool, from_input: bool
) -> None:
    (penstock.folder / "orders.CSV").write_text(CSV, encoding="utf-8")
    (penstock.folder / "template.json").write_text(json.dumps(TEMPLATE))
    template = "template.json" if from_file else json.dumps(TEMPLATE)
    source = ("-", "--input-format", "csv") if from_input else ("orders.CSV",)
    options = ("--template", template, "--url", server.url, "--out", "results.jsonl")
    text = CSV if from_input else None
    done = penstock.run("run", *source, *options, "--concurrency", "1", input=text)
    assert done.returncode == 0, done.stderr
    first, second = server.seen
    assert (first.method, first.path, first.query) == ("POST", "/items/A%201%2Fx", "q=A+1%2Fx")
    assert json.loads(first.body) == {
        "amount": 3,
        "text": 'says "hi",\nü',
        "all": ["{A 1/x}", 1],
    }
    assert json.loads(second.body) == {"amount": 2.5, "text": "", "all": ["{B}", 1]}
    results = penstock.results()
    assert [(result["id"], result["line"]) for result in results] == [
        ("order-A 1/x", 2),
        ("order-B", 4),
    ]


def test_objects_fill_a_template_too(penstock: Any, server: Any) -> None:
    lines = penstock.lines({"n": 1, "more": True}, {"m": 2})
    template = '{"path": "/{n}", "json": {"n": "{n:json}"}}'
    options = ("--template", template, "--url", server.url, "--out", "results.jsonl")
    done = penstock.run("run", lines, *options)
    assert done.returncode == 1
    assert [(seen.path, seen.body) for seen in server.seen] == [("/1", b'{"n":1}')]
    assert "line 2: has no 'n', which the template needs" in done.stdout


@pytest.mark.parametrize(
    ("file", "template", "problem"),
    [
        (
            "orders.csv",
            None,
            "orders.csv: a table needs a --template that makes requests from its rows",
        ),
        (
            "orders.csv",
            '{"path": "/{skew}"}',
            "orders.csv: there is no column 'skew'; there are sku, amount, note",
        ),
        ("orders.csv", "none.json", "cannot read --template none.json: No such file or directory"),
        ("orders.csv", '{"path": ', "--template: not JSON: Expecting value at column 9"),
        ("orders.csv", '{"pth": "/"}', "--template: unknown key 'pth'"),
        ("orders.csv", '{"path": "/{sku}"}', "--template has a path, which needs --url"),
        ("empty.csv", '{"url": "{sku}"}', "empty.csv: its first line must have the names"),
    ],
)
def test_what_is_wrong_is_told_before_anything_is_done(
    penstock: Any,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    file: str,
    template: str | None,
    problem: str,
) -> None:
    monkeypatch.chdir(penstock.folder)
    (penstock.folder / "orders.csv").write_text(CSV, encoding="utf-8")
    (penstock.folder / "empty.csv").write_bytes(b"")
    before = sorted(path.name for path in penstock.folder.iterdir())
    options = [] if template is None else ["--template", template]
    if "skew" in problem:
        options += ["--url", "http://127.0.0.1:9"]
    assert run_command(["run", file, "--out", "new", *options]) == 2
    assert capsys.readouterr().err.startswith(f"penstock: {problem}")
    assert sorted(path.name for path in penstock.folder.iterdir()) == before
