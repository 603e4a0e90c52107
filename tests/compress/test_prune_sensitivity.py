"""The sensitivity scan and its picture."""

from __future__ import annotations

import copy
import json
import xml.etree.ElementTree as ET

import pytest
import torch
from torch import nn

from limbeck.compress.pruning.sensitivity import scan
from limbeck.errors import HyperParameterError
from limbeck.report.compression import sensitivity, widths

X = torch.randn(8, 6, generator=torch.Generator().manual_seed(0))


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 4), nn.ReLU(), nn.Linear(4, 3))


def test_one_layer_at_a_time() -> None:
    model = net()
    state = copy.deepcopy(model.state_dict())
    lines = scan(model, (0.5, 0.0, 0.9), lambda m: m[0].out_features + 100 * m[2].out_features, example=X)
    assert lines == {"0": [(0.0, 408), (0.5, 404), (0.9, 401)], "2": [(0.0, 408), (0.5, 208), (0.9, 108)]}
    assert json.loads(json.dumps(lines))["2"][1] == [0.5, 208]
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_by_the_score() -> None:
    """A filter of zeros goes first, and nobody notices."""
    model = net()
    with torch.no_grad():
        model[0].weight[3], model[0].bias[3] = 0, 0
        before = model(X)
    lines = scan(model, [0.12], lambda m: (m(X) - before).abs().max().item(), example=X, by="l1")
    assert lines["0"][0][1] < 1e-6 < lines["2"][0][1]


def test_bad_ratios() -> None:
    with pytest.raises(HyperParameterError, match="ratios: there are none"):
        scan(net(), [], lambda m: 0.0, example=X)
    with pytest.raises(HyperParameterError, match=r"ratios = 1.0: parts to be removed, each in \[0, 1\)"):
        scan(net(), [1.0], lambda m: 0.0, example=X)


def test_charts() -> None:
    lines = {f"layer{k}": [(0.0, 0.9), (0.5, 0.9 - 0.1 * k)] for k in range(8)}
    drawn = sensitivity("s", lines)
    assert drawn is not None
    ET.fromstring(drawn.svg)
    assert "layer7 from 90.0 to 20.0" in drawn.description
    assert "layer1 " not in drawn.description
    assert drawn.caption.endswith("Named: the 6 that fall most; grey: the other 2.")
    assert sensitivity("s", {}) is None
    bars = widths("w", {"conv1": [16, 8], "conv2": [32, 32]})
    assert bars is not None
    assert "conv1 8 of 16" in bars.description
    ET.fromstring(bars.svg)
    assert widths("w", {}) is None
