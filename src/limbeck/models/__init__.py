"""The zoo: networks by name.

Importing this package imports no torch, so that a recipe's names can be checked in a blink; asking it for `build`
and the other functions that touch a network does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.lazy import exports
from limbeck.models.names import names, problem

if TYPE_CHECKING:
    from limbeck.models.bottleneck import Bottleneck, fold, students
    from limbeck.models.byname import ZooEntry, build, zoo
    from limbeck.models.dominant_kernels import dominant, dominant_student, kernel_rank, kernel_spectrum
    from limbeck.models.ensemble import Ensemble
    from limbeck.models.grouped import GroupedHead
    from limbeck.models.macs import count_macs
    from limbeck.models.maxout import Maxout
    from limbeck.models.weights import load_weights, save_weights

_HOME = {
    "Ensemble": "ensemble",
    "GroupedHead": "grouped",
    "Bottleneck": "bottleneck",
    "Maxout": "maxout",
    "ZooEntry": "byname",
    "build": "byname",
    "zoo": "byname",
    "count_macs": "macs",
    "dominant": "dominant_kernels",
    "dominant_student": "dominant_kernels",
    "fold": "bottleneck",
    "kernel_rank": "dominant_kernels",
    "kernel_spectrum": "dominant_kernels",
    "load_weights": "weights",
    "save_weights": "weights",
    "students": "bottleneck",
}

__all__ = [
    "Bottleneck",
    "Ensemble",
    "GroupedHead",
    "Maxout",
    "ZooEntry",
    "build",
    "count_macs",
    "dominant",
    "dominant_student",
    "fold",
    "kernel_rank",
    "kernel_spectrum",
    "load_weights",
    "names",
    "problem",
    "save_weights",
    "students",
    "zoo",
]

__getattr__, __dir__ = exports(__name__, _HOME)
