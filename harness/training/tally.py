"""Counts that the processes of a job share without meeting."""

from __future__ import annotations

import os

from torch import distributed
from torch.distributed import TCPStore  # type: ignore[attr-defined]  # public, but torch's __init__ lists no exports

from harness.training.processes import Processes


class Tally:
    """Named sums over the processes of a job; adding meets nobody. The main process keeps them: when it has gone,
    `is_lost`, and each process counts for itself.
    """

    @classmethod
    def of(cls, processes: Processes) -> Tally:
        """The tally of a job; all its processes must ask for it together."""
        if processes.count == 1:
            return cls(None)
        host = os.environ.get("MASTER_ADDR", "127.0.0.1")
        own = TCPStore(host, 0, is_master=True, wait_for_workers=False) if processes.is_main else None
        port = processes.from_main(own and own.port)
        return cls(own or TCPStore(host, port, is_master=False))

    def __init__(self, store: TCPStore | None) -> None:
        self._store = store
        self._sums: dict[str, int] = {}
        self.is_lost = False

    def add(self, name: str, amount: int) -> int:
        """Add to a sum, and give what it is then."""
        if self._store is not None and not self.is_lost:
            try:
                return int(self._store.add(name, amount))
            except distributed.DistError:
                self.is_lost = True
        self._sums[name] = self._sums.get(name, 0) + amount
        return self._sums[name]
