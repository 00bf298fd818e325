"""A tiny stack on the digits, planned as a grid would plan it."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import save

from baselines import BASELINES
from harness import images, plan, runs
from harness.draws import Draws
from harness.evaluation import Cache, Recipe, References
from harness.experiment import Experiment, validate
from harness.grid import load_grid
from harness.images import ImageSet
from harness.layers import Context
from harness.methods import method
from harness.models import ImageStatistics
from harness.runs import RunFolder
from harness.training import checkpoint
from harness.training.feed import Feed, Order, Placement, TrainingImages, statistics
from harness.training.game import State
from harness.training.gan import Gan
from harness.training.processes import Processes

TINY: dict[str, Any] = {
    "dataset": "digits",
    "model": "mlp",
    "iterations": 60,
    "batch_size": 20,
    "latent": {"size": 5},
    "generator": {"hidden": [12, 10]},
    "discriminator": {"hidden": [9, 8]},
    "optimizer": {"name": "SGD", "lr": 0.1, "momentum": 0.5},
}

TINY_BASELINES: dict[str, dict[str, Any]] = {
    "autoencoder": {"code": 3, "hidden": [10], "phases": [3, 1]},
    "dbn": {"hidden": [10, 8], "particles": 6, "burn_in": 5, "gap": 2, "ais_chains": 4, "ais_temperatures": 5},
    "deep-gsn": {"hidden": [10, 8], "burn_in": 5, "gap": 2},
    "energy": {"hidden": [10], "negatives": 20, "steps": 3},
    "k-means": {"clusters": 30},
    "ppca": {"components": 5},
    "stacked-cae": {"hidden": [10, 8], "burn_in": 5, "gap": 2},
    "training-images": {"images": 50},
    "vae": {"latent": 3, "hidden": [10]},
}
"""What makes baselines quick: [experiment] baseline = {...}."""

GRID = """
name = "tiny"
seeds = {seeds}
[experiment]
dataset = "digits"
model = "mlp"
iterations = 3
optimizer = {{name = "SGD", lr = 0.1}}
{rest}
"""


@pytest.fixture(scope="session", autouse=True)
def on_cpu() -> Iterator[None]:
    """Tests compute on the CPU, whatever the machine has."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ACCELERATE_USE_CPU", "true")
        yield


@pytest.fixture(scope="session")
def digits() -> ImageSet:
    return images.load("digits", [])


@pytest.fixture(scope="session")
def references(digits: ImageSet, tmp_path_factory: pytest.TempPathFactory) -> References:
    """The digits as samples are compared with them."""
    return References(digits, Recipe(), Processes(), cache=Cache(tmp_path_factory.mktemp("references")))


@pytest.fixture(scope="session")
def digits_statistics(digits: ImageSet) -> ImageStatistics:
    return statistics(digits)


@pytest.fixture(scope="session")
def resolve(digits: ImageSet) -> Callable[..., Experiment]:
    """Makes the tiny experiment with other settings, resolved as a plan resolves it."""

    def resolved(**settings: Any) -> Experiment:
        return plan.resolved(validate(Experiment, TINY | settings, where="test"), digits)

    return resolved


@pytest.fixture(scope="session")
def gan_of(
    digits: ImageSet, digits_statistics: ImageStatistics, resolve: Callable[..., Experiment]
) -> Callable[..., Gan]:
    """Makes the stack of some members, each given by the settings in which it differs from the tiny experiment."""

    def gan(*members: Mapping[str, Any], precision: str = "float64") -> Gan:
        experiments = [resolve(precision=precision, **member) for member in members]
        return Gan.of(experiments, digits_statistics, training_images=len(digits.train), processes=Processes(precision))

    return gan


@pytest.fixture(scope="session")
def feed_of(digits: ImageSet) -> Callable[..., Feed]:
    """Makes the feed of digits to a stack, from an iteration on."""

    def feed(gan: Gan, iterations: int, *, first: int = 0, placement: Placement = "auto") -> Feed:
        game = gan.game
        order = Order(game.draws, size=len(digits.train), batch_size=game.batch_size, inner_loop=game.inner_loop)
        labelled = gan.class_shares is not None
        images = TrainingImages(
            digits.train, game.processes, placement=placement, labelled=labelled, seen_as=game.units
        )
        return images.feed(order, first=first, steps=iterations)

    return feed


@pytest.fixture(scope="session")
def train_for(feed_of: Callable[..., Feed]) -> Callable[[Gan, int], State]:
    """Trains a stack for some iterations and gives its state."""

    def trained(gan: Gan, iterations: int) -> State:
        feed, state = feed_of(gan, iterations), gan.init()
        for iteration in range(iterations):
            gan.step(state, feed.batch(iteration), iteration)
        return state

    return trained


@pytest.fixture(scope="session")
def tiny_baselines() -> Mapping[str, Mapping[str, Any]]:
    """The settings that make a baseline quick, by its name."""
    return {name: TINY_BASELINES.get(name, {}) for name in BASELINES}


@pytest.fixture(scope="session")
def baselines_grid(tiny_baselines: Mapping[str, Mapping[str, Any]]) -> Callable[..., str]:
    """Writes the grid of all baselines, with further lines of [experiment] and further tables."""

    def row(name: str, settings: Mapping[str, Any]) -> str:
        table = ", ".join(f"{key} = {json.dumps(value)}" for key, value in settings.items())
        return f'    {{name = "{name}", method = "{name}", baseline = {{{table}}}}},\n'

    def grid(experiment: str = "", *, tables: str = "", seeds: str = "[0]") -> str:
        rows = "".join(row(name, settings) for name, settings in tiny_baselines.items())
        head = f'name = "baselines"\nseeds = {seeds}\n[experiment]\ndataset = "digits"\n'
        return f"{head}iterations = 12\nbatch_size = 20\n{experiment}\n[axes]\nof = [\n{rows}]\n{tables}\n"

    return grid


@pytest.fixture
def planned(tmp_path: Path) -> Callable[..., plan.Plan]:
    """Plans a tiny grid with some seeds and further TOML."""

    def make(rest: str = "", *, seeds: str = "[0]") -> plan.Plan:
        path = tmp_path / "tiny.toml"
        path.write_text(GRID.format(seeds=seeds, rest=rest))
        return plan.plan(load_grid(str(path)), [])

    return make


@pytest.fixture(scope="session")
def context_of() -> Callable[..., Context]:
    """Makes the context of a forward pass for members with some seeds."""

    def context(seeds: tuple[int, ...] = (0,), *, rows: int = 6, **settings: Any) -> Context:
        return Context(Draws(seeds), "test", 3, rows, **settings)

    return context


@pytest.fixture
def untrained(
    tmp_path: Path, digits: ImageSet, digits_statistics: ImageStatistics
) -> Callable[[Experiment], RunFolder]:
    """Makes the folder of a finished run, but for its training, of a resolved experiment."""

    def make(experiment: Experiment) -> RunFolder:
        kind, processes = method(experiment.method), Processes(experiment.precision)
        built = kind.build([experiment], digits_statistics, training_images=len(digits.train), processes=processes)
        run = RunFolder(tmp_path / "runs" / experiment.run_id)
        run.write("experiment.json", experiment.canonical())
        content = save(checkpoint.flatten(built.sampler(built.init())))
        runs.write_bytes(run.snapshots / "0000000060.safetensors", content)
        run.write("provenance.json", {"outcome": "complete", "image_shape": list(digits.shape)})
        return run

    return make


@pytest.fixture
def untrained_run(
    untrained: Callable[[Experiment], RunFolder], resolve: Callable[..., Experiment]
) -> Callable[..., RunFolder]:
    """Makes the folder of such a run from settings that differ from the tiny experiment."""
    return lambda **settings: untrained(resolve(**settings))


@pytest.fixture
def untrained_baseline(
    untrained: Callable[[Experiment], RunFolder], digits: ImageSet, tiny_baselines: Mapping[str, Mapping[str, Any]]
) -> Callable[..., RunFolder]:
    """Makes the folder of such a run of a tiny baseline, from its name and further settings."""

    def make(name: str, **settings: Any) -> RunFolder:
        told = {"dataset": "digits", "method": name, "model": name, "iterations": 12, "batch_size": 20}
        told |= {"baseline": tiny_baselines[name]}
        return untrained(plan.resolved(validate(Experiment, told | settings, where="test"), digits))

    return make
