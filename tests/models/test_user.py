"""A user's own pair of torch modules."""

from __future__ import annotations

import hashlib
import importlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from harness.draws import Draws
from harness.errors import InputError
from harness.experiment import Experiment, validate
from harness.layers import Context
from harness.models import ImageStatistics, Pair, build, resolved
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
SHAPE = (1, 2, 4)
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


def test_a_users_pair_trains(
    write: Write, gan_of: Callable[..., Gan], train_for: Callable[..., dict[str, dict[str, Tensor]]]
) -> None:
    settings = {"model": write(GOOD), "generator": {}, "discriminator": {}, "ema": 0.9}
    state = train_for(gan_of(settings, precision="float32"), 3)
    initial = gan_of(settings, precision="float32").init()
    for role in ("generator", "discriminator"):
        assert [name for name, tensor in state[role].items() if tensor.equal(initial[role][name])] == []
    assert state["ema"]["1.num_batches_tracked"].tolist() == [6]


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


@pytest.mark.parametrize("name", ["nowhere_to_be_found:build", ":build", "sys:exit", "pathlib:", "a b:c"])
def test_a_name_that_leads_nowhere_gives_one_message(name: str) -> None:
    with pytest.raises(InputError, match="model"):
        pair_of(name)
