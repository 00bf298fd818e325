"""What samples are compared with: a data set's images under a recipe, and all that metrics derive from them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.evaluation.cache import Cache, Decisions, Tensors
from harness.evaluation.recipe import Recipe, Search
from harness.images import ImageSet, OnDemandImages, Split
from harness.metrics import features, frechet, memorisation, neighbours
from harness.metrics.features import Extractor, Features
from harness.metrics.points import Processes as Shares
from harness.training.processes import Processes

NEIGHBOURS = (3, 5)
"""k of precision and recall (Kynkaanniemi et al. 2019), and of density and coverage (Naeem et al. 2020)."""
_SUBSET_SEED = 0
_BLOCK = 2000  # images decoded at a time


def training_pixels(data: ImageSet) -> NDArray[np.uint8]:
    """All training images in grey levels: uint8 (t, c, h, w)."""
    blocks = np.array_split(np.arange(len(data.train)), max(1, len(data.train) // _BLOCK))
    return np.concatenate([features.quantised(data.train.images[block]) for block in blocks])


class References:
    """A data set under a recipe. What is derived from it is computed when first asked for, and cached on disk.

    `folders`: where weights of extractors are looked for. Where there are several processes, all must ask together.
    """

    def __init__(
        self, data: ImageSet, recipe: Recipe, processes: Processes, *, cache: Cache, folders: tuple[Path, ...] = ()
    ) -> None:
        self.data = data
        self.recipe = recipe
        self.processes = processes
        self.cache = cache
        self.search = Search(recipe, data, processes, folders)
        self._manifolds: dict[int, neighbours.Manifold] = {}

    def alone(self, processes: Processes) -> References:
        """The same, what is known already included, for one process that asks alone."""
        same = copy.copy(self)
        same.processes = processes
        same.__dict__.pop("validation", None)  # which asks together
        return same

    @cached_property
    def validation(self) -> References:
        """The validation images under the same recipe."""
        recipe = replace(self.recipe, reference="validation")
        other = References(self.data, recipe, self.processes, cache=self.cache)
        other.search = self.search
        return other

    @property
    def shares(self) -> Shares:
        """The processes as metrics see them."""
        return Shares(self.processes.rank, self.processes.count, self.processes.total)

    @property
    def split(self) -> Split:
        """The images that samples are compared with."""
        found: Split = getattr(self.data, self.recipe.reference)
        return found

    @property
    def held_out(self) -> Literal["test", "validation"]:
        """The split of images that no model has seen: the validation images when choosing, else the test's."""
        return "validation" if self.recipe.reference == "validation" else "test"

    @property
    def extractor(self) -> Extractor:
        """The network whose features are compared.

        Errors: InputError where it, or its weights, cannot be had.
        """
        return self.search.extractor

    @cached_property
    def features(self) -> Features:
        """Features and class scores of all images of the split: (n, d) float32 and (n, classes)."""

        def compute() -> dict[str, Tensor]:
            made = self.extract(self.split.images)
            return {"features": made.features} | ({} if made.logits is None else {"logits": made.logits})

        found = self._cached(self._decisions("features"), compute)
        return Features(found["features"], found.get("logits"))

    @cached_property
    def frechet(self) -> frechet.Reference:
        """The split's mean and covariance, and its root."""

        def compute() -> dict[str, Tensor]:
            made = frechet.reference(frechet.moments(self.features.features, processes=self.shares))
            return {"mean": made.moments.mean, "covariance": made.moments.covariance, "root": made.root}

        found = self._cached(self._decisions("frechet"), compute)
        moments = frechet.Moments(found["mean"], found["covariance"], len(self.split))
        return frechet.Reference(moments, found["root"])

    def manifold(self, n: int) -> neighbours.Manifold:
        """The neighbourhoods of n images of the split (all, or as many drawn without replacement)."""
        if n not in self._manifolds:
            chosen = self.features.features[torch.from_numpy(self.subset(n)).to(self.processes.device)]

            def compute() -> dict[str, Tensor]:
                return {"squared_radii": neighbours.manifold(chosen, k=NEIGHBOURS).squared_radii}

            found = self._cached(self._decisions("manifold") | {"n": n, "k": list(NEIGHBOURS)}, compute)
            made = neighbours.Manifold(chosen, NEIGHBOURS, found["squared_radii"])
            self._manifolds = {**self._manifolds, n: made}  # a new one: copies of these references keep theirs
        return self._manifolds[n]

    @cached_property
    def held_out_distances(self) -> Tensor:
        """How far held-out images (the test's, or the validation's when choosing) lie from the training images."""
        decisions = {"what": "held-out", "images": self.data.content_hash, "split": self.held_out}

        def compute() -> dict[str, Tensor]:
            split: Split = getattr(self.data, self.held_out)
            images = split.images[np.arange(len(split))]
            return {"distances": self.nearest_training(features.quantised(images))}

        return self._cached(decisions, compute)["distances"]

    def nearest_training(self, images: NDArray[np.uint8]) -> Tensor:
        """Distances of images (n, c, h, w) to the nearest training image, in grey levels: float64 (n,)."""
        rank, count = self.processes.rank, self.processes.count
        distances = torch.zeros(len(images), dtype=torch.float64, device=self.processes.device)
        own = torch.from_numpy(images[rank::count]).flatten(1).to(self.processes.device)
        if len(own):
            distances[rank::count] = memorisation.nearest(own, self._training_points)
        return self.processes.total(distances)

    @cached_property
    def _training_points(self) -> Tensor:
        return torch.from_numpy(training_pixels(self.data)).flatten(1).to(self.processes.device)

    def extract(self, images: NDArray[Any] | OnDemandImages) -> Features:
        """Features of images (..., n, c, h, w) on the device, the same bits on each process."""
        made = features.extract(self.extractor, images, processes=self.shares)
        place = self.processes.device
        return Features(made.features.to(place), None if made.logits is None else made.logits.to(place))

    def subset(self, n: int) -> NDArray[np.int64]:
        """n places in the split, without replacement, in order; all of them where n is their number."""
        if n == len(self.split):
            return np.arange(n)
        return np.sort(np.random.default_rng(_SUBSET_SEED).choice(len(self.split), n, replace=False))

    def describe(self) -> dict[str, Any]:
        """The recipe as a record keeps it."""
        network = self.search.found
        return {
            "reference": self.recipe.reference,
            "extractor": None if network is None else network.name,
            "extractor_sha256": None if network is None else network.sha256,
            "resize": None if network is None else network.resize,
        }

    def _decisions(self, what: str) -> dict[str, str | int | list[int]]:
        return {
            "what": what,
            "images": self.data.content_hash,
            "split": self.recipe.reference,
            "extractor": self.extractor.name,
            "extractor_sha256": self.extractor.sha256,
            "resize": self.extractor.resize,
        }

    def _cached(self, decisions: Decisions, compute: Callable[[], Tensors]) -> Tensors:
        """Tensors on the device, from the cache where it has them."""
        found = self.cache.tensors(decisions, compute, self.processes)
        return {name: tensor.to(self.processes.device) for name, tensor in found.items()}
