"""`harness bench train`: iterations a second of a stack of one, beside a bare hand-written loop for the same pair."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from rich.progress import Progress

from harness.benchmarks import plain
from harness.benchmarks.products import bare, record, time_share
from harness.benchmarks.roofline import Rates, measure_rates
from harness.benchmarks.timing import machine, measure_rounds
from harness.benchmarks.workload import TrainingSet, TrainingStack
from harness.experiment import Experiment, validate
from harness.images import ImageSet, Split, unit
from harness.images.image_set import content_hash
from harness.plan import resolved
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


def bench(
    *, repeats: int = 9, share: float = 1.0, rates: Rates | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """Iterations a second of each workload by both loops, timed in turns; `speed` is ours over the reference's.

    Beside them, in the same rounds, the bare matrix products of the iterations, at their shapes. `floor_fraction` is
    the roofline's floor over our time, `products_fraction` the bare products' time over ours (medians over rounds),
    `products_share` what the profiler finds of products in our time, where the host starts every operation; with
    another engine `over_eager` is our speed over that. `share` scales the iterations of a turn. `rates` are measured if
    not given. Images are random: speed does not depend on their content.
    """
    device = Processes().device
    rates = rates or measure_rates(device)
    compared = {name: _compare(name, workload, repeats, share, rates, progress) for name, workload in WORKLOADS.items()}
    return {"machine": machine(device), "rates": rates.figures(), "workloads": compared}


def _compare(
    name: str, workload: Workload, repeats: int, share: float, rates: Rates, progress: Progress | None
) -> dict[str, Any]:
    count = max(1, round(workload.iterations * share))
    ours = _ours(workload)
    products = record(lambda: ours.train_eagerly(1))
    turns = {
        "ours": lambda: ours.train(count),
        "reference": _reference(workload, ours, count),
        "products": bare(products, count, device=ours.device),
    }
    if ours.engine.name != "eager":
        turns["eager"] = lambda: ours.train_eagerly(count)
    measured = measure_rounds(list(turns.values()), repeats=repeats, device=ours.device, progress=progress, title=name)
    timings = dict(zip(turns, measured, strict=True))
    own, reference, alone = timings["ours"], timings["reference"], timings["products"]
    operations, bytes_moved = ours.operations(), ours.bytes_at_least()
    roofline = rates.roofline("float32")
    speeds = [b / a for a, b in zip(own.seconds, reference.seconds, strict=True)]
    figures = {
        "engine": ours.engine.name,
        "iterations_per_second": count / own.median_seconds,
        "slowest_iterations_per_second": count / own.slowest_seconds,
        "fastest_iterations_per_second": count / own.fastest_seconds,
        "reference_iterations_per_second": count / reference.median_seconds,
        "speed": statistics.median(speeds),
        "slowest_speed": min(speeds),
        "fastest_speed": max(speeds),
        "operations": operations,
        "bytes_at_least": bytes_moved,
        "floor_iterations_per_second": 1 / roofline.floor_seconds(operations, bytes_moved),
        "floor_fraction": roofline.fraction(own.median_seconds / count, operations, bytes_moved),
        "products": len(products),
        "products_iterations_per_second": count / alone.median_seconds,
        "products_fraction": statistics.median(b / a for a, b in zip(own.seconds, alone.seconds, strict=True)),
        "products_share": time_share(lambda: ours.train_eagerly(count), device=ours.device),
    }
    if "eager" in timings:
        figures["eager_iterations_per_second"] = count / timings["eager"].median_seconds
        figures["over_eager"] = statistics.median(
            b / a for a, b in zip(own.seconds, timings["eager"].seconds, strict=True)
        )
    return figures


def _random_images(workload: Workload) -> ImageSet:
    generator = np.random.Generator(np.random.Philox(0))
    train = Split(generator.random((workload.images, *workload.shape), dtype=np.float32))
    return ImageSet("random", workload.shape, train, train, train, content_hash([train]))


def _ours(workload: Workload) -> TrainingStack:
    """A stack of one that trains on random images."""
    images = _random_images(workload)
    data = {"dataset": "random", "iterations": workload.iterations} | workload.settings
    experiment = resolved(validate(Experiment, data, where="benchmark"), images)
    return TrainingStack.of([experiment], TrainingSet.of(images, experiment))


def _reference(workload: Workload, ours: TrainingStack, count: int) -> Callable[[], None]:
    """The plain loop on the same images and device."""
    images = ours.training_set.images
    pixels = torch.from_numpy(unit(images.split.images[np.arange(len(images.split))])).flatten(1)
    loop = workload.reference(pixels.to(images.processes.device))
    simultaneous = ours.experiment.updates == "simultaneous"
    iterations = loop.simultaneous_iterations if simultaneous else loop.iterations
    return lambda: iterations(count)
