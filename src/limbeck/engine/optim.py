"""Optimizers from settings."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import nn

from limbeck.settings import Optimizer


def build(settings: Optimizer, parameters: Iterable[nn.Parameter]) -> torch.optim.Optimizer:
    """The optimizer for these parameters.  Each group keeps its highest rate as ``base_lr``."""
    wanted = list(parameters)
    if settings.decay_norm:
        groups: list[dict[str, Any]] = [{"params": wanted}]
    else:
        groups = [
            {"params": [p for p in wanted if p.ndim > 1]},
            {"params": [p for p in wanted if p.ndim <= 1], "weight_decay": 0.0},
        ]
        groups = [g for g in groups if g["params"]]
    common: dict[str, Any] = {"lr": settings.lr, "weight_decay": settings.weight_decay}
    if settings.kind == "sgd":
        nesterov = settings.nesterov and settings.momentum > 0
        built = torch.optim.SGD(groups, momentum=settings.momentum, nesterov=nesterov, **common)
    elif settings.kind == "adamw":
        built = torch.optim.AdamW(groups, betas=settings.betas, eps=settings.eps, **common)
    else:
        built = torch.optim.RMSprop(
            groups, alpha=settings.alpha, eps=settings.eps, momentum=settings.momentum, **common
        )
    for group in built.param_groups:
        group["base_lr"] = settings.lr
    return built


def set_rate(optimizer: torch.optim.Optimizer, factor: float) -> float:
    """Scale every group's rate, and return the first group's."""
    for group in optimizer.param_groups:
        group["lr"] = group["base_lr"] * factor
    return float(optimizer.param_groups[0]["lr"])
