"""Training curves: the losses, and D(x) and D(G(z)), against the iteration."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.gridspec import SubplotSpec
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from harness.analysis.figures import (
    BLUE,
    GREY,
    HEADER,
    INK,
    LARGE,
    MAX_PANELS,
    NORMAL,
    PALETTE,
    SMALL,
    VERMILION,
    caption_height,
    clean,
    new_figure,
)
from harness.runs import RunFolder

POINTS = 200
TITLE_WIDTH = 30  # characters
TWO_TERM_LOSSES = ("minimax", "non_saturating")
PROBABILITIES = ("d_real", "d_fake")
OUTPUTS = (*PROBABILITIES, "score_difference")
BESIDE = ("penalty",)  # in the history, not in the figure
COLORS = {"discriminator_loss": BLUE, "d_real": BLUE, "generator_loss": VERMILION, "d_fake": VERMILION}
NAMES = {"d_real": "D(x)", "d_fake": "D(G(z))", "score_difference": "E a(x) - E a(G(z))"}


@dataclass(frozen=True)
class Curve:
    """One run's history as means over blocks of iterations, and whether the run is complete."""

    complete: bool
    blocks: pd.DataFrame


@dataclass(frozen=True)
class Panel:
    """The curves of one combination; `two_terms` where the loss has its equilibrium, log 4, at D = 1/2."""

    title: str
    curves: list[Curve]
    two_terms: bool

    def columns(self, *, outputs: bool) -> list[str]:
        """The discriminator's outputs (probabilities where it gives them, else score differences), or the losses."""
        found = dict.fromkeys(str(name) for curve in self.curves for name in curve.blocks if name != "iteration")
        if outputs:
            probabilities = [name for name in found if name in PROBABILITIES]
            return probabilities or [name for name in found if name in OUTPUTS]
        return [name for name in found if name not in (*OUTPUTS, *BESIDE)]

    def mean(self) -> pd.DataFrame | None:
        """The mean over complete runs, block by block; None where no run is."""
        complete = [curve.blocks for curve in self.curves if curve.complete]
        return pd.concat(complete).groupby(level=0).mean() if complete else None


def curves(panels: Mapping[str, Sequence[RunFolder]], *, title: str, columns: int = 4) -> Figure | None:
    """One panel a key of `panels`: losses above, D(x) and D(G(z)) below; each seed thin, their mean thick.

    The mean is over complete runs; others are dotted up to a cross. Long histories are thinned to means over blocks
    of iterations, and at most MAX_PANELS panels are drawn: the caption says both, and how many runs have no history.
    None where no run has one.
    """
    shown = dict(list(panels.items())[:MAX_PANELS])
    histories = {name: [(run, run.history()) for run in runs] for name, runs in shown.items()}
    lengths = [len(history) for runs in histories.values() for _, history in runs if history is not None]
    if not any(lengths):
        return None
    block = math.ceil(max(lengths) / POINTS)
    drawn = [_panel(name, runs, block=block) for name, runs in histories.items()]
    missing = sum(map(len, shown.values())) - len(lengths)
    several = any(len(panel.curves) > 1 for panel in drawn)
    incomplete = any(not curve.complete for panel in drawn for curve in panel.curves)
    caption = [
        "Thin: single seeds. Thick: mean over complete runs." if several else "",
        "Dotted up to a cross: a run that did not complete." if incomplete else "",
        f"Each point is the mean of {block} iterations." if block > 1 else "",
        f"Runs without a history, not drawn: {missing}." if missing else "",
        f"The first {len(shown)} of {len(panels)} combinations." if len(shown) < len(panels) else "",
    ]
    return _draw(drawn, title=title, caption=" ".join(filter(None, caption)), columns=min(columns, len(drawn)))


def _panel(title: str, runs: Sequence[tuple[RunFolder, pd.DataFrame | None]], *, block: int) -> Panel:
    drawn = [Curve(run.status() == "complete", _thin(history, block)) for run, history in runs if history is not None]
    experiments = [run.experiment() for run, _ in runs]
    # a baseline's record names a loss as well, which it does not use
    adversarial = all(experiment.get("method", "gan") == "gan" for experiment in experiments)
    two_terms = all(
        experiment.get("loss") in TWO_TERM_LOSSES and "real_label" not in experiment for experiment in experiments
    )
    return Panel(title, drawn, adversarial and two_terms)


def _thin(history: pd.DataFrame, block: int) -> pd.DataFrame:
    """Means over blocks of rows, without what is not finite."""
    numbers = history.select_dtypes("number").astype("float64")
    return numbers.where(np.isfinite(numbers)).groupby(np.arange(len(history)) // block).mean()


def _draw(panels: list[Panel], *, title: str, caption: str, columns: int) -> Figure:
    rows = math.ceil(len(panels) / columns)
    single = len(panels) == 1
    width = 1.0 + columns * (6.0 if single else 2.1)
    bottom = 0.55 + caption_height(caption, width)
    height = HEADER + 0.4 + rows * (4.0 if single else 2.75) + bottom
    figure = new_figure(width, height, title=title, caption=caption)
    grid = figure.add_gridspec(
        rows,
        columns,
        left=0.6 / width,
        right=1 - 0.2 / width,
        top=1 - (HEADER + 0.4) / height,
        bottom=bottom / height,
        hspace=0.34,
        wspace=0.12 if all(panel.two_terms for panel in panels) else 0.3,
    )
    for start in range(0, len(panels), columns):
        across = panels[start : start + columns]
        shared = _limits(across) if all(panel.two_terms for panel in across) else None
        for column, panel in enumerate(across):
            frames = _draw_panel(figure, grid[start // columns, column], panel)
            frames[0].set_ylim(shared or _limits([panel]))
            frames[-1].tick_params(labelbottom=True)
            for axes in frames:
                axes.tick_params(labelleft=column == 0 or shared is None)
            if start + column + columns >= len(panels):
                frames[-1].set_xlabel("iteration", size=SMALL, color=INK)
            if column == 0:
                frames[0].set_ylabel("loss (nats)" if shared else "loss", size=SMALL, color=INK)
    figure.legend(
        handles=_legend(panels),
        loc="upper left",
        bbox_to_anchor=(0.04 / width, 1 - (0.2 + LARGE / 72) / height),
        ncols=4 if width > 8 else 2,
        frameon=False,
        fontsize=NORMAL,
        handlelength=1.6,
        columnspacing=1.6,
    )
    return figure


def _draw_panel(figure: Figure, place: SubplotSpec, panel: Panel) -> list[Axes]:
    """The losses' axes and, where the history has them, those of the discriminator's outputs."""
    outputs = panel.columns(outputs=True)
    inner = place.subgridspec(1 + bool(outputs), 1, height_ratios=[3, 2][: 1 + bool(outputs)], hspace=0.1)
    losses = figure.add_subplot(inner[0])
    title = "\n".join(line.removesuffix(" ·") for line in textwrap.wrap(panel.title, TITLE_WIDTH))
    losses.set_title(title, size=NORMAL, color=INK, loc="left", pad=4)
    _plot(losses, panel, panel.columns(outputs=False), reference=math.log(4) if panel.two_terms else None)
    if not outputs:
        return [losses]
    below = figure.add_subplot(inner[1], sharex=losses)
    is_probability = outputs[0] in PROBABILITIES
    _plot(below, panel, outputs, reference=0.5 if is_probability else None)
    if is_probability:
        below.set_ylim(-0.02, 1.02)
        below.set_yticks([0, 0.5, 1], ["0", "½", "1"])
    losses.tick_params(labelbottom=False)
    return [losses, below]


def _plot(axes: Axes, panel: Panel, names: Sequence[str], *, reference: float | None) -> None:
    clean(axes)
    axes.xaxis.set_major_locator(MaxNLocator(3, integer=True))
    axes.yaxis.set_major_locator(MaxNLocator(4))
    if reference is not None:
        axes.axhline(reference, color=GREY, linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
    mean = panel.mean()
    for name in names:
        color = _color(name, names)
        for curve in panel.curves:
            if name not in curve.blocks:
                continue
            x, y = curve.blocks["iteration"], curve.blocks[name]
            axes.plot(x, y, color=color, linewidth=0.6, alpha=0.45, linestyle="-" if curve.complete else ":")
            if not curve.complete:
                axes.plot(x.iloc[-1:], y.ffill().iloc[-1:], "x", color=color, markersize=5, clip_on=False)
        if mean is not None and name in mean:
            axes.plot(mean["iteration"], mean[name], color=color, linewidth=1.6)


def _color(name: str, names: Sequence[str]) -> str:
    return COLORS.get(name, PALETTE[list(names).index(name) % len(PALETTE)])


def _limits(panels: Sequence[Panel]) -> tuple[float, float]:
    """The range of nearly all values of the losses, so that a few spikes do not flatten the rest."""
    values = [
        curve.blocks[panel.columns(outputs=False)].to_numpy().ravel() for panel in panels for curve in panel.curves
    ]
    known = np.concatenate([*values, [math.log(4)] if all(panel.two_terms for panel in panels) else []])
    low, high = np.nanpercentile(known, [0.5, 99.5]) if np.isfinite(known).any() else (0.0, 1.0)
    margin = 0.06 * (high - low) or 0.5
    return float(low - margin), float(high + margin)


def _legend(panels: Sequence[Panel]) -> list[Line2D]:
    """One entry a colour: a network's loss above has the colour of its output below."""
    entries: dict[str, list[str]] = {}
    for panel in panels:
        for outputs in (False, True):
            names = panel.columns(outputs=outputs)
            for name in names:
                labels = entries.setdefault(_color(name, names), [])
                labels += [label for label in [NAMES.get(name, name.replace("_", " "))] if label not in labels]
    handles = [Line2D([], [], color=color, linewidth=1.8, label=", ".join(labels)) for color, labels in entries.items()]
    if any(panel.two_terms for panel in panels):
        handles.append(
            Line2D(
                [],
                [],
                color=GREY,
                linewidth=0.9,
                linestyle=(0, (4, 3)),
                label="equilibrium: log 4, ½",
            )
        )
    return handles
