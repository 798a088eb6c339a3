"""``penstock.telemetry.setup()``: each test in an interpreter of its own, before a receiver."""

from __future__ import annotations

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


def test_a_program_without_its_collector_works_and_ends() -> None:
    with socket.socket() as nobody:  # bound, but it does not listen
        nobody.bind(("127.0.0.1", 0))
        done = run(
            "-c",
            f"{PROGRAM}\npenstock.telemetry.setup('pump')\nasyncio.run(main())\n"
            "print(queue.metrics['processed'])",
            env={
                "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{nobody.getsockname()[1]}",
                "OTEL_EXPORTER_OTLP_TIMEOUT": "1",
            },
        )
    assert (done.returncode, done.stdout) == (0, "1\n")
    assert "Traceback" not in done.stderr


# -- errors -----------------------------------------------------------------------------------


def test_a_second_call_is_an_error_and_the_first_one_counts() -> None:
    with Receiver() as one, Receiver() as other:
        out = script(
            f"{PROGRAM}\n"
            f"penstock.telemetry.setup('one', {one.endpoint!r})\n"
            "try:\n"
            f"    penstock.telemetry.setup('other', {other.endpoint!r})\n"
            "except RuntimeError as error:\n"
            "    print(error)\n"
            "asyncio.run(main())"
        )
        assert "call penstock.telemetry.setup() once" in out
        assert {span.resource["service.name"] for span in one.spans} == {"one"}
        assert other.spans == []


def test_in_a_program_that_set_providers_itself_it_is_an_error() -> None:
    out = script(
        "import penstock.telemetry\n"
        "from opentelemetry import metrics, trace\n"
        "from opentelemetry.sdk.metrics import MeterProvider\n"
        "from opentelemetry.sdk.trace import TracerProvider\n"
        "metrics.set_meter_provider(MeterProvider())\n"
        "for step in (lambda: trace.set_tracer_provider(TracerProvider()), bool):\n"
        "    try:\n"
        "        penstock.telemetry.setup()\n"
        "    except RuntimeError as error:\n"
        "        print(error)\n"
        "    step()"
    )
    assert out.count("not at all in a program that sets its own providers") == 2


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
