"""`harness plot`: figures from the run folders' files, and pictures that trained models are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from harness.analysis.kinds import BESIDE_DATA, OF_FILES, OF_MODELS
from harness.analysis.plots import write_plots, write_run_plots
from harness.errors import InputError
from harness.runs import find_grids, find_run


def plot(
    path: Path, *, kinds: Sequence[str], metric: str | None, output: Path | None, data: Path | None, **layout: Any
) -> list[Path]:
    """Write the figures of some kinds (none named: those of OF_FILES) of the grids or the run at a path."""
    of_files = [kind for kind in kinds or OF_FILES if kind in OF_FILES]
    of_models = [kind for kind in dict.fromkeys(kinds) if kind in OF_MODELS]
    is_run = (path / "experiment.json").exists()
    if is_run and "metric" in kinds:
        raise InputError(f"{path} is one run; a metric is drawn over the runs of a grid: give the grid's folder.")
    if metric is not None and kinds and "metric" not in kinds:
        raise InputError(f"--metric: for the kind metric alone, not for {', '.join(kinds)}.")
    if data is not None and not BESIDE_DATA.keys() & set(kinds):
        raise InputError(f"--data: for kinds that look at the training images: {', '.join(BESIDE_DATA)}.")
    if not of_models and (idle := [name for name, value in layout.items() if value is not None]):
        heeding = [name for name, kind in OF_MODELS.items() if kind.options & set(idle)]
        kinds_heeding = f"kind{'s' if len(heeding) > 1 else ''} {', '.join(heeding)}"
        raise InputError(f"--{', --'.join(idle)}: for the {kinds_heeding} alone.")
    written = []
    if of_files and is_run:
        written += write_run_plots(find_run(path), output, kinds=of_files)
    elif of_files:
        grids = find_grids(path)
        folders = [output if output is None or len(grids) == 1 else output / grid.path.name for grid in grids]
        for grid, folder in zip(grids, folders, strict=True):
            written += write_plots(grid, folder, metric=metric, kinds=of_files)
    if of_models:
        from harness.commands.pictures import write_pictures  # torch, which files alone do not need

        written += write_pictures(path, of_models, output=output, data=data, layout=layout)
    return written
