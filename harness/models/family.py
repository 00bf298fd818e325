"""What every model family offers."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

from torch import Tensor

from harness.draws import Draws
from harness.experiment import Experiment, Settings, validate
from harness.layers import Context, Function, Layer, Network, Parameters, activation, spectrally_normalised

OutputName = Literal["sigmoid", "tanh", "linear"]
"""What a generator's last values become images by: into [0, 1]; "linear": as they are, for data in other units."""


class StackedNetwork(Protocol):
    """A network as a function of its parameters: harness.layers.Network, or a user's module wrapped."""

    @property
    def buffers(self) -> frozenset[str]: ...

    def init(self, draws: Draws, purpose: str) -> Parameters: ...

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor: ...


@dataclass(frozen=True)
class ImageStatistics:
    """What a model may know of its data: the shape (c, h, w) and the mean training image (c, h, w).

    `class_shares` (classes,) is each class's part of the training images, where they have labels.
    """

    shape: tuple[int, int, int]
    mean: Tensor
    class_shares: Tensor | None = None


@dataclass(frozen=True)
class ReconstructionError:
    """An autoencoder as a discriminator: images x to scores mean |x - D(x)|, (m, n). Berthelot et al. 2017."""

    network: StackedNetwork

    @property
    def buffers(self) -> frozenset[str]:
        return self.network.buffers

    def init(self, draws: Draws, purpose: str) -> Parameters:
        return self.network.init(draws, purpose)

    def __call__(self, parameters: Mapping[str, Tensor], x: Tensor, context: Context) -> Tensor:
        return (x - self.network(parameters, x, context)).abs().flatten(2).mean(2)


def output(name: OutputName) -> Function:
    """The last layer of a generator; "tanh" is moved to [0, 1]."""
    return activation("unit_tanh" if name == "tanh" else name)


@dataclass(frozen=True)
class Pair:
    """A generator and its discriminator."""

    generator: StackedNetwork
    discriminator: StackedNetwork
    capturable: bool = True
    """Whether a pass is a fixed sequence of kernels, which a graph can replay."""
    convolutional: bool = False
    """Whether there are convolutions, which a stack can compute in several ways."""


def finished(layers: Iterable[Layer], *, spectral_norm: bool | None, autoencoder: bool | None = None) -> StackedNetwork:
    """The discriminator of these layers: spectrally normalised, and scored by its errors, where its settings say so."""
    network = Network(tuple(spectrally_normalised(layers) if spectral_norm else layers))
    return ReconstructionError(network) if autoencoder else network


@dataclass(frozen=True)
class Family:
    """A way to build pairs. `settings` maps each role to its settings class; None takes any keys."""

    settings: Mapping[str, type[Settings] | None]
    build: Callable[[Experiment, ImageStatistics], Pair]
    source_hash: str | None = None
    """sha256 of the source file, for a user's family."""
    stackable: Callable[[Experiment, tuple[int, int, int]], bool] = lambda experiment, shape: True
    """Whether several members of a resolved experiment on images of a shape (c, h, w) may share a stack."""
    stack_sizes: Mapping[str, int] = field(default_factory=lambda: {"cpu": 8, "cuda": 32})
    """How many members suit a stack, by type of device: `harness bench packed` measures it."""

    @property
    def autoencodes(self) -> bool:
        """Whether its discriminator can be an autoencoder, which gives images and whose errors are the scores."""
        settings = self.settings["discriminator"]
        return settings is not None and "autoencoder" in settings.model_fields

    def stack_size(self, device: str) -> int:
        """How many members suit a stack on a type of device."""
        return self.stack_sizes.get(device, self.stack_sizes["cpu"])


def family_of(
    generator: tuple[type[Settings], Callable[..., StackedNetwork]],
    discriminator: tuple[type[Settings], Callable[..., StackedNetwork]],
    *,
    stack_sizes: Mapping[str, int],
    convolutional: bool = False,
) -> Family:
    """The family of two networks: each player's settings class, and what builds it from settings and images.

    The generator's takes `latent`, the size of its latents, too. Building raises InputError where images do not suit.
    """
    settings = {"generator": generator[0], "discriminator": discriminator[0]}

    def build(experiment: Experiment, images: ImageStatistics) -> Pair:
        of_generator, of_discriminator = (
            validate(kind, getattr(experiment, role).model, where=role) for role, kind in settings.items()
        )
        return Pair(
            generator[1](of_generator, latent=experiment.latent.size, images=images),
            discriminator[1](of_discriminator, images=images),
            convolutional=convolutional,
        )

    return Family(settings, build, stack_sizes=stack_sizes)
