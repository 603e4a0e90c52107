"""Trials in words."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from limbeck.report import words
from limbeck.search import judge
from limbeck.search.judge import Trial
from limbeck.search.spec import Search


def short_names(names: Iterable[str]) -> dict[str, str]:
    """The shortest end of each setting's path that no other has.

    >>> short_names(["stages.low.how.macs", "stages.low.how.by", "stages.tuned.how.by"])
    {'stages.low.how.macs': 'macs', 'stages.low.how.by': 'low.how.by', 'stages.tuned.how.by': 'tuned.how.by'}
    """
    parts = {name: name.split(".") for name in names}
    found = {}
    for name, own in parts.items():
        others = [other for key, other in parts.items() if key != name]
        ends = (count for count in range(1, len(own) + 1) if all(other[-count:] != own[-count:] for other in others))
        found[name] = ".".join(own[-next(ends, len(own)) :])
    return found


def settings_text(settings: Mapping[str, Any]) -> str:
    """Settings in one line.

    >>> settings_text({"stages.low.how.macs": 0.5, "stages.low.how.by": "l1"})
    'macs=0.5, by=l1'
    """
    short = short_names(settings)
    return ", ".join(f"{short[name]}={_plain(value)}" for name, value in settings.items())


def _plain(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def percent(value: float | None) -> str:
    """A part of one as percents with two digits."""
    return words.NONE if value is None else f"{100 * value:.2f} %"


def figure(name: str, value: float | None) -> str:
    """A figure with its unit.

    >>> figure("points", 0.5), figure("latency", 1.5), figure("macs", 12345)
    ('0.50 points', '1.50 ms', '12.3 k')
    """
    if value is None:
        return words.NONE
    if name == "points":
        return f"{value:.2f} points"
    if name == "accuracy":
        return percent(value)
    return {"latency": words.milliseconds, "bytes": words.size}.get(name, words.amount)(value)


def budget_text(limits: Mapping[str, float]) -> str:
    """The budget in words.

    >>> budget_text({"points": 1.0, "latency": 2.0, "macs": 1e6})
    'at most 1 points lost, 2.00 ms, 1.00 M MACs'
    """
    if not limits:
        return "no limit"
    told = {
        name: f"{value:g} points lost"
        if name == "points"
        else figure(name, value) + {"macs": " MACs", "parameters": " parameters"}.get(name, "")
        for name, value in limits.items()
    }
    return "at most " + ", ".join(told.values())


def over_text(trial: Trial, limits: Mapping[str, float]) -> str:
    """By how much a trial that is done is over its budget; empty where it is within.

    >>> over_text(Trial(number=0, settings={}, status="done", figures={"points": 1.5, "latency": 3.0}), {"points": 1.0, "latency": 2.0})
    'over: points by 0.50, latency by 50 %'
    """
    over = judge.overruns(trial.figures, limits)
    told = [
        f"{name} not known"
        if trial.figures.get(name) is None
        else f"{name} by {value:.2f}"
        if name == "points"
        else f"{name} by {100 * value:{'.0f' if value > 0.095 else '.2g'}} %"
        for name, value in over.items()
    ]
    return f"over: {', '.join(told)}" if told else ""


def line(trial: Trial, limits: Mapping[str, float]) -> str:
    """What came of a trial, in a line."""
    if trial.status == "failed":
        return f"failed: {trial.problem.splitlines()[0]}"
    told = [
        f"accuracy {percent(trial.figures.get('accuracy'))}",
        f"{figure('points', trial.figures.get('points'))} lost" if trial.figures.get("points") is not None else "",
        figure("latency", trial.figures.get("latency")),
        figure("bytes", trial.figures.get("bytes")),
        (over_text(trial, limits) or "within the budget") if limits else "",
        words.duration(trial.seconds),
    ]
    return ", ".join(text for text in told if text)


def outcome(search: Search, trials: Sequence[Trial], folder: Path) -> str:
    """What a search came to: the best trial, or that there is none and what came nearest."""
    limits = search.within.limits()
    failed = sum(trial.status == "failed" for trial in trials)
    many = f"{len(trials)} trials" + (f" ({failed} of them failed)" if failed else "")
    near = judge.nearest(trials, limits, search.aim)
    if near is None:
        return f"{many}: not one could be run."
    what = f"trial {near.number} ({settings_text(near.settings)}): {line(near, {})}; its run: {folder / 'trials' / near.name}"
    if judge.overruns(near.figures, limits):
        return f"No network within the budget ({budget_text(limits)}) in {many}. Nearest: {what}; {over_text(near, limits)}"
    word = "highest accuracy" if search.aim == "accuracy" else f"least {'MACs' if search.aim == 'macs' else search.aim}"
    within = f" within the budget ({budget_text(limits)})" if limits else ""
    return f"Best of {many}{within}, by {word} on validation rows: {what}"
