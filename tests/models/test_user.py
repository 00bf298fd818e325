"""A user's own pair of torch modules."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from harness.draws import Draws
from harness.errors import InputError
from harness.experiment import Experiment, validate
from harness.layers import Context
from harness.models import ImageStatistics, Pair, build, family, resolved
from harness.training.game import State
from harness.training.gan import Gan

GOOD = """
import math
from torch import nn

def build(latent_size, image_shape, generator, discriminator):
    pixels = math.prod(image_shape)
    width = generator.get("width", 6)
    hidden = nn.Linear(latent_size, width, bias=False), nn.BatchNorm1d(width), nn.ReLU()
    g = nn.Sequential(*hidden, nn.Linear(width, pixels), nn.Sigmoid(), nn.Unflatten(1, image_shape))
    d = nn.Sequential(nn.Flatten(), nn.Dropout(0.5), nn.Linear(pixels, 1))
    return g, d
"""
BAD = {
    "import nowhere_to_be_found": "user_model.py cannot be imported (ModuleNotFoundError",
    "def build(:": "cannot be imported (SyntaxError",
    "raise RuntimeError('broken')": "cannot be imported (RuntimeError: broken)",
    "def other(): pass": "user_model has no function 'build'",
    "build = 3": "user_model has no function 'build'",
    "def build(latent_size): pass": "build",
    "def build(*a, **k): raise KeyError('width')": "width",
    "def build(*a, **k): return None": "must give (generator, discriminator), two torch.nn.Modules",
    "from torch import nn\ndef build(*a, **k): return nn.Identity(), nn.Linear(3, 1)": "fails on a batch of two",
    "from torch import nn\ndef build(*a, **k): return nn.Identity(), nn.Flatten()": "the generator gives (2, 5)",
    GOOD.replace("Linear(pixels, 1)", "Linear(pixels, 2)"): "the discriminator gives (2, 2) for two",
    "from torch import nn\nclass Two(nn.Module):\n  def forward(self, z): return z, z\n"
    "def build(*a, **k): return Two(), nn.Flatten()": "the generator gives",
}
PAIR = """
import math, random
import numpy as np
import torch
from torch import nn
from torch.nn import functional

class Extra(nn.Module):
    def __init__(self, width=10):
        super().__init__()
        self.layer = nn.Linear(width, width)
        self.register_buffer("mean", torch.ones(width))
        self.random = np.random.default_rng()
    def forward(self, x):
        {extra}
        return x

def build(latent_size, image_shape, generator, discriminator):
    pixels = math.prod(image_shape)
    g = nn.Sequential({generator}, nn.Sigmoid(), nn.Unflatten(1, image_shape))
    d = nn.Sequential({discriminator})
    return g, d
"""
PLAIN = {
    "generator": "nn.Linear(latent_size, 10), nn.ReLU(), nn.Linear(10, pixels)",
    "discriminator": "nn.Flatten(), nn.Linear(pixels, 10), nn.LeakyReLU(0.2), nn.Linear(10, 1), nn.Flatten(0)",
    "extra": "pass",
}
CONVOLUTIONS = {
    "generator": "nn.Linear(latent_size, 16), nn.Unflatten(1, (4, 2, 2)), nn.ConvTranspose2d(4, 3, 4, 2, 1, bias=False)"
    ", nn.BatchNorm2d(3), nn.ReLU(), nn.ConvTranspose2d(3, 1, 4, 2, 1), nn.Flatten()",
    "discriminator": "nn.Conv2d(1, 3, 4, 2, 1), nn.LeakyReLU(0.2), nn.Conv2d(3, 5, 4, 2, 1), nn.Flatten()"
    ", nn.Linear(20, 1)",
}
NORMALISED = {
    "generator": "nn.Linear(latent_size, 10, bias=False), nn.BatchNorm1d(10), nn.ReLU(), nn.Linear(10, pixels)",
    "discriminator": "nn.Flatten(), nn.Linear(pixels, 10, bias=False), nn.BatchNorm1d(10), nn.Tanh(), nn.Linear(10, 1)",
}
WITHIN = {"generator": "nn.Linear(latent_size, 10), nn.ReLU(), Extra(), nn.Linear(10, pixels)"}
# What a module may do and still share a stack.
STACKABLE: dict[str, dict[str, str]] = {
    "plain": {},
    "convolutions": CONVOLUTIONS,
    "batch normalisation": NORMALISED,
    "tied": WITHIN | {"extra": "x = functional.linear(self.layer(x).relu(), self.layer.weight)"},
    "frozen": {"generator": "nn.Linear(latent_size, 10).requires_grad_(False), nn.ReLU(), nn.Linear(10, pixels)"},
    "replaced buffer": WITHIN | {"extra": "self.mean = 0.9 * self.mean + x.detach().mean(0); x = x + self.mean"},
}
# What it may not.
ALONE = {
    "dropout": "x = functional.dropout(x, 0.1, self.training)",
    "noise": "x = x + 0.1 * torch.randn_like(x)",
    "noise when sampling": "x = x if self.training else x + torch.randn_like(x)",
    "numpy's noise": "x = x * float(np.random.uniform() < 2)",
    "Python's noise": "x = x if random.random() < 2 else -x",
    "noise of its own": "x = x + self.random.normal()",
    "a branch on a value": "x = x if x.mean() > 0 else -x",
    "a number out of a tensor": "x = x * float(self.mean[0])",
    "an operation that vmap refuses": "x = torch.ones(10, dtype=x.dtype).mul_(x)",
    "an operation that vmap runs in a loop": "x = functional.rrelu(x, training=True)",
    "an error": "raise KeyError('width')",
}
SHAPE = (1, 2, 4)
OWN: dict[str, Any] = {"generator": {}, "discriminator": {}, "ema": 0.9, "k": 2}
SLOWER = {"name": "SGD", "lr": 0.05, "momentum": 0.5}
Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Write]:
    """Writes user_model.py beside a grid file and gives the model's name."""
    monkeypatch.syspath_prepend(tmp_path)

    def written(source: str) -> str:
        (tmp_path / "user_model.py").write_text(source)
        return "user_model:build"

    yield written
    import sys

    sys.modules.pop("user_model", None)
    importlib.invalidate_caches()


def experiment(model: str, **settings: object) -> Experiment:
    data = {"dataset": "digits", "iterations": 1, "latent": {"size": 5}, "model": model}
    return resolved(validate(Experiment, data | settings, where="test"))


def pair_of(name: str, **settings: object) -> Pair:
    return build(experiment(name, **settings), ImageStatistics(SHAPE, torch.zeros(SHAPE)))


def test_a_users_pair_becomes_a_stack_of_one(write: Write, context_of: Callable[..., Context]) -> None:
    pair = pair_of(write(GOOD), generator={"width": 9})
    parameters = pair.generator.init(Draws([3]), "init")
    assert parameters["0.weight"].shape == (1, 9, 5)
    images = pair.generator(parameters, torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(0)), context_of())
    scores = pair.discriminator(pair.discriminator.init(Draws([3]), "init"), images, context_of())
    assert images.shape == (1, 6, *SHAPE) and scores.shape == (1, 6)
    assert parameters["1.running_mean"].any() and parameters["1.num_batches_tracked"].tolist() == [1]
    assert pair.generator.buffers == {"1.running_mean", "1.running_var", "1.num_batches_tracked"}


def test_a_users_module_computes_what_it_does_alone(write: Write, context_of: Callable[..., Context]) -> None:
    network = pair_of(write(GOOD)).generator
    parameters = network.init(Draws([3]), "init")
    plain: nn.Module = importlib.import_module("user_model").build(5, SHAPE, {}, {})[0]
    plain.load_state_dict({name: tensor[0].clone() for name, tensor in parameters.items()})
    z = torch.randn(1, 12, 5, generator=torch.Generator().manual_seed(0))
    found = network(parameters, z, context_of(batches=2))
    torch.testing.assert_close(found[0], torch.cat([plain(z[0, :6]), plain(z[0, 6:])]))
    later = network(parameters, z, context_of(training=False))
    torch.testing.assert_close(later[0], plain.eval()(z[0]))


def test_a_users_randomness_is_a_function_of_seed_purpose_and_step(
    write: Write, context_of: Callable[..., Context]
) -> None:
    network = pair_of(write(GOOD)).discriminator
    initial = [network.init(Draws([seed]), purpose)["2.weight"] for seed in (0, 1) for purpose in ("a", "b")]
    assert len(set(map(tuple, torch.cat(initial).flatten(1).tolist()))) == 4
    assert network.init(Draws([0]), "a")["2.weight"].equal(initial[0])
    parameters, x = network.init(Draws([0]), "a"), torch.ones(1, 6, *SHAPE)
    state = torch.random.get_rng_state()
    once, again, other = (network(parameters, x, context_of((seed,))) for seed in (0, 0, 1))
    assert once.equal(again) and not once.equal(other)
    assert torch.random.get_rng_state().equal(state)


def test_a_users_pair_trains(write: Write, gan_of: Callable[..., Gan], train_for: Callable[[Gan, int], State]) -> None:
    settings = {"model": write(GOOD), "generator": {}, "discriminator": {}, "ema": 0.9}
    state = train_for(gan_of(settings, precision="float32"), 3)
    initial = gan_of(settings, precision="float32").init()
    for role in ("generator", "discriminator"):
        assert [name for name, tensor in state[role].items() if tensor.equal(initial[role][name])] == []
    assert state["ema"]["1.num_batches_tracked"].tolist() == [6]


def distance(found: dict[str, Tensor], expected: dict[str, Tensor], member: int) -> float:
    """||difference|| / ||parameters|| between a member of a stack and the one of a stack of one."""
    pairs = [(found[name][member].double(), expected[name][0].double()) for name in expected]
    one, other = (torch.cat([tensor.detach().flatten() for tensor in tensors]) for tensors in zip(*pairs, strict=True))
    return float((one - other).norm() / other.norm())


@pytest.mark.parametrize("settings", STACKABLE)
def test_a_packed_stack_of_a_users_pair_trains_as_its_members_alone(
    settings: str, write: Write, gan_of: Callable[..., Gan], train_for: Callable[[Gan, int], State]
) -> None:
    shared = OWN | {"model": write(PAIR.format(**PLAIN | STACKABLE[settings]))}
    members = [shared, shared | {"seed": 1, "loss": "minimax"}, shared | {"seed": 2, "optimizer": SLOWER}]
    together = train_for(gan_of(*members), 20)
    for number, member in enumerate(members):
        alone = train_for(gan_of(member), 20)
        assert all(distance(together[part], alone[part], number) < 1e-9 for part in ("generator", "discriminator"))
        assert distance(together["ema"], alone["ema"], number) < 1e-9


@pytest.mark.parametrize("settings", STACKABLE)
def test_replacing_a_member_changes_no_bit_of_the_others(
    settings: str, write: Write, gan_of: Callable[..., Gan], train_for: Callable[[Gan, int], State]
) -> None:
    shared = OWN | {"model": write(PAIR.format(**PLAIN | STACKABLE[settings]))}
    others = ({"seed": 1}, {"seed": 7, "optimizer": SLOWER | {"lr": 1e30}})
    one, other = (
        train_for(gan_of(shared, shared | changed, shared | {"seed": 2}, precision="float32"), 5) for changed in others
    )
    same = {
        member: [one[part][name][member].equal(other[part][name][member]) for part in one for name in one[part]]
        for member in range(3)
    }
    assert all(same[0]) and all(same[2]) and not all(same[1])


@pytest.mark.parametrize("settings", STACKABLE)
def test_a_users_pair_starts_and_samples_in_a_stack_as_alone(
    settings: str, write: Write, gan_of: Callable[..., Gan]
) -> None:
    shared = OWN | {"model": write(PAIR.format(**PLAIN | STACKABLE[settings]))}
    stack, alone = gan_of(shared | {"seed": 1}, shared), gan_of(shared)
    state, single = stack.init(), alone.init()
    for part in single:
        assert all(state[part][name][1:].equal(tensor) for name, tensor in single[part].items())
    torch.testing.assert_close(stack.sample(state, 5)[1:], alone.sample(single, 5))


@pytest.mark.parametrize("settings", STACKABLE)
def test_modules_that_compute_the_same_in_a_stack_share_one(settings: str, write: Write) -> None:
    found = experiment(write(PAIR.format(**PLAIN | STACKABLE[settings])))
    assert family(found.model).stackable(found, (1, 8, 8))


@pytest.mark.parametrize("extra", ALONE)
@pytest.mark.parametrize("place", ["generator", "discriminator"])
def test_modules_that_would_compute_something_else_in_a_stack_run_alone(extra: str, place: str, write: Write) -> None:
    within = {place: PLAIN[place].replace("10), nn.", "10), Extra(), nn."), "extra": ALONE[extra]}
    found = experiment(write(PAIR.format(**PLAIN | within)))
    states = torch.get_rng_state()
    assert not family(found.model).stackable(found, (1, 8, 8))
    assert torch.get_rng_state().equal(states)


@pytest.mark.parametrize("settings", ["plain", "batch normalisation"])
def test_what_vmap_refuses_in_reduced_precision_alone_runs_alone_there(settings: str, write: Write) -> None:
    found = experiment(write(PAIR.format(**PLAIN | STACKABLE[settings])), precision="bf16")
    # On a CPU, vmap has no batch normalisation of bf16 vectors with float32 moments.
    assert family(found.model).stackable(found, (1, 8, 8)) == (settings == "plain")


def test_many_runs_of_one_model_are_tried_once(write: Write) -> None:
    name = write(
        PAIR.format(**PLAIN) + "\nmade = []\ninner = build\ndef build(*args, **kwargs):\n"
        "    made.append(1)\n    return inner(*args, **kwargs)\n"
    )
    for seed in range(20):
        found = experiment(name, seed=seed)
        build(found, ImageStatistics((1, 8, 8), torch.zeros(1, 8, 8)))
        assert family(name).stackable(found, (1, 8, 8))
    assert len(importlib.import_module("user_model").made) < 20


def test_a_buffer_that_a_module_replaces_keeps_its_new_value(write: Write, context_of: Callable[..., Context]) -> None:
    network = pair_of(write(PAIR.format(**PLAIN | STACKABLE["replaced buffer"]))).generator
    parameters = network.init(Draws([3]), "init")
    plain: nn.Module = importlib.import_module("user_model").build(5, SHAPE, {}, {})[0]
    plain.load_state_dict({name: tensor[0].clone() for name, tensor in parameters.items()})
    z = torch.randn(1, 6, 5, generator=torch.Generator().manual_seed(0))
    for _ in range(2):
        torch.testing.assert_close(network(parameters, z, context_of())[0], plain(z[0]))
    torch.testing.assert_close(parameters["2.mean"][0], plain.get_buffer("2.mean"))


def test_the_source_files_hash_is_part_of_the_run_id(write: Write) -> None:
    found = experiment(write(GOOD))
    assert found.model_hash == hashlib.sha256(GOOD.encode()).hexdigest()
    assert found.run_id != experiment("mlp").run_id


@pytest.mark.parametrize(("source", "message"), BAD.items())
def test_a_bad_model_gives_one_message(source: str, message: str, write: Write) -> None:
    name = write(source)
    with pytest.raises(InputError) as error:
        pair_of(name)
    assert "'user_model:build'" in str(error.value) and message in str(error.value)


def test_its_columns_are_not_held_since_nobody_knows_where_they_run(write: Write) -> None:
    with pytest.raises(InputError, match=r"discriminator\.max_column_norm is for the harness's own layers"):
        experiment(write(GOOD), discriminator={"max_column_norm": 1.0})


@pytest.mark.parametrize("name", ["nowhere_to_be_found:build", ":build", "sys:exit", "pathlib:", "a b:c"])
def test_a_name_that_leads_nowhere_gives_one_message(name: str) -> None:
    with pytest.raises(InputError, match="model"):
        pair_of(name)
