from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, cast

import pytest
import torch
from torch import Tensor

from baselines import Baseline
from baselines.dbn import Dbn
from baselines.rbm import Rbm
from harness.errors import InputError
from harness.training.feed import Feed
from harness.training.loop import State

Made = Callable[..., Baseline]
PHASES = {"phases": [1, 2]}


def test_a_phase_trains_its_layer_alone(baseline_of: Made, digits_feed: Callable[..., Feed]) -> None:
    dbn = baseline_of("dbn", 0, 1, baseline=PHASES)
    feed, state = digits_feed(dbn), dbn.init()
    trained = []
    for iteration in range(dbn.task.iterations):
        before = {name: tensor.clone() for name, tensor in state["model"].items()}
        dbn.step(state, feed.batch(iteration), iteration)
        trained.append({name.partition(".")[0] for name in before if not before[name].equal(state["model"][name])})
    assert trained == [{"rbm0"}] * 4 + [{"rbm1"}] * 8


def test_a_step_keeps_a_part_of_the_last_one_and_rates_fall_linearly(
    baseline_of: Made, digits_feed: Callable[..., Feed]
) -> None:
    dbn = cast(
        Dbn, baseline_of("dbn", baseline=PHASES | {"momentum": [0.5, 0.0], "lr": [0.2, 0.1], "weight_decay": 0.01})
    )
    feed, state = digits_feed(dbn), dbn.init()
    names = [f"rbm0.{name}" for name in ("weight", "visible_bias", "hidden_bias")]
    expected = [state["model"][name].clone() for name in names]
    moved: list[Tensor | float] = [0.0, 0.0, 0.0]
    for iteration in range(4):
        v = dbn.vectors(feed.batch(iteration))
        rbm = Rbm(*expected)
        up = rbm.statistics(v, rbm.hidden(v))
        down = dbn._negative(state, rbm, v, rbm.hidden(v), 0, iteration)
        slopes = [one / 20 - other for one, other in zip(up, down, strict=True)]
        slopes[0] = slopes[0] - 0.01 * rbm.weight
        moved = [0.5 * last + 0.2 * (1 - iteration / 4) * slope for last, slope in zip(moved, slopes, strict=True)]
        expected = [old + step for old, step in zip(expected, moved, strict=True)]
        dbn.step(state, feed.batch(iteration), iteration)
    for name, value in zip(names, expected, strict=True):
        torch.testing.assert_close(state["model"][name], value)


def test_the_log_partition_function_is_estimated_when_training_ends(
    baseline_of: Made, digits_feed: Callable[..., Feed]
) -> None:
    dbn = baseline_of("dbn")
    feed, state = digits_feed(dbn), dbn.init()
    rows = torch.stack([dbn.step(state, feed.batch(i), i) for i in range(dbn.task.iterations)])
    estimates = rows[:, dbn.columns.index("log_partition"), 0]
    assert estimates[:-1].tolist() == pytest.approx([18 * math.log(2)] * 11)  # of 10 + 8 units without weights
    assert estimates[-1] != estimates[0]


def test_a_sample_depends_on_its_place_alone(baseline_of: Made, trained_state: Callable[..., State]) -> None:
    dbn = baseline_of("dbn", baseline={"chains": 30})
    state = trained_state(dbn)
    whole = dbn.sample(state, 1050)
    parts = [dbn.sample(state, n, first=first) for first, n in ((0, 990), (990, 25), (1015, 35))]
    torch.testing.assert_close(torch.cat(parts, 1), whole, rtol=0, atol=1e-12)
    assert not whole[:, :50].allclose(whole[:, 1000:])  # later chains are others
    assert not dbn.sample(state, 50, purpose="other").allclose(whole[:, :50])


def test_reconstruction_error_falls_in_each_phase(baseline_of: Made, digits_feed: Callable[..., Feed]) -> None:
    dbn = baseline_of(
        "dbn", iterations=400, baseline={"hidden": [60, 40], "phases": [1, 1], "momentum": [0.9, 0.0], "particles": 50}
    )
    feed, state = digits_feed(dbn), dbn.init()
    errors = torch.stack([dbn.step(state, feed.batch(i), i)[0, 0] for i in range(400)])
    for learning in errors.chunk(2):
        assert learning[-20:].mean() < 0.8 * learning[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"lr": [0.1, 0.1, 0.1]}, "one value of `lr` for each of 2 hidden layers"),
        ({"phases": [1, 1000]}, "iterations = 12 leaves one of 2 phases without any"),
        ({"hidden": []}, "hidden = .* is empty"),
    ],
)
def test_layers_that_do_not_fit_are_refused(settings: dict[str, Any], message: str, baseline_of: Made) -> None:
    with pytest.raises(InputError, match=message):
        baseline_of("dbn", baseline=settings)
