"""`residual`: the residual pair of Miyato et al. 2018, table 4, for 32 x 32 images; for others by more or fewer blocks.

Sizes are the table's. What it leaves open is as in the authors' code (sngan_projection, resnet_32 and snresnet_32):
weights start uniform by Glorot's rule, times sqrt 2 for the blocks' 3 x 3 convolutions; biases start at zero, the last
layer of the discriminator has none; eps of batch normalisation is 2e-5. Convolutions in the generator's blocks have no
biases here: batch normalisation takes them away. The discriminator has spectral normalisation if told.
"""

from __future__ import annotations

import itertools
import math
from typing import Annotated

from pydantic import Field

from harness.errors import InputError
from harness.experiment import Added, Settings
from harness.layers import (
    BatchNorm,
    Convolution,
    Layer,
    Linear,
    Network,
    Residual,
    activation,
    average_pool,
    scalar,
    sum_pool,
    unflatten,
    upsample,
)
from harness.models.family import ImageStatistics, OutputName, StackedNetwork, family_of, finished, output
from harness.models.mlp import Width

_EPS = 2e-5


class GeneratorSettings(Settings):
    """`output`: what maps to images; "tanh", the paper's, is moved to [0, 1]."""

    channels: Width = 256
    blocks: Annotated[int, Field(ge=1, le=16)] | None = None
    """Doublings of the sides; absent: so many that the smaller side starts from 4."""
    output: OutputName = "tanh"


class DiscriminatorSettings(Settings):
    """`signed_input`: whether images are moved from [0, 1] to [-1, 1] first, where the paper's data lie."""

    channels: Width = 128
    down_blocks: Annotated[int, Field(ge=1, le=16)] = 2
    """Blocks that halve the sides."""
    plain_blocks: Annotated[int, Field(ge=0)] = 2
    """Blocks behind those, that leave the sides as they are."""
    signed_input: bool = True
    spectral_norm: Added = None


def generator(settings: GeneratorSettings, *, latent: int, images: ImageStatistics) -> Network:
    """Latent to channels at the smallest size, to blocks that double it, to an image."""
    colours, height, width = images.shape
    channels, blocks = settings.channels, doublings(settings.blocks, images)
    smallest = (channels, height >> blocks, width >> blocks)
    features = math.prod(smallest)
    layers: list[Layer] = [
        Linear("projection", latent, features, weight_range=_glorot(latent, features)),
        unflatten(smallest),
        *(_up_block(f"block{number}", channels) for number in range(blocks)),
        BatchNorm("norm", channels, eps=_EPS),
        activation("relu"),
        _convolution("output", channels, colours, kernel=3),
        output(settings.output),
    ]
    return Network(tuple(layers))


def discriminator(settings: DiscriminatorSettings, *, images: ImageStatistics) -> StackedNetwork:
    """Image to blocks that halve it, to blocks that do not, to the sum over pixels, to one logit."""
    colours, height, width = images.shape
    channels, halvings = settings.channels, settings.down_blocks
    if height % 2**halvings or width % 2**halvings:
        raise InputError(
            f"model 'residual': discriminator.down_blocks = {halvings} needs images whose sides divide by "
            f"{2**halvings}; these are {height} x {width}: {_way_out('discriminator.down_blocks', images)}."
        )
    layers: list[Layer] = [activation("signed")] if settings.signed_input else []
    for number, inputs in enumerate([colours] + [channels] * (halvings - 1)):
        layers.append(_down_block(f"block{number}", inputs, channels, is_first=number == 0))
    for number in range(halvings, halvings + settings.plain_blocks):
        layers.append(Residual(tuple(_activated_convolutions(f"block{number}", channels, channels))))
    score = Linear("output", channels, 1, weight_range=_glorot(channels, 1), bias=False)
    layers += [activation("relu"), sum_pool(), score, scalar()]
    return finished(layers, spectral_norm=settings.spectral_norm)


def doublings(blocks: int | None, images: ImageStatistics) -> int:
    """How often the generator doubles the sides: `blocks`, or from 4 to the images' smaller side where that is None.

    Errors: InputError where the sides do not divide by 2^blocks, or none of them is 4 times a power of 2.
    """
    _, height, width = images.shape
    if blocks is None:
        blocks = max((min(height, width) // 4).bit_length() - 1, 0)
        suits = blocks > 0 and min(height, width) == 4 << blocks and max(height, width) % 2**blocks == 0
        needs = "doubles a smaller side of 4"
    else:
        suits = height % 2**blocks == 0 and width % 2**blocks == 0
        needs = f"doubles sides {blocks} times"
    if not suits:
        raise InputError(
            f"model 'residual': the generator {needs}, which does not lead to images of {height} x {width}: "
            f"{_way_out('generator.blocks', images)}."
        )
    return blocks


def _way_out(setting: str, images: ImageStatistics) -> str:
    common = math.gcd(*images.shape[1:])
    at_most = (common & -common).bit_length() - 1  # how often 2 divides both
    return f"take {setting} of at most {at_most}" if at_most else 'use another model, "mlp" for one'


def _up_block(name: str, channels: int) -> Residual:
    """Batch norm, ReLU and convolution twice, the sides doubled before the first."""
    main = (
        BatchNorm(f"{name}.norm0", channels, eps=_EPS),
        activation("relu"),
        upsample(),
        _in_block(f"{name}.convolution0", channels, channels, bias=False),
        BatchNorm(f"{name}.norm1", channels, eps=_EPS),
        activation("relu"),
        _in_block(f"{name}.convolution1", channels, channels, bias=False),
    )
    # The paper doubles first: the same numbers from four times as many pixels.
    return Residual(main, (_convolution(f"{name}.shortcut", channels, channels, kernel=1, bias=False), upsample()))


def _down_block(name: str, inputs: int, outputs: int, *, is_first: bool) -> Residual:
    """ReLU and convolution twice, then half the sides. The first block, which sees an image, begins without ReLU."""
    main = _activated_convolutions(name, inputs, outputs)[is_first:]
    # In all but the first the paper convolves before it halves, which gives the same numbers.
    shortcut = (average_pool(), _convolution(f"{name}.shortcut", inputs, outputs, kernel=1))
    return Residual((*main, average_pool()), shortcut)


def _activated_convolutions(name: str, inputs: int, outputs: int) -> list[Layer]:
    sizes = itertools.pairwise((inputs, outputs, outputs))
    pairs = [(activation("relu"), _in_block(f"{name}.convolution{number}", *size)) for number, size in enumerate(sizes)]
    return [layer for pair in pairs for layer in pair]


def _in_block(name: str, inputs: int, outputs: int, *, bias: bool = True) -> Convolution:
    return _convolution(name, inputs, outputs, kernel=3, scale=math.sqrt(2), bias=bias)


def _convolution(
    name: str, inputs: int, outputs: int, *, kernel: int, scale: float = 1.0, bias: bool = True
) -> Convolution:
    """A convolution that keeps the sides, with the initial weights of Glorot and Bengio 2010 times `scale`."""
    spread = scale * _glorot(inputs * kernel**2, outputs * kernel**2)
    return Convolution(name, inputs, outputs, kernel, padding=kernel // 2, weight_range=spread, bias=bias)


def _glorot(fan_in: int, fan_out: int) -> float:
    """The range of uniform weights by Glorot and Bengio 2010, equation 16."""
    return math.sqrt(6 / (fan_in + fan_out))


FAMILY = family_of(
    (GeneratorSettings, generator),
    (DiscriminatorSettings, discriminator),
    stack_sizes={"cpu": 1, "cuda": 8},
    convolutional=True,
)
