"""Two processes train every baseline as one does, and measure its draws and bounds alike."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, Popen

import numpy as np
import pytest
from safetensors.numpy import load_file

from baselines import BASELINES

Harness = Callable[..., CompletedProcess[str]]


def states(grid: Path) -> dict[str, dict[str, np.ndarray]]:
    """All that the stacks' last checkpoints hold, by stack."""
    return {path.parent.name: load_file(path) for path in sorted(grid.glob("stacks/*/checkpoint-0000000012-*"))}


def test_two_processes_train_what_one_trains(
    harness: Harness, launch: Harness, baselines_grid: Callable[..., str], tmp_path: Path
) -> None:
    grid_file = tmp_path / "baselines.toml"
    grid_file.write_text(baselines_grid('precision = "float64"', seeds="[0, 1]", tables="[run]\nstack_size = 2"))
    for name, result in {
        "one": harness("run", grid_file, "--out", tmp_path / "one"),
        "two": launch(grid_file, "--out", tmp_path / "two", "--placement", "data-parallel"),
    }.items():
        assert result.returncode == 0, result.stderr
        said = [json.loads(path.read_text()) for path in tmp_path.glob(f"{name}/baselines/runs/*/provenance.json")]
        assert [run["outcome"] for run in said] == ["complete"] * 2 * len(BASELINES)
        assert {run["processes"] for run in said} == {2 if name == "two" else 1}
    one, two = states(tmp_path / "one" / "baselines"), states(tmp_path / "two" / "baselines")
    assert one.keys() == two.keys() and len(one) == len(BASELINES)
    for stack, tensors in one.items():
        assert tensors.keys() == two[stack].keys()
        for name, tensor in tensors.items():
            np.testing.assert_allclose(two[stack][name], tensor, rtol=1e-9, atol=1e-9, err_msg=name)


def test_two_processes_draw_and_bound_like_one(
    command: Harness,
    start_ranks: Callable[..., list[Popen[str]]],
    baselines_grid: Callable[..., str],
    tmp_path: Path,
) -> None:
    grid_file = tmp_path / "baselines.toml"
    metrics = ["parzen", "parzen-draws", "iwae-bound"]
    grid_file.write_text(baselines_grid(tables=f"[evaluation]\nmetrics = {metrics}\nsamples = 1100"))
    assert command("run", grid_file, "--out", tmp_path).returncode == 0
    folders = [tmp_path / "baselines", shutil.copytree(tmp_path / "baselines", tmp_path / "two" / "baselines")]
    shown = command("evaluate", folders[0])
    assert shown.returncode == 0 and "output=draws: binary images" in " ".join(shown.stdout.split())
    processes = start_ranks("evaluate", folders[1], "--cache", tmp_path / "references")
    answers = [process.communicate(timeout=200) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    measured: dict[str, set[str]] = {}
    for path in folders[0].glob("runs/*/evaluation.json"):
        one, two = (json.loads((folder / path.relative_to(folders[0])).read_text()) for folder in folders)
        assert one["metrics"].keys() == two["metrics"].keys()
        for key, found in one["metrics"].items():
            if found["value"] is None:
                assert two["metrics"][key]["reason"] == found["reason"]
                continue
            assert two["metrics"][key]["value"] == pytest.approx(found["value"], rel=1e-9), key
            measured.setdefault(key.partition("[")[0], set()).add(one["samples"]["method"])
    assert measured["parzen"] == BASELINES.keys() and measured["iwae-bound"] == {"vae"}
    assert measured["parzen-draws"] == {name for name, kind in BASELINES.items() if kind.of.bernoulli_means}
