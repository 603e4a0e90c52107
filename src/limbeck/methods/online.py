"""Networks that learn together, from scratch and from each other: no teacher that was trained before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck import losses
from limbeck.errors import HyperParameterError, ShapeError
from limbeck.methods.terms import cross_entropy, off, require_targets, require_temperature
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Step, Term, Update
from limbeck.settings import Presets, Weight, at, require, require_choice, require_weights, require_whole

if TYPE_CHECKING:
    from torch import Tensor, nn

Logits = Mapping[str, "Tensor"]


@dataclass(frozen=True, kw_only=True)
class MutualLearning:
    """Deep mutual learning: every student learns from labels and from each other student (Zhang et al., CVPR 2018).

    ``L_k = hard * CE(z_k, y) + weight * T^2 / (K - 1) * sum_{l != k} KL(softmax(z_l / T) || softmax(z_k / T))``, mean
    over the batch; the other students count as constants.  In a stage of kind ``together``; in Python
    `limbeck.train_together`.

    Schedule "sequential" is the paper's algorithm 1: the students take their steps in turn, and one that has moved runs
    on the batch again before the next looks at it, which makes ``2 K - 1`` forwards for K students instead of K.  All of
    them are training forwards: all but the last student's running statistics (batch normalisation) count each batch
    twice, and dropout draws anew.  With "simultaneous" all look at what was said before anyone moved.

    Attributes:
        schedule: "sequential" or "simultaneous".  Default "sequential" (the paper).
        temperature: T, more than zero.  Default 1 (the paper).
        weight: of the other students' part, zero or more, or a `Ramp`.  Default 1 (the paper).  With 0 each student
            learns on its own.
        hard: weight of the labels' part, zero or more, or a `Ramp`.  Default 1 (the paper).  With 0 the students agree
            on nothing in particular: without labels there is nothing to agree about.

    Raises:
        HyperParameterError: a setting is outside its range, or there is only one student.
        TargetError: ``hard`` is on, and a batch has no labels.
        ShapeError: the students score different classes, or a single logit.

    >>> MutualLearning(schedule="simultaneous").weight
    1.0
    """

    schedule: Literal["sequential", "simultaneous"] = "sequential"
    temperature: float = 1.0
    weight: Weight = 1.0
    hard: Weight = 1.0

    presets: ClassVar[Presets] = {
        "paper": {"schedule": "sequential", "temperature": 1.0, "weight": 1.0, "hard": 1.0},  # eq. 4, algorithm 1
        # the customary re-implementations take all steps at once
        "benchmark": {"schedule": "simultaneous", "temperature": 1.0, "weight": 1.0, "hard": 1.0},
    }

    def __post_init__(self) -> None:
        require_choice("schedule", self.schedule, ("sequential", "simultaneous"))
        require_temperature(self.temperature)
        require_weights(weight=self.weight, hard=self.hard)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "together", with the terms "ce" and "mutual" of every student."""
        peers = _peers(cast, "mutual learning")
        require_targets(cast.example, self.hard)
        refresh, last = self.schedule == "sequential" and not off(self.weight), list(peers)[-1]

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            said = {peer: models[peer](batch.inputs).logits for peer in peers}
            for peer in peers:
                terms = cross_entropy(said[peer], batch, moment, weight=self.hard)
                if not off(self.weight):
                    terms["mutual"] = Term(self._from_others(said, peer), at(self.weight, moment))
                yield Update(peer, terms)
                if refresh and peer != last:
                    said[peer] = models[peer](batch.inputs).logits

        return (_together(peers, step, self.hard),)

    def _from_others(self, said: Logits, peer: str) -> Tensor:
        """The mean divergence from each of the others; `losses.kd_kl` lets no gradient reach them."""
        values = [
            losses.kd_kl(said[peer], logits, temperature=self.temperature)
            for other, logits in said.items()
            if other != peer
        ]
        total = values[0]
        for value in values[1:]:
            total = total + value
        return total / len(values)


@dataclass(frozen=True, kw_only=True)
class Cohort:
    """Students who compare notes: each learns from labels and from the mean of what all say.

    ``L_k = hard * CE(z_k, y) + weight * T^2 * KL(m || softmax(z_k / T))`` with ``m`` the arithmetic mean of the students'
    ``softmax(z_l / T)``, a constant, made anew from every batch before anyone moves.  In a stage of kind ``together``;
    in Python `limbeck.train_together`.  Two students with ``over="others"`` at temperature 1 are `MutualLearning` with
    the schedule "simultaneous".

    Attributes:
        over: "all", the mean over the whole cohort, the student itself included (the talk's community), or "others".
            Default "all".
        temperature: T, more than zero.  Default 1.
        weight: of the community's part, zero or more, or a `Ramp`.  Default 1.  With 0 each student learns on its own.
        hard: weight of the labels' part, zero or more, or a `Ramp`.  Default 1.
        every: notes are compared in the first step of a phase and in each ``every``-th one after it; in the steps
            between the term is left out, and everybody learns from labels alone.  Whole, 1 or more.  Default 1
            (every step).

    Raises:
        HyperParameterError: a setting is outside its range, or there is only one student.
        TargetError: ``hard`` is on, and a batch has no labels.
        ShapeError: the students score different classes, or a single logit.

    >>> Cohort(over="others", every=2).temperature
    1.0
    """

    over: Literal["all", "others"] = "all"
    temperature: float = 1.0
    weight: Weight = 1.0
    hard: Weight = 1.0
    every: int = 1

    presets: ClassVar[Presets] = {
        # the talk gives no numbers that we know of: the community's mean, in every step, at the weight of the labels
        "paper": {"over": "all", "temperature": 1.0, "weight": 1.0, "hard": 1.0, "every": 1},
        # nobody has published a benchmark: the same, over the others, as mutual learning has it
        "benchmark": {"over": "others", "temperature": 1.0, "weight": 1.0, "hard": 1.0, "every": 1},
    }

    def __post_init__(self) -> None:
        require_choice("over", self.over, ("all", "others"))
        require_temperature(self.temperature)
        require_weights(weight=self.weight, hard=self.hard)
        require_whole(every=self.every)
        require(self.every >= 1, "every", self.every, "1 (every step) or more")
        if self.every > 1 and off(self.hard):
            raise HyperParameterError(
                f"every = {self.every} with hard = {self.hard!r}: between two exchanges there would be nothing to learn "
                "from; give hard a weight, or set every = 1"
            )

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "together", with the terms "ce" and (in the steps with an exchange) "community" of every student."""
        peers = _peers(cast, "a cohort")
        require_targets(cast.example, self.hard)

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            from torch import stack

            said = {peer: models[peer](batch.inputs).logits for peer in peers}
            exchange = not off(self.weight) and moment.step % self.every == 0
            for peer in peers:
                terms = cross_entropy(said[peer], batch, moment, weight=self.hard)
                if exchange:
                    members = [logits for who, logits in said.items() if self.over == "all" or who != peer]
                    value = losses.kd_kl_mixture(said[peer], stack(members, 1), temperature=self.temperature)
                    terms["community"] = Term(value, at(self.weight, moment))
                yield Update(peer, terms)

        return (_together(peers, step, self.hard),)


def _peers(cast: Cast, method: str) -> dict[str, nn.Module]:
    """The students by role, looked at.

    Raises:
        HyperParameterError: there are fewer than two.
        ShapeError: they score different classes, or one.
    """
    from limbeck import taps

    roles = cast.peers
    if len(roles) < 2:
        raise HyperParameterError(
            f"{method} needs two or more students, and here {'is one' if roles else 'are none'}: a stage of kind "
            "'together' names them (students: [a, b]); in Python there is limbeck.train_together"
        )
    peers = cast.pick(*roles)
    widths = {}
    for role, model in peers.items():
        shape = tuple(taps.look(model, cast.example.inputs, ()).logits.shape)
        widths[role] = shape[1] if len(shape) > 1 else 1
    if len(set(widths.values())) > 1:
        said = ", ".join(f"{role} {width}" for role, width in widths.items())
        raise ShapeError(f"the students score different numbers of classes ({said}); they must score the same ones")
    if set(widths.values()) == {1}:
        raise ShapeError(f"the students give 1 logit per sample, and {method} compares softmaxes over 2 or more")
    return peers


def _together(peers: Mapping[str, nn.Module], step: Step, hard: Weight) -> Phase:
    """The phase of all who learn together: each a player with an optimizer of its own."""
    warning = ("without labels (hard = 0) students only copy each other, which need not lead anywhere",)
    return Phase(
        name="together",
        modules=peers,
        trains={peer: (peer,) for peer in peers},
        taps=dict.fromkeys(peers, ()),
        step=step,
        notes=warning if off(hard) else (),
    )
