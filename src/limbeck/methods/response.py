"""Methods that look at nothing but the networks' outputs: labels, softened scores, raw logits."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from limbeck import losses
from limbeck.errors import TargetError
from limbeck.methods.terms import (
    check_logits,
    cross_entropy,
    device_of,
    distill_logits,
    off,
    require_targets,
    require_temperature,
)
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import Presets, Weight, at, require, require_weights

if TYPE_CHECKING:
    from torch import Tensor

_BOTH: dict[str, tuple[str, ...]] = {"student": (), "teacher": ()}
_STUDENT: dict[str, tuple[str, ...]] = {"student": ("student",)}


@dataclass(frozen=True, kw_only=True)
class Supervised:
    """Labels alone: ``L = CE(z_s, y)``, the yardstick for every other method.

    Attributes:
        label_smoothing: this part of each label is spread evenly over all classes; in [0, 1).  Default 0
            (plain cross-entropy); Szegedy et al. (CVPR 2016), section 7, use 0.1 on ImageNet.
        sigmoid: independent yes-no scores (multi-label heads, and binary heads with one logit): the binary
            cross-entropy summed over the scores, instead of the softmax.  Default False.
        temperature: the scores are divided by T before softmax or sigmoid, in training alone; more than zero, and there
            is no T^2.  Default 1.  Defensive distillation (Papernot et al., IEEE S&P 2016) has 20 and more: the
            trained network then gives scores about T times as large.

    Raises:
        HyperParameterError: the setting is outside its range.
        TargetError: a batch has no labels.

    >>> Supervised(label_smoothing=0.1)
    Supervised(label_smoothing=0.1, sigmoid=False, temperature=1.0)
    """

    label_smoothing: float = 0.0
    sigmoid: bool = False
    temperature: float = 1.0

    presets: ClassVar[Presets] = {
        "paper": {"label_smoothing": 0.1},  # Szegedy et al. (CVPR 2016), section 7: epsilon on ImageNet
        "benchmark": {"label_smoothing": 0.0},  # plain cross-entropy
    }

    def __post_init__(self) -> None:
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")
        if self.sigmoid:
            require(self.label_smoothing == 0, "label_smoothing", self.label_smoothing, "0 with sigmoid scores")
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "train", with the term "ce", or "bce" for sigmoid scores."""
        modules = cast.pick("student")

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            if batch.targets is None:
                raise TargetError(
                    "this batch has no labels (its targets are None), and supervised training learns from nothing else"
                )
            logits = models["student"](batch.inputs).logits / self.temperature
            if self.sigmoid:
                terms = {"bce": Term(losses.sigmoid_cross_entropy(logits, batch.targets))}
            else:
                value = losses.cross_entropy(logits, batch.targets, label_smoothing=self.label_smoothing)
                terms = {"ce": Term(value)}
            yield Update("student", terms)

        return (Phase(name="train", modules=modules, trains=_STUDENT, taps={"student": ()}, step=step),)


@dataclass(frozen=True, kw_only=True)
class KD:
    """Softened class probabilities of the teacher (Hinton, Vinyals, Dean, arXiv 1503.02531, section 2).

    ``L = hard * CE(z_s, y) + soft * T^2 * KL(softmax(z_t / T) || softmax(z_s / T))``, mean over the batch.
    ``T^2`` is always there, with labels and without, so that ``soft`` means the same at every temperature.

    Attributes:
        temperature: T, more than zero.  Default 4: the benchmark of Tian et al. (CRD, ICLR 2020), and the
            attention transfer paper.  Hinton et al. use 20 on MNIST and 1 to 10 on speech; a student with
            little capacity wants less.
        soft: weight of the teacher's part, zero or more, or a `Ramp`.  Default 0.9 (the same benchmark).
        hard: weight of the labels' part, zero or more, or a `Ramp`.  Default 0.1 (the same benchmark).
            With 0 the batches need no labels.
        label_smoothing: of the labels' part only; in [0, 1).  Default 0.

    Raises:
        HyperParameterError: a setting is outside its range, or both weights are zero.
        TargetError: ``hard`` is on, and a batch has no labels.
        ShapeError: the networks score different classes, or a single logit (see `SigmoidKD`).

    >>> KD(temperature=8).soft
    0.9
    """

    temperature: float = 4.0
    soft: Weight = 0.9
    hard: Weight = 0.1
    label_smoothing: float = 0.0

    presets: ClassVar[Presets] = {
        "paper": {
            "temperature": 20.0,  # Hinton et al., section 3: MNIST, hidden layers of 300 units and more
            "soft": 1.0,  # section 2: the soft part counts much more than the hard one
            "hard": 0.5,  # section 4: relative weight of the hard targets (speech)
        },
        "benchmark": {"temperature": 4.0, "soft": 0.9, "hard": 0.1},
    }

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        require_weights(soft=self.soft, hard=self.hard)
        require(0 <= self.label_smoothing < 1, "label_smoothing", self.label_smoothing, "in [0, 1)")

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce" and "kd"."""
        require_targets(cast.example, self.hard)
        check_logits(cast, columns=2, instead="use sigmoid_kd (SigmoidKD) for a single logit")
        return (distill_logits(cast, self._terms),)

    def _terms(self, student: Tensor, teacher: Tensor, batch: Batch, moment: Moment) -> dict[str, Term]:
        terms = cross_entropy(student, batch, moment, weight=self.hard, label_smoothing=self.label_smoothing)
        if not off(self.soft):
            terms["kd"] = Term(losses.kd_kl(student, teacher, temperature=self.temperature), at(self.soft, moment))
        return terms


@dataclass(frozen=True, kw_only=True)
class SigmoidKD:
    """KD for independent yes-no scores: multi-label heads, and binary heads with a single logit.

    ``L = hard * sum_c BCE(z_s, y) + soft * T^2 * sum_c BernoulliKL(sigmoid(z_t / T) || sigmoid(z_s / T))``, mean
    over the batch.  With one logit this equals softmax KD on the two logits ``(0, z)``.  Hinton et al. (arXiv
    1503.02531) state the softmax; this is the same formula, class by class.

    Attributes:
        temperature: T, more than zero.  Default 4, as in `KD`.
        soft: weight of the teacher's part, zero or more, or a `Ramp`.  Default 0.9, as in `KD`.
        hard: weight of the labels' part, zero or more, or a `Ramp`.  Default 0.1, as in `KD`.  Labels are
            multi-hot ``[batch, classes]``, or 0/1 ``[batch]`` for a single logit.

    Raises:
        HyperParameterError: a setting is outside its range, or both weights are zero.
        TargetError: ``hard`` is on, and a batch has no labels, or labels of another shape.
        ShapeError: the networks score different classes.

    >>> SigmoidKD(hard=0.0).temperature
    4.0
    """

    temperature: float = 4.0
    soft: Weight = 0.9
    hard: Weight = 0.1

    presets: ClassVar[Presets] = {
        # nobody has published a benchmark of the per-class form: the numbers are those of "kd"
        "paper": {"temperature": 20.0, "soft": 1.0, "hard": 0.5},
        "benchmark": {"temperature": 4.0, "soft": 0.9, "hard": 0.1},
    }

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        require_weights(soft=self.soft, hard=self.hard)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "bce" and "kd"."""
        require_targets(cast.example, self.hard)
        check_logits(cast)
        return (distill_logits(cast, self._terms),)

    def _terms(self, student: Tensor, teacher: Tensor, batch: Batch, moment: Moment) -> dict[str, Term]:
        terms: dict[str, Term] = {}
        if not off(self.hard):
            require_targets(batch, self.hard)
            terms["bce"] = Term(losses.sigmoid_cross_entropy(student, batch.targets), at(self.hard, moment))
        if not off(self.soft):
            terms["kd"] = Term(losses.kd_sigmoid(student, teacher, temperature=self.temperature), at(self.soft, moment))
        return terms


@dataclass(frozen=True, kw_only=True)
class LogitMatching:
    """Regression on the teacher's logits (Ba, Caruana, NIPS 2014, equation 1 and section 2.2).

    ``L = hard * CE(z_s, y) + soft * 1/2 * || (z_s - mu) / sd - (z_t - mu) / sd ||^2``, mean over the batch, with the
    mean and standard deviation of each of the teacher's logits over the training rows.  The paper regresses
    on ``(z_t - mu) / sd`` and undoes the normalisation when the student predicts; here the student's output is
    normalised instead, which is the same loss, and leaves the student in the teacher's units: nothing has to
    be undone.

    Attributes:
        standardize: divide each logit by its spread (costs one epoch of teacher forwards, outside the
            stage's budget); False: compare plain logits.  Default True, as in the paper.
        soft: weight of the regression, zero or more, or a `Ramp`.  Default 1, as in the paper.
        hard: weight of the labels' part, zero or more, or a `Ramp`.  Default 0: the paper's mimic nets see
            no labels, and batches need none.

    Raises:
        HyperParameterError: a setting is outside its range, or both weights are zero.
        TargetError: ``hard`` is on, and a batch has no labels.
        ShapeError: the networks score different classes.

    >>> LogitMatching().hard
    0.0
    """

    standardize: bool = True
    soft: Weight = 1.0
    hard: Weight = 0.0

    presets: ClassVar[Presets] = {
        "paper": {"standardize": True, "soft": 1.0, "hard": 0.0},  # Ba, Caruana, equation 1 and section 2.2
        # Knowledge-Distillation-Zoo (AberHu), mode "logits": CE plus 0.1 times the *mean* square of raw logits;
        # for the 10 classes of CIFAR-10 that is 0.1 * 2 / 10 of our half sum
        "benchmark": {"standardize": False, "soft": 0.02, "hard": 1.0},
    }

    def __post_init__(self) -> None:
        require_weights(soft=self.soft, hard=self.hard)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """ "statistics" over the teacher's logits (unless plain logits are compared), then "distill"."""
        modules = cast.pick("student", "teacher")
        require_targets(cast.example, self.hard)
        columns = check_logits(cast)
        if not self.standardize:
            return (self._distill(modules),)

        from limbeck import connectors

        scaler = connectors.Standardize(columns, device=device_of(cast.example.inputs))
        statistics = Phase(
            name="statistics",
            modules={"teacher": modules["teacher"], "standardize": scaler},
            trains={"statistics": ("standardize",)},
            taps={"teacher": ()},
            step=_observe,
            epochs=1,
        )
        return statistics, self._distill({**modules, "standardize": scaler})

    def _distill(self, modules: dict) -> Phase:
        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            teacher, student = models["teacher"](batch.inputs).logits, models["student"](batch.inputs).logits
            terms = cross_entropy(student, batch, moment, weight=self.hard)
            if not off(self.soft):
                scale = models["standardize"] if self.standardize else _same
                terms["logits"] = Term(losses.logit_l2(scale(student), scale(teacher)), at(self.soft, moment))
            yield Update("student", terms)

        return Phase(name="distill", modules=modules, trains=_STUDENT, taps=_BOTH, step=step)


def _observe(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
    """Count the teacher's logits; there is nothing to optimize."""
    models["standardize"](models["teacher"](batch.inputs).logits)
    yield from ()


def _same(logits):
    return logits
