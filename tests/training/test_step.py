"""Algorithm 1 against a plain PyTorch loop that knows nothing of stacks."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import leaky_relu, logsigmoid

from harness.draws import Draws
from harness.experiment import LatentSettings, validate
from harness.images import ImageSet, unit
from harness.training.game import latents, quantiles
from harness.training.gan import Gan

State = dict[str, dict[str, Tensor]]
Parameters = dict[str, Tensor]
DROPOUT = {"discriminator": {"hidden": [9, 8], "dropout": [0.2, 0.5, 0.5]}}
ITERATIONS = 10
SETTINGS: dict[str, dict[str, Any]] = {
    "alternating, k = 1": {},
    "alternating, k = 3": {"k": 3, "loss": "minimax"},
    "alternating, k = 3, dropout": DROPOUT | {"k": 3, "seed": 4},
    "half the discriminator's loss": DROPOUT | {"discriminator_loss_weight": 0.5, "k": 2},
    "simultaneous": {"updates": "simultaneous", "loss": "minimax"},
    "simultaneous, dropout": DROPOUT | {"updates": "simultaneous", "discriminator_loss_weight": 0.5},
    "uniform latents": {"latent": {"size": 5, "distribution": "uniform"}},
    "averaged generator": DROPOUT | {"ema": 0.7},
}


class Plain:
    """The tiny experiment's pair, its data and Algorithm 1 in plain PyTorch, for one member."""

    def __init__(self, settings: Mapping[str, Any], initial: State, images: Tensor) -> None:
        self.k = settings.get("k", 1)
        self.loss = settings.get("loss", "non_saturating")
        self.weight = settings.get("discriminator_loss_weight", 1.0)
        self.rates = settings.get("discriminator", {}).get("dropout")
        self.uniform = settings.get("latent", {}).get("distribution") == "uniform"
        self.draws = Draws([settings.get("seed", 0)], dtype=torch.float64)
        self.g, self.d = (
            {k: t[0].clone().requires_grad_() for k, t in initial[r].items()} for r in ("generator", "discriminator")
        )
        self.sgd_g, self.sgd_d = (torch.optim.SGD(p.values(), lr=0.1, momentum=0.5) for p in (self.g, self.d))
        self.average = {k: t.detach().clone() for k, t in self.g.items()}
        self.data = self.minibatches(images)

    def minibatches(self, images: Tensor) -> Iterator[Tensor]:
        orders = self.draws.orders("order", 0, 2, len(images))[0].flatten()
        return iter(images[orders[:2380]].view(-1, 20, 64))

    def z(self, purpose: str, update: int) -> Tensor:
        if self.uniform:
            return (self.draws.uniform(f"latent/{purpose}", update, 20, 5)[0] * 2 - 1) * 3**0.5
        return self.draws.normal(f"latent/{purpose}", update, 20, 5)[0]

    def generate(self, z: Tensor) -> Tensor:
        for layer in ("hidden0", "hidden1"):
            z = (z @ self.g[f"{layer}.weight"] + self.g[f"{layer}.bias"]).relu()
        return (z @ self.g["output.weight"] + self.g["output.bias"]).sigmoid()

    def score(self, x: Tensor, purpose: str, update: int, *, batch: int = 0, batches: int = 1) -> Tensor:
        for number, layer in enumerate(("hidden0", "hidden1", "output")):
            if self.rates:
                keep = 1 - self.rates[number]
                place = (f"{purpose}/D/dropout{number}", update, 20, x.shape[1])
                masks = self.draws.dropout(*place, keep=keep, batches=batches)
                x = x * masks[0, batch * 20 : (batch + 1) * 20]
            x = x @ self.d[f"{layer}.weight"] + self.d[f"{layer}.bias"]
            x = leaky_relu(x, 0.2) if layer != "output" else x
        return x[:, 0]

    def loss_d(self, real: Tensor, fake: Tensor) -> Tensor:
        return -(logsigmoid(real).mean() + logsigmoid(-fake).mean())

    def loss_g(self, fake: Tensor) -> Tensor:
        return logsigmoid(-fake).mean() if self.loss == "minimax" else -logsigmoid(fake).mean()

    def alternating(self, iteration: int) -> Tensor:
        for j in range(self.k):
            update = iteration * self.k + j
            x, fake = next(self.data), self.generate(self.z("discriminator", update)).detach()
            real_score = self.score(x, "discriminator", update, batch=0, batches=2)
            fake_score = self.score(fake, "discriminator", update, batch=1, batches=2)
            loss_d = self.loss_d(real_score, fake_score)
            self.sgd_d.zero_grad()
            torch.autograd.backward(self.weight * loss_d)
            self.sgd_d.step()
        loss_g = self.loss_g(self.score(self.generate(self.z("generator", iteration)), "generator", iteration))
        self.sgd_g.zero_grad()
        torch.autograd.backward(loss_g)
        self.sgd_g.step()
        return row(loss_d, loss_g, real_score, fake_score)

    def simultaneous(self, iteration: int) -> Tensor:
        fake = self.generate(self.z("both", iteration))
        real_score = self.score(next(self.data), "both/real", iteration)
        fake_score = self.score(fake, "both/fake", iteration)
        loss_d, loss_g = self.loss_d(real_score, fake_score), self.loss_g(fake_score)
        slopes_d = torch.autograd.grad(self.weight * loss_d, list(self.d.values()), retain_graph=True)
        slopes_g = torch.autograd.grad(loss_g, list(self.g.values()))
        for parameter, slope in zip((*self.d.values(), *self.g.values()), (*slopes_d, *slopes_g), strict=True):
            parameter.grad = slope
        self.sgd_d.step()
        self.sgd_g.step()
        return row(loss_d, loss_g, real_score, fake_score)


def row(loss_d: Tensor, loss_g: Tensor, real: Tensor, fake: Tensor) -> Tensor:
    """A line of history."""
    return torch.stack([loss_d, loss_g, real.sigmoid().mean(), fake.sigmoid().mean()]).detach()


def distance(found: Parameters, expected: Parameters) -> float:
    """||difference|| / ||parameters||."""
    one, other = (torch.cat([p[key].detach().flatten() for key in sorted(expected)]) for p in (found, expected))
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("name", SETTINGS)
def test_a_stack_of_one_trains_as_a_plain_loop_does(
    name: str, digits: ImageSet, gan_of: Callable[..., Gan], feed_of: Callable[..., Any]
) -> None:
    settings = SETTINGS[name]
    gan = gan_of(settings)
    state, feed = gan.init(), feed_of(gan, ITERATIONS)
    plain = Plain(settings, state, torch.from_numpy(unit(digits.train.images[np.arange(1197)])).double().flatten(1))
    for iteration in range(ITERATIONS):
        row = gan.step(state, feed.batch(iteration), iteration)
        expected = getattr(plain, settings.get("updates", "alternating"))(iteration)
        torch.testing.assert_close(row[:, 0], expected, rtol=1e-10, atol=1e-10)
        for key, tensor in plain.average.items():
            tensor.mul_(0.7).add_(plain.g[key].detach(), alpha=0.3)
    assert distance(state["generator"], plain.g) < 1e-10
    assert distance(state["discriminator"], plain.d) < 1e-10
    if gan.ema is not None:
        assert distance(state["ema"], plain.average) < 1e-10


def test_the_epoch_of_a_momentum_ramp_counts_all_images_that_a_step_takes(
    gan_of: Callable[..., Gan], train_for: Callable[[Gan, int], State]
) -> None:
    ramp = {"final": 0.9, "start_epoch": 0, "end_epoch": 1}
    plain = {"k": 5, "batch_size": 200}  # 1,000 of 1,197 images a step
    ramped = plain | {"optimizer": {"name": "SGD", "lr": 0.1, "momentum": 0.5, "momentum_ramp": ramp}}
    both = [gan_of(settings) for settings in (plain, ramped)]
    first, first_ramped = (train_for(gan, 1)["generator"] for gan in both)
    second, second_ramped = (train_for(gan, 2)["generator"] for gan in both)
    assert distance(first, first_ramped) == 0
    third, third_ramped = (train_for(gan, 3)["generator"] for gan in both)
    assert distance(second, second_ramped) == 0 and distance(third, third_ramped) > 0


def test_samples_begin_alike_and_come_in_parts(gan_of: Callable[..., Gan]) -> None:
    gan = gan_of({}, {"seed": 1})
    state = gan.init()
    many = gan.sample(state, 30)
    assert many.shape == (2, 30, 1, 8, 8) and many.min() >= 0 and many.max() <= 1
    torch.testing.assert_close(gan.sample(state, 10), many[:, :10])
    torch.testing.assert_close(gan.sample(state, 20, first=10), many[:, 10:])
    assert not gan.sample(state, 30, purpose="other").allclose(many)


def test_labels_of_samples_follow_the_shares_of_the_classes(gan_of: Callable[..., Gan]) -> None:
    n, shares = 20_000, torch.tensor([0.0, 0.5, 0.0, 0.3, 0.2, 0.0], dtype=torch.float64)
    gan = replace(gan_of({"conditional": True}, {"conditional": True, "seed": 1}), class_shares=shares)
    labels = gan.labels(gan.init(), n)
    assert labels is not None and labels.shape == (2, n)
    found = torch.stack([own.bincount(minlength=6) / n for own in labels])
    assert ((found - shares).abs() <= 4 * (shares * (1 - shares) / n).sqrt()).all()
    assert not labels[0].equal(labels[1])


def test_labelled_samples_come_in_parts(gan_of: Callable[..., Gan]) -> None:
    gan = gan_of({"conditional": True}, {"conditional": True, "seed": 1})
    state = gan.init()
    many, labels = gan.sample(state, 30), gan.labels(state, 30)
    later = gan.labels(state, 20, first=10)
    assert labels is not None and later is not None and later.equal(labels[:, 10:])
    torch.testing.assert_close(gan.sample(state, 20, first=10), many[:, 10:])
    torch.testing.assert_close(gan.images_at(state, gan.latents(30), labels), many)
    assert not gan.images_at(state, gan.latents(30), (labels + 1) % 10).allclose(many)
    unconditional = gan_of({})
    assert unconditional.labels(unconditional.init(), 30) is None


def test_samples_come_from_the_averaged_generator_where_there_is_one(
    gan_of: Callable[..., Gan], train_for: Callable[[Gan, int], State]
) -> None:
    gan = gan_of({"ema": 0.99})
    state = train_for(gan, 20)
    assert gan.sampler(state).keys() == {"generator", "ema"}
    images = gan.sample(state, 5)
    assert images.equal(gan.sample({"generator": state["ema"]}, 5))
    assert not images.allclose(gan.sample({"generator": state["generator"]}, 5))


@pytest.mark.parametrize("distribution", ["normal", "uniform"])
def test_the_priors_quantiles_are_those_of_its_draws(distribution: str) -> None:
    settings = validate(LatentSettings, {"size": 4, "distribution": distribution}, where="test")
    shares = torch.tensor([0.02, 0.3, 0.5, 0.98], dtype=torch.float64)
    drawn = latents(settings, Draws((0,), dtype=torch.float64), "test", 0, 50_000).flatten()
    torch.testing.assert_close(quantiles(settings, shares), drawn.quantile(shares), rtol=0, atol=0.02)
