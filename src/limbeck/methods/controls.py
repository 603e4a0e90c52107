"""Two controls of born-again networks: what of a teacher's probabilities is it that helps?"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from limbeck import losses
from limbeck.errors import TargetError
from limbeck.methods.terms import check_logits, cross_entropy, distill_logits, off, require_targets, require_temperature
from limbeck.phase import Batch, Cast, Moment, Phase, Term
from limbeck.settings import Presets, Weight, at, require_weights

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class ConfidenceWeighted:
    """Labels, each example weighted by how sure the teacher is (Furlanello et al., ICML 2018: CWTM).

    ``L = sum_s w_s * CE(z_s, y_s)`` with ``w_s = max p_s / sum_u max p_u`` over the batch, ``p = softmax(z_t / T)``.  The
    teacher says nothing about the other classes: if this helps as much as its probabilities do, it was the weighting.
    Where all examples are equally sure this is the plain mean of the cross-entropies.

    With ``training.accumulate``, or several processes, the weights are normalised within each part of a batch.

    Attributes:
        temperature: T of the teacher's probabilities, more than zero.  Default 1 (the paper).

    Raises:
        HyperParameterError: the setting is outside its range.
        TargetError: a batch has no labels.
        ShapeError: the networks score different classes, or a single logit.

    >>> ConfidenceWeighted()
    ConfidenceWeighted(temperature=1.0)
    """

    temperature: float = 1.0

    presets: ClassVar[Presets] = {
        "paper": {"temperature": 1.0},
        "benchmark": {"temperature": 1.0},  # nobody else has published one: the paper's
    }

    def __post_init__(self) -> None:
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the term "cwtm"."""
        check_logits(cast, columns=2, instead="there is no such method for a single logit")
        _require_labels(cast.example)
        return (distill_logits(cast, self._terms),)

    def _terms(self, student: Tensor, teacher: Tensor, batch: Batch, moment: Moment) -> dict[str, Term]:
        _require_labels(batch)
        shares = confidence_shares(teacher, temperature=self.temperature)
        # times the batch, because the mean over it is taken later
        return {"cwtm": Term(len(shares) * shares * losses.cross_entropy(student, batch.targets))}


@dataclass(frozen=True, kw_only=True)
class DarkKnowledgePermuted:
    """The teacher's probabilities, those of the classes behind the first shuffled (Furlanello et al., ICML 2018: DKPP).

    ``L = hard * CE(z_s, y) + soft * T^2 * KL(p' || softmax(z_s / T))``, mean over the batch.  ``p'`` is the teacher's
    ``softmax(z_t / T)`` in which, anew for every example and step, the values of all classes but the most probable one
    have changed places at random.  If this helps as much as the teacher's own probabilities do, it was not which other
    classes an example resembles.

    Attributes:
        temperature: T, more than zero.  Default 1 (the paper).
        soft: weight of the teacher's part, zero or more, or a `Ramp`.  Default 1 (the paper).
        hard: weight of the labels' part, zero or more, or a `Ramp`.  Default 0: batches need no labels.

    Raises:
        HyperParameterError: a setting is outside its range, or both weights are zero.
        TargetError: ``hard`` is on, and a batch has no labels.
        ShapeError: the networks score different classes, or a single logit.

    >>> DarkKnowledgePermuted().hard
    0.0
    """

    temperature: float = 1.0
    soft: Weight = 1.0
    hard: Weight = 0.0

    presets: ClassVar[Presets] = {
        "paper": {"temperature": 1.0, "soft": 1.0, "hard": 0.0},
        "benchmark": {"temperature": 1.0, "soft": 1.0, "hard": 0.0},  # nobody else has published one: the paper's
    }

    def __post_init__(self) -> None:
        require_temperature(self.temperature)
        require_weights(soft=self.soft, hard=self.hard)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce" (if it is on) and "dkpp"."""
        require_targets(cast.example, self.hard)
        check_logits(cast, columns=2, instead="there is nothing to shuffle in a single logit")
        return (distill_logits(cast, self._terms),)

    def _terms(self, student: Tensor, teacher: Tensor, batch: Batch, moment: Moment) -> dict[str, Term]:
        terms = cross_entropy(student, batch, moment, weight=self.hard)
        if not off(self.soft):
            shuffled = permute_others(teacher, moment.generator)
            terms["dkpp"] = Term(losses.kd_kl(student, shuffled, temperature=self.temperature), at(self.soft, moment))
        return terms


def confidence_shares(teacher: Tensor, *, temperature: float = 1.0) -> Tensor:
    """Each example's share of the batch's confidence: ``max p_s / sum_u max p_u``, ``p = softmax(teacher / T)``.

    Args:
        teacher: logits ``[batch, classes]``; no gradient reaches them.
        temperature: T, more than zero.

    Returns:
        ``[batch]``, in float32 at least; they sum to 1.

    >>> import torch
    >>> confidence_shares(torch.tensor([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]]).log())
    tensor([0.5833, 0.4167])
    """
    wide = teacher.detach() if teacher.dtype.itemsize >= 4 else teacher.detach().float()
    sure = (wide / temperature).softmax(1).amax(1)
    return sure / sure.sum()


def permute_others(logits: Tensor, generator: Generator | None = None) -> Tensor:
    """The same rows, the values of all classes but the largest in a random order, drawn for each row on its own.

    Softmax and a permutation can change places, so that this is the permutation of the probabilities, at any
    temperature.

    Args:
        logits: ``[batch, classes]``.
        generator: of the random numbers, on the same device.

    >>> import torch
    >>> permute_others(torch.tensor([[1.0, 5.0, 1.0]]))
    tensor([[1., 5., 1.]])
    """
    import torch

    first = torch.nn.functional.one_hot(logits.argmax(1), logits.shape[1])
    others = first.argsort(dim=1, stable=True)[:, :-1]  # the columns without the largest, which comes last
    order = torch.rand(others.shape, generator=generator, device=logits.device).argsort(dim=1)
    return logits.scatter(1, others, logits.gather(1, others.gather(1, order)))


def _require_labels(batch: Batch) -> None:
    if batch.targets is None:
        raise TargetError(
            "this batch has no labels (its targets are None), and cwtm weights labels; dkpp and kd can do without"
        )
