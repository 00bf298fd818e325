"""What models of nothing but the images' mean and covariance share: sums over minibatches, in float64."""

from __future__ import annotations

from abc import abstractmethod

import torch
from torch import Tensor

from baselines.baseline import Baseline
from harness.training.feed import Batch
from harness.training.loop import State


class OfMoments(Baseline):
    """A stack of models that are functions of the mean and the covariance of all images seen, fitted at the end.

    History: the images' variance so far, summed over an image's numbers.
    """

    columns = ("variance",)
    parts = ("model", "moments")

    @abstractmethod
    def fitted(self, mean: Tensor, covariance: Tensor) -> dict[str, Tensor]:
        """The model of a mean (m, width) and a covariance (m, width, width), all float64."""

    def init(self) -> State:
        """Sums of nothing, and the model of the mean image without variance."""
        sums = self.mean_vector().new_zeros(self.members, self.task.width, dtype=torch.float64)
        moments = {"images": sums[:, 0].clone(), "sums": sums, "products": sums.new_zeros(*sums.shape, sums.shape[1])}
        return {"model": self._model(moments), "moments": moments}

    @torch.no_grad()
    def step(self, state: State, batch: Batch, iteration: int) -> Tensor:
        """Add the minibatch to the sums; the last one completes the model."""
        moments = state["moments"]
        # Less the mean image, so that next to nothing cancels.
        rows = self.vectors(batch).double() - self.mean_vector().double()[:, None]
        moments["images"] += self.task.batch_size
        moments["sums"] += self.processes.total(rows.sum(1))
        moments["products"] += self.processes.total(rows.mT @ rows)
        if iteration + 1 == self.task.iterations:
            for name, tensor in self._model(moments).items():
                state["model"][name].copy_(tensor)
        squares = moments["products"].diagonal(dim1=1, dim2=2) - moments["sums"].square() / moments["images"][:, None]
        variance = squares.sum(1) / (moments["images"] - 1).clamp(min=1)
        return variance[None].to(self.processes.dtype)

    def sampler(self, state: State) -> State:
        """The model of the images up to now."""
        if state["model"]["images"].equal(state["moments"]["images"]):
            return super().sampler(state)
        return {"model": self._model(state["moments"])}

    def _model(self, moments: dict[str, Tensor]) -> dict[str, Tensor]:
        """What samples need, and of how many images it is the model."""
        images = moments["images"][:, None]
        means = moments["sums"] / images.clamp(min=1)
        covariance = moments["products"] - images[..., None] * means[..., None] * means[:, None]
        fitted = self.fitted(self.mean_vector().double() + means, covariance / (images[..., None] - 1).clamp(min=1))
        model = {name: tensor.to(self.processes.dtype) for name, tensor in fitted.items()}
        return model | {"images": moments["images"].clone()}


def eigh(covariance: Tensor) -> tuple[Tensor, Tensor]:
    """Eigenvalues (m, width), ascending, and eigenvectors; what rounding may have made of zero is zero."""
    values, vectors = torch.linalg.eigh(covariance)
    least = values.shape[1] * torch.finfo(values.dtype).eps * values[:, -1:]
    return torch.where(values > least, values, 0.0), vectors
