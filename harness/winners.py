"""The best draws of a random search: found once, by what validation images say, and trained again with many seeds.

    <out>/<grid>/search.json   {"schema", "choices": [{"axes", "metric", "key", "better", "candidates"}]}

A choice is made at one point of the axes when all of its draws have ended and are measured; its candidates ({"draw",
"runs", "score", "reason"}) stand in order, the best first. What is written there is never chosen again: records that
change later change no winner.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from harness import runs
from harness.errors import InputError
from harness.plan import Plan, PlannedRun
from harness.runs import BEST, STAGE, GridFolder, RunFolder

_FILE = "search.json"
_SHOWN = 5
Choice = dict[str, Any]


@dataclass(frozen=True)
class Score:
    """What a run gave on validation images: under which key, which values are the better ones, and the value.

    `value` is None, with the reason, where it diverged or could not be measured.
    """

    value: float | None
    key: str | None = None
    better: str | None = None
    reason: str | None = None


def settle(folder: GridFolder, plan: Plan) -> list[Choice]:
    """The choices of a grid folder, after those that can be made now are written down.

    Errors: as `choose`.
    """
    standing = _standing(folder)
    choices = choose(folder, plan)
    made = {_place(choice["axes"]): choice for choice in choices}
    if made.keys() - standing.keys():
        runs.write_json(
            folder.path / _FILE,
            {"schema": runs.SCHEMA, "choices": list((standing | made).values())},
            inside=folder.path,
        )
    return choices


def choose(folder: GridFolder, plan: Plan) -> list[Choice]:
    """The choices that are written down, and those that can be made now.

    Errors: InputError where one that stands was made among other draws, or by another metric.
    """
    standing = _standing(folder)
    choices = []
    for place, members in _searched(plan).items():
        if place in standing:
            _check(standing[place], plan, members, folder)
            choices.append(standing[place])
        elif (choice := _choice(folder, plan, members)) is not None:
            choices.append(choice)
    return choices


def grown(plan: Plan, choices: Sequence[Choice]) -> Plan:
    """The plan with the chosen draws behind it, under the seeds of the best."""
    then_best = plan.grid.then_best
    if then_best is None:
        return plan
    planned = {run.id: run for run in plan.runs}
    best = [
        replace(run, experiment=run.experiment.model_copy(update={"seed": seed}), axes=run.axes | {STAGE: BEST})
        for choice in choices
        for candidate in winners(choice, then_best.n)
        for run in [planned[candidate["runs"][0]]]
        for seed in then_best.fresh(plan.grid.file.seeds)
    ]
    return replace(plan, runs=(*plan.runs, *best))


def winners(choice: Choice, n: int) -> list[dict[str, Any]]:
    """The first n candidates, those without a score never among them."""
    return [candidate for candidate in choice["candidates"] if candidate["score"] is not None][:n]


def next_step(folder: GridFolder, plan: Plan) -> str | None:
    """What is to be done before the best of a search can train, or why there is none; None where nothing is."""
    then_best = plan.grid.then_best
    if then_best is None:
        return None
    standing = _standing(folder)
    searched = _searched(plan)
    waiting = [run.id for place, members in searched.items() if place not in standing for run in members]
    unended = [run_id for run_id in waiting if folder.run(run_id).status() not in ("complete", "diverged")]
    if unended:
        return f"{len(unended)} draws of the search have not ended ({_named(unended)}); the same command goes on."
    lacking = [run_id for run_id in waiting if _score(folder.run(run_id), plan) is None]
    if lacking:
        return (
            f"{len(lacking)} draws of the search lack {then_best.metric} on validation images ({_named(lacking)}): "
            f"`harness evaluate {folder.path}` measures it, then the same command again trains the best."
        )
    if waiting:
        return "all draws of the search are measured; the same command again trains the best."
    none = [_shown(choice["axes"]) for choice in standing.values() if not winners(choice, then_best.n)]
    if none:
        return f"no draw has a score, so none trains again, at {'; '.join(none)}: see {folder.path / _FILE}."
    return None


def _searched(plan: Plan) -> dict[str, list[PlannedRun]]:
    """The runs of a search at each point of the axes; none where its best do not train again."""
    places: dict[str, list[PlannedRun]] = {}
    for run in plan.runs if plan.grid.then_best else ():
        if run.axes[STAGE] != BEST:
            places.setdefault(_place(_split(plan, run)[0]), []).append(run)
    return places


def _split(plan: Plan, run: PlannedRun) -> tuple[dict[str, Any], dict[str, Any]]:
    """A run's place on the axes, and what was drawn there."""
    axes = {key: value for key, value in run.axes.items() if key in plan.grid.file.axes}
    return axes, {key: value for key, value in run.axes.items() if key not in axes and key != STAGE}


def _choice(folder: GridFolder, plan: Plan, members: Sequence[PlannedRun]) -> Choice | None:
    """The choice among a search's runs at one point of the axes; None while one has not ended or is not measured.

    Errors: InputError where they are measured in different ways.
    """
    then_best = plan.grid.then_best
    assert then_best is not None  # or there are no runs to choose from
    draws: dict[str, list[tuple[PlannedRun, Score]]] = {}
    for run in members:
        score = _score(folder.run(run.id), plan)
        if score is None:
            return None
        draws.setdefault(_place(run.axes), []).append((run, score))
    measured = [score for scored in draws.values() for _, score in scored if score.value is not None]
    keys = {score.key for score in measured}
    if len(keys) > 1:
        named = ", ".join(sorted(map(str, keys)))
        raise InputError(
            f"{folder.path}: the draws of the search are measured under different keys ({named}); "
            f"`harness evaluate {folder.path}` measures all alike."
        )
    better = measured[0].better if measured else None
    candidates = [_candidate(plan, scored) for scored in draws.values()]
    sign = -1 if better == "higher" else 1
    candidates.sort(key=lambda one: (one["score"] is None, sign * (one["score"] or 0.0)))
    axes, _ = _split(plan, members[0])
    key = measured[0].key if measured else None
    return {"axes": axes, "metric": then_best.metric, "key": key, "better": better, "candidates": candidates}


def _candidate(plan: Plan, scored: Sequence[tuple[PlannedRun, Score]]) -> dict[str, Any]:
    """A draw with the mean score of its runs; without one where a run has none."""
    values = [score.value for _, score in scored if score.value is not None]
    reasons = [score.reason for _, score in scored if score.value is None]
    return {
        "draw": _split(plan, scored[0][0])[1],
        "runs": [run.id for run, _ in scored],
        "score": None if reasons else statistics.fmean(values),
        "reason": reasons[0] if reasons else None,
    }


def _named(ids: Sequence[str]) -> str:
    return ", ".join(ids[:_SHOWN]) + (f" and {len(ids) - _SHOWN} more" if len(ids) > _SHOWN else "")


def _score(run: RunFolder, plan: Plan) -> Score | None:
    """A run's score; None while it has not ended or is not measured as its grid says, with as many samples."""
    assert plan.grid.then_best is not None  # or nothing is scored
    status = run.status()
    if status == "diverged":
        return Score(None, reason="diverged")
    record = run.evaluation() if status == "complete" else None
    stated = (record or {}).get("validation", {}).get(plan.grid.then_best.metric)
    if record is None or stated is None or record["samples"]["count"] != plan.grid.evaluation.samples:
        return None
    found = record["metrics"][stated["key"]]
    return Score(found["value"], stated["key"], stated["better"], found.get("reason"))


def _standing(folder: GridFolder) -> dict[str, Choice]:
    """The choices that are written down, by their place on the axes."""
    path = folder.path / _FILE
    if not path.exists():
        return {}
    written = runs.read_json(path)
    if not isinstance(written, Mapping) or written.get("schema") != runs.SCHEMA:
        raise InputError(f"{path} is not of schema {runs.SCHEMA}, which this harness writes; restore it.")
    return {_place(choice["axes"]): choice for choice in written["choices"]}


def _check(choice: Choice, plan: Plan, members: Sequence[PlannedRun], folder: GridFolder) -> None:
    then_best = plan.grid.then_best
    path = folder.path / _FILE
    where = f"{path}: the best at {_shown(choice['axes'])}" if choice["axes"] else f"{path}: the best"
    way_out = f"restore {plan.grid.path}, or choose another --out or grid name."
    if then_best and choice["metric"] != then_best.metric:
        raise InputError(f"{where} were chosen by {choice['metric']}, not by {then_best.metric}; {way_out}")
    compared = {run_id for candidate in choice["candidates"] for run_id in candidate["runs"]}
    if compared != {run.id for run in members}:
        raise InputError(f"{where} were chosen among {len(compared)} runs, not among these {len(members)}; {way_out}")


def _place(axes: Mapping[str, Any]) -> str:
    return json.dumps(axes, sort_keys=True)


def _shown(axes: Mapping[str, Any]) -> str:
    return " ".join(f"{key}={value}" for key, value in axes.items()) or "this grid"
