"""What stands beneath a table: what was measured, on how many, and what does not count."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from harness.analysis.frame import FLAGS, metric_group, show
from harness.runs import STATUSES

OF_DRAWS = "output=draws"
"""What keys of binary draws hold."""
DRAWS = (
    "binary images in the place of samples, each pixel drawn with the probability that the sample gives, where samples "
    "are such means."
)


def measured(runs: pd.DataFrame, key: str, name: str) -> str:
    """A metric's short name, its key, and what else its records hold."""
    complete = runs[runs["status"] == "complete"]
    return f"{name}: {'; '.join([key, *_conditions(metric_group(complete, key))])}."


def statuses(runs: pd.DataFrame) -> str:
    """How many runs have each status: "All 10: 9 complete, 1 failed."."""
    counts = runs["status"].value_counts()
    return f"All {len(runs)}: {', '.join(f'{counts[status]} {status}' for status in STATUSES if status in counts)}."


def reasons(runs: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """Why complete runs have no value of some metrics, or of one that no run has."""
    complete = runs[runs["status"] == "complete"]
    names = {key.partition("[")[0] for key in keys}
    found = [
        complete[column]
        for column in complete.columns
        if column[1] == "reason" and (column[0].partition("[")[0] in names or _never_measured(complete, column[0]))
    ]
    texts = pd.concat(found).dropna().unique() if found else []
    return [f"unevaluated: {'; '.join(text.removesuffix('.') for text in texts)}."] if len(texts) else []


def flags(table: pd.DataFrame, keys: Sequence[str]) -> list[str]:
    """What the stars in a table's cells of some metrics mean."""
    raised = [flag for flag in FLAGS if any(table[key, flag].sum() for key in keys)]
    return [f"*: at least once, {FLAGS[flag]}." for flag in raised]


def companions(controls: Iterable[tuple[str, Mapping[str, Any]]], keys: Sequence[str], *, rows: str) -> list[str]:
    """What the rows of companions are, and which are left out since a grid trains the control of that name.

    controls: names and records of grids' controls. rows: what the table calls those that are shown.
    """
    controls = list(controls)
    shown = [record for _, record in controls if not record["metrics"].keys().isdisjoint(keys)]
    sources = dict.fromkeys(str(record.get("samples", {}).get("source", "")) for record in shown)
    trained = dict.fromkeys(name.partition(" ")[0] for name, record in controls if record.get("trained"))
    named = f" ({'; '.join(filter(None, sources))})" if any(sources) else ""
    lines = [f"{rows}: other images in the place of samples{named}, with their own sampling error."] if shown else []
    if trained:
        lines.append(f"No companion of that name, since the grid trains it on as many images: {', '.join(trained)}.")
    return lines


def _never_measured(runs: pd.DataFrame, key: str) -> bool:
    """Whether no key of the metric has a value in any run, so that its reason is all there is to tell."""
    name = key.partition("[")[0]
    return not any(
        column[1] == "value" and column[0].partition("[")[0] == name and runs[column].notna().any()
        for column in runs.columns
    )


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
