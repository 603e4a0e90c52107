"""What methods share that compare the samples of a batch with each other: one pair of layers, beside the labels."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from math import prod
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from limbeck.errors import TapError
from limbeck.methods.heads import last_linear
from limbeck.methods.pairs import Pair
from limbeck.methods.terms import check_logits, cross_entropy, off, require_targets, soft_targets
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import Weight

if TYPE_CHECKING:
    from collections.abc import Iterator

    from torch import Tensor, nn

Layer = Literal["vector", "map"]

WITHIN = "relations are those within one process's share of a batch, and within one part of an accumulated batch"

_HOW = {"vector": "pair (what goes into the last linear layer)", "map": "pair (the last maps)"}


class Chosen(NamedTuple):
    """A pair of layers that was looked at.

    Attributes:
        pair: (student layer, teacher layer).
        sizes: numbers per sample in each of the two.
        note: a line for the user.
    """

    pair: Pair
    sizes: tuple[int, int]
    note: str


def choose(cast: Cast, pair: Pair | None, layer: Layer) -> Chosen:
    """The pair that the user named, or the usual one for relations.

    Args:
        cast: needs a student and a teacher.
        pair: as the user gave it.
        layer: what to take where there is none: "vector", the input of the last linear layer (the pooled features of
            most classifiers), or "map", the end of the last resolution stage.  A network that lacks the one gives the
            other.

    Raises:
        TapError: a layer does not exist, or a network has neither.
    """
    from limbeck import taps

    models, inputs = cast.pick("student", "teacher"), cast.example.inputs
    student, teacher = pair or (_usual(role, model, inputs, layer) for role, model in models.items())
    ours = tuple(taps.look(models["student"], inputs, (student,)).taps[student].shape[1:])
    theirs = tuple(taps.look(models["teacher"], inputs, (teacher,)).taps[teacher].shape[1:])
    how = "pair" if pair else _HOW[layer]
    note = f"{how}: {student} {list(ours)} -> {teacher} {list(theirs)}"
    return Chosen((student, teacher), (prod(ours), prod(theirs)), note)


def _usual(role: str, model: nn.Module, inputs: Any, layer: Layer) -> str:
    from limbeck import layers, taps

    ends = [name for name, _ in layers.stage_ends(model, inputs)]
    last_map = ends[-1] if ends else None
    head = last_linear(model, inputs)
    vector = None if head is None else f"{head}:in"
    found = (vector or last_map) if layer == "vector" else (last_map or vector)
    if found is None:
        raise TapError(
            f"the {role} ({taps.title(model)}) has neither a linear layer that gives its scores nor maps "
            "[batch, channels, height, width]; name the layers: pair=(student layer, teacher layer)"
        )
    return found


def distill_batchwise(
    cast: Cast,
    chosen: Chosen,
    compare: Callable[[Models, Tensor, Tensor, Moment], Mapping[str, Term]],
    *,
    hard: Weight,
    soft: Weight,
    temperature: float,
    modules: Mapping[str, nn.Module] | None = None,
) -> Phase:
    """The one phase of a method that compares samples with each other beside the labels, and maybe softened classes.

    Args:
        cast: needs a student and a teacher.
        chosen: the pair of layers, from `choose`.
        compare: (models, student features, teacher features, moment) -> terms, each one number for the batch.
        hard: weight of the labels.
        soft: weight of the softened classes; without it the teacher's forward ends at its tap.
        temperature: of the softened classes.
        modules: what ``compare`` uses besides; trained with the student.
    """
    extra = dict(modules or {})
    require_targets(cast.example, hard)
    if not off(soft):
        check_logits(cast, columns=2, instead="set soft=0")
    ours, theirs = chosen.pair

    def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
        teacher, student = models["teacher"](batch.inputs), models["student"](batch.inputs)
        terms = cross_entropy(student.logits, batch, moment, weight=hard)
        terms |= compare(models, student.taps[ours], teacher.taps[theirs], moment)
        yield Update("student", terms | soft_targets(student, teacher, moment, weight=soft, temperature=temperature))

    return Phase(
        name="distill",
        modules={**cast.pick("student", "teacher"), **extra},
        trains={"student": ("student", *extra)},
        taps={"student": (ours,), "teacher": (theirs,)},
        step=step,
        stops=frozenset({"teacher"}) if off(soft) else frozenset(),
        notes=(chosen.note, WITHIN),
    )
