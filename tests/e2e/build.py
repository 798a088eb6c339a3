"""Build the collector that ``otel-collector.yaml`` names, and Jaeger 2, from source with Go.

The collector is made by OpenTelemetry's own builder, of just the components that the YAML uses.
What is built stays in ``.cache/e2e``, so that this takes minutes only once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import yaml

import golang
from golang import MissingError, environment, folder, go, installed, say
from observability import shipped

CACHE = golang.CACHE / "e2e"

#: The collector's version, and that of its modules which are past 1.0 and count on their own.
VERSION, STABLE = "0.158.0", "1.64.0"
#: The module of Jaeger 2.13.0: its releases are tagged as those of both major versions.
JAEGER = ("github.com/jaegertracing/jaeger", "v1.76.0")
#: The library by which "docker compose" reads its files.
COMPOSE = ("github.com/compose-spec/compose-go/v2", "v2.16.2")

CORE = "go.opentelemetry.io/collector"
CONTRIB = "github.com/open-telemetry/opentelemetry-collector-contrib"
#: The module of every kind of component that the YAML may use.
MODULES = {
    "receivers": {"otlp": f"{CORE}/receiver/otlpreceiver"},
    "processors": {
        "memory_limiter": f"{CORE}/processor/memorylimiterprocessor",
        "tail_sampling": f"{CONTRIB}/processor/tailsamplingprocessor",
    },
    "exporters": {
        "otlp_grpc": f"{CORE}/exporter/otlpexporter",
        "prometheus": f"{CONTRIB}/exporter/prometheusexporter",
    },
    "connectors": {
        "forward": f"{CORE}/connector/forwardconnector",
        "service_graph": f"{CONTRIB}/connector/servicegraphconnector",
        "span_metrics": f"{CONTRIB}/connector/spanmetricsconnector",
    },
    "extensions": {"health_check": f"{CONTRIB}/extension/healthcheckextension"},
}
PROVIDERS = [f"{CORE}/confmap/provider/{name}provider v{STABLE}" for name in ("env", "file")]


def tools() -> dict[str, str]:
    """The commands that are needed, or :class:`MissingError` that names all that are not there."""
    wanted = {
        "go": "Go 1.25 or newer",
        "prometheus": "Debian: apt-get install prometheus",
        "promtool": "Debian: apt-get install prometheus",
    }
    found = {name: shutil.which(name) for name in wanted}
    absent = [f"{name} is missing ({wanted[name]})" for name, path in found.items() if not path]
    if absent:
        raise MissingError("; ".join(absent))
    return {name: path for name, path in found.items() if path}


def manifest() -> dict[str, Any]:
    """What the builder shall build: no more than the components that the YAML uses."""
    named = shipped.collector_version()
    if named != VERSION:
        raise MissingError(
            f"{shipped.COLLECTOR.name} is for collector {named}, but {Path(__file__).name} knows"
            f" how to build {VERSION}: set VERSION and STABLE there"
        )
    made: dict[str, Any] = {
        "dist": {"name": "otelcol-contrib", "version": VERSION, "output_path": "./made"},
        "providers": [{"gomod": module} for module in PROVIDERS],
    }
    for kind, used in parts().items():
        made[kind] = [{"gomod": f"{module} v{VERSION}"} for module in used]
    return made


def parts() -> dict[str, dict[str, list[str]]]:
    """For each kind of component its modules, and for each module the parts of the YAML."""
    config = shipped.read_yaml(shipped.COLLECTOR)
    made: dict[str, dict[str, list[str]]] = {}
    for kind, modules in MODULES.items():
        for name in config.get(kind, {}):
            module = modules.get(name.partition("/")[0])
            if module is None:
                raise MissingError(f"{Path(__file__).name} does not know the module of {name}")
            made.setdefault(kind, {}).setdefault(module, []).append(f"{kind}: {name}")
    return made


def collector() -> Path:
    """The collector, built if it is not there yet."""
    text = yaml.safe_dump(manifest(), sort_keys=False)
    # By its components too: another set of them is another program.
    digest = hashlib.sha256(text.encode()).hexdigest()[:8]
    built = CACHE / f"otelcol-contrib-{VERSION}-{digest}"
    if built.exists():
        return built
    say(f"building the collector {VERSION}: some minutes")
    with folder(CACHE) as name:
        work = Path(name)
        try:
            go("install", f"{CORE}/cmd/builder@v{VERSION}", cwd=work, GOBIN=str(work))
        except MissingError as error:
            raise MissingError(
                f"all of {shipped.COLLECTOR.name} stays unproved: OpenTelemetry's collector builder"
                f" cannot be installed: {error}"
            ) from None
        (work / "builder.yaml").write_text(text, encoding="utf-8")
        command = [str(work / "builder"), "--config=builder.yaml"]
        done = subprocess.run(
            command, cwd=work, env=environment(), check=False, capture_output=True, text=True
        )
        if done.returncode:
            raise MissingError(f"{unproved()}\n{(done.stdout + done.stderr)[-3000:]}")
        shutil.move(work / "made" / "otelcol-contrib", built)
    return built


def unproved() -> str:
    """Which parts of the YAML cannot be tried out because their modules cannot be had."""
    lines = []
    for modules in parts().values():
        for module, used in modules.items():
            done = subprocess.run(
                ["go", "mod", "download", "-json", f"{module}@v{VERSION}"],
                cwd=tempfile.gettempdir(),
                env=environment(),
                check=False,
                capture_output=True,
                text=True,
            )
            if done.returncode:
                why = json.loads(done.stdout).get("Error", "").strip()
                lines.append(f"  {', '.join(used)}: {module}: {why}")
    if not lines:
        return f"the collector {VERSION} cannot be built, though all its modules can be had:"
    return "\n".join(("these parts of the YAML stay unproved, they cannot be built:", *lines))


def jaeger() -> Path:
    """Jaeger 2, built if it is not there yet."""
    module, version = JAEGER
    built = CACHE / f"jaeger-{version}"
    if built.exists():
        return built
    say(f"building Jaeger 2 ({version}): ten minutes or so")
    with folder(CACHE) as name:
        work = Path(name)
        try:
            found = json.loads(go("mod", "download", "-json", f"{module}@{version}", cwd=work))
            # Not "go install": that refuses modules which replace others, as this one does.
            source = work / "jaeger"
            shutil.copytree(found["Dir"], source)
            for path in (source, *source.rglob("*")):
                path.chmod(path.stat().st_mode | 0o200)
            go("build", "-o", str(built), "./cmd/jaeger", cwd=source)
        except MissingError as error:
            raise MissingError(
                "exporters: otlp_grpc/jaeger stays unproved, as does what traces look like in the"
                f" end: Jaeger cannot be built: {error}"
            ) from None
    return built


def compose() -> Path:
    """A program that reads a compose file as "docker compose" does; it needs no Docker."""
    module, version = COMPOSE
    return installed(f"{module}/cmd", version, CACHE / f"compose-go-{version}", "seconds")
