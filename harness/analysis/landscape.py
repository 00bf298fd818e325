"""What a method's score looks like over the plane of a 2-d toy, snapshot by snapshot."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import BoundaryNorm
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from harness.analysis.figures import (
    GREY,
    HEADER,
    INK,
    NORMAL,
    SMALL,
    VERMILION,
    caption_height,
    clean,
    new_figure,
)

COLUMNS = 4
_SHARES = 1.0, 99.9  # percent of the plane, over all panels, between whose logits there are levels
_LEVELS = 20
_PANEL, _GAP, _NAME, _MARGIN, _FOOT = 2.2, 0.15, 0.28, 0.4, 0.3  # inches
_BAR, _WORDS = 0.12, 0.6  # inches

Points = NDArray[np.float64]


@dataclass(frozen=True)
class Panel:
    """One snapshot."""

    name: str
    logits: NDArray[np.float32]
    """(rows, columns), evenly over the plane, from its lowest corner."""
    samples: Points
    """(n, 2), in original units."""


def landscape(panels: Sequence[Panel], training: Points, corners: Points, *, title: str, caption: str) -> Figure:
    """A panel a snapshot: logits as levels of colour, the same ones in all; on them training points (t, 2) and samples.

    corners: the plane's lowest and highest, (2, 2). Points are in original units.
    """
    columns = min(COLUMNS, len(panels))
    rows = math.ceil(len(panels) / columns)
    width = _MARGIN + columns * (_PANEL + _GAP) + _BAR + _WORDS
    foot = _FOOT + caption_height(caption, width)
    height = HEADER + rows * (_PANEL + _NAME) - _NAME + foot
    figure = new_figure(width, height, title=title, caption=caption)

    def place(left: float, top: float, across: float, down: float) -> Axes:
        return figure.add_axes((left / width, 1 - (top + down) / height, across / width, down / height))

    ends = np.percentile([panel.logits for panel in panels], _SHARES)
    levels = BoundaryNorm(MaxNLocator(_LEVELS).tick_values(*ends), 256, extend="both")
    for number, panel in enumerate(panels):
        row, column = divmod(number, columns)
        axes = place(_MARGIN + column * (_PANEL + _GAP), HEADER + row * (_PANEL + _NAME), _PANEL, _PANEL)
        colours = _show(axes, panel, training, corners, levels)
        axes.tick_params(labelleft=column == 0, labelbottom=number + columns >= len(panels))
    bar = place(width - _WORDS - _BAR, HEADER, _BAR, rows * (_PANEL + _NAME) - _NAME)
    figure.colorbar(colours, cax=bar, spacing="proportional")
    bar.tick_params(labelsize=SMALL, color=GREY, labelcolor=INK, length=2.5)
    bar.set_ylabel("logit of the discriminator", size=SMALL, color=INK)
    return figure


def _show(axes: Axes, panel: Panel, training: Points, corners: Points, levels: BoundaryNorm) -> AxesImage:
    clean(axes)
    axes.grid(False)
    (left, low), (right, high) = corners
    image = axes.imshow(panel.logits, origin="lower", extent=(left, right, low, high), cmap="Blues_r", norm=levels)
    axes.scatter(training[:, 0], training[:, 1], s=1, color=INK, linewidths=0)
    axes.scatter(panel.samples[:, 0], panel.samples[:, 1], s=5, color=VERMILION, alpha=0.7, linewidths=0)
    axes.set_xlim(left, right)
    axes.set_ylim(low, high)
    axes.xaxis.set_major_locator(MaxNLocator(3))
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_title(panel.name, size=NORMAL, color=INK, loc="left", pad=4)
    return image
