"""Noisy teachers: one teacher whose logits shake, as if there were several."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal

from limbeck import losses
from limbeck.methods.terms import check_logits, cross_entropy, distill_logits, off, require_targets, require_temperature
from limbeck.phase import Batch, Cast, Moment, Phase, Term
from limbeck.settings import Presets, Weight, at, finite, require, require_choice, require_weights

if TYPE_CHECKING:
    from torch import Generator, Tensor


@dataclass(frozen=True, kw_only=True)
class NoisyTeacher:
    """Regression on the logits of a noisy teacher (Sau, Balasubramanian, arXiv 1610.09650).

    ``L = hard * CE(z_s, y) + soft * 1/2 * || z_s - z' ||^2``, mean over the batch.  A sample is disturbed with probability
    ``alpha``, and then each of its logits by a number of its own: ``z'_i = (1 + xi_i) * z_i`` with ``xi_i`` normal, of
    standard deviation ``sigma``.  A logit of zero stays zero.  ``form="kd"`` puts the disturbed logits into the
    temperature softmax of `KD` instead.

    The expected regression loss is the clean one plus ``alpha * sigma^2 / 2 * ||z_t||^2``, in which the student does not
    occur: on average the gradient is that of `LogitMatching`, and what the noise adds is its variance.

    Attributes:
        sigma: standard deviation of the noise, relative to each logit; zero or more.  Default 0.3: ours, within
            the paper's range of about 0.1 to 1 (recalled).
        alpha: the part of the samples that is disturbed, in [0, 1].  Default 0.5 (recalled from the paper).
        form: "logits" (regression on logits, the paper) or "kd" (softened classes, ``T^2 KL``).  Default "logits".
        temperature: of form "kd"; the noise comes before it.  Default 4, as in `KD`.
        soft: weight of the teacher's part, zero or more, or a `Ramp`.  Default 1 (the paper).
        hard: weight of the labels, zero or more, or a `Ramp`.  Default 0: the student sees no labels, as in
            `LogitMatching`, and batches need none.

    Raises:
        HyperParameterError: a setting is outside its range.
        TargetError: ``hard`` is on, and a batch has no labels.
        ShapeError: the networks score different classes, or (form "kd") a single logit.

    >>> NoisyTeacher(sigma=0.5).alpha
    0.5
    """

    sigma: float = 0.3
    alpha: float = 0.5
    form: Literal["logits", "kd"] = "logits"
    temperature: float = 4.0
    soft: Weight = 1.0
    hard: Weight = 0.0

    presets: ClassVar[Presets] = {
        # alpha and the range of sigma are recalled; the middle of the range is ours
        "paper": {"sigma": 0.5, "alpha": 0.5, "form": "logits", "soft": 1.0, "hard": 0.0},
        # KD_Lib (SforAiDl), class NoisyTeacher: alpha 0.5, noise of variance 0.1 (there a whole batch is disturbed or not)
        "benchmark": {"sigma": 0.3162, "alpha": 0.5, "form": "logits", "soft": 1.0, "hard": 0.0},
    }

    def __post_init__(self) -> None:
        require(finite(self.sigma) and self.sigma >= 0, "sigma", self.sigma, "zero or more")
        require(finite(self.alpha) and 0 <= self.alpha <= 1, "alpha", self.alpha, "a part of the samples, in [0, 1]")
        require_choice("form", self.form, ("logits", "kd"))
        require_weights(soft=self.soft, hard=self.hard)
        require_temperature(self.temperature)

    def phases(self, cast: Cast) -> Sequence[Phase]:
        """One phase, "distill", with the terms "ce", and "logits" or "kd"."""
        require_targets(cast.example, self.hard)
        if self.form == "kd":
            check_logits(cast, columns=2, instead='use form="logits" for a single logit')
        else:
            check_logits(cast)
        return (distill_logits(cast, self._terms),)

    def _terms(self, student: Tensor, teacher: Tensor, batch: Batch, moment: Moment) -> dict[str, Term]:
        terms = cross_entropy(student, batch, moment, weight=self.hard)
        if not off(self.soft):
            shaken = disturbed(teacher, alpha=self.alpha, sigma=self.sigma, generator=moment.generator)
            if self.form == "kd":
                terms["kd"] = Term(losses.kd_kl(student, shaken, temperature=self.temperature), at(self.soft, moment))
            else:
                terms["logits"] = Term(losses.logit_l2(student, shaken), at(self.soft, moment))
        return terms


def disturbed(logits: Tensor, *, alpha: float, sigma: float, generator: Generator) -> Tensor:
    """``(1 + xi) * z`` for about a part ``alpha`` of the samples, the others as they are; in float32 at least.

    >>> import torch
    >>> disturbed(torch.tensor([[0.0, 2.0]]), alpha=1.0, sigma=0.0, generator=torch.Generator())
    tensor([[0., 2.]])
    """
    import torch

    z = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if sigma == 0 or alpha == 0:
        return z
    hit = torch.rand(len(z), generator=generator, device=z.device) < alpha
    xi = sigma * torch.randn(z.shape, generator=generator, device=z.device, dtype=z.dtype)
    return torch.where(hit.reshape(-1, *[1] * (z.ndim - 1)), (1.0 + xi) * z, z)
