"""Members that train together against the same members alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from harness.images import ImageSet, unit
from harness.metrics.parzen import parzen
from harness.training.gan import Gan

State = dict[str, dict[str, Tensor]]
GanOf = Callable[..., Gan]
TrainFor = Callable[[Gan, int], State]

DROPOUT = {"discriminator": {"hidden": [9, 8], "dropout": [0.2, 0.5, 0.5]}}
MIXED: dict[str, list[dict[str, Any]]] = {
    "losses, rates and seeds": [
        {"seed": 0},
        {"seed": 1, "loss": "minimax"},
        {"seed": 2, "discriminator_loss_weight": 0.5, "optimizer": {"name": "SGD", "lr": 0.05, "momentum": 0.5}},
        {"seed": 3, "loss": "minimax", "optimizer": {"name": "SGD", "lr": 0.05, "momentum": 0.9, "lr_decay": 1.01}},
    ],
    "gentle rates": [
        {"seed": 0, "optimizer": {"name": "SGD", "lr": 0.02, "momentum": 0.5}},
        {"seed": 1, "optimizer": {"name": "SGD", "lr": 0.01}, "loss": "minimax"},
        {"seed": 2, "optimizer": {"name": "SGD", "lr": 0.01, "momentum": 0.5, "weight_decay": 0.01}},
    ],
    "players' own Adams": [
        {"seed": 0, "optimizer": {"lr": 1e-3, "betas": [0.5, 0.9]}},
        {"seed": 0, "optimizer": {"lr": 1e-3}, "loss": "minimax"},
        {"seed": 1, "optimizer": {"lr": 2e-3, "eps": 1e-4}},
    ],
    "all kinds of losses": [
        {"seed": 0, "loss": "wgan"},
        {"seed": 1, "loss": "relativistic"},
        {"seed": 2, "loss": "hinge"},
        {"seed": 3, "loss": "lsgan"},
    ],
    "RMSprops": [
        {"seed": 0, "optimizer": {"name": "RMSprop", "lr": 1e-3}},
        {"seed": 1, "optimizer": {"name": "RMSprop", "lr": 2e-3, "alpha": 0.9}},
        {"seed": 2, "optimizer": {"name": "RMSprop", "lr": 1e-3, "weight_decay": 0.1}, "loss": "minimax"},
    ],
}
# Members for some shapes: of losses that others do not take, or few, because the shape is slow.
PARTICULAR: dict[str, list[dict[str, Any]]] = {
    "two gentle rates": MIXED["gentle rates"][1:],
    "two critics": [{"seed": 0, "loss": "wgan"}, {"seed": 1, "loss": "relativistic"}],
    "losses of probabilities": [
        {"seed": 0, "loss": "lsgan_of_probabilities"},
        {"seed": 1, "loss": "minimax"},
        {"seed": 2},
    ],
    "balances": [
        {"seed": seed, "loss": "began", "balance": {"gamma": gamma, "rate": 0.1}}
        for seed, gamma in enumerate((0.5, 0.75, 1.0))
    ],
}
SHAPES: dict[str, dict[str, Any]] = {
    "k = 2, dropout, batch norm, average": DROPOUT
    | {"k": 2, "generator": {"hidden": [12, 10], "batch_norm": True}, "ema": 0.9},
    "simultaneous, maxout": {
        "updates": "simultaneous",
        "model": "maxout-mlp",
        "discriminator": {"hidden": [6, 5], "pieces": 3},
    },
    "convolutions": {
        "model": "dcgan",
        # Wide: batch normalisation divides by a small deviation, rounding with it.
        "generator": {"channels": 3, "weight_std": 0.2},
        "discriminator": {"channels": 3, "weight_std": 0.2},
    },
}
# What a stack shares of penalties and constraints; each member has its own factors.
VARIANTS: dict[str, dict[str, Any]] = {
    "gradient penalty, spectral norm": {
        "penalty": {"name": "gradient_penalty", "weight": 0.5},
        "discriminator": {"hidden": [9, 8], "spectral_norm": True, "dropout": [0.2, 0.5, 0.5]},
    },
    "DRAGAN, clipped": {"penalty": {"name": "dragan", "weight": 0.3}, "weight_clip": 0.1},
    "short columns": {
        "generator": {"hidden": [12, 10], "max_column_norm": 0.9, "sparse_init": 4},
        "discriminator": {"hidden": [9, 8], "max_column_norm": 0.6},
    },
    "R1, noise": {"penalty": {"name": "r1"}, "instance_noise": {"std": 0.2, "until": 20}, "k": 2},
    "convolutions with a penalty": {
        "model": "dcgan",
        "penalty": {"name": "gradient_penalty"},
        "optimizer": {"name": "SGD", "lr": 0.02},
        "generator": {"channels": 3, "weight_std": 0.2},
        "discriminator": {"channels": 3, "weight_std": 0.2, "batch_norm": False, "spectral_norm": True},
    },
}
CLASSES_AS_PLANES = {"conditional": True, "condition": {"discriminator": "concatenation", "embedding": 4}}
# Which members each of these trains with. The convolutions' rates are gentle, see below.
OTHERS: dict[str, tuple[str, dict[str, Any]]] = {
    "autoencoders": ("balances", {"discriminator": {"hidden": [9, 4]}}),
    "projection on classes, spectral norm, gradient penalty": (
        "two critics",
        VARIANTS["gradient penalty, spectral norm"] | {"conditional": True},
    ),
    "classes as planes, batch norm, critic's schedule, smoothed labels": (
        "gentle rates",
        CLASSES_AS_PLANES
        | {
            "generator": {"hidden": [12, 10], "batch_norm": True},
            "critic_schedule": {"k": 3, "until": 2, "every": 5},
            "real_label": 0.9,
        },
    ),
    "normalised images, DRAGAN of probabilities": (
        "losses of probabilities",
        {
            "preprocessing": {"name": "gcn", "norm": 8.0},
            "generator": {"hidden": [12, 10], "output": "linear"},
            "penalty": {"name": "dragan_of_probabilities", "weight": 0.5},
        },
    ),
    "convolutions, projection on classes": ("two gentle rates", SHAPES["convolutions"] | {"conditional": True}),
    "convolutions, classes as planes": ("two gentle rates", SHAPES["convolutions"] | CLASSES_AS_PLANES),
    "paper-conv": (
        "two gentle rates",
        {
            "model": "paper-conv",
            "generator": {"hidden": [7], "channels": 3, "weight_range": 0.5},
            "discriminator": {"channels": [3], "kernels": 4, "padding": [2], "pools": 2, "hidden": [5]}
            | {"dropout": [0.1, 0.3, 0.3], "weight_range": 0.5},
        },
    ),
    "infogan": (
        "two gentle rates",
        {
            "model": "infogan",
            "generator": {"channels": 3, "hidden": 7, "weight_std": 0.3},
            "discriminator": {"channels": 2, "hidden": 6, "weight_std": 0.3},
        },
    ),
    "residual": (
        "two gentle rates",
        {
            "model": "residual",
            "generator": {"channels": 2, "blocks": 1},
            "discriminator": {"channels": 2, "down_blocks": 1, "plain_blocks": 1, "spectral_norm": True},
        },
    ),
}
SHAPES |= VARIANTS | {name: shape for name, (_, shape) in OTHERS.items()}
# Where rounding stays rounding for as long as the test looks. Optimizers whose first steps do not depend on the
# gradient's size blow up what little there is before batch normalisation, as large rates do in tiny convolutions.
COMBINATIONS = [
    *(("all kinds of losses", shape) for shape in VARIANTS),
    ("losses, rates and seeds", "k = 2, dropout, batch norm, average"),
    *((members, "simultaneous, maxout") for members in MIXED),
    ("gentle rates", "convolutions"),
    *((members, shape) for shape, (members, _) in OTHERS.items()),
]
# The sizes of the demo's pairs, in its optimizer, with dropout: sixteen members that differ in all they may.
DEMO = {
    "batch_size": 64,
    "latent": {"size": 32},
    "discriminator_loss_weight": 0.5,
    "generator": {"hidden": [128, 128], "optimizer": {"lr": 0.2}},
}
PAIRS: dict[str, dict[str, Any]] = {
    "mlp": {"discriminator": {"hidden": [128, 128], "dropout": [0.2, 0.5, 0.5]}},
    "maxout-mlp": {"model": "maxout-mlp", "discriminator": {"hidden": [64, 64], "pieces": 3, "weight_range": 0.05}},
}
SIXTEEN: list[dict[str, Any]] = [
    {
        "seed": seed,
        "loss": ("minimax", "non_saturating")[seed % 2],
        "discriminator_loss_weight": (0.5, 1.0)[seed // 2 % 2],
        "optimizer": {"name": "SGD", "lr": 0.02 * (1 + seed % 5), "momentum": 0.1 * (seed % 6)},
    }
    for seed in range(16)
]


def distance(found: Mapping[str, Tensor], expected: Mapping[str, Tensor]) -> float:
    """||difference|| / ||parameters||."""
    one, other = (torch.cat([p[key].detach().flatten() for key in sorted(expected)]) for p in (found, expected))
    return float((one - other).norm() / other.norm())


def member(state: State, number: int) -> State:
    """A member's part of a stack's state."""
    return {part: {key: t[number : number + 1] for key, t in tensors.items()} for part, tensors in state.items()}


def furthest(gan_of: GanOf, train_for: TrainFor, members: Sequence[Any], precision: str, iterations: int) -> float:
    """The largest distance of a member of the stack from the same member alone, over all parts of the state."""
    together = train_for(gan_of(*members, precision=precision), iterations)
    distances = []
    for number, settings in enumerate(members):
        alone = train_for(gan_of(settings, precision=precision), iterations)
        found = member(together, number)
        distances += [distance(found[p], alone[p]) for p in alone.keys() & {"generator", "discriminator", "ema"}]
    return max(distances)


@pytest.mark.parametrize(("precision", "iterations", "bound"), [("float32", 15, 1e-5), ("float64", 50, 1e-9)])
@pytest.mark.parametrize(("members", "shape"), COMBINATIONS)
def test_a_packed_stack_trains_as_its_members_alone(
    members: str, shape: str, precision: str, iterations: int, bound: float, gan_of: GanOf, train_for: TrainFor
) -> None:
    settings = [SHAPES[shape] | own for own in (MIXED | PARTICULAR)[members]]
    assert furthest(gan_of, train_for, settings, precision, iterations) <= bound


@pytest.mark.parametrize(("precision", "iterations", "bound"), [("float32", 15, 1e-5), ("float64", 50, 1e-9)])
@pytest.mark.parametrize("pair", PAIRS)
def test_sixteen_mixed_members_of_the_demos_size_train_as_alone(
    pair: str, precision: str, iterations: int, bound: float, gan_of: GanOf, train_for: TrainFor
) -> None:
    settings = [DEMO | PAIRS[pair] | own for own in SIXTEEN]
    assert furthest(gan_of, train_for, settings, precision, iterations) <= bound


@pytest.mark.parametrize(
    ("members", "shape"),
    [
        *((members, shape) for members in MIXED for shape in SHAPES if shape not in VARIANTS | OTHERS),
        *(("all kinds of losses", shape) for shape in VARIANTS),
        *((members, shape) for shape, (members, _) in OTHERS.items()),
    ],
)
def test_replacing_a_member_changes_no_bit_of_the_others(
    members: str, shape: str, gan_of: GanOf, train_for: TrainFor
) -> None:
    settings = [SHAPES[shape] | own for own in (MIXED | PARTICULAR)[members]]
    first = train_for(gan_of(*settings, precision="float32"), 12)
    # Once by a twin of its neighbour, so that the two share their settings; once by one unlike all others.
    name = settings[1].get("optimizer", {}).get("name", "Adam" if "optimizer" in settings[1] else "SGD")
    loss = "began" if members == "balances" else "non_saturating"
    own = {"optimizer": {"name": name, "lr": 0.03}, "loss": loss, "discriminator_loss_weight": 0.7}
    for other in (settings[0], settings[1] | own | {"seed": 99}):
        second = train_for(gan_of(settings[0], other, *settings[2:], precision="float32"), 12)
        for number in range(len(settings)):
            one, two = member(first, number), member(second, number)
            same = all(one[part][key].equal(two[part][key]) for part in one for key in one[part])
            assert same == (number != 1)


def test_a_member_that_diverges_leaves_the_others_alone(gan_of: GanOf, train_for: TrainFor) -> None:
    settings = [{"seed": 0}, {"seed": 1, "optimizer": {"name": "SGD", "lr": 1e30}}, {"seed": 2}]
    sound = [settings[0], {"seed": 1}, settings[2]]
    diverged, healthy = (train_for(gan_of(*members, precision="float32"), 30) for members in (settings, sound))
    assert not all(t.isfinite().all() for t in member(diverged, 1)["generator"].values())
    for number in (0, 2):
        one, other = member(diverged, number), member(healthy, number)
        assert all(one[part][key].equal(other[part][key]) for part in one for key in one[part])


def test_members_of_a_stack_end_apart(gan_of: GanOf, train_for: TrainFor) -> None:
    state = train_for(gan_of(*MIXED["losses, rates and seeds"]), 3)
    for part in ("generator", "discriminator"):
        assert len(set(map(tuple, state[part]["output.weight"].flatten(1).tolist()))) == 4


@pytest.mark.slow
def test_packed_and_single_runs_score_alike(gan_of: GanOf, train_for: TrainFor, digits: ImageSet) -> None:
    """Chaos parts the runs, so scores are compared over seeds: a paired t-test at the 1% level, which sees a shift of
    1.1 standard deviations of a pair's difference in nine cases of ten (normal differences, 16 pairs). That it sees
    something is shown by runs that differ indeed: by their loss."""
    seeds, iterations = 16, 400
    members = [DEMO | PAIRS["mlp"] | {"seed": seed} for seed in range(seeds)]
    single = [scored(gan_of(one, precision="float32"), train_for, iterations, digits)[0] for one in members]
    packed = scored(gan_of(*members, precision="float32"), train_for, iterations, digits)
    others = [settings | {"loss": "minimax"} for settings in members]
    unlike = scored(gan_of(*others, precision="float32"), train_for, iterations, digits)

    freedom = seeds - 1
    detectable = (stats.t.ppf(0.995, freedom) + stats.t.ppf(0.9, freedom)) / np.sqrt(seeds)
    assert detectable < 1.1
    assert stats.ttest_rel(packed, single).pvalue > 0.01
    assert stats.ttest_rel(packed, unlike).pvalue < 0.01


def scored(gan: Gan, train_for: TrainFor, iterations: int, digits: ImageSet) -> list[float]:
    """Each member's test log-likelihood in nats after training, with 1,000 samples."""
    state = train_for(gan, iterations)
    validation, test = (
        unit(split.images[np.arange(len(split))]).reshape(len(split), -1) for split in (digits.validation, digits.test)
    )
    images = gan.sample(state, 1000).flatten(2)
    return [parzen(samples, validation, test).grid.value for samples in images]
