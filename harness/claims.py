"""Which process may write a folder: claims through the file system alone, by rising epochs.

    <folder>/claims/<epoch>.json  {"owner", "counter", "beat_seconds", "first", "iteration", "released", ...}
    <folder>/ledger.jsonl         a line a stretch trained: {"epoch", "owner", "outcome", "first", "last", "reached"}

Who creates the file of the next epoch owns the folder from then on; what is written there carries the epoch. The
owner's counter moves while its process lives. A claim has lapsed when its counter has stood still for the stated time
on the observer's own clock, or when its process is known to be gone; then the next epoch is free. An owner that wakes
after that finds a newer epoch and writes no more. Nothing depends on a file system's locks or other machines' clocks.

Steps `first` to `last` of a stack, counted from 1, are the ones that later stretches stand on; those up to `reached`
were trained too, and lost. So each step lies in exactly one stretch, but for those
that a damaged checkpoint lost, which a later stretch has again; a stretch without any step has `last` = `first` - 1.
"""

from __future__ import annotations

import errno
import json
import logging
import os
import re
import socket
import threading
import time
import uuid
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil

from harness import runs
from harness.errors import InputError, storage_error

LAPSE_SECONDS = 120.0
"""Longer than the minute for which a network file system may show what was."""
_BEATS = 10
_FEWEST_BEATS = 3
_NAME = re.compile(r"(\d{6,})\.json")
_WITHOUT_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
_log = logging.getLogger(__name__)

Record = dict[str, Any]


@dataclass(frozen=True)
class Standing:
    """What a process sees of a folder: the newest epoch (0 where nobody ever claimed it) and its claim."""

    epoch: int
    record: Record
    is_held: bool

    @property
    def owner(self) -> str:
        return str(self.record.get("owner", "an unknown process"))


class Claimant:
    """This process among those that claim folders; it counts on no claim that stood still for `lapse_seconds`."""

    def __init__(self, lapse_seconds: float = LAPSE_SECONDS) -> None:
        self.lapse_seconds = lapse_seconds
        self.beat_seconds = lapse_seconds / _BEATS
        self.identity = _identity()
        self._seen: dict[Path, _Counter] = {}

    def look(self, folder: Path) -> Standing:
        """Who owns a folder now, as far as this process can tell."""
        epoch = newest(folder)
        record = _read(folder, epoch) if epoch else {"released": "never claimed"}
        is_held = not record.get("released") and not self._has_lapsed(folder, epoch, record)
        return Standing(epoch, record, is_held)

    def take(self, folder: Path, standing: Standing, *, inside: Path | None = None) -> Claim | None:
        """Claim the epoch after one that is free; None where another was quicker.

        `inside` is a folder that must be there, as in `runs.write_bytes`.
        Errors: InputError or StorageError where the folder cannot be written.
        """
        epoch = standing.epoch + 1
        record = self.identity | {"counter": 0, "beat_seconds": self.beat_seconds, "first": None, "iteration": None}
        try:
            if inside is not None and not inside.is_dir():
                raise FileNotFoundError(errno.ENOENT, f"{inside} has gone")
            is_ours = _create(_path(folder, epoch), record)
        except OSError as error:
            raise storage_error(error, folder, another="--out") from error
        if is_ours and newest(folder) > epoch:  # this epoch was over, and its file deleted, before we came
            _path(folder, epoch).unlink(missing_ok=True)
            return None
        return Claim(folder, epoch, record) if is_ours else None

    def _has_lapsed(self, folder: Path, epoch: int, record: Record) -> bool:
        if _is_gone(record, self.identity):
            return True
        lapse_seconds = max(self.lapse_seconds, _FEWEST_BEATS * float(record.get("beat_seconds", 0)))
        state = (epoch, record.get("token"), record.get("counter"))
        if folder not in self._seen or self._seen[folder].state != state:
            self._seen[folder] = _Counter(state)
        return self._seen[folder].stood_still(at_most=lapse_seconds / 2) >= lapse_seconds


class _Counter:
    """For how long the counter of a claim was seen to stand still."""

    def __init__(self, state: tuple[Any, ...]) -> None:
        self.state = state
        self._seconds = 0.0
        self._looked = time.monotonic()

    def stood_still(self, *, at_most: float) -> float:
        """Seconds; what passed since the last look counts up to a limit.

        So a process that was itself stopped looks again before it takes what another, stopped with it, still owns.
        """
        now = time.monotonic()
        self._seconds += min(now - self._looked, at_most)
        self._looked = now
        return self._seconds


class Claim:
    """A folder of this process's own, until it is released or lapses; a thread moves its counter."""

    def __init__(self, folder: Path, epoch: int, record: Record) -> None:
        self.folder = folder
        self.epoch = epoch
        self.is_lost = False
        """Whether a newer epoch was seen."""
        self._record = record
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, name=f"claim of {folder.name}", daemon=True)
        self._thread.start()

    def holds(self) -> bool:
        """Look whether the folder is still this process's; to be asked before each write there."""
        if not self.is_lost:
            self.is_lost = newest(self.folder) > self.epoch
        return not self.is_lost

    def begin(self, iteration: int) -> None:
        """Training goes on behind an iteration: note it, and write down what was left by those who never could."""
        known = {line["epoch"] for line in ledger(self.folder)}
        self._record |= {"first": iteration + 1, "iteration": iteration}
        for epoch in sorted(_epochs(self.folder)):
            if epoch >= self.epoch or epoch in known:
                continue
            left = _read(self.folder, epoch)
            if not left.get("released"):
                # Not what its claim says, which may be older than its begin.
                first = max((line["last"] for line in ledger(self.folder)), default=0) + 1
                self._note(epoch, left, "lapsed", first=first, last=iteration, reached=left.get("iteration"))
        self._tidy()

    def reach(self, iteration: int) -> None:
        """So many iterations are done."""
        self._record["iteration"] = iteration

    def release(self, outcome: str, *, saved: int | None = None) -> None:
        """Give the folder up; a stretch of training, saved up to an iteration, goes into the ledger."""
        self._over.set()
        self._thread.join()
        try:
            if not self.holds():
                return
            first, reached = self._record["first"], self._record["iteration"]
            if first is not None and saved is not None:
                self._note(self.epoch, self._record, outcome, first=first, last=saved, reached=reached)
            else:
                self._tidy()
            self._write({"released": outcome})
        except OSError as error:
            _log.warning("%s stays claimed (%s) until this process has gone", self.folder, error.strerror or error)

    def _beat(self) -> None:
        while not self._over.wait(self._record["beat_seconds"]):
            with suppress(OSError):  # a file system that is away for a moment; if it stays away the claim lapses
                if not self.holds():
                    return
                self._write({"counter": self._record["counter"] + 1})

    def _write(self, changes: Record) -> None:
        self._record |= changes
        path = _path(self.folder, self.epoch)
        # Without fsync, which a counter needs not: after a power cut its process is gone as well.
        aside = path.with_name(f".{path.name}.{self._record['token']}.tmp")
        aside.write_text(json.dumps(self._record, indent=2))
        os.replace(aside, path)

    def _note(self, epoch: int, record: Record, outcome: str, *, first: int, last: int, reached: int | None) -> None:
        """Add a line to the ledger, which only the folder's owner writes."""
        line = {"epoch": epoch, "owner": record.get("owner"), "outcome": outcome, "first": first, "last": last}
        lines = [*ledger(self.folder), line | {"reached": max(last, reached or 0)}]
        runs.write_bytes(
            self.folder / "ledger.jsonl",
            "".join(json.dumps(line) + "\n" for line in lines).encode(),
            inside=self.folder,
        )

    def _tidy(self) -> None:
        """Delete the claims of epochs that are over."""
        for epoch in _epochs(self.folder):
            if epoch < self.epoch:
                _path(self.folder, epoch).unlink(missing_ok=True)


def newest(folder: Path) -> int:
    """The newest epoch in which a folder was claimed; 0 where it never was."""
    return max(_epochs(folder), default=0)


def ledger(folder: Path) -> list[Record]:
    """The stretches in which a stack was trained, as its ledger has them.

    Errors: InputError where the file is damaged.
    """
    path = folder / "ledger.jsonl"
    if not path.exists():
        return []
    try:
        return [json.loads(line) for line in path.read_text().splitlines()]
    except ValueError as error:
        raise InputError(f"{path} is not a ledger ({error}); restore it or delete it.") from None


def _epochs(folder: Path) -> Iterator[int]:
    place = folder / "claims"
    try:
        names = os.listdir(place)
    except FileNotFoundError:
        return
    yield from (int(match[1]) for name in names if (match := _NAME.fullmatch(name)))


def _path(folder: Path, epoch: int) -> Path:
    return folder / "claims" / f"{epoch:06d}.json"


def _read(folder: Path, epoch: int) -> Record:
    """A claim; an empty one where the file is half written (without links) or just now deleted."""
    try:
        return dict(json.loads(_path(folder, epoch).read_text()))
    except (FileNotFoundError, ValueError):
        return {}


def _create(path: Path, record: Record) -> bool:
    """Write a file that does not exist, whole from the first; False where another process was quicker."""
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{record['token']}.tmp")
    content = json.dumps(record, indent=2).encode()
    try:
        _write_new(aside, content)
        os.link(aside, path)
    except FileExistsError:
        # A network file system may repeat a link that it has made, and then refuse it.
        return bool(_read(path.parent.parent, int(path.stem)).get("token") == record["token"])
    except OSError as error:
        if error.errno not in _WITHOUT_LINKS:
            raise
        try:
            _write_new(path, content)
        except FileExistsError:
            return False
    finally:
        aside.unlink(missing_ok=True)
    return True


def _write_new(path: Path, content: bytes) -> None:
    with open(path, "xb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def _identity() -> Record:
    """What tells this process from all others: on its machine by number and start, elsewhere by a token."""
    process = psutil.Process()
    host = socket.gethostname()
    return {
        "owner": f"{host}:{process.pid}",
        "machine": _machine(host),
        "pid": process.pid,
        "started": process.create_time(),
        "token": uuid.uuid4().hex,
    }


def _machine(host: str) -> str:
    """Where process numbers mean the same: one start of one machine, and within it one space of numbers."""
    parts = [host]
    with suppress(OSError):
        parts.append(Path("/proc/sys/kernel/random/boot_id").read_text().strip())
    with suppress(OSError):
        parts.append(os.readlink("/proc/self/ns/pid"))
    return " ".join(parts)


def _is_gone(record: Record, here: Record) -> bool:
    """Whether the process of a claim is known to have ended; of other machines nothing is known."""
    if record.get("machine") != here["machine"]:
        return False
    try:
        process = psutil.Process(int(record["pid"]))
        # Within a minute, since corrections of the clock move all starts; no number comes back as quickly.
        is_another = abs(process.create_time() - record["started"]) > 60
        return is_another or bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.NoSuchProcess:
        return True
    except psutil.AccessDenied:
        return False
