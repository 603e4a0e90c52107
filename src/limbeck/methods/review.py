"""Knowledge review: every layer of the teacher is taught by the student's layers up to there, the deepest first."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from limbeck import losses
from limbeck.errors import ShapeError
from limbeck.methods.heads import before_the_classifier
from limbeck.methods.pairs import Pair, as_pairs, term_names
from limbeck.methods.terms import (
    check_logits,
    cross_entropy,
    off,
    require_targets,
    require_temperature,
    soft_targets,
)
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import Presets, Ramp, Weight, at, require_weights

if TYPE_CHECKING:
    from torch import Tensor

Size = tuple[int, int, int]

_WARM = Ramp(start=0.0, end=1.0, epochs=20)


@dataclass(frozen=True, kw_only=True)
class ReviewKD:
    """The student's deeper layers help its earlier ones to match the teacher's (Chen, Liu, Zhao, Jia, CVPR 2021).

    Beginning with the deepest, each of the student's maps is fused with what the deeper ones left (attention-based fusion), and
    the result is compared with the teacher's map of that level:
    ``L = hard * CE + weight * sum_levels HCL(fused_s, f_t)``.  HCL, the hierarchical context loss, is the mean square of the
    difference at several levels of detail; see `limbeck.losses.hcl`.  The fusion is dropped with training.

    Attributes:
        pairs: (student layer, teacher layer) pairs from the input to the output, of maps or (as maps of 1x1) vectors.
            Empty: the ends of the resolution stages, by relative depth, and what goes into the last linear layers,
            where both networks have one (the published code's choice).
        weight: of every level, zero or more, or a `Ramp`.  Default: from 0 to 1 over 20 epochs (the published code's
            default; it uses 0.6 to 8 after these, depending on the networks).
            A training of fewer epochs never reaches the full weight: give it a shorter `Ramp`, or a number.
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the published code).
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0.
        temperature: of that term.  Default 4 (the published code).

    Raises:
        HyperParameterError: a setting is outside its range, or a pair is malformed.
        TapError: a layer does not exist.
        ShapeError: a layer gives neither maps nor vectors, the pairs are not in order, or (with ``soft``) the networks
            score different classes.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> ReviewKD(pairs=[("layer2", "layer2"), ("layer3", "layer3")]).weight
    Ramp(start=0.0, end=1.0, epochs=20)
    """

    pairs: tuple[tuple[str, str], ...] = ()
    weight: Weight = _WARM
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        # the published code's script for CIFAR-100: 5 for most pairs of networks (0.6 for ResNet-56 to ResNet-20, 1 for
        # ResNet-110 to ResNet-32, 8 for ResNet-32x4 to ShuffleNetV2), 20 epochs of warm-up of 240
        "paper": {"weight": Ramp(start=0.0, end=5.0, epochs=20), "hard": 1.0},
        # mdistiller's form of the same; another code base than the other methods' "benchmark", which has no review
        "benchmark": {"weight": Ramp(start=0.0, end=5.0, epochs=20), "hard": 1.0},
    }

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", as_pairs(self.pairs))
        require_weights(weight=self.weight, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce", "review/<student layer>" for each pair, and maybe "kd"."""
        from limbeck import connectors, taps

        models, inputs = cast.pick("student", "teacher"), cast.example.inputs
        require_targets(cast.example, self.hard)
        if not off(self.soft):
            check_logits(cast, columns=2, instead="set soft=0")
        pairs = self.pairs or _usual(cast)
        layers = {
            "student": tuple(dict.fromkeys(s for s, _ in pairs)),
            "teacher": tuple(dict.fromkeys(t for _, t in pairs)),
        }
        sizes = {
            role: {
                layer: _size(shape, role, layer) for layer, shape in taps.shapes(models[role], inputs, found).items()
            }
            for role, found in layers.items()
        }
        ours, theirs = [sizes["student"][s] for s, _ in pairs], [sizes["teacher"][t] for _, t in pairs]
        _require_order("student", [s for s, _ in pairs], ours)
        review, names = connectors.Review(ours, theirs), term_names("review", pairs)

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            teacher, student = models["teacher"](batch.inputs), models["student"](batch.inputs)
            terms = cross_entropy(student.logits, batch, moment, weight=self.hard)
            if not off(self.weight):
                fused = models["review"]([_as_map(student.taps[s]) for s, _ in pairs])
                for name, (_, layer), maps in zip(names, pairs, fused, strict=True):
                    terms[name] = Term(losses.hcl(maps, _as_map(teacher.taps[layer])), at(self.weight, moment))
            soft = soft_targets(student, teacher, moment, weight=self.soft, temperature=self.temperature)
            yield Update("student", terms | soft)

        weights = sum(p.numel() for p in review.parameters())
        how = "pairs" if self.pairs else "pairs (chosen by depth)"
        phase = Phase(
            name="distill",
            modules={**models, "review": review},
            trains={"student": ("student", "review")},
            taps=layers,
            step=step,
            stops=frozenset({"teacher"}) if off(self.soft) else frozenset(),
            notes=(f"{how}: " + ", ".join(f"{s} -> {t}" for s, t in pairs), f"fusion: {weights:,} weights"),
        )
        return (phase,)


def _usual(cast: Cast) -> tuple[Pair, ...]:
    """The stage ends, and the vectors before the classifiers."""
    from limbeck.layers import match

    student, teacher, inputs = cast.models["student"], cast.models["teacher"], cast.example.inputs
    last = before_the_classifier(student, inputs), before_the_classifier(teacher, inputs)
    ends = match(student, teacher, inputs)
    return (*ends, (last[0], last[1])) if last[0] and last[1] else ends


def _size(shape: tuple[int, ...], role: str, layer: str) -> Size:
    if len(shape) == 2:
        return shape[1], 1, 1
    if len(shape) == 4:
        return shape[1], shape[2], shape[3]
    raise ShapeError(
        f"knowledge review compares feature maps [channels, height, width] or vectors; layer {layer!r} of the {role} gives "
        f"{list(shape[1:])} per sample. Name other layers: pairs=[('student layer', 'teacher layer'), ...]"
    )


def _require_order(role: str, layers: Sequence[str], sizes: Sequence[Size]) -> None:
    """A deeper layer has no larger map; else the pairs stand the wrong way round."""
    for (one, a), (two, b) in zip(
        zip(layers, sizes, strict=True), zip(layers[1:], sizes[1:], strict=True), strict=False
    ):
        if a[1] * a[2] < b[1] * b[2]:
            raise ShapeError(
                f"pairs go from the input to the output: of the {role}, {one!r} is {a[1]}x{a[2]} and {two!r} after it "
                f"{b[1]}x{b[2]}; turn them round"
            )


def _as_map(x: Tensor) -> Tensor:
    return x[:, :, None, None] if x.ndim == 2 else x
