"""However a grid is interrupted, running it again ends where an undisturbed run ends, bit for bit."""

from __future__ import annotations

import json
import random
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
Start = Callable[..., Popen[str]]

ITERATIONS = 300  # of each of two stacks
SETTINGS = [f"iterations={ITERATIONS}", "axes.k=[1,2]", "ema=0.9", "run.snapshot_every=120"]
SHARED = [argument for setting in SETTINGS for argument in ("--set", setting)]


def saved(folder: Path) -> int:
    """Iterations in the newest checkpoints, summed over the stacks."""
    newest: dict[Path, int] = {}
    for path in folder.glob("stacks/*/checkpoint-*.safetensors"):
        newest[path.parent] = max(newest.get(path.parent, 0), int(path.name.split("-")[1]))
    return sum(newest.values())


def interrupt(process: Popen[str], number: signal.Signals, when: Callable[[], bool]) -> str:
    """Send a signal as soon as a condition holds; what the process said on stderr."""
    while not when():
        assert process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(number)
    return process.communicate(timeout=60)[1]


def saves(out: Path, iterations: int) -> Callable[[], bool]:
    """Whether the grid in a folder has saved so many iterations."""
    return lambda: saved(out / "small") >= iterations


def left_behind(folder: Path) -> dict[str, Any]:
    """All that training leaves and that time does not change, by name."""
    left: dict[str, Any] = {}
    for path in sorted(folder.glob("runs/*/snapshots/*")):
        left[str(path.relative_to(folder))] = path.read_bytes()
    for path in sorted(folder.glob("runs/*/provenance.json")):
        left[str(path.relative_to(folder))] = json.loads(path.read_text()) | {"seconds": None}
    for path in sorted(folder.glob("runs/*/samples.npz")):
        with np.load(path) as arrays:
            left[str(path.relative_to(folder))] = arrays["images"].tobytes()
    for path in sorted(folder.glob("runs/*/history.parquet")):
        left[str(path.relative_to(folder))] = pd.read_parquet(path).to_records().tobytes()
    for stack in sorted(folder.glob("stacks/*")):
        last = max(stack.glob("checkpoint-*"))
        left[stack.name] = {key: array.tobytes() for key, array in load_file(last).items()}
    return left


@pytest.fixture(scope="module")
def undisturbed(harness: Harness, small_grid: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What the grid leaves when nothing disturbs it."""
    out = tmp_path_factory.mktemp("undisturbed")
    result = harness("run", small_grid, "--out", out, *SHARED)
    assert result.returncode == 0, result.stderr
    left = left_behind(out / "small")
    assert len([name for name in left if "snapshots" in name]) == 8 * 3
    return left


@pytest.mark.slow
@pytest.mark.parametrize("seed", [0, 1])
def test_a_killed_grid_ends_like_an_undisturbed_one(
    seed: int, harness: Harness, start: Start, small_grid: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    arguments = ["run", small_grid, "--out", tmp_path, *SHARED, "--set", "run.checkpoint_every=10"]
    for moment in sorted(random.Random(seed).sample(range(1, 450), 2)):
        process = start(*arguments)
        interrupt(process, signal.SIGKILL, saves(tmp_path, moment))
        assert process.returncode == -signal.SIGKILL
    assert harness(*arguments).returncode == 0
    assert left_behind(tmp_path / "small") == undisturbed


def test_a_grid_killed_while_it_writes_results_ends_like_an_undisturbed_one(
    harness: Harness, start: Start, small_grid: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    arguments = ["run", small_grid, "--out", tmp_path, *SHARED]
    process = start(*arguments)
    interrupt(process, signal.SIGKILL, lambda: any(tmp_path.glob("small/runs/*/samples.npz")))
    assert harness(*arguments).returncode == 0
    assert left_behind(tmp_path / "small") == undisturbed


def test_signals_that_go_on_change_no_exit_code(start: Start, small_grid: Path, tmp_path: Path) -> None:
    process = start("run", small_grid, "--out", tmp_path, *SHARED, "--set", "run.checkpoint_every=10")
    while not saved(tmp_path / "small"):
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    while process.poll() is None:
        process.send_signal(signal.SIGUSR1)
        process.send_signal(signal.SIGTERM)
        time.sleep(0.01)
    assert process.returncode == 75


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1])
def test_a_preempted_grid_ends_like_an_undisturbed_one(
    number: signal.Signals,
    harness: Harness,
    start: Start,
    small_grid: Path,
    tmp_path: Path,
    undisturbed: dict[str, Any],
) -> None:
    arguments = ["run", small_grid, "--out", tmp_path, *SHARED, "--set", "run.checkpoint_every=10"]
    for moment in (80, 380):
        process = start(*arguments)
        message = interrupt(process, number, saves(tmp_path, moment))
        assert process.returncode == 75
        assert message.count("harness: ") == 1 and "run the same command to go on" in message
        assert "Traceback" not in message
    assert harness(*arguments).returncode == 0
    assert left_behind(tmp_path / "small") == undisturbed


def test_the_status_of_a_preempted_grid_tells_how_far_it_is(
    command: Harness, start: Start, small_grid: Path, tmp_path: Path
) -> None:
    process = start("run", small_grid, "--out", tmp_path, *SHARED, "--set", "run.checkpoint_every=10")
    message = interrupt(process, signal.SIGINT, saves(tmp_path, 80))  # Ctrl-C saves too
    assert process.returncode == 75
    rows = json.loads(command("status", tmp_path, "--format", "json").stdout)
    assert [row["status"] for row in rows].count("preempted") == [row["status"] for row in rows].count("pending") == 4
    (iteration,) = {row["iteration"] for row in rows if row["status"] == "preempted"}
    assert iteration == saved(tmp_path / "small")
    assert f"after iteration {iteration} of {ITERATIONS};" in message


def test_a_signal_during_the_start_stops_in_good_order(start: Start, small_grid: Path, tmp_path: Path) -> None:
    process = start("run", small_grid, "--out", tmp_path, *SHARED)
    importing = psutil.Process(process.pid)
    message = interrupt(process, signal.SIGTERM, lambda: bool(importing.memory_info().rss > 100e6))
    assert process.returncode == 75
    assert message.count("harness: ") == 1


def test_ctrl_c_during_an_evaluation_says_no_more_than_that(start: Start, trained: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(trained, tmp_path / "small")
    process = start("evaluate", folder)
    importing = psutil.Process(process.pid)
    message = interrupt(process, signal.SIGINT, lambda: bool(importing.memory_info().rss > 100e6))
    assert process.returncode == 130  # 1 would say that runs failed
    assert "Traceback" not in message


def stretches(folder: Path) -> list[list[dict[str, Any]]]:
    """The ledger of each stack."""
    return [
        [json.loads(line) for line in path.read_text().splitlines()]
        for path in sorted(folder.glob("stacks/*/ledger.jsonl"))
    ]


def assert_tiled(folder: Path) -> None:
    """Each step of each stack lies in one stretch."""
    assert len(stretches(folder)) == 2
    for ledger in stretches(folder):
        assert [line["epoch"] for line in ledger] == sorted({line["epoch"] for line in ledger})
        assert [line["first"] for line in ledger] == [1, *(line["last"] + 1 for line in ledger[:-1])]
        assert ledger[-1]["last"] == ITERATIONS and ledger[-1]["outcome"] == "complete"


def test_commands_beside_each_other_share_a_grid(
    start: Start, small_grid: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    processes = [start("run", small_grid, "--out", tmp_path, *SHARED) for _ in range(3)]
    answers = [process.communicate(timeout=240) for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], answers
    assert sum(err.count("complete: ") for _, err in answers) == 2
    assert [[line["reached"] for line in ledger] for ledger in stretches(tmp_path / "small")] == [[300], [300]]
    assert left_behind(tmp_path / "small") == undisturbed


def test_an_owner_that_stood_still_wakes_and_does_no_harm(
    harness: Harness, start: Start, small_grid: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    arguments = ["run", small_grid, "--out", tmp_path, *SHARED]
    arguments += ["--set", "run.checkpoint_every=10", "--set", "run.lapse_seconds=3"]
    stalled = start(*arguments)
    while not saves(tmp_path, 40)():
        assert stalled.poll() is None, stalled.communicate()
        time.sleep(0.001)
    stalled.send_signal(signal.SIGSTOP)
    second = harness(*arguments)
    assert second.returncode == 0, second.stderr
    assert f":{stalled.pid}, which gives no sign of life" in second.stderr
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    stalled.send_signal(signal.SIGCONT)
    message = stalled.communicate(timeout=120)[1]
    assert stalled.returncode == 0
    assert "another process has taken it over" in message and "complete" not in message
    after = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert [path.name for path in after if after[path] != before.get(path)] in ([], ["000003.json"])
    assert left_behind(tmp_path / "small") == undisturbed
    assert_tiled(tmp_path / "small")
    (ledger,) = [ledger for ledger in stretches(tmp_path / "small") if len(ledger) > 1]
    assert ledger[0]["outcome"] == "lapsed" and ledger[0]["owner"].endswith(f":{stalled.pid}")


def test_a_killed_owners_stack_goes_on_at_once_and_the_ledger_tells(
    harness: Harness, start: Start, small_grid: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    arguments = ["run", small_grid, "--out", tmp_path, *SHARED, "--set", "run.checkpoint_every=10"]
    interrupt(start(*arguments), signal.SIGKILL, saves(tmp_path, 100))
    assert harness(*arguments, "--set", "run.lapse_seconds=10000").returncode == 0
    assert left_behind(tmp_path / "small") == undisturbed
    assert_tiled(tmp_path / "small")


def test_a_stack_trains_by_its_place(harness: Harness, small_grid: Path, tmp_path: Path) -> None:
    arguments = ["run", small_grid, "--out", tmp_path, "--set", "axes.k=[1,2]"]
    result = harness(*arguments, "--stack", 1)
    assert result.returncode == 0, result.stderr
    manifest = json.loads((tmp_path / "small" / "grid.json").read_text())
    trained = {path.parent.name for path in tmp_path.glob("small/runs/*/provenance.json")}
    assert trained == set(manifest["stacks"][1]["members"])
    refused = harness(*arguments, "--stack", 2)
    assert refused.returncode == 2
    assert "has 2 stacks, 0 to 1: there is no --stack 2" in refused.stderr


def test_a_damaged_checkpoint_gives_way_to_the_one_before(
    harness: Harness, start: Start, small_grid: Path, tmp_path: Path, undisturbed: dict[str, Any]
) -> None:
    arguments = ["run", small_grid, "--out", tmp_path, *SHARED, "--set", "run.checkpoint_every=10"]
    process = start(*arguments)
    interrupt(process, signal.SIGKILL, saves(tmp_path, 100))
    newest = max(tmp_path.glob("small/stacks/*/checkpoint-*"))
    newest.write_bytes(newest.read_bytes()[:-1] + b"?")
    result = harness(*arguments)
    assert result.returncode == 0
    assert newest.name in result.stderr and "damaged" in result.stderr
    assert left_behind(tmp_path / "small") == undisturbed
