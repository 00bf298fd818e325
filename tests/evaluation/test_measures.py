"""Every metric through one door: its keys, its members, and what happens where it cannot be had."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from harness import images, sampling
from harness.errors import InputError
from harness.evaluation import METRICS, Cache, Recipe, References
from harness.evaluation.measures import Subject, asked, measured
from harness.images import Affine, ImageSet, Split, unit
from harness.metrics.parzen import parzen
from harness.runs import RunFolder
from harness.sampling import Sampler
from harness.training.processes import Processes

OF_MODELS = ("parzen-draws", "iwae-bound")
"""Metrics that need what made the samples."""
OF_IMAGES = tuple(name for name in METRICS if name not in ("mode-coverage", "fid-infinity", *OF_MODELS))
OF_FEATURES = tuple(name for name in OF_IMAGES if METRICS[name].of_features)


@pytest.fixture(scope="module")
def samples(digits: ImageSet) -> NDArray[np.float32]:
    """Two members: noisy training images, and noise."""
    random = np.random.default_rng(0)
    real = unit(digits.train.images[np.arange(320)])
    noisy = (real + 0.1 * random.standard_normal(real.shape, dtype=np.float32)).clip(0, 1)
    return np.stack([noisy, random.random(real.shape, dtype=np.float32)])


def of_classes(samples: NDArray[np.float32], references: References) -> Subject:
    """The samples, as if they were made for the classes of the training images that they resemble."""
    labels = references.data.train.labels
    assert labels is not None
    return Subject(samples, references, labels=np.tile(labels[: samples.shape[1]], (len(samples), 1)))


@pytest.fixture(scope="module")
def records(samples: NDArray[np.float32], references: References) -> list[dict[str, dict[str, Any]]]:
    return measured(OF_IMAGES, of_classes(samples, references))


def without_extractor(data: ImageSet, tmp_path: Path, **recipe: Any) -> References:
    """References whose extractor cannot be had."""
    recipe = {"extractor": str(tmp_path / "absent.safetensors"), **recipe}
    return References(data, Recipe(**recipe), Processes(), cache=Cache(tmp_path))


def test_every_metric_of_images_has_a_value(records: list[dict[str, dict[str, Any]]]) -> None:
    for record in records:
        assert {key: found for key, found in record.items() if found["value"] is None} == {}
        assert {key.partition("[")[0] for key in record} >= set(OF_IMAGES)


def test_every_record_has_an_error_or_says_why_not(records: list[dict[str, dict[str, Any]]]) -> None:
    for key, found in records[0].items():
        assert (found["standard_error"] is None) == found["error"].startswith("none: "), key


def test_noise_is_worse_than_noisy_images(records: list[dict[str, dict[str, Any]]]) -> None:
    near, far = records
    for key in near:
        better = METRICS[key.partition("[")[0]].better if key.partition("[")[0] in METRICS else None
        if better is not None and not key.startswith("isc"):
            sign = 1 if better == "higher" else -1
            assert sign * near[key]["value"] >= sign * far[key]["value"], key


@pytest.mark.parametrize("name", OF_FEATURES)
def test_the_key_says_all_that_decides_the_number(name: str, records: list[dict[str, dict[str, Any]]]) -> None:
    [key, *_] = [key for key in records[0] if key.partition("[")[0] == name]
    parts = key.partition("[")[2].rstrip("]").split(",")
    assert parts[0] == "classifier-digits"
    assert ("test" in parts) == (name not in ("isc", "class-accuracy"))
    assert {"resize=none", "bn=running"} < set(parts)
    assert any(re.fullmatch(r"n=\d+", part) for part in parts)


@pytest.mark.parametrize("name", OF_IMAGES)
def test_a_member_has_its_numbers_alone(
    name: str, samples: NDArray[np.float32], references: References, records: list[dict[str, dict[str, Any]]]
) -> None:
    [alone] = measured((name,), of_classes(samples[1:], references))
    assert alone == {key: records[1][key] for key in alone}


def test_samples_as_uint8_have_the_numbers_of_their_floats(
    samples: NDArray[np.float32], references: References
) -> None:
    subject = Subject(samples, references)
    of_bytes = measured(("fid", "memorisation"), Subject(subject.quantised, references))
    assert of_bytes == measured(("fid", "memorisation"), subject)


def test_an_extractor_that_is_missing_stops_its_metrics_alone(
    samples: NDArray[np.float32], digits: ImageSet, tmp_path: Path
) -> None:
    [record] = measured(OF_IMAGES, of_classes(samples[:1], without_extractor(digits, tmp_path)))
    for key, found in record.items():
        name = key.partition("[")[0]
        assert (found["value"] is None) == (name in OF_FEATURES), key
        assert found["value"] is not None or "absent.safetensors" in found["reason"]


def test_colour_without_inceptions_weights_says_which_file_to_put_where(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "hub"))
    monkeypatch.setenv("https_proxy", "http://127.0.0.1:9")
    pixels = np.random.default_rng(0).integers(0, 256, (30, 3, 8, 8), dtype=np.uint8)
    splits = [Split(pixels[:10]), Split(pixels[10:20]), Split(pixels[20:])]
    data = ImageSet("colours", (3, 8, 8), *splits, content_hash="0")
    references = References(data, Recipe(), Processes(), cache=Cache(tmp_path), folders=(tmp_path,))
    [record] = measured(("fid", "memorisation"), Subject(pixels[None, :5], references))
    assert "weights-inception-2015-12-05-6726825d.pth" in record["fid[test,n=5]"]["reason"]
    assert record["memorisation[pixels,test,n=5]"]["value"] is not None


def test_a_member_with_nan_leaves_the_others_numbers(samples: NDArray[np.float32], references: References) -> None:
    spoilt = samples.copy()
    spoilt[0, 3] = np.nan
    bad, good = measured(("fid",), Subject(spoilt, references))
    assert "NaN" in bad["fid[test,n=320]"]["reason"]
    assert next(iter(good.values()))["value"] > 0


def test_what_is_asked_differs_where_numbers_may(digits: ImageSet, references: References, tmp_path: Path) -> None:
    base = asked(("fid", "parzen"), 100, references)
    train = References(digits, Recipe(reference="train"), Processes(), cache=references.cache)
    other = without_extractor(digits, tmp_path)
    assert asked(("fid",), 101, references)["fid"] != base["fid"] != asked(("fid",), 100, train)["fid"]
    assert asked(("fid",), 100, other)["fid"] != base["fid"]
    assert asked(("parzen",), 100, other)["parzen"] == base["parzen"]


def test_modes_of_a_toy_are_counted_in_original_units(tmp_path: Path) -> None:
    ring = images.load("ring-8", [])
    references = References(ring, Recipe(), Processes(), cache=Cache(tmp_path))
    affine = ring.affine
    assert isinstance(affine, Affine)
    half = np.asarray(ring.train.images)[affine.original(np.asarray(ring.train.images))[:, 0] > 0.5][:500]
    [record] = measured(("mode-coverage", "wasserstein", "sliced-wasserstein"), Subject(half[None], references))
    assert record["mode-coverage[n=500]"] | {"error": ""} == {
        "value": 3.0,
        "standard_error": None,
        "error": "",
        "modes": 8,
    }
    assert record["high-quality[n=500]"]["value"] > 0.95
    assert (
        record["wasserstein[points,test,n=500]"]["value"]
        > record["sliced-wasserstein[points,test,n=500]"]["value"]
        > 0.5
    )


def test_mode_coverage_of_images_is_refused_with_the_toys_names(
    samples: NDArray[np.float32], references: References
) -> None:
    [record] = measured(("mode-coverage",), Subject(samples[:1], references))
    assert "ring-8" in record["mode-coverage[test,n=320]"]["reason"]


def test_class_accuracy_is_refused_with_a_classifier_of_other_classes(
    samples: NDArray[np.float32], digits: ImageSet, tmp_path: Path
) -> None:
    parities = [replace(split, labels=split.labels % 2) for split in (digits.train, digits.validation, digits.test)]
    data = ImageSet("parities", digits.shape, *parities, content_hash="0", classes=2)
    references = References(data, Recipe(extractor="classifier-digits"), Processes(), cache=Cache(tmp_path))
    [record] = measured(("class-accuracy",), of_classes(samples[:1], references))
    [found] = record.values()
    assert found["value"] is None and "2 classes of parities; classifier-digits has 10" in found["reason"]


def test_points_are_not_compared_as_pixels(tmp_path: Path) -> None:
    ring = images.load("ring-8", [])
    references = References(ring, Recipe(), Processes(), cache=Cache(tmp_path))
    [record] = measured(("memorisation",), Subject(np.asarray(ring.test.images)[None, :20], references))
    assert "holds points" in record["memorisation[test,n=20]"]["reason"]


def test_one_of_two_values_may_fail_alone(samples: NDArray[np.float32], references: References) -> None:
    [record] = measured(("isc",), Subject(samples[:1, :5], references))
    one, ten = record.values()
    assert one["value"] >= 1 and ten["value"] is None and "splits" in ten["reason"]


def test_images_outside_the_unit_range_are_refused(references: References) -> None:
    with pytest.raises(InputError, match="0 to 2"):
        _ = Subject(np.linspace(0, 2, 128, dtype=np.float32).reshape(1, 2, 1, 8, 8), references).quantised


def sampler_of(*runs: RunFolder) -> Sampler:
    """One sampler of all the runs."""
    finished = [sampling.find(run) for run in runs]
    return sampling.together(finished, [run.tensors() for run in finished])


def of_models(models: Sampler, references: References, n: int = 60) -> Subject:
    """The first samples of some models."""
    return Subject(models.sample(n), references, models=models)


@pytest.fixture
def vaes(untrained_baseline: Callable[..., RunFolder]) -> Sampler:
    return sampler_of(*(untrained_baseline("vae", seed=seed) for seed in range(2)))


def test_draws_stand_beside_means_under_a_key_that_says_so(vaes: Sampler, references: References) -> None:
    subject = of_models(vaes, references)
    together, alone = (measured(names, subject) for names in (("parzen", "parzen-draws"), ("parzen",)))
    for record, of_means in zip(together, alone, strict=True):
        assert set(of_means) == {f"parzen[test,n=60,sigma={sigma}]" for sigma in ("grid", "refined")}
        added = {f"parzen-draws[test,n=60,output=draws,sigma={sigma}]" for sigma in ("grid", "refined")}
        assert record.keys() == of_means.keys() | added
        assert of_means.items() <= record.items()


def test_parzen_of_draws_is_that_of_the_images_drawn(vaes: Sampler, references: References) -> None:
    subject, data = of_models(vaes, references), references.data
    drawn = vaes.drawn(vaes.sample(60))
    flat = [np.asarray(split.images[np.arange(len(split))]).reshape(-1, 64) for split in (data.validation, data.test)]
    for member, record in enumerate(measured(("parzen-draws",), subject)):
        expected = parzen(drawn[member].reshape(60, 64) / 255, *flat)
        found = record["parzen-draws[test,n=60,output=draws,sigma=grid]"]
        assert found["value"] == pytest.approx(expected.grid.value, rel=1e-9)
        assert found["standard_error"] == pytest.approx(expected.grid.standard_error, rel=1e-9)
        assert found["centres"] == 60 and found["sigma"] == expected.grid.sigma


def test_the_bound_is_a_mean_over_held_out_images(vaes: Sampler, references: References) -> None:
    for split, beside in (("test", references), ("validation", references.validation)):
        held_out = getattr(references.data, split).images
        for bounds, record in zip(
            vaes.bounds(held_out, 50), measured(("iwae-bound",), of_models(vaes, beside)), strict=True
        ):
            [(key, found)] = record.items()
            assert key == f"iwae-bound[{split},k=50]" and found["importance_samples"] == 50
            assert found["value"] == pytest.approx(bounds.mean(), rel=1e-12) and found["value"] < 0
            assert found["standard_error"] == pytest.approx(bounds.std() / len(held_out) ** 0.5, rel=1e-9)
            assert found["images"] == len(held_out) and found["error"].startswith("over images")


@pytest.mark.parametrize(
    ("name", "method", "words"),
    [
        ("parzen-draws", "energy", "no means of binary pixels"),
        ("iwae-bound", "autoencoder", "no bound on the likelihood"),
    ],
)
def test_what_a_method_cannot_give_has_its_reason(
    name: str, method: str, words: str, untrained_baseline: Callable[..., RunFolder], references: References
) -> None:
    models = sampler_of(*(untrained_baseline(method, seed=seed) for seed in range(2)))
    for record in measured((name, "parzen"), of_models(models, references)):
        assert record[f"{name}[test,n=60]"]["value"] is None and words in record[f"{name}[test,n=60]"]["reason"]
        assert record["parzen[test,n=60,sigma=grid]"]["value"] is not None


@pytest.mark.parametrize("name", OF_MODELS)
def test_samples_from_elsewhere_have_no_model_to_ask(
    name: str, samples: NDArray[np.float32], references: References
) -> None:
    [record] = measured((name,), Subject(samples[:1], references))
    assert "without their model" in record[f"{name}[test,n=320]"]["reason"]


@pytest.mark.parametrize("name", OF_MODELS)
def test_a_member_has_its_draws_and_its_bound_alone(name: str, vaes: Sampler, references: References) -> None:
    both = measured((name,), of_models(vaes, references))
    for model, record in zip(vaes.alone, both, strict=True):
        [alone] = measured((name,), of_models(model, references))
        assert alone.keys() == record.keys()
        for key, found in record.items():
            assert alone[key]["value"] == pytest.approx(found["value"], rel=1e-9)


def test_a_member_that_cannot_be_drawn_leaves_the_others(vaes: Sampler, references: References) -> None:
    spoilt = vaes.sample(60)
    spoilt[0, 3] = np.nan
    bad, good = measured(("parzen-draws",), Subject(spoilt, references, models=vaes))
    assert "NaN" in bad["parzen-draws[test,n=60]"]["reason"]
    [sound] = measured(("parzen-draws",), of_models(vaes.alone[1], references))
    assert good == sound


def test_points_are_not_drawn_as_pixels(tmp_path: Path, vaes: Sampler) -> None:
    ring = images.load("ring-8", [])
    references = References(ring, Recipe(), Processes(), cache=Cache(tmp_path))
    some = np.asarray(ring.test.images)[None, :20]
    [record] = measured(("parzen-draws",), Subject(some, references, models=vaes.alone[0]))
    assert "holds points" in record["parzen-draws[test,n=20]"]["reason"]
