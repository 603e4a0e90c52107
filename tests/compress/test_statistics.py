"""BatchNorm's statistics after a network was changed."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from limbeck.compress.binarize import Binarize
from limbeck.compress.factorize import Factorize
from limbeck.compress.prune import Prune
from limbeck.compress.statistics import recalibrated
from limbeck.compressor import Compressor, findings
from limbeck.phase import Batch


def net() -> nn.Module:
    return nn.Sequential(
        nn.Linear(6, 32), nn.BatchNorm1d(32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 2)
    )


def test_the_mean_over_batches_is_plain() -> None:
    norm = nn.BatchNorm1d(1, momentum=0.3).eval()
    batches = [Batch(torch.tensor([[float(a)], [float(b)]])) for a, b in ((0, 2), (4, 6), (100, 300))]
    assert recalibrated(norm, batches, batches=2) == (2, 0)
    assert (norm.running_mean, norm.running_var) == (torch.tensor([3.0]), torch.tensor([2.0]))
    assert norm.momentum == 0.3
    assert not norm.training


def test_no_more_batches_are_drawn_than_are_used() -> None:
    drawn = []

    def batches():
        for k in range(5):
            drawn.append(k)
            yield Batch(torch.randn(1 if k == 0 else 4, 1))

    assert recalibrated(nn.BatchNorm1d(1), batches(), batches=2) == (2, 1)
    assert drawn == [0, 1, 2]


def test_where_nothing_can_be_estimated_all_stays() -> None:
    assert recalibrated(nn.Linear(1, 1), [Batch(torch.randn(4, 1))]) == (0, 0)
    norm = nn.BatchNorm1d(1)
    norm.running_mean.fill_(7.0)
    for batches in ([], [Batch(torch.randn(1, 1))]):
        assert recalibrated(norm, batches) == (0, len(batches))
        assert norm.running_mean.item() == 7.0


@pytest.mark.parametrize("sizes", [(1, 1), (1, 8)])
@pytest.mark.parametrize(
    "how",
    [Prune(keep=0.5), Factorize(energy=0.5, measured=False), Binarize("xnor")],
    ids=lambda how: type(how).__name__,
)
def test_batches_without_variance_are_named(how: Compressor, sizes: tuple[int, ...]) -> None:
    said = " ".join(
        findings(how(net(), example=torch.zeros(2, 6), calibration=[torch.randn(n, 6) for n in sizes])).notes
    )
    if sum(sizes) == 2:
        assert "every calibration batch is a single sample, which has no variance" in said
        assert "estimated anew" not in said
        assert ("have seen nothing yet" in said) == isinstance(how, Binarize)
    elif isinstance(how, Binarize):  # says only where its own BatchNorms have seen nothing
        assert "variance" not in said
        assert "have seen nothing yet" not in said
    else:
        assert "estimated anew" in said
        assert "1 calibration batch of a single sample did not count for them" in said
