"""All records of one or more grids as one data frame, a row a run.

Columns have two levels, so that each metric is a group: `frame["loss"]` and `frame["status"]` are series,
`frame["parzen[test,n=10000,sigma=grid]"]` is a frame of `value`, `standard_error` and what else the record holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Mapping
from typing import Any

import pandas as pd

from harness.errors import InputError
from harness.runs import SEARCH, STAGE, GridFolder, read_json

FAILURES = ("failed", "diverged")
UNFINISHED = ("pending", "running", "preempted")
UNITS = {"parzen": "nats", "parzen-draws": "nats", "iwae-bound": "nats"}
FLAGS = {"sigma_at_edge": "sigma lies at the edge of its range, so a better one may lie beyond"}

Column = tuple[str, str]
Label = tuple[Hashable, ...]


def frame(grids: Iterable[GridFolder]) -> pd.DataFrame:
    """One row a run: `grid`, `id`, the axes, `seed`, `status`, `diverged_at`, `seconds`, then a group a metric.

    Axes are ordered categories, their values in the grids' order; lists and tables are shown as JSON. What is not
    measured is NaN. `attrs["axes"]` names the axes, `attrs["searched"]` those that a search draws whose best train
    again; `attrs["controls"]` holds the evaluation records of each grid's controls: {grid: {name: record}}.
    Errors: InputError where a file is damaged.
    """
    rows: list[dict[Column, Any]] = []
    axes: dict[str, None] = {}
    searched: dict[str, None] = {}
    controls: dict[str, dict[str, Any]] = {}
    for grid in grids:
        axes |= dict.fromkeys(grid.manifest["axes"])
        searched |= dict.fromkeys(grid.manifest.get("searched", ()))
        controls[grid.manifest["name"]] = control_entries(grid)
        rows += _rows(grid)
    described: list[Column] = [(name, "") for name in ("grid", "id", *axes, "seed", "status", "diverged_at", "seconds")]
    columns = list(dict.fromkeys([*described, *_metric_columns(rows)]))
    records = pd.DataFrame(
        [[row.get(column) for column in columns] for row in rows], columns=pd.MultiIndex.from_tuples(columns)
    )
    for name in ("grid", *axes):
        records[name, ""] = pd.Categorical(
            records[name, ""], categories=records[name, ""].dropna().unique(), ordered=True
        )
    for column in columns:
        if column[1] in ("value", "standard_error") or column[0] == "seconds":
            records[column] = records[column].astype("float64")
    records["diverged_at", ""] = records["diverged_at", ""].astype("Int64")
    records.attrs = {"axes": list(axes), "searched": list(searched), "controls": controls}
    return records


def control_entries(grid: GridFolder) -> dict[str, Any]:
    """The evaluation records of what stands in the place of samples, by name; empty before evaluation.

    One whose `trained` is true has no metrics: the grid trains the control of that name.
    """
    path = grid.path / "controls.json"
    return dict(read_json(path)) if path.exists() else {}


def metric_keys(runs: pd.DataFrame) -> list[str]:
    """The metric keys in a frame, in the order of the records; those without any value only if there are no others."""
    keys = [str(column[0]) for column in runs.columns if column[1] == "value"]
    return [key for key in keys if runs[key, "value"].notna().any()] or keys


def metric_group(records: pd.DataFrame, key: str) -> pd.DataFrame:
    """The columns under one metric key."""
    return records[[key]].droplevel(0, axis="columns")


def varying_axes(runs: pd.DataFrame) -> list[str]:
    """The axes that differ between runs, in the grid's order; ["grid"] where none does.

    Errors: InputError where the frame does not come from `frame`.
    """
    if "axes" not in runs.attrs:
        raise InputError("the data frame has no attrs['axes']; make it with harness.analysis.frame.frame.")
    return [axis for axis in ("grid", *runs.attrs["axes"]) if runs[axis].nunique(dropna=False) > 1] or ["grid"]


def draws_together(runs: pd.DataFrame) -> pd.DataFrame:
    """The same runs, the draws of a search as one combination: what was drawn is absent but for the best of them."""
    searched = runs.attrs.get("searched", [])
    if not searched:
        return runs
    shown = runs.copy()
    shown.loc[shown[STAGE] == SEARCH, [(key, "") for key in searched]] = None
    return shown


def combinations(runs: pd.DataFrame, axes: list[str]) -> list[tuple[Label, pd.DataFrame]]:
    """The runs of each combination of axis values (they differ by seed alone), in the grid's order."""
    groups = runs.groupby([(axis, "") for axis in axes], observed=True, dropna=False, sort=True)
    return [(tuple(label), members) for label, members in groups]


def describe(axes: Iterable[str], label: Label) -> list[str]:
    """The values of a combination for people: names stand alone, numbers with their axis ("k=1", "lr=0.1").

    Absent ones are left out.
    """
    axes = list(axes)
    # A number alone, a place in a list, would say nothing.
    last = [re.sub(r".*\.(?=[^.]*[^.0-9])", "", axis) for axis in axes]
    names = [name if last.count(name) == 1 else axis for axis, name in zip(axes, last, strict=True)]
    return [
        value if isinstance(value, str) else f"{name}={show(value)}"
        for name, value in zip(names, label, strict=True)
        if not _is_absent(value)
    ]


def show(value: Any) -> str:
    """One axis value as text: floats in their shortest form, nothing as "-"."""
    if isinstance(value, str):
        return value
    if _is_absent(value):
        return "-"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _is_absent(value: Any) -> bool:
    return value is None or value is pd.NA or bool(value != value)


def control_name(name: str, runs: pd.DataFrame) -> str:
    """A control's name for people, told apart from runs beside it that bear the same."""
    shown = name.replace("training-images", "training images")
    own = name.partition(" ")[0]  # behind it stands a data set, where there are several
    values = {str(value) for axis in runs.attrs["axes"] for value in runs[axis].dropna().unique()}
    return f"{shown} (companion)" if values & {own, own.replace("-", " ")} else shown


def unit(key: str) -> str:
    """The unit of a metric, "" where it has none."""
    return UNITS.get(key.partition("[")[0], "")


def _rows(grid: GridFolder) -> list[dict[Column, Any]]:
    progress = grid.progress()
    rows = []
    for entry in grid.manifest["runs"]:
        run = grid.run(entry["id"])
        provenance = run.provenance() or {}
        row: dict[Column, Any] = {("grid", ""): grid.manifest["name"], ("id", ""): run.id, ("seed", ""): entry["seed"]}
        row |= {(axis, ""): _scalar(value) for axis, value in entry["axes"].items()}
        row["status", ""] = run.status(progress.get(run.id))
        row["diverged_at", ""] = provenance.get("diverged_at")
        row["seconds", ""] = provenance.get("seconds")
        row |= _metrics(run.evaluation() or {})
        rows.append(row)
    return rows


def _metrics(evaluation: Mapping[str, Any]) -> dict[Column, Any]:
    return {
        (key, field): value
        for key, record in evaluation.get("metrics", {}).items()
        for field, value in {"value": None, "standard_error": None, **record}.items()
        if not isinstance(value, list | dict)
    }


def _metric_columns(rows: list[dict[Column, Any]]) -> list[Column]:
    """The (key, field) columns of all rows, the fields of one key beside each other."""
    fields: dict[str, dict[str, None]] = {}
    for row in rows:
        for key, field in row:
            if field:
                fields.setdefault(key, {})[field] = None
    return [(key, field) for key, names in fields.items() for field in names]


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
