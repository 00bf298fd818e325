from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from harness import manifest
from harness.claims import Claimant
from harness.errors import InputError, Preempted
from harness.plan import Plan, Stack, stacks
from harness.runs import GridFolder

Planned = Callable[..., Plan]
LOSSES = '[axes]\nloss = ["minimax", "non_saturating"]\n'


@pytest.fixture
def folder(tmp_path: Path) -> GridFolder:
    return GridFolder(tmp_path / "out" / "tiny")


def reconciled(folder: GridFolder, plan: Plan) -> dict[str, Any]:
    """The manifest after the plan was taken in, and that it names the stacks which are given to the runner."""
    found = manifest.reconcile(folder, plan, lambda experiment: plan.grid.file.run.stack_size or 8)
    written = GridFolder(folder.path).manifest
    assert [stack["id"] for stack in written["stacks"]] == [stack.id for stack in found]
    return written


def content(path: Path) -> dict[str, bytes]:
    return {str(file.relative_to(path)): file.read_bytes() for file in path.rglob("*") if file.is_file()}


def test_a_new_folder_takes_in_the_grid(folder: GridFolder, planned: Planned) -> None:
    plan = planned(LOSSES, seeds="[0, 1]")
    written = reconciled(folder, plan)
    assert written["name"] == "tiny" and written["axes"] == ["loss"]
    assert [(run["axes"], run["seed"]) for run in written["runs"]] == [
        ({"loss": loss}, seed) for loss in ("minimax", "non_saturating") for seed in (0, 1)
    ]
    assert [stack["members"] for stack in written["stacks"]] == [[run.id for run in plan.runs]]
    for run in plan.runs:
        assert folder.run(run.id).experiment() == run.experiment.canonical()


def test_the_same_grid_again_changes_nothing(folder: GridFolder, planned: Planned) -> None:
    reconciled(folder, planned(LOSSES))
    before = content(folder.path)
    reconciled(folder, planned(LOSSES))
    assert content(folder.path) == before


@pytest.mark.parametrize(
    ("rest", "seeds", "new"),
    [
        (LOSSES, "[0, 1]", 2),
        (LOSSES, "[1, 0]", 2),
        (LOSSES + "k = [1, 2]\n", "[0]", 2),
        (LOSSES + "k = [2, 1]\n", "[0, 1, 2]", 10),
    ],
)
def test_a_grid_that_grew_adds_stacks_behind_those_that_stay(
    rest: str, seeds: str, new: int, folder: GridFolder, planned: Planned
) -> None:
    before = reconciled(folder, planned(LOSSES))
    files = content(folder.path / "runs")
    grown = planned(rest, seeds=seeds)
    after = reconciled(folder, grown)
    assert after["stacks"][: len(before["stacks"])] == before["stacks"]
    assert [run["id"] for run in after["runs"]] == [run.id for run in grown.runs]
    members = [member for stack in after["stacks"] for member in stack["members"]]
    assert sorted(members) == sorted(run.id for run in grown.runs) and len(members) == 2 + new
    assert content(folder.path / "runs").items() >= files.items()


def test_another_stack_size_leaves_old_stacks_alone(folder: GridFolder, planned: Planned) -> None:
    before = reconciled(folder, planned(LOSSES, seeds="[0, 1]"))
    after = reconciled(folder, planned(LOSSES + "[run]\nstack_size = 1\n", seeds="[0, 1, 2]"))
    assert after["stacks"][0] == before["stacks"][0]
    assert [len(stack["members"]) for stack in after["stacks"]] == [4, 1, 1]


REFUSED: dict[str, tuple[str, str, list[str]]] = {
    "a removed seed": (LOSSES, "[0]", ["removed: loss=minimax seed=1", "removed: loss=non_saturating seed=1"]),
    "a removed axis value": ('[axes]\nloss = ["minimax"]\n', "[0, 1]", ["removed: loss=non_saturating seed=0"]),
    "a changed setting": (
        "batch_size = 32\n" + LOSSES,
        "[0, 1]",
        ["changed: loss=minimax seed=0: batch_size: 64 -> 32"],
    ),
    "a changed optimizer": (
        "generator = {optimizer = {lr = 0.2}}\n" + LOSSES,
        "[0, 1]",
        ["seed=1: generator.optimizer.lr: 0.1 -> 0.2"],
    ),
    "a setting that was absent": ("ema = 0.9\n" + LOSSES, "[0, 1]", ["seed=1: ema: null -> 0.9"]),
    "many changes": (LOSSES, "[5, 6, 7]", ["holds 4 experiments"]),
}


@pytest.mark.parametrize("what", REFUSED)
def test_removed_or_changed_experiments_are_refused_and_nothing_is_overwritten(
    what: str, folder: GridFolder, planned: Planned
) -> None:
    reconciled(folder, planned(LOSSES, seeds="[0, 1]"))
    before = content(folder.path)
    rest, seeds, messages = REFUSED[what]
    with pytest.raises(InputError) as error:
        manifest.reconcile(folder, planned(rest, seeds=seeds), lambda experiment: 8)
    text = str(error.value)
    assert str(folder.path) in text and "nothing was written" in text and "tiny.toml" in text
    assert [message for message in messages if message not in text] == []
    assert content(folder.path) == before


def test_more_differences_than_fit_are_counted(folder: GridFolder, planned: Planned) -> None:
    reconciled(folder, planned(seeds="[0, 1, 2, 3, 4, 5, 6]"))
    with pytest.raises(InputError, match="and 2 more"):
        manifest.reconcile(folder, planned(seeds="[9]"), lambda experiment: 8)


@pytest.mark.parametrize(
    ("written", "message"),
    [("{", "grid.json is not valid JSON"), (json.dumps({"schema": 99}), "has schema 99")],
)
def test_a_damaged_or_foreign_manifest_is_refused(
    written: str, message: str, folder: GridFolder, planned: Planned
) -> None:
    folder.path.mkdir(parents=True)
    (folder.path / "grid.json").write_text(written)
    with pytest.raises(InputError, match=message):
        manifest.reconcile(folder, planned(), lambda experiment: 8)
    assert content(folder.path) == {"grid.json": written.encode()}


def test_a_second_process_waits_while_the_first_holds_the_manifest(folder: GridFolder) -> None:
    looks = []

    def stop() -> bool:
        looks.append(len(looks))
        return len(looks) == 3

    with (
        manifest.lock(folder, Claimant()),
        pytest.raises(Preempted, match="nothing was changed"),
        manifest.lock(folder, Claimant(), stop=stop),
    ):
        pass
    assert len(looks) == 3
    with manifest.lock(folder, Claimant()):
        pass


def test_a_folder_that_cannot_be_written_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(InputError, match="cannot write .*; choose another --out"),
        manifest.lock(GridFolder(tmp_path / "file" / "tiny"), Claimant()),
    ):
        pass


def sizes(found: list[Stack]) -> list[int]:
    return [len(stack.members) for stack in found]


def test_runs_of_one_shape_share_stacks_of_limited_size(planned: Planned) -> None:
    mixed = planned(LOSSES + '"optimizer.lr" = [0.1, 0.2]\ndiscriminator_loss_weight = [1.0, 0.5]\n', seeds="[0, 1]")
    assert sizes(stacks(mixed.runs, 16)) == [16]
    assert sizes(stacks(mixed.runs, 7)) == [5, 5, 6]
    assert [run for stack in stacks(mixed.runs, 7) for run in stack.members] == list(mixed.runs)


@pytest.mark.parametrize(
    "axis",
    [
        "k = [1, 2]",
        "batch_size = [8, 16]",
        'model = ["mlp", "maxout-mlp"]',
        '"generator.hidden" = [[8], [9]]',
        'updates = ["alternating", "simultaneous"]',
        'precision = ["float32", "float64"]',
        "iterations = [3, 4]",
        '"optimizer.name" = ["SGD", "RMSprop"]',
        'optimizer = [{name = "AdamW", weight_decay = 0.1}, {name = "AdamW", weight_decay = 0.2}]',
    ],
)
def test_what_shapes_the_computation_parts_the_stacks(axis: str, planned: Planned) -> None:
    assert sizes(stacks(planned(f"[axes]\n{axis}\n").runs, 8)) == [1, 1]


@pytest.mark.parametrize("key", ["ema", "weight_clip", "generator.max_column_norm", "discriminator.max_column_norm"])
def test_members_share_whether_there_is_an_average_or_a_bound_but_not_its_number(key: str, planned: Planned) -> None:
    assert sizes(stacks(planned(f'[axes]\n"{key}" = [0.5, 0.9]\n').runs, 8)) == [2]
    bundles = f'bound = [{{name = "none"}}, {{name = "some", {key} = 0.9}}]'
    assert sizes(stacks(planned(f"[axes]\n{bundles}\n").runs, 8)) == [1, 1]


def test_the_order_in_which_settings_are_written_parts_no_stack(planned: Planned) -> None:
    plan = planned(
        '[axes]\nway = [{name = "a", loss = "minimax", optimizer = {name = "AdamW", eps = 0.1, weight_decay = 0.2}}, '
        '{name = "b", optimizer = {name = "AdamW", weight_decay = 0.2, eps = 0.1}}]\n'
    )
    assert sizes(stacks(plan.runs, 8)) == [2]
