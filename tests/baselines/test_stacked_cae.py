"""Stacked contractive autoencoders against autograd's Jacobian and torch's Adam."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from baselines.baseline import Task
from baselines.stacked_cae import StackedCae, StackedCaeSettings, squared_jacobian
from harness.errors import InputError
from harness.experiment import validate
from harness.training import checkpoint, optimizers
from harness.training.feed import Batch
from harness.training.loop import State
from harness.training.processes import Processes

SHAPE = (1, 2, 3)
TINY: dict[str, Any] = {"hidden": [5, 4], "contraction": [0.3, 0.1], "chains": 7, "burn_in": 3, "gap": 2}


def cae(*, seeds: Sequence[int] = (0, 1), iterations: int = 12, mean: float = 0.3, **settings: Any) -> StackedCae:
    task = Task(
        seeds=tuple(seeds),
        image_shape=SHAPE,
        mean_image=torch.full(SHAPE, mean),
        training_images=40,
        iterations=iterations,
        batch_size=10,
        optimizer=optimizers.resolved(StackedCae.optimizer, where="test"),
        processes=Processes("float64"),
    )
    return StackedCae(validate(StackedCaeSettings, TINY | settings, where="test"), task)


def batch(iteration: int, *, members: int = 2) -> Batch:
    generator = torch.Generator().manual_seed(iteration)
    return Batch(torch.rand(1, 10, *SHAPE, generator=generator, dtype=torch.float64).repeat(members, 1, 1, 1, 1))


def trained(method: StackedCae, state: State, iterations: range) -> State:
    for iteration in iterations:
        row = method.step(state, batch(iteration, members=method.members), iteration)
        assert row.shape == (3, method.members) and row.isfinite().all()
    return state


def jacobians(method: StackedCae, state: State, x: Tensor, layers: int) -> Tensor:
    """d code / d x of each member and row by autograd: (m, n, hidden, c h w)."""

    def code(flat: Tensor) -> Tensor:
        return method.encode(state, flat.view_as(x), layers=layers)[-1].sum(1)

    found = torch.autograd.functional.jacobian(code, x.flatten())  # rows do not meet, so their sum keeps them apart
    whole = found.view(method.members, -1, *x.shape)
    return torch.stack([whole[m, :, m].transpose(0, 1) for m in range(method.members)])


def test_the_penalty_is_the_squared_norm_of_autograds_jacobian() -> None:
    method = cae()
    state = method.init()
    x = method.vectors(batch(0))
    expected = jacobians(method, state, x, 1).square().sum((2, 3))
    found = squared_jacobian(method.encode(state, x, layers=1)[1], state["model"]["layer0.weight"])
    torch.testing.assert_close(found, expected, rtol=1e-10, atol=1e-12)


def test_steps_of_the_walk_go_along_autograds_jacobian_of_all_layers() -> None:
    method = cae()
    state = method.init()
    x = method.vectors(batch(0))
    noise = torch.randn(2, 10, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    j = jacobians(method, state, x, 2)
    expected = (j @ (j.mT @ noise[..., None]))[..., 0]
    torch.testing.assert_close(method.along(state, method.encode(state, x), noise), expected, rtol=1e-10, atol=1e-14)


def test_each_phase_trains_its_layer_alone() -> None:
    method = cae(phases=[1, 2])
    state = method.init()
    for iterations, layer in ((range(4), "layer0."), (range(4, 12), "layer1.")):
        before = {key: tensor.clone() for key, tensor in checkpoint.flatten(state).items()}
        after = checkpoint.flatten(trained(method, state, iterations))
        changed = {key for key in after if not torch.equal(before[key], after[key])}
        assert changed == {key for key in after if layer in key}


def test_a_layer_trains_as_by_adam_whose_rate_falls_to_zero_in_its_phase() -> None:
    method = cae(seeds=[3])
    state = trained(method, method.init(), range(6))
    weight, hidden_bias, visible_bias = (
        state["model"][f"layer1.{name}"].clone().requires_grad_() for name in ("weight", "hidden_bias", "visible_bias")
    )
    adam = torch.optim.Adam([weight, hidden_bias, visible_bias], lr=1e-3)
    for place in range(6):
        x = method.encode(state, method.vectors(batch(6 + place, members=1)), layers=1)[1]
        h = (x @ weight + hidden_bias).sigmoid()
        r = (h @ weight.mT + visible_bias).sigmoid()
        norms = torch.einsum("mnh,mvh->mn", (h * (1 - h)).square(), weight.square())
        loss = functional.binary_cross_entropy(r, x, reduction="sum") / 10 + 0.1 * norms.mean()
        adam.zero_grad()
        loss.backward()
        adam.param_groups[0]["lr"] = 1e-3 * (1 - place / 6)
        adam.step()
        row = method.step(state, batch(6 + place, members=1), 6 + place)
        torch.testing.assert_close(row[:, 0], torch.stack([loss, (r - x).square().mean(), norms.mean()]).detach())
    for name, expected in zip(
        ("weight", "hidden_bias", "visible_bias"), (weight, hidden_bias, visible_bias), strict=True
    ):
        torch.testing.assert_close(state["model"][f"layer1.{name}"], expected.detach(), rtol=1e-6, atol=1e-8)


def test_the_first_reconstruction_of_no_code_is_the_mean_image() -> None:
    bias = cae(mean=0.3).init()["model"]["layer0.visible_bias"]
    torch.testing.assert_close(bias.sigmoid(), torch.full((2, 6), 0.3, dtype=torch.float64), rtol=1e-6, atol=0)


@pytest.mark.parametrize("name", ["phases", "contraction"])
def test_a_list_that_misses_a_layer_is_refused(name: str) -> None:
    with pytest.raises(InputError, match=f"one value of `{name}` for each of 2 hidden layers"):
        cae(**{name: [1.0]})


def test_a_phase_without_iterations_is_refused() -> None:
    with pytest.raises(InputError, match="leaves one of 2 phases without any"):
        cae(iterations=1)
