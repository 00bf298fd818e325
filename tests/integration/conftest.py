"""The real command in processes of its own, and small grids that the tests share."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from subprocess import CompletedProcess, Popen

import pytest

ROOT = Path(__file__).resolve().parents[2]
JOB_VARIABLES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
SMALL = """\
name = "small"
seeds = [0, 1]
[experiment]
dataset = "digits"
model = "mlp"
iterations = 30
batch_size = 32
latent = {size = 8}
generator = {hidden = [16]}
discriminator = {hidden = [16]}
optimizer = {name = "Adam", lr = 1e-3, betas = [0.5, 0.999]}
[axes]
loss = ["minimax", "non_saturating"]
k = [1]
[evaluation]
samples = 200
"""

Harness = Callable[..., CompletedProcess[str]]


@pytest.fixture(scope="session")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """A shell's environment: one thread, no data sets, no network, nothing of a job around the tests."""
    outside = {name: value for name, value in os.environ.items() if not name.startswith(("ACCELERATE_", "HARNESS_"))}
    kept = {name: value for name, value in outside.items() if name not in JOB_VARIABLES}
    nowhere = "http://127.0.0.1:9"
    return kept | {
        "PYTHONPATH": str(ROOT),
        "OMP_NUM_THREADS": "1",
        "CUDA_VISIBLE_DEVICES": "",
        "HARNESS_DATA": str(tmp_path_factory.mktemp("data")),
        "HARNESS_CACHE": str(tmp_path_factory.mktemp("references")),
        "http_proxy": nowhere,
        "https_proxy": nowhere,
    }


@pytest.fixture(scope="session")
def harness(environment: dict[str, str]) -> Harness:
    """`harness ARGUMENTS`, waited for."""

    def run(
        *arguments: object, cwd: Path | None = None, timeout: float = 240, **variables: str
    ) -> CompletedProcess[str]:
        command = [sys.executable, "-m", "harness", *map(str, arguments)]
        return subprocess.run(
            command, cwd=cwd, env=environment | variables, capture_output=True, text=True, timeout=timeout
        )

    return run


@pytest.fixture
def command(environment: dict[str, str], monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Harness:
    """`harness ARGUMENTS` inside this process: what takes no time but the start of one."""
    from harness.cli import entry

    for name in os.environ.keys() - environment.keys():
        monkeypatch.delenv(name)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(sys, "path", [*sys.path])

    def run(*arguments: object) -> CompletedProcess[str]:
        with pytest.raises(SystemExit) as end:
            entry([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return CompletedProcess(["harness", *map(str, arguments)], int(end.value.code or 0), out, err)

    return run


@pytest.fixture
def start(environment: dict[str, str]) -> Iterator[Callable[..., Popen[str]]]:
    """`harness ARGUMENTS`, begun; what still runs when the test ends is killed."""
    begun: list[Popen[str]] = []

    def run(*arguments: object, cwd: Path | None = None, **variables: str) -> Popen[str]:
        command = [sys.executable, "-m", "harness", *map(str, arguments)]
        env = environment | variables
        begun.append(Popen(command, cwd=cwd, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True))
        return begun[-1]

    yield run
    for process in begun:
        process.kill()
        process.communicate()


@pytest.fixture
def start_ranks(start: Callable[..., Popen[str]]) -> Callable[..., list[Popen[str]]]:
    """`harness ARGUMENTS` on two processes of one job, begun as srun begins them."""

    def run(*arguments: object) -> list[Popen[str]]:
        job = {"WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        job["ACCELERATE_USE_CPU"] = "true"
        return [start(*arguments, **job, RANK=str(rank), LOCAL_RANK=str(rank)) for rank in range(2)]

    return run


@pytest.fixture(scope="session")
def launch(environment: dict[str, str]) -> Harness:
    """`accelerate launch harness/run.py ARGUMENTS` on two processes, waited for.

    On a CPU `--cpu --num_processes 2` would quietly start one process.
    """

    def run(*arguments: object) -> CompletedProcess[str]:
        accelerate = [sys.executable, "-m", "accelerate.commands.accelerate_cli", "launch", "--multi_gpu"]
        accelerate += ["--num_processes", "2", "--num_machines", "1", "--mixed_precision", "no"]
        accelerate += ["--dynamo_backend", "no", "--main_process_port", str(free_port()), "harness/run.py"]
        env = environment | {"ACCELERATE_USE_CPU": "true"}
        command = [*accelerate, *map(str, arguments)]
        return subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, timeout=240)

    return run


@pytest.fixture(scope="session")
def small_grid(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The grid file of four runs that most tests use."""
    path = tmp_path_factory.mktemp("grids") / "small.toml"
    path.write_text(SMALL)
    return path


@pytest.fixture(scope="session")
def trained(harness: Harness, small_grid: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the trained small grid; not to be changed."""
    out = tmp_path_factory.mktemp("trained")
    result = harness("run", small_grid, "--out", out)
    assert result.returncode == 0, result.stderr
    return out / "small"


@pytest.fixture(scope="session")
def evaluated(harness: Harness, trained: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the trained and evaluated small grid; not to be changed."""
    folder = tmp_path_factory.mktemp("evaluated") / "small"
    shutil.copytree(trained, folder)
    result = harness("evaluate", folder)
    assert result.returncode == 0, result.stderr
    return folder


def free_port() -> int:
    """A port on which nobody listens."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])
