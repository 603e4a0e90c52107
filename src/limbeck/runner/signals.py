"""SIGINT and SIGTERM: a run stops cleanly, whether it is one process or several."""

from __future__ import annotations

import multiprocessing
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from limbeck.engine.roles import Stop


@contextmanager
def stoppable() -> Iterator[Stop]:
    """SIGINT and SIGTERM ask for a clean stop; a second SIGINT is the ordinary one."""
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}

    def ask(number: int, frame: Any) -> None:
        stop.asked = True
        if number == signal.SIGINT:
            signal.signal(signal.SIGINT, before[signal.SIGINT])

    for s in before:
        signal.signal(s, ask)
    try:
        yield stop
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)


@contextmanager
def passing_on_interrupts() -> Iterator[list[int]]:
    """The process that waits for those that train asks them to stop cleanly, and waits on.

    Ctrl-C reaches them anyhow, a signal to this process alone would not.  Yields the signals that came.
    """
    came: list[int] = []
    if threading.current_thread() is not threading.main_thread():
        yield came
        return

    def pass_on(number: int, frame: Any) -> None:
        came.append(number)
        for child in multiprocessing.active_children():
            child.terminate()  # SIGTERM: it asks, however often it comes

    before = {s: signal.signal(s, pass_on) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield came
    finally:
        for s, handler in before.items():
            signal.signal(s, handler)
