"""Pairs whose players see the class of each image: any family's pair, with the class let in.

The generator's latents are followed by an embedding of the class. The discriminator sees it as one more channel (Mirza
and Osindero 2014, as convolutional pairs do it), or its score gains a projection (Miyato and Koyama 2018).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import torch

from harness.errors import InputError
from harness.experiment import Experiment
from harness.layers import Concatenation, Embedding, Linear, Network, Projection, SpectralNorm
from harness.models.family import ImageStatistics, Pair, StackedNetwork

Build = Callable[[Experiment, ImageStatistics], Pair]
_NAME = "class"


def build(experiment: Experiment, images: ImageStatistics, of_family: Build) -> Pair:
    """The conditional pair of a resolved experiment, from its family's way to build pairs.

    Errors: InputError where the family's discriminator does not end in a score of features.
    """
    condition, classes = experiment.condition, experiment.classes
    assert condition is not None and classes is not None, "the plan fills in both"
    pair = of_family(experiment, images)
    wider = experiment.latent.model_copy(update={"size": experiment.latent.size + condition.embedding})
    of_generator = of_family(experiment.model_copy(update={"latent": wider}), images).generator
    of_class = Concatenation(Embedding(_NAME, classes, condition.embedding), (condition.embedding,))
    if condition.discriminator == "projection":
        of_discriminator: StackedNetwork = _projecting(pair.discriminator, classes, experiment.model)
    else:
        _, *sides = images.shape
        plane = Concatenation(Embedding(_NAME, classes, math.prod(sides)), (1, *sides))
        of_discriminator = Network((plane, of_family(experiment, _with_plane(images)).discriminator))
    return replace(pair, generator=Network((of_class, of_generator)), discriminator=of_discriminator)


def _with_plane(images: ImageStatistics) -> ImageStatistics:
    """The same images with one more channel, of zeros on average."""
    c, h, w = images.shape
    mean = torch.cat([images.mean, torch.zeros_like(images.mean[:1])])
    return replace(images, shape=(c + 1, h, w), mean=mean)


def _projecting(network: StackedNetwork, classes: int, model: str) -> Network:
    """A discriminator whose last layer, from features to the score, adds a projection; normalised as that layer is."""
    layers = network.layers if isinstance(network, Network) else ()
    score = layers[-2] if len(layers) > 1 else None
    linear = score.layer if isinstance(score, SpectralNorm) else score
    if score is None or not isinstance(linear, Linear):
        raise InputError(
            f"model {model!r} has no score of features that a class could be projected on; take "
            'condition = {discriminator = "concatenation"}.'
        )
    embedding = Embedding(_NAME, classes, linear.inputs, weight_std=1 / math.sqrt(linear.inputs))
    of_class = SpectralNorm(embedding) if isinstance(score, SpectralNorm) else embedding
    return Network((*layers[:-2], Projection(score, of_class), layers[-1]))
