"""A recipe file, text or standard input -> a `Recipe`, or every problem in it at once."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path as File
from typing import Any, NamedTuple

from limbeck.config import place
from limbeck.config.nodes import MOST_CHARACTERS, Unreadable, read_nodes
from limbeck.config.overrides import override
from limbeck.config.place import Places, Problem
from limbeck.config.whole import build
from limbeck.errors import RecipeError
from limbeck.recipe import Machine, Recipe

_APART = {"search": "this section belongs to `limbeck search`, which runs the file; other commands take it without"}


class Parsed(NamedTuple):
    """A recipe file that was read without problems.

    Attributes:
        recipe: what it says.
        machine: its section ``machine``; the default one if it has none.
        text: the file as it was.
        places: where each part of it was written.
        apart: the sections that are no part of a recipe and that the reader asked for, as plain data.
    """

    recipe: Recipe
    machine: Machine
    text: str
    places: Places
    apart: Mapping[str, Any]

    @property
    def lines(self) -> Mapping[place.Path, int]:
        """The line of each path that the file holds."""
        return self.places.lines


def read_recipe(source: str | os.PathLike[str], sets: Iterable[str] = ()) -> Recipe:
    """The recipe in a file (or in standard input for "-", or in a text of several lines).

    Raises:
        RecipeError: with every problem at once; each line has the file and line, the setting, and what is wrong.

    >>> recipe = read_recipe('''
    ... models: {student: digits_mlp}
    ... stages:
    ...   - {kind: train, name: alone, model: student}
    ... ''', sets=["stages.alone.training.epochs=2"])
    >>> recipe.stages[0].training.epochs
    2
    """
    return read(source, sets).recipe


def read(source: str | os.PathLike[str], sets: Iterable[str] = (), apart: Collection[str] = ()) -> Parsed:
    """Like `read_recipe`, with the machine, the text, and where everything was written.

    Args:
        source, sets: see `read_recipe`.
        apart: sections for somebody else, handed over as they are.
    """
    name, text = _text(source)
    try:
        data, lines, found = read_nodes(text)
    except Unreadable as error:
        raise RecipeError(f"{name}:{error.line}: {error}" if error.line else f"{name}: {error}") from None
    made, wrong = override(data, sets) if isinstance(data, dict) else ({}, [])
    places = Places(name, lines, made)
    held = {key: data.pop(key) for key in _APART if key in data} if isinstance(data, dict) else {}
    unasked = [Problem((key,), _APART[key]) for key in held if key not in apart]
    built = build(data, found)
    if built.recipe is None or wrong or unasked:
        raise refusal([problem.text for problem in wrong] + _in_order([*unasked, *built.problems], places))
    return Parsed(built.recipe, built.machine, text, places, held)


def check(parsed: Parsed, *, shape_only: bool = False) -> list[str]:
    """What is wrong with a recipe beyond its shape: layers, weights, class counts.  Builds the networks (torch).

    Returns:
        One line per problem; empty if there is none, or if ``shape_only``.
    """
    if shape_only:
        return []
    from limbeck.checks import deep

    return _in_order([Problem(tuple(path), text) for path, text in deep(parsed.recipe)], parsed.places)


def refusal(told: list[str]) -> RecipeError:
    """The error that holds these lines."""
    return RecipeError("\n".join(told), tuple(told))


def _in_order(found: Iterable[Problem], places: Places) -> list[str]:
    ordered = sorted(found, key=lambda problem: places.line(problem.path))
    return list(dict.fromkeys(places.tell(problem) for problem in ordered))


def _text(source: str | os.PathLike[str]) -> tuple[str, str]:
    """The name to show, and the text.  A string with a line break is the text itself."""
    if isinstance(source, str) and "\n" in source:
        return "<text>", source
    if source == "-":
        return "<stdin>", _decode("<stdin>", sys.stdin.buffer.read(4 * MOST_CHARACTERS))
    name = os.fspath(source)
    path = File(name)
    try:
        if path.is_dir():
            inside = sorted(file.name for file in path.glob("*.yaml"))
            raise RecipeError(
                f"{name}: is a folder, not a recipe{'; in it: ' + ', '.join(inside[:10]) if inside else ''}"
            )
        with path.open("rb") as file:
            return name, _decode(name, file.read(4 * MOST_CHARACTERS))
    except FileNotFoundError:
        raise RecipeError(_missing(path)) from None
    except OSError as error:
        raise RecipeError(f"{name}: cannot be read: {error.strerror or error}") from None


def _missing(path: File) -> str:
    from limbeck.errors import near

    beside = {file.stem: file.name for file in path.parent.glob("*.y*ml")} if path.parent.is_dir() else {}
    close = [beside[stem] for stem in near(path.stem, beside)]
    return f"{path}: there is no such file{'; near: ' + ', '.join(close) if close else ''}"


def _decode(name: str, content: bytes) -> str:
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise RecipeError(f"{name}:{line}: not YAML: not UTF-8 text (byte 0x{content[error.start]:02x})") from None
