"""What goes wrong, in words that help: what was given, what exists, what to try.

Every error that limbeck raises on purpose is a `LimbeckError`; each kind is also the built-in
exception that a Python programmer would catch for it.  The module imports nothing heavy.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class LimbeckError(Exception):
    """Anything that limbeck refuses, with a message for the person who asked."""

    def __str__(self) -> str:  # KeyError would print the repr of its message
        return str(self.args[0]) if self.args else ""


class ShapeError(LimbeckError, ValueError):
    """Two shapes that must agree do not."""


class HyperParameterError(LimbeckError, ValueError):
    """A setting is outside its range."""


class TensorTypeError(LimbeckError, TypeError):
    """A tensor of the wrong kind (integers where features belong, say)."""


class TargetError(LimbeckError, ValueError):
    """Labels that are missing, of the wrong type, or outside the classes."""


class NonFiniteError(LimbeckError, ValueError):
    """A value is NaN or infinite."""


class TapError(LimbeckError, KeyError):
    """A tap that does not exist, did not run, ran twice, or gave no tensor."""


class NameUnknown(LimbeckError, KeyError):
    """A name that the catalogue, the zoo or a recipe does not have."""


class TeacherMissing(NameUnknown, HyperParameterError):
    """A method that learns from any number of teachers has none."""


class GradientError(LimbeckError, RuntimeError):
    """A gradient that torch cannot give, since the graph does not reach that far."""


class DataError(LimbeckError, ValueError):
    """A file, row or label of the data that cannot be used."""


class RecipeError(LimbeckError, ValueError):
    """A recipe with problems; `problems` holds every one of them."""

    def __init__(self, message: str, problems: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        self.problems = problems or (message,)


class RunFolderError(LimbeckError, OSError):
    """A run folder that cannot be read, written or continued."""


class WeightsError(LimbeckError, ValueError):
    """A file of weights that cannot be read or does not fit the network."""


class Interrupted(LimbeckError):
    """The run was asked to stop and has saved itself."""


def listed(names: Iterable[str], shown: int = 3, between: str = ", ") -> str:
    """The first names in a row, and how many more there are.

    >>> listed(["stem", "layer1"]), listed("abcde")
    ('stem, layer1', 'a, b, c and 2 more')
    """
    names = list(names)
    rest = f"{';' if ';' in between else ''} and {len(names) - shown} more" if len(names) > shown else ""
    return between.join(names[:shown]) + rest


def near(name: str, known: Iterable[str], n: int = 3) -> list[str]:
    """The known names that `name` may have been meant to be, best first; initials count as a name.

    >>> near("at", ["kd", "attention_transfer"])
    ['attention_transfer']
    """
    names = [str(k) for k in known]
    lower = {k.lower(): k for k in reversed(names)}
    found = difflib.get_close_matches(str(name).lower(), list(lower), n=n, cutoff=0.55)
    short = [k for k in lower if len(name) > 1 and "".join(word[:1] for word in k.split("_")) == str(name).lower()]
    return [lower[f] for f in dict.fromkeys((*short, *found))][:n]


def choices(word: object, known: Iterable[str]) -> str:
    """The few words that there are, and the near ones if any.

    >>> choices("gobal", ["layer", "global", "auto"]), choices(3, ["layer", "global"])
    ('layer, global, auto; near: global', 'layer, global')
    """
    names = list(known)
    close = near(word, names) if isinstance(word, str) else []
    return ", ".join(names) + (f"; near: {', '.join(close)}" if close else "")


def unknown(what: str, name: str, known: Iterable[str], where: str = "") -> str:
    """A sentence for a name that does not exist: the near ones if any, else all of them (cut at 20).

    >>> unknown("layer", "layr3", ["layer1", "layer3", "fc"], "resnet20")
    "no layer 'layr3' in resnet20; near: layer3, layer1"
    """
    names = list(known)
    place = f" in {where}" if where else ""
    close = near(name, names)
    if close:
        return f"no {what} {name!r}{place}; near: {', '.join(close)}"
    shown = ", ".join(names[:20]) + (f", ... ({len(names)} in all)" if len(names) > 20 else "")
    return f"no {what} {name!r}{place}; there are: {shown or 'none'}"
