"""InfoGAN's pair as the 2018 study used it: its sizes, the same in plain torch, and stacks of it that train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.draws import Draws
from harness.errors import InputError
from harness.experiment import Experiment
from harness.layers import Context
from harness.models import ImageStatistics, Pair, infogan
from harness.models.family import ReconstructionError, StackedNetwork
from harness.training.gan import Gan

PAIR: dict[str, Any] = {
    "model": "infogan",
    # Wide: batch normalisation divides by a small deviation, rounding with it.
    "generator": {"channels": 3, "hidden": 8, "weight_std": 0.2},
    "discriminator": {"channels": 2, "hidden": 6, "weight_std": 0.2},
    "optimizer": {"name": "SGD", "lr": 0.02, "momentum": 0.5},
}
State = dict[str, dict[str, Tensor]]


def images_of(*shape: int) -> ImageStatistics:
    channels, height, width = shape
    return ImageStatistics((channels, height, width), torch.zeros(shape))


def pair_of(*shape: int, **settings: Any) -> Pair:
    return Pair(
        infogan.generator(infogan.GeneratorSettings(**settings), latent=64, images=images_of(*shape)),
        infogan.discriminator(infogan.DiscriminatorSettings(**settings), images=images_of(*shape)),
    )


def count(network: StackedNetwork) -> int:
    """The number of trained values of a member."""
    parameters = network.init(Draws([0]), "init")
    return sum(tensor.numel() for name, tensor in parameters.items() if name not in network.buffers)


def test_the_published_pair_has_its_number_of_parameters() -> None:
    pair, features = pair_of(1, 28, 28), 128 * 7 * 7
    # Weights and biases; batch normalisation puts a scale and a shift in the place of a bias.
    assert count(pair.generator) == 1024 * (64 + 2) + features * (1024 + 2) + 64 * (128 * 16 + 2) + (64 * 16 + 1)
    assert count(pair.discriminator) == 64 * (16 + 1) + 128 * (64 * 16 + 2) + 1024 * (features + 2) + 1025
    plain = pair_of(1, 28, 28, batch_norm=False)
    assert count(plain.generator) == 1024 * 65 + features * 1025 + 64 * (128 * 16 + 1) + (64 * 16 + 1)
    assert count(plain.discriminator) == 64 * 17 + 128 * (64 * 16 + 1) + 1024 * (features + 1) + 1025


def test_the_published_autoencoder_has_its_number_of_parameters() -> None:
    settings = infogan.DiscriminatorSettings(autoencoder=True, batch_norm=False)
    network, features = infogan.discriminator(settings, images=images_of(1, 28, 28)), 128 * 7 * 7
    encoder = 64 * 17 + 128 * (64 * 16 + 1) + 64 * (features + 1)
    assert count(network) == encoder + features * 65 + 64 * (128 * 16 + 1) + (64 * 16 + 1)
    assert 1_000_000 < count(network) < 1_400_000  # the study's code says 1.3M


def test_weights_start_normal_with_the_published_deviation() -> None:
    for network in (pair_of(1, 8, 8).generator, pair_of(1, 8, 8).discriminator):
        for name, tensor in network.init(Draws([0]), "init").items():
            if "norm" not in name and name.endswith("weight") and tensor.numel() > 10_000:
                assert abs(float(tensor.std()) / 0.02 - 1) < 0.03 and tensor.abs().max() > 0.06


@pytest.mark.parametrize("sides", [(28, 30), (7, 8)])
def test_sides_without_a_quarter_are_refused(sides: tuple[int, int]) -> None:
    with pytest.raises(InputError, match=rf"divide by 4; these are {sides[0]} x {sides[1]}: use another model"):
        pair_of(1, *sides)


def test_an_autoencoder_is_for_the_losses_of_its_errors(resolve: Callable[..., Experiment]) -> None:
    found = resolve(**PAIR | {"loss": "began"})
    assert found.discriminator.model["autoencoder"] is True
    with pytest.raises(InputError, match=r"discriminator\.autoencoder is for losses of its errors"):
        resolve(**PAIR | {"discriminator": {"autoencoder": True}})


def plain_generator() -> nn.Module:
    return nn.Sequential(
        nn.Linear(5, 8, bias=False),
        nn.BatchNorm1d(8),
        nn.ReLU(),
        nn.Linear(8, 24, bias=False),
        nn.BatchNorm1d(24),
        nn.ReLU(),
        nn.Unflatten(1, (6, 2, 2)),
        nn.ConvTranspose2d(6, 3, 4, 2, 1, bias=False),
        nn.BatchNorm2d(3),
        nn.ReLU(),
        nn.ConvTranspose2d(3, 1, 4, 2, 1),
        nn.Sigmoid(),
    )


def plain_discriminator() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2, 4, 4, 2, 1, bias=False),
        nn.BatchNorm2d(4),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(16, 6, bias=False),
        nn.BatchNorm1d(6),
        nn.LeakyReLU(0.2),
        nn.Linear(6, 1),
    )


def plain_autoencoder() -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(1, 2, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(2, 4, 4, 2, 1, bias=False),
        nn.Flatten(),
        nn.Linear(16, 64, bias=False),
        nn.BatchNorm1d(64),
        nn.LeakyReLU(0.2),
        nn.Linear(64, 16, bias=False),
        nn.BatchNorm1d(16),
        nn.LeakyReLU(0.2),
        nn.Unflatten(1, (4, 2, 2)),
        nn.ConvTranspose2d(4, 2, 4, 2, 1, bias=False),
        nn.BatchNorm2d(2),
        nn.LeakyReLU(0.2),
        nn.ConvTranspose2d(2, 1, 4, 2, 1),
        nn.Sigmoid(),
    )


def load(plain: nn.Module, network: StackedNetwork, parameters: dict[str, Tensor]) -> nn.Module:
    """The plain module with the one member's parameters, which are in the same order."""
    values = [tensor[0].detach() for name, tensor in parameters.items() if name not in network.buffers]
    with torch.no_grad():
        for parameter, value in zip(plain.parameters(), values, strict=True):
            parameter.copy_(value.T if value.ndim == 2 else value)
    return plain


def test_the_pair_is_infogans_in_plain_torch(gan_of: Callable[..., Gan], context_of: Callable[..., Context]) -> None:
    gan = gan_of(PAIR, precision="float32")
    state, pair = gan.init(), gan.game.pair
    g = load(plain_generator(), pair.generator, state["generator"])
    d = load(plain_discriminator(), pair.discriminator, state["discriminator"])
    z = Draws([0]).normal("z", 0, 6, 5)
    images = pair.generator(state["generator"], z, context_of())
    torch.testing.assert_close(images[0], g(z[0]))
    scores = pair.discriminator(state["discriminator"], images, context_of())
    torch.testing.assert_close(scores[0], d(images[0])[:, 0])


def test_the_autoencoder_is_the_studys_in_plain_torch(
    gan_of: Callable[..., Gan], context_of: Callable[..., Context]
) -> None:
    gan = gan_of(PAIR | {"loss": "began"}, precision="float32")
    state, network = gan.init()["discriminator"], gan.game.pair.discriminator
    assert isinstance(network, ReconstructionError)
    plain = load(plain_autoencoder(), network, state)
    x = Draws([0]).uniform("x", 0, 6, 64).view(1, 6, 1, 8, 8)
    errors = network(state, x, context_of())
    torch.testing.assert_close(errors[0], (x[0] - plain(x[0])).abs().flatten(1).mean(1))


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {
            "penalty": {"name": "gradient_penalty", "weight": 0.5},
            "discriminator": {"channels": 3, "hidden": 6, "batch_norm": False, "spectral_norm": True},
        },
        {"loss": "began"},
    ],
    ids=["plain", "with a penalty and spectral norm", "as an autoencoder"],
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
