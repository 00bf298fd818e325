"""Pairs that see classes, of every family."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from harness import images
from harness.draws import Draws
from harness.errors import InputError
from harness.experiment import Experiment, validate
from harness.layers import Context, Convolution, Network, Parameters, flatten, scalar
from harness.models import FAMILIES, ImageStatistics, Pair, build, conditional, resolved
from harness.plan import resolved as planned

SEEDS = (0, 5, 9)
SHAPE = (2, 4, 8)
CLASSES = 3
LABELS = torch.tensor([0, 1, 2, 0, 1, 2]).repeat(3, 1)
IMAGES = ImageStatistics(SHAPE, torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)))
ContextOf = Callable[..., Context]
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"generator": {"hidden": [7, 6]}, "discriminator": {"hidden": [6, 5]}},
    "maxout-mlp": {
        "generator": {"hidden": [7, 6]},
        "discriminator": {"hidden": [6, 5], "pieces": 3, "weight_range": 0.5},
    },
    "paper-conv": {
        "generator": {"hidden": [7], "channels": 3, "weight_range": 0.5},
        "discriminator": {"channels": [3], "kernels": 4, "padding": [2], "pools": 2, "hidden": [5]}
        | {"dropout": [0.1, 0.3, 0.3], "weight_range": 0.5},
    },
    "dcgan": {"generator": {"channels": 3, "weight_std": 0.3}, "discriminator": {"channels": 2, "weight_std": 0.3}},
    "infogan": {
        "generator": {"channels": 3, "hidden": 7, "weight_std": 0.3},
        "discriminator": {"channels": 2, "hidden": 6, "weight_std": 0.3},
    },
    "residual": {"generator": {"channels": 3, "blocks": 1}, "discriminator": {"channels": 4}},
}
CASES = [(name, how) for name in FAMILIES for how in ("projection", "concatenation")]


def experiment_of(model: str, how: str, **settings: Any) -> Experiment:
    data = {"dataset": "digits", "iterations": 1, "latent": {"size": 5}, "model": model, "conditional": True}
    data |= {"condition": {"embedding": 3, "discriminator": how}, "classes": CLASSES} | SMALL[model] | settings
    return resolved(validate(Experiment, data, where="test"))


def pair_of(model: str, how: str, **settings: Any) -> Pair:
    return build(experiment_of(model, how, **settings), IMAGES)


def forward(pair: Pair, context: Context) -> tuple[Parameters, Tensor, Tensor]:
    """Trained parameters, images and scores of the pair's members."""
    draws = Draws(SEEDS)
    of_g, of_d = (getattr(pair, role).init(draws, role) for role in ("generator", "discriminator"))
    trained = {f"G/{name}": tensor for name, tensor in of_g.items() if name not in pair.generator.buffers}
    trained |= {f"D/{name}": tensor for name, tensor in of_d.items() if name not in pair.discriminator.buffers}
    for tensor in trained.values():
        tensor.requires_grad_()
    made = pair.generator(of_g, draws.normal("z", 0, 6, 5), context)
    return trained, made, pair.discriminator(of_d, made, context)


@pytest.mark.parametrize(("model", "how"), CASES)
def test_images_and_scores_have_their_shapes_and_every_parameter_a_gradient(
    model: str, how: str, context_of: ContextOf
) -> None:
    trained, made, scores = forward(pair_of(model, how), context_of(SEEDS, labels=LABELS))
    assert made.shape == (3, 6, *SHAPE) and scores.shape == (3, 6)
    assert made.min() >= 0 and made.max() <= 1
    weights = torch.arange(1.0, 19.0).view(3, 6)  # even ones would cancel behind batch normalisation
    slopes = torch.autograd.grad((scores.sigmoid() * weights).sum(), list(trained.values()))
    assert [key for key, slope in zip(trained, slopes, strict=True) if not slope.flatten(1).any(1).all()] == []
    assert {"G/class.weight", "D/class.weight"} <= trained.keys()


@pytest.mark.parametrize(("model", "how"), CASES)
def test_the_class_matters_to_its_own_image_and_score(model: str, how: str, context_of: ContextOf) -> None:
    pair, draws, other = pair_of(model, how), Draws(SEEDS), LABELS.clone()
    other[:, 2] = 1
    of_g, of_d = (getattr(pair, role).init(draws, role) for role in ("generator", "discriminator"))
    # Outside training, where rows do not meet in batch normalisation.
    contexts = [context_of(SEEDS, labels=labels, training=False) for labels in (LABELS, other)]
    z, x = draws.normal("z", 0, 6, 5), draws.uniform("x", 0, 6, 64).view(3, 6, *SHAPE)
    for network, parameters, seen in ((pair.generator, of_g, z), (pair.discriminator, of_d, x)):
        one, two = (network(parameters, seen, context) for context in contexts)
        changed = (one - two).abs().flatten(2).amax(2) if one.ndim > 2 else (one - two).abs()
        assert (changed[:, 2] > 1e-6).all() and changed[:, [0, 1, 3, 4, 5]].max() < 1e-6


def test_a_projection_is_normalised_as_its_score_is() -> None:
    plain, normalised = (
        pair_of("mlp", "projection", discriminator={"hidden": [6], "spectral_norm": wanted}).discriminator
        for wanted in (False, True)
    )
    assert plain.buffers == frozenset()
    assert normalised.buffers == {"hidden0.weight_u", "output.weight_u", "class.weight_u"}


USERS = """\
from torch import nn


def build(latent_size, image_shape, generator, discriminator):
    images = nn.Sequential(nn.Linear(latent_size, 64), nn.Sigmoid(), nn.Unflatten(1, image_shape))
    return images, nn.Sequential(nn.Flatten(), nn.Linear(64, 1))
"""


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"model": "own_pair:build"}, "'own_pair:build' is your own and takes no classes"),
        ({"loss": "began"}, "'began' is of images alone and sees no class"),
        ({"dataset": "ring-8"}, "needs labels, which the data set ring-8 has not"),
        ({"conditional": False, "condition": {"embedding": 3}}, "condition belongs to conditional = true"),
        ({"condition": {"discriminator": "sum"}}, "condition.discriminator = \"sum\": should be 'concatenation'"),
        ({"condition": {"embedding": 0}}, "condition.embedding = 0: should be greater"),
    ],
)
def test_what_has_no_classes_or_no_place_for_them_is_refused(
    settings: dict[str, Any], message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "own_pair.py").write_text(USERS)
    monkeypatch.syspath_prepend(tmp_path)
    data = {"dataset": "digits", "model": "mlp", "iterations": 1, "conditional": True} | settings
    with pytest.raises(InputError) as error:
        planned(validate(Experiment, data, where="test"), images.load(data["dataset"], []))
    assert message in str(error.value)


def test_a_discriminator_without_a_score_of_features_is_refused_for_projection() -> None:
    def of_family(experiment: Experiment, statistics: ImageStatistics) -> Pair:
        pair = FAMILIES["mlp"].build(experiment, statistics)
        return replace(pair, discriminator=Network((Convolution("score", 2, 1, 4), flatten(), scalar())))

    assert conditional.build(experiment_of("mlp", "concatenation"), IMAGES, of_family)
    with pytest.raises(InputError, match="'mlp' has no score of features .*concatenation"):
        conditional.build(experiment_of("mlp", "projection"), IMAGES, of_family)
