"""Correlation congruence: the kernel matrix of a batch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck import losses
from limbeck.methods.batchwise import Chosen, choose, distill_batchwise
from limbeck.methods.pairs import as_pair
from limbeck.methods.terms import off, require_temperature
from limbeck.phase import Cast, Models, Moment, Phase, Term
from limbeck.settings import Presets, Weight, at, finite, require, require_choice, require_weights, require_whole

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class CC:
    """Correlation congruence: the correlations between samples agree (Peng et al., ICCV 2019).

    Form "paper": ``L = hard * CE + weight * 1 / batch^2 * || C_s - C_t ||_F^2``, with C the Gaussian kernel of all pairs of
    unit feature vectors, by its Taylor series.

    Form "benchmark", the CRD code base, which has it from the authors: a linear layer brings each network's features to
    ``features`` numbers, ``d_i`` is the size of what is left between the two for sample i, and the loss is the mean of
    ``sum d_i d_{i+1}`` over consecutive samples of the batch.  Both linear layers learn with the student and are
    dropped afterwards.  It depends on the order of the batch, and has nothing to do with the paper's kernel.

    With several processes, or with ``training.accumulate``, correlations are those within each process's share and each
    part of the batch: the loss is then another one than over the whole batch.

    Attributes:
        pair: (student layer, teacher layer).  None: what goes into the last linear layer of each, the pooled
            features of most classifiers (the benchmark's choice).
        form: "paper" or "benchmark".  Default "paper".
        gamma: width of the Gaussian kernel, more than zero; form "paper" only.  Default 0.4 (common
            re-implementations; recalled as the paper's).
        order: where the Taylor series ends, at least 1; form "paper" only.  Default 2 (likewise).
        features: what the linear layers of form "benchmark" give, at least 1.  Default 128 (CRD benchmark).
        weight: zero or more, or a `Ramp`.  Default None: form "paper", 100 (ours: unit vectors make a mean square of
            a hundredth or so); form "benchmark", 0.02 (CRD benchmark).
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (CRD benchmark).
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0.  The paper's full loss has one.
        temperature: of that term.  Default 4, as in `KD`.

    Raises:
        HyperParameterError: a setting is outside its range, or the pair is malformed.
        TapError: a layer does not exist.
        ShapeError: a batch of one, or (with ``soft``) the networks score different classes.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> CC(form="benchmark").features
    128
    """

    pair: tuple[str, str] | None = None
    form: Literal["paper", "benchmark"] = "paper"
    gamma: float = 0.4
    order: int = 2
    features: int = 128
    weight: Weight | None = None
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        # gamma, order and weight are recalled, and agree with torchdistill's sample recipe; 0.003 is for features that
        # are not brought to length 1, and next to nothing for those that are
        "paper": {"form": "paper", "gamma": 0.4, "order": 2, "weight": 0.003, "hard": 1.0},
        "benchmark": {"form": "benchmark", "features": 128, "weight": 0.02, "hard": 1.0},
    }

    def __post_init__(self) -> None:
        if self.pair is not None:
            object.__setattr__(self, "pair", as_pair("pair", self.pair))
        require_choice("form", self.form, ("paper", "benchmark"))
        require(finite(self.gamma) and self.gamma > 0, "gamma", self.gamma, "more than zero")
        require_whole(order=self.order, features=self.features)
        require(self.order >= 1, "order", self.order, "at least 1")
        require(self.features >= 1, "features", self.features, "at least 1")
        require_weights(weight=1.0 if self.weight is None else self.weight, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce", "cc", and maybe "kd"."""
        weight = (100.0 if self.form == "paper" else 0.02) if self.weight is None else self.weight

        def compare(models: Models, student: Tensor, teacher: Tensor, moment: Moment) -> dict[str, Term]:
            if off(weight):
                return {}
            value = self._kernels(student, teacher) if self.form == "paper" else _errors(models, student, teacher)
            return {"cc": Term(value, at(weight, moment))}

        chosen = choose(cast, self.pair, "vector")
        phase = distill_batchwise(
            cast,
            chosen,
            compare,
            hard=self.hard,
            soft=self.soft,
            temperature=self.temperature,
            modules={} if self.form == "paper" or off(weight) else self._embeddings(chosen),
        )
        return (phase,)

    def _kernels(self, student: Tensor, teacher: Tensor) -> Tensor:
        return losses.correlation(student, teacher, gamma=self.gamma, order=self.order)

    def _embeddings(self, chosen: Chosen) -> dict[str, nn.Module]:
        from torch import nn

        ours, theirs = chosen.sizes
        return {
            "embed_student": nn.Linear(ours, self.features),
            "embed_teacher": nn.Linear(theirs, self.features),
        }


def _errors(models: Models, student: Tensor, teacher: Tensor) -> Tensor:
    ours = models["embed_student"](student.flatten(1)).float()
    theirs = models["embed_teacher"](teacher.flatten(1)).float()
    # A loss cuts its second argument off, but the benchmark trains the teacher's linear layer too: only the
    # difference counts, so it goes in as the first argument.
    difference = ours - theirs
    return losses.correlation(difference, difference.new_zeros(difference.shape), form="benchmark")
