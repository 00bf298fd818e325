from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.errors import Preempted
from harness.training import checkpoint
from harness.training.feed import Feed
from harness.training.gan import Gan
from harness.training.loop import History, Schedule, State, Trained, train

Run = Callable[..., Trained]
ADAM = {"name": "Adam", "lr": 1e-3, "betas": [0.5, 0.999]}
HARD = {
    "generator": {"hidden": [12, 10], "batch_norm": True},
    "discriminator": {"hidden": [9, 8], "dropout": [0.2, 0.5, 0.5]},
}
METHODS: dict[str, dict[str, Any]] = {
    "alternating, k = 2, momentum": {"k": 2},
    "simultaneous, momentum ramp": {
        "updates": "simultaneous",
        "optimizer": {"name": "SGD", "lr": 0.1, "momentum": 0.5, "momentum_ramp": {"final": 0.9, "end_epoch": 2}},
    },
    "dropout and batch norm, Adam": HARD | {"optimizer": ADAM},
    "averaged generator": HARD | {"ema": 0.9},
    "centred RMSprop": {"optimizer": {"name": "RMSprop", "lr": 1e-3, "momentum": 0.5, "centered": True}},
    "gradient penalty, spectral norm, clipped": {
        "loss": "wgan",
        "penalty": {"name": "gradient_penalty"},
        "weight_clip": 0.2,
        "discriminator": HARD["discriminator"] | {"spectral_norm": True},
    },
    "relativistic, DRAGAN, noise": {
        "loss": "relativistic",
        "penalty": {"name": "dragan", "weight": 0.1},
        "instance_noise": {"std": 0.1, "until": 50},
    },
    "BEGAN": {"loss": "began", "balance": {"rate": 0.1}},
    "projection on classes, critic's schedule": {
        "conditional": True,
        "critic_schedule": {"k": 3, "until": 10, "every": 9},
        "discriminator": HARD["discriminator"] | {"spectral_norm": True},
    },
    "classes as planes, normalised images": {
        "conditional": True,
        "condition": {"discriminator": "concatenation"},
        "preprocessing": {"name": "gcn", "norm": 8.0},
        "generator": {"hidden": [12, 10], "output": "linear"},
    },
    "AdamW": {"optimizer": {"name": "AdamW", "lr": 1e-3, "weight_decay": 0.1}},
    "NAdam": {"optimizer": {"name": "NAdam", "lr": 1e-3}},
}


@pytest.fixture
def run(feed_of: Callable[..., Feed], tmp_path: Path) -> Run:
    """Trains a stack in a folder, through the loop."""

    def started(
        gan: Gan, folder: str = "run", *, stop_at: int | None = None, images_on: str = "auto", **heard: Any
    ) -> Trained:
        iterations = 60
        taken = 0

        def stop() -> bool:
            nonlocal taken
            taken += 1
            return taken == stop_at

        def feed_from(first: int) -> Feed:
            return feed_of(gan, iterations, first=first, placement=images_on)

        schedule = {"checkpoint_every": None, "snapshot_every": None}
        settings = {key: heard.pop(key, default) for key, default in schedule.items()}
        watched: dict[str, Any] = {"snapshot": _ignore, "begin": _ignore, "report": _ignore} | heard
        return train(
            gan,
            feed_from,
            gan.game.processes,
            Schedule(iterations, tmp_path / folder, **settings),
            stop=stop,
            **watched,
        )

    return started


def _ignore(*_: object) -> None:
    pass


def assert_same_bits(a: State, b: State) -> None:
    left, right = checkpoint.flatten(a), checkpoint.flatten(b)
    assert left.keys() == right.keys()
    assert [name for name in left if not left[name].equal(right[name])] == []


@pytest.mark.parametrize("settings", METHODS.values(), ids=METHODS)
def test_resume_gives_the_same_parameters_and_history(
    settings: dict[str, Any], gan_of: Callable[..., Gan], run: Run
) -> None:
    members = [settings | {"seed": seed} for seed in (3, 4)]
    undisturbed = run(gan_of(*members, precision="float32"), "undisturbed")
    for stop_at in (7, 20):
        with pytest.raises(Preempted, match=r"stopped after iteration \d+ of 60"):
            run(gan_of(*members, precision="float32"), "stopped", stop_at=stop_at)
    resumed = run(gan_of(*members, precision="float32"), "stopped")
    assert_same_bits(undisturbed.state, resumed.state)
    assert undisturbed.diverged_at == (None, None)
    columns = len(gan_of(*members).columns)
    assert undisturbed.history.equal(resumed.history) and undisturbed.history.shape == (60, columns, 2)


def test_resume_after_a_kill_goes_on_from_the_last_checkpoint(gan_of: Callable[..., Gan], run: Run) -> None:
    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    undisturbed = run(gan_of({}), "undisturbed")
    with pytest.raises(KeyboardInterrupt):
        run(gan_of({}), "killed", images_on="stream", checkpoint_every=35, report=killed)
    begun: list[int] = []
    with pytest.raises(KeyboardInterrupt):
        run(gan_of({}), "killed", checkpoint_every=35, snapshot_every=45, snapshot=killed, begin=begun.append)
    resumed = run(gan_of({}), "killed", images_on="stream", begin=begun.append)
    assert begun == [35, 35]
    assert_same_bits(undisturbed.state, resumed.state)


def test_a_finished_stack_is_not_trained_again(gan_of: Callable[..., Gan], run: Run) -> None:
    first = run(gan_of({}))
    reported: list[int] = []
    second = run(gan_of({}), report=lambda iteration, rows: reported.append(iteration))
    assert reported == []
    assert_same_bits(first.state, second.state)
    assert second.history.equal(first.history)


@pytest.mark.parametrize("snapshot_every", [None, 7, 25, 50])
def test_every_report_brings_the_newest_row(snapshot_every: int | None, gan_of: Callable[..., Gan], run: Run) -> None:
    heard: dict[int, Tensor] = {}
    trained = run(gan_of({}, {"seed": 1}), snapshot_every=snapshot_every, report=heard.__setitem__)
    assert {50, 60} <= set(heard)
    assert all(rows[-1].equal(trained.history[iteration - 1]) for iteration, rows in heard.items())


def test_snapshots_come_at_their_iterations_and_show_the_state_of_that_moment(
    gan_of: Callable[..., Gan], run: Run, train_for: Callable[..., State]
) -> None:
    kept: dict[int, State] = {}

    def keep(iteration: int, state: State, alive: Sequence[bool]) -> None:
        assert list(alive) == [True]
        kept[iteration] = {"generator": {k: t.detach().clone() for k, t in state["generator"].items()}}

    run(gan_of({}), snapshot_every=20, snapshot=keep)
    assert list(kept) == [20, 40]
    assert_same_bits(kept[20], {"generator": train_for(gan_of({}), 20)["generator"]})


def test_a_stack_counts_its_floating_point_operations(gan_of: Callable[..., Gan], run: Run) -> None:
    gan = gan_of({}, {"seed": 1})
    # Products of two networks, forward; the same twice over, backward, but for gradients that nobody asked for.
    generator, discriminator = 5 * 12 + 12 * 10 + 10 * 64, 64 * 9 + 9 * 8 + 8
    forward = 2 * gan.game.batch_size * 2 * (2 * generator + 3 * discriminator)
    assert forward < run(gan).flops_per_step < 3 * forward


def diverging(*seeds: int) -> list[dict[str, Any]]:
    """Members whose weights overflow in the first iteration, beside sound ones for negative seeds."""
    wild = {"optimizer": {"name": "SGD", "lr": 1e200}}
    return [{"seed": abs(seed), **({} if seed < 0 else wild)} for seed in seeds]


def test_a_diverged_member_is_found_and_the_others_go_on_as_if_alone(gan_of: Callable[..., Gan], run: Run) -> None:
    trained = run(gan_of(*diverging(-1, 2, -3)), "together")
    assert trained.diverged_at[0] is None and trained.diverged_at[2] is None
    assert trained.diverged_at[1] == 1
    alone = run(gan_of({"seed": 3}), "alone")
    for name, tensor in alone.state["generator"].items():
        torch.testing.assert_close(trained.state["generator"][name][2:], tensor, rtol=1e-9, atol=1e-9)


def test_a_stack_stops_early_once_all_members_have_diverged(gan_of: Callable[..., Gan], run: Run) -> None:
    trained = run(gan_of(*diverging(1, 2)))
    assert None not in trained.diverged_at and len(trained.history) < 60


def test_when_all_diverge_the_outcome_is_the_same_after_an_interruption(gan_of: Callable[..., Gan], run: Run) -> None:
    undisturbed = run(gan_of(*diverging(1)), "undisturbed")
    with pytest.raises(Preempted):
        run(gan_of(*diverging(1)), "stopped", stop_at=20)
    resumed = run(gan_of(*diverging(1)), "stopped")
    assert resumed.diverged_at == undisturbed.diverged_at
    assert len(resumed.history) == len(undisturbed.history)


def test_a_living_member_is_known_as_such_to_a_snapshot(gan_of: Callable[..., Gan], run: Run) -> None:
    heard: list[list[bool]] = []
    run(
        gan_of(*diverging(-1, 2)),
        snapshot_every=25,
        snapshot=lambda iteration, state, alive: heard.append(list(alive)),
    )
    assert heard == [[True, False], [True, False]]


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_history_finds_the_first_row_that_is_not_finite(bad: float) -> None:
    rows = torch.zeros(9, 2, 3)
    rows[4, 1, 2] = rows[6, 0, 2] = rows[8, 0, 0] = bad
    history = History(torch.empty(0))
    for number, row in enumerate(rows):
        history.add(row)
        if number % 4 == 3:
            history.fold()
    assert history.rows().allclose(rows, equal_nan=True)
    assert history.diverged_at == [9, None, 5] and not history.all_diverged
    assert History(rows).diverged_at == [9, None, 5]


def test_a_member_whose_sampler_is_not_finite_diverged_at_the_last_iteration() -> None:
    history = History(torch.zeros(7, 2, 2))
    sampler = {"generator": {"w": torch.tensor([[1.0], [math.inf]])}, "ema": {"w": torch.tensor([[1.0], [1.0]])}}
    assert history.diverged_with(sampler) == (None, 7)
