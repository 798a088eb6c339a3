"""Prometheus as a process, and what one needs to run servers that speak HTTP."""

from __future__ import annotations

import math
import os
import shutil
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import yaml

from observability import shipped
from processes import HeldPort, wait_for

#: Seconds that a server may take to start, and to stop.
START, STOP = 60.0, 15.0


def get(url: str, **parameters: Any) -> httpx.Response:
    return httpx.get(url, params=parameters, trust_env=False, timeout=10)


@contextmanager
def running(
    command: Sequence[str],
    log: Path,
    ready: str,
    *,
    environment: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> Iterator[subprocess.Popen[bytes]]:
    """Run a server until the block ends. It is ready when ``ready``, a URL, answers 200."""
    name = Path(command[0]).name
    with (
        log.open("wb") as output,
        subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=os.environ | dict(environment or {}),
            cwd=cwd,
        ) as process,
    ):
        try:
            wait_for(f"{name} to be ready", lambda: _is_ready(process, ready, log), START)
            yield process
        finally:
            process.terminate()
            try:
                process.wait(STOP)
            except subprocess.TimeoutExpired:
                process.kill()


def _is_ready(process: subprocess.Popen[bytes], url: str, log: Path) -> bool:
    if process.poll() is not None:
        tail = log.read_text(encoding="utf-8", errors="replace")[-3000:]
        raise RuntimeError(f"it ended with code {process.returncode}:\n{tail}")
    try:
        return get(url).is_success
    except httpx.TransportError:
        return False


class Sample(NamedTuple):
    """A series at one instant."""

    labels: dict[str, str]
    value: float


class Prometheus:
    """The HTTP API of a running Prometheus."""

    def __init__(self, url: str) -> None:
        self.url = url

    def api(self, path: str, **parameters: Any) -> Any:
        answer = get(f"{self.url}/api/v1/{path}", **parameters).json()
        assert answer["status"] == "success", answer
        return answer["data"]

    def query(self, expression: str) -> list[Sample]:
        """The series of an expression that have a number now."""
        found = [
            Sample(series["metric"], float(series["value"][1]))
            for series in self.api("query", query=expression)["result"]
        ]
        return [sample for sample in found if not math.isnan(sample.value)]

    def value(self, expression: str) -> float:
        """The value of an expression that has one series; 0 if it has none."""
        found = self.query(expression)
        assert len(found) <= 1, found
        return found[0].value if found else 0.0

    def rules(self) -> list[dict[str, Any]]:
        return [rule for group in self.api("rules")["groups"] for rule in group["rules"]]

    def exemplars(self, expression: str) -> list[dict[str, Any]]:
        now = time.time()
        found = self.api("query_exemplars", query=expression, start=now - 3600, end=now + 60)
        return [exemplar for series in found for exemplar in series["exemplars"]]


@contextmanager
def prometheus(
    folder: Path,
    targets: Mapping[str, str],
    every: str = "1s",
    *,
    faster: int = 1,
    port: int | None = None,
) -> Iterator[Prometheus]:
    """Run Prometheus on the shipped configuration.

    ``targets`` maps the addresses in it to those that are scraped in their place, and ``every``
    is how often; jobs with none of these addresses are left out. All times in the rules are
    divided by ``faster``. ``port``: where it listens, if that is not up to it.
    """
    command = shutil.which("prometheus")
    assert command, "prometheus is not installed"
    config = shipped.read_yaml(shipped.FOLDER / "prometheus.yml")
    config["global"] = {"scrape_interval": every, "evaluation_interval": every}
    config["rule_files"] = [str(shipped.FOLDER / pattern) for pattern in config["rule_files"]]
    if faster != 1:
        rules = folder / "rules.yml"
        text = shipped.RULES.read_text(encoding="utf-8")
        rules.write_text(shipped.sped_up(text, faster), encoding="utf-8")
        config["rule_files"] = [str(rules)]
    config["scrape_configs"] = [
        job for job in config["scrape_configs"] if _redirect(job["static_configs"], targets)
    ]
    (folder / "prometheus.yml").write_text(yaml.safe_dump(config), encoding="utf-8")
    arguments = [
        f"--config.file={folder / 'prometheus.yml'}",
        f"--storage.tsdb.path={folder / 'data'}",
        "--enable-feature=exemplar-storage",
    ]
    with ExitStack() as cleanup:
        if port is None:
            port = cleanup.enter_context(HeldPort()).number
        address = f"127.0.0.1:{port}"
        arguments.append(f"--web.listen-address={address}")
        url = f"http://{address}"
        cleanup.enter_context(
            running([command, *arguments], folder / "prometheus.log", f"{url}/-/ready")
        )
        made = Prometheus(url)
        # It begins some seconds after it says that it is ready; nothing shall happen before.
        jobs = len(config["scrape_configs"])
        wait_for("the first scrape", lambda: len(made.query("up == 1")) == jobs)
        yield made


def _redirect(static_configs: list[dict[str, Any]], targets: Mapping[str, str]) -> bool:
    for static in static_configs:
        static["targets"] = [targets[each] for each in static["targets"] if each in targets]
    return any(static["targets"] for static in static_configs)
