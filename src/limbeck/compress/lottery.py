"""Lottery tickets and supermasks: masks found by training, over weights from before it.  No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from limbeck.compress.masks import CRITERIA, require_part
from limbeck.course import STUDENT, Lesson, Operation, Part
from limbeck.errors import HyperParameterError, LimbeckError, unknown
from limbeck.settings import Optimizer, finite, names_of, require, require_choice, require_whole

if TYPE_CHECKING:
    from torch import nn


Keep = Literal["rewind", "reinit", "reshuffle", "constant"]
Rest = Literal["zero", "freeze", "toward_zero"]
KEEPS = ("rewind", "reinit", "reshuffle", "constant")
RESTS = ("zero", "freeze", "toward_zero")
# Name -> what the weights that stay begin from, whether with their first signs, and whether the mask is a random one.
CONTROLS: dict[str, tuple[Keep, bool, bool]] = {
    "reinit": ("reinit", False, False),
    "reinit_sign": ("reinit", True, False),
    "reshuffle": ("reshuffle", False, False),
    "reshuffle_sign": ("reshuffle", True, False),
    "constant": ("constant", False, False),
    "constant_sign": ("constant", True, False),
    "rewind_nosign": ("rewind", False, False),
    "random": ("rewind", True, True),
    "random_reinit": ("reinit", False, True),
}


@dataclass(frozen=True, kw_only=True)
class LotteryTicket:
    """Train, drop the smallest weights, put the others back to where they began, and again: iterative magnitude pruning.

    A course of ``rounds + 1`` full trainings, with one more for every control in every round it is asked for.  Each round
    trains the whole schedule from its first step on.

    Attributes:
        rounds: how often weights are dropped, at least 1; after n rounds (1 - rate)^n are left.  7 leaves a fifth.
        rate: the part of the surviving weights that goes each round, in (0, 1); Frankle and Carbin (2019) have 0.2.
        output_rate: of the output layer, in [0, 1); None: half of the rate with scope "layer" (as they have it), the same
            pool as all others with scope "global".
        scope: every layer loses that part ("layer"), or all together by one order ("global", for deep networks).
        criterion: which weights stay: "large_final", or another of Zhou et al. (2019).
        alpha: of the two criteria that weigh the sizes before and after against each other, more than zero.
        keep: where weights that stay begin again: at their first values ("rewind"), at new ones drawn from those of their
            layer ("reinit"), at the surviving first values in another order ("reshuffle"), or all at the standard deviation
            of their layer's first values ("constant").
        sign: whether they begin with their first signs; otherwise drawn ones.
        masked: where weights that go rest: at zero; at their first values ("freeze"); or at zero where training had made
            them smaller, else at their first values ("toward_zero").
        rewind: optimizer steps of the first training after which the weights to go back to are taken; 0: before it.
        controls: per round, also trained: "reinit", "reinit_sign", "reshuffle", "reshuffle_sign", "constant",
            "constant_sign" (the ticket's mask, other weights to begin with), "rewind_nosign", "random" (a random mask of the
            same density in each layer), "random_reinit".
        controlled: the rounds with controls, from 1 on; none at all: every round.
        skip: paths or patterns of layers without a mask.
        seed: of what is drawn; None: torch's seed.

    Raises:
        HyperParameterError: a setting is outside its range.

    >>> [part.name for part in LotteryTicket(rounds=2, controls=("reinit",), controlled=(2,)).lessons()]
    ['0', 'mask1', '1', 'mask2', 'mask2.reinit', '2.reinit', '']
    """

    rounds: int = 7
    rate: float = 0.2
    output_rate: float | None = None
    scope: Literal["layer", "global"] = "layer"
    criterion: str = "large_final"
    alpha: float = 1.0
    keep: Keep = "rewind"
    sign: bool = True
    masked: Rest = "zero"
    rewind: int = 0
    controls: tuple[str, ...] = ("reinit", "random")
    controlled: tuple[int, ...] = ()
    skip: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        require_whole(rounds=self.rounds, rewind=self.rewind)
        require(self.rounds >= 1, "rounds", self.rounds, "at least 1")
        require(self.rewind >= 0, "rewind", self.rewind, "optimizer steps, zero or more")
        _require_choice_of_weights(self)
        object.__setattr__(self, "controls", names_of("controls", self.controls, "controls"))
        require(
            isinstance(self.controlled, (tuple, list)), "controlled", self.controlled, "a list of rounds, such as [1]"
        )
        object.__setattr__(self, "controlled", tuple(self.controlled))
        for name in self.controls:
            if name not in CONTROLS:
                raise HyperParameterError(unknown("control", name, CONTROLS, "LotteryTicket(controls=...)"))
        require(len(set(self.controls)) == len(self.controls), "controls", self.controls, "each once")
        for place in self.controlled:
            require_whole(controlled=place)
            require(1 <= place <= self.rounds, "controlled", place, f"a round, from 1 to {self.rounds}")

    def lessons(self) -> tuple[Part, ...]:
        """The first training, then for each round a mask, its controls, and the training of the ticket."""
        origin = f".0@{self.rewind}" if self.rewind else STUDENT
        first = {"snapshots": (self.rewind,)} if self.rewind else {}
        parts: list[Part] = [Lesson(name="0", method=None, training=first)]
        for k in range(1, self.rounds + 1):
            last = k == self.rounds
            mask = f"mask{k}"
            parts.append(Operation(name=mask, how=self._ticket(k), student=f".{k - 1}", beside=(origin,)))
            for name in self.controls if not self.controlled or k in self.controlled else ():
                keep, sign, shuffle = CONTROLS[name]
                how = Replant(keep=keep, sign=sign, shuffle=shuffle, seed=self.seed, skip=self.skip)
                parts.append(Operation(name=f"{mask}.{name}", how=how, student=f".{mask}", beside=(origin,)))
                parts.append(Lesson(name=f"{k}.{name}", method=None, student=f".{mask}.{name}"))
            parts.append(Lesson(name="" if last else str(k), method=None, student=f".{mask}"))
        return tuple(parts)

    def _ticket(self, k: int) -> Ticket:
        return Ticket(
            rate=self.rate, output_rate=self.output_rate, scope=self.scope, criterion=self.criterion, alpha=self.alpha,
            keep=self.keep, sign=self.sign, masked=self.masked, rounds=self.rounds + 1 - k, skip=self.skip, seed=self.seed,
        )  # fmt: skip

    def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = ()) -> nn.Module:
        """Refused: a ticket is found by training."""
        raise LimbeckError(_NEEDS_TRAINING.format("LotteryTicket"))


@dataclass(frozen=True, kw_only=True)
class Ticket:
    """One round of a lottery ticket, without the training: from a trained network and its first weights to the ticket.

    Attributes:
        rate, output_rate, scope, criterion, alpha, keep, sign, masked, skip, seed: as in `LotteryTicket`.
        rounds: how many rounds follow with this one, at least 1: so many must be possible.

    Raises:
        HyperParameterError: a setting is outside its range.
    """

    rate: float = 0.2
    output_rate: float | None = None
    scope: Literal["layer", "global"] = "layer"
    criterion: str = "large_final"
    alpha: float = 1.0
    keep: Keep = "rewind"
    sign: bool = True
    masked: Rest = "zero"
    rounds: int = 1
    skip: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        require_whole(rounds=self.rounds)
        require(self.rounds >= 1, "rounds", self.rounds, "at least 1")
        _require_choice_of_weights(self)

    @property
    def own_output_rate(self) -> float | None:
        """The output layer's rate, where it has one of its own."""
        if self.output_rate is None and self.scope == "layer":
            return self.rate / 2
        return self.output_rate

    def __call__(
        self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = (), beside: Sequence[nn.Module] = ()
    ) -> nn.Module:
        """The ticket: the first network's weights and buffers under a mask found in the trained one.

        Args:
            model: the trained network, with or without masks.
            beside: the network to go back to; the last one counts.

        Raises:
            HyperParameterError: there is no network to go back to, or fewer weights than the rounds need.
            ShapeError, LimbeckError: the two are not of one build.
        """
        from limbeck.compress.masking.tickets import ticket

        return ticket(self, model, example, beside)


@dataclass(frozen=True, kw_only=True)
class Replant:
    """A control of a lottery ticket: its mask, or one as dense, over other weights to begin with.

    Attributes:
        keep, sign, skip, seed: as in `LotteryTicket`.
        shuffle: put each layer's mask in a random order.

    Raises:
        HyperParameterError: a setting is outside its range.
    """

    keep: Keep = "reinit"
    sign: bool = False
    shuffle: bool = False
    skip: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        require_choice("keep", self.keep, KEEPS)

    def __call__(
        self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = (), beside: Sequence[nn.Module] = ()
    ) -> nn.Module:
        """The control of a ticket.

        Args:
            model: the ticket.
            beside: the network with the first weights; the last one counts.

        Raises:
            HyperParameterError: there is no such network.
            LimbeckError: the model has no mask.
        """
        from limbeck.compress.masking.tickets import replant

        return replant(self, model, example, beside)


@dataclass(frozen=True, kw_only=True)
class Supermask:
    """Learns which of the untrained weights to keep; the weights themselves stay as they were drawn.

    Each weight has a score s, 0 to begin with, and stays with the probability sigmoid(s); gradients go straight through the
    drawn mask.  In the end the weights with a probability of at least 1/2 stay.  Biases stay as they are; normalisation
    layers are trained.

    Attributes:
        constant: put every weight at the standard deviation of its layer, with its sign (Zhou et al., 2019).
        rescale: multiply a layer's weights by (all / kept), so that its output keeps its size (likewise).
        lr: of the scores (AdamW without decay); None: the stage's own optimizer.  Scores must move by about 1, which
            ordinary rates do not bring about.
        samples: how many masks to draw from the probabilities and measure, besides the one that stays; their mean is what
            Zhou et al. report, of 10.
        skip: paths or patterns of layers without a mask.
        seed: of the samples; None: torch's seed.

    Raises:
        HyperParameterError: a setting is outside its range.

    >>> [part.name for part in Supermask(samples=1).lessons()]
    ['scores', 'learned', 'sample1', '']
    """

    constant: bool = True
    rescale: bool = True
    lr: float | None = 0.1
    samples: int = 0
    skip: tuple[str, ...] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        require_whole(samples=self.samples)
        require(self.samples >= 0, "samples", self.samples, "zero or more")
        _require_seed_and_skip(self)
        if self.lr is not None:
            require(finite(self.lr) and self.lr > 0, "lr", self.lr, "more than zero, or nothing at all")

    def lessons(self) -> tuple[Part, ...]:
        """Scores, their training, and the masks that come of it."""
        how = Scores(constant=self.constant, rescale=self.rescale, skip=self.skip)
        training = {} if self.lr is None else {"optimizer": Optimizer(kind="adamw", lr=self.lr, weight_decay=0.0)}
        samples = [
            Operation(name=f"sample{k}", how=Decide(sample=k, seed=self.seed), student=".learned")
            for k in range(1, self.samples + 1)
        ]
        return (
            Operation(name="scores", how=how),
            Lesson(name="learned", method=None, student=".scores", training=training),
            *samples,
            Operation(name="", how=Decide(), student=".learned"),
        )

    def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = ()) -> nn.Module:
        """Refused: a supermask is learned."""
        raise LimbeckError(_NEEDS_TRAINING.format("Supermask"))


@dataclass(frozen=True, kw_only=True)
class Scores:
    """Puts scores beside the weights of a network, for a mask to be learned over them.

    Attributes:
        constant, rescale, skip: as in `Supermask`.
    """

    constant: bool = True
    rescale: bool = True
    skip: tuple[str, ...] = ()

    def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = ()) -> nn.Module:
        """The network with scores; only they, and normalisation layers, learn."""
        from limbeck.compress.masking.supermasks import with_scores

        return with_scores(self, model, example)


@dataclass(frozen=True, kw_only=True)
class Decide:
    """Makes a mask of learned scores.

    Attributes:
        sample: 0: the weights with a probability of at least 1/2 stay; else the number of a drawn mask.
        seed: of the drawing; None: torch's seed.

    Raises:
        HyperParameterError: a setting is outside its range.
    """

    sample: int = 0
    seed: int | None = field(default=None)

    def __post_init__(self) -> None:
        require_whole(sample=self.sample)
        require(self.sample >= 0, "sample", self.sample, "zero or more")

    def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = ()) -> nn.Module:
        """The network with masks instead of scores.

        Raises:
            LimbeckError: it has no scores.
            HyperParameterError: a layer would be left with no weight.
        """
        from limbeck.compress.masking.supermasks import decide

        return decide(self, model)


_NEEDS_TRAINING = (
    "{} takes trainings between its steps, so it cannot be called with a model alone: limbeck.compress with batches, or a "
    "stage of kind compress in a recipe, does them"
)


def _require_seed_and_skip(how: LotteryTicket | Ticket | Supermask) -> None:
    object.__setattr__(how, "skip", names_of("skip", how.skip))
    if how.seed is not None:
        require_whole(seed=how.seed)


def _require_choice_of_weights(how: LotteryTicket | Ticket) -> None:
    require(finite(how.rate) and 0 < how.rate < 1, "rate", how.rate, "a part of the surviving weights, in (0, 1)")
    require_part("output_rate", how.output_rate)
    require_choice("scope", how.scope, ("layer", "global"))
    require_choice("keep", how.keep, KEEPS)
    require_choice("masked", how.masked, RESTS)
    _require_seed_and_skip(how)
    require(isinstance(how.sign, bool), "sign", how.sign, "True or False")
    if how.criterion not in CRITERIA:
        raise HyperParameterError(unknown("criterion", how.criterion, CRITERIA))
    require(finite(how.alpha) and how.alpha > 0, "alpha", how.alpha, "more than zero")
