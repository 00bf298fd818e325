import io
import random
import struct

import numpy as np
import pytest
from scipy.io import loadmat, savemat

from harness.images import matlab

NUMBERS = {
    "bytes": np.random.default_rng(0).integers(0, 256, (5, 4, 3), np.uint8),
    "vector": np.arange(-3, 4, dtype=np.int16),
    "matrix": np.linspace(-1, 1, 12).reshape(3, 4),
    "small": np.float32(3),
    "empty": np.zeros((0, 3)),
}
OTHERS = {
    "cell": np.array([1, "a"], dtype=object),
    "structure": {"a": 1, "b": "text"},
    "text": "text",
    "complex": np.array([1j]),
}


def saved(variables, **options):
    file = io.BytesIO()
    savemat(file, variables, **options)
    return file.getvalue()


@pytest.mark.parametrize("do_compression", [False, True])
def test_numbers_are_what_scipy_reads_and_all_else_is_left_out(do_compression):
    content = saved(OTHERS | NUMBERS, do_compression=do_compression)
    found, expected = matlab.arrays(content), loadmat(io.BytesIO(content))
    assert found.keys() == NUMBERS.keys()
    for name, array in found.items():
        assert array.dtype == expected[name].dtype
        np.testing.assert_array_equal(array, expected[name])


@pytest.mark.parametrize("do_compression", [False, True])
def test_damage_is_a_value_error_and_nothing_worse(do_compression):
    content = saved(OTHERS | NUMBERS, do_compression=do_compression)
    refused = 0
    for seed in range(2000):
        rng, damaged = random.Random(seed), bytearray(content)
        for _ in range(rng.choice([1, 3, 10])):
            damaged[rng.randrange(128, len(damaged))] = rng.randrange(256)
        try:
            matlab.arrays(bytes(damaged[: rng.choice([None, rng.randrange(len(damaged))])]))
        except ValueError:
            refused += 1
    assert refused > 500


def test_a_type_that_no_file_may_name_is_refused():
    """scipy takes it for an address."""
    content = bytearray(saved({"x": np.arange(100.0)}))
    place = content.index(struct.pack("<II", 9, 800))
    content[place] = 200
    with pytest.raises(ValueError, match="an array without numbers"):
        matlab.arrays(bytes(content))


@pytest.mark.parametrize(
    "content", [b"", b"no file", saved({"x": 1}, format="4"), b"\x89HDF" * 31 + b"\x00\x02IM"], ids=len
)
def test_files_of_other_versions_are_refused(content):
    with pytest.raises(ValueError, match="no file of version 5 to 7"):
        matlab.arrays(content)
