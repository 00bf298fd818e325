"""A grid on a real cluster: as an array, cancelled, preempted, over two nodes."""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import load_file
from slurm_cluster import Cluster, missing, running

from harness.claims import ledger

Harness = Callable[..., CompletedProcess[str]]

pytestmark = [
    pytest.mark.slurm,
    pytest.mark.slow,
    pytest.mark.timeout(1800),  # every task imports torch, on two busy cores
    pytest.mark.skipif(
        bool(missing()),
        reason=f"no {', '.join(missing())}: apt-get install slurmctld slurmd slurm-client munge",
    ),
]
LONG = 3000  # iterations, so many that a disturbance comes in between
LONGEST = 18000  # so many that SLURM gives a silent node up in between
GRID = f"""\
name = "array"
seeds = [0, 1, 2]
[experiment]
dataset = "digits"
model = "mlp"
iterations = 40
batch_size = 32
latent = {{size = 8}}
generator = {{hidden = [16]}}
discriminator = {{hidden = [16]}}
optimizer = {{name = "SGD", lr = 0.05, momentum = 0.5}}
[axes]
of = [
    {{name = "told to stop", iterations = {LONG}}},
    {{name = "requeued", iterations = {LONG}, latent.size = 7}},
    {{name = "cancelled", iterations = {LONG}, latent.size = 6}},
    {{name = "without its daemon", iterations = {LONGEST}, latent.size = 9}},
    {{name = "more steps", k = 2}},
    {{name = "wide", generator.hidden = [24]}},
    {{name = "small batches", batch_size = 16}},
    {{name = "both at once", updates = "simultaneous"}},
]
[run]
stack_size = 3
checkpoint_every = 100
[evaluation]
metrics = ["kid"]
samples = 200
"""
STACKS, RUNS = 8, 24
STOPPED, REQUEUED, CANCELLED, ORPHANED = range(4)


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of two cores."""
    with (
        tempfile.TemporaryDirectory(prefix="slurm-", ignore_cleanup_errors=True) as folder,
        running(Cluster(Path(folder))) as started,
    ):
        yield started


@pytest.fixture(scope="module")
def on_cluster(harness: Harness, cluster: Cluster) -> Harness:
    """`harness ARGUMENTS` on a machine of the cluster."""

    def run(*arguments: object) -> CompletedProcess[str]:
        result = harness(*arguments, **cluster.variables)
        assert result.returncode == 0, result.stderr
        return result

    return run


@pytest.fixture(scope="module")
def local(harness: Harness, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str, str], Path]:
    """Trains a grid in one process that nothing disturbs; its folder."""

    def trained(name: str, text: str) -> Path:
        folder = tmp_path_factory.mktemp("local")
        (folder / f"{name}.toml").write_text(text)
        result = harness("run", folder / f"{name}.toml", "--out", folder)
        assert result.returncode == 0, result.stderr
        return folder / name

    return trained


def wait_until(condition: Callable[[], bool], what: str, *, seconds: float = 400) -> None:
    """Look until a condition holds."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.2)


def slurm(cluster: Cluster, *command: str) -> None:
    """A command of SLURM that must succeed."""
    environment = os.environ | cluster.variables
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{done.stderr} {cluster.jobs()}"


def goes_back(cluster: Cluster, task: str) -> bool:
    """Whether a task is in the queue again; it is told to stop until it is, since SLURM may lose a signal."""
    if cluster.jobs()[task] == "PENDING":
        return True
    with suppress(subprocess.TimeoutExpired):  # scancel tries again and again, where the job has ended meanwhile
        environment = os.environ | cluster.variables
        subprocess.run(["scancel", "--signal=USR1", task], env=environment, timeout=4, check=False)
    return False


def node_of(cluster: Cluster, task: str) -> str:
    """The node on which a task is; none where it waits or has ended."""
    return cluster.run("squeue", "-h", "-o", "%N", f"--jobs={task}")


def ended(cluster: Cluster) -> bool:
    """Whether no job waits or runs."""
    return not cluster.run("squeue", "-h")


def progress(folder: Path, number: int) -> dict[str, Any]:
    """What a stack's progress.json says."""
    stack = json.loads((folder / "grid.json").read_text())["stacks"][number]
    path = folder / "stacks" / stack["id"] / "progress.json"
    return dict(json.loads(path.read_text())) if path.exists() else {}


def statuses(on_cluster: Harness, folder: Path) -> list[str]:
    """The status of each run, in the grid's order."""
    return [row["status"] for row in json.loads(on_cluster("status", folder, "--format", "json").stdout)]


def logs(folder: Path) -> str:
    """What the jobs said."""
    return "\n".join(f"{path.name}: {path.read_text()}" for path in sorted(folder.glob("slurm/*.log")))


def trained(folder: Path) -> dict[str, dict[str, np.ndarray]]:
    """The newest checkpoint of every stack: parameters, the optimizers' state, history."""
    return {stack.name: load_file(max(stack.glob("checkpoint-*"))) for stack in sorted(folder.glob("stacks/*"))}


@pytest.fixture(scope="module")
def disturbed(on_cluster: Harness, cluster: Cluster, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A grid as an array, whose first four tasks are disturbed in four ways; how it stood, its folder at the end."""
    out = tmp_path_factory.mktemp("array")
    (out / "array.toml").write_text(GRID)
    folder = out / "array"
    submit = ["submit", out / "array.toml", "--out", out, "--time", "30"]
    said = on_cluster(*submit, "--no-collect").stdout
    job = json.loads((folder / "slurm" / "submissions.json").read_text())["submissions"][0]["jobs"][0]["id"]
    at_work = {"state": "running"}.items()
    wait_until(
        lambda: all(at_work <= progress(folder, number).items() for number in range(4)),
        f"the first four stacks began: {logs(folder)}",
    )
    slurm(cluster, "scancel", f"{job}_{CANCELLED}")
    slurm(cluster, "scontrol", "requeue", f"{job}_{REQUEUED}")
    wait_until(lambda: goes_back(cluster, f"{job}_{STOPPED}"), f"the first task is in the queue again: {logs(folder)}")
    slurm(cluster, "scontrol", "hold", f"{job}_{STOPPED}")  # so that there is time to look
    node = node_of(cluster, f"{job}_{ORPHANED}")
    cluster.end_daemon(node)
    stopped = progress(folder, STOPPED)
    requeued = statuses(on_cluster, folder)
    again = on_cluster(*submit, "--only", "pending,preempted", "--no-collect").stdout
    slurm(cluster, "scontrol", "release", f"{job}_{STOPPED}")
    # Not its state: it may soon be at work again elsewhere.
    wait_until(lambda: node_of(cluster, f"{job}_{ORPHANED}") != node, f"the node is given up: {logs(folder)}")
    given_up = progress(folder, ORPHANED)
    wait_until(
        lambda: progress(folder, ORPHANED)["iteration"] > given_up["iteration"],
        f"what runs there runs on: {logs(folder)}",
    )
    cluster.recover(node)
    wait_until(lambda: ended(cluster), f"all tasks ended: {logs(folder)}")
    without_one = statuses(on_cluster, folder)
    resubmitted = on_cluster(*submit, "--only", "failed,lost").stdout
    wait_until(lambda: ended(cluster), f"the last task and the collection ended: {logs(folder)}")
    return {
        "folder": folder, "said": said, "again": again, "stopped": stopped, "given_up": given_up,
        "requeued": requeued, "without_one": without_one, "resubmitted": resubmitted,
    }  # fmt: skip


@pytest.fixture(scope="module")
def undisturbed(local: Callable[[str, str], Path]) -> Path:
    """The same grid, trained by one process that nothing disturbs."""
    return local("array", GRID)


def of_stack(values: Sequence[str], number: int) -> set[str]:
    """What the statuses of a stack's runs are."""
    return set(values[3 * number : 3 * number + 3])


def test_each_stack_is_a_task_and_what_is_queued_is_not_submitted_twice(disturbed: dict[str, Any]) -> None:
    assert f"{STACKS} stacks, as tasks 0-{STACKS - 1}" in disturbed["said"]
    assert "nothing to submit" in disturbed["again"]


def test_a_task_that_was_told_to_stop_waits_in_the_queue_with_all_it_did(disturbed: dict[str, Any]) -> None:
    assert disturbed["stopped"]["state"] == "preempted" and 0 < disturbed["stopped"]["iteration"] < LONG
    assert of_stack(disturbed["requeued"], STOPPED) == {"preempted"}
    assert "stopped after iteration" in logs(disturbed["folder"])


def test_a_node_without_its_daemon_is_given_up_while_its_task_still_trains(disturbed: dict[str, Any]) -> None:
    assert disturbed["given_up"]["state"] == "running" and 0 < disturbed["given_up"]["iteration"] < LONGEST


def test_a_cancelled_task_is_lost_and_alone_submitted_again(disturbed: dict[str, Any]) -> None:
    told: list[str] = disturbed["without_one"]
    assert of_stack(told, CANCELLED) == {"lost"}
    assert told.count("complete") == RUNS - 3
    assert f"1 stacks, as tasks {CANCELLED}." in disturbed["resubmitted"]


def test_every_step_of_a_disturbed_array_is_trained_once(disturbed: dict[str, Any], on_cluster: Harness) -> None:
    folder: Path = disturbed["folder"]
    assert statuses(on_cluster, folder) == ["complete"] * RUNS
    stretches = []
    for number, entry in enumerate(json.loads((folder / "grid.json").read_text())["stacks"]):
        lines = ledger(folder / "stacks" / entry["id"])
        steps = [step for line in lines for step in range(line["first"], line["last"] + 1)]
        iterations = {ORPHANED: LONGEST}.get(number, LONG if number < 4 else 40)
        assert steps == list(range(1, iterations + 1)), lines
        stretches.append(sum(line["last"] >= line["first"] for line in lines))
    assert min(stretches[STOPPED], stretches[REQUEUED], stretches[CANCELLED]) >= 2


def test_a_disturbed_array_ends_like_an_undisturbed_grid(disturbed: dict[str, Any], undisturbed: Path) -> None:
    expected, found = trained(undisturbed), trained(disturbed["folder"])
    assert expected.keys() == found.keys() and len(found) == STACKS
    for stack, arrays in expected.items():
        assert {name: array.tobytes() for name, array in arrays.items()} == {
            name: array.tobytes() for name, array in found[stack].items()
        }


def test_the_job_behind_the_array_evaluates_tabulates_and_plots(
    disturbed: dict[str, Any], undisturbed: Path, harness: Harness
) -> None:
    folder: Path = disturbed["folder"]
    assert len(list(folder.glob("runs/*/evaluation.json"))) == RUNS, logs(folder)
    assert (folder / "plots" / "samples.png").stat().st_size > 1000
    assert harness("evaluate", undisturbed).returncode == 0
    tables = [harness("table", place, "--format", "csv").stdout for place in (undisturbed, folder)]
    assert tables[0] == tables[1] and tables[0].count("\n") > STACKS
    assert (folder / "table.md").read_text().count("\n| ") >= STACKS


NODES = """\
name = "nodes"
[experiment]
dataset = "digits"
iterations = 15
batch_size = 32
latent = {size = 8}
optimizer = {name = "SGD", lr = 0.05, momentum = 0.5}
model = "maxout-mlp"
generator.hidden = [24]
discriminator = {hidden = [12, 12], pieces = 3, weight_range = 0.1}
"""


def test_four_processes_on_two_nodes_train_the_parameters_of_one(
    on_cluster: Harness, cluster: Cluster, local: Callable[[str, str], Path], tmp_path: Path
) -> None:
    (tmp_path / "nodes.toml").write_text(NODES)
    on_cluster(
        "submit", tmp_path / "nodes.toml", "--out", tmp_path, "--nodes", 2, "--processes", 2, "--interface", "lo",
        "--no-collect",
    )  # fmt: skip
    wait_until(lambda: ended(cluster), "the job ended")
    folder = tmp_path / "nodes"
    assert statuses(on_cluster, folder) == ["complete"], logs(folder)
    [path] = folder.glob("runs/*/provenance.json")
    assert json.loads(path.read_text())["processes"] == 4
    [[one], [four]] = [list(trained(place).values()) for place in (local("nodes", NODES), folder)]
    names = [name for name in one if name.startswith(("generator/", "discriminator/"))]
    apart = sum(float(np.square(one[name].astype(float) - four[name]).sum()) for name in names)
    assert (apart / sum(float(np.square(one[name].astype(float)).sum()) for name in names)) ** 0.5 < 1e-5


ENDLESS = """\
name = "endless"
seeds = [0, 1]
[experiment]
dataset = "digits"
model = "mlp"
iterations = 1000000
batch_size = 32
latent = {size = 8}
optimizer = {name = "SGD", lr = 0.05}
[run]
stack_size = 1
checkpoint_every = 20
"""


def test_a_cancelled_task_stays_so_and_that_of_a_crashed_node_goes_on_elsewhere(
    on_cluster: Harness, cluster: Cluster, tmp_path: Path
) -> None:
    (tmp_path / "endless.toml").write_text(ENDLESS)
    folder = tmp_path / "endless"
    on_cluster("submit", tmp_path / "endless.toml", "--out", tmp_path, "--no-collect", "--cpus", 2)
    [job] = {task.partition("_")[0] for task in cluster.run("squeue", "-h", "-r", "-o", "%i").split()}

    def checkpoints(number: int) -> list[Path]:
        stack = json.loads((folder / "grid.json").read_text())["stacks"][number]["id"]
        return sorted((folder / "stacks" / stack).glob("checkpoint-*"))

    wait_until(lambda: all(checkpoints(number) for number in (0, 1)), f"both saved: {logs(folder)}")
    node = node_of(cluster, f"{job}_1")
    slurm(cluster, "scancel", f"{job}_0")
    cluster.crash(node)
    saved = checkpoints(1)[-1]
    wait_until(lambda: cluster.jobs()[f"{job}_1"] == "PENDING", "the task of the crashed node waits")
    assert statuses(on_cluster, folder)[1] in ("preempted", "running")
    wait_until(lambda: checkpoints(1)[-1] > saved, f"the task went on: {logs(folder)}")
    assert node_of(cluster, f"{job}_1") not in ("", node)
    assert statuses(on_cluster, folder) == ["lost", "running"]
    assert cluster.jobs()[f"{job}_0"] == "CANCELLED"
    cluster.recover(node)
    slurm(cluster, "scancel", job)
