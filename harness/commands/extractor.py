"""`harness extractor fit`."""

from __future__ import annotations

from pathlib import Path

from harness.metrics.extractors import fitting
from harness.plan import data_folders
from harness.watching import progress_bar


def fit(dataset: str, output: Path, *, steps: int | None, seed: int, data: Path | None) -> str:
    """Fit a classifier, write it, and give what to print."""
    total = steps or fitting.STEPS
    with progress_bar() as progress:
        task = progress.add_task(f"fitting a classifier of {dataset}", total=total)
        record = fitting.fit_to_file(
            dataset,
            output,
            folders=data_folders(data, beside=Path.cwd()),
            steps=total,
            seed=seed,
            progress=lambda done: progress.update(task, completed=done),
        )
    accuracies = f"accuracy {record.validation_accuracy:.2%} on validation, {record.test_accuracy:.2%} on test images"
    return f"{output}: {record.classes} classes, {accuracies}"
