"""`maxout-mlp`: the fully connected pair of the 2014 paper, a ReLU generator against a maxout discriminator.

Defaults are the published MNIST settings (Goodfellow et al. 2014 and the authors' code).
"""

from __future__ import annotations

import math
from typing import Annotated

from pydantic import Field, model_validator

from harness.experiment import Added, Fraction, Positive, Settings
from harness.layers import Layer, Linear, Maxout, flatten, scalar
from harness.models import mlp
from harness.models.family import ImageStatistics, StackedNetwork, family_of, finished


class GeneratorSettings(mlp.GeneratorSettings):
    """The settings of `mlp`'s generator with the paper's defaults."""

    hidden: tuple[mlp.Width, ...] = (1200, 1200)
    output_bias: mlp.OutputBias = "marginal"
    weight_range: Positive | tuple[Positive, ...] | None = 0.05


class DiscriminatorSettings(Settings):
    """Maxout layers of `hidden` units, each the largest of `pieces` affine functions."""

    hidden: tuple[mlp.Width, ...] = (240, 240)
    pieces: Annotated[int, Field(ge=1)] = 5
    dropout: tuple[Fraction, ...] = (0.2, 0.5, 0.5)
    weight_range: Positive | tuple[Positive, ...] | None = 0.005
    spectral_norm: Added = None

    @model_validator(mode="after")
    def _lengths(self) -> DiscriminatorSettings:
        if self.dropout:
            mlp.per_layer(self.dropout, len(self.hidden) + 1, "dropout")
        mlp.per_layer(self.weight_range, len(self.hidden) + 1, "weight_range")
        return self


def discriminator(settings: DiscriminatorSettings, *, images: ImageStatistics) -> StackedNetwork:
    """Image to maxout layers to one logit."""
    widths = (math.prod(images.shape), *settings.hidden)
    hidden: list[list[Layer]] = [
        [Maxout(f"hidden{number}", inputs, units, settings.pieces, mlp.at_layer(settings.weight_range, number))]
        for number, (inputs, units) in enumerate(zip(widths, settings.hidden, strict=False))
    ]
    score = Linear("output", widths[-1], 1, mlp.at_layer(settings.weight_range, len(settings.hidden)))
    layers: list[Layer] = [flatten(), *mlp.with_dropout(hidden, settings.dropout), score, scalar()]
    return finished(layers, spectral_norm=settings.spectral_norm)


FAMILY = family_of(
    (GeneratorSettings, mlp.generator),
    (DiscriminatorSettings, discriminator),
    stack_sizes={"cpu": 12, "cuda": 64},
)
