"""The reference of `harness bench train`: Algorithm 1 as one would write it by hand for a single pair.

Plain modules, torch.optim, torch's own random numbers, the data on the device: nothing of the harness.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.functional import softplus


class Maxout(nn.Module):
    """The largest of `pieces` affine functions."""

    def __init__(self, inputs: int, units: int, pieces: int) -> None:
        super().__init__()
        self.linear = nn.Linear(inputs, units * pieces)
        self.pieces = pieces

    def forward(self, x: Tensor) -> Tensor:
        """(n, inputs) to (n, units)."""
        affine: Tensor = self.linear(x)
        return affine.view(len(x), self.pieces, -1).amax(1)


def perceptron(
    widths: list[int], hidden: Callable[[], nn.Module], last: nn.Module, *, norm_eps: float | None = None
) -> nn.Sequential:
    """Linear layers with an activation behind each; batch normalisation behind all hidden ones but the first."""
    layers: list[nn.Module] = []
    for number, (inputs, outputs) in enumerate(zip(widths[:-2], widths[1:-1], strict=True)):
        layers.append(nn.Linear(inputs, outputs))
        if norm_eps is not None and number > 0:
            layers.append(nn.BatchNorm1d(outputs, norm_eps))
        layers.append(hidden())
    return nn.Sequential(*layers, nn.Linear(widths[-2], widths[-1]), last)


@dataclass
class PlainLoop:
    """A pair, its data and optimizers."""

    generator: nn.Module
    discriminator: nn.Module
    optimizer_g: torch.optim.Optimizer
    optimizer_d: torch.optim.Optimizer
    images: Tensor
    batch_size: int
    latent: int
    history: list[tuple[Tensor, Tensor]] = field(default_factory=list)

    def iterations(self, count: int) -> None:
        """Train for some iterations of Algorithm 1 with k = 1."""
        for _ in range(count):
            x = self.images[torch.randint(len(self.images), (self.batch_size,), device=self.images.device)]
            with torch.no_grad():
                fake = self.generator(self._latents())
            loss_d = softplus(-self.discriminator(x)).mean() + softplus(self.discriminator(fake)).mean()
            _descend(self.optimizer_d, loss_d)

            loss_g = softplus(-self.discriminator(self.generator(self._latents()))).mean()
            _descend(self.optimizer_g, loss_g)
            self.history.append((loss_d.detach(), loss_g.detach()))

    def simultaneous_iterations(self, count: int) -> None:
        """Train for some iterations in which both players move at once, from one minibatch and one forward pass."""
        generator, discriminator = list(self.generator.parameters()), list(self.discriminator.parameters())
        for _ in range(count):
            x = self.images[torch.randint(len(self.images), (self.batch_size,), device=self.images.device)]
            a_real, a_fake = self.discriminator(x), self.discriminator(self.generator(self._latents()))
            loss_d = 0.5 * (softplus(-a_real).mean() + softplus(a_fake).mean())
            loss_g = softplus(-a_fake).mean()
            slopes_d = torch.autograd.grad(loss_d, discriminator, retain_graph=True)
            slopes_g = torch.autograd.grad(loss_g, generator)
            for parameter, slope in zip([*discriminator, *generator], [*slopes_d, *slopes_g], strict=True):
                parameter.grad = slope
            self.optimizer_d.step()
            self.optimizer_g.step()
            self.history.append((loss_d.detach(), loss_g.detach()))

    def _latents(self) -> Tensor:
        return (torch.rand(self.batch_size, self.latent, device=self.images.device) * 2 - 1) * math.sqrt(3)


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    torch.autograd.backward(loss)
    optimizer.step()


def digits_mlp(images: Tensor) -> PlainLoop:
    """The demo's `mlp` pair."""
    generator = perceptron([32, 128, 128, 64], nn.ReLU, nn.Sigmoid())
    discriminator = perceptron([64, 128, 128, 1], lambda: nn.LeakyReLU(0.2), nn.Flatten(0))
    return _with_adam(generator, discriminator, images, latent=32)


def gan_py(images: Tensor) -> PlainLoop:
    """The networks of PyTorch-GAN's gan.py."""
    generator = perceptron(
        [100, 128, 256, 512, 1024, 784],
        lambda: nn.LeakyReLU(0.2),
        nn.Tanh(),
        norm_eps=0.8,
    )
    discriminator = perceptron([784, 512, 256, 1], lambda: nn.LeakyReLU(0.2), nn.Flatten(0))
    return _with_adam(generator, discriminator, images, latent=100)


def paper_mnist(images: Tensor) -> PlainLoop:
    """The 2014 paper's MNIST pair and optimizer."""
    generator = perceptron([100, 1200, 1200, 784], nn.ReLU, nn.Sigmoid())
    discriminator = nn.Sequential(
        nn.Dropout(0.2), Maxout(784, 240, 5), nn.Dropout(0.5), Maxout(240, 240, 5), nn.Dropout(0.5),
        nn.Linear(240, 1), nn.Flatten(0),
    )  # fmt: skip
    generator, discriminator = generator.to(images.device), discriminator.to(images.device)
    optimizer_g, optimizer_d = (
        torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.5) for network in (generator, discriminator)
    )
    return PlainLoop(generator, discriminator, optimizer_g, optimizer_d, images, batch_size=100, latent=100)


def _with_adam(generator: nn.Module, discriminator: nn.Module, images: Tensor, *, latent: int) -> PlainLoop:
    generator, discriminator = generator.to(images.device), discriminator.to(images.device)
    optimizer_g, optimizer_d = (
        torch.optim.Adam(network.parameters(), 2e-4, (0.5, 0.999)) for network in (generator, discriminator)
    )
    return PlainLoop(generator, discriminator, optimizer_g, optimizer_d, images, batch_size=64, latent=latent)
