"""Every grid that ships, on its data set or on made-up images of the same shape; and the sizes of the 2014 paper's."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from harness import images, models
from harness.analysis import paper
from harness.evaluation.companions import AS_MANY
from harness.evaluation.measures import METRICS
from harness.experiment import MomentumRamp
from harness.grid import load_grid, shipped_grids
from harness.images import ImageSet, Split
from harness.images.image_set import content_hash
from harness.layers import Linear, Maxout, MaxoutConvolution, TransposedConvolution
from harness.models import ImageStatistics
from harness.plan import Plan, plan
from harness.training.feed import Order, TrainingImages, statistics
from harness.training.gan import Gan
from harness.training.processes import Processes

SHAPES = {"mnist": (1, 28, 28), "cifar10": (3, 32, 32), "tfd": (1, 48, 48)}
"""Of the data sets that are files of their own."""
load_embedded = images.load


def made_up(dataset: str, folders: Sequence[Path]) -> ImageSet:
    """Random images of the shape of a data set's, others for each name; the data set itself where it is embedded."""
    if dataset.partition(":")[0] not in SHAPES:
        return load_embedded(dataset, folders)
    shape = SHAPES[dataset.partition(":")[0]]
    rng = np.random.default_rng(list(dataset.encode()))
    splits = [
        Split(rng.integers(0, 256, (n, *shape), np.uint8), np.arange(n, dtype=np.int64) % 10) for n in (200, 20, 20)
    ]
    return ImageSet(dataset, shape, *splits, content_hash=content_hash(splits), classes=10)


@pytest.fixture(autouse=True)
def without_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(images, "load", made_up)


def planned(name: str, *overrides: str) -> Plan:
    return plan(load_grid(name, overrides=overrides), [])


@pytest.mark.parametrize("name", shipped_grids())
def test_every_experiment_of_a_shipped_grid_can_be_built(name: str) -> None:
    # Of a long search some draws: what they may be is the same for all.
    grid = load_grid(name)
    runs = planned(name, *(["search.draws=4"] if grid.file.search else [])).runs
    assert len(runs) >= 2 and len({run.id for run in runs}) == len(runs)
    assert grid.name == name and set(grid.evaluation.metrics) <= METRICS.keys()


SMALL = {
    "paper-mnist": ["generator.hidden=[9, 8]", "discriminator.hidden=[7, 6]"],
    "paper-cifar-fc": ["generator.hidden=[9, 8]", "discriminator.hidden=[7, 6]"],
    "paper-cifar-conv": [
        "generator.hidden=[9]",
        "generator.channels=2",
        "discriminator.channels=[2, 2, 3]",
        "discriminator.hidden=[5]",
        "discriminator.weight_range=0.2",  # through so few units of the published range no gradient passes
    ],
    "paper-tfd": ["generator.hidden=[9, 8]", "generator.sparse_init=3", "discriminator.hidden=[7, 6]"],
}


def test_the_papers_grids_are_all_tried_in_small() -> None:
    assert set(SMALL) == {name for name in shipped_grids() if name.startswith("paper-")}


@pytest.mark.parametrize("name", SMALL)
def test_the_papers_grids_train_in_small_and_give_images(name: str) -> None:
    run = planned(name, *SMALL[name], "batch_size=10", "optimizer.lr=0.5").runs[0].experiment
    data, processes = images.load(run.dataset, []), Processes()
    gan = Gan.of([run], statistics(data), training_images=len(data.train), processes=processes)
    order = Order(gan.game.draws, size=len(data.train), batch_size=10, inner_loop=gan.game.inner_loop)
    source = TrainingImages(data.train, processes, placement="auto", labelled=False, seen_as=gan.game.units)
    feed, state, begun = source.feed(order, first=0, steps=3), gan.init(), gan.init()
    for iteration in range(3):
        gan.step(state, feed.batch(iteration), iteration)
    for role in ("generator", "discriminator"):
        assert all(tensor.isfinite().all() for tensor in state[role].values())
        assert all(not state[role][key].equal(value) for key, value in begun[role].items() if key.endswith("weight"))
    if run.generator.max_column_norm is not None:
        weights = [state["generator"][f"{layer}.weight"] for layer in ("hidden0", "hidden1", "output")]
        assert all(weight.norm(dim=1).max() <= 1.9365 + 1e-5 for weight in weights)
    samples = gan.sample(state, 5)
    assert samples.shape == (1, 5, *data.shape) and 0 <= samples.min() < samples.max() <= 1


PUBLISHED = {
    "paper-mnist": (
        [("Linear", 100, 1200, 0.05), ("Linear", 1200, 1200, 0.05), ("Linear", 1200, 784, 0.05)],
        [("Maxout", 784, 240, 5), ("Maxout", 240, 240, 5), ("Linear", 240, 1, 0.005)],
        ("uniform", 0.1, 100, None),
    ),
    "paper-cifar-fc": (
        [("Linear", 100, 8000, 0.05), ("Linear", 8000, 8000, 0.05), ("Linear", 8000, 3072, 0.5)],
        [("Maxout", 3072, 1600, 5), ("Maxout", 1600, 1600, 5), ("Linear", 1600, 1, 0.005)],
        ("normal", 0.025, 100, None),
    ),
    "paper-cifar-conv": (
        [("Linear", 100, 8000, 0.05), ("Linear", 8000, 80 * 10 * 10, 0.05), ("TransposedConvolution", 80, 3, 0.05)],
        [
            ("MaxoutConvolution", 3, 32, 2),
            ("MaxoutConvolution", 32, 32, 2),
            ("MaxoutConvolution", 32, 192, 2),
            ("Maxout", 192 * 5 * 5, 500, 5),
            ("Linear", 500, 1, 0.005),
        ],
        ("normal", 0.004, 128, None),
    ),
    "paper-tfd": (
        [("Linear", 100, 8000, 0.05), ("Linear", 8000, 8000, 0.05), ("Linear", 8000, 2304, 100)],
        [("Maxout", 2304, 1200, 5), ("Maxout", 1200, 1200, 5), ("Linear", 1200, 1, 0.005)],
        ("normal", 0.05, 100, 1.9365),
    ),
}
"""Generator, discriminator; prior, learning rate, batch size, bound on columns: the authors' settings files."""


CONTROLS = {"training-images", "k-means", "gaussian", "ppca"}
FOLDS = {f"tfd:{fold}" for fold in range(5)}


@pytest.mark.parametrize(("name", "datasets"), [("table1-mnist", {"mnist"}), ("table1-tfd", FOLDS)])
def test_table_1_has_each_published_method_and_the_controls(name: str, datasets: set[str]) -> None:
    rows: dict[str, list[str]] = {}
    for run in planned(name).runs:
        rows.setdefault(run.experiment.method, []).append(run.experiment.dataset)
    methods = {method for dataset, method in paper.published() if dataset == name.removeprefix("table1-")}
    assert len(methods) == 4 and rows.keys() >= methods | CONTROLS | {"vae", "autoencoder", "energy"}
    for method, found in rows.items():
        assert set(found) == datasets and len(set(map(found.count, found))) == 1, method


@pytest.mark.parametrize(("name", "own"), [("table1-mnist", "paper-mnist"), ("table1-tfd", "paper-tfd")])
def test_the_gan_of_table_1_is_the_papers(name: str, own: str) -> None:
    of_table = next(run.experiment for run in planned(name).runs if run.experiment.method == "gan").canonical()
    alone = planned(own).runs[0].experiment.canonical()
    chosen = {"iterations", "seed"}
    assert {key: value for key, value in of_table.items() if key not in chosen} == {
        key: value for key, value in alone.items() if key not in chosen
    }


def test_controls_of_table_1_stand_for_their_companions_but_for_the_centroids() -> None:
    for name, size in (("table1-mnist", 50_000), ("table1-tfd", 98_058)):
        grid = planned(name)
        by_method = {run.experiment.method: run.experiment for run in grid.runs}
        data = SimpleNamespace(train=range(size))
        stand = {method for method, as_many in AS_MANY.items() if as_many(by_method[method], data, 10_000)}
        assert stand == {"training-images", "gaussian"} and grid.grid.evaluation.samples == 10_000


def weighted(network: Any) -> list[tuple[Any, ...]]:
    """Its layers with weights: kind, inputs, outputs, and the range of weights, how many are not zero, or pieces."""
    found: list[tuple[Any, ...]] = []
    for layer in network.layers:
        if isinstance(layer, Linear | TransposedConvolution):
            spread = getattr(layer, "nonzero", None) or layer.weight_range
            found.append((type(layer).__name__, layer.inputs, layer.outputs, spread))
        elif isinstance(layer, Maxout | MaxoutConvolution):
            assert layer.weight_range == 0.005
            found.append((type(layer).__name__, layer.inputs, layer.units, layer.pieces))
    return found


@pytest.mark.parametrize("name", PUBLISHED)
def test_the_papers_grids_have_the_published_sizes(name: str) -> None:
    run = planned(name).runs[0]
    pair = models.build(run.experiment, ImageStatistics(run.image_shape, torch.full(run.image_shape, 0.5)))
    generator, discriminator, (prior, lr, batch_size, bound) = PUBLISHED[name]
    assert weighted(pair.generator) == generator and weighted(pair.discriminator) == discriminator
    experiment = run.experiment
    assert (experiment.latent.size, experiment.latent.distribution) == (100, prior)
    for player in (experiment.generator, experiment.discriminator):
        assert player.optimizer is not None and player.optimizer.lr == lr and player.max_column_norm == bound
    assert experiment.batch_size == batch_size


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("paper-mnist", {"activation": "relu", "output": "sigmoid", "output_bias": "marginal"}),
        ("paper-cifar-fc", {"activation": ["relu", "sigmoid"], "output": "linear", "output_bias": "zero"}),
        ("paper-cifar-conv", {"output": "linear"}),
        (
            "paper-tfd",
            {"activation": ["relu", "sigmoid"], "output": "sigmoid", "output_bias": "marginal", "hidden_bias": [0, -2]},
        ),
    ],
)
def test_the_papers_generators_have_the_published_units_and_biases(name: str, settings: dict[str, Any]) -> None:
    experiment = planned(name).runs[0].experiment
    assert settings.items() <= experiment.generator.model.items()
    norm = experiment.preprocessing and experiment.preprocessing.norm
    assert norm == (55 if "cifar" in name else None)


def test_the_papers_grids_share_what_the_paper_says_of_all() -> None:
    for name in PUBLISHED:
        run = planned(name).runs[0].experiment
        assert (run.loss, run.updates, run.discriminator_loss_weight) == ("non_saturating", "simultaneous", 0.5)
        assert run.discriminator.model["dropout"][:2] == [0.2, 0.5]
        for player in (run.generator, run.discriminator):
            schedule = player.optimizer
            assert schedule is not None and (schedule.name, schedule.lr_decay, schedule.min_lr) == (
                "SGD",
                1.000004,
                1e-6,
            )
            assert schedule.arguments["momentum"] == 0.5
            assert schedule.momentum_ramp == MomentumRamp(final=0.7, start_epoch=1, end_epoch=250)
