"""From the stages that a recipe names to those that run: courses become their lessons."""

from __future__ import annotations

from collections.abc import Iterable
from typing import NamedTuple

from limbeck.course import STUDENT, TEACHER, Course, Gathering, Lesson, is_course, is_taught, lessons_of
from limbeck.errors import LimbeckError
from limbeck.recipe.stages import Distill, Ensemble, Peer, Stage, Together, Train, student_of


class Planned(NamedTuple):
    """A stage that runs, and the place in the recipe of the one that it comes from."""

    position: int
    stage: Stage


def planned(stages: Iterable[Stage]) -> tuple[Planned, ...]:
    """What runs, in order.

    Raises:
        LimbeckError: a course's lessons do not fit together, or it needs a teacher and its stage names none.
    """
    return tuple(Planned(index, part) for index, stage in enumerate(stages) for part in expand(stage))


def expand(stage: Stage) -> tuple[Stage, ...]:
    """The stages that one stage of a recipe stands for; itself, for most."""
    if isinstance(stage, Together):
        return stage, *_peers(stage)
    if isinstance(stage, (Train, Distill)) and is_course(stage.method):
        return _lessons(stage, stage.method)
    return (stage,)


def _peers(stage: Together) -> list[Peer]:
    return [
        Peer(name=f"{stage.name}.{place}", student=student, of=stage.name, place=place, per_seed=stage.per_seed)
        for place, student in enumerate(stage.students[1:], 2)
    ]


def _lessons(stage: Train | Distill, course: Course) -> tuple[Stage, ...]:
    """A course's lessons as stages, which share everything with the course's own stage but their names and cast."""
    if isinstance(stage, Train) and is_taught(course):
        title = type(course).__name__
        raise LimbeckError(f"{title} learns from a teacher: use a stage of kind distill, which names one")
    own = {STUDENT: (student_of(stage),), TEACHER: stage.teachers if isinstance(stage, Distill) else ()}

    def named(reference: str) -> tuple[str, ...]:
        if reference.startswith("."):
            return (_join(stage.name, reference[1:]),)
        return own.get(reference, (reference,))

    found: list[Stage] = []
    for part in lessons_of(course):
        name = _join(stage.name, part.name)
        if isinstance(part, Gathering):
            members = tuple(one for member in part.members for one in named(member))
            found.append(Ensemble(name=name, members=members, averaging=part.averaging, per_seed=stage.per_seed))
        else:
            found.append(_stage(stage, part, name, tuple(one for teacher in part.teachers for one in named(teacher))))
    return tuple(found)


def _stage(stage: Train | Distill, lesson: Lesson, name: str, teachers: tuple[str, ...]) -> Stage:
    (student,) = (student_of(stage),) if lesson.student == STUDENT else (lesson.student,)
    # Not from the stage's own name: two variants of a course start from equal weights, lesson by lesson.
    init = f"{stage.init}/{lesson.name or 'last'}" if lesson.fresh else stage.init
    shared = {"training": stage.training, "rows": stage.rows, "per_seed": stage.per_seed, "init": init}
    if not lesson.teachers:
        return Train(name=name, model=student, method=lesson.method, **shared)
    teacher = teachers[0] if len(teachers) == 1 else teachers
    return Distill(name=name, student=student, teacher=teacher, method=lesson.method, **shared)


def _join(stage: str, lesson: str) -> str:
    return f"{stage}.{lesson}" if lesson else stage
