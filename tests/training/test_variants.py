"""Every loss, penalty, constraint, model family and condition in mixed precision, and across a checkpoint."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.models import FAMILIES
from harness.objectives.losses import LOSSES
from harness.objectives.penalties import PENALTIES
from harness.training.checkpoint import Checkpoint, flatten, latest, write
from harness.training.engine import copied
from harness.training.feed import Feed
from harness.training.gan import Gan
from harness.training.loop import State

GanOf = Callable[..., Gan]
FeedOf = Callable[..., Feed]
TrainFor = Callable[[Gan, int], State]

SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"generator": {"hidden": [12], "batch_norm": True}},
    "maxout-mlp": {"discriminator": {"hidden": [6, 5], "pieces": 3, "weight_range": 0.5}},
    "paper-conv": {
        "generator": {"hidden": [7], "channels": 3, "weight_range": 0.5},
        "discriminator": {"channels": [3], "kernels": 4, "padding": [2], "pools": 2, "hidden": [5]}
        | {"dropout": [0.1, 0.3, 0.3], "weight_range": 0.5},
    },
    "dcgan": {"generator": {"channels": 3, "weight_std": 0.2}, "discriminator": {"channels": 3, "weight_std": 0.2}},
    "infogan": {
        "generator": {"channels": 3, "hidden": 7, "weight_std": 0.3},
        "discriminator": {"channels": 2, "hidden": 6, "weight_std": 0.3},
    },
    "residual": {
        "generator": {"channels": 3, "blocks": 1},
        "discriminator": {"channels": 4, "down_blocks": 1, "plain_blocks": 1},
    },
}
PLANES = {"conditional": True, "condition": {"discriminator": "concatenation"}}
NORMALISED = {"preprocessing": {"name": "gcn", "norm": 8.0}, "generator": {"hidden": [12], "output": "linear"}}
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"loss {name}": {"loss": name} for name in LOSSES if name != "began"},
    "loss began, balance": {"loss": "began", "balance": {"rate": 0.1}, "discriminator": {"hidden": [9, 4]}},
    **{f"penalty {name}": {"penalty": {"name": name, "weight": 1.0}} for name in PENALTIES},
    "spectral norm": {"discriminator": {"hidden": [9, 8], "spectral_norm": True}},
    "clipping": {"weight_clip": 0.1},
    "short columns": {role: {"hidden": [9], "max_column_norm": 0.5} for role in ("generator", "discriminator")},
    "noise": {"instance_noise": {"std": 0.1, "until": 50}},
    "smoothing": {"real_label": 0.9},
    "normalised images": NORMALISED,
    "critic's schedule": {"critic_schedule": {"k": 2, "until": 1, "every": 2}},
    **{f"model {name}": {"model": name, "ema": 0.9} | SMALL[name] for name in FAMILIES},
    **{f"projection on classes, {name}": {"model": name, "conditional": True} | SMALL[name] for name in FAMILIES},
    "projection on classes, spectral norm, gradient penalty": {
        "conditional": True,
        "penalty": {"name": "gradient_penalty"},
        "discriminator": {"hidden": [9, 8], "spectral_norm": True},
    },
    **{f"classes as planes, {name}": {"model": name} | PLANES | SMALL[name] for name in FAMILIES},
}


def trained_parameters(gan: Gan, state: State) -> dict[str, Tensor]:
    return {
        f"{r}/{name}": one for r in ("generator", "discriminator") for name, one in gan.game.trained(r, state).items()
    }


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_it_trains_in_bf16_with_parameters_of_full_precision(
    settings: dict[str, Any], gan_of: GanOf, feed_of: FeedOf
) -> None:
    gan = gan_of(settings, settings | {"seed": 1}, precision="bf16")
    feed, state = feed_of(gan, 3), gan.init()
    start = {name: one.clone() for name, one in trained_parameters(gan, state).items()}
    rows = torch.stack([gan.step(state, feed.batch(iteration), iteration) for iteration in range(3)])
    assert rows.isfinite().all() and rows.dtype == torch.float32
    for name, one in trained_parameters(gan, state).items():
        assert one.dtype == torch.float32 and one.isfinite().all(), name
        cancels = name == "discriminator/output.bias"  # where a loss looks at differences of scores
        assert cancels or (one != start[name]).flatten(1).any(1).all(), name


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_it_goes_on_from_a_checkpoint_as_if_never_stopped(
    settings: dict[str, Any], gan_of: GanOf, feed_of: FeedOf, train_for: TrainFor, tmp_path: Path
) -> None:
    members = settings, settings | {"seed": 1}
    undisturbed = flatten(train_for(gan_of(*members, precision="float32"), 4))
    stopped = train_for(gan_of(*members, precision="float32"), 2)
    write(tmp_path, Checkpoint(2, stopped, torch.empty(0)))
    gan, found = gan_of(*members, precision="float32"), latest(tmp_path)
    assert found is not None
    feed, state = feed_of(gan, 4, first=2), dict.fromkeys(gan.parts, {}) | copied(found.state)
    for iteration in (2, 3):
        gan.step(state, feed.batch(iteration), iteration)
    resumed = flatten(state)
    assert resumed.keys() == undisturbed.keys()
    assert [name for name in undisturbed if not resumed[name].equal(undisturbed[name])] == []


def test_bf16_is_less_precise_than_float32(gan_of: GanOf, train_for: TrainFor) -> None:
    low, full = (train_for(gan_of({}, precision=one), 1)["generator"]["output.weight"] for one in ("bf16", "float32"))
    assert not low.equal(full)
    torch.testing.assert_close(low, full, rtol=0, atol=1e-2)
