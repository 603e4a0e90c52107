"""A trained network, and the images that a seed draws to look at and to measure on: for studies without training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from study import ORIGINALS, ROOT
from torch import nn

import limbeck as lk
from limbeck.data import Loader, load
from limbeck.data.splits import subset
from limbeck.engine.evaluate import metrics, predictions
from limbeck.phase import Batch

NETWORKS = {
    **ORIGINALS,
    "wrn_16_2": "benchmarks/cifar10/wrn_16_2.safetensors",
    "resnet9": "benchmarks/effects/teacher.safetensors",
}
SEEN, MEASURED = 512, 2000  # training rows that may be looked at, and validation rows that accuracy is measured on


class Drawn(NamedTuple):
    """What a seed has to do with.

    Attributes:
        model: the network, with its weights.
        looked: batches of `SEEN` training images, without augmentation.
        rows: `MEASURED` validation images.
    """

    model: nn.Module
    looked: list[Batch]
    rows: Loader

    def accuracy(self, model: nn.Module) -> float:
        """That of a network on the validation images, in percent."""
        how = {"device": torch.device("cpu"), "precision": "bf16", "channels_last": True}
        return 100 * metrics(*predictions(model, self.rows.evaluation(), **how))["accuracy"]


def drawn(network: str, seed: int) -> Drawn:
    """One of `NETWORKS` with a seed's images."""
    data = load(lk.Data(source=lk.CIFAR10(), validation=5000))
    usual = {"mean": data.mean, "std": data.std, "channels_last": True}
    looked = Loader(images=subset(data.train, SEEN, seed), batch_size=128, **usual)
    model = lk.build(network, classes=10)
    lk.load_weights(model, ROOT / NETWORKS[network])
    rows = Loader(images=subset(data.validation, MEASURED, seed), batch_size=125, **usual)
    return Drawn(model, list(looked.evaluation()), rows)
