"""Runs -> a table by axes: means and standard errors over seeds, the runs that count and those that do not.

Two errors stand side by side and are never mixed. Over seeds: how much retraining changes the value. Sampling: the
mean of the runs' own standard errors, over test examples, which is what published tables print.
"""

from __future__ import annotations

import math
from collections.abc import Hashable
from typing import Any

import numpy as np
import pandas as pd

from harness.analysis.formats import format_frame
from harness.analysis.frame import (
    FAILURES,
    UNFINISHED,
    Label,
    combinations,
    control_name,
    draws_together,
    frame,
    metric_group,
    metric_keys,
    show,
    unit,
    varying_axes,
)
from harness.errors import InputError, UnknownName
from harness.runs import STATUSES, GridFolder

FLAGS = {"sigma_at_edge": "sigma lies at the edge of its range, so a better one may lie beyond"}
STATISTICS = ("mean", "standard_error", "sampling_standard_error", "runs", "unevaluated", *FLAGS)
COUNTS = ("runs", "unevaluated", "failures", "unfinished", *FLAGS)


def table(source: GridFolder | pd.DataFrame, *, metric: str | None = None, draws: bool = False) -> pd.DataFrame:
    """One row a combination of axis values, then one a control; the axes that vary are the index, in grid order.

    source: a grid, or a frame of `harness.analysis.frame.frame` (of several grids, or a part of one).
    metric: a metric key or the beginning of one ("parzen": all its keys); None: all metrics.
    draws: a row for each draw of a search whose best train again; else they are one row at each point of the axes.
    Columns, under each metric key: `mean` and `standard_error` over seeds (std with ddof 1 / sqrt(runs); NaN for one
    run), `sampling_standard_error` (mean of the runs' own), `runs` (those in the mean: complete and with a value),
    `unevaluated` (complete, without a value), and in how many of `runs` each of FLAGS is raised; under "all": `runs`,
    `failures` (failed or diverged) and `unfinished`. For each key, all runs = runs + unevaluated + failures +
    unfinished. A control has no seeds and no counts of runs. `attrs["notes"]` says what was measured.
    Errors: UnknownName for a metric no run has, InputError where it fits several metrics or nothing is evaluated.
    """
    runs = source if isinstance(source, pd.DataFrame) else frame([source])
    runs = runs if draws else draws_together(runs)
    keys = choose_keys(runs, metric)
    axes = varying_axes(runs)
    groups = combinations(runs, axes)
    labels: list[Label] = [label for label, _ in groups]
    rows = [_summary(members, keys) for _, members in groups]
    for grid in runs["grid"].unique():
        for name, records in runs.attrs["controls"][grid].items():
            if not records.keys().isdisjoint(keys):
                labels.append(_control_label(name, grid, axes))
                rows.append(_control(records, keys))
    columns = [(key, field) for key in keys for field in STATISTICS] + [
        ("all", field) for field in ("runs", "failures", "unfinished")
    ]
    index: pd.Index[Any] = pd.MultiIndex.from_tuples(labels, names=axes)
    made = pd.DataFrame(
        [[row.get(column) for column in columns] for row in rows],
        index=index if len(axes) > 1 else index.get_level_values(0),
        columns=pd.MultiIndex.from_tuples(columns),
    ).astype({column: "Int64" if column[1] in COUNTS else "float64" for column in columns})
    made.attrs = {"notes": _notes(runs, keys, controls=len(rows) > len(groups), draws=draws)}
    return made


def choose_keys(runs: pd.DataFrame, metric: str | None) -> list[str]:
    """The metric keys that a key or the beginning of one stands for; all of them for None.

    Errors: as `table`.
    """
    known = metric_keys(runs)
    if metric is None or metric in known:
        return known if metric is None else [metric]
    if not known:
        raise InputError("no run is evaluated yet, so there is no metric to show; run `harness evaluate` on the grid.")
    found = [key for key in known if key.startswith(metric)]
    names = {key.partition("[")[0] for key in found}
    if not found:
        raise UnknownName("metric", metric, known)
    if len(names) > 1 and metric not in names:
        raise InputError(f"metric {metric!r} fits {', '.join(sorted(names))}; give one of them.")
    return [key for key in found if len(names) == 1 or key.partition("[")[0] == metric]


def render(table: pd.DataFrame, format: str) -> str:
    """A table of `table` in one of harness.analysis.formats.FORMATS.

    Text, Markdown and LaTeX: "41.2 ± 1.3" with two digits of the typical error, and the notes. CSV and JSON: full
    precision, one row a combination and metric, plain column names; `control` names the rows that are no runs.
    Errors: UnknownName for a format that does not exist.
    """
    if format in ("csv", "json"):
        return format_frame(_long(table), format)
    return format_frame(_for_people(table), format, notes=table.attrs.get("notes", ()))


def _summary(members: pd.DataFrame, keys: list[str]) -> dict[tuple[str, str], Any]:
    complete = members[members["status"] == "complete"]
    row: dict[tuple[str, str], Any] = {
        ("all", "runs"): len(members),
        ("all", "failures"): int(members["status"].isin(FAILURES).sum()),
        ("all", "unfinished"): int(members["status"].isin(UNFINISHED).sum()),
    }
    for key in keys:
        counted = metric_group(complete[complete[key, "value"].notna()], key)
        values = counted["value"]
        row[key, "mean"] = values.mean()
        row[key, "standard_error"] = values.sem(ddof=1)
        row[key, "sampling_standard_error"] = counted["standard_error"].mean()
        row[key, "runs"] = len(values)
        row[key, "unevaluated"] = len(complete) - len(values)
        row |= {(key, flag): _raised(counted[flag]) for flag in FLAGS if flag in counted}
    return row


def _control(records: dict[str, Any], keys: list[str]) -> dict[tuple[str, str], Any]:
    row: dict[tuple[str, str], Any] = {}
    for key in keys:
        record = records.get(key, {})
        row[key, "mean"] = record.get("value")
        row[key, "sampling_standard_error"] = record.get("standard_error")
        row |= {(key, flag): int(record[flag]) for flag in FLAGS if record.get(flag) is not None}
    return row


def _control_label(name: str, grid: str, axes: list[str]) -> Label:
    """The control's name in place of the first axis, blanks after it."""
    shown = control_name(name)
    if axes == ["grid"]:
        return (f"{grid}: {shown}",)
    before: list[Hashable] = [grid] * _first_axis(axes)
    return tuple([*before, shown] + [""] * (len(axes) - len(before) - 1))


def _first_axis(axes: list[str]) -> int:
    """The index level of the first axis: a table of several grids has the grid before it."""
    return int(axes[0] == "grid" and len(axes) > 1)


def _long(table: pd.DataFrame) -> pd.DataFrame:
    """One row a combination and metric: axes, `control`, `metric`, the key's columns, then the counts over all."""
    labels = table.index.to_frame(index=False).astype(object)
    controls = table["all", "runs"].isna().to_numpy()
    first = _first_axis(_axes(table))
    names = [label if control else None for label, control in zip(labels.iloc[:, first], controls, strict=True)]
    labels.loc[controls, _axes(table)[first:]] = None
    labels["control"] = names
    counts = metric_group(table, "all").reset_index(drop=True).rename(columns={"runs": "all_runs"})
    pieces = [
        pd.concat([labels.assign(metric=key), metric_group(table, key).reset_index(drop=True), counts], axis=1)
        for key in _keys(table)
    ]
    return pd.concat(pieces, ignore_index=True) if pieces else pd.concat([labels, counts], axis=1)


def _for_people(table: pd.DataFrame) -> pd.DataFrame:
    """The table with rounded cells as text and short headings."""
    columns: list[tuple[str, list[str]]] = [
        (axis, [show(value) for value in table.index.get_level_values(axis)]) for axis in _axes(table)
    ]
    keys = _keys(table)
    groups = [0] * len(columns)
    counts_agree = len({tuple(table[key, "runs"].fillna(-1)) for key in keys}) == 1
    for number, (key, name) in enumerate(zip(keys, _short_names(keys), strict=True), start=1):
        group = metric_group(table, key)
        sampling = group["sampling_standard_error"]
        digits = _decimals(group["standard_error"].fillna(sampling), values=group["mean"])
        columns.append((f"{name} ({unit(key)})" if unit(key) else name, _means(group, digits)))
        digits = _decimals(sampling, values=sampling)
        if sampling.notna().any():
            columns.append(("sampling", [f"± {error:.{digits}f}" if error == error else "-" for error in sampling]))
        if not counts_agree:
            columns.append(("runs", _counts(group["runs"])))
        if group["unevaluated"].sum():
            columns.append(("unevaluated", _counts(group["unevaluated"])))
        groups += [number] * (len(columns) - len(groups))
    if not keys or counts_agree:
        columns.append(("runs", _counts(table[keys[0] if keys else "all", "runs"])))
    columns += [(name, _counts(table["all", name])) for name in ("failures", "unfinished")]
    groups += [len(keys) + 1] * (len(columns) - len(groups))
    shown = pd.DataFrame(dict(enumerate(cells for _, cells in columns)), dtype=object)
    shown.columns = pd.Index([name for name, _ in columns])
    shown.attrs["groups"] = groups
    return shown


def _means(group: pd.DataFrame, digits: int) -> list[str]:
    """Cells "41.2 ± 1.3", the errors aligned, with a star where a flag is raised."""
    errors = [f"{value:.{digits}f}" if value == value else "" for value in group["standard_error"]]
    width = max(map(len, errors))
    flagged = group[[flag for flag in FLAGS if flag in group]].sum(axis=1) > 0
    cells = []
    for mean, error, flag in zip(group["mean"], errors, flagged, strict=True):
        value = f"{mean:.{digits}f}" if mean == mean else "-"
        spread = f" ± {error.rjust(width)}" if error else " " * (width + 3 if width else 0)
        star = " *" if flag else "  "
        cells.append(value + spread + (star if flagged.any() else ""))
    return cells


def _decimals(errors: pd.Series, *, values: pd.Series) -> int:
    """Decimals that give the typical error two digits; four digits of the typical value where there is no error."""
    sizes, digits = (errors, 2) if (errors > 0).any() else (values.abs(), 4)
    typical = sizes[sizes > 0].median()
    return int(np.clip(digits - 1 - math.floor(math.log10(typical)), 0, 12)) if typical == typical else 0


def _counts(values: pd.Series) -> list[str]:
    return ["" if pd.isna(value) else str(value) for value in values]


def _keys(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(str(column[0]) for column in table.columns if column[1] == "mean"))


def _axes(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.index.names]


def _short_names(keys: list[str]) -> list[str]:
    """Each key without the parts that all keys of its metric share: "parzen sigma=grid"; never without "validation"."""
    names = {key: key.partition("[")[0] for key in keys}
    parts = {key: key.partition("[")[2].rstrip("]").split(",") for key in keys}
    short = []
    for key in keys:
        shared = set.intersection(*(set(parts[other]) for other in keys if names[other] == names[key]))
        short.append(" ".join([names[key], *(part for part in parts[key] if part not in shared - {"validation"})]))
    return short


def _notes(runs: pd.DataFrame, keys: list[str], *, controls: bool, draws: bool) -> list[str]:
    """What was measured, on how many, what each error is, and which runs do not count."""
    counts = runs["status"].value_counts()
    statuses = ", ".join(f"{counts[status]} {status}" for status in STATUSES if status in counts)
    complete = runs[runs["status"] == "complete"]
    notes = [
        f"{name}: {'; '.join([key, *_conditions(metric_group(complete, key))])}."
        for key, name in zip(keys, _short_names(keys), strict=True)
    ]
    if keys:
        notes.append(
            "Values: mean ± standard error over seeds (std / sqrt(runs); absent for a single run). "
            "sampling: mean of the runs' own standard errors, over what each metric's line says (test images for "
            "parzen); retraining is no part of it. "
            "In a key, n is the number of generated samples."
        )
    if runs.attrs.get("searched"):
        each = (
            "each draw of a search is a row" if draws else "the draws of a search are one row, mean and error over them"
        )
        notes.append(f"stage: {each}; the best are chosen by validation images and have seeds of their own.")
    notes.append(
        f"runs: those in the mean, complete and evaluated. failures: failed or diverged. All {len(runs)}: {statuses}."
    )
    measured = {key.partition("[")[0] for key in keys}
    reasons = [
        complete[column]
        for column in complete.columns
        if column[1] == "reason" and (column[0].partition("[")[0] in measured or _never_measured(complete, column[0]))
    ]
    if reasons and (texts := pd.concat(reasons).dropna().unique()).size:
        notes.append(f"unevaluated: {'; '.join(texts)}.")
    if controls:
        notes.append("Rows without runs: other images in the place of samples, with their own sampling error.")
    raised = [flag for flag in FLAGS for key in keys if flag in complete[key] and _raised(complete[key][flag])]
    notes += [f"*: in at least one run, {FLAGS[flag]}." for flag in dict.fromkeys(raised)]
    return notes


def _never_measured(runs: pd.DataFrame, key: str) -> bool:
    """Whether no key of the metric has a value in any run, so that its reason is all there is to tell."""
    name = key.partition("[")[0]
    return not any(
        column[1] == "value" and column[0].partition("[")[0] == name and runs[column].notna().any()
        for column in runs.columns
    )


def _raised(flags: pd.Series) -> int:
    """In how many records a flag is true; one that is absent is not."""
    return sum(flag is not None and bool(flag == 1) for flag in flags)


def _conditions(records: pd.DataFrame) -> list[str]:
    """What else the records of a metric hold: "sigma 0.129 to 0.215", "test_images 10000"."""
    found = []
    for field in records.columns.difference(["value", "standard_error", "reason", *FLAGS], sort=False):
        values = records[field].dropna()
        if pd.api.types.is_numeric_dtype(values) and values.nunique() > 1:
            found.append(f"{field} {values.min():.4g} to {values.max():.4g}")
        elif len(values):
            found.append(f"{field} {', '.join(dict.fromkeys(show(value) for value in values))}")
    return found
