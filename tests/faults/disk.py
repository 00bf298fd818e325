"""A disk that fails, or a process that is killed, at a chosen touch of the file system: for forked children alone."""

from __future__ import annotations

import builtins
import errno
import io
import mmap
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ACTIONS = ("open", "write", "fsync", "mkdir", "replace", "rename", "link", "unlink")
HARMLESS_WHEN_FULL = ("replace", "rename", "unlink")


@dataclass(frozen=True)
class Fault:
    """What happens (kill, ENOSPC, EIO, nothing) at the touch number `at`, counted from 1, of one of ACTIONS.

    Paths count that hold `only`. A write that fails still puts `share` of its bytes there. `lasting`: all later touches
    fail too.
    """

    what: str = "nothing"
    action: str = ""
    at: int = 0
    lasting: bool = False
    share: float = 0.0
    only: str = ""


class Disk:
    """Counts the touches of files under a folder, and strikes at one of them; `touched` and `struck` outlive a kill."""

    def __init__(self, root: Path, fault: Fault) -> None:
        self._root = str(root)
        self._fault = fault
        self._shared = mmap.mmap(-1, 8 * (len(ACTIONS) + 1))  # counts in the order of ACTIONS, then whether it struck

    @property
    def touched(self) -> dict[str, int]:
        return {action: self._count(place) for place, action in enumerate(ACTIONS)}

    @property
    def struck(self) -> bool:
        return self._count(len(ACTIONS)) > 0

    def install(self) -> None:
        """Put this disk under all that the process does from now on."""
        for name, place in {"replace": 1, "rename": 1, "link": 1, "mkdir": 0, "unlink": 0}.items():
            setattr(os, name, self._of_paths(name, getattr(os, name), place))
        os.open = self._opened(os.open)
        os.fsync = self._of_descriptors("fsync", os.fsync)
        os.write = self._of_descriptors("write", os.write)
        builtins.open = io.open = self._file(io.open)

    def touch(self, action: str, path: str, leave: Callable[[float], object] = lambda share: None) -> None:
        """One touch; `leave` puts a share of what is written there."""
        fault = self._fault
        if not path.startswith(self._root) or fault.only not in path:
            return
        number = self._add(ACTIONS.index(action))
        is_spared = fault.what == "ENOSPC" and action in HARMLESS_WHEN_FULL
        is_its = action == fault.action and number == fault.at
        if is_spared or not (is_its or (self.struck and fault.lasting)):
            return
        self._add(len(ACTIONS))
        leave(fault.share)
        if fault.what == "kill":
            os.kill(os.getpid(), signal.SIGKILL)
        code = getattr(errno, fault.what)
        raise OSError(code, os.strerror(code), path)

    def _count(self, place: int) -> int:
        return int.from_bytes(self._shared[8 * place : 8 * place + 8], "little")

    def _add(self, place: int) -> int:
        count = self._count(place) + 1
        self._shared[8 * place : 8 * place + 8] = count.to_bytes(8, "little")
        return count

    def _of_paths(self, action: str, real: Callable[..., Any], place: int) -> Callable[..., Any]:
        def touched(*paths: Any, **options: Any) -> Any:
            self.touch(action, os.fspath(paths[place]))
            return real(*paths, **options)

        return touched

    def _of_descriptors(self, action: str, real: Callable[..., Any]) -> Callable[..., Any]:
        def touched(descriptor: int, *rest: Any) -> Any:
            self.touch(action, os.readlink(f"/proc/self/fd/{descriptor}"))
            return real(descriptor, *rest)

        return touched

    def _opened(self, real: Callable[..., int]) -> Callable[..., int]:
        def touched(path: Any, flags: int, *rest: Any, **options: Any) -> int:
            if flags & (os.O_CREAT | os.O_WRONLY | os.O_RDWR):
                self.touch("open", os.fspath(path))
            return real(path, flags, *rest, **options)

        return touched

    def _file(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def touched(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if isinstance(file, int) or not set(mode) & set("wxa+"):
                return real(file, mode, *rest, **options)
            self.touch("open", os.fspath(file))
            return _Written(real(file, mode, *rest, **options), os.fspath(file), self)

        return touched


class _Written:
    """A file open for writing."""

    def __init__(self, file: Any, path: str, disk: Disk) -> None:
        self._file, self._path, self._disk = file, path, disk

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> _Written:
        return self

    def __exit__(self, *failure: object) -> None:
        self._file.close()

    def write(self, content: Any) -> Any:
        def leave(share: float) -> None:
            self._file.write(content[: int(share * len(content))])
            self._file.flush()

        self._disk.touch("write", self._path, leave)
        return self._file.write(content)
