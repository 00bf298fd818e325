"""`harness plot --kind landscape`: how the snapshots of a run score the plane of a 2-d toy, and where samples lie."""

from __future__ import annotations

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from harness import sampling
from harness.analysis import landscape as figures
from harness.errors import InputError
from harness.images import ImageSet, unit
from harness.runs import RunFolder

MOST_PANELS = 12
SIDE = 200
"""Points along each side of the plane."""
TRAINING_POINTS, SAMPLES = 1000, 300


def landscape(run: RunFolder, data: ImageSet, *, title: str, about: str = "") -> Figure:
    """The figure of a finished run: a panel for each of its snapshots, evenly chosen where there are many.

    Errors: InputError where the method has no landscape, or the data are not points in a plane.
    """
    round_length = sampling.load(run).round_length
    if data.shape != (2, 1, 1):
        raise InputError(
            f"{run.path}: {data.name} does not hold points of a plane; a landscape is drawn of 2-d toys, as ring-8."
        )
    kept = sampling.iterations(run)
    places = np.linspace(0, len(kept) - 1, min(len(kept), MOST_PANELS)).round().astype(int)
    panels = [_panel(run, data, kept[place], round_length) for place in places]
    training = unit(data.train.images[np.arange(min(TRAINING_POINTS, len(data.train)))])
    shown = f" {len(panels)} of {len(kept)} snapshots." if len(panels) < len(kept) else ""
    caption = (
        f"{about}Colours: the logit of the discriminator, log p(training point) - log p(negative) at its best. Black: "
        "training points. Orange: the snapshot's samples, where ascents of the logit from even noise end; the next "
        f"round's negatives are found like them. A round is {_counted(round_length, 'iteration')} long.{shown}"
    )
    corners = _original(data, np.array([[0, 0], [1, 1]], np.float32))
    return figures.landscape(panels, _original(data, training), corners, title=title, caption=caption)


def _panel(run: RunFolder, data: ImageSet, iteration: int, round_length: int) -> figures.Panel:
    sampler = sampling.load(run, iteration=iteration)
    centres = (np.arange(SIDE, dtype=np.float32) + 0.5) / SIDE
    plane = np.stack(np.meshgrid(centres, centres), -1).reshape(-1, 2)
    ends_round = round_length > 1 and iteration % round_length == 0
    name = f"round {iteration // round_length}, iteration {iteration}" if ends_round else f"iteration {iteration}"
    logits, samples = sampler.landscape(plane)[0], sampler.sample(SAMPLES)[0]
    return figures.Panel(name, logits.reshape(SIDE, SIDE), _original(data, samples))


def _original(data: ImageSet, images: NDArray[np.float32]) -> NDArray[np.float64]:
    """Points (n, 2) in original units, of n pairs of values in [0, 1]."""
    return data.affine.original(images) if data.affine else images.reshape(len(images), 2).astype(np.float64)


def _counted(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"
