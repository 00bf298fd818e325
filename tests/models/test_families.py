"""What holds for every model family, and the initial values of the paper's pair."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.draws import Draws
from harness.errors import InputError, UnknownName
from harness.experiment import Experiment, validate
from harness.layers import Context, Parameters
from harness.models import FAMILIES, ImageStatistics, Pair, build, family, resolved

SEEDS = (0, 5, 9)
SHAPE = (2, 4, 8)
ContextOf = Callable[..., Context]
IMAGES = ImageStatistics(SHAPE, torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)))
SMALL: dict[str, dict[str, Any]] = {
    "mlp": {"generator": {"hidden": [7, 6]}, "discriminator": {"hidden": [6, 5]}},
    "mlp with batch norm, dropout and tanh": {
        "model": "mlp",
        "generator": {"hidden": [7, 6], "batch_norm": [False, True], "output": "tanh", "activation": "leaky_relu"},
        "discriminator": {"hidden": [6], "dropout": [0.1, 0.3], "signed_input": True, "activation": "tanh"},
    },
    "mlp with a sparse start": {
        "model": "mlp",
        "generator": {"hidden": [7, 6], "sparse_init": 2},
        "discriminator": {"hidden": [6]},
    },
    "mlp without hidden layers": {"model": "mlp", "generator": {"hidden": []}, "discriminator": {"hidden": []}},
    "maxout-mlp": {"generator": {"hidden": [7, 6]}, "discriminator": {"hidden": [6, 5], "pieces": 3}},
    "dcgan": {
        "generator": {"channels": 3, "weight_std": 0.3},
        "discriminator": {"channels": 2, "weight_std": 0.3},
    },
    "dcgan of one stage with sigmoid": {
        "model": "dcgan",
        "generator": {"channels": 3, "stages": 1, "output": "sigmoid"},
        "discriminator": {"channels": 2, "stages": 1, "signed_input": False},
    },
}


def experiment(model: str, **settings: Any) -> Experiment:
    data = {"dataset": "digits", "iterations": 1, "latent": {"size": 5}, "model": model}
    return resolved(validate(Experiment, data | settings, where="test"))


def pair_of(name: str) -> Pair:
    return build(experiment(**({"model": name} | SMALL[name])), IMAGES)


def forward(pair: Pair, seeds: tuple[int, ...], context: Context) -> tuple[Parameters, Tensor, Tensor]:
    """Trained parameters, images and scores of the pair's members."""
    draws = Draws(seeds)
    of_g, of_d = (getattr(pair, role).init(draws, role) for role in ("generator", "discriminator"))
    trained = {f"G/{name}": tensor for name, tensor in of_g.items() if name not in pair.generator.buffers}
    trained |= {f"D/{name}": tensor for name, tensor in of_d.items() if name not in pair.discriminator.buffers}
    for tensor in trained.values():
        tensor.requires_grad_()
    images = pair.generator(of_g, draws.normal("z", 0, 6, 5), context)
    scores = pair.discriminator(of_d, images, context)
    return trained, images, scores


def test_every_family_is_tested_here() -> None:
    assert set(FAMILIES) <= set(SMALL)


@pytest.mark.parametrize("name", SMALL)
def test_latents_become_images_in_the_unit_interval_and_images_scores(name: str, context_of: ContextOf) -> None:
    _, images, scores = forward(pair_of(name), SEEDS, context_of(SEEDS))
    assert images.shape == (3, 6, *SHAPE) and scores.shape == (3, 6)
    assert images.min() >= 0 and images.max() <= 1


@pytest.mark.parametrize("name", SMALL)
def test_a_stack_equals_its_members_alone(name: str, context_of: ContextOf) -> None:
    together = forward(pair_of(name), SEEDS, context_of(SEEDS))
    for member, seed in enumerate(SEEDS):
        alone = forward(pair_of(name), (seed,), context_of((seed,)))
        for key, tensor in alone[0].items():
            assert together[0][key][member].equal(tensor[0])
        torch.testing.assert_close(together[1][member], alone[1][0])
        torch.testing.assert_close(together[2][member], alone[2][0])


@pytest.mark.parametrize("name", SMALL)
def test_every_trained_parameter_receives_a_gradient(name: str, context_of: ContextOf) -> None:
    trained, _, scores = forward(pair_of(name), SEEDS, context_of(SEEDS))
    weights = torch.arange(1.0, 19.0).view(3, 6)  # even ones would cancel behind batch normalisation
    slopes = torch.autograd.grad((scores.sigmoid() * weights).sum(), list(trained.values()))
    assert [key for key, slope in zip(trained, slopes, strict=True) if not slope.flatten(1).any(1).all()] == []


def paper_pair() -> Pair:
    mean = torch.zeros(1, 28, 28)
    mean[0, 10:] = 0.25
    mean[0, 20:] = 1.0
    return build(experiment("maxout-mlp", latent={"size": 100}), ImageStatistics((1, 28, 28), mean))


def test_the_papers_pair_has_its_number_of_parameters() -> None:
    pair, draws = paper_pair(), Draws([0])
    counts = [
        sum(tensor.numel() for tensor in network.init(draws, "init").values())
        for network in (pair.generator, pair.discriminator)
    ]
    generator = 101 * 1200 + 1201 * 1200 + 1201 * 784
    discriminator = 785 * 240 * 5 + 241 * 240 * 5 + 241
    assert counts == [generator, discriminator]


def test_the_papers_pair_starts_from_its_ranges() -> None:
    pair, draws = paper_pair(), Draws([0])
    for network, bound in ((pair.generator, 0.05), (pair.discriminator, 0.005)):
        for name, tensor in network.init(draws, "init").items():
            if name.endswith("weight"):
                assert 0.97 * bound < tensor.abs().max() <= bound
            elif name != "output.bias":
                assert not tensor.any()


def test_a_marginal_output_bias_is_the_logit_of_the_mean_pixel() -> None:
    bias = paper_pair().generator.init(Draws([0, 1]), "init")["output.bias"].view(2, 28, 28)
    torch.testing.assert_close(bias[:, 10:20].sigmoid(), torch.full((2, 10, 28), 0.25))
    torch.testing.assert_close(bias[1, 0, 0].double().sigmoid().item(), 1e-7, rtol=1e-4, atol=0)
    torch.testing.assert_close(bias[1, 27, 0].double().neg().sigmoid().item(), 1e-7, rtol=1e-4, atol=0)


def test_defaults_are_written_out() -> None:
    found = experiment("maxout-mlp", discriminator={"pieces": 2})
    assert found.generator.model == {
        "hidden": [1200, 1200],
        "activation": "relu",
        "batch_norm": False,
        "batch_norm_eps": 1e-5,
        "output": "sigmoid",
        "output_bias": "marginal",
        "weight_range": 0.05,
        "sparse_init": None,
    }
    assert found.discriminator.model == {
        "hidden": [240, 240],
        "pieces": 2,
        "dropout": [0.2, 0.5, 0.5],
        "weight_range": 0.005,
        "spectral_norm": None,
    }
    assert resolved(found) == found


@pytest.mark.parametrize(
    ("model", "settings", "message"),
    [
        ("mpl", {}, "unknown model 'mpl'. Did you mean 'mlp'"),
        ("mlp", {"generator": {"hiden": [3]}}, "'hiden' in generator settings of model 'mlp'. Did you mean 'hidden'"),
        ("mlp", {"generator": {"hidden": [0]}}, "hidden.0 = 0"),
        ("mlp", {"generator": {"hidden": 3}}, "hidden = 3: should be a valid"),
        ("mlp", {"generator": {"batch_norm": [True]}}, "batch_norm should be one value or a list of 2"),
        ("mlp", {"generator": {"output": "tanh", "output_bias": "marginal"}}, 'should go with output = "sigmoid"'),
        ("mlp", {"discriminator": {"dropout": [0.5]}}, "dropout should be one value or a list of 3"),
        ("mlp", {"discriminator": {"dropout": [0.5, 1.0, 0.5]}}, "dropout.1 = 1.0: should be less than 1"),
        ("maxout-mlp", {"discriminator": {"pieces": 0}}, "pieces = 0: should be greater than or equal to 1"),
        ("maxout-mlp", {"discriminator": {"weight_range": [0.1]}}, "weight_range should be one value or a list of 3"),
        ("mlp", {"generator": {"sparse_init": 0}}, "sparse_init = 0: should be greater than or equal to 1"),
        ("dcgan", {"generator": {"channels": 0}}, "channels = 0: should be greater than or equal to 1"),
        ("dcgan", {"discriminator": {"output": "tanh"}}, "'output' in discriminator settings of model 'dcgan'"),
    ],
)
def test_bad_settings_are_refused_with_the_way_out(model: str, settings: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError) as error:
        experiment(model, **settings)
    assert message in str(error.value)


def test_a_start_of_more_weights_than_there_are_is_refused() -> None:
    for hidden, inputs in (([7, 6], 6), ([], 5)):
        sparse = experiment("maxout-mlp", generator={"hidden": hidden, "sparse_init": inputs + 1})
        with pytest.raises(InputError, match=f"sparse_init = {inputs + 1} is more than the {inputs} weights"):
            build(sparse, IMAGES)


def test_a_sparse_start_changes_the_output_layers_weights_alone() -> None:
    for model, bias in (("mlp", "zero"), ("maxout-mlp", "marginal")):
        settings = [{"hidden": [7, 6], "output_bias": bias} | own for own in ({}, {"sparse_init": 2})]
        dense, sparse = (build(experiment(model, generator=one), IMAGES).generator for one in settings)
        one, other = (network.init(Draws(SEEDS), "init") for network in (dense, sparse))
        assert ((other["output.weight"] != 0).sum(1) == 2).all()
        assert other["output.weight"].abs().max() > 1
        assert all(other[key].equal(one[key]) for key in one if not key.startswith("output"))
        assert other["output.bias"].equal(one["output.bias"]) if bias == "marginal" else not other["output.bias"].any()


def test_an_unknown_family_is_refused() -> None:
    with pytest.raises(UnknownName, match=r"Valid: dcgan, maxout-mlp, mlp\."):
        family("transformer")
