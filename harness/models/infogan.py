"""`infogan`: the pair of InfoGAN (Chen et al. 2016, appendix C.1) as the 2018 study of Lucic et al. used it.

Two convolutions with kernel 4, stride 2, padding 1 halve (discriminator) or double (generator) both sides; fully
connected layers lie between them and latents or logits. Sizes are the study's, for MNIST's 28 x 28 as for its other
images. In its code the generator's activation is leaky ReLU, which `activation = "leaky_relu"` gives, the convolutions
of the discriminator start from a normal cut off at two deviations, and batch normalisation has `batch_norm_eps = 0.001`
and slower running moments.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Literal

from harness.errors import InputError
from harness.experiment import Added, Positive, Settings
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
from harness.models.mlp import Width


class NetworkSettings(Settings):
    """What both networks may be told.

    `channels` is the width next to the image, `hidden` that of the fully connected layer. `weight_std` is the deviation
    of the initial weights, normal around zero.
    """

    channels: Width = 64
    hidden: Width = 1024
    batch_norm: bool = True
    batch_norm_eps: Positive = 1e-5
    weight_std: Positive = 0.02


class GeneratorSettings(NetworkSettings):
    """Batch normalisation, if wanted, is behind all layers but the last, and so is the activation."""

    activation: Literal["relu", "leaky_relu"] = "relu"
    output: OutputName = "sigmoid"


class DiscriminatorSettings(NetworkSettings):
    """Batch normalisation, if wanted, is behind all layers but the first and the last."""

    code: Width = 64
    """As an autoencoder: what an image is squeezed to, in the place of the hidden layer."""
    spectral_norm: Added = None
    autoencoder: Added = None
    """Whether it gives images, whose errors are the scores: filled in for the losses that need it."""


def generator(settings: GeneratorSettings, *, latent: int, images: ImageStatistics) -> Network:
    """Latent to two fully connected layers to an image grown by two transposed convolutions."""
    narrow, std, function = settings.channels, settings.weight_std, settings.activation
    smallest = _smallest(narrow, images)
    layers = [
        *_finished(settings, Linear("hidden", latent, settings.hidden, weight_std=std), function),
        *_finished(settings, Linear("features", settings.hidden, math.prod(smallest), weight_std=std), function),
        unflatten(smallest),
        *_finished(settings, TransposedConvolution("up", 2 * narrow, narrow, weight_std=std, **HALVING), function),
        TransposedConvolution("output", narrow, images.shape[0], weight_std=std, **HALVING),
        output(settings.output),
    ]
    return Network(tuple(layers))


def discriminator(settings: DiscriminatorSettings, *, images: ImageStatistics) -> StackedNetwork:
    """Image to two convolutions to a fully connected layer to one logit; leaky ReLU.

    As an autoencoder, the study's for BEGAN: the second convolution is linear, behind it are a code of few numbers, a
    fully connected layer back to the features, and two transposed convolutions. The image's error is the score.
    """
    narrow, std = settings.channels, settings.weight_std
    smallest = _smallest(narrow, images)
    features = math.prod(smallest)
    second = Convolution("down1", narrow, 2 * narrow, weight_std=std, **HALVING)
    layers: list[Layer] = [
        Convolution("down0", images.shape[0], narrow, weight_std=std, **HALVING),
        activation("leaky_relu"),
    ]
    if settings.autoencoder:
        layers += [
            replace(second, bias=not settings.batch_norm),  # which takes away what a bias adds to the code
            flatten(),
            *_finished(settings, Linear("code", features, settings.code, weight_std=std), "leaky_relu"),
            *_finished(settings, Linear("features", settings.code, features, weight_std=std), "leaky_relu"),
            unflatten(smallest),
            *_finished(
                settings, TransposedConvolution("up", 2 * narrow, narrow, weight_std=std, **HALVING), "leaky_relu"
            ),
            TransposedConvolution("output", narrow, images.shape[0], weight_std=std, **HALVING),
            activation("sigmoid"),
        ]
    else:
        layers += [
            *_finished(settings, second, "leaky_relu"),
            flatten(),
            *_finished(settings, Linear("hidden", features, settings.hidden, weight_std=std), "leaky_relu"),
            Linear("output", settings.hidden, 1, weight_std=std),
            scalar(),
        ]
    return finished(layers, spectral_norm=settings.spectral_norm, autoencoder=settings.autoencoder)


def _smallest(channels: int, images: ImageStatistics) -> tuple[int, int, int]:
    """The shape of the features at a quarter of the sides.

    Errors: InputError where they have no quarter.
    """
    _, height, width = images.shape
    if height % 4 or width % 4:
        raise InputError(
            f"model 'infogan' needs images whose sides divide by 4; these are {height} x {width}: "
            f'use another model, "mlp" for one.'
        )
    return 2 * channels, height // 4, width // 4


def _finished(settings: NetworkSettings, layer: Linear | Convolution, function: str) -> list[Layer]:
    """A layer, batch normalisation if wanted, which takes its bias away, and an activation."""
    if not settings.batch_norm:
        return [layer, activation(function)]
    norm = BatchNorm(f"{layer.name}_norm", layer.outputs, eps=settings.batch_norm_eps)
    return [replace(layer, bias=False), norm, activation(function)]


FAMILY = family_of(
    (GeneratorSettings, generator),
    (DiscriminatorSettings, discriminator),
    stack_sizes={"cpu": 2, "cuda": 16},
    convolutional=True,
)
