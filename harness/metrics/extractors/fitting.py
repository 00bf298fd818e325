"""Fits an in-domain classifier to a data set's labels, the same way for every data set."""

from __future__ import annotations

import math
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from harness import images
from harness.errors import InputError
from harness.images import ImageSet, Split
from harness.metrics.extractors import SUFFIX, classifier
from harness.metrics.extractors.classifier import Network, Record, check_output
from harness.metrics.features import quantised

STEPS = 5000

_BATCH = 128
_LEARNING_RATE = 3e-3  # the highest of the one-cycle schedule
_WEIGHT_DECAY = 1e-2
_SIDE_PER_SHIFT = 14  # images move by up to a fourteenth of their smaller side, at least a pixel
_IMAGES_AT_ONCE = 500

Progress = Callable[[int], None]


@dataclass(frozen=True)
class Fitted:
    """A fitted network in evaluation mode, and its record."""

    network: Network
    record: Record


def fit_to_file(
    dataset: str,
    output: Path,
    *,
    folders: Sequence[Path],
    steps: int = STEPS,
    seed: int = 0,
    progress: Progress | None = None,
) -> Record:
    """Fit a classifier to the data set of that name, write it to a .safetensors file, and give its record.

    Errors: InputError for an output of another kind, before anything is computed; those of `harness.images.load`,
    `fit` and `write`.
    """
    if output.suffix != SUFFIX or output.is_dir():
        raise InputError(f"the weights are written to a {SUFFIX} file, not to {output}; give such a name.")
    check_output(output)
    fitted = fit(images.load(dataset, folders), steps=steps, seed=seed, progress=progress)
    write(fitted, output)
    return fitted.record


def fit(data: ImageSet, *, steps: int = STEPS, seed: int = 0, progress: Progress | None = None) -> Fitted:
    """A classifier fitted to the labels of the training images, on the CPU in float32.

    Mean cross-entropy over batches of 128, drawn with replacement and shifted by some pixels at random (no mirror
    images: digits have none), under AdamW with a one-cycle schedule. The last weights are kept, whatever their
    accuracy, with features scaled to a mean square of 1; the accuracy on the test images is looked at once.
    `progress` is told the number of steps done. The same bits on the same machine with the same number of threads.

    Errors: InputError for points, for data without labels or of a single class, and for steps below 1.
    """
    classes = _checked_classes(data)
    if steps < 1 or not 0 <= seed < 2**63:
        raise InputError(f"a classifier takes at least 1 step and a seed from 0 on, not steps={steps}, seed={seed}.")
    with torch.random.fork_rng(devices=[]):  # torch.nn draws initial values from torch's own generator alone
        torch.manual_seed(seed)
        network = Network(data.shape, classes)
    _train(network, data.train, steps=steps, seed=seed, progress=progress or (lambda _: None))
    network.eval()
    scale(network, data.train)
    record = Record(
        dataset=data.name,
        content_hash=data.content_hash,
        shape=data.shape,
        classes=classes,
        validation_accuracy=accuracy(network, data.validation),
        test_accuracy=accuracy(network, data.test),
        steps=steps,
        seed=seed,
        command=_command(data.name, steps, seed),
        versions={name: version(name) for name in ("gan-harness", "torch", "numpy")},
    )
    return Fitted(network, record)


def scale(network: Network, split: Split) -> None:
    """Scale the features so that their mean square over a split is 1, and the class scores' weights against it.

    The scores stay what they were: ReLU lets factors pass. So distances of features of two classifiers have one scale,
    and the kernel of KID is of order one.
    """
    linear = cast(torch.nn.Linear, network.features[1])
    squares, count = 0.0, 0
    with torch.inference_mode():
        for rows in _blocks(len(split)):
            features, _ = network(_unit(torch.from_numpy(quantised(split.images[rows]))))
            squares, count = squares + float(features.double().square().sum()), count + features.numel()
        root = math.sqrt(squares / count)
        linear.weight.div_(root)
        linear.bias.div_(root)
        network.logits.weight.mul_(root)


def write(fitted: Fitted, path: Path) -> None:
    """Write a fitted classifier to a .safetensors file, its record in it and, for people, beside it as .json.

    Errors: InputError where the file cannot be written.
    """
    classifier.write(path, fitted.network, fitted.record)


def accuracy(network: Network, split: Split) -> float:
    """The fraction of a split's images whose highest score is their label's; higher is better."""
    right = 0
    for rows in _blocks(len(split)):
        batch, labels = _batch(split, rows)
        with torch.inference_mode():
            right += int((network(_unit(batch))[1].argmax(dim=1) == labels).sum())
    return right / len(split)


def _checked_classes(data: ImageSet) -> int:
    if data.affine is not None:
        raise InputError(f"data set {data.name!r} holds points, not images; there is no classifier to fit.")
    splits = {"train": data.train, "validation": data.validation, "test": data.test}
    lacking = [name for name, split in splits.items() if split.labels is None or not len(split)]
    if lacking or data.classes is None or data.classes < 2:
        reason = f"no labels in {', '.join(lacking)}" if lacking else "a single class"
        raise InputError(f"data set {data.name!r} has {reason}; a classifier is fitted to labels of all three splits.")
    return data.classes


def _train(network: Network, split: Split, *, steps: int, seed: int, progress: Progress) -> None:
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_LEARNING_RATE, weight_decay=_WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _LEARNING_RATE, total_steps=steps)
    for step in range(steps):
        rows = torch.randint(len(split), (_BATCH,), generator=generator)
        batch, labels = _batch(split, rows.numpy())
        _, logits = network(_unit(shifted(batch, generator)))
        loss = functional.cross_entropy(logits, labels)
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        schedule.step()
        progress(step + 1)


def shifted(batch: Tensor, generator: torch.Generator) -> Tensor:
    """Images (n, c, h, w), each moved by some pixels at random; what comes in from outside is zero."""
    n, channels, height, width = batch.shape
    reach = max(1, min(height, width) // _SIDE_PER_SHIFT)
    padded = functional.pad(batch, [reach] * 4)
    down, right = torch.randint(2 * reach + 1, (2, n), generator=generator)
    rows = down[:, None] + torch.arange(height)
    columns = right[:, None] + torch.arange(width)
    image, channel = torch.arange(n)[:, None, None, None], torch.arange(channels)[:, None, None]
    return padded[image, channel, rows[:, None, :, None], columns[:, None, None, :]]


def _blocks(count: int) -> Iterator[NDArray[np.int64]]:
    starts = range(0, count, _IMAGES_AT_ONCE)
    return (np.arange(start, min(start + _IMAGES_AT_ONCE, count)) for start in starts)


def _batch(split: Split, rows: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """The images of some rows of a split with labels, uint8 (n, c, h, w), and the labels."""
    labels = cast(NDArray[np.int64], split.labels)
    return torch.from_numpy(quantised(split.images[rows])), torch.from_numpy(labels[rows])


def _unit(batch: Tensor) -> Tensor:
    return batch.to(torch.float32) / 255


def _command(dataset: str, steps: int, seed: int) -> str:
    """The command that makes the file again."""
    file = f"classifier-{re.sub(r'[^A-Za-z0-9_.-]+', '-', dataset)}{SUFFIX}"
    command = ["harness", "extractor", "fit", "--dataset", dataset, "--steps", str(steps), "--seed", str(seed)]
    return shlex.join([*command, "-o", file])
