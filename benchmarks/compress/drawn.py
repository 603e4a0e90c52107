"""Studies without training: networks with the images that a seed draws for them, and the page of what was found.

They are called with a network and seeds, or with ``--page``; a file of data for each network, one page for all.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from records import seed_by_seed
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
RESULTS = ROOT / "docs" / "results"
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


class Found(NamedTuple):
    """What a study found so far.

    Attributes:
        by_network: what it measured, by network and seed.
        seeds: all of them, in words.
        source: the last line of its page: where its numbers are from.
    """

    by_network: dict[str, dict[int, Any]]
    seeds: str
    source: str


def so_far(study: str) -> Found:
    """What the files of a study say, ``compress-STUDY-NETWORK.json``."""
    files: list[Path] = [
        file for network in NETWORKS if (file := RESULTS / f"compress-{study}-{network}.json").exists()
    ]
    told = [json.loads(file.read_text()) for file in files]
    by_network = {one["network"]: {int(seed): lines for seed, lines in one["seeds"].items()} for one in told}
    seeds = sorted({seed for by_seed in by_network.values() for seed in by_seed})
    commits = sorted({commit for one in told for commit in one["commits"]})
    source = (
        f"Commit {', '.join(commits)}, torch {told[0]['versions']['torch']}. The data behind this page: "
        f"{', '.join(f'[{f.name}]({f.name})' for f in files)}."
    )
    return Found(by_network, ", ".join(map(str, seeds)), source)


def go_on(study: str, measured: Callable[[str, int], Any], page: Callable[[], str], usage: str | None) -> None:
    """What the command line asks for: measure a network with seeds, if it names one, and write the page."""
    network, *rest = sys.argv[1:] or [""]
    if network not in (*NETWORKS, "--page"):
        sys.exit(usage)
    torch.set_num_threads(1)
    if network != "--page":
        target = RESULTS / f"compress-{study}-{network}.json"
        seed_by_seed(target, network, rest, partial(measured, network), dict)
    text = page()
    (RESULTS / f"compress-{study}.md").write_text(text)
    print(text)
