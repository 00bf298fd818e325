"""A grid that is run again trains only what is new, and leaves the folder as planned."""

from __future__ import annotations

import json
import shutil
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pytest

Harness = Callable[..., CompletedProcess[str]]

COMMANDS = ("run", "evaluate", "sample", "table", "plot", "status", "list", "bench")
RUN_FILES = {"experiment.json", "provenance.json", "history.parquet", "samples.npz", "snapshots"}


def written(folder: Path) -> dict[Path, tuple[bytes, int]]:
    """The bytes and the time of writing of all that training left, by its place in the folder."""
    files = [path for part in ("runs", "stacks") for path in (folder / part).rglob("*") if path.is_file()]
    return {path.relative_to(folder): (path.read_bytes(), path.stat().st_mtime_ns) for path in files}


def manifest_of(folder: Path) -> dict[str, list[dict[str, object]]]:
    content: dict[str, list[dict[str, object]]] = json.loads((folder / "grid.json").read_text())
    return content


def test_a_trained_grid_has_the_planned_files(trained: Path) -> None:
    manifest = manifest_of(trained)
    assert {path.name for path in trained.iterdir()} == {"claims", "grid.json", "runs", "stacks"}
    assert {path.name for path in (trained / "runs").iterdir()} == {run["id"] for run in manifest["runs"]}
    assert {path.name for path in (trained / "stacks").iterdir()} == {stack["id"] for stack in manifest["stacks"]}
    for run in (trained / "runs").iterdir():
        assert {path.name for path in run.iterdir()} == RUN_FILES
        assert [path.name for path in (run / "snapshots").iterdir()] == ["0000000030.safetensors"]


def test_a_dry_run_names_the_runs_that_training_makes(
    command: Harness, small_grid: Path, trained: Path, tmp_path: Path
) -> None:
    result = command("run", small_grid, "--dry-run", "--out", tmp_path / "out", "--format", "json")
    assert [row["id"] for row in json.loads(result.stdout)] == [run["id"] for run in manifest_of(trained)["runs"]]
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("override", "skipped", "runs"),
    [("seeds=[0,1]", "[4/4] skipped", 4), ("seeds=[2,1,0]", "[4/6] skipped", 6), ("axes.k=[1,2]", "[4/8] skipped", 8)],
)
def test_only_what_is_new_is_trained(
    override: str, skipped: str, runs: int, harness: Harness, small_grid: Path, trained: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained, tmp_path / "small")
    before, old = written(folder), manifest_of(folder)
    result = harness("run", small_grid, "--out", tmp_path, "--set", override)
    assert result.returncode == 0, result.stderr
    assert result.stderr.startswith(skipped)
    after, new = written(folder), manifest_of(folder)
    assert {path: after[path] for path in before} == before
    assert new["stacks"][: len(old["stacks"])] == old["stacks"]
    assert {run["id"] for run in old["runs"]} <= {run["id"] for run in new["runs"]}
    assert len(new["runs"]) == len(list((folder / "runs").glob("*/provenance.json"))) == runs


def test_help_answers_in_half_a_second(harness: Harness) -> None:
    seconds = []
    for _ in range(5):
        began = time.perf_counter()
        assert harness("--help").returncode == 0
        seconds.append(time.perf_counter() - began)
    assert statistics.median(seconds) < 0.5


@pytest.mark.parametrize("name", COMMANDS)
def test_a_commands_help_has_an_example(name: str, command: Harness) -> None:
    result = command(name, "--help")
    assert result.returncode == 0
    assert f"harness {name}" in result.stdout.partition("Example")[2]


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("datasets", "digits"),
        ("grids", "demo"),
        ("losses", "minimax"),
        ("methods", "gan"),
        ("metrics", "parzen"),
        ("models", "mlp"),
        ("optimizers", "Adam"),
    ],
)
def test_list_names_what_a_grid_may_use(kind: str, name: str, command: Harness) -> None:
    result = command("list", kind)
    assert result.returncode == 0
    assert name in result.stdout.split()
