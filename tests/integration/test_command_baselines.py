"""Two processes train every baseline as one does."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import numpy as np
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
