"""Gradient attention: which pixels the teacher's loss is sensitive to."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from limbeck import losses
from limbeck.errors import ShapeError, TargetError, TensorTypeError
from limbeck.methods.terms import check_logits, off, require_temperature, soft_targets
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Seen, Term, Update
from limbeck.settings import Presets, Weight, at, require_choice, require_weights

if TYPE_CHECKING:
    from torch import Tensor

_KINDS = ("teacher", "symmetry", "penalty")


@dataclass(frozen=True, kw_only=True)
class GradientAttention:
    """The student's loss is sensitive to the pixels that the teacher's is (Zagoruyko, Komodakis, ICLR 2017, section 3.2).

    ``L = hard * CE + weight * 1/2 * || J_s - J_t ||^2`` with ``J = d CE / d input``, the gradient of each sample's own
    cross-entropy; mean over the batch.  The step differentiates twice: a batch costs about three times what it costs
    with labels alone, and the student is never compiled (torch.compile has no second derivatives).

    Two relatives without a teacher stand in the paper's table beside it.  ``kind="symmetry"`` compares ``J`` with that of
    the mirrored image, mirrored back; ``kind="penalty"`` makes ``J`` itself small.

    Attributes:
        kind: what the gradient is compared with: "teacher" (the teacher's), "symmetry" (the student's own at the image
            mirrored left to right; images only) or "penalty" (zero).  Default "teacher".
        norm: "squared" (half the squared length of the difference) or "plain" (half its length, as the paper prints).
            Default "squared", which is smooth where both are equal.
        weight: beta, zero or more, or a `Ramp`.  Default 1; ours: the paper gives none for gradients.
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the paper).  Batches need labels
            even with 0, since J is the gradient of their cross-entropy.
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0.
        temperature: of that term.  Default 4 (as in `KD`).

    Raises:
        HyperParameterError: a setting is outside its range.
        TargetError: a batch has no labels.
        TensorTypeError: inputs that have no gradient: integers (token ids, say), or a mapping.
        ShapeError: the networks score different classes, or (with "symmetry") the inputs are no images.
        GradientError: the student's or the teacher's graph does not reach its input.

    >>> GradientAttention(kind="symmetry").norm
    'squared'
    """

    kind: Literal["teacher", "symmetry", "penalty"] = "teacher"
    norm: Literal["squared", "plain"] = "squared"
    weight: Weight = 1.0
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        "paper": {
            "kind": "teacher",
            "norm": "plain",
            "hard": 1.0,
        },  # section 3.2 prints a plain norm; beta is not given
        "benchmark": {"kind": "teacher", "norm": "squared", "hard": 1.0},  # nobody has published one: our defaults
    }

    def __post_init__(self) -> None:
        require_choice("kind", self.kind, _KINDS)
        require_choice("norm", self.norm, ("squared", "plain"))
        require_weights(weight=self.weight, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce", "gradient", and maybe "kd"."""
        roles = ("student", "teacher") if self.kind == "teacher" or not off(self.soft) else ("student",)
        modules = cast.pick(*roles)
        _require_labels(cast.example)
        _require_smooth(cast.example.inputs)
        if self.kind == "symmetry":
            _require_image(cast.example.inputs)
        if "teacher" in roles:
            check_logits(cast, columns=2, instead="gradient attention needs a softmax over two classes or more")

        return (
            Phase(
                name="distill",
                modules=modules,
                trains={"student": ("student",)},
                taps=dict.fromkeys(roles, ()),
                step=self._step,
                eager=frozenset({"student"}),
                notes=_notes(modules["student"]),
            ),
        )

    def _step(self, models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
        import torch
        from torch.nn.attention import SDPBackend, sdpa_kernel

        _require_labels(batch)
        _require_smooth(batch.inputs)
        # Gradients are wanted even where a dry run is told to do without, and fused attention has no second derivative.
        with torch.enable_grad(), sdpa_kernel(SDPBackend.MATH):
            x = batch.inputs.detach().requires_grad_()
            student = models["student"](x)
            ce = losses.cross_entropy(student.logits, batch.targets)
            teacher = models["teacher"](x) if "teacher" in models else None
            terms = {} if off(self.hard) else {"ce": Term(ce, at(self.hard, moment))}
            if not off(self.weight):
                terms["gradient"] = Term(self._compare(models, batch, x, ce, teacher), at(self.weight, moment))
            if teacher is not None:
                terms |= soft_targets(student, teacher, moment, weight=self.soft, temperature=self.temperature)
        yield Update("student", terms)

    def _compare(self, models: Models, batch: Batch, x: Tensor, ce: Tensor, teacher: Seen | None) -> Tensor:
        import torch

        from limbeck.losses.gradients import input_gradient

        ours = input_gradient(ce, x, graph=True)
        if self.kind == "teacher" and teacher is not None:
            theirs = input_gradient(losses.cross_entropy(teacher.logits, batch.targets), x, graph=False)
        elif self.kind == "symmetry":
            # By the chain rule this is the gradient at the mirrored image, mirrored back.
            mirrored = losses.cross_entropy(models["student"](x.flip(-1)).logits, batch.targets)
            ours = ours - input_gradient(mirrored, x, graph=True)  # both sides learn
            theirs = torch.zeros_like(ours)
        else:
            theirs = torch.zeros_like(ours)
        return losses.gradient_l2(ours, theirs, norm=self.norm)


def _require_labels(batch: Batch) -> None:
    if batch.targets is None:
        raise TargetError(
            "gradient attention compares gradients of the cross-entropy with labels, and this batch has none "
            "(its targets are None), whatever the weights are"
        )


def _require_smooth(inputs: Any) -> None:
    """Refuse inputs by which nothing can be differentiated."""
    if isinstance(inputs, Mapping):
        raise TensorTypeError(
            "gradient attention differentiates by the network's one input tensor; this batch is a mapping of "
            f"{', '.join(map(str, inputs))}. Choose another method, such as kd or attention_transfer"
        )
    if not inputs.is_floating_point():
        raise TensorTypeError(
            f"gradient attention differentiates by the input, and this one is {str(inputs.dtype).removeprefix('torch.')}: "
            "integers have no gradient. Give images as floating-point numbers; for token ids choose another method"
        )


def _require_image(inputs: Tensor) -> None:
    if inputs.ndim != 4:
        raise ShapeError(
            f'kind="symmetry" mirrors images [batch, channels, height, width]; these inputs are {list(inputs.shape)}'
        )


def _notes(student: Any) -> tuple[str, ...]:
    from torch.nn.modules.batchnorm import _BatchNorm

    if not any(isinstance(part, _BatchNorm) for part in student.modules()):
        return ()
    return ("batch normalisation mixes the samples of a batch: the student's gradients are not quite per sample",)
