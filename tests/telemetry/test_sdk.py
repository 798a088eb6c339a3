"""``penstock.telemetry.setup()``: each test in an interpreter of its own, before a receiver."""

from __future__ import annotations

import os
import socket
from typing import Any

import pytest

import penstock.telemetry
from penstock.telemetry.sdk import _choose_protocol
from telemetry.receiver import LIMIT, Receiver, run, script, start

PROGRAM = """
import asyncio
import penstock
import penstock.telemetry

queue = penstock.BoundedQueue(name="q")

async def main():
    async with queue:
        await queue.start_workers(asyncio.sleep, 1)
        await queue.put(0)
"""

# -- where it goes ----------------------------------------------------------------------------


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_arguments_say_where_to_and_what_the_program_is(protocol: str) -> None:
    with Receiver(protocol) as receiver:
        script(
            f"{PROGRAM}\n"
            "penstock.telemetry.setup(\n"
            f"    'pump', {receiver.endpoint!r}, protocol={protocol!r},\n"
            "    headers={'Authorization': 'Bearer token'},\n"
            "    resource_attributes={'deployment.environment.name': 'test', 'team': 'water'},\n"
            ")\n"
            "asyncio.run(main())",
            env={
                "OTEL_SERVICE_NAME": "overruled",
                "OTEL_RESOURCE_ATTRIBUTES": "team=overruled,host.name=dam",
                "OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:9",
                "OTEL_EXPORTER_OTLP_PROTOCOL": "overruled",
            },
        )
        assert sorted(span.data.name for span in receiver.spans) == ["process q", "put q"]
        assert "penstock.process.items" in receiver.metrics
        for received in (*receiver.spans, *receiver.metrics.values()):
            assert received.resource["service.name"] == "pump"
            assert received.resource["deployment.environment.name"] == "test"
            assert received.resource["team"] == "water"
            assert received.resource["host.name"] == "dam"
            assert received.resource["ip"] == socket.gethostname()
        assert [headers["authorization"] for headers in receiver.headers] == ["Bearer token"] * 2


def test_the_environment_says_it_as_well() -> None:
    with Receiver() as receiver:
        done = run(
            "-c",
            f"{PROGRAM}\npenstock.telemetry.setup()\nasyncio.run(main())\nraise SystemExit(3)",
            env={
                "OTEL_SERVICE_NAME": "pump",
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
                "OTEL_EXPORTER_OTLP_PROTOCOL": "",
                "OTEL_RESOURCE_ATTRIBUTES": "team=water",
            },
        )
        assert (done.returncode, done.stderr) == (3, "")
        assert sorted(span.data.name for span in receiver.spans) == ["process q", "put q"]
        assert "penstock.process.items" in receiver.metrics
        for received in (*receiver.spans, *receiver.metrics.values()):
            assert received.resource["service.name"] == "pump"
            assert received.resource["team"] == "water"


def test_sampler_and_interval_are_those_of_the_environment() -> None:
    with Receiver() as receiver:
        child = start(
            "-c",
            f"{PROGRAM}\npenstock.telemetry.setup('pump')\nasyncio.run(main())\ninput()",
            env={
                "OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint,
                "OTEL_TRACES_SAMPLER": "always_off",
                "OTEL_METRIC_EXPORT_INTERVAL": "50",
            },
        )
        try:
            receiver.wait_for_metric("penstock.process.items")  # while the program runs
        finally:
            out, err = child.communicate("\n", timeout=LIMIT)
        assert (child.returncode, out, err) == (0, "", "")
        assert receiver.spans == []


@pytest.mark.parametrize(
    ("protocol", "endpoint", "variables", "chosen"),
    [
        (None, None, {}, "grpc"),
        (None, "http://localhost:4317", {}, "grpc"),
        (None, "http://localhost:4318", {}, "http/protobuf"),
        (None, "https://otlp.example.com", {}, "grpc"),
        (None, None, {"ENDPOINT": "http://localhost:4318"}, "http/protobuf"),
        (None, None, {"ENDPOINT": "localhost:4317"}, "grpc"),
        (None, "http://localhost:4317", {"ENDPOINT": "http://localhost:4318"}, "grpc"),
        (None, "http://localhost:4317", {"PROTOCOL": "http/protobuf"}, "http/protobuf"),
        (None, "http://localhost:4318", {"PROTOCOL": ""}, "http/protobuf"),
        ("grpc", "http://localhost:4318", {"PROTOCOL": "http/protobuf"}, "grpc"),
    ],
)
def test_the_protocol_is_the_argument_or_the_variable_or_what_the_port_tells(
    protocol: str | None,
    endpoint: str | None,
    variables: dict[str, str],
    chosen: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(
        "os.environ", {f"OTEL_EXPORTER_OTLP_{name}": value for name, value in variables.items()}
    )
    assert _choose_protocol(protocol, endpoint) == chosen


@pytest.mark.parametrize("protocol", ["grpc", "http/protobuf"])
def test_a_program_without_its_collector_works_and_says_so_in_one_line(protocol: str) -> None:
    with socket.socket() as nobody:  # bound, but it does not listen
        nobody.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{nobody.getsockname()[1]}"
        done = run(
            "-c",
            f"{PROGRAM}\npenstock.telemetry.setup('pump')\nasyncio.run(main())\n"
            "print(queue.metrics['processed'])",
            env={"OTEL_EXPORTER_OTLP_ENDPOINT": url, "OTEL_EXPORTER_OTLP_PROTOCOL": protocol},
        )
    assert (done.returncode, done.stdout) == (0, "1\n")
    (line,) = done.stderr.splitlines()
    assert line.startswith(f"Telemetry does not arrive at {url}: ")


def test_each_signal_has_its_own_endpoint_and_protocol() -> None:
    with Receiver("grpc") as spans, Receiver("http/protobuf") as metrics:
        script(
            f"{PROGRAM}\npenstock.telemetry.setup('pump')\nasyncio.run(main())",
            env={
                "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": spans.endpoint,
                "OTEL_EXPORTER_OTLP_METRICS_ENDPOINT": f"{metrics.endpoint}/v1/metrics",
                "OTEL_EXPORTER_OTLP_METRICS_PROTOCOL": "http/protobuf",
            },
        )
        assert sorted(span.data.name for span in spans.spans) == ["process q", "put q"]
        assert "penstock.process.items" in metrics.metrics
        assert (metrics.spans, spans.metrics) == ([], {})


@pytest.mark.parametrize(
    ("variables", "has_spans", "has_metrics"),
    [
        ({"OTEL_TRACES_EXPORTER": "none"}, False, True),
        ({"OTEL_METRICS_EXPORTER": "none"}, True, False),
        ({"OTEL_TRACES_EXPORTER": "otlp", "OTEL_METRICS_EXPORTER": "otlp"}, True, True),
        ({"OTEL_SDK_DISABLED": "true"}, False, False),
    ],
)
def test_the_variables_turn_signals_off(
    variables: dict[str, str], has_spans: bool, has_metrics: bool
) -> None:
    with Receiver() as receiver:
        script(
            f"{PROGRAM}\nhandle = penstock.telemetry.setup('pump')\nasyncio.run(main())\n"
            "assert handle.flush() and handle.shutdown()",
            env={"OTEL_EXPORTER_OTLP_ENDPOINT": receiver.endpoint, **variables},
        )
        assert bool(receiver.spans) == has_spans
        assert bool(receiver.metrics) == has_metrics


def test_the_console_needs_no_server() -> None:
    done = run("-c", f"{PROGRAM}\npenstock.telemetry.setup(console=True)\nasyncio.run(main())")
    assert (done.returncode, done.stdout) == (0, "")
    lines = done.stderr.splitlines()
    spans = [line.split() for line in lines if "  trace " in line]
    assert [(words[1], words[2], words[5]) for words in spans] == [
        ("put", "q", "accepted"),
        ("process", "q", "ok"),
    ]
    assert len({words[-1] for words in spans}) == 1  # one trace
    assert "penstock.process.items  name=q, outcome=ok  1" in lines


def test_the_console_of_the_environment_is_that_of_the_sdk() -> None:
    out = script(
        f"{PROGRAM}\npenstock.telemetry.setup('pump')\nasyncio.run(main())",
        env={"OTEL_TRACES_EXPORTER": "console", "OTEL_METRICS_EXPORTER": "none"},
    )
    assert '"name": "process q"' in out


def test_an_exporter_that_is_not_there_is_named() -> None:
    done = run(
        "-c", "import penstock.telemetry as t; t.setup()", env={"OTEL_TRACES_EXPORTER": "pigeon"}
    )
    assert "OTEL_TRACES_EXPORTER must be otlp, console, none" in done.stderr
    assert "'pigeon'" in done.stderr


# -- what is set up already -------------------------------------------------------------------


def test_a_second_call_changes_nothing() -> None:
    """A cell of a notebook that is run twice, say."""
    with Receiver() as one, Receiver() as other:
        script(
            f"{PROGRAM}\n"
            f"handle = penstock.telemetry.setup('one', {one.endpoint!r})\n"
            f"assert penstock.telemetry.setup('other', {other.endpoint!r}) is handle\n"
            "asyncio.run(main())"
        )
        assert {span.resource["service.name"] for span in one.spans} == {"one"}
        assert other.spans == []


JOINED = """
import logging
from opentelemetry import metrics, trace
from opentelemetry.sdk.trace import TracerProvider
from telemetry.recorder import Recorder

recorder = Recorder()
logging.basicConfig(format="%(name)s %(levelname)s %(message)s", level=logging.INFO)
logging.getLogger("penstock").addFilter(lambda record: "Queue" not in record.getMessage())
"""


def test_providers_that_are_set_are_used() -> None:
    """By opentelemetry-instrument, or another library; with a line in the log."""
    done = run(
        "-c",
        f"{PROGRAM}{JOINED}\n"
        "trace.set_tracer_provider(recorder.tracer_provider)\n"
        "metrics.set_meter_provider(recorder.meter_provider)\n"
        "handle = penstock.telemetry.setup('pump')\n"
        "asyncio.run(main())\n"
        "assert handle.flush() and handle.shutdown()\n"
        "print(recorder.names())",
    )
    assert done.stdout == "['process q', 'put q']\n"
    assert done.stderr == "penstock INFO OpenTelemetry is set up already: penstock uses it\n"


def test_only_the_provider_that_is_missing_is_set() -> None:
    with Receiver() as receiver:
        done = run(
            "-c",
            f"{PROGRAM}{JOINED}\n"
            "trace.set_tracer_provider(recorder.tracer_provider)\n"
            f"penstock.telemetry.setup('pump', {receiver.endpoint!r})\n"
            "asyncio.run(main())\n"
            "print(recorder.names())",
        )
        assert done.stdout == "['process q', 'put q']\n"
        assert "set up already, except for metrics: penstock uses it" in done.stderr
        assert receiver.spans == []
        assert "penstock.process.items" in receiver.metrics


# -- processes --------------------------------------------------------------------------------


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_each_process_is_an_instance_of_its_own() -> None:
    with Receiver("http/protobuf") as receiver:
        script(
            f"{PROGRAM}\nimport os\n"
            f"handle = penstock.telemetry.setup('pump', {receiver.endpoint!r},"
            " protocol='http/protobuf')\n"
            "child = os.fork()\n"
            "asyncio.run(main())\n"
            "assert handle.flush()\n"
            "if not child:\n"
            "    os._exit(0)\n"
            "assert os.waitpid(child, 0)[1] == 0"
        )
        instances = [span.resource["service.instance.id"] for span in receiver.spans]
    assert len(instances) == 4
    assert len(set(instances)) == 2


@pytest.mark.skipif(not hasattr(os, "fork"), reason="forks")
def test_a_forked_child_counts_from_zero() -> None:
    with Receiver("http/protobuf") as receiver:
        script(
            f"{PROGRAM}\nimport os\n"
            f"handle = penstock.telemetry.setup('pump', {receiver.endpoint!r},"
            " protocol='http/protobuf')\n"
            "asyncio.run(main())\n"
            "child = os.fork()\n"
            "if child:\n"
            "    assert os.waitpid(child, 0)[1] == 0\n"
            "    os._exit(0)\n"
            "queue = penstock.BoundedQueue(name='q')\n"
            "asyncio.run(main())\n"
            "assert handle.flush()\n"
            "os._exit(0)"
        )
        durations = receiver.metrics["penstock.process.duration"].data.histogram.data_points
        processed = receiver.metrics["penstock.process.items"].data.sum.data_points
    assert [point.count for point in durations] == [1]
    assert sum(point.as_int for point in processed) == 1


def test_what_there_is_can_be_sent_before_the_end() -> None:
    with Receiver() as receiver:
        child = start(
            "-c",
            f"{PROGRAM}\nhandle = penstock.telemetry.setup('pump', {receiver.endpoint!r})\n"
            "asyncio.run(main())\nprint(handle.flush(60))\ninput()",
        )
        try:
            assert child.stdout is not None
            assert child.stdout.readline() == "True\n"
            assert sorted(span.data.name for span in receiver.spans) == ["process q", "put q"]
        finally:
            _, err = child.communicate("\n", timeout=LIMIT)
        assert (child.returncode, err) == (0, "")


# -- errors -----------------------------------------------------------------------------------


WITHOUT_THE_EXTRA = """
import importlib.abc, sys

class Blocker(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name.startswith(self.blocked):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)

blocker = Blocker()
sys.meta_path.insert(0, blocker)
"""


def test_without_the_extra_it_says_what_to_install_and_queues_work() -> None:
    out = script(
        f"{WITHOUT_THE_EXTRA}\n"
        "blocker.blocked = ('opentelemetry.sdk', 'opentelemetry.exporter', 'grpc')\n"
        f"{PROGRAM}\n"
        "asyncio.run(main())\n"
        "print(queue.metrics['processed'])\n"
        "for blocker.blocked in ('opentelemetry.sdk', 'opentelemetry.exporter', 'grpc'):\n"
        "    try:\n"
        "        penstock.telemetry.setup('x')\n"
        "    except ImportError as error:\n"
        "        print(error)\n"
    )
    processed, *errors = out.splitlines()
    assert processed == "1"
    assert len(errors) == 3
    for error, blocked in zip(errors, ("sdk", "exporter", "grpc"), strict=True):
        assert "pip install 'penstock[otel]'" in error
        assert blocked in error


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"endpoint": "localhost:4317"}, ValueError),
        ({"endpoint": "localhost"}, ValueError),
        ({"endpoint": ""}, ValueError),
        ({"endpoint": "ftp://localhost"}, ValueError),
        ({"endpoint": "http://"}, ValueError),
        ({"endpoint": "http://localhost:port"}, ValueError),
        ({"endpoint": 4317}, TypeError),
        ({"console": 1}, TypeError),
        ({"protocol": "http/json"}, ValueError),
        ({"protocol": ""}, ValueError),
        ({"protocol": "GRPC"}, ValueError),
        ({"service_name": ""}, ValueError),
        ({"service_name": b"pump"}, TypeError),
    ],
)
def test_an_argument_that_is_not_allowed_is_named(
    arguments: dict[str, Any], error: type[Exception]
) -> None:
    ((name, value),) = arguments.items()
    with pytest.raises(error, match=name) as caught:
        penstock.telemetry.setup(**arguments)
    assert repr(value) in str(caught.value)


def test_a_protocol_of_the_environment_that_is_not_allowed_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_PROTOCOL", "http/json")
    with pytest.raises(ValueError, match=r"OTEL_EXPORTER_OTLP_PROTOCOL must be .*'http/json'"):
        penstock.telemetry.setup()
