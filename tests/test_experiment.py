from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from pydantic import BaseModel

from harness.errors import InputError
from harness.experiment import Experiment, LatentSettings, MomentumRamp, OptimizerSettings, validate, without_absent

Resolve = Callable[..., Experiment]
SGD = {"name": "SGD", "lr": 0.1, "momentum": 0.5}
RAMP = {"final": 0.7, "start_epoch": 1, "end_epoch": 9}
BASE: dict[str, Any] = {
    "dataset": "digits",
    "data_hash": "aa",
    "model": "mlp",
    "model_hash": "bb",
    "iterations": 100,
    "ema": 0.9,
    "latent": {"size": 5},
    "optimizer": SGD | {"lr_decay": 1.1, "min_lr": 0.01, "momentum_ramp": RAMP},
    "generator": {"hidden": [3]},
    "discriminator": {"hidden": [3], "optimizer": SGD},
}
# One other value for every setting, by dotted key.
OTHER: dict[str, Any] = {
    "dataset": "mnist",
    "data_hash": "ab",
    "method": "vae",
    "model": "maxout-mlp",
    "model_hash": "ba",
    "iterations": 101,
    "batch_size": 65,
    "k": 2,
    "updates": "simultaneous",
    "loss": "minimax",
    "loss_hash": "ba",
    "discriminator_loss_weight": 0.5,
    "penalty": {"name": "r1"},
    "balance": {"gamma": 0.5},
    "weight_clip": 0.01,
    "real_label": 0.9,
    "instance_noise": {"std": 0.1, "until": 9},
    "critic_schedule": {"k": 9},
    "preprocessing": {"name": "gcn"},
    "conditional": True,
    "condition": {"embedding": 3},
    "baseline": {"hidden": [3]},
    "classes": 10,
    "latent.size": 6,
    "latent.distribution": "uniform",
    "generator.hidden": [3, 3],
    "generator.optimizer": SGD,
    "generator.max_column_norm": 1.9365,
    "discriminator.hidden": [4],
    "discriminator.dropout": [0.0, 0.0],
    "discriminator.optimizer": None,
    "discriminator.max_column_norm": 1.9365,
    "discriminator.optimizer.lr": 0.2,
    "optimizer.name": "RMSprop",
    "optimizer.lr": 0.1000001,
    "optimizer.momentum": 0.6,
    "optimizer.nesterov": True,
    "optimizer.lr_decay": 1.2,
    "optimizer.min_lr": 0.02,
    "optimizer.lr_zero_at": 10,
    "optimizer.momentum_ramp": None,
    "optimizer.momentum_ramp.final": 0.8,
    "optimizer.momentum_ramp.start_epoch": 2,
    "optimizer.momentum_ramp.end_epoch": 8,
    "ema": 0.8,
    "precision": "tf32",
    "seed": 1,
}


def experiment(**settings: Any) -> Experiment:
    return validate(Experiment, BASE | settings, where="test")


def changed(key: str, value: Any) -> Experiment:
    """The base experiment with another value at a dotted key."""

    def inside(table: dict[str, Any], keys: list[str]) -> dict[str, Any]:
        first, *rest = keys
        return table | {first: inside(table.get(first, {}), rest) if rest else value}

    return validate(Experiment, inside(BASE, key.split(".")), where="test")


def test_every_setting_has_another_value_here() -> None:
    tables: dict[str, type[BaseModel]] = {
        "": Experiment,
        "latent.": LatentSettings,
        "optimizer.": OptimizerSettings,
        "optimizer.momentum_ramp.": MomentumRamp,
    }
    fields = {f"{prefix}{name}" for prefix, table in tables.items() for name in table.model_fields}
    # The schema's version has one value; tables are changed by the settings inside them.
    assert fields - {"schema_version", "latent", "optimizer", "generator", "discriminator"} <= set(OTHER)


@pytest.mark.parametrize(("key", "value"), OTHER.items())
def test_every_single_setting_changes_the_id(key: str, value: Any) -> None:
    assert changed(key, value).run_id != experiment().run_id


def test_all_these_ids_differ() -> None:
    assert len({changed(key, value).run_id for key, value in OTHER.items()}) == len(OTHER)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "gan", "precision": "float32", "seed": 0},
        {"discriminator_loss_weight": 1},
        {"latent": {"distribution": "normal", "size": 5}},
        {"generator": {"hidden": [3], "optimizer": None}},
        {"generator": {"hidden": [3], "weight_range": None}},
        {"generator": {"hidden": [3], "optimizer": {}}},
        {"optimizer": dict(reversed(BASE["optimizer"].items()))},
    ],
    ids=str,
)
def test_defaults_nulls_empty_tables_order_and_whole_numbers_leave_the_id_alone(settings: dict[str, Any]) -> None:
    assert experiment(**settings).run_id == experiment().run_id


def optimizer(**settings: Any) -> dict[str, Any]:
    return {"optimizer": settings}


BETAS = {"lr": 0.1, "betas": [0.5, 0.9]}
# Pairs of one experiment written in two ways.
SAME: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "an optimizer for each player": (
        optimizer(**SGD),
        {"optimizer": {}, "generator": optimizer(**SGD), "discriminator": optimizer(**SGD)},
    ),
    "a player's own rate": (
        optimizer(**SGD),
        optimizer(**SGD | {"lr": 3.0}) | {"generator": optimizer(lr=0.1), "discriminator": optimizer(**SGD)},
    ),
    "a whole rate": (optimizer(**SGD | {"lr": 1}), optimizer(**SGD | {"lr": 1.0})),
    "a whole momentum, its default": (optimizer(name="SGD", lr=0.1, momentum=0), optimizer(name="SGD", lr=0.1)),
    "a whole weight decay": (optimizer(**SGD, weight_decay=1), optimizer(**SGD, weight_decay=1.0)),
    "a whole eps": (optimizer(lr=0.1, eps=1), optimizer(lr=0.1, eps=1.0)),
    "a whole beta": (optimizer(lr=0.1, betas=[0, 0.9]), optimizer(lr=0.1, betas=[0.0, 0.9])),
    "Adam named or not": (optimizer(lr=0.1), optimizer(name="Adam", lr=0.1)),
    "Adam named by one player": (optimizer(**BETAS), optimizer(**BETAS) | {"generator": optimizer(name="Adam")}),
    "a default of AdamW": (optimizer(name="AdamW", lr=0.1), optimizer(name="AdamW", lr=0.1, weight_decay=0.01)),
    "a decay of one and a floor of zero": (optimizer(**SGD), optimizer(**SGD, lr_decay=1, min_lr=0)),
    "a model's defaults": ({"generator": {}}, {"generator": {"hidden": [128, 128], "activation": "relu"}}),
    "an experiment's defaults": ({}, {"k": 1, "updates": "alternating", "ema": None}),
}


@pytest.mark.parametrize(("one", "other"), SAME.values(), ids=SAME)
def test_equal_settings_however_written_have_one_id(
    one: dict[str, Any], other: dict[str, Any], resolve: Resolve
) -> None:
    players: dict[str, Any] = {"generator": {}, "discriminator": {}}
    first, second = (resolve(**players | settings) for settings in (one, other))
    assert first.canonical() == second.canonical() and first.run_id == second.run_id


def test_a_player_with_another_optimizer_takes_only_the_rates_from_the_shared_one(resolve: Resolve) -> None:
    found = resolve(optimizer=SGD | {"lr_decay": 1.1}, generator={"optimizer": {"name": "Adam"}})
    assert found.generator.optimizer is not None and found.discriminator.optimizer is not None
    assert (found.generator.optimizer.lr, found.generator.optimizer.lr_decay) == (0.1, 1.1)
    assert "momentum" not in found.generator.optimizer.arguments
    assert found.discriminator.optimizer.arguments["momentum"] == 0.5


def test_the_path_of_a_users_files_is_not_in_the_id() -> None:
    one, other = (experiment(dataset=f"npz:{path}") for path in ("a.npz", "/elsewhere/b.npz"))
    assert one.run_id == other.run_id != experiment(dataset="folder:a.npz").run_id


def test_a_copy_with_another_setting_has_an_id_of_its_own() -> None:
    first = experiment()
    assert first.run_id == experiment().run_id
    assert first.model_copy(update={"seed": 7}).run_id == experiment(seed=7).run_id


def test_ids_are_the_same_in_every_version(resolve: Resolve) -> None:
    # A change here gives every stored run another name: only a new schema_version may do that.
    sgd = resolve(optimizer=SGD | {"lr_decay": 1.000004, "min_lr": 1e-6, "momentum_ramp": RAMP}, seed=3, loss="minimax")
    adam = resolve(model="maxout-mlp", discriminator={}, optimizer={"lr": 2e-4, "betas": [0.5, 0.999]}, ema=0.999)
    assert [sgd.run_id, adam.run_id] == ["f0b146875dac5401", "357958b53cee857c"]


def test_an_experiment_comes_back_from_its_canonical_form(resolve: Resolve) -> None:
    found = resolve()
    assert validate(Experiment, found.canonical(), where="test").run_id == found.run_id


def test_absent_values_are_nulls_and_tables_of_nothing_else() -> None:
    value = {"a": None, "b": {"c": None}, "d": [], "e": 0, "f": False, "g": [{"h": None}], "i": {"j": {"k": None}}}
    assert without_absent(value) == {"d": [], "e": 0, "f": False, "g": [{}]}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"iteration": 3}, "unknown key 'iteration' in test. Did you mean 'iterations'? Valid: balance, "),
        ({"latent": {"sice": 3}}, "unknown key 'latent.sice' in test. Did you mean 'latent.size'"),
        ({"optimizer": SGD | {"momentum_ramp": RAMP | {"finl": 1}}}, "Did you mean 'optimizer.momentum_ramp.final'"),
        ({"generator": {"optimizer": {"momentum_ramp": {"a": 1}}}}, "generator.optimizer.momentum_ramp"),
        ({"iterations": None}, "iterations = null: should be a valid integer"),
        ({"iterations": "many"}, 'test: iterations = "many": should be a valid integer'),
        ({"iterations": 2.5}, "iterations = 2.5: should be a valid integer"),
        ({"k": 0}, "k = 0: should be greater than or equal to 1"),
        ({"k": True}, "k = true: should be a valid integer"),
        ({"seed": -1}, "seed = -1: should be greater than or equal to 0"),
        ({"seed": 2**63}, "seed = 9223372036854775808: should be less than"),
        ({"loss": 3}, "loss = 3: should be a valid string"),
        ({"updates": "both"}, "updates = \"both\": should be 'alternating' or 'simultaneous'"),
        ({"precision": "float16"}, "precision = \"float16\": should be 'float32'"),
        ({"optimizer": {"lr": 0}}, "optimizer.lr = 0: should be greater than 0"),
        ({"optimizer": {"lr": float("inf")}}, "optimizer.lr = inf is a float that no setting takes"),
        ({"optimizer": {"lr": "0.1"}}, 'optimizer.lr = "0.1": should be a valid number'),
        ({"optimizer": {"lr": 1, "lr_decay": 0.9}}, "optimizer.lr_decay = 0.9: should be greater than or equal to 1"),
        ({"optimizer": 3}, "optimizer = 3: should be"),
        ({"ema": 1.0}, "ema = 1.0: should be less than 1"),
        ({"latent": {"distribution": "cauchy"}}, "latent.distribution = \"cauchy\": should be 'uniform' or 'normal'"),
        ({"schema_version": 2}, "schema_version = 2: should be 1"),
    ],
)
def test_bad_settings_are_refused_by_key_value_and_way_out(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        experiment(**settings)
    assert message in str(error.value)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(InputError, match="test: the key 'iterations' is missing; add it"):
        validate(Experiment, {"dataset": "digits", "model": "mlp"}, where="test")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "minmax"}, "unknown loss 'minmax'. Did you mean 'minimax'"),
        ({"model": "maxout"}, "unknown model 'maxout'. Did you mean 'maxout-mlp'"),
        ({"method": "gna"}, "unknown method 'gna'. Did you mean 'gan'"),
        ({"optimizer": {"name": "adam", "lr": 1}}, "unknown optimizer 'adam' in optimizer of the generator. Did you"),
        ({"optimizer": {"name": "SGD"}}, "optimizer of the generator: the key 'lr' is missing"),
        ({"updates": "simultaneous", "k": 2}, "k = 2 must be 1"),
        ({"batch_size": 1198}, "batch_size = 1198 is more than the 1197 training images"),
    ],
)
def test_what_cannot_be_resolved_is_refused(settings: dict[str, Any], message: str, resolve: Resolve) -> None:
    with pytest.raises(InputError) as error:
        resolve(**settings)
    assert message in str(error.value)
