"""What decides a metric's number besides samples and data set, and the extractor that it names."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from harness.errors import InputError
from harness.images import ImageSet
from harness.metrics import features
from harness.metrics.features import Extractor
from harness.training.processes import Processes

ReferenceSplit = Literal["test", "train", "validation"]


@dataclass(frozen=True)
class Recipe:
    """What decides a metric's number besides samples and data set.

    `extractor`: a name or a file, None for what suits the data set; `weights` and `weights_sha256`: a file of its
    weights, and the hash that is expected of it; `trust_code`: whether an extractor that runs foreign code may.
    `reference`: the split that samples are compared with; "validation" is for choosing among snapshots.
    """

    reference: ReferenceSplit = "test"
    extractor: str | None = None
    weights: Path | None = None
    weights_sha256: str | None = None
    trust_code: bool = False


@dataclass(frozen=True)
class Search:
    """A recipe's extractor for a data set, looked for once, by all processes together; or why it cannot be had.

    `folders`: where weights are looked for.
    """

    recipe: Recipe
    data: ImageSet
    processes: Processes
    folders: tuple[Path, ...] = ()

    @cached_property
    def outcome(self) -> Extractor | InputError:
        """Kept, since a missing file may have cost an attempt to download it. What one process lacks all lack."""
        found: Extractor | InputError
        try:
            found = features.extractor(
                self.recipe.extractor or features.default_extractor(self.data),
                folders=self.folders,
                weights=self.recipe.weights,
                sha256=self.recipe.weights_sha256,
                trust_code=self.recipe.trust_code,
                device=self.processes.device,
            )
        except InputError as error:
            found = error
        if self.processes.any(isinstance(found, InputError)) and not isinstance(found, InputError):
            return InputError("a process of this job cannot have the extractor; put its weights on all machines.")
        return found

    def agree(self) -> None:
        """Look on all processes together, before one of them asks alone."""
        _ = self.outcome

    @property
    def found(self) -> Extractor | None:
        """The extractor, or None."""
        return None if isinstance(self.outcome, InputError) else self.outcome

    @property
    def extractor(self) -> Extractor:
        """The network whose features are compared.

        Errors: InputError where it, or its weights, cannot be had.
        """
        if isinstance(self.outcome, InputError):
            raise self.outcome
        return self.outcome

    @property
    def name(self) -> str:
        """The extractor's name, hash of its weights included; or what was asked for and cannot be had."""
        if self.found is None:
            return f"none for {self.recipe.extractor or 'default'}"
        return f"{self.found.name} {self.found.sha256}"
