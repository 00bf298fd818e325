"""Every error the harness raises on purpose.

HarnessError            something the user can mend; the message says what, where and what to do
├── InputError          bad input: a grid file, an option, a samples file (exit code 2)
│   ├── UnknownName     a name that is not in its registry; the nearest one is suggested
│   ├── DataMissing     a data set's files are not where they were looked for, or are damaged
│   └── SlurmError      a command of SLURM that is absent or refuses
├── StorageError        a disk that is full, read-only, damaged or gone (exit code 1)
├── RunFailed           one or more runs of a grid failed; the others went on (exit code 1)
│   └── Stranded        on one process of a job alone, so that the others wait for it in vain
└── Preempted           a signal asked for a stop; everything is saved (exit code 75)
"""

from __future__ import annotations

import difflib
import errno
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


class StorageError(HarnessError):
    """A disk that is full, read-only, damaged or gone; what was saved stays."""


class RunFailed(HarnessError):
    """A grid that ended with failed runs."""


class Stranded(RunFailed):
    """A failure that only the end of this process can tell the others of its job."""


class Preempted(HarnessError):
    """A grid that was asked to stop and saved its state."""

    exit_code = 75


_WAYS_OUT = {
    errno.ENOSPC: "free some space",
    errno.EDQUOT: "free some of your quota",
    errno.EROFS: "make its disk writable",
    errno.EACCES: "make it accessible",
    errno.EPERM: "make it accessible",
    errno.ENOENT: "see that its disk is mounted",
    errno.ENODEV: "see that its disk is mounted",
    errno.ENOTCONN: "see that its disk is mounted",
    errno.ESTALE: "see that its disk is mounted",
}


def storage_error(error: OSError, place: object, *, verb: str = "write", another: str = "name") -> HarnessError:
    """What to tell of a place that the system refuses to write (or whatever `verb` says).

    InputError where it cannot be a file or a folder at all, with the advice to choose `another`, or, of what was to be
    read, to move it away; else StorageError.
    """
    reason = error.strerror or str(error)
    if isinstance(error, NotADirectoryError | FileExistsError | IsADirectoryError):
        way_out = "move it away" if verb == "read" else f"choose another {another}"
        return InputError(f"cannot {verb} {place}: {reason}; {way_out}.")
    way_out = _WAYS_OUT.get(error.errno or 0, "look at its disk")
    rest = "" if verb == "read" else " What is saved stays, and the same command goes on."
    return StorageError(f"cannot {verb} {place}: {reason}; {way_out}.{rest}")
