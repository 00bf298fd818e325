from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar
from urllib.error import URLError

import numpy as np
import pytest
import torch
from torch import Tensor
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from harness.errors import InputError, UnknownName
from harness.metrics import features as features_module
from harness.metrics.extractors import pretrained as pretrained_module
from harness.metrics.extractors.pretrained import PUBLISHED, pretrained
from harness.metrics.features import Extractor, extract, extractor
from harness.singly import one_thread

INCEPTION = "inception-v3-compat"
LAYERS = ["2048", "logits_unbiased"]


def sha256_of(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def inception_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Seeded random weights of torch-fidelity's Inception, in its own file format."""
    file = tmp_path_factory.mktemp("weights") / "random-inception.pth"
    with pytest.MonkeyPatch.context() as patch, torch.random.fork_rng(devices=[]):
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *_, **__: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda *_: None)
        torch.manual_seed(0)
        torch.save(FeatureExtractorInceptionV3(INCEPTION, LAYERS).state_dict(), file)
    return file


@pytest.fixture(scope="module")
def inception(inception_file: Path) -> Extractor:
    return extractor(INCEPTION, weights=inception_file, sha256=sha256_of(inception_file))


@pytest.fixture(autouse=True)
def no_network(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """torch.hub has an empty folder and reaches nothing."""

    def unreachable(*_: Any, **__: Any) -> None:
        raise URLError("no network")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", unreachable)
    monkeypatch.setattr(torch.hub, "load", unreachable)
    yield


def test_inception_from_a_file_gives_what_torch_fidelity_gives(
    inception: Extractor, inception_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(features_module, "PRETRAINED_BLOCK", 2)
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 16, 16), dtype=np.uint8)
    found = extract(inception, images)
    reference = FeatureExtractorInceptionV3(INCEPTION, LAYERS, feature_extractor_weights_path=str(inception_file))
    with one_thread():  # as `extract` computes; more threads round otherwise
        features, logits = reference(torch.from_numpy(images))
    assert found.logits is not None and float(features.std()) > 0
    for ours, theirs in ((found.features, features), (found.logits, logits)):
        assert float((ours - theirs).norm() / theirs.norm()) < 1e-6


def test_stated_weights_have_their_hash_in_the_name(inception: Extractor, inception_file: Path) -> None:
    sha256 = sha256_of(inception_file)
    assert (inception.name, inception.sha256) == (f"{INCEPTION}@{sha256[:8]}", sha256)
    assert (inception.feature_layer, inception.logits_layer) == ("2048", "logits_unbiased")
    assert (inception.widths, inception.resize) == ((2048, 1008), "tf1-bilinear-299")


class Payload:
    """Unpickling it creates a file."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[Any, ...]]:
        return Path.touch, (self.trace,)


@pytest.mark.parametrize("protocol", ["zip", "legacy"])
def test_a_file_that_would_run_code_is_refused_and_does_not_run(tmp_path: Path, protocol: str) -> None:
    file, trace = tmp_path / "crafted.pth", tmp_path / "it-ran"
    torch.save({"fc.bias": Payload(trace)}, file, _use_new_zipfile_serialization=protocol == "zip")
    with pytest.raises(InputError, match=r"crafted\.pth is refused"):
        pretrained(INCEPTION, weights=file, sha256=sha256_of(file))
    assert not trace.exists()
    torch.load(file, weights_only=False)
    assert trace.exists()  # so the payload is a real one


class Tiny(torch.nn.Module):
    """A network that reads its weights as torch-fidelity's do, in no time."""

    INPUT_IMAGE_SIZE = 8
    paths: ClassVar[list[tuple[Path, int]]] = []

    def __init__(self, name: str, layers: list[str], feature_extractor_weights_path: str) -> None:
        super().__init__()
        copy = Path(feature_extractor_weights_path)
        self.paths.append((copy, copy.parent.stat().st_mode & 0o077))
        self.linear = torch.nn.Linear(3, 5)
        self.load_state_dict(torch.load(copy, weights_only=False))

    def forward(self, images: Tensor) -> tuple[Tensor]:
        return (self.linear(images.float().mean((2, 3))),)

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return "5"


@pytest.fixture
def tiny_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Weights of the tiny network, which stands where Inception does."""
    monkeypatch.setitem(pretrained_module.FEATURE_EXTRACTORS_REGISTRY, INCEPTION, Tiny)
    monkeypatch.setattr(Tiny, "paths", [])
    file = tmp_path / "tiny.pth"
    torch.save({"linear.weight": torch.ones(5, 3), "linear.bias": torch.arange(5.0)}, file)
    return file


def test_torch_fidelity_is_given_a_private_copy_and_never_the_file(tiny_file: Path) -> None:
    found = pretrained(INCEPTION, weights=tiny_file, sha256=sha256_of(tiny_file))
    assert found.network.linear.bias.tolist() == [0, 1, 2, 3, 4]
    [(copy, others_may)] = Tiny.paths
    assert copy != tiny_file and not copy.exists()
    assert others_may == 0


def test_another_hash_than_published_is_refused_and_says_how_to_state_it(tiny_file: Path) -> None:
    with pytest.raises(InputError, match=r"tiny\.pth has the sha256.*6726825d.*--weights-sha256"):
        pretrained(INCEPTION, weights=tiny_file)


def test_another_hash_than_stated_is_refused(tiny_file: Path) -> None:
    with pytest.raises(InputError, match="not the stated 0000"):
        pretrained(INCEPTION, weights=tiny_file, sha256="0" * 64)


def test_a_part_of_a_hash_is_refused(tiny_file: Path) -> None:
    with pytest.raises(InputError, match="64 hexadecimal digits"):
        pretrained(INCEPTION, weights=tiny_file, sha256=sha256_of(tiny_file)[:8])


@pytest.mark.parametrize("content", [[torch.zeros(2)], {"fc.bias": 3}, {"fc.bias": torch.zeros(2)}])
@pytest.mark.usefixtures("tiny_file")
def test_tensors_that_are_not_the_networks_are_refused_by_file(content: object, tmp_path: Path) -> None:
    file = tmp_path / "other.pth"
    torch.save(content, file)
    with pytest.raises(InputError, match=r"other\.pth (holds no state dict|does not hold the weights)"):
        pretrained(INCEPTION, weights=file, sha256=sha256_of(file))


@pytest.mark.parametrize("content", [b"", b"noise", b"PK\x03\x04 and noise"])
def test_noise_is_refused_by_file(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "noise.pth"
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"noise\.pth is refused"):
        pretrained(INCEPTION, weights=file, sha256=sha256_of(file))


def test_an_absent_file_is_refused_by_name(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nowhere\.pth"):
        pretrained(INCEPTION, weights=tmp_path / "nowhere.pth")


@pytest.mark.parametrize("name", PUBLISHED)
def test_weights_that_cannot_be_had_say_which_file_to_put_where(name: str, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no network") as raised:
        pretrained(name, folders=[tmp_path / "data"])
    for part in (PUBLISHED[name].file, PUBLISHED[name].url, str(tmp_path / "data/weights"), str(tmp_path / "hub")):
        assert part in str(raised.value)


@pytest.fixture
def published(tiny_file: Path, monkeypatch: pytest.MonkeyPatch) -> pretrained_module.Weights:
    """The tiny weights as if they were the published ones."""
    weights = pretrained_module.Weights("known.pth", "https://example.org/known.pth", sha256_of(tiny_file)[:8])
    monkeypatch.setitem(PUBLISHED, INCEPTION, weights)
    return weights


@pytest.mark.parametrize("place", ["data/weights", "hub/checkpoints"])
def test_published_weights_are_found_and_named_plainly(
    published: pretrained_module.Weights, tiny_file: Path, tmp_path: Path, place: str
) -> None:
    (tmp_path / place).mkdir(parents=True)
    (tmp_path / place / published.file).symlink_to(tiny_file)
    assert extractor(INCEPTION, folders=[tmp_path / "data"]).name == INCEPTION


def test_published_weights_are_downloaded_with_their_hash(
    published: pretrained_module.Weights, tiny_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def download(url: str, path: str, hash_prefix: str, progress: bool) -> None:
        assert (url, hash_prefix) == (published.url, published.sha256)
        Path(path).symlink_to(tiny_file)

    monkeypatch.setattr(torch.hub, "download_url_to_file", download)
    assert pretrained(INCEPTION).is_known
    assert (tmp_path / "hub/checkpoints" / published.file).exists()


def test_a_damaged_file_in_a_known_place_is_refused_not_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "weights" / PUBLISHED[INCEPTION].file
    file.parent.mkdir()
    file.write_bytes(b"damaged")
    with pytest.raises(InputError, match=str(file)):
        pretrained(INCEPTION, folders=[tmp_path])


def test_a_clip_archive_is_accepted_at_its_published_hash_alone(tmp_path: Path) -> None:
    file = tmp_path / "clip.pt"
    file.write_bytes(b"a program")
    with pytest.raises(InputError, match=r"clip\.pt.*program"):
        pretrained("clip-rn50", weights=file, sha256=sha256_of(file))


def test_downloaded_code_needs_trust() -> None:
    with pytest.raises(InputError, match="--trust-code"):
        pretrained("dinov2-vit-s-14")
    with pytest.raises(InputError, match="could not be downloaded.*no network"):
        pretrained("dinov2-vit-s-14", trust_code=True)


def test_a_weights_file_for_downloaded_code_is_refused(tiny_file: Path) -> None:
    with pytest.raises(InputError, match="takes no weights file"):
        pretrained("dinov2-vit-s-14", weights=tiny_file, trust_code=True)


def test_trusted_code_is_named_by_the_hash_of_its_parameters(monkeypatch: pytest.MonkeyPatch) -> None:
    network = torch.nn.Sequential(torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten())
    linear = torch.nn.Linear(3, 4)
    monkeypatch.setattr(torch.hub, "load", lambda *_: network.append(linear))
    first = extractor("dinov2-vit-s-14", trust_code=True)
    assert first.name == f"dinov2-vit-s-14@{first.sha256[:8]}"
    assert (first.widths, first.logits_layer, first.resize) == ((4,), None, "tf1-bilinear-224")
    monkeypatch.setattr(torch.hub, "load", lambda *_: torch.nn.Sequential(*network[:2], torch.nn.Linear(3, 4)))
    assert extractor("dinov2-vit-s-14", trust_code=True).sha256 != first.sha256


def test_an_unknown_name_suggests_the_nearest() -> None:
    with pytest.raises(UnknownName, match="'vgg16'"):
        pretrained("vgg19")
