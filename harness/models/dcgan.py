"""`dcgan`: the convolutional pair of Radford et al. 2015, section 3, for images whose sides can be halved.

A stage halves (discriminator) or doubles (generator) both sides by a convolution with kernel 4, stride 2, padding 1.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated

from pydantic import Field

from harness.errors import InputError
from harness.experiment import Added, Positive, Removed, Settings
from harness.layers import (
    HALVING,
    BatchNorm,
    Convolution,
    Layer,
    Linear,
    Network,
    TransposedConvolution,
    activation,
    flatten,
    scalar,
    unflatten,
)
from harness.models.family import (
    ImageStatistics,
    OutputName,
    StackedNetwork,
    family_of,
    finished,
    output,
)


class NetworkSettings(Settings):
    """What both networks may be told.

    `channels` is the width next to the image; each halving of the sides doubles it. `weight_std` is the deviation of
    the initial weights, normal around zero.
    """

    channels: Annotated[int, Field(ge=1)] = 64
    stages: Annotated[int, Field(ge=1, le=16)] | None = None
    """Halvings of the sides; absent: two, further ones while both sides stay at least 4, as far as they divide."""
    weight_std: Positive = 0.02


class GeneratorSettings(NetworkSettings):
    """`output`: what maps to images; "tanh", the paper's, is moved to [0, 1]."""

    output: OutputName = "tanh"


class DiscriminatorSettings(NetworkSettings):
    """`signed_input`: whether images are moved from [0, 1] to [-1, 1] first, where the paper's data lie.

    Without `batch_norm` all layers have biases: a slope penalty is about one image, and batch moments mix them.
    """

    signed_input: bool = True
    batch_norm: Removed = None
    spectral_norm: Added = None
    autoencoder: Added = None
    """Whether it gives images, whose errors are the scores: filled in for the losses that need it."""


def generator(settings: GeneratorSettings, *, latent: int, images: ImageStatistics) -> Network:
    """Latent to channels at the smallest size, to larger and larger images; batch norm and ReLU on all but the last."""
    channels, *shape = images.shape
    stages = halvings(settings.stages, images, role="generator")
    widths = [settings.channels * 2**stage for stage in reversed(range(stages))]
    smallest = (widths[0], shape[0] >> stages, shape[1] >> stages)
    std = settings.weight_std
    layers: list[Layer] = [
        Linear("projection", latent, math.prod(smallest), weight_std=std, bias=False),
        unflatten(smallest),
        *_normalised("norm0", widths[0], "relu"),
    ]
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
        layers.append(TransposedConvolution(f"up{number}", inputs, outputs, weight_std=std, bias=False, **HALVING))
        layers += _normalised(f"norm{number}", outputs, "relu")
    layers.append(TransposedConvolution("output", widths[-1], channels, weight_std=std, **HALVING))
    return Network((*layers, output(settings.output)))


def discriminator(settings: DiscriminatorSettings, *, images: ImageStatistics) -> StackedNetwork:
    """Image to smaller and smaller images, to one logit; leaky ReLU, and batch norm on all but the first if wanted.

    As an autoencoder it goes back through larger and larger images to one like the first, whose error is the score.
    """
    channels, *shape = images.shape
    stages = halvings(settings.stages, images, role="discriminator")
    widths = [settings.channels * 2**stage for stage in range(stages)]
    std = settings.weight_std
    layers: list[Layer] = [activation("signed")] if settings.signed_input else []
    layers += [Convolution("down0", channels, widths[0], weight_std=std, **HALVING), activation("leaky_relu")]
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths), start=1):
        plain = settings.batch_norm is False
        layers.append(Convolution(f"down{number}", inputs, outputs, weight_std=std, bias=plain, **HALVING))
        layers += [activation("leaky_relu")] if plain else _normalised(f"norm{number}", outputs, "leaky_relu")
    if settings.autoencoder:
        for number, (inputs, outputs) in enumerate(itertools.pairwise(reversed(widths))):
            layers.append(TransposedConvolution(f"up{number}", inputs, outputs, weight_std=std, **HALVING))
            layers.append(activation("leaky_relu"))
        layers.append(TransposedConvolution("output", widths[0], channels, weight_std=std, **HALVING))
        layers.append(activation("sigmoid"))
    else:
        features = widths[-1] * (shape[0] >> stages) * (shape[1] >> stages)
        layers += [flatten(), Linear("output", features, 1, weight_std=std), scalar()]
    return finished(layers, spectral_norm=settings.spectral_norm, autoencoder=settings.autoencoder)


def halvings(stages: int | None, images: ImageStatistics, *, role: str) -> int:
    """How often a network halves the images' sides: `stages`, or what suits the images where that is None.

    Errors: InputError where the sides do not divide by 2^stages.
    """
    _, height, width = images.shape
    common = math.gcd(height, width)
    at_most = (common & -common).bit_length() - 1  # how often 2 divides both
    wanted = 1 if stages is None else stages
    if wanted > at_most:
        way_out = f"take {role}.stages of at most {at_most}" if at_most else 'use another model, "mlp" for one'
        raise InputError(
            f"model 'dcgan': {role}.stages = {wanted} needs images whose sides divide by {2**wanted}; "
            f"these are {height} x {width}: {way_out}."
        )
    if stages is not None:
        return stages
    while wanted < at_most and (wanted < 2 or min(height, width) >> (wanted + 1) >= 4):
        wanted += 1
    return wanted


def _normalised(name: str, channels: int, function: str) -> list[Layer]:
    return [BatchNorm(name, channels), activation(function)]


FAMILY = family_of(
    (GeneratorSettings, generator),
    (DiscriminatorSettings, discriminator),
    stack_sizes={"cpu": 4, "cuda": 16},
    convolutional=True,
)
