"""The snapshot that is evaluated: the last, or the best on validation images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from harness.errors import InputError
from harness.evaluation import Recipe, References, Request, evaluate_runs, measures
from harness.evaluation.measures import Metric, Subject
from harness.runs import RunFolder
from harness.training.processes import Processes

Run = Callable[..., RunFolder]
BEST = Request(("parzen",), 50, "best-validation")


def record_of(run: RunFolder, references: References, request: Request) -> dict[str, Any]:
    [(_, outcome)] = evaluate_runs([run], {references.data.content_hash: references}, request, Processes())
    assert isinstance(outcome, dict), outcome
    return outcome


@pytest.fixture
def run(untrained_run: Run) -> RunFolder:
    """A run with three snapshots: greyer and greyer, from an output layer of smaller and smaller weights."""
    made = untrained_run()
    [last] = made.snapshots.iterdir()
    tensors = load_file(last)
    for iteration, factor in ((20, 8.0), (40, 3.0)):
        save_file(
            {name: tensor * factor for name, tensor in tensors.items()}, last.with_name(f"{iteration:010}.safetensors")
        )
    return made


def test_the_last_snapshot_is_the_default(run: RunFolder, references: References) -> None:
    record = record_of(run, references, Request(("parzen",), 50))
    assert record["selection"] == {"rule": "last", "iteration": 60}
    assert record["samples"]["snapshot"] == "0000000060.safetensors"


def test_the_best_on_validation_is_the_one_evaluated_on_test(
    run: RunFolder, references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def brightness(subject: Subject) -> list[dict[str, Any]]:
        seen.append(subject.references.recipe.reference)
        return [
            {f"brightness[{seen[-1]}]": {"value": float(own.std()), "standard_error": None}} for own in subject.samples
        ]

    monkeypatch.setitem(measures.METRICS, "brightness", Metric(brightness, "higher", of_features=False))
    record = record_of(run, references, Request(("brightness",), 50, "best-validation"))
    curve = record["selection"]["curve"]
    assert seen == ["validation"] * 3 + ["test"]
    assert [point["iteration"] for point in curve] == [20, 40, 60]
    best = max(curve, key=lambda point: point["value"])
    assert record["selection"] | {"curve": ...} == {
        "rule": "best-validation",
        "metric": "brightness[validation]",
        "iteration": best["iteration"],
        "curve": ...,
    }
    assert best["iteration"] == record["samples"]["iteration"] == 20
    assert record["metrics"]["brightness[test]"]["value"] == best["value"]


@pytest.mark.parametrize(("better", "chosen"), [("higher", 20), ("lower", 60)])
def test_the_direction_of_the_metric_decides(
    better: Any, chosen: int, run: RunFolder, references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    def spread(subject: Subject) -> list[dict[str, Any]]:
        return [{"spread": {"value": float(own.std()), "standard_error": None}} for own in subject.samples]

    monkeypatch.setitem(measures.METRICS, "spread", Metric(spread, better, of_features=False))
    assert record_of(run, references, Request(("spread",), 50, "best-validation"))["samples"]["iteration"] == chosen


def test_the_curve_is_of_parzens_validation_likelihood(run: RunFolder, references: References) -> None:
    record = record_of(run, references, BEST)
    assert record["selection"]["metric"] == "parzen[validation,n=50,sigma=grid]"
    assert "parzen[test,n=50,sigma=grid]" in record["metrics"]


def test_another_rule_is_evaluated_anew(run: RunFolder, references: References) -> None:
    best = record_of(run, references, BEST)
    assert record_of(run, references, BEST) == best
    assert record_of(run, references, Request(("parzen",), 50))["selection"]["rule"] == "last"


def test_a_snapshot_that_changed_is_evaluated_anew(run: RunFolder, references: References) -> None:
    before = record_of(run, references, Request(("parzen",), 50))
    last: Path = run.snapshots / before["samples"]["snapshot"]
    save_file({name: tensor * 2 for name, tensor in load_file(last).items()}, last)
    after = record_of(run, references, Request(("parzen",), 50))
    assert after["metrics"] != before["metrics"]


def test_a_metric_is_added_to_what_is_there(
    run: RunFolder, references: References, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = record_of(run, references, Request(("parzen",), 50))
    monkeypatch.setitem(measures.METRICS, "parzen", Metric(lambda subject: 1 / 0, "higher", of_features=False))
    after = record_of(run, references, Request(("parzen", "memorisation"), 50))
    assert after["metrics"].items() > before["metrics"].items()
    assert "memorisation[pixels,test,n=50]" in after["metrics"]


@pytest.fixture
def scored(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits on which a metric "spread" was asked for, one for each time."""
    splits: list[str] = []

    def spread(subject: Subject) -> list[dict[str, Any]]:
        splits.append(subject.references.recipe.reference)
        return [{"spread": {"value": float(own.std()), "standard_error": None}} for own in subject.samples]

    monkeypatch.setitem(measures.METRICS, "spread", Metric(spread, "higher", of_features=False))
    return splits


def test_a_metric_added_to_the_best_snapshot_scores_no_snapshot_again(
    run: RunFolder, references: References, scored: list[str]
) -> None:
    before = record_of(run, references, Request(("spread",), 50, "best-validation", "spread"))
    scored.clear()
    after = record_of(run, references, Request(("spread", "memorisation"), 50, "best-validation", "spread"))
    assert scored == []
    assert after["selection"] == before["selection"]
    assert after["metrics"].items() > before["metrics"].items()


def test_a_snapshot_that_came_since_has_its_chance(run: RunFolder, references: References, scored: list[str]) -> None:
    request = Request(("spread",), 50, "best-validation")
    assert record_of(run, references, request)["samples"]["iteration"] == 20
    tensors = load_file(run.snapshots / "0000000020.safetensors")
    save_file({name: tensor * 2 for name, tensor in tensors.items()}, run.snapshots / "0000000010.safetensors")
    assert record_of(run, references, request)["samples"]["iteration"] == 10


def test_a_metric_without_better_values_cannot_choose() -> None:
    with pytest.raises(InputError, match="memorisation"):
        Request(("memorisation",), 50, "best-validation")
    assert Request(("memorisation", "parzen"), 50, "best-validation").chooser == "parzen"


def choosing() -> Request:
    return Request(("spread",), 50, validation=("spread",))


@pytest.fixture
def split_in_key(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits on which a metric "spread" was asked for, one for each time; its key names the split."""
    splits: list[str] = []

    def spread(subject: Subject) -> list[dict[str, Any]]:
        splits.append(subject.references.recipe.reference)
        return [{f"spread[{splits[-1]}]": {"value": 1.0, "standard_error": None}} for _ in subject.samples]

    monkeypatch.setitem(measures.METRICS, "spread", Metric(spread, "higher", of_features=False))
    return splits


def test_what_runs_are_chosen_by_stands_beside_the_others(
    run: RunFolder, references: References, split_in_key: list[str]
) -> None:
    record = record_of(run, references, choosing())
    assert list(record["metrics"]) == ["spread[test]", "spread[validation]"]
    stated = record["validation"]["spread"]
    assert stated["key"] == "spread[validation]" and stated["better"] == "higher"
    assert record_of(run, references, choosing()) == record and split_in_key == ["test", "validation"]


def test_what_runs_are_chosen_by_is_added_to_what_is_there(
    run: RunFolder, references: References, split_in_key: list[str]
) -> None:
    before = record_of(run, references, Request(("spread",), 50))
    after = record_of(run, references, choosing())
    assert "validation" not in before and after["metrics"].items() > before["metrics"].items()
    assert split_in_key == ["test", "validation"]
    assert record_of(run, references, Request(("spread", "memorisation"), 50))["validation"] == after["validation"]


def test_fid_to_validation_images_is_that_of_a_recipe_of_them(run: RunFolder, references: References) -> None:
    record = record_of(run, references, Request(("precision",), 50, validation=("fid", "precision")))
    alone = References(references.data, Recipe("validation"), Processes(), cache=references.cache)
    expected = record_of(run, alone, Request(("fid", "precision"), 50, recipe=Recipe("validation")))
    for name in ("fid", "precision"):
        key = record["validation"][name]["key"]
        assert key.startswith(f"{name}[classifier-digits,validation,n=50")
        assert record["metrics"][key]["value"] == expected["metrics"][key]["value"]


def test_what_could_not_be_measured_is_replaced_when_it_can(
    run: RunFolder, references: References, monkeypatch: pytest.MonkeyPatch, split_in_key: list[str]
) -> None:
    working = measures.METRICS["spread"]

    def refused(subject: Subject) -> list[dict[str, Any]]:
        raise InputError("not now")

    monkeypatch.setitem(measures.METRICS, "spread", Metric(refused, "higher", of_features=False))
    record = record_of(run, references, choosing())
    assert record["metrics"]["spread[validation,n=50]"]["reason"] == "not now"
    monkeypatch.setitem(measures.METRICS, "spread", working)
    monkeypatch.setattr("harness.evaluation.finished.asked", lambda *_: {"spread": "otherwise"})
    assert list(record_of(run, references, choosing())["metrics"]) == ["spread[test]", "spread[validation]"]


def test_runs_are_not_chosen_by_what_has_no_better_values() -> None:
    with pytest.raises(InputError, match="choosing by 'memorisation': neither high nor low"):
        Request(("parzen",), 50, validation=("memorisation",))
