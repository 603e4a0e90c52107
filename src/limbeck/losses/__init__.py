"""Every loss: a pure function of tensors, student first, teacher second.

Importing this package imports no torch; asking it for a function does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.lazy import exports

if TYPE_CHECKING:
    from limbeck.losses.logits import cross_entropy, kd_kl, kd_sigmoid, logit_l2, sigmoid_cross_entropy
    from limbeck.losses.maps import attention_l2, attention_map, hint_l2, nst_mmd

_HOME = {
    "cross_entropy": "logits",
    "kd_kl": "logits",
    "kd_sigmoid": "logits",
    "logit_l2": "logits",
    "sigmoid_cross_entropy": "logits",
    "attention_l2": "maps",
    "attention_map": "maps",
    "hint_l2": "maps",
    "nst_mmd": "maps",
}

__all__ = [
    "attention_l2",
    "attention_map",
    "cross_entropy",
    "hint_l2",
    "kd_kl",
    "kd_sigmoid",
    "logit_l2",
    "nst_mmd",
    "sigmoid_cross_entropy",
]

__getattr__, __dir__ = exports(__name__, _HOME)
