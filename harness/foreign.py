"""Samples from elsewhere: files, folders, exported generators, and images of the data set itself."""

from __future__ import annotations

import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.draws import Draws
from harness.errors import InputError, UnknownName
from harness.images import ImageSet, folder, unit
from harness.images.arrays import DAMAGED, as_images
from harness.metrics import frechet

Images = NDArray[Any]

TRAINING_IMAGES = "training-images"
K_MEANS = "k-means"
GAUSSIAN = "gaussian"
COMPANIONS = (TRAINING_IMAGES, K_MEANS, GAUSSIAN)
"""Sources that need no model; a table shows them beside models, whose numbers mean little alone."""

SPLITS = {"validation-images": "validation", "test-images": "test"}
OF_DATA = (*COMPANIONS, *SPLITS)
"""Sources that are images of the data set itself, or made of them."""

FILES = ("FILE.npz", "FILE.npy", "FILE.pt2")
LATENTS = ("normal", "uniform")

LARGEST_DEFAULT = 10_000
"""So many samples are taken where none are asked for."""

# 10,000 centroids of the 50,000 training images of MNIST take 30 s on one thread, and 319 nats under Parzen windows,
# where training images have 243. Two epochs more double the time, for 324 nats.
K_MEANS_IMAGES = 50_000
K_MEANS_EPOCHS = 2
K_MEANS_BATCH = 10_000

BLOCK = 250  # latents that an exported generator is given at once, where its batch is free


@dataclass(frozen=True, eq=False)
class ForeignSamples:
    """Samples (n, c, h, w), n >= 2, uint8 or float32 in [0, 1], in the shape of a data set's images.

    `source` says in words where they come from; `jpeg` that images came from JPEG files, so bear its traces.
    """

    images: Images
    source: str
    jpeg: bool = False


def read(
    source: str,
    data: ImageSet,
    n: int | None,
    *,
    trust_code: bool = False,
    latent: str = "normal",
    seed: int = 0,
) -> ForeignSamples:
    """n samples to set against a data set; where n is None all there are, at most 10,000.

    Sources:
    - "training-images": random ones, none twice before each was taken once;
    - "validation-images", "test-images": the first of the split;
    - "k-means": centroids of the training images (see `k_means`), equally often where fewer than n;
    - "gaussian": draws from the normal distribution of the training images' mean and covariance;
    - FILE.npz (key `images`), FILE.npy: the first in the file;
    - a folder of images, as the data set `folder` takes them: the first by path, or random ones of subfolders;
    - FILE.pt2: a generator written by torch.export.save, that maps latents (batch, ...) to images (batch, c, h, w) in
      [0, 1]. Its latents are "normal" or "uniform" on (-1, 1), of the shape that it was exported with. Since loading
      one may run code of its author's, `trust_code` must say so. Nothing else is unpickled.
    Everything random follows from `seed`. Arrays may have other orders of axes, as the data set `npz` takes them.

    Errors: InputError that names the source, for fewer than 2 samples or fewer than asked for, for what cannot be
    read, and for what is not images of the data set's shape in its range.
    """
    if n is not None and n < 2:
        raise InputError(f"{source}: {n} samples asked for; metrics need at least 2.")
    if source in COMPANIONS:
        return _of_companion(source, data, n, seed)
    if source in SPLITS:
        return _of_split(source, data, n)
    path = Path(source)
    if path.is_dir():
        return _of_folder(path, data, n, seed)
    if not path.exists():
        if not path.suffix and len(path.parts) == 1:  # rather a name than a path
            raise UnknownName("source of samples", source, (*COMPANIONS, *SPLITS, *FILES, "a folder"))
        raise InputError(f"{path} does not exist; give a file or a folder, or one of: {', '.join(COMPANIONS)}.")
    if path.suffix == ".pt2":
        return _of_generator(path, data, n, trust_code=trust_code, latent=latent, seed=seed)
    return _of_file(path, data, n)


def companion(name: str, data: ImageSet, n: int, *, seed: int = 0) -> Images:
    """What a companion, one of COMPANIONS, puts in the place of n samples.

    Exactly n of `training_images`, `gaussian` or `k_means`. Of fewer centroids than n each comes as often as any other,
    to within one.
    """
    if name not in COMPANIONS:
        raise UnknownName("companion", name, COMPANIONS)
    if name == TRAINING_IMAGES:
        return training_images(data, n, seed=seed)
    if name == GAUSSIAN:
        return gaussian(data, n, seed=seed)
    centroids = k_means(data, n, seed=seed)
    return centroids[np.arange(n) % len(centroids)]


def described(name: str, data: ImageSet, n: int) -> str:
    """A companion of n samples in words: its name, and how many centroids there are."""
    return f"{name}, {centroids_of(data, n)} centroids" if name == K_MEANS else name


def centroids_of(data: ImageSet, n: int) -> int:
    """How many centroids stand for n samples: n, or half as many as training images if that is less."""
    return max(1, min(n, len(data.train) // 2))


def training_images(data: ImageSet, n: int, *, seed: int = 0) -> Images:
    """n random training images, none twice before each was taken once: (n, c, h, w), uint8 or float32 in [0, 1]."""
    order = Draws([seed]).orders(TRAINING_IMAGES, 0, -(-n // len(data.train)), len(data.train)).flatten()
    return data.train.images[order[:n].numpy()]


def gaussian(data: ImageSet, n: int, *, seed: int = 0) -> NDArray[np.float32]:
    """n draws from the normal distribution of the training images' mean and covariance: float32 (n, c, h, w) in [0, 1].

    What falls outside [0, 1] is moved to its ends. A model that is no better has learnt two moments.
    """
    images = data.train.images[np.arange(len(data.train))]
    fitted = frechet.reference(frechet.moments(unit(images).reshape(len(images), -1)))
    normal = Draws([seed], dtype=torch.float64).normal(GAUSSIAN, 0, n, fitted.root.shape[1])[0]
    drawn = fitted.moments.mean + normal @ fitted.root.T
    result: NDArray[np.float32] = drawn.clamp(0, 1).float().numpy().reshape(-1, *data.shape)
    return result


def k_means(data: ImageSet, n: int, *, seed: int = 0) -> NDArray[np.float32]:
    """Centroids of the training images: float32 (centroids, c, h, w) in [0, 1].

    There are n, or half as many as training images if that is less: a centroid of one image is that image. Of more
    than 50,000 training images random ones are used. They start at random images and take two epochs of large
    batches: not the least distortion that k-means can reach, but enough to beat training images under Parzen windows.
    Source: Theis, van den Oord and Bethge, A note on the evaluation of generative models (2016), section 3.3.
    """
    from sklearn.cluster import MiniBatchKMeans

    images = unit(training_images(data, min(K_MEANS_IMAGES, len(data.train)), seed=seed))
    count = centroids_of(data, n)
    model = MiniBatchKMeans(
        n_clusters=count,
        init="random",
        init_size=max(count, min(K_MEANS_BATCH, len(images))),
        n_init=1,
        batch_size=K_MEANS_BATCH,
        max_iter=K_MEANS_EPOCHS,
        max_no_improvement=None,
        reassignment_ratio=0,
        compute_labels=False,
        random_state=seed,
    )
    centroids = model.fit(images.reshape(len(images), -1)).cluster_centers_
    # Rounding may leave a mean of ones above 1.
    result: NDArray[np.float32] = centroids.clip(0, 1).astype(np.float32).reshape(-1, *data.shape)
    return result


def _of_companion(name: str, data: ImageSet, n: int | None, seed: int) -> ForeignSamples:
    count = min(LARGEST_DEFAULT, len(data.train)) if n is None else n
    images = companion(name, data, count, seed=seed)
    _count(None, len(images), f"{name} of {data.name}")
    return ForeignSamples(images, described(name, data, count), data.jpeg)


def _of_split(name: str, data: ImageSet, n: int | None) -> ForeignSamples:
    split = getattr(data, SPLITS[name])
    count = _count(n, len(split), f"{name} of {data.name}")
    return ForeignSamples(split.images[np.arange(count)], name, data.jpeg)


def _of_folder(path: Path, data: ImageSet, n: int | None, seed: int) -> ForeignSamples:
    """Images of a folder; of subfolders random ones, since the first would be those of the first subfolders."""
    files = folder.image_files(path)
    count = _count(n, len(files), str(path))
    paths = list(files)
    if None not in files.values():
        order = Draws([seed]).orders("folder", 0, 1, len(paths))[0, 0, :count]
        paths = [paths[place] for place in sorted(order.tolist())]
    headers = {file: folder.read_header(file) for file in paths[:count]}
    shape = folder.common_shape(headers)
    _require_shape(shape, data, where=str(path))
    jpeg = any(header.format in folder.JPEG_FORMATS for header in headers.values())
    images = folder.ImageFiles(tuple(headers), tuple(header.sha256 for header in headers.values()), shape)
    return ForeignSamples(images[np.arange(count)], str(path), jpeg)


def _of_file(path: Path, data: ImageSet, n: int | None) -> ForeignSamples:
    images = _checked(_read_array(path), data, where=str(path))
    return ForeignSamples(images[: _count(n, len(images), str(path))], str(path))


def _read_array(path: Path) -> NDArray[Any]:
    """The array in an .npy file, or the array `images` of an .npz file."""
    try:
        with open(path, "rb") as file:  # opened here, because numpy leaves a damaged file open
            content = np.load(file, allow_pickle=False)
            if isinstance(content, np.ndarray):
                return content
            if "images" not in content:
                raise InputError(f"{path} has no array `images`; it holds: {', '.join(content.files)}.")
            images: NDArray[Any] = content["images"]
            return images
    except DAMAGED:
        raise InputError(f"{path} is no .npz or .npy file of plain numbers, or is damaged; write it anew.") from None


def _of_generator(
    path: Path, data: ImageSet, n: int | None, *, trust_code: bool, latent: str, seed: int
) -> ForeignSamples:
    if latent not in LATENTS:
        raise UnknownName("latent distribution", latent, LATENTS)
    if not trust_code:
        raise InputError(
            f"{path} is an exported program, and loading one may run code that its author put there; if you trust "
            "it, give --trust-code."
        )
    generator = _Generator.load(path)
    count = LARGEST_DEFAULT if n is None else n
    blocks = []
    with torch.random.fork_rng():  # a program may draw numbers of its own
        torch.manual_seed(seed)
        for first in range(0, count, generator.batch):
            images = generator(_latents(generator, latent, first, seed))
            blocks.append(_checked(images, data, where=f"what {path} generates"))
    return ForeignSamples(np.concatenate(blocks)[:count], f"{path}, {latent} latents, seed {seed}")


def _latents(generator: _Generator, latent: str, first: int, seed: int) -> Tensor:
    """A block of latents (batch, ...) from row `first` on, of numbers that do not depend on the block's size."""
    draws = Draws([seed]).whole(offset=first)
    width = int(np.prod(generator.latent_shape))
    if latent == "normal":
        values = draws.normal("foreign latents", 0, generator.batch, width)
    else:
        values = 2 * draws.uniform("foreign latents", 0, generator.batch, width) - 1
    return values.view(generator.batch, *generator.latent_shape)


@dataclass(frozen=True, eq=False)
class _Generator:
    """An exported program that maps latents (batch, *latent_shape) to images, always given `batch` of them."""

    path: Path
    module: Callable[[Tensor], Any]
    batch: int
    latent_shape: tuple[int, ...]
    dtype: torch.dtype
    device: torch.device

    @classmethod
    def load(cls, path: Path) -> _Generator:
        if not zipfile.is_zipfile(path):  # torch would tell of it at length
            raise InputError(f"{path} is no exported program, or is damaged; write it with torch.export.save.")
        try:
            program = torch.export.load(path)
            module = program.module()
        except Exception as error:  # a foreign program may fail in any way
            raise InputError(f"{path} cannot be loaded as an exported program ({_first_line(error)}).") from error
        names = program.graph_signature.user_inputs
        inputs = [node.meta["val"] for node in program.graph.nodes if node.op == "placeholder" and node.name in names]
        if len(inputs) != 1 or not isinstance(inputs[0], Tensor) or not inputs[0].is_floating_point():
            raise InputError(f"{path} takes other input than one tensor of floats; export a generator of latents.")
        [latents] = inputs
        batch, *shape = latents.shape or [0]
        if not shape or not all(isinstance(size, int) for size in shape):
            raise InputError(f"{path} takes latents {tuple(latents.shape)}; fix all axes but the first, (batch, ...).")
        if not isinstance(batch, int):
            limits = program.range_constraints.get(batch.node.expr)
            batch = BLOCK if limits is None else int(max(limits.lower, min(BLOCK, limits.upper)))
        return cls(path, module, batch, tuple(shape), latents.dtype, latents.device)

    def __call__(self, latents: Tensor) -> NDArray[Any]:
        """Images (batch, c, h, w) as the program gives them, floats as float32."""
        try:
            with torch.no_grad():
                images = self.module(latents.to(self.device, self.dtype))
        except Exception as error:  # a foreign program may fail in any way
            raise InputError(f"{self.path} fails on latents {tuple(latents.shape)} ({_first_line(error)}).") from error
        if not isinstance(images, Tensor) or images.ndim == 0 or len(images) != len(latents):
            raise InputError(f"{self.path} does not give an image a latent; export one that gives (batch, c, h, w).")
        result: NDArray[Any] = (images.float() if images.is_floating_point() else images).cpu().numpy()
        return result


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)


def _count(n: int | None, held: int, where: str) -> int:
    """How many samples to take of those that are there."""
    if held < 2:
        raise InputError(f"{where} holds {held} images; metrics need at least 2.")
    if n is not None and n > held:
        raise InputError(f"{where} holds {held} images, {n} were asked for; ask for at most {held}, or add images.")
    return min(LARGEST_DEFAULT, held) if n is None else n


def _checked(array: NDArray[Any], data: ImageSet, *, where: str) -> Images:
    """Images of the data set's shape, uint8 or float32 in [0, 1]; `where` names them in the errors."""
    if array.size == 0:
        raise InputError(f"{where} holds no images (shape {array.shape}); metrics need at least 2.")
    if array.dtype.kind == "f":
        _require_unit_range(array, where)
        array = array.astype(np.float32)
    elif array.dtype != np.uint8:
        raise InputError(f"{where} holds values of type {array.dtype}; give uint8, or floats in [0, 1].")
    if array.shape[1:] != data.shape:  # other orders of axes
        array = as_images(array, where=where)
    _require_shape(array.shape[1:], data, where=where)
    return array


def _require_unit_range(array: NDArray[Any], where: str) -> None:
    smallest, largest = array.min(), array.max()
    if smallest >= 0 and largest <= 1:
        return
    problem = f"{where} holds values from {smallest:g} to {largest:g}; images lie in [0, 1]"
    if not np.isfinite([smallest, largest]).all():
        raise InputError(f"{problem}. Leave out what is not a number, or mend the model.")
    if smallest >= -1 and largest <= 1:
        raise InputError(f"{problem}. These look like [-1, 1]: rescale them by (x + 1) / 2.")
    if smallest >= 0 and largest <= 255:
        raise InputError(f"{problem}. These look like [0, 255]: store them as uint8.")
    raise InputError(f"{problem}. Rescale them, or clip what exceeds it if the model means that.")


def _require_shape(shape: tuple[int, ...], data: ImageSet, *, where: str) -> None:
    if shape == data.shape:
        return
    kinds = {1: "grey", 3: "RGB"}
    advice = "resize or convert them"
    if shape[1:] == data.shape[1:] and {shape[0], data.shape[0]} == kinds.keys():
        advice = f"they are {kinds[shape[0]]}, convert them to {kinds[data.shape[0]]}"
    raise InputError(f"{where} holds images of shape {shape}, those of {data.name} have {data.shape}; {advice}.")
