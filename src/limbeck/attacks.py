"""Attacks on a classifier: small changes of an input that make it answer wrongly, and how easily they are found.

Everything here leaves the network as it was: its modes are put back, and no gradient stays on its parameters.  Inputs
are one tensor ``[batch, ...]``; ``low`` and ``high`` say what an input may be (numbers, or tensors that broadcast, such as
``[channels, 1, 1]`` for normalised images).
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from limbeck.errors import DataError, HyperParameterError, TargetError, TensorTypeError
from limbeck.phase import logits_of
from limbeck.settings import finite, require, require_choice

Bound = float | Tensor


@dataclass(frozen=True, kw_only=True)
class Robustness:
    """How easily a network is led astray; of the rows that it gets right to begin with.

    Attributes:
        rows: how many those are.
        fgsm_success: the part of them that one sign step (`fgsm`) turns into another answer.
        gradient: the mean absolute entry of the gradient of the cross-entropy with respect to the inputs.
        zero: the part of the rows whose gradient is zero in every entry, exactly: nothing for an attack to follow.
        jsma_success: the part of all (row, wrong class) that `jsma` reaches.
        features: the mean, over the rows for which it reaches any class at all, of the smallest number of features that
            it has to change; NaN where there are none.
    """

    rows: int
    fgsm_success: float
    gradient: float
    zero: float
    jsma_success: float
    features: float


class Unmasked(nn.Module):
    """A network whose logits are divided by a temperature; see `unmask`."""

    def __init__(self, model: nn.Module, temperature: float) -> None:
        super().__init__()
        self.model, self.temperature = model, float(temperature)

    def forward(self, inputs: Tensor) -> Tensor:
        return logits_of(self.model(inputs)) / self.temperature


def unmask(model: nn.Module, temperature: float) -> nn.Module:
    """The same network with its logits divided by T: same answers, other confidence, and gradients an attack can use.

    A network from defensive distillation gives logits about T times as large as usual.  Its softmax then saturates, so
    that gradients vanish, and attacks that follow them fail without the network being any more robust.  If an attack on
    ``unmask(model, T)`` succeeds, the defence was this masking and nothing else.

    Args:
        model: the network; it is shared, not copied.
        temperature: T, 1 or more.

    Returns:
        A module that maps inputs to logits.

    Raises:
        HyperParameterError: the temperature is below 1.

    Source:
        Carlini, Wagner: Towards Evaluating the Robustness of Neural Networks (IEEE S&P 2017), on defensive distillation.

    Example:
        >>> unmask(nn.Identity(), 10)(torch.tensor([[20.0, 10.0]]))
        tensor([[2., 1.]])
    """
    ok = finite(temperature) and temperature >= 1
    require(ok, "temperature", temperature, "1 or more: that of the defensive distillation")
    return Unmasked(model, temperature)


def jacobian(model: nn.Module, x: Tensor) -> Tensor:
    """The derivative of every class's probability with respect to every entry of the input.

    Args:
        model: maps ``[batch, ...]`` to logits ``[batch, classes]``.
        x: inputs ``[batch, ...]``.

    Returns:
        ``[batch, classes, ...]``.

    Raises:
        TensorTypeError, DataError: the inputs are not floating-point, or empty.

    Example:
        >>> round(jacobian(nn.Identity(), torch.tensor([[2.0, 1.0, 0.0]])).max().item(), 4)
        0.2227
    """
    _require_inputs(x)
    with _at_rest(model):
        watched = x.detach().clone().requires_grad_()
        p = logits_of(model(watched)).softmax(1)
        rows = [torch.autograd.grad(p[:, k].sum(), watched, retain_graph=True)[0] for k in range(p.shape[1])]
    return torch.stack(rows, 1)


def fgsm(model: nn.Module, x: Tensor, y: Tensor, *, eps: float, low: Bound = 0.0, high: Bound = 1.0) -> Tensor:
    """The fast gradient sign method: every entry moves by ``eps`` in the direction that raises the loss.

    ``x + eps * sign(d CE(model(x), y) / dx)``, clipped to ``[low, high]``.  Where the gradient is exactly zero nothing
    moves.

    Args:
        model: maps ``[batch, ...]`` to logits ``[batch, classes]``.
        x: inputs ``[batch, ...]``, all within ``[low, high]``.
        y: their labels, ``[batch]`` integers.
        eps: the size of the step, zero or more, in the units of x.
        low, high: what an input may be.

    Returns:
        Inputs of the same shape, apart from x.

    Raises:
        HyperParameterError: eps is negative or no number, or low is not below high.
        DataError: an input is outside ``[low, high]``, or there is none.
        TargetError: labels that are no class ids of this network.
        TensorTypeError: the inputs are not floating-point.

    Source:
        Goodfellow, Shlens, Szegedy: Explaining and Harnessing Adversarial Examples (ICLR 2015), section 4.

    Example:
        >>> fgsm(nn.Identity(), torch.tensor([[0.6, 0.4]]), torch.tensor([0]), eps=0.25)
        tensor([[0.3500, 0.6500]])
    """
    require(finite(eps) and eps >= 0, "eps", eps, "the size of a step, zero or more")
    least, most = _bounds(x, low, high)
    moved = x.detach() + eps * _loss_gradient(model, x, y).sign()
    return torch.minimum(torch.maximum(moved, least), most)


def jsma(
    model: nn.Module,
    x: Tensor,
    target: Tensor,
    *,
    theta: float = 1.0,
    gamma: float = 0.145,
    low: Bound = 0.0,
    high: Bound = 1.0,
    at_once: Literal[1, 2] = 2,
    of: Literal["probabilities", "logits"] = "probabilities",
) -> Tensor:
    """The attack by Jacobian saliency maps: change few features, those that raise the target and lower the rest.

    In each round the two features p, q with the largest ``-(a_p + a_q) * (b_p + b_q)`` change by ``theta``, where
    ``a = d F_target / dx`` and ``b = sum_{j != target} d F_j / dx``, among the pairs with ``a_p + a_q > 0`` and
    ``b_p + b_q < 0`` (signs turned where ``theta`` is negative).  This is the paper's version with two features; with
    ``at_once=1`` single features are chosen by ``-a * b``, which is weaker and needs no memory for pairs (features squared,
    one row at a time).  A feature that has reached its bound is no longer chosen.  A row is done when the network gives
    its target, when the features allowed are used up, or when no pair qualifies; gradients that are exactly zero
    qualify none.

    Args:
        model: maps ``[batch, ...]`` to logits ``[batch, classes]``.
        x: inputs ``[batch, ...]``, all within ``[low, high]``.
        target: the answers wanted, ``[batch]`` class ids, none of them the network's answer already.
        theta: what is added to a feature; not zero, may be negative.  Default 1: from black to white at once.
        gamma: the largest part of the features that may change, in (0, 1].  Default 0.145: as the paper, 112 of 784.
        low, high: what an input may be.
        at_once: how many features change per round, 1 or 2.
        of: F is the softmax ("probabilities", as in the defensive distillation paper) or what it is made of ("logits").
            As probabilities sum to 1, ``b = -a`` for them, and pairs are simply those with the largest gradient.

    Returns:
        Inputs of the same shape, apart from x.  Whether the target was reached is for `model` to say.

    Raises:
        HyperParameterError: theta is zero, gamma outside (0, 1] or too small to change anything, or low not below high.
        DataError: an input is outside ``[low, high]``, or there is none.
        TargetError: targets that are no class ids of this network, or that it gives already.
        TensorTypeError: the inputs are not floating-point.

    Source:
        Papernot, McDaniel, Jha, Fredrikson, Celik, Swami: The Limitations of Deep Learning in Adversarial Settings
        (EuroS&P 2016).

    Example:
        >>> jsma(nn.Identity(), torch.tensor([[0.5, 0.2, 0.1]]), torch.tensor([1]), gamma=1.0, at_once=1)
        tensor([[0.5000, 1.0000, 0.1000]])
    """
    require(finite(theta) and theta != 0, "theta", theta, "what a feature changes by, not zero")
    require(finite(gamma) and 0 < gamma <= 1, "gamma", gamma, "the part of the features that may change, in (0, 1]")
    require(at_once in (1, 2), "at_once", at_once, "1 or 2")
    require_choice("of", of, ("probabilities", "logits"))
    least, most = (bound.flatten(1) for bound in _bounds(x, low, high))
    rounds = int(gamma * least.shape[1] + 1e-9) // at_once
    if rounds == 0:
        raise HyperParameterError(
            f"gamma = {gamma!r}: no {'feature' if at_once == 1 else 'pair'} of the {least.shape[1]} features may change"
        )
    _require_targets(model, x, target)
    target = target.long()
    found, sign = x.detach().clone(), 1.0 if theta > 0 else -1.0
    active = torch.arange(len(x), device=x.device)
    for _ in range(rounds):
        rows, wanted = found[active], target[active]
        a, b, answer = _saliency(model, rows, wanted, of)
        flat = rows.flatten(1)
        free = (flat < most[active]) if theta > 0 else (flat > least[active])
        chosen = [_choose(sign * a[k], sign * b[k], free[k], at_once) for k in range(len(active))]
        going = torch.tensor([len(c) > 0 for c in chosen], device=x.device) & (answer != wanted)
        for k in torch.nonzero(going).flatten().tolist():
            flat[k, chosen[k]] += theta
        flat = torch.minimum(torch.maximum(flat, least[active]), most[active])
        found[active[going]] = flat[going].reshape(-1, *x.shape[1:])
        active = active[going]
        if len(active) == 0:
            break
    return found


def robustness(
    model: nn.Module,
    x: Tensor,
    y: Tensor,
    *,
    eps: float = 0.1,
    theta: float = 1.0,
    gamma: float = 0.145,
    low: Bound = 0.0,
    high: Bound = 1.0,
    at_once: Literal[1, 2] = 2,
    of: Literal["probabilities", "logits"] = "probabilities",
) -> Robustness:
    """How easily a network is led astray, by one sign step and by changing few features.

    Rows that the network gets wrong to begin with are left out.  `jsma` is tried for each of the others with every
    wrong class as its target, which is what takes the time: a few dozen rows say enough.

    Args:
        model, x, y: as for `fgsm`.
        eps: of `fgsm`.
        theta, gamma, at_once, of: of `jsma`.
        low, high: what an input may be.

    Raises:
        DataError: the network gets every row wrong; and as for `fgsm` and `jsma`.

    Example:
        >>> found = robustness(nn.Identity(), torch.tensor([[0.6, 0.4]]), torch.tensor([0]), eps=0.2, gamma=1.0, at_once=1)
        >>> found.rows, found.fgsm_success, found.features
        (1, 1.0, 1.0)
    """
    _bounds(x, low, high)
    _require_ids(model, x, y, "labels")
    right = _answers(model, x) == y
    if not bool(right.any()):
        raise DataError(f"the network gets all {len(x)} rows wrong, so there is nothing to lead astray")
    x, y = x[right], y[right]
    gradient = _loss_gradient(model, x, y).flatten(1)
    moved = fgsm(model, x, y, eps=eps, low=low, high=high)
    reached, fewest = [], torch.full((len(x),), torch.inf, device=x.device)
    with _at_rest(model):
        classes = logits_of(model(x[:1])).shape[1]
    for step in range(1, classes):
        target = (y + step) % classes
        found = jsma(model, x, target, theta=theta, gamma=gamma, low=low, high=high, at_once=at_once, of=of)
        hit = _answers(model, found) == target
        changed = (found != x).flatten(1).sum(1).to(fewest.dtype)
        fewest = torch.where(hit, torch.minimum(fewest, changed), fewest)
        reached.append(hit)
    any_class = torch.isfinite(fewest)
    return Robustness(
        rows=len(x),
        fgsm_success=_part(_answers(model, moved) != y),
        gradient=float(gradient.abs().mean()),
        zero=_part((gradient == 0).all(1)),
        jsma_success=_part(torch.stack(reached)),
        features=float(fewest[any_class].sum()) / int(any_class.sum()) if bool(any_class.any()) else float("nan"),
    )


def _part(found: Tensor) -> float:
    return int(found.sum()) / found.numel()


@contextmanager
def _at_rest(model: nn.Module) -> Iterator[None]:
    """Eval mode, gradients on; the modes are as before at the end."""
    modes = [(m, m.training) for m in model.modules()]
    model.eval()
    try:
        with torch.enable_grad():
            yield
    finally:
        for module, mode in modes:
            module.training = mode


def _answers(model: nn.Module, x: Tensor) -> Tensor:
    with _at_rest(model), torch.no_grad():
        return logits_of(model(x)).argmax(1)


def _loss_gradient(model: nn.Module, x: Tensor, y: Tensor) -> Tensor:
    """The gradient of each row's own cross-entropy, by `torch.autograd.grad`: parameters get none."""
    _require_ids(model, x, y, "labels")
    with _at_rest(model):
        watched = x.detach().clone().requires_grad_()
        loss = F.cross_entropy(logits_of(model(watched)), y.long(), reduction="sum")
        return torch.autograd.grad(loss, watched)[0]


def _saliency(model: nn.Module, x: Tensor, target: Tensor, of: str) -> tuple[Tensor, Tensor, Tensor]:
    """How the target and how the sum of all other classes move with each feature; and the network's answers."""
    with _at_rest(model):
        watched = x.detach().clone().requires_grad_()
        logits = logits_of(model(watched))
        scores = logits.softmax(1) if of == "probabilities" else logits
        ours = scores.gather(1, target.unsqueeze(1))
        a = torch.autograd.grad(ours.sum(), watched, retain_graph=True)[0].flatten(1)
        if of == "probabilities":  # the sum of all is 1: rounding aside, the others lose what the target wins
            return a, -a, logits.detach().argmax(1)
        b = torch.autograd.grad(scores.sum() - ours.sum(), watched)[0].flatten(1)
    return a, b, logits.detach().argmax(1)


def _choose(a: Tensor, b: Tensor, free: Tensor, at_once: int) -> list[int]:
    """The features of one row that change next; none where no gradient speaks for any."""
    places = torch.nonzero(free).flatten()
    if len(places) < at_once:
        return []
    a, b = a[places], b[places]
    if at_once == 2:
        a, b = a[:, None] + a, b[:, None] + b
    # Two signs and a product of their logarithms: the product itself would be zero long before the gradients are.
    score = a.log() + (-b).log()
    score = torch.where((a > 0) & (b < 0), score, -torch.inf)
    if at_once == 2:
        score.fill_diagonal_(-torch.inf)
    best = int(score.argmax())
    if score.flatten()[best] == -torch.inf:
        return []
    picked = [best] if at_once == 1 else [best // len(places), best % len(places)]
    return places[picked].tolist()


def _require_inputs(x: Tensor) -> None:
    if not isinstance(x, Tensor) or not x.is_floating_point():
        kind = str(x.dtype).removeprefix("torch.") if isinstance(x, Tensor) else type(x).__name__
        raise TensorTypeError(f"the inputs are {kind}; an attack moves floating-point tensors")
    if x.ndim < 2 or x.numel() == 0:
        raise DataError(f"the inputs are {list(x.shape)}; [batch, features ...] with something in it is needed")


def _bounds(x: Tensor, low: Bound, high: Bound) -> tuple[Tensor, Tensor]:
    """The bounds, as large as the inputs, which are within them."""
    _require_inputs(x)
    least, most = (torch.as_tensor(b, dtype=x.dtype, device=x.device).expand_as(x) for b in (low, high))
    if not bool((least < most).all()):
        raise HyperParameterError(f"low = {low!r}, high = {high!r}: low must be below high")
    if not bool(((x >= least) & (x <= most)).all()):
        raise DataError(
            f"inputs from {float(x.min()):.4g} to {float(x.max()):.4g}: some are outside [low, high]; for normalised images "
            "give the bounds in the same units: low=(0 - mean) / std, high=(1 - mean) / std"
        )
    return least, most


def _require_ids(model: nn.Module, x: Tensor, ids: Tensor, what: str) -> None:
    whole = isinstance(ids, Tensor) and not (ids.is_floating_point() or ids.is_complex() or ids.dtype == torch.bool)
    if not whole or ids.shape != x.shape[:1]:
        given = list(ids.shape) if isinstance(ids, Tensor) else type(ids).__name__
        raise TargetError(f"{what}: one integer class id per input is needed, [{len(x)}]; these are {given}")
    with _at_rest(model), torch.no_grad():
        classes = logits_of(model(x[:1])).shape[1]
    if bool(((ids < 0) | (ids >= classes)).any()):
        raise TargetError(
            f"{what} from {int(ids.min())} to {int(ids.max())}: the network has {classes} classes, [0, {classes})"
        )


def _require_targets(model: nn.Module, x: Tensor, target: Tensor) -> None:
    _require_ids(model, x, target, "targets")
    already = _answers(model, x) == target
    if bool(already.any()):
        row = int(already.nonzero()[0])
        raise TargetError(
            f"targets: row {row} has the target {int(target[row])}, which is the network's answer already "
            f"({int(already.sum())} such rows); a target is another class"
        )
