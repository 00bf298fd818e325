"""The text of batch jobs, without a cluster."""

from __future__ import annotations

import os
import shlex
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.cluster.sbatch import Collecting, Resources, Training, array_script, collect_script, ranges, seconds
from harness.errors import InputError

READY = Path(__file__).parents[2] / "slurm"
ONE_GPU = Resources(gpus=1, cpus=4, memory="16G", time="4:00:00")
NODES = Resources(nodes=2, gpus=4, cpus=4, memory="64G", time="1-00:00:00")
DEMO = Training("demo", "demo")
SCRIPTS = {
    "array.sbatch": array_script(DEMO, ONE_GPU, stacks=range(6), parallel=2),
    "nodes.sbatch": array_script(DEMO, NODES, stacks=range(6)),
    "collect.sbatch": collect_script(Collecting("demo", "results/runs/demo"), ONE_GPU),
}


@pytest.mark.parametrize("name", SCRIPTS)
def test_the_ready_scripts_are_what_the_function_gives(name: str) -> None:
    assert (READY / name).read_text() == SCRIPTS[name]


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_is_bash(name: str) -> None:
    subprocess.run(["bash", "-n", READY / name], check=True)


def options(text: str) -> list[str]:
    """What sbatch reads: the lines of #SBATCH before the first command."""
    head = text.partition("\n\n")[0].splitlines()
    return [line.removeprefix("#SBATCH ") for line in head if line.startswith("#SBATCH ")]


def test_a_plain_job_asks_for_nothing_that_nobody_named() -> None:
    assert options(array_script(DEMO, Resources(), stacks=[0])) == [
        "--job-name=demo",
        "--array=0",
        "--output=%x-%A_%a.log",
        "--open-mode=append",
        "--nodes=1",
        "--ntasks-per-node=1",
        "--cpus-per-task=1",
        "--requeue",
        "--signal=USR1@120",
    ]


def test_every_option_reaches_sbatch() -> None:
    resources = Resources(
        partition="gpu,long", account="lab_1", qos="high", constraint="a100|h100", gres="gpu:a100:2",
        cpus=3, memory="8G", time="90", nodes=2, processes=2, requeue=False, signal_seconds=60,
    )  # fmt: skip
    found = options(array_script(DEMO, resources, stacks=[4, 5, 6, 9], first=3, parallel=2))
    for option in (
        "--partition=gpu,long", "--account=lab_1", "--qos=high", "--constraint=a100|h100", "--gres=gpu:a100:2",
        "--cpus-per-task=3", "--mem=8G", "--time=90", "--nodes=2", "--ntasks-per-node=2", "--no-requeue",
        "--signal=USR1@60", "--array=1-3,6%2",
    ):  # fmt: skip
        assert option in found


def test_only_what_may_be_requeued_requeues_itself() -> None:
    assert "scontrol requeue" in array_script(DEMO, Resources(), stacks=[0])
    assert "scontrol requeue" not in array_script(DEMO, Resources(requeue=False), stacks=[0])


def test_the_job_behind_an_array_is_one_process_on_one_node() -> None:
    found = options(collect_script(Collecting("demo", "out/demo"), replace(NODES, processes=3)))
    assert {"--nodes=1", "--ntasks-per-node=1", "--gres=gpu:1"} <= set(found)


REFUSED: dict[str, dict[str, Any]] = {
    "partition": {"partition": "gpu --uid=0"},
    "account": {"account": "lab\n#SBATCH --uid=0"},
    "qos": {"qos": '"'},
    "constraint": {"constraint": "a100 $(id)"},
    "gres": {"gres": "gpu:2;id"},
    "memory": {"memory": "lots"},
    "time": {"time": "4 hours"},
    "interface": {"interface": "ib0 $(id)"},
    "no longer than the 120 s": {"time": "2"},
    "--gpus and --gres": {"gpus": 1, "gres": "gpu:2"},
}


@pytest.mark.parametrize("what", REFUSED)
def test_values_that_could_be_misread_are_refused(what: str) -> None:
    with pytest.raises(InputError, match=what):
        Resources(**REFUSED[what])


@pytest.mark.parametrize("log", ["a b.log", "x\n#SBATCH --uid=0", "'", "a\\b", "50%/%A.log"])
def test_a_place_of_logs_that_sbatch_would_misread_is_refused(log: str) -> None:
    with pytest.raises(InputError):
        Training("demo", "demo", log=log)


def test_line_breaks_are_refused() -> None:
    job = Training("demo", "demo")
    changes: list[dict[str, Any]] = [
        {"grid": "a\nb"},
        {"arguments": ("--set", "a=1\n#SBATCH -n1")},
        {"harness": ("a\x00",)},
    ]
    for change in changes:
        with pytest.raises(InputError, match="line break"):
            replace(job, **change)


PRINTABLE = st.text(st.characters(codec="utf-8", exclude_categories=("Cc", "Cs")), max_size=20)


@given(grid=PRINTABLE.filter(bool), setting=PRINTABLE)
def test_whatever_is_in_a_grids_name_or_a_setting_arrives_as_one_word(grid: str, setting: str) -> None:
    job = Training("demo", grid, ("--set", setting), harness=("printf", r"%s\0"))
    text = array_script(job, Resources(requeue=False), stacks=[0])
    environment = {"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": "7"}
    script = 'srun() { shift; "$@"; }\n' + text
    said = subprocess.run(["bash", "-c", script], env=environment, capture_output=True, check=True).stdout
    assert said.decode().split("\0") == ["run", grid, "--stack", "7", "--set", setting, ""]


def test_a_script_takes_another_grid_by_hand() -> None:
    script = 'srun() { shift; echo "$@"; }\n' + array_script(DEMO, Resources(requeue=False), stacks=[0], first=1000)
    environment = {"PATH": os.environ["PATH"], "SLURM_ARRAY_TASK_ID": "7"}
    command = ["bash", "-c", script, "array.sbatch", "my grid.toml"]
    said = subprocess.run(command, env=environment, capture_output=True, text=True, check=True).stdout
    assert shlex.split(said) == ["harness", "run", "my", "grid.toml", "--stack", "1007"]


def test_the_prologue_stands_behind_the_options_of_sbatch_as_it_is() -> None:
    prologue = "module load cuda\nsource 'my venv/bin/activate'\n"
    text = array_script(DEMO, Resources(prologue=prologue), stacks=[0])
    assert prologue in text.partition("\n\n")[2] and options(text) == options(
        array_script(DEMO, Resources(), stacks=[0])
    )


@given(st.sets(st.integers(0, 60), min_size=1))
def test_ranges_say_all_numbers_and_no_others(numbers: set[int]) -> None:
    said: list[int] = []
    for span in ranges(numbers).split(","):
        low, _, high = span.partition("-")
        said += range(int(low), int(high or low) + 1)
    assert said == sorted(numbers)


@pytest.mark.parametrize(
    ("time", "expected"),
    [("90", 5400), ("1:30", 90), ("1:00:05", 3605), ("1-2", 93600), ("1-2:30", 95400), ("2-00:00:01", 172801)],
)
def test_time_limits_are_read_as_slurm_reads_them(time: str, expected: int) -> None:
    assert seconds(time) == expected
