"""`paper-conv`: the 2014 paper's convolutional pair, sigmoid features grown to an image against maxout convolutions.

Defaults are the published CIFAR-10 settings (Goodfellow et al. 2014 and the authors' cifar10_convolutional.yaml). There
images have been contrast-normalised and the generator's output is linear; here images are in [0, 1] unless told
otherwise, hence a sigmoid.
"""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass
from typing import Annotated

from pydantic import Field, model_validator

from harness.errors import InputError
from harness.experiment import Added, Fraction, Positive, Settings
from harness.layers import (
    Layer,
    Linear,
    Maxout,
    MaxoutConvolution,
    Network,
    PixelBias,
    TransposedConvolution,
    activation,
    flatten,
    max_pool,
    scalar,
    unflatten,
)
from harness.models.family import ImageStatistics, OutputName, StackedNetwork, family_of, finished, output
from harness.models.mlp import Width, at_layer, per_layer, with_dropout

Padding = Annotated[int, Field(ge=0)]
_KERNEL, _STRIDE = 5, 3  # of the generator's transposed convolution


class GeneratorSettings(Settings):
    """ReLU layers of `hidden` units, then a sigmoid layer of `channels` for each pixel of the small image."""

    hidden: tuple[Width, ...] = (8000,)
    channels: Width = 80
    output: OutputName = "sigmoid"
    weight_range: Positive = 0.05


@dataclass(frozen=True)
class Stage:
    """A maxout convolution of `units` with its max pool."""

    units: int
    pieces: int
    kernel: int
    padding: int
    pool: int
    stride: int

    def side(self, side: int) -> int:
        """The side of what it makes of images of that side; 0 where its pool does not fit."""
        convolved = side + 2 * self.padding - self.kernel + 1
        return -(-(convolved - self.pool) // self.stride) + 1 if convolved >= self.pool else 0


class DiscriminatorSettings(Settings):
    """Maxout convolutions of `channels` units, each with a max pool behind it, then maxout layers of `hidden` units.

    `pieces`, `kernels`, `padding`, `pools` and `pool_strides` have one value for all convolutions or a list with one
    for each. `dropout` lists the rates at the input and behind each layer; empty: none.
    """

    channels: Annotated[tuple[Width, ...], Field(min_length=1)] = (32, 32, 192)
    pieces: Width | tuple[Width, ...] = 2
    kernels: Width | tuple[Width, ...] = (8, 8, 5)
    padding: Padding | tuple[Padding, ...] = (4, 3, 3)
    pools: Width | tuple[Width, ...] = (4, 4, 2)
    pool_strides: Width | tuple[Width, ...] = 2
    hidden: tuple[Width, ...] = (500,)
    hidden_pieces: Width = 5
    dropout: tuple[Fraction, ...] = (0.2, 0.5, 0.5, 0.5, 0.5)
    weight_range: Positive = 0.005
    spectral_norm: Added = None

    @model_validator(mode="after")
    def _lengths(self) -> DiscriminatorSettings:
        for name in ("pieces", "kernels", "padding", "pools", "pool_strides"):
            per_layer(getattr(self, name), len(self.channels), name)
        if self.dropout:
            per_layer(self.dropout, len(self.channels) + len(self.hidden) + 1, "dropout")
        if any(stage.stride > stage.pool for stage in self.stages):
            raise ValueError("pool_strides should not be above pools, so that every pixel is seen")
        return self

    @property
    def stages(self) -> list[Stage]:
        """The convolutions in order."""
        each = (self.pieces, self.kernels, self.padding, self.pools, self.pool_strides)
        return [
            Stage(units, *(at_layer(setting, number) for setting in each)) for number, units in enumerate(self.channels)
        ]


def generator(settings: GeneratorSettings, *, latent: int, images: ImageStatistics) -> Network:
    """Latent to hidden layers to a small image of sigmoids to the image, with a bias of its own for each pixel."""
    channels, *sides = images.shape
    (height, top), (width, left) = (small_side(side, images) for side in sides)
    smallest = (settings.channels, height, width)
    weight_range = settings.weight_range
    widths = (latent, *settings.hidden)
    layers: list[Layer] = []
    for number, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        layers += [Linear(f"hidden{number}", inputs, outputs, weight_range), activation("relu")]
    layers += [
        Linear("features", widths[-1], math.prod(smallest), weight_range),
        activation("sigmoid"),
        unflatten(smallest),
        TransposedConvolution(
            "output", settings.channels, channels, _KERNEL, _STRIDE, (top, left), weight_range, bias=False
        ),
        PixelBias("pixels", images.shape),
    ]
    return Network((*layers, output(settings.output)))


def small_side(side: int, images: ImageStatistics) -> tuple[int, int]:
    """The side of the small image from which one of `side` grows, and how many pixels are cut off at either edge.

    Errors: InputError for 2, the one side that none grows to.
    """
    cut = (side + 1) % _STRIDE  # (small - 1) 3 + 5 is 2 more than a multiple of 3
    small = (side + 2 * cut - _KERNEL) // _STRIDE + 1
    if small < 1:
        raise InputError(
            f"model 'paper-conv': the generator makes images with sides of 1, 3 and more, not 2; "
            f'these are {images.shape[1]} x {images.shape[2]}: use another model, "mlp" for one.'
        )
    return small, cut


def discriminator(settings: DiscriminatorSettings, *, images: ImageStatistics) -> StackedNetwork:
    """Image to smaller and smaller maxout features, to maxout layers, to one logit."""
    height, width = pooled_sides(settings, images)
    hidden: list[list[Layer]] = []
    inputs = images.shape[0]
    for number, stage in enumerate(settings.stages):
        convolution = MaxoutConvolution(
            f"convolution{number}",
            inputs,
            stage.units,
            stage.pieces,
            stage.kernel,
            stage.padding,
            settings.weight_range,
        )
        hidden.append([convolution, max_pool(stage.pool, stage.stride)])
        inputs = stage.units
    hidden[-1].append(flatten())
    widths = (inputs * height * width, *settings.hidden)
    for number, (inputs, units) in enumerate(itertools.pairwise(widths)):
        hidden.append([Maxout(f"hidden{number}", inputs, units, settings.hidden_pieces, settings.weight_range)])
    layers = with_dropout(hidden, settings.dropout)
    layers += [Linear("output", widths[-1], 1, settings.weight_range), scalar()]
    return finished(layers, spectral_norm=settings.spectral_norm)


def pooled_sides(settings: DiscriminatorSettings, images: ImageStatistics) -> list[int]:
    """The sides of the last convolution's features.

    Errors: InputError where a pool does not fit.
    """

    def pooled(side: int) -> int:
        for stage in settings.stages:
            side = stage.side(side) if side else 0
        return side

    height, width = images.shape[1:]
    found = [pooled(side) for side in (height, width)]
    if not all(found):
        least = next(side for side in itertools.count(1) if pooled(side))
        raise InputError(
            f"model 'paper-conv': the discriminator's convolutions and pools suit images with sides of {least} and "
            f"more; these are {height} x {width}: take smaller discriminator.kernels or discriminator.pools."
        )
    return found


FAMILY = family_of(
    (GeneratorSettings, generator),
    (DiscriminatorSettings, discriminator),
    stack_sizes={"cpu": 1, "cuda": 8},
    convolutional=True,
)
