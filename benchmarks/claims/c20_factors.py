"""Claim 20: the autoencoder of factor transfer gives the student an easier target than the teacher's raw maps."""

from __future__ import annotations

import tempfile
from pathlib import Path

import torch
from common import Claim, Judgement, Seeds, altogether, column, difference, digits, outcome, rank_correlation
from features import FEW, adam, against, few, taught, teacher, test_accuracy, told
from torch import Tensor, nn

import limbeck as lk
from limbeck import connectors
from limbeck.models import load_weights
from limbeck.stats import summarise

PAIR = ("layer3", "layer3")
RATES = (0.125, 0.5, 2.0)
PARAPHRASE = 80  # epochs, the same for every rate, outside the student's budget
NAMES = {
    "labels": "labels alone", "fitnets": "FitNets (raw map, one stage)", "raw": "raw map, factor transfer's translator and distance",
    **{f"ft_{k}": f"factor transfer, k = {k}" for k in RATES},
}  # fmt: skip


def prepared(big: nn.Module, rows, seed: int, rate: float, maps: Tensor, folder: Path) -> tuple[str, float]:
    """A paraphraser trained on the few rows, through limbeck, and the part of the variance of test maps that it loses."""
    method = lk.FactorTransfer(pair=PAIR, rate=rate, paraphrase_epochs=PARAPHRASE)
    how = lk.Training(epochs=1, optimizer=adam(3e-3))
    from common import Batches, network

    batches = Batches(rows.train_x, rows.train_y, 25, seed)
    lk.distill(
        big,
        network("digits_cnn_thin", seed + 7),
        batches,
        method=method,
        training=how,
        seed=seed,
        quiet=True,
        out=folder,
    )
    net = connectors.paraphraser(maps.shape[1], rate)
    load_weights(net, folder / "paraphraser.safetensors")
    with torch.no_grad():
        lost = (net.eval()(maps) - maps).square().mean() / (maps - maps.mean(0)).square().mean()
    return str(folder / "paraphraser.safetensors"), float(lost)


def measure(seed: int) -> dict[str, float]:
    data = digits(seed)
    big, rows = teacher(data, seed), few(data, 100)
    with torch.no_grad(), lk.capture(big.eval(), PAIR[1]) as seen:
        big(data.test_x)
    maps = seen[PAIR[1]].detach()
    found: dict[str, float] = {}
    arms = {
        "labels": None,
        "fitnets": lk.FitNets(pair=PAIR, stages="one", soft=0.0, form="benchmark", hint_weight=10.0),
        "raw": lk.FEED(pair=PAIR, weight=0.3),
    }
    with tempfile.TemporaryDirectory() as folder:
        for rate in RATES:
            file, found[f"lost_{rate}"] = prepared(big, rows, seed, rate, maps, Path(folder) / str(rate))
            arms[f"ft_{rate}"] = lk.FactorTransfer(pair=PAIR, rate=rate, weight=0.3, paraphraser=file)
        for name, method in arms.items():
            found[name] = test_accuracy(taught(big, rows, seed, method), data)
    return found


def ranks(figures: Seeds) -> tuple[float, int]:
    """Rank correlation of what a paraphraser loses with the gain over labels, over all seeds and rates."""
    lost = [f[f"lost_{k}"] for f in figures.values() for k in RATES]
    gain = [f[f"ft_{k}"] - f["labels"] for f in figures.values() for k in RATES]
    return rank_correlation(lost, gain), len(lost)


def judge(figures: Seeds) -> Judgement:
    lost = "; ".join(f"k = {k}: {summarise(column(figures, f'lost_{k}').values()).mean:.3f}" for k in RATES)
    rho, n = ranks(figures)
    sentence = (
        f"Test accuracy: {told(figures, NAMES)}. Factor transfer at k = 0.5 compared "
        f"{against(figures, 'ft_0.5', {'raw': 'the raw map with the same translator and distance', 'fitnets': 'FitNets', 'labels': 'labels'})}. "
        f"Part of the variance of test maps that the paraphraser loses: {lost}; rank correlation of that with the gain over labels "
        f"{rho:+.2f} over all {n} paraphrasers (three of each seed)."
    )
    return altogether(*(outcome(difference(figures, "ft_0.5", other)) for other in ("raw", "fitnets"))), sentence


CLAIM = Claim(
    number=20,
    claim="factor transfer's autoencoder gives the student an easier target than the teacher's raw map",
    source="Kim, Park, Kwak, NeurIPS 2018",
    setup=FEW
    + f" All at layer3. The paraphrasers learn from the same 100 rows, {PARAPHRASE} epochs outside the student's 100. The verdict asks "
    "factor transfer at the paper's k = 0.5 to beat the raw map with the same translator and distance, and FitNets.",
    settings="Weights are the best mean of seeds 100 and 101: factor transfer 0.3 of 0.3, 1, 4 (the raw map takes the same), FitNets 10 of "
    "0.1, 1, 10.",
    measure=measure,
    judge=judge,
)
