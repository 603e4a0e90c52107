"""Decoupled distillation: the right class and the other classes, each with a weight of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from limbeck import losses
from limbeck.errors import TargetError
from limbeck.methods.terms import check_logits, cross_entropy, distill_logits, off, require_temperature
from limbeck.phase import Batch, Cast, Moment, Phase, Term
from limbeck.settings import Presets, Ramp, Weight, at, require_weights

if TYPE_CHECKING:
    from torch import Tensor

_WARMUP = Ramp(start=0.0, end=1.0, epochs=20)


@dataclass(frozen=True, kw_only=True)
class DKD:
    """Decoupled knowledge distillation (Zhao, Cui, Song, Qiu, Liang, CVPR 2022, section 3).

    ``L = hard * CE(z_s, y) + soft * T^2 * (alpha * TCKD + beta * NCKD)``, mean over the batch.  TCKD compares how sure both
    networks are of the right class, NCKD how the other classes share the rest among themselves.  `KD` is their
    sum with ``alpha = 1`` and ``beta = 1 - p_T(y)``, which all but drops the other classes where the teacher is sure.

    Attributes:
        temperature: T, more than zero.  Default 4 (the authors' code for CIFAR-100; 1 for ImageNet).
        alpha: weight of the right class, zero or more, or a `Ramp`.  Default 1 (the authors' code).
        beta: weight of the other classes, zero or more, or a `Ramp`.  Default 8 (the authors' code; they choose it by
            the pair of networks, from 0.5 to 8, the larger the surer the teacher).
        soft: weight of both together, zero or more, or a `Ramp`.  Default: from 0 to 1 over 20 epochs, linearly (the
            authors' warm-up, in trainings of 240 epochs: shorten it for shorter ones).
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the authors' code).  The other part needs
            labels as well: it has to know which class is the right one.

    Raises:
        HyperParameterError: a setting is outside its range, or nothing would be learnt.
        TargetError: a batch has no labels.
        ShapeError: the networks score different classes, or a single logit.

    >>> DKD(beta=2.0).soft
    Ramp(start=0.0, end=1.0, epochs=20)
    """

    temperature: float = 4.0
    alpha: Weight = 1.0
    beta: Weight = 8.0
    soft: Weight = _WARMUP
    hard: Weight = 1.0

    presets: ClassVar[Presets] = {
        # the authors' code (mdistiller), CIFAR-100: T, ALPHA, BETA (for ResNet32x4 to ResNet8x4), WARMUP, CE_WEIGHT
        "paper": {"temperature": 4.0, "alpha": 1.0, "beta": 8.0, "soft": _WARMUP, "hard": 1.0},
        # the CRD code base is older and has no DKD: these are the same numbers
        "benchmark": {"temperature": 4.0, "alpha": 1.0, "beta": 8.0, "soft": _WARMUP, "hard": 1.0},
        # the same code, ImageNet, ResNet-34 to ResNet-18
        "imagenet": {
            "temperature": 1.0,
            "alpha": 1.0,
            "beta": 0.5,
            "soft": Ramp(start=0.0, end=1.0, epochs=1),
            "hard": 1.0,
        },
    }

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        require_weights(soft=self.soft, hard=self.hard)
        require_weights(alpha=self.alpha, beta=self.beta)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce", "tckd" and "nckd"."""
        _require_labels(cast.example)
        check_logits(cast, columns=2, instead="there is no other class than the target; use sigmoid_kd (SigmoidKD)")
        return (distill_logits(cast, self._terms),)

    def _terms(self, student: Tensor, teacher: Tensor, batch: Batch, moment: Moment) -> dict[str, Term]:
        _require_labels(batch)
        terms = cross_entropy(student, batch, moment, weight=self.hard)
        for name, weight, alpha, beta in (("tckd", self.alpha, 1.0, 0.0), ("nckd", self.beta, 0.0, 1.0)):
            if not off(weight) and not off(self.soft):
                value = losses.dkd(
                    student, teacher, targets=batch.targets, temperature=self.temperature, alpha=alpha, beta=beta
                )
                terms[name] = Term(value, at(self.soft, moment) * at(weight, moment))
        return terms


def _require_labels(batch: Batch) -> None:
    if batch.targets is None:
        raise TargetError(
            "decoupled distillation needs labels, with hard=0 too: it tells the right class from the others, and this "
            "batch has none (its targets are None); kd with hard=0 learns from the teacher alone"
        )
