from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from harness import manifest, winners
from harness.errors import InputError
from harness.plan import Plan, PlannedRun
from harness.runs import GridFolder

Planned = Callable[..., Plan]
LOSSES = '[axes]\nloss = ["minimax", "non_saturating"]\n'
SEARCH = """
[search]
draws = {draws}
then_best = {{n = {n}, seeds = {seeds}, metric = "{metric}"}}
space = {{"optimizer.lr" = {{distribution = "uniform", low = 0.01, high = 0.1}}}}
"""
SAMPLES = 10_000  # what a grid measures where it says nothing
KEY = f"fid[classifier-digits,validation,n={SAMPLES}]"


def search(*, draws: int = 3, n: int = 1, seeds: int = 2, metric: str = "fid") -> str:
    return SEARCH.format(draws=draws, n=n, seeds=seeds, metric=metric)


@pytest.fixture
def folder(tmp_path: Path) -> GridFolder:
    return GridFolder(tmp_path / "out" / "tiny")


def end(
    folder: GridFolder,
    run: PlannedRun,
    value: float | None,
    *,
    key: str = KEY,
    better: str = "lower",
    samples: int = SAMPLES,
) -> None:
    """A run that has ended and is measured."""
    folder.run(run.id).write("provenance.json", {"outcome": "complete"})
    measured = {"value": value, "standard_error": None} | ({"reason": "too few"} if value is None else {})
    stated = {"fid": {"key": key, "better": better, "asked": f"n={samples} validation"}}
    folder.run(run.id).write(
        "evaluation.json", {"samples": {"count": samples}, "metrics": {key: measured}, "validation": stated}
    )


def end_all(folder: GridFolder, plan: Plan, values: list[float | None], **stated: Any) -> None:
    for run, value in zip(plan.runs, values, strict=True):
        end(folder, run, value, **stated)


def best(plan: Plan, choices: list[dict[str, Any]]) -> list[PlannedRun]:
    return list(winners.grown(plan, choices).runs[len(plan.runs) :])


def place(run: PlannedRun) -> Mapping[str, Any]:
    return {**run.axes, "seed": run.experiment.seed}


def test_the_best_of_each_axis_point_train_again_under_fresh_seeds(folder: GridFolder, planned: Planned) -> None:
    plan = planned(LOSSES + search(), seeds="[1]")
    end_all(folder, plan, [3.0, 1.0, 2.0, 5.0, 6.0, 4.0])
    found = best(plan, winners.settle(folder, plan))
    first, second = plan.runs[1], plan.runs[5]
    assert [place(run) for run in found] == [
        {**run.axes, "stage": "best", "seed": seed} for run in (first, second) for seed in (0, 2)
    ]
    same = [run.experiment.model_copy(update={"seed": 1}) for run in found]
    assert same == [first.experiment] * 2 + [second.experiment] * 2
    assert {run.id for run in found}.isdisjoint(run.id for run in plan.runs)


def test_high_values_win_where_they_are_the_better_ones(folder: GridFolder, planned: Planned) -> None:
    plan = planned(search(n=2, seeds=1))
    end_all(folder, plan, [2.0, 3.0, 1.0], better="higher")
    chosen = [run.axes["optimizer.lr"] for run in best(plan, winners.settle(folder, plan))]
    assert chosen == [plan.runs[1].axes["optimizer.lr"], plan.runs[0].axes["optimizer.lr"]]


def test_a_draw_of_several_seeds_has_their_mean(folder: GridFolder, planned: Planned) -> None:
    plan = planned(search(draws=2), seeds="[0, 1]")
    end_all(folder, plan, [1.0, 5.0, 2.0, 3.0])
    [choice] = winners.settle(folder, plan)
    assert [candidate["score"] for candidate in choice["candidates"]] == [2.5, 3.0]
    assert [run.experiment.seed for run in best(plan, [choice])] == [2, 3]


def test_one_that_diverged_or_has_no_value_never_wins(folder: GridFolder, planned: Planned) -> None:
    plan = planned(search(n=3, seeds=1))
    end_all(folder, plan, [None, 2.0, 1.0])
    folder.run(plan.runs[2].id).write("provenance.json", {"outcome": "diverged"})
    [choice] = winners.settle(folder, plan)
    assert [(one["score"], one["reason"]) for one in choice["candidates"]] == [
        (2.0, None),
        (None, "too few"),
        (None, "diverged"),
    ]
    assert [run.axes["optimizer.lr"] for run in best(plan, [choice])] == [plan.runs[1].axes["optimizer.lr"]]


def test_where_none_has_a_value_none_trains_again_and_it_is_said(folder: GridFolder, planned: Planned) -> None:
    plan = planned(LOSSES + search(draws=1))
    end_all(folder, plan, [None, 1.0])
    assert [run.axes["loss"] for run in best(plan, winners.settle(folder, plan))] == ["non_saturating"] * 2
    assert "no draw has a score, so none trains again, at loss=minimax" in str(winners.next_step(folder, plan))


def test_nothing_is_chosen_before_all_draws_of_an_axis_point_are_measured(folder: GridFolder, planned: Planned) -> None:
    plan = planned(LOSSES + search())
    for run in plan.runs[:4]:
        end(folder, run, 1.0)
    folder.run(plan.runs[4].id).write("provenance.json", {"outcome": "complete"})
    note = str(winners.next_step(folder, plan))
    assert "1 draws of the search have not ended" in note and plan.runs[5].id in note
    folder.run(plan.runs[5].id).write("provenance.json", {"outcome": "complete"})
    assert [choice["axes"] for choice in winners.settle(folder, plan)] == [{"loss": "minimax"}]
    note = str(winners.next_step(folder, plan))
    assert "2 draws of the search lack fid on validation images" in note
    assert plan.runs[4].id in note and plan.runs[5].id in note and plan.runs[3].id not in note
    assert f"`harness evaluate {folder.path}`" in note


def test_a_measurement_of_other_samples_than_the_grid_asks_for_chooses_nothing(
    folder: GridFolder, planned: Planned
) -> None:
    plan = planned(search())
    end_all(folder, plan, [3.0, 1.0, 2.0], samples=50)
    assert winners.settle(folder, plan) == []
    assert "3 draws of the search lack fid" in str(winners.next_step(folder, plan))


def test_a_choice_stands_whatever_is_measured_later(folder: GridFolder, planned: Planned) -> None:
    plan = planned(search())
    end_all(folder, plan, [3.0, 1.0, 2.0])
    first = winners.settle(folder, plan)
    written = (folder.path / "search.json").read_bytes()
    end_all(folder, plan, [0.5, 1.0, None])
    assert winners.settle(folder, plan) == first
    assert (folder.path / "search.json").read_bytes() == written
    assert winners.next_step(folder, plan) is None


def test_more_of_the_best_and_more_seeds_keep_those_that_are(folder: GridFolder, planned: Planned) -> None:
    plan = planned(search())
    end_all(folder, plan, [3.0, 1.0, 2.0])
    few = best(plan, winners.settle(folder, plan))
    grown = planned(search(n=2, seeds=4))
    many = best(grown, winners.settle(folder, grown))
    assert len(many) == 8 and {run.id for run in few} < {run.id for run in many}


def test_a_new_axis_value_is_chosen_beside_the_choices_that_stand(folder: GridFolder, planned: Planned) -> None:
    plan = planned('[axes]\nloss = ["minimax"]\n' + search())
    end_all(folder, plan, [3.0, 1.0, 2.0])
    first = winners.settle(folder, plan)
    grown = planned(LOSSES + search())
    assert winners.settle(folder, grown) == first
    end_all(folder, grown, [9.0, 9.0, 0.0, 5.0, 4.0, 6.0])
    assert winners.settle(folder, grown)[0] == first[0]
    assert len(json.loads((folder.path / "search.json").read_text())["choices"]) == 2


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (search(draws=4), "the best were chosen among 3 runs, not among these 4; restore"),
        (search(metric="kid"), "the best were chosen by fid, not by kid; restore"),
    ],
)
def test_a_choice_among_others_is_refused(changed: str, message: str, folder: GridFolder, planned: Planned) -> None:
    plan = planned(search())
    end_all(folder, plan, [3.0, 1.0, 2.0])
    winners.settle(folder, plan)
    with pytest.raises(InputError) as error:
        winners.settle(folder, planned(changed))
    assert message in str(error.value) and "search.json" in str(error.value)


def test_scores_under_different_keys_are_not_compared(folder: GridFolder, planned: Planned) -> None:
    plan = planned(search())
    end_all(folder, plan, [3.0, 1.0, 2.0])
    end(folder, plan.runs[0], 0.5, key="fid[inception-v3-compat,validation,n=10000]")
    with pytest.raises(InputError, match="measured under different keys"):
        winners.settle(folder, plan)
    assert not (folder.path / "search.json").exists()


@pytest.mark.parametrize("content", ["[]", '{"schema": 99, "choices": []}', "{"])
def test_a_damaged_file_of_choices_is_refused(content: str, folder: GridFolder, planned: Planned) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "search.json").write_text(content)
    with pytest.raises(InputError, match=r"search\.json"):
        winners.settle(folder, planned(search()))


def test_a_grid_without_a_search_chooses_nothing(folder: GridFolder, planned: Planned) -> None:
    plan = planned(LOSSES)
    assert winners.settle(folder, plan) == [] and winners.grown(plan, []) is plan
    assert winners.next_step(folder, plan) is None and not folder.path.exists()


def test_the_best_are_new_stacks_behind_the_searchs(folder: GridFolder, planned: Planned) -> None:
    plan = planned(search())
    before = manifest.reconcile(folder, plan, lambda experiment: 8)
    end_all(folder, plan, [3.0, 1.0, 2.0])
    after = manifest.reconcile(folder, winners.grown(plan, winners.settle(folder, plan)), lambda experiment: 8)
    assert [stack.id for stack in after[: len(before)]] == [stack.id for stack in before]
    assert [len(stack.members) for stack in after] == [3, 2]
    written = GridFolder(folder.path).manifest
    assert written["searched"] == ["optimizer.lr"] and written["evaluation"]["validation"] == ["fid"]
    assert [run["axes"]["stage"] for run in written["runs"]] == ["search"] * 3 + ["best"] * 2
    with pytest.raises(InputError, match="removed: stage=best"):
        manifest.reconcile(folder, plan, lambda experiment: 8)
