"""The Frechet distance, precision and recall beside torch-fidelity's functions for them, on the same features."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from rich.progress import Progress
from torch import Tensor

from harness.benchmarks.timing import Turns, machine, measure_rounds, spread
from harness.metrics.frechet import Moments, frechet_distance, moments, reference
from harness.metrics.neighbours import manifold, neighbourhoods


def bench(
    *,
    samples: int = 10_000,
    dimension: int = 2048,
    neighbour_dimensions: Sequence[int] = (2048, 64),
    repeats: int = 3,
    seed: int = 0,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """Seconds of ours and of torch-fidelity's, timed in turns on the CPU, and how many times as fast ours are.

    Frechet: from moments to the distance at `dimension`, our reference's root made before, as a cache keeps it, and
    theirs having nothing that could be kept. Precision and recall: from float32 features of `samples` images and as
    many reference images, radii of both sets included, at each of `neighbour_dimensions`; ours gives density and
    coverage too. `times_as_fast` is the spread over rounds of theirs / ours, `difference` that of the values (relative
    for the distance). numpy computes theirs of the first: give its threads and torch's the same number by
    OMP_NUM_THREADS.
    """
    return {
        "machine": machine(),
        "samples": samples,
        "frechet": _frechet(samples, dimension, repeats=repeats, seed=seed, progress=progress),
        "precision_recall": [
            _precision_recall(samples, each, repeats=repeats, seed=seed, progress=progress)
            for each in neighbour_dimensions
        ],
    }


def _frechet(samples: int, dimension: int, *, repeats: int, seed: int, progress: Progress | None) -> dict[str, Any]:
    # Imported here, for it takes seconds that other benchmarks need not wait.
    from torch_fidelity.metric_fid import KEY_METRIC_FID, fid_statistics_to_metric

    of_samples, of_reference = (moments(each) for each in _features(samples, dimension, seed=seed))
    prepared = reference(of_reference)
    statistics = _statistics(of_samples), _statistics(of_reference)

    def theirs() -> float:
        return float(fid_statistics_to_metric(*statistics, False)[KEY_METRIC_FID])

    def ours() -> float:
        return frechet_distance(of_samples, prepared)

    turns = _turns(theirs, ours, repeats=repeats, progress=progress, title=f"Frechet distance, {dimension}")
    expected = theirs()
    return _figures(dimension, turns) | {"difference": abs(ours() - expected) / abs(expected)}


def _precision_recall(
    samples: int, dimension: int, *, repeats: int, seed: int, progress: Progress | None
) -> dict[str, Any]:
    from torch_fidelity.metric_prc import KEY_METRIC_PRECISION, KEY_METRIC_RECALL, prc_features_to_metric

    features, of_reference = _features(samples, dimension, seed=seed)

    def theirs() -> tuple[float, float]:
        found = prc_features_to_metric(features, of_reference, save_cpu_ram=False, verbose=False)
        return found[KEY_METRIC_PRECISION], found[KEY_METRIC_RECALL]

    def ours() -> tuple[float, float]:
        found = neighbourhoods(features, manifold(of_reference))
        return found.precision.value, found.recall.value

    turns = _turns(theirs, ours, repeats=repeats, progress=progress, title=f"precision and recall, {dimension}")
    difference = max(abs(one - other) for one, other in zip(ours(), theirs(), strict=True))
    return _figures(dimension, turns) | {"difference": difference}


def _turns(
    theirs: Callable[[], object],
    ours: Callable[[], object],
    *,
    repeats: int,
    progress: Progress | None,
    title: str,
) -> Turns:
    return Turns(*measure_rounds([theirs, ours], repeats=repeats, progress=progress, title=title))


def _figures(dimension: int, turns: Turns) -> dict[str, Any]:
    return {
        "dimension": dimension,
        "torch_fidelity_seconds": spread(turns.first.seconds),
        "seconds": spread(turns.second.seconds),
        "times_as_fast": spread(turns.ratios),
    }


def _features(samples: int, dimension: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Correlated Gaussian features (n, d), float32, of samples and of a reference that differs a little."""
    generator = torch.Generator().manual_seed(seed)
    scales = torch.arange(1, dimension + 1) ** -0.5  # a few directions hold most of the variance, as in real features
    mixing = torch.randn(dimension, dimension, generator=generator) * scales[:, None]
    of_samples, of_reference = (torch.randn(samples, dimension, generator=generator) @ mixing for _ in range(2))
    return 1.1 * of_samples + 0.02, of_reference


def _statistics(moments: Moments) -> dict[str, Any]:
    """The moments as torch-fidelity keeps them."""
    return {"mu": moments.mean.numpy(), "sigma": moments.covariance.numpy()}
