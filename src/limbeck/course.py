"""Courses: what is not one training but several, each from what an earlier one left.

Born-again networks, label refinery and chains of assistants need nothing from the engine: they are ordinary trainings
in a row.  Lottery tickets, iterative pruning and quantization-aware training are trainings with operations between them.
A *course* is a frozen dataclass with one function, ``lessons()``.  It stands where a method or a compressor stands, in a
recipe or in a Python call, and is replaced by its lessons before anything runs: each becomes a stage of its own,
with its own line in the report, its own checkpoint, and its own place on the shelf of models.

This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from limbeck.compressor import Compressor
from limbeck.errors import LimbeckError
from limbeck.phase import Method

STUDENT = "student"
TEACHER = "teacher"
Averaging = Literal["arithmetic", "geometric"]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """One training of a course.

    Attributes:
        name: the result is called "STAGE.NAME"; empty for the one that the course is about, which is called "STAGE".
        method: how it is trained; None: as the stage says, which is KD where there is a teacher and labels where not.
        student: what is trained: `STUDENT`, the stage's own as it was before the stage, ".NAME", the result of an earlier
            lesson or operation, or another model by its name.
        teachers: from whom: `TEACHER`, the stage's own (all of them, where it has several), ".NAME", the result of an
            earlier lesson, or another model by its name.  None at all: from labels.
        fresh: start from other random weights than the stage's own student does.
        training: settings of `limbeck.Training` that this lesson has otherwise than the stage.
    """

    name: str = ""
    method: Method | None
    student: str = STUDENT
    teachers: tuple[str, ...] = (TEACHER,)
    fresh: bool = False
    training: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Operation:
    """A step of a course in which nothing is trained.

    Attributes:
        name: the result is called "STAGE.NAME"; empty for the last step, whose result is called "STAGE".
        how: what is done to the network.
        student: which network: as in `Lesson`.
        beside: further networks that `how` is handed, as ``beside=``: references like `student`.
    """

    name: str
    how: Compressor
    student: str = STUDENT
    beside: tuple[str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Gathering:
    """The average of networks that lessons left, measured as one network and there for later stages.

    Attributes:
        name: it is called "STAGE.NAME".
        members: ".NAME" of earlier lessons; "." for the result of the whole stage.
        averaging: "arithmetic", the mean of the probabilities, or "geometric", the mean of the logits.
    """

    name: str
    members: tuple[str, ...]
    averaging: Averaging = "arithmetic"


Part = Lesson | Operation | Gathering


@runtime_checkable
class Course(Protocol):
    """Several trainings in a row, maybe with operations between them.  Never subclassed."""

    def lessons(self) -> Sequence[Part]: ...


def lessons_of(course: Course) -> tuple[Part, ...]:
    """The lessons of a course, checked.

    Raises:
        LimbeckError: names are used twice or refer to nothing before them, or no lesson, or more than one, or one that
            is not the last, has no name.
    """
    title, seen, found = type(course).__name__, set[str](), tuple(course.lessons())
    steps = [part for part in found if isinstance(part, (Lesson, Operation))]
    if not steps or steps[-1].name or any(not step.name for step in steps[:-1]):
        raise LimbeckError(f"{title}: the last lesson, and no other, has an empty name: its result is the stage's own")
    for part in found:
        _require_part(title, part)
        for reference in references(part):
            if reference.startswith(".") and reference.partition("@")[0] not in seen:
                raise LimbeckError(
                    f"{title}: {part.name or 'the last lesson'!r} refers to {reference!r}, which no lesson before leaves"
                )
        if f".{part.name}" in seen:
            raise LimbeckError(f"{title}: two lessons are called {part.name!r}")
        seen.add(f".{part.name}")
    return found


def references(part: Part) -> tuple[str, ...]:
    """The networks that a step of a course names."""
    if isinstance(part, Gathering):
        return part.members
    return (part.student, *(part.teachers if isinstance(part, Lesson) else part.beside))


def _require_part(title: str, part: object) -> None:
    """A step whose name can be a folder's, with what it needs."""
    if not isinstance(part, Part):
        raise LimbeckError(f"{title}: a lesson is a Lesson, an Operation or a Gathering, not {part!r}")
    if part.name and (part.name.startswith(".") or not all(c.isalnum() or c in "_-." for c in part.name)):
        raise LimbeckError(
            f"{title}: lesson name {part.name!r}: letters, digits, '_', '-' and '.' only, and no '.' in front"
        )
    if isinstance(part, Lesson) and part.method is not None and not isinstance(part.method, Method):
        raise LimbeckError(f"{title}: the method of a lesson is no course: {part.method!r}")
    if isinstance(part, Gathering) and not all(member.startswith(".") for member in part.members):
        raise LimbeckError(f"{title}: members are results of lessons, written '.NAME': {part.members!r}")


def is_course(method: object) -> bool:
    """Whether this is a course: something with lessons and without ``phases``; a compressor may have none of either."""
    if not isinstance(method, Course) or isinstance(method, (Method, type)):
        return False
    return not isinstance(method, Compressor) or bool(method.lessons())


def is_taught(course: Course) -> bool:
    """Whether a course learns from a teacher that the stage names."""
    return any(isinstance(part, Lesson) and TEACHER in part.teachers for part in course.lessons())
