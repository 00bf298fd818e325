"""The grid file: TOML in, an ordered list of experiments out."""

from __future__ import annotations

import copy
import itertools
import json
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from harness.claims import LAPSE_SECONDS
from harness.dotted import apply, assign, overlap
from harness.errors import InputError, UnknownName
from harness.experiment import Experiment, Settings, validate
from harness.runs import SEARCH, STAGE
from harness.search import SearchSettings, ThenBest

_FILLED_IN = ("seed", "schema_version", "data_hash", "model_hash", "loss_hash", "classes")
SHIPPED = Path(__file__).parent / "grids"


Selection = Literal["last", "best-validation"]
"""Which snapshot of a run is evaluated: the last, or the one that a metric finds best on the validation images."""


class EvaluationSettings(Settings):
    """What `harness evaluate` measures on the grid's runs; no part of an experiment."""

    metrics: Annotated[tuple[str, ...], Field(min_length=1)] = ("parzen",)
    samples: Annotated[int, Field(ge=2)] = 10_000
    extractor: str | None = None
    """The network whose features metrics compare; absent: what suits the data set."""
    reference: Literal["test", "train"] = "test"
    """The images that samples are compared with."""
    select: Selection = "last"
    select_by: str | None = None
    """The metric that chooses among snapshots on the validation images; absent: the first of `metrics` that can."""
    validation: tuple[str, ...] = ()
    """Metrics that are measured against the validation images too; by one of them a search finds its best."""


class RunSettings(Settings):
    """How the grid is carried out; changes no trained parameter, up to rounding between different stacks."""

    stack_size: Annotated[int, Field(ge=1)] | None = None
    """At most this many experiments of one shape train together; absent: what suits the model and the device."""
    convolution: Literal["grouped", "channels_last", "in_turn"] | None = None
    """How a stack computes convolutions; absent: whatever is quickest in a few steps at its start."""
    gradient_accumulation: Annotated[int, Field(ge=1)] = 1
    """Pieces in which a process passes its part of a minibatch through a GAN's networks, to hold one in memory."""
    snapshot_every: Annotated[int, Field(ge=1)] | None = None
    """Iterations between snapshots of the generators; absent: the last alone."""
    checkpoint_every: Annotated[int, Field(ge=1)] | None = None
    """Iterations between checkpoints, beside those by time."""
    checkpoint_seconds: Annotated[float, Field(gt=0)] = 60.0
    lapse_seconds: Annotated[float, Field(gt=0)] = LAPSE_SECONDS
    """For how long a process that trains a stack gives no sign of life before another takes the stack over."""


class GridFile(Settings):
    """The tables of a grid file."""

    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", max_length=100)]
    seeds: Annotated[tuple[Annotated[int, Field(ge=0, lt=2**63)], ...], Field(min_length=1)] = (0,)
    experiment: dict[str, Any]
    axes: dict[str, Annotated[tuple[Any, ...], Field(min_length=1)]] = {}
    exclude: tuple[dict[str, Any], ...] = ()
    search: SearchSettings | None = None
    run: RunSettings = RunSettings()
    evaluation: EvaluationSettings = EvaluationSettings()

    @model_validator(mode="after")
    def _has_snapshots_to_select(self) -> GridFile:
        if self.evaluation.select == "best-validation" and self.run.snapshot_every is None:
            raise ValueError('evaluation.select = "best-validation" needs run.snapshot_every, or there is one snapshot')
        return self


@dataclass(frozen=True)
class Point:
    """One experiment of a grid, and its place there: `axes` maps each axis and searched key to its value."""

    experiment: Experiment
    axes: dict[str, Any]


@dataclass(frozen=True)
class Grid:
    """A grid file's content, validated: `path` is the file, `points` the experiments in their fixed order."""

    path: Path
    file: GridFile
    points: tuple[Point, ...]

    @property
    def name(self) -> str:
        return self.file.name

    @property
    def axes(self) -> list[str]:
        """The keys that vary: axes, the stage of a search that trains its best again, then searched settings."""
        return [*self.file.axes, *([STAGE] if self.then_best else []), *self.searched]

    @property
    def searched(self) -> list[str]:
        """The keys that a search draws."""
        return list(self.file.search.space) if self.file.search else []

    @property
    def then_best(self) -> ThenBest | None:
        """How the best of a search train again, if they do."""
        return self.file.search.then_best if self.file.search else None

    @property
    def evaluation(self) -> EvaluationSettings:
        """What is measured on the runs: what the file says, and what finds the best of a search."""
        stated = self.file.evaluation
        if self.then_best is None or self.then_best.metric in stated.validation:
            return stated
        return stated.model_copy(update={"validation": (*stated.validation, self.then_best.metric)})


def load_grid(name: str, *, overrides: Sequence[str] = ()) -> Grid:
    """The grid in a file, or the shipped one of that name, with `key=value` overrides applied.

    Errors: InputError or UnknownName for a file that is absent, not TOML or not a valid grid.
    """
    path = find_grid_file(name)
    data = _parse(path)
    for override in overrides:
        apply(override, data, tables=GridFile.model_fields)
    file = validate(GridFile, data, where=str(path))
    points = tuple(_points(file, str(path)))
    if not points:
        raise InputError(f"{path}: every experiment is excluded; relax [[exclude]].")
    return Grid(path, file, points)


def shipped_grids() -> dict[str, Path]:
    """The grids that come with the harness, by name."""
    return {path.stem: path for path in sorted(SHIPPED.glob("*.toml"))}


def find_grid_file(name: str) -> Path:
    """The path of a grid file: a path that exists, or a shipped grid's name."""
    path = Path(name)
    if path.is_file():
        return path
    if name in shipped_grids():
        return shipped_grids()[name]
    if path.suffix == ".toml" or len(path.parts) > 1:
        raise InputError(
            f"no grid file at {name}; check the path, or name a shipped grid: {', '.join(shipped_grids())}."
        )
    raise UnknownName("grid", name, shipped_grids())


def _parse(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise InputError(f"{path} is not TOML: {error}. See `harness run --help` for an example.") from None
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}.") from None


def _points(file: GridFile, where: str) -> Iterator[Point]:
    _check_axes(file, where)
    if file.search:
        _check_search(file, file.search, where)
    stage = {STAGE: SEARCH} if file.search and file.search.then_best else {}
    for values in itertools.product(*file.axes.values()):
        chosen = dict(zip(file.axes, values, strict=True))
        axes = _labels(chosen)
        if any(_matches(rule, axes) for rule in file.exclude):
            continue
        drawn = file.search.points(axes) if file.search else [{}]
        for searched, seed in itertools.product(drawn, file.seeds):
            experiment = _experiment(file, _settings(chosen | searched, where), seed, where)
            yield Point(experiment, axes | stage | _labels(searched))


def _labels(chosen: Mapping[str, Any]) -> dict[str, Any]:
    """What each axis or searched key shows for its value."""
    return {key: _label(key, value) for key, value in chosen.items()}


def _label(axis: str, value: Any) -> Any:
    """What an axis shows for a value: its name, if it is a named bundle of settings."""
    return value["name"] if _is_bundle(axis, value) else value


def _settings(chosen: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The dotted settings that axis values and draws stand for; a named bundle stands for all that it holds."""
    settings: dict[str, Any] = {}
    for axis, value in chosen.items():
        added = {k: v for k, v in value.items() if k != "name"} if _is_bundle(axis, value) else {axis: value}
        for key in added:
            if other := next((one for one in settings if overlap(one, settings[one], key, added[key])), None):
                both = key if key == other else f"{other} and {key}, which overlap"
                raise InputError(f"{where}: two of [axes] and [search.space] set {both}; leave it to one.")
        settings |= added
    return settings


def _is_bundle(axis: str, value: Any) -> bool:
    return isinstance(value, dict) and "name" in value and axis.partition(".")[0] not in Experiment.model_fields


def _check_axes(file: GridFile, where: str) -> None:
    """Refuse axes whose values cannot be told apart, and exclusions that exclude nothing."""
    for axis, values in file.axes.items():
        _check_values(axis, values, f"{where} [axes]")
    for rule in file.exclude:
        for key, value in rule.items():
            if key not in file.axes:
                raise UnknownName("axis", key, file.axes, f"{where} [[exclude]]")
            labels = [_label(key, choice) for choice in file.axes[key]]
            if value not in labels:
                raise InputError(f"{where} [[exclude]]: {key} = {value!r} is no value of that axis: {labels}.")


def _check_values(key: str, values: Sequence[Any], place: str) -> None:
    """Refuse values of an axis or of a search that cannot be told apart."""
    is_setting = key.partition(".")[0] in Experiment.model_fields
    if not is_setting and any(isinstance(value, dict) and "name" not in value for value in values):
        raise InputError(f'{place}: each table of {key} is a bundle and needs name = "...".')
    labels = [json.dumps(_label(key, value), sort_keys=True) for value in values]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise InputError(f"{place}: {key} has {twice[0]} twice; drop or rename one.")


def _check_search(file: GridFile, search: SearchSettings, where: str) -> None:
    """Refuse searched settings that are axes, and conditions that no axis value fulfils."""
    for key, draw in search.space.items():
        if key in file.axes:
            raise InputError(f"{where} [search.space]: {key} is an axis; leave it to one.")
        _check_values(key, draw.values or (), f"{where} [search.space]")
        for axis, values in draw.where.items():
            place = f"{where} [search.space] {key}.where"
            if axis not in file.axes:
                raise UnknownName("axis", axis, file.axes, place)
            labels = [_label(axis, choice) for choice in file.axes[axis]]
            for value in values:
                if value not in labels:
                    raise InputError(f"{place}: {axis} = {value!r} is no value of that axis: {labels}.")
    if search.then_best and STAGE in (*file.axes, *search.space):
        raise InputError(f"{where}: an axis {STAGE!r} is filled in for search.then_best; name yours otherwise.")


def _matches(rule: Mapping[str, Any], axes: Mapping[str, Any]) -> bool:
    return all(axes[key] == value for key, value in rule.items())


def _experiment(file: GridFile, assigned: Mapping[str, Any], seed: int, where: str) -> Experiment:
    data = json.loads(json.dumps(file.experiment))
    for name in _FILLED_IN:
        if name in data or name in assigned:
            hint = "use `seeds = [...]` at the top" if name == "seed" else "the harness fills it in"
            raise InputError(f"{where}: {name} cannot be set in [experiment], [axes] or [search]; {hint}.")
    for key, value in assigned.items():
        if isinstance(value, dict) and isinstance(data.get(key), dict):
            value = data[key] | value  # a table adds to the shared one
        # A copy, because settings that follow may reach inside.
        assign(data, key.split("."), copy.deepcopy(value), where=f"{where} [axes]")
    if data.get("method", "gan") != "gan":
        data.setdefault("model", data["method"])  # a baseline is its own model
    return validate(Experiment, {**data, "seed": seed}, where=f"{where} [experiment]")
