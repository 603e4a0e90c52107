"""The file of an int8 network is a quarter of the float one, and what describes it."""

from __future__ import annotations

import copy

import pytest
import torch

from limbeck import models
from limbeck.compress.quantize import Quantize
from limbeck.models.weights import packed
from limbeck.phase import Batch


@pytest.mark.parametrize("name", ["resnet20", "vgg8"])
def test_the_file_shrinks(name):
    torch.manual_seed(0)
    model = models.build(name, classes=10)
    x = torch.randn(2, 3, 32, 32)
    made = Quantize(observer="minmax")(model, example=x, calibration=[Batch(x)])
    assert made.file_bytes() < 0.4 * len(packed(model))


def test_a_scale_is_as_fine_for_weights_of_16_bits():
    torch.manual_seed(0)
    x = torch.randn(4, 64)
    layer = torch.nn.Linear(64, 8, bias=False)
    with torch.no_grad():
        layer.weight.mul_(1e-3)  # whose scales are too small for ordinary numbers of 16 bits
    half = copy.deepcopy(layer).half()
    small = Quantize(mode="weights")(half, example=x.half())
    wanted = torch.nn.functional.linear(x, half.weight.float())
    assert small(x.half()).dtype == torch.float16
    assert (small(x.half()).float() - wanted).norm() < 0.006 * wanted.norm()


def test_a_table_that_is_the_weight_of_a_layer_too_is_not_said_to_be_in_float():
    class Tied(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.table, self.inner, self.out = (
                torch.nn.Embedding(50, 32),
                torch.nn.Linear(32, 32),
                torch.nn.Linear(32, 50),
            )
            self.out.weight = self.table.weight

        def forward(self, x):
            return self.out(self.inner(self.table(x)).relu())

    given = torch.randint(0, 50, (2, 7))
    layers = Quantize(mode="weights")(Tied(), example=given).facts["layers"]
    assert (sorted(layers["int8"]), layers["float"]) == (["inner", "out", "table"], [])
    layers = Quantize(mode="weights", skip=("table",))(Tied(), example=given).facts["layers"]
    assert layers["float"] == ["table"]
