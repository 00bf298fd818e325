"""Algorithm 1 of "Generative Adversarial Nets" (Goodfellow et al. 2014) on a stack of members.

Names are the paper's: m noise samples z, data x, scores a with D = sigmoid(a), k discriminator updates for each
generator update. Every tensor carries the members axis first.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

if TYPE_CHECKING:
    from harness.training.gan import Gan, State

Row = Tensor
COLUMNS = ("discriminator_loss", "generator_loss", "d_real", "d_fake")


def alternating(gan: Gan, state: State, batches: Sequence[Tensor], iteration: int) -> Row:
    """k updates of D, each on fresh noise and data, then one of G on fresh noise."""
    for j, x in enumerate(batches):
        update = iteration * gan.k + j
        with torch.no_grad():
            fake = gan.generate(state, gan.latents("discriminator", update), "discriminator", update)
        a_real, a_fake = gan.scores(state, (x, fake), "discriminator", update)
        loss_d = gan.loss.discriminator(a_real, a_fake)
        gan.descend("discriminator", loss_d * gan.discriminator_loss_weight, state, update, iteration)

    fake = gan.generate(state, gan.latents("generator", iteration), "generator", iteration)
    (a,) = gan.scores(state, (fake,), "generator", iteration)
    loss_g = gan.loss.generator(a)
    gan.descend("generator", loss_g, state, iteration, iteration)
    return row(loss_d, loss_g, a_real, a_fake)


def simultaneous(gan: Gan, state: State, batches: Sequence[Tensor], iteration: int) -> Row:
    """One update of D and one of G, from one minibatch and one forward pass: what the authors' code did (k = 1)."""
    (x,) = batches
    fake = gan.generate(state, gan.latents("both", iteration), "both", iteration)
    (a_real,) = gan.scores(state, (x,), "both/real", iteration)
    (a_fake,) = gan.scores(state, (fake,), "both/fake", iteration)
    loss_d = gan.loss.discriminator(a_real, a_fake)
    loss_g = gan.loss.generator(a_fake)
    slopes_d = gan.gradients("discriminator", loss_d * gan.discriminator_loss_weight, state, keep_graph=True)
    slopes_g = gan.gradients("generator", loss_g, state)
    gan.update("discriminator", slopes_d, state, iteration, iteration)
    gan.update("generator", slopes_g, state, iteration, iteration)
    return row(loss_d, loss_g, a_real, a_fake)


@torch.no_grad()
def row(loss_d: Tensor, loss_g: Tensor, a_real: Tensor, a_fake: Tensor) -> Row:
    """One line of history, (columns, m): the losses, and D(x) and D(G(z)) averaged over the last minibatch."""
    return torch.stack([loss_d, loss_g, a_real.sigmoid().mean(-1), a_fake.sigmoid().mean(-1)])


ALGORITHMS = {"alternating": alternating, "simultaneous": simultaneous}
