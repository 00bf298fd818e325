"""Samples of one run, and of several from one sampler."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, cast

import numpy as np
import pytest
import torch

from harness import models, sampling
from harness.draws import Draws
from harness.errors import InputError
from harness.images import ImageSet
from harness.metrics.points import Processes as Shares
from harness.runs import RunFolder
from harness.sampling import Finished, Sampler
from harness.training.loop import Method, State

Run = Callable[..., RunFolder]
CPU = torch.device("cpu")

KINDS: dict[str, dict[str, Any]] = {
    "mlp": {"generator": {"hidden": [12, 10], "batch_norm": True}},
    "dcgan": {"generator": {"channels": 4, "weight_std": 0.2}, "discriminator": {"channels": 4}},
    "maxout-mlp": {"generator": {"hidden": [12]}, "discriminator": {"hidden": [6], "dropout": [0.2, 0.5]}},
    "paper-conv": {
        "generator": {"hidden": [12], "channels": 5, "weight_range": 0.5},
        "discriminator": {"channels": [3], "kernels": 3, "padding": 1, "pools": 2, "dropout": []},
    },
    "infogan": {"generator": {"channels": 3, "hidden": 12, "weight_std": 0.3}, "discriminator": {"channels": 3}},
    "residual": {"generator": {"channels": 6}, "discriminator": {"channels": 4}},
}
MEMBERS: tuple[dict[str, Any], ...] = (
    {"seed": 3},
    {"seed": 4, "loss": "minimax"},
    {"seed": 5, "optimizer": {"name": "SGD", "lr": 0.01}},
)


def together(*runs: RunFolder) -> Sampler:
    """One sampler of all the runs."""
    finished = [sampling.find(run) for run in runs]
    return sampling.together(finished, [run.tensors() for run in finished])


def find_all(*runs: RunFolder) -> list[Finished]:
    return [sampling.find(run) for run in runs]


@pytest.mark.parametrize("settings", [{"model": name, **own} for name, own in KINDS.items()] + [{"ema": 0.9}])
def test_members_sampled_together_equal_each_alone(
    settings: dict[str, Any], untrained_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_BLOCK", 40)
    runs = [untrained_run(**settings, **member) for member in MEMBERS]
    samples = together(*runs).sample(100)
    alone = [sampling.load(run).sample(100) for run in runs]
    assert samples.shape == (3, 100, 1, 8, 8) and samples.dtype == np.float32
    assert np.abs(samples - np.concatenate(alone)).max() <= 1e-6
    assert np.abs(samples[0] - samples[1]).max() > 1e-3


def test_members_draw_together_what_each_draws_alone(untrained_run: Run) -> None:
    runs = [untrained_run(**member) for member in MEMBERS]
    drawn = together(*runs).method.draws.whole(offset=7).normal("sample/latent", 0, 50, 5)
    alone = [sampling.load(run).method.draws.whole(offset=7).normal("sample/latent", 0, 50, 5) for run in runs]
    assert torch.equal(drawn, torch.cat(alone))


@pytest.mark.parametrize("model", KINDS)
def test_a_replaced_member_changes_no_bit_of_the_rest(model: str, untrained_run: Run) -> None:
    first, second, third, other = (untrained_run(model=model, **KINDS[model], seed=seed) for seed in range(4))
    before, after = together(first, second, third).sample(50), together(first, other, third).sample(50)
    assert np.array_equal(before[[0, 2]], after[[0, 2]])
    assert not np.array_equal(before[1], after[1])


def test_fewer_samples_are_the_first_of_more(untrained_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_BLOCK", 8)
    sampler = together(untrained_run(seed=0), untrained_run(seed=1))
    assert np.array_equal(sampler.sample(3), sampler.sample(20)[:, :3])


def test_only_runs_of_one_shape_are_sampled_together(untrained_run: Run) -> None:
    own = {"hidden": [12, 9]}
    runs = [untrained_run(seed=0), untrained_run(seed=0, generator=own), untrained_run(seed=1, loss="minimax")]
    exact = untrained_run(seed=0, precision="float64")
    groups = sampling.groups(find_all(*runs, exact), 100, CPU)
    assert [[run.folder for run in group] for group in groups] == [[runs[0], runs[2]], [runs[1]], [exact]]


def test_members_that_cannot_share_a_stack_are_sampled_one_by_one(
    untrained_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = replace(models.FAMILIES["mlp"], stackable=lambda experiment, shape: False)
    monkeypatch.setitem(models.FAMILIES, "mlp", alone)
    finished = find_all(untrained_run(seed=0), untrained_run(seed=1))
    assert sampling.groups(finished, 100, CPU) == [[finished[0]], [finished[1]]]


def test_the_images_held_at_once_decide_how_many_members_go_together(
    untrained_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    finished = find_all(*(untrained_run(seed=seed) for seed in range(3)))
    monkeypatch.setattr(sampling, "_CPU_IMAGE_BYTES", 2 * 4 * 64 * 20_000)
    assert [len(group) for group in sampling.groups(finished, 20_000, CPU)] == [1, 2]
    assert [len(group) for group in sampling.groups(finished, 100, CPU)] == [3]
    assert sampling.members_together((3, 512, 512), 50_000, CPU) == 1
    assert sampling.members_together((1, 28, 28), 10_000, torch.device("cuda")) == 34


def test_a_damaged_snapshot_is_refused_by_name(untrained_run: Run) -> None:
    run = untrained_run()
    path = next(run.snapshots.iterdir())
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(InputError, match=f"{path.name} is damaged.*train it again"):
        sampling.load(run)


def test_a_run_without_the_snapshot_asked_for_names_those_it_has(untrained_run: Run) -> None:
    with pytest.raises(InputError, match="has no snapshot of iteration 7; it has: 60"):
        sampling.load(untrained_run(), iteration=7)


@dataclass(frozen=True)
class Chain:
    """A method whose samples are states of a chain, not images of latents."""

    def sample(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> torch.Tensor:
        return torch.full((1, n, 1, 8, 8), 0.5)


@pytest.mark.parametrize(
    "settings",
    [
        *({"model": name, **own} for name, own in KINDS.items()),
        {"ema": 0.9, "latent": {"size": 5, "distribution": "uniform"}},
        {"precision": "bf16"},
        {"precision": "float64"},
    ],
)
def test_images_at_the_latents_of_samples_are_those_samples_bit_for_bit(
    settings: dict[str, Any], untrained_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_BLOCK", 40)
    sampler = together(untrained_run(seed=0, **settings), untrained_run(seed=1, **settings))
    z = sampler.latents(90)
    assert z.shape == (2, 90, 5) and len(z.unique()) > 800
    assert np.array_equal(sampler.images_at(z), sampler.sample(90))


def test_sampling_tells_how_far_it_is(untrained_run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "_BLOCK", 8)
    heard: list[int] = []
    together(untrained_run()).sample(20, report=heard.append)
    assert heard == [8, 16, 20]


def test_a_method_without_latents_draws_random_samples_alone(untrained_run: Run) -> None:
    chain = replace(together(untrained_run()), method=cast(Method, Chain()))
    assert (chain.sample(3) == 0.5).all()
    for asked in (lambda: chain.latents(3), lambda: chain.images_at(torch.zeros(1, 3, 5))):
        with pytest.raises(InputError, match="method 'gan' has no latents to choose; draw random"):
            asked()


def test_each_of_several_runs_has_a_sampler_of_its_own(untrained_run: Run) -> None:
    runs = [untrained_run(seed=seed, ema=0.5) for seed in range(3)]
    for run, own in zip(runs, together(*runs).alone, strict=True):
        assert [member.folder for member in own.members] == [run]
        assert np.array_equal(own.sample(20), sampling.load(run).sample(20))


def test_binary_draws_have_the_samples_as_their_means(untrained_baseline: Run) -> None:
    sampler = together(untrained_baseline("vae", seed=0), untrained_baseline("vae", seed=1))
    means = sampler.sample(3000)
    drawn = sampler.drawn(means)
    assert drawn.shape == means.shape and drawn.dtype == np.uint8
    assert set(np.unique(drawn)) == {0, 255}
    # Each pixel's error is a sum of 3,000 independent draws: six standard errors.
    assert np.abs((drawn / 255 - means).mean(1)).max() < 6 * (0.25 / 3000) ** 0.5


def test_a_pixel_that_is_certain_is_drawn_so(untrained_baseline: Run) -> None:
    certain = np.tile(np.array([0, 1], np.float32), 32 * 500).reshape(1, 500, 1, 8, 8)
    assert np.array_equal(sampling.load(untrained_baseline("dbn")).drawn(certain), 255 * certain)


def test_a_draw_depends_on_seed_and_place_alone(untrained_baseline: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    runs = [untrained_baseline("autoencoder", seed=seed) for seed in range(2)]
    sampler, grey = together(*runs), np.full((2, 90, 1, 8, 8), 0.5, np.float32)
    whole = sampler.drawn(grey)
    assert not np.array_equal(whole[0], whole[1]) and len(np.unique(whole[0], axis=0)) == 90
    monkeypatch.setattr(sampling, "_BLOCK", 7)
    assert np.array_equal(sampler.drawn(grey), whole) and np.array_equal(sampler.drawn(grey[:, :30]), whole[:, :30])
    for member, run in enumerate(runs):
        alone = sampling.load(run)
        monkeypatch.setattr(alone.method, "draws", Draws([member], rank=1, processes=2))
        assert np.array_equal(alone.drawn(grey[:1]), whole[member : member + 1])
    assert not np.array_equal(sampler.drawn(grey, purpose="other"), whole)


def test_a_generator_has_one_image_a_latent_and_no_draws(untrained_run: Run) -> None:
    sampler = together(untrained_run())
    with pytest.raises(InputError, match="no means of binary pixels"):
        sampler.drawn(sampler.sample(5))


def test_bounds_are_those_of_the_method(
    untrained_baseline: Run, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = together(untrained_baseline("vae", seed=0), untrained_baseline("vae", seed=1))
    pixels = np.rint(255 * np.asarray(digits.test.images[np.arange(50)])).astype(np.uint8)
    images = torch.from_numpy(pixels.astype(np.float32) / 255).expand(2, 50, 1, 8, 8)
    bounds = sampler.bounds(pixels, 3)
    assert bounds.shape == (2, 50) and bounds.dtype == np.float64
    np.testing.assert_allclose(bounds, cast(Any, sampler.method).bound(sampler.state, images, 3), rtol=1e-12)
    monkeypatch.setattr(sampling, "_BLOCK", 7)
    blocks = sampler.bounds(pixels, 3)
    np.testing.assert_allclose(blocks, bounds, rtol=1e-12)
    shares = [sampler.bounds(pixels, 3, processes=Shares(rank, 3, lambda values: values)) for rank in range(3)]
    assert np.array_equal(sum(shares), blocks) and all((share == 0).any() for share in shares)


def test_a_method_without_a_bound_says_so(untrained_baseline: Run, digits: ImageSet) -> None:
    with pytest.raises(InputError, match="no bound on the likelihood"):
        sampling.load(untrained_baseline("autoencoder")).bounds(np.asarray(digits.test.images[np.arange(5)]), 3)
