"""Who is within the budget, who is best, and what no other beats: plain arithmetic on what trials measured."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from limbeck.report.charts import front

FRONTS = ("latency", "bytes")
_POINTS = 1e-4  # 93 % to 92 % is one point, also where the two were kept in 24 bits; one row of many thousands is more


@dataclass(frozen=True, kw_only=True)
class Trial:
    """One choice of settings, and what came of it.

    Attributes:
        number: from 1.
        settings: setting -> value.
        status: "running", "done" or "failed".
        problem: why it failed.
        figures: of a trial that is done: accuracy and original (fractions, on validation rows, means over the seeds), points
            (lost against the original), latency (ms), bytes, macs, parameters; None for what was not measured.
        shared: stages that were taken over from earlier trials.
        seconds: how long it took.
    """

    number: int
    settings: Mapping[str, Any]
    status: str = "running"
    problem: str = ""
    figures: Mapping[str, float | None] = field(default_factory=dict)
    shared: tuple[str, ...] = ()
    seconds: float = 0.0

    @property
    def name(self) -> str:
        """What its run folder is called."""
        return f"{self.number:03}"


def overruns(figures: Mapping[str, float | None], limits: Mapping[str, float]) -> dict[str, float]:
    """By how much each limit is exceeded: in points for points, else as a part of the limit.

    >>> overruns({"points": 1.5, "latency": 3.0, "bytes": 10}, {"points": 1.0, "latency": 2.0, "bytes": 10})
    {'points': 0.5, 'latency': 0.5}
    """
    found = {}
    for name, limit in limits.items():
        value = figures.get(name)
        if value is None:
            found[name] = math.inf
        elif value - limit > (_POINTS if name == "points" else 1e-9 * limit):
            found[name] = round(value - limit if name == "points" else value / limit - 1.0, 9)
    return found


def standing(trial: Trial, limits: Mapping[str, float], aim: str) -> tuple[float, float, float, int]:
    """A key by which trials are in order, best first: nearness to the budget, then the aim, then accuracy."""
    if trial.status != "done":
        return (math.inf, math.inf, math.inf, trial.number)
    accuracy, wanted = trial.figures.get("accuracy"), trial.figures.get(aim)
    worse = -accuracy if accuracy is not None else math.inf
    if aim == "accuracy":
        return (sum(overruns(trial.figures, limits).values()), worse, 0.0, trial.number)
    return (
        sum(overruns(trial.figures, limits).values()),
        math.inf if wanted is None else wanted,
        worse,
        trial.number,
    )


def nearest(trials: Sequence[Trial], limits: Mapping[str, float], aim: str) -> Trial | None:
    """The best trial, within the budget or as near to it as any came; None where none is done."""
    done = [trial for trial in trials if trial.status == "done"]
    return min(done, key=lambda trial: standing(trial, limits, aim), default=None)


def best(trials: Sequence[Trial], limits: Mapping[str, float], aim: str) -> Trial | None:
    """The best trial within the budget."""
    found = nearest(trials, limits, aim)
    return found if found is not None and not overruns(found.figures, limits) else None


def ranks(trials: Sequence[Trial], limits: Mapping[str, float], aim: str) -> list[float]:
    """The place of each trial among all, 0 the best; those that failed share the last.

    The sampler looks at the order of values alone, so places say all that it can use: those within the budget come before
    the others whatever the units, and it keeps away from what fails.
    """
    ordered = sorted(trials, key=lambda trial: standing(trial, limits, aim))
    place = {trial.number: float(index) for index, trial in enumerate(ordered)}
    last = float(len(trials))
    return [place[trial.number] if trial.status == "done" else last for trial in trials]


def pareto(trials: Sequence[Trial], cost: str) -> list[Trial]:
    """The trials that no other beats in accuracy and in this cost, the cheapest first."""
    done = [
        (t, x, y)
        for t in trials
        if (x := t.figures.get(cost)) is not None and (y := t.figures.get("accuracy")) is not None
    ]
    return [done[i][0] for i in front([(x, y) for _, x, y in done])]
