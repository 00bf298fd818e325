"""From a grid to what will be trained: names looked up, defaults written out, data hashed, runs put into stacks."""

from __future__ import annotations

import hashlib
import itertools
import json
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from harness import images, models, user_code
from harness.errors import HarnessError, InputError
from harness.experiment import BalanceSettings, ConditionSettings, Experiment, without_absent
from harness.grid import Grid
from harness.images import ImageSet
from harness.methods import method
from harness.models import ImageStatistics
from harness.objectives.losses import check, cross_entropy, loss
from harness.objectives.penalties import penalty
from harness.training import optimizers, units

_PER_MEMBER = ("seed", "loss", "discriminator_loss_weight")
StackSize = Callable[[Experiment], int]


@dataclass(frozen=True)
class PlannedRun:
    """A resolved experiment and its place in the grid."""

    experiment: Experiment
    axes: dict[str, Any]
    image_shape: tuple[int, int, int]
    """(c, h, w) of its data."""

    @property
    def id(self) -> str:
        return self.experiment.run_id


@dataclass(frozen=True)
class Stack:
    """Runs that train together, in order."""

    members: tuple[PlannedRun, ...]

    @property
    def experiment(self) -> Experiment:
        """The first member's experiment, for all that the members share."""
        return self.members[0].experiment

    @cached_property
    def id(self) -> str:
        """A hash of the members' ids."""
        return hashlib.sha256(" ".join(run.id for run in self.members).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Plan:
    """A grid's runs in order, and the data sets they use, by the name the grid gives them; found in `folders`."""

    grid: Grid
    runs: tuple[PlannedRun, ...]
    data: dict[str, ImageSet]
    folders: tuple[Path, ...]


def data_folders(data: Path | None, *, beside: Path | None = None) -> list[Path]:
    """Where data sets are looked for: `data` (--data), else HARNESS_DATA, else ~/.cache/harness; and beside a file."""
    named = data or Path(os.environ.get("HARNESS_DATA") or Path.home() / ".cache" / "harness")
    return [named] if beside is None else [named, beside]


def plan(grid: Grid, folders: Sequence[Path]) -> Plan:
    """The grid's runs with every name looked up and every default written out.

    Errors: InputError or UnknownName naming the grid file; DataMissing.
    """
    data: dict[str, ImageSet] = {}
    planned: list[PlannedRun] = []
    seen: dict[str, dict[str, Any]] = {}
    for point in grid.points:
        name = point.experiment.dataset
        try:
            if name not in data:
                data[name] = images.load(name, folders)
            run = PlannedRun(resolved(point.experiment, data[name]), point.axes, data[name].shape)
        except HarnessError as error:
            if str(grid.path) not in str(error):
                error.args = (f"{grid.path}: {error}",)
            raise
        place = {**point.axes, "seed": run.experiment.seed}
        if run.id in seen:
            raise InputError(f"{grid.path}: {place} and {seen[run.id]} are the same experiment; drop one.")
        seen[run.id] = place
        planned.append(run)
    return Plan(grid, tuple(planned), data, tuple(folders))


def resolved(experiment: Experiment, data: ImageSet) -> Experiment:
    """The experiment with its data's hash, and its models' and optimizers' defaults, written in."""
    method(experiment.method)
    experiment = _conditions_resolved(_objective_resolved(experiment), data)
    if experiment.updates == "simultaneous" and experiment.k != 1:
        raise InputError(f'updates = "simultaneous" has no inner loop: k = {experiment.k} must be 1.')
    if experiment.updates == "simultaneous" and experiment.critic_schedule is not None:
        raise InputError('updates = "simultaneous" has no inner loop: leave critic_schedule out.')
    if experiment.batch_size > len(data.train):
        raise InputError(f"batch_size = {experiment.batch_size} is more than the {len(data.train)} training images.")
    experiment = models.resolved(experiment, autoencoder=loss(experiment.loss).score == "reconstruction_error")
    experiment = _preprocessing_resolved(experiment, data)
    shared = without_absent(experiment.optimizer.model_dump())
    update: dict[str, Any] = {"data_hash": data.content_hash, "optimizer": type(experiment.optimizer)()}
    for role in ("generator", "discriminator"):
        network = getattr(experiment, role)
        own = without_absent(network.optimizer.model_dump()) if network.optimizer else {}
        # A player with another optimizer than the shared one takes only the learning-rate schedule from it.
        same = own.get("name", shared.get("name", "Adam")) == shared.get("name", "Adam")
        inherited = shared if same else {key: shared[key] for key in ("lr", "lr_decay", "min_lr") if key in shared}
        settings = type(experiment.optimizer).model_validate_json(json.dumps(inherited | own))
        update[role] = network.model_copy(
            update={"optimizer": optimizers.resolved(settings, where=f"optimizer of the {role}")}
        )
    experiment = experiment.model_copy(update=update)
    models.build(experiment, ImageStatistics(data.shape, torch.zeros(data.shape)))  # refuses what cannot be built
    return experiment


def _objective_resolved(experiment: Experiment) -> Experiment:
    """The experiment with its loss and penalty looked up, and what they stand on written in."""
    of_players = loss(experiment.loss)
    is_users = user_code.is_users(experiment.loss)
    if is_users:
        check(experiment.loss)
    update: dict[str, Any] = {"loss_hash": user_code.source_hash(experiment.loss) if is_users else None}
    if experiment.real_label is not None and of_players.discriminator is not cross_entropy:
        raise InputError(
            f"real_label smooths the labels of cross-entropy, which loss {experiment.loss!r} has not; leave it out."
        )
    balanced = of_players.score == "reconstruction_error"
    if experiment.balance is not None and not balanced:
        raise InputError(f"balance belongs to the loss 'began', not to {experiment.loss!r}; leave it out.")
    if balanced:
        update["balance"] = experiment.balance or BalanceSettings()
    if experiment.penalty is not None:
        charged = penalty(experiment.penalty.name)
        weight = experiment.penalty.weight or charged.weight
        update["penalty"] = experiment.penalty.model_copy(update={"weight": weight})
        if charged.of_probabilities and of_players.score == "linear":
            raise InputError(
                f"penalty {experiment.penalty.name!r} is on the slope of probabilities, which loss {experiment.loss!r} "
                "has not; take another penalty."
            )
        if balanced:
            raise InputError(
                f"penalties are on the slope of scores, which loss {experiment.loss!r} has not; leave it out."
            )
        if experiment.updates == "simultaneous":
            raise InputError('penalties are for updates = "alternating"; leave the penalty out, or alternate.')
    return experiment.model_copy(update=update)


def _conditions_resolved(experiment: Experiment, data: ImageSet) -> Experiment:
    """The experiment with how the classes of its data enter written in, where they do."""
    if not experiment.conditional:
        if experiment.condition is not None or experiment.classes is not None:
            raise InputError("condition belongs to conditional = true; add that, or leave it out.")
        return experiment
    if data.classes is None or data.train.labels is None:
        raise InputError(f"conditional = true needs labels, which the data set {data.name} has not; leave it out.")
    if loss(experiment.loss).score == "reconstruction_error":
        raise InputError(f"loss {experiment.loss!r} is of images alone and sees no class; leave conditional out.")
    if user_code.is_users(experiment.model):
        raise InputError(f"model {experiment.model!r} is your own and takes no classes; leave conditional out.")
    condition = experiment.condition or ConditionSettings()
    return experiment.model_copy(update={"condition": condition, "classes": data.classes})


def _preprocessing_resolved(experiment: Experiment, data: ImageSet) -> Experiment:
    """The experiment with the constants of its preprocessing written in; its generator's output suits that."""
    output = experiment.generator.model.get("output")
    if experiment.preprocessing is None:
        if output == "linear":
            raise InputError(
                'generator.output = "linear" leaves [0, 1]; add a preprocessing without bounds, or take "sigmoid".'
            )
        return experiment
    name, preprocessing = experiment.preprocessing.name, units.resolved(experiment.preprocessing, data)
    if loss(experiment.loss).score == "reconstruction_error":
        raise InputError(
            f"loss {experiment.loss!r} has a discriminator that gives pixels in [0, 1], and preprocessing "
            f'"{name}" other numbers; leave it out.'
        )
    if output not in ("linear", None):
        raise InputError(
            f'preprocessing "{name}" has no bounds, the generator\'s output "{output}" has: take '
            'generator = {output = "linear"}.'
        )
    return experiment.model_copy(update={"preprocessing": preprocessing})


def stacks(runs: Sequence[PlannedRun], size: int | StackSize) -> list[Stack]:
    """Runs of one shape, in order, in as few stacks of at most `size` members as will do, as equal as can be."""
    shapes: dict[str, list[PlannedRun]] = {}
    for run in runs:
        shapes.setdefault(_shape(run), []).append(run)
    found = []
    for members in shapes.values():
        largest = size if isinstance(size, int) else size(members[0].experiment)
        count = -(-len(members) // largest)
        bounds = [part * len(members) // count for part in range(count + 1)]
        found += [Stack(tuple(members[start:stop])) for start, stop in itertools.pairwise(bounds)]
    return found


def _shape(run: PlannedRun) -> str:
    """What the members of a stack must share: everything but what each can have as its own."""
    experiment = run.experiment
    if not models.family(experiment.model).stackable(experiment, run.image_shape):
        return run.id
    shared = {key: value for key, value in experiment.canonical().items() if key not in _PER_MEMBER}
    if user_code.is_users(experiment.loss) or loss(experiment.loss).score == "reconstruction_error":
        shared["loss"] = experiment.loss  # computed for all members, it must suit their scores and not mix them
    for name in ("ema", "weight_clip", "real_label"):
        if name in shared:
            shared[name] = "any"
    for name, own in (("penalty", ["weight"]), ("instance_noise", ["std"]), ("balance", ["gamma", "rate"])):
        if name in shared:
            shared[name] = shared[name] | dict.fromkeys(own, "any")
    for role in ("generator", "discriminator"):
        if "max_column_norm" in shared[role]:
            shared[role] = shared[role] | {"max_column_norm": "any"}
        name = shared[role]["optimizer"]["name"]
        if name in optimizers.STACKABLE:
            shared[role] = shared[role] | {"optimizer": name}
    return json.dumps(shared, sort_keys=True)
