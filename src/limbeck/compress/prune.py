"""Structured pruning: channels are removed, and the network is really smaller afterwards."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, get_args

from limbeck.course import STUDENT, Gathering, Lesson, Operation
from limbeck.errors import HyperParameterError
from limbeck.settings import Presets, finite, names_of, require, require_choice, require_parts, require_whole

if TYPE_CHECKING:
    from torch import nn


By = Literal[
    "l1",
    "l2",
    "fpgm",
    "slimming",
    "random",
    "apoz",
    "mean_activation",
    "lasso",
    "thinet",
    "taylor",
    "taylor_gate",
    "taylor_weight",
    "obd",
    "oracle",
]
BY: tuple[By, ...] = get_args(By)  # limbeck.compress.pruning.judge.NAMES, without torch


@dataclass(frozen=True, kw_only=True)
class Prune:
    """Removes channels: filters with all that hangs on them.

    Exactly one of ``keep``, ``macs`` and ``latency`` says how much is left.  Which channels can only go together is found
    by watching the network run, and tried out before anything is removed; the classes of the output and the inputs stay.
    What was left whole, and why, is among the findings (`limbeck.compressor.findings`), with the widths before and after.
    The parameters of the result are new tensors: an optimizer must be made anew.

    With ``steps=1`` it is one operation, without training.  With more steps it is a course: prune a little, train, prune
    again; with ``soft=True`` the filters that are to go are set to zero before each training, may come back in it,
    and only those that are lowest at the end are removed.  Called directly it always removes at once.

    Attributes:
        keep: part of the channels that stay, in (0, 1]; of each layer with ``scope="layer"``, of all together with
            "global".
        macs: multiply-accumulates that stay: a part in (0, 1), or a number above 1.  The result has at most so many; how near it
            comes is up to the steps of the widths and, in one ranking of all channels, to what its next channel would cost.
        latency: time of a forward that is left, on this machine: a part in (0, 1), or milliseconds from 1 on.  Met by
            measuring one CPU thread, or the model's device, in evaluation mode; see `limbeck.compress.cost.latency`.  Where widths
            go in coarse steps, a few of them are tried one step wider than the part that all could keep.
        by: the score of a channel.  From weights alone: "l1", "l2", "fpgm", "slimming", "random".  From calibration
            batches: "apoz", "mean_activation", "lasso", "thinet"; and with labels: "taylor", "taylor_gate", "taylor_weight",
            "obd", "oracle".  Default "l1".
        scope: "layer": the same part of every layer; "global": one ranking of all channels, in which scores that depend on
            the layer's scale ("l1", "l2", "fpgm", "mean_activation") are divided by their root mean square in the
            layer; "auto" (the default): where ``macs`` or ``latency`` says how much stays and there are calibration batches, both
            are tried on them, and the one after which the network answers most as before is taken; else "layer".
        flops: in that ranking, what a channel's score loses for every million of floating-point operations (two to a
            multiply-accumulate) that go with it, 0 or more: channels that cost much go earlier.  Molchanov et al. (2017)
            take 1e-3 for VGG-16 at 224 pixels; small inputs need more.  Default 0.
        multiple: kept widths are multiples of this, or whole; of its half, quarter ... in layers that do not hold two of
            it.  "auto" (the default): 16 for layers of 128 channels and more, 8 from 64, 4 from 32, 2 from 16; 1 turns it
            off.  What goes on to int8 is best kept at 16, with ``minimum=16``: its kernels fill channels up to that.
        minimum: at least so many channels of each group stay, 1 or more.  Default 1.
        residual: whether channels that several layers make together are removed, too (those that run along the shortcuts
            of a residual network).  Default True; the paper of "l1" has False.
        ignore: layers whose outputs stay whole: paths in the model; a path of a container means all in it.
        layers: path -> part of the channels that stays in the layers there, in (0, 1]; they do not count for ``keep``.  The path
            of a layer counts before that of a container that holds it.
        steps: how many times something is removed, with training after each.  Default 1.
        schedule: the targets on the way: "geometric" (each step keeps the same part of what is there; the default), or
            "linear".
        soft: filters are zeroed before each training but the last removal, and removed at the end.  Default False.
        epochs: of each training between steps; None (the default): as the stage says.
        recalibrate: whether the statistics of BatchNorm layers are estimated anew, on the calibration batches, if there are
            any.  Default True.
        refit: whether "lasso" and "thinet" fit the layers that lost inputs to what they used to answer, on the calibration
            batches, as their papers do; and whether with "slimming" the layers behind take over the constant that a channel
            says whose scale is zero, its shift.  Default True; other scores have no such step.
        batch: samples per forward where ``latency`` is measured.  Default 1.
        seed: of ``by="random"`` and of positions that scores draw; None (the default): torch's seed, which a run sets for
            every repetition.
        step: which of the steps this is, from 1; None (the default): all.  The course sets it.

    Raises:
        HyperParameterError: a setting is outside its range, or the target cannot be reached; or ``layers`` names a layer of
            which nothing can go, or layers that lose their channels together with different parts.
        NameUnknown: ``ignore`` or ``layers`` names no layer; the message has near names.
        LimbeckError: (when called) the network has no channel that can be removed.
        NonFiniteError: (when called) a weight is NaN or infinite.

    >>> from torch import nn, zeros
    >>> net = nn.Sequential(nn.Linear(64, 48), nn.ReLU(), nn.Linear(48, 10))
    >>> less = Prune(macs=0.5)(net, example=zeros(1, 64))
    >>> less[0].out_features, less[2].in_features
    (24, 24)
    """

    keep: float | None = None
    macs: float | None = None
    latency: float | None = None
    by: By = "l1"
    scope: Literal["layer", "global", "auto"] = "auto"
    flops: float = 0.0
    multiple: int | Literal["auto"] = "auto"
    minimum: int = 1
    residual: bool = True
    ignore: tuple[str, ...] = ()
    layers: Mapping[str, float] = field(default_factory=dict)
    steps: int = 1
    schedule: Literal["geometric", "linear"] = "geometric"
    soft: bool = False
    epochs: int | None = None
    recalibrate: bool = True
    refit: bool = True
    batch: int = 1
    seed: int | None = None
    step: int | None = None

    presets: ClassVar[Presets] = {
        "li2017": {"by": "l1", "scope": "layer", "residual": False, "multiple": 1},
        "slimming": {"keep": 0.3, "by": "slimming", "scope": "global", "multiple": 1},  # VGG-19: 70 % of the channels
        "fpgm": {"keep": 0.6, "by": "fpgm", "scope": "layer", "residual": False, "multiple": 1},  # 40 % of each layer
        "thinet": {"keep": 0.5, "by": "thinet", "scope": "layer", "residual": False, "multiple": 1},
    }

    def __post_init__(self) -> None:
        given = {k: v for k, v in self._targets().items() if v is not None}
        if len(given) != 1:
            said = ", ".join(f"{k} = {v!r}" for k, v in given.items()) or "none of them"
            raise HyperParameterError(f"exactly one of keep, macs and latency says how much stays; given: {said}")
        if self.keep is not None:
            require(finite(self.keep) and 0 < self.keep <= 1, "keep", self.keep, "a part of the channels, in (0, 1]")
        if self.macs is not None:
            require(
                finite(self.macs) and self.macs > 0 and self.macs != 1,
                "macs",
                self.macs,
                "a part in (0, 1), or a number above 1",
            )
        if self.latency is not None:
            rule = "a part in (0, 1), or milliseconds from 1 on"
            require(finite(self.latency) and self.latency > 0, "latency", self.latency, rule)
        require_choice("by", self.by, BY)
        require_choice("scope", self.scope, ("layer", "global", "auto"))
        require_choice("schedule", self.schedule, ("geometric", "linear"))
        require(finite(self.flops) and self.flops >= 0, "flops", self.flops, "0 or more, per million operations")
        rule = f"0 with scope = {self.scope!r}; scope = 'global' ranks channels of different layers"
        require(not self.flops or self.scope == "global", "flops", self.flops, rule)
        if self.multiple != "auto":
            require_whole(multiple=self.multiple)
            require(self.multiple >= 1, "multiple", self.multiple, "'auto', or 1 or more")
        require_whole(minimum=self.minimum, steps=self.steps, batch=self.batch)
        if self.seed is not None:
            require_whole(seed=self.seed)
        for name, value in (("minimum", self.minimum), ("steps", self.steps), ("batch", self.batch)):
            require(value >= 1, name, value, "1 or more")
        if self.epochs is not None:
            require_whole(epochs=self.epochs)
            require(self.epochs >= 1, "epochs", self.epochs, "1 or more, or nothing at all")
        object.__setattr__(self, "ignore", names_of("ignore", self.ignore))
        require_parts("layers", self.layers)
        for name, part in self.layers.items():
            require(finite(part) and 0 < part <= 1, f"layers[{name!r}]", part, "a part of the channels, in (0, 1]")
        if self.step is not None:
            require_whole(step=self.step)
            require(1 <= self.step <= self.steps, "step", self.step, f"from 1 to steps = {self.steps}")
        require(not self.soft or self.steps > 1, "soft", self.soft, "soft pruning takes steps of 2 or more")

    def _targets(self) -> dict[str, float | None]:
        return {"keep": self.keep, "macs": self.macs, "latency": self.latency}

    def part(self) -> float | None:
        """How much of the way is done after this step, as an exponent or a factor; None: all of it."""
        if self.step is None or self.step == self.steps or self.soft:
            return None
        return self.step / self.steps

    def on_the_way(self, target: float) -> float:
        """The target of this step, of which the last is ``target``, both parts of the whole network.

        >>> [round(Prune(keep=0.25, steps=2, step=s).on_the_way(0.25), 3) for s in (1, 2)]
        [0.5, 0.25]
        >>> Prune(keep=0.25, steps=3, schedule="linear", step=1).on_the_way(0.25)
        0.75
        """
        done = self.part()
        if done is None:
            return target
        return target**done if self.schedule == "geometric" else 1.0 - (1.0 - target) * done

    def lessons(self) -> Sequence[Lesson | Operation | Gathering]:
        """The steps, each an operation and a training; none for ``steps=1``: then it is called.

        >>> [part.name for part in Prune(keep=0.5, steps=2).lessons()]
        ['prune1', 'train1', 'prune2', '']
        >>> [part.name for part in Prune(keep=0.5, steps=3, soft=True).lessons()]
        ['zero1', 'train1', 'zero2', 'train2', '']
        """
        if self.steps == 1 or self.step is not None:
            return ()
        training = {} if self.epochs is None else {"epochs": self.epochs}
        parts: list[Lesson | Operation | Gathering] = []
        before = STUDENT
        for k in range(1, self.steps + 1):
            last = k == self.steps
            how = replace(self, step=k)
            if self.soft and last:
                parts.append(Operation(name="", how=how, student=before, beside=(STUDENT,)))
                break
            name = f"{'zero' if self.soft else 'prune'}{k}"
            parts.append(Operation(name=name, how=how, student=before, beside=(STUDENT,)))
            before = f".train{k}"
            lesson = "" if last else f"train{k}"
            parts.append(Lesson(name=lesson, method=None, student=f".{name}", training={} if last else training))
        return tuple(parts)

    def __call__(
        self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = (), beside: Sequence[nn.Module] = ()
    ) -> nn.Module:
        """A smaller copy of a model, or, for a step of soft pruning, one of the same size with filters set to zero.

        Args:
            model: stays as it is.
            example: a batch as the model takes it, on its device; a mapping becomes keyword arguments.
            calibration: batches of training rows in any form that training takes, for scores that look at data and for BatchNorm's statistics.
            beside: the network that parts refer to, if it is not the model itself.
        """
        from limbeck.compress.pruning.work import pruned

        return pruned(self, model, example=example, calibration=calibration, original=beside[0] if beside else model)
