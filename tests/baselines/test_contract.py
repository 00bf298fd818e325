"""What every baseline keeps to, whatever it is."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from baselines import BASELINES, Baseline
from harness import plan, sampling
from harness.errors import InputError, Preempted
from harness.experiment import Experiment, validate
from harness.grid import load_grid
from harness.images import ImageSet
from harness.plan import Stack
from harness.runner import Options, run_grid
from harness.runs import RunFolder
from harness.training import checkpoint
from harness.training.feed import Feed
from harness.training.loop import Schedule, State, Trained, train

Made = Callable[..., Baseline]
ITERATIONS = 12

every_baseline = pytest.mark.parametrize("method", BASELINES)


@pytest.fixture
def run(digits_feed: Callable[..., Feed], tmp_path: Path) -> Callable[..., Trained]:
    """Trains a baseline in a folder, through the loop."""

    def started(baseline: Baseline, folder: str, *, stop_after: int | None = None) -> Trained:
        asked = 0

        def stop() -> bool:
            nonlocal asked
            asked += 1
            return asked == stop_after

        return train(
            baseline,
            lambda first: digits_feed(baseline, first),
            baseline.processes,
            Schedule(baseline.task.iterations, tmp_path / folder),
            stop=stop,
            snapshot=_ignore,
            begin=_ignore,
            report=_ignore,
        )

    return started


def _ignore(*_: object) -> None:
    pass


@every_baseline
def test_resume_gives_the_same_bits(method: str, baseline_of: Made, run: Callable[..., Trained]) -> None:
    def made() -> Baseline:
        return baseline_of(method, 3, 4, precision="float32")

    undisturbed = run(made(), "undisturbed")
    for stop_after in (5, 5):
        with pytest.raises(Preempted, match=r"stopped after iteration (5|10) of 12"):
            run(made(), "stopped", stop_after=stop_after)
    resumed = run(made(), "stopped")
    left, right = checkpoint.flatten(undisturbed.state), checkpoint.flatten(resumed.state)
    assert left.keys() == right.keys()
    assert [name for name in left if not left[name].equal(right[name])] == []
    assert undisturbed.history.equal(resumed.history)
    assert undisturbed.diverged_at == (None, None)


@every_baseline
def test_training_changes_the_model(method: str, baseline_of: Made, trained_state: Callable[..., State]) -> None:
    baseline = baseline_of(method)
    before, after = baseline.init()["model"], trained_state(baseline)["model"]
    assert before.keys() == after.keys()
    assert any(not before[name].equal(after[name]) for name in before)


@every_baseline
def test_history_is_finite_and_has_its_columns(
    method: str, baseline_of: Made, digits_feed: Callable[..., Feed]
) -> None:
    baseline = baseline_of(method, 0, 1)
    feed, state = digits_feed(baseline), baseline.init()
    rows = torch.stack([baseline.step(state, feed.batch(i), i) for i in range(ITERATIONS)])
    assert rows.shape == (ITERATIONS, len(baseline.columns), 2) and rows.dtype == torch.float64
    assert rows.isfinite().all() and not rows.requires_grad
    assert baseline.columns and len(set(baseline.columns)) == len(baseline.columns)
    assert set(baseline.parts) >= state.keys() and "model" in state


@every_baseline
def test_members_of_a_stack_train_as_if_alone(
    method: str, baseline_of: Made, trained_state: Callable[..., State]
) -> None:
    together = baseline_of(method, 5, 6)
    stack = trained_state(together)
    samples = together.sample(stack, 30)
    assert not samples[0].allclose(samples[1])
    for position, seed in enumerate((5, 6)):
        alone = baseline_of(method, seed)
        state = trained_state(alone)
        assert checkpoint.flatten(state).keys() == checkpoint.flatten(stack).keys()
        for name, tensor in checkpoint.flatten(state).items():
            own = checkpoint.flatten(stack)[name][position : position + 1]
            torch.testing.assert_close(own, tensor, rtol=1e-9, atol=1e-9, msg=name)
        torch.testing.assert_close(samples[position : position + 1], alone.sample(state, 30), rtol=1e-9, atol=1e-9)


@every_baseline
def test_a_sample_depends_on_its_place_alone(
    method: str, baseline_of: Made, trained_state: Callable[..., State]
) -> None:
    baseline = baseline_of(method, 0, 1)
    state = trained_state(baseline)
    before = {name: tensor.clone() for name, tensor in checkpoint.flatten(state).items()}
    whole = baseline.sample(state, 37)
    assert whole.shape == (2, 37, 1, 8, 8) and not whole.requires_grad
    assert float(whole.min()) >= 0 and float(whole.max()) <= 1
    parts = [baseline.sample(state, n, first=first) for first, n in ((30, 7), (0, 1), (1, 29))]
    torch.testing.assert_close(torch.cat([*parts[1:], parts[0]], 1), whole, rtol=0, atol=1e-9)
    far = baseline.sample(state, 5, first=998)
    torch.testing.assert_close(baseline.sample(state, 2, first=1000), far[:, 2:4], rtol=0, atol=1e-9)
    assert len(whole[0].flatten(1).unique(dim=0)) > 1
    assert all(tensor.equal(before[name]) for name, tensor in checkpoint.flatten(state).items())


class Silent:
    """Looks on and says nothing."""

    def begin(self, stacks: Sequence[Stack], *, note: str, process: int | None) -> None: ...

    def start(self, stack: Stack, iteration: int) -> None: ...

    def advance(self, stack: Stack, iteration: int) -> None: ...

    def finish(self, stack: Stack, outcome: str) -> None: ...

    def lose(self, stack: Stack, reason: str) -> None: ...

    def tell(self, line: str) -> None: ...


@pytest.fixture(scope="module")
def runs(baselines_grid: Callable[..., str], tmp_path_factory: pytest.TempPathFactory) -> dict[str, RunFolder]:
    """The run folders of a grid of all baselines, by method."""
    path = tmp_path_factory.mktemp("baselines")
    (path / "baselines.toml").write_text(baselines_grid(tables="[run]\nsnapshot_every = 5"))
    planned = plan.plan(load_grid(str(path / "baselines.toml")), [])
    folder = run_grid(planned, Options(path), stop=lambda: False, watcher=Silent())
    return {run.experiment()["method"]: run for run in folder.runs()}


@every_baseline
def test_a_snapshot_alone_gives_the_samples(method: str, runs: dict[str, RunFolder]) -> None:
    found = sampling.load(runs[method]).sample(100, purpose="fixed")[0]
    kept = runs[method].samples()
    assert kept is not None
    np.testing.assert_allclose(found, kept, rtol=0, atol=1e-5)


@every_baseline
def test_a_snapshot_before_the_end_gives_samples(method: str, runs: dict[str, RunFolder]) -> None:
    assert sampling.iterations(runs[method]) == [5, 10, 12]
    samples = sampling.load(runs[method], iteration=5).sample(20)
    assert samples.shape == (1, 20, 1, 8, 8) and samples.std(1).max() > 0
    assert samples.min() >= 0 and samples.max() <= 1


@every_baseline
def test_a_run_keeps_its_history(method: str, runs: dict[str, RunFolder], baseline_of: Made) -> None:
    history = runs[method].history()
    assert history is not None
    assert tuple(history.columns) == ("iteration", *baseline_of(method).columns)
    assert len(history) == ITERATIONS and np.isfinite(history.to_numpy()).all()


MEANS = {"autoencoder", "dbn", "deep-gsn", "stacked-cae", "vae"}
"""The methods whose samples are means of Bernoulli pixels."""


@every_baseline
def test_binary_images_are_drawn_of_means_alone(method: str, runs: dict[str, RunFolder]) -> None:
    sampler = sampling.load(runs[method])
    samples = sampler.sample(30)
    if method in MEANS:
        drawn = sampler.drawn(samples)
        assert set(np.unique(drawn)) == {0, 255} and drawn.shape == samples.shape
    else:
        with pytest.raises(InputError, match="no means of binary pixels"):
            sampler.drawn(samples)


FOR_GANS = {
    "loss": "wgan",
    "k": 2,
    "generator": {"hidden": [10]},
    "discriminator": {"hidden": [10]},
    "latent": {"size": 5},
    "updates": "simultaneous",
    "ema": 0.9,
    "model": "mlp",
}


@pytest.mark.parametrize("key", FOR_GANS)
@every_baseline
def test_settings_of_gans_are_refused(method: str, key: str, digits: ImageSet) -> None:
    told = {"dataset": "digits", "method": method, "model": method, "iterations": ITERATIONS} | {key: FOR_GANS[key]}
    with pytest.raises(InputError, match=rf"^{key}( = 'mlp':| is a setting of) .*method.*; leave it out\.$"):
        plan.resolved(validate(Experiment, told, where="test"), digits)


@every_baseline
def test_unknown_settings_are_refused(method: str, baseline_of: Made) -> None:
    with pytest.raises(
        InputError, match=rf"unknown key 'colour' in baseline settings of method '{method}'\..* Valid: "
    ):
        baseline_of(method, baseline={"colour": 3})


@every_baseline
def test_an_optimizer_is_refused_where_there_is_none_and_has_defaults_elsewhere(method: str, baseline_of: Made) -> None:
    if BASELINES[method].of.optimizer is None:
        with pytest.raises(InputError, match=rf"method '{method}' has no optimizer to choose; leave it out"):
            baseline_of(method, optimizer={"lr": 0.5})
    else:
        usual, other = baseline_of(method).task.optimizer, baseline_of(method, optimizer={"lr": 0.5}).task.optimizer
        assert usual and other and usual.lr != 0.5 and other == usual.model_copy(update={"lr": 0.5})
