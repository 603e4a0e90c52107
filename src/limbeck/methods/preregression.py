"""Knowledge pre-regression: hints as in FitNets, compared as probabilities."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck import losses
from limbeck.methods.hints import hint_phase, require_regressor, settle_hint
from limbeck.methods.pairs import as_pair
from limbeck.methods.terms import (
    check_logits,
    cross_entropy,
    off,
    require_targets,
    require_temperature,
    soft_targets,
)
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import Optimizer, Presets, Weight, at, finite, require, require_weights

if TYPE_CHECKING:
    from torch import Tensor, nn


@dataclass(frozen=True, kw_only=True)
class PreRegression:
    """Hints by cross-entropy, then labels (the KP part of DK2PNet: Wang, Deng, Wang, ECCV 2016).

    "hint" trains the student up to its *guided* layer, and a regressor r, on the cross-entropy between the teacher's hint layer
    u and ``r(v)``, both as probabilities; reported is the excess over the entropy of the target, ``KL(p(u) || p(r(v)))``, which
    is zero where they are equal.  "distill" then trains the whole student on ``hard * CE(z_s, y)``; the regressor is gone.

    The paper does not say clearly how features become probabilities.  Both readings are here: mode "softmax" takes all units of
    the layer as one distribution, mode "sigmoid" every unit as a yes or no.

    Attributes:
        pair: (guided layer of the student, hint layer of the teacher).  None: the middle of both networks.
        mode: "softmax" or "sigmoid".  Default "softmax".
        hint_temperature: of the features, more than zero; a small one makes the strongest units count alone.  Default 1.
        hint_share: part of the stage's epochs that go to the hints, in (0, 1).  Default 0.25: ours, as in `FitNets`.
        hint_weight: weight of the hint loss, more than zero, or a `Ramp`; the hint is alone in its phase, so this only
            scales its learning rate.  Default None: 1 (mode "softmax"), or one over the number of units (mode
            "sigmoid"), which makes the sum over them a mean.
        regressor: "paper" or "benchmark"; see `limbeck.connectors.regressor`.  Default "paper".
        activation: what the regressor ends with: "relu", "tanh", "sigmoid", "none", or "auto": the teacher's own in
            form "paper", as far as its values tell, and ReLU in form "benchmark".  Default "auto".
        hint_optimizer: replaces the stage's optimizer for the hints.  Default None: the stage's own.
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1.
        soft: weight of a `KD` term in the second phase, zero or more, or a `Ramp`.  Default 0.
        temperature: of that term.  Default 4, as in `KD`.

    Raises:
        HyperParameterError: a setting is outside its range, or both weights are zero.
        TapError: a layer of ``pair`` does not exist.
        ShapeError: no regressor fits the two layers, or (with ``soft``) the networks score different classes.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> PreRegression(mode="sigmoid").hint_share
    0.25
    """

    pair: tuple[str, str] | None = None
    mode: Literal["softmax", "sigmoid"] = "softmax"
    hint_temperature: float = 1.0
    hint_share: float = 0.25
    hint_weight: Weight | None = None
    regressor: Literal["paper", "benchmark"] = "paper"
    activation: Literal["auto", "relu", "tanh", "sigmoid", "none"] = "auto"
    hint_optimizer: Optimizer | None = None
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        # the paper's own numbers are not known to us: these are the readings that its abstract allows
        "paper": {"mode": "softmax", "hint_temperature": 1.0, "hard": 1.0, "soft": 0.0},
        # nobody has published a benchmark: the regressor is that of the CRD code base
        "benchmark": {"mode": "softmax", "regressor": "benchmark", "hard": 1.0, "soft": 0.0},
    }

    def __post_init__(self) -> None:
        if self.pair is not None:
            object.__setattr__(self, "pair", as_pair("pair", self.pair))
        require(self.mode in ("softmax", "sigmoid"), "mode", self.mode, "'softmax' or 'sigmoid'")
        tau = self.hint_temperature
        require(finite(tau) and tau > 0, "hint_temperature", tau, "a temperature is more than zero")
        share = self.hint_share
        require(finite(share) and 0 < share < 1, "hint_share", share, "a part of the epochs, in (0, 1)")
        if self.hint_weight is not None:
            require_weights(hint_weight=self.hint_weight)
        require_regressor(self.regressor, self.activation)
        require_weights(hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """ "hint" with the term "hint", then "distill" with "ce" and maybe "kd"."""
        models = cast.pick("student", "teacher")
        require_targets(cast.example, self.hard)
        if not off(self.soft):
            check_logits(cast, columns=2, instead="set soft=0")
        hint = settle_hint(cast, self.pair, regressor=self.regressor, activation=self.activation)
        usual = 1.0 if self.mode == "softmax" else 1.0 / hint.units
        weight = usual if self.hint_weight is None else self.hint_weight

        def compare(ours: Tensor, theirs: Tensor, moment: Moment) -> Term:
            value = losses.hint_ce(ours, theirs, mode=self.mode, temperature=self.hint_temperature)
            return Term(value, at(weight, moment))

        first = hint_phase(models, hint, compare, share=self.hint_share, optimizer=self.hint_optimizer)
        return first, self._second(models)

    def _second(self, models: Mapping[str, nn.Module]) -> Phase:
        roles = ("student",) if off(self.soft) else ("student", "teacher")

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            student = models["student"](batch.inputs)
            terms = cross_entropy(student.logits, batch, moment, weight=self.hard)
            if not off(self.soft):
                teacher = models["teacher"](batch.inputs)
                terms |= soft_targets(student, teacher, moment, weight=self.soft, temperature=self.temperature)
            yield Update("student", terms)

        return Phase(
            name="distill",
            modules={role: models[role] for role in roles},
            trains={"student": ("student",)},
            taps=dict.fromkeys(roles, ()),
            step=step,
            share=1.0 - self.hint_share,
        )
