"""A loss of one's own, exactly as the README shows it."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess

import pandas as pd
import pytest

Harness = Callable[..., CompletedProcess[str]]
README = Path(__file__).parents[2] / "README.md"
GRID = """
name = "own"
seeds = [0, 1]
[experiment]
dataset = "digits"
model = "mlp"
iterations = 20
optimizer = {name = "Adam", lr = 1e-3}
[axes]
loss = ["my_loss:soft_hinge", "hinge"]
"""


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """A grid file with the README's loss beside it."""
    [source] = re.findall(r"```python\n# my_loss\.py\n(.*?)```", README.read_text(), re.DOTALL)
    (tmp_path / "my_loss.py").write_text(source)
    path = tmp_path / "own.toml"
    path.write_text(GRID)
    return path


def test_the_readmes_loss_trains_beside_ours(harness: Harness, own: Path, tmp_path: Path) -> None:
    result = harness("run", own, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    folders = list((tmp_path / "out/own/runs").iterdir())
    experiments = [json.loads((folder / "experiment.json").read_text()) for folder in folders]
    assert sorted(one["loss"] for one in experiments) == ["hinge"] * 2 + ["my_loss:soft_hinge"] * 2
    assert {"loss_hash" in one for one in experiments if one["loss"] == "hinge"} == {False}
    assert len({one["loss_hash"] for one in experiments if one["loss"] != "hinge"}) == 1
    for folder in folders:
        history = pd.read_parquet(folder / "history.parquet")
        assert len(history) == 20 and "score_difference" in history and "d_real" not in history


def test_another_source_is_another_run(harness: Harness, own: Path) -> None:
    first = harness("run", own, "--dry-run", "--set", "axes.loss=['my_loss:soft_hinge']").stdout
    source = own.with_name("my_loss.py")
    source.write_text(source.read_text().replace("1 - real", "2 - real"))
    assert harness("run", own, "--dry-run", "--set", "axes.loss=['my_loss:soft_hinge']").stdout != first


BAD = {
    "return -fake.mean(-1)": {
        "return -fake.mean()": "take .mean(-1)",
        "return fake.mean(-1).detach()": "not finite and differentiable",
        "return fake.mean(-1) / 0": "not finite",
        "return (fake - fake.mean()).square().mean(-1)": "mixes members",
        "return fake.mean(-1) * __import__('torch').rand(())": "draws random numbers",
        "return fake.average(-1)": "generator fails on scores (2, 4): AttributeError",
    },
    'score="linear"': {'score="logits"': "score = 'logits' should be"},
}


@pytest.mark.parametrize(
    ("right", "wrong", "words"), [(right, wrong, words) for right in BAD for wrong, words in BAD[right].items()]
)
def test_a_loss_that_cannot_train_is_refused_first(
    right: str, wrong: str, words: str, command: Harness, own: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = own.with_name("my_loss.py")
    name = f"loss_{abs(hash(wrong))}"  # a module of its own, since this process keeps those that it imported
    own.with_name(f"{name}.py").write_text(source.read_text().replace(right, wrong))
    monkeypatch.chdir(own.parent)
    result = command("run", own, "--dry-run", "--set", f"axes.loss=['{name}:soft_hinge']")
    assert result.returncode == 2 and words in result.stderr and "Traceback" not in result.stderr, result.stderr


def test_samples_of_a_finished_run_need_no_loss(harness: Harness, own: Path, tmp_path: Path) -> None:
    assert harness("run", own, "--out", tmp_path / "out", "--set", "seeds=[0]").returncode == 0
    own.with_name("my_loss.py").unlink()
    for run in (tmp_path / "out/own/runs").iterdir():
        drawn = harness("sample", run, "--n", 5, "-o", tmp_path / "samples.npz")
        assert drawn.returncode == 0, drawn.stderr


@pytest.mark.parametrize("name", ["my_loss:sharp_hinge", "my_loss:generator", "no_such_file:loss"])
def test_a_loss_that_is_not_there_is_refused(name: str, harness: Harness, own: Path) -> None:
    result = harness("run", own, "--set", f"axes.loss=['{name}']")
    assert result.returncode == 2 and name in result.stderr and "Traceback" not in result.stderr
