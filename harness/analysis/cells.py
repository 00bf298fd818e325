"""The cells of a table that people read, and the short names of metrics above them."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd

from harness.analysis.frame import FLAGS


def means(group: pd.DataFrame) -> list[str]:
    """Cells "41.2 ± 1.3", the errors over seeds aligned, with a star where a flag is raised.

    group: the columns of tables.STATISTICS under one metric key.
    """
    digits = _decimals(group["standard_error"].fillna(group["sampling_standard_error"]), values=group["mean"])
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


def sampling_errors(group: pd.DataFrame) -> list[str]:
    """Cells "± 1.3" of the runs' own errors; "-" where there is none."""
    errors = group["sampling_standard_error"]
    digits = _decimals(errors, values=errors)
    return [f"± {error:.{digits}f}" if error == error else "-" for error in errors]


def counts(values: pd.Series) -> list[str]:
    """Whole numbers; nothing where there is none."""
    return ["" if pd.isna(value) else str(value) for value in values]


def short_names(keys: list[str]) -> list[str]:
    """Each key without the parts that all keys of its metric share: "parzen sigma=grid"; never without "validation"."""
    names = {key: key.partition("[")[0] for key in keys}
    parts = {key: key.partition("[")[2].rstrip("]").split(",") for key in keys}
    short = []
    for key in keys:
        shared = set.intersection(*(set(parts[other]) for other in keys if names[other] == names[key]))
        short.append(" ".join([names[key], *(part for part in parts[key] if part not in shared - {"validation"})]))
    return short


def _decimals(errors: pd.Series, *, values: pd.Series) -> int:
    """Decimals that give the typical error two digits; four digits of the typical value where there is no error."""
    sizes, digits = (errors, 2) if (errors > 0).any() else (values.abs(), 4)
    typical = sizes[sizes > 0].median()
    return int(np.clip(digits - 1 - math.floor(math.log10(typical)), 0, 12)) if typical == typical else 0
