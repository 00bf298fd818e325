"""Algorithm 1 of "Generative Adversarial Nets" (Goodfellow et al. 2014) on a stack of members.

Names are the paper's: m noise samples z, data x, scores a with D = sigmoid(a), k discriminator updates for each
generator update. Every tensor carries the members axis first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.training.game import Game, State

Row = Tensor
COLUMNS = ("discriminator_loss", "generator_loss", "d_real", "d_fake")


def alternating(game: Game, state: State, batches: Sequence[Tensor], iteration: int) -> Row:
    """k updates of D, each on fresh noise and data, then one of G on fresh noise."""
    for j, x in enumerate(batches):
        update = iteration * game.k + j
        with torch.no_grad():
            fake = game.generate(state, game.latents("discriminator", update), "discriminator", update)
        a_real, a_fake = game.scores(state, (x, fake), "discriminator", update)
        loss_d = game.loss.discriminator(a_real, a_fake)
        game.descend("discriminator", loss_d * game.discriminator_loss_weight, state, update, iteration)

    fake = game.generate(state, game.latents("generator", iteration), "generator", iteration)
    (a,) = game.scores(state, (fake,), "generator", iteration)
    loss_g = game.loss.generator(a)
    game.descend("generator", loss_g, state, iteration, iteration)
    return row(loss_d, loss_g, a_real, a_fake)


def simultaneous(game: Game, state: State, batches: Sequence[Tensor], iteration: int) -> Row:
    """One update of D and one of G, from one minibatch and one forward pass: what the authors' code did (k = 1)."""
    (x,) = batches
    fake = game.generate(state, game.latents("both", iteration), "both", iteration)
    (a_real,) = game.scores(state, (x,), "both/real", iteration)
    (a_fake,) = game.scores(state, (fake,), "both/fake", iteration)
    loss_d = game.loss.discriminator(a_real, a_fake)
    loss_g = game.loss.generator(a_fake)
    slopes_d = game.gradients("discriminator", loss_d * game.discriminator_loss_weight, state, keep_graph=True)
    slopes_g = game.gradients("generator", loss_g, state)
    game.update("discriminator", slopes_d, state, iteration, iteration)
    game.update("generator", slopes_g, state, iteration, iteration)
    return row(loss_d, loss_g, a_real, a_fake)


@torch.no_grad()
def row(loss_d: Tensor, loss_g: Tensor, a_real: Tensor, a_fake: Tensor) -> Row:
    """One line of history, (columns, m): the losses, and D(x) and D(G(z)) averaged over the last minibatch."""
    return torch.stack([loss_d, loss_g, a_real.sigmoid().mean(-1), a_fake.sigmoid().mean(-1)])


ALGORITHMS = {"alternating": alternating, "simultaneous": simultaneous}
