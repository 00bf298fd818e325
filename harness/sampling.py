"""From run folders back to samplers."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load as tensors_of
from torch import Tensor

from harness.errors import InputError
from harness.experiment import Experiment, LatentSettings, validate
from harness.images import OnDemandImages, unit
from harness.methods import method
from harness.metrics.points import ALONE
from harness.metrics.points import Processes as Shares
from harness.models import ImageStatistics
from harness.plan import PlannedRun, stacks
from harness.runs import RunFolder, read_bytes
from harness.singly import map_singly, one_thread
from harness.training import checkpoint
from harness.training.loop import Method, OfBound, OfChains, OfLandscape, OfLatents, State
from harness.training.processes import Processes

_RUN_ID = re.compile("[0-9a-f]{16}")
_BLOCK = 1000  # samples a pass; fixed, since float32 kernels depend on the batch's shape
# Of all samples of the members that go together; what a pass needs beside them is of that order. On one core 36 members
# of the digits' mlp took 1.1 times as long together as alone, up to 8 the same: layers of many leave its caches.
_GPU_IMAGE_BYTES = 2**30
_CPU_IMAGE_BYTES = 2**25


@dataclass(frozen=True)
class Finished:
    """A finished run and the snapshot that its samples come from."""

    folder: RunFolder
    planned: PlannedRun
    snapshot: Path

    @property
    def iteration(self) -> int:
        """The snapshot's iteration."""
        return int(self.snapshot.stem)

    @property
    def experiment(self) -> Experiment:
        """The run's resolved settings."""
        return self.planned.experiment

    def tensors(self) -> dict[str, Tensor]:
        """The snapshot's content on the CPU, (1, ...) each.

        Errors: InputError where it is damaged; StorageError where it cannot be read.
        """
        content = read_bytes(self.snapshot)
        try:
            return tensors_of(content)
        except SafetensorError as error:
            raise InputError(
                f"{self.snapshot} is damaged ({error}); delete the run's folder and train it again."
            ) from None


@dataclass(frozen=True)
class Sampler:
    """The trained models of one or more runs, side by side."""

    members: tuple[Finished, ...]
    method: Method
    state: State

    @property
    def source(self) -> str:
        """'ema' where averaged generators make the samples, else the method's name."""
        return "ema" if "ema" in self.state else self.members[0].experiment.method

    def sample(
        self, n: int, *, purpose: str = "sample", report: Callable[[int], object] = lambda done: None
    ) -> np.ndarray:
        """The first n samples of each run's endless list: float32 (m, n, c, h, w) in [0, 1].

        A member's are the same, within rounding, whatever the others are. `report` hears how many are done.
        """
        return self._in_blocks(
            n, lambda first: self.method.sample(self.state, _BLOCK, purpose=purpose, first=first), report
        )

    def drawn(self, means: np.ndarray, *, purpose: str = "sample") -> np.ndarray:
        """Binary images whose pixels are drawn with the means (m, n, c, h, w) of each run's first n samples.

        uint8, 0 and 255, the same bits wherever the means are. A draw depends on its member's seed, its sample's place
        and its mean alone. Errors: InputError where the method's samples are no means of Bernoulli pixels.
        """
        if not self.method.bernoulli_means:
            raise InputError("samples of this method are no means of binary pixels, so there are no draws of them.")
        binary = np.empty(means.shape, np.uint8)
        for first in range(0, means.shape[1], _BLOCK):
            block = torch.from_numpy(means[:, first : first + _BLOCK])
            draws = self.method.draws.whole(offset=first)
            uniform = draws.uniform(f"{purpose}/pixels", 0, block.shape[1], block[0, 0].numel())
            binary[:, first : first + _BLOCK] = 255 * (uniform.cpu().view(block.shape) < block).numpy()
        return binary

    def bounds(self, images: np.ndarray | OnDemandImages, k: int, *, processes: Shares = ALONE) -> np.ndarray:
        """Lower bounds on log p of images (n, c, h, w), in nats, by k importance-weighted draws: float64 (m, n).

        Each process takes whole blocks of images, so that bits are the same for any number of processes.
        Errors: InputError where the method has no bound.
        """
        method = self.method
        if not isinstance(method, OfBound):
            raise InputError("this method gives no bound on the likelihood of images.")
        device, shape = method.draws.device, (len(self.members), -1, -1, -1, -1)
        values = torch.zeros(len(self.members), len(images), dtype=torch.float64, device=device)

        def fill(first: int) -> None:
            places = np.arange(first, min(first + _BLOCK, len(images)))
            block = torch.from_numpy(unit(images[places])).to(device)
            values[:, first : first + _BLOCK] = method.bound(self.state, block.expand(shape), k, first=first)

        map_singly(fill, range(0, len(images), _BLOCK)[processes.rank :: processes.count], device)
        bounds: np.ndarray = processes.total(values).cpu().numpy()
        return bounds

    @property
    def alone(self) -> list[Sampler]:
        """Each run's sampler by itself."""
        flat = checkpoint.flatten(self.state)
        return [
            together([member], [{name: tensor[place : place + 1] for name, tensor in flat.items()}])
            for place, member in enumerate(self.members)
        ]

    @property
    def prior(self) -> LatentSettings:
        """The size and distribution of latents.

        Errors: InputError where the method has none.
        """
        return self._of_latents().prior

    def latents(self, n: int) -> Tensor:
        """The latents behind the first n samples of each run: (m, n, size).

        Errors: InputError where the method has none.
        """
        return self._of_latents().latents(n)

    def images_at(self, z: Tensor, y: np.ndarray | None = None) -> np.ndarray:
        """The images of latents (m, n, size), each run's own: float32 (m, n, c, h, w) in [0, 1].

        Of classes y, int64 (m, n), where the runs are conditional. Those of `latents` and `labels` are `sample`'s, bit
        for bit. Errors: InputError where the method has no latents.
        """
        method = self._of_latents()
        labels = None if y is None else torch.from_numpy(y).to(z.device)

        def whole(part: Tensor) -> Tensor:
            return torch.cat([part, part.new_zeros(len(z), _BLOCK - part.shape[1], *part.shape[2:])], 1)

        def block(first: int) -> Tensor:
            now = slice(first, first + _BLOCK)
            of_block = None if labels is None else whole(labels[:, now])
            return method.images_at(self.state, whole(z[:, now]), of_block, first=first)

        return self._in_blocks(z.shape[1], block)

    @property
    def burn_in(self) -> int:
        """The steps before a chain's first sample.

        Errors: InputError where the method has no chains.
        """
        return self._of_chains().burn_in

    def chain_states(self, n: int, times: Sequence[int]) -> np.ndarray:
        """The images of each run's first n chains after so many steps: float32 (m, n, times, c, h, w) in [0, 1].

        After `burn_in` steps chain i shows `sample`'s image i. Times count from 1 and rise.
        Errors: InputError where the method has no chains, or fewer.
        """
        method = self._of_chains()
        try:
            with one_thread():  # as samples
                states = method.chain_states(self.state, n, times)
        except InputError as error:
            raise InputError(f"{self.members[0].folder.path}: {error}") from None
        images: np.ndarray = states.float().cpu().numpy()
        return images

    @property
    def round_length(self) -> int:
        """The iterations from one renewal of the negatives to the next.

        Errors: InputError where the method has no landscape.
        """
        return self._of_landscape().round_length

    def landscape(self, points: np.ndarray) -> np.ndarray:
        """The scores, as logits, of points (n, c h w) in [0, 1]: float32 (m, n).

        Errors: InputError where the method has no landscape.
        """
        scores: np.ndarray = self._of_landscape().landscape(self.state, torch.from_numpy(points)).float().cpu().numpy()
        return scores

    def _in_blocks(
        self, n: int, block: Callable[[int], Tensor], report: Callable[[int], object] = lambda done: None
    ) -> np.ndarray:
        """The first n of the images (m, _BLOCK, c, h, w) that `block` gives from each place on."""
        images = np.empty((len(self.members), n, *self.members[0].planned.image_shape), np.float32)
        with one_thread():  # samples are rounded to grey levels, where the last bit of a float32 can decide
            for first in range(0, n, _BLOCK):
                images[:, first : first + _BLOCK] = block(first)[:, : n - first].float().cpu().numpy()
                report(min(n, first + _BLOCK))
        return images

    def labels(self, n: int, *, purpose: str = "sample") -> np.ndarray | None:
        """The classes that those samples are of: int64 (m, n); None where the runs are not conditional."""
        labels = self.method.labels(self.state, n, purpose=purpose)
        return None if labels is None else labels.cpu().numpy()

    def _of_latents(self) -> OfLatents:
        if not isinstance(self.method, OfLatents):
            raise InputError(f"{self._named()} has no latents to choose; draw random samples instead.")
        return self.method

    def _of_chains(self) -> OfChains:
        if not isinstance(self.method, OfChains):
            raise InputError(f"{self._named()} has no Markov chains to show; draw another kind.")
        return self.method

    def _of_landscape(self) -> OfLandscape:
        if not isinstance(self.method, OfLandscape):
            raise InputError(
                f"{self._named()} keeps nothing in its snapshots that scores points, so it has no landscape; draw "
                "another kind."
            )
        return self.method

    def _named(self) -> str:
        return f"{self.members[0].folder.path}: the method {self.members[0].experiment.method!r}"


def load(run: RunFolder, *, iteration: int | None = None) -> Sampler:
    """The sampler of a finished run alone, or of one of its snapshots, in the run's own precision.

    Errors: InputError where the run has no such snapshot, or cannot be read.
    """
    finished = find(run, iteration=iteration)
    return together([finished], [finished.tensors()])


def find(run: RunFolder, *, iteration: int | None = None) -> Finished:
    """A finished run with its last snapshot, or that of an iteration.

    Errors: InputError where there is none, or where its model is not the one that was trained.
    """
    where = run.path / "experiment.json"
    experiment = validate(Experiment, run.experiment(), where=str(where))
    name = run.path.resolve().name
    if _RUN_ID.fullmatch(name) and experiment.run_id != name:
        raise InputError(f"{where} holds the settings of another run, {experiment.run_id}; restore it.")
    provenance = run.provenance()
    if provenance is None or provenance["outcome"] != "complete":
        raise InputError(f"{run.path} is {run.status()}, not complete; there is nothing to sample from.")
    c, h, w = provenance["image_shape"]
    try:
        method(experiment.method).check(experiment, (c, h, w))
    except InputError as error:
        raise InputError(f"{run.path}: {error}") from None
    return Finished(run, PlannedRun(experiment, {}, (c, h, w)), _snapshot(run, iteration))


def iterations(run: RunFolder) -> list[int]:
    """The iterations whose snapshots a run keeps, in order."""
    return [int(path.stem) for path in sorted(run.snapshots.glob("*.safetensors"))]


def groups(runs: Sequence[Finished], n: int, device: torch.device) -> list[list[Finished]]:
    """Runs whose n samples can come from one sampler: of one shape, as a stack's members are, and not too large."""
    by_id = {run.planned.id: run for run in runs}
    shapes = {run.experiment.data_hash: run.planned.image_shape for run in runs}

    def size(experiment: Experiment) -> int:
        return members_together(shapes[experiment.data_hash], n, device)

    return [[by_id[run.id] for run in stack.members] for stack in stacks([run.planned for run in runs], size)]


def members_together(shape: tuple[int, int, int], n: int, device: torch.device) -> int:
    """How many members' n images (c, h, w) may be held at once.

    Fewer than ten passes count as ten, because what layers hold during a pass does not shrink with n.
    """
    budget = _CPU_IMAGE_BYTES if device.type == "cpu" else _GPU_IMAGE_BYTES
    return max(1, budget // (4 * math.prod(shape) * max(n, 10 * _BLOCK)))


def together(runs: Sequence[Finished], tensors: Sequence[dict[str, Tensor]]) -> Sampler:
    """One sampler of runs that `groups` put together, from their snapshots' content, in their own precision."""
    experiments = [run.experiment for run in runs]
    shape = runs[0].planned.image_shape
    processes = Processes(experiments[0].precision)
    # Joined, so copied, even if alone: tensors inside a file's bytes are not aligned, and kernels round by alignment.
    state = checkpoint.nested(
        {name: torch.cat([own[name] for own in tensors]).to(processes.device) for name in tensors[0]}
    )
    statistics = ImageStatistics(shape, torch.zeros(shape))
    built = method(experiments[0].method).build(experiments, statistics, training_images=1, processes=processes)
    return Sampler(tuple(runs), built, state)


def _snapshot(run: RunFolder, iteration: int | None) -> Path:
    paths = sorted(run.snapshots.glob("*.safetensors"))
    if iteration is not None:
        paths = [path for path in paths if int(path.stem) == iteration]
    if not paths:
        kept = ", ".join(str(int(path.stem)) for path in sorted(run.snapshots.glob("*.safetensors")))
        wanted = "snapshot" if iteration is None else f"snapshot of iteration {iteration}"
        raise InputError(f"{run.path} has no {wanted}; it has: {kept or 'none'}.")
    return paths[-1]
