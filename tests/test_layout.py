"""How the package is built: each module imports only from those before it, and not too much."""

from __future__ import annotations

import ast
import functools
import re
import subprocess
import sys
from collections import Counter
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

#: Rooms, and modules at the root. Each imports from lines above its own, and from nothing below.
ORDER = (
    "errors",
    "_version",
    "_util",
    "protocols",
    "limits",
    "policies",
    "workers",
    "queue",
    "config",
    "from_config",
    "sync",
    "work_queue",
    "telemetry",
    "executors",
    "events",
    "brokers",
    "http",
    "httpx",
    "httpx2",
    "aiohttp",
    "requests",
    "testing",
    "cli",
    "__init__",
    "__main__",
)

#: What the core can be read without, and the first line of the order that imports it.
FIRST_USER = {"opentelemetry": "telemetry", "pydantic": "config", "pydantic_core": "config"}

#: The most files at the root.
AT_ROOT = 16

# What breaks these rules today. Each list may only get shorter: a test fails where it could be.
OUT_OF_ORDER: set[tuple[str, str]] = set()
IN_CIRCLES: list[set[str]] = []
#: Names of classes that stand for two things.
NAMED_TWICE = {
    "Intake",
    "Result",
    "Seen",
    "Source",
}
#: Names of classes that stand for one thing in two places: a protocol and its class, the same on
#: two faces or for two clients, an error that is the client's error as well.
ONE_THING = {
    "BudgetExceededError",
    "CircuitBreakerOpenError",
    "DeadlineExceededError",
    "Executor",
    "PolicyTransport",
    "QueueFullError",
    "SyncPolicyTransport",
    "WorkQueue",
    "_AsyncStream",
    "_Stream",
}

#: What belongs to extras, or is imported by name by those who want it.
HEAVY = (
    "aiohttp",
    "filelock",
    "httpx",
    "httpx2",
    "janus",
    "matplotlib",
    "nats",
    "opentelemetry.sdk",
    "opentelemetry.exporter",
    "penstock.aiohttp",
    "penstock.http",
    "penstock.brokers",
    "penstock.cli",
    "penstock.config",
    "penstock.httpx",
    "penstock.httpx2",
    "penstock.requests",
    "penstock.sync",
    "penstock.testing",
    "pydantic",
    "requests",
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


def out_of_order() -> set[tuple[str, str]]:
    """Imports from a line below one's own in ``ORDER``."""
    place = {room: number for number, room in enumerate(ORDER)}
    return {
        (module, imported)
        for module in MODULES
        for imported in imports_of(module)
        if place[layer(imported)] > place[layer(module)]
    }


def circles() -> list[set[str]]:
    """The groups of modules that import each other, by way of others too, types included."""
    graph = {module: sorted(set(imports_of(module)) - {module}) for module in MODULES}
    # Tarjan's algorithm: a group is complete when nothing that it reaches is older.
    found: list[set[str]] = []
    index: dict[str, int] = {}
    low: dict[str, int] = {}
    stack: list[str] = []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for imported in graph[module]:
            if imported not in index:
                visit(imported)
                low[module] = min(low[module], low[imported])
            elif imported in stack:
                low[module] = min(low[module], index[imported])
        if low[module] == index[module]:
            at = stack.index(module)
            group, stack[at:] = set(stack[at:]), []
            if len(group) > 1:
                found.append(group)

    for module in graph:
        if module not in index:
            visit(module)
    return sorted(found, key=sorted)


def imports_too_early() -> set[tuple[str, str]]:
    """Imports of what only lines further down may know; types included."""
    place = {room: number for number, room in enumerate(ORDER)}
    return {
        (module, imported)
        for module in MODULES
        for imported in all_imports(module)
        for package, first in FIRST_USER.items()
        if f"{imported}.".startswith(f"{package}.") and place[layer(module)] < place[first]
    }


def all_imports(module: str) -> Iterator[str]:
    """The full names of what a module imports, whose ever it is."""
    for node in walk(parsed(module), at_run_time=False):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def classes_of(module: str) -> set[str]:
    return {node.name for node in ast.walk(parsed(module)) if isinstance(node, ast.ClassDef)}


def test_a_module_imports_only_from_those_before_it() -> None:
    assert out_of_order() - OUT_OF_ORDER == set(), "imports from below"
    assert OUT_OF_ORDER - out_of_order() == set(), "OUT_OF_ORDER can be shorter"


def test_no_module_imports_itself_by_way_of_others() -> None:
    """Not when it runs, and for types neither."""
    assert circles() == sorted(IN_CIRCLES, key=sorted)


def test_the_core_can_be_read_without_opentelemetry_and_pydantic() -> None:
    assert imports_too_early() == set()


# Each import of a submodule runs penstock/__init__ first, which loads telemetry. So here a module
# without any code takes its place.
BARE_QUEUE = """
import asyncio, sys, types

penstock = types.ModuleType("penstock")
penstock.__path__ = sys.argv[1:]
sys.modules["penstock"] = penstock

from penstock.limits import Limit, RetryPolicy
from penstock.policies.policy import Policy
from penstock.queue.bounded import BoundedQueue

async def main():
    policy = Policy(limits=[Limit(100, 1)], retry=RetryPolicy(2))
    async with BoundedQueue(name="bare", policy=policy) as queue:
        await queue.start_workers(print, 1)
        await queue.put("an item")

asyncio.run(main())
print(*[name for name in sys.modules if name.split(".")[0] in ("opentelemetry", "pydantic")])
"""


def test_the_core_works_without_opentelemetry_and_pydantic() -> None:
    program = [sys.executable, "-c", BARE_QUEUE, str(PACKAGE)]
    printed = subprocess.run(program, capture_output=True, text=True, check=True).stdout
    assert printed.splitlines() == ["an item", ""]


def test_few_files_are_at_the_root() -> None:
    assert len([module for module in MODULES if "." not in module]) <= AT_ROOT


def test_no_class_has_the_name_of_another() -> None:
    counts = Counter(name for module in MODULES for name in classes_of(module))
    twice = {name for name, count in counts.items() if count > 1}
    assert twice - NAMED_TWICE - ONE_THING == set(), "find another word"
    assert (NAMED_TWICE | ONE_THING) - twice == set(), "NAMED_TWICE or ONE_THING can be shorter"


def test_every_line_of_the_order_stands_for_something() -> None:
    assert set(ORDER) == {layer(module) for module in MODULES}


def test_this_test_sees_imports_wherever_they_are() -> None:
    code = ast.parse("if TYPE_CHECKING:\n    import here\ndef function():\n    import there")
    imports = [node for node in walk(code, at_run_time=False) if isinstance(node, ast.Import)]
    assert [node.names[0].name for node in imports] == ["here", "there"]
    imports = [node for node in walk(code, at_run_time=True) if isinstance(node, ast.Import)]
    assert [node.names[0].name for node in imports] == ["there"]
    assert "_util.checks" in set(imports_of("queue.bounded"))  # from penstock._util import checks
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


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"_util.compat"}))
def test_what_an_old_python_lacks_is_asked_for_in_one_place_only(module: str) -> None:
    text = MODULES[module].read_text(encoding="utf-8")
    assert not re.findall(r"\bversion_info\b|\btyping_extensions\b|\btomli\b", text)
