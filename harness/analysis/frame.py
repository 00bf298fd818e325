"""All records of one or more grids as one data frame, a row a run.

Columns have two levels, so that each metric is a group: `frame["loss"]` and `frame["status"]` are series,
`frame["parzen[test,n=10000,sigma=grid]"]` is a frame of `value`, `standard_error` and what else the record holds.
"""

from __future__ import annotations

import json
import re
from collections.abc import Hashable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from harness.analysis.ends import Ends
from harness.analysis.index import Names, rows, without_collector
from harness.errors import InputError
from harness.runs import SEARCH, STAGE, GridFolder, read_json

FAILURES = ("failed", "diverged")
UNFINISHED = ("pending", "running", "preempted")
UNITS = {"parzen": "nats", "parzen-draws": "nats", "iwae-bound": "nats"}
FLAGS = {"sigma_at_edge": "sigma lies at the edge of its range, so a better one may lie beyond"}

Column = tuple[str, str]
Label = tuple[Hashable, ...]


@without_collector()
def frame(grids: Iterable[GridFolder]) -> pd.DataFrame:
    """One row a run: `grid`, `id`, the axes, `seed`, `status`, `diverged_at`, `seconds`, then a group a metric.

    Axes are ordered categories, their values in the grids' order; lists and tables are shown as JSON. What is not
    measured is NaN. `attrs["axes"]` names the axes, `attrs["searched"]` those that a search draws whose best train
    again; `attrs["controls"]` holds the evaluation records of each grid's controls: {grid: {name: record}}.
    Errors: InputError where a file is damaged.
    """
    grids = list(grids)
    runs = described(grids, [Ends.of(grid) for grid in grids])
    controls = {grid.manifest["name"]: control_entries(grid) for grid in grids}
    found = pd.concat([runs, _measured(grids)], axis="columns")
    found.attrs = {**runs.attrs, "controls": controls}
    return found


def described(grids: Sequence[GridFolder], ends: Sequence[Ends]) -> pd.DataFrame:
    """The columns of `frame` before the metrics', from the ends of each grid's runs; `attrs` but the controls."""
    axes = list(dict.fromkeys(axis for grid in grids for axis in grid.manifest["axes"]))
    searched = list(dict.fromkeys(key for grid in grids for key in grid.manifest.get("searched", ())))
    columns: list[Column] = [(name, "") for name in ("grid", "id", *axes, "seed", "status", "diverged_at", "seconds")]
    lines = [line for grid, its_ends in zip(grids, ends, strict=True) for line in _rows(grid, its_ends)]
    runs = pd.DataFrame(
        [[line.get(column) for column in columns] for line in lines], columns=pd.MultiIndex.from_tuples(columns)
    )
    for name in ("grid", *axes):
        runs[name, ""] = pd.Categorical(runs[name, ""], categories=runs[name, ""].dropna().unique(), ordered=True)
    runs["seconds", ""] = runs["seconds", ""].astype("float64")
    runs["diverged_at", ""] = runs["diverged_at", ""].astype("Int64")
    runs.attrs = {"axes": axes, "searched": searched}
    return runs


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


def metric_group(runs: pd.DataFrame, key: str) -> pd.DataFrame:
    """The columns under one metric key."""
    return runs[[key]].droplevel(0, axis="columns")


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


def _rows(grid: GridFolder, ends: Ends) -> Iterator[dict[Column, Any]]:
    for entry in grid.manifest["runs"]:
        provenance = ends.provenance.get(entry["id"], {})
        yield {
            ("grid", ""): grid.manifest["name"],
            ("id", ""): entry["id"],
            ("seed", ""): entry["seed"],
            **{(axis, ""): _scalar(value) for axis, value in entry["axes"].items()},
            ("status", ""): ends.status(entry["id"]),
            ("diverged_at", ""): provenance.get("diverged_at"),
            ("seconds", ""): provenance.get("seconds"),
        }


def _measured(grids: Sequence[GridFolder]) -> pd.DataFrame:
    """What the runs' evaluation records hold: a group of columns a metric key, `value` and `standard_error` first."""
    count = sum(len(grid.manifest["runs"]) for grid in grids)
    cells: dict[str, dict[str, NDArray[np.object_]]] = {}
    for names, (places, values) in _by_shape(grids).items():
        for (key, field), column in zip(names, zip(*values, strict=True), strict=True):
            group = cells.setdefault(key, {})
            if field not in group:
                group[field] = np.full(count, None, dtype=object)
            group[field][places] = np.array(column, dtype=object)
    # lists, because pandas looks for a type in lists alone
    columns = {(key, field): cells[key][field].tolist() for key in cells for field in cells[key]}
    measured = pd.DataFrame(columns, index=range(count), columns=pd.MultiIndex.from_tuples(columns, names=[None, None]))
    numbers = [column for column in columns if column[1] in ("value", "standard_error")]
    return measured.astype(dict.fromkeys(numbers, "float64"))


def _by_shape(grids: Sequence[GridFolder]) -> dict[Names, tuple[list[int], list[list[Any]]]]:
    """The evaluation records of one shape: the places of their runs in the grids' order, and their values."""
    entries = [(rows(grid, "evaluation.json"), grid.manifest["runs"]) for grid in grids]
    found = [records.get(entry["id"]) for records, runs in entries for entry in runs]
    shapes: dict[Names, tuple[list[int], list[list[Any]]]] = {}
    for place, record in enumerate(found):
        if record is not None:
            places, values = shapes.setdefault(record[0], ([], []))
            places.append(place)
            values.append(record[1])
    return shapes


def _scalar(value: Any) -> Any:
    return json.dumps(value) if isinstance(value, list | dict) else value
