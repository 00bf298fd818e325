"""grid.json: which runs a grid folder holds and which train together. It only ever grows."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from harness import runs
from harness.claims import Claimant
from harness.errors import InputError, Preempted, storage_error
from harness.plan import Plan, PlannedRun, Stack, StackSize, stacks
from harness.runs import GridFolder

_SHOWN_DIFFERENCES = 5
_LOOK_SECONDS = 0.05


@contextmanager
def lock(folder: GridFolder, claimant: Claimant, *, stop: Callable[[], bool] = lambda: False) -> Iterator[None]:
    """Hold a grid folder's manifest, after waiting until no other process holds it.

    A holder that was taken for dead and wakes may put back the manifest that it read; the next to come here adds again
    what that lacks, in the same stacks.
    Errors: InputError or StorageError where the folder cannot be written; Preempted at a signal.
    """
    try:
        folder.path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(error, folder.path, another="--out") from error
    while (standing := claimant.look(folder.path)).is_held or (claim := claimant.take(folder.path, standing)) is None:
        if stop():
            raise Preempted(f"stopped while {standing.owner} writes {folder.path}/grid.json; nothing was changed.")
        time.sleep(_LOOK_SECONDS)
    try:
        yield
    finally:
        claim.release("written")


def foreseen(folder: GridFolder, plan: Plan, size: StackSize) -> list[Stack]:
    """The stacks that `reconcile` would give; nothing is written. Errors: as `reconcile`."""
    return _merged(read(folder), folder, plan, size)[1]


def reconcile(folder: GridFolder, plan: Plan, size: StackSize) -> list[Stack]:
    """The stacks of a grid folder, in order, after its manifest has taken in the plan's new runs.

    Stacks that exist never change; new runs form new stacks behind them, of at most `size` members.
    Errors: InputError with the differences where the plan lacks or changes runs that the folder holds.
    """
    before = read(folder)
    manifest, found = _merged(before, folder, plan, size)
    for run in plan.runs:
        if not (folder.run(run.id).path / "experiment.json").exists():
            folder.run(run.id).write("experiment.json", run.experiment.canonical())
    if manifest != before:
        runs.write_json(folder.path / "grid.json", manifest, inside=folder.path)
    return found


def _merged(
    before: dict[str, Any], folder: GridFolder, plan: Plan, size: StackSize
) -> tuple[dict[str, Any], list[Stack]]:
    """The manifest and its stacks with the plan's new runs behind those that exist."""
    manifest = dict(before)
    planned = {run.id: run for run in plan.runs}
    gone = [entry for entry in manifest["runs"] if entry["id"] not in planned]
    if gone:
        raise InputError(_difference(folder, plan, gone))
    known = {entry["id"] for entry in manifest["runs"]}
    new = [run for run in plan.runs if run.id not in known]
    added = stacks(new, size)
    # Entries follow the grid file's order; the stacks keep theirs.
    manifest["runs"] = [{"id": run.id, "axes": run.axes, "seed": run.experiment.seed} for run in plan.runs]
    new_stacks = [{"id": stack.id, "members": [run.id for run in stack.members]} for stack in added]
    manifest["stacks"] = [*manifest["stacks"], *new_stacks]
    manifest |= {
        "name": plan.grid.name,
        "axes": plan.grid.axes,
        "data": {
            images.content_hash: {"dataset": name, "folders": [str(path.absolute()) for path in plan.folders]}
            for name, images in plan.data.items()
        },
        "evaluation": plan.grid.evaluation.model_dump(mode="json"),
    }
    manifest.pop("searched", None)
    if plan.grid.then_best is not None:
        manifest["searched"] = plan.grid.searched
    return manifest, [Stack(tuple(planned[member] for member in entry["members"])) for entry in manifest["stacks"]]


def read(folder: GridFolder) -> dict[str, Any]:
    """The manifest of a folder, or that of an empty one."""
    if not (folder.path / "grid.json").exists():
        return {"schema": runs.SCHEMA, "runs": [], "stacks": []}
    manifest = runs.read_record(folder.path / "grid.json")
    if manifest.get("schema") != runs.SCHEMA:
        raise InputError(f"{folder.path}/grid.json has schema {manifest.get('schema')}, this harness {runs.SCHEMA}.")
    return GridFolder(folder.path).manifest


def _difference(folder: GridFolder, plan: Plan, gone: Sequence[Mapping[str, Any]]) -> str:
    lines = [
        f"{folder.path} holds {len(gone)} experiments that {plan.grid.path} removes or changes; nothing was written. "
        "Choose another --out or grid name, or restore the grid file:"
    ]
    places = {(_place(run.axes, run.experiment.seed)): run for run in plan.runs}
    for entry in gone[:_SHOWN_DIFFERENCES]:
        place = _place(entry["axes"], entry["seed"])
        if place not in places:
            lines.append(f"  removed: {_show(entry['axes'], entry['seed'])}")
            continue
        changes = ", ".join(_changes(folder, str(entry["id"]), places[place]))
        lines.append(f"  changed: {_show(entry['axes'], entry['seed'])}: {changes}")
    if len(gone) > _SHOWN_DIFFERENCES:
        lines.append(f"  and {len(gone) - _SHOWN_DIFFERENCES} more")
    return "\n".join(lines)


def _place(axes: Mapping[str, Any], seed: int) -> str:
    return json.dumps([axes, seed], sort_keys=True)


def _show(axes: Mapping[str, Any], seed: int) -> str:
    return " ".join([*(f"{key}={value}" for key, value in axes.items()), f"seed={seed}"])


def _changes(folder: GridFolder, run_id: str, planned: PlannedRun) -> list[str]:
    old, new = _leaves(folder.run(run_id).experiment()), _leaves(planned.experiment.canonical())
    keys = [key for key in {**old, **new} if old.get(key) != new.get(key)]
    return [f"{key}: {json.dumps(old.get(key))} -> {json.dumps(new.get(key))}" for key in keys]


def _leaves(value: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    leaves: dict[str, Any] = {}
    for key, inner in value.items():
        leaves |= _leaves(inner, f"{prefix}{key}.") if isinstance(inner, Mapping) else {f"{prefix}{key}": inner}
    return leaves
