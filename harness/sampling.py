"""From a run folder back to a sampler."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from harness import models
from harness.errors import InputError
from harness.experiment import Experiment, validate
from harness.methods import method
from harness.models import ImageStatistics
from harness.runs import RunFolder
from harness.training import checkpoint
from harness.training.loop import Method, State
from harness.training.processes import Processes

_BLOCK = 1000  # samples a pass; fixed, since float32 kernels depend on the batch's shape


@dataclass(frozen=True)
class Sampler:
    """A trained model of one run."""

    experiment: Experiment
    iteration: int
    source: str
    """'ema' where an averaged generator makes the samples, else the method's name."""
    method: Method
    state: State

    def sample(self, n: int, *, purpose: str = "sample") -> np.ndarray:
        """The first n samples of the run's endless list: float32 (n, c, h, w) in [0, 1]."""
        blocks = [
            self.method.sample(self.state, _BLOCK, purpose=purpose, first=first)[0].float().cpu().numpy()
            for first in range(0, n, _BLOCK)
        ]
        images: np.ndarray = np.concatenate(blocks)[:n]
        return images


def load(run: RunFolder, *, iteration: int | None = None) -> Sampler:
    """The sampler of a finished run, or of one of its snapshots, in the run's own precision.

    Errors: InputError where the run has no such snapshot.
    """
    experiment = validate(Experiment, run.experiment(), where=str(run.path / "experiment.json"))
    provenance = run.provenance()
    if provenance is None or provenance["outcome"] != "complete":
        raise InputError(f"{run.path} is {run.status()}, not complete; there is nothing to sample from.")
    if models.is_user_model(experiment.model) and models.source_hash(experiment.model) not in (
        None,
        experiment.model_hash,
    ):
        raise InputError(
            f"{run.path}: the source of model {experiment.model!r} has changed since training; restore it."
        )
    path = _snapshot(run, iteration)
    shape = provenance["image_shape"]
    processes = Processes(experiment.precision)
    try:
        tensors = load_file(path)
    except SafetensorError as error:
        raise InputError(f"{path} is damaged ({error}); delete the run's folder and train it again.") from None
    state = checkpoint.nested({name: tensor.to(processes.device, copy=True) for name, tensor in tensors.items()})
    built = method(experiment.method)(
        [experiment],
        ImageStatistics(tuple(shape), torch.zeros(shape)),
        training_images=1,
        processes=processes,
    )
    return Sampler(experiment, int(path.stem), "ema" if "ema" in state else experiment.method, built, state)


def _snapshot(run: RunFolder, iteration: int | None) -> Path:
    paths = sorted(run.snapshots.glob("*.safetensors"))
    if iteration is not None:
        paths = [path for path in paths if int(path.stem) == iteration]
    if not paths:
        kept = ", ".join(str(int(path.stem)) for path in sorted(run.snapshots.glob("*.safetensors")))
        wanted = "snapshot" if iteration is None else f"snapshot of iteration {iteration}"
        raise InputError(f"{run.path} has no {wanted}; it has: {kept or 'none'}.")
    return paths[-1]
