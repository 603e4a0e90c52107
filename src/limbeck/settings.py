"""How to train, as plain data: optimizer, learning rate, length, precision.  No torch here."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any, Literal

from limbeck.errors import HyperParameterError, choices
from limbeck.phase import Moment

# Published settings of a method, by name: what a paper used, and what later comparisons used.
Presets = Mapping[str, Mapping[str, Any]]


def require(ok: bool, name: str, value: object, rule: str) -> None:
    """Raise `HyperParameterError` naming the setting, its value and the rule it breaks."""
    if not ok:
        also = ", and finite" if isinstance(value, float) and not math.isfinite(value) else ""
        raise HyperParameterError(f"{name} = {value!r}: {rule}{also}")


def finite(value: float) -> bool:
    """Whether a setting is an ordinary number; from Python it may be anything."""
    try:
        return math.isfinite(value)
    except TypeError:
        return False


def require_choice(name: str, value: object, known: Iterable[str]) -> None:
    """Check a setting that is one of a few words.  Recipes are checked by their types; Python has only this."""
    names = tuple(known)
    require(value in names, name, value, f"one of {choices(value, names)}")


def require_whole(**counts: object) -> None:
    """Check settings that count something."""
    for name, count in counts.items():
        require(isinstance(count, Integral) and not isinstance(count, bool), name, count, "a whole number")


def names_of(setting: str, given: object, what: str = "layers") -> tuple[str, ...]:
    """Check a setting that is a list of names.

    >>> names_of("skip", ["fc"])
    ('fc',)
    >>> names_of("skip", "fc")
    Traceback (most recent call last):
    limbeck.errors.HyperParameterError: skip = 'fc': a list of names of layers, such as ['fc']
    """
    ok = isinstance(given, (list, tuple)) and all(isinstance(name, str) and name for name in given)
    such = f", such as [{given!r}]" if isinstance(given, str) and given else ""
    require(ok, setting, given, f"a list of names of {what}{such}")
    return tuple(given)  # type: ignore[arg-type]


def require_parts(setting: str, given: object) -> None:
    """Check that a setting gives names numbers; the numbers are another matter."""
    ok = isinstance(given, Mapping) and all(isinstance(name, str) and name for name in given)
    require(ok, setting, given, "layers and the part of each, such as {'fc': 0.5}")


@dataclass(frozen=True, kw_only=True)
class Ramp:
    """A weight that moves linearly with training, then stays.

    Attributes:
        start: the weight at the first step.
        end: the weight after ``epochs`` epochs, and from then on.
        epochs: how long the way takes; None means the whole phase.

    >>> from limbeck.phase import Moment
    >>> Ramp(start=4, end=1, epochs=500).at(Moment(None, epoch=250, epochs=500))
    2.5
    """

    start: float
    end: float
    epochs: float | None = None

    def __post_init__(self) -> None:
        require(finite(self.start) and self.start >= 0, "start", self.start, "a weight is zero or more")
        require(finite(self.end) and self.end >= 0, "end", self.end, "a weight is zero or more")
        if self.epochs is not None:
            require(finite(self.epochs) and self.epochs > 0, "epochs", self.epochs, "more than zero")

    def at(self, moment: Moment) -> float:
        """The weight at this moment."""
        part = moment.progress if self.epochs is None else min(1.0, moment.epoch / self.epochs)
        return self.start + (self.end - self.start) * part


Weight = float | Ramp


def at(weight: Weight, moment: Moment) -> float:
    """The weight at this moment, whether it is a number or a ramp."""
    return weight.at(moment) if isinstance(weight, Ramp) else float(weight)


def off(weight: Weight) -> bool:
    """Whether a term with this weight is left out: it is zero, from beginning to end.

    >>> off(0.0), off(0.1), off(Ramp(start=1, end=0)), off(Ramp(start=0, end=0))
    (True, False, False, True)
    """
    return weight.start == weight.end == 0 if isinstance(weight, Ramp) else weight == 0


def require_weights(*, some: bool = True, **weights: Weight) -> None:
    """Check loss weights: none negative, and (unless ``some`` is False) not all of them zero."""
    for name, weight in weights.items():
        if not isinstance(weight, Ramp):
            require(finite(weight) and weight >= 0, name, weight, "a loss weight is zero or more")
    if some and all(map(off, weights.values())):
        raise HyperParameterError(f"{', '.join(weights)}: all are zero, so nothing would be learnt")


@dataclass(frozen=True, kw_only=True)
class Optimizer:
    """Which optimizer, with which constants.

    Attributes:
        kind: "sgd", "adamw" or "rmsprop".
        lr: the highest learning rate; the schedule scales it.
        momentum: of sgd and rmsprop.
        nesterov: sgd only.
        weight_decay: decoupled for adamw, added to the gradient otherwise.
        betas: of adamw.
        alpha: smoothing constant of rmsprop.
        eps: of adamw and rmsprop.
        decay_norm: whether biases and normalisation layers (every tensor of one dimension) decay too.
    """

    kind: Literal["sgd", "adamw", "rmsprop"] = "sgd"
    lr: float = 0.1
    momentum: float = 0.9
    nesterov: bool = True
    weight_decay: float = 5e-4
    betas: tuple[float, float] = (0.9, 0.999)
    alpha: float = 0.9
    eps: float = 1e-8
    decay_norm: bool = True

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, ("sgd", "adamw", "rmsprop"))
        require(finite(self.lr) and self.lr > 0, "lr", self.lr, "more than zero")
        require(finite(self.momentum) and 0 <= self.momentum < 1, "momentum", self.momentum, "in [0, 1)")
        require(finite(self.weight_decay) and self.weight_decay >= 0, "weight_decay", self.weight_decay, "zero or more")
        ok = isinstance(self.betas, (tuple, list)) and all(finite(b) and 0 <= b < 1 for b in self.betas)
        require(ok, "betas", self.betas, "each in [0, 1)")
        require(finite(self.alpha) and 0 <= self.alpha < 1, "alpha", self.alpha, "in [0, 1)")
        require(finite(self.eps) and self.eps > 0, "eps", self.eps, "more than zero")


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """The learning rate over a phase, as a factor on the optimizer's ``lr``.

    Attributes:
        kind: "cosine" (to ``final``), "onecycle" (up over ``warmup``, default 30 %, then cosine down),
            "step" (times ``gamma`` at each milestone), or "constant".
        warmup: the part of the phase over which the rate rises linearly from near zero, in [0, 1).
        milestones: where the steps are, as parts of the phase, in (0, 1), ascending.
        gamma: factor at each milestone.
        final: the factor at the end of "cosine" and "onecycle".
    """

    kind: Literal["cosine", "onecycle", "step", "constant"] = "cosine"
    warmup: float | None = None
    milestones: tuple[float, ...] = (0.625, 0.75, 0.875)
    gamma: float = 0.1
    final: float = 0.0

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, ("cosine", "onecycle", "step", "constant"))
        if self.warmup is not None:
            ok = finite(self.warmup) and 0 <= self.warmup < 1
            require(ok, "warmup", self.warmup, "a part of the phase, in [0, 1)")
        parts = self.milestones
        numbers = isinstance(parts, (tuple, list)) and all(finite(m) and 0 < m < 1 for m in parts)
        require(
            numbers and list(parts) == sorted(set(parts)),
            "milestones",
            self.milestones,
            "parts of the phase in (0, 1), ascending (0.5 is half-way)",
        )
        require(finite(self.gamma) and self.gamma > 0, "gamma", self.gamma, "more than zero")
        require(finite(self.final) and self.final >= 0, "final", self.final, "zero or more")

    def factor(self, progress: float) -> float:
        """The factor when ``progress`` (in [0, 1]) of the phase is over.

        >>> [Schedule(kind="cosine").factor(p) for p in (0.0, 0.5, 1.0)]
        [1.0, 0.5, 0.0]
        >>> round(Schedule(kind="step").factor(0.8), 6)
        0.01
        """
        warm = self.warmup if self.warmup is not None else (0.3 if self.kind == "onecycle" else 0.0)
        if progress < warm:
            return max(progress / warm, 1e-3)
        if self.kind == "constant":
            return 1.0
        if self.kind == "step":
            return self.gamma ** sum(progress >= m for m in self.milestones)
        part = min(1.0, (progress - warm) / (1.0 - warm))
        return self.final + (1.0 - self.final) * 0.5 * (1.0 + math.cos(math.pi * part))


@dataclass(frozen=True, kw_only=True)
class Training:
    """How a stage trains.

    Attributes:
        epochs: over all the phases of the method together.
        batch_size: samples per optimizer step, over all devices and accumulated parts.
        accumulate: in how many parts a batch goes through the networks (less memory, same result
            for networks without batch statistics).
        optimizer, schedule: see there.
        clip: largest norm of the gradient of one player, or None.
        ema: decay of an exponential moving average of the student's weights, or None.
        precision: "fp32", or "bf16" (autocast; weights stay float32).
        channels_last: memory layout of images; much faster with bf16 on a CPU.
        compile: hand the networks to ``torch.compile`` (20-40 s each; pays after some 2,000 steps).
        patience: stop when the validation part has not improved for so many epochs, or None.
        checkpoint: seconds between two checkpoints (there is one at the end of every epoch, too).
        snapshots: after how many optimizer steps of the stage to keep the student's weights as they are then, as
            ``step-N.safetensors`` in the stage's folder; for going back to them later.
    """

    epochs: int = 30
    batch_size: int = 128
    accumulate: int = 1
    optimizer: Optimizer = field(default_factory=Optimizer)
    schedule: Schedule = field(default_factory=Schedule)
    clip: float | None = None
    ema: float | None = None
    precision: Literal["fp32", "bf16"] = "fp32"
    channels_last: bool = False
    compile: bool = False
    patience: int | None = None
    checkpoint: float = 60.0
    snapshots: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        require_whole(epochs=self.epochs, batch_size=self.batch_size, accumulate=self.accumulate)
        require_choice("precision", self.precision, ("fp32", "bf16"))
        for name, kind in (("optimizer", Optimizer), ("schedule", Schedule)):
            value = getattr(self, name)
            require(isinstance(value, kind), name, value, f"a limbeck.{kind.__name__}, such as {kind()!r}")
        require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        require(self.batch_size >= 1, "batch_size", self.batch_size, "at least 1")
        require(self.accumulate >= 1, "accumulate", self.accumulate, "at least 1")
        require(self.accumulate <= self.batch_size, "accumulate", self.accumulate, "at most the batch size")
        if self.clip is not None:
            require(finite(self.clip) and self.clip > 0, "clip", self.clip, "more than zero, or nothing at all")
        if self.ema is not None:
            require(finite(self.ema) and 0 < self.ema < 1, "ema", self.ema, "in (0, 1), or nothing at all")
        if self.patience is not None:
            require_whole(patience=self.patience)
            require(self.patience >= 1, "patience", self.patience, "at least 1, or nothing at all")
        require(
            finite(self.checkpoint) and self.checkpoint > 0, "checkpoint", self.checkpoint, "more than zero seconds"
        )
        require(isinstance(self.snapshots, (tuple, list)), "snapshots", self.snapshots, "a list of numbers of steps")
        for step in self.snapshots:
            require_whole(snapshots=step)
            require(
                step >= 1, "snapshots", step, "optimizer steps, at least 1; 0 would be the weights before the stage"
            )


def divide_epochs(epochs: int, shares: Iterable[float]) -> list[int]:
    """Divide a stage's epochs among its phases by share (largest remainder; each at least 1 if it can).

    >>> divide_epochs(15, [0.25, 0.75])
    [4, 11]
    """
    parts = [float(s) for s in shares]
    total = sum(parts) or 1.0
    exact = [epochs * p / total for p in parts]
    whole = [int(e) for e in exact]
    for i in sorted(range(len(parts)), key=lambda i: (whole[i] - exact[i], i))[: epochs - sum(whole)]:
        whole[i] += 1
    for i, part in enumerate(parts):
        largest = max(range(len(whole)), key=whole.__getitem__)
        if part > 0 and whole[i] == 0 and whole[largest] > 1:
            whole[i], whole[largest] = 1, whole[largest] - 1
    return whole
