"""Baselines on the digits, small and trained for few iterations."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from baselines import BASELINES, Baseline
from harness import plan
from harness.experiment import Experiment, validate
from harness.images import ImageSet
from harness.models import ImageStatistics
from harness.training.feed import Feed, Order, TrainingImages
from harness.training.inner_loop import InnerLoop
from harness.training.loop import State
from harness.training.processes import Processes

ITERATIONS = 12


@pytest.fixture(scope="session")
def baseline_of(
    digits: ImageSet, digits_statistics: ImageStatistics, tiny_baselines: Mapping[str, Mapping[str, Any]]
) -> Callable[..., Baseline]:
    """Makes the stack of a method's members with some seeds, from settings that differ from the tiny ones."""

    def made(method: str, *seeds: int, baseline: Mapping[str, Any] | None = None, **settings: Any) -> Baseline:
        told = {
            "dataset": "digits",
            "method": method,
            "model": method,
            "iterations": ITERATIONS,
            "batch_size": 20,
            "precision": "float64",
            "baseline": {**tiny_baselines[method], **(baseline or {})},
        } | settings
        members = [validate(Experiment, told | {"seed": seed}, where="test") for seed in seeds or (0,)]
        experiments = [plan.resolved(member, digits) for member in members]
        processes = Processes(told["precision"])
        size = len(digits.train)
        return BASELINES[method].build(experiments, digits_statistics, training_images=size, processes=processes)

    return made


@pytest.fixture(scope="session")
def digits_feed(digits: ImageSet) -> Callable[..., Feed]:
    """Makes the feed of digits to a baseline, from an iteration on."""

    def feed(baseline: Baseline, first: int = 0) -> Feed:
        task = baseline.task
        order = Order(baseline.draws, size=len(digits.train), batch_size=task.batch_size, inner_loop=InnerLoop(1))
        return TrainingImages(digits.train, task.processes).feed(order, first=first, steps=task.iterations)

    return feed


@pytest.fixture(scope="session")
def trained_state(digits_feed: Callable[..., Feed]) -> Callable[..., State]:
    """Trains a baseline, to its end or for some iterations, and gives its state."""

    def trained(baseline: Baseline, iterations: int | None = None) -> State:
        feed, state = digits_feed(baseline), baseline.init()
        for iteration in range(baseline.task.iterations if iterations is None else iterations):
            baseline.step(state, feed.batch(iteration), iteration)
        return state

    return trained
