"""The real file is not public: tests write small ones of its layout."""

import numpy as np
import pytest
from scipy.io import savemat

from harness import images
from harness.errors import DataMissing, InputError
from harness.grid import load_grid
from harness.images.tfd import FILE
from harness.metrics import features
from harness.plan import plan, stacks

N = 40
LABELLED = 25  # the last of the images


def layout():
    """What a small file holds: in each fold other images are for training, validation and test."""
    rng = np.random.default_rng(0)
    folds = np.zeros((N, 5), np.uint8)
    for fold in range(5):
        folds[-LABELLED:, fold] = rng.permutation([1] * 15 + [2] * 4 + [3] * 6)
    expressions = np.full((N, 1), -1.0)
    expressions[-LABELLED:, 0] = np.arange(LABELLED) % 7 + 1
    return {
        "images": rng.integers(0, 256, (N, 48, 48), np.uint8),
        "folds": folds,
        "labs_ex": expressions,
        "labs_id": np.arange(N, dtype=np.int16)[:, None],
    }


def store(folder, **changes):
    """Write a file that differs from the layout in some keys; None takes one away."""
    content = {key: value for key, value in (layout() | changes).items() if value is not None}
    savemat(folder / FILE, content, do_compression=True)
    return folder


@pytest.mark.parametrize("fold", range(5))
def test_a_fold_trains_on_the_unlabelled_images_alone(fold, tmp_path):
    data, held = images.load(f"tfd:{fold}", [store(tmp_path)]), layout()
    says = held["folds"][:, fold]
    for split, mask in ((data.train, says == 0), (data.validation, says == 2), (data.test, says == 3)):
        np.testing.assert_array_equal(split.images[:, 0], held["images"][mask])
        assert split.images.dtype == np.uint8 and split.images.flags.c_contiguous and split.images.flags.writeable
    assert [len(split) for split in (data.train, data.validation, data.test)] == [15, 4, 6]


def test_held_out_images_have_their_expression_and_training_images_no_label(tmp_path):
    data, held = images.load("tfd:2", [store(tmp_path)]), layout()
    assert data.train.labels is None and data.classes == 7
    for split, part in ((data.validation, 2), (data.test, 3)):
        expected = held["labs_ex"][held["folds"][:, 2] == part, 0] - 1
        assert split.labels.dtype == np.int64 and split.labels.tolist() == expected.tolist()


def test_without_a_fold_it_is_fold_0_and_folds_have_content_of_their_own(tmp_path):
    store(tmp_path)
    hashes = [images.load(f"tfd:{fold}", [tmp_path]).content_hash for fold in range(5)]
    alone = images.load("tfd", [tmp_path])
    assert (alone.name, alone.content_hash) == ("tfd:0", hashes[0]) and len(set(hashes)) == 5


@pytest.mark.parametrize("fold", ["", "5", "-1", "00", "1.0", FILE])
def test_a_fold_that_is_none_is_refused(fold, tmp_path):
    with pytest.raises(InputError, match=rf"data set 'tfd:{fold}': its folds are 0 to 4; write 'tfd:0'"):
        images.load(f"tfd:{fold}", [store(tmp_path)])


def test_without_the_file_it_says_which_to_put_where(tmp_path):
    with pytest.raises(DataMissing, match=f"is not public: get {FILE} from its keepers and put it into {tmp_path}"):
        images.load("tfd", [tmp_path, tmp_path / "other"])


def test_every_folder_is_looked_into(tmp_path):
    (tmp_path / "own").mkdir()
    store(tmp_path / "own")
    assert images.load("tfd", [tmp_path, tmp_path / "own"]).shape == (1, 48, 48)


OBJECTS = np.array([{"a": 1}, "b"], dtype=object)
WRONG = {
    "no images": ({"images": None}, "has no array of numbers images"),
    "objects": ({"images": OBJECTS}, "has no array of numbers images"),
    "objects as folds": ({"folds": OBJECTS}, "has no array of numbers folds"),
    "no expressions": ({"labs_ex": None}, "has no array of numbers labs_ex"),
    "another size": (
        {"images": np.zeros((N, 96, 96), np.uint8)},
        r"images holds uint8 of shape \(40, 96, 96\), where TFD has uint8 of shape \(n, 48, 48\)",
    ),
    "floats": ({"images": np.full((N, 48, 48), 0.5)}, "images holds float64"),
    "four folds": ({"folds": np.ones((N, 4), np.uint8)}, r"folds holds .* where TFD has whole numbers from 0 to 3"),
    "a fold's number": ({"folds": np.full((N, 5), 4, np.uint8)}, "folds holds uint8"),
    "half a fold": ({"folds": np.full((N, 5), 0.5)}, "folds holds float64"),
    "expressions of fewer": ({"labs_ex": np.ones((N - 1, 1), np.uint8)}, "labs_ex holds uint8"),
    "an expression": ({"labs_ex": np.full((N, 1), 8, np.uint8)}, "labs_ex holds uint8 .* from 1 to 7, or -1"),
    "no test images": ({"folds": np.array([[0] * 5] * 39 + [[2] * 5], np.uint8)}, "fold 0 has no test images"),
    "no unlabelled images": ({"folds": np.full((N, 5), 3, np.uint8)}, "fold 0 has no unlabelled images"),
}


@pytest.mark.parametrize(("changes", "message"), WRONG.values(), ids=WRONG)
def test_what_is_not_the_database_is_named(changes, message, tmp_path):
    with pytest.raises(DataMissing, match=message) as caught:
        images.load("tfd", [store(tmp_path, **changes)])
    assert "replace the file by the original" in str(caught.value) or "replace it by the original" in str(caught.value)


def test_a_damaged_file_is_named(tmp_path):
    file = store(tmp_path) / FILE
    file.write_bytes(file.read_bytes()[:-100])
    with pytest.raises(DataMissing, match=rf"{FILE} cannot be read as a \.mat file"):
        images.load("tfd", [tmp_path])


def test_faces_without_labels_are_not_told_to_fit_a_classifier(tmp_path):
    data = images.load("tfd", [store(tmp_path)])
    with pytest.raises(InputError, match=r"data set 'tfd:0' .* has no labels to fit one to; name another extractor"):
        features.default_extractor(data)


GRID = """
name = "faces"
seeds = [0]
[experiment]
model = "mlp"
iterations = 1
batch_size = 10
optimizer = {name = "SGD", lr = 0.1}
[axes]
dataset = DATASETS
"""


def planned(folder, datasets):
    path = folder / "faces.toml"
    path.write_text(GRID.replace("DATASETS", datasets))
    return plan(load_grid(str(path)), [store(folder)])


def test_folds_are_runs_of_their_own_in_stacks_of_their_own(tmp_path):
    runs = planned(tmp_path, '["tfd:0", "tfd:1"]').runs
    assert len({run.id for run in runs}) == 2 and len(stacks(runs, 8)) == 2
    assert [run.experiment.canonical()["dataset"] for run in runs] == ["tfd", "tfd"]


def test_the_default_fold_and_its_name_are_one_experiment(tmp_path):
    with pytest.raises(InputError, match="are the same experiment"):
        planned(tmp_path, '["tfd", "tfd:0"]')
