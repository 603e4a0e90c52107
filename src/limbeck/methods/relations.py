"""Relations between the samples of a batch: their distances and angles, similarities, neighbours."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck import losses
from limbeck.methods.batchwise import choose, distill_batchwise
from limbeck.methods.pairs import as_pair
from limbeck.methods.terms import off, require_temperature
from limbeck.phase import Cast, Models, Moment, Phase, Term
from limbeck.settings import Presets, Weight, at, require_choice, require_weights

if TYPE_CHECKING:
    from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class RKD:
    """Relational knowledge distillation: the shape of the cloud of samples (Park, Kim, Lu, Cho, CVPR 2019, section 3.2).

    ``L = hard * CE + distance * D + angle * A``.  D is the mean Huber distance between both networks' pairwise distances,
    each divided by the network's own mean; A that between the cosines at the corners of all triangles of samples.
    Means are over all pairs and triples of a batch; the paper writes sums.  The two networks' features may differ in
    size, and the student is free to rotate, move and scale the whole cloud.

    With several processes, or with ``training.accumulate``, relations are those within each process's share and each
    part of the batch: the loss is then another one than over the whole batch.

    Attributes:
        pair: (student layer, teacher layer).  None: what goes into the last linear layer of each, the pooled
            features of most classifiers (the benchmark's choice).
        distance: weight of D, zero or more, or a `Ramp`.  Default 25 (classification in the paper; CRD benchmark).
            The paper's metric learning has 1.
        angle: weight of A, zero or more, or a `Ramp`.  Default 50 (likewise); metric learning 2.  Angles need
            batches, or parts of them, of 3 and more, and work of order ``batch^3``.
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the paper).
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0.
        temperature: of that term.  Default 4, as in `KD`.

    Raises:
        HyperParameterError: a setting is outside its range, or the pair is malformed.
        TapError: a layer does not exist.
        ShapeError: a batch is too small, or (with ``soft``) the networks score different classes.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> RKD(angle=0.0).distance
    25.0
    """

    pair: tuple[str, str] | None = None
    distance: Weight = 25.0
    angle: Weight = 50.0
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        "paper": {"distance": 25.0, "angle": 50.0, "hard": 1.0},  # classification; authors' code
        "benchmark": {"distance": 25.0, "angle": 50.0, "hard": 1.0},
    }

    def __post_init__(self) -> None:
        if self.pair is not None:
            object.__setattr__(self, "pair", as_pair("pair", self.pair))
        require_weights(distance=self.distance, angle=self.angle, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce", "rkd_distance", "rkd_angle", and maybe "kd"."""

        def compare(models: Models, student: Tensor, teacher: Tensor, moment: Moment) -> dict[str, Term]:
            terms: dict[str, Term] = {}
            if not off(self.distance):
                terms["rkd_distance"] = Term(losses.rkd_distance(student, teacher), at(self.distance, moment))
            if not off(self.angle):
                terms["rkd_angle"] = Term(losses.rkd_angle(student, teacher), at(self.angle, moment))
            return terms

        chosen = choose(cast, self.pair, "vector")
        phase = distill_batchwise(cast, chosen, compare, hard=self.hard, soft=self.soft, temperature=self.temperature)
        return (phase,)


@dataclass(frozen=True, kw_only=True)
class SimilarityPreserving:
    """Samples that excite the teacher alike excite the student alike (Tung, Mori, ICCV 2019, section 3).

    ``L = hard * CE + weight * 1 / batch^2 * || G_s - G_t ||_F^2``, with G the inner products of all pairs of flattened maps,
    its rows of length 1 (L2).  The matrices are batch x batch, so that channels and sizes of the maps are free.

    With several processes, or with ``training.accumulate``, relations are those within each process's share and each
    part of the batch: the loss is then another one than over the whole batch.

    Attributes:
        pair: (student layer, teacher layer).  None: the last maps of each (the paper's choice).
        weight: gamma, zero or more, or a `Ramp`.  Default 3000 (the paper on CIFAR-10; CRD benchmark).
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (the paper).
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0.
        temperature: of that term.  Default 4, as in `KD`.

    Raises:
        HyperParameterError: a setting is outside its range, or the pair is malformed.
        TapError: a layer does not exist.
        ShapeError: a batch of one, or (with ``soft``) the networks score different classes.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> SimilarityPreserving(pair=["layer3", "layer3"]).pair
    ('layer3', 'layer3')
    """

    pair: tuple[str, str] | None = None
    weight: Weight = 3000.0
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        "paper": {"weight": 3000.0, "hard": 1.0},  # gamma on CIFAR-10
        "benchmark": {"weight": 3000.0, "hard": 1.0},
    }

    def __post_init__(self) -> None:
        if self.pair is not None:
            object.__setattr__(self, "pair", as_pair("pair", self.pair))
        require_weights(weight=self.weight, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce", "sp", and maybe "kd"."""

        def compare(models: Models, student: Tensor, teacher: Tensor, moment: Moment) -> dict[str, Term]:
            if off(self.weight):
                return {}
            return {"sp": Term(losses.similarity(student, teacher), at(self.weight, moment))}

        chosen = choose(cast, self.pair, "map")
        phase = distill_batchwise(cast, chosen, compare, hard=self.hard, soft=self.soft, temperature=self.temperature)
        return (phase,)


@dataclass(frozen=True, kw_only=True)
class PKT:
    """Probabilistic knowledge transfer: who is whose neighbour (Passalis, Tefas, ECCV 2018).

    ``L = hard * CE + weight * KL(p || q)``, with ``p(j | i)`` the share of sample j in the affinities ``(1 + cos) / 2`` of
    sample i in the teacher, and ``q(j | i)`` in the student.  Form "paper": summed over the neighbours ``j != i``, mean over
    i.  Form "benchmark" (the authors' code): mean over i *and* j, with j = i; for batches of 32 to 128 the paper's form is
    then 1.01 to 1.05 times ``batch`` times that.

    With several processes, or with ``training.accumulate``, neighbours are sought within each process's share and each
    part of the batch: the loss is then another one than over the whole batch.

    Attributes:
        pair: (student layer, teacher layer).  None: what goes into the last linear layer of each, the pooled
            features of most classifiers (the benchmark's choice).
        form: "paper" or "benchmark".  Default "paper".
        weight: zero or more, or a `Ramp`.  Default None: form "paper", 500 (ours: about the benchmark's at its batches
            of 64, where 30000 / 64 is 469); form "benchmark", 30000 (CRD benchmark).
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1 (CRD benchmark).  The paper trains features for
            retrieval, without labels; at 0 nothing trains the student's last layer.
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0.
        temperature: of that term.  Default 4, as in `KD`.

    Raises:
        HyperParameterError: a setting is outside its range, or the pair is malformed.
        TapError: a layer does not exist.
        ShapeError: a batch is too small, or (with ``soft``) the networks score different classes.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> PKT(weight=100.0).form
    'paper'
    """

    pair: tuple[str, str] | None = None
    form: Literal["paper", "benchmark"] = "paper"
    weight: Weight | None = None
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {
        "paper": {"form": "paper", "weight": 1.0, "hard": 0.0},  # the loss alone, for retrieval: no weight, no labels
        "benchmark": {"form": "benchmark", "weight": 30000.0, "hard": 1.0},
    }

    def __post_init__(self) -> None:
        if self.pair is not None:
            object.__setattr__(self, "pair", as_pair("pair", self.pair))
        require_choice("form", self.form, ("paper", "benchmark"))
        require_weights(weight=1.0 if self.weight is None else self.weight, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce", "pkt", and maybe "kd"."""
        default = 500.0 if self.form == "paper" else 30000.0
        weight = default if self.weight is None else self.weight

        def compare(models: Models, student: Tensor, teacher: Tensor, moment: Moment) -> dict[str, Term]:
            if off(weight):
                return {}
            return {"pkt": Term(losses.pkt(student, teacher, form=self.form), at(weight, moment))}

        chosen = choose(cast, self.pair, "vector")
        phase = distill_batchwise(cast, chosen, compare, hard=self.hard, soft=self.soft, temperature=self.temperature)
        return (phase,)
