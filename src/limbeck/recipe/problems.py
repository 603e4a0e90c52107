"""What is wrong between the parts of a recipe."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from limbeck.compressor import is_compressor
from limbeck.course import is_course, is_taught
from limbeck.errors import LimbeckError, unknown
from limbeck.recipe.plan import Planned, course_of, expand, looks_back
from limbeck.recipe.stages import (
    Compress,
    Distill,
    Ensemble,
    Evaluate,
    Fitted,
    Made,
    Peer,
    Stage,
    Together,
    Train,
    student_of,
    teachers_of,
)

if TYPE_CHECKING:
    from limbeck.recipe import Recipe

Path = tuple[str | int, ...]
Found = list[tuple[Path, str]]
_LONGEST = 100  # characters of a stage's name; folders may have 255 bytes
_LETTERS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-.")


def show_path(path: Path) -> str:
    """A place in a recipe, in words.

    >>> show_path(("stages", 1, "method", "temperature"))
    'stages[1].method.temperature'
    """
    text = ""
    for part in path:
        word = str(part) if str(part).isprintable() else repr(part)  # no control characters on the terminal
        text += f"[{part}]" if isinstance(part, int) else f".{word}" if text else word
    return text


@dataclass(frozen=True)
class _Reference:
    """A name of a model in a stage: where it stands, and whether it must have been trained."""

    place: Path
    name: str
    trained: bool


def problems(recipe: Recipe) -> list[tuple[Path, str]]:
    """What is wrong between the parts of a recipe, each with its place; shapes of networks not looked at."""
    found: Found = []
    if not recipe.stages:
        found.append((("stages",), "a recipe needs at least one stage (train, distill or evaluate)"))
    if not recipe.seeds:
        found.append((("seeds",), "a recipe needs at least one seed"))
    if len(set(recipe.seeds)) != len(recipe.seeds):
        found.append((("seeds",), f"the same seed twice in {list(recipe.seeds)}: repetitions must differ"))
    ready = {name for name, model in recipe.models.items() if model.weights}
    known, seen = set(recipe.models), dict[str, int]()
    fresh = set(recipe.models) - ready  # what these names mean has weights that can be drawn
    plan, broken = _plan(recipe)
    found += broken
    for index, stage in plan:
        place: Path = ("stages", index)
        found += _name(stage, place, seen)
        seen.setdefault(stage.name, index)
        found += _misplaced(stage, place, recipe.stages[index], fresh, bool(ready))
        for reference in _references(stage, place, recipe.stages[index]):
            if reference.name.partition("@")[0] not in known:
                inner = {
                    part.name for place_of, part in plan if place_of == index
                }  # of a course, whose lessons nobody writes down
                text = unknown("model", reference.name, sorted(known - inner), "this recipe before that stage")
                found.append((reference.place, text))
            elif reference.trained and reference.name.partition("@")[0] not in ready:
                name = reference.name.partition("@")[0]
                text = f"{name!r} is untrained here: give models.{name} a 'weights' file, or put a train stage named {name!r} before this one"
                found.append((reference.place, text))
        if not isinstance(stage, Evaluate):
            known.add(stage.name)
            ready.add(stage.name)
            fresh.discard(stage.name)
    trained = [s.name for _, s in plan if not isinstance(s, Evaluate)]
    if recipe.baseline is not None and recipe.baseline not in trained:
        found.append((("baseline",), unknown("stage", recipe.baseline, trained, "this recipe")))
    return list(dict.fromkeys(found))  # the lessons of a course may all have the same fault


def _plan(recipe: Recipe) -> tuple[list[Planned], Found]:
    """The stages that run, and what keeps courses from becoming stages."""
    plan: list[Planned] = []
    broken: Found = []
    for index, stage in enumerate(recipe.stages):
        try:
            plan += [Planned(index, part) for part in expand(stage)]
        except LimbeckError as error:
            made = getattr(stage, "student", None)
            key = "how" if isinstance(stage, Compress) else "method"
            if isinstance(made, Made) and is_course(made.how):
                key = "student"
            broken.append((("stages", index, key), str(error)))
    return plan, broken


def _name(stage: Stage, place: Path, seen: dict[str, int]) -> Iterator[tuple[Path, str]]:
    """What is wrong with the name of a stage."""
    where, name = (*place, "name"), stage.name
    if not name or set(name) - _LETTERS:
        yield where, f"stage name {name!r}: letters, digits, '_', '-' and '.' only"
    elif name.startswith(".") or len(name) > _LONGEST:  # it names a folder: never "..", never hidden
        shown = name if len(name) <= _LONGEST else name[:20] + "..."
        yield where, f"stage name {shown!r}: at most {_LONGEST} characters, and no '.' in front, as it names a folder"
    if name in seen:
        yield where, f"stage name {name!r} is used twice (also by stages[{seen[name]}])"
    elif alike := next((other for other in seen if other.lower() == name.lower()), None):
        yield where, f"stage name {name!r} is {alike!r} but for its case; some systems give both one folder"


def _misplaced(
    stage: Stage, place: Path, written: Stage, fresh: set[str], anything: bool
) -> Iterator[tuple[Path, str]]:
    """What a stage asks for that makes no sense where it is."""
    if isinstance(stage, Evaluate):
        yield from _unmeasurable(stage, place, anything)
    if isinstance(stage, Distill):
        for k, teacher in enumerate(stage.teachers):
            where = (*place, "teacher") if isinstance(stage.teacher, str) else (*place, "teacher", k)
            if teacher == stage.student and not isinstance(getattr(written, "student", None), Made):
                yield (*place, "student"), f"{stage.student!r} is both student and teacher of this stage"
            if teacher in stage.teachers[:k]:
                yield where, f"{teacher!r} is there twice; once is enough"
    if isinstance(stage, Ensemble):
        for k, member in enumerate(stage.members):
            if member in stage.members[:k]:
                yield (*place, "members", k), f"{member!r} is there twice; once is enough"
    if isinstance(written, Compress):
        yield from _idle(written, place)
    if isinstance(stage, (Train, Distill, Together)):
        starts = stage.students if isinstance(stage, Together) else (student_of(stage),)
        if stage.init and not set(starts) <= fresh:
            if isinstance(written, Fitted) and is_course(written.method):
                key = "model" if isinstance(written, Train) else "student"
                yield (
                    (*place, key),
                    f"{type(written.method).__name__} draws new weights for each lesson; name a blueprint",
                )
            else:
                yield (*place, "init"), "it continues from trained weights, so there are none to draw; leave init out"
        if isinstance(stage, Together):
            yield from _equal_starts(stage, place, fresh)
        yield from _course(written, place)


def _idle(stage: Compress, place: Path) -> Iterator[tuple[Path, str]]:
    """A compressor that is none, settings of a training that will not happen, networks that nobody looks at."""
    title = type(stage.how).__name__
    if not is_compressor(stage.how):
        text = f"{title} is no compressor: it cannot be called with a model"
        yield (*place, "how"), text
        return
    if looks_back(stage.how) and not stage.beside:
        text = f"{title} as it is set here looks at the weights from before training: name that network, beside: [NAME]"
        yield (*place, "how"), text
    elif stage.beside and not looks_back(stage.how):
        text = f"{title} as it is set here looks at no network but its own; leave beside out"
        yield (*place, "beside"), text
    if not is_course(stage.how):
        for key in ("teacher", "method"):
            if getattr(stage, key) is not None:
                text = f"{title} as it is set here trains nothing, so there is nobody to teach; put a distill stage after it"
                yield (*place, key), text


def _equal_starts(stage: Together, place: Path, fresh: set[str]) -> Iterator[tuple[Path, str]]:
    """Students that start from the same trained weights would stay equal for ever."""
    for k, name in enumerate(stage.students):
        if name in stage.students[:k] and name not in fresh:
            text = f"{name!r} is there twice, and trained: both would start from the same weights and stay equal"
            yield (*place, "students", k), text


def _course(stage: Stage, place: Path) -> Iterator[tuple[Path, str]]:
    """A course stands in the kind of stage that has what its lessons need."""
    if not isinstance(stage, Fitted) or not is_course(stage.method):
        return
    title = type(stage.method).__name__
    if isinstance(stage, Together):
        yield (*place, "method"), f"{title} is several trainings in a row, each of one student; use a distill stage"
    elif isinstance(stage, Distill) and not is_taught(stage.method):
        yield (*place, "method"), f"{title} trains its own teacher: use a stage of kind train"


def _unmeasurable(stage: Evaluate, place: Path, anything: bool) -> Iterator[tuple[Path, str]]:
    """What keeps an evaluation from measuring each network once."""
    if not stage.models and not anything:
        text = "there is nothing to evaluate: no train or distill stage before this one, and no model with 'weights'"
        yield (*place, "models"), text
    for k, name in enumerate(stage.models):
        if name in stage.models[:k]:
            yield (*place, "models", k), f"{name!r} is there twice; once is enough"


def _references(stage: Stage, place: Path, written: Stage) -> Iterator[_Reference]:
    """The names of models in a stage of the plan; ``written`` is the stage of the recipe that it comes from."""
    course = course_of(written) is not None
    if isinstance(written, Compress):
        yield from _of_compress(stage, place, written)
    elif isinstance(stage, Evaluate):
        for k, name in enumerate(stage.models):
            yield _Reference((*place, "models", k), name, True)
    elif isinstance(stage, Ensemble):
        for k, name in enumerate(stage.members):
            yield _Reference((*place, "method") if course else (*place, "members", k), name, True)
    elif isinstance(stage, Together):
        for k, name in enumerate(stage.students):
            yield _Reference((*place, "students", k), name, False)
    elif isinstance(stage, (Train, Distill)):
        own = student_of(stage) == student_of(written) if isinstance(written, (Train, Distill)) else True
        key = "model" if isinstance(stage, Train) else "student"
        yield _Reference((*place, key) if own else (*place, "method"), student_of(stage), False)
        for k, name in enumerate(teachers_of(stage)):
            if course and name not in teachers_of(written):
                yield _Reference((*place, "method"), name, True)
            else:
                one = isinstance(stage, Distill) and isinstance(stage.teacher, str)
                yield _Reference((*place, "teacher") if one else (*place, "teacher", k), name, True)
    elif isinstance(stage, Compress):  # an operation of a course that stands for a method, or one that makes a student
        made = isinstance(getattr(written, "student", None), Made)
        for name in (stage.model, *stage.beside):
            yield _Reference((*place, "student" if made else "method"), name, False)
    else:
        assert isinstance(stage, Peer)  # its stage was looked at


def _of_compress(stage: Stage, place: Path, written: Compress) -> Iterator[_Reference]:
    """The names in a stage that a compress stage of the recipe stands for."""
    if isinstance(stage, Ensemble):
        names = [(name, True) for name in stage.members]
    elif isinstance(stage, Compress):
        names = [(name, False) for name in (stage.model, *stage.beside)]
    else:
        assert isinstance(stage, (Train, Distill))
        names = [(student_of(stage), False), *((name, True) for name in teachers_of(stage))]
    keys = {**dict.fromkeys(written.beside, "beside"), written.model: "model", written.teacher: "teacher"}
    for name, trained in names:
        yield _Reference((*place, keys.get(name, "how")), name, trained and name == written.teacher)
