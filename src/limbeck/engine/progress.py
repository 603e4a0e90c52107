"""Telling the user how it goes: live bars on a terminal, plain lines elsewhere, nothing when asked."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

LINE_EVERY = 20.0  # seconds between plain lines inside an epoch
EPOCH_EVERY = 4.0  # seconds between plain lines at the ends of short epochs


def short(terms: Mapping[str, float]) -> str:
    """The terms of a step in few characters, the player's name left out where there is one player."""
    players = {name.split("/", 1)[0] for name in terms}
    shown = {name.split("/", 1)[1] if len(players) == 1 else name: value for name, value in terms.items()}
    return "  ".join(f"{name} {value:.3g}" for name, value in shown.items())


def measured_text(measured: Mapping[str, float] | None) -> str:
    """What was measured on the validation part, in words."""
    if not measured:
        return ""
    return f"validation accuracy {100 * measured['accuracy']:.2f} %, loss {measured['loss']:.4f}"


class Silent:
    """Says nothing."""

    def phase(self, name: str, epochs: int, steps: int | None, done: int, notes: Sequence[str]) -> None: ...
    def step(self, epoch: int, step: int, terms: Mapping[str, float], rate: float) -> None: ...
    def epoch(self, epoch: int, measured: Mapping[str, float] | None) -> None: ...
    def close(self) -> None: ...


class Lines:
    """A line at the end of an epoch, now and then inside a long one, and not for each of many short ones."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title = console, title
        self.terms: Mapping[str, float] = {}
        self.rate = 0.0

    def phase(self, name: str, epochs: int, steps: int | None, done: int, notes: Sequence[str]) -> None:
        self.name, self.epochs, self.steps = name, epochs, steps
        self.said = self.started = time.perf_counter()
        self.done_before = done
        for note in notes:
            self._say(f"{self.title}, {name}: {note}")
        if done:
            self._say(f"{self.title}, {name}: goes on after epoch {done} of {epochs}")

    def step(self, epoch: int, step: int, terms: Mapping[str, float], rate: float) -> None:
        self.terms, self.rate = terms, rate
        now = time.perf_counter()
        if now - self.said > LINE_EVERY:
            self.said = now
            of = f" of {self.steps}" if self.steps else ""
            self._say(f"{self.title}, {self.name}: epoch {epoch + 1}/{self.epochs}, step {step}{of}, {self._state()}")

    def epoch(self, epoch: int, measured: Mapping[str, float] | None) -> None:
        now = time.perf_counter()
        if epoch < self.epochs and now - self.said < EPOCH_EVERY:
            return
        self.said = now
        left = (now - self.started) / max(1, epoch - self.done_before) * (self.epochs - epoch)
        parts = [self._state(), measured_text(measured), f"{left:.0f} s left" if left >= 1 else ""]
        self._say(f"{self.title}, {self.name}: epoch {epoch}/{self.epochs}, " + ", ".join(p for p in parts if p))

    def _state(self) -> str:
        return ", ".join(part for part in (short(self.terms), f"{self.rate:.0f} images/s") if part)

    def _say(self, text: str) -> None:
        self.console.print(text, highlight=False, markup=False, soft_wrap=True)

    def close(self) -> None: ...


class Bars:
    """One live bar per phase, with the loss terms, images per second and the time that is left."""

    def __init__(self, console: Console, title: str) -> None:
        self.console, self.title = console, title
        self.progress: Progress | None = None
        self.last = ""

    def phase(self, name: str, epochs: int, steps: int | None, done: int, notes: Sequence[str]) -> None:
        self.close()
        for note in notes:
            self.console.print(f"{self.title}, {name}: {note}", style="dim", highlight=False, markup=False)
        self.steps = steps
        self.progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[state]}", markup=False),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            console=self.console,
        )
        whole = epochs * (steps or 1)
        self.bar = self.progress.add_task(f"{self.title}, {name}", total=whole, completed=done * (steps or 1), state="")
        self.progress.start()

    def step(self, epoch: int, step: int, terms: Mapping[str, float], rate: float) -> None:
        if self.progress is not None:
            done = epoch * (self.steps or 1) + (step if self.steps else 0)
            state = f"epoch {epoch + 1}  {short(terms)}  {rate:.0f} images/s{self.last}"
            self.progress.update(self.bar, completed=done, state=state)

    def epoch(self, epoch: int, measured: Mapping[str, float] | None) -> None:
        if self.progress is not None:
            if measured:
                self.last = f"  validation {100 * measured['accuracy']:.1f} %"
            self.progress.update(self.bar, completed=epoch * (self.steps or 1))

    def close(self) -> None:
        if self.progress is not None:
            self.progress.stop()
            self.progress = None


@contextmanager
def waiting(console: Console, title: str, quiet: bool = False) -> Iterator[None]:
    """Something that takes long and has no steps to count: a moving sign on a terminal, a line at the end elsewhere."""
    if quiet:
        yield
    elif console.is_terminal:
        with console.status(f"{title} ..."):
            yield
    else:
        begun = time.perf_counter()
        yield
        if (spent := time.perf_counter() - begun) >= EPOCH_EVERY:
            console.print(f"{title}: {spent:.0f} s", highlight=False, markup=False, soft_wrap=True)


@contextmanager
def counting(console: Console, title: str, quiet: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Something long of which so many parts of so many are done: a bar on a terminal, a line now and then elsewhere.

    What it gives is called with how many are done, of how many.
    """
    if quiet:
        yield lambda done, total: None
    elif not console.is_terminal:
        yield _parts(console, title)
    else:
        columns = (TextColumn("{task.description}"), BarColumn(bar_width=24), MofNCompleteColumn(), TimeElapsedColumn())
        with Progress(*columns, TextColumn("left"), TimeRemainingColumn(), console=console, transient=True) as bar:
            task = bar.add_task(title, total=None)
            yield lambda done, total: bar.update(task, completed=done, total=total)


def _parts(console: Console, title: str) -> Callable[[int, int], None]:
    begun = said = time.perf_counter()

    def tell(done: int, total: int) -> None:
        nonlocal said
        now = time.perf_counter()
        if done == 0 or (now - said > LINE_EVERY and done < total):
            said = now
            left = f", {(now - begun) / done * (total - done):.0f} s left" if done else ""
            console.print(f"{title}: {done} of {total}{left}", highlight=False, markup=False, soft_wrap=True)

    return tell


def watch_for(console: Console, title: str, quiet: bool = False) -> Any:
    """Bars on a terminal, lines elsewhere, nothing when quiet."""
    if quiet:
        return Silent()
    return Bars(console, title) if console.is_terminal else Lines(console, title)
