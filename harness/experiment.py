"""One experiment: a frozen, validated value whose hash names its run."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal, TypeVar, get_args, get_origin

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from harness.errors import InputError, UnknownName

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]
Precision = Literal["float32", "tf32", "bf16", "float64"]
Added = Annotated[bool | None, AfterValidator(lambda value: value or None)]
"""A switch that came later: off is what was before, so it is absent, and leaves run ids as they were."""
Removed = Annotated[bool | None, AfterValidator(lambda value: None if value else value)]
"""A switch that came later, for what was always there: on is absent."""


_KIND = re.compile(r"\[|^(bool|int|float|str|constrained-\w+)$")  # what pydantic puts between keys for kinds of values


class Settings(BaseModel):
    """Settings: frozen, strictly typed, unknown keys refused, numbers finite."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class LatentSettings(Settings):
    """The prior of z: independent components of zero mean and unit variance."""

    size: Annotated[int, Field(ge=1)] = 100
    distribution: Literal["uniform", "normal"] = "normal"


class MomentumRamp(Settings):
    """Momentum that rises linearly to `final` between two epochs, changing at the start of each epoch."""

    final: Fraction
    start_epoch: Annotated[int, Field(ge=0)] = 1
    end_epoch: Annotated[int, Field(ge=1)]

    @model_validator(mode="after")
    def _forwards(self) -> MomentumRamp:
        if self.end_epoch < self.start_epoch:
            raise ValueError("should have start_epoch <= end_epoch")
        return self


class OptimizerSettings(Settings):
    """A torch.optim class by name, its learning-rate schedule, and its own keyword arguments as further keys."""

    model_config = ConfigDict(extra="allow")

    name: str | None = None
    lr: Positive | None = None
    lr_decay: Annotated[float, Field(ge=1)] | None = None
    """The learning rate is divided by this after every update."""
    min_lr: Annotated[float, Field(ge=0)] | None = None
    lr_zero_at: Annotated[int, Field(ge=1)] | None = None
    """The update at which the learning rate, falling linearly, is zero."""
    momentum_ramp: MomentumRamp | None = None

    @property
    def arguments(self) -> dict[str, Any]:
        """The keyword arguments of the torch.optim class, the learning rate aside."""
        return dict(self.model_extra or {})


class NetworkSettings(Settings):
    """What a generator or a discriminator may be told: an optimizer of its own, a bound, and its model's settings."""

    model_config = ConfigDict(extra="allow")

    optimizer: OptimizerSettings | None = None
    max_column_norm: Positive | None = None
    """The weights into each unit of fully connected layers are scaled down to this norm after each update.

    Embeddings of classes are such layers, of one-hot classes.
    """

    @property
    def model(self) -> dict[str, Any]:
        """The settings that belong to the model family."""
        return dict(self.model_extra or {})


class BaselineSettings(Settings):
    """What a baseline may be told; which keys, each method says."""

    model_config = ConfigDict(extra="allow")

    @property
    def own(self) -> dict[str, Any]:
        """The settings that belong to the method."""
        return dict(self.model_extra or {})


class PenaltySettings(Settings):
    """A penalty on the discriminator's slope, and its factor; absent: the one of its publication."""

    name: str
    weight: Positive | None = None


class BalanceSettings(Settings):
    """How BEGAN's k_t moves: by `rate` times (`gamma` E L(x) - E L(G(z))) after each update of the discriminator."""

    gamma: Annotated[float, Field(ge=0, le=1)] = 0.75
    rate: Positive = 0.001
    clipped: bool = True
    """Whether k_t stays in [0, 1]; the code of the 2018 study does not hold it there."""


class ConditionSettings(Settings):
    """How the classes of images enter a conditional pair.

    The generator's latents are followed by an embedding of the class with `embedding` components. The discriminator
    sees the class as one more channel ("concatenation"), or adds to its score the inner product of its last features
    with an embedding of the class ("projection").
    """

    embedding: Annotated[int, Field(ge=1)] = 16
    discriminator: Literal["concatenation", "projection"] = "projection"


class InstanceNoise(Settings):
    """Normal noise on all that the discriminator sees, whose deviation falls linearly to zero at iteration `until`."""

    std: Positive
    until: Annotated[int, Field(ge=1)]


class CriticSchedule(Settings):
    """More updates of the discriminator at times: `k` in the first `until` iterations and in every `every`-th.

    Defaults: Arjovsky et al. 2017, their code.
    """

    k: Annotated[int, Field(ge=1)] = 100
    until: Annotated[int, Field(ge=0)] = 25
    every: Annotated[int, Field(ge=1)] = 500


class PreprocessingSettings(Settings):
    """What networks see in the place of pixels in [0, 1]; their generators give the same, so end without a bound.

    "original_units": a toy's points as they were before they were put into the unit cube. "gcn", global contrast
    normalisation: images without their means, at the Euclidean norm `norm` (55, as published for CIFAR-10).
    """

    name: Literal["original_units", "gcn"]
    norm: Positive | None = None
    constants: dict[str, tuple[float, ...]] | None = None
    """What maps samples back to pixels; filled in by the plan."""


class Experiment(Settings):
    """Everything that changes the trained function, and nothing else.

    A setting added later must mean, when absent, what was done before it existed: absent values are left out of the
    hash, so old runs keep their ids.
    """

    schema_version: Literal[1] = 1
    dataset: str
    data_hash: str | None = None
    """sha256 of the data's content; filled in by the plan."""
    method: str = "gan"
    model: str
    """Of a baseline its own name, which a grid file leaves out."""
    model_hash: str | None = None
    """sha256 of a user's source file; filled in by the plan."""
    iterations: Annotated[int, Field(ge=1)]
    """Generator updates; of a baseline all updates, over its phases."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Images in a minibatch, over all processes."""
    k: Annotated[int, Field(ge=1)] = 1
    """Discriminator updates for one generator update."""
    critic_schedule: CriticSchedule | None = None
    updates: Literal["alternating", "simultaneous"] = "alternating"
    loss: str = "non_saturating"
    loss_hash: str | None = None
    """sha256 of the source file of a user's loss; filled in by the plan."""
    discriminator_loss_weight: Positive = 1.0
    penalty: PenaltySettings | None = None
    balance: BalanceSettings | None = None
    """For the loss "began" alone."""
    weight_clip: Positive | None = None
    """The discriminator's parameters are clipped to +- this after each of its updates."""
    real_label: Annotated[float, Field(gt=0.5, lt=1)] | None = None
    """What the discriminator should say of real images (one-sided label smoothing); absent: 1."""
    instance_noise: InstanceNoise | None = None
    preprocessing: PreprocessingSettings | None = None
    conditional: Added = None
    """Whether both players see the class of each image."""
    condition: ConditionSettings | None = None
    classes: Annotated[int, Field(ge=2)] | None = None
    """How many, where they are conditions; filled in by the plan."""
    latent: LatentSettings = LatentSettings()
    generator: NetworkSettings = NetworkSettings()
    discriminator: NetworkSettings = NetworkSettings()
    optimizer: OptimizerSettings = OptimizerSettings()
    ema: Fraction | None = None
    """Decay of the generator's exponential moving average; absent: none is kept."""
    baseline: BaselineSettings | None = None
    """The settings of a method other than "gan"."""
    precision: Precision = "float32"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0

    def canonical(self) -> dict[str, Any]:
        """The settings as plain data without absent values; two experiments are one exactly if these are equal."""
        value: dict[str, Any] = without_absent(self.model_dump(mode="json"))
        value["dataset"] = self.dataset.partition(":")[0]  # where a user's files lie is no part of the experiment
        return value

    @property
    def run_id(self) -> str:
        """The first 64 bits of the sha256 of the canonical form, in hexadecimal."""
        text = json.dumps(self.canonical(), sort_keys=True, separators=(",", ":"), allow_nan=False)
        return hashlib.sha256(text.encode()).hexdigest()[:16]


SettingsType = TypeVar("SettingsType", bound=BaseModel)


def validate(model: type[SettingsType], data: Mapping[str, Any], *, where: str) -> SettingsType:
    """Settings from plain data.

    Errors: InputError or UnknownName that says where, which key, what was given and what is valid.
    """
    try:
        # Through JSON, because there a strict model takes a list where it means a tuple.
        return model.model_validate_json(json.dumps(data, allow_nan=False))
    except (TypeError, ValueError) as error:
        if isinstance(error, ValidationError):
            raise _explained(error, model, where) from None
        key, value = next(_unserializable(data, ""))
        raise InputError(f"{where}: {key} = {value} is a {type(value).__name__} that no setting takes.") from None


def _unserializable(value: Any, key: str) -> Iterator[tuple[str, Any]]:
    """The dotted keys of a grid file's dates, times, NaN and infinities: all that TOML has and JSON lacks."""
    if isinstance(value, Mapping):
        for name, inner in value.items():
            yield from _unserializable(inner, f"{key}.{name}" if key else name)
    elif isinstance(value, list):
        for inner in value:
            yield from _unserializable(inner, key)
    elif not isinstance(value, str | int | float | None) or (isinstance(value, float) and not math.isfinite(value)):
        yield key, value


def _explained(error: ValidationError, model: type[BaseModel], where: str) -> InputError:
    problems = error.errors()
    # Of a value that fits none of several kinds, the kind that it fits furthest.
    problem = max(
        (one for one in problems if one["loc"][:1] == problems[0]["loc"][:1]), key=lambda one: len(one["loc"])
    )
    keys = [str(part) for part in problem["loc"]]
    place = ".".join(key for key in keys if not _KIND.search(key))
    if problem["type"] == "extra_forbidden":
        return UnknownName("key", place, _keys_beside(model, keys), where)
    if problem["type"] == "missing":
        return InputError(f"{where}: the key {place!r} is missing; add it.")
    if problem["type"] == "too_short":
        return InputError(f"{where}: {place} = [] is empty; give it at least one value, or leave it out.")
    return InputError(f"{where}: {place} = {json.dumps(problem['input'])}: {problem['msg'].removeprefix('Input ')}.")


def _keys_beside(model: type[BaseModel], keys: list[str]) -> list[str]:
    """The valid dotted keys in the table that holds the last of `keys`."""
    table: Any = model
    for key in keys[:-1]:
        inner = table.model_fields[key].annotation if _is_table(table) else table
        if _is_table(table) and get_origin(inner) is dict:
            table = inner  # a table of tables, {name: table}: the next key is a name, and all lead to the same kind
        else:
            table = next((kind for kind in (inner, *get_args(inner)) if _is_table(kind)), inner)
    return [".".join([*keys[:-1], name]) for name in (table.model_fields if _is_table(table) else ())]


def _is_table(kind: Any) -> bool:
    return isinstance(kind, type) and issubclass(kind, BaseModel)


def without_absent(value: Any) -> Any:
    """The same plain data without nulls and without tables that hold nothing else."""
    if isinstance(value, Mapping):
        kept = {key: without_absent(inner) for key, inner in value.items()}
        return {key: inner for key, inner in kept.items() if inner is not None and inner != {}}
    if isinstance(value, list):
        return [without_absent(inner) for inner in value]
    return value
