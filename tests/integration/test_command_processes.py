"""Several processes train what one trains, and the job ends in good order."""

from __future__ import annotations

import json
import shutil
import signal
import time
from collections.abc import Callable
from pathlib import Path
from subprocess import CompletedProcess, Popen
from typing import Any

import numpy as np
import pandas as pd
import psutil
import pytest
from safetensors.numpy import load_file

Harness = Callable[..., CompletedProcess[str]]
Arrays = dict[str, np.ndarray]

# Dropout in the discriminator, batch normalisation in the generator, both ways of updating.
PAIRS = """\
name = "pairs"
seeds = [0, 1]
[experiment]
dataset = "digits"
iterations = 15
batch_size = 32
latent = {size = 8}
optimizer = {name = "SGD", lr = 0.05, momentum = 0.5}
[axes]
updates = ["alternating", "simultaneous"]
architecture = [
    {name = "maxout-mlp", model = "maxout-mlp", generator.hidden = [24], discriminator = MAXOUT},
    {name = "mlp", model = "mlp", generator = {hidden = [24, 16], batch_norm = true}},
]
""".replace("MAXOUT", "{hidden = [12, 12], pieces = 3, weight_range = 0.1}")
# What looks across a minibatch, or at the classes beside its images, in double precision.
CONDITIONS = """\
name = "conditions"
seeds = [0, 1]
[experiment]
dataset = "digits"
model = "dcgan"
iterations = 15
batch_size = 16
precision = "float64"
conditional = true
condition = {embedding = 4, discriminator = "projection"}
critic_schedule = {k = 3, until = 2, every = 5}
penalty = {name = "gradient_penalty", weight = 1.0}
latent = {size = 8}
generator = {channels = 3, weight_std = 0.2}
discriminator = {channels = 3, weight_std = 0.2, batch_norm = true}
optimizer = {name = "SGD", lr = 0.02, momentum = 0.5}
"""
RUNS = 8
TOGETHER = ("--placement", "data-parallel")


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid file."""
    path = tmp_path_factory.mktemp("grids") / "pairs.toml"
    path.write_text(PAIRS)
    return path


@pytest.fixture(scope="module")
def on_one(harness: Harness, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid trained by one process."""
    return trained_by(harness, pairs, tmp_path_factory.mktemp("one"))


@pytest.fixture(scope="module")
def on_one_streamed(harness: Harness, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid trained by one process that streams its images."""
    return trained_by(harness, pairs, tmp_path_factory.mktemp("streamed"), "--images-on", "stream")


@pytest.fixture(scope="module")
def on_two(launch: Harness, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid trained by two processes."""
    return trained_by(launch, pairs, tmp_path_factory.mktemp("two"), *TOGETHER)


@pytest.fixture(scope="module")
def on_two_streamed(launch: Harness, pairs: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid trained by two processes that stream their images."""
    return trained_by(launch, pairs, tmp_path_factory.mktemp("two-streamed"), "--images-on", "stream", *TOGETHER)


def trained_by(how: Harness, grid_file: Path, out: Path, *options: str) -> Path:
    """The folder of a grid, trained."""
    arguments = [grid_file, "--out", out, *options]
    result = how(*arguments) if how.__qualname__.startswith("launch") else how("run", *arguments)
    assert result.returncode == 0, result.stderr
    return out / grid_file.stem


def parameters(grid: Path, iteration: int = 15) -> dict[str, Arrays]:
    """Generators, discriminators and their optimizers' state after an iteration, by stack."""
    return {path.parent.name: load_file(path) for path in sorted(grid.glob(f"stacks/*/checkpoint-{iteration:010d}-*"))}


def difference(one: Arrays, two: Arrays) -> float:
    """||one - two|| / ||one|| over the parameters of both players."""
    names = [name for name in one if name.startswith(("generator/", "discriminator/"))]
    difference = sum(float(np.square(one[name].astype(float) - two[name]).sum()) for name in names)
    return float(np.sqrt(difference / sum(float(np.square(one[name].astype(float)).sum()) for name in names)))


def provenance(grid: Path, key: str) -> list[Any]:
    """What the provenance of each run says."""
    return [json.loads(path.read_text())[key] for path in sorted(grid.glob("runs/*/provenance.json"))]


@pytest.mark.parametrize("folder", ["on_two", "on_two_streamed"])
def test_two_processes_train_the_parameters_of_one(folder: str, on_one: Path, request: pytest.FixtureRequest) -> None:
    grid: Path = request.getfixturevalue(folder)
    assert provenance(grid, "processes") == [2] * RUNS
    assert provenance(on_one, "processes") == [1] * RUNS
    one, two = parameters(on_one), parameters(grid)
    assert one.keys() == two.keys() and len(one) == 4
    assert max(difference(one[stack], two[stack]) for stack in one) < 1e-5


OBJECTIVES = """\
name = "objectives"
seeds = [0]
[experiment]
dataset = "digits"
model = "mlp"
iterations = 15
batch_size = 32
precision = "float64"
latent = {size = 8}
optimizer = {name = "SGD", lr = 0.05}
[axes]
objective = [
    {name = "batch norm", model = "dcgan", loss = "wgan", penalty = {name = "gradient_penalty", weight = 0.1}, WIDE},
    {name = "spread of the batch", penalty = {name = "dragan"}, discriminator = {spectral_norm = true}},
    {name = "means of the batch", loss = "relativistic", instance_noise = {std = 0.1, until = 10}},
    {name = "balance", loss = "began", weight_clip = 0.2},
    {name = "short columns", generator.max_column_norm = 0.7, discriminator.max_column_norm = 0.5},
]
""".replace(
    "WIDE", "optimizer.lr = 0.005, generator = {channels = 4}, discriminator = {channels = 4, weight_std = 0.2}"
)


def test_objectives_that_look_at_the_whole_batch_are_those_of_one_process(
    harness: Harness, launch: Harness, tmp_path: Path
) -> None:
    path = tmp_path / "objectives.toml"
    path.write_text(OBJECTIVES)
    one = parameters(trained_by(harness, path, tmp_path / "one"))
    two = parameters(trained_by(launch, path, tmp_path / "two", *TOGETHER))
    assert one.keys() == two.keys() and len(one) == 5
    assert max(difference(one[stack], two[stack]) for stack in one) < 1e-9


ACCUMULATED = """\
name = "accumulated"
seeds = [0, 1]
[experiment]
dataset = "digits"
model = "maxout-mlp"
loss = "relativistic"
iterations = 15
batch_size = 32
precision = "float64"
latent = {size = 8}
discriminator = {hidden = [12, 12], pieces = 3, weight_range = 0.1}
optimizer = {name = "SGD", lr = 0.05}
"""


def test_two_processes_that_accumulate_gradients_train_as_one_that_does_not(
    harness: Harness, launch: Harness, tmp_path: Path
) -> None:
    path = tmp_path / "accumulated.toml"
    path.write_text(ACCUMULATED)
    one = parameters(trained_by(harness, path, tmp_path / "one"))
    two = trained_by(launch, path, tmp_path / "two", *TOGETHER, "--set", "run.gradient_accumulation=4")
    assert provenance(two, "gradient_accumulation") == [4, 4] and provenance(two, "processes") == [2, 2]
    assert max(difference(one[stack], tensors) for stack, tensors in parameters(two).items()) < 1e-9


def test_two_processes_write_the_history_of_one(on_one: Path, on_two: Path) -> None:
    paths = sorted(on_one.glob("runs/*/history.parquet"))
    assert len(paths) == RUNS
    for path in paths:
        one, two = pd.read_parquet(path), pd.read_parquet(on_two / path.relative_to(on_one))
        pd.testing.assert_frame_equal(one, two, rtol=1e-4, atol=1e-6)


def test_streamed_images_train_the_same_bits(on_one: Path, on_one_streamed: Path) -> None:
    one, streamed = parameters(on_one), parameters(on_one_streamed)
    assert one.keys() == streamed.keys() and len(one) == 4
    for stack in one:
        assert all(np.array_equal(one[stack][name], streamed[stack][name]) for name in one[stack])


def test_two_processes_train_conditional_pairs_as_one_does(
    start_ranks: Callable[..., list[Popen[str]]], harness: Harness, tmp_path: Path
) -> None:
    grid_file = tmp_path / "conditions.toml"
    grid_file.write_text(CONDITIONS)
    processes = start_ranks("run", grid_file, "--out", tmp_path / "two", "--images-on", "stream", *TOGETHER)
    one = parameters(trained_by(harness, grid_file, tmp_path / "one"))
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [0, 0], errors
    two = parameters(tmp_path / "two" / "conditions")
    assert one.keys() == two.keys() and len(one) == 1
    assert max(difference(one[stack], two[stack]) for stack in one) < 1e-9


def test_processes_with_stacks_of_their_own_train_the_bits_of_one(
    launch: Harness, pairs: Path, on_one: Path, tmp_path: Path
) -> None:
    result = launch(pairs, "--out", tmp_path)
    assert result.returncode == 0, result.stderr
    assert result.stderr.count("complete: ") == 4 and "[8/8]" in result.stderr
    assert "(auto: packed, since there is a stack for every process)" in result.stderr
    assert provenance(tmp_path / "pairs", "processes") == [1] * RUNS
    one, two = parameters(on_one), parameters(tmp_path / "pairs")
    assert one.keys() == two.keys() and len(one) == 4
    assert all(np.array_equal(one[stack][name], two[stack][name]) for stack in one for name in one[stack])


def test_a_large_stack_is_trained_by_all_processes(launch: Harness, tmp_path: Path) -> None:
    path = tmp_path / "large.toml"
    wide = "generator.hidden = [1000]\ndiscriminator = {hidden = [1000, 1000], pieces = 1, dropout = [0, 0, 0]}"
    path.write_text(ACCUMULATED.replace("discriminator = {hidden = [12, 12], pieces = 3, weight_range = 0.1}", wide))
    settings = ('name="large"', "iterations=2", "batch_size=1024", "seeds=[0]")
    result = launch(path, "--out", tmp_path, *(word for setting in settings for word in ("--set", setting)))
    assert result.returncode == 0, result.stderr
    assert "1 runs in 1 stacks, each on all of 2 processes (auto: data-parallel" in result.stderr
    assert provenance(tmp_path / "large", "processes") == [2]


def test_single_runs_are_shared_out_one_by_one(launch: Harness, pairs: Path, tmp_path: Path) -> None:
    result = launch(pairs, "--out", tmp_path, "--placement", "one-per-process", "--images-on", "stream")
    assert result.returncode == 0, result.stderr
    assert [stack["size"] for stack in provenance(tmp_path / "pairs", "stack")] == [1] * RUNS
    assert "by process 0" in result.stderr and "by process 1" in result.stderr


def test_bad_input_on_two_processes_is_one_message(launch: Harness, pairs: Path, tmp_path: Path) -> None:
    result = launch(pairs, "--out", tmp_path, "--set", "batch_sizes=3")
    assert result.returncode != 0
    assert result.stderr.count("harness: ") == 1 and "unknown key 'batch_sizes'" in result.stderr


def test_an_out_that_cannot_be_written_is_one_message_on_two_processes(
    start_ranks: Callable[..., list[Popen[str]]], pairs: Path, tmp_path: Path
) -> None:
    (tmp_path / "a-file").write_text("")
    processes = start_ranks("run", pairs, "--out", tmp_path / "a-file")
    errors = [process.communicate(timeout=60)[1] for process in processes]
    assert [process.returncode for process in processes] == [2, 2]
    assert errors[0].count("harness: ") == 1 and "a-file" in errors[0]
    assert "Traceback" not in errors[0] + errors[1]


def test_the_launcher_leaves_no_process(on_two: Path) -> None:
    seen = [process.info["cmdline"] or [] for process in psutil.process_iter(["cmdline"])]
    assert not [line for line in seen if str(on_two.parent) in line]


@pytest.mark.parametrize("begins_on", [2, 1])
def test_a_grid_stopped_on_some_processes_goes_on_with_another_number(
    begins_on: int,
    start: Callable[..., Popen[str]],
    start_ranks: Callable[..., list[Popen[str]]],
    harness: Harness,
    pairs: Path,
    tmp_path: Path,
) -> None:
    settings = ['axes.updates=["alternating"]', "iterations=300", 'precision="float64"', "run.checkpoint_every=10"]
    arguments = ["run", pairs, *(argument for setting in settings for argument in ("--set", setting))]

    def begun(count: int) -> list[Popen[str]]:
        given = [*arguments, "--out", tmp_path / "changed", *TOGETHER]
        return start_ranks(*given) if count == 2 else [start(*given)]

    processes = begun(begins_on)
    while not list(tmp_path.glob("changed/pairs/stacks/*/checkpoint-*")):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    processes[-1].send_signal(signal.SIGTERM)  # one rank is told, all stop
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [75] * begins_on, errors
    assert errors[0].count("harness: ") == 1 and not any(errors[1:])
    (saved,) = {int(path.name.split("-")[1]) for path in [max(tmp_path.glob("changed/pairs/stacks/*/checkpoint-*"))]}
    assert 0 < saved < 300
    processes = begun(3 - begins_on)
    errors = [process.communicate(timeout=240)[1] for process in processes]
    assert [process.returncode for process in processes] == [0] * (3 - begins_on), errors
    assert set(provenance(tmp_path / "changed" / "pairs", "processes")) == {3 - begins_on}
    assert harness(*arguments, "--out", tmp_path / "one").returncode == 0
    one, changed = (parameters(tmp_path / name / "pairs", 300) for name in ("one", "changed"))
    assert one.keys() == changed.keys() and len(one) == 2
    assert max(difference(one[stack], changed[stack]) for stack in one) < 1e-9


def test_processes_with_stacks_of_their_own_form_no_group(
    start: Callable[..., Popen[str]], pairs: Path, tmp_path: Path
) -> None:
    job = {"WORLD_SIZE": "2", "RANK": "1", "LOCAL_RANK": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "9"}
    process = start("run", pairs, "--out", tmp_path, "--placement", "packed", **job, ACCELERATE_USE_CPU="true")
    error = process.communicate(timeout=120)[1]  # the other never comes
    assert process.returncode == 0, error
    assert provenance(tmp_path / "pairs", "processes") == [1] * RUNS
    assert error.count("by process 1") == 4


@pytest.mark.parametrize("told", [(0, 1), (1,)])
def test_processes_with_stacks_of_their_own_stop_and_go_on(
    told: tuple[int, ...], start_ranks: Callable[..., list[Popen[str]]], harness: Harness, pairs: Path, tmp_path: Path
) -> None:
    arguments = ["run", pairs, "--set", "iterations=150", "--set", "run.checkpoint_every=10"]
    processes = start_ranks(*arguments, "--out", tmp_path / "two")
    while len(list(tmp_path.glob("two/pairs/stacks/*/checkpoint-*"))) < 2:
        assert all(process.poll() is None for process in processes)
        time.sleep(0.01)
    for rank in told:
        processes[rank].send_signal(signal.SIGTERM)
    errors = [process.communicate(timeout=120)[1] for process in processes]
    assert [process.returncode for process in processes] == [75 if rank in told else 0 for rank in (0, 1)], errors
    assert not list(tmp_path.glob("two/pairs/runs/*/failure.json")) and "Traceback" not in errors[0] + errors[1]
    assert harness(*arguments, "--out", tmp_path / "two").returncode == 0
    assert harness(*arguments, "--out", tmp_path / "one").returncode == 0
    one, two = (parameters(tmp_path / name / "pairs", 150) for name in ("one", "two"))
    assert one.keys() == two.keys() and len(one) == 4
    assert all(np.array_equal(one[stack][name], two[stack][name]) for stack in one for name in one[stack])


def test_two_processes_evaluate_like_one(
    start_ranks: Callable[..., list[Popen[str]]], trained: Path, evaluated: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(trained, tmp_path / "small")
    processes = start_ranks("evaluate", folder)
    answers = [process.communicate(timeout=60) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], answers
    assert answers[1] == ("", "")
    for path in evaluated.glob("runs/*/evaluation.json"):
        one = json.loads(path.read_text())["metrics"]
        two = json.loads((folder / path.relative_to(evaluated)).read_text())["metrics"]
        assert {key: record["value"] for key, record in two.items()} == pytest.approx(
            {key: record["value"] for key, record in one.items()}, rel=1e-9
        )


FAILS_ON_ONE_RANK = """\
import os

from torch import nn


class Discriminator(nn.Linear):
    steps = 0

    def forward(self, x):
        self.steps += 1
        if os.environ["RANK"] == "1" and self.steps > 10:
            raise RuntimeError("out of memory on one device")
        return super().forward(x.flatten(1))


def build(latent_size, image_shape, generator, discriminator):
    images = nn.Sequential(nn.Linear(latent_size, 64), nn.Sigmoid(), nn.Unflatten(1, image_shape))
    return images, Discriminator(64, 1)
"""


@pytest.mark.slow
def test_a_failure_on_one_process_does_not_leave_the_other_waiting(
    start_ranks: Callable[..., list[Popen[str]]], small_grid: Path, tmp_path: Path
) -> None:
    (tmp_path / "fails_on_one_rank.py").write_text(FAILS_ON_ONE_RANK)
    grid_file = shutil.copyfile(small_grid, tmp_path / "small.toml")
    model = ["--set", "model=fails_on_one_rank:build", "--set", "generator={}", "--set", "discriminator={}"]
    processes = start_ranks("run", grid_file, "--out", tmp_path / "out", *model, *TOGETHER)
    deadline = time.monotonic() + 150  # the start of two processes on busy cores included
    while any(process.poll() is None for process in processes) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert [process.poll() for process in processes] == [1, 1]
    assert [path.parent.name for path in tmp_path.glob("out/small/runs/*/failure.json")]
