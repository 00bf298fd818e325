"""Lower bounds on a model's log-likelihood of held-out images, one an image."""

from __future__ import annotations

import torch

from harness.metrics.estimate import Estimate
from harness.metrics.points import Array, checked


def mean_bound(bounds: Array) -> Estimate:
    """The mean of bounds (n,) on log p of n images, in nats: higher is better.

    float64, any range; below the mean log-likelihood in expectation. `standard_error` is the standard deviation over
    images (ddof 0) / sqrt(n), as that of Parzen windows.
    Source: Burda, Grosse and Salakhutdinov, Importance weighted autoencoders (2016), section 5.
    Errors: InputError for no bounds, and for NaN or infinities.
    """
    values = checked("bound: values", bounds[:, None]).to(torch.float64)
    error = values.std(correction=0) / len(values) ** 0.5
    return Estimate(values.mean().item(), error.item(), "over images, the model and its draws fixed")
