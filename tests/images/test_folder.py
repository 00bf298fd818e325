import numpy as np
import pytest
from PIL import Image

from harness import images
from harness.errors import DataMissing, InputError, UnknownName

RGB = np.random.default_rng(5).integers(0, 256, size=(60, 4, 6, 3), dtype=np.uint8)


def write(folder, pixels, *, first=0, suffix=".png"):
    folder.mkdir(parents=True, exist_ok=True)
    for number, image in enumerate(pixels, start=first):
        Image.fromarray(image).save(folder / f"{number:03}{suffix}")


def write_splits(folder, pixels=RGB):
    write(folder / "train", pixels[:6])
    write(folder / "validation", pixels[6:9])
    write(folder / "test", pixels[9:12])


def all_of(split):
    return split.images[np.arange(len(split))]


def test_pixels_come_back_as_they_were_written(tmp_path):
    write_splits(tmp_path / "own")
    data = images.load("folder:own", [tmp_path])
    assert data.shape == (3, 4, 6) and data.name == "folder:own" and not data.jpeg and data.classes is None
    np.testing.assert_array_equal(all_of(data.train), RGB[:6].transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(data.test.images[np.array([2, 0])], RGB[[11, 9]].transpose(0, 3, 1, 2))


def test_grey_images_have_one_channel(tmp_path):
    write_splits(tmp_path, RGB[..., 0])
    data = images.load(f"folder:{tmp_path}", [])
    assert data.shape == (1, 4, 6)
    np.testing.assert_array_equal(all_of(data.validation), RGB[6:9, None, :, :, 0])


def test_no_index_gives_no_images(tmp_path):
    write_splits(tmp_path)
    none = images.load(f"folder:{tmp_path}", []).train.images[np.arange(0)]
    assert none.shape == (0, 3, 4, 6) and none.dtype == np.uint8


def test_subfolders_are_classes_in_the_order_of_their_names(tmp_path):
    for split in ("train", "validation", "test"):
        write(tmp_path / split / "dog", RGB[:2])
        write(tmp_path / split / "cat", RGB[2:5])
    data = images.load(f"folder:{tmp_path}", [])
    assert data.classes == 2 and data.train.labels.dtype == np.int64
    assert data.train.labels.tolist() == [0, 0, 0, 1, 1]
    np.testing.assert_array_equal(all_of(data.train)[3], RGB[0].transpose(2, 0, 1))


def test_images_directly_in_the_folder_are_split_by_their_names(tmp_path):
    write(tmp_path, RGB)
    data = images.load(f"folder:{tmp_path}", [])
    names = [{file.name for file in split.images.paths} for split in (data.train, data.validation, data.test)]
    assert len(set.union(*names)) == sum(map(len, names)) == 60
    assert len(names[0]) > 38 and names[1] and names[2]


def test_a_new_file_moves_no_other(tmp_path):
    write(tmp_path, RGB[:50])
    before = images.load(f"folder:{tmp_path}", [])
    write(tmp_path, RGB[50:], first=50)
    after = images.load(f"folder:{tmp_path}", [])
    for name in ("train", "validation", "test"):
        assert set(getattr(before, name).images.paths) <= set(getattr(after, name).images.paths)


def test_the_folder_and_its_place_do_not_decide_the_split(tmp_path):
    write(tmp_path / "a", RGB)
    write(tmp_path / "elsewhere" / "b", RGB)
    data = [images.load(f"folder:{name}", [tmp_path]) for name in ("a", "elsewhere/b")]
    assert data[0].content_hash == data[1].content_hash


def test_class_folders_without_splits_are_split_too(tmp_path):
    write(tmp_path / "a", RGB[:30])
    write(tmp_path / "b", RGB[30:])
    data = images.load(f"folder:{tmp_path}", [])
    assert data.classes == 2 and set(data.train.labels.tolist()) == {0, 1}
    assert len(data.train) + len(data.validation) + len(data.test) == 60


def test_without_a_validation_folder_a_tenth_of_train_is_taken(tmp_path):
    write(tmp_path / "train", RGB)
    write(tmp_path / "test", RGB[:3])
    data = images.load(f"folder:{tmp_path}", [])
    assert len(data.train) + len(data.validation) == 60 and 1 <= len(data.validation) <= 15
    assert len(data.test) == 3


def test_jpeg_files_are_flagged_by_content_not_by_name(tmp_path):
    write_splits(tmp_path)
    Image.fromarray(RGB[0]).save(tmp_path / "train" / "000.png", format="JPEG")
    assert images.load(f"folder:{tmp_path}", []).jpeg


def test_hidden_files_and_other_files_are_left_out(tmp_path):
    write_splits(tmp_path)
    write(tmp_path / "train" / ".thumbnails", RGB[:1])
    (tmp_path / "train" / "notes.txt").write_text("not an image")
    assert len(images.load(f"folder:{tmp_path}", []).train) == 6


def test_the_content_hash_follows_the_files_not_the_path(tmp_path):
    write_splits(tmp_path / "a")
    write_splits(tmp_path / "b")
    write_splits(tmp_path / "c", RGB[::-1])
    a, b, c = (images.load(f"folder:{name}", [tmp_path]).content_hash for name in "abc")
    assert a == b != c


@pytest.mark.parametrize(
    ("odd", "message"),
    [
        (RGB[0, :3], "6 x 3 pixels of mode RGB, .*000.png is 6 x 4"),
        (RGB[0, ..., 0], "6 x 4 pixels of mode L"),
        (np.zeros((4, 6, 4), np.uint8), "Pillow mode 'RGBA'; convert it"),
    ],
)
def test_the_first_odd_image_is_named(tmp_path, odd, message):
    write_splits(tmp_path)
    Image.fromarray(odd).save(tmp_path / "train" / "003.png")
    with pytest.raises(InputError, match=rf"train/003\.png (is|has) {message}"):
        images.load(f"folder:{tmp_path}", [])


def test_a_file_that_is_no_image_is_named(tmp_path):
    write_splits(tmp_path)
    (tmp_path / "test" / "001.png").write_text("not an image")
    with pytest.raises(InputError, match=r"test/001\.png cannot be read as an image"):
        images.load(f"folder:{tmp_path}", [])


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif", ".webp", ".ppm"])
def test_a_truncated_file_is_named_when_it_is_decoded(tmp_path, suffix):
    write(tmp_path, np.tile(RGB, (1, 20, 20, 1)), suffix=suffix)
    file = tmp_path / f"000{suffix}"
    file.write_bytes(file.read_bytes()[:-2000])
    with pytest.raises(InputError, match=rf"000\{suffix} cannot be read as an image"):
        data = images.load(f"folder:{tmp_path}", [])
        for split in (data.train, data.validation, data.test):
            all_of(split)


def test_a_folder_beside_the_splits_is_refused(tmp_path):
    write_splits(tmp_path)
    (tmp_path / "validation").rename(tmp_path / "valid")
    with pytest.raises(UnknownName, match="unknown folder 'valid'.* Did you mean 'validation'"):
        images.load(f"folder:{tmp_path}", [])


def test_a_split_without_images_is_named(tmp_path):
    write(tmp_path / "train", RGB)
    with pytest.raises(InputError, match="no images for the test split; put some into .*/test"):
        images.load(f"folder:{tmp_path}", [])


def test_images_beside_class_folders_are_refused(tmp_path):
    write(tmp_path, RGB[:3])
    write(tmp_path / "cat", RGB[3:6])
    with pytest.raises(InputError, match=r"images and a folder of images \(cat\)"):
        images.load(f"folder:{tmp_path}", [])


def test_a_missing_folder_and_a_file_in_its_place_are_told_apart(tmp_path):
    with pytest.raises(DataMissing, match="nothing at .*/own"):
        images.load("folder:own", [tmp_path])
    (tmp_path / "own").write_bytes(b"")
    with pytest.raises(InputError, match="is not a folder"):
        images.load("folder:own", [tmp_path])
