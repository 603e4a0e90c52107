"""What goes after what: every compressor behind every other, which works or says why it cannot."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import limbeck as lk
from limbeck.compress.cost import cost
from limbeck.compressor import findings
from limbeck.errors import LimbeckError

X = torch.randn(8, 3, 8, 8, generator=torch.Generator().manual_seed(0))
ROWS = [lk.Batch(X, torch.arange(8) % 5)]
HOW: dict[str, Any] = {
    "prune": lk.Prune(macs=0.6),
    "mask": lk.Mask(density=0.5),
    "factorize": lk.Factorize(energy=0.7, measured=False),
    "bwn": lk.Binarize("bwn"),
    "xnor": lk.Binarize("xnor"),
    "bnn": lk.Binarize("bnn"),
    "static": lk.Quantize("int8"),
    "weights": lk.Quantize("int8", mode="weights"),
}
SIGNS, INT8 = ("bwn", "xnor", "bnn"), ("static", "weights")
REFUSED = {
    ("mask", "prune"): r"no channel .* computed in every\s+forward \(masks, weight norm\).*mask afterwards",
    **{("mask", form): r"can become binary: .* computed in every forward \(a mask, weight norm\)" for form in SIGNS},
    **{(form, "prune"): "computed, not stored" for form in SIGNS},
    **{(a, b): "is binary already" for a in SIGNS for b in SIGNS},
    **{(a, b): "cannot change a network that Quantize made" for a in INT8 for b in HOW},
}


def net() -> nn.Module:
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 32, 3, padding=1), nn.BatchNorm2d(32),
        nn.ReLU(), nn.Conv2d(32, 32, 3, stride=2), nn.BatchNorm2d(32), nn.ReLU(), nn.Flatten(), nn.Linear(288, 5),
    )  # fmt: skip
    return model.eval()


@pytest.fixture(scope="module")
def first() -> dict[str, nn.Module]:
    return {name: how(net(), example=X, calibration=ROWS).eval() for name, how in HOW.items()}


@pytest.mark.parametrize("after", HOW)
@pytest.mark.parametrize("before", HOW)
def test_pair(first: dict[str, nn.Module], before: str, after: str) -> None:
    model, how = first[before], HOW[after]
    if (before, after) in REFUSED:
        with pytest.raises(LimbeckError, match=REFUSED[before, after]):
            how(model, example=X, calibration=ROWS)
        return
    made = how(model, example=X, calibration=ROWS).eval()
    with torch.no_grad():
        got, had = made(X), model(X)
    assert got.shape == had.shape
    assert got.isfinite().all()
    if after in INT8:
        assert findings(made).notes[0].endswith("layers in int8")
        assert cost(made, X[:1]).bytes > 0
    elif (before, after) == ("mask", "factorize"):  # nothing is left that could be split, and every layer is named
        assert torch.equal(got, had)
        assert sum("is left alone: it is parametrized" in note for note in findings(made).notes) == 4
    elif after == "mask" and before in SIGNS:
        assert any("3, 6 have no mask" in note and "+1 and -1" in note for note in findings(made).notes)
        assert made[3].weight.ne(0).all()
    elif after == "mask":
        weights = [m.weight for m in made.modules() if isinstance(m, (nn.Conv2d, nn.Linear))]
        assert sum(w.eq(0).sum().item() for w in weights) >= 0.49 * sum(w.numel() for w in weights)
    else:
        assert cost(made, X[:1]).bytes < cost(model, X[:1]).bytes
