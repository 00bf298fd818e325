"""Deep generative stochastic networks: one update by hand, their chains, and the distribution these reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from baselines.baseline import Task
from baselines.deep_gsn import DeepGsn, DeepGsnSettings
from harness.errors import InputError
from harness.experiment import OptimizerSettings, validate
from harness.training import optimizers
from harness.training.feed import Batch
from harness.training.loop import State
from harness.training.processes import Processes

SHAPE = (1, 2, 3)
TINY: dict[str, Any] = {"hidden": [8, 7], "chains": 7, "burn_in": 3, "gap": 2}


def gsn(
    *,
    seeds: Sequence[int] = (0, 1),
    iterations: int = 12,
    mean: Tensor | None = None,
    optimizer: OptimizerSettings = DeepGsn.optimizer,
    batch_size: int = 10,
    precision: str = "float64",
    **settings: Any,
) -> DeepGsn:
    mean = torch.full(SHAPE, 0.3) if mean is None else mean
    c, h, w = mean.shape
    task = Task(
        seeds=tuple(seeds),
        image_shape=(c, h, w),
        mean_image=mean,
        training_images=40,
        iterations=iterations,
        batch_size=batch_size,
        optimizer=optimizers.resolved(optimizer, where="test"),
        processes=Processes(precision),
    )
    return DeepGsn(validate(DeepGsnSettings, TINY | settings, where="test"), task)


def batch(iteration: int, *, members: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(iteration)
    return Batch(torch.rand(1, 10, *SHAPE, generator=generator, dtype=torch.float64).repeat(members, 1, 1, 1, 1))


def trained(method: DeepGsn, state: State, iterations: range) -> State:
    for iteration in iterations:
        row = method.step(state, batch(iteration, members=method.members), iteration)
        assert row.shape == (2, method.members) and row.isfinite().all()
    return state


def by_hand(model: dict[str, Tensor], method: DeepGsn, x: Tensor) -> Tensor:
    """The loss of the first update, step by step as it is printed, with the method's random numbers."""

    def uniform(name: str) -> Tensor:
        return method.draws.uniform(name, 0, 10, 6)

    def normal(name: str) -> Tensor:
        return 2 * method.draws.normal(name, 0, 10, 7)

    w1, w2 = model["hidden1.weight"], model["hidden2.weight"]
    loss, v, h2 = torch.zeros((), dtype=torch.float64), x, torch.zeros(1, 10, 7, dtype=torch.float64)
    for step in range(4):
        u = uniform(f"walk-back{step}/corruption")
        v = torch.where(u < 0.2, 1.0, torch.where(u < 0.4, 0.0, v))
        h1 = (v @ w1 + h2 @ w2.mT + model["hidden1.bias"]).tanh()
        p = (h1 @ w1.mT + model["visible.bias"]).sigmoid()
        loss = loss + functional.binary_cross_entropy(p, x, reduction="sum") / 10
        v = (uniform(f"walk-back{step}/visible") < p.detach()).double()
        before, after = (normal(f"walk-back{step}/hidden2/{when}") for when in ("before", "after"))
        h2 = (h1 @ w2 + model["hidden2.bias"] + before).tanh() + after
    return loss


@pytest.mark.parametrize("clip", [1e6, 0.5])
def test_an_update_is_that_of_the_walk_back_written_out(clip: float) -> None:
    method = gsn(seeds=[5], clip=clip, optimizer=OptimizerSettings(name="SGD", lr=0.1))
    state = method.init()
    model = {name: tensor.clone().requires_grad_() for name, tensor in state["model"].items() if name != "mean_image"}
    loss = by_hand(model, method, method.vectors(batch(0, members=1)))
    slopes = torch.autograd.grad(loss, list(model.values()))
    norm = torch.cat([slope.flatten() for slope in slopes]).norm()
    assert 0.5 < norm < 1e6
    row = method.step(state, batch(0, members=1), 0)
    torch.testing.assert_close(row[0, 0], loss.detach())
    for (name, old), slope in zip(model.items(), slopes, strict=True):
        expected = old.detach() - 0.1 * min(1.0, clip / float(norm)) * slope
        torch.testing.assert_close(state["model"][name], expected, rtol=1e-10, atol=1e-12)


def test_the_learning_rate_falls_to_zero_unless_the_optimizer_says_when() -> None:
    for told, last in ((None, 1), (4, 0)):
        method = gsn(iterations=8, optimizer=OptimizerSettings(name="SGD", lr=0.1, lr_zero_at=told))
        state = trained(method, method.init(), range(7))
        before = state["model"]["hidden1.weight"].clone()
        moved = not torch.equal(trained(method, state, range(7, 8))["model"]["hidden1.weight"], before)
        assert moved == bool(last)


def test_chains_start_from_the_mean_image_of_the_state() -> None:
    state = gsn().init()
    quiet = gsn(burn_in=1, corruption=0.0)
    state["model"]["hidden1.weight"][:] = 3.0  # every bright pixel counts alike
    dark, bright = ({"model": state["model"] | {"mean_image": torch.full((2, 6), p).double()}} for p in (0.0, 1.0))
    assert quiet.sample(dark, 7).max() < 0.5 < quiet.sample(bright, 7).min()


def test_draws_are_binary_with_the_samples_as_their_means() -> None:
    state = trained(gsn(), gsn().init(), range(12))
    means, drawn = gsn(chains=100).sample(state, 2000).flatten(2), binary_states(gsn(chains=100), state, 2000)
    assert set(drawn.unique().tolist()) == {0.0, 1.0}
    # 2,000 independent draws each: six standard errors.
    assert ((drawn - means).mean(1).abs() < 6 * (0.25 / 2000) ** 0.5).all()


@pytest.mark.parametrize("settings", [{"walk_back": 1}, {"hidden": [5]}, {"corruption": 1.5}])
def test_settings_that_cannot_train_are_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(InputError, match=next(iter(settings))):
        gsn(**settings)


def test_the_chain_reaches_the_distribution_of_a_discrete_toy() -> None:
    patterns = torch.tensor([[0.0, 0.0], [0.0, 1.0], [1.0, 0.0], [1.0, 1.0]])
    data = torch.tensor([0.35, 0.15, 0.20, 0.30])
    ones = data @ patterns
    independent = (patterns * ones + (1 - patterns) * (1 - ones)).prod(1)
    assert total_variation(independent, data) > 0.14  # so bits of the right frequencies are not enough
    method = gsn(
        seeds=[0, 1, 2, 3],
        iterations=500,
        mean=ones.view(1, 1, 2),
        optimizer=OptimizerSettings(name="Adam", lr=2e-2),
        batch_size=200,
        precision="float32",
        **{"hidden": [16, 16], "corruption": 0.3, "noise": [0.0, 0.5], "chains": 250, "burn_in": 200, "gap": 20},
    )
    x = patterns.repeat_interleave((200 * data).round().long(), 0).view(1, 200, 1, 1, 2).repeat(4, 1, 1, 1, 1)
    state = method.init()
    for iteration in range(500):
        method.step(state, Batch(x), iteration)
    drawn = binary_states(method, state, 2000)
    for member in drawn:
        found = torch.stack([(member == pattern).all(1).float().mean() for pattern in patterns])
        assert total_variation(found, data) < 0.1


def binary_states(method: DeepGsn, state: State, n: int) -> Tensor:
    """The x that the chains draw from the means of `sample`, and walk on from: (m, n, c h w)."""
    width = method.task.width
    binary = replace(method.chain(state), output=lambda units: units[..., width : 2 * width])
    with torch.no_grad():
        return method.chains.samples(method.draws.whole(), "sample", 0, n, binary)


def total_variation(p: Tensor, q: Tensor) -> float:
    return float((p - q).abs().sum()) / 2
