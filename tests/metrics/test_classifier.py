from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch_fidelity
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save
from torch import Tensor
from torch.utils.data import Dataset
from torch_fidelity.registry import FEATURE_EXTRACTORS_REGISTRY

from harness import images
from harness.errors import InputError
from harness.images import Affine, ImageSet, Split
from harness.metrics.extractors import SHIPPED, WEIGHTS, classifier, fitting
from harness.metrics.extractors.classifier import Classifier, Network
from harness.metrics.features import quantised

DATA = Path(os.environ.get("HARNESS_DATA") or "nowhere")
needs_mnist = pytest.mark.skipif(
    not (DATA / "MNIST/raw").is_dir(), reason="HARNESS_DATA names no folder with MNIST/raw and its four files"
)

LAYERS = ("64", "logits")
MEGABYTE = 1_000_000


def assert_is_as_its_record_says(name: str, data: ImageSet, *, least: float) -> None:
    network, record, _ = classifier.read(WEIGHTS / f"{name}.safetensors")
    assert (record.dataset, record.shape, record.classes) == (data.name, data.shape, data.classes)
    assert record.content_hash == data.content_hash
    assert fitting.accuracy(network.eval(), data.test) == record.test_accuracy >= least
    assert fitting.accuracy(network, data.validation) == record.validation_accuracy


def test_the_digits_classifier_is_as_its_record_says(digits: ImageSet) -> None:
    assert_is_as_its_record_says("classifier-digits", digits, least=0.97)


@needs_mnist
def test_the_mnist_classifier_is_as_its_record_says() -> None:
    assert_is_as_its_record_says("classifier-mnist", images.load("mnist", [DATA]), least=0.992)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_weights_are_small_and_agree_with_the_record_beside_them(name: str) -> None:
    file = WEIGHTS / f"{name}.safetensors"
    _, record, sha256 = classifier.read(file)
    beside = json.loads(file.with_suffix(".json").read_text())
    assert beside == json.loads(json.dumps({"sha256": sha256, **asdict(record)}))
    assert file.stat().st_size < MEGABYTE
    assert record.command.startswith(f"harness extractor fit --dataset {record.dataset} ")
    assert record.test_accuracy >= {"digits": 0.97, "mnist": 0.992}[record.dataset]


@pytest.mark.parametrize("shape", [(1, 28, 28), (3, 32, 32)])
def test_a_network_for_small_images_takes_less_than_a_megabyte(shape: tuple[int, int, int]) -> None:
    assert sum(tensor.nbytes for tensor in Network(shape, 10).state_dict().values()) < MEGABYTE


@settings(deadline=None, max_examples=20)
@given(
    channels=st.sampled_from([1, 3]), height=st.integers(1, 40), width=st.integers(1, 40), classes=st.integers(2, 20)
)
def test_a_network_takes_any_shape(channels: int, height: int, width: int, classes: int) -> None:
    network = Network((channels, height, width), classes).eval()
    features, logits = network(torch.rand(2, channels, height, width))
    assert (features.shape, logits.shape) == ((2, 64), (2, classes))
    assert bool((features >= 0).all())


class Tiled(Dataset[Tensor]):
    """Images as torch-fidelity takes them: uint8 RGB."""

    def __init__(self, split: Split) -> None:
        self.images = torch.from_numpy(quantised(np.asarray(split.images))).repeat(1, 3, 1, 1)

    def __len__(self) -> int:
        return len(self.images)

    def __getitem__(self, index: int) -> Tensor:
        return self.images[index]


def test_torch_fidelity_computes_its_metrics_with_a_shipped_classifier(digits: ImageSet) -> None:
    classifier.register()
    classifier.register()
    assert FEATURE_EXTRACTORS_REGISTRY["classifier-digits"] is Classifier
    metrics = torch_fidelity.calculate_metrics(
        input1=Tiled(digits.test),
        input2=Tiled(digits.validation),
        feature_extractor="classifier-digits",
        isc=True,
        fid=True,
        prc=True,
        cuda=False,
        cache=False,
        save_cpu_ram=True,
        verbose=False,
    )
    assert 8 < metrics["inception_score_mean"] <= 10
    assert metrics["frechet_inception_distance"] > 0
    assert metrics["precision"] > 0.7


def test_tiled_images_have_the_features_of_grey_ones(digits: ImageSet) -> None:
    network = Classifier("classifier-digits", LAYERS)
    tiled = Tiled(digits.test).images[:20]
    for one, three in zip(network(tiled[:, :1]), network(tiled), strict=True):
        assert torch.equal(one, three)


def test_the_layers_come_in_the_order_asked_for(digits: ImageSet) -> None:
    batch = Tiled(digits.test).images[:20]
    features, logits = Classifier("classifier-digits", LAYERS)(batch)
    assert torch.equal(Classifier("classifier-digits", ["logits", "64"])(batch)[0], logits)
    assert torch.equal(Classifier("classifier-digits", ["64"])(batch)[0], features)


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        (torch.zeros(2, 1, 8, 8), "uint8"),
        (torch.zeros(2, 1, 9, 8, dtype=torch.uint8), r"\(1, 8, 8\).*\(1, 9, 8\)"),
        (torch.arange(3, dtype=torch.uint8).view(1, 3, 1, 1).expand(2, 3, 8, 8), "not grey"),
    ],
)
def test_images_that_are_not_the_classifiers_are_refused(batch: Tensor, message: str) -> None:
    with pytest.raises(InputError, match=message):
        Classifier("classifier-digits", LAYERS)(batch)


def test_another_internal_type_is_refused() -> None:
    with pytest.raises(InputError, match="float32"):
        Classifier("classifier-digits", LAYERS, feature_extractor_internal_dtype="float64")


def parameters(fitted: fitting.Fitted) -> Tensor:
    return torch.cat([tensor.flatten().double() for tensor in fitted.network.state_dict().values()])


def test_fitting_twice_gives_the_same_bits_and_another_seed_others(digits: ImageSet) -> None:
    state = torch.random.get_rng_state()
    first, second, other = (fitting.fit(digits, steps=4, seed=seed) for seed in (3, 3, 4))
    assert torch.equal(parameters(first), parameters(second))
    assert first.record == second.record
    assert not torch.equal(parameters(first), parameters(other))
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_hundred_steps_tell_most_digits_apart(digits: ImageSet) -> None:
    told: list[int] = []
    fitted = fitting.fit(digits, steps=100, progress=told.append)
    assert fitted.record.validation_accuracy > 0.9
    assert told == list(range(1, 101))


def test_fitting_learns_from_no_image_but_the_training_images(digits: ImageSet) -> None:
    labels = np.zeros(300, np.int64)
    other = replace(digits, validation=replace(digits.validation, labels=labels), test=digits.validation)
    assert torch.equal(parameters(fitting.fit(other, steps=3)), parameters(fitting.fit(digits, steps=3)))


@settings(deadline=None, max_examples=20)
@given(seed=st.integers(0, 2**31), side=st.sampled_from([8, 28, 32, 45]))
def test_shifted_images_move_as_a_whole_within_reach(seed: int, side: int) -> None:
    reach = {8: 1, 28: 2, 32: 2, 45: 3}[side]
    batch = torch.zeros(6, 2, side, side, dtype=torch.uint8)
    batch[:, 0, 4, 5], batch[:, 1, 4, 4] = 7, 9
    moved = fitting.shifted(batch, torch.Generator().manual_seed(seed))
    first, second = (moved == 7).nonzero(), (moved == 9).nonzero()
    assert (first[:, 1] == 0).all() and (second[:, 1] == 1).all()
    assert (first[:, 2:] - second[:, 2:]).tolist() == [[0, 1]] * 6
    assert (first[:, 2:] - torch.tensor([4, 5])).abs().max() <= reach
    assert (moved.sum((1, 2, 3)) == 16).all()


def test_shifts_reach_their_bounds_in_both_directions() -> None:
    batch = torch.zeros(500, 1, 28, 28, dtype=torch.uint8)
    batch[:, :, 14, 14] = 1
    moved = fitting.shifted(batch, torch.Generator().manual_seed(0)).nonzero()[:, 2:]
    assert moved.amin(0).tolist() == [12, 12] and moved.amax(0).tolist() == [16, 16]
    assert len(moved.unique(dim=0)) == 25


def without_labels(data: ImageSet) -> ImageSet:
    return replace(data, train=Split(data.train.images), classes=None)


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        (without_labels, "no labels in train"),
        (lambda data: replace(data, classes=1), "a single class"),
        (lambda data: replace(data, affine=Affine((0.0,), (1.0,))), "points"),
    ],
)
def test_data_that_cannot_be_classified_is_refused(
    digits: ImageSet, changed: Callable[[ImageSet], ImageSet], message: str
) -> None:
    with pytest.raises(InputError, match=message):
        fitting.fit(changed(digits), steps=1)


@pytest.mark.parametrize("numbers", [{"steps": 0}, {"seed": -1}])
def test_bad_steps_and_seeds_are_refused(digits: ImageSet, numbers: dict[str, int]) -> None:
    with pytest.raises(InputError, match="at least 1 step"):
        fitting.fit(digits, **({"steps": 1} | numbers))


def test_an_output_that_is_no_safetensors_file_is_refused_first(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.safetensors"):
        fitting.fit_to_file("no such data", tmp_path / "weights.pt", folders=[])


@pytest.mark.parametrize("content", ['{"name": "mine"}', "not JSON", "[]"])
def test_a_name_whose_record_would_replace_another_file_is_refused_before_the_data_are_read(
    tmp_path: Path, content: str
) -> None:
    other = tmp_path / "weights.json"
    other.write_text(content)
    with pytest.raises(InputError, match=r"weights\.json is something else and would be replaced"):
        fitting.fit_to_file("no such data", tmp_path / "weights.safetensors", folders=[])
    assert other.read_text() == content


@pytest.fixture
def fitted_file(tmp_path: Path) -> Path:
    file = tmp_path / "mine.safetensors"
    fitting.fit_to_file("digits", file, folders=[], steps=2)
    return file


def test_a_fitted_classifier_comes_back_from_its_file(fitted_file: Path, digits: ImageSet) -> None:
    fitted = fitting.fit(digits, steps=2)
    network, record, sha256 = classifier.read(fitted_file)
    assert record == fitted.record
    assert sha256 == hashlib.sha256(fitted_file.read_bytes()).hexdigest()
    batch = torch.rand(20, 1, 8, 8)
    for one, other in zip(network.eval()(batch), fitted.network(batch), strict=True):
        assert torch.equal(one, other)


def test_the_same_fit_writes_the_same_file(fitted_file: Path, tmp_path: Path) -> None:
    again = tmp_path / "again.safetensors"
    fitting.fit_to_file("digits", again, folders=[], steps=2)
    assert again.read_bytes() == fitted_file.read_bytes()


def test_a_damaged_file_is_refused_by_the_hash_beside_it(fitted_file: Path) -> None:
    content = bytearray(fitted_file.read_bytes())
    content[-1] ^= 1
    fitted_file.write_bytes(content)
    with pytest.raises(InputError, match="is damaged"):
        classifier.read(fitted_file)
    fitted_file.with_suffix(".json").write_text("{}")
    with pytest.raises(InputError, match="cannot be read"):
        classifier.read(fitted_file)


def with_record(content: bytes, **changes: Any) -> bytes:
    """A classifier file whose record differs."""
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    record = json.loads(header["__metadata__"]["record"]) | changes
    header["__metadata__"]["record"] = json.dumps(record)
    encoded = json.dumps(header).encode()
    return len(encoded).to_bytes(8, "little") + encoded + content[end:]


@pytest.mark.parametrize(
    "spoilt",
    [
        lambda content: b"not safetensors",
        lambda content: b"",
        lambda content: content[:-9],
        lambda content: save({"features.1.weight": torch.zeros(3)}),
        lambda content: save({"features.1.weight": torch.zeros(3)}, {"other": "{}"}),
        lambda content: with_record(content, shape=[1, 28, 28]),
        lambda content: with_record(content, shape=[1, 1, 10**18]),
        lambda content: with_record(content, classes="ten"),
        lambda content: with_record(content, further=1),
    ],
)
def test_a_file_that_holds_no_classifier_is_refused_by_name(
    fitted_file: Path, tmp_path: Path, spoilt: Callable[[bytes], bytes]
) -> None:
    file = tmp_path / "spoilt.safetensors"
    file.write_bytes(spoilt(fitted_file.read_bytes()))
    with pytest.raises(InputError, match=r"spoilt\.safetensors holds no classifier"):
        classifier.read(file)


def test_an_absent_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.safetensors"):
        classifier.read(tmp_path / "nowhere.safetensors")
