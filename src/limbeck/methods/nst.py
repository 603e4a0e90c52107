"""Neuron selectivity transfer: which patterns the teacher's channels respond to, as a distribution."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck import losses
from limbeck.methods.pairs import as_pairs, distill_pairs
from limbeck.methods.terms import require_temperature
from limbeck.phase import Cast, Phase
from limbeck.settings import Presets, Weight, require, require_choice, require_weights

if TYPE_CHECKING:
    from torch import Tensor

_KERNELS = ("linear", "poly", "gaussian")


@dataclass(frozen=True, kw_only=True)
class NST:
    """The student's channels are distributed as the teacher's (Huang, Wang, arXiv 1707.01219, section 4).

    ``L = hard * CE + (weight / 2) * MMD^2`` between the two sets of channels, each a unit vector over the
    positions of the map; mean over the batch, sum over the pairs.  Form "benchmark" has no 1/2.

    Attributes:
        pairs: (student layer, teacher layer) pairs; channels may differ.  Empty: the ends of the
            resolution stages, by relative depth (the benchmark's choice; the paper takes the last maps alone).
        kernel: "linear", "poly" (``(x . y)^2``) or "gaussian" (width: mean squared distance of the pairs).  Default
            "poly" (the paper's best).
        weight: lambda of the paper's form, or the benchmark's weight; zero or more, or a `Ramp`.  Default 50
            (both the authors' code and the CRD benchmark, for "poly").
        form: "paper" (weight / 2) or "benchmark" (weight).  Default "paper".
        resize: how maps of different size are made equal: "pool" averages the larger one down,
            "interpolate" resamples the student's map bilinearly.  Default "pool" (the benchmark).
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the paper).
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0; the paper's KD+NST has one.
        temperature: of that term.  Default 4 (authors' code).

    Raises:
        HyperParameterError: a setting is outside its range, or a pair is malformed.
        TapError: a layer does not exist.
        ShapeError: a layer gives no maps, or (with ``soft``) the networks score different classes.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> NST(pairs=[("layer3", "layer3")]).kernel
    'poly'
    """

    pairs: tuple[tuple[str, str], ...] = ()
    kernel: Literal["linear", "poly", "gaussian"] = "poly"
    weight: Weight = 50.0
    form: Literal["paper", "benchmark"] = "paper"
    resize: Literal["pool", "interpolate"] = "pool"
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        "paper": {"kernel": "poly", "form": "paper", "weight": 50.0, "hard": 1.0},  # section 5: lambda, d = 2, c = 0
        "benchmark": {"kernel": "poly", "form": "benchmark", "weight": 50.0, "hard": 1.0},
    }

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", as_pairs(self.pairs))
        require_choice("kernel", self.kernel, _KERNELS)
        require(self.form in ("paper", "benchmark"), "form", self.form, "'paper' or 'benchmark'")
        require(self.resize in ("pool", "interpolate"), "resize", self.resize, "'pool' or 'interpolate'")
        require_weights(weight=self.weight, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce", "nst/<student layer>" for each pair, and maybe "kd"."""
        factor = 0.5 if self.form == "paper" else 1.0

        def compare(student: Tensor, teacher: Tensor) -> Tensor:
            return losses.nst_mmd(student, teacher, kernel=self.kernel, resize=self.resize)

        phase = distill_pairs(
            cast,
            self.pairs,
            compare,
            self.weight,
            factor,
            method="neuron selectivity transfer",
            prefix="nst",
            hard=self.hard,
            soft=self.soft,
            temperature=self.temperature,
        )
        return (phase,)
