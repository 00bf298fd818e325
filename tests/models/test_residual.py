"""The residual pair: its sizes, the same in plain torch, and stacks of it that train."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from harness.draws import Draws
from harness.errors import InputError
from harness.experiment import Experiment
from harness.layers import Context
from harness.models import ImageStatistics, Pair, residual
from harness.models.family import StackedNetwork
from harness.training.gan import Gan

PAIR: dict[str, Any] = {
    "model": "residual",
    "generator": {"channels": 3},
    "discriminator": {"channels": 2},
    "optimizer": {"name": "SGD", "lr": 0.01},
}
State = dict[str, dict[str, Tensor]]


def images_of(*shape: int) -> ImageStatistics:
    channels, height, width = shape
    return ImageStatistics((channels, height, width), torch.zeros(shape))


def pair_of(*shape: int, generator: dict[str, Any] | None = None, discriminator: dict[str, Any] | None = None) -> Pair:
    return Pair(
        residual.generator(residual.GeneratorSettings(**generator or {}), latent=128, images=images_of(*shape)),
        residual.discriminator(residual.DiscriminatorSettings(**discriminator or {}), images=images_of(*shape)),
    )


def count(network: StackedNetwork) -> int:
    """The number of trained values of a member."""
    parameters = network.init(Draws([0]), "init")
    return sum(tensor.numel() for name, tensor in parameters.items() if name not in network.buffers)


def test_the_published_pair_has_its_number_of_parameters() -> None:
    pair = pair_of(3, 32, 32)
    block = 2 * (2 * 256 + 256 * 256 * 9) + 256 * 256  # twice batch norm and 3 x 3, and the shortcut
    assert count(pair.generator) == 129 * 4096 + 3 * block + 2 * 256 + (3 * 256 * 9 + 3)
    first = 128 * (3 * 9 + 1) + 128 * (128 * 9 + 1) + 128 * (3 + 1)
    second = 2 * 128 * (128 * 9 + 1) + 128 * (128 + 1)
    assert count(pair.discriminator) == first + second + 2 * 2 * 128 * (128 * 9 + 1) + 128


def test_weights_start_in_glorots_range_and_biases_at_zero() -> None:
    parameters = pair_of(3, 32, 32).discriminator.init(Draws([0]), "init")
    bounds = {
        "block0.convolution0": math.sqrt(2 * 6 / (9 * (3 + 128))),
        "block0.shortcut": math.sqrt(6 / (3 + 128)),
        "block2.convolution1": math.sqrt(2 * 6 / (9 * 256)),
        "output": math.sqrt(6 / 129),
    }
    for name, bound in bounds.items():
        assert 0.97 * bound < parameters[f"{name}.weight"].abs().max() <= bound
    assert not any(tensor.any() for name, tensor in parameters.items() if name.endswith("bias"))


@pytest.mark.parametrize(
    ("blocks", "sides", "doublings"),
    [(None, (32, 32), 3), (None, (8, 8), 1), (None, (64, 64), 4), (None, (8, 12), 1), (2, (28, 28), 2), (1, (6, 2), 1)],
)
def test_the_generator_doubles_to_the_images(blocks: int | None, sides: tuple[int, int], doublings: int) -> None:
    assert residual.doublings(blocks, images_of(1, *sides)) == doublings


@pytest.mark.parametrize(
    ("sides", "settings", "message"),
    [
        ((28, 28), {}, "doubles a smaller side of 4, which does not lead to images of 28 x 28: take generator.blocks "),
        ((28, 28), {}, "generator.blocks of at most 2."),
        ((4, 4), {}, "doubles a smaller side of 4, which does not lead to images of 4 x 4"),
        ((7, 8), {}, 'use another model, "mlp" for one.'),
        ((12, 12), {"generator": {"blocks": 3}}, "doubles sides 3 times, which does not lead to images of 12 x 12"),
        (
            (6, 6),
            {"generator": {"blocks": 1}},
            "discriminator.down_blocks = 2 needs images whose sides divide by 4; these are 6 x 6: take "
            "discriminator.down_blocks of at most 1.",
        ),
    ],
)
def test_images_that_do_not_suit_are_refused(sides: tuple[int, int], settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        pair_of(1, *sides, **settings)
    assert message in str(error.value)


def test_a_grid_whose_blocks_do_not_suit_its_data_is_refused(resolve: Callable[..., Experiment]) -> None:
    with pytest.raises(InputError, match=r"generator doubles sides 4 times, which does not lead to images of 8 x 8"):
        resolve(**PAIR | {"generator": {"blocks": 4}})


class UpBlock(nn.Module):
    """A residual block in the paper's order of operations."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm0 = nn.BatchNorm2d(channels, eps=2e-5)
        self.first = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels, eps=2e-5)
        self.second = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shortcut = nn.Conv2d(channels, channels, 1, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        y = self.first(functional.interpolate(self.norm0(x).relu(), scale_factor=2))
        return self.second(self.norm1(y).relu()) + self.shortcut(functional.interpolate(x, scale_factor=2))


class DownBlock(nn.Module):
    """A residual block in the paper's order of operations, the optimized first one or another."""

    def __init__(self, inputs: int, outputs: int, *, is_first: bool) -> None:
        super().__init__()
        self.first = nn.Conv2d(inputs, outputs, 3, padding=1)
        self.second = nn.Conv2d(outputs, outputs, 3, padding=1)
        self.shortcut = nn.Conv2d(inputs, outputs, 1)
        self.is_first = is_first

    def forward(self, x: Tensor) -> Tensor:
        y = self.second(self.first(x if self.is_first else x.relu()).relu())
        shortcut = self.shortcut(functional.avg_pool2d(x, 2)) if self.is_first else None
        return functional.avg_pool2d(y, 2) + (
            functional.avg_pool2d(self.shortcut(x), 2) if shortcut is None else shortcut
        )


class PlainBlock(nn.Module):
    """A residual block that keeps the sides."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(channels, channels, 3, padding=1)
        self.second = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.second(self.first(x.relu()).relu()) + x


def load(plain: nn.Module, network: StackedNetwork, parameters: dict[str, Tensor]) -> nn.Module:
    """The plain module with the one member's parameters, which are in the same order."""
    values = [tensor[0].detach() for name, tensor in parameters.items() if name not in network.buffers]
    with torch.no_grad():
        for parameter, value in zip(plain.parameters(), values, strict=True):
            parameter.copy_(value.T if value.ndim == 2 else value)
    return plain


def test_the_pair_is_the_papers_in_plain_torch(gan_of: Callable[..., Gan], context_of: Callable[..., Context]) -> None:
    gan = gan_of(PAIR, precision="float32")
    state, pair = gan.init(), gan.game.pair
    g = nn.Sequential(
        nn.Linear(5, 48),
        nn.Unflatten(1, (3, 4, 4)),
        UpBlock(3),
        nn.BatchNorm2d(3, eps=2e-5),
        nn.ReLU(),
        nn.Conv2d(3, 1, 3, padding=1),
        nn.Tanh(),
    )
    blocks = (DownBlock(1, 2, is_first=True), DownBlock(2, 2, is_first=False), PlainBlock(2), PlainBlock(2))
    d, last = nn.Sequential(*blocks, nn.ReLU()), nn.Linear(2, 1, bias=False)
    load(g, pair.generator, state["generator"])
    load(nn.Sequential(d, last), pair.discriminator, state["discriminator"])
    z = Draws([0]).normal("z", 0, 6, 5)
    images = pair.generator(state["generator"], z, context_of())
    torch.testing.assert_close(images[0], g(z[0]) / 2 + 0.5)
    scores = pair.discriminator(state["discriminator"], images, context_of())
    torch.testing.assert_close(scores[0], last(d(2 * images[0] - 1).sum((2, 3)))[:, 0])


@pytest.mark.parametrize(
    "settings",
    [
        {"loss": "hinge", "discriminator": {"channels": 2, "spectral_norm": True}},
        {"loss": "wgan", "penalty": {"name": "gradient_penalty", "weight": 0.5}},
    ],
    ids=["with spectral norm", "with a penalty"],
)
def test_a_stack_trains_as_its_members_alone(
    settings: dict[str, Any],
    gan_of: Callable[..., Gan],
    train_for: Callable[..., State],
    distance: Callable[[State, State, int], float],
) -> None:
    members = [PAIR | settings | {"seed": seed} for seed in (0, 3)]
    together = train_for(gan_of(*members), 5)
    for member, own in enumerate(members):
        assert distance(together, train_for(gan_of(own), 5), member) < 1e-9
