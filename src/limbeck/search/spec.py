"""The section ``search`` of a file: what may vary, what is allowed, and what is wanted."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Literal

from limbeck.config.build import build_dataclass
from limbeck.config.nodes import read_nodes
from limbeck.config.overrides import override
from limbeck.config.place import Path, Problem
from limbeck.config.reading import Parsed, read, refusal
from limbeck.config.words import shown
from limbeck.errors import HyperParameterError, RecipeError
from limbeck.settings import finite, require, require_whole

SECTION = "search"
_FIXED = {
    "seeds": "trials are compared over the same seeds",
    "data": "trials are compared on the same rows; of the data only data.augment may vary",
    "machine": "trials are compared on the same machine",
    "name": "every trial has its own",
    "evaluation": "trials are measured alike",
    "baseline": "no trial is judged by it",
    SECTION: "a search does not search itself",
}


@dataclass(frozen=True, kw_only=True)
class Within:
    """What a network may cost at most; None: no limit.  Each default is no limit.

    Attributes:
        points: percentage points of validation accuracy lost against the original; below zero asks for a gain.
        latency: milliseconds for one image, the median.
        bytes: of its file.
        macs: multiply-accumulates for one image.
        parameters: how many numbers it has learnt.
    """

    points: float | None = None
    latency: float | None = None
    bytes: float | None = None
    macs: float | None = None
    parameters: float | None = None

    def __post_init__(self) -> None:
        for name, value in self.limits().items():
            require(finite(value), name, value, "a limit is a number")
            require(name == "points" or value > 0, name, value, "a limit is above zero")

    def limits(self) -> dict[str, float]:
        """The limits that there are."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}


@dataclass(frozen=True, kw_only=True)
class Range:
    """Numbers from ``low`` to ``high``.

    Attributes:
        low: the lower end, which may be chosen too; above zero where ``log`` is true.
        high: the upper end, which may be chosen too.
        log: look as closely between 0.001 and 0.01 as between 0.1 and 1; by default not.
        whole: whole numbers only; by default not.
    """

    low: float
    high: float
    log: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        for name, value in (("low", self.low), ("high", self.high)):
            require(finite(value), name, value, "an end of a range is a number")
            require(not self.whole or float(value).is_integer(), name, value, "a whole number, since whole is true")
        require(self.low < self.high, "low", self.low, f"below high, which is {self.high!r}")
        require(not self.log or self.low > 0, "low", self.low, "above zero, since log is true")

    def read(self, value: float) -> float | int:
        """A number of the range as people would write it: whole, or with four digits."""
        if self.whole:
            return int(value)
        return min(max(float(f"{value:.4g}"), self.low), self.high)

    def samples(self) -> list[float | int]:
        """Some values, for a first look."""
        middle = math.sqrt(self.low * self.high) if self.log else (self.low + self.high) / 2
        return [self.read(value) for value in (self.low, middle, self.high)]

    def count(self) -> float:
        """How many values there are."""
        return int(self.high) - int(self.low) + 1 if self.whole else math.inf

    def values(self) -> list[Any]:
        """All values, where they can be counted."""
        return list(range(int(self.low), int(self.high) + 1))


@dataclass(frozen=True)
class Choices:
    """A list of values, of any kind that a recipe may hold."""

    items: tuple[Any, ...]

    def samples(self) -> list[Any]:
        """All of them."""
        return list(self.items)

    def count(self) -> float:
        """How many there are."""
        return len(self.items)

    def values(self) -> list[Any]:
        """All of them."""
        return list(self.items)


Setting = Range | Choices
Space = Mapping[str, Setting]


@dataclass(frozen=True, kw_only=True)
class Search:
    """What to look for.

    Attributes:
        space: setting, as in ``--set`` -> a list of choices, or a mapping with the fields of `Range`.
        within: what a network may cost at most.
        aim: what to make as small as possible among those within the budget; or accuracy, as large as possible.
        stage: whose network is judged; None: the last stage that leaves one.
        trials: how many; at least 1.  The default is what fits a night of small networks.
        seed: of the choices; the runs have the recipe's own seeds.
    """

    space: Mapping[str, Any]
    within: Within = field(default_factory=Within)
    aim: Literal["latency", "bytes", "macs", "parameters", "accuracy"] = "latency"
    stage: str | None = None
    trials: int = 20
    seed: int = 0

    def __post_init__(self) -> None:
        require_whole(trials=self.trials, seed=self.seed)
        require(self.trials >= 1, "trials", self.trials, "at least 1")
        require(len(self.space) > 0, "space", dict(self.space), "at least one setting that varies")

    def settings(self) -> dict[str, Setting]:
        """The space with its choices and ranges; made once when read, for it has been checked then."""
        return {
            name: value if isinstance(value, (Range, Choices)) else _setting(value)
            for name, value in self.space.items()
        }


def read_search(parsed: Parsed, sets: tuple[str, ...] = ()) -> Search:
    """The section of a file, checked against the recipe beside it.

    Args:
        parsed: the file, read with the section apart.
        sets: changes from the command line.

    Raises:
        RecipeError: every problem at once.
    """
    if SECTION not in parsed.apart:
        raise RecipeError(
            f"{parsed.places.file}: no section 'search' here; it says what may vary, for example "
            "search: {space: {stages.small.how.macs: {low: 0.3, high: 0.8}}, within: {points: 1}, aim: latency}"
        )
    found: list[Problem] = []
    data = parsed.apart[SECTION]
    made = build_dataclass(Search, data, (SECTION,), found, title="a search")
    space = data.get("space") if isinstance(data, dict) else None
    for name, value in space.items() if isinstance(space, dict) else ():
        found += _problems_of(str(name), value, parsed, sets)
    found += _twice(list(map(str, space or ())), parsed, sets) if not found else []
    if found or not isinstance(made, Search):
        raise refusal([parsed.places.tell(problem) for problem in found])
    return made


def as_set(name: str, value: Any) -> str:
    """A setting and its value as ``--set`` takes them.

    >>> as_set("stages.low.how.by", "l1")
    'stages.low.how.by="l1"'
    """
    return f"{name}={json.dumps(value, ensure_ascii=False)}"


def _setting(value: Any) -> Setting:
    if isinstance(value, list):
        return Choices(tuple(value))
    return Range(**value)


def _problems_of(name: str, value: Any, parsed: Parsed, sets: tuple[str, ...]) -> list[Problem]:
    """What is wrong with one line of the space: the line itself, or that the recipe takes none of its values."""
    path = (SECTION, "space", name)
    root, _, rest = name.replace("[", ".").partition(".")
    if root in _FIXED and not (root == "data" and rest.split(".")[0] == "augment"):
        return [Problem(path, f"cannot vary: {_FIXED[root]}")]
    if isinstance(value, list):
        if not value:
            return [Problem(path, "an empty list; a setting that varies needs choices")]
        if len({json.dumps(item, sort_keys=True) for item in value}) < len(value):
            return [Problem(path, "the same choice twice")]
        setting: Setting = Choices(tuple(value))
    elif isinstance(value, dict):
        found: list[Problem] = []
        made = build_dataclass(Range, value, path, found, title="a range")
        if found or not isinstance(made, Range):
            return found
        setting = made
    else:
        return [Problem(path, f"expected a list of choices, or {{low: ..., high: ...}}, got {shown(value)}")]
    told: list[str] = []
    for item in setting.samples():
        change = as_set(name, item)
        try:
            read_changed(parsed, (*sets, change))
        except (RecipeError, HyperParameterError) as error:
            told.append(f"{error}".splitlines()[0].removeprefix(f"--set {change}: "))
        else:
            return []  # a value that fails beside others is a failed trial, not a wrong search
    return [Problem(path, f"the recipe takes none of its values; with {json.dumps(setting.samples()[0])}: {told[0]}")]


def _twice(names: Sequence[str], parsed: Parsed, sets: tuple[str, ...]) -> list[Problem]:
    """Settings that are one and the same under two names, or of which one is a part of the other: the later would overwrite it."""
    data, _, _ = read_nodes(parsed.text + "\n")
    override(data, sets)
    places: dict[str, Path] = {}
    found: list[Problem] = []
    for name in names:
        made, _ = override(copy.deepcopy(data), [f"{name}=0"])
        place = next(iter(made), ())
        for other, there in places.items():
            shorter = min(len(place), len(there))
            if place[:shorter] == there[:shorter]:
                how = "is the same setting as" if len(place) == len(there) else "and"
                also = "" if len(place) == len(there) else " vary the same setting"
                found.append(Problem((SECTION, "space", name), f"{how} {other}{also}; leave one of them out"))
        places[name] = place
    return found


def read_changed(parsed: Parsed, sets: tuple[str, ...]) -> Parsed:
    """The file again, as it was when it was read first, with other changes.

    Raises:
        RecipeError: what the changes made of it is no recipe.
    """
    return read(parsed.text + "\n", sets, apart=(SECTION,))
