"""What is asked for: which metrics, on how many samples of which snapshot, compared with what."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from harness.errors import InputError
from harness.evaluation.measures import METRICS, asked, metric
from harness.evaluation.recipe import Recipe
from harness.evaluation.references import References
from harness.grid import EvaluationSettings, Selection
from harness.metrics import features


@dataclass(frozen=True)
class Request:
    """Metrics, samples, which snapshot of a run, and the recipe.

    Errors: UnknownName, of an extractor too; InputError where `select_by` or a metric of `validation` cannot choose.
    """

    metrics: tuple[str, ...]
    samples: int
    select: Selection = "last"
    select_by: str | None = None
    """The metric that chooses among snapshots on validation; None: the first that can."""
    recipe: Recipe = field(default_factory=Recipe)
    validation: tuple[str, ...] = ()
    """Metrics that are measured against the validation images too, to choose among runs by."""

    def __post_init__(self) -> None:
        for name in (*self.metrics, *self.validation, *([self.select_by] if self.select_by else [])):
            metric(name)
        if self.recipe.extractor is not None:
            features.check_name(self.recipe.extractor)
        if self.select == "best-validation" and METRICS[self.chooser].better is None:
            raise InputError(f"select_by = {self.chooser!r}: neither high nor low values of it are the better ones.")
        for name in self.validation:
            if METRICS[name].better is None:
                raise InputError(f"choosing by {name!r}: neither high nor low values of it are the better ones.")

    @classmethod
    def of(cls, settings: EvaluationSettings, **recipe: Any) -> Request:
        """What a grid's settings ask for; `recipe` adds what only a command can say."""
        wanted = Recipe(reference=settings.reference, extractor=settings.extractor, **recipe)
        return cls(settings.metrics, settings.samples, settings.select, settings.select_by, wanted, settings.validation)

    @property
    def chooser(self) -> str:
        """The metric that chooses among snapshots."""
        return self.select_by or next((name for name in self.metrics if METRICS[name].better), self.metrics[0])

    def selection(self, references: References) -> str:
        """The rule that picks a snapshot, in words that differ where the snapshot may."""
        if self.select == "last":
            return "last"
        return f"best-validation by {self.chooser}, {asked((self.chooser,), self.samples, references)[self.chooser]}"
