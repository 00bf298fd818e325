"""Inception score: how far a classifier's answers differ from image to image while each is sure.

    IS = exp(mean_i KL_i),    KL_i = sum_c p(c | x_i) log(p(c | x_i) / p(c)),    p(c) = mean_i p(c | x_i)

From 1 (all answers alike) to the number of classes; higher is better. It sees no reference, so copies score well.
Source: Salimans et al. (2016), section 4; Barratt and Sharma (2018) on its dependence on splits.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from harness.errors import InputError
from harness.metrics.estimate import Estimate
from harness.metrics.points import Array, checked


def inception_score(logits: Array, *, splits: int, seed: int = 2020) -> Estimate:
    """Inception score of a classifier's logits (n, classes), any float type, computed in float64 on their device.

    The samples are shuffled with the seed, as torch-fidelity does, and cut into `splits` parts; the value is the mean
    of the parts' scores. A part's score grows with its size, so values at different n or splits do not compare.
    The error is over samples, the classifier fixed: from the spread (ddof 1) of the parts' scores, or with one part by
    the delta method, IS std(KL_i) / sqrt(n), since the derivative through p(c) vanishes.
    Errors: InputError for splits that leave a part without two samples, and for bad logits.
    """
    scores = checked("inception_score: logits", logits, at_least=2)
    count = len(scores)
    if not 1 <= splits <= count // 2:
        raise InputError(
            f"inception_score: {count} samples cannot be cut into {splits} parts of two or more; "
            f"give 1 to {count // 2} splits, or more samples."
        )
    order = torch.from_numpy(np.random.RandomState(seed).permutation(count)).to(scores.device)
    log_probabilities = scores.double().log_softmax(1)[order]
    parts = [_divergences(part) for part in log_probabilities.tensor_split(_cuts(count, splits))]
    values = [math.exp(part.mean()) for part in parts]
    if splits > 1:
        return Estimate(
            float(np.mean(values)), float(np.std(values, ddof=1)) / math.sqrt(splits), "over samples, from the splits"
        )
    error = values[0] * float(parts[0].std()) / math.sqrt(count)
    return Estimate(values[0], error, "over samples, by the delta method")


def _divergences(log_probabilities: Tensor) -> Tensor:
    """KL_i in nats (n,) of each row of log p(c | x_i) from their mean."""
    # In logarithms, for a class that underflows in every row has no logarithm of its mean.
    log_marginal = log_probabilities.logsumexp(0) - math.log(len(log_probabilities))
    return (log_probabilities.exp() * (log_probabilities - log_marginal)).sum(1)


def _cuts(count: int, splits: int) -> list[int]:
    return [part * count // splits for part in range(1, splits)]
