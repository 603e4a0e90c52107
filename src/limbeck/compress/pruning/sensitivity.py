"""Which layers bear pruning: accuracy against the part removed, one group of channels at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from limbeck.compress.pruning.graph import groups
from limbeck.compress.pruning.judge import judge_what_can_be
from limbeck.compress.pruning.select import checked, kept_share, order
from limbeck.compress.pruning.surgery import removed
from limbeck.data.iterables import Batches
from limbeck.errors import HyperParameterError
from limbeck.settings import finite, require
from limbeck.taps import original

Scan = dict[str, list[tuple[float, float]]]


@torch.inference_mode(False)
def scan(
    model: nn.Module,
    ratios: Sequence[float],
    measure: Callable[[nn.Module], float],
    *,
    example: Any,
    by: str = "l1",
    calibration: Iterable[Any] = (),
    seed: int = 0,
) -> Scan:
    """Remove a part of one group at a time, without training, and measure (Li et al., ICLR 2017, section 3.2).

    Layers whose line stays flat bear a larger part; see ``layers`` and ``ignore`` of `limbeck.compress.prune.Prune`.

    Args:
        model: stays as it is.
        ratios: parts to be removed, each in [0, 1).  A layer always keeps a channel.
        measure: is given a smaller network, and says how good it is: accuracy on validation rows, say.
        example: a batch as the model takes it.
        by: the score that says which channels go.
        calibration: batches for scores that look at data.
        seed: of random numbers that a score draws.

    Returns:
        Plain data: group -> (ratio, what was measured), ratios ascending.  At ratio 0 stands what the whole model has.
        Groups that the score can say nothing about have no line.

    Raises:
        HyperParameterError: there are no ratios, or one is outside [0, 1).
        LimbeckError: nothing can be removed, or the score can say nothing about any of it.

    >>> import torch
    >>> net = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    >>> count = lambda model: float(model[0].out_features)
    >>> scan(net, [0.0, 0.5], count, example=torch.zeros(1, 4))
    {'0': [(0.0, 8.0), (0.5, 4.0)]}
    """
    model = original(model)
    parts = sorted(set(ratios))
    if not parts:
        raise HyperParameterError("ratios: there are none; give some, such as (0, 0.25, 0.5, 0.75)")
    for part in parts:
        require(finite(part) and 0 <= part < 1, "ratios", part, "parts to be removed, each in [0, 1)")
    calibration = Batches(calibration, "the calibration batches")
    found, scores, _ = judge_what_can_be(
        model, by, groups(model, example), example=example, calibration=calibration, seed=seed
    )
    checked(found, scores)
    whole = float(measure(removed(model, found, {}))) if 0 in parts else None
    lines: Scan = {}
    for group in found:
        line = lines.setdefault(group.name, [])
        going = order(scores[group.name])
        for part in parts:
            if part == 0 and whole is not None:
                line.append((0.0, whole))
                continue
            count = group.size - kept_share(group.size, 1 - part)
            line.append((float(part), float(measure(removed(model, found, {group.name: going[:count]})))))
    return lines
