"""The alert and recording rules have tests, each of them. ``make e2e`` runs these by promtool."""

from __future__ import annotations

import pytest

from observability import shipped


@pytest.mark.parametrize("rule", shipped.rules(), ids=lambda rule: rule.get("alert", "record"))
def test_every_rule_is_tested(rule: dict[str, str]) -> None:
    tests = shipped.read_yaml(shipped.RULE_TESTS)["tests"]
    if "alert" in rule:
        cases = [case for test in tests for case in test.get("alert_rule_test", ())]
        of_this = [case for case in cases if case["alertname"] == rule["alert"]]
        assert any(case.get("exp_alerts") for case in of_this), "no test sees it fire"
        assert any(not case.get("exp_alerts") for case in of_this), "no test sees it keep quiet"
    else:
        cases = [case for test in tests for case in test.get("promql_expr_test", ())]
        assert any(case["expr"].startswith(rule["record"]) for case in cases)


@pytest.mark.parametrize(
    "rule", [rule for rule in shipped.rules() if "alert" in rule], ids=lambda rule: rule["alert"]
)
def test_alerts_say_what_is_wrong_and_how_bad_it_is(rule: dict[str, dict[str, str]]) -> None:
    assert rule["labels"]["severity"] in ("warning", "critical")
    assert "$labels.penstock_queue_name" in rule["annotations"]["summary"]
    assert rule["annotations"]["description"]
