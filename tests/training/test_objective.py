"""What is added to losses, and what an objective keeps between updates."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest
import torch
from torch import Tensor

from harness.errors import InputError
from harness.experiment import Experiment
from harness.training.gan import Gan

State = dict[str, dict[str, Tensor]]
GanOf = Callable[..., Gan]
TrainFor = Callable[[Gan, int], State]
Resolve = Callable[..., Experiment]
BEGAN = {"loss": "began", "discriminator": {"hidden": [9, 4]}}


def test_a_clipped_discriminator_stays_within_each_members_bound(gan_of: GanOf, train_for: TrainFor) -> None:
    clips = (0.01, 0.1)
    state = train_for(gan_of(*({"seed": seed, "weight_clip": clip} for seed, clip in enumerate(clips))), 5)
    for member, clip in enumerate(clips):
        largest = [float(tensor[member].detach().abs().max()) for tensor in state["discriminator"].values()]
        assert max(largest) == pytest.approx(clip)
    assert all(float(tensor.detach().abs().max()) > 0.1 for tensor in state["generator"].values())


def column_norms(parameters: Mapping[str, Tensor], member: int) -> Tensor:
    weights = [tensor[member].detach() for name, tensor in parameters.items() if name.endswith("weight")]
    return torch.cat([weight.norm(dim=0) for weight in weights])


@pytest.mark.parametrize("updates", ["alternating", "simultaneous"])
def test_columns_are_no_longer_than_each_members_norm(updates: str, gan_of: GanOf, train_for: TrainFor) -> None:
    norms = {"generator": (0.3, 0.5), "discriminator": (0.4, 0.6)}
    members = [
        {"seed": seed, "updates": updates}
        | {role: {"hidden": [9, 8], "max_column_norm": bounds[seed]} for role, bounds in norms.items()}
        for seed in range(2)
    ]
    state = train_for(gan_of(*members), 5)
    free = train_for(gan_of({"updates": updates, **{role: {"hidden": [9, 8]} for role in norms}}), 5)
    for role, bounds in norms.items():
        assert column_norms(free[role], 0).max() > max(bounds)
        for member, bound in enumerate(bounds):
            assert float(column_norms(state[role], member).max()) == pytest.approx(bound)


def test_only_columns_that_are_too_long_are_scaled(gan_of: GanOf) -> None:
    objective = gan_of({"generator": {"max_column_norm": 2}}).game.objective
    weight = torch.tensor([[[3.0, 0.6, 0.0, 0.0], [4.0, 0.8, 0.0, 2.0]]], dtype=torch.float64, requires_grad=True)
    bias, filters = torch.full((1, 4), 9.0), torch.full((1, 2, 2, 3, 3), 9.0)
    state = {"hidden0.weight": weight, "hidden0.bias": bias, "norm0.weight": bias, "down0.weight": filters}
    before = [tensor.detach().clone() for tensor in state.values()]
    objective.hold("discriminator", state)
    assert all(tensor.equal(one) for tensor, one in zip(state.values(), before, strict=True))
    objective.hold("generator", state)
    torch.testing.assert_close(weight.detach()[0, :, 0], torch.tensor([1.2, 1.6], dtype=torch.float64))
    assert weight.detach()[0, :, 1:].equal(before[0][0, :, 1:])
    assert all(tensor.equal(one) for tensor, one in zip(list(state.values())[1:], before[1:], strict=True))


def test_a_norm_that_no_column_reaches_changes_no_bit(gan_of: GanOf, train_for: TrainFor) -> None:
    sizes = {"generator": {"hidden": [12, 10]}, "discriminator": {"hidden": [9, 8]}}
    free = train_for(gan_of(sizes), 5)
    wide = train_for(gan_of({role: own | {"max_column_norm": 100} for role, own in sizes.items()}), 5)
    assert all(free[part][key].equal(wide[part][key]) for part in free for key in free[part])


def test_a_smoothed_label_is_the_cross_entropy_with_it(gan_of: GanOf) -> None:
    objective = gan_of({"real_label": 0.9}, {"real_label": 0.8, "seed": 1}).game.objective
    real, fake = torch.randn(2, 2, 7, generator=torch.Generator().manual_seed(0), dtype=torch.float64).unbind()
    for member, label in enumerate((0.9, 0.8)):
        says = real[member].sigmoid()
        value = (
            -(label * says.log() + (1 - label) * (1 - says).log()).mean() - (1 - fake[member].sigmoid()).log().mean()
        )
        torch.testing.assert_close(objective.discriminator(real, fake, {})[member], value)


def test_the_balance_moves_by_its_rule(gan_of: GanOf) -> None:
    members = [{"seed": seed, "balance": {"gamma": gamma, "rate": 0.5}} for seed, gamma in enumerate((0.5, 0.75))]
    objective = gan_of(*(BEGAN | member for member in members)).game.objective
    state = objective.init(2, torch.zeros(1, dtype=torch.float64))
    real, fake = (torch.tensor([[a, a]] * 2, dtype=torch.float64) for a in (0.8, 0.2))
    objective.settle(real, fake, state)
    torch.testing.assert_close(state["k"], torch.tensor([0.5 * 0.2, 0.5 * 0.4], dtype=torch.float64))
    torch.testing.assert_close(
        objective.row(real[:, 0], fake[:, 0], real, fake, None, state)[-1], torch.tensor([1.0, 1.2]).double()
    )
    for _ in range(9):
        objective.settle(real, fake, state)
    assert state["k"].tolist() == [pytest.approx(1), 1]
    for _ in range(9):
        objective.settle(fake, real, state)
    assert state["k"].tolist() == [0, 0]


def test_an_autoencoding_discriminator_learns_to_tell(gan_of: GanOf, train_for: TrainFor) -> None:
    gan = gan_of(BEGAN | {"optimizer": {"name": "Adam", "lr": 2e-3}}, BEGAN | {"seed": 1, "optimizer": {"lr": 2e-3}})
    assert gan.columns[2:] == ("reconstruction_real", "reconstruction_fake", "balance", "convergence")
    state = train_for(gan, 30)
    assert state["discriminator"]["output.weight"].shape == (2, 9, 64)
    assert (state["objective"]["k"] > 0).all()


def test_noise_falls_to_nothing(gan_of: GanOf) -> None:
    game = gan_of(
        {"instance_noise": {"std": 0.2, "until": 10}}, {"seed": 1, "instance_noise": {"std": 0.4, "until": 10}}
    ).game
    images = torch.zeros(2, 20, 1, 8, 8, dtype=torch.float64)
    spreads = [
        [float(x[m].std()) for x in game.seen((images,), "x", 0, iteration) for m in (0, 1)] for iteration in (0, 5, 10)
    ]
    assert spreads[0] == pytest.approx([0.2, 0.4], rel=0.1)
    assert spreads[1] == pytest.approx([0.1, 0.2], rel=0.1)
    assert spreads[2] == [0, 0]
    first, second = game.seen((images, images), "x", 0, 0)
    assert not first.equal(second)


def test_probabilities_are_kept_for_logits_alone(gan_of: GanOf) -> None:
    gan = gan_of({}, {"loss": "wgan", "seed": 1})
    assert "d_real" in gan.columns_of(0) and "d_real" not in gan.columns_of(1)
    assert "score_difference" in gan.columns_of(1) and "score_difference" not in gan.columns_of(0)
    assert gan_of({}).columns == ("discriminator_loss", "generator_loss", "d_real", "d_fake")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "wgan", "real_label": 0.9}, "real_label smooths"),
        ({"loss": "hinge", "balance": {}}, "balance belongs to the loss 'began'"),
        ({"loss": "began", "model": "maxout-mlp", "discriminator": {}}, "take one of: mlp, dcgan"),
        ({"discriminator": {"autoencoder": True}}, "discriminator.autoencoder is for losses of its errors"),
        ({"penalty": {"name": "r2"}}, "unknown penalty 'r2'. Did you mean 'r1'"),
        ({"loss": "began", "penalty": {"name": "r1"}}, "penalties are on the slope of scores"),
        ({"loss": "wgan", "penalty": {"name": "dragan_of_probabilities"}}, "slope of probabilities, which loss 'wgan'"),
        ({"loss": "began", "discriminator": {"autoencoder": False}}, "do not take it away"),
        ({"penalty": {"name": "r1"}, "updates": "simultaneous"}, "penalties are for"),
    ],
)
def test_what_does_not_go_together_is_refused(settings: Mapping[str, Any], message: str, resolve: Resolve) -> None:
    with pytest.raises(InputError, match=message):
        resolve(**settings)


def test_absent_variants_leave_run_ids_as_they_were(resolve: Resolve) -> None:
    plain = resolve()
    for off in (
        {"discriminator": {"hidden": [9, 8], "spectral_norm": False, "autoencoder": False}},
        {"penalty": None},
        {"generator": {"hidden": [12, 10], "max_column_norm": None, "sparse_init": None}},
    ):
        assert resolve(**off).run_id == plain.run_id
    assert resolve(penalty={"name": "r1"}).run_id == resolve(penalty={"name": "r1", "weight": 10}).run_id
    assert resolve(penalty={"name": "r1"}).run_id != plain.run_id
