"""What samples are compared with: a data set's images under a recipe, and all that metrics derive from them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.errors import InputError
from harness.evaluation.cache import Cache, Decisions, Tensors
from harness.images import ImageSet, OnDemandImages, Split
from harness.metrics import features, frechet, memorisation, neighbours
from harness.metrics.features import Extractor, Features
from harness.metrics.points import Processes as Shares
from harness.training.processes import Processes

ReferenceSplit = Literal["test", "train", "validation"]
NEIGHBOURS = (3, 5)
"""k of precision and recall (Kynkaanniemi et al. 2019), and of density and coverage (Naeem et al. 2020)."""
_SUBSET_SEED = 0
_BLOCK = 2000  # images decoded at a time


@dataclass(frozen=True)
class Recipe:
    """What decides a metric's number besides samples and data set.

    `extractor`: a name or a file, None for what suits the data set; `weights` and `weights_sha256`: a file of its
    weights, and the hash that is expected of it; `trust_code`: whether an extractor that runs foreign code may.
    `reference`: the split that samples are compared with; "validation" is for choosing among snapshots.
    """

    reference: ReferenceSplit = "test"
    extractor: str | None = None
    weights: Path | None = None
    weights_sha256: str | None = None
    trust_code: bool = False


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
        self.folders = folders
        self._manifolds: dict[int, neighbours.Manifold] = {}

    def alone(self, processes: Processes) -> References:
        """The same, what is known already included, for one process that asks alone."""
        same = copy.copy(self)
        same.processes = processes
        same._manifolds = dict(self._manifolds)
        if "validation" in same.__dict__:
            same.__dict__["validation"] = self.validation.alone(processes)
        return same

    @cached_property
    def validation(self) -> References:
        """The validation images under the same recipe."""
        other = References(
            self.data,
            replace(self.recipe, reference="validation"),
            self.processes,
            cache=self.cache,
            folders=self.folders,
        )
        other.__dict__["_extractor"] = self._extractor
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
    def extractor(self) -> Extractor:
        """The network whose features are compared.

        Errors: InputError where it, or its weights, cannot be had.
        """
        if isinstance(self._extractor, InputError):
            raise self._extractor
        return self._extractor

    @cached_property
    def _extractor(self) -> Extractor | InputError:
        """Looked for once: a missing file may have cost an attempt to download it. What one process lacks all lack."""
        found: Extractor | InputError
        try:
            found = features.extractor(
                self.recipe.extractor or features.default_extractor(self.data),
                folders=self.folders,
                weights=self.recipe.weights,
                sha256=self.recipe.weights_sha256,
                trust_code=self.recipe.trust_code,
                device=self.processes.device,
            )
        except InputError as error:
            found = error
        if self.processes.any(isinstance(found, InputError)) and not isinstance(found, InputError):
            return InputError("a process of this job cannot have the extractor; put its weights on all machines.")
        return found

    def agree(self) -> None:
        """Look for the extractor on all processes together, before one of them asks for it alone."""
        _ = self._extractor

    @property
    def extractor_name(self) -> str:
        """The extractor's name, hash of its weights included; or what was asked for and cannot be had."""
        found = self._extractor
        if isinstance(found, InputError):
            return f"none for {self.recipe.extractor or 'default'}"
        return f"{found.name} {found.sha256}"

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
            self._manifolds[n] = neighbours.Manifold(chosen, NEIGHBOURS, found["squared_radii"])
        return self._manifolds[n]

    @cached_property
    def held_out_distances(self) -> Tensor:
        """How far held-out images (the test's, or the validation's when choosing) lie from the training images."""
        held_out = "validation" if self.recipe.reference == "validation" else "test"
        decisions = {"what": "held-out", "images": self.data.content_hash, "split": held_out}

        def compute() -> dict[str, Tensor]:
            images = getattr(self.data, held_out).images[np.arange(len(getattr(self.data, held_out)))]
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
        train = self.data.train
        blocks = np.array_split(np.arange(len(train)), max(1, len(train) // _BLOCK))
        pixels = np.concatenate([features.quantised(train.images[block]) for block in blocks])
        return torch.from_numpy(pixels).flatten(1).to(self.processes.device)

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
        found = self._extractor
        network = None if isinstance(found, InputError) else found
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
