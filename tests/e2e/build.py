"""Build the collector that ``otel-collector.yaml`` names, and Jaeger 2, from source with Go.

``make e2e`` runs this before its tests, which build nothing. OpenTelemetry's own builder makes the
collector, of just the components that the YAML uses. What is built stays in ``.cache/e2e``, so that
this takes minutes only once.
"""

from __future__ import annotations

import hashlib
import json
import shutil
import subprocess
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import yaml

import golang
from golang import MissingError, environment, folder, go, installed, run, say
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
        "resource": f"{CONTRIB}/processor/resourceprocessor",
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


class Programs(NamedTuple):
    """Where the programs are, or will be once they are built."""

    collector: Path
    jaeger: Path
    #: Reads a compose file as "docker compose" does; it needs no Docker.
    compose: Path


def programs() -> Programs:
    """Their places in the cache."""
    # The collector by its components too: another set of them is another program.
    digest = hashlib.sha256(builder_config().encode()).hexdigest()[:8]
    return Programs(
        CACHE / f"otelcol-contrib-{VERSION}-{digest}",
        CACHE / f"jaeger-{JAEGER[1]}",
        CACHE / f"compose-go-{COMPOSE[1]}",
    )


def built() -> Programs:
    """The programs, or :class:`MissingError` that names those that are not built."""
    wanted = programs()
    absent = [path.name for path in wanted if not path.exists()]
    if absent:
        raise MissingError(f"not built: {', '.join(absent)}")
    return wanted


def builder_config() -> str:
    return yaml.safe_dump(manifest(), sort_keys=False)


def build_collector(target: Path) -> None:
    say(f"building the collector {VERSION}: some minutes")
    with folder(CACHE) as name:
        work = Path(name)
        try:
            go("install", "-v", f"{CORE}/cmd/builder@v{VERSION}", cwd=work, GOBIN=str(work))
        except MissingError as error:
            raise MissingError(
                f"all of {shipped.COLLECTOR.name} stays unproved: OpenTelemetry's collector builder"
                f" cannot be installed: {error}"
            ) from None
        (work / "builder.yaml").write_text(builder_config(), encoding="utf-8")
        try:
            run([work / "builder", "--verbose", "--config=builder.yaml"], work)
        except MissingError as error:
            raise MissingError(f"{unproved()}\n{error}") from None
        shutil.move(work / "made" / "otelcol-contrib", target)


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


def build_jaeger(target: Path) -> None:
    module, version = JAEGER
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
            # Moved when it is whole: what is in the cache works.
            go("build", "-v", "-o", "made", "./cmd/jaeger", cwd=source)
            shutil.move(source / "made", target)
        except MissingError as error:
            raise MissingError(
                "exporters: otlp_grpc/jaeger stays unproved, as does what traces look like in the"
                f" end: Jaeger cannot be built: {error}"
            ) from None


def main() -> None:
    """Build what is not there yet, and say how far it is."""
    try:
        tools()
        wanted = programs()
        if not wanted.collector.exists():
            build_collector(wanted.collector)
        if not wanted.jaeger.exists():
            build_jaeger(wanted.jaeger)
        module, version = COMPOSE
        installed(f"{module}/cmd", version, wanted.compose, "seconds")
    except MissingError as missing:
        raise SystemExit(f"make e2e cannot run: {missing}") from None
    for path in wanted:
        say(f"{path.name} is there")


if __name__ == "__main__":
    main()
