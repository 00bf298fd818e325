"""A user's own pair of plain torch modules: `model = "my_model:build"`.

`build(latent_size, image_shape, generator, discriminator)` gives (generator, discriminator), two `torch.nn.Module`s:
latents (n, latent size) to images (n, c, h, w) in [0, 1], and images to logits (n,) or (n, 1). The last two arguments
are the grid's `generator` and `discriminator` tables. `my_model.py` lies beside the grid file or on PYTHONPATH.

Several members train as one stack through torch.func where a trial shows that each computes what it does alone.
"""

from __future__ import annotations

import json
import math
import random
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, vmap

from harness import user_code
from harness.draws import Draws, purpose_word
from harness.errors import InputError
from harness.experiment import Experiment
from harness.layers import Context, Parameters
from harness.models.family import Family, Pair, StackedNetwork

Build = Callable[..., tuple[nn.Module, nn.Module]]
_TRIAL_ROWS = 8  # two batches of four


def user_family(name: str) -> Family:
    """The family behind "module:function".

    Errors: InputError where the module cannot be imported or has no such function.
    """
    build = user_code.load("model", name, what="function", fits=callable)
    digest = user_code.source_hash(name)
    recipe = partial(Recipe.of, name, digest, build)
    return Family(
        {"generator": None, "discriminator": None},
        lambda experiment, images: _pair(recipe(experiment, images.shape)),
        source_hash=digest,
        stackable=lambda experiment, shape: stackable(recipe(experiment, shape), experiment.precision),
    )


@dataclass(frozen=True)
class Recipe:
    """What a user's modules are made from. What is found out about a recipe holds for all that equal it."""

    name: str
    source_hash: str | None
    build: Build = field(compare=False)
    latent_size: int
    shape: tuple[int, int, int]
    settings: str
    """The grid's `generator` and `discriminator` tables, as JSON."""

    @classmethod
    def of(
        cls, name: str, source_hash: str | None, build: Build, experiment: Experiment, shape: tuple[int, int, int]
    ) -> Recipe:
        """The recipe of a resolved experiment's pair."""
        settings = {"generator": experiment.generator.model, "discriminator": experiment.discriminator.model}
        return cls(name, source_hash, build, experiment.latent.size, shape, json.dumps(settings))

    def modules(self) -> tuple[nn.Module, nn.Module]:
        """A new (generator, discriminator)."""
        return self.build(self.latent_size, self.shape, **json.loads(self.settings))


def _pair(recipe: Recipe) -> Pair:
    _check(recipe)
    return _networks(recipe)


def _networks(recipe: Recipe) -> Pair:
    generator, discriminator = UserNetwork(lambda: recipe.modules()[0]), UserNetwork(lambda: recipe.modules()[1])
    return Pair(generator, discriminator, capturable=False)


@cache
def _check(recipe: Recipe) -> None:
    name, shape = recipe.name, recipe.shape
    try:
        modules: Any = recipe.modules()
    except Exception as error:
        raise InputError(f"model {name!r} cannot be built: {type(error).__name__}: {error}.") from error
    if not (isinstance(modules, tuple) and len(modules) == 2 and all(isinstance(m, nn.Module) for m in modules)):
        raise InputError(f"model {name!r} must give (generator, discriminator), two torch.nn.Modules.")
    generator, discriminator = (module.eval() for module in modules)
    try:
        with torch.no_grad():
            fake = generator(torch.zeros(2, recipe.latent_size))
            score = discriminator(torch.zeros(2, *shape))
    except Exception as error:
        raise InputError(f"model {name!r} fails on a batch of two: {type(error).__name__}: {error}.") from error
    if _shape(fake) != (2, *shape):
        raise InputError(f"model {name!r}: the generator gives {_shape(fake)} for two latents, not {(2, *shape)}.")
    if _shape(score) not in ((2,), (2, 1)):
        raise InputError(f"model {name!r}: the discriminator gives {_shape(score)} for two images, not (2,).")


def _shape(output: Any) -> Any:
    return tuple(output.shape) if isinstance(output, Tensor) else f"a {type(output).__name__}"


@dataclass(frozen=True)
class UserNetwork:
    """A plain module as a function of stacked parameters: one member directly, several through torch.func.vmap.

    Its own randomness is seeded per (seed, purpose, step, rank). That of initial values works in any stack, that of a
    forward pass (dropout) in stacks of one alone: see `stackable`.
    """

    make: Callable[[], nn.Module]

    @cached_property
    def _module(self) -> nn.Module:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # parameters come from `init`; what else a module draws must not differ after resume
            return self.make()

    @cached_property
    def buffers(self) -> frozenset[str]:
        frozen = (name for name, parameter in self._module.named_parameters() if not parameter.requires_grad)
        return frozenset(name for name, _ in self._module.named_buffers()) | frozenset(frozen)

    def init(self, draws: Draws, purpose: str) -> Parameters:
        members = [self._initial(draws, seed, purpose) for seed in draws.seeds]
        return {name: torch.stack([member[name] for member in members]).contiguous() for name in members[0]}

    def _initial(self, draws: Draws, seed: int, purpose: str) -> Parameters:
        with _seeded(draws, seed, purpose, 0):
            module = self.make()
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        dtypes = {name: draws.dtype if tensor.is_floating_point() else tensor.dtype for name, tensor in state.items()}
        return {name: tensor.detach().to(draws.device, dtypes[name]) for name, tensor in state.items()}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        forward = partial(_forward, self._module.train(context.training), context.batches)
        if len(x) > 1:
            output, replaced = vmap(forward)(dict(parameters), x)
        else:  # half the time of a vmap over one member
            single = {name: tensor.squeeze(0) for name, tensor in parameters.items()}
            with _seeded(context.draws, context.draws.seeds[0], context.purpose, context.step):
                output, replaced = forward(single, x.squeeze(0))
            output = output.unsqueeze(0)
        with torch.no_grad():
            for name, tensor in replaced.items():
                parameters[name].copy_(tensor)
        return output


def _forward(module: nn.Module, batches: int, tensors: Parameters, x: Tensor) -> tuple[Tensor, Parameters]:
    """One member's output for x (n, ...), and the buffers that the module replaced instead of writing into them."""
    given = dict(tensors)
    # One call a batch, so that a module's batch normalisation sees real and fake images apart.
    output = torch.cat([functional_call(module, tensors, (batch,)) for batch in x.chunk(batches)])
    replaced = {name: tensor for name, tensor in tensors.items() if tensor is not given[name]}
    return output.squeeze(1) if output.ndim == 2 else output, replaced


@contextmanager
def _seeded(draws: Draws, seed: int, purpose: str, step: int) -> Iterator[None]:
    on_cuda = draws.device.type == "cuda"
    with torch.random.fork_rng(devices=[draws.device] if on_cuda else []):
        word = purpose_word(f"{seed}/{purpose}/{step}/{draws.rank}")
        # torch.manual_seed would note the seed, with a stack trace, for each kind of device that is not in use:
        # more time than a small network's step, and memory that grows with every one.
        torch.default_generator.manual_seed(word)
        if on_cuda:
            torch.cuda.manual_seed_all(word)
        yield


@cache
def stackable(recipe: Recipe, precision: str) -> bool:
    """Whether a stack of two of the recipe's pairs computes what each computes alone, and draws no random numbers.

    Found by trial, on the CPU. False for modules with randomness of their own, whose numbers would depend on their
    neighbours, and for those that vmap refuses (a branch on a tensor's value, .item()) or runs in a slow loop.
    """
    pair = _networks(recipe)
    draws = Draws((0, 1), dtype=torch.float64 if precision == "float64" else torch.float32)
    z = draws.normal("trial", 0, _TRIAL_ROWS, recipe.latent_size)
    x = draws.uniform("trial", 0, _TRIAL_ROWS, math.prod(recipe.shape)).view(2, -1, *recipe.shape)
    reduced = precision == "bf16"
    return _stacks(pair.generator, z, reduced=reduced) and _stacks(pair.discriminator, x, reduced=reduced)


def _stacks(network: StackedNetwork, x: Tensor, *, reduced: bool) -> bool:
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")
        warnings.filterwarnings("error", "There is a performance drop because we have not yet implemented the batching")
        try:
            generators = _random_states()
            together = _trial(network, (0, 1), x)
            if _random_states() != generators:
                return False
            if reduced:
                with torch.autocast("cpu", torch.bfloat16):
                    _trial(network, (0, 1), x)  # too coarse to be compared, but vmap must not refuse it
            alone = zip(_trial(network, (0,), x[:1]), _trial(network, (1,), x[1:]), strict=True)
        except Exception:  # whatever a user's module raises; if it does so alone too, its own run will say it
            return False
    pairs = zip(together, map(torch.cat, alone), strict=True)
    # Far above rounding, so that the answer does not hang on it; far below what another draw would change.
    return all(torch.allclose(one, other, rtol=1e-3, atol=1e-4, equal_nan=True) for one, other in pairs)


def _trial(network: StackedNetwork, seeds: tuple[int, ...], x: Tensor) -> list[Tensor]:
    """Scores or images in training and outside, gradients and buffers, (m, ...) each."""
    draws = Draws(seeds, dtype=x.dtype)
    state = network.init(draws, "trial")
    trained = [tensor.requires_grad_() for name, tensor in state.items() if name not in network.buffers]
    context = Context(draws, "trial", 0, x.shape[1] // 2, batches=2)
    output = network(state, x, context)
    # The members' gradients come from the mean over one member's values.
    loss = output.square().flatten(1).mean(1).sum()
    gradients = torch.autograd.grad(loss, trained, materialize_grads=True)
    with torch.no_grad():
        sample = network(state, x, replace(context, batches=1, training=False))
    return [output.detach(), *gradients, sample, *(state[name] for name in sorted(network.buffers))]


def _random_states() -> tuple[list[int], object, str]:
    """The states of the generators that a module may draw from: torch's, Python's and numpy's."""
    return torch.get_rng_state().tolist(), random.getstate(), str(np.random.get_state())
