"""The critic of WGAN-GP on two Gaussians whose distance is known."""

from __future__ import annotations

import pytest
import torch
from scipy.stats import wasserstein_distance
from torch import Tensor

from harness.draws import Draws
from harness.layers import Context
from harness.models import ImageStatistics
from harness.models.family import StackedNetwork
from harness.models.mlp import DiscriminatorSettings, discriminator
from harness.objectives.losses import LOSSES
from harness.objectives.penalties import PENALTIES, charge
from harness.training.objective import Minibatch
from harness.training.processes import Processes

DISTANCES = (0.0, 1.0, 2.0, 4.0)
WEIGHTS = (10.0, 100.0)
PENALISED = {1.0: 1.054, 2.0: 2.210, 4.0: 4.813}
"""The penalised optimum at weight 10, computed by quadrature."""
MEMBERS = [(weight, distance) for weight in WEIGHTS for distance in DISTANCES]
SIZE = 256
UPDATES = 1000
RISING = 300
"""Updates over which the weight rises from zero: a slope of -1 is charged nothing either, and a critic that began the
wrong way would stay so."""


@pytest.fixture(scope="module")
def estimates() -> dict[tuple[float, float], float]:
    """What the best critics of a stack say of N(distance, 1) against N(0, 1) under each weight."""
    draws = Draws(range(len(MEMBERS)))
    shape = (1, 1, 1)
    settings = DiscriminatorSettings(hidden=(32, 32), activation="leaky_relu")
    critic = discriminator(settings, images=ImageStatistics(shape, torch.zeros(shape)))
    parameters = {name: tensor.requires_grad_() for name, tensor in critic.init(draws.whole(), "init").items()}
    adam = torch.optim.Adam(parameters.values(), lr=4e-3, betas=(0.5, 0.9))
    falling = torch.optim.lr_scheduler.LinearLR(adam, 1, 0.02, UPDATES)
    weights = torch.tensor([weight for weight, _ in MEMBERS])

    def losses(update: int, n: int) -> tuple[Tensor, Tensor]:
        real, fake = sampled(draws, update, n)
        of_critic = LOSSES["wgan"].discriminator(*(scores(critic, parameters, draws, x) for x in (real, fake)))
        minibatch = Minibatch(real, fake, update, n, draws, Processes())
        penalty = PENALTIES["gradient_penalty"]
        charged = charge(penalty, lambda x: scores(critic, parameters, draws, x), penalty.points(minibatch))
        return of_critic, of_critic + min(1, update / RISING) * weights * charged.mean(1)

    for update in range(UPDATES):
        adam.zero_grad()
        torch.autograd.backward(losses(update, SIZE)[1].sum())
        adam.step()
        falling.step()
    return dict(zip(MEMBERS, (-losses(UPDATES, 20_000)[0]).tolist(), strict=True))


def sampled(draws: Draws, update: int, n: int) -> tuple[Tensor, Tensor]:
    shifts = torch.tensor([distance for _, distance in MEMBERS]).view(-1, 1, 1)
    real, fake = (draws.normal(name, update, n, 1) for name in ("real", "fake"))
    return (real + shifts)[..., None, None], fake[..., None, None]


def scores(critic: StackedNetwork, parameters: dict[str, Tensor], draws: Draws, x: Tensor) -> Tensor:
    return critic(parameters, x, Context(draws, "critic", 0, x.shape[1]))


@pytest.mark.parametrize("distance", PENALISED)
def test_the_estimate_is_the_penalised_optimum(distance: float, estimates: dict[tuple[float, float], float]) -> None:
    assert estimates[10.0, distance] == pytest.approx(PENALISED[distance], rel=0.1)


@pytest.mark.parametrize("distance", PENALISED)
def test_under_a_large_weight_it_is_the_wasserstein_distance(
    distance: float, estimates: dict[tuple[float, float], float]
) -> None:
    normal = Draws([0])
    real, fake = (normal.normal(name, 0, 20_000, 1).flatten() for name in ("one", "other"))
    exact = wasserstein_distance(real + distance, fake)
    assert exact == pytest.approx(distance, rel=0.05)
    assert estimates[100.0, distance] == pytest.approx(exact, rel=0.15)


@pytest.mark.parametrize("weight", WEIGHTS)
def test_where_there_is_no_distance_it_finds_none(weight: float, estimates: dict[tuple[float, float], float]) -> None:
    assert abs(estimates[weight, 0.0]) < 0.15
