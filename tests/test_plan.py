"""Every line of the test plan has a test that stands for it."""

from __future__ import annotations

import ast
import functools
from collections.abc import Iterator
from pathlib import Path

PLAN = {f"UT-{number}" for number in range(1, 23)} | {f"IT-{number}" for number in range(1, 4)}


@functools.cache
def marked_tests() -> list[tuple[str, str]]:
    return list(find_marked_tests())


def find_marked_tests() -> Iterator[tuple[str, str]]:
    """Each id given to ``pytest.mark.plan``, with the test that carries it."""
    for path in sorted(Path(__file__).parent.rglob("test_*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith(
                "test_"
            ):
                for mark in node.decorator_list:
                    if isinstance(mark, ast.Call) and ast.unparse(mark.func) == "pytest.mark.plan":
                        for argument in mark.args:
                            yield ast.literal_eval(argument), f"{path.name}::{node.name}"


def test_every_line_of_the_plan_is_tested() -> None:
    tested = {line for line, _ in marked_tests()}
    assert sorted(PLAN - tested) == []


def test_no_test_stands_for_a_line_that_is_not_in_the_plan() -> None:
    strangers = [(line, test) for line, test in marked_tests() if line not in PLAN]
    assert strangers == []
