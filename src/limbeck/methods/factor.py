"""Factor transfer: the teacher's map is paraphrased first, and the student learns the paraphrase."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from limbeck.methods.pairs import as_pair
from limbeck.methods.translation import Way, link, phases
from limbeck.phase import Cast, Phase
from limbeck.settings import Optimizer, Presets, Weight, require, require_whole


@dataclass(frozen=True, kw_only=True)
class FactorTransfer:
    """The student's translated map is the teacher's paraphrased one (Kim, Park, Kwak, NeurIPS 2018).

    "paraphrase" trains an autoencoder, the *paraphraser* P, on the teacher's last map x alone, without labels:
    ``mean (x - P(x))^2``.  Its encoder gives the teacher's *factor* F_T.  "distill" trains the student, and a *translator*
    from its own map to a factor F_S, on
    ``L = hard * CE + weight * || F_T / |F_T| - F_S / |F_S| ||_p``; the paraphraser is frozen.

    The trained paraphraser stands in the stage's folder as ``paraphraser.safetensors``; another stage with the same teacher
    takes it by its setting `paraphraser`, and needs no first phase.

    Attributes:
        pair: (student layer, teacher layer), both of maps; the larger factor is average-pooled to the smaller.
            None: the last maps of both networks, as in the paper.
        rate: the paraphrase rate k: the factor has ``int(k * channels)`` of the teacher's channels; more than zero.
            Default 0.5 (the paper).
        p: 1 or 2, of the norm.  Default 1 (the paper).
        weight: of the distance, zero or more, or a `Ramp`.  Default None: 500 over ``units^(1/p)`` (form "paper"), 500
            (form "mean"), 200 (form "benchmark").  The paper writes 500; the authors' code multiplies the mean over
            the units with it, which for p = 1 is what the first two of these are.
        form: "paper", the norm over all units; "mean", their mean (the authors' code); or "benchmark", which first
            collapses the channels and is another loss; see `limbeck.losses.factor_lp`.  Default "paper".
        layers: of the paraphraser and the translator, "paper" or "benchmark" (batch normalisation in the
            translator); see `limbeck.connectors.translator`.  Default "paper".
        paraphraser: file with the weights of a trained paraphraser, such as another stage left; the phase "paraphrase" is
            then left out.  Default None: train one.
        paraphrase_share: part of the stage's epochs that go to the paraphraser, in (0, 1).  Default 0.1: ours.
        paraphrase_epochs: so many epochs for the paraphraser instead, outside the stage's budget.  Default None.  The
            benchmark takes 30, the authors' code 6.
        paraphrase_optimizer: replaces the stage's optimizer for the paraphraser.  Default None: the stage's own (the
            authors' code).
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the paper).
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0; the paper's FT+KD has one.
        temperature: of that term.  Default 4, as in `KD`.

    Raises:
        HyperParameterError: a setting is outside its range, or the rate leaves no channel.
        TapError: a layer of ``pair`` does not exist.
        ShapeError: a layer gives no maps, or (with ``soft``) the networks score different classes.
        TargetError: ``hard`` is on, and a batch has no labels.
        WeightsError: the file of the paraphraser cannot be read, or does not fit this teacher and rate.

    >>> FactorTransfer(rate=0.75).p
    1
    """

    pair: tuple[str, str] | None = None
    rate: float = 0.5
    p: int = 1
    weight: Weight | None = None
    form: Literal["paper", "mean", "benchmark"] = "paper"
    layers: Literal["paper", "benchmark"] = "paper"
    paraphraser: str | None = None
    paraphrase_share: float = 0.1
    paraphrase_epochs: int | None = None
    paraphrase_optimizer: Optimizer | None = None
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        "paper": {
            "rate": 0.5,  # Kim et al., section 4: k
            "p": 1,  # section 4
            "form": "mean",  # the authors' code: the mean over the units ...
            "weight": 500.0,  # ... times beta
            "hard": 1.0,
            "paraphrase_epochs": 6,  # the authors' code, train_Paraphraser.py: --epoch 5, counted from 0
        },
        "benchmark": {
            "rate": 0.5,
            "p": 1,
            "form": "benchmark",
            "weight": 200.0,  # beta
            "layers": "benchmark",
            "hard": 1.0,
            "paraphrase_epochs": 30,  # init epochs
            "paraphrase_optimizer": Optimizer(lr=0.01, nesterov=False),  # init learning rate of residual networks
        },
    }

    def __post_init__(self) -> None:
        if self.pair is not None:
            object.__setattr__(self, "pair", as_pair("pair", self.pair))
        require_whole(p=self.p)
        Way.of(self)
        given = self.paraphraser
        named = given is None or (isinstance(given, str) and bool(given))
        require(named, "paraphraser", given, "the path of a safetensors file, or nothing")

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """ "paraphrase" (unless a trained paraphraser is given) and "distill", with "ce", "factor" and maybe "kd"."""
        cast.pick("student", "teacher")
        way = Way.of(self)
        one = link(cast, "teacher", self.pair, way, paraphrase=True, file=self.paraphraser, title="factor transfer")
        return phases(cast, (one,), way)
