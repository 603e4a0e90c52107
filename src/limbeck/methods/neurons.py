"""Neuron selection: the student predicts those of the teacher's top neurons that tell classes apart."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar
from typing import cast as cast_to

from limbeck import losses
from limbeck.errors import HyperParameterError, ShapeError, TargetError
from limbeck.methods.heads import top_layer
from limbeck.methods.pairs import as_pair
from limbeck.methods.terms import (
    check_logits,
    cross_entropy,
    device_of,
    off,
    require_temperature,
    soft_targets,
)
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import Presets, Weight, at, finite, require, require_weights, require_whole

if TYPE_CHECKING:
    from torch import Tensor

    from limbeck.connectors import NeuronStatistics


@dataclass(frozen=True, kw_only=True)
class NeuronSelection:
    """The student predicts selected neurons of the teacher's top hidden layer (Luo, Zhu, Liu, Wang, Tang, AAAI 2016).

    "statistics" counts over the training rows how the teacher's neurons vary. From that, neurons are chosen one by one: each time
    the one with the largest ``score_i - mu * max |rho_ij|`` over the chosen j. The score is the part of a neuron's variance that
    lies between classes (it grows with Fisher's ratio), rho is Pearson's correlation. A neuron that never varies is not chosen,
    nor (with ``mu`` above zero) one that always agrees with a chosen one.

    "distill" trains the student and a linear regressor g on
    ``hard * CE(z_s, y) + weight * 1/2 || g(x) - f_T[selected] ||^2``, mean over the batch, with x the student's own top layer.

    The chosen neurons stand in the stage's folder as ``selection.safetensors``: its tensor ``neurons`` has their indices in the
    order of the choice, and -1 for each that is missing from ``k``.

    Attributes:
        pair: (student layer, teacher layer), both of vectors.  None: what goes into the last linear layer of both.
        k: how many neurons to select, from 1 to the teacher's number.  Default None: half of them (ours).
        mu: what likeness to a selected neuron costs, zero or more; the score and the likeness are both in [0, 1].  With
            0 the k best are taken.  Default 0.5 (ours; the paper weighs its two parts on validation data).
        weight: of the regression, zero or more, or a `Ramp`.  Default 1 (the paper's half sum).
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1; without it nothing trains the student's
            classifier, unless ``soft`` does.  The statistics need labels either way.
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0.
        temperature: of that term.  Default 4, as in `KD`.

    Raises:
        HyperParameterError: a setting is outside its range, or k is more than the teacher has.
        TapError: a layer of ``pair`` does not exist, or none was given and a network does not end with a linear layer.
        ShapeError: a layer gives no vectors, or (with ``soft``) the networks score different classes.
        TargetError: a batch has no labels, or labels that are no class ids.
        DataError: the rows have a single class, or no neuron of the teacher's layer varies.

    >>> NeuronSelection(k=32).mu
    0.5
    """

    pair: tuple[str, str] | None = None
    k: int | None = None
    mu: float = 0.5
    weight: Weight = 1.0
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        # Luo et al.: the plain half sum of the selected neurons.  They compare faces by these and have no classifier; one
        # that sees no labels would stay as it was at random, so labels are on
        "paper": {"weight": 1.0, "hard": 1.0},
        # nobody has published a benchmark: the method's own scale, beside the labels
        "benchmark": {"hard": 1.0},
    }

    def __post_init__(self) -> None:
        if self.pair is not None:
            object.__setattr__(self, "pair", as_pair("pair", self.pair))
        if self.k is not None:
            require_whole(k=self.k)
            require(self.k >= 1, "k", self.k, "at least 1 neuron, or nothing for half of them")
        require(finite(self.mu) and self.mu >= 0, "mu", self.mu, "zero or more")
        require_weights(weight=self.weight, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """ "statistics" over the teacher's top layer, then "distill" with "ce", "neurons" and maybe "kd"."""
        from torch import nn

        from limbeck import connectors, taps

        models, inputs = cast.pick("student", "teacher"), cast.example.inputs
        _class_ids(cast.example)
        if not off(self.soft):
            check_logits(cast, columns=2, instead="set soft=0")
        pair = self.pair or (
            top_layer(models["student"], inputs, "student"),
            top_layer(models["teacher"], inputs, "teacher"),
        )
        widths = [
            _vector(taps.shapes(models[role], inputs, (layer,))[layer], role, layer)
            for role, layer in zip(("student", "teacher"), pair, strict=True)
        ]
        ours, neurons = widths
        k = max(1, neurons // 2) if self.k is None else self.k
        if k > neurons:
            raise HyperParameterError(
                f"k = {k}: layer {pair[1]!r} of the teacher has {neurons} neurons; select 1 to {neurons}"
            )
        classes = cast.classes or _columns(taps.look(models["teacher"], inputs, ()).logits)
        statistics = connectors.NeuronStatistics(neurons, classes, k=k, mu=self.mu, device=device_of(inputs))
        how = "pair" if self.pair else "pair (the top hidden layers)"
        first = Phase(
            name="statistics",
            modules={"teacher": models["teacher"], "neurons": statistics},
            trains={"statistics": ("neurons",)},
            taps={"teacher": (pair[1],)},
            step=_counting(pair[1], classes),
            epochs=1,
            stops=frozenset({"teacher"}),
            notes=(f"{how}: {pair[0]} [{ours}] -> {pair[1]} [{neurons}], of which at most {k} are selected",),
        )
        extra = {"neurons": statistics, "regressor": nn.Linear(ours, k), "selection": connectors.Selection(k)}
        return first, self._distill({**models, **extra}, pair)

    def _distill(self, modules: dict, pair: tuple[str, str]) -> Phase:
        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            teacher, student = models["teacher"](batch.inputs), models["student"](batch.inputs)
            terms = cross_entropy(student.logits, batch, moment, weight=self.hard)
            if not off(self.weight):
                wanted = models["neurons"](teacher.taps[pair[1]])
                models["selection"](cast_to("NeuronStatistics", models["neurons"]).selected)
                # fewer than k where too many agree: the rest of the regressor's outputs have nothing to learn
                guess = models["regressor"](student.taps[pair[0]])[:, : wanted.shape[1]]
                terms["neurons"] = Term(losses.hint_l2(guess, wanted), at(self.weight, moment))
            soft = soft_targets(student, teacher, moment, weight=self.soft, temperature=self.temperature)
            yield Update("student", terms | soft)

        return Phase(
            name="distill",
            modules=modules,
            trains={"student": ("student", "regressor", "selection")},
            taps={"student": (pair[0],), "teacher": (pair[1],)},
            step=step,
            stops=frozenset({"teacher"}) if off(self.soft) else frozenset(),
            keeps=() if off(self.weight) else ("selection",),
        )


def _counting(layer: str, classes: int):
    def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
        """Count the teacher's neurons; there is nothing to optimize."""
        models["neurons"](models["teacher"](batch.inputs).taps[layer], _class_ids(batch, classes))
        yield from ()

    return step


def _class_ids(batch: Batch, classes: int | None = None) -> Tensor:
    """The batch's labels, if they are one class id per sample."""
    from torch import Tensor

    targets = batch.targets
    if targets is None:
        raise TargetError(
            "neuron selection needs labels to find the neurons that tell classes apart, and this batch has none (its targets "
            "are None); the labels may stay out of the loss: hard=0"
        )
    if not isinstance(targets, Tensor):
        raise TargetError(f"neuron selection needs labels as a tensor; these targets are {type(targets).__name__}")
    if targets.ndim != 1 or targets.is_floating_point():
        raise TargetError(
            f"neuron selection needs one class id per sample; these targets are {list(targets.shape)} {targets.dtype}".replace(
                "torch.", ""
            )
        )
    if classes is not None and bool(((targets < 0) | (targets >= classes)).any()):
        raise TargetError(
            f"neuron selection: targets from {int(targets.min())} to {int(targets.max())}; with {classes} classes they "
            f"must be in [0, {classes})"
        )
    return targets


def _vector(shape: tuple[int, ...], role: str, layer: str) -> int:
    if len(shape) != 2:
        raise ShapeError(
            f"neuron selection needs vectors [features]; layer {layer!r} of the {role} gives {list(shape[1:])} per sample. Name "
            "layers that give vectors, such as the input of the classifier: pair=('fc:in', 'fc:in')"
        )
    return shape[1]


def _columns(logits: Tensor) -> int:
    return logits.shape[1] if logits.ndim > 1 and logits.shape[1] > 1 else 2
