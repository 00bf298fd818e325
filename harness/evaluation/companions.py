"""Rows that stand beside models in every table: other images in the place of samples."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from harness import foreign, runs
from harness.evaluation.measures import asked
from harness.evaluation.records import evaluate, joined, lacking
from harness.evaluation.references import References
from harness.evaluation.request import Request
from harness.runs import GridFolder
from harness.training.processes import Processes


def evaluate_companions(
    grid: GridFolder, sets: Sequence[References], request: Request, processes: Processes, *, names: Sequence[str]
) -> None:
    """Evaluate what stands in the place of samples ("training-images", ...) of each data set into controls.json.

    What is up to date there stays, other names included.
    """
    known = processes.from_main(_known(grid) if processes.is_main else {})
    controls: dict[str, Any] = dict(known)
    for references in sets:
        data = references.data
        words = asked(request.metrics, request.samples, references)
        for companion in names:
            name = companion if len(sets) == 1 else f"{companion} {data.name}"
            before = known.get(name)
            if before is not None and before.get("samples", {}).get("requested") != request.samples:
                before = None
            if wanted := lacking(before, words):
                samples = foreign.companion(companion, data, request.samples)
                controls[name] = joined(before, evaluate(samples, references, wanted))
                controls[name]["samples"]["requested"] = request.samples
    if processes.is_main and controls != known:
        runs.write_json(grid.path / "controls.json", controls, inside=grid.path)


def _known(grid: GridFolder) -> dict[str, Any]:
    path = grid.path / "controls.json"
    return runs.read_record(path) if path.exists() else {}
