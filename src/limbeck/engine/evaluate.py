"""What a network can do, as numbers: accuracy, loss, calibration, agreement with a teacher."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from limbeck.batches import changed
from limbeck.errors import DataError, ShapeError, TargetError
from limbeck.phase import Batch, logits_of
from limbeck.taps import call, quiet

BINS = 15


def autocast(device: torch.device, precision: str) -> Any:
    """The context in which networks run."""
    return torch.autocast(device.type, torch.bfloat16) if precision == "bf16" else nullcontext()


def to_device(batch: Batch, device: torch.device, channels_last: bool = False) -> Batch:
    """The batch on a device; image tensors in the wanted memory layout."""

    def move(value: Tensor) -> Tensor:
        if channels_last and value.ndim == 4:
            return value.to(device, non_blocking=True, memory_format=torch.channels_last)
        return value.to(device, non_blocking=True)

    return Batch(changed(batch.inputs, move), changed(batch.targets, move), batch.rows, batch.views)


def predictions(
    model: nn.Module,
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: str = "fp32",
    channels_last: bool = False,
) -> tuple[Tensor, Tensor | None]:
    """Logits ``[rows, classes]`` in float32 and targets of all batches, on the CPU.

    The model runs in eval mode; every module's mode is as before afterwards.

    Raises:
        DataError: there were no batches.
        TargetError: some batches had targets, and others none.
        ShapeError: the model answers with a single number for a batch.
    """
    (logits,), targets = predictions_of(
        [model], batches, device=device, precision=precision, channels_last=channels_last
    )
    return logits, targets


def predictions_of(
    models: Sequence[nn.Module],
    batches: Iterable[Batch],
    *,
    device: torch.device,
    precision: str = "fp32",
    channels_last: bool = False,
) -> tuple[list[Tensor], Tensor | None]:
    """What `predictions` gives, of several networks in one walk: a loader that shuffles gives all of them the same rows."""
    logits: list[list[Tensor]] = [[] for _ in models]
    targets = []
    with ExitStack() as modes:
        for model in models:
            modes.enter_context(quiet(model))
        for batch in batches:
            batch = to_device(batch, device, channels_last)
            for model, found in zip(models, logits, strict=True):
                with autocast(device, precision):
                    output = logits_of(call(model, batch.inputs))
                if not output.ndim:
                    raise ShapeError(
                        "a network answered with a single number for a batch; to be measured it gives scores for each sample, [rows, classes]"
                    )
                found.append(output.float().cpu())
            if batch.targets is not None:
                targets.append(torch.as_tensor(batch.targets).cpu())
    if not (steps := len(logits[0])):
        raise DataError("there is nothing to evaluate on: the batches ran out before the first one")
    if targets and len(targets) < steps:
        raise TargetError(f"{len(targets)} of {steps} batches have targets; to evaluate, all must have them or none")
    return [torch.cat(found) for found in logits], torch.cat(targets) if targets else None


def metrics(logits: Tensor, targets: Tensor | None) -> dict[str, float]:
    """Accuracy, loss and expected calibration error of these predictions.

    Class ids ``[rows]`` give top-1 accuracy and cross-entropy; multi-hot ``[rows, classes]`` (or ids 0 and 1
    for a single logit) give the mean accuracy per label at a threshold of one half, and the binary
    cross-entropy summed over the labels.

    Raises:
        TargetError: no targets, or ids outside the classes.
    """
    if targets is None:
        raise TargetError("these batches have no targets, so nothing can be measured; evaluate on labelled data")
    logits = logits.float()
    if not bool(torch.isfinite(logits).all()):
        return {"accuracy": float("nan"), "loss": float("nan"), "ece": float("nan"), "n": len(logits)}
    single = logits.ndim == 1 or logits.shape[-1] == 1
    if targets.ndim == 2 or single:
        wanted = targets.reshape(logits.shape).float()
        right = ((logits > 0) == (wanted > 0.5)).float()
        loss = F.binary_cross_entropy_with_logits(logits, wanted, reduction="sum") / len(logits)
        p = torch.sigmoid(logits)
        confidence, correct = torch.maximum(p, 1 - p).reshape(-1), right.reshape(-1)
    else:
        classes = logits.shape[1]
        if targets.is_floating_point() or int(targets.min()) < 0 or int(targets.max()) >= classes:
            raise TargetError(
                f"targets run from {targets.min().item()} to {targets.max().item()}, but the network has {classes} classes"
            )
        loss = F.cross_entropy(logits, targets.long())
        confidence, predicted = logits.softmax(1).max(1)
        correct = (predicted == targets).float()
    return {
        "accuracy": correct.mean().item(),
        "loss": loss.item(),
        "ece": sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in reliability(confidence, correct))
        / len(correct),
        "n": len(logits),
    }


def reliability(confidence: Tensor, correct: Tensor, bins: int = BINS) -> list[dict[str, Any]]:
    """How often predictions of a confidence were right: equal-width bins over (0, 1], empty ones left out.

    The expected calibration error of Guo, Pleiss, Sun, Weinberger (ICML 2017), equation 3, is the mean
    gap between the two, weighted by the bins' counts.
    """
    index = (confidence * bins).ceil().long().clamp(1, bins) - 1
    found = []
    for i in range(bins):
        inside = index == i
        count = int(inside.sum())
        if count:
            found.append(
                {
                    "low": i / bins,
                    "high": (i + 1) / bins,
                    "confidence": confidence[inside].mean().item(),
                    "accuracy": correct[inside].mean().item(),
                    "count": count,
                }
            )
    return found


def agreement(a: Tensor, b: Tensor, *, independent: bool = False) -> float:
    """The share of rows on which two networks choose the same class.

    A single logit chooses by its sign.  So does each of several ``independent`` scores (multi-label heads); the
    result is then the share of all labels.

    >>> agreement(torch.tensor([[1.0], [-2.0]]), torch.tensor([[3.0], [4.0]]))
    0.5
    """
    if independent or a.ndim == 1 or a.shape[1] == 1:
        return ((a > 0) == (b > 0)).float().mean().item()
    return (a.argmax(1) == b.argmax(1)).float().mean().item()


Evaluate = Callable[[nn.Module], dict[str, float]]
