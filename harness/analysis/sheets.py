"""Images in rows and columns, with what stands behind each: classes, sweeps, ways, chains, neighbours."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from harness.analysis.figures import GREY, HEADER, INK, SMALL, VERMILION, caption_height, new_figure
from harness.analysis.paper import methods
from harness.analysis.pictures import gap_of, show_mosaic

IMAGE = 0.55  # inches from an image to the one beside it
MARGIN, WORDS = 0.2, 0.7  # inches beside the images, without and with words
NARROWEST = 4.5  # inches

Images = NDArray[np.float32]
Facts = Mapping[str, NDArray[Any]]


def sweep(images: Images, facts: Facts, *, title: str, about: str = "") -> Figure:
    """Images (rows, columns, c, h, w): the `components` (rows,) at `values` (columns,)."""
    of_class = f", in class {facts['labels'][0]}," if "labels" in facts else ""
    caption = (
        f"{about}Each row: one component of the first sample's latent{of_class} moves through quantiles of its "
        "prior (the values above), all others fixed."
    )
    left = [f"z[{component}]" for component in facts["components"]]
    return _sheet(images, left=left, above=[f"{value:z.2f}" for value in facts["values"]], title=title, caption=caption)


def interpolation(images: Images, facts: Facts, *, title: str, about: str = "") -> Figure:
    """Images (rows, columns, c, h, w): on the `way` from sample 2 r to 2 r + 1, at `fractions` (columns,) of it."""
    line = {"linear": "straight line", "spherical": "great circle"}[str(facts["way"])]
    ends = (
        "The ends are the run's first samples, none selected."
        if "labels" not in facts
        else "All of a row is of the class of its left end, the run's sample of that number, none selected."
    )
    caption = (
        f"{about}Each row: from the latent of one sample to that of the next along a {line} (the part of the way "
        f"above). {ends}"
    )
    left = [f"{2 * row} to {2 * row + 1}" for row in range(len(images))]
    return _sheet(
        images, left=left, above=[f"{share:.2f}" for share in facts["fractions"]], title=title, caption=caption
    )


def conditions(images: Images, facts: Facts, *, title: str, about: str = "") -> Figure:
    """Images (rows, columns, c, h, w): samples of the `classes` (rows,), of one latent a column."""
    caption = f"{about}Each row: samples of one class. Each column: the latent of one of the run's first samples."
    return _sheet(images, left=[f"class {number}" for number in facts["classes"]], title=title, caption=caption)


def chains(images: Images, facts: Facts, *, title: str, about: str = "") -> Figure:
    """Images (rows, columns, c, h, w): states of a `method`'s chains after `times` (columns,), one of them each row."""
    times, burn_in = facts["times"], int(facts["burn_in"])
    described = methods()[str(facts["method"])]
    step = int(times[1] - times[0])
    between = "Each column is the next step" if step == 1 else f"From column to column: {step} steps"
    sampled = (
        "The first column is the run's first samples, none selected."
        if times[0] == burn_in
        else f"The run's samples are taken from {burn_in} steps on."
    )
    caption = (
        f"{about}Each row: one Markov chain of the {described['name']}; above, the steps that it has walked. "
        f"{between}. {sampled} {described['shows']}"
    )
    left = [f"chain {number}" for number in range(len(images))]
    return _sheet(images, left=left, above=[f"{time}" for time in times], title=title, caption=caption)


FIGURES: dict[str, Callable[..., Figure]] = {
    "conditions": conditions,
    "sweep": sweep,
    "interpolation": interpolation,
    "chains": chains,
}
"""By kind of sheet: what draws its images and facts."""


def neighbours(
    samples: Images, nearest: Images, distances: NDArray[np.float64], *, title: str, about: str = ""
) -> Figure:
    """Samples (rows, columns, c, h, w), and on the right the training image (rows, c, h, w) nearest to each row's last.

    distances: theirs, (rows,), in grey levels. As figure 2 of Goodfellow et al. 2014.
    """
    caption = (
        f"{about}The run's first samples, none selected. Framed: the training image nearest to the last sample of each "
        "row; beside it their Euclidean distance in grey levels, 0 to 255 a pixel."
    )
    images = np.concatenate([samples, nearest[:, None]], axis=1)
    figure = _sheet(
        images,
        above=[*[""] * samples.shape[1], "nearest"],
        right=[f"{distance:.0f}" for distance in distances],
        title=title,
        caption=caption,
    )
    height, width, gap = *images.shape[3:], gap_of(images.shape[3])
    for row in range(len(images)):
        corner = samples.shape[1] * (width + gap) - (gap + 1) / 2, row * (height + gap) - (gap + 1) / 2
        frame = Rectangle(corner, width + gap, height + gap, fill=False, edgecolor=VERMILION, linewidth=1.5)
        frame.set_clip_on(False)
        figure.axes[0].add_patch(frame)
    return figure


def _sheet(
    images: Images,
    *,
    left: Sequence[str] = (),
    above: Sequence[str] = (),
    right: Sequence[str] = (),
    title: str,
    caption: str,
) -> Figure:
    """Images (rows, columns, c, h, w) with a word left or right of each row and above each column."""
    rows, columns, _, height, width = images.shape
    gap = gap_of(height)
    pixel = IMAGE / (width + gap)  # inches
    across, down = (columns * (width + gap) - gap) * pixel, (rows * (height + gap) - gap) * pixel
    margin = WORDS if left else MARGIN
    full_width = max(NARROWEST, margin + across + (WORDS if right else MARGIN))
    foot = caption_height(caption, full_width) + 0.15
    full_height = HEADER + down + foot
    figure = new_figure(full_width, full_height, title=title, caption=caption)
    axes = figure.add_axes((margin / full_width, foot / full_height, across / full_width, down / full_height))
    show_mosaic(axes, images.reshape(-1, *images.shape[2:]), columns=columns)
    beside: dict[str, Any] = {"transform": axes.transAxes, "size": SMALL}
    from_left = [((column + 0.5) * (width + gap) - gap / 2) * pixel / across for column in range(columns)]
    from_top = [((row + 0.5) * (height + gap) - gap / 2) * pixel / down for row in range(rows)]
    for share, word in zip(from_top, left, strict=False):
        axes.text(-0.06 / across, 1 - share, word, ha="right", va="center", color=INK, **beside)
    for share, word in zip(from_top, right, strict=False):
        axes.text(1 + 0.1 / across, 1 - share, word, va="center", color=GREY, **beside)
    for share, word in zip(from_left, above, strict=False):
        axes.text(share, 1 + 0.08 / down, word, ha="center", color=GREY, **beside)
    return figure
