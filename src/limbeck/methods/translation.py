"""Maps of one or several teachers, translated: what factor transfer and FEED have in common."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from limbeck import losses
from limbeck.errors import ShapeError
from limbeck.methods.pairs import Pair, settle
from limbeck.methods.terms import check_logits, cross_entropy, off, require_targets, require_temperature
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Seen, Term, Update
from limbeck.settings import Optimizer, Weight, at, finite, require, require_weights, require_whole

if TYPE_CHECKING:
    from torch import nn

    from limbeck.connectors import Paraphraser

Form = Literal["paper", "mean", "benchmark"]
Layers = Literal["paper", "benchmark"]

_BETA = 500.0  # Kim, Park, Kwak; their code multiplies the mean over the units with it

_NAMED = "pair=(student layer, teacher layer)"


@dataclass(frozen=True, kw_only=True)
class Way:
    """How factors are made and compared; the settings are those of `FactorTransfer`, by the same names."""

    rate: float
    p: int
    weight: Weight | None
    form: Form
    layers: Layers
    paraphrase_share: float
    paraphrase_epochs: int | None
    paraphrase_optimizer: Optimizer | None
    hard: Weight
    soft: Weight
    temperature: float

    def __post_init__(self) -> None:
        require(finite(self.rate) and self.rate > 0, "rate", self.rate, "a paraphrase rate is more than zero")
        require(self.p in (1, 2), "p", self.p, "1 or 2")
        require(self.form in ("paper", "mean", "benchmark"), "form", self.form, "'paper', 'mean' or 'benchmark'")
        require(self.layers in ("paper", "benchmark"), "layers", self.layers, "'paper' or 'benchmark'")
        ok = finite(self.paraphrase_share) and 0 < self.paraphrase_share < 1
        require(ok, "paraphrase_share", self.paraphrase_share, "a part of the epochs, in (0, 1)")
        if (epochs := self.paraphrase_epochs) is not None:
            require_whole(paraphrase_epochs=epochs)
            require(epochs >= 1, "paraphrase_epochs", epochs, "at least 1, or nothing at all")
        weights = {} if self.weight is None else {"weight": self.weight}
        require_weights(some=self.weight is not None, **weights, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    @classmethod
    def of(cls, method: Any) -> Way:
        """That of a method which has these settings among its own."""
        return cls(**{field.name: getattr(method, field.name) for field in dataclasses.fields(cls)})

    def weight_of(self, units: int) -> Weight:
        """The weight of the factors' distance, by default on the scale of the authors' code in every form."""
        if self.weight is not None:
            return self.weight
        return {"paper": _BETA / units ** (1 / self.p), "mean": _BETA, "benchmark": 200.0}[self.form]


@dataclass(frozen=True, kw_only=True)
class Link:
    """One teacher's layer, the student's layer that learns from it, and the small networks between them.

    Attributes:
        teacher: the teacher's role.
        pair: (student layer, teacher layer).
        paraphraser: makes the factor; None: the teacher's map itself is learnt.
        trained: whether the paraphraser came from a file.
        translator: from the student's map to the factor.
        weight: of the distance.
        notes: lines for the user.
    """

    teacher: str
    pair: Pair
    paraphraser: Paraphraser | None
    trained: bool
    translator: nn.Module
    weight: Weight
    notes: tuple[str, ...]

    @property
    def number(self) -> str:
        """What tells this link's modules from the others': nothing for the only teacher."""
        return self.teacher.removeprefix("teacher")

    @property
    def term(self) -> str:
        """The name of its distance in the record."""
        return f"factor/{self.teacher}" if self.number else "factor"


def beside(cast: Cast, teacher: str) -> Cast:
    """The cast with this one of its teachers, as "teacher"."""
    return dataclasses.replace(cast, models={"student": cast.models["student"], "teacher": cast.models[teacher]})


def link(
    cast: Cast, teacher: str, pair: Pair | None, way: Way, *, paraphrase: bool, file: str | None, title: str
) -> Link:
    """Look at one teacher's layer and build what goes between it and the student's.

    Args:
        cast: needs a student and this teacher.
        teacher: its role.
        pair: (student layer, teacher layer); None: the last maps of both.
        way: how.
        paraphrase: whether a paraphraser stands behind the teacher's layer.
        file: its weights, where it is trained already.
        title: of the method, for messages.

    Raises:
        TapError: a layer does not exist, or none was given and a network has no maps.
        ShapeError: a layer gives no maps.
        HyperParameterError: the rate leaves no channel.
        WeightsError: the file cannot be read, or does not fit.
    """
    from limbeck import connectors, layers, taps
    from limbeck.models import load_weights

    two, inputs = beside(cast, teacher), cast.example.inputs
    chosen = pair or layers.match(two.models["student"], two.models["teacher"], inputs, setting=_NAMED)[-1]
    settle(two, (chosen,), method=title, setting=_NAMED)
    ours = taps.shapes(two.models["student"], inputs, (chosen[0],))[chosen[0]][1:]
    theirs = taps.shapes(two.models["teacher"], inputs, (chosen[1],))[chosen[1]][1:]
    net = None
    if paraphrase:
        net = connectors.paraphraser(theirs[0], way.rate, form=way.layers)
        if file is not None:
            load_weights(net, file)
    channels = theirs[0] if net is None else connectors.factor_channels(theirs[0], way.rate)
    translator = connectors.translator(ours[0], channels, form=way.layers)
    positions = min(ours[1], theirs[1]) * min(ours[2], theirs[2])
    how = "pair" if pair else "pair (the last maps of both)"
    made = f"factor of {channels} channels" if net is not None else f"the map itself, {channels} channels"
    notes = [f"{how}: {chosen[0]} {list(ours)} -> {teacher} {chosen[1]} {list(theirs)}, {made}"]
    if file is not None:
        notes.append(f"paraphraser{teacher.removeprefix('teacher')}: from {file}")
    return Link(
        teacher=teacher,
        pair=chosen,
        paraphraser=net,
        trained=file is not None,
        translator=translator,
        weight=way.weight_of(channels * positions),
        notes=tuple(notes),
    )


def require_one_size(cast: Cast, links: Sequence[Link]) -> None:
    """Refuse teachers whose maps differ in height or width.

    Raises:
        ShapeError: they do; the message has the size of each.
    """
    from limbeck import taps

    sizes = {}
    for one in links:
        layer = one.pair[1]
        sizes[one.teacher] = taps.shapes(cast.models[one.teacher], cast.example.inputs, (layer,))[layer][2:]
    if len(set(sizes.values())) > 1:
        told = ", ".join(f"{role} {h}x{w}" for role, (h, w) in sizes.items())
        raise ShapeError(f"the teachers' maps differ in size ({told}); choose a layer that has one size in all of them")


def phases(cast: Cast, links: Sequence[Link], way: Way) -> tuple[Phase, ...]:
    """ "paraphrase" for the paraphrasers that have to be trained, if any, then "distill".

    Raises:
        TargetError: ``hard`` is on, and the batches have no labels.
        ShapeError: with ``soft``, a teacher scores other classes.
    """
    require_targets(cast.example, way.hard)
    if not off(way.soft):
        for one in links:
            check_logits(beside(cast, one.teacher), columns=2, instead="set soft=0")
    fresh = [one for one in links if one.paraphraser is not None and not one.trained]
    first = (_paraphrase(cast, fresh, way),) if fresh else ()
    return *first, _distill(cast, links, way)


def _paraphrase(cast: Cast, links: Sequence[Link], way: Way) -> Phase:
    modules: dict[str, nn.Module] = {one.teacher: cast.models[one.teacher] for one in links}
    names = {f"paraphraser{one.number}": one for one in links}
    modules |= {name: one.paraphraser for name, one in names.items() if one.paraphraser is not None}

    def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
        for name, one in names.items():
            maps = models[one.teacher](batch.inputs).taps[one.pair[1]]
            yield Update(name, {"reconstruction": Term(losses.hint_l2(models[name](maps), maps, form="benchmark"))})

    return Phase(
        name="paraphrase",
        modules=modules,
        trains={name: (name,) for name in names},
        taps={one.teacher: (one.pair[1],) for one in links},
        step=step,
        share=way.paraphrase_share,
        epochs=way.paraphrase_epochs,
        stops=frozenset(one.teacher for one in links),
        optimizers={} if way.paraphrase_optimizer is None else dict.fromkeys(names, way.paraphrase_optimizer),
        keeps=tuple(names),
        notes=tuple(note for one in links for note in one.notes),
    )


def _distill(cast: Cast, links: Sequence[Link], way: Way) -> Phase:
    modules: dict[str, nn.Module] = {"student": cast.models["student"]}
    for one in links:
        modules[one.teacher] = cast.models[one.teacher]
        modules[f"translator{one.number}"] = one.translator
        if one.paraphraser is not None:
            modules[f"encoder{one.number}"] = one.paraphraser.encoder

    def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
        teachers = {one.teacher: models[one.teacher](batch.inputs) for one in links}
        student = models["student"](batch.inputs)
        terms = cross_entropy(student.logits, batch, moment, weight=way.hard)
        for one in links:
            target = teachers[one.teacher].taps[one.pair[1]]
            if one.paraphraser is not None:
                target = models[f"encoder{one.number}"](target)
            factor = models[f"translator{one.number}"](student.taps[one.pair[0]])
            value = losses.factor_lp(factor, target, p=way.p, form=way.form)
            terms[one.term] = Term(value, at(one.weight, moment))
        yield Update("student", terms | _soft(student, list(teachers.values()), way, moment))

    fresh = any(one.paraphraser is not None and not one.trained for one in links)
    return Phase(
        name="distill",
        modules=modules,
        trains={"student": ("student", *(f"translator{one.number}" for one in links))},
        taps={
            "student": tuple(dict.fromkeys(one.pair[0] for one in links)),
            **{one.teacher: (one.pair[1],) for one in links},
        },
        step=step,
        share=1.0 - way.paraphrase_share if fresh and way.paraphrase_epochs is None else 1.0,
        stops=frozenset(one.teacher for one in links) if off(way.soft) else frozenset(),
        notes=() if fresh else tuple(note for one in links for note in one.notes),
    )


def _soft(student: Seen, teachers: Sequence[Seen], way: Way, moment: Moment) -> dict[str, Term]:
    """The term "kd", the mean over the teachers, or nothing when its weight is zero."""
    if off(way.soft):
        return {}
    found = [losses.kd_kl(student.logits, teacher.logits, temperature=way.temperature) for teacher in teachers]
    value = sum(found[1:], found[0]) / len(found)
    return {"kd": Term(value, at(way.soft, moment))}
