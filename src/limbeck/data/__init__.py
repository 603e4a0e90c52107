"""Data: sources of images, their division, random views, and batches.

Importing this package imports no torch; asking it for a function does.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from limbeck.data.spec import CIFAR10, Augment, Data, Digits, ImageFolder, Parquet
from limbeck.lazy import exports

if TYPE_CHECKING:
    from limbeck.data.images import Images, Splits
    from limbeck.data.iterables import check_targets, to_batch
    from limbeck.data.loading import Loader, batches, steps_per_epoch
    from limbeck.data.sources import load, read
    from limbeck.data.splits import subset
    from limbeck.data.views import augment, normalise

_HOME = {
    "Images": "images",
    "Loader": "loading",
    "Splits": "images",
    "augment": "views",
    "batches": "loading",
    "check_targets": "iterables",
    "load": "sources",
    "normalise": "views",
    "read": "sources",
    "steps_per_epoch": "loading",
    "subset": "splits",
    "to_batch": "iterables",
}

__all__ = [
    "CIFAR10",
    "Augment",
    "Data",
    "Digits",
    "ImageFolder",
    "Images",
    "Loader",
    "Parquet",
    "Splits",
    "augment",
    "batches",
    "check_targets",
    "load",
    "normalise",
    "read",
    "steps_per_epoch",
    "subset",
    "to_batch",
]

__getattr__, __dir__ = exports(__name__, _HOME)
