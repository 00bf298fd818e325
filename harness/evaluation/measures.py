"""Every metric by its name: which arrays it takes, and the keys that say all that decides its numbers."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import cached_property, partial
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from harness.errors import InputError, UnknownName
from harness.evaluation.references import NEIGHBOURS, References
from harness.images import ImageSet, unit
from harness.images.toys import MIXTURES
from harness.metrics import bound, classes, features, frechet, kernel, modes, neighbours, transport
from harness.metrics import inception_score as isc
from harness.metrics import memorisation as copying
from harness.metrics import parzen as parzen_window
from harness.metrics.estimate import Estimate
from harness.metrics.features import Features
from harness.sampling import Sampler

Images = NDArray[np.float32]
BatchNorm = Literal["running", "unknown"]
"""Our samplers use running moments, and images of a data set stand beside their samples; others' mode is unknown."""
Records = dict[str, dict[str, Any]]
"""A metric's keys and what was measured under each: value, standard_error, error, ..."""

_PRECISION_NEIGHBOURS, _COVERAGE_NEIGHBOURS = NEIGHBOURS
_EXACT_POINTS = 2000  # the assignment of more takes minutes
BOUND_DRAWS = 50
"""Importance-weighted draws an image: as many as Burda et al. 2016 train with at most. More are tighter, and slower."""


class Subject:
    """Members' samples beside what they are compared with; what several metrics need is computed once.

    samples: (m, n, c, h, w), float32 in [0, 1] or uint8. A member's numbers do not depend on the others.
    batch_norm: the mode of the generator's batch normalisation that keys state.
    labels: the classes that samples were made for, (m, n), where there are conditions.
    models: what made the samples, the first of their endless lists; None: they come from elsewhere.
    """

    def __init__(
        self,
        samples: NDArray[Any],
        references: References,
        batch_norm: BatchNorm = "running",
        labels: NDArray[np.int64] | None = None,
        models: Sampler | None = None,
    ) -> None:
        self.samples = samples
        self.references = references
        self.batch_norm = batch_norm
        self.labels = labels
        self._models = models

    @property
    def alone(self) -> list[Subject]:
        """Each member as a subject of its own."""
        labels = [None] * len(self.samples) if self.labels is None else [own[None] for own in self.labels]
        models = [None] * len(self.samples) if self._models is None else self._models.alone
        return [
            Subject(own[None], self.references, self.batch_norm, of_member, model)
            for own, of_member, model in zip(self.samples, labels, models, strict=True)
        ]

    @property
    def n(self) -> int:
        """Samples of a member."""
        return int(self.samples.shape[1])

    def against(self, references: References) -> Subject:
        """The same samples beside other images of the same data set, under the same extractor."""
        other = copy.copy(self)  # with the features, if they are computed
        other.references = references
        other.__dict__.pop("neighbourhoods", None)
        return other

    @property
    def models(self) -> Sampler:
        """What made the samples.

        Errors: InputError where they come from elsewhere.
        """
        if self._models is None:
            raise InputError("samples from elsewhere come without their model.")
        return self._models

    @cached_property
    def quantised(self) -> NDArray[np.uint8]:
        """The samples as uint8.

        Errors: InputError for NaN and infinities.
        """
        self._check_finite()
        return features.quantised(self.samples)

    @cached_property
    def points(self) -> NDArray[Any]:
        """Samples as points (m, n, d): pixels in [0, 1], or a toy's original units."""
        return self._as_points(self.samples)

    @cached_property
    def drawn_points(self) -> NDArray[Any]:
        """Binary draws with the samples as their pixels' means, as points (m, n, d) of zeros and ones.

        Errors: InputError where samples are no such means, or hold NaN or infinities.
        """
        if self.references.data.affine is not None:
            raise InputError(f"{self.references.data.name} holds points, of which there are no binary draws.")
        self._check_finite()
        return self._as_points(self.models.drawn(unit(self.samples)))

    @cached_property
    def features(self) -> Features:
        """Features (m, n, d) and class scores (m, n, classes)."""
        return self.references.extract(self.quantised)

    @cached_property
    def logits(self) -> Tensor:
        """Class scores (m, n, classes).

        Errors: InputError where the extractor has none.
        """
        if self.features.logits is None:
            raise InputError(f"extractor {self.references.extractor.name} gives no class scores; take another.")
        return self.features.logits

    @cached_property
    def neighbourhoods(self) -> list[neighbours.Neighbourhoods]:
        """Each member's precision, recall, density, coverage: as many samples as reference images."""
        manifold = self.references.manifold(self.matched)
        return [neighbours.neighbourhoods(own[: self.matched], manifold) for own in self.features.features]

    @property
    def matched(self) -> int:
        """The largest number that samples and reference images can both give."""
        return min(self.n, len(self.references.split))

    def _check_finite(self) -> None:
        if self.samples.dtype != np.uint8 and not np.isfinite(self.samples).all():
            raise InputError("samples hold NaN or infinities; there is nothing to measure.")

    def _as_points(self, images: NDArray[Any]) -> NDArray[Any]:
        data = self.references.data
        return points(unit(images).reshape(-1, *data.shape), data).reshape(*images.shape[:2], -1)

    def key(self, metric: str, *parts: str, n: int | None = None, split: str | None = None) -> str:
        """The key of a metric of features: extractor, split, n, resize, batch norm, and what else decides it."""
        network = self.references.extractor
        split = self.references.recipe.reference if split is None else split
        stated = (network.name, split, f"n={n or self.n}", *parts, f"resize={network.resize}", f"bn={self.batch_norm}")
        return f"{metric}[{','.join(part for part in stated if part)}]"


def points(images: Images, data: ImageSet) -> NDArray[Any]:
    """Images (n, c, h, w) as points (n, d): pixels in [0, 1], or a toy's original units."""
    return images.reshape(len(images), -1) if data.affine is None else data.affine.original(images)


def reference_points(references: References, split: str, first: int | None = None) -> NDArray[Any]:
    """The first images of a split, or all, as points (n, d)."""
    chosen = getattr(references.data, split)
    count = len(chosen) if first is None else min(first, len(chosen))
    return points(unit(chosen.images[np.arange(count)]), references.data)


def parzen(subject: Subject) -> list[Records]:
    """The Parzen-window log-likelihood of held-out images in nats, at the grid's sigma and at the refined one.

    The test images whatever the reference, as published; the validation images when choosing among snapshots.
    """
    return _parzen("parzen", subject, subject.points)


def parzen_draws(subject: Subject) -> list[Records]:
    """The same of binary draws, where samples are means: smooth means score higher than what a model draws."""
    return _parzen("parzen-draws", subject, subject.drawn_points, "output=draws")


def _parzen(metric: str, subject: Subject, centres: NDArray[Any], *stated: str) -> list[Records]:
    """Records of centres (m, n, d); what they are is `stated` in the keys where they are not the samples."""
    references = subject.references
    split = references.held_out
    results = parzen_window.parzen_of_members(
        centres,
        reference_points(references, "validation", parzen_window.VALIDATION_POINTS),
        reference_points(references, split),
        device=references.processes.device,
        processes=references.shares,
    )
    return [
        {
            f"{metric}[{','.join([split, f'n={result.centres}', *stated, f'sigma={name}'])}]": asdict(
                getattr(result, name)
            )
            | {count: getattr(result, count) for count in ("centres", "validation", "test", "dimension")}
            for name in ("grid", "refined")
        }
        for result in results
    ]


def iwae_bound(subject: Subject) -> list[Records]:
    """A lower bound on the log-likelihood of held-out images in nats, of methods that have one.

    Of the test images whatever the reference, as `parzen`, with which it shares no scale: it is of binary pixels, whose
    probabilities the images' grey levels are.
    """
    references = subject.references
    split = references.held_out
    images = getattr(references.data, split).images
    bounds = subject.models.bounds(images, BOUND_DRAWS, processes=references.shares)
    stated = {"importance_samples": BOUND_DRAWS, "images": len(images), "of": "binary draws of the images"}
    return [{f"iwae-bound[{split},k={BOUND_DRAWS}]": asdict(bound.mean_bound(own)) | stated} for own in bounds]


def fid(subject: Subject) -> list[Records]:
    """Frechet distance of the samples' features to all of the reference's."""
    reference = subject.references.frechet
    return [
        {
            subject.key("fid"): asdict(frechet.fid(own, reference, processes=subject.references.shares))
            | {"reference_images": reference.moments.count}
        }
        for own in subject.features.features
    ]


def fid_infinity(subject: Subject) -> list[Records]:
    """The same, extrapolated to infinitely many samples."""
    reference = subject.references.frechet
    return [
        {
            subject.key("fid-infinity"): asdict(frechet.fid_infinity(own, reference))
            | {"reference_images": reference.moments.count}
        }
        for own in subject.features.features
    ]


def kid(subject: Subject) -> list[Records]:
    """Kernel distance, the mean over subsets whose size is in the key."""
    reference = subject.references.features.features
    size = kernel.subset_size_for(subject.n, len(reference))
    found = [kernel.kid(own, reference, subset_size=size) for own in subject.features.features]
    return [
        {
            subject.key("kid", f"subset={size}"): asdict(result.estimate)
            | {"subset_std": result.subset_std, "reference_images": len(reference)}
        }
        for result in found
    ]


def inception_score(subject: Subject) -> list[Records]:
    """Inception score on the extractor's classes, at 1 and at 10 splits."""
    keys = {splits: subject.key("isc", f"splits={splits}", split="") for splits in (1, 10)}
    return [
        {key: _value(partial(isc.inception_score, own, splits=splits)) for splits, key in keys.items()}
        for own in subject.logits
    ]


def _neighbourhood(name: Literal["precision", "recall", "density", "coverage"], k: int) -> Callable[..., list[Records]]:
    def measure(subject: Subject) -> list[Records]:
        key = subject.key(name, f"k={k}", n=subject.matched)
        return [
            {key: asdict(getattr(found, name)) | {"reference_images": subject.matched}}
            for found in subject.neighbourhoods
        ]

    return measure


def class_coverage(subject: Subject) -> list[Records]:
    """The classes found among the samples: the share of those reached, and the divergence of their histogram."""
    reference = subject.references.features.logits
    logits = subject.logits
    assert reference is not None  # the samples have class scores, so the reference has
    return [
        {
            subject.key("class-coverage"): _value(partial(classes.class_coverage, own, reference)),
            subject.key("class-divergence"): _value(partial(classes.class_divergence, own, reference)),
        }
        for own in logits
    ]


def class_accuracy(subject: Subject) -> list[Records]:
    """The share of a conditional model's samples that the classifier sees as the class they were made for."""
    if subject.labels is None:
        raise InputError("class-accuracy needs samples that were made for a class, and these were not; leave it out.")
    data, classes_seen = subject.references.data, subject.logits.shape[2]
    if classes_seen != data.classes:
        raise InputError(
            f"class-accuracy needs a classifier of the {data.classes} classes of {data.name}; "
            f"{subject.references.extractor.name} has {classes_seen}: fit one with `harness extractor fit`, and "
            "name it with --extractor."
        )
    key = subject.key("class-accuracy", split="")
    return [
        {key: asdict(classes.class_accuracy(own, labels))}
        for own, labels in zip(subject.logits, subject.labels, strict=True)
    ]


def memorisation(subject: Subject) -> list[Records]:
    """How near samples lie to training images, against how near held-out images do; and exact copies."""
    references = subject.references
    if references.data.affine is not None:
        raise InputError(f"memorisation compares images, and {references.data.name} holds points; leave it out.")
    distances = references.held_out_distances
    key = f"[pixels,{references.held_out},n={subject.n}]"
    found: list[Records] = []
    for own in subject.quantised:
        result = copying.memorisation(references.nearest_training(own), distances)
        medians = {"median_sample": result.median_sample, "median_held_out": result.median_held_out}
        copies = Estimate(float(result.exact_copies), None, "none: a count")
        found.append({f"memorisation{key}": asdict(result.value) | medians, f"exact-copies{key}": asdict(copies)})
    return found


def mode_coverage(subject: Subject) -> list[Records]:
    """How many modes of a toy are reached, and the share of samples within three sigma of one."""
    data = subject.references.data
    if data.name not in MIXTURES:
        raise InputError(f"mode-coverage needs a toy with known modes ({', '.join(MIXTURES)}), not {data.name}.")
    mixture = MIXTURES[data.name]
    means = np.asarray(mixture.means)
    return [
        {
            f"mode-coverage[n={subject.n}]": asdict(modes.mode_coverage(own, means, mixture.sigma))
            | {"modes": len(means)},
            f"high-quality[n={subject.n}]": asdict(modes.high_quality(own, means, mixture.sigma)),
        }
        for own in subject.points
    ]


def sliced_wasserstein(subject: Subject) -> list[Records]:
    """Wasserstein-1 distance of the points, averaged over directions."""
    references = subject.references
    reference = reference_points(references, references.recipe.reference)
    key = f"sliced-wasserstein[{_units(references.data)},{references.recipe.reference},n={subject.matched}]"
    return [{key: asdict(transport.sliced_wasserstein(own, reference))} for own in subject.points]


def wasserstein(subject: Subject) -> list[Records]:
    """Exact Wasserstein-1 distance of a few thousand points."""
    references = subject.references
    reference = reference_points(references, references.recipe.reference)
    n = min(subject.matched, _EXACT_POINTS)
    key = f"wasserstein[{_units(references.data)},{references.recipe.reference},n={n}]"
    return [{key: asdict(transport.wasserstein_1(own, reference, limit=_EXACT_POINTS))} for own in subject.points]


def _value(estimate: Callable[[], Estimate]) -> dict[str, Any]:
    """One of several values of a metric, or the reason why this one cannot be had while the others can."""
    try:
        return asdict(estimate())
    except InputError as error:
        return {"value": None, "standard_error": None, "reason": str(error)}


def _units(data: ImageSet) -> str:
    return "pixels" if data.affine is None else "points"


@dataclass(frozen=True)
class Metric:
    """A metric: its records for each member of a subject, and which values are the better ones (None: neither)."""

    measure: Callable[[Subject], list[Records]]
    better: Literal["higher", "lower"] | None
    of_features: bool = True
    """Whether it depends on the extractor."""


METRICS: dict[str, Metric] = {
    "parzen": Metric(parzen, "higher", of_features=False),
    "parzen-draws": Metric(parzen_draws, "higher", of_features=False),
    "iwae-bound": Metric(iwae_bound, "higher", of_features=False),
    "fid": Metric(fid, "lower"),
    "fid-infinity": Metric(fid_infinity, "lower"),
    "kid": Metric(kid, "lower"),
    "isc": Metric(inception_score, "higher"),
    "precision": Metric(_neighbourhood("precision", _PRECISION_NEIGHBOURS), "higher"),
    "recall": Metric(_neighbourhood("recall", _PRECISION_NEIGHBOURS), "higher"),
    "density": Metric(_neighbourhood("density", _COVERAGE_NEIGHBOURS), "higher"),
    "coverage": Metric(_neighbourhood("coverage", _COVERAGE_NEIGHBOURS), "higher"),
    "class-coverage": Metric(class_coverage, "higher"),
    "class-accuracy": Metric(class_accuracy, "higher"),
    "memorisation": Metric(memorisation, None, of_features=False),
    "mode-coverage": Metric(mode_coverage, "higher", of_features=False),
    "sliced-wasserstein": Metric(sliced_wasserstein, "lower", of_features=False),
    "wasserstein": Metric(wasserstein, "lower", of_features=False),
}


def metric(name: str) -> Metric:
    """The metric of that name.

    Errors: UnknownName.
    """
    if name not in METRICS:
        raise UnknownName("metric", name, METRICS)
    return METRICS[name]


def measured(names: tuple[str, ...], subject: Subject) -> list[Records]:
    """The records of some metrics, a member each.

    A metric that cannot be computed has a null value and its reason; the others go on.
    """
    found: list[Records] = [{} for _ in subject.samples]
    for name in names:
        for records, own in zip(found, _measured(name, subject), strict=True):
            records |= own
    return found


def _measured(name: str, subject: Subject) -> list[Records]:
    """A metric's records, a member each; where the members together are refused, each is tried alone."""
    try:
        return metric(name).measure(subject)
    except InputError as error:
        if len(subject.samples) > 1:
            return [_measured(name, own)[0] for own in subject.alone]
        key = f"{name}[{subject.references.recipe.reference},n={subject.n}]"
        return [{key: {"value": None, "standard_error": None, "reason": str(error)}}]


def asked(names: tuple[str, ...], n: int, references: References) -> dict[str, str]:
    """What is asked for under each metric's name, in words that differ where the numbers may."""
    recipe = references.recipe.reference
    return {
        name: f"n={n} {recipe}" + (f" {references.search.name}" if metric(name).of_features else "") for name in names
    }
