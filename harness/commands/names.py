"""`harness list` and `harness run --dry-run`."""

from __future__ import annotations

from collections.abc import Sequence

import pandas as pd

from harness import images
from harness.analysis.formats import format_frame
from harness.evaluation import METRICS
from harness.grid import shipped_grids
from harness.methods import METHODS
from harness.metrics import features
from harness.models import FAMILIES
from harness.objectives.losses import LOSSES
from harness.objectives.penalties import PENALTIES
from harness.plan import Plan
from harness.training.optimizers import OTHERS, STACKABLE

NAMES: dict[str, Sequence[str]] = {
    "datasets": sorted(images.SOURCES),
    "grids": sorted(shipped_grids()),
    "losses": sorted(LOSSES),
    "methods": sorted(METHODS),
    "metrics": sorted(METRICS),
    "models": sorted(FAMILIES),
    "optimizers": sorted((*STACKABLE, *OTHERS)),
    "penalties": sorted(PENALTIES),
}


def names(kind: str) -> Sequence[str]:
    """The names that a grid file may use for a kind of thing."""
    return sorted(features.names()) if kind == "extractors" else NAMES[kind]


def render_plan(planned: Plan, form: str) -> str:
    """The table of a grid's runs: id, axes, seed."""
    rows = [{"id": run.id, **run.axes, "seed": run.experiment.seed} for run in planned.runs]
    columns = ["id", *planned.grid.axes, "seed"]
    shown = pd.DataFrame(rows, columns=columns, dtype=object)  # whole numbers stay whole where some rows have none
    shown.attrs["groups"] = range(len(columns))  # the id begins every block
    return format_frame(shown, form, notes=[f"{len(rows)} runs of grid {planned.grid.name}."])
