"""Restricted Boltzmann machines of 10 x 8 units against sums over all their states."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from baselines.baseline import Task
from baselines.dbn import Dbn, DbnSettings
from baselines.rbm import Rbm, log_partition, log_partition_without_weights
from harness.draws import Draws
from harness.training.loop import State
from harness.training.processes import Processes

MEMBERS, VISIBLE, HIDDEN = 2, 10, 8
MANY = 20_000


def states(units: int) -> Tensor:
    """All states of binary units, for each member: (m, 2^units, units)."""
    every = torch.tensor(list(itertools.product((0.0, 1.0), repeat=units)), dtype=torch.float64)
    return every.expand(MEMBERS, -1, -1)


@pytest.fixture(scope="module")
def rbm() -> Rbm:
    """Weights as large as a trained RBM's, which make its units depend on each other."""
    draws = Draws(range(MEMBERS), dtype=torch.float64)
    weight = 1.5 * draws.normal("weight", 0, VISIBLE, HIDDEN)
    visible_bias, hidden_bias = (
        draws.normal(name, 0, 1, units)[:, 0] for name, units in (("visible", VISIBLE), ("hidden", HIDDEN))
    )
    return Rbm(weight, visible_bias, hidden_bias)


def negative_energy(rbm: Rbm) -> Tensor:
    """v W h + a v + b h in all states: (m, 2^visible, 2^hidden)."""
    v, h = states(VISIBLE), states(HIDDEN)
    weights = torch.einsum("mvi,mij,mhj->mvh", v, rbm.weight, h)
    return weights + (v @ rbm.visible_bias[..., None]) + (h @ rbm.hidden_bias[..., None]).mT


def table(rbm: Rbm) -> Tensor:
    """p(v, h) of all states: (m, 2^visible, 2^hidden)."""
    return negative_energy(rbm).flatten(1).softmax(1).view(MEMBERS, 2**VISIBLE, 2**HIDDEN)


def log_z(rbm: Rbm) -> Tensor:
    return negative_energy(rbm).flatten(1).logsumexp(1)


def test_free_energy_and_log_likelihood_are_those_of_all_states(rbm: Rbm) -> None:
    free_energy = rbm.free_energy(states(VISIBLE))
    torch.testing.assert_close(-free_energy, negative_energy(rbm).logsumexp(2))
    log_likelihood = -free_energy - log_z(rbm)[:, None]
    torch.testing.assert_close(log_likelihood, table(rbm).sum(2).log())


@pytest.mark.parametrize("t", [0.0, 0.3, 1.0])
def test_free_energy_between_two_rbms_is_that_of_the_scaled_one(rbm: Rbm, t: float) -> None:
    base = torch.linspace(-1, 1, VISIBLE, dtype=torch.float64).expand(MEMBERS, -1)
    between = Rbm(t * rbm.weight, (1 - t) * base + t * rbm.visible_bias, t * rbm.hidden_bias)
    found = rbm.free_energy(states(VISIBLE), inverse_temperature=t, base=base)
    torch.testing.assert_close(found, between.free_energy(states(VISIBLE)))


def test_conditionals_are_those_of_the_table(rbm: Rbm) -> None:
    p = table(rbm)
    torch.testing.assert_close(rbm.hidden(states(VISIBLE)), p @ states(HIDDEN) / p.sum(2)[..., None])
    torch.testing.assert_close(rbm.visible(states(HIDDEN)), p.mT @ states(VISIBLE) / p.sum(1)[..., None])


def model_statistics(rbm: Rbm) -> list[Tensor]:
    """E v h, E v and E h under p(v, h)."""
    p, v, h = table(rbm), states(VISIBLE), states(HIDDEN)
    return [v.mT @ p @ h, (p.sum(2)[..., None] * v).sum(1), (p.sum(1)[..., None] * h).sum(1)]


def test_statistics_of_data_less_those_of_the_model_are_the_slope_of_the_log_likelihood(rbm: Rbm) -> None:
    data = states(VISIBLE)[:, [3, 77, 500, 500, 1023]]
    parameters = [part.clone().requires_grad_() for part in (rbm.weight, rbm.visible_bias, rbm.hidden_bias)]
    learning = Rbm(*parameters)
    log_likelihood = (-learning.free_energy(data) - log_z(learning)[:, None]).mean(1)
    slopes = torch.autograd.grad(log_likelihood.sum(), parameters)
    ours = [part / data.shape[1] for part in rbm.statistics(data, rbm.hidden(data))]
    for slope, up, down in zip(slopes, ours, model_statistics(rbm), strict=True):
        torch.testing.assert_close(slope, up - down)


def dbn_with(rbm: Rbm, *, persistent: bool, particles: Tensor | None = None) -> tuple[Dbn, State]:
    """A belief network of that single layer."""
    task = Task(
        seeds=tuple(range(MEMBERS)),
        image_shape=(1, 2, VISIBLE // 2),
        mean_image=torch.full((1, 2, VISIBLE // 2), 0.5),
        training_images=MANY,
        iterations=1,
        batch_size=MANY,
        optimizer=None,
        processes=Processes("float64"),
    )
    settings = DbnSettings(
        hidden=(HIDDEN,), phases=(1.0,), lr=(0.1,), persistent=(persistent,), momentum=(0.0,), particles=MANY
    )
    dbn = Dbn(settings, task)
    state = dbn.init()
    for name in ("weight", "visible_bias", "hidden_bias"):
        state["model"][f"rbm0.{name}"] = getattr(rbm, name)
    if particles is not None:
        state["particles"]["rbm0"] = particles
    return dbn, state


def test_contrastive_divergence_expects_what_all_hidden_states_give(rbm: Rbm) -> None:
    images = states(VISIBLE)[:, [3, 77, 500, 900]]
    data = images.repeat(1, MANY // 4, 1)
    dbn, state = dbn_with(rbm, persistent=False)
    found = dbn._negative(state, rbm, data, rbm.hidden(data), 0, 0)

    p = rbm.hidden(images)[:, :, None]
    h = states(HIDDEN)[:, None]
    weights = (p * h + (1 - p) * (1 - h)).prod(-1).sum(1) / 4  # of each hidden state, on average over the images
    v = rbm.visible(states(HIDDEN))
    again = rbm.hidden(v)
    weighted = weights[..., None] * v
    expected = [weighted.mT @ again, weighted.sum(1), (weights[..., None] * again).sum(1)]
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=4 * 0.5 / math.sqrt(MANY))
    assert any((one - other).abs().max() > 0.1 for one, other in zip(found, model_statistics(rbm), strict=True))


def test_persistent_particles_that_follow_the_model_give_its_statistics_and_go_on_to_follow_it(rbm: Rbm) -> None:
    p = table(rbm).sum(2)
    uniform = Draws(range(MEMBERS), dtype=torch.float64).uniform("particles", 0, MANY, 1)[..., 0]
    particles = states(VISIBLE).gather(
        1, torch.searchsorted(p.cumsum(1), uniform).clamp(max=2**VISIBLE - 1)[..., None].expand(-1, -1, VISIBLE)
    )
    dbn, state = dbn_with(rbm, persistent=True, particles=particles.clone())
    nothing = torch.zeros(MEMBERS, MANY, VISIBLE, dtype=torch.float64)
    found = dbn._negative(state, rbm, nothing, rbm.hidden(nothing), 0, 0)
    for one, other in zip(found, model_statistics(rbm), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=4 * 0.5 / math.sqrt(MANY))
    assert not state["particles"]["rbm0"].equal(particles)


def test_annealed_importance_sampling_finds_the_partition_function(rbm: Rbm) -> None:
    draws = Draws(range(MEMBERS), dtype=torch.float64)
    base = rbm.visible_bias

    def uniform(step: int, name: str, width: int) -> Tensor:
        return draws.uniform(name, step, 100, width)

    exact = log_z(rbm)
    assert ((log_partition_without_weights(rbm, base) - exact).abs() > 2).all()
    assert ((log_partition(rbm, base, uniform, temperatures=300) - exact).abs() < 0.5).all()


def test_without_weights_the_partition_function_is_a_product(rbm: Rbm) -> None:
    bare = Rbm(torch.zeros_like(rbm.weight), rbm.visible_bias, torch.zeros_like(rbm.hidden_bias))
    torch.testing.assert_close(log_partition_without_weights(rbm, rbm.visible_bias), log_z(bare))
