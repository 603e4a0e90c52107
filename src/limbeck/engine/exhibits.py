"""What a report shows beside the numbers: soft labels, confusions, calibration, attention.

Computed once at the end of a run and stored as plain data, so that the page is drawn without torch.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.engine.evaluate import reliability
from limbeck.layers import stage_ends
from limbeck.losses import attention_map
from limbeck.taps import look

TEMPERATURE = 4.0


def soft_labels(logits: Tensor, targets: Tensor, classes: int, temperature: float = TEMPERATURE) -> list[list[float]]:
    """The mean softened probabilities of each true class: ``[true class][class]``; a class without rows is zeros."""
    p = (logits / temperature).softmax(1)
    rows = [p[targets == c].mean(0) if bool((targets == c).any()) else torch.zeros(classes) for c in range(classes)]
    return [[round(v, 5) for v in row.tolist()] for row in rows]


def confusion(logits: Tensor, targets: Tensor, classes: int) -> list[list[int]]:
    """How often each true class (row) was taken for each class (column)."""
    pairs = targets * classes + logits.argmax(1)
    return torch.bincount(pairs, minlength=classes * classes).reshape(classes, classes).tolist()


def calibration(logits: Tensor, targets: Tensor) -> dict[str, Any]:
    """The reliability diagram of these predictions and their expected calibration error."""
    confidence, predicted = logits.softmax(1).max(1)
    correct = (predicted == targets).float()
    bins = reliability(confidence, correct)
    ece = sum(b["count"] * abs(b["accuracy"] - b["confidence"]) for b in bins) / len(correct)
    return {"ece": ece, "bins": bins}


def choose_samples(targets: Tensor, count: int = 6) -> list[int]:
    """The first row of each of the first few classes."""
    found: list[int] = []
    for c in targets.unique().tolist()[:count]:
        found.append(int((targets == c).nonzero()[0]))
    return found


def attention(
    models: Mapping[str, nn.Module], inputs: Tensor, taps: Mapping[str, Sequence[str]] | None = None
) -> list[dict[str, Any]]:
    """Where each network's maps are active on these inputs: the sum of squares over channels, scaled to 0..255.

    Shown are the ends of each network's resolution stages, and the layers that ``taps`` names for it
    (those that a method looked at).  Networks and layers without maps are left out.
    """
    found: list[dict[str, Any]] = []
    for name, model in models.items():
        layers = list(dict.fromkeys([*(end for end, _ in stage_ends(model, inputs[:2])), *(taps or {}).get(name, ())]))
        if not layers:
            continue
        seen = look(model, inputs, layers)
        for layer in layers:
            value = seen.taps[layer]
            if value.ndim != 4:
                continue
            maps = attention_map(value.float(), kind="sum_pow", p=2)
            flat = maps.flatten(1)
            low, high = flat.min(1, keepdim=True).values, flat.max(1, keepdim=True).values
            scaled = ((flat - low) / (high - low).clamp(min=1e-12) * 255).round().int()
            for sample in range(len(inputs)):
                found.append(
                    {
                        "sample": sample,
                        "model": name,
                        "tap": layer,
                        "shape": list(maps.shape[1:]),
                        "map": scaled[sample].tolist(),
                    }
                )
    return found


def pixels(images: Tensor, scale: float) -> list[dict[str, Any]]:
    """Sample images as row-major ``[height, width, channels]`` bytes; ``images`` is uint8 ``[n, c, h, w]``."""
    shown = (images.float() * (255.0 / scale)).round().clamp(0, 255).to(torch.uint8)
    if shown.shape[1] == 1:
        shown = shown.expand(-1, 3, -1, -1)
    elif shown.shape[1] != 3:  # no colours that a person would know: the first channel, in grey
        shown = shown[:, :1].expand(-1, 3, -1, -1)
    return [
        {"shape": [image.shape[1], image.shape[2], 3], "pixels": image.permute(1, 2, 0).reshape(-1).tolist()}
        for image in shown
    ]
