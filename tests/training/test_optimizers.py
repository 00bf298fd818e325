from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.draws import Draws
from harness.errors import InputError
from harness.experiment import OptimizerSettings, validate
from harness.training import checkpoint
from harness.training.clock import Count, Now
from harness.training.optimizers import OTHERS, STACKABLE, Group, StackedOptimizer, resolved

SHAPES = {"w": (4, 3), "b": (3,)}
TOLERANCES = {torch.float64: 1e-12, torch.float32: 1e-6}
# Members of a stack: neighbours with equal settings, and others.
STACKS: dict[str, list[dict[str, Any]]] = {
    "SGD": [{"lr": 0.1}, {"lr": 0.1}, {"lr": 0.05, "weight_decay": 0.1}],
    "SGD with momentum": [
        {"lr": 0.1, "momentum": 0.5},
        {"lr": 0.1, "momentum": 0.9, "nesterov": True},
        {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.1},
    ],
    "Adam": [
        {"lr": 1e-2},
        {"lr": 1e-3, "betas": [0.5, 0.9]},
        {"lr": 1e-2, "betas": [0.0, 0.99], "eps": 1e-3, "weight_decay": 0.1},
    ],
    "RMSprop": [{"lr": 1e-2}, {"lr": 1e-2, "alpha": 0.9}, {"lr": 1e-3, "eps": 1e-2, "weight_decay": 0.1}],
    "RMSprop, centred": [{"lr": 1e-2, "centered": True}, {"lr": 1e-2}, {"lr": 1e-2, "centered": True, "momentum": 0.9}],
}
Change = Callable[[int], dict[str, float]]


def settings_of(name: str, **settings: Any) -> OptimizerSettings:
    return resolved(validate(OptimizerSettings, {"name": name} | settings, where="test"), where="test")


def parameters(members: int, dtype: torch.dtype) -> dict[str, Tensor]:
    draws = Draws(range(members), dtype=dtype)
    return {name: draws.normal(name, 0, 1, torch.Size(s).numel()).reshape(members, *s) for name, s in SHAPES.items()}


def gradients(values: Sequence[Tensor], step: int, seeds: Sequence[int]) -> list[Tensor]:
    """Slopes of a quadratic bowl, with noise."""
    draws = Draws(seeds, dtype=values[0].dtype)
    noise = [draws.normal(f"noise{i}", step, 1, v[0].numel()).view_as(v) for i, v in enumerate(values)]
    return [v.detach() + n for v, n in zip(values, noise, strict=True)]


def stacked(members: Sequence[OptimizerSettings], dtype: torch.dtype, *, steps: int = 20) -> dict[str, Tensor]:
    values = parameters(len(members), dtype)
    optimizer = StackedOptimizer.of(members)
    state = optimizer.init(values)
    for step in range(steps):
        slopes = gradients(list(values.values()), step, range(len(members)))
        optimizer.step(values, slopes, state, Now(Count(step, step)))
    return values


def alone(
    member: int, settings: OptimizerSettings, dtype: torch.dtype, *, change: Change | None = None
) -> list[Tensor]:
    """The member trained by torch.optim; `change` gives settings of its own to each step."""
    values = [value[member : member + 1].clone() for value in parameters(member + 1, dtype).values()]
    optimizer = getattr(torch.optim, settings.name or "")(values, lr=settings.lr, **settings.arguments)
    for step in range(20):
        optimizer.param_groups[0].update(change(step) if change else {})
        for value, slope in zip(values, gradients(values, step, [member]), strict=True):
            value.grad = slope
        optimizer.step()
    return values


def assert_members_equal_torch(
    members: Sequence[OptimizerSettings], dtype: torch.dtype, *, change: Change | None = None
) -> None:
    found = stacked(members, dtype)
    for member, settings in enumerate(members):
        for value, expected in zip(found.values(), alone(member, settings, dtype, change=change), strict=True):
            torch.testing.assert_close(
                value[member : member + 1], expected, rtol=TOLERANCES[dtype], atol=TOLERANCES[dtype]
            )


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", STACKS)
def test_each_member_of_a_mixed_stack_trains_as_torch_trains_it_alone(name: str, dtype: torch.dtype) -> None:
    kind = name.partition(" ")[0].rstrip(",")
    assert_members_equal_torch([settings_of(kind, **member) for member in STACKS[name]], dtype)


@pytest.mark.parametrize("dtype", TOLERANCES)
@pytest.mark.parametrize("name", OTHERS)
def test_members_that_share_another_optimizer_train_as_torch_trains_them_alone(name: str, dtype: torch.dtype) -> None:
    assert_members_equal_torch([settings_of(name, lr=0.01)] * 2, dtype)


def test_per_member_settings_are_tested_for_all_that_take_them() -> None:
    assert {name.partition(" ")[0].rstrip(",") for name in STACKS} == set(STACKABLE)


def test_the_learning_rate_decays_after_every_update_down_to_its_floor() -> None:
    settings = settings_of("SGD", lr=0.1, lr_decay=1.5, min_lr=0.01)
    rates = [Group(slice(None), settings).lr(Count(update)) for update in range(8)]
    assert rates == pytest.approx([0.1 / 1.5**update for update in range(6)] + [0.01, 0.01])
    change = {update: {"lr": rate} for update, rate in enumerate([*rates, *[0.01] * 12])}
    assert_members_equal_torch([settings], torch.float64, change=change.__getitem__)


def test_the_learning_rate_falls_linearly_to_zero_and_stays_there() -> None:
    settings = settings_of("Adam", lr=0.1, lr_zero_at=4)
    rates = [Group(slice(None), settings).lr(Count(update)) for update in range(6)]
    assert rates == pytest.approx([0.1, 0.075, 0.05, 0.025, 0.0, 0.0])
    change = {update: {"lr": rate} for update, rate in enumerate([*rates, *[0.0] * 14])}
    assert_members_equal_torch([settings], torch.float64, change=change.__getitem__)


@pytest.mark.parametrize(("floor", "expected"), [({"min_lr": 1e-6}, 1e-6), ({}, 0.0)])
def test_a_long_decay_ends_at_the_floor_and_does_not_overflow(floor: dict[str, float], expected: float) -> None:
    assert Group(slice(None), settings_of("SGD", lr=0.1, lr_decay=1.01, **floor)).lr(Count(10**6)) == expected


def test_the_papers_learning_rate_after_one_epoch() -> None:
    group = Group(slice(None), settings_of("SGD", lr=0.1, lr_decay=1.000004, min_lr=1e-6))
    assert group.lr(Count(500)) == pytest.approx(0.1 * math.exp(-500 * math.log1p(4e-6)), rel=1e-12)


def test_momentum_rises_linearly_between_two_epochs() -> None:
    ramp = {"final": 0.7, "start_epoch": 1, "end_epoch": 250}
    group = Group(slice(None), settings_of("SGD", lr=0.1, momentum=0.5, momentum_ramp=ramp))
    momenta = [group.momentum(Count(0, epoch)) for epoch in (0, 1, 2, 250, 1000)]
    assert momenta == pytest.approx([0.5, 0.5, 0.5 + 0.2 / 249, 0.7, 0.7], abs=1e-15)


def test_a_ramp_trains_as_torch_with_its_momentum_changed_by_hand() -> None:
    ramp = {"final": 0.9, "start_epoch": 2, "end_epoch": 12}
    settings = settings_of("SGD", lr=0.05, momentum=0.5, momentum_ramp=ramp)
    assert_members_equal_torch(
        [settings, settings],
        torch.float64,
        change=lambda epoch: {"momentum": 0.5 + 0.4 * min(max(epoch - 2, 0) / 10, 1)},
    )


@pytest.mark.parametrize("name", [*STACKABLE, *OTHERS])
def test_state_survives_a_checkpoint(name: str, tmp_path: Path) -> None:
    members = [settings_of(name, lr=0.01)] * 2
    expected = stacked(members, torch.float32)
    values, optimizer = parameters(2, torch.float32), StackedOptimizer.of(members)
    state = optimizer.init(values)
    for step in range(20):
        if step == 7:
            checkpoint.write(tmp_path, checkpoint.Checkpoint(step, {"state": state}, torch.empty(0)))
            found = checkpoint.latest(tmp_path)
            assert found is not None
            state = found.state.get("state", {})
        optimizer.step(values, gradients(list(values.values()), step, range(2)), state, Now(Count(step)))
    assert all(values[name].equal(expected[name]) for name in SHAPES)


def test_settings_are_resolved_to_adam_and_to_torchs_defaults() -> None:
    found = resolved(OptimizerSettings(lr=0.1), where="test")
    assert found.name == "Adam"
    assert found.arguments == {"betas": [0.9, 0.999], "eps": 1e-8, "weight_decay": 0.0}
    assert resolved(found, where="test") == found


@pytest.mark.parametrize("name", [*STACKABLE, *OTHERS])
def test_written_out_defaults_are_those_of_torch(name: str) -> None:
    defaults = getattr(torch.optim, name)([torch.zeros(1)], lr=0.1).defaults
    written = settings_of(name, lr=0.1).arguments
    assert {key: value for key, value in written.items() if value != plain(defaults[key])} == {}
    assert len(written) > 1


def plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"name": "SDG", "lr": 0.1}, "unknown optimizer 'SDG' in here. Did you mean 'SGD'"),
        ({"name": "adam", "lr": 0.1}, "Did you mean 'Adam'"),
        ({"name": "LBFGS", "lr": 0.1}, "unknown optimizer 'LBFGS'"),
        ({"name": "SGD"}, "here: the key 'lr' is missing"),
        (
            {"name": "SGD", "lr": 0.1, "momentun": 0.5},
            "unknown SGD setting 'momentun' in here. Did you mean 'momentum'",
        ),
        (
            {"name": "AdamW", "lr": 0.1, "beta": [0.5, 0.9]},
            "unknown AdamW setting 'beta' in here. Did you mean 'betas'",
        ),
        ({"name": "Adam", "lr": 0.1, "fused": True}, "unknown Adam setting 'fused'"),
        ({"name": "AdamW", "lr": 0.1, "foreach": True}, "unknown AdamW setting 'foreach'"),
        ({"name": "SGD", "lr": 0.1, "momentum": "much"}, "here"),
        ({"name": "SGD", "lr": 0.1, "momentum": -0.5}, "here"),
        ({"name": "SGD", "lr": 0.1, "momentum": float("nan")}, "here"),
        ({"name": "SGD", "lr": 0.1, "momentum": 0.5, "nesterov": "no"}, "here"),
        ({"name": "SGD", "lr": 0.1, "nesterov": True}, "here"),
        ({"name": "Adam", "lr": 0.1, "betas": [0.5]}, "here"),
        ({"name": "Adam", "lr": 0.1, "betas": [0.5, 0.9, 0.9]}, "here"),
        ({"name": "Adam", "lr": 0.1, "betas": {"first": 0.5}}, "here"),
        ({"name": "Adam", "lr": 0.1, "betas": [1.5, 0.9]}, "here"),
        ({"name": "Adam", "lr": 0.1, "momentum_ramp": {"final": 0.7, "end_epoch": 5}}, "momentum_ramp needs"),
    ],
)
def test_bad_settings_are_refused_with_the_way_out(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        resolved(validate(OptimizerSettings, settings, where="here"), where="here")
    assert message in str(error.value)
