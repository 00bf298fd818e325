"""A metric by axis values: every seed a point, their mean with its standard error."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from harness.analysis.figures import GREY, INK, NORMAL, PALETTE, SMALL, caption_height, clean, new_figure
from harness.analysis.frame import combinations, control_name, describe, show, unit, varying_axes
from harness.runs import STATUSES

ROW = 0.27  # inches
MAX_ROWS = 60
OUTLYING = 4.0
"""Values so many interquartile ranges beyond the quartiles become arrows at the edge."""


@dataclass(frozen=True)
class Row:
    """One combination: its values by seed, and what became of the runs without one."""

    label: str
    y: float
    color: str
    values: np.ndarray
    others: str


def metric_by_axis(runs: pd.DataFrame, key: str, *, title: str) -> Figure | None:
    """One row a combination of axis values, the first axis by colour; controls are vertical lines.

    runs: a frame of `harness.analysis.frame.frame`; key: one of its metric keys. Only complete runs with a value
    count; what became of the others stands beside the row. At most MAX_ROWS rows are drawn, which the caption says.
    None where no run counts.
    """
    rows = _rows(runs, key)
    shown = rows[:MAX_ROWS]
    values = np.concatenate([row.values for row in shown])
    if not len(values):
        return None
    controls = _controls(runs, key)
    limits = _limits(values, [value for _, value, _ in controls])
    caption = [
        f"{key}. Circles: single seeds. Diamonds: mean ± standard error over seeds.",
        "Lines: other images in the place of samples ± sampling standard error." if controls else "",
        "Arrows: beyond the axis." if ((values < limits[0]) | (values > limits[1])).any() else "",
        f"The first {len(shown)} of {len(rows)} combinations." if len(shown) < len(rows) else "",
    ]
    left = 0.3 + 0.07 * max(len(row.label) for row in shown)
    right = 0.25 + 0.058 * max(len(row.others) for row in shown)
    width = left + 5.0 + right
    text = " ".join(filter(None, caption))
    top, bottom = 0.5 + 0.15 * max(len(controls), 1), 0.6 + caption_height(text, width)
    height = top + bottom + ROW * (shown[-1].y + 1.2)
    figure = new_figure(width, height, title=title, caption=text)
    axes = figure.add_axes((left / width, bottom / height, 5.0 / width, 1 - (top + bottom) / height))
    axes.set_xlim(limits)
    axes.set_ylim(shown[-1].y + 0.6, -0.6)
    clean(axes)
    axes.grid(visible=False, axis="y")
    for row in shown:
        _draw_row(axes, row, limits)
    _draw_controls(axes, controls)
    axes.set_yticks([row.y for row in shown], [row.label for row in shown], size=NORMAL)
    axes.tick_params(axis="y", length=0)
    name = key.partition("[")[0]
    axes.set_xlabel(f"{name} ({unit(key)})" if unit(key) else name, size=NORMAL, color=INK)
    return figure


def _rows(runs: pd.DataFrame, key: str) -> list[Row]:
    axes = varying_axes(runs)
    rows: list[Row] = []
    colors: dict[str, str] = {}
    y = -1.0
    groups = combinations(runs, axes)
    grouped = len(axes) > 1 and runs[axes[0]].nunique() <= len(PALETTE)
    for label, members in groups:
        first = show(label[0]) if grouped else ""
        y += 1.0 if first in colors or not colors else 1.7  # a gap between the values of the first axis
        color = colors.setdefault(first, PALETTE[len(colors) % len(PALETTE)])
        counted = members.loc[(members["status"] == "complete") & members[key, "value"].notna(), (key, "value")]
        rows.append(
            Row(" · ".join(describe(axes, label)), y, color, counted.to_numpy(), _others(members, len(counted)))
        )
    return rows


def _others(members: pd.DataFrame, counted: int) -> str:
    statuses = members["status"].value_counts().to_dict()
    statuses = {"unevaluated": statuses.pop("complete", 0) - counted, **statuses}
    return ", ".join(f"{statuses[name]} {name}" for name in ("unevaluated", *STATUSES) if statuses.get(name))


def _controls(runs: pd.DataFrame, key: str) -> list[tuple[str, float, float]]:
    """Name, value and standard error (0 if unknown) of each control that has the metric."""
    records = [
        (control_name(name, runs), entry["metrics"][key])
        for grid in runs["grid"].unique()
        for name, entry in runs.attrs["controls"][grid].items()
        if entry["metrics"].get(key, {}).get("value") is not None
    ]
    return [(name, record["value"], record["standard_error"] or 0.0) for name, record in records]


def _limits(values: np.ndarray, controls: Sequence[float]) -> tuple[float, float]:
    first, third = np.percentile(values, [25, 75])
    reach = OUTLYING * (third - first)
    inner = values[(values >= first - reach) & (values <= third + reach)]
    ends = [*inner, *controls]
    margin = 0.05 * (max(ends) - min(ends)) or 1.0
    return float(min(ends) - margin), float(max(ends) + margin)


def _draw_row(axes: Axes, row: Row, limits: tuple[float, float]) -> None:
    low, high = limits
    axes.text(1.02, row.y, row.others, transform=axes.get_yaxis_transform(), size=SMALL, color=GREY, va="center")
    for marker, inside in (
        ("o", (row.values >= low) & (row.values <= high)),
        ("<", row.values < low),
        (">", row.values > high),
    ):
        x = np.clip(row.values[inside], low, high)
        hollow = "none" if marker == "o" else row.color
        axes.plot(
            x,
            np.full(len(x), row.y),
            marker,
            color=row.color,
            markerfacecolor=hollow,
            markersize=5,
            alpha=0.75,
            clip_on=False,
        )
    if len(row.values) > 1:
        error = row.values.std(ddof=1) / math.sqrt(len(row.values))
        axes.errorbar(
            row.values.mean(), row.y, xerr=error, fmt="D", color=row.color, markersize=4.5, elinewidth=1.6, capsize=3
        )


def _draw_controls(axes: Axes, controls: list[tuple[str, float, float]]) -> None:
    for number, (name, value, error) in enumerate(controls):
        axes.axvspan(value - error, value + error, color=GREY, alpha=0.15, linewidth=0)
        axes.axvline(value, color=GREY, linewidth=1.0, linestyle=(0, (4, 3)))
        axes.annotate(
            f"{name} ",
            (value, 1),
            xytext=(0, 3 + 10 * number),
            textcoords="offset points",
            xycoords=axes.get_xaxis_transform(),
            size=SMALL,
            color=GREY,
            ha="center",
        )
