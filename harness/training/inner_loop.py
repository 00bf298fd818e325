"""The inner loop of Algorithm 1: how many updates of the discriminator each iteration has."""

from __future__ import annotations

from dataclasses import dataclass

from harness.experiment import CriticSchedule, Experiment


@dataclass(frozen=True)
class InnerLoop:
    """k updates in every iteration; or more in some, as a schedule says. Iterations and updates count from 0."""

    k: int
    schedule: CriticSchedule | None = None

    @classmethod
    def of(cls, experiment: Experiment) -> InnerLoop:
        return cls(experiment.k, experiment.critic_schedule)

    def updates(self, iteration: int) -> int:
        """The discriminator's updates in an iteration."""
        schedule = self.schedule
        if schedule is None:
            return self.k
        is_long = iteration < schedule.until or iteration % schedule.every == 0
        return schedule.k if is_long else self.k

    def before(self, iteration: int) -> int:
        """Its updates in all iterations before one."""
        schedule = self.schedule
        if schedule is None:
            return self.k * iteration
        first, later = min(iteration, schedule.until), max(iteration, schedule.until)
        long = first + -(-later // schedule.every) - -(-schedule.until // schedule.every)
        return self.k * iteration + (schedule.k - self.k) * long
