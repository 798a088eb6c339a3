"""How the package is built: each module imports only from those before it, and not too much."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import penstock

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parents[1]
PACKAGE = Path(penstock.__file__).parent

#: Modules and subpackages. Each imports from lines above its own, and from nothing below.
ORDER = (
    "errors",
    "_compat",
    "_version",
    "_checks",
    "_lifecycle",
    "_loop_local",
    "protocols",
    "events",
    "config",
    "limits",
    "governor",
    "calls",
    "telemetry",
    "states",
    "line",
    "takers",
    "buffer",
    "accounts",
    "workers",
    "base",
    "core",
    "queue",
    "results",
    "_progress",
    "_signals",
    "face",
    "work_queue",
    "executors",
    "sync",
    "brokers",
    "_http",
    "httpx",
    "httpx2",
    "testing",
    "cli",
    "__init__",
    "__main__",
)

#: What belongs to extras, or is imported by name by those who want it.
HEAVY = (
    "filelock",
    "httpx",
    "httpx2",
    "janus",
    "matplotlib",
    "nats",
    "opentelemetry.sdk",
    "opentelemetry.exporter",
    "penstock._http",
    "penstock.brokers",
    "penstock.cli",
    "penstock.httpx",
    "penstock.httpx2",
    "penstock.sync",
    "penstock.testing",
    "rich",
    "tqdm",
    "typer",
    "uvloop",
)

MODULES = {
    ".".join(path.relative_to(PACKAGE).with_suffix("").parts): path
    for path in sorted(PACKAGE.rglob("*.py"))
}


def layer(module: str) -> str:
    return module.partition(".")[0]


@functools.cache
def parsed(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text(encoding="utf-8"))


def imports_of(module: str, *, at_run_time: bool = False) -> Iterator[str]:
    """The modules of penstock that one imports, anywhere in its code."""
    for node in walk(parsed(module), at_run_time):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{module} has a relative import"
            # What follows ``import`` may be a module too.
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        else:
            continue
        for name in names:
            parts = name.split(".")
            if parts[0] == "penstock":
                yield resolve(parts[1:])


def walk(node: ast.AST, at_run_time: bool) -> Iterator[ast.AST]:
    for child in ast.iter_child_nodes(node):
        if at_run_time and isinstance(child, ast.If) and ast.unparse(child.test) == "TYPE_CHECKING":
            continue
        yield child
        yield from walk(child, at_run_time)


def resolve(parts: list[str]) -> str:
    """The module that an import reads: the longest part of the name that is one."""
    while parts:
        for module in (".".join(parts), ".".join([*parts, "__init__"])):
            if module in MODULES:
                return module
        parts = parts[:-1]
    return "__init__"


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_those_before_it(module: str) -> None:
    assert layer(module) in ORDER, f"{layer(module)} has no place in ORDER yet"
    allowed = ORDER[: ORDER.index(layer(module))]
    wrong = {
        imported
        for imported in imports_of(module)
        if layer(imported) not in allowed and layer(imported) != layer(module)
    }
    assert not wrong, f"penstock.{module} imports {sorted(wrong)}, which comes after it"


def test_no_module_imports_itself_by_way_of_others() -> None:
    graph = {module: set(imports_of(module, at_run_time=True)) for module in MODULES}

    def visit(module: str, path: tuple[str, ...]) -> None:
        assert module not in path, f"a circle: {' -> '.join([*path, module])}"
        if module not in done:
            for imported in graph[module]:
                visit(imported, (*path, module))
            done.add(module)

    done: set[str] = set()
    for module in graph:
        visit(module, ())


def test_every_line_of_the_order_stands_for_something() -> None:
    assert set(ORDER) == {layer(module) for module in MODULES}


def test_this_test_sees_imports_wherever_they_are() -> None:
    assert "telemetry.api" in set(imports_of("telemetry.spans"))  # under TYPE_CHECKING
    assert "telemetry.api" not in set(imports_of("telemetry.spans", at_run_time=True))
    assert "_checks" in set(imports_of("queue"))  # from penstock import _checks
    assert "errors" in set(imports_of("__init__"))


def test_importing_penstock_loads_nothing_that_belongs_to_an_extra() -> None:
    program = "import sys, penstock; print(*sorted(sys.modules), sep='\\n')"
    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    assert "penstock.queue" in loaded
    heavy = [m for m in loaded if any(m == name or m.startswith(f"{name}.") for name in HEAVY)]
    assert heavy == []


def test_the_public_names_are_there_and_say_what_they_are() -> None:
    assert sorted(set(penstock.__all__)) == penstock.__all__
    for name in penstock.__all__:
        assert getattr(penstock, name).__doc__


def test_the_package_says_that_it_is_typed() -> None:
    assert (PACKAGE / "py.typed").exists()


def mutation_paths() -> list[str]:
    """What the settings of mutmut name: modules, tests, and tests that are left out."""
    pyproject = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
    settings = tomllib.loads(pyproject)["tool"]["mutmut"]
    return [
        *settings["source_paths"],
        *settings["only_mutate"],
        *settings["pytest_add_cli_args_test_selection"],
        *(
            argument.removeprefix("--deselect=")
            for argument in settings["pytest_add_cli_args"]
            if argument.startswith("--deselect=")
        ),
    ]


@pytest.mark.parametrize("name", mutation_paths())
def test_what_the_settings_of_mutmut_name_is_there(name: str) -> None:
    path, _, test = name.partition("::")
    files = list(ROOT.glob(path))
    assert files != []
    if test:
        text = files[0].read_text(encoding="utf-8")
        for part in test.partition("[")[0].split("::"):
            assert re.search(rf"^ *(?:class|def|async def) {part}\b", text, re.MULTILINE)


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"_compat"}))
def test_what_an_old_python_lacks_is_asked_for_in_one_place_only(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert not re.findall(r"\bversion_info\b|\btyping_extensions\b|\btomli\b", text)
