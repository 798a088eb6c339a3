"""The dashboard, against the types that Grafana publishes of what it reads. Needs npm."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from observability import shipped

#: Grafana's own version is that of the image in ``compose.yaml``.
PACKAGES = ("@grafana/schema@12.4.3", "typescript@5.9.3")
FOLDER = shipped.ROOT / ".cache" / "e2e" / "grafana"

#: Enumerations by their values, as JSON has them.
RAW = "./node_modules/@grafana/schema/dist/types/raw"
HEAD = (
    f"""
import type {{ Dashboard, Panel }} from "{RAW}/dashboard/x/types.gen";
import type {{ FieldConfig, Options }} from "{RAW}/composable/timeseries/panelcfg/x/types.gen";
"""
    """
type Json<T> =
  T extends string ? `${T}` :
  T extends number | boolean | null | undefined ? T :
  T extends (infer U)[] ? Json<U>[] :
  T extends object ? { [K in keyof T]: Json<T[K]> } : T;
"""
)
FLAGS = (
    "--noEmit --strict --skipLibCheck --moduleResolution bundler --module esnext --target es2022"
)


@pytest.fixture(scope="module")
def compiler(npm: str) -> Path:
    FOLDER.mkdir(parents=True, exist_ok=True)
    found = FOLDER / "node_modules" / ".bin" / "tsc"
    if not found.exists():
        (FOLDER / "package.json").write_text('{"private": true}', encoding="utf-8")
        install = [npm, "install", "--no-audit", "--no-fund", "--ignore-scripts", *PACKAGES]
        subprocess.run(install, cwd=FOLDER, check=True, timeout=300)
    return found


def compiled(compiler: Path, dashboard: dict[str, Any], name: str) -> str:
    """What the compiler has against a dashboard."""
    parts = [("Dashboard", {**dashboard, "panels": []})]
    for panel in dashboard["panels"]:
        parts.append(("Panel", panel))
        parts.append(("Options", panel["options"]))
        parts.append(("FieldConfig", panel["fieldConfig"]["defaults"]["custom"]))
    lines = [
        f"const part{number}: Json<{kind}> = {json.dumps(value)};"
        for number, (kind, value) in enumerate(parts)
    ]
    (FOLDER / name).write_text(HEAD + "\n".join(lines), encoding="utf-8")
    done = subprocess.run(
        [compiler, *FLAGS.split(), name],
        cwd=FOLDER,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    return done.stdout


def test_grafana_can_read_each_part_of_the_dashboard(compiler: Path) -> None:
    assert compiled(compiler, shipped.dashboard(), "dashboard.ts") == ""


@pytest.mark.parametrize("fault", ["a wrong value", "a name that is not known"])
def test_the_check_finds_faults(compiler: Path, fault: str) -> None:
    dashboard = shipped.dashboard()
    legend = dashboard["panels"][0]["options"]["legend"]
    if fault == "a wrong value":
        legend["displayMode"] = "tables"
    else:
        legend["showLegends"] = True
    said = compiled(compiler, dashboard, "fault.ts")
    assert "error TS" in said
    assert ("tables" if fault == "a wrong value" else "showLegends") in said
