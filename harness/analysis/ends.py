"""How far a grid's runs are, from their files."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from harness.analysis.index import Facts, records
from harness.runs import GridFolder, status_of


@dataclass(frozen=True)
class Ends:
    """Facts of a grid's files by run id, a run without a file being absent; `progress` is that of a run's stack."""

    progress: Mapping[str, Facts]
    failures: Mapping[str, Facts]
    provenance: Mapping[str, Facts]

    @classmethod
    def of(cls, grid: GridFolder) -> Ends:
        """Read a grid's files.

        Errors: InputError where one is damaged.
        """
        stacks = records(grid, "progress.json")  # first: of a run that ends meanwhile the end is seen
        progress = {
            member: stacks[stack["id"]]
            for stack in grid.manifest["stacks"]
            if stack["id"] in stacks
            for member in stack["members"]
        }
        return cls(progress, records(grid, "failure.json"), records(grid, "provenance.json"))

    def status(self, run_id: str) -> str:
        """One of harness.runs.STATUSES."""
        return status_of(run_id in self.failures, self.provenance.get(run_id), self.progress.get(run_id))
