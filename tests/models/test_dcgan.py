"""The convolutional pair: its shapes, its sizes, and stacks of it that train."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, get_args

import pytest
import torch
from torch import Tensor, nn

from harness.draws import Draws
from harness.errors import InputError
from harness.experiment import Experiment
from harness.layers import Context, ConvolutionWay
from harness.models import ImageStatistics, Pair, dcgan
from harness.training.gan import Gan

PAIR: dict[str, Any] = {
    "model": "dcgan",
    "generator": {"channels": 4},
    "discriminator": {"channels": 3},
    "optimizer": {"name": "Adam", "lr": 2e-4, "betas": [0.5, 0.999]},
}
MEMBERS = [PAIR | {"seed": 0}, PAIR | {"seed": 3, "loss": "minimax"}, PAIR | {"seed": 5}]
State = dict[str, dict[str, Tensor]]


def images_of(*shape: int) -> ImageStatistics:
    channels, height, width = shape
    return ImageStatistics((channels, height, width), torch.zeros(shape))


def pair_of(*shape: int, **settings: Any) -> Pair:
    return Pair(
        dcgan.generator(dcgan.GeneratorSettings(**settings), latent=100, images=images_of(*shape)),
        dcgan.discriminator(dcgan.DiscriminatorSettings(**settings), images=images_of(*shape)),
    )


@pytest.mark.parametrize(
    ("height", "width", "stages"),
    [(8, 8, 2), (28, 28, 2), (32, 32, 3), (64, 64, 4), (16, 16, 2), (64, 16, 2), (6, 6, 1), (64, 96, 4)],
)
def test_stages_follow_from_the_image_size(height: int, width: int, stages: int) -> None:
    assert dcgan.halvings(None, images_of(1, height, width), role="generator") == stages
    pair = pair_of(1, height, width, channels=2)
    weight = pair.discriminator.init(Draws([0]), "init")["output.weight"]
    assert weight.shape[1] == 2 * 2 ** (stages - 1) * (height >> stages) * (width >> stages)


@pytest.mark.parametrize(
    ("shape", "stages", "message"),
    [
        ((1, 28, 28), 3, "generator.stages = 3 needs images whose sides divide by 8; these are 28 x 28: take "),
        ((1, 28, 28), 3, "generator.stages of at most 2."),
        ((1, 8, 6), 2, "of at most 1."),
        ((1, 7, 8), None, 'these are 7 x 8: use another model, "mlp" for one.'),
        ((2, 1, 1), None, "these are 1 x 1: use another model"),
    ],
)
def test_images_that_do_not_suit_are_refused(shape: tuple[int, int, int], stages: int | None, message: str) -> None:
    with pytest.raises(InputError) as error:
        pair_of(*shape, stages=stages)
    assert message in str(error.value)


def test_a_grid_whose_stages_do_not_suit_its_data_is_refused(resolve: Callable[..., Experiment]) -> None:
    with pytest.raises(InputError, match=r"discriminator\.stages = 4 needs images whose sides divide by 16"):
        resolve(**PAIR | {"discriminator": {"stages": 4}})


def test_the_papers_sizes_come_out(context_of: Callable[..., Context]) -> None:
    pair = pair_of(3, 64, 64, channels=2)
    assert [tuple(tensor.shape[1:]) for name, tensor in pair.generator.init(Draws([0]), "init").items()][:1] == [
        (100, 16 * 4 * 4)
    ]
    images = pair.generator(pair.generator.init(Draws([0]), "init"), torch.ones(1, 2, 100), context_of())
    assert images.shape == (1, 2, 3, 64, 64)


def plain_discriminator(parameters: dict[str, Tensor]) -> nn.Module:
    plain = nn.Sequential(
        nn.Conv2d(1, 3, 4, 2, 1),
        nn.LeakyReLU(0.2),
        nn.Conv2d(3, 6, 4, 2, 1, bias=False),
        nn.BatchNorm2d(6),
        nn.LeakyReLU(0.2),
        nn.Flatten(),
        nn.Linear(24, 1),
    )
    places = {"down0": "0", "down1": "2", "norm1": "3", "output": "6"}
    state = {f"{places[name.split('.')[0]]}.{name.split('.')[1]}": t[0].clone() for name, t in parameters.items()}
    plain.load_state_dict(state | {"6.weight": state["6.weight"].T, "3.num_batches_tracked": torch.tensor(0)})
    return plain


def plain_generator(parameters: dict[str, Tensor]) -> nn.Module:
    plain = nn.Sequential(
        nn.Linear(5, 32, bias=False),
        nn.Unflatten(1, (8, 2, 2)),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.ConvTranspose2d(8, 4, 4, 2, 1, bias=False),
        nn.BatchNorm2d(4),
        nn.ReLU(),
        nn.ConvTranspose2d(4, 1, 4, 2, 1),
        nn.Tanh(),
    )
    places = {"projection": "0", "norm0": "2", "up1": "4", "norm1": "5", "output": "7"}
    state = {f"{places[name.split('.')[0]]}.{name.split('.')[1]}": t[0].clone() for name, t in parameters.items()}
    counts = {f"{place}.num_batches_tracked": torch.tensor(0) for place in "25"}
    plain.load_state_dict(state | counts | {"0.weight": state["0.weight"].T})
    return plain


def test_the_pair_is_radfords_in_plain_torch(gan_of: Callable[..., Gan], context_of: Callable[..., Context]) -> None:
    gan = gan_of(PAIR, precision="float32")
    state = gan.init()
    g, d = plain_generator(state["generator"]), plain_discriminator(state["discriminator"])
    z = Draws([0]).normal("z", 0, 6, 5)
    images = gan.game.pair.generator(state["generator"], z, context_of())
    torch.testing.assert_close(images[0], g(z[0]) / 2 + 0.5)
    scores = gan.game.pair.discriminator(state["discriminator"], images, context_of())
    torch.testing.assert_close(scores[0], d(2 * images[0] - 1)[:, 0])


def test_a_stack_trains_as_its_members_alone(
    gan_of: Callable[..., Gan], train_for: Callable[..., State], distance: Callable[[State, State, int], float]
) -> None:
    together = train_for(gan_of(*MEMBERS), 10)
    for member, settings in enumerate(MEMBERS):
        assert distance(together, train_for(gan_of(settings), 10), member) < 1e-9


@pytest.mark.parametrize("way", get_args(ConvolutionWay))
def test_every_way_gives_the_same_scores(
    way: ConvolutionWay, gan_of: Callable[..., Gan], context_of: Callable[..., Context]
) -> None:
    gan, seeds = gan_of(*MEMBERS), (0, 3, 5)
    state, z = gan.init(), Draws(seeds, dtype=torch.float64).normal("z", 0, 6, 5)

    def scores(context: Context) -> Tensor:
        images = gan.game.pair.generator(state["generator"], z, context)
        return gan.game.pair.discriminator(state["discriminator"], torch.cat([images, images], 1), context)

    expected = scores(context_of(seeds, batches=2))
    torch.testing.assert_close(scores(context_of(seeds, batches=2, convolution=way)), expected)
