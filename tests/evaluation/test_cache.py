"""A cache gives back what it was given, or computes it anew."""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor

from harness.evaluation.cache import Cache, Tensors
from harness.training.processes import Processes

DECISIONS: dict[str, str | int | list[int]] = {"what": "features", "images": "abc"}


@pytest.fixture
def counted() -> tuple[Callable[[], Tensors], list[int]]:
    """A computation, and a list that grows each time it runs."""
    runs: list[int] = []

    def compute() -> dict[str, Tensor]:
        runs.append(1)
        return {"a": torch.arange(6.0).view(2, 3), "b": torch.tensor([1, 2])}

    return compute, runs


def test_what_was_computed_once_is_read(tmp_path: Path, counted: tuple[Callable[[], Tensors], list[int]]) -> None:
    compute, runs = counted
    first = Cache(tmp_path).tensors(DECISIONS, compute, Processes())
    second = Cache(tmp_path).tensors(DECISIONS, compute, Processes())
    assert len(runs) == 1
    assert all(first[name].equal(second[name]) for name in ("a", "b"))


def test_other_decisions_are_other_files(tmp_path: Path, counted: tuple[Callable[[], Tensors], list[int]]) -> None:
    compute, runs = counted
    for images in ("abc", "abd", "abc"):
        Cache(tmp_path).tensors(DECISIONS | {"images": images}, compute, Processes())
    assert len(runs) == 2


@pytest.mark.parametrize("place", [0.02, 0.4, 0.999])
def test_a_changed_byte_is_seen_and_mended(
    place: float, tmp_path: Path, counted: tuple[Callable[[], Tensors], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    compute, runs = counted
    cache = Cache(tmp_path)
    cache.tensors(DECISIONS, compute, Processes())
    path = cache.path(DECISIONS)
    sound = path.read_bytes()
    damaged = bytearray(sound)
    damaged[int(place * len(damaged))] ^= 1
    path.write_bytes(damaged)
    with caplog.at_level(logging.WARNING):
        again = cache.tensors(DECISIONS, compute, Processes())
    assert len(runs) == 2 and str(path) in caplog.text
    assert again["a"].equal(torch.arange(6.0).view(2, 3))
    assert path.read_bytes() == sound


@pytest.mark.parametrize("length", [0, 5, 100])
def test_a_file_that_is_cut_short_is_mended(
    length: int, tmp_path: Path, counted: tuple[Callable[[], Tensors], list[int]]
) -> None:
    compute, runs = counted
    cache = Cache(tmp_path)
    cache.tensors(DECISIONS, compute, Processes())
    path = cache.path(DECISIONS)
    path.write_bytes(path.read_bytes()[:length])
    cache.tensors(DECISIONS, compute, Processes())
    assert len(runs) == 2


def test_another_recipes_file_under_this_name_is_stale(
    tmp_path: Path, counted: tuple[Callable[[], Tensors], list[int]]
) -> None:
    compute, runs = counted
    cache, other = Cache(tmp_path), DECISIONS | {"images": "other"}
    cache.tensors(other, compute, Processes())
    cache.path(other).rename(cache.path(DECISIONS))
    cache.tensors(DECISIONS, compute, Processes())
    assert len(runs) == 2


def test_a_folder_that_cannot_be_written_costs_time_alone(
    tmp_path: Path, counted: tuple[Callable[[], Tensors], list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    compute, runs = counted
    (tmp_path / "file").write_text("")
    with caplog.at_level(logging.WARNING):
        found = Cache(tmp_path / "file").tensors(DECISIONS, compute, Processes())
    assert found["b"].tolist() == [1, 2] and "cannot be written" in caplog.text


def test_all_processes_compute_where_one_lacks_the_file(
    tmp_path: Path, counted: tuple[Callable[[], Tensors], list[int]]
) -> None:
    class OneLacksIt(Processes):
        def total(self, values: Tensor) -> Tensor:
            return values + 1

    compute, runs = counted
    Cache(tmp_path).tensors(DECISIONS, compute, Processes())
    Cache(tmp_path).tensors(DECISIONS, compute, OneLacksIt())
    assert len(runs) == 2
