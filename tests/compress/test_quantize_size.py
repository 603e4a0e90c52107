"""The file of an int8 network is a quarter of the float one, and what describes it."""

from __future__ import annotations

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
