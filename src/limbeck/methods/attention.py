"""Attention transfer: where in the picture the teacher's maps are active."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck import losses
from limbeck.methods.pairs import as_pairs, distill_pairs
from limbeck.methods.terms import require_temperature
from limbeck.phase import Cast, Phase
from limbeck.settings import Presets, Weight, finite, require, require_choice, require_weights

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = ("sum", "sum_pow", "max_pow")


@dataclass(frozen=True, kw_only=True)
class AttentionTransfer:
    """Attention maps of the student follow the teacher's (Zagoruyko, Komodakis, ICLR 2017, equation 2).

    ``L = hard * CE + (beta / 2) * sum_j || Q_s / ||Q_s||_2 - Q_t / ||Q_t||_2 ||_2`` with ``Q`` the map
    ``sum_c |A_c|^p`` as a vector; form "paper", mean over the batch.  Form "benchmark", which is the authors'
    code and what comparisons run: ``weight`` times the mean over batch *and* positions of the squared
    difference, with no 1/2.  The two differ by a factor that depends on the data (about 190 where it was
    measured), so a weight of one form means nothing in the other.

    Attributes:
        pairs: (student layer, teacher layer) pairs; channels may differ, and the larger map is
            averaged down to the smaller.  Empty: the ends of the resolution stages, by relative depth.
        kind: how channels become one map: "sum", "sum_pow" or "max_pow".  Default "sum_pow" (the paper's best).
        p: the power in ``|A|^p``, at least 1.  Default 2 (the paper's best).
        form: "paper" or "benchmark".  Default "paper".
        weight: beta of the paper's form, or the benchmark's weight; zero or more, or a `Ramp`.  Default None:
            form "paper", 2, so that each pair's distance (at most sqrt(2)) counts once; ours, since the paper
            gives beta only for a sum over the batch (see the preset "paper"), and values from 1 to 4 did
            equally well on digits.  Form "benchmark", 1000 (authors' code; CRD benchmark), which is meant
            for maps of 8x8 and more: on smaller ones it drowns the labels.
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the paper).
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0; the paper's AT+KD has one.
        temperature: of that term.  Default 4 (the paper).

    Raises:
        HyperParameterError: a setting is outside its range, or a pair is malformed.
        TapError: a layer does not exist.
        ShapeError: a layer gives no maps, or (with ``soft``) the networks score different classes.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> AttentionTransfer(pairs=[("layer3", "layer3")]).pairs
    (('layer3', 'layer3'),)
    """

    pairs: tuple[tuple[str, str], ...] = ()
    kind: Literal["sum", "sum_pow", "max_pow"] = "sum_pow"
    p: float = 2.0
    form: Literal["paper", "benchmark"] = "paper"
    weight: Weight | None = None
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        # section 4.1: beta is about 0.1 for a sum over the batch of 128; ours is a mean: 0.1 * 128
        "paper": {"kind": "sum_pow", "p": 2.0, "form": "paper", "weight": 12.8, "hard": 1.0},
        "benchmark": {"kind": "sum_pow", "p": 2.0, "form": "benchmark", "weight": 1000.0, "hard": 1.0},
    }

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", as_pairs(self.pairs))
        require_choice("kind", self.kind, _KINDS)
        require(finite(self.p) and self.p >= 1, "p", self.p, "at least 1")
        require(self.form in ("paper", "benchmark"), "form", self.form, "'paper' or 'benchmark'")
        require_weights(weight=1.0 if self.weight is None else self.weight, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce", "at/<student layer>" for each pair, and maybe "kd"."""
        default, factor = (2.0, 0.5) if self.form == "paper" else (1000.0, 1.0)
        weight = default if self.weight is None else self.weight

        def compare(student: Tensor, teacher: Tensor) -> Tensor:
            return losses.attention_l2(student, teacher, kind=self.kind, p=self.p, form=self.form)

        phase = distill_pairs(
            cast,
            self.pairs,
            compare,
            weight,
            factor,
            method="attention transfer",
            prefix="at",
            hard=self.hard,
            soft=self.soft,
            temperature=self.temperature,
        )
        return (phase,)
