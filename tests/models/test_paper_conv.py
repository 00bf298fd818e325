"""The 2014 paper's convolutional pair: its sizes, the same in plain torch, and stacks of it that train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.draws import Draws
from harness.errors import InputError
from harness.experiment import Experiment
from harness.layers import Context, Linear, PixelBias, TransposedConvolution
from harness.models import ImageStatistics, paper_conv
from harness.training.gan import Gan

PAIR: dict[str, Any] = {
    "model": "paper-conv",
    "generator": {"hidden": [7], "channels": 4},
    "discriminator": {
        "channels": [3, 4],
        "kernels": [4, 3],
        "padding": [2, 1],
        "pools": [3, 2],
        "hidden": [5],
        "hidden_pieces": 3,
        "dropout": [0.1, 0.3, 0.3, 0.3],
        "weight_range": 0.3,
    },
    "optimizer": {"name": "SGD", "lr": 0.05, "momentum": 0.5},
}
State = dict[str, dict[str, Tensor]]


def images_of(*shape: int) -> ImageStatistics:
    channels, height, width = shape
    return ImageStatistics((channels, height, width), torch.zeros(shape))


def test_the_papers_generator_has_its_layers() -> None:
    network = paper_conv.generator(paper_conv.GeneratorSettings(), latent=100, images=images_of(3, 32, 32))
    affine = [layer for layer in network.layers if isinstance(layer, Linear | TransposedConvolution)]
    assert [(layer.inputs, layer.outputs) for layer in affine] == [(100, 8000), (8000, 80 * 10 * 10), (80, 3)]
    assert affine[2] == TransposedConvolution(
        "output", 80, 3, 5, stride=3, padding=(0, 0), weight_range=0.05, bias=False
    )
    assert network.layers[-2] == PixelBias("pixels", (3, 32, 32))


def test_the_papers_discriminator_has_its_sizes() -> None:
    network = paper_conv.discriminator(paper_conv.DiscriminatorSettings(), images=images_of(3, 32, 32))
    parameters = network.init(Draws([0]), "init")
    assert [tuple(tensor.shape[1:]) for name, tensor in parameters.items() if name.endswith("weight")] == [
        (2 * 32, 3, 8, 8),  # 33 pixels a side, 16 behind the pool
        (2 * 32, 32, 8, 8),  # 15, 7
        (2 * 192, 32, 5, 5),  # 9, 5
        (192 * 5 * 5, 5 * 500),
        (500, 1),
    ]
    convolutions = 2 * 32 * (3 * 64 + 1) + 2 * 32 * (32 * 64 + 1) + 2 * 192 * (32 * 25 + 1)
    assert sum(tensor.numel() for tensor in parameters.values()) == convolutions + 5 * 500 * (4800 + 1) + 501


def test_the_generator_has_a_bias_for_each_pixel_and_the_papers_ranges() -> None:
    settings = paper_conv.GeneratorSettings(hidden=(50,), channels=8)
    parameters = paper_conv.generator(settings, latent=100, images=images_of(3, 32, 32)).init(Draws([0]), "init")
    sizes = {name: tensor.numel() for name, tensor in parameters.items()}
    assert sizes["pixels.bias"] == 3 * 32 * 32 and "output.bias" not in sizes
    assert sum(sizes.values()) == 101 * 50 + 51 * 800 + 8 * 3 * 25 + 3072
    for name, tensor in parameters.items():
        if name.endswith("weight"):
            assert 0.049 < tensor.abs().max() <= 0.05
        else:
            assert not tensor.any()


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32), (1, 8, 8), (2, 3, 4), (1, 1, 6)])
def test_images_of_any_sides_but_two_come_out(shape: tuple[int, int, int], context_of: Callable[..., Context]) -> None:
    settings = paper_conv.GeneratorSettings(hidden=(3,), channels=2)
    network = paper_conv.generator(settings, latent=4, images=images_of(*shape))
    assert network(network.init(Draws([0]), "init"), torch.ones(1, 2, 4), context_of()).shape == (1, 2, *shape)


def test_sides_of_two_are_refused() -> None:
    with pytest.raises(InputError, match=r"sides of 1, 3 and more, not 2; these are 5 x 2: use another model"):
        paper_conv.generator(paper_conv.GeneratorSettings(), latent=4, images=images_of(1, 5, 2))


def test_images_under_the_pools_are_refused_with_the_sides_that_fit(resolve: Callable[..., Experiment]) -> None:
    message = r"suit images with sides of 10 and more; these are 8 x 8: take smaller discriminator\.kernels"
    with pytest.raises(InputError, match=message):
        resolve(**PAIR | {"discriminator": {}})
    for side in (10, 11):
        assert paper_conv.pooled_sides(paper_conv.DiscriminatorSettings(), images_of(1, side, 40))[0] >= 1


class PlainMaxout(nn.Module):
    """The largest of some pieces of a layer's outputs, unit by unit."""

    def __init__(self, affine: nn.Module, pieces: int) -> None:
        super().__init__()
        self.affine, self.pieces = affine, pieces

    def forward(self, x: Tensor) -> Tensor:
        return self.affine(x).unflatten(1, (self.pieces, -1)).amax(1)


def plain_generator() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 7),
        nn.ReLU(),
        nn.Linear(7, 4 * 2 * 2),
        nn.Sigmoid(),
        nn.Unflatten(1, (4, 2, 2)),
        nn.ConvTranspose2d(4, 1, 5, 3, bias=False),
    )


def plain_discriminator() -> nn.Module:
    return nn.Sequential(
        PlainMaxout(nn.Conv2d(1, 6, 4, padding=2), 2),
        nn.MaxPool2d(3, 2, ceil_mode=True),
        PlainMaxout(nn.Conv2d(3, 8, 3, padding=1), 2),
        nn.MaxPool2d(2, 2, ceil_mode=True),
        nn.Flatten(),
        PlainMaxout(nn.Linear(4 * 2 * 2, 15), 3),
        nn.Linear(5, 1),
    )


def load(plain: nn.Module, parameters: dict[str, Tensor]) -> None:
    """The one member's parameters, in order; ours have the weights of fully connected layers transposed."""
    values = [tensor[0].detach() for tensor in parameters.values()]
    with torch.no_grad():
        for parameter, value in zip(plain.parameters(), values, strict=True):
            parameter.copy_(value.T if value.ndim == 2 else value)


def test_the_pair_is_the_papers_in_plain_torch(gan_of: Callable[..., Gan], context_of: Callable[..., Context]) -> None:
    gan = gan_of(PAIR, precision="float32")
    state, context = gan.init(), context_of(training=False)
    bias = state["generator"].pop("pixels.bias") + torch.randn(1, 8, 8, generator=torch.Generator().manual_seed(0))
    g, d = plain_generator(), plain_discriminator()
    load(g, state["generator"])
    load(d, state["discriminator"])
    z = Draws([0]).normal("z", 0, 6, 5)
    images = gan.game.pair.generator(state["generator"] | {"pixels.bias": bias}, z, context)
    torch.testing.assert_close(images[0], (g(z[0]) + bias[0]).sigmoid())
    scores = gan.game.pair.discriminator(state["discriminator"], images, context)
    torch.testing.assert_close(scores[0], d(images[0])[:, 0])


@pytest.mark.parametrize(
    "settings",
    [
        {"updates": "simultaneous", "discriminator_loss_weight": 0.5},
        {"penalty": {"name": "gradient_penalty", "weight": 0.5}, "loss": "wgan"},
    ],
    ids=["as published", "with a penalty"],
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
