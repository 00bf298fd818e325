"""Every error the harness raises on purpose.

HarnessError            something the user can mend; the message says what, where and what to do
├── InputError          bad input: a grid file, an option, a samples file (exit code 2)
│   ├── UnknownName     a name that is not in its registry; the nearest one is suggested
│   ├── DataMissing     a data set's files are not where they were looked for, or are damaged
│   └── SlurmError      a command of SLURM that is absent or refuses
├── RunFailed           one or more runs of a grid failed; the others went on (exit code 1)
│   └── Stranded    on one process of a job alone, so that the others wait for it in vain
└── Preempted           a signal asked for a stop; everything is saved (exit code 75)
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class HarnessError(Exception):
    """Something the user can mend."""

    exit_code = 1


class InputError(HarnessError):
    """Bad input from outside: refused before anything is touched."""

    exit_code = 2


class UnknownName(InputError):
    """A name that its registry does not hold."""

    def __init__(self, kind: str, name: str, known: Iterable[str], where: str = "") -> None:
        names = sorted(known)
        nearest = difflib.get_close_matches(name, names, n=1, cutoff=0.5)
        hint = f" Did you mean {nearest[0]!r}?" if nearest else ""
        place = f" in {where}" if where else ""
        super().__init__(f"unknown {kind} {name!r}{place}.{hint} Valid: {', '.join(names) or 'none'}.")


class DataMissing(InputError):
    """A data set whose files are absent or damaged."""


class SlurmError(InputError):
    """A command of SLURM that is absent or refuses."""


class RunFailed(HarnessError):
    """A grid that ended with failed runs."""


class Stranded(RunFailed):
    """A failure that only the end of this process can tell the others of its job."""


class Preempted(HarnessError):
    """A grid that was asked to stop and saved its state."""

    exit_code = 75
