"""What all figures share: colours, sizes, captions, and writing them as PNG files."""

from __future__ import annotations

import io
import textwrap
from collections.abc import Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from harness.errors import storage_error
from harness.runs import write_bytes

# Okabe and Ito's palette: distinct in every common form of colour blindness
BLUE, VERMILION = "#0072B2", "#D55E00"
PALETTE = (BLUE, VERMILION, "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
INK, GREY, FAINT = "#222222", "#6b6b6b", "#e4e4e4"

SMALL, NORMAL, LARGE = 7.5, 8.5, 12.0  # points
CHARACTERS_PER_INCH = 14.5  # of captions, with room for wide letters and ids
DOTS_PER_INCH = (120, 105, 90, 75, 60)
MAX_BYTES = 1_000_000
MAX_PANELS = 24
HEADER = 0.75  # inches


def new_figure(width: float, height: float, *, title: str, caption: str) -> Figure:
    """A figure (inches) with its title at the top left and its caption, wrapped, at the bottom left."""
    figure = Figure(figsize=(width, height), facecolor="white")
    FigureCanvasAgg(figure)
    figure.text(0.12 / width, 1 - 0.12 / height, title, size=LARGE, weight="bold", color=INK, va="top")
    wrapped = "\n".join(_wrap(caption, width))
    figure.text(0.12 / width, 0.08 / height, wrapped, size=SMALL, color=GREY, va="bottom", linespacing=1.3)
    return figure


def caption_height(caption: str, width: float) -> float:
    """The height that a caption takes, in a figure of that width; inches."""
    return 0.1 + 0.14 * len(_wrap(caption, width))


def clean(axes: Axes) -> None:
    """A plain frame: no box, a faint grid, small ticks."""
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(GREY)
    axes.grid(color=FAINT, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.tick_params(labelsize=SMALL, color=GREY, labelcolor=INK, length=2.5)


def columns_for(sizes: Sequence[int], panels: int) -> int:
    """How many panels stand side by side: whole blocks of the last axes where the grid is a full product.

    sizes: the number of values of each axis.
    """
    blocks, product = [], 1
    for size in reversed(sizes):
        product *= size
        if size > 1:
            blocks.append(product)
    fitting = [block for block in blocks if block <= 6] if product == panels else []
    return max(fitting, default=min(panels, 4)) if panels > 1 else 1


def _wrap(caption: str, width: float) -> list[str]:
    return textwrap.wrap(caption, round((width - 0.24) * CHARACTERS_PER_INCH))


def to_png(figure: Figure, path: Path) -> Path:
    """Write a figure as a PNG of under MAX_BYTES (with fewer dots where it must be) and give its path.

    Errors: as `storage_error`, where it cannot be written.
    """
    for dots in DOTS_PER_INCH:
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=dots, metadata={"Software": None})
        if buffer.tell() < MAX_BYTES:
            break
    try:
        write_bytes(path, buffer.getvalue())
    except OSError as error:
        raise storage_error(error, path, another="folder") from error
    return path
