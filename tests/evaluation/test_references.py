"""References: computed once, the same from the cache, the same on any number of processes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness.evaluation import Cache, Recipe, References, measures
from harness.evaluation.measures import Subject, measured
from harness.images import ImageSet
from harness.metrics import features
from harness.training.processes import Processes

METRICS = ("fid", "kid", "isc", "precision", "coverage", "class-coverage", "memorisation")


def references_of(data: ImageSet, folder: Path, **recipe: Any) -> References:
    return References(data, Recipe(**recipe), Processes(), cache=Cache(folder))


def test_references_from_the_cache_give_the_same_numbers(
    digits: ImageSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    samples = digits.train.images[np.arange(50)][None]
    first = measured(METRICS, Subject(samples, references_of(digits, tmp_path)))
    files = {path.name.partition("-")[0] for path in tmp_path.iterdir()}
    assert files == {"features", "frechet", "manifold", "held"}
    again = references_of(digits, tmp_path)
    monkeypatch.setattr(features, "extract", None)  # so that features of the reference cannot be computed
    for name in ("features", "frechet", "held_out_distances"):
        getattr(again, name)
    monkeypatch.undo()
    assert measured(METRICS, Subject(samples, again)) == first


def test_each_split_has_references_of_its_own(digits: ImageSet, tmp_path: Path) -> None:
    test, train = (references_of(digits, tmp_path, reference=split) for split in ("test", "train"))
    assert [len(one.features.features) for one in (test, train, test.validation)] == [300, 1197, 300]
    assert not test.features.features.equal(test.validation.features.features)


def test_a_subset_is_drawn_without_replacement_and_does_not_change(digits: ImageSet, tmp_path: Path) -> None:
    chosen = references_of(digits, tmp_path).subset(100)
    assert len(set(chosen.tolist())) == 100 and (np.diff(chosen) > 0).all()
    assert (references_of(digits, tmp_path).subset(100) == chosen).all()
    assert (references_of(digits, tmp_path).subset(300) == np.arange(300)).all()


class OneOfTwo(Processes):
    """A process whose exchanges add what the other would have given: the same computation on the other's rank."""

    def __init__(self, rank: int) -> None:
        super().__init__()
        self._rank = rank
        self.given: list[Tensor] = []
        self.other: list[Tensor] | None = None

    @property
    def rank(self) -> int:
        return self._rank

    @property
    def count(self) -> int:
        return 2

    def total(self, values: Tensor) -> Tensor:
        self.given.append(values.clone())
        return values if self.other is None else values + self.other[len(self.given) - 1]


def test_nearest_training_images_are_shared_out_and_gathered(digits: ImageSet, tmp_path: Path) -> None:
    pixels = features.quantised(digits.test.images[np.arange(31)])
    alone = references_of(digits, tmp_path).nearest_training(pixels)
    halves = []
    for rank in range(2):
        one = References(digits, Recipe(), OneOfTwo(rank), cache=Cache(tmp_path / str(rank)))
        halves.append(one.nearest_training(pixels))
    assert [int((half > 0).sum()) for half in halves] == [16, 15]
    assert (halves[0] + halves[1]).equal(alone)
    assert alone.dtype == torch.float64


def test_what_is_known_goes_with_a_process_that_asks_alone(digits: ImageSet, tmp_path: Path) -> None:
    together = references_of(digits, tmp_path)
    known = together.features
    assert together.alone(Processes(alone=True)).features is known
    assert measures.asked(("fid",), 5, together) == measures.asked(("fid",), 5, together.alone(Processes(alone=True)))
