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
from harness.layers import CONVOLUTION_WAYS, Context, ConvolutionWay, Parameters
from harness.models import FAMILIES, ImageStatistics, Pair, build, family, resolved

SEEDS = (0, 5, 9)
NETS = ("hidden0", "hidden1", "output")
SHAPE = (2, 4, 8)
ContextOf = Callable[..., Context]
IMAGES = ImageStatistics(SHAPE, torch.rand(SHAPE, generator=torch.Generator().manual_seed(0)))
SMALL_MAXOUT: dict[str, Any] = {
    "channels": [3, 4],
    "kernels": [4, 3],
    "padding": [2, 1],
    "pools": 2,
    "hidden": [5],
    "hidden_pieces": 3,
    "dropout": [0.1, 0.3, 0.3, 0.3],
    "weight_range": 0.5,
}
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
    "paper-conv": {"generator": {"hidden": [7], "channels": 3, "weight_range": 0.5}, "discriminator": SMALL_MAXOUT},
    "paper-conv of one convolution, with tanh": {
        "model": "paper-conv",
        "generator": {"hidden": [], "channels": 2, "output": "tanh"},
        "discriminator": SMALL_MAXOUT
        | {
            "channels": [4],
            "kernels": 4,
            "pools": 3,
            "padding": [1],
            "hidden": [],
            "dropout": [],
            "spectral_norm": True,
        },
    },
    "infogan": {
        "generator": {"channels": 3, "hidden": 7, "weight_std": 0.3},
        "discriminator": {"channels": 2, "hidden": 6, "weight_std": 0.3},
    },
    "infogan without batch norm": {
        "model": "infogan",
        "generator": {"channels": 3, "hidden": 7, "batch_norm": False, "activation": "leaky_relu"},
        "discriminator": {"channels": 2, "hidden": 6, "batch_norm": False, "spectral_norm": True},
    },
    "residual": {"generator": {"channels": 3, "blocks": 2}, "discriminator": {"channels": 4}},
    "residual with spectral norm and sigmoid": {
        "model": "residual",
        "generator": {"channels": 2, "blocks": 1, "output": "sigmoid"},
        "discriminator": {"channels": 2, "down_blocks": 1, "plain_blocks": 1, "spectral_norm": True},
    },
}


def experiment(model: str, **settings: Any) -> Experiment:
    data = {"dataset": "digits", "iterations": 1, "latent": {"size": 5}, "model": model}
    return resolved(validate(Experiment, data | settings, where="test"))


def pair_of(name: str) -> Pair:
    return build(experiment(**({"model": name} | SMALL[name])), IMAGES)


def forward(
    pair: Pair, seeds: tuple[int, ...], context: Context, dtype: torch.dtype = torch.float32
) -> tuple[Parameters, Tensor, Tensor]:
    """Trained parameters, images and scores of the pair's members."""
    draws = Draws(seeds, dtype=dtype)
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
@pytest.mark.parametrize("way", CONVOLUTION_WAYS)
def test_a_replaced_member_changes_no_bit_of_the_others(name: str, way: ConvolutionWay, context_of: ContextOf) -> None:
    def first_and_last(second: int) -> list[Tensor]:
        seeds = (SEEDS[0], second, SEEDS[2])
        trained, images, scores = forward(pair_of(name), seeds, context_of(seeds, convolution=way))
        slopes = torch.autograd.grad((scores.sigmoid() * torch.arange(1.0, 7.0)).sum(), list(trained.values()))
        return [tensor[[0, 2]] for tensor in (images, scores, *slopes)]

    assert all(map(torch.equal, first_and_last(SEEDS[1]), first_and_last(77)))


@pytest.mark.parametrize("name", SMALL)
def test_every_trained_parameter_receives_a_gradient(name: str, context_of: ContextOf) -> None:
    trained, _, scores = forward(pair_of(name), SEEDS, context_of(SEEDS))
    weights = torch.arange(1.0, 19.0).view(3, 6)  # even ones would cancel behind batch normalisation
    slopes = torch.autograd.grad((scores.sigmoid() * weights).sum(), list(trained.values()))
    assert [key for key, slope in zip(trained, slopes, strict=True) if not slope.flatten(1).any(1).all()] == []


@pytest.mark.parametrize("name", SMALL)
def test_moments_summed_over_processes_change_nothing_on_one(name: str, context_of: ContextOf) -> None:
    here, over = (
        forward(pair_of(name), SEEDS, context_of(SEEDS, sum_over_processes=sums), torch.float64)
        for sums in (None, torch.clone)
    )
    torch.testing.assert_close(over[1:], here[1:])


def slope_norms(pair: Pair, parameters: Parameters, x: Tensor, context: Context) -> Tensor:
    """The sum of the norms of the scores' slopes at x."""
    (slopes,) = torch.autograd.grad(pair.discriminator(parameters, x, context).sum(), x, create_graph=True)
    return slopes.flatten(2).norm(dim=2).sum()


@pytest.mark.parametrize("name", SMALL)
def test_the_slope_of_a_score_can_be_descended(name: str, context_of: ContextOf) -> None:
    pair, draws = pair_of(name), Draws(SEEDS, dtype=torch.float64)
    context = context_of(SEEDS, training=False)  # spectral norm moves its vectors in training
    parameters = pair.discriminator.init(draws, "D")
    trained = {
        key: (tensor + 0.3 * draws.normal(f"more {key}", 0, 1, tensor[0].numel()).view_as(tensor)).requires_grad_()
        for key, tensor in parameters.items()
        if key not in pair.discriminator.buffers
    }
    parameters |= trained
    x = draws.uniform("x", 0, 6, 64).view(3, 6, *SHAPE).requires_grad_()
    norms = slope_norms(pair, parameters, x, context)
    slopes = torch.autograd.grad(norms, list(trained.values()), materialize_grads=True)
    step = 1e-6
    ways = {key: draws.normal(key, 0, 1, tensor[0].numel()).view_as(tensor) for key, tensor in trained.items()}
    there, back = (
        slope_norms(pair, parameters | {key: trained[key] + sign * step * ways[key] for key in ways}, x, context)
        for sign in (1, -1)
    )
    found = sum((slope * way).sum() for slope, way in zip(slopes, ways.values(), strict=True))
    torch.testing.assert_close(found, (there - back) / (2 * step), rtol=1e-5, atol=1e-7)
    assert found.abs() > 1e-3


@pytest.mark.parametrize("name", sorted(FAMILIES))
def test_a_linear_output_is_what_the_others_squash(name: str, context_of: ContextOf) -> None:
    def images(output: str) -> Tensor:
        settings = SMALL[name] | {"generator": SMALL[name]["generator"] | {"output": output, "output_bias": "zero"}}
        if name not in ("mlp", "maxout-mlp"):
            del settings["generator"]["output_bias"]
        pair = build(experiment(name, **settings), IMAGES)
        return forward(pair, SEEDS, context_of(SEEDS))[1]

    torch.testing.assert_close(images("sigmoid"), images("linear").sigmoid())
    torch.testing.assert_close(images("tanh"), images("linear").tanh() / 2 + 0.5)


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
        "hidden_bias": None,
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


def test_layers_of_mlps_generator_may_differ_in_activation_and_initial_bias(context_of: ContextOf) -> None:
    # The TFD net of the 2014 paper, smaller: ReLU, a sigmoid whose bias starts at -2, sigmoid.
    settings = {"hidden": [7, 6], "activation": ["relu", "sigmoid"], "hidden_bias": [0.0, -2.0], "weight_range": 0.05}
    pair = build(experiment("maxout-mlp", generator=settings | {"output_bias": "zero"}), IMAGES)
    draws = Draws(SEEDS)
    parameters, z = pair.generator.init(draws, "G"), draws.normal("z", 0, 6, 5)
    assert not parameters["hidden0.bias"].any() and (parameters["hidden1.bias"] == -2).all()
    images = pair.generator(parameters, z, context_of(SEEDS))
    for member in range(len(SEEDS)):
        weight, bias = ({n: parameters[f"{n}.{kind}"][member] for n in NETS} for kind in ("weight", "bias"))
        hidden = (
            (z[member] @ weight["hidden0"] + bias["hidden0"]).relu() @ weight["hidden1"] + bias["hidden1"]
        ).sigmoid()
        expected = (hidden @ weight["output"] + bias["output"]).sigmoid()
        torch.testing.assert_close(images[member].flatten(1), expected)


def test_one_initial_bias_stands_for_all_hidden_layers() -> None:
    pair = build(experiment("mlp", generator={"hidden": [7, 6], "hidden_bias": 0.5}), IMAGES)
    parameters = pair.generator.init(Draws(SEEDS), "G")
    assert (parameters["hidden0.bias"] == 0.5).all() and (parameters["hidden1.bias"] == 0.5).all()
    assert (parameters["output.bias"] != 0.5).all()


@pytest.mark.parametrize(
    ("model", "generator", "run_id"),
    [
        ("mlp", {"hidden": [7, 6]}, "c0462d7bbd6e9d92"),
        ("mlp", {"hidden": [7, 6], "hidden_bias": None}, "c0462d7bbd6e9d92"),
        ("maxout-mlp", {}, "ac2141f65ba4d018"),
        ("dcgan", {}, "2b3600d8bdb76533"),
    ],
)
def test_settings_that_came_later_leave_run_ids_as_they_were(
    model: str, generator: dict[str, Any], run_id: str
) -> None:
    assert experiment(model, generator=generator).run_id == run_id


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
        ("mlp", {"generator": {"activation": "swish"}}, "activation = \"swish\": should be 'relu', 'leaky_relu'"),
        ("mlp", {"generator": {"activation": ["relu", "swish"]}}, "activation.1 = \"swish\": should be 'relu'"),
        ("mlp", {"generator": {"hidden_bias": "low"}}, 'hidden_bias = "low": should be a valid number'),
        ("mlp", {"generator": {"activation": ["relu"]}}, "activation should be one value or a list of 2"),
        ("mlp", {"generator": {"hidden_bias": [0.0]}}, "hidden_bias should be one value or a list of 2"),
        (
            "mlp",
            {"generator": {"batch_norm": [False, True], "hidden_bias": -2}},
            "hidden_bias should be 0 where batch_norm takes a bias away",
        ),
        ("paper-conv", {"discriminator": {"channels": []}}, "channels = [] is empty"),
        ("paper-conv", {"discriminator": {"kernels": [3]}}, "kernels should be one value or a list of 3"),
        ("paper-conv", {"discriminator": {"dropout": [0.5]}}, "dropout should be one value or a list of 5"),
        ("paper-conv", {"discriminator": {"pool_strides": 3}}, "pool_strides should not be above pools"),
        ("infogan", {"generator": {"code": 3}}, "'code' in generator settings of model 'infogan'"),
        ("residual", {"generator": {"blocks": 0}}, "blocks = 0: should be greater than or equal to 1"),
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
    with pytest.raises(UnknownName, match=r"Valid: dcgan, infogan, maxout-mlp, mlp, paper-conv, residual\."):
        family("transformer")
