"""Every line of the test plan (``plan.md``) has a test that stands for it."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

TESTS = Path(__file__).parent

#: Quick to see; only files that have one are parsed.
MARK = re.compile(r"^\s*@pytest\.mark\.plan\(", re.MULTILINE)


@pytest.fixture(scope="module")
def plan() -> list[str]:
    """The ids, in the order of the page."""
    page = (TESTS / "plan.md").read_text(encoding="utf-8")
    return re.findall(r"^\| ([A-Z]+-\d+) \| \S.* \|$", page, re.MULTILINE)


@pytest.fixture(scope="module")
def marked_tests() -> list[tuple[str, str]]:
    """Each id given to ``pytest.mark.plan``, with the test that carries it."""
    return [
        (line, f"{path.name}::{test.name}")
        for path in sorted(TESTS.rglob("test_*.py"))
        if MARK.search(source := path.read_text(encoding="utf-8"))
        for test in functions_in(ast.parse(source))
        if test.name.startswith("test_")
        for line in plan_lines(test)
    ]


def functions_in(
    module: ast.Module | ast.ClassDef,
) -> Iterator[ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in module.body:
        if isinstance(node, ast.ClassDef):
            yield from functions_in(node)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def plan_lines(test: ast.FunctionDef | ast.AsyncFunctionDef) -> Iterator[str]:
    for mark in test.decorator_list:
        if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.plan":
            yield from map(ast.literal_eval, mark.args)


def test_each_line_of_the_plan_stands_in_it_once(plan: list[str]) -> None:
    assert len(plan) == len(set(plan)) > 0


def test_every_line_of_the_plan_is_tested(
    plan: list[str], marked_tests: list[tuple[str, str]]
) -> None:
    tested = {line for line, _ in marked_tests}
    assert [line for line in plan if line not in tested] == []


def test_no_test_stands_for_a_line_that_is_not_in_the_plan(
    plan: list[str], marked_tests: list[tuple[str, str]]
) -> None:
    assert [(line, test) for line, test in marked_tests if line not in plan] == []
