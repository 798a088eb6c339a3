"""Which alerts a real Prometheus raises on programs that are well, and on others that are not."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from e2e.servers import Prometheus, prometheus

PROGRAMS = Path(__file__).parent / "alert_programs.py"

#: How many times faster time goes in the rules: five minutes are 15 seconds.
FASTER = 20
#: Seconds for which they are watched before anything happens, after it, and when all is gone.
BEFORE, AFTER, GONE = 18.0, 70.0, 30.0

#: What must be raised of each, and what may be as well.
EXPECTED: dict[str, tuple[set[str], set[str]]] = {
    "batch": (set(), set()),
    "paced": (set(), set()),
    "retried": (set(), set()),
    "stuck": ({"QueueStalled"}, {"OldestItemTooOld"}),
    "gate": ({"GateClosed"}, {"OldestItemTooOld"}),
    "burst": ({"ItemsFail"}, set()),
    "dead letters": ({"DeadLettersGrow"}, set()),
    "breaker": ({"BreakerOpen"}, {"OldestItemTooOld"}),
    "refused": ({"PutsRefused"}, set()),
}

#: By queue, and by alert: the seconds after which it was raised. Negative: before it all began.
Raised = dict[str, dict[str, float]]


def firing(server: Prometheus) -> set[tuple[str, str]]:
    return {
        (alert["labels"]["penstock_queue_name"], alert["labels"]["alertname"])
        for alert in server.api("alerts")["alerts"]
        if alert["state"] == "firing"
    }


@pytest.fixture(scope="module")
def raised(prometheus_command: str, tmp_path_factory: pytest.TempPathFactory) -> Raised:
    folder = tmp_path_factory.mktemp("alerts")
    found: Raised = {}

    def watch(server: Prometheus, seconds: float, began: float) -> None:
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            for queue, alert in firing(server):
                name = alert.removeprefix("Penstock")
                found.setdefault(queue, {}).setdefault(name, time.monotonic() - began)
            time.sleep(0.5)

    with subprocess.Popen(
        [sys.executable, PROGRAMS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        try:
            address = f"127.0.0.1:{int(process.stdout.readline())}"
            targets = {"otel-collector:8889": address}
            with prometheus(folder, targets, every="500ms", faster=FASTER) as server:
                began = time.monotonic() + BEFORE
                watch(server, BEFORE, began)
                process.stdin.write("now\n")
                process.stdin.flush()
                watch(server, AFTER, began)
                assert process.poll() is None
                process.kill()
                watch(server, GONE, began)
        finally:
            with suppress(ProcessLookupError):
                process.kill()
    for queue in EXPECTED:
        told = sorted(found.get(queue, {}).items(), key=lambda item: item[1])
        minutes = [f"{name} after {seconds * FASTER / 60:.1f} min" for name, seconds in told]
        sys.stderr.write(f"{queue}: {', '.join(minutes) or 'none'}\n")
    return found


@pytest.mark.parametrize("queue", EXPECTED)
def test_the_alerts_of_a_program_are_those_that_say_what_is_wrong(
    raised: Raised, queue: str
) -> None:
    must, may = EXPECTED[queue]
    found = {alert for alert in raised.get(queue, {}) if alert != "TelemetryGone"}
    assert must <= found <= must | may
    assert all(raised[queue][alert] > 0 for alert in found), "before anything happened"


def test_the_age_of_what_waits_is_told_of_one_that_is_stuck(raised: Raised) -> None:
    assert "OldestItemTooOld" in raised["stuck"]


@pytest.mark.parametrize("queue", EXPECTED)
def test_a_program_that_was_killed_is_missed(raised: Raised, queue: str) -> None:
    assert raised[queue]["TelemetryGone"] > AFTER
