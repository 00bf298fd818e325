"""Samples as pictures: those of one run, and those of a grid side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from harness.analysis.figures import (
    BLUE,
    GREY,
    HEADER,
    INK,
    MAX_PANELS,
    NORMAL,
    SMALL,
    caption_height,
    clean,
    new_figure,
)
from harness.runs import RunFolder

PER_ROW = 16


def samples(run: RunFolder, *, title: str) -> Figure | None:
    """The first 100 of a run's samples, 10 x 10; toys as a scatter plot (2-d) or a histogram (1-d).

    None where the run has none.
    """
    images = run.samples()
    if images is None:
        return None
    caption = f"{min(len(images), 100) if is_picture(images) else len(images)} samples of fixed noise, none selected."
    figure = new_figure(5.6, 6.3, title=title, caption=caption)
    if is_picture(images):
        axes = figure.add_axes((0.12 / 5.6, 0.4 / 6.3, 5.36 / 5.6, 5.36 / 6.3))
        show_mosaic(axes, images[:100], columns=10)
    else:
        axes = figure.add_axes((0.6 / 5.6, 0.85 / 6.3, 4.8 / 5.6, 4.8 / 6.3))
        show_points(axes, run, images)
        axes.set_xlabel("x" if images.shape[1] == 1 else "first coordinate", size=SMALL, color=INK)
        axes.set_ylabel("density" if images.shape[1] == 1 else "second coordinate", size=SMALL, color=INK)
    return figure


def grid_samples(rows: Mapping[str, RunFolder | None], *, title: str, columns: int = 4) -> Figure | None:
    """One row of samples a key of `rows`; toys in panels, `columns` side by side.

    At most MAX_PANELS rows are drawn, which the caption says. None where no run has samples.
    """
    shown = dict(list(rows.items())[:MAX_PANELS])
    images = {name: None if run is None else run.samples() for name, run in shown.items()}
    found = [array for array in images.values() if array is not None]
    if not found:
        return None
    caption = "Samples of fixed noise, of one run for each combination, none selected."
    if len(shown) < len(rows):
        caption += f" The first {len(shown)} of {len(rows)} combinations."
    if any(map(is_picture, found)):
        return _rows(images, title=title, caption=caption)
    return _panels(shown, images, title=title, caption=caption, columns=min(columns, len(images)))


def is_picture(images: np.ndarray) -> bool:
    """Whether samples (n, c, h, w) have more than one pixel; toys are (n, d, 1, 1)."""
    return images.shape[2:] != (1, 1)


def show_mosaic(axes: Axes, images: np.ndarray, *, columns: int) -> None:
    """Images (n, c, h, w) in [0, 1] beside and beneath each other, a white line between them."""
    axes.imshow(mosaic(images, columns=columns), interpolation="nearest", cmap="gray", vmin=0, vmax=1)
    axes.set_axis_off()


def mosaic(images: np.ndarray, *, columns: int) -> np.ndarray:
    """Images (n, c, h, w) in [0, 1] as one picture (H, W, 3), a white pixel (or more, by size) between them."""
    n, channels, height, width = images.shape
    gap = gap_of(height)
    rows = math.ceil(n / columns)
    canvas = np.ones((rows * (height + gap) - gap, columns * (width + gap) - gap, 3), dtype=np.float32)
    for number, image in enumerate(np.clip(np.nan_to_num(images), 0, 1)):
        row, column = divmod(number, columns)
        top, left = row * (height + gap), column * (width + gap)
        color = image if channels == 3 else image[:1]
        canvas[top : top + height, left : left + width] = color.transpose(1, 2, 0)
    return canvas


def gap_of(height: int) -> int:
    """The pixels between images of a height in a mosaic."""
    return max(1, round(height / 16))


def show_points(axes: Axes, run: RunFolder, points: np.ndarray) -> None:
    """Toy samples (n, d, 1, 1) in original units: a histogram for d = 1, else a scatter plot of the first two."""
    affine = (run.provenance() or {}).get("affine") or {"offset": [0.0], "scale": [1.0]}
    offset, scale = np.asarray(affine["offset"]), np.asarray(affine["scale"])
    lower, upper = np.broadcast_arrays(offset, offset + scale)
    original = offset + scale * points.reshape(len(points), -1)
    clean(axes)
    axes.set_xlim(lower[0], upper[0])
    axes.xaxis.set_major_locator(MaxNLocator(3))
    if original.shape[1] == 1:
        axes.hist(original[:, 0], bins=np.linspace(lower[0], upper[0], 61).tolist(), density=True, color=BLUE)
        return
    axes.scatter(original[:, 0], original[:, 1], s=7, color=BLUE, alpha=0.6, linewidths=0)
    axes.set_ylim(lower[-1], upper[-1])
    axes.yaxis.set_major_locator(MaxNLocator(3))
    axes.set_aspect("equal")


def _rows(images: Mapping[str, np.ndarray | None], *, title: str, caption: str) -> Figure:
    margin = 0.3 + 0.07 * max(map(len, images))
    width, height = margin + PER_ROW * 0.4 + 0.15, HEADER + 0.35 + len(images) * 0.43
    figure = new_figure(width, height, title=title, caption=caption)
    for number, (name, array) in enumerate(images.items()):
        top = HEADER - 0.2 + number * 0.43
        axes = figure.add_axes((margin / width, 1 - (top + 0.4) / height, PER_ROW * 0.4 / width, 0.4 / height))
        axes.set_axis_off()
        if array is not None and is_picture(array):
            show_mosaic(axes, array[:PER_ROW], columns=PER_ROW)
            axes.set_anchor("W")
        else:
            axes.text(0, 0.5, "no samples", size=SMALL, color=GREY, va="center")
        figure.text(0.12 / width, 1 - (top + 0.2) / height, name, size=NORMAL, color=INK, va="center")
    return figure


def _panels(
    runs: Mapping[str, RunFolder | None],
    images: Mapping[str, np.ndarray | None],
    *,
    title: str,
    caption: str,
    columns: int,
) -> Figure:
    rows = math.ceil(len(images) / columns)
    width = 0.6 + columns * 1.9
    bottom = 0.35 + caption_height(caption, width)
    height = HEADER + bottom + rows * 2.1
    figure = new_figure(width, height, title=title, caption=caption)
    grid = figure.add_gridspec(
        rows,
        columns,
        left=0.4 / width,
        right=1 - 0.2 / width,
        top=1 - HEADER / height,
        bottom=bottom / height,
        wspace=0.2,
        hspace=0.28,
    )
    drawn: dict[int, Axes] = {}
    for number, (name, run) in enumerate(runs.items()):
        axes = figure.add_subplot(grid[divmod(number, columns)])
        axes.set_title(name, size=NORMAL, color=INK, loc="left", pad=4)
        array = images[name]
        if run is None or array is None:
            axes.set_axis_off()
            continue
        show_points(axes, run, array)
        drawn[number] = axes
    one_width = len({axes.get_xlim() for axes in drawn.values()}) == 1
    one_height = len({axes.get_ylim() for axes in drawn.values()}) == 1
    for number, axes in drawn.items():
        axes.tick_params(
            labelleft=number % columns == 0 or not one_height,
            labelbottom=number + columns >= len(images) or not one_width,
        )
    return figure
