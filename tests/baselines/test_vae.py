"""The variational autoencoder's bounds against Monte Carlo, quadrature and autograd."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from baselines.baseline import Task
from baselines.vae import Vae, VaeSettings, divergence, log_likelihood
from harness.experiment import OptimizerSettings
from harness.layers import Parameters
from harness.training.loop import OfLatents, State
from harness.training.processes import Processes

MEMBERS = 2
BINARY = torch.tensor(list(itertools.product((0.0, 1.0), repeat=3)))
"""All images of three binary pixels."""


@pytest.fixture(scope="module")
def vae() -> Vae:
    """A stack for images of three pixels, with two latents."""
    task = Task(
        seeds=tuple(range(MEMBERS)),
        image_shape=(3, 1, 1),
        mean_image=torch.tensor([0.3, 0.5, 0.6]).view(3, 1, 1),
        training_images=8,
        iterations=1,
        batch_size=8,
        optimizer=OptimizerSettings(name="Adam", lr=1e-3, betas=[0.9, 0.999], eps=1e-8, weight_decay=0.0),
        processes=Processes("float64"),
    )
    return Vae(VaeSettings(latent=2, hidden=(6,), activation="tanh"), task)


@pytest.fixture(scope="module")
def state(vae: Vae) -> State:
    """Weights so large that the posteriors are not what the encoder says."""
    return {"model": {name: 1.5 * tensor for name, tensor in vae.init()["model"].items()}}


def images(rows: Tensor) -> Tensor:
    """The same rows (n, 3) for each member, as images."""
    return rows.double().view(1, -1, 3, 1, 1).repeat(MEMBERS, 1, 1, 1, 1)


def elbo(vae: Vae, model: Parameters, rows: Tensor, noise: Tensor) -> Tensor:
    """By one draw for each row, with the analytic divergence: (m, n)."""
    x = images(rows).flatten(2)
    mean, log_std = vae.posterior(model, x)
    return log_likelihood(vae.decoder(model, mean + log_std.exp() * noise), x) - divergence(mean, log_std)


def exact(vae: Vae, state: State, rows: Tensor) -> Tensor:
    """log p(x) by Gauss-Hermite quadrature over both latents: (m, n)."""
    nodes, weights = np.polynomial.hermite_e.hermegauss(40)
    z = torch.from_numpy(np.array(list(itertools.product(nodes, nodes))))
    log_weights = torch.from_numpy(np.log(np.outer(weights, weights).flatten() / weights.sum() ** 2))
    p = vae.images_at(state, z.repeat(MEMBERS, 1, 1), None).flatten(2)[:, None]
    x = images(rows).flatten(2)[:, :, None]
    return ((x * p.log() + (1 - x) * (1 - p).log()).sum(-1) + log_weights).logsumexp(2)


def test_divergence_equals_monte_carlo() -> None:
    generator = torch.Generator().manual_seed(0)
    mean, log_std = (torch.randn(1, 4, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    posterior = torch.distributions.Normal(mean, log_std.exp())
    z = mean + log_std.exp() * torch.randn(40_000, 4, 3, generator=generator, dtype=torch.float64)
    ratio = (posterior.log_prob(z) - torch.distributions.Normal(0.0, 1.0).log_prob(z)).sum(-1)
    error = ratio.std(0) / len(ratio) ** 0.5
    assert ((ratio.mean(0) - divergence(mean, log_std)[0]).abs() < 4 * error).all()


def test_divergence_of_the_prior_from_itself_is_zero() -> None:
    assert divergence(torch.zeros(1, 2, 5), torch.zeros(1, 2, 5)).equal(torch.zeros(1, 2))


def test_the_probabilities_of_all_images_sum_to_one(vae: Vae, state: State) -> None:
    torch.testing.assert_close(exact(vae, state, BINARY).logsumexp(1), torch.zeros(MEMBERS, dtype=torch.float64))


def test_the_bound_by_one_draw_is_the_elbo_on_average(vae: Vae, state: State) -> None:
    rows = BINARY[5].repeat(20_000, 1)
    noise = torch.randn(MEMBERS, len(rows), 2, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    by_bound, by_elbo = vae.bound(state, images(rows), 1), elbo(vae, state["model"], rows, noise)
    error = ((by_bound.var(1) + by_elbo.var(1)) / len(rows)).sqrt()
    assert (error < 0.02).all()
    assert ((by_bound.mean(1) - by_elbo.mean(1)).abs() < 4 * error).all()


def test_the_bound_rises_with_draws_to_the_likelihood(vae: Vae, state: State) -> None:
    rows = BINARY.repeat(500, 1)
    bounds = torch.stack([vae.bound(state, images(rows), k).mean(1) for k in (1, 4, 30)])
    gaps = exact(vae, state, BINARY).mean(1) - bounds
    assert (gaps[0] > 0.02).all()
    assert (gaps.diff(dim=0) < -0.002).all() and (gaps[-1] > -0.005).all()


def test_the_bound_by_many_draws_equals_the_likelihood(vae: Vae, state: State) -> None:
    found = vae.bound(state, images(BINARY), 6000)
    assert found.shape == (MEMBERS, 8) and found.dtype == torch.float64
    torch.testing.assert_close(found, exact(vae, state, BINARY), rtol=0, atol=0.05)


def test_the_bound_of_an_image_depends_on_its_place_alone(vae: Vae, state: State) -> None:
    whole = vae.bound(state, images(BINARY), 3)
    parts = [vae.bound(state, images(BINARY[:3]), 3), vae.bound(state, images(BINARY[3:]), 3, first=3)]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)


def test_the_bound_of_a_grey_image_is_below_the_mean_over_its_binary_draws(vae: Vae, state: State) -> None:
    grey = torch.tensor([[0.2, 0.5, 0.9]])
    chances = (BINARY * grey + (1 - BINARY) * (1 - grey)).prod(1).double()
    mean = (exact(vae, state, BINARY) * chances).sum(1)
    of_grey = exact(vae, state, grey)[:, 0]
    assert (of_grey < mean).all()
    torch.testing.assert_close(vae.bound(state, images(grey), 2000)[:, 0], of_grey, rtol=0, atol=0.05)


def test_every_parameter_has_a_gradient(vae: Vae) -> None:
    model = {name: tensor.clone().requires_grad_() for name, tensor in vae.init()["model"].items()}
    noise = torch.ones(MEMBERS, 8, 2, dtype=torch.float64)
    gradients = torch.autograd.grad(elbo(vae, model, BINARY, noise).sum(), list(model.values()))
    assert {name.partition(".")[0] for name in model} == {"encoder", "decoder"}
    assert all((gradient.abs().flatten(1).amax(1) > 0).all() for gradient in gradients)


def test_training_raises_the_bound(
    baseline_of: Callable[..., Vae], digits_feed: Callable, trained_state: Callable
) -> None:
    vae = baseline_of("vae", 0, 1, iterations=100, optimizer={"lr": 0.01}, baseline={"hidden": [64], "latent": 4})
    images = digits_feed(vae).batch(0).images
    before, after = (vae.bound(state, images, 5).mean(1) for state in (vae.init(), trained_state(vae)))
    assert (after > before + 0.5).all()


def test_its_history_adds_up(baseline_of: Callable[..., Vae], digits_feed: Callable) -> None:
    vae = baseline_of("vae")
    bound, reconstruction, kl = vae.step(vae.init(), digits_feed(vae).batch(0), 0)
    torch.testing.assert_close(bound, reconstruction - kl)
    assert (kl > 0).all() and (reconstruction < 0).all()


def test_samples_are_images_of_latents(vae: Vae, state: State) -> None:
    assert isinstance(vae, OfLatents)
    z = vae.latents(9, first=4)
    assert z.shape == (MEMBERS, 9, 2) and vae.prior.size == 2
    assert vae.images_at(state, z, None, first=4).equal(vae.sample(state, 9, first=4))
