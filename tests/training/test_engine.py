"""A replayed iteration against an eager one. On a CPU a stand-in for the graph repeats the recorded function: every
number of the host that the function still uses is then that of the iteration at which it was recorded."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from accelerate.state import PartialState
from torch import Tensor
from torch.overrides import TorchFunctionMode

from harness.images import ImageSet
from harness.models import ImageStatistics
from harness.training.engine import BLOCK, Captured, Eager, copied, cuda_graph, engine
from harness.training.feed import Feed, Order, ResidentFeed, TrainingImages
from harness.training.gan import Gan
from harness.training.processes import Processes

DROPOUT = {"hidden": [9, 8], "dropout": [0.2, 0.5, 0.5]}
SGD = {"name": "SGD", "momentum": 0.5}
STACKS: dict[str, list[dict[str, Any]]] = {
    "one member": [{"discriminator": DROPOUT, "k": 3}],
    "simultaneous": [{"updates": "simultaneous", "discriminator": DROPOUT}],
    "falling rates, one with a floor": [
        {"optimizer": SGD | {"lr": 0.1, "lr_decay": 1.01}, "k": 2},
        {"optimizer": SGD | {"lr": 0.2, "lr_decay": 1.1, "min_lr": 1e-3}, "k": 2, "seed": 1},
    ],
    "momentum that rises by epoch": [
        {"optimizer": SGD | {"lr": 0.1, "momentum_ramp": {"final": 0.9, "end_epoch": 2}}, "batch_size": 40}
    ],
    "Adam": [
        {"optimizer": {"name": "Adam", "lr": 2e-3, "betas": [0.5, 0.999]}},
        {"optimizer": {"name": "Adam", "lr": 1e-3, "lr_decay": 1.01}, "loss": "minimax", "seed": 7},
    ],
    "RMSprop": [{"optimizer": {"name": "RMSprop", "lr": 1e-3, "lr_decay": 1.001}}],
    "averages and batch normalisation": [
        {"ema": 0.5, "generator": {"batch_norm": True, "hidden": [12, 10]}},
        {"ema": 0.9, "generator": {"batch_norm": True, "hidden": [12, 10]}, "seed": 3},
    ],
    "penalties, clips and noise": [
        {
            "loss": loss,
            "seed": seed,
            "penalty": {"name": "gradient_penalty", "weight": 1.0 + seed},
            "weight_clip": 0.1 * (1 + seed),
            "instance_noise": {"std": 0.1, "until": 70},
            "discriminator": DROPOUT | {"spectral_norm": True},
        }
        for seed, loss in enumerate(["wgan", "relativistic", "hinge"])
    ],
    "short columns": [
        {
            "seed": seed,
            "generator": {"max_column_norm": 0.5 + seed},
            "discriminator": DROPOUT | {"max_column_norm": 0.4},
        }
        for seed in range(2)
    ],
    "dropout and pools of images": [
        {
            "model": "paper-conv",
            "generator": {"hidden": [7], "channels": 3},
            "discriminator": {"channels": [3], "kernels": 3, "padding": 1, "pools": 3, "dropout": [0.2, 0.5, 0.5]},
            "seed": seed,
        }
        for seed in range(2)
    ],
    "projections on classes": [
        {"seed": seed, "conditional": True, "discriminator": {"hidden": [9, 8], "spectral_norm": True}}
        for seed in range(2)
    ],
    "classes as planes, normalised images": [
        {
            "conditional": True,
            "condition": {"discriminator": "concatenation"},
            "preprocessing": {"name": "gcn", "norm": 8.0},
            "generator": {"hidden": [12, 10], "output": "linear"},
        }
    ],
    "three losses in turn": [{"loss": loss, "seed": i} for i, loss in enumerate(["minimax", "non_saturating"] * 2)],
}


class NoHost(TorchFunctionMode):
    """Refuses what a graph cannot record: tensors made from numbers of the host, and numbers read from tensors."""

    REFUSED = (
        "tensor",
        "as_tensor",
        "from_numpy",
        "item",
        "tolist",
        "cpu",
        "numpy",
        "__bool__",
        "__float__",
        "__int__",
    )

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        on_cpus_alone = kwargs == {"device": "cpu"}  # how torch.optim counts the steps of parameters on a CPU
        name = getattr(function, "__name__", "")
        assert name not in self.REFUSED or on_cpus_alone, f"{function} cannot be recorded"
        return function(*args, **(kwargs or {}))


class Repeated:
    """A stand-in for a graph: replaying calls the recorded function again. Counts recordings."""

    def __init__(self) -> None:
        self.recordings = 0

    def __call__(self, function: Callable[[], None]) -> Callable[[], None]:
        self.recordings += 1

        def replay() -> None:
            with NoHost():
                function()

        return replay


def trained(carry_out: Eager | Captured, first: int, last: int) -> list[Tensor]:
    """Rows of history of some iterations."""
    return [carry_out.step(iteration).detach().clone() for iteration in range(first, last)]


def equal(one: Any, other: Any) -> bool:
    """Whether two states hold the same bits."""
    return all(torch.equal(one[part][key], other[part][key]) for part in one for key in one[part])


@pytest.mark.parametrize("name", STACKS)
def test_replayed_iterations_equal_eager_ones(
    name: str, gan_of: Callable[..., Gan], feed_of: Callable[..., Feed]
) -> None:
    gan = gan_of(*STACKS[name])
    iterations = 2 * BLOCK + 7
    states = [gan.init(), gan.init()]
    feed = feed_of(gan, iterations)
    assert isinstance(feed, ResidentFeed)
    eager = trained(Eager(gan, states[0], feed), 0, iterations)
    captured = trained(Captured(gan, states[1], feed, record=Repeated()), 0, iterations)
    assert equal(*states)
    assert torch.equal(torch.stack(eager), torch.stack(captured))


def test_replay_goes_on_in_the_middle_of_a_block(gan_of: Callable[..., Gan], feed_of: Callable[..., Feed]) -> None:
    gan = gan_of(*STACKS["Adam"])
    states = [gan.init(), gan.init()]
    feed = feed_of(gan, 90)
    assert isinstance(feed, ResidentFeed)
    trained(Captured(gan, states[0], feed, record=Repeated()), 0, 90)
    for first, last in ((0, 33), (33, 61), (61, 90)):  # each with an engine of its own, as after a resume
        trained(Captured(gan, states[1], feed, record=Repeated()), first, last)
    assert equal(*states)


def test_an_iteration_is_recorded_once_and_again_when_a_constant_changes(
    gan_of: Callable[..., Gan], feed_of: Callable[..., Feed]
) -> None:
    recordings = {}
    for name in ("Adam", "momentum that rises by epoch"):
        gan, record = gan_of(*STACKS[name]), Repeated()
        feed = feed_of(gan, 120)
        assert isinstance(feed, ResidentFeed)
        trained(Captured(gan, gan.init(), feed, record=record), 0, 120)
        recordings[name] = record.recordings
    # 40 of 1,197 images a step: an epoch begins after 30, 60 and 90 iterations; momentum rises at the second.
    assert recordings == {"Adam": 1, "momentum that rises by epoch": 2}


def test_a_cpu_is_driven_eagerly(gan_of: Callable[..., Gan], feed_of: Callable[..., Feed]) -> None:
    gan = gan_of({}, precision="float32")
    assert engine(gan, gan.init(), feed_of(gan, 1), gan.game.processes).name == "eager"


def test_other_optimizers_and_schedules_of_the_inner_loop_are_not_captured(gan_of: Callable[..., Gan]) -> None:
    assert gan_of({}).capturable
    assert not gan_of({"critic_schedule": {}}).capturable
    assert not gan_of({"optimizer": {"name": "Adagrad", "lr": 0.01}}).capturable


@pytest.fixture
def on_gpu() -> Iterator[Processes]:
    """This process on a CUDA device; the other tests stay on the CPU."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("ACCELERATE_USE_CPU", raising=False)
        PartialState._reset_state()
        yield Processes("float32")
    PartialState._reset_state()


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
@pytest.mark.parametrize("name", STACKS)
def test_a_cuda_graph_equals_eager_iterations(
    name: str, on_gpu: Processes, resolve: Any, digits: ImageSet, digits_statistics: ImageStatistics
) -> None:
    experiments = [resolve(**member) for member in STACKS[name]]
    gan = Gan.of(experiments, digits_statistics, training_images=len(digits.train), processes=on_gpu)
    order = Order(gan.draws, size=len(digits.train), batch_size=gan.game.batch_size, inner_loop=gan.game.inner_loop)
    feed = TrainingImages.of(experiments[0], digits.train, on_gpu).feed(order, first=0, steps=200)
    assert isinstance(feed, ResidentFeed) and on_gpu.device.type == "cuda"
    state = gan.init()
    captured = Captured(gan, state, feed, record=cuda_graph)
    reached = 0
    for first in (0, 2 * BLOCK - 5):  # at the start, and across the end of a block
        trained(captured, reached, first)
        reached = first + 15
        other = copied(state)
        trained(Eager(gan, other, feed), first, first + 15)
        trained(captured, first, first + 15)
        for part in ("generator", "discriminator"):
            one, two = (torch.cat([t.detach().flatten() for t in states[part].values()]) for states in (state, other))
            assert float((one - two).norm() / two.norm()) <= 1e-5
