import math
from typing import Any

import numpy as np
import pytest
import torch
from torch_fidelity.metric_isc import isc_features_to_metric

from harness.errors import InputError
from harness.metrics.inception_score import inception_score

Array = np.ndarray[Any, Any]


def logits_of(seed: int, n: int, classes: int = 10) -> Array:
    """Answers of differing sureness, some classes rarer than others."""
    random = np.random.default_rng(seed)
    return random.standard_normal((n, classes)) * random.uniform(0.1, 5, (n, 1)) + np.linspace(-1, 1, classes)


@pytest.mark.parametrize("splits", [1, 10])
@pytest.mark.parametrize(("n", "classes"), [(1000, 10), (57, 300), (203, 2)])
def test_the_score_equals_torch_fidelitys(n: int, classes: int, splits: int) -> None:
    logits = logits_of(0, n, classes)
    expected = isc_features_to_metric(torch.from_numpy(logits), splits=splits)["inception_score_mean"]
    assert inception_score(logits, splits=splits).value == pytest.approx(expected, rel=1e-6)


def test_another_seed_equals_torch_fidelitys_with_it() -> None:
    logits = logits_of(1, 100)
    expected = isc_features_to_metric(torch.from_numpy(logits), splits=10, rng_seed=3)["inception_score_mean"]
    assert inception_score(logits, splits=10, seed=3).value == pytest.approx(expected, rel=1e-6)
    assert inception_score(logits, splits=10).value != pytest.approx(expected, rel=1e-6)


def test_equal_answers_score_one() -> None:
    estimate = inception_score(np.tile(logits_of(2, 1), (40, 1)), splits=1)
    assert estimate.value == pytest.approx(1, rel=1e-12)
    assert estimate.standard_error == pytest.approx(0, abs=1e-12)


@pytest.mark.parametrize("sureness", [50.0, 1e6])  # at the second every other class underflows
def test_sure_answers_spread_evenly_score_the_number_of_classes(sureness: float) -> None:
    assert inception_score(np.tile(np.eye(7), (30, 1)) * sureness, splits=1).value == pytest.approx(7, rel=1e-9)


def test_a_class_that_underflows_in_every_answer_counts_nothing() -> None:
    logits = logits_of(3, 50, 4)
    with_impossible = np.concatenate([logits, np.full((50, 1), -1e4)], axis=1)
    assert inception_score(with_impossible, splits=1).value == pytest.approx(inception_score(logits, splits=1).value)


def test_the_order_of_samples_does_not_matter_to_one_split_and_little_to_ten() -> None:
    logits = logits_of(4, 2000)
    one, reversed_one = (inception_score(each, splits=1) for each in (logits, logits[::-1]))
    assert reversed_one.value == pytest.approx(one.value, rel=1e-12)
    ten, reversed_ten = (inception_score(each, splits=10) for each in (logits, logits[::-1]))
    assert ten.standard_error is not None
    assert 0 < abs(reversed_ten.value - ten.value) < 3 * ten.standard_error


@pytest.mark.parametrize(("splits", "draws"), [(1, 600), (10, 300)])
def test_the_error_is_the_spread_over_repeated_draws(splits: int, draws: int) -> None:
    estimates = [inception_score(logits_of(seed, 1000), splits=splits) for seed in range(draws)]
    errors = [each.standard_error or math.nan for each in estimates]
    spread = np.std([each.value for each in estimates], ddof=1)
    assert math.sqrt(np.mean(np.square(errors))) == pytest.approx(spread, rel=0.15)


def test_float32_logits_agree_with_their_float64_copy_and_with_torch() -> None:
    logits = logits_of(5, 100).astype(np.float32)
    estimate = inception_score(logits, splits=10)
    assert estimate == inception_score(logits.astype(np.float64), splits=10)
    assert estimate == inception_score(torch.from_numpy(logits), splits=10)


@pytest.mark.parametrize(
    ("logits", "splits", "message"),
    [
        (logits_of(6, 1), 1, r"logits have shape \(1, 10\)"),
        (logits_of(6, 9)[None], 1, r"logits have shape \(1, 9, 10\)"),
        (logits_of(6, 9) * math.inf, 1, r"logits hold NaN, infinite"),
        (logits_of(6, 19), 10, r"19 samples cannot be cut into 10 parts.*1 to 9 splits"),
        (logits_of(6, 19), 0, r"0 parts.*1 to 9 splits"),
    ],
)
def test_bad_input_is_refused(logits: Array, splits: int, message: str) -> None:
    with pytest.raises(InputError, match=message):
        inception_score(logits, splits=splits)
