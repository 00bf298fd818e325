"""`training-images`: no model but the training set itself, which bounds what a metric may be trusted with.

The first images of a member's first epoch, so different ones for each seed and none twice.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from baselines.baseline import Baseline, Task
from harness.experiment import Settings
from harness.training.feed import Batch
from harness.training.loop import State


class TrainingImagesSettings(Settings):
    """What is kept."""

    images: Annotated[int, Field(ge=1)] = 10_000
    """At most; fewer where the training set has fewer, or the iterations bring fewer."""


class TrainingImages(Baseline):
    """A stack of collections of training images.

    History: how many images are held.
    """

    settings_class = TrainingImagesSettings
    columns = ("images",)

    def __init__(self, settings: TrainingImagesSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.size = min(settings.images, task.training_images, task.iterations * task.batch_size)

    def init(self) -> State:
        """The mean image in every place. float32, which is what images are, loses nothing."""
        images = self.mean_vector().float()[:, None].repeat(1, self.size, 1)
        return {"model": {"images": images, "held": torch.zeros(self.members, dtype=torch.int64, device=images.device)}}

    @torch.no_grad()
    def step(self, state: State, batch: Batch, iteration: int) -> Tensor:
        """Keep the minibatch, as far as there is room."""
        model = state["model"]
        start = iteration * self.task.batch_size
        if start < self.size:
            images = self.processes.gather(self.vectors(batch))[:, : self.size - start]
            model["images"][:, start : start + images.shape[1]] = images.float()
            model["held"] += images.shape[1]
        return model["held"][None].to(self.processes.dtype)

    @torch.no_grad()
    def sample(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """The images in the order in which they came, again and again, whatever the purpose."""
        images, held = state["model"]["images"], state["model"]["held"]
        places = torch.arange(first, first + n, device=images.device) % held.clamp(min=1)[:, None]
        found = images.gather(1, places[..., None].expand(-1, -1, images.shape[2]))
        return self.images(found.to(self.processes.dtype))
