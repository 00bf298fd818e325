"""What all baselines share: the harness's method contract, reduced to what a method must say of itself."""

from __future__ import annotations

import itertools
import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor

from harness.draws import Draws
from harness.errors import InputError
from harness.experiment import BaselineSettings, Experiment, LatentSettings, OptimizerSettings, Settings, validate
from harness.images import ImageSet
from harness.layers import ConvolutionWay, Parameters
from harness.models import ImageStatistics
from harness.training import optimizers
from harness.training.clock import Count, Now
from harness.training.feed import Batch
from harness.training.loop import State
from harness.training.optimizers import StackedOptimizer
from harness.training.processes import Processes

# What an experiment says of a GAN alone; a baseline that is told any of it was meant otherwise.
_SHARED = {"schema_version", "dataset", "data_hash", "method", "model", "iterations", "batch_size", "optimizer"}
_SHARED |= {"baseline", "precision", "seed"}


@dataclass(frozen=True)
class Task:
    """What a stack of baselines is built for. Members differ in their seeds alone."""

    seeds: tuple[int, ...]
    image_shape: tuple[int, int, int]
    mean_image: Tensor
    """The mean training image, (c, h, w) in [0, 1]."""
    training_images: int
    iterations: int
    batch_size: int
    """Over all processes."""
    optimizer: OptimizerSettings | None
    processes: Processes

    @property
    def width(self) -> int:
        """The numbers in an image."""
        c, h, w = self.image_shape
        return c * h * w


class Baseline(ABC):
    """A stack of generative models that are not adversarial. Images are (m, n, c, h, w) in [0, 1]."""

    settings_class: ClassVar[type[Settings]]
    """What [experiment] baseline = {...} may say."""
    optimizer: ClassVar[OptimizerSettings | None] = None
    """That of a method which trains by gradients, where the experiment says nothing; None: the method takes none."""
    columns: ClassVar[tuple[str, ...]]
    """What a row of history holds."""
    parts: ClassVar[tuple[str, ...]] = ("model",)
    """The keys of the state that are always there. Of these "model" is what samples need."""
    bernoulli_means: ClassVar[bool] = False
    """Whether samples are means of Bernoulli pixels, so that there are binary images to draw from them."""
    stack_sizes: ClassVar[Mapping[str, int]] = {"cpu": 1, "cuda": 8}

    ways: ClassVar[tuple[ConvolutionWay, ...]] = ("grouped",)

    def __init__(self, settings: Settings, task: Task) -> None:
        self.task = task
        self.processes = task.processes
        self.members = len(task.seeds)
        self.draws = Draws(
            task.seeds,
            device=task.processes.device,
            dtype=task.processes.dtype,
            rank=task.processes.rank,
            processes=task.processes.count,
        )

    @abstractmethod
    def init(self) -> State:
        """The state before the first iteration: tensors (m, ...) by part."""

    @abstractmethod
    def step(self, state: State, batch: Batch, iteration: int) -> Tensor:
        """One iteration, in place; a row of history, (columns, m), the same on all processes."""

    @abstractmethod
    def sample(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """Samples first..first+n-1 of each member's endless list: (m, n, c, h, w) in [0, 1]."""

    def columns_of(self, position: int) -> tuple[str, ...]:
        """What means something for a member: all."""
        return self.columns

    def by(self, way: ConvolutionWay) -> Baseline:
        """The same method: there is one way."""
        return self

    def labels(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor | None:
        """No baseline has conditions."""
        return None

    def sampler(self, state: State) -> State:
        """The part of the state that `sample` needs."""
        return {"model": state["model"]}

    def vectors(self, batch: Batch) -> Tensor:
        """A batch's images as rows: (m, local n, c h w)."""
        return batch.images.flatten(2)

    def images(self, vectors: Tensor) -> Tensor:
        """Rows (m, n, c h w) as images (m, n, c, h, w)."""
        return vectors.reshape(*vectors.shape[:2], *self.task.image_shape)

    def mean_vector(self) -> Tensor:
        """The mean training image of each member: (m, c h w)."""
        mean = self.task.mean_image.flatten().to(device=self.processes.device, dtype=self.processes.dtype)
        return mean.repeat(self.members, 1)

    def batch_mean(self, values: Tensor) -> Tensor:
        """The mean over the whole batch of values (m, local n), no gradients: (m,), the same on all processes."""
        return self.processes.total(values.detach().sum(1)) / self.task.batch_size


class OfPrior(Baseline):
    """A baseline whose samples are images of latents, standard normal: harness.training.loop.OfLatents."""

    prior: LatentSettings

    @abstractmethod
    def images_at(
        self, state: State, z: Tensor, y: Tensor | None, *, purpose: str = "sample", first: int = 0
    ) -> Tensor:
        """The images of latents (m, n, size): (m, n, c, h, w)."""

    def sample(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """The images of draws from the prior."""
        return self.images_at(state, self.latents(n, purpose=purpose, first=first), None)

    def latents(self, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """Draws first..first+n-1 from the prior: (m, n, size)."""
        return self.draws.whole(offset=first).normal(f"{purpose}/latent", 0, n, self.prior.size)


class OfWalks(Baseline):
    """A baseline whose samples are stops of Markov chains: harness.training.loop.OfChains."""

    chains: Chains

    @abstractmethod
    def chain(self, state: State) -> Chain:
        """What the chains do, and which images their states show."""

    @torch.no_grad()
    def sample(self, state: State, n: int, *, purpose: str = "sample", first: int = 0) -> Tensor:
        """The images where chains stop."""
        return self.images(self.chains.samples(self.draws.whole(), purpose, first, n, self.chain(state)))

    @property
    def burn_in(self) -> int:
        """The steps before a chain's first sample."""
        return self.chains.burn_in

    @torch.no_grad()
    def chain_states(self, state: State, n: int, times: Sequence[int], *, purpose: str = "sample") -> Tensor:
        """The images of the first n chains after so many steps each, from 1 on and rising: (m, n, times, c, h, w).

        Errors: InputError where there are fewer chains.
        """
        if n > self.chains.chains:
            raise InputError(f"{n} chains: there are {self.chains.chains} (`chains` in its settings); take fewer.")
        states = self.chains.states(self.draws.whole(), purpose, times, self.chain(state))[:, :n]
        return states.reshape(*states.shape[:3], *self.task.image_shape)


@dataclass(frozen=True)
class Phase:
    """Where an iteration stands: in which phase, and how much of it lies behind, in [0, 1)."""

    number: int
    place: int
    length: int

    @property
    def done(self) -> float:
        return self.place / self.length

    @property
    def ends(self) -> bool:
        """Whether this is its last iteration."""
        return self.place + 1 == self.length


def phase(shares: Sequence[float], iterations: int, iteration: int) -> Phase:
    """The phase of an iteration, where all iterations are divided by shares; each phase has at least one."""
    bounds = [round(iterations * part / sum(shares)) for part in itertools.accumulate(shares, initial=0.0)]
    for number, (start, stop) in enumerate(itertools.pairwise(bounds)):
        if iteration < stop:
            return Phase(number, iteration - start, stop - start)
    raise IndexError(iteration)


def check_phases(shares: Sequence[float], iterations: int) -> None:
    """Refuse phases without an iteration.

    Errors: InputError.
    """
    if any(round(iterations * share / sum(shares)) < 1 for share in shares):
        raise InputError(f"iterations = {iterations} leaves one of {len(shares)} phases without any; take more.")


class Descent:
    """Gradient descent of a stack's parameters by a stacked optimizer; over processes, gradients are added.

    `clip`: each member's gradient is scaled down to this norm. `updates`: after so many the learning rate, falling
    linearly, is zero, where the optimizer's settings do not say when.
    """

    def __init__(self, task: Task, *, clip: float | None = None, updates: int | None = None) -> None:
        assert task.optimizer is not None, "resolution fills it in"
        settings = task.optimizer
        if settings.lr_zero_at is None:
            settings = settings.model_copy(update={"lr_zero_at": updates})
        self._optimizer = StackedOptimizer.of([settings] * len(task.seeds))
        self._task = task
        self._clip = clip

    def init(self, parameters: Parameters) -> Parameters:
        """The optimizer's state before the first update."""
        return self._optimizer.init(parameters)

    def descend(self, loss: Tensor, parameters: Parameters, slots: Parameters, update: int) -> None:
        """One update, in place, down the losses (m,): this process's part of a sum over all."""
        gradients = list(torch.autograd.grad(loss.sum(), list(parameters.values())))
        gradients = self._task.processes.sum_gradients(gradients)
        if self._clip is not None:
            squares = sum(gradient.flatten(1).square().sum(1) for gradient in gradients)
            scale = (self._clip / torch.as_tensor(squares).sqrt()).clamp(max=1.0)
            gradients = [gradient * scale.view(-1, *[1] * (gradient.ndim - 1)) for gradient in gradients]
        epoch = update * self._task.batch_size // self._task.training_images
        self._optimizer.step(parameters, gradients, slots, Now(Count(update, epoch)))


@dataclass(frozen=True)
class Chain:
    """What Markov chains do, all of a stack at once; each step gets its walk, for its random numbers."""

    start: Callable[[Walk], Tensor]
    """States (m, chains, ...)."""
    advance: Callable[[Tensor, Walk], Tensor]
    """The next states."""
    output: Callable[[Tensor], Tensor]
    """What states show, as rows (m, chains, width)."""


@dataclass(frozen=True)
class Chains:
    """How Markov chains give samples: so many chains, a burn-in, and `gap` steps from sample to sample of a chain.

    An endless list comes in families of `FAMILY` samples, each from chains of its own: sample j of a family is that of
    chain j % chains at its (j // chains)-th stop. So any part of the list can be made without what is before it.
    """

    chains: int
    burn_in: int
    gap: int

    FAMILY: ClassVar[int] = 1000

    def samples(self, draws: Draws, purpose: str, first: int, n: int, chain: Chain) -> Tensor:
        """Samples first..first+n-1: (m, n, width)."""
        families = range(first // self.FAMILY, (first + n - 1) // self.FAMILY + 1)
        found = []
        for family in families:
            wanted = min(first + n - family * self.FAMILY, self.FAMILY)
            times = range(self.burn_in, self.burn_in + self.gap * -(-wanted // self.chains), self.gap)
            found.append(torch.cat(list(self._outputs(draws, purpose, family, times, chain)), 1)[:, :wanted])
        skipped = first - families[0] * self.FAMILY
        return torch.cat(found, 1)[:, skipped : skipped + n]

    def states(self, draws: Draws, purpose: str, times: Sequence[int], chain: Chain) -> Tensor:
        """What the first family's chains show after so many steps, from 1 on and rising: (m, chains, times, width)."""
        return torch.stack(list(self._outputs(draws, purpose, 0, times, chain)), 2)

    def _outputs(self, draws: Draws, purpose: str, family: int, times: Sequence[int], chain: Chain) -> Iterator[Tensor]:
        """What all chains of a family show after so many steps, one time after the other."""
        begun = family * (self.burn_in + self.gap * -(-self.FAMILY // self.chains) + 1)
        state = chain.start(Walk(draws, purpose, begun, self.chains))
        for time in range(1, times[-1] + 1):
            state = chain.advance(state, Walk(draws, purpose, begun + time, self.chains))
            if time in times:
                yield chain.output(state)


@dataclass(frozen=True)
class Walk:
    """One step of chains, and its random numbers, all members', the same on all processes: (m, rows, width)."""

    draws: Draws
    purpose: str
    time: int
    chains: int

    def uniform(self, name: str, width: int) -> Tensor:
        """Uniform on [0, 1)."""
        return self.draws.uniform(f"{self.purpose}/{name}", self.time, self.chains, width)

    def normal(self, name: str, width: int) -> Tensor:
        """Standard normal."""
        return self.draws.normal(f"{self.purpose}/{name}", self.time, self.chains, width)


@dataclass(frozen=True)
class BaselineKind:
    """A baseline as the harness knows it by name."""

    of: type[Baseline]

    def resolved(self, experiment: Experiment, data: ImageSet) -> Experiment:
        """The experiment with the method's settings and optimizer written out.

        Errors: InputError or UnknownName that names the key.
        """
        name = experiment.method
        plain = Experiment(dataset=experiment.dataset, method=name, model=name, iterations=1)
        for key in Experiment.model_fields.keys() - _SHARED:
            if getattr(experiment, key) != getattr(plain, key):
                raise InputError(f"{key} is a setting of method 'gan', not of {name!r}; leave it out.")
        if experiment.model != name:
            raise InputError(f"model = {experiment.model!r}: method {name!r} is its own model; leave it out.")
        told = experiment.optimizer.model_dump(exclude_none=True)
        if self.of.optimizer is None:
            if told:
                raise InputError(f"method {name!r} has no optimizer to choose; leave it out.")
            optimizer = experiment.optimizer
        else:
            usual = self.of.optimizer.model_dump(exclude_none=True)
            if told.get("name", usual["name"]) != usual["name"]:
                usual = {}  # another optimizer takes nothing from the usual one
            settings = OptimizerSettings.model_validate_json(json.dumps(usual | told))
            optimizer = optimizers.resolved(settings, where=f"optimizer of method {name!r}")
        own = experiment.baseline.own if experiment.baseline else {}
        checked = validate(self.of.settings_class, own, where=f"baseline settings of method {name!r}")
        baseline = BaselineSettings.model_validate(checked.model_dump(mode="json"))
        return experiment.model_copy(update={"baseline": baseline, "optimizer": optimizer})

    def check(self, experiment: Experiment, image_shape: tuple[int, int, int]) -> None:
        """Refuse a resolved experiment that cannot be built for images (c, h, w)."""
        zeros = torch.zeros(image_shape)
        statistics = ImageStatistics(image_shape, zeros)
        self.build([experiment], statistics, training_images=1, processes=Processes(experiment.precision))

    def check_pieces(self, experiment: Experiment, image_shape: tuple[int, int, int]) -> None:
        """Refuse: gradients accumulate in GANs alone."""
        raise InputError(f"gradient_accumulation is for GANs, not for method {experiment.method!r}; leave it out.")

    def shape(self, experiment: Experiment, image_shape: tuple[int, int, int]) -> str:
        """What the members of a stack must share: all but the seed."""
        shared = {key: value for key, value in experiment.canonical().items() if key != "seed"}
        return json.dumps(shared, sort_keys=True)

    def stack_size(self, experiment: Experiment, device: str) -> int:
        """How many members suit a stack on a type of device."""
        return self.of.stack_sizes.get(device, self.of.stack_sizes["cpu"])

    def build(
        self, members: Sequence[Experiment], images: ImageStatistics, *, training_images: int, processes: Processes
    ) -> Baseline:
        """The stack of resolved experiments that differ in their seeds alone."""
        shared = members[0]
        own = shared.baseline.own if shared.baseline else {}  # a method without settings has no table in a record
        settings = validate(self.of.settings_class, own, where=f"baseline settings of method {shared.method!r}")
        task = Task(
            seeds=tuple(member.seed for member in members),
            image_shape=images.shape,
            mean_image=images.mean,
            training_images=training_images,
            iterations=shared.iterations,
            batch_size=shared.batch_size,
            optimizer=None if self.of.optimizer is None else shared.optimizer,
            processes=processes,
        )
        return self.of(settings, task)
