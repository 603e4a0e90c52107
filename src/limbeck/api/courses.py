"""Courses from Python: the lessons one after the other, on networks that are handed from one to the next."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace

from torch import nn

from limbeck import record as files
from limbeck.api.fitting import COURSE, Job, cost_of, hang, perform
from limbeck.api.outcome import Record
from limbeck.course import STUDENT, TEACHER, Course, Gathering, Lesson, Operation, is_taught, lessons_of
from limbeck.errors import HyperParameterError, NameUnknown, RunFolderError, unknown
from limbeck.methods import TeacherAssistant
from limbeck.models.byname import again
from limbeck.models.ensemble import Ensemble
from limbeck.phase import seed_for
from limbeck.randomness import own_random_numbers, seed_everything
from limbeck.taps import original


def perform_course(
    job: Job,
    course: Course,
    student: nn.Module,
    teachers: Sequence[nn.Module],
    others: Mapping[str, nn.Module],
    fresh: Callable[[], nn.Module] | None,
) -> Record:
    """Run the lessons of a course; what they leave hangs on the student, as ``lessons``, by name.

    Args:
        job: as for one training; each lesson but the last keeps its things in a folder of its own below.
        course: what to do.
        student: the network of the last lesson, and the pattern of the others.
        teachers: the stage's own.
        others: further networks that lessons name.
        fresh: makes a network like the student with weights of its own; None: a network of the zoo is built again, and
            the parts of any other draw new weights.

    Raises:
        HyperParameterError: the course needs a teacher and has none, or the other way round; or a network cannot draw
            new weights.
        NameUnknown: a lesson names a network that is not there.
    """
    _require_cast(course, teachers)
    if job.folder is not None:
        _require_same_course(job, course)
    blank = copy.deepcopy(original(student))
    if fresh is None and all(p.requires_grad for p in student.parameters()):
        fresh = again(original(student))  # the zoo's own start, not torch's
    shelf: dict[str, nn.Module] = {}
    records: dict[str, Record] = {}
    for part in lessons_of(course):
        if isinstance(part, Gathering):
            shelf[part.name] = Ensemble([shelf[name[1:]] for name in part.members], averaging=part.averaging)
            records[part.name] = _measured(job, part, shelf[part.name])
            continue
        if isinstance(part, Operation) or part.method is None:
            raise HyperParameterError(f"{type(course).__name__} compresses between its trainings: use limbeck.compress")
        network = _network(job, part, student, blank, others, fresh)
        taught_by = [one for name in part.teachers for one in _teachers(name, teachers, shelf, others)]
        _require_smaller(course, network, taught_by)
        roles = ["teacher"] if len(taught_by) == 1 else [f"teacher{k}" for k in range(1, len(taught_by) + 1)]
        records[part.name] = perform(
            job.lesson(part.name), part.method, {"student": network, **dict(zip(roles, taught_by))}
        )
        shelf[part.name] = original(network)
    record = replace(records.pop(""), lessons=records)
    shelf.pop("")
    hang(student, record=record, lessons=shelf)
    return record


def _require_same_course(job: Job, course: Course) -> None:
    """The lessons of one course must not be taken for those of another that keeps its things in the same folder."""
    assert job.folder is not None
    path, told = job.folder / COURSE, {"course": repr(course), "seed": job.seed}
    kept = files.read_json(path)
    if kept is None and (job.folder / "record.json").exists():
        raise RunFolderError(f"{job.folder} holds a training that is no course; choose another out")
    if kept not in (None, told):
        raise RunFolderError(f"{job.folder} holds another course, {kept.get('course')}; choose another out")
    job.folder.mkdir(parents=True, exist_ok=True)
    files.write_json(path, told)


def redraw(model: nn.Module, seed: int) -> None:
    """New random weights, in place, by the model's own parts; those that are frozen keep theirs.

    Raises:
        HyperParameterError: a part has parameters and no ``reset_parameters``.
    """
    with own_random_numbers():
        seed_everything(seed)
        for name, part in model.named_modules():
            own = list(part.parameters(recurse=False))
            if own and not any(p.requires_grad for p in own):
                continue  # frozen by its owner, so it stays
            reset = getattr(part, "reset_parameters", None)
            if callable(reset):
                reset()
            elif own:
                raise HyperParameterError(
                    f"part {name or 'the model itself'!r} ({type(part).__name__}) cannot draw new weights: it has parameters and no "
                    "reset_parameters(); give fresh=, a function that makes a new network"
                )


def _require_cast(course: Course, teachers: Sequence[nn.Module]) -> None:
    title = type(course).__name__
    if is_taught(course) and not teachers:
        raise HyperParameterError(f"{title} learns from a teacher; use limbeck.distill, which takes one")
    if teachers and not is_taught(course):
        raise HyperParameterError(f"{title} trains its own teacher; use limbeck.train, which takes none")


def _require_smaller(course: Course, learner: nn.Module, teachers: Sequence[nn.Module]) -> None:
    """Along a chain of assistants networks get smaller."""
    sizes = [sum(p.numel() for p in model.parameters()) for model in (learner, *teachers)]
    if isinstance(course, TeacherAssistant) and len(sizes) == 2 and sizes[0] > sizes[1]:
        raise HyperParameterError(
            f"{sizes[0]:,} parameters would learn from {sizes[1]:,}: along a chain of assistants networks get smaller"
        )


def _network(
    job: Job,
    lesson: Lesson,
    student: nn.Module,
    blank: nn.Module,
    others: Mapping[str, nn.Module],
    fresh: Callable[[], nn.Module] | None,
) -> nn.Module:
    """The network that a lesson trains."""
    if lesson.student != STUDENT:
        if lesson.student not in others:
            raise NameUnknown(unknown("network", lesson.student, others, "models="))
        return others[lesson.student]
    seed = seed_for(job.seed, job.name, "fresh", lesson.name or "last")
    if fresh is not None and lesson.fresh:
        if not all(p.requires_grad for p in student.parameters()):
            raise HyperParameterError(
                "parts of the student are frozen, which networks from fresh= know nothing of; leave fresh out"
            )
        with own_random_numbers():
            seed_everything(seed)
            made = fresh()
        if not isinstance(made, nn.Module) or _shapes(made) != _shapes(blank):
            raise HyperParameterError(
                "fresh= must make a network like the student: other names or shapes of weights came"
            )
        if not lesson.name:
            student.load_state_dict(made.state_dict())
            return student
        return made
    network = student if not lesson.name else copy.deepcopy(blank)
    if lesson.fresh:
        redraw(original(network), seed)
    return network


def _shapes(model: nn.Module) -> dict[str, tuple[int, ...]]:
    return {name: tuple(value.shape) for name, value in original(model).state_dict().items()}


def _teachers(
    name: str, teachers: Sequence[nn.Module], shelf: Mapping[str, nn.Module], others: Mapping[str, nn.Module]
) -> Sequence[nn.Module]:
    if name == TEACHER:
        return teachers
    if name.startswith("."):
        return (shelf[name[1:]],)
    if name not in others:
        raise NameUnknown(unknown("network", name, others, "models="))
    return (others[name],)


def _measured(job: Job, part: Gathering, model: nn.Module) -> Record:
    """The record of an ensemble: nothing was trained."""
    after = {} if job.tests is None else {"student": job.measure({"it": model.to(job.team.device)}, job.tests)["it"][1]}
    cost = cost_of({"student": model}, job.loader, job.team)
    return Record(method=repr(part), seed=job.seed, epochs=0, seconds=0.0, cost=cost, after=after)
