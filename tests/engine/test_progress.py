"""What long work says while it runs: lines where there is no terminal, bars where there is one, nothing when quiet."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from limbeck.engine import progress


@pytest.fixture
def clock(monkeypatch):
    """A clock that is moved by hand."""
    now = [100.0]
    monkeypatch.setattr(progress.time, "perf_counter", lambda: now[0])
    return now


def lines(**settings):
    return Console(file=io.StringIO(), width=200, **settings)


def test_counting_says_how_long_it_will_take(clock):
    console = lines()
    with progress.counting(console, "networks") as tell:
        tell(0, 4)
        clock[0] += 15
        tell(1, 4)  # too soon after the line before
        clock[0] += 15
        tell(2, 4)
        clock[0] += 30
        tell(4, 4)  # what comes next says that it is done
    assert console.file.getvalue().splitlines() == ["networks: 0 of 4", "networks: 2 of 4, 30 s left"]


def test_counting_on_a_terminal_is_a_bar():
    console = lines(force_terminal=True)
    with progress.counting(console, "networks") as tell:
        tell(3, 4)
    assert "networks" in console.file.getvalue()
    assert "3/4" in console.file.getvalue()


def test_waiting_speaks_only_of_what_took_long(clock):
    console = lines()
    for seconds in (1, 30):
        with progress.waiting(console, "report"):
            clock[0] += seconds
    assert console.file.getvalue() == "report: 30 s\n"


def test_quiet_is_quiet():
    console = lines()
    with progress.counting(console, "networks", quiet=True) as tell, progress.waiting(console, "report", quiet=True):
        tell(0, 3)
    assert console.file.getvalue() == ""
