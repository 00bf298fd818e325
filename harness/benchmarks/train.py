"""`harness bench train`: iterations a second of a stack of one, beside a bare hand-written loop for the same pair."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from harness.benchmarks import plain
from harness.benchmarks.timing import machine, measure_in_turns
from harness.experiment import Experiment, validate
from harness.images import ImageSet, Split
from harness.images.image_set import content_hash
from harness.methods import method
from harness.models import ImageStatistics
from harness.plan import resolved
from harness.training.feed import Order, TrainingImages, mean_image
from harness.training.processes import Processes

_ADAM = {"name": "Adam", "lr": 2e-4, "betas": [0.5, 0.999]}


@dataclass(frozen=True)
class Workload:
    """A pair as settings of the harness and as a plain loop, and iterations for a turn of about a second."""

    settings: dict[str, Any]
    reference: Callable[[torch.Tensor], plain.PlainLoop]
    shape: tuple[int, int, int]
    images: int
    iterations: int


WORKLOADS = {
    "digits mlp": Workload(
        {
            "model": "mlp",
            "batch_size": 64,
            "latent": {"size": 32, "distribution": "uniform"},
            "generator": {"hidden": [128, 128]},
            "discriminator": {"hidden": [128, 128]},
            "optimizer": _ADAM,
        },
        plain.digits_mlp,
        (1, 8, 8),
        1_197,
        600,
    ),
    "gan.py": Workload(
        {
            "model": "mlp",
            "batch_size": 64,
            "latent": {"size": 100, "distribution": "uniform"},
            "generator": {
                "hidden": [128, 256, 512, 1024],
                "activation": "leaky_relu",
                "batch_norm": [False, True, True, True],
                "batch_norm_eps": 0.8,
                "output": "tanh",
            },
            "discriminator": {"hidden": [512, 256], "signed_input": True},
            "optimizer": _ADAM,
        },
        plain.gan_py,
        (1, 28, 28),
        50_000,
        80,
    ),
    "paper-mnist": Workload(
        {
            "model": "maxout-mlp",
            "batch_size": 100,
            "latent": {"size": 100, "distribution": "uniform"},
            "optimizer": {"name": "SGD", "lr": 0.1, "momentum": 0.5},
        },
        plain.paper_mnist,
        (1, 28, 28),
        50_000,
        30,
    ),
    "paper-mnist simultaneous": Workload(
        {
            "model": "maxout-mlp",
            "batch_size": 100,
            "latent": {"size": 100, "distribution": "uniform"},
            "optimizer": {"name": "SGD", "lr": 0.1, "momentum": 0.5},
            "updates": "simultaneous",
            "discriminator_loss_weight": 0.5,
        },
        plain.paper_mnist,
        (1, 28, 28),
        50_000,
        40,
    ),
}


def bench(*, repeats: int = 9, share: float = 1.0) -> dict[str, Any]:
    """Iterations a second of each workload by both loops, timed in turns; `speed` is ours over the reference's.

    `share` scales the iterations of a turn. Images are random: speed does not depend on their content.
    """
    return {
        "machine": machine(),
        "workloads": {name: _compare(workload, repeats, share) for name, workload in WORKLOADS.items()},
    }


def _compare(workload: Workload, repeats: int, share: float) -> dict[str, Any]:
    count = max(1, round(workload.iterations * share))
    images = _random_images(workload)
    reference = workload.reference(torch.from_numpy(images.train.images).flatten(1))
    simultaneous = workload.settings.get("updates") == "simultaneous"
    theirs = reference.simultaneous_iterations if simultaneous else reference.iterations
    turns = measure_in_turns(_ours(workload, images, count), lambda: theirs(count), repeats=repeats)
    speeds = [1 / ratio for ratio in turns.ratios]
    return {
        "iterations_per_second": count / turns.first.median_seconds,
        "reference_iterations_per_second": count / turns.second.median_seconds,
        "fastest_iterations_per_second": count / turns.first.fastest_seconds,
        "speed": statistics.median(speeds),
        "slowest_speed": min(speeds),
        "fastest_speed": max(speeds),
    }


def _random_images(workload: Workload) -> ImageSet:
    generator = np.random.Generator(np.random.Philox(0))
    train = Split(generator.random((workload.images, *workload.shape), dtype=np.float32))
    return ImageSet("random", workload.shape, train, train, train, content_hash([train]))


def _ours(workload: Workload, images: ImageSet, count: int) -> Callable[[], None]:
    data = {"dataset": "random", "iterations": count} | workload.settings
    experiment = resolved(validate(Experiment, data, where="benchmark"), images)
    processes = Processes(experiment.precision)
    statistics_ = ImageStatistics(images.shape, mean_image(images.train))
    gan = method("gan")([experiment], statistics_, training_images=len(images.train), processes=processes)
    order = Order(gan.draws, size=len(images.train), batch_size=experiment.batch_size, batches=experiment.k)
    feed = TrainingImages(images.train, processes).feed(order, first=0, steps=2**31)
    state = gan.init()
    done = 0

    def turn() -> None:
        nonlocal done
        for iteration in range(done, done + count):
            gan.step(state, feed.batch(iteration), iteration)
        done += count

    return turn
