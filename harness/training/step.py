"""Algorithm 1 of "Generative Adversarial Nets" (Goodfellow et al. 2014) on a stack of members.

Names are the paper's: m noise samples z, data x, scores a with D = sigmoid(a), k discriminator updates for each
generator update. Every tensor carries the members axis first.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from harness.training.feed import Batch
from harness.training.game import Game, State

Row = Tensor


def alternating(game: Game, state: State, batches: Sequence[Batch], iteration: int) -> Row:
    """k updates of D, each on fresh noise and data, then one of G on fresh noise.

    Where there are conditions, fake images are of the classes of the data beside them.
    """
    objective = game.objective
    for update, batch in enumerate(batches, start=game.inner_loop.before(iteration)):
        x, y = batch.images, batch.labels
        with torch.no_grad():
            fake = game.generate(state, game.latents("discriminator", update), y, "discriminator", update)
            x, fake = game.seen((x, fake), "discriminator", update, iteration)
        a_real, a_fake = game.scores(state, (x, fake), y, "discriminator", update)
        loss_d = objective.discriminator(a_real, a_fake, state["objective"])
        charge = game.charge(state, x, fake, y, update)
        game.descend("discriminator", objective.weighted(loss_d, charge), state, update, iteration)
        objective.settle(a_real, a_fake, state["objective"])

    fake = game.generate(state, game.latents("generator", iteration), y, "generator", iteration)
    (fake,) = game.seen((fake,), "generator", iteration, iteration)
    (a,) = game.scores(state, (fake,), y, "generator", iteration)
    loss_g = objective.loss.generator(_anchor(game, state, x, y, iteration), a)
    game.descend("generator", loss_g, state, iteration, iteration)
    return objective.row(loss_d, loss_g, a_real, a_fake, charge, state["objective"])


def _anchor(game: Game, state: State, x: Tensor, y: Tensor | None, iteration: int) -> Tensor | None:
    """Scores of the last data, for a generator whose loss compares with them.

    They have a pass of their own that leaves no trace, so that members of the stack whose loss does not compare keep
    their bits.
    """
    if not game.objective.loss.relative:
        return None
    discriminator = state["discriminator"]
    buffers = {name: discriminator[name].clone() for name in game.pair.discriminator.buffers}
    with torch.no_grad():
        (a_real,) = game.scores({"discriminator": discriminator | buffers}, (x,), y, "generator/real", iteration)
    return a_real


def simultaneous(game: Game, state: State, batches: Sequence[Batch], iteration: int) -> Row:
    """One update of D and one of G, from one minibatch and one forward pass: what the authors' code did (k = 1)."""
    objective = game.objective
    (batch,) = batches
    x, y = batch.images, batch.labels
    fake = game.generate(state, game.latents("both", iteration), y, "both", iteration)
    x, fake = game.seen((x, fake), "both", iteration, iteration)
    (a_real,) = game.scores(state, (x,), y, "both/real", iteration)
    (a_fake,) = game.scores(state, (fake,), y, "both/fake", iteration)
    loss_d = objective.discriminator(a_real, a_fake, state["objective"])
    loss_g = objective.loss.generator(a_real.detach(), a_fake)
    slopes_d = game.gradients("discriminator", objective.weighted(loss_d, None), state, keep_graph=True)
    slopes_g = game.gradients("generator", loss_g, state)
    game.update("discriminator", slopes_d, state, iteration, iteration)
    game.update("generator", slopes_g, state, iteration, iteration)
    objective.settle(a_real, a_fake, state["objective"])
    return objective.row(loss_d, loss_g, a_real, a_fake, None, state["objective"])


ALGORITHMS = {"alternating": alternating, "simultaneous": simultaneous}
