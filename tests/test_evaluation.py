"""Evaluation of several runs: each as if alone, none hurt by its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness import evaluation, sampling
from harness.errors import InputError
from harness.evaluation import Request, evaluate, evaluate_members, evaluate_runs
from harness.images import ImageSet
from harness.runs import RunFolder
from harness.training.processes import Processes

Run = Callable[..., RunFolder]
REQUEST = Request(("parzen",), 50)


def records(runs: Iterable[RunFolder], data: ImageSet, request: Request = REQUEST) -> dict[str, Any]:
    """What evaluation gives for each run, by id."""
    outcomes = evaluate_runs(list(runs), {data.content_hash: data}, request, Processes())
    return {run.id: outcome for run, outcome in outcomes}


def values(record: dict[str, Any]) -> dict[str, float]:
    return {key: metric["value"] for key, metric in record["metrics"].items()}


def damage(run: RunFolder) -> None:
    path = next(run.snapshots.iterdir())
    path.write_bytes(path.read_bytes()[:100])


def test_runs_evaluated_together_have_the_values_of_each_alone(untrained_run: Run, digits: ImageSet) -> None:
    runs = [untrained_run(seed=seed) for seed in range(3)]
    packed = records(runs, digits)
    assert [packed[run.id]["samples"]["packed"] for run in runs] == [3, 3, 3]
    for run in runs:
        assert run.evaluation() == packed[run.id]
        (run.path / "evaluation.json").unlink()
        alone = records([run], digits)[run.id]
        assert alone["samples"] == packed[run.id]["samples"] | {"packed": 1}
        assert values(alone) == pytest.approx(values(packed[run.id]), rel=1e-6)


def test_a_damaged_snapshot_hurts_no_neighbour(untrained_run: Run, digits: ImageSet) -> None:
    runs = [untrained_run(seed=seed) for seed in range(3)]
    damage(runs[1])
    found = records(runs, digits)
    assert isinstance(found[runs[1].id], InputError) and "damaged" in str(found[runs[1].id])
    assert [found[run.id]["samples"]["packed"] for run in (runs[0], runs[2])] == [2, 2]
    assert [run.evaluation() is None for run in runs] == [False, True, False]


def test_runs_that_cannot_be_read_are_reported_each_with_its_reason(untrained_run: Run, digits: ImageSet) -> None:
    bad_settings, diverged, bad_record, sound = (untrained_run(seed=seed) for seed in range(4))
    (bad_settings.path / "experiment.json").write_text("{")
    diverged.write("provenance.json", {"outcome": "diverged"})
    (bad_record.path / "evaluation.json").write_text("{")
    found = records([bad_settings, diverged, bad_record, sound], digits)
    assert "experiment.json" in str(found[bad_settings.id])
    assert "diverged" in str(found[diverged.id])
    assert "evaluation.json" in str(found[bad_record.id])
    assert found[sound.id]["samples"]["packed"] == 1


def test_a_run_on_other_data_is_refused(untrained_run: Run, digits: ImageSet) -> None:
    run = untrained_run()
    [(_, outcome)] = evaluate_runs([run], {"another hash": digits}, REQUEST, Processes())
    assert isinstance(outcome, InputError) and "other data" in str(outcome)


def test_what_is_up_to_date_is_not_computed_again(
    untrained_run: Run, digits: ImageSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [untrained_run(seed=seed) for seed in range(3)]
    first = records(runs[:2], digits)
    both = records(runs, digits)
    assert both | first == both
    assert both[runs[2].id]["samples"]["packed"] == 1
    monkeypatch.setattr(sampling, "find", None)
    assert records(runs, digits) == both


def test_every_process_leaves_out_what_one_cannot_read(untrained_run: Run, digits: ImageSet) -> None:
    class WithAFailureElsewhere(Processes):
        def total(self, values: Tensor) -> Tensor:
            return values + torch.tensor([0.0, 1.0])

    runs = [untrained_run(seed=seed) for seed in range(2)]
    run, outcome = next(evaluate_runs(runs, {digits.content_hash: digits}, REQUEST, WithAFailureElsewhere()))
    assert run == runs[1] and "a process of this job cannot read it" in str(outcome)


def test_each_member_has_the_record_of_its_samples_alone(digits: ImageSet) -> None:
    samples = np.random.default_rng(0).random((3, 40, *digits.shape), dtype=np.float32)
    found = evaluate_members(samples, digits, ["parzen"], Processes())
    assert found == [evaluate(member, digits, ["parzen"], Processes()) for member in samples]
    assert len({values(record)["parzen[test,n=40,sigma=grid]"] for record in found}) == 3


def test_samples_that_a_metric_refuses_leave_the_other_members_values(digits: ImageSet) -> None:
    samples = np.random.default_rng(0).random((3, 40, *digits.shape), dtype=np.float32)
    samples[1, 0] = np.nan
    first, second, third = evaluate_members(samples, digits, ["parzen"], Processes())
    assert "NaN" in second["metrics"]["parzen[test,n=40]"]["reason"]
    assert first == evaluate(samples[0], digits, ["parzen"], Processes())
    assert third == evaluate(samples[2], digits, ["parzen"], Processes())


@pytest.mark.parametrize("name", evaluation.METRICS)
def test_the_order_of_members_is_the_order_of_records(name: str, digits: ImageSet) -> None:
    samples = np.random.default_rng(0).random((2, 40, *digits.shape), dtype=np.float32)
    metric = evaluation.METRICS[name]
    assert metric(samples, digits, Processes()) == metric(samples[::-1], digits, Processes())[::-1]
