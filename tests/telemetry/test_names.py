"""The names of spans, metrics and attributes, before anything is recorded."""

from __future__ import annotations

import ast
import asyncio
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import penstock
from penstock.telemetry import names

SOURCE = Path(penstock.__file__).parent


class Outer:
    class InnerError(Exception):
        pass


def all_names() -> dict[str, str]:
    return {
        constant: value
        for constant, value in vars(names).items()
        if constant.isupper() and isinstance(value, str)
    }


def dotted_names() -> set[str]:
    """The names of metrics and attributes, which nobody writes by accident."""
    return {value for value in all_names().values() if "." in value and "/" not in value}


def string_constants(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            yield node.value


def test_every_name_is_written_down_in_one_module_only() -> None:
    assert {"penstock.queue.name", "penstock.item.wait_time", "error.type"} <= dotted_names()
    elsewhere = [
        (path.name, text)
        for path in SOURCE.rglob("*.py")
        if path != Path(names.__file__)
        for text in string_constants(path)
        if text in dotted_names()
    ]
    assert elsewhere == []


def test_names_stay_in_the_namespace_of_penstock() -> None:
    for name in dotted_names() - {"error.type"}:
        assert re.fullmatch(r"penstock(\.[a-z]+(_[a-z]+)*)+", name), name


def test_no_two_metrics_and_no_two_attributes_share_a_name() -> None:
    metrics = [value for constant, value in all_names().items() if constant.endswith("_METRIC")]
    others = [value for constant, value in all_names().items() if not constant.endswith("_METRIC")]
    assert len(metrics) == len(set(metrics))
    assert len(others) == len(set(others))


def test_buckets_go_from_a_millisecond_to_ten_seconds_or_to_an_hour() -> None:
    for buckets, longest in ((names.CALL_BUCKETS, 10), (names.WAIT_BUCKETS, 3600)):
        assert (buckets[0], buckets[-1]) == (0.001, longest)
        assert list(buckets) == sorted(set(buckets))


def test_the_schema_url_names_a_version_of_the_conventions() -> None:
    assert re.fullmatch(r"https://opentelemetry\.io/schemas/1\.\d+\.0", names.SCHEMA_URL)


@pytest.mark.parametrize(
    ("error", "name"),
    [
        (ValueError("x"), "ValueError"),
        (KeyboardInterrupt(), "KeyboardInterrupt"),
        (asyncio.CancelledError(), "asyncio.exceptions.CancelledError"),
        (penstock.QueueStateError("x"), "penstock.errors.QueueStateError"),
        (Outer.InnerError(), f"{__name__}.Outer.InnerError"),
    ],
)
def test_an_error_type_is_the_qualified_name_of_the_class(error: BaseException, name: str) -> None:
    assert names.error_type(error) == name
