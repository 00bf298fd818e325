"""Generator/discriminator pairs, one file a family.

A family says which settings its two networks take and builds them for an image shape. A generator maps latents
(m, n, latent size) to images (m, n, c, h, w) in [0, 1], or of any values where its output is "linear"; a discriminator
maps images to scores (m, n).
"""

from __future__ import annotations

from harness import user_code
from harness.errors import InputError, UnknownName
from harness.experiment import Experiment, NetworkSettings, validate
from harness.models import conditional, dcgan, infogan, maxout_mlp, mlp, paper_conv, residual
from harness.models.family import Family, ImageStatistics, Pair
from harness.models.user import user_family

FAMILIES: dict[str, Family] = {
    "mlp": mlp.FAMILY,
    "maxout-mlp": maxout_mlp.FAMILY,
    "paper-conv": paper_conv.FAMILY,
    "dcgan": dcgan.FAMILY,
    "infogan": infogan.FAMILY,
    "residual": residual.FAMILY,
}

__all__ = [
    "FAMILIES",
    "Family",
    "ImageStatistics",
    "Pair",
    "build",
    "family",
    "resolved",
]


def family(name: str) -> Family:
    """The family of that name, or the user's own for "module:function".

    Errors: UnknownName; InputError where a user's module or function is not to be had.
    """
    if user_code.is_users(name):
        return user_family(name)
    if name not in FAMILIES:
        raise UnknownName("model", name, FAMILIES)
    return FAMILIES[name]


def resolved(experiment: Experiment, *, autoencoder: bool = False) -> Experiment:
    """The experiment with its model's settings checked and every default written out.

    `autoencoder`: whether the discriminator must be one, which gives images and whose errors are the scores.
    Errors: InputError or UnknownName that names the key.
    """
    kinds = family(experiment.model)
    of_discriminator = experiment.discriminator
    if autoencoder and not kinds.autoencodes:
        able = ", ".join(name for name, one in FAMILIES.items() if one.autoencodes)
        raise InputError(
            f"loss {experiment.loss!r} needs a discriminator that is an autoencoder, which model {experiment.model!r} "
            f"has not; take one of: {able}."
        )
    if autoencoder and of_discriminator.model.get("autoencoder") is False:
        raise InputError(f"loss {experiment.loss!r} needs discriminator.autoencoder; do not take it away.")
    if autoencoder:
        of_discriminator = of_discriminator.model_copy(update={"autoencoder": True})
    elif kinds.autoencodes and of_discriminator.model.get("autoencoder"):
        raise InputError(
            f"discriminator.autoencoder is for losses of its errors, not {experiment.loss!r}; leave it out."
        )

    def filled(role: str, settings: NetworkSettings) -> NetworkSettings:
        kind = kinds.settings[role]
        if kind is None and settings.max_column_norm is not None:
            raise InputError(
                f"{role}.max_column_norm is for the harness's own layers, which model {experiment.model!r} does not "
                "have; leave it out."
            )
        if kind is None:
            return settings
        checked = validate(kind, settings.model, where=f"{role} settings of model {experiment.model!r}")
        return settings.model_copy(update=checked.model_dump(mode="json"))

    update = {"generator": filled("generator", experiment.generator)}
    update["discriminator"] = filled("discriminator", of_discriminator)
    return experiment.model_copy(update=update | {"model_hash": kinds.source_hash})


def build(experiment: Experiment, images: ImageStatistics) -> Pair:
    """The pair of a resolved experiment."""
    of_family = family(experiment.model).build
    return (
        of_family(experiment, images)
        if experiment.condition is None
        else conditional.build(experiment, images, of_family)
    )
