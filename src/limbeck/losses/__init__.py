"""Every loss: a pure function of tensors, student first, teacher second.

Importing this package imports no torch; asking it for a function does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.lazy import exports

if TYPE_CHECKING:
    from limbeck.losses.adversarial import adversarial_value
    from limbeck.losses.contrast import contrast_scores, crd_nce
    from limbeck.losses.decoupled import dkd
    from limbeck.losses.factors import factor_lp, hcl
    from limbeck.losses.gradients import gradient_l2
    from limbeck.losses.hinge import squared_hinge
    from limbeck.losses.logits import cross_entropy, kd_kl, kd_sigmoid, logit_l2, sigmoid_cross_entropy
    from limbeck.losses.maps import attention_l2, attention_map, hint_ce, hint_l2, nst_mmd
    from limbeck.losses.mixture import kd_grouped, kd_kl_mixture
    from limbeck.losses.relations import correlation, pkt, rkd_angle, rkd_distance, similarity
    from limbeck.losses.variational import vid_nll

_HOME = {
    "contrast_scores": "contrast",
    "crd_nce": "contrast",
    "dkd": "decoupled",
    "vid_nll": "variational",
    "adversarial_value": "adversarial",
    "gradient_l2": "gradients",
    "squared_hinge": "hinge",
    "kd_grouped": "mixture",
    "kd_kl_mixture": "mixture",
    "cross_entropy": "logits",
    "kd_kl": "logits",
    "kd_sigmoid": "logits",
    "logit_l2": "logits",
    "sigmoid_cross_entropy": "logits",
    "factor_lp": "factors",
    "hcl": "factors",
    "attention_l2": "maps",
    "attention_map": "maps",
    "hint_ce": "maps",
    "hint_l2": "maps",
    "nst_mmd": "maps",
    "correlation": "relations",
    "pkt": "relations",
    "rkd_angle": "relations",
    "rkd_distance": "relations",
    "similarity": "relations",
}

__all__ = [
    "adversarial_value",
    "attention_l2",
    "attention_map",
    "contrast_scores",
    "correlation",
    "crd_nce",
    "cross_entropy",
    "dkd",
    "factor_lp",
    "gradient_l2",
    "hcl",
    "hint_ce",
    "hint_l2",
    "kd_grouped",
    "kd_kl",
    "kd_kl_mixture",
    "kd_sigmoid",
    "logit_l2",
    "nst_mmd",
    "pkt",
    "rkd_angle",
    "rkd_distance",
    "sigmoid_cross_entropy",
    "similarity",
    "squared_hinge",
    "vid_nll",
]

__getattr__, __dir__ = exports(__name__, _HOME)
