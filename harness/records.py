"""What a trained stack leaves in its members' run folders."""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Sequence
from functools import cache, partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from safetensors.torch import save

from harness import runs
from harness.images import ImageSet
from harness.plan import Stack
from harness.runs import GridFolder, RunFolder
from harness.training import checkpoint
from harness.training.inner_loop import InnerLoop
from harness.training.loop import Method, Snapshot, State, Trained
from harness.training.processes import Processes

FIXED_SAMPLES = 100
_PACKAGES = ("gan-harness", "torch", "torchvision", "accelerate", "numpy")


def snapshots(method: Method, stack: Stack, folder: GridFolder, processes: Processes) -> Snapshot:
    """A function that keeps the samplers of a stack's living members in their run folders."""

    def keep(iteration: int, state: State, alive: Sequence[bool]) -> None:
        if not processes.is_main:
            return
        for position, run in enumerate(stack.members):
            if alive[position]:
                _write_snapshot(folder.run(run.id), iteration, method.sampler(state), position)

    return keep


def write(
    trained: Trained,
    method: Method,
    stack: Stack,
    folder: GridFolder,
    data: ImageSet,
    processes: Processes,
    *,
    pieces: int = 1,
) -> None:
    """History, last snapshot, samples of fixed noise and provenance of every member; provenance, last, ends a run.

    Where there are conditions the samples' classes lie beside them. `pieces`: those of a process's minibatches.
    """
    samples = method.sample(trained.state, FIXED_SAMPLES, purpose="fixed").float().cpu().numpy()
    labels = method.labels(trained.state, FIXED_SAMPLES, purpose="fixed")
    history = trained.history.numpy()
    for position, run in enumerate(stack.members):
        place = folder.run(run.id)
        diverged_at = trained.diverged_at[position]
        rows = _frame(method, history[:diverged_at], position)
        runs.write_parquet(place.path / "history.parquet", rows, inside=place.grid)
        if diverged_at is None:
            _write_snapshot(place, len(history), method.sampler(trained.state), position)
            runs.write_npz(
                place.path / "samples.npz",
                inside=place.grid,
                images=samples[position],
                **({} if labels is None else {"labels": labels[position].cpu().numpy()}),
            )
        provenance = _provenance(trained, stack, position, data, processes) | {"gradient_accumulation": pieces}
        runs.write_json(place.path / "provenance.json", provenance, inside=place.grid)


def _write_snapshot(run: RunFolder, iteration: int, sampler: State, position: int) -> None:
    member = {
        part: {key: tensor[position : position + 1] for key, tensor in tensors.items()}
        for part, tensors in sampler.items()
    }
    content = save(checkpoint.flatten(member))
    runs.write_bytes(run.snapshots / f"{iteration:010d}.safetensors", content, inside=run.grid)


def _frame(method: Method, history: np.ndarray, position: int) -> pd.DataFrame:
    """A member's history (iterations, columns, m) as a data frame: `iteration` from 1, then its columns."""
    columns = {name: history[:, method.columns.index(name), position] for name in method.columns_of(position)}
    return pd.DataFrame({"iteration": np.arange(1, len(history) + 1), **columns})


def _provenance(trained: Trained, stack: Stack, position: int, data: ImageSet, processes: Processes) -> dict[str, Any]:
    experiment = stack.members[position].experiment
    diverged_at = trained.diverged_at[position]
    iterations = diverged_at or len(trained.history)
    discriminator_updates = InnerLoop.of(experiment).before(iterations)
    affine = data.affine
    return {
        "outcome": "complete" if diverged_at is None else "diverged",
        "diverged_at": diverged_at,
        "iterations": iterations,
        "seconds": trained.seconds,
        "discriminator_updates": discriminator_updates,
        "generator_updates": iterations,
        "images": discriminator_updates * experiment.batch_size,
        # Counted at the first iteration, which is like all others unless a schedule makes it longer.
        "flops": None
        if experiment.critic_schedule
        else trained.flops_per_step * processes.count * iterations // len(stack.members),
        "image_shape": list(data.shape),
        "affine": None if affine is None else {"offset": list(affine.offset), "scale": list(affine.scale)},
        "jpeg": data.jpeg,
        "versions": {"python": platform.python_version()} | {package: version(package) for package in _PACKAGES},
        "commit": _commit(),
        "platform": platform.platform(),
        "device": _device_name(processes.device),
        "engine": trained.engine,
        "convolution": trained.convolution,
        "processes": processes.count,
        "threads": torch.get_num_threads(),
        "stack": {"id": stack.id, "size": len(stack.members), "position": position},
    }


@cache
def _commit() -> str | None:
    """The commit of the harness's own checkout, "+" behind it if files differ; None for an installed copy."""
    root = Path(__file__).parents[1]
    if not (root / ".git").exists():
        return None
    try:
        git = partial(subprocess.run, cwd=root, capture_output=True, text=True, check=True, timeout=10)
        commit: str = git(["git", "rev-parse", "HEAD"]).stdout.strip()
        changed = git(["git", "status", "--porcelain", "--untracked-files=no"]).stdout
    except (OSError, subprocess.SubprocessError):
        return None
    return commit + ("+" if changed else "")


def _device_name(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
