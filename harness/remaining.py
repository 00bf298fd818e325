"""The stacks of a grid that have not ended, as the processes that train them take them from each other's sight."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from harness import claims
from harness.claims import Claim, Claimant, Standing
from harness.plan import Stack
from harness.runs import GridFolder

FAILED = "failed"
"""How a claim was released whose stack failed."""


class Remaining:
    """The stacks that this process has not yet seen ended, in the order in which it takes them.

    `ended(stack, how)` hears of those that it finds ended: "skipped" at first, then "elsewhere". A stack that has
    failed before is tried by one process alone of those that know no more than that; `tell` hears of takeovers.
    """

    def __init__(
        self,
        stacks: Sequence[Stack],
        folder: GridFolder,
        claimant: Claimant,
        *,
        ended: Callable[[Stack, str], None],
        tell: Callable[[str], None],
    ) -> None:
        self._folder = folder
        self._claimant = claimant
        self._ended = ended
        self._tell = tell
        self._stacks = list(stacks)
        failed = [stack.id for stack in stacks if self._has_failed(stack)]
        self._failed_in = {stack_id: claims.newest(folder.stack(stack_id)) for stack_id in failed}
        for stack in stacks:
            if self._is_complete(stack):
                self._strike(stack, "skipped")

    def __len__(self) -> int:
        return len(self._stacks)

    def take(self) -> tuple[Stack, Claim] | None:
        """The first stack that nobody holds, claimed; None where others hold all that have not ended.

        Errors: InputError or StorageError where the folder cannot be written.
        """
        for stack in list(self._stacks):
            if (claim := self._claimed(stack)) is not None:
                return stack, claim
        return None

    def strike(self, stack: Stack) -> None:
        """This process has ended a stack itself; what others have ended by now is struck out as well."""
        if stack in self._stacks:
            self._stacks.remove(stack)
        for other in list(self._stacks):
            if self._is_complete(other):
                self._strike(other, "elsewhere")
            elif not claims.newest(self._folder.stack(other.id)):
                break  # all take them in about this order

    def _claimed(self, stack: Stack) -> Claim | None:
        if self._is_complete(stack):
            self._strike(stack, "elsewhere")
            return None
        path = self._folder.stack(stack.id)
        standing = self._claimant.look(path)
        if not standing.is_held and self._has_failed_since(stack, standing):
            self._strike(stack, "elsewhere")
            return None
        claim = None if standing.is_held else self._claimant.take(path, standing, inside=self._folder.path)
        if claim is None:
            return None
        if self._is_complete(stack):  # between the first look and the claim
            claim.release("complete")
            self._strike(stack, "elsewhere")
            return None
        if not standing.record.get("released"):
            self._tell(f"stack {stack.id}: taken over from {standing.owner}, which gives no sign of life")
        return claim

    def _has_failed_since(self, stack: Stack, standing: Standing) -> bool:
        is_news = standing.record.get("released") == FAILED and standing.epoch != self._failed_in.get(stack.id)
        return is_news and self._has_failed(stack)

    def _has_failed(self, stack: Stack) -> bool:
        return any(self._folder.run(run.id).failure() for run in stack.members)

    def _is_complete(self, stack: Stack) -> bool:
        return not self._has_failed(stack) and all(self._folder.run(run.id).provenance() for run in stack.members)

    def _strike(self, stack: Stack, how: str) -> None:
        self._stacks.remove(stack)
        self._ended(stack, how)
