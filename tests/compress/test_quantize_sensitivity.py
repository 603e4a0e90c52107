"""Which layers suffer: one that is made to suffer must be found."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

from limbeck.compress.int8 import sensitivity
from limbeck.errors import HyperParameterError, LimbeckError
from limbeck.phase import Batch


@pytest.fixture(scope="module")
def case():
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("one", nn.Linear(6, 8))
    model.add_module("act", nn.ReLU())
    model.add_module("bad", nn.Linear(8, 8))
    model.add_module("two", nn.Linear(8, 4))
    with torch.no_grad():
        model.bad.weight[:, 0] *= 3000  # one weight per row takes the whole range; the others round to nothing
        model.two.weight[:, :] *= 0.1
        model.one.bias[0] = -100.0  # ... and what it multiplies is always 0
    x = torch.randn(64, 6)
    expected = model(x).detach()

    def measure(found):
        with torch.no_grad():
            return -float((found(x) - expected).norm() / expected.norm())

    return model, x, measure


def test_the_layer_that_suffers_is_found(case):
    model, x, measure = case
    state = {k: v.clone() for k, v in model.state_dict().items()}
    only = sensitivity(model, x, [Batch(x)], measure)
    assert json.loads(json.dumps(only)) == only
    assert only["layers"][0]["layer"] == "bad"
    losses = {row["layer"]: row["loss"] for row in only["layers"]}
    assert losses["bad"] > 5 * max(losses["one"], losses["two"])
    assert only["float"] == 0.0
    others = sensitivity(model, x, [Batch(x)], measure, quantized="others", layers=["bad", "two"])
    kept = {row["layer"]: row["loss"] for row in others["layers"]}
    assert kept["bad"] < 0.2 * kept["two"], "all but the bad layer is fine"
    assert only["int8"] == pytest.approx(others["int8"])
    assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())


def test_what_is_refused(case):
    model, x, measure = case
    with pytest.raises(HyperParameterError, match="quantized = 'some': one of only, others"):
        sensitivity(model, x, [Batch(x)], measure, quantized="some")
    with pytest.raises(LimbeckError, match="no layer 'act' to quantize; there are: one, bad, two"):
        sensitivity(model, x, [Batch(x)], measure, layers=["act"])
    with pytest.raises(HyperParameterError, match="give calibration batches"):
        sensitivity(model, x, [], measure)
