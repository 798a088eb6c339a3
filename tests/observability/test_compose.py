"""What can be said of the compose file and its files without running it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from observability import shipped

COMPOSE = shipped.FOLDER / "compose.yaml"
SERVICES: dict[str, dict[str, Any]] = shipped.read_yaml(COMPOSE)["services"]
SOURCES: list[dict[str, Any]] = shipped.read_yaml(
    shipped.FOLDER / "grafana" / "provisioning" / "datasources" / "datasources.yml"
)["datasources"]

each_service = pytest.mark.parametrize("service", SERVICES.values(), ids=SERVICES.keys())


def mounts(service: dict[str, Any]) -> dict[str, Path]:
    """From the path inside to the path in this repository."""
    pairs = [volume.split(":") for volume in service["volumes"]]
    assert all(options == "ro" for _, _, options in pairs)
    return {inside: (shipped.FOLDER / outside).resolve() for outside, inside, _ in pairs}


@pytest.mark.parametrize(
    "path",
    [shipped.COLLECTOR, *shipped.FOLDER.rglob("*.yaml"), *shipped.FOLDER.rglob("*.yml")],
    ids=lambda path: path.name,
)
def test_is_yaml(path: Path) -> None:
    assert isinstance(shipped.read_yaml(path), dict)


def test_has_the_services_that_the_guide_names() -> None:
    assert set(SERVICES) == {"otel-collector", "jaeger", "tempo", "prometheus", "grafana"}


@each_service
def test_images_are_pinned(service: dict[str, Any]) -> None:
    assert re.fullmatch(r"[a-z-]+/[a-z-]+:v?\d+\.\d+\.\d+", service["image"])


@each_service
def test_what_is_mounted_exists(service: dict[str, Any]) -> None:
    for path in mounts(service).values():
        assert path.exists(), path
        assert path.is_relative_to(shipped.ROOT)


@each_service
def test_what_a_command_reads_is_mounted(service: dict[str, Any]) -> None:
    for argument in service.get("command", ()):
        if "config" in argument:
            assert argument.partition("=")[2] in mounts(service)


@each_service
def test_ports_are_open_to_this_machine_only(service: dict[str, Any]) -> None:
    assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ()))


@each_service
def test_depends_on_services_there_are(service: dict[str, Any]) -> None:
    assert set(service.get("depends_on", ())) <= set(SERVICES)


def test_the_collector_is_the_one_its_configuration_is_for() -> None:
    assert SERVICES["otel-collector"]["image"].endswith(f":{shipped.collector_version()}")
    assert shipped.COLLECTOR in mounts(SERVICES["otel-collector"]).values()


@pytest.mark.parametrize("name", ["jaeger", "tempo"])
def test_the_version_is_the_one_its_configuration_names(name: str) -> None:
    first = (shipped.FOLDER / f"{name}.yaml").read_text(encoding="utf-8").splitlines()[0]
    assert SERVICES[name]["image"].rpartition(":")[2] in first


def test_every_host_that_a_configuration_names_is_a_service() -> None:
    prometheus = shipped.read_yaml(shipped.FOLDER / "prometheus.yml")
    targets = [
        target
        for job in prometheus["scrape_configs"]
        for static in job["static_configs"]
        for target in static["targets"]
    ]
    environment = SERVICES["otel-collector"]["environment"]
    urls = [source["url"].partition("//")[2] for source in SOURCES]
    sinks = [value for name, value in environment.items() if name.endswith("_ENDPOINT")]
    for address in [*targets, *urls, *sinks]:
        assert address.partition(":")[0] in SERVICES, address


def test_the_collector_knows_every_variable_that_is_set_for_it() -> None:
    used = set(re.findall(r"\$\{env:(\w+):-", shipped.COLLECTOR.read_text(encoding="utf-8")))
    assert set(SERVICES["otel-collector"]["environment"]) <= used
    used = set(re.findall(r"\$\{env:(\w+):-", (shipped.FOLDER / "jaeger.yaml").read_text()))
    assert set(SERVICES["jaeger"]["environment"]) <= used


def test_data_sources_have_fixed_uids_and_the_dashboard_uses_these() -> None:
    provisioned = {(source["type"], source["uid"]) for source in SOURCES}
    assert provisioned == {("prometheus", "prometheus"), ("jaeger", "jaeger"), ("tempo", "tempo")}

    def used(part: Any) -> set[tuple[str, str]]:
        if isinstance(part, list):
            return set().union(*map(used, part))
        if not isinstance(part, dict):
            return set()
        own = part.get("datasource")
        found = {(own["type"], own["uid"])} if own else set()
        return found.union(*map(used, part.values()))

    assert used(shipped.dashboard()) == {("prometheus", "prometheus")}


def test_exemplars_link_to_traces() -> None:
    prometheus = next(source for source in SOURCES if source["uid"] == "prometheus")
    links = prometheus["jsonData"]["exemplarTraceIdDestinations"]
    assert {link["datasourceUid"] for link in links} == {"jaeger", "tempo"}
    assert {link["name"] for link in links} == {"trace_id"}
    assert "--enable-feature=exemplar-storage" in SERVICES["prometheus"]["command"]


def test_the_dashboard_is_provisioned() -> None:
    folder = shipped.FOLDER / "grafana" / "provisioning" / "dashboards"
    provider = shipped.read_yaml(folder / "dashboards.yml")["providers"][0]
    inside = mounts(SERVICES["grafana"])
    assert inside[provider["options"]["path"]] == shipped.DASHBOARD.parent
    home = SERVICES["grafana"]["environment"]["GF_DASHBOARDS_DEFAULT_HOME_DASHBOARD_PATH"]
    assert home == f"{provider['options']['path']}/{shipped.DASHBOARD.name}"
