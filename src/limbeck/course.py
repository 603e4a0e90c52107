"""Courses: methods that are not one training but several, each from what an earlier one left.

Born-again networks, label refinery and chains of assistants need nothing from the engine: they are ordinary trainings
in a row.  A *course* is a frozen dataclass with one function, ``lessons()``.  It stands where a method stands, in a
recipe or in `limbeck.distill`, and is replaced by its lessons before anything runs: each becomes a stage of its own,
with its own line in the report, its own checkpoint, and its own place on the shelf of models.

This module imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

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
        method: how it is trained.
        student: what is trained: `STUDENT`, the stage's own, or another model by its name.
        teachers: from whom: `TEACHER`, the stage's own (all of them, where it has several), ".NAME", the result of an
            earlier lesson, or another model by its name.  None at all: from labels.
        fresh: start from other random weights than the stage's own student does.
    """

    name: str = ""
    method: Method
    student: str = STUDENT
    teachers: tuple[str, ...] = (TEACHER,)
    fresh: bool = False


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


@runtime_checkable
class Course(Protocol):
    """Several trainings in a row.  Never subclassed."""

    def lessons(self) -> Sequence[Lesson | Gathering]: ...


def lessons_of(course: Course) -> tuple[Lesson | Gathering, ...]:
    """The lessons of a course, checked.

    Raises:
        LimbeckError: names are used twice or refer to nothing before them, or no lesson, or more than one, or one that
            is not the last, has no name.
    """
    title, seen, found = type(course).__name__, set[str](), tuple(course.lessons())
    trained = [part for part in found if isinstance(part, Lesson)]
    if not trained or trained[-1].name or any(not lesson.name for lesson in trained[:-1]):
        raise LimbeckError(f"{title}: the last lesson, and no other, has an empty name: its result is the stage's own")
    for part in found:
        _require_part(title, part)
        references = part.teachers if isinstance(part, Lesson) else part.members
        for reference in references:
            if reference.startswith(".") and reference not in seen:
                raise LimbeckError(
                    f"{title}: {part.name or 'the last lesson'!r} refers to {reference!r}, which no lesson before leaves"
                )
        if f".{part.name}" in seen:
            raise LimbeckError(f"{title}: two lessons are called {part.name!r}")
        seen.add(f".{part.name}")
    return found


def _require_part(title: str, part: object) -> None:
    """A lesson or a gathering whose name can be a folder's, with what it needs."""
    if not isinstance(part, (Lesson, Gathering)):
        raise LimbeckError(f"{title}: a lesson is a Lesson or a Gathering, not {part!r}")
    if part.name and (part.name.startswith(".") or not all(c.isalnum() or c in "_-." for c in part.name)):
        raise LimbeckError(
            f"{title}: lesson name {part.name!r}: letters, digits, '_', '-' and '.' only, and no '.' in front"
        )
    if isinstance(part, Lesson) and not isinstance(part.method, Method):
        raise LimbeckError(f"{title}: the method of a lesson is no course: {part.method!r}")
    if isinstance(part, Gathering) and not all(member.startswith(".") for member in part.members):
        raise LimbeckError(f"{title}: members are results of lessons, written '.NAME': {part.members!r}")


def is_course(method: object) -> bool:
    """Whether this is a course: something with ``lessons()`` and without ``phases``."""
    return isinstance(method, Course) and not isinstance(method, Method) and not isinstance(method, type)


def is_taught(course: Course) -> bool:
    """Whether a course learns from a teacher that the stage names."""
    return any(isinstance(part, Lesson) and TEACHER in part.teachers for part in course.lessons())
