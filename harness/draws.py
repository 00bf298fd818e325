"""Counter-based random numbers: pure functions of (seed, purpose, step, element).

Every number that training or sampling uses comes from here, so a resumed run, a stack of many members, any number of
processes and a replayed graph see the same ones by construction. The generator is Philox4x32-10 (Salmon et al. 2011,
"Parallel random numbers: as easy as 1, 2, 3"), equal on every device:

    key      the member's seed, 64 bits
    counter  (block of lanes within the batch's rows, step, purpose, which batch)

Rows are counted over the whole batch, so a process that holds some of the rows draws just its part of the same table.
"""

from __future__ import annotations

import copy
import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from harness.philox import WORD, Philox, philox

_BLOCK_VALUES = 2**18  # drawn per call where steps are drawn ahead: big enough to hide the cost of a hundred small ops


@lru_cache(maxsize=4096)
def purpose_word(purpose: str) -> int:
    """The counter word that stands for a purpose: the first 32 bits of its sha256."""
    return int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big")


@dataclass(frozen=True)
class Table:
    """What one kind of draw looks like at every step: the key under which drawn-ahead blocks are kept."""

    kind: str
    purpose: str
    rows: int
    width: int
    batches: int
    keep: float

    @property
    def word(self) -> int:
        """The counter word that stands for it."""
        return purpose_word(f"{self.kind}:{self.purpose}")

    @property
    def blocks(self) -> int:
        """The cipher's blocks that a row takes: four words each, or eight halves of words."""
        return -(-self.width // (8 if self.kind == "dropout" else 4))


class Draws:
    """The random numbers of a stack's members.

    `seeds`: one a member, 0 <= seed < 2^64. `rank` of `processes` holds rows [rank n / processes, ...) of every batch
    of n rows. `offset` moves the window of rows, for sampling in parts. `ahead` draws blocks of steps in one call; it
    changes no value. Values are float32 (each is rounded to it once) cast to `dtype`, so that a float64 run sees the
    same noise. `read`, where given, is asked for the values of a table at a step instead of the cipher.
    """

    def __init__(
        self,
        seeds: Sequence[int],
        *,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        rank: int = 0,
        processes: int = 1,
        offset: int = 0,
        ahead: bool = True,
        read: Callable[[Table, int], Tensor] | None = None,
    ) -> None:
        self.seeds = tuple(seeds)
        self.device = torch.device(device)
        self.dtype = dtype
        self.rank = rank
        self.processes = processes
        self.offset = offset
        self.ahead = ahead
        self.read = read
        words = [[seed & WORD for seed in seeds], [seed >> 32 & WORD for seed in seeds]]
        self._key = [torch.tensor(word, dtype=torch.int64, device=self.device).view(1, -1, 1, 1, 1) for word in words]
        self._blocks: dict[Table, tuple[int, Tensor]] = {}
        self._in_c = Philox() if self.device.type == "cpu" else None

    def whole(self, *, offset: int = 0) -> Draws:
        """The same numbers, rows from `offset` on, all on every process: for initial values and samples."""
        return Draws(self.seeds, device=self.device, dtype=self.dtype, offset=offset, ahead=False)

    def piece(self, place: int, count: int) -> Draws:
        """The numbers of one of `count` equal pieces of the rows that these draws are for, none of them kept."""
        return Draws(
            self.seeds,
            device=self.device,
            dtype=self.dtype,
            rank=self.rank * count + place,
            processes=self.processes * count,
            offset=self.offset,
            ahead=False,
        )

    def read_from(self, read: Callable[[Table, int], Tensor]) -> Draws:
        """Draws of the same members on this process, whose values come from `read`."""
        other = copy.copy(self)  # a new one would copy the key to the device, which no graph can record
        other.read = read
        return other

    def uniform(self, purpose: str, step: int, rows: int, width: int, *, batches: int = 1) -> Tensor:
        """Uniform on [0, 1), multiples of 2^-24: (m, batches * local rows, width)."""
        return self._at(Table("uniform", purpose, rows, width, batches, 0.0), step)

    def normal(self, purpose: str, step: int, rows: int, width: int, *, batches: int = 1) -> Tensor:
        """Standard normal, by the inverse distribution function: (m, batches * local rows, width)."""
        return self._at(Table("normal", purpose, rows, width, batches, 0.0), step)

    def dropout(self, purpose: str, step: int, rows: int, width: int, *, keep: float, batches: int = 1) -> Tensor:
        """1 / keep with probability `keep` (to the nearest 2^-16), else 0: (m, batches * local rows, width)."""
        return self._at(Table("dropout", purpose, rows, width, batches, keep), step)

    def orders(self, purpose: str, first: int, count: int, size: int) -> Tensor:
        """Random orders of range(size), for each member and step from `first` on: int64 (m, count, size)."""
        words = self.whole()._words(Table("order", purpose, 1, size, 1, 0.0), first, count)
        order = words.view(count, len(self.seeds), -1)[..., :size].argsort(dim=-1, stable=True)
        return order.transpose(0, 1).contiguous()

    def _at(self, table: Table, step: int) -> Tensor:
        if self.read is not None:
            return self.read(table, step)
        if not self.ahead:
            return self.values(table, step, 1)[0]
        first, block = self._blocks.get(table, (0, None))
        if block is None or not first <= step < first + len(block):
            values = len(self.seeds) * table.batches * self._local(table.rows) * table.width
            count = max(1, min(64, _BLOCK_VALUES // max(values, 1)))
            first = step // count * count
            block = self.values(table, first, count)
            self._blocks[table] = (first, block)
        return block[step - first]

    def values(self, table: Table, first: int, count: int) -> Tensor:
        """A table's values at some steps: (count, m, batches * local rows, width)."""
        if table.kind == "dropout":
            values = self._kept(table, first, count)[..., : table.width].mul_(1.0 / table.keep)
        else:
            words = self._words(table, first, count)[..., : table.width]
            if table.kind == "normal":
                unit = words.to(torch.float64).add_(0.5).mul_(2.0**-32)
                values = torch.special.ndtri(unit).to(torch.float32).to(self.dtype)
            else:
                values = (words >> 8).to(self.dtype).mul_(2.0**-24)
        return values.reshape(count, len(self.seeds), -1, table.width)

    def _kept(self, table: Table, first: int, count: int) -> Tensor:
        """1 where 16 bits lie below the keep rate, else 0: (count, m, batches, local rows, at least width).

        The low halves of a row's words come first, then the high ones.
        """
        below = round(table.keep * 2**16)
        if self._in_c is None:
            words = self._words(table, first, count)
            return (torch.cat([words & 0xFFFF, words >> 16], dim=-1) < below).to(self.dtype)
        blocks = self._blocks_in_c(self._in_c, table, first, count).astype("<u4", copy=False)
        kept = torch.from_numpy(blocks.view("<u2").reshape(*blocks.shape, 2) < below)
        return kept.transpose(-1, -3).to(self.dtype, memory_format=torch.contiguous_format).flatten(-3)

    def _words(self, table: Table, first: int, count: int) -> Tensor:
        """Words of 32 random bits in int64: (count, m, batches, local rows, at least the lanes that width needs).

        The first words of a row's blocks come first, then the second ones, and so on.
        """
        if self._in_c is not None:
            blocks = self._blocks_in_c(self._in_c, table, first, count).swapaxes(-1, -2)
            return torch.from_numpy(blocks.astype(np.int64, order="C")).flatten(-2)
        rows, start, width = self._local(table.rows), self._start(table.rows), table.blocks
        block = self._range(start * width, (start + rows) * width).view(1, 1, 1, rows, width)
        steps = self._range(first, first + count).view(-1, 1, 1, 1, 1)
        batch = self._range(0, table.batches).view(1, 1, -1, 1, 1)
        purpose = self._range(table.word, table.word + 1)
        return torch.cat(philox((block, steps, purpose, batch), self._key), dim=-1)

    def _blocks_in_c(self, cipher: Philox, table: Table, first: int, count: int) -> NDArray[np.uint32]:
        """The cipher's blocks of four words: (count, m, batches, local rows, blocks, 4)."""
        rows, start, width = self._local(table.rows), self._start(table.rows), table.blocks
        blocks = np.empty((count, len(self.seeds), table.batches, rows, width, 4), dtype=np.uint32)
        for step, member, batch in np.ndindex(blocks.shape[:3]):
            counter = (start * width, first + step, table.word, batch)
            drawn = cipher.words(self.seeds[member], counter, rows * width)
            blocks[step, member, batch] = drawn.reshape(rows, width, 4)
        return blocks

    def _start(self, rows: int) -> int:
        return self.offset + self.rank * self._local(rows)

    def _range(self, start: int, stop: int) -> Tensor:
        return torch.arange(start, stop, dtype=torch.int64, device=self.device)

    def _local(self, rows: int) -> int:
        return rows // self.processes
