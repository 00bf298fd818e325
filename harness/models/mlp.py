"""`mlp`: fully connected pair with the usual activations, batch normalisation in the generator if wanted."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor

from harness.errors import InputError
from harness.experiment import Added, Fraction, Positive, Settings
from harness.layers import (
    BatchNorm,
    Dropout,
    Layer,
    Linear,
    Network,
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

Width = Annotated[int, Field(ge=1)]
ActivationName = Literal["relu", "leaky_relu", "sigmoid", "tanh"]
OutputBias = Literal["zero", "marginal"]


def per_layer(value: object, layers: int, name: str) -> None:
    """Refuse a list that is not one entry a layer."""
    if isinstance(value, tuple) and len(value) != layers:
        raise ValueError(f"{name} should be one value or a list of {layers}, one for each layer")


class GeneratorSettings(Settings):
    """`weight_range` r starts weights uniform on +-r with zero bias; absent: torch.nn.Linear's way.

    Lists have one entry for each hidden layer, that of weight ranges one for the output too. `hidden_bias`: what the
    hidden layers' biases start at; absent: zero, or torch's way with its weights. With `sparse_init` the output layer
    starts otherwise: so many of the weights into each unit are standard normal, all others zero; and so is its bias
    where no other is asked for.
    """

    hidden: tuple[Width, ...] = (128, 128)
    activation: ActivationName | tuple[ActivationName, ...] = "relu"
    batch_norm: bool | tuple[bool, ...] = False
    batch_norm_eps: Positive = 1e-5
    output: OutputName = "sigmoid"
    output_bias: OutputBias = "zero"
    weight_range: Positive | tuple[Positive, ...] | None = None
    hidden_bias: float | tuple[float, ...] | None = None
    sparse_init: Width | None = None

    @model_validator(mode="after")
    def _lengths(self) -> GeneratorSettings:
        per_layer(self.activation, len(self.hidden), "activation")
        per_layer(self.batch_norm, len(self.hidden), "batch_norm")
        per_layer(self.hidden_bias, len(self.hidden), "hidden_bias")
        per_layer(self.weight_range, len(self.hidden) + 1, "weight_range")
        if self.output_bias == "marginal" and self.output != "sigmoid":
            raise ValueError('output_bias = "marginal" should go with output = "sigmoid"')
        for number in range(len(self.hidden)):
            if at_layer(self.batch_norm, number) and at_layer(self.hidden_bias, number):
                raise ValueError("hidden_bias should be 0 where batch_norm takes a bias away")
        return self


class DiscriminatorSettings(Settings):
    """`dropout` lists the rates at the input and behind each hidden layer; empty: none."""

    hidden: tuple[Width, ...] = (128, 128)
    activation: ActivationName = "leaky_relu"
    dropout: tuple[Fraction, ...] = ()
    weight_range: Positive | tuple[Positive, ...] | None = None
    signed_input: bool = False
    """Whether images are moved from [0, 1] to [-1, 1] first."""
    spectral_norm: Added = None
    autoencoder: Added = None
    """Whether it gives images, whose errors are the scores: filled in for the losses that need it."""

    @model_validator(mode="after")
    def _lengths(self) -> DiscriminatorSettings:
        if self.dropout:
            per_layer(self.dropout, len(self.hidden) + 1, "dropout")
        per_layer(self.weight_range, len(self.hidden) + 1, "weight_range")
        return self


def generator(settings: GeneratorSettings, *, latent: int, images: ImageStatistics) -> Network:
    """Latent to hidden layers to an image."""
    widths = (latent, *settings.hidden)
    pixels = math.prod(images.shape)
    layers: list[Layer] = []
    for number, (inputs, outputs) in enumerate(zip(widths, settings.hidden, strict=False)):
        is_normalised = at_layer(settings.batch_norm, number)
        weight_range = at_layer(settings.weight_range, number)
        start = at_layer(settings.hidden_bias, number)
        hidden_bias = None if start is None else torch.full((outputs,), start)
        layers.append(Linear(f"hidden{number}", inputs, outputs, weight_range, hidden_bias, bias=not is_normalised))
        if is_normalised:
            layers.append(BatchNorm(f"norm{number}", outputs, eps=settings.batch_norm_eps))
        layers.append(activation(at_layer(settings.activation, number)))
    bias = marginal_bias(images.mean) if settings.output_bias == "marginal" else None
    weight_range = at_layer(settings.weight_range, len(settings.hidden))
    if settings.sparse_init is not None and settings.sparse_init > widths[-1]:
        raise InputError(
            f"generator.sparse_init = {settings.sparse_init} is more than the {widths[-1]} weights into a unit of its "
            "output; take at most as many."
        )
    std = 1.0 if settings.sparse_init is not None else None
    layers.append(
        Linear("output", widths[-1], pixels, weight_range, bias, weight_std=std, nonzero=settings.sparse_init)
    )
    layers.append(output(settings.output))
    layers.append(unflatten(images.shape))
    return Network(tuple(layers))


def discriminator(settings: DiscriminatorSettings, *, images: ImageStatistics) -> StackedNetwork:
    """Image to hidden layers to one logit; or back through as many to an image, whose error is the score."""
    widths = (math.prod(images.shape), *settings.hidden)
    hidden: list[list[Layer]] = []
    for number, (inputs, outputs) in enumerate(zip(widths, settings.hidden, strict=False)):
        linear = Linear(f"hidden{number}", inputs, outputs, at_layer(settings.weight_range, number))
        hidden.append([linear, activation(settings.activation)])
    first: list[Layer] = [flatten(), activation("signed")] if settings.signed_input else [flatten()]
    layers = [*first, *with_dropout(hidden, settings.dropout)]
    last = at_layer(settings.weight_range, len(settings.hidden))
    if settings.autoencoder:
        outermost = settings.hidden[0] if settings.hidden else widths[0]
        for number, (inputs, outputs) in enumerate(itertools.pairwise(reversed(settings.hidden))):
            weight_range = at_layer(settings.weight_range, len(settings.hidden) - 1 - number)
            layers += [Linear(f"decoder{number}", inputs, outputs, weight_range), activation(settings.activation)]
        layers += [
            Linear("output", outermost, widths[0], last),
            activation("sigmoid"),
            unflatten(images.shape),
        ]
    else:
        layers += [Linear("output", widths[-1], 1, last), scalar()]
    return finished(layers, spectral_norm=settings.spectral_norm, autoencoder=settings.autoencoder)


def with_dropout(hidden: Sequence[Sequence[Layer]], rates: Sequence[float]) -> list[Layer]:
    """Hidden layers with dropout before the first and behind each; none where `rates` is empty."""
    if not rates:
        return [layer for group in hidden for layer in group]
    layers: list[Layer] = [Dropout("dropout0", rates[0])]
    for number, (group, rate) in enumerate(zip(hidden, rates[1:], strict=True), start=1):
        layers += [*group, Dropout(f"dropout{number}", rate)]
    return layers


def at_layer(setting: Any, number: int) -> Any:
    """A setting's value at a layer: its own entry in a list, or the one value for all."""
    return setting[number] if isinstance(setting, tuple) else setting


def marginal_bias(mean: Tensor) -> Tensor:
    """logit of the mean pixel, clipped at 1e-7 from 0 and 1: (pixels,). Goodfellow et al. 2014, published settings."""
    return torch.logit(mean.flatten().double(), eps=1e-7).to(mean.dtype)


FAMILY = family_of(
    (GeneratorSettings, generator),
    (DiscriminatorSettings, discriminator),
    stack_sizes={"cpu": 12, "cuda": 64},
)
