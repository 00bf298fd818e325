"""A stop that a signal asks for, noticed between two iterations."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

SIGNALS = (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT)


@contextmanager
def stop_signals() -> Iterator[Callable[[], bool]]:
    """A function that says whether SIGTERM, SIGUSR1 or SIGINT has come since; a second SIGINT interrupts at once.

    Once one has come, the process is about to end, with an exit code that a cluster reads: SIGTERM and SIGUSR1, which a
    cluster may send again, are ignored from the end of the context on, the interpreter's own end included.
    """
    asked: list[int] = []

    def ask(number: int, frame: FrameType | None) -> None:
        if number == signal.SIGINT and asked:
            raise KeyboardInterrupt
        asked.append(number)

    before = {number: signal.signal(number, ask) for number in SIGNALS}
    try:
        yield lambda: bool(asked)
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_IGN if asked and number != signal.SIGINT else handler)
