"""A user's own pair of plain torch modules: `model = "my_model:build"`.

`build(latent_size, image_shape, generator, discriminator)` gives (generator, discriminator), two `torch.nn.Module`s:
latents (n, latent size) to images (n, c, h, w) in [0, 1], and images to logits (n,) or (n, 1). The last two arguments
are the grid's `generator` and `discriminator` tables. `my_model.py` lies beside the grid file or on PYTHONPATH.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from harness.draws import Draws, purpose_word
from harness.errors import InputError
from harness.experiment import Experiment
from harness.layers import Context, Parameters
from harness.models.family import Family, ImageStatistics, Pair

Build = Callable[..., tuple[nn.Module, nn.Module]]


def is_user_model(name: str) -> bool:
    """Whether a model's name is a user's "module:function"."""
    return ":" in name


def user_family(name: str) -> Family:
    """The family behind "module:function".

    Errors: InputError where the module cannot be imported or has no such function.
    """
    module_name, _, function_name = name.partition(":")
    try:
        module = importlib.import_module(module_name)
    except Exception as error:
        raise InputError(
            f"model {name!r}: {module_name}.py cannot be imported ({type(error).__name__}: {error}); "
            "put it into this folder, beside the grid file or on PYTHONPATH."
        ) from error
    build = getattr(module, function_name, None)
    if not callable(build) or getattr(module, "__file__", None) is None:
        raise InputError(f"model {name!r}: {module_name} has no function {function_name!r}.")
    return Family(
        {"generator": None, "discriminator": None},
        partial(_pair, name, build),
        source_hash=source_hash(name),
        stackable=False,
    )


def source_hash(name: str) -> str | None:
    """sha256 of the source file behind "module:function", found without running it; None where there is none."""
    try:
        spec = importlib.util.find_spec(name.partition(":")[0])
    except (ImportError, ValueError):
        return None
    path = Path(spec.origin) if spec and spec.origin else None
    return hashlib.sha256(path.read_bytes()).hexdigest() if path and path.is_file() else None


def _pair(name: str, build: Build, experiment: Experiment, images: ImageStatistics) -> Pair:
    def modules() -> tuple[nn.Module, nn.Module]:
        return build(
            experiment.latent.size,
            images.shape,
            generator=experiment.generator.model,
            discriminator=experiment.discriminator.model,
        )

    try:
        example = modules()
    except Exception as error:
        raise InputError(f"model {name!r} cannot be built: {type(error).__name__}: {error}.") from error
    _check(name, example, experiment.latent.size, images.shape)
    return Pair(UserNetwork(lambda: modules()[0]), UserNetwork(lambda: modules()[1]))


def _check(name: str, modules: Any, latent_size: int, shape: tuple[int, int, int]) -> None:
    if not (isinstance(modules, tuple) and len(modules) == 2 and all(isinstance(m, nn.Module) for m in modules)):
        raise InputError(f"model {name!r} must give (generator, discriminator), two torch.nn.Modules.")
    generator, discriminator = (module.eval() for module in modules)
    try:
        with torch.no_grad():
            fake = generator(torch.zeros(2, latent_size))
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
    """A plain module as a function of stacked parameters, for stacks of one.

    Its own randomness (initial values, dropout) is seeded per (seed, purpose, step, rank).
    """

    make: Callable[[], nn.Module]
    _module: nn.Module = field(init=False)

    def __post_init__(self) -> None:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)  # parameters come from `init`; what else a module draws must not differ after resume
            object.__setattr__(self, "_module", self.make())

    @property
    def buffers(self) -> frozenset[str]:
        frozen = (name for name, parameter in self._module.named_parameters() if not parameter.requires_grad)
        return frozenset(name for name, _ in self._module.named_buffers()) | frozenset(frozen)

    def init(self, draws: Draws, purpose: str) -> Parameters:
        with _seeded(draws, purpose, 0):
            module = self.make()
        state = {**dict(module.named_parameters()), **dict(module.named_buffers())}
        return {name: _cast(tensor.detach(), draws).unsqueeze(0) for name, tensor in state.items()}

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        module: nn.Module = self._module
        module.train(context.training)
        single = {name: tensor.squeeze(0) for name, tensor in parameters.items()}
        with _seeded(context.draws, context.purpose, context.step):
            # One call a batch, so that a module's batch normalisation sees real and fake images apart.
            outputs = [functional_call(module, single, (batch,)) for batch in x.squeeze(0).chunk(context.batches)]
        output = torch.cat(outputs)
        return (output.squeeze(1) if output.ndim == 2 else output).unsqueeze(0)


def _cast(tensor: Tensor, draws: Draws) -> Tensor:
    dtype = draws.dtype if tensor.is_floating_point() else tensor.dtype
    return tensor.to(device=draws.device, dtype=dtype, copy=True)


@contextmanager
def _seeded(draws: Draws, purpose: str, step: int) -> Iterator[None]:
    devices = [draws.device] if draws.device.type == "cuda" else []
    with torch.random.fork_rng(devices=devices):
        text = f"{draws.seeds[0]}/{purpose}/{step}/{draws.rank}"
        torch.manual_seed(purpose_word(text))
        yield
