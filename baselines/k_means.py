"""`k-means`: centroids of the training images in the place of samples.

No generative model, but ahead of real images under Parzen windows: Theis, van den Oord and Bethge, A note on the
evaluation of generative models (2016), section 3.3. Trained as Lloyd does (Least squares quantization in PCM, 1982),
minibatch by minibatch: the first images start the clusters, and centroids move when an epoch ends.
"""

from __future__ import annotations

import itertools
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from baselines.baseline import Baseline, Task
from harness.errors import InputError
from harness.experiment import Settings
from harness.training.feed import Batch
from harness.training.loop import State

_DISTANCES = 2**24  # held at a time


class KMeansSettings(Settings):
    """Which centroids there are, and how samples come from them."""

    clusters: Annotated[int, Field(ge=1)] = 1000
    weighted: bool = True
    """Whether a centroid is drawn as often as images belong to it; else all come in turn, equally often."""


class KMeans(Baseline):
    """A stack of sets of centroids.

    An epoch that the iterations do not complete moves nothing, unless it is the first. A cluster without images stays
    where it is.
    History: the mean squared distance of the minibatch's images to their centroids, summed over an image's numbers;
    images that start a cluster are at none.
    """

    settings_class = KMeansSettings
    columns = ("squared_distance",)
    parts = ("model", "sums")

    def __init__(self, settings: KMeansSettings, task: Task) -> None:
        super().__init__(settings, task)
        self.settings = settings
        if settings.clusters > task.iterations * task.batch_size:
            raise InputError(
                f"clusters = {settings.clusters}: {task.iterations} iterations of {task.batch_size} images bring "
                "fewer; take more iterations, or fewer clusters."
            )

    def init(self) -> State:
        """The mean image in every centroid's place, and clusters without images.

        Errors: InputError where there are more clusters than training images.
        """
        clusters = self.settings.clusters
        if clusters > self.task.training_images:
            raise InputError(
                f"clusters = {clusters}: there are {self.task.training_images} training images; take less."
            )
        centroids = self.mean_vector()[:, None].repeat(1, clusters, 1)
        images = torch.zeros_like(centroids, dtype=torch.float64)
        counts = images.new_zeros(self.members, clusters)
        return {
            "model": {"centroids": centroids, "counts": counts.clone()},
            "sums": {"images": images, "counts": counts},
        }

    @torch.no_grad()
    def step(self, state: State, batch: Batch, iteration: int) -> Tensor:
        """Let the minibatch's images start clusters or join them, and move the centroids where an epoch ends."""
        clusters, size, epoch = self.settings.clusters, self.task.batch_size, self.task.training_images
        rows = self.processes.gather(self.vectors(batch))
        begin, end = iteration * size, (iteration + 1) * size
        ends = range((begin // epoch + 1) * epoch, end, epoch)
        cuts = sorted({begin, end, *ends, *([clusters] if begin < clusters < end else [])})
        distance = rows.new_zeros(self.members)
        for start, stop in itertools.pairwise(cuts):
            part = rows[:, start - begin : stop - begin]
            if start < clusters:
                _found(state, part, start, stop)
            else:
                distance += self._join(state, part)
            if stop % epoch == 0:
                _move(state)
        if iteration + 1 == self.task.iterations and end < epoch:
            _move(state)
        return distance[None] / size

    @torch.no_grad()
    def sample(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """Centroids, drawn by their clusters' shares or in turn."""
        centroids, counts = state["model"]["centroids"], state["model"]["counts"]
        if self.settings.weighted:
            uniform = self.draws.whole(offset=first).uniform(f"{purpose}/cluster", 0, n, 1)[..., 0]
            bounds = counts.cumsum(1)
            places = torch.searchsorted(bounds, uniform.double() * bounds[:, -1:], right=True)
            places = places.clamp(max=centroids.shape[1] - 1)  # where no cluster has images yet
        else:
            places = torch.arange(first, first + n, device=counts.device) % centroids.shape[1]
            places = places.expand(self.members, -1)
        # Rounding may leave a mean of ones above 1.
        return self.images(_chosen(centroids, places).clamp(0, 1))

    def _join(self, state: State, rows: Tensor) -> Tensor:
        """Count rows (m, n, width), the same on all processes, to the nearest centroids.

        The sums of their squared distances: (m,).
        """
        centroids = state["model"]["centroids"]
        rank, count = self.processes.rank, self.processes.count
        places = torch.zeros(rows.shape[:2], dtype=torch.int64, device=rows.device)
        places[:, rank::count] = nearest(rows[:, rank::count], centroids)  # each process looks for its share
        places = self.processes.total(places)
        members = torch.arange(self.members, device=rows.device)[:, None].expand_as(places)
        # Accumulated so, and in float64, the order of addition is fixed on every device: resumed runs keep their bits.
        state["sums"]["images"].index_put_((members, places), rows.double(), accumulate=True)
        state["sums"]["counts"].index_put_((members, places), rows.new_ones((), dtype=torch.float64), accumulate=True)
        return (rows - _chosen(centroids, places)).square().sum((1, 2))


def nearest(rows: Tensor, centroids: Tensor) -> Tensor:
    """The nearest of the centroids (m, clusters, width) to each of the rows (m, n, width): int64 (m, n)."""
    lengths = centroids.square().sum(2)[:, None]
    blocks = torch.split(rows, max(1, _DISTANCES // lengths.numel()), 1)
    return torch.cat([torch.baddbmm(lengths, block, centroids.mT, alpha=-2).argmin(2) for block in blocks], 1)


def _chosen(centroids: Tensor, places: Tensor) -> Tensor:
    """Centroids (m, n, width) by place (m, n)."""
    return centroids.gather(1, places[..., None].expand(-1, -1, centroids.shape[2]))


def _found(state: State, rows: Tensor, start: int, stop: int) -> None:
    """Let rows (m, n, width) start clusters start..stop-1, each its first image."""
    state["model"]["centroids"][:, start:stop] = rows
    state["sums"]["images"][:, start:stop] = rows.double()
    for part in ("model", "sums"):
        state[part]["counts"][:, start:stop] = 1


def _move(state: State) -> None:
    """Put centroids to the means of their clusters, and begin anew to count."""
    model, sums = state["model"], state["sums"]
    means = (sums["images"] / sums["counts"][..., None]).to(model["centroids"].dtype)
    model["centroids"].copy_(torch.where(sums["counts"][..., None] > 0, means, model["centroids"]))
    model["counts"].copy_(sums["counts"])
    for total in sums.values():
        total.zero_()
