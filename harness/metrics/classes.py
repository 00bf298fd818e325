"""Which classes a classifier sees in samples, against those of the reference images.

A class is the largest logit's, so both numbers judge the classifier too: its mistakes on the samples are counted as
theirs. That the reference goes through the same classifier, and not through its labels, lets shared mistakes cancel.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from harness.errors import InputError
from harness.metrics.estimate import Estimate
from harness.metrics.points import Array, checked

COVERED_FRACTION = 10
"""A class is covered if its share among the samples is at least one part in so many of its share in the reference."""


ERROR = "over samples, by the delta method, the reference fixed"


def class_coverage(predicted: Array, reference: Array) -> Estimate:
    """Share of the reference's classes that the samples cover: in [0, 1], higher is better.

    Shapes: logits of the samples (n, classes), of the reference images (r, classes), any float type. A class is
    covered if its share among the samples is at least a tenth of its share in the reference; classes of which the
    reference has no image do not count.
    Errors: InputError for logits that are empty, of different width, or hold NaN or infinities.
    """
    samples, references = _histograms(predicted, reference)
    present = references > 0
    # Products of counts are exact, where shares are rounded and a class at the very threshold falls to either side.
    covered = COVERED_FRACTION * samples * references.sum() >= references * samples.sum()
    value = covered[present].to(torch.float64).mean().item()
    return Estimate(value, None, "none: a count of classes past a threshold")


def class_divergence(predicted: Array, reference: Array) -> Estimate:
    """Kullback-Leibler divergence of the samples' class histogram from the reference's, in nats: lower is better.

        KL(p || q) = sum_c p_c log(p_c / q_c)

    Shapes and errors as for `class_coverage`, and InputError where the samples have a class of which the reference
    has no image: the divergence is infinite.
    The standard error is the delta method's over samples, the reference held fixed, to the second order: the variance
    is max(first - second, second) of first = Var_p(log(p / q)) / n and second = (K - 1) / (2 n^2), with K the number
    of classes among the samples. The first vanishes at p = q, where 2 n KL is chi-squared with K - 1 degrees of
    freedom; the second is the variance there, and half of what noise adds to the first. The value itself is there
    (K - 1) / (2 n) too high on average: a divergence of that size is none.
    """
    samples, references = _histograms(predicted, reference)
    foreign = ((samples > 0) & (references == 0)).nonzero()[:, 0].tolist()
    if foreign:
        raise InputError(
            f"class divergence: the samples have images of class {foreign[0]}, the reference none, so it is infinite; "
            "give a reference with images of every class."
        )
    present = samples > 0
    n = int(samples.sum())
    p, q = (counts[present] / counts.sum(dtype=torch.float64) for counts in (samples, references))
    log_ratio = (p / q).log()
    value = (p * log_ratio).sum()
    first = (p * (log_ratio - value).square()).sum().item() / n
    second = (len(p) - 1) / (2 * n**2)
    # Rounding may leave less than nothing of equal shares.
    return Estimate(max(0.0, value.item()), math.sqrt(max(first - second, second)), ERROR)


def class_accuracy(predicted: Array, labels: Array) -> Estimate:
    """Share of samples that the classifier sees as the class they were made for: in [0, 1], higher is better.

    Shapes: logits of the samples (n, classes), any float type; the classes they were made for (n,), integers.
    The standard error is the binomial's over samples.
    Errors: InputError for logits that are empty or hold NaN or infinities, and for labels of another number.
    """
    logits = checked("classes: logits of the samples", predicted)
    wanted = torch.as_tensor(labels, device=logits.device)
    if wanted.shape != logits.shape[:1]:
        raise InputError(f"class accuracy: {len(logits)} samples, but labels of shape {tuple(wanted.shape)}.")
    value = (logits.argmax(1) == wanted).to(torch.float64).mean().item()
    return Estimate(value, math.sqrt(value * (1 - value) / len(logits)), "over samples, binomial")


def _histograms(predicted: Array, reference: Array) -> tuple[Tensor, Tensor]:
    """How many of the samples, and of the reference images, each class has: int64 (classes,)."""
    samples = checked("classes: logits of the samples", predicted)
    references = checked("classes: logits of the reference", reference)
    if samples.shape[1] != references.shape[1]:
        raise InputError(
            f"classes: logits of the samples have {samples.shape[1]} classes, of the reference {references.shape[1]}; "
            "take both from one classifier."
        )
    first, second = (logits.argmax(1).bincount(minlength=logits.shape[1]).cpu() for logits in (samples, references))
    return first, second
