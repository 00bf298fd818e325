"""Generator/discriminator pairs, one file a family.

A family says which settings its two networks take and builds them for an image shape. A generator maps latents
(m, n, latent size) to images (m, n, c, h, w) in [0, 1]; a discriminator maps images to scores (m, n).
"""

from __future__ import annotations

from harness.errors import UnknownName
from harness.experiment import Experiment, NetworkSettings, validate
from harness.models import dcgan, maxout_mlp, mlp
from harness.models.family import Family, ImageStatistics, Pair
from harness.models.user import is_user_model, source_hash, user_family

FAMILIES: dict[str, Family] = {"mlp": mlp.FAMILY, "maxout-mlp": maxout_mlp.FAMILY, "dcgan": dcgan.FAMILY}

__all__ = [
    "FAMILIES",
    "Family",
    "ImageStatistics",
    "Pair",
    "build",
    "family",
    "is_user_model",
    "resolved",
    "source_hash",
]


def family(name: str) -> Family:
    """The family of that name, or the user's own for "module:function".

    Errors: UnknownName; InputError where a user's module or function is not to be had.
    """
    if is_user_model(name):
        return user_family(name)
    if name not in FAMILIES:
        raise UnknownName("model", name, FAMILIES)
    return FAMILIES[name]


def resolved(experiment: Experiment) -> Experiment:
    """The experiment with its model's settings checked and every default written out.

    Errors: InputError or UnknownName that names the key.
    """
    kinds = family(experiment.model)

    def filled(role: str, settings: NetworkSettings) -> NetworkSettings:
        kind = kinds.settings[role]
        if kind is None:
            return settings
        checked = validate(kind, settings.model, where=f"{role} settings of model {experiment.model!r}")
        return NetworkSettings(optimizer=settings.optimizer, **checked.model_dump(mode="json"))

    update = {"generator": filled("generator", experiment.generator)}
    update["discriminator"] = filled("discriminator", experiment.discriminator)
    return experiment.model_copy(update=update | {"model_hash": kinds.source_hash})


def build(experiment: Experiment, images: ImageStatistics) -> Pair:
    """The pair of a resolved experiment."""
    return family(experiment.model).build(experiment, images)
