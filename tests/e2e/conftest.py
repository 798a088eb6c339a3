"""The whole way: a program, the collector on the shipped YAML, Jaeger and Prometheus behind it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import pytest

from e2e import build
from e2e.jaeger import Jaeger, Traces
from e2e.program import SERVICE
from e2e.servers import Prometheus, prometheus, running
from golang import MissingError
from observability import shipped
from processes import HeldPort, wait_for

if TYPE_CHECKING:
    from e2e.tempo import Receiver

#: Seconds that a program may take, and that what it sent may take to come through: until tail
#: sampling decides, fifteen until the connectors report, and some to spare.
PROGRAM, THROUGH = 300.0, 90.0


class Servers(NamedTuple):
    """What runs, on ports of this machine."""

    #: URLs of the collector: where it receives OTLP, and where it says how it is.
    otlp: str
    health: str
    #: What the collector logs.
    log: Path
    prometheus: Prometheus
    jaeger: Jaeger
    tempo: Receiver


class Outcome(NamedTuple):
    """What the program says that happened in it, and what came through to the other end."""

    happened: dict[str, int]
    traces: Traces


def _command(name: str, package: str = "prometheus") -> str:
    path = shutil.which(name)
    if path is None:
        pytest.fail(f"{name} is missing (Debian: apt-get install {package})")
    return path


@pytest.fixture(scope="session")
def npm() -> str:
    return _command("npm", "npm")


@pytest.fixture(scope="session")
def promtool() -> str:
    return _command("promtool")


@pytest.fixture(scope="session")
def prometheus_command() -> str:
    return _command("prometheus")


@pytest.fixture(scope="session")
def servers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Servers]:
    # Here, because pytest reads this file also where the libraries for it are not installed.
    from e2e.tempo import receiving

    try:
        build.tools()
        programs = build.built()
    except MissingError as missing:
        pytest.exit(f"{missing} (make e2e builds what it needs)", returncode=1)
    folder = tmp_path_factory.mktemp("e2e")
    kinds = {
        "JAEGER": ("QUERY", "QUERY_GRPC", "OTLP"),
        "OTELCOL": ("GRPC", "HTTP", "HEALTH", "PROMETHEUS", "METRICS"),
        "PROMETHEUS": ("HTTP",),
    }
    with ExitStack() as cleanup:
        start = cleanup.enter_context
        ports = {
            f"{server}_{kind}_PORT": str(start(HeldPort()).number)
            for server in kinds
            for kind in kinds[server]
        }
        at = {name: f"127.0.0.1:{port}" for name, port in ports.items()}
        jaeger_url = f"http://{at['JAEGER_QUERY_PORT']}"
        health = f"http://{at['OTELCOL_HEALTH_PORT']}"
        targets = {
            "otel-collector:8889": at["OTELCOL_PROMETHEUS_PORT"],
            "otel-collector:8888": at["OTELCOL_METRICS_PORT"],
        }
        tempo, tempo_address = start(receiving())
        settings = {
            "JAEGER_ENDPOINT": at["JAEGER_OTLP_PORT"],
            "TEMPO_ENDPOINT": tempo_address,
            # More than the programs need, and less to wait for than the 30 s that it is else.
            "OTELCOL_DECISION_WAIT": "10s",
        }
        start(
            running(
                [str(programs.jaeger), f"--config={shipped.FOLDER / 'jaeger.yaml'}"],
                folder / "jaeger.log",
                f"{jaeger_url}/api/services",
                environment=ports
                | {"JAEGER_PROMETHEUS_URL": f"http://{at['PROMETHEUS_HTTP_PORT']}"},
            )
        )
        accept(programs.collector)
        start(
            running(
                [str(programs.collector), f"--config={shipped.COLLECTOR}"],
                folder / "collector.log",
                health,
                environment=ports | settings,
            )
        )
        yield Servers(
            otlp=f"http://{at['OTELCOL_GRPC_PORT']}",
            health=health,
            log=folder / "collector.log",
            prometheus=start(prometheus(folder, targets, port=int(ports["PROMETHEUS_HTTP_PORT"]))),
            jaeger=Jaeger(jaeger_url),
            tempo=tempo,
        )


def accept(collector: Path) -> None:
    """The collector accepts the YAML as it is shipped, with nothing set in the environment."""
    done = subprocess.run(
        [collector, "validate", f"--config={shipped.COLLECTOR}"],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr


@pytest.fixture(scope="session")
def outcome(servers: Servers) -> Outcome:
    """Run the program, and wait until everything that it sent has come through."""
    happened = json.loads(run(Path(__file__).parent / "program.py", servers.otlp).splitlines()[-1])
    return Outcome(
        happened, wait_until_through(servers, SERVICE, "process orders", happened["processed"])
    )


def wait_until_through(servers: Servers, service: str, span: str, count: int) -> Traces:
    """The traces of a program that has ended, when no more of them will come.

    It sent ``count`` spans of that name.
    """
    ask = servers.prometheus.value
    sampling = "otelcol_processor_tail_sampling"
    decided = f"{sampling}_global_count_traces_sampled"
    calls = "traces_span_metrics_calls_total"
    of_it = f'{calls}{{service_name="{service}", span_name="{span}"}}'
    wait_for("the program's spans to be counted", lambda: ask(f"sum({of_it})") == count, THROUGH)
    # The connector begins a series with a zero, and tells its true value the next time.
    wait_for(
        "every span to be counted",
        lambda: ask(f"sum({calls})") == ask("sum(otelcol_receiver_accepted_spans)"),
        THROUGH,
    )
    wait_for(
        "tail sampling to decide on every trace",
        lambda: ask(f"sum({decided})") == ask(f"sum({sampling}_new_trace_id_received)"),
        THROUGH,
    )
    kept = ask(f'sum({decided}{{sampled="true"}})')

    def arrived() -> Traces | None:
        found = {name: servers.jaeger.traces(name) for name in servers.jaeger.services()}
        traces = sum(len(each.by_trace) for each in found.values())
        spans = {key for each in found.values() for key in each.by_key}
        return found[service] if traces == kept and spans == servers.tempo.spans else None

    traces = wait_for(f"{kept:g} traces to arrive in Jaeger, and at Tempo's", arrived)
    assert traces is not None
    return traces


def run(program: Path, *arguments: str, **environment: Any) -> str:
    """Run a program that reports its metrics once a second, and return what it printed."""
    environment.setdefault("OTEL_METRIC_EXPORT_INTERVAL", "1000")
    done = subprocess.run(
        [sys.executable, program, *arguments],
        env=os.environ | environment,
        cwd=shipped.ROOT,
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=PROGRAM,
    )
    return done.stdout
