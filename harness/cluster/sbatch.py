"""The text of batch jobs, as a pure function of what is asked for."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise

from harness.errors import InputError

# What may stand in a line of #SBATCH, which no shell reads and sbatch cuts up by rules of its own.
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,@+-]*")
_FORMS = {
    "partition": _NAME,
    "account": _NAME,
    "qos": _NAME,
    "constraint": re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.,:*&|()\[\]-]*"),
    "gres": re.compile(r"[A-Za-z0-9_]+(:[A-Za-z0-9_.-]+)*(,[A-Za-z0-9_]+(:[A-Za-z0-9_.-]+)*)*"),
    "memory": re.compile(r"[0-9]+[KMGT]?"),
    "time": re.compile(r"[0-9]+(:[0-9]+){0,2}|[0-9]+-[0-9]+(:[0-9]+){0,2}"),
    "interface": re.compile(r"[A-Za-z0-9_^=][A-Za-z0-9_.,:@-]*"),
}
_FILE = re.compile(r"[A-Za-z0-9_./@+=:,%~-]+")
_GPUS = re.compile(r"(^|,)(gpu|shard|mps)(:|,|$)")
_PRINTABLE = re.compile(r"[^\x00-\x1f\x7f]*")
_STRAGGLERS_SECONDS = 120


@dataclass(frozen=True)
class Resources:
    """What a job asks of the cluster. Errors: InputError that names the option whose value SLURM could misread."""

    partition: str | None = None
    account: str | None = None
    qos: str | None = None
    constraint: str | None = None
    gpus: int = 0
    """On each node."""
    gres: str | None = None
    """Generic resources on each node, in SLURM's words, in the place of `gpus`."""
    cpus: int = 1
    """For each process, which computes on so many threads."""
    memory: str | None = None
    """On each node, as 16G."""
    time: str | None = None
    """As SLURM writes it: minutes, hours:minutes:seconds, days-hours; the partition's own without it."""
    nodes: int = 1
    processes: int | None = None
    """On each node; without a number as many as `gpus`, else one."""
    interface: str | None = None
    """The network interface over which processes meet; without it gloo and NCCL look for one."""
    requeue: bool = True
    signal_seconds: int = 120
    """How long before the limit processes are told to save and end."""
    prologue: str = ""
    """Lines of bash from a file of the user: modules, a virtual environment."""

    def __post_init__(self) -> None:
        for name, form in _FORMS.items():
            value = getattr(self, name)
            if value is not None and not form.fullmatch(value):
                raise InputError(f"--{name} {value!r} is nothing that SLURM takes there: {_EXAMPLES[name]}.")
        if self.gpus and self.gres:
            raise InputError(
                "--gpus and --gres: give one of them; --gres gpu:a100:2 says both the kind and the number."
            )
        if self.time and self.signal_seconds >= seconds(self.time):
            raise InputError(
                f"--time {self.time} is no longer than the {self.signal_seconds} s before its end at which jobs are "
                "told to save; give more time or less --signal-seconds."
            )

    @property
    def processes_per_node(self) -> int:
        return self.processes or self.gpus or 1

    @property
    def total_processes(self) -> int:
        return self.nodes * self.processes_per_node

    @property
    def device(self) -> str:
        """The type of device that processes compute on: "cuda" or "cpu"."""
        return "cuda" if self.gpus or _GPUS.search(self.gres or "") else "cpu"


_EXAMPLES = {
    "partition": "a name, or several as short,long",
    "account": "a name",
    "qos": "a name",
    "constraint": "features as a100|h100",
    "gres": "resources as gpu:a100:2",
    "memory": "a number of MB, or as 16G",
    "time": "minutes, or as 4:00:00 or 2-12:00:00",
    "interface": "a name as ib0 or eth0",
}


@dataclass(frozen=True)
class Training:
    """The jobs that train a grid's stacks, a task of an array for each.

    `arguments` follow `harness run GRID` in every task; `harness` is the command that is there. `log` is a file name in
    SLURM's patterns. Errors: InputError for text with line breaks or control characters, and for a `log` that SLURM
    would read otherwise.
    """

    name: str
    grid: str
    arguments: tuple[str, ...] = ()
    harness: tuple[str, ...] = ("harness",)
    log: str = "%x-%A_%a.log"

    def __post_init__(self) -> None:
        _check(self.log, self.name, self.grid, *self.arguments, *self.harness)


@dataclass(frozen=True)
class Collecting:
    """The job that evaluates, tabulates and draws what is in a grid's folder. Arguments follow `harness evaluate`."""

    name: str
    folder: str
    arguments: tuple[str, ...] = ()
    harness: tuple[str, ...] = ("harness",)
    log: str = "%x-%j.log"

    def __post_init__(self) -> None:
        _check(self.log, self.name, self.folder, *self.arguments, *self.harness)


def array_script(
    job: Training, resources: Resources, *, stacks: Sequence[int], first: int = 0, parallel: int | None = None
) -> str:
    """The text of an array that trains stacks, at most `parallel` at a time; task t trains stack number first + t."""
    tasks = ranges(number - first for number in stacks)
    several = resources.total_processes > 1
    head = _head(job.name, job.log, resources)
    head[1:1] = [f"--array={tasks}{f'%{parallel}' if parallel else ''}"]
    head += [f"--signal=USR1@{resources.signal_seconds}"]
    number = f'"$((SLURM_ARRAY_TASK_ID + {first}))"' if first else '"$SLURM_ARRAY_TASK_ID"'
    placement = ("--placement", "data-parallel") if several else ()
    command = f'{_words(*job.harness, "run")} "$grid" --stack {number} {_words(*placement, *job.arguments)}'.rstrip()
    lines = [
        *_begin("Trains a stack of a grid in each task of an array.", head, resources),
        f"grid=${{1:-{shlex.quote(job.grid)}}}",
        *(_meeting(resources) if several else []),
        f"srun {_step(resources)} \\\n    {_RANKED if several else ''}{command}",
        "code=$?",
    ]
    if resources.requeue:
        lines += [
            "",
            "# 75: stopped by a signal, with everything saved. The job goes back into the queue, and goes on later.",
            'if [ "$code" -eq 75 ]; then\n    scontrol requeue "$SLURM_JOB_ID"\nfi',
        ]
    return "\n".join([*lines, 'exit "$code"']) + "\n"


def collect_script(job: Collecting, resources: Resources) -> str:
    """The text of the job behind an array: `harness evaluate`, a table in the grid's folder, plots."""
    alone = replace(resources, gpus=min(resources.gpus, 1), nodes=1, processes=1)
    head = _head(f"{job.name}-collect", job.log, alone)
    harness = _words(*job.harness)
    lines = [
        *_begin("Evaluates a grid's runs, writes their table and draws them.", head, alone),
        f"folder=${{1:-{shlex.quote(job.folder)}}}",
        "code=0",
        f'{harness} evaluate "$folder" {_words(*job.arguments)}'.rstrip() + " || code=$?",
        f'{harness} table "$folder" --format markdown > "$folder/table.md" || code=$?',
        f'{harness} plot "$folder" || code=$?',
        'exit "$code"',
    ]
    return "\n".join(lines) + "\n"


def ranges(numbers: Iterable[int]) -> str:
    """Numbers as SLURM writes them: 0-3,7."""
    ordered = sorted(set(numbers))
    ends = [place for place, (one, other) in enumerate(pairwise(ordered)) if other != one + 1]
    starts = [0, *(end + 1 for end in ends)]
    spans = [(ordered[start], ordered[end]) for start, end in zip(starts, [*ends, len(ordered) - 1], strict=True)]
    return ",".join(f"{low}" if low == high else f"{low}-{high}" for low, high in spans)


def seconds(time: str) -> int:
    """The seconds of a time limit as SLURM writes it."""
    days, dash, rest = time.rpartition("-")
    parts = [int(part) for part in rest.split(":")]
    if dash or len(parts) == 3:
        hours, minutes, last = (*parts, 0, 0)[:3]
    else:
        hours, (minutes, last) = 0, (*parts, 0)[:2]
    return ((int(days or 0) * 24 + hours) * 60 + minutes) * 60 + last


def _head(name: str, log: str, resources: Resources) -> list[str]:
    """The options of sbatch that all jobs have."""
    gpus = f"gpu:{resources.gpus}" if resources.gpus else None
    optional = {
        "partition": resources.partition,
        "account": resources.account,
        "qos": resources.qos,
        "constraint": resources.constraint,
        "gres": resources.gres or gpus,
        "mem": resources.memory,
        "time": resources.time,
    }
    return [
        f"--job-name={name}",
        f"--output={log}",
        "--open-mode=append",
        f"--nodes={resources.nodes}",
        f"--ntasks-per-node={resources.processes_per_node}",
        f"--cpus-per-task={resources.cpus}",
        *(f"--{option}={value}" for option, value in optional.items() if value is not None),
        "--requeue" if resources.requeue else "--no-requeue",
    ]


def _begin(what: str, head: Sequence[str], resources: Resources) -> list[str]:
    lines = ["#!/bin/bash", f"# {what} Text of `harness submit`.", *(f"#SBATCH {option}" for option in head), ""]
    if resources.prologue.strip():
        lines += [resources.prologue.strip("\n"), ""]
    lines += [f"export OMP_NUM_THREADS={resources.cpus}"]
    if resources.device == "cpu":
        lines += ["export ACCELERATE_USE_CPU=true"]
    return lines


def _step(resources: Resources) -> str:
    """The options of srun, which takes over the job's others."""
    options = [f"--cpus-per-task={resources.cpus}"]
    if resources.total_processes > 1:
        # Not --kill-on-bad-exit: the first to leave at a signal must not end the one that saves.
        options += [f"--wait={_STRAGGLERS_SECONDS}"]
        if resources.device == "cuda":
            options += ["--gpu-bind=none"]  # a process picks its GPU of the node by LOCAL_RANK
    return " ".join(options)


_RANKED = "bash -c 'export RANK=$SLURM_PROCID LOCAL_RANK=$SLURM_LOCALID; exec \"$@\"' rank \\\n    "


def _meeting(resources: Resources) -> list[str]:
    """Where the processes of a job find each other: at the address by which SLURM knows the first node.

    The port is another one when the job begins anew, lest it meets what was left behind.
    """
    lines = [
        'first=$(scontrol show hostnames "$SLURM_JOB_NODELIST" | head -n 1)',
        "MASTER_ADDR=$(scontrol --oneliner show node \"$first\" | sed -n 's/.* NodeAddr=\\([^ ]*\\).*/\\1/p')",
        "MASTER_PORT=$((10000 + (SLURM_JOB_ID + 997 * ${SLURM_RESTART_COUNT:-0}) % 20000))",
        "export MASTER_ADDR MASTER_PORT WORLD_SIZE=$SLURM_NTASKS LOCAL_WORLD_SIZE=$SLURM_NTASKS_PER_NODE",
    ]
    if resources.interface:
        lines += [f"export GLOO_SOCKET_IFNAME={resources.interface} NCCL_SOCKET_IFNAME={resources.interface}"]
    return lines


def _words(*words: str) -> str:
    return " ".join(shlex.quote(word) for word in words)


def _check(log: str, *texts: str) -> None:
    for text in texts:
        if not _PRINTABLE.fullmatch(text):
            raise InputError(f"{text!r} has a line break or a control character, which a batch script cannot carry.")
    if not _FILE.fullmatch(log) or "%" in log.rpartition("/")[0]:
        raise InputError(f"SLURM would misread {log!r} as the place of logs; choose an --out without such characters.")
