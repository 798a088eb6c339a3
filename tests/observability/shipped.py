"""What ``examples/observability`` and ``otel-collector.yaml`` hold, read for the tests."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any, NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
FOLDER = ROOT / "examples" / "observability"
COLLECTOR = ROOT / "otel-collector.yaml"
DASHBOARD = FOLDER / "grafana" / "dashboards" / "penstock-queues.json"
RULES = FOLDER / "rules" / "penstock.yml"
RULE_TESTS = RULES.parent / "tests" / "penstock_test.yml"

#: What Grafana puts in place of its variables.
_GRAFANA = {"$__rate_interval": "1m", "$__range": "5m", "$job": ".*", "$queue": ".*"}


class Query(NamedTuple):
    """An expression, and where it stands."""

    where: str
    expression: str


def read_yaml(path: Path) -> Any:
    return yaml.safe_load(path.read_text(encoding="utf-8"))


def dashboard() -> dict[str, Any]:
    made: dict[str, Any] = json.loads(DASHBOARD.read_text(encoding="utf-8"))
    return made


def dashboard_queries() -> list[Query]:
    return [
        Query(f"{panel['title']} {target['refId']}", as_promql(target["expr"]))
        for panel in dashboard()["panels"]
        for target in panel["targets"]
    ]


def as_promql(expression: str) -> str:
    """An expression of the dashboard with its variables filled in."""
    for name, value in _GRAFANA.items():
        expression = expression.replace(name, value)
    assert "$" not in expression, expression
    return expression


def rules() -> list[dict[str, Any]]:
    return [rule for group in read_yaml(RULES)["groups"] for rule in group["rules"]]


def rule_queries(*, alerts: bool = True) -> list[Query]:
    return [
        Query(rule.get("record") or rule["alert"], rule["expr"])
        for rule in rules()
        if alerts or "record" in rule
    ]


def collector_version() -> str:
    """The version that the collector's configuration says it is for."""
    first = COLLECTOR.read_text(encoding="utf-8").splitlines()[0]
    found = re.search(r"Collector Contrib (\d+\.\d+\.\d+)", first)
    assert found, f"the first line of {COLLECTOR.name} names no version: {first}"
    return found[1]


def sped_up(text: str, faster: int) -> str:
    """The text of rules with all times in them divided by ``faster``."""
    seconds = {"s": 1, "m": 60, "h": 3600}

    def shorter(match: re.Match[str]) -> str:
        return f"{int(match[1]) * seconds[match[2]] // faster}s"

    # Ranges, offsets and "for"; and the one age that is compared with seconds.
    text = re.sub(r"(?<=[\[ ])(\d+)([smh])(?=[\])]|$)", shorter, text, flags=re.MULTILINE)
    return text.replace("15 * 60", f"15 * 60 / {faster}")
