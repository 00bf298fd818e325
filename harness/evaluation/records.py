"""Evaluation records: what samples gave under each metric's key, and all that they stand on."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from harness.evaluation.measures import METRICS, BatchNorm, Subject, asked, measured
from harness.evaluation.references import References
from harness.sampling import Sampler

Record = dict[str, Any]


def evaluate(
    samples: NDArray[Any], references: References, metrics: tuple[str, ...], *, batch_norm: BatchNorm = "running"
) -> Record:
    """The evaluation record of samples (n, c, h, w), as `evaluate_members` gives it for one member."""
    [record] = evaluate_members(samples[None], references, metrics, batch_norm=batch_norm)
    return record


def evaluate_members(
    samples: NDArray[Any],
    references: References,
    metrics: tuple[str, ...],
    *,
    batch_norm: BatchNorm = "running",
    labels: NDArray[np.int64] | None = None,
    models: Sampler | None = None,
    validation: tuple[str, ...] = (),
) -> list[Record]:
    """The evaluation record of each member's samples (m, n, c, h, w), float32 in [0, 1] or uint8.

    `batch_norm`: in which mode the generator's batch normalisation ran; a part of the keys. `labels`: the classes that
    samples were made for, (m, n), where there are conditions. `models`: what made the samples, the first of their
    endless lists. A record holds `metrics` by key, what was `asked` for them, and what they stand on. A metric that
    cannot be computed has a null value and its reason; the others go on. The metrics named in `validation` are measured
    against the validation images too, and stand beside the others; `validation` in the record has their keys (of
    several, the first), and which values are better.
    """
    data = references.data
    n = int(samples.shape[1])
    words = asked(metrics, n, references)
    subject = Subject(samples, references, batch_norm, labels, models)
    made: list[Record] = [
        {
            "metrics": found,
            "asked": words,
            "samples": {"count": n, "batch_norm": batch_norm},
            "recipe": references.describe(),
            "dataset": {"name": data.name, "hash": data.content_hash, "jpeg": data.jpeg},
        }
        for found in measured(metrics, subject)
    ]
    for name, word in asked(validation, n, references.validation).items():
        stated = {"asked": word, "better": METRICS[name].better}
        on_validation = measured((name,), subject.against(references.validation))
        for record, found in zip(made, on_validation, strict=True):
            record["metrics"] |= found
            record["validation"] = record.get("validation", {}) | {name: {"key": next(iter(found))} | stated}
    return made


def lacking(record: Mapping[str, Any] | None, words: Mapping[str, str]) -> tuple[str, ...]:
    """The metrics that a record does not hold as they are asked for."""
    known = {} if record is None else record.get("asked", {})
    return tuple(name for name, wanted in words.items() if known.get(name) != wanted)


def lacking_on_validation(record: Mapping[str, Any] | None, words: Mapping[str, str]) -> tuple[str, ...]:
    """The metrics that a record does not hold, as they are asked for, of the validation images."""
    known = {} if record is None else record.get("validation", {})
    return lacking({"asked": {name: stated["asked"] for name, stated in known.items()}}, words)


def joined(known: Mapping[str, Any] | None, new: Record) -> Record:
    """A record of the same samples with the metrics of both; where both hold a key, the new one's."""
    if known is None:
        return new
    again, chosen_by = tuple(new["asked"]), new.get("validation", {})
    before = {stated["key"]: name for name, stated in known.get("validation", {}).items()}
    kept = {  # what had no value when it was measured last goes when it is measured again
        key: found
        for key, found in known["metrics"].items()
        if found["value"] is not None
        or (before[key] not in chosen_by if key in before else key.partition("[")[0] not in again)
    }
    validation = {**known.get("validation", {}), **chosen_by}
    metrics = {"metrics": {**kept, **new["metrics"]}, "asked": {**known["asked"], **new["asked"]}}
    return {**new, **metrics, **({"validation": validation} if validation else {})}
