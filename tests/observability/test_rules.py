"""The alert and recording rules, by promtool's own tests, and that these test every rule."""

from __future__ import annotations

import subprocess

import pytest

from observability import shipped

TESTS = shipped.RULES.parent / "tests" / "penstock_test.yml"


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_configuration_and_its_rules(promtool: str) -> None:
    said = run(promtool, "check", "config", str(shipped.FOLDER / "prometheus.yml"))
    assert f"SUCCESS: {len(shipped.rules())} rules found" in said


def test_rules_do_what_their_tests_say(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "test", "rules", str(TESTS))


@pytest.mark.parametrize("rule", shipped.rules(), ids=lambda rule: rule.get("alert", "record"))
def test_every_rule_is_tested(rule: dict[str, str]) -> None:
    tests = shipped.read_yaml(TESTS)["tests"]
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
