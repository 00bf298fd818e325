"""Imports run one way: each part of the house knows only what lies below it."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
# Parts of the house from the ground up. A part may import those on floors below, and its own modules.
FLOORS = (
    {"errors", "philox", "singly"},
    {"dotted", "draws", "images", "runs", "experiment", "user_code"},
    {"claims", "layers", "search"},
    {"models", "objectives", "metrics", "grid"},
    {"training"},
    {"baselines"},
    {"analysis"},
    {"methods"},
    {"placement"},
    {"plan"},
    {"foreign", "progress", "manifest", "records", "sampling", "watching", "stopping", "winners"},
    {"evaluation", "remaining", "sheets"},
    {"runner"},
    {"cluster"},
    {"commands", "benchmarks"},
    {"cli"},
    {"run", "__main__"},
)
ANALYSIS_KNOWS = {"errors", "runs", "analysis"}


def sources() -> dict[str, Path]:
    """All modules by their dotted names."""
    paths = [*(ROOT / "harness").rglob("*.py"), *(ROOT / "baselines").rglob("*.py")]
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


SOURCES = sources()


def statements(tree: ast.AST) -> Iterator[ast.Import | ast.ImportFrom]:
    """The imports in a module, in functions too, but for those that only type checkers read."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            continue
        if isinstance(node, ast.Import | ast.ImportFrom):
            yield node
        yield from statements(node)


def imported(module: str, *, at_import: bool = False) -> set[str]:
    """The modules of ours that a module imports; `at_import`: leave out what its functions import when called."""
    tree = ast.parse(SOURCES[module].read_text())
    found: set[str] = set()
    for node in tree.body if at_import else [tree]:
        if at_import and isinstance(node, ast.FunctionDef | ast.ClassDef):
            continue
        for statement in statements(ast.Module([node], []) if isinstance(node, ast.stmt) else node):
            if isinstance(statement, ast.Import):
                found |= {alias.name for alias in statement.names}
            else:
                names = {f"{statement.module}.{alias.name}" for alias in statement.names}
                found |= {name if name in SOURCES else str(statement.module) for name in names}
    return found & set(SOURCES)


def part(module: str) -> str:
    """The part of the house that a module belongs to."""
    names = module.split(".")
    return names[0] if names[0] == "baselines" or len(names) == 1 else names[1]


MODULES = sorted(set(SOURCES) - {"harness"})


def test_every_part_has_its_floor() -> None:
    assert {part(module) for module in MODULES} - set().union(*FLOORS) == set()


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_from_its_own_part_and_from_floors_below(module: str) -> None:
    own = part(module)
    floor = next(number for number, parts in enumerate(FLOORS) if own in parts)
    below = set().union(*FLOORS[:floor])
    assert {part(name) for name in imported(module)} - below - {own, "harness"} == set()


def test_analysis_meets_training_in_the_run_folder_alone() -> None:
    for module in MODULES:
        if part(module) == "analysis":
            assert {part(name) for name in imported(module)} <= ANALYSIS_KNOWS
            assert "torch" not in re.findall(r"^\s*(?:import|from) (\w+)", SOURCES[module].read_text(), re.MULTILINE)


def test_no_module_imports_itself_through_others() -> None:
    graph = {module: imported(module) - {module} for module in SOURCES}
    while free := {module for module, needs in graph.items() if not needs & graph.keys()}:
        graph = {module: needs for module, needs in graph.items() if module not in free}
    assert graph == {}


def test_the_command_imports_little_of_ours_before_it_is_called() -> None:
    assert imported("harness.cli", at_import=True) == {"harness.errors", "harness.analysis.kinds"}
    assert imported("harness.analysis.kinds") | imported("harness.analysis") == set()


def test_no_module_in_harness_bears_the_name_of_another_package() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = [*project["dependencies"], *project["optional-dependencies"]["dev"]]
    dependencies = {re.split(r"[<>=!~\[; ]", line)[0].lower().replace("_", "-") for line in required}
    importable = {
        name
        for name, owners in packages_distributions().items()
        if {owner.lower().replace("_", "-") for owner in owners} & dependencies
    }
    assert {"torch", "sklearn", "PIL"} <= importable
    names = {module.split(".")[1] for module in MODULES if module.startswith("harness.")} - {"__main__"}
    assert names & (importable | set(sys.stdlib_module_names)) == set()
