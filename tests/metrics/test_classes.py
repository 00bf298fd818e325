import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from harness.errors import InputError
from harness.metrics.classes import class_accuracy, class_coverage, class_divergence

Array = np.ndarray[Any, Any]


def logits(*counts: int, seed: int = 0) -> Array:
    """Logits whose largest is that of class 0 in the first of these counts of rows, and so on."""
    labels = np.repeat(np.arange(len(counts)), counts)
    noise = np.random.default_rng(seed).random((len(labels), len(counts)))
    return noise + 2 * np.eye(len(counts))[labels]


def test_coverage_is_the_share_of_classes_with_a_tenth_of_their_share() -> None:
    # A tenth of a quarter of 400 is 10.
    assert class_coverage(logits(381, 10, 9, 0), logits(25, 25, 25, 25)).value == 2 / 4


@pytest.mark.parametrize("share", [3, 7, 30])
def test_a_class_at_the_very_threshold_is_covered(share: int) -> None:
    reference = logits(share, 100 - share)
    assert class_coverage(logits(share, 1000 - share), reference).value == 1
    assert class_coverage(logits(share - 1, 1001 - share), reference).value == 0.5


def test_classes_that_the_reference_lacks_do_not_count() -> None:
    assert class_coverage(logits(9, 0, 1, 0), logits(10, 10, 0, 0)).value == 1 / 2


def test_coverage_says_why_it_has_no_standard_error() -> None:
    estimate = class_coverage(logits(5, 5), logits(5, 5))
    assert estimate.standard_error is None and estimate.error.startswith("none: ")


def test_divergence_is_the_histograms_in_nats() -> None:
    p, q = np.array([0.5, 0.5, 0.0]), np.array([0.25, 0.5, 0.25])
    estimate = class_divergence(logits(10, 10, 0), logits(25, 50, 25))
    assert estimate.value == pytest.approx((p[:2] * np.log(p[:2] / q[:2])).sum(), rel=1e-12)
    assert class_divergence(logits(30, 0), logits(40, 40)).value == pytest.approx(math.log(2), rel=1e-12)


def test_a_class_that_the_reference_lacks_is_refused_by_divergence() -> None:
    with pytest.raises(InputError, match="class 2, the reference none"):
        class_divergence(logits(5, 5, 1), logits(5, 5, 0))


@pytest.mark.parametrize("shift", [0.0, 0.05, 0.3])  # at 0 the first order vanishes, at 0.3 the second hardly counts
def test_the_divergences_error_is_its_spread_over_samples(shift: float) -> None:
    n, random = 1000, np.random.default_rng(1)
    reference = logits(*[200] * 10)
    p = np.full(10, 0.1) + shift * np.array([0.1, -0.1] * 5)
    found = [class_divergence(logits(*random.multinomial(n, p)), reference) for _ in range(400)]
    spread = np.std([estimate.value for estimate in found])
    errors = [estimate.standard_error for estimate in found if estimate.standard_error is not None]
    assert 0.85 < math.sqrt(np.mean(np.square(errors))) / spread < 1.35


def test_equal_histograms_have_the_error_of_a_chi_squared_value() -> None:
    estimate = class_divergence(logits(100, 100, 100), logits(30, 30, 30))
    assert estimate.value == pytest.approx(0, abs=1e-15)
    assert estimate.standard_error == pytest.approx(math.sqrt(2 * 2) / (2 * 300), rel=1e-9)


@settings(deadline=None, max_examples=50)
@given(st.lists(st.integers(0, 20), min_size=2, max_size=12).filter(any), st.integers(0, 2**32 - 1))
def test_identical_sets_are_best_in_any_order(counts: list[int], seed: int) -> None:
    reference = logits(*counts)
    samples = np.random.default_rng(seed).permutation(reference)
    assert class_coverage(samples, reference).value == 1
    assert class_divergence(samples, reference).value == pytest.approx(0, abs=1e-15)


def test_accuracy_is_the_share_of_samples_seen_as_their_class() -> None:
    wanted = np.repeat([0, 1, 2, 0], [5, 7, 4, 4])  # the last four are seen as class 2
    estimate = class_accuracy(logits(5, 7, 8), wanted)
    assert estimate.value == 16 / 20
    assert class_accuracy(logits(5, 7, 8).astype(np.float16), torch.from_numpy(wanted)) == estimate
    assert class_accuracy(logits(5, 7), np.repeat([0, 1], [5, 7])).value == 1


def test_the_accuracys_error_is_its_spread_over_samples() -> None:
    random, wanted = np.random.default_rng(2), np.zeros(300, int)
    found = [class_accuracy(logits(hits, 300 - hits), wanted) for hits in random.binomial(300, 0.8, size=400)]
    spread = np.std([estimate.value for estimate in found])
    assert found[0].standard_error == pytest.approx(spread, rel=0.2)


@pytest.mark.parametrize(
    ("samples", "wanted", "message"),
    [
        (np.zeros((4, 3)), np.zeros(3, int), r"4 samples, but labels of shape \(3,\)"),
        (np.zeros((4, 3)), np.zeros((4, 1), int), r"labels of shape \(4, 1\)"),
        (np.zeros((0, 3)), np.zeros(0, int), r"samples have shape \(0, 3\)"),
        (np.full((4, 3), math.nan), np.zeros(4, int), r"samples hold NaN"),
    ],
)
def test_accuracy_refuses_bad_logits_and_labels(samples: Array, wanted: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        class_accuracy(samples, wanted)


def test_narrow_types_torch_and_read_only_arrays_are_taken() -> None:
    samples, reference = logits(5, 7, 9), logits(6, 6, 9)
    expected = class_divergence(samples, reference)
    samples.setflags(write=False)
    assert class_divergence(samples, torch.from_numpy(reference).half().requires_grad_()) == expected


@pytest.mark.parametrize("metric", [class_coverage, class_divergence])
@pytest.mark.parametrize(
    ("samples", "reference", "message"),
    [
        (np.zeros((0, 3)), np.zeros((4, 3)), r"samples have shape \(0, 3\)"),
        (np.zeros((4, 3)), np.zeros(4), r"reference have shape \(4,\)"),
        (np.zeros((4, 3)), np.zeros((4, 2)), r"3 classes, of the reference 2"),
        (np.full((4, 3), math.nan), np.zeros((4, 3)), r"samples hold NaN"),
        (np.zeros((4, 3)), np.full((4, 3), math.inf), r"reference hold NaN, inf"),
    ],
)
def test_bad_logits_are_refused(metric: Any, samples: Array, reference: Array, message: str) -> None:
    with pytest.raises(InputError, match=message):
        metric(samples, reference)
