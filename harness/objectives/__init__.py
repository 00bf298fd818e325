"""What the players minimise: losses, functions of scores, and penalties on the discriminator's slope."""

from harness.objectives.losses import Loss
from harness.objectives.penalties import Penalty

__all__ = ["Loss", "Penalty"]
