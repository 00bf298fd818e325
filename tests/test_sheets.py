"""Sheets: which latents they take, and that their images are those of these latents; which states of chains."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from harness import sampling, sheets
from harness.errors import InputError
from harness.runs import RunFolder
from harness.sampling import Sampler
from harness.sheets import KINDS, WAYS, Layout, Way, chains, interpolation, linear, spherical, sweep

Run = Callable[..., RunFolder]
DCGAN = {
    "model": "dcgan",
    "generator": {"channels": 4, "weight_std": 0.2},
    "discriminator": {"channels": 4},
}
UNIFORM = {"latent": {"size": 5, "distribution": "uniform"}}
OF_LATENTS = sorted({*KINDS} - {"chains"})
OF_CHAINS = ("dbn", "deep-gsn", "stacked-cae")


OF_CLASS = {  # of the rows of sheets of a conditional model, by the classes of its first samples
    "sweep": lambda labels: labels[[0, 0, 0]],
    "interpolation": lambda labels: labels[[0, 2, 4]],
    "conditions": lambda labels: np.arange(3),
}


@pytest.mark.parametrize("kind", OF_LATENTS)
def test_a_sheet_of_a_conditional_model_has_a_class_a_row(kind: str, untrained_run: Run) -> None:
    sampler = sampling.load(untrained_run(conditional=True))
    labels = sampler.labels(6)
    assert labels is not None and len(np.unique(labels[0, [0, 2, 4]])) > 1
    arrays = KINDS[kind](sampler, Layout(rows=3, columns=4)).arrays()
    z, classes = torch.from_numpy(arrays["latents"])[None], OF_CLASS[kind](labels[0]).repeat(4)
    np.testing.assert_allclose(arrays["images"], sampler.images_at(z, classes[None])[0], rtol=0, atol=1e-6)
    others = sampler.images_at(z, (classes[None] + 1) % 10)[0]
    assert (np.abs(others - arrays["images"]).max((1, 2, 3)) > 1e-4).all()


def test_a_column_of_conditions_is_one_latent(untrained_run: Run) -> None:
    sheet = sheets.conditions(sampling.load(untrained_run(conditional=True)), Layout(columns=4))
    latents = sheet.facts["latents"].reshape(10, 4, -1)
    assert sheet.facts["classes"].tolist() == list(range(10))
    assert (latents == latents[:1]).all() and len(np.unique(latents[0], axis=0)) == 4


def test_conditions_need_a_conditional_model(untrained_run: Run) -> None:
    with pytest.raises(InputError, match="is not conditional"):
        sheets.conditions(sampling.load(untrained_run()), Layout())


@pytest.mark.parametrize("kind", sorted({*OF_LATENTS} - {"conditions"}))
def test_a_sheet_holds_the_images_of_its_latents(kind: str, untrained_run: Run) -> None:
    sampler = sampling.load(untrained_run())
    sheet = KINDS[kind](sampler, Layout(rows=3, columns=4))
    arrays = sheet.arrays()
    assert sheet.images.shape == (3, 4, 1, 8, 8) and arrays["images"].shape == (12, 1, 8, 8)
    assert arrays["layout"].tolist() == [3, 4] and str(arrays["kind"]) == kind
    assert all(array.dtype != object for array in arrays.values())
    again = sampler.images_at(torch.from_numpy(arrays["latents"])[None])[0]
    np.testing.assert_allclose(arrays["images"], again, rtol=0, atol=1e-6)
    assert len(np.unique(arrays["images"].reshape(12, -1), axis=0)) == 12


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("settings", [{}, DCGAN])
def test_an_interpolation_ends_at_random_samples_bit_for_bit(
    way: Way, settings: dict[str, object], untrained_run: Run
) -> None:
    sampler = sampling.load(untrained_run(**settings))
    sheet = interpolation(sampler, Layout(rows=3, columns=5, way=way))
    samples = sampler.sample(6)[0]
    assert np.array_equal(sheet.images[:, 0], samples[0::2])
    assert np.array_equal(sheet.images[:, -1], samples[1::2])
    drawn = sampler.latents(6)[0].numpy()
    latents = sheet.facts["latents"].reshape(3, 5, -1)
    assert np.array_equal(latents[:, 0], drawn[0::2]) and np.array_equal(latents[:, -1], drawn[1::2])
    assert sheet.facts["fractions"].tolist() == [0, 0.25, 0.5, 0.75, 1]


def test_two_columns_are_the_ends_alone(untrained_run: Run) -> None:
    sampler = sampling.load(untrained_run())
    sheet = interpolation(sampler, Layout(rows=2, columns=2))
    assert np.array_equal(sheet.arrays()["images"], sampler.sample(4)[0])


def test_a_linear_way_is_straight_and_a_spherical_one_keeps_the_length() -> None:
    start, stop = torch.tensor([3.0, 0.0, 0.0]), torch.tensor([0.0, 3.0, 0.0])
    fractions = torch.tensor([[0.0], [0.25], [0.5], [1.0]])
    torch.testing.assert_close(linear(start, stop, fractions)[1], torch.tensor([2.25, 0.75, 0.0]))
    points = spherical(start, stop, fractions)
    torch.testing.assert_close(points[[0, 3]], torch.stack([start, stop]), rtol=0, atol=1e-6)
    torch.testing.assert_close(points.norm(dim=1), torch.full((4,), 3.0))
    angles = torch.atan2(points[:, 1], points[:, 0])
    torch.testing.assert_close(angles, fractions[:, 0] * torch.pi / 2, rtol=0, atol=1e-6)


@pytest.mark.parametrize("factor", [2.0, -2.0])
def test_a_spherical_way_between_parallel_latents_is_the_line(factor: float) -> None:
    start, fractions = torch.tensor([1.0, 2.0]), torch.tensor([[0.3]])
    stop = factor * start
    torch.testing.assert_close(spherical(start, stop, fractions), linear(start, stop, fractions), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(("settings", "outermost"), [({}, 2.0537489), (UNIFORM, 0.96 * 3**0.5)])
def test_a_sweep_moves_one_component_a_row_through_the_prior(
    settings: dict[str, object], outermost: float, untrained_run: Run
) -> None:
    sampler = sampling.load(untrained_run(**settings))
    sheet = sweep(sampler, Layout(columns=5, components=(4, 0)))
    latents, drawn = sheet.facts["latents"].reshape(2, 5, 5), sampler.latents(1)[0, 0].numpy()
    for row, component in zip(latents, sheet.facts["components"], strict=True):
        assert np.array_equal(row[:, component], sheet.facts["values"])
        others = np.arange(5) != component
        assert (row[:, others] == drawn[others]).all()
    assert sheet.facts["components"].tolist() == [4, 0]
    np.testing.assert_allclose(sheet.facts["values"][[0, 2, 4]], [-outermost, 0, outermost], atol=1e-6)
    assert (np.diff(sheet.facts["values"]) > 0).all()


def test_a_sweep_without_words_takes_the_components_there_are(
    untrained_run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    sampler = sampling.load(untrained_run())
    assert sweep(sampler, Layout(columns=2)).facts["components"].tolist() == [0, 1, 2, 3, 4]
    monkeypatch.setattr(sheets, "ROWS", 3)
    assert sweep(sampler, Layout(columns=2)).facts["components"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("layout", [Layout(components=(0, 5)), Layout(rows=6)])
def test_a_component_that_is_not_there_is_refused(layout: Layout, untrained_run: Run) -> None:
    with pytest.raises(InputError, match="components 0 to 4, not 5; give others with --components, or fewer --rows"):
        sweep(sampling.load(untrained_run()), layout)


def test_a_spherical_way_through_a_uniform_prior_is_refused(untrained_run: Run) -> None:
    with pytest.raises(InputError, match="this run's is uniform: take the linear one"):
        interpolation(sampling.load(untrained_run(**UNIFORM)), Layout(way="spherical"))


@pytest.fixture(params=OF_CHAINS)
def walkers(request: pytest.FixtureRequest, untrained_baseline: Run, tiny_baselines: Mapping[str, Any]) -> Sampler:
    """A sampler whose samples are stops of six chains, from the fifth step on and at every second."""
    settings = tiny_baselines[request.param] | {"chains": 6, "burn_in": 5, "gap": 2}
    return sampling.load(untrained_baseline(request.param, baseline=settings))


def test_chains_pass_through_the_runs_samples_bit_for_bit(walkers: Sampler) -> None:
    sheet = chains(walkers, Layout(rows=4, columns=3, every=2))
    stops = walkers.sample(18)[0].reshape(3, 6, 1, 8, 8)
    assert np.array_equal(sheet.images, stops[:, :4].swapaxes(0, 1))
    assert len(np.unique(sheet.images.reshape(12, -1), axis=0)) == 12
    assert sheet.facts["times"].tolist() == [5, 7, 9]
    assert (str(sheet.facts["method"]), int(sheet.facts["burn_in"])) == (walkers.members[0].experiment.method, 5)


def test_columns_are_consecutive_steps_from_anywhere_on_the_way(walkers: Sampler) -> None:
    every_second = chains(walkers, Layout(rows=2, columns=3, every=2)).images
    assert np.array_equal(chains(walkers, Layout(rows=2, columns=5)).images[:, ::2], every_second)
    from_the_start = chains(walkers, Layout(rows=2, columns=9, after=1))
    assert from_the_start.facts["times"].tolist() == [*range(1, 10)]
    assert np.array_equal(from_the_start.images[:, 4::2], every_second)


def test_there_are_no_more_rows_than_chains(walkers: Sampler) -> None:
    with pytest.raises(InputError, match=r"runs/.*: 7 chains: there are 6 \(`chains` in its settings\)"):
        chains(walkers, Layout(rows=7))


def test_chains_need_a_method_that_has_them(untrained_run: Run, untrained_baseline: Run) -> None:
    for run in (untrained_run(), untrained_baseline("vae"), untrained_baseline("energy")):
        with pytest.raises(InputError, match=r"the method '.*' has no Markov chains to show"):
            chains(sampling.load(run), Layout())
