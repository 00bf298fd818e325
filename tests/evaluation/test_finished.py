"""Evaluation of several runs: each as if alone, none hurt by its neighbours."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from harness import sampling
from harness.errors import InputError
from harness.evaluation import References, Request, evaluate, evaluate_members, evaluate_runs
from harness.runs import RunFolder
from harness.training.processes import Processes

Run = Callable[..., RunFolder]
REQUEST = Request(("parzen",), 50)


def records(runs: Iterable[RunFolder], digits: References, request: Request = REQUEST) -> dict[str, Any]:
    """What evaluation gives for each run, by id."""
    outcomes = evaluate_runs(list(runs), {digits.data.content_hash: digits}, request, Processes())
    return {run.id: outcome for run, outcome in outcomes}


def values(record: dict[str, Any]) -> dict[str, float]:
    return {key: metric["value"] for key, metric in record["metrics"].items()}


def damage(run: RunFolder) -> None:
    path = next(run.snapshots.iterdir())
    path.write_bytes(path.read_bytes()[:100])


def test_runs_evaluated_together_have_the_values_of_each_alone(untrained_run: Run, references: References) -> None:
    runs = [untrained_run(seed=seed) for seed in range(3)]
    packed = records(runs, references)
    assert [packed[run.id]["samples"]["packed"] for run in runs] == [3, 3, 3]
    for run in runs:
        assert run.evaluation() == packed[run.id]
        (run.path / "evaluation.json").unlink()
        alone = records([run], references)[run.id]
        assert alone["samples"] == packed[run.id]["samples"] | {"packed": 1}
        assert values(alone) == pytest.approx(values(packed[run.id]), rel=1e-6)


def test_a_damaged_snapshot_hurts_no_neighbour(untrained_run: Run, references: References) -> None:
    runs = [untrained_run(seed=seed) for seed in range(3)]
    damage(runs[1])
    found = records(runs, references)
    assert isinstance(found[runs[1].id], InputError) and "damaged" in str(found[runs[1].id])
    assert [found[run.id]["samples"]["packed"] for run in (runs[0], runs[2])] == [2, 2]
    assert [run.evaluation() is None for run in runs] == [False, True, False]


def test_runs_that_cannot_be_read_are_reported_each_with_its_reason(untrained_run: Run, references: References) -> None:
    bad_settings, diverged, bad_record, sound = (untrained_run(seed=seed) for seed in range(4))
    (bad_settings.path / "experiment.json").write_text("{")
    diverged.write("provenance.json", {"outcome": "diverged"})
    (bad_record.path / "evaluation.json").write_text("{")
    found = records([bad_settings, diverged, bad_record, sound], references)
    assert "experiment.json" in str(found[bad_settings.id])
    assert "diverged" in str(found[diverged.id])
    assert "evaluation.json" in str(found[bad_record.id])
    assert found[sound.id]["samples"]["packed"] == 1


def test_a_run_on_other_data_is_refused(untrained_run: Run, references: References) -> None:
    run = untrained_run()
    [(_, outcome)] = evaluate_runs([run], {"another hash": references}, REQUEST, Processes())
    assert isinstance(outcome, InputError) and "other data" in str(outcome)


def test_what_is_up_to_date_is_not_computed_again(
    untrained_run: Run, references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    runs = [untrained_run(seed=seed) for seed in range(3)]
    first = records(runs[:2], references)
    both = records(runs, references)
    assert both | first == both
    assert both[runs[2].id]["samples"]["packed"] == 1
    monkeypatch.setattr(sampling, "find", None)
    assert records(runs, references) == both


def test_every_process_leaves_out_what_one_cannot_read(untrained_run: Run, references: References) -> None:
    class WithAFailureElsewhere(Processes):
        def total(self, values: Tensor) -> Tensor:
            return values + torch.tensor([0.0, 1.0])

    runs = [untrained_run(seed=seed) for seed in range(2)]
    run, outcome = next(
        evaluate_runs(runs, {references.data.content_hash: references}, REQUEST, WithAFailureElsewhere())
    )
    assert run == runs[1] and "a process of this job cannot read it" in str(outcome)


def test_each_member_has_the_record_of_its_samples_alone(references: References) -> None:
    samples = np.random.default_rng(0).random((3, 40, *references.data.shape), dtype=np.float32)
    found = evaluate_members(samples, references, ("parzen",))
    assert found == [evaluate(member, references, ("parzen",)) for member in samples]
    assert len({values(record)["parzen[test,n=40,sigma=grid]"] for record in found}) == 3


def test_samples_that_a_metric_refuses_leave_the_other_members_values(references: References) -> None:
    samples = np.random.default_rng(0).random((3, 40, *references.data.shape), dtype=np.float32)
    samples[1, 0] = np.nan
    first, second, third = evaluate_members(samples, references, ("parzen",))
    assert "NaN" in second["metrics"]["parzen[test,n=40]"]["reason"]
    assert first == evaluate(samples[0], references, ("parzen",))
    assert third == evaluate(samples[2], references, ("parzen",))


def test_class_accuracy_is_of_conditional_runs_and_stops_no_other_metric(
    untrained_run: Run, references: References
) -> None:
    conditional, plain = untrained_run(conditional=True), untrained_run()
    found = records([conditional, plain], references, Request(("class-accuracy", "parzen"), 50))
    accuracies, reasons = (
        {key: metric for key, metric in found[run.id]["metrics"].items() if key.startswith("class-accuracy")}
        for run in (conditional, plain)
    )
    [(key, accuracy)] = accuracies.items()
    assert "n=50" in key and 0 <= accuracy["value"] <= 0.5  # untrained, it knows no class
    assert accuracy["error"] == "over samples, binomial"
    [reason] = reasons.values()
    assert reason["value"] is None and "made for a class" in reason["reason"]
    assert all(values(found[run.id])["parzen[test,n=50,sigma=grid]"] for run in (conditional, plain))


def test_a_record_says_what_its_samples_are(
    untrained_baseline: Run, untrained_run: Run, references: References
) -> None:
    runs = [untrained_baseline("dbn"), untrained_run(ema=0.9)]
    stated = [record["samples"] for record in records(runs, references).values()]
    assert [samples["method"] for samples in stated] == ["dbn", "gan"]
    assert "chains start from" in stated[0]["shows"] and "no chain" in stated[1]["shows"]


def test_draws_and_bounds_of_runs_are_measured_beside_the_rest(
    untrained_baseline: Run, untrained_run: Run, references: References
) -> None:
    runs = [*(untrained_baseline("vae", seed=seed) for seed in range(2)), untrained_run()]
    found = records(runs, references, Request(("parzen", "parzen-draws", "iwae-bound"), 50))
    draws, bound = "parzen-draws[test,n=50,output=draws,sigma=grid]", "iwae-bound[test,k=50]"
    for run in runs[:2]:
        assert values(found[run.id]).keys() >= {draws, bound, "parzen[test,n=50,sigma=grid]"}
        assert None not in values(found[run.id]).values()
    assert values(found[runs[0].id])[bound] != values(found[runs[1].id])[bound]
    of_gan = values(found[runs[2].id])
    assert of_gan["parzen-draws[test,n=50]"] is None and of_gan["iwae-bound[test,n=50]"] is None
    assert of_gan["parzen[test,n=50,sigma=grid]"] is not None


def test_a_bound_can_choose_the_snapshot(untrained_baseline: Run, references: References) -> None:
    request = Request(("parzen",), 50, "best-validation", select_by="iwae-bound")
    [record] = records([untrained_baseline("vae")], references, request).values()
    assert record["selection"]["metric"] == "iwae-bound[validation,k=50]"
