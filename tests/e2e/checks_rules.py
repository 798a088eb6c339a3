"""Prometheus's own tool on the shipped configuration, and its tests of the rules."""

from __future__ import annotations

import subprocess

from observability import shipped


def run(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_promtool_accepts_the_configuration_and_its_rules(promtool: str) -> None:
    said = run(promtool, "check", "config", str(shipped.FOLDER / "prometheus.yml"))
    assert f"SUCCESS: {len(shipped.rules())} rules found" in said


def test_rules_do_what_their_tests_say(promtool: str) -> None:
    assert "SUCCESS" in run(promtool, "test", "rules", str(shipped.RULE_TESTS))
