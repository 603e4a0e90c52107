"""Adversarial selectivity transfer: a discriminator tries to tell the student's channels from the teacher's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck import losses
from limbeck.errors import ShapeError
from limbeck.methods.pairs import Pair, as_pairs, settle, term_names
from limbeck.methods.terms import (
    check_logits,
    cross_entropy,
    off,
    require_targets,
    require_temperature,
    soft_targets,
)
from limbeck.phase import Batch, Cast, Models, Moment, Phase, Term, Update
from limbeck.settings import (
    Optimizer,
    Presets,
    Weight,
    at,
    require,
    require_choice,
    require_weights,
    require_whole,
)

if TYPE_CHECKING:
    from torch import Tensor, nn

# What many adversarial trainings use (Radford, Metz, Chintala: DCGAN, ICLR 2016, section 4: Adam with beta1 = 0.5).
_ADAM = Optimizer(kind="adamw", lr=1e-3, betas=(0.5, 0.999), weight_decay=0.0)


@dataclass(frozen=True, kw_only=True)
class AdversarialNST:
    """The student's channels pass for the teacher's: `NST` with a discriminator in place of the MMD.

    A channel is a pattern over the positions of a map, as a vector of length 1: ``p`` of the teacher, ``q`` of the
    student (Huang, Wang, arXiv 1707.01219, section 4).  Two players take turns on every batch:

    - the discriminator D learns to tell them apart: ``-mean log D(p) - mean log(1 - D(q))``;
    - the student learns ``L = hard * CE - weight * mean log D(q)`` (or the game's value, see ``generator``), from the D that
      has just learnt.

    Nobody has published this; the game is that of Goodfellow et al. (Generative Adversarial Nets, NIPS 2014).  "real" plus
    "fake" in the record is ``log 4 = 1.386`` where D cannot tell the two apart, and falls towards 0 where it can.

    Attributes:
        pairs: (student layer, teacher layer) pairs; channels may differ.  Each has a discriminator of its own.  Empty: the
            ends of the resolution stages, by relative depth, as in `NST`.
        generator: what the student is told: "non_saturating" (``-log D(q)``, which has a slope where D is sure) or "value"
            (``log(1 - D(q))`` with the teacher's part beside it, the game as written).  Default "non_saturating"
            (recommended by Goodfellow et al., section 3).
        weight: of the student's part of each game, zero or more, or a `Ramp`.  Default 1: ours.
        hidden: units of the discriminator's one hidden layer, at least 1.  Default 128: ours.
        discriminator_optimizer: replaces the stage's optimizer for the discriminator; the stage's schedule scales its rate.
            Default: AdamW at 1e-3 with a first beta of 0.5, without decay (the first beta from DCGAN, Radford et al.,
            ICLR 2016; the rest ours).
        resize: how maps of different size are made equal: "pool" averages the larger one down,
            "interpolate" resamples the student's map bilinearly.  Default "pool", as in `NST`.
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 1, as in `NST`.
        soft: weight of a `KD` term beside it, zero or more, or a `Ramp`.  Default 0.
        temperature: of that term.  Default 4, as in `NST`.

    Raises:
        HyperParameterError: a setting is outside its range, or a pair is malformed.
        TapError: a layer does not exist.
        ShapeError: a layer gives no maps, or maps of one position, or (with ``soft``) the networks score different
            classes.
        TargetError: ``hard`` is on, and a batch has no labels.

    >>> AdversarialNST(pairs=[("layer3", "layer3")]).generator
    'non_saturating'
    """

    pairs: tuple[tuple[str, str], ...] = ()
    generator: Literal["non_saturating", "value"] = "non_saturating"
    weight: Weight = 1.0
    hidden: int = 128
    discriminator_optimizer: Optimizer = _ADAM
    resize: Literal["pool", "interpolate"] = "pool"
    hard: Weight = 1.0
    soft: Weight = 0.0
    temperature: float = 4.0

    presets: ClassVar[Presets] = {  # nobody has published one
        "paper": {"generator": "value"},  # the game as Goodfellow et al. write it in equation 1
        "benchmark": {"generator": "non_saturating"},  # our defaults
    }

    def __post_init__(self) -> None:
        object.__setattr__(self, "pairs", as_pairs(self.pairs))
        require_choice("generator", self.generator, ("non_saturating", "value"))
        require_choice("resize", self.resize, ("pool", "interpolate"))
        require_whole(hidden=self.hidden)
        require(self.hidden >= 1, "hidden", self.hidden, "at least 1")
        ok = isinstance(self.discriminator_optimizer, Optimizer)
        require(ok, "discriminator_optimizer", self.discriminator_optimizer, "a limbeck.Optimizer")
        require_weights(weight=self.weight, hard=self.hard, soft=self.soft)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with two players.

        Terms of the discriminator: "real/<student layer>" and "fake/<student layer>" for each pair; of the student: "ce",
        "gan/<student layer>" for each pair, and maybe "kd".
        """
        modules = cast.pick("student", "teacher")
        require_targets(cast.example, self.hard)
        if not off(self.soft):
            check_logits(cast, columns=2, instead="set soft=0")
        settled = settle(cast, self.pairs, method="adversarial selectivity transfer")
        judges = self._judges(cast, settled.pairs)
        named = {kind: term_names(kind, settled.pairs) for kind in ("real", "fake", "gan")}

        def step(models: Models, batch: Batch, moment: Moment) -> Iterator[Update]:
            from limbeck.losses.adversarial import channel_points

            teacher, student = models["teacher"](batch.inputs), models["student"](batch.inputs)
            sets = [channel_points(student.taps[s], teacher.taps[t], resize=self.resize) for s, t in settled.pairs]
            scores = [models[judge] for judge in judges]
            told: dict[str, Term] = {}
            for real, fake, score, (q, p) in zip(named["real"], named["fake"], scores, sets, strict=True):
                told[real] = Term(_mistaken(score(p).squeeze(2), teachers=True))
                told[fake] = Term(_mistaken(score(q.detach()).squeeze(2), teachers=False))
            yield Update("discriminator", told)

            terms = cross_entropy(student.logits, batch, moment, weight=self.hard)
            for name, score, (q, p) in zip(named["gan"], scores, sets, strict=True):
                if not off(self.weight):
                    terms[name] = Term(self._fooled(score, q, p), at(self.weight, moment))
            soft = soft_targets(student, teacher, moment, weight=self.soft, temperature=self.temperature)
            yield Update("student", terms | soft)

        return (
            Phase(
                name="distill",
                modules={**modules, **judges},
                trains={"discriminator": tuple(judges), "student": ("student",)},
                taps={"student": settled.students, "teacher": settled.teachers},
                step=step,
                stops=frozenset({"teacher"}) if off(self.soft) else frozenset(),
                optimizers={"discriminator": self.discriminator_optimizer},
                notes=(settled.note, f"a discriminator for each: {', '.join(map(_weights, judges.values()))} weights"),
            ),
        )

    def _judges(self, cast: Cast, pairs: Sequence[Pair]) -> Mapping[str, nn.Module]:
        """A discriminator for every pair, over the positions that both maps are brought to."""
        from limbeck import taps

        looks = {
            role: taps.shapes(model, cast.example.inputs, tuple(dict.fromkeys(pair[i] for pair in pairs)))
            for i, (role, model) in enumerate(cast.pick("student", "teacher").items())
        }
        found: dict[str, nn.Module] = {}
        for i, (ours, theirs) in enumerate(pairs):
            s, t = looks["student"][ours][2:], looks["teacher"][theirs][2:]
            size = t if self.resize == "interpolate" else tuple(map(min, s, t))
            positions = size[0] * size[1]
            if positions < 2:
                raise ShapeError(
                    f"adversarial selectivity transfer compares patterns over positions; the maps of {ours!r} {list(s)} and "
                    f"{theirs!r} {list(t)} come to a single one. Name layers with larger maps in pairs"
                )
            found["discriminator" if len(pairs) == 1 else f"discriminator{i + 1}"] = _judge(positions, self.hidden)
        return found

    def _fooled(self, score: Callable[[Tensor], Tensor], q: Tensor, p: Tensor) -> Tensor:
        fake = score(q).squeeze(2)
        if self.generator == "value":
            return losses.adversarial_value(fake, score(p).squeeze(2))
        return _mistaken(fake, teachers=True)


def _judge(positions: int, hidden: int) -> nn.Module:
    """Scores each point: the higher, the more it looks like one of the teacher's."""
    from torch import nn

    return nn.Sequential(nn.Linear(positions, hidden), nn.LeakyReLU(0.2), nn.Linear(hidden, 1))


def _mistaken(scores: Tensor, *, teachers: bool) -> Tensor:
    """How far scores ``[batch, points]`` are from saying that the points are the teacher's (or the student's)."""
    import torch

    label = torch.full((scores.numel(),), float(teachers), device=scores.device)
    return losses.sigmoid_cross_entropy(scores.reshape(-1), label).reshape(scores.shape).mean(1)


def _weights(module: nn.Module) -> str:
    return f"{sum(p.numel() for p in module.parameters()):,}"
