"""A hint: a layer of the teacher that a layer of the student, with a regressor behind it, is to predict."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import TYPE_CHECKING, Literal

from limbeck.methods.pairs import Pair
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import Optimizer, require, require_choice

if TYPE_CHECKING:
    from torch import Tensor, nn

ACTIVATIONS = ("auto", "relu", "tanh", "sigmoid", "none")
Compare = Callable[["Tensor", "Tensor", Moment], Term]


@dataclass(frozen=True, kw_only=True)
class Hint:
    """A pair that was looked at, and what it takes to compare its two layers.

    Attributes:
        pair: (guided layer of the student, hint layer of the teacher).
        regressor: from the one to the other.
        units: how many units the hint layer has per sample.
        notes: lines for the user.
    """

    pair: Pair
    regressor: nn.Module
    units: int
    notes: tuple[str, ...]


def require_regressor(kind: str, activation: str) -> None:
    """Check the two settings of a regressor."""
    require(kind in ("paper", "benchmark"), "regressor", kind, "'paper' or 'benchmark'")
    require_choice("activation", activation, ACTIVATIONS)


def settle_hint(cast: Cast, pair: Pair | None, *, regressor: Literal["paper", "benchmark"], activation: str) -> Hint:
    """Choose the pair, look at it, and build the regressor for it.

    Args:
        cast: needs a student and a teacher.
        pair: as the user gave it; None: the middle of both networks.
        regressor: its form, see `limbeck.connectors.regressor`.
        activation: what it ends with; "auto": as the teacher's layer seems to (form "paper"), or ReLU.

    Raises:
        TapError: a layer does not exist, or none was given and a network has no layers to choose.
        ShapeError: no regressor fits the two layers.
    """
    from limbeck import connectors, layers, taps

    models, inputs = cast.pick("student", "teacher"), cast.example.inputs
    guided, hint = pair or layers.middle(models["student"], models["teacher"], inputs)
    ours = taps.look(models["student"], inputs, (guided,)).taps[guided]
    theirs = taps.look(models["teacher"], inputs, (hint,)).taps[hint]
    if activation == "auto":
        activation = "relu" if regressor == "benchmark" else connectors.activation_of(theirs)
    net = connectors.regressor(tuple(ours.shape[1:]), tuple(theirs.shape[1:]), form=regressor, activation=activation)
    weights = sum(p.numel() for p in net.parameters())
    how = "pair" if pair else "pair (the middle of both)"
    note = f"{how}: {guided} {list(ours.shape[1:])} -> {hint} {list(theirs.shape[1:])}"
    return Hint(
        pair=(guided, hint),
        regressor=net,
        units=prod(theirs.shape[1:]),
        notes=(note, f"regressor: {weights:,} weights, activation {activation}"),
    )


def hint_phase(
    models: Mapping[str, nn.Module], hint: Hint, compare: Compare, *, share: float, optimizer: Optimizer | None
) -> Phase:
    """The phase "hint": the student up to its guided layer, and the regressor, on the hint alone.

    Args:
        models: "student" and "teacher".
        hint: from `settle_hint`.
        compare: (regressed features, the teacher's, moment) -> the term "hint".
        share: of the stage's epochs.
        optimizer: replaces the stage's own.
    """
    guided, target = hint.pair

    def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
        theirs = models["teacher"](batch.inputs).taps[target]
        ours = models["student"](batch.inputs).taps[guided]
        yield Update("student", {"hint": compare(models["regressor"](ours), theirs, moment)})

    return Phase(
        name="hint",
        modules={**models, "regressor": hint.regressor},
        trains={"student": ("student", "regressor")},
        taps={"student": (guided,), "teacher": (target,)},
        step=step,
        share=share,
        stops=frozenset({"student", "teacher"}),
        optimizers={} if optimizer is None else {"student": optimizer},
        notes=hint.notes,
    )
