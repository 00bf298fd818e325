"""Companions beside the controls that a grid trains itself."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from harness import foreign, runs
from harness.evaluation import References, Request, evaluate_companions
from harness.evaluation.companions import AS_MANY, is_trained
from harness.experiment import Experiment, validate
from harness.images import ImageSet
from harness.runs import GridFolder, RunFolder
from harness.training.processes import Processes

Run = Callable[..., RunFolder]
SAMPLES = 100
REQUEST = Request(("parzen",), SAMPLES)


def grid_of(*members: RunFolder) -> GridFolder:
    """A grid's folder around runs of which all lie in one folder."""
    grid = GridFolder(members[0].path.parents[1])
    entries = [{"id": run.id, "axes": {}, "seed": 0} for run in members]
    runs.write_json(
        grid.path / "grid.json", {"schema": 1, "name": "controls", "axes": [], "runs": entries, "stacks": []}
    )
    return grid


def evaluated(grid: GridFolder, references: References, request: Request = REQUEST) -> dict[str, Any]:
    """controls.json of a grid."""
    evaluate_companions(grid, [references], request, Processes(), names=foreign.COMPANIONS)
    return dict(runs.read_json(grid.path / "controls.json"))


# A control's settings beside the digits, and for how many samples it stands for as many images as the companion.
CONTROLS: list[tuple[str, dict[str, Any], int, bool]] = [
    ("training-images", {"baseline": {"images": 100}}, 100, True),
    ("training-images", {"baseline": {"images": 100}}, 101, False),
    ("training-images", {"baseline": {"images": 10_000}, "iterations": 4}, 100, False),
    ("training-images", {"baseline": {"images": 10_000}, "iterations": 60}, 10_000, True),
    ("gaussian", {"iterations": 60}, 100, True),
    ("gaussian", {"iterations": 10}, 100, False),
    ("k-means", {"baseline": {"clusters": 100, "weighted": False}}, 100, True),
    ("k-means", {"baseline": {"clusters": 100}}, 100, False),
    ("k-means", {"baseline": {"clusters": 90, "weighted": False}}, 100, False),
]


@pytest.mark.parametrize(("name", "settings", "n", "expected"), CONTROLS)
def test_a_control_stands_for_its_companion_with_as_many_images(
    name: str, settings: dict[str, Any], n: int, expected: bool, untrained_baseline: Run, digits: ImageSet
) -> None:
    assert len(digits.train) <= 60 * 20
    experiment = validate(Experiment, untrained_baseline(name, **settings).experiment(), where="test")
    assert is_trained(name, [experiment], digits, n) == expected
    for other in set(AS_MANY) - {name}:
        assert not is_trained(other, [experiment], digits, n)
    assert not is_trained(name, [experiment.model_copy(update={"data_hash": "0" * 64})], digits, n)


def test_each_companion_is_the_name_of_a_control(tiny_baselines: dict[str, Any]) -> None:
    assert set(AS_MANY) == set(foreign.COMPANIONS) <= tiny_baselines.keys()


def test_companions_of_controls_that_are_trained_are_left_out(untrained_baseline: Run, references: References) -> None:
    members = [
        untrained_baseline("training-images", baseline={"images": SAMPLES}),
        untrained_baseline("k-means", baseline={"clusters": 30}),
    ]
    found = evaluated(grid_of(*members), references)
    assert found["training-images"]["trained"] is True and found["training-images"]["metrics"] == {}
    assert all(found[name]["metrics"] and "trained" not in found[name] for name in ("k-means", "gaussian"))
    assert found["k-means"]["samples"]["source"] == f"k-means, {SAMPLES} centroids"


def test_what_a_control_takes_over_goes_and_comes_back_with_more_samples(
    untrained_baseline: Run, references: References
) -> None:
    grid = grid_of(untrained_baseline("vae"))
    assert evaluated(grid, references)["training-images"]["metrics"]
    grid = grid_of(untrained_baseline("vae"), untrained_baseline("training-images", baseline={"images": SAMPLES}))
    assert evaluated(grid, references)["training-images"]["metrics"] == {}
    more = evaluated(grid, references, Request(("parzen",), 2 * SAMPLES))["training-images"]
    assert "trained" not in more and more["samples"]["count"] == 2 * SAMPLES


def test_a_control_that_did_not_end_leaves_its_companion(untrained_baseline: Run, references: References) -> None:
    run = untrained_baseline("training-images", baseline={"images": SAMPLES})
    (run.path / "provenance.json").unlink()
    assert evaluated(grid_of(run), references)["training-images"]["metrics"]


@pytest.mark.parametrize("damage", ["{", '{"method": "k-means"}', "without its baseline", "without its data's hash"])
def test_a_run_that_cannot_be_read_stops_no_companion(
    damage: str, untrained_baseline: Run, references: References
) -> None:
    run = untrained_baseline("training-images", baseline={"images": SAMPLES})
    lost = {"without its baseline": "baseline", "without its data's hash": "data_hash"}.get(damage)
    whole = {key: value for key, value in run.experiment().items() if key != lost}
    (run.path / "experiment.json").write_text(json.dumps(whole) if lost else damage)
    assert evaluated(grid_of(run), references)["training-images"]["metrics"]
