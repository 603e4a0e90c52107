"""Quantization: weights and activations in 8 bits, for kernels that compute so."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

from limbeck.compressor import tell
from limbeck.course import STUDENT, TEACHER, Lesson, Operation
from limbeck.errors import HyperParameterError
from limbeck.phase import Method
from limbeck.settings import names_of, require, require_choice, require_whole

if TYPE_CHECKING:
    from torch import nn

MODES = ("static", "dynamic", "weights", "qat")

# Settings that only some modes read: the default, those modes, and what the others do.
_FOR: tuple[tuple[str, Any, tuple[str, ...], str], ...] = (
    ("observer", "histogram", ("static",), "finds no ranges that way"),
    ("calibration_batches", None, ("static", "qat"), "needs no calibration"),
    ("reduce_range", False, ("static", "dynamic", "qat"), "leaves activations in float"),
)
_MUCH = 1.3  # times the arithmetic: from here on, what is filled up is worth a word


@dataclass(frozen=True, kw_only=True)
class Quantize:
    """Quantization to 8 bits, after training or with it.

    "static" rounds weights and activations of convolutions and linear layers, with ranges of activations measured on
    calibration batches; "dynamic" does so for linear layers, and measures every batch anew; "weights" stores weights
    in few bits and computes in float: smaller, not faster; "qat" trains with the rounding in place, then converts.
    ``q = clip(round(x / s) + z)`` with 8-bit affine activations and symmetric weights
    (Jacob et al.: Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference, CVPR 2018).

    Attributes:
        dtype: "int8", or "int4" in mode "weights", two weights to a byte.  Default "int8".
        mode: "static", "dynamic", "weights" or "qat".  Default "static".
        per_channel: a scale for every output channel of a weight; False: one for all of it.  Default True.
        skip: layers, or modules with all in them, that stay in float, such as ["fc"].  Default none.
        observer: how "static" finds ranges: "histogram", which cuts rare extremes off where the squared error is less
            for it, or "minmax".  Default "histogram", as in torchao.
        calibration_batches: at most so many of the calibration batches; None: all.  Default None.
        reduce_range: activations in 7 bits, for CPUs without VNNI, whose sums of products overflow.  Default False.
        epochs: "qat": epochs of its training; None: as the stage says.  Default None.
        method: "qat": how it is trained, from Python (a recipe says it in the stage); None: as the stage says, which is
            KD where somebody teaches.  Default None.
        from_float: "qat": the float network, as it was before the stage, teaches.  False: whoever the stage
            names, else the labels.  Default False.

    Raises:
        HyperParameterError: settings that do not exist or do not go together; no calibration batches, when called.
        NameUnknown: a layer to skip does not exist.
        NonFiniteError: weights or calibration batches hold NaN or infinity.
        LimbeckError: torchao is missing or too old, or the network cannot be exported.

    >>> Quantize("int8", skip=("fc",)).mode
    'static'
    """

    dtype: Literal["int8", "int4"] = field(default="int8", kw_only=False)
    mode: Literal["static", "dynamic", "weights", "qat"] = "static"
    per_channel: bool = True
    skip: tuple[str, ...] = ()
    observer: Literal["histogram", "minmax"] = "histogram"
    calibration_batches: int | None = None
    reduce_range: bool = False
    epochs: int | None = None
    method: Method | None = None
    from_float: bool = False

    def __post_init__(self) -> None:
        require_choice("dtype", self.dtype, ("int8", "int4"))
        require_choice("mode", self.mode, MODES)
        require_choice("observer", self.observer, ("histogram", "minmax"))
        object.__setattr__(self, "skip", names_of("skip", self.skip))
        if self.dtype == "int4" and self.mode != "weights":
            raise HyperParameterError(
                f'dtype = "int4" with mode = {self.mode!r}: 4 bits are for storage only; use mode "weights", or "int8"'
            )
        if not self.per_channel and self.mode == "qat":
            raise HyperParameterError(
                'per_channel = False with mode = "qat": torchao trains with per-channel scales only'
            )
        if self.calibration_batches is not None:
            require_whole(calibration_batches=self.calibration_batches)
            require(self.calibration_batches >= 1, "calibration_batches", self.calibration_batches, "at least 1")
        if self.epochs is not None:
            require_whole(epochs=self.epochs)
            require(self.epochs >= 1, "epochs", self.epochs, "at least 1")
        for name, off in (("epochs", None), ("method", None), ("from_float", False)):
            if self.mode != "qat" and getattr(self, name) != off:
                raise HyperParameterError(f'{name} is for mode = "qat"; mode {self.mode!r} trains nothing')
        for name, off, modes, why in _FOR:
            if self.mode not in modes and getattr(self, name) != off:
                wanted = " or ".join(f'"{mode}"' for mode in modes)
                raise HyperParameterError(f"{name} is for mode = {wanted}; mode {self.mode!r} {why}")

    def lessons(self) -> tuple[Lesson | Operation, ...]:
        """Of "qat": preparing, training, converting.  Of the others: nothing, one call does it."""
        if self.mode != "qat":
            return ()
        training = {} if self.epochs is None else {"epochs": self.epochs}
        teachers = (STUDENT,) if self.from_float else (TEACHER,)
        trained = Lesson(name="trained", student=".prepared", method=self.method, teachers=teachers, training=training)
        return (
            Operation(name="prepared", how=Prepare(settings=self)),
            trained,
            Operation(name="", how=Convert(settings=self), student=".trained"),
        )

    def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = ()) -> nn.Module:
        """The quantized network, a `limbeck.compress.int8.Quantized`.

        Raises:
            HyperParameterError: of "qat", which is no single step.
        """
        if self.mode == "qat":
            raise HyperParameterError(
                'mode = "qat" is a course: prepare, train, convert. Use limbeck.compress or a compress stage, '
                "which go through its lessons"
            )
        if self.mode == "weights":
            from limbeck.compress.int8.weights import stored

            bits = 4 if self.dtype == "int4" else 8
            made = stored(model, example, bits=bits, per_channel=self.per_channel, skip=self.skip)
        else:
            from limbeck.compress.int8.static import quantized

            made = quantized(
                model,
                example,
                calibration,
                mode=self.mode,
                per_channel=self.per_channel,
                observer=self.observer,
                reduce_range=self.reduce_range,
                skip=self.skip,
                batches=self.calibration_batches,
            )
        return _told(made, model)


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """The first step of quantization-aware training: rounding is put into the network.

    Attributes:
        settings: of the whole.
    """

    settings: Quantize

    def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = ()) -> nn.Module:
        """The prepared network, a `limbeck.compress.int8.Prepared`, with ranges from the calibration batches."""
        from limbeck.compress.int8.prepare import prepared

        s = self.settings
        made = prepared(
            model,
            example,
            calibration,
            skip=s.skip,
            reduce_range=s.reduce_range,
            batches=s.calibration_batches,
        )
        tell(made, "rounding is in place; BatchNorm is still there, and goes into the weights when it is converted")
        return made


@dataclass(frozen=True, kw_only=True)
class Convert:
    """The last step of quantization-aware training: the rounding becomes integers.

    Attributes:
        settings: of the whole.
    """

    settings: Quantize

    def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = ()) -> nn.Module:
        """The int8 network of one that `Prepare` made and that was trained."""
        from limbeck.compress.int8.prepare import converted

        return _told(converted(model, example), model)


def _told(made: Any, before: nn.Module) -> nn.Module:
    """The flags of the network before, and what is said of the layers."""
    made.train(before.training)
    layers = made.facts["layers"]
    kept = layers["float"]
    few = next(name for name in layers if name != "float")
    some = f"{len(layers[few])} layer{'s' * (len(layers[few]) != 1)} in {few}"
    notes = [some + (f", {len(kept)} in float: {', '.join(kept[:8])}" if kept else "")]
    if made.facts["mode"] == "weights":
        notes.append("weights are stored in few bits and computed with in float: it can save bytes, never time")
    if (padded := made.facts.get("padded", 1.0)) > _MUCH:
        notes.append(
            f"int8 kernels fill channels up to 16: with these widths to {padded:.1f} times the arithmetic. Where a network is pruned "
            "before, Prune(multiple=16, minimum=16) avoids that"
        )
    tell(made, *notes, layers=layers, mode=made.facts["mode"])
    return made
