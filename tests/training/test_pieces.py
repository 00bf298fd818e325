"""Gradient accumulation: minibatches in pieces train the same parameters, and hold fewer activations."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.draws import Draws
from harness.errors import InputError
from harness.experiment import Experiment
from harness.images import ImageSet
from harness.methods import method
from harness.objectives.losses import LOSSES
from harness.objectives.penalties import PENALTIES
from harness.plan import Plan
from harness.training import resolution
from harness.training.checkpoint import flatten
from harness.training.feed import Feed
from harness.training.gan import Gan
from harness.training.loop import State

GanOf = Callable[..., Gan]
FeedOf = Callable[..., Feed]
TrainFor = Callable[[Gan, int], State]

DROPOUT: dict[str, Any] = {
    "model": "maxout-mlp",
    "discriminator": {"hidden": [6, 5], "pieces": 3, "dropout": [0.2, 0.5, 0.5], "weight_range": 0.5},
}
# Every loss and penalty, a convolutional family, and what draws random numbers or looks at classes on the way.
VARIANTS: dict[str, dict[str, Any]] = {
    **{f"loss {name}": {"loss": name} for name in LOSSES if name != "began"},
    "loss began": {"loss": "began", "balance": {"rate": 0.1}, "discriminator": {"hidden": [9, 4]}},
    **{f"penalty {name}": {"penalty": {"name": name, "weight": 1.0}} for name in PENALTIES},
    "dropout": DROPOUT,
    "dropout, one pass": DROPOUT | {"updates": "simultaneous", "k": 1},
    "noise": {"instance_noise": {"std": 0.1, "until": 50}},
    "classes": {"conditional": True, "penalty": {"name": "gradient_penalty"}},
    "convolutions": {
        "model": "paper-conv",
        "generator": {"hidden": [7], "channels": 3, "weight_range": 0.5},
        "discriminator": {"channels": [3], "kernels": 4, "padding": [2], "pools": 2, "hidden": [5]}
        | {"dropout": [0.1, 0.3, 0.3], "weight_range": 0.5},
    },
}


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_pieces_train_the_parameters_of_the_whole(settings: dict[str, Any], gan_of: GanOf, train_for: TrainFor) -> None:
    members = settings, settings | {"seed": 1}
    whole = flatten(train_for(gan_of(*members, precision="float64"), 5))
    pieces = flatten(train_for(gan_of(*members, precision="float64").accumulating(4), 5))
    assert whole.keys() == pieces.keys()
    for name, tensor in whole.items():
        torch.testing.assert_close(pieces[name], tensor, rtol=1e-9, atol=1e-12, msg=name)


@pytest.mark.parametrize("settings", [{}, DROPOUT], ids=["plain", "dropout"])
def test_pieces_hold_less(settings: dict[str, Any], gan_of: GanOf, feed_of: FeedOf) -> None:
    assert held(gan_of(settings).accumulating(4), feed_of) < held(gan_of(settings), feed_of) / 2


def held(gan: Gan, feed_of: FeedOf) -> int:
    """Bytes that are kept for gradients beside the parameters, while an iteration runs, and of random numbers."""
    state, kept = gan.init(), 0
    batch = feed_of(gan, 1).batch(0)
    parameters = {tensor.data_ptr() for part in state.values() for tensor in part.values()}

    def keep(tensor: Tensor) -> Tensor:
        nonlocal kept
        kept += tensor.nbytes if tensor.data_ptr() not in parameters else 0
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        gan.step(state, batch, 0)
    drawn = [block for draws in gan.game.pieces.draws for _, block in draws._blocks.values()]
    return kept + sum(block.nbytes for block in drawn)


def test_draws_of_pieces_are_those_of_the_whole() -> None:
    whole = Draws([3, 4], rank=1, processes=2)
    pieces = [whole.piece(place, 3) for place in range(3)]
    for kind, settings in (("uniform", {}), ("normal", {}), ("dropout", {"keep": 0.4})):
        parts = [getattr(one, kind)("x", 5, 12, 7, **settings) for one in pieces]
        assert torch.cat(parts, 1).equal(getattr(whole, kind)("x", 5, 12, 7, **settings))


NORMALISING: dict[str, dict[str, Any]] = {
    "batch norm": {"generator": {"hidden": [12], "batch_norm": True}},
    "spectral norm": {"discriminator": {"hidden": [9, 8], "spectral_norm": True}},
}


@pytest.mark.parametrize("settings", NORMALISING.values(), ids=NORMALISING)
def test_what_looks_at_the_whole_is_refused(
    settings: dict[str, Any], resolve: Callable[..., Experiment], digits: ImageSet
) -> None:
    with pytest.raises(InputError, match="leave gradient_accumulation out"):
        resolution.check_pieces(resolve(**settings), digits.shape)


def test_a_users_model_and_a_baseline_are_refused(resolve: Callable[..., Experiment], digits: ImageSet) -> None:
    mine = resolve().model_copy(update={"model": "mine:build"})
    with pytest.raises(InputError, match="your model 'mine:build'"):
        resolution.check_pieces(mine, digits.shape)
    with pytest.raises(InputError, match="for GANs, not for method 'vae'"):
        method("vae").check_pieces(resolve().model_copy(update={"method": "vae"}), digits.shape)


def test_a_plan_refuses_what_cannot_be_cut(planned: Callable[..., Plan]) -> None:
    cut = "\n[run]\ngradient_accumulation = 4"
    assert planned(f"batch_size = 8{cut}").divides_by(2) and not planned(f"batch_size = 4{cut}").divides_by(2)
    with pytest.raises(InputError, match="batch_size = 6 does not divide by the 1 process times 4 pieces"):
        planned(f"batch_size = 6{cut}")
    with pytest.raises(InputError, match=r"tiny.toml: the generator has batch or spectral normalisation"):
        planned(f"batch_size = 8\ngenerator.batch_norm = true{cut}")


@pytest.mark.parametrize("settings", VARIANTS.values(), ids=VARIANTS)
def test_what_does_not_is_let_through(
    settings: dict[str, Any], resolve: Callable[..., Experiment], digits: ImageSet
) -> None:
    resolution.check_pieces(resolve(**settings), digits.shape)
