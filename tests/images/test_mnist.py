import gzip
import os
import shutil
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
import pytest

from harness import images
from harness.errors import DataMissing
from harness.images.mnist import FILES, RAW

CONTENT_HASH = "f740586d7803756114a5e69b9f8eef1e6ebb3dd88027e591b7522c51759eb15f"
LABELS = "t10k-labels-idx1-ubyte"
PACKED = gzip.compress(b"12345678" * 100)


@pytest.fixture
def original():
    """The folder that HARNESS_DATA names, which holds MNIST/raw with the four .gz files."""
    folder = Path(os.environ.get("HARNESS_DATA", ""))
    if not all((folder / RAW / f"{name}.gz").exists() for name in FILES):
        pytest.skip("HARNESS_DATA names no folder with MNIST/raw and the four .gz files in it")
    return folder


@pytest.fixture
def copy(original, tmp_path):
    """A copy of the packed files that a test may damage."""
    (tmp_path / RAW).mkdir(parents=True)
    for name in FILES:
        shutil.copyfile(original / RAW / f"{name}.gz", tmp_path / RAW / f"{name}.gz")
    return tmp_path


@pytest.fixture
def offline(monkeypatch):
    """Nothing answers at MNIST's addresses."""
    from torchvision.datasets import MNIST

    monkeypatch.setattr(MNIST, "mirrors", ["http://127.0.0.1:9/"])


@pytest.fixture
def mirror(original, monkeypatch):
    """MNIST's address is a server on this machine."""
    from torchvision.datasets import MNIST

    class Quiet(SimpleHTTPRequestHandler):
        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=original / RAW)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        yield
        server.shutdown()


def damage(folder, name, content):
    file = folder / RAW / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_mnist_has_its_splits_and_its_pinned_content(original):
    data = images.load("mnist", [original])
    assert [len(split) for split in (data.train, data.validation, data.test)] == [50_000, 10_000, 10_000]
    assert data.train.images.dtype == np.uint8 and data.train.images.flags.writeable
    assert data.content_hash == CONTENT_HASH


def test_mnist_starts_with_the_known_labels(original):
    data = images.load("mnist", [original])
    assert data.train.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert data.validation.labels[:5].tolist() == [3, 8, 6, 9, 6]
    assert data.test.labels[:5].tolist() == [7, 2, 1, 0, 4]
    assert data.train.images.mean() / 255 == pytest.approx(0.1307, abs=5e-4)


def test_mnist_equals_what_torchvision_reads(copy):
    from torchvision.datasets import MNIST

    data = images.load("mnist", [copy])
    ours = np.concatenate([data.train.images, data.validation.images])
    np.testing.assert_array_equal(ours[:, 0], MNIST(copy, download=True).data.numpy())
    np.testing.assert_array_equal(data.test.labels, MNIST(copy, train=False).targets.numpy())


def test_unpacked_files_are_read_as_well_as_packed_ones(copy):
    packed = copy / RAW / f"{LABELS}.gz"
    (copy / RAW / LABELS).write_bytes(gzip.decompress(packed.read_bytes()))
    packed.unlink()
    assert images.load("mnist", [copy]).content_hash == CONTENT_HASH


def test_every_folder_is_looked_into_and_nothing_is_written(copy, tmp_path_factory):
    empty = tmp_path_factory.mktemp("empty")
    images.load("mnist", [empty, copy])
    assert not list(empty.iterdir())
    assert {file.name for file in (copy / RAW).iterdir()} == {f"{name}.gz" for name in FILES}


def test_a_truncated_file_is_named_and_nothing_is_overwritten(copy, offline):
    file = copy / RAW / f"{LABELS}.gz"
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(DataMissing, match=rf"{LABELS}\.gz cannot be read .*; delete it or replace it"):
        images.load("mnist", [copy])
    assert file.stat().st_size == 1000


@pytest.mark.parametrize(
    "content",
    [b"", b"no gzip", PACKED[:-6], PACKED[:10] + b"\xff" * 40],
    ids=["empty", "no gzip", "truncated", "overwritten"],
)
def test_a_damaged_packed_file_is_named_before_anything_is_downloaded(tmp_path, content):
    file = damage(tmp_path, f"{LABELS}.gz", content)
    with pytest.raises(DataMissing, match=rf"{LABELS}\.gz .*; delete it or replace it"):
        images.load("mnist", [tmp_path])
    assert file.read_bytes() == content and len(list(file.parent.iterdir())) == 1


@pytest.mark.parametrize(("name", "pack"), [(LABELS, bytes), (f"{LABELS}.gz", gzip.compress)])
def test_a_whole_file_with_other_labels_is_refused(tmp_path, name, pack):
    header = (2049).to_bytes(4) + (10_000).to_bytes(4)
    damage(tmp_path, name, pack(header + bytes(10_000)))
    with pytest.raises(DataMissing, match=f"{name} is not MNIST's file of that name"):
        images.load("mnist", [tmp_path])


def test_without_files_and_network_it_says_which_files_to_put_where(tmp_path, offline, capsys):
    with pytest.raises(DataMissing) as caught:
        images.load("mnist", [tmp_path / "first", tmp_path / "second"])
    message = str(caught.value)
    assert all(f"{name}.gz" in message for name in FILES) and str(tmp_path / "first" / RAW) in message
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())


def test_a_download_arrives_whole_and_keeps_stdout_clean(mirror, tmp_path, capsys):
    assert images.load("mnist", [tmp_path]).content_hash == CONTENT_HASH
    assert {file.name for file in (tmp_path / RAW).iterdir()} == {f"{name}.gz" for name in FILES}
    assert capsys.readouterr().out == ""


def test_what_a_torchvision_prints_does_not_reach_stdout(tmp_path, monkeypatch, capsys):
    from torchvision.datasets import MNIST

    def download(self):
        print("Downloading")
        raise RuntimeError("no network")

    monkeypatch.setattr(MNIST, "download", download)
    with pytest.raises(DataMissing, match="no network"):
        images.load("mnist", [tmp_path])
    assert capsys.readouterr() == ("", "Downloading\n")


def test_a_folder_that_cannot_be_made_says_which_files_to_put_where(tmp_path, offline):
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(DataMissing, match=r"put the files .*Downloading them failed"):
        images.load("mnist", [tmp_path / "file"])
