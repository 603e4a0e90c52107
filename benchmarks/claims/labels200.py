"""What claims 14 and 18 share: a thin network that learns digits from 200 labels, with or without a teacher of its maps."""

from __future__ import annotations

from typing import Any

from common import Batches, Images, network
from torch import nn

import limbeck as lk

SETUP = (
    "Digits; teacher digits_cnn, 30 epochs on 1,200 rows (about 98 %); student digits_cnn_thin on 200 of these rows, 60 epochs of "
    "10 batches, SGD at 0.05, cosine, for every arm; 597 test rows; paired by seed (division, teacher, starting weights, batches)."
)
CHOSEN = "on seeds 100 to 103, trained on the first 800 training rows and measured on the other 400"
OPTIMIZER = lk.Optimizer(lr=0.05)


def teacher(data: Images, seed: int) -> nn.Module:
    """A network that learnt from all labelled rows."""
    batches = Batches(data.train_x, data.train_y, 64, seed)
    return lk.train(network("digits_cnn", seed), batches, epochs=30, optimizer=OPTIMIZER, seed=seed, quiet=True)


def student(seed: int) -> nn.Module:
    """What every arm of a seed starts from."""
    return network("digits_cnn_thin", seed)


def taught(source: nn.Module, data: Images, seed: int, method: Any, **more: Any) -> nn.Module:
    """One arm; no method means labels alone; more: of `limbeck.distill`."""
    batches = Batches(data.train_x[:200], data.train_y[:200], 20, seed)
    how = {"training": lk.Training(epochs=60, optimizer=OPTIMIZER), "seed": seed, "quiet": True, **more}
    if method is None:
        return lk.train(student(seed), batches, **how)
    return lk.distill(source, student(seed), batches, method=method, **how)
