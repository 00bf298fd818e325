"""Runs -> a table by axes: means and standard errors over seeds, the runs that count and those that do not.

Two errors stand side by side and are never mixed. Over seeds: how much retraining changes the value. Sampling: the
mean of the runs' own standard errors, over test examples, which is what published tables print.
"""

from __future__ import annotations

from collections.abc import Hashable
from typing import Any

import pandas as pd

from harness.analysis import notes
from harness.analysis.cells import counts, means, sampling_errors, short_names
from harness.analysis.formats import format_frame
from harness.analysis.frame import (
    FAILURES,
    FLAGS,
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
from harness.runs import GridFolder

STATISTICS = ("mean", "standard_error", "sampling_standard_error", "runs", "unevaluated", *FLAGS)
COUNTS = ("runs", "unevaluated", "failures", "unfinished", *FLAGS)

Row = dict[tuple[str, str], Any]


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
    rows = [summary(members, keys) for _, members in groups]
    for grid in runs["grid"].unique():
        for name, entry in runs.attrs["controls"][grid].items():
            if not entry["metrics"].keys().isdisjoint(keys):
                labels.append(_control_label(control_name(name, runs), grid, axes))
                rows.append(control_summary(entry["metrics"], keys))
    made = assemble(labels, axes, rows, keys)
    if len(axes) == 1:
        made.index = made.index.get_level_values(0)
    beneath = _notes(runs, keys, draws=draws)
    made.attrs = {"notes": [*beneath, *notes.flags(made, keys)]}
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


def assemble(labels: list[Label], names: list[str], rows: list[Row], keys: list[str]) -> pd.DataFrame:
    """Rows of `summary` and `control_summary` as one frame, their labels its index under some names."""
    columns = [(key, field) for key in keys for field in STATISTICS] + [
        ("all", field) for field in ("runs", "failures", "unfinished")
    ]
    return pd.DataFrame(
        [[row.get(column) for column in columns] for row in rows],
        index=pd.MultiIndex.from_tuples(labels, names=names),
        columns=pd.MultiIndex.from_tuples(columns),
    ).astype({column: "Int64" if column[1] in COUNTS else "float64" for column in columns})


def summary(members: pd.DataFrame, keys: list[str]) -> Row:
    """The columns of `table` for runs that differ by seed alone."""
    complete = members[members["status"] == "complete"]
    row: Row = {
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


def _raised(flags: pd.Series) -> int:
    """In how many records a flag is true; one that is absent is not."""
    return sum(flag is not None and bool(flag == 1) for flag in flags)


def control_summary(records: dict[str, Any], keys: list[str]) -> Row:
    """The columns of `table` for a control: it has no seeds."""
    row: Row = {}
    for key in keys:
        record = records.get(key, {})
        row[key, "mean"] = record.get("value")
        row[key, "sampling_standard_error"] = record.get("standard_error")
        row |= {(key, flag): int(record[flag]) for flag in FLAGS if record.get(flag) is not None}
    return row


def _control_label(shown: str, grid: str, axes: list[str]) -> Label:
    """The control's name in place of the first axis, blanks after it."""
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
    counted = table.loc[:, [(key, "runs") for key in keys]]
    # Where no run of a row has a metric, the cell's dash says so, and the notes why.
    counts_agree = bool((counted.where(counted.fillna(0) > 0).nunique(axis=1) <= 1).all())
    for number, (key, name) in enumerate(zip(keys, short_names(keys), strict=True), start=1):
        group = metric_group(table, key)
        columns.append((f"{name} ({unit(key)})" if unit(key) else name, means(group)))
        if group["sampling_standard_error"].notna().any():
            columns.append(("sampling", sampling_errors(group)))
        if not counts_agree:
            columns.append(("runs", counts(group["runs"])))
        if group["unevaluated"][group["runs"].fillna(0) > 0].sum():
            columns.append(("unevaluated", counts(group["unevaluated"])))
        groups += [number] * (len(columns) - len(groups))
    if not keys or counts_agree:
        columns.append(("runs", counts(counted.max(axis=1) if keys else table["all", "runs"])))
    columns += [(name, counts(table["all", name])) for name in ("failures", "unfinished")]
    groups += [len(keys) + 1] * (len(columns) - len(groups))
    shown = pd.DataFrame(dict(enumerate(cells for _, cells in columns)), dtype=object)
    shown.columns = pd.Index([name for name, _ in columns])
    shown.attrs["groups"] = groups
    return shown


def _keys(table: pd.DataFrame) -> list[str]:
    return list(dict.fromkeys(str(column[0]) for column in table.columns if column[1] == "mean"))


def _axes(table: pd.DataFrame) -> list[str]:
    return [str(name) for name in table.index.names]


def _notes(runs: pd.DataFrame, keys: list[str], *, draws: bool) -> list[str]:
    """What was measured, on how many, what each error is, and which runs do not count."""
    lines = [notes.measured(runs, key, name) for key, name in zip(keys, short_names(keys), strict=True)]
    if keys:
        lines.append(
            "Values: mean ± standard error over seeds (std / sqrt(runs); absent for a single run). "
            "sampling: mean of the runs' own standard errors, over what each metric's line says (test images for "
            "parzen); retraining is no part of it. "
            "In a key, n is the number of generated samples."
        )
    if any(notes.OF_DRAWS in key for key in keys):
        lines.append(f"{notes.OF_DRAWS}: {notes.DRAWS} Other keys: samples as the method gives them.")
    if runs.attrs.get("searched"):
        each = (
            "each draw of a search is a row" if draws else "the draws of a search are one row, mean and error over them"
        )
        lines.append(f"stage: {each}; the best are chosen by validation images and have seeds of their own.")
    lines.append(
        f"runs: those in the mean, complete and evaluated. failures: failed or diverged. {notes.statuses(runs)}"
    )
    controls = [pair for grid in runs["grid"].unique() for pair in runs.attrs["controls"][grid].items()]
    return [*lines, *notes.reasons(runs, keys), *notes.companions(controls, keys, rows="Rows without runs")]
