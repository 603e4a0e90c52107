"""The contract: what a method is made of, and what the engine promises to do with it.

A *method* is a frozen dataclass with one function, ``phases(cast)``.  A *phase* is a stretch of
training with a fixed cast: which modules are there, which of them train, what the step looks at.
The *step* is a generator: it runs the models, yields an `Update` ("one optimizer step of this
player, please"), and when it is resumed the weights have moved.

The engine keeps these rules, so that no method has to:

- A module that no player owns is frozen for the phase: its parameters get no gradient, it is in
  ``eval()`` mode, its buffers stay bit-identical, and all is restored afterwards.  Gradients may
  still flow *through* it.
- Modes are set at the start of every epoch.  A method contains no ``no_grad``, ``.train()``,
  ``.to()`` or ``.backward()``.
- A module named in ``taps`` (with no taps, too) is called with a batch's inputs and returns a
  `Seen`; any other module is called as it is.
- ``weight * value.mean()`` of a `Term` is the one reduction in the code base.

This module imports no torch, so that a recipe can be checked in a blink.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

from limbeck.errors import LimbeckError, NameUnknown, unknown

if TYPE_CHECKING:
    from torch import Generator, Tensor, nn

    from limbeck.settings import Optimizer


class Batch(NamedTuple):
    """What a step receives.

    Attributes:
        inputs: ``[batch, ...]``, or a mapping of such tensors where a sample has several parts
            (several modalities, or the keyword arguments of a Hugging Face model).
        targets: class ids ``[batch]`` int64, multi-hot ``[batch, classes]``, boxes ..., or None.
        rows: ``[batch]`` which sample of the data set, or None where nobody knows.
        views: ``[batch]`` which augmented view of that sample.
    """

    inputs: Any
    targets: Any = None
    rows: Tensor | None = None
    views: Tensor | None = None


class Seen(NamedTuple):
    """What a tapped model returns: its own output, and the taps by module path."""

    output: Any
    taps: Mapping[str, Tensor]

    @property
    def logits(self) -> Tensor:
        """The scores in the output, whether it is a tensor, a tuple, a dict or an object."""
        return logits_of(self.output)


class Term(NamedTuple):
    """One part of a loss: counted as ``weight * value.mean()``.

    Attributes:
        value: per sample ``[batch]`` where the formula is a mean over samples, else a scalar.
        weight: how much it counts in this step; zero or more.
    """

    value: Tensor
    weight: float = 1.0


class Update(NamedTuple):
    """A request for one optimizer step of ``player`` on the sum of these terms."""

    player: str
    terms: Mapping[str, Term]


class Moment(NamedTuple):
    """When a step happens: what a schedule of a weight may depend on, and where noise comes from.

    Attributes:
        generator: random numbers of this step, on the device of the run.
        epoch: epochs of this phase done so far, with their fraction.
        epochs: how many epochs this phase has in all.
        step: optimizer steps of this phase done so far, counted in batches.
        steps: how many of them an epoch has, or None where nobody knows.
    """

    generator: Generator
    epoch: float = 0.0
    epochs: float = 1.0
    step: int = 0
    steps: int | None = None

    @property
    def progress(self) -> float:
        """The part of the phase that is over, in [0, 1]."""
        return min(1.0, self.epoch / self.epochs) if self.epochs else 1.0


Models = Mapping[str, Callable[..., Any]]
Step = Callable[[Models, Batch, Moment], Iterator[Update]]


@dataclass(frozen=True, kw_only=True)
class Phase:
    """A stretch of training with a fixed cast.

    Attributes:
        name: shown to the user, part of the seeds and of the checkpoint.
        modules: who is there, by role: "teacher", "student", "regressor", "peer1" ...
        trains: player -> the modules its optimizer owns.  A module that nobody owns is frozen.
        taps: module -> the taps that the step reads from it (maybe none); see `limbeck.taps`.
        step: the generator that yields updates.
        share: this phase's part of the stage's epochs, relative to the other phases' shares.
        epochs: a fixed number of epochs instead, outside the stage's budget (statistics, say).
        stops: modules whose output the step does not read: their forward may end at the last tap.
        eager: modules that are never compiled, because the step differentiates twice by them, say.
        optimizers: player -> settings that replace the stage's own for that player.
        keeps: modules whose weights are an artefact of their own: NAME.safetensors in the stage's folder, written when
            the phase ends.
        notes: lines for the user, such as the layer pairs that were chosen.
    """

    name: str
    modules: Mapping[str, nn.Module]
    trains: Mapping[str, tuple[str, ...]]
    taps: Mapping[str, tuple[str, ...]]
    step: Step
    share: float = 1.0
    epochs: int | None = None
    stops: frozenset[str] = frozenset()
    eager: frozenset[str] = frozenset()
    optimizers: Mapping[str, Optimizer] = field(default_factory=dict)
    keeps: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        owners: dict[str, str] = {}
        for player, owned in self.trains.items():
            for name in owned:
                if name not in self.modules:
                    raise NameUnknown(unknown("module", name, self.modules, f"phase {self.name!r}"))
                if name in owners:
                    raise LimbeckError(
                        f"phase {self.name!r}: module {name!r} is owned by both {owners[name]!r} "
                        f"and {player!r}; a module has one owner"
                    )
                owners[name] = player
        for name in (*self.taps, *sorted(self.stops), *sorted(self.eager), *self.keeps):
            if name not in self.modules:
                raise NameUnknown(unknown("module", name, self.modules, f"phase {self.name!r}"))

    @property
    def frozen(self) -> tuple[str, ...]:
        """The modules that nobody trains in this phase."""
        trained = {name for names in self.trains.values() for name in names}
        return tuple(name for name in self.modules if name not in trained)


@dataclass(frozen=True, kw_only=True)
class Cast:
    """What a method is told before it says what its phases are.

    Attributes:
        models: the networks by role: "student"; "teacher", or "teacher1", "teacher2" ... where there are several;
            "peer2", "peer3" ... for students that learn beside the first one.
        example: one real batch, on the device and in the layout of the run.
        classes: how many classes the targets have, where that is known.
        rows: how many rows the data set has that ``Batch.rows`` counts (every value is below it), where known.
    """

    models: Mapping[str, nn.Module]
    example: Batch
    classes: int | None = None
    rows: int | None = None

    @property
    def teachers(self) -> tuple[str, ...]:
        """The roles of the teachers, in order: one, several, or none."""
        return tuple(role for role in self.models if role.startswith("teacher"))

    @property
    def peers(self) -> tuple[str, ...]:
        """The roles of the networks that learn together, in order: the student first."""
        return tuple(role for role in self.models if role == "student" or role.startswith("peer"))

    def pick(self, *roles: str) -> dict[str, nn.Module]:
        """These roles and no others, as a phase's ``modules``.

        Raises:
            NameUnknown: there is no such role; the message says which there are.
        """
        for role in roles:
            if role == "teacher" and len(self.teachers) > 1:
                raise NameUnknown(
                    f"this method learns from one teacher, and the stage names {len(self.teachers)}; EnsembleKD and FEED "
                    "take several, and an ensemble stage makes one network of them"
                )
            if role not in self.models:
                raise NameUnknown(
                    f"this method needs a {role}, and the stage names none; "
                    f"it has: {', '.join(self.models) or 'no models'}"
                )
        return {role: self.models[role] for role in roles}


@runtime_checkable
class Method(Protocol):
    """One paper: a frozen dataclass of hyper-parameters.  Never subclassed."""

    def phases(self, cast: Cast) -> Sequence[Phase]: ...


class Compressor(Protocol):
    """Maps a model to a new, smaller one; the old one stays bit-identical."""

    def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Batch]) -> nn.Module: ...


def logits_of(output: Any) -> Tensor:
    """The class scores in whatever a model returned.

    A tensor is itself; a mapping is asked for ``logits`` (else its only tensor); an object for its
    attribute ``logits``; a tuple or list for its first tensor.

    Raises:
        LimbeckError: none of that worked; the message says what the output was.
    """
    if hasattr(output, "shape") and hasattr(output, "dtype"):
        return output
    if isinstance(output, Mapping):
        if "logits" in output:
            return output["logits"]
        values = [v for v in output.values() if hasattr(v, "shape")]
        if len(values) == 1:
            return values[0]
        raise LimbeckError(
            f"the model returned a dict with the keys {', '.join(map(str, output))}; "
            "limbeck looks for 'logits'. Wrap the model so that it returns its logits"
        )
    if hasattr(output, "logits"):
        return output.logits
    if isinstance(output, (tuple, list)) and output:
        return logits_of(output[0])
    raise LimbeckError(
        f"the model returned a {type(output).__name__}, in which limbeck finds no logits; "
        "a tensor, a tuple with it first, a dict or an object with 'logits' would do"
    )


def seed_for(run_seed: int, *where: object) -> int:
    """A seed for one place in a run, in [0, 2**63): the same place always gets the same one.

    Because the place is hashed, not counted, inserting a stage changes no other stage's numbers.

    >>> seed_for(0, "kd", "distill", 3) == seed_for(0, "kd", "distill", 3)
    True
    >>> seed_for(0, "kd", "distill", 3) == seed_for(0, "kd", "distill", 4)
    False
    """
    text = "\x1f".join(map(str, (run_seed, *where)))
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") >> 1
