"""Which layer of the student learns from which layer of the teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from limbeck.errors import HyperParameterError, ShapeError
from limbeck.methods.terms import check_logits, cross_entropy, off, require_targets, soft_targets
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import Weight, at

if TYPE_CHECKING:
    from torch import Tensor

Pair = tuple[str, str]


class Settled(NamedTuple):
    """Layer pairs that exist.

    Attributes:
        pairs: (student layer, teacher layer), in order.
        note: a line for the user.
    """

    pairs: tuple[Pair, ...]
    note: str

    @property
    def students(self) -> tuple[str, ...]:
        """The student's layers, each once."""
        return tuple(dict.fromkeys(student for student, _ in self.pairs))

    @property
    def teachers(self) -> tuple[str, ...]:
        """The teacher's layers, each once."""
        return tuple(dict.fromkeys(teacher for _, teacher in self.pairs))


def as_pair(name: str, value: Any) -> Pair:
    """One (student layer, teacher layer), whether it came as a tuple or a list.

    Raises:
        HyperParameterError: it is anything else.
    """
    ok = not isinstance(value, str) and isinstance(value, Sequence) and len(value) == 2
    if not ok or not all(isinstance(part, str) and part for part in value):
        raise HyperParameterError(
            f"{name} = {value!r}: a pair is (student layer, teacher layer), such as ('layer2', 'layer3')"
        )
    return value[0], value[1]


def as_pairs(value: Iterable[Any]) -> tuple[Pair, ...]:
    """The pairs as a tuple of tuples, whatever they came in.

    >>> as_pairs([["layer1", "layer2"]])
    (('layer1', 'layer2'),)

    Raises:
        HyperParameterError: a pair is malformed, or there twice.
    """
    if isinstance(value, str) or not isinstance(value, Iterable):
        raise HyperParameterError(f"pairs = {value!r}: a list of (student layer, teacher layer)")
    pairs = tuple(as_pair("pairs", pair) for pair in value)
    for pair in pairs:
        if pairs.count(pair) > 1:
            raise HyperParameterError(f"pairs: {pair!r} is there {pairs.count(pair)} times; once is enough")
    return pairs


def term_names(prefix: str, pairs: Sequence[Pair]) -> tuple[str, ...]:
    """What the terms of these pairs are called: by the student's layer, with the teacher's where that is not enough.

    >>> term_names("at", [("a", "x"), ("b", "y")])
    ('at/a', 'at/b')
    >>> term_names("at", [("a", "x"), ("a", "y")])
    ('at/a->x', 'at/a->y')
    """
    students = [student for student, _ in pairs]
    return tuple(f"{prefix}/{s}" if students.count(s) == 1 else f"{prefix}/{s}->{t}" for s, t in pairs)


def settle(
    cast: Cast, pairs: tuple[Pair, ...], *, method: str, setting: str = "pairs=[(student layer, teacher layer)]"
) -> Settled:
    """Choose pairs where none were given, and check that all of them are feature maps.

    Args:
        cast: needs a student and a teacher.
        pairs: as the user gave them; empty: the ends of the resolution stages, matched by relative depth.
        method: named in errors.
        setting: how the user would name layers, for the same.

    Raises:
        TapError: a layer does not exist, or none were given and a network has no maps to choose.
        ShapeError: a layer gives something else than maps ``[channels, height, width]``.
    """
    from limbeck import taps
    from limbeck.layers import match

    models, inputs = cast.pick("student", "teacher"), cast.example.inputs
    chosen = pairs or match(models["student"], models["teacher"], inputs, setting=setting)
    how = "pairs" if pairs else "pairs (chosen by depth)"
    settled = Settled(chosen, f"{how}: " + ", ".join(f"{s} -> {t}" for s, t in chosen))
    seen = {
        "student": taps.look(models["student"], inputs, settled.students).taps,
        "teacher": taps.look(models["teacher"], inputs, settled.teachers).taps,
    }
    for role, layers in (("student", settled.students), ("teacher", settled.teachers)):
        for layer in layers:
            shape = tuple(seen[role][layer].shape[1:])
            if len(shape) != 3:
                raise ShapeError(
                    f"{method} compares feature maps [channels, height, width]; layer {layer!r} of the {role} gives "
                    f"{list(shape)} per sample. Name layers that give maps: {setting}"
                )
    return settled


def distill_pairs(
    cast: Cast,
    pairs: tuple[Pair, ...],
    compare: Callable[[Tensor, Tensor], Tensor],
    weight: Weight,
    factor: float,
    *,
    method: str,
    prefix: str,
    hard: Weight,
    soft: Weight,
    temperature: float,
) -> Phase:
    """The one phase of a method that compares pairs of maps beside the labels, and maybe beside softened classes.

    Args:
        cast: needs a student and a teacher.
        pairs: as the user gave them; empty: chosen by `settle`.
        compare: (student map, teacher map) -> one value per sample.
        weight: of every pair.
        factor: a constant in front of it, such as the 1/2 that a paper writes.
        method: named in errors.
        prefix: of the terms' names.
        hard: weight of the labels.
        soft: weight of the softened classes; without it the teacher's forward ends at its last tap.
        temperature: of the softened classes.
    """
    modules = cast.pick("student", "teacher")
    require_targets(cast.example, hard)
    if not off(soft):
        check_logits(cast, columns=2, instead="set soft=0")
    settled = settle(cast, pairs, method=method)
    names = term_names(prefix, settled.pairs)

    def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
        teacher, student = models["teacher"](batch.inputs), models["student"](batch.inputs)
        terms = cross_entropy(student.logits, batch, moment, weight=hard)
        for name, (ours, theirs) in zip(names, settled.pairs, strict=True):
            terms[name] = Term(compare(student.taps[ours], teacher.taps[theirs]), factor * at(weight, moment))
        yield Update("student", terms | soft_targets(student, teacher, moment, weight=soft, temperature=temperature))

    return Phase(
        name="distill",
        modules=modules,
        trains={"student": ("student",)},
        taps={"student": settled.students, "teacher": settled.teachers},
        step=step,
        stops=frozenset({"teacher"}) if off(soft) else frozenset(),
        notes=(settled.note,),
    )
