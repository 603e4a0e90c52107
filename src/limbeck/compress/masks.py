"""Masks: single weights held at zero.  No torch here."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Literal

from limbeck.course import Lesson, Operation, Part
from limbeck.errors import HyperParameterError, unknown
from limbeck.settings import finite, names_of, require, require_choice, require_parts, require_whole

if TYPE_CHECKING:
    from torch import nn


_PLAIN = (
    "large_final",
    "small_final",
    "large_init",
    "small_init",
    "large_init_large_final",
    "small_init_small_final",
    "magnitude_increase",
    "movement",
    "random",
)
CRITERIA = tuple(f"{name}{sign}" for sign in ("", "_same_sign", "_diff_sign") for name in _PLAIN)
_OF_THE_END = ("magnitude", "large_final", "small_final", "random")  # these look at no earlier weights


@dataclass(frozen=True, kw_only=True)
class Mask:
    """Holds the least important weights of convolutions and linear layers at zero; biases and normalisation stay whole.

    The mask is applied in the forward pass, so that no momentum and no weight decay brings a weight back.  Masks by
    themselves save neither time nor bytes.  A model with masks loses only weights that it still has.

    Attributes:
        sparsity: the part of the weights that is zero afterwards, in [0, 1).  0.9 if neither this nor density nor q is set.
        density: instead: the part that is left, in (0, 1].
        q: instead: weights smaller than q standard deviations of their layer go, zero or more (Han et al., 2015).
        scope: whether every layer loses that part ("layer"), or all together, by one order ("global").
        by: "magnitude", "random", or a criterion of Zhou et al. (2019) such as "movement"; those that look at the weights
            before training need that network, ``beside=``, in every step.
        layers: layer path or pattern -> a sparsity of its own, in [0, 1); 0 keeps it whole.  A path counts before a pattern, of
            two patterns the later one.
        output: sparsity of the output layer, in [0, 1); None: as the others.
        skip: paths or patterns of layers without a mask.
        steps: in how many steps, with training between and after them; 1: at once, without training.
        schedule: of the steps: "geometric", the same part of the surviving weights each time; "linear"; or "cubic", much
            first and little in the end (Zhu and Gupta, 2017).
        epochs: of each training between two steps; None: as the stage says, like the last one.
        dropout: lower the rates of dropouts as their layers lose connections (Han et al., 2015).
        seed: of by="random"; None: torch's seed.

    Raises:
        HyperParameterError: a setting is outside its range.

    >>> Mask(density=0.25).share
    0.75
    >>> [part.name for part in Mask(sparsity=0.75, steps=2).lessons()]
    ['mask1', '1', 'mask2', '']
    """

    sparsity: float | None = None
    density: float | None = None
    q: float | None = None
    scope: Literal["layer", "global"] = "layer"
    by: str = "magnitude"
    layers: Mapping[str, float] = field(default_factory=dict)
    output: float | None = None
    skip: tuple[str, ...] = ()
    steps: int = 1
    schedule: Literal["geometric", "linear", "cubic"] = "geometric"
    epochs: int | None = None
    dropout: bool = False
    seed: int | None = None

    def __post_init__(self) -> None:
        given = [name for name in ("sparsity", "density", "q") if getattr(self, name) is not None]
        if len(given) > 1:
            raise HyperParameterError(
                f"{' and '.join(given)} are both given; they say the same thing, so one is enough"
            )
        require_part("sparsity", self.sparsity)
        if self.density is not None:
            require(finite(self.density) and 0 < self.density <= 1, "density", self.density, "in (0, 1]")
        if self.q is not None:
            require(finite(self.q) and self.q >= 0, "q", self.q, "standard deviations, zero or more")
            for name, idle in (
                ("by", self.by != "magnitude"),
                ("scope", self.scope != "layer"),
                ("layers", self.layers),
                ("schedule", self.schedule != "geometric"),
            ):
                require(
                    not idle,
                    name,
                    getattr(self, name),
                    "q looks at magnitudes, layer by layer, in every step alike; leave this out",
                )
            require(self.output is None, "output", self.output, "q finds each layer's sparsity itself; leave this out")
        require_choice("scope", self.scope, ("layer", "global"))
        require_choice("schedule", self.schedule, ("geometric", "linear", "cubic"))
        if self.by not in (known := ("magnitude", *CRITERIA)):
            raise HyperParameterError(unknown("criterion", self.by, known, "Mask(by=...)"))
        require_part("output", self.output)
        require_parts("layers", self.layers)
        object.__setattr__(self, "skip", names_of("skip", self.skip))
        if self.seed is not None:
            require_whole(seed=self.seed)
        for name, share in self.layers.items():
            require_part(f"layers.{name}", share, some=True)
        require_whole(steps=self.steps)
        require(self.steps >= 1, "steps", self.steps, "at least 1")
        if self.epochs is not None:
            require_whole(epochs=self.epochs)
            require(self.epochs >= 1, "epochs", self.epochs, "at least 1")

    @property
    def share(self) -> float:
        """The part of the weights that is zero afterwards."""
        if self.density is not None:
            return 1.0 - self.density
        return 0.9 if self.sparsity is None else self.sparsity

    @property
    def needs_before(self) -> bool:
        """Whether the criterion looks at the weights from before training."""
        return self.by not in _OF_THE_END

    def lessons(self) -> tuple[Part, ...]:
        """Nothing for one step, which is a call; else masks and trainings in turn."""
        if self.steps == 1:
            return ()
        parts: list[Part] = []
        start = "student"
        for step in range(1, self.steps + 1):
            last = step == self.steps
            # Nothing beside: the network that these steps begin with is trained, and only its stage knows from what.
            parts.append(Operation(name=f"mask{step}", how=self._after(step), student=start))
            between = {} if last or self.epochs is None else {"epochs": self.epochs}
            parts.append(Lesson(name="" if last else f"{step}", method=None, student=f".mask{step}", training=between))
            start = f".{step}"
        return tuple(parts)

    def _after(self, step: int) -> Mask:
        """One step of several: what is to be zero after it."""
        if self.q is not None:
            return replace(self, steps=1)
        part = step / self.steps

        def at(share: float) -> float:
            if self.schedule == "linear":
                return share * part
            return share * (1 - (1 - part) ** 3) if self.schedule == "cubic" else 1 - (1 - share) ** part

        return replace(
            self,
            steps=1,
            density=None,
            sparsity=at(self.share),
            layers={name: at(share) for name, share in self.layers.items()},
            output=None if self.output is None else at(self.output),
        )

    def __call__(
        self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = (), beside: Sequence[nn.Module] = ()
    ) -> nn.Module:
        """The model with masks; see `limbeck.compressor.Compressor`.

        Args:
            beside: the network from before training, for criteria that look at it; the last one counts.

        Raises:
            HyperParameterError: a layer would be left with no weight, or several steps are asked for at once.
            NameUnknown: a pattern fits no layer.
            LimbeckError, NonFiniteError, ShapeError: the model cannot be masked; the message says why.
        """
        from limbeck.compress.masking.plant import mask

        require(
            self.steps == 1,
            "steps",
            self.steps,
            "several steps need training between them: limbeck.compress, or a recipe",
        )
        return mask(self, model, example, beside)


def require_part(name: str, value: float | None, *, some: bool = False) -> None:
    """Check a part of the weights that goes: in [0, 1), or None."""
    if some or value is not None:
        require(finite(value) and 0 <= value < 1, name, value, "a part of the weights, in [0, 1)")  # type: ignore[arg-type]
