"""Every score of pruning: a pure function of tensors that says how much a filter, a channel or a weight matters.

Low means "remove first" in all of them, except where a function says that it counts zeros (`apoz`).  Importing this
package imports no torch; asking it for a function does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.lazy import exports

if TYPE_CHECKING:
    from limbeck.scores.activations import apoz, apoz_threshold, mean_activation
    from limbeck.scores.connections import dropout_rescale, std_mask
    from limbeck.scores.curvature import fisher, obd
    from limbeck.scores.loss_change import oracle, taylor, taylor_gate, taylor_weight, unit_norm
    from limbeck.scores.median import fpgm
    from limbeck.scores.norms import l1, l2
    from limbeck.scores.order import lowest, random, spearman
    from limbeck.scores.reconstruction import (
        lasso,
        lasso_channels,
        lasso_order,
        moments,
        thinet,
        thinet_scales,
    )
    from limbeck.scores.scales import slimming, slimming_threshold
    from limbeck.scores.tickets import ticket

_HOME = {
    "apoz": "activations",
    "apoz_threshold": "activations",
    "mean_activation": "activations",
    "dropout_rescale": "connections",
    "std_mask": "connections",
    "fisher": "curvature",
    "obd": "curvature",
    "oracle": "loss_change",
    "taylor": "loss_change",
    "taylor_gate": "loss_change",
    "taylor_weight": "loss_change",
    "unit_norm": "loss_change",
    "fpgm": "median",
    "l1": "norms",
    "l2": "norms",
    "lowest": "order",
    "random": "order",
    "spearman": "order",
    "lasso": "reconstruction",
    "lasso_channels": "reconstruction",
    "lasso_order": "reconstruction",
    "moments": "reconstruction",
    "thinet": "reconstruction",
    "thinet_scales": "reconstruction",
    "slimming": "scales",
    "slimming_threshold": "scales",
    "ticket": "tickets",
}

__all__ = [
    "apoz",
    "apoz_threshold",
    "dropout_rescale",
    "fisher",
    "fpgm",
    "l1",
    "l2",
    "lasso",
    "lasso_channels",
    "lasso_order",
    "lowest",
    "mean_activation",
    "moments",
    "obd",
    "oracle",
    "random",
    "slimming",
    "slimming_threshold",
    "spearman",
    "std_mask",
    "taylor",
    "taylor_gate",
    "taylor_weight",
    "thinet",
    "thinet_scales",
    "ticket",
    "unit_norm",
]

__getattr__, __dir__ = exports(__name__, _HOME)
