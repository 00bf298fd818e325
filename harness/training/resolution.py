"""What a GAN's settings mean: names looked up, defaults written out, what members of a stack must share."""

from __future__ import annotations

import json
from typing import Any

import torch

from harness import models, user_code
from harness.errors import InputError
from harness.experiment import BalanceSettings, ConditionSettings, Experiment, without_absent
from harness.images import ImageSet
from harness.models import ImageStatistics
from harness.objectives.losses import check as check_loss
from harness.objectives.losses import cross_entropy, loss
from harness.objectives.penalties import penalty
from harness.training import optimizers, units
from harness.training.gan import Gan

_PER_MEMBER = ("seed", "loss", "discriminator_loss_weight")

build = Gan.of


def stack_size(experiment: Experiment, device: str) -> int:
    """How many members suit a stack on a type of device."""
    return models.family(experiment.model).stack_size(device)


def check(experiment: Experiment, image_shape: tuple[int, int, int]) -> None:
    """Refuse a resolved experiment that cannot be built for images (c, h, w), or whose model is not the one it names.

    Errors: InputError.
    """
    if user_code.is_users(experiment.model) and user_code.source_hash(experiment.model) not in (
        None,
        experiment.model_hash,
    ):
        raise InputError(f"the source of model {experiment.model!r} has changed since training; restore it.")
    models.build(experiment, ImageStatistics(image_shape, torch.zeros(image_shape)))


def check_pieces(experiment: Experiment, image_shape: tuple[int, int, int]) -> None:
    """Refuse a resolved experiment whose minibatches cannot go through the networks in pieces.

    Errors: InputError.
    """
    if user_code.is_users(experiment.model):
        raise InputError(
            f"nobody knows what your model {experiment.model!r} does with pieces of a minibatch; leave "
            "gradient_accumulation out."
        )
    pair = models.build(experiment, ImageStatistics(image_shape, torch.zeros(image_shape)))
    for role in ("generator", "discriminator"):
        if getattr(pair, role).buffers:  # which move with every pass, or are moments of whole minibatches
            raise InputError(
                f"the {role} has batch or spectral normalisation, which does something else with pieces of a minibatch "
                "than with the whole; leave gradient_accumulation out."
            )


def resolved(experiment: Experiment, data: ImageSet) -> Experiment:
    """The experiment with its models' and optimizers' defaults written in.

    Errors: InputError or UnknownName that names the key.
    """
    if experiment.baseline is not None:
        raise InputError('baseline holds the settings of other methods than "gan"; leave it out.')
    experiment = _conditions_resolved(_objective_resolved(experiment), data)
    if experiment.updates == "simultaneous" and experiment.k != 1:
        raise InputError(f'updates = "simultaneous" has no inner loop: k = {experiment.k} must be 1.')
    if experiment.updates == "simultaneous" and experiment.critic_schedule is not None:
        raise InputError('updates = "simultaneous" has no inner loop: leave critic_schedule out.')
    if experiment.preprocessing is not None and experiment.discriminator.model.get("signed_input"):
        raise InputError(
            "discriminator.signed_input moves images in [0, 1], and preprocessing gives others; leave it out."
        )
    experiment = models.resolved(experiment, autoencoder=loss(experiment.loss).score == "reconstruction_error")
    experiment = _preprocessing_resolved(experiment, data)
    shared = without_absent(experiment.optimizer.model_dump())
    update: dict[str, Any] = {"optimizer": type(experiment.optimizer)()}
    for role in ("generator", "discriminator"):
        network = getattr(experiment, role)
        own = without_absent(network.optimizer.model_dump()) if network.optimizer else {}
        # A player with another optimizer than the shared one takes only the learning-rate schedule from it.
        same = own.get("name", shared.get("name", "Adam")) == shared.get("name", "Adam")
        inherited = (
            shared
            if same
            else {key: shared[key] for key in ("lr", "lr_decay", "min_lr", "lr_zero_at") if key in shared}
        )
        settings = type(experiment.optimizer).model_validate_json(json.dumps(inherited | own))
        update[role] = network.model_copy(
            update={"optimizer": optimizers.resolved(settings, where=f"optimizer of the {role}")}
        )
    return experiment.model_copy(update=update)


def _objective_resolved(experiment: Experiment) -> Experiment:
    """The experiment with its loss and penalty looked up, and what they stand on written in."""
    of_players = loss(experiment.loss)
    is_users = user_code.is_users(experiment.loss)
    if is_users:
        check_loss(experiment.loss)
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
        if experiment.condition is not None:
            raise InputError("condition belongs to conditional = true; add that, or leave it out.")
        return experiment
    if data.classes is None or data.train.labels is None:
        raise InputError(f"conditional = true needs labels, which the data set {data.name} has not; leave it out.")
    if loss(experiment.loss).score == "reconstruction_error":
        raise InputError(f"loss {experiment.loss!r} is of images alone and sees no class; leave conditional out.")
    if user_code.is_users(experiment.model):
        raise InputError(f"model {experiment.model!r} is your own and takes no classes; leave conditional out.")
    if data.classes < 2:
        raise InputError(f"conditional = true needs two classes, and {data.name} has {data.classes}; leave it out.")
    condition = experiment.condition or ConditionSettings()
    return experiment.model_copy(update={"condition": condition, "classes": data.classes})


def _preprocessing_resolved(experiment: Experiment, data: ImageSet) -> Experiment:
    """The experiment with the constants of its preprocessing written in; its generator's output suits that."""
    is_own = not user_code.is_users(experiment.model)
    output = experiment.generator.model.get("output") if is_own else None
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
    update: dict[str, Any] = {"preprocessing": preprocessing}
    if is_own and "signed_input" in experiment.discriminator.model:  # which is for images in [0, 1]
        update["discriminator"] = experiment.discriminator.model_copy(update={"signed_input": False})
    return experiment.model_copy(update=update)


def shape(experiment: Experiment, image_shape: tuple[int, int, int]) -> str | None:
    """What the members of a stack must share: everything but what each can have as its own; None: it stacks with none.

    `image_shape` is (c, h, w).
    """
    if not models.family(experiment.model).stackable(experiment, image_shape):
        return None
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
