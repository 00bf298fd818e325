"""Trials by fault: a tiny grid is disturbed in training, evaluation or collection, then run again to its end.

What it leaves must be what an undisturbed grid leaves, bit for bit; what it says meanwhile must be plain. Each trial
follows from its number.

    python tests/faults/trials.py --trials 200
"""

from __future__ import annotations

import argparse
import importlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from disk import HARMLESS_WHEN_FULL, Disk, Fault
from safetensors.numpy import load_file

GRID = """\
name = "faults"
seeds = [0, 1]
[experiment]
dataset = "digits"
model = "mlp"
iterations = 30
batch_size = 16
latent = {size = 4}
generator = {hidden = [8]}
discriminator = {hidden = [8]}
optimizer = {name = "Adam", lr = 1e-3, betas = [0.5, 0.999]}
ema = 0.9
[axes]
loss = ["minimax", "non_saturating"]
[run]
stack_size = 2
checkpoint_every = 4
snapshot_every = 15
[evaluation]
samples = 50
"""
NEEDED = (
    "harness.analysis.status",
    "harness.commands.evaluate",
    "harness.commands.table",
    "harness.runner",
    "pyarrow.pandas_compat",
    "sklearn.datasets",
    "torch._dynamo",  # which the first optimizer imports
)
"""The modules that commands import, some of them late."""
STATUSES = {"pending", "preempted", "complete", "failed"}  # none diverges, and nobody runs when it is asked


@dataclass(frozen=True)
class Kind:
    """A kind of trial: what strikes in which command (`phase`).

    The trial's random numbers say at which touch of a file whose path holds `only`, or how long after the beginning.
    `damage`: the newest checkpoints are damaged besides.
    """

    phase: str
    what: str
    only: str = ""
    at_a_touch: bool = True
    damage: bool = False

    def fault(self, numbers: random.Random, touches: Mapping[str, int]) -> Fault:
        """At one of the touches that the command makes undisturbed, by action; none where it makes none."""
        spared = HARMLESS_WHEN_FULL if self.what == "ENOSPC" else ()
        if not (actions := [action for action, count in touches.items() if count and action not in spared]):
            return Fault()
        action = numbers.choice(actions)
        at = numbers.randint(1, touches[action])
        return Fault(self.what, action, at, lasting=numbers.random() < 0.5, share=numbers.random(), only=self.only)


KINDS = {
    "killed in training": Kind("run", "kill", at_a_touch=False),
    "killed while a checkpoint is written": Kind("run", "kill", only="checkpoint-"),
    "no space in training": Kind("run", "ENOSPC"),
    "killed in evaluation": Kind("evaluate", "kill", at_a_touch=False),
    "input/output error in training": Kind("run", "EIO"),
    "killed while training writes": Kind("run", "kill"),
    "killed in collection": Kind("table", "kill", at_a_touch=False),
    "no space in evaluation": Kind("evaluate", "ENOSPC"),
    "killed in training, checkpoints damaged": Kind("run", "kill", at_a_touch=False, damage=True),
    "input/output error in evaluation": Kind("evaluate", "EIO"),
    "killed while evaluation writes": Kind("evaluate", "kill"),
    "no space in collection": Kind("table", "ENOSPC"),
}


@dataclass(frozen=True)
class Answer:
    """What a command said; `code` is negative where a signal ended it."""

    code: int
    out: str
    err: str


@dataclass
class Bench:
    """Where trials lie, and what the grid does when nothing disturbs it.

    By phase: the folder as it begins, touches of files, seconds. `disk` is the folder whose files faults strike.
    """

    folder: Path
    begins: dict[str, Path] = field(default_factory=dict)
    touches: dict[tuple[str, str], dict[str, int]] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)
    left: dict[str, Any] = field(default_factory=dict)
    table: str = ""

    @property
    def disk(self) -> Path:
        return self.folder / "disk"

    @property
    def grid(self) -> Path:
        return self.disk / "faults"

    def begin(self, phase: str) -> None:
        """Put everything there as it is when a phase begins undisturbed, and no references."""
        shutil.rmtree(self.disk, ignore_errors=True)
        shutil.copytree(self.begins[phase], self.disk)

    def command(self, phase: str) -> list[str]:
        """A phase's arguments."""
        grid = str(self.grid)
        return {
            "run": ["run", str(self.folder / "faults.toml"), "--out", str(self.disk)],
            "evaluate": ["evaluate", grid],
            "table": ["table", grid, "--format", "csv"],
            "status": ["status", grid, "--format", "json"],
        }[phase]


def carried_out(
    bench: Bench, phases: Sequence[str], *, disk: Disk | None = None, seconds: float | None = None
) -> list[Answer]:
    """What commands say, one after the other in one forked child; it is killed after some seconds, if those are given.

    A child that is killed gives the answer of its last command alone.
    """
    said = bench.folder / "said"
    shutil.rmtree(said, ignore_errors=True)
    said.mkdir()
    child = os.fork()
    if child == 0:
        try:
            _be_the_harness(bench, phases, said, disk)
        finally:
            os._exit(99)
    if seconds is not None:
        time.sleep(seconds)
        os.kill(child, signal.SIGKILL)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code == 0:
        return [Answer(**json.loads((said / f"{number}.json").read_text())) for number in range(len(phases))]
    return [Answer(code, *((said / name).read_text() if (said / name).exists() else "" for name in ("out", "err")))]


def _be_the_harness(bench: Bench, phases: Sequence[str], said: Path, disk: Disk | None) -> None:
    from harness.analysis import index
    from harness.cli import entry

    # So that an index, which small grids go without, is written here too.
    index.WORTH_WRITING, index._TICK_NANOSECONDS = 1, 0
    if disk is not None:
        disk.install()
    for number, phase in enumerate(phases):
        for descriptor, name in ((1, "out"), (2, "err")):
            os.dup2(os.open(said / name, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600), descriptor)
        try:
            entry(bench.command(phase))
        except SystemExit as end:
            code = int(end.code or 0)
        except BaseException:  # what the interpreter would do
            sys.excepthook(*sys.exc_info())
            code = 1
        sys.stdout.flush()
        sys.stderr.flush()
        answer = {"code": code, "out": (said / "out").read_text(), "err": (said / "err").read_text()}
        (said / f"{number}.json").write_text(json.dumps(answer))
    os._exit(0)


def left_behind(folder: Path) -> dict[str, Any]:
    """All that a grid leaves and that time does not change, by name; somebody may commit while trials run."""
    left: dict[str, Any] = {}
    for path in sorted(folder.glob("runs/*/*")):
        name = str(path.relative_to(folder))
        if path.name == "history.parquet":
            left[name] = pd.read_parquet(io.BytesIO(path.read_bytes())).to_records().tobytes()
        elif path.name == "samples.npz":
            with np.load(path) as arrays:
                left[name] = arrays["images"].tobytes()
        elif path.name == "provenance.json":
            left[name] = json.loads(path.read_text()) | {"seconds": None, "commit": None}
        elif path.is_dir():
            left |= {str(one.relative_to(folder)): one.read_bytes() for one in sorted(path.glob("*.safetensors"))}
        elif path.name == "evaluation.json":
            left[name] = _without_neighbours(json.loads(path.read_text()))
        elif not path.name.startswith("."):
            left[name] = path.read_bytes()
    for stack in sorted(folder.glob("stacks/*")):
        last = max(stack.glob("**/checkpoint-*.safetensors"), default=None)
        left[f"{stack.name} last"] = last and {key: array.tobytes() for key, array in load_file(last).items()}
    left["controls.json"] = (folder / "controls.json").read_bytes()
    return left


def _without_neighbours(record: dict[str, Any]) -> dict[str, Any]:
    """An evaluation record but for how many runs were sampled together, which are fewer where some had been before."""
    return record | {"samples": record["samples"] | {"packed": None}}


def prepared(folder: Path) -> Bench:
    """The bench after the undisturbed grid."""
    bench = Bench(folder)
    (folder / "faults.toml").write_text(GRID)
    bench.disk.mkdir()
    for phase in ("run", "evaluate", "table"):
        bench.begins[phase] = shutil.copytree(bench.disk, folder / f"before-{phase}")
        shutil.rmtree(bench.begins[phase] / "references", ignore_errors=True)
        for only in ("checkpoint-", ""):
            bench.begin(phase)
            disk, began = Disk(bench.disk, Fault(only=only)), time.monotonic()
            [answer] = carried_out(bench, [phase], disk=disk)
            if answer.code:
                raise SystemExit(f"the undisturbed grid: {phase} exits with {answer.code}: {answer.err}")
            bench.touches[phase, only], bench.seconds[phase] = disk.touched, time.monotonic() - began
    bench.table, bench.left = answer.out, left_behind(bench.grid)
    return bench


def losses_of_trial(bench: Bench, number: int) -> tuple[str, bool, list[str]]:
    """A trial's kind, whether its fault struck, and what was lost or not plain."""
    name, kind = list(KINDS.items())[number % len(KINDS)]
    numbers = random.Random(number)
    bench.begin(kind.phase)
    struck, losses = False, []
    for _ in range(numbers.choice([1, 1, 2, 3])):
        disk, seconds = None, None
        if kind.at_a_touch:
            disk = Disk(bench.disk, kind.fault(numbers, bench.touches[kind.phase, kind.only]))
        else:
            seconds = numbers.uniform(0, bench.seconds[kind.phase])
        [answer] = carried_out(bench, [kind.phase], disk=disk, seconds=seconds)
        struck |= answer.code == -signal.SIGKILL or bool(disk and disk.struck)
        losses += _not_plain(answer, kind)
        losses += _not_explained(carried_out(bench, ["status"])[0], bench.grid)
    damaged = _damaged(bench.grid, numbers) if kind.damage else []
    answers = carried_out(bench, ["run", "evaluate", "table"])
    return name, struck, losses + _not_mended(bench, answers, damaged)


def _not_plain(answer: Answer, kind: Kind) -> list[str]:
    """What a disturbed command should not have said or done."""
    if answer.code in (0, -signal.SIGKILL):
        return [f"a traceback: {answer.err}"] * ("Traceback" in answer.err)
    told = answer.err.count("harness: ")
    if answer.code != 1 or told != 1 or "Traceback" in answer.err:
        return [f"{kind.phase} exits with {answer.code}, says: {answer.err}"]
    return []


def _not_explained(answer: Answer, grid: Path) -> list[str]:
    """What `status` does not explain of a disturbed grid."""
    if not (grid / "grid.json").exists():
        is_plain = answer.code == 2 and "no grid found" in answer.err
        return [] if is_plain else [f"status without a grid: {answer.code}, {answer.err}"]
    if answer.code:
        return [f"status exits with {answer.code}: {answer.err}"]
    rows = json.loads(answer.out)
    strange = [
        row for row in rows if row["status"] not in STATUSES or (row["status"] == "failed" and not row["reason"])
    ]
    known = {row["id"] for row in rows}
    unknown = [path.name for path in (grid / "runs").glob("*") if path.name not in known]
    return [f"status cannot explain {row}" for row in strange] + [f"status does not know {name}" for name in unknown]


def _damaged(grid: Path, numbers: random.Random) -> list[str]:
    """Damage the newest checkpoint of each stack that has not ended; their names."""
    damaged = []
    for stack in json.loads((grid / "grid.json").read_text())["stacks"] if (grid / "grid.json").exists() else ():
        newest = max((grid / "stacks" / stack["id"]).glob("**/checkpoint-*.safetensors"), default=None)
        if newest is None or all((grid / "runs" / run / "provenance.json").exists() for run in stack["members"]):
            continue  # nobody will read it
        content = bytearray(newest.read_bytes())
        if numbers.random() < 0.5:
            content[numbers.randrange(len(content))] ^= 1 << numbers.randrange(8)
        else:
            del content[numbers.randrange(len(content)) :]
        newest.write_bytes(content)
        damaged.append(newest.name)
    return damaged


def _not_mended(bench: Bench, answers: Sequence[Answer], damaged: Sequence[str]) -> list[str]:
    """What is not as it would be undisturbed after the grid was run again."""
    if wrong := [answer for answer in answers if answer.code]:
        return [f"run again, it exits with {answer.code}: {answer.err}" for answer in wrong]
    losses = []
    if answers[-1].out != bench.table:
        losses.append(f"another table: {answers[-1].out}")
    left = left_behind(bench.grid)
    differing = [name for name in {**bench.left, **left} if left.get(name) != bench.left.get(name)]
    losses += [f"{name} differs" if name in left else f"{name} is lost" for name in differing]
    return losses + [f"nobody reports that {name} is damaged" for name in damaged if name not in answers[0].err]


def main() -> int:
    """Carry out the trials, print what came of them, and give the exit code: 1 where something was lost."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=200)
    parser.add_argument("--first", type=int, default=0, help="the number of the first trial")
    options = parser.parse_args()
    _import_all()
    struck_by_kind: Counter[str] = Counter()
    lost: dict[int, list[str]] = {}
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="faults-") as folder:
        os.environ["HARNESS_CACHE"] = str(Path(folder, "disk", "references"))
        bench = prepared(Path(folder))
        print(f"undisturbed: {', '.join(f'{phase} {seconds:.1f} s' for phase, seconds in bench.seconds.items())}")
        for number in range(options.first, options.first + options.trials):
            name, struck, losses = losses_of_trial(bench, number)
            struck_by_kind[name] += struck
            print(f"trial {number}, {name}:", *(losses or ["nothing lost"]), sep="\n  " if losses else " ", flush=True)
            if losses:
                lost[number] = losses
    for name, count in struck_by_kind.items():
        print(f"{count:4} {name}")
    spent = time.monotonic() - began
    print(f"{options.trials} trials, of which {struck_by_kind.total()} struck, {len(lost)} losses, {spent:.0f} s")
    return bool(lost)


def _import_all() -> None:
    """Import what children need, on one thread, so that each begins at once."""
    os.environ |= {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true", "CUDA_VISIBLE_DEVICES": ""}
    for name in NEEDED:
        importlib.import_module(name)
    torch = importlib.import_module("torch")
    torch.set_num_threads(1)


if __name__ == "__main__":
    sys.exit(main())
