"""Table 1 of the 2014 paper with our runs beside it: rows by method, published values and ours by data set.

What was published stands in published.csv, what is to be said of each method in methods.toml.
"""

from __future__ import annotations

import csv
import json
import tomllib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import pandas as pd

from harness.analysis import notes
from harness.analysis.cells import counts, means, sampling_errors, short_names
from harness.analysis.formats import format_frame
from harness.analysis.frame import (
    FLAGS,
    combinations,
    control_entries,
    describe,
    draws_together,
    frame,
    metric_group,
    metric_keys,
    unit,
)
from harness.analysis.tables import Row, assemble, control_summary, summary
from harness.errors import InputError
from harness.runs import GridFolder, RunFolder

PARZEN = "parzen[test,n=10000,sigma=grid]"
"""The published protocol's figure."""
DRAWS = "parzen-draws[test,n=10000,output=draws,sigma=grid]"
"""The same of binary draws."""
COMPANION = "companion"
"""The setting of rows that are no runs."""
_NAMES = ["dataset", "method", "setting"]
_TABLE = "goodfellow2014-table1"
_RECORDED = ("dataset", "method", "data_hash")
_FOLDED = ("tfd",)
"""Data sets that are published as folds: runs on different folds are one row."""
_MOST_VALUES = 3  # of one setting that the footnote lists
_PROTOCOL = (
    "ours: log-likelihood of test images under Gaussian windows around generated samples; sigma, from the published "
    "grid, by validation images. Mean ± standard error over seeds (std / sqrt(seeds); absent for one). sampling: mean "
    "of the runs' own standard errors, which know nothing of training again. In a key, n is the number of samples.",
    "Smooth means score higher here than real images, so a figure above that of training images proves nothing: read "
    "the other metrics beside it, which may order the methods differently.",
)

Experiment = dict[str, Any]


def paper_table(grids: Iterable[GridFolder]) -> pd.DataFrame:
    """One row a method and combination of what else varies, for each data set; the index is `dataset, method, setting`.

    Rows follow the publication, then the grids; published methods without runs have theirs, and last come companions.
    Columns: those of tables.table, of PARZEN first, then of DRAWS if it is measured, and of all metrics but the refined
    bandwidth's; and "published": `value`, `standard_error`, `error` (over what) and `source`. `attrs["notes"]` is the
    footnote.
    Errors: InputError where no run has PARZEN, or a file is damaged.
    """
    grids = list(grids)
    experiments = [_experiment(run) for grid in grids for run in grid.runs()]
    runs = draws_together(frame(grids))
    for name in _RECORDED:
        runs[name, ""] = [experiment[name] for experiment in experiments]
    runs["dataset", ""] = _told_apart(runs)
    measured = metric_keys(runs)
    if PARZEN not in measured or not runs[PARZEN, "value"].notna().any():
        raise InputError(
            f"no run has {PARZEN}, which the published table shows (there is {', '.join(measured) or 'no metric'}); "
            "run `harness evaluate` with --metrics parzen --samples-count 10000."
        )
    first = [key for key in (PARZEN, DRAWS) if key in measured]
    keys = [*first, *(key for key in measured if key not in first and "sigma=refined" not in key)]
    labels, rows = zip(*_rows(runs, keys, _companions(grids)), strict=True)
    made = assemble(list(labels), _NAMES, list(rows), keys)
    found = [published().get((dataset, method), {}) for dataset, method, _ in labels]
    for field in ("value", "standard_error", "error", "source"):
        made["published", field] = pd.Series([entry.get(field) for entry in found], index=made.index)
    made = made.astype({("published", field): "float64" for field in ("value", "standard_error")})
    made.attrs = {"notes": _notes(made, runs, [*zip(experiments, _shown(grids), strict=True)], keys)}
    return made


def render(table: pd.DataFrame, format: str) -> str:
    """A table of `paper_table` in one of harness.analysis.formats.FORMATS.

    Text, Markdown and LaTeX: a group of columns for each data set, and the footnote. CSV and JSON: full precision, one
    row a combination and metric; companions have no `all_runs`.
    Errors: UnknownName for a format that does not exist.
    """
    if format in ("csv", "json"):
        return format_frame(_long(table), format)
    return format_frame(_for_people(table), format, notes=table.attrs.get("notes", ()))


@cache
def published() -> dict[tuple[str, str], dict[str, Any]]:
    """Table 1, by data set and method, in its order: `value`, `standard_error`, `error` (over what), `source`."""
    with open(Path(__file__).parent / "published.csv", newline="", encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["table"] == _TABLE]
    return {
        (row["dataset"], row["method"]): {
            **row,
            "value": float(row["value"]),
            "standard_error": float(row["standard_error"]),
        }
        for row in rows
    }


@cache
def methods() -> dict[str, dict[str, Any]]:
    """What the table says of each method: `name`, `shows`, and maybe `differs` and `settings`."""
    return tomllib.loads((Path(__file__).parent / "methods.toml").read_text(encoding="utf-8"))


def _experiment(run: RunFolder) -> Experiment:
    experiment = run.experiment()
    if lacking := [name for name in _RECORDED if name not in experiment]:
        raise InputError(f"{run.path / 'experiment.json'} lacks {', '.join(lacking)}; restore it, or train it again.")
    return experiment


def _shown(grids: Sequence[GridFolder]) -> list[str | None]:
    """What each run's evaluated samples are, as its record says; None before evaluation, and in old records."""
    return [(run.evaluation() or {}).get("samples", {}).get("shows") for grid in grids for run in grid.runs()]


def _told_apart(runs: pd.DataFrame) -> list[str]:
    """Each run's data set, with the hash of its content where two have one name and are not folds of one."""
    contents = runs.groupby("dataset")["data_hash"].nunique()
    return [
        name if contents[name] == 1 or name in _FOLDED else f"{name} {content[:8]}"
        for name, content in zip(runs["dataset"], runs["data_hash"], strict=True)
    ]


def _companions(grids: Sequence[GridFolder]) -> dict[str, dict[str, Any]]:
    """Metrics of what stands in the place of samples, by the content of the data and by name."""
    found: dict[str, dict[str, Any]] = {}
    for grid in grids:
        for name, entry in control_entries(grid).items():
            of_data = found.setdefault(entry["dataset"]["hash"], {})
            of_data.setdefault(name.partition(" ")[0], {}).update(entry["metrics"])
    return found


def _order(runs: pd.DataFrame) -> list[str]:
    """All methods: those of the publication, then those of the grids."""
    return list(dict.fromkeys([*(method for _, method in published()), *runs["method"]]))


def _rows(
    runs: pd.DataFrame, keys: list[str], companions: dict[str, dict[str, Any]]
) -> Iterator[tuple[tuple[str, str, str], Row]]:
    """Labels and rows, data set by data set."""
    for dataset in runs["dataset"].unique():
        of_data = runs[runs["dataset"] == dataset]
        for method in _order(runs):
            members = of_data[of_data["method"] == method]
            if members.empty and (dataset, method) in published():
                yield (dataset, method, ""), {}
            elif not members.empty:
                for setting, group in _settings(members):
                    yield (dataset, method, setting), summary(group, keys)
        of_folds = [companions.get(content, {}) for content in of_data["data_hash"].unique()]
        for name in dict.fromkeys(name for of_fold in of_folds for name in of_fold):
            records = [of_fold[name] for of_fold in of_folds if name in of_fold]
            if any(not record.keys().isdisjoint(keys) for record in records):
                yield (dataset, name, COMPANION), _over_folds([control_summary(record, keys) for record in records])


def _over_folds(rows: Sequence[Row]) -> Row:
    """A companion's row on all folds of a data set: means, and the error of the values over folds."""
    if len(rows) == 1:
        return rows[0]
    made: Row = {}
    for key, field in dict.fromkeys(column for row in rows for column in row):
        values = pd.Series([row.get((key, field)) for row in rows], dtype="float64")
        made[key, field] = int(values.sum()) if field in FLAGS else values.mean()
        if field == "mean":
            made[key, "standard_error"] = values.sem(ddof=1)
    return made


def _settings(members: pd.DataFrame) -> list[tuple[str, pd.DataFrame]]:
    """The runs of one method on one data set by what varies among them but the seed, each with a label of its own."""
    varying = [
        axis
        for axis in ("grid", *members.attrs["axes"])
        if axis not in _RECORDED and members[axis].nunique(dropna=False) > 1
    ]
    if not varying:
        return [("", members)]
    found = []
    seen: Counter[str] = Counter()
    for label, group in combinations(members, varying):
        text = ", ".join(describe(varying, label))
        seen[text] += 1
        found.append((text if seen[text] == 1 else f"{text} ({seen[text]})", group))
    return found


def _name(method: str) -> str:
    return str(methods().get(method, {}).get("name", method))


def _long(table: pd.DataFrame) -> pd.DataFrame:
    """One row a combination and metric: labels, `metric`, what was published, the key's columns, counts over all."""
    labels = table.index.to_frame(index=False)
    all_runs = metric_group(table, "all").reset_index(drop=True).rename(columns={"runs": "all_runs"})
    columns = {"value": "published", **{name: f"published_{name}" for name in ("standard_error", "error", "source")}}
    of_publication = metric_group(table, "published").reset_index(drop=True).rename(columns=columns)
    pieces = []
    for key in _keys(table):
        of_key = metric_group(table, key).reset_index(drop=True)
        stated = of_publication if key == PARZEN else of_publication.iloc[:0].reindex(labels.index)
        piece = pd.concat([labels.assign(metric=key), stated, of_key, all_runs], axis=1)
        known = [dataset for dataset in labels["dataset"].unique() if key in _keys(table, dataset)]
        pieces.append(piece[piece["dataset"].isin(known)].astype(object))
    return pd.concat(pieces, ignore_index=True)


def _for_people(table: pd.DataFrame) -> pd.DataFrame:
    """Rounded cells as text: labels, then for each data set what was published, ours, and the metrics beside it."""
    pairs = list(dict.fromkeys((method, setting) for _, method, setting in table.index))
    order = list(dict.fromkeys(method for method, _ in pairs))
    pairs.sort(key=lambda pair: (pair[1] == COMPANION, order.index(pair[0])))
    groups: list[list[tuple[str, list[str]]]] = [[("method", [_name(method) for method, _ in pairs])]]
    if any(setting for _, setting in pairs):
        groups[0].append(("setting", [setting for _, setting in pairs]))
    datasets = table.index.unique("dataset")
    for dataset in datasets:
        rows = table.loc[dataset].reindex(pd.MultiIndex.from_tuples(pairs))
        groups += _of_dataset(rows, _keys(table, dataset), f"{dataset}: " if len(datasets) > 1 else "")
    columns = [column for group in groups for column in group]
    shown = pd.DataFrame(dict(enumerate(cells for _, cells in columns)), dtype=object)
    shown.columns = pd.Index([name for name, _ in columns])
    shown.attrs["groups"] = [number for number, group in enumerate(groups) for _ in group]
    return shown


def _of_dataset(rows: pd.DataFrame, keys: list[str], prefix: str) -> list[list[tuple[str, list[str]]]]:
    """The columns of one data set, in groups: Table 1 and ours, then each other metric."""
    first: list[tuple[str, list[str]]] = []
    stated = rows["published", "value"]
    if stated.notna().any():
        errors = rows["published", "standard_error"]
        cells = [f"{a:g} ± {b:g}" if a == a else "-" for a, b in zip(stated, errors, strict=True)]
        first.append((f"{prefix}published (nats)", cells))
    ours = metric_group(rows, PARZEN)
    first += [(f"{prefix}ours (nats)", means(ours)), ("sampling", sampling_errors(ours))]
    if DRAWS in keys:
        drawn = metric_group(rows, DRAWS)
        first += [(f"{prefix}draws (nats)", means(drawn)), ("sampling", sampling_errors(drawn))]
    first.append(("seeds", counts(ours["runs"])))
    uncounted = {"unevaluated": ours["unevaluated"], **{name: rows["all", name] for name in ("failures", "unfinished")}}
    first += [(name, counts(values)) for name, values in uncounted.items() if values.sum()]
    others = {key: name for key, name in zip(keys, short_names(keys), strict=True) if key not in (PARZEN, DRAWS)}
    return [
        first,
        *(
            [(prefix + (f"{name} ({unit(key)})" if unit(key) else name), means(metric_group(rows, key)))]
            for key, name in others.items()
        ),
    ]


def _keys(table: pd.DataFrame, dataset: str | None = None) -> list[str]:
    """The metric keys of a table; those that a data set has values of."""
    keys = [str(column[0]) for column in table.columns if column[1] == "mean"]
    if dataset is None:
        return keys
    return [key for key in keys if key == PARZEN or table.loc[dataset][key, "mean"].notna().any()]


def _notes(
    table: pd.DataFrame, runs: pd.DataFrame, shown: Sequence[tuple[Experiment, str | None]], keys: list[str]
) -> list[str]:
    """The footnote: what both figures are, what each row shows, how it differs from the publication.

    shown: each run's experiment, and what its record says of its samples.
    """
    stated, measured = [], []
    for dataset in table.index.unique("dataset"):
        found = table.loc[dataset]["published"].dropna(subset="value")
        text = "nothing, in Table 1 of the 2014 paper"
        if len(found):
            source, error = found[["source", "error"]].iloc[0]
            text = f"{source}; error {error}; what samples are and where chains start is not stated"
        stated.append(f"published on {dataset}: {text}.")
        of_data, own = runs[runs["dataset"] == dataset], _keys(table, dataset)
        names = dict(zip(own, short_names(own), strict=True)) | {PARZEN: "ours", DRAWS: "draws"}
        measured += [notes.measured(of_data, key, f"{names[key]} on {dataset}") for key in own]
        folds = of_data["data_hash"].nunique()
        if folds > 1:
            measured.append(f"{dataset}: runs on {folds} folds are one row; its errors are across folds, as published.")
    drawn = [f"draws: {notes.DRAWS}"] if DRAWS in keys else []
    lines = [*stated, *_PROTOCOL, *drawn, *measured]
    lines += [_of_method(method, runs, shown) for method in _order(runs) if (runs["method"] == method).any()]
    controls = [pair for of_grid in runs.attrs["controls"].values() for pair in of_grid.items()]
    lines += notes.companions(controls, keys, rows=COMPANION)
    lines.append(f"seeds: complete and evaluated runs. {notes.statuses(runs)}")
    return [*lines, *notes.reasons(runs, keys), *notes.flags(table, keys)]


def _of_method(method: str, runs: pd.DataFrame, shown: Sequence[tuple[Experiment, str | None]]) -> str:
    """What a method's rows show, how they differ from the publication, recorded settings, how long training took."""
    own = [experiment for experiment, _ in shown if experiment["method"] == method]
    described = methods().get(method, {})
    recorded = dict.fromkeys(text for experiment, text in shown if text and experiment["method"] == method)
    told = list(recorded) or [described[part] for part in ("shows",) if part in described]
    if any((experiment["dataset"], method) in published() for experiment in own) and "differs" in described:
        told.append(described["differs"])
    stated = [_setting(key, own) for key in (*described.get("settings", ()), "iterations", "batch_size")]
    told.append(f"Settings: {', '.join(filter(None, stated))}.")
    seconds = runs["seconds"][(runs["method"] == method) & (runs["status"] == "complete")].dropna()
    if len(seconds):
        took = dict.fromkeys(f"{end:.{int(end < 10)}f}" for end in (seconds.min(), seconds.max()))
        told.append(f"Training took {' to '.join(took)} s, all runs of a stack together.")
    return f"{_name(method)}: {' '.join(told)}"


def _setting(key: str, experiments: Sequence[Experiment]) -> str:
    """A recorded setting and its values: "hidden [500, 500]"; nothing where no run has it."""
    found: dict[str, None] = {}
    for experiment in experiments:
        value: Any = experiment
        for part in key.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            found[value if isinstance(value, str) else json.dumps(value)] = None
    values = " or ".join(found) if len(found) <= _MOST_VALUES else f"of {len(found)} values"
    return f"{key.removeprefix('baseline.')} {values}" if found else ""
