"""The real files cannot be had here: tests write their format, pickles of Python 2, opcode by opcode."""

import hashlib
import os
import pickle
import struct
import tarfile
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import numpy as np
import pytest

from harness import images
from harness.errors import DataMissing
from harness.images.cifar10 import BATCHES, FILES, TEST, TRAIN, VALIDATION

N = 6  # images of a batch
PARTS = {"TRAIN": TRAIN, "VALIDATION": VALIDATION, "TEST": TEST}


def string(value):
    """A str of Python 2, which is bytes."""
    short = len(value) < 256
    head = pickle.SHORT_BINSTRING + bytes([len(value)]) if short else pickle.BINSTRING + struct.pack("<i", len(value))
    return head + value


def number(value):
    return pickle.BININT + struct.pack("<i", value)


def name(module, attribute):
    return pickle.GLOBAL + f"{module}\n{attribute}\n".encode()


def group(*parts):
    return pickle.MARK + b"".join(parts) + pickle.TUPLE


def array(values, *, fortran):
    """An array as numpy pickled it under Python 2."""
    dtype = name("numpy", "dtype") + group(string(b"u1"), number(0), number(1)) + pickle.REDUCE
    nothing = [pickle.NONE] * 3
    dtype += group(number(3), string(b"|"), *nothing, number(-1), number(-1), number(0)) + pickle.BUILD
    begun = group(name("numpy", "ndarray"), group(number(0)), string(b"b"))
    content = string(values.tobytes("F" if fortran else "C"))
    is_fortran = pickle.NEWTRUE if fortran else pickle.NEWFALSE
    state = group(number(1), group(*map(number, values.shape)), dtype, is_fortran, content)
    return name("numpy.core.multiarray", "_reconstruct") + begun + pickle.REDUCE + state + pickle.BUILD


def batch(values, labels, *, fortran=False):
    """The file of a batch of images (n, 3072)."""
    items = [
        (b"batch_label", string(b"training batch 1 of 5")),
        (b"labels", pickle.EMPTY_LIST + pickle.MARK + b"".join(map(number, labels)) + pickle.APPENDS),
        (b"data", array(values, fortran=fortran)),
        (b"filenames", pickle.EMPTY_LIST + pickle.MARK + string(b"leptodactylus.png") * len(labels) + pickle.APPENDS),
    ]
    pairs = b"".join(string(key) + value for key, value in items)
    return pickle.PROTO + b"\x02" + pickle.EMPTY_DICT + pickle.MARK + pairs + pickle.SETITEMS + pickle.STOP


def contents():
    """Images and labels of each batch, by its name."""
    rng = np.random.default_rng(0)
    return {name: (rng.integers(0, 256, (N, 3072), np.uint8), rng.permutation(10)[:N]) for name in FILES}


def known_as(monkeypatch, name, content):
    """Make a file's content the one that is expected of it."""
    digest = hashlib.md5(content, usedforsecurity=False).hexdigest()
    for table in (FILES, *(part for part in PARTS.values() if name in part)):
        monkeypatch.setitem(table, name, digest)


@pytest.fixture
def stored(tmp_path, monkeypatch):
    """A folder with six small batches that pass for CIFAR-10's, every other in Fortran's order; and what they hold."""
    (tmp_path / BATCHES).mkdir()
    held = contents()
    for place, (name, (values, labels)) in enumerate(held.items()):
        content = batch(values, labels, fortran=place % 2 == 1)
        (tmp_path / BATCHES / name).write_bytes(content)
        known_as(monkeypatch, name, content)
    return tmp_path, held


@pytest.fixture
def offline(monkeypatch):
    """Nothing answers at CIFAR-10's address."""
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "url", "http://127.0.0.1:9/cifar-10-python.tar.gz")


def test_the_hashes_are_those_that_torchvision_knows():
    from torchvision.datasets import CIFAR10

    assert list(map(list, FILES.items())) == CIFAR10.train_list + CIFAR10.test_list
    assert str(BATCHES) == CIFAR10.base_folder


def test_four_batches_are_for_training_the_fifth_for_validation(stored):
    folder, held = stored
    data = images.load("cifar10", [folder])
    assert [len(split) for split in (data.train, data.validation, data.test)] == [4 * N, N, N]
    for split, names in ((data.train, list(FILES)[:4]), (data.validation, ["data_batch_5"]), (data.test, TEST)):
        values = np.concatenate([held[name][0] for name in names])
        np.testing.assert_array_equal(split.images, values.reshape(-1, 3, 32, 32))
        np.testing.assert_array_equal(split.labels, np.concatenate([held[name][1] for name in names]))


def test_images_are_contiguous_writable_bytes_of_three_channels(stored):
    data = images.load("cifar10", [stored[0]])
    assert data.shape == (3, 32, 32) and data.classes == 10 and not data.jpeg
    for split in (data.train, data.validation, data.test):
        assert split.images.dtype == np.uint8 and split.labels.dtype == np.int64
        assert split.images.flags.c_contiguous and split.images.flags.writeable


def test_a_batch_is_read_as_torchvision_reads_it(stored, monkeypatch):
    from torchvision.datasets import CIFAR10

    folder, _ = stored
    meta = pickle.dumps({"label_names": list("abcdefghij")}, protocol=2)
    (folder / BATCHES / "batches.meta").write_bytes(meta)
    monkeypatch.setattr(CIFAR10, "train_list", [list(item) for item in (TRAIN | VALIDATION).items()])
    monkeypatch.setattr(CIFAR10, "test_list", [list(item) for item in TEST.items()])
    monkeypatch.setitem(CIFAR10.meta, "md5", hashlib.md5(meta, usedforsecurity=False).hexdigest())
    data = images.load("cifar10", [folder])
    theirs = CIFAR10(folder, train=False)
    np.testing.assert_array_equal(data.test.images, theirs.data.transpose(0, 3, 1, 2))
    assert data.test.labels.tolist() == theirs.targets


def test_a_damaged_file_is_named_before_anything_is_downloaded(stored, offline):
    folder, _ = stored
    file = folder / BATCHES / "data_batch_3"
    content = file.read_bytes()
    file.write_bytes(content[:-100])
    with pytest.raises(DataMissing, match=r"data_batch_3 is not CIFAR-10's file of that name; delete it or replace it"):
        images.load("cifar10", [folder])
    assert file.read_bytes() == content[:-100]


def test_a_folder_in_the_place_of_a_file_is_named(stored):
    folder, _ = stored
    (folder / BATCHES / "test_batch").unlink()
    (folder / BATCHES / "test_batch").mkdir()
    with pytest.raises(DataMissing, match=r"test_batch cannot be read"):
        images.load("cifar10", [folder])


class Evil:
    """Unpickled, it leaves a file behind."""

    def __init__(self, trace):
        self.trace = trace

    def __reduce__(self):
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("hash_is_known", [False, True])
def test_a_pickle_that_would_run_code_does_not(hash_is_known, stored, monkeypatch, tmp_path_factory):
    folder, _ = stored
    trace = tmp_path_factory.mktemp("evil") / "trace"
    content = pickle.dumps({"data": Evil(trace), "labels": []})
    pickle.loads(content)
    trace.rmdir()  # so it would run
    (folder / BATCHES / "data_batch_2").write_bytes(content)
    if hash_is_known:
        known_as(monkeypatch, "data_batch_2", content)
    refusal = (pickle.UnpicklingError, "no use for") if hash_is_known else (DataMissing, "is not CIFAR-10's file")
    with pytest.raises(refusal[0], match=refusal[1]):
        images.load("cifar10", [folder])
    assert not trace.exists()


def test_without_files_and_network_it_says_which_files_to_put_where(tmp_path, offline, capsys):
    with pytest.raises(DataMissing) as caught:
        images.load("cifar10", [tmp_path / "first", tmp_path / "second"])
    message = str(caught.value)
    assert all(name in message for name in FILES) and str(tmp_path / "first" / BATCHES) in message
    assert capsys.readouterr().out == "" and not list(tmp_path.iterdir())


def test_the_archive_is_downloaded_unpacked_and_kept_without_being_unpickled(
    stored, tmp_path_factory, monkeypatch, capsys
):
    from torchvision.datasets import CIFAR10

    folder, held = stored
    (folder / BATCHES / "batches.meta").write_bytes(b"no pickle")
    served, empty = tmp_path_factory.mktemp("served"), tmp_path_factory.mktemp("empty")
    with tarfile.open(served / CIFAR10.filename, "w:gz") as archive:
        archive.add(folder / BATCHES, BATCHES)
    digest = hashlib.md5((served / CIFAR10.filename).read_bytes(), usedforsecurity=False).hexdigest()
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=served)) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("no_proxy", "127.0.0.1")
        monkeypatch.setattr(CIFAR10, "url", f"http://127.0.0.1:{server.server_port}/{CIFAR10.filename}")
        monkeypatch.setattr(CIFAR10, "tgz_md5", digest)
        data = images.load("cifar10", [empty])
        server.shutdown()
    np.testing.assert_array_equal(data.test.images.reshape(N, -1), held["test_batch"][0])
    assert {file.name for file in (empty / BATCHES).iterdir()} == set(FILES)
    assert [file.name for file in empty.iterdir()] == [str(BATCHES)]
    assert capsys.readouterr().out == ""


class Quiet(SimpleHTTPRequestHandler):
    def log_message(self, *args):
        pass
