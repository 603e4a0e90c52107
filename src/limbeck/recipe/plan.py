"""From the stages that a recipe names to those that run: courses become their lessons."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import NamedTuple

from limbeck.course import STUDENT, TEACHER, Course, Gathering, Lesson, Operation, is_course, is_taught, lessons_of
from limbeck.errors import LimbeckError
from limbeck.methods.response import KD, Supervised
from limbeck.recipe.stages import Compress, Distill, Ensemble, Made, Peer, Stage, Together, Train, student_of

_CALIBRATION = 512  # rows for an operation in a stage that does not say how many


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
    if isinstance(stage, Distill) and isinstance(stage.student, Made):
        made = stage.student
        if is_course(made.how):
            title = type(made.how).__name__
            raise LimbeckError(
                f"{title} as it is set here trains between its steps: give it a compress stage of its own"
            )
        first = Compress(name=student_of(stage), model=made.source, how=made.how, per_seed=stage.per_seed)
        return first, *expand(replace(stage, student=first.name))
    if isinstance(stage, Together):
        return stage, *_peers(stage)
    if isinstance(stage, (Train, Distill)) and is_course(stage.method):
        return _lessons(stage, stage.method)
    if isinstance(stage, Compress) and is_course(stage.how):
        return _lessons(stage, stage.how)
    return (stage,)


def course_of(stage: Stage) -> Course | None:
    """The course that a stage of a recipe stands for, if it does."""
    found = stage.how if isinstance(stage, Compress) else getattr(stage, "method", None)
    return found if is_course(found) else None


def looks_back(how: object) -> bool:
    """Whether a compressor, as it is set, looks at the network from before training, which its stage has to name."""
    return bool(getattr(how, "needs_before", False))


def _peers(stage: Together) -> list[Peer]:
    return [
        Peer(name=f"{stage.name}.{place}", student=student, of=stage.name, place=place, per_seed=stage.per_seed)
        for place, student in enumerate(stage.students[1:], 2)
    ]


def _lessons(stage: Train | Distill | Compress, course: Course) -> tuple[Stage, ...]:
    """A course's lessons as stages, which share everything with the course's own stage but their names and cast."""
    if isinstance(stage, Train) and is_taught(course):
        title = type(course).__name__
        raise LimbeckError(f"{title} learns from a teacher: use a stage of kind distill, which names one")
    own = {STUDENT: (student_of(stage),), TEACHER: _teachers(stage)}

    def named(references: Iterable[str]) -> tuple[str, ...]:
        return tuple(one for name in references for one in own.get(name, (_absolute(stage.name, name),)))

    found: list[Stage] = []
    for part in lessons_of(course):
        name = _join(stage.name, part.name)
        if isinstance(part, Gathering):
            members = named(part.members)
            found.append(Ensemble(name=name, members=members, averaging=part.averaging, per_seed=stage.per_seed))
        elif isinstance(part, Operation):
            (model,) = named([part.student])
            calibration = stage.calibration if isinstance(stage, Compress) else _CALIBRATION
            beside = named(part.beside)
            if not beside and isinstance(stage, Compress) and looks_back(part.how):
                beside = stage.beside
            found.append(
                Compress(
                    name=name, model=model, how=part.how, beside=beside, calibration=calibration,
                    rows=stage.rows, per_seed=stage.per_seed,
                )
            )  # fmt: skip
        else:
            (student,) = named([part.student])
            found.append(_stage(stage, part, name, student, named(part.teachers)))
    return tuple(found)


def _teachers(stage: Train | Distill | Compress) -> tuple[str, ...]:
    """From whom a stage of a recipe learns."""
    if isinstance(stage, Distill):
        return stage.teachers
    teacher = stage.teacher if isinstance(stage, Compress) else None
    return (teacher,) if teacher is not None else ()


def _absolute(stage: str, reference: str) -> str:
    return _join(stage, reference[1:]) if reference.startswith(".") else reference


def _stage(
    stage: Train | Distill | Compress, lesson: Lesson, name: str, student: str, teachers: tuple[str, ...]
) -> Stage:
    # Not from the stage's own name: two variants of a course start from equal weights, lesson by lesson.
    before = "" if isinstance(stage, Compress) else stage.init
    init = f"{before}/{lesson.name or 'last'}" if lesson.fresh else before
    if lesson.student.startswith("."):
        init = ""  # it goes on from what an earlier lesson left
    training = replace(stage.training, **lesson.training) if lesson.training else stage.training
    shared = {"training": training, "rows": stage.rows, "per_seed": stage.per_seed, "init": init}
    own = stage.method if isinstance(stage, Compress) else None
    if not teachers:
        return Train(name=name, model=student, method=lesson.method or own or Supervised(), **shared)
    teacher = teachers[0] if len(teachers) == 1 else teachers
    return Distill(name=name, student=student, teacher=teacher, method=lesson.method or own or KD(), **shared)


def _join(stage: str, lesson: str) -> str:
    return f"{stage}.{lesson}" if lesson else stage
