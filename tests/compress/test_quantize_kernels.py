"""The compiled form: int8 kernels are in it, and they say what the slow form says."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from limbeck import models
from limbeck.compress import forms
from limbeck.compress.cost import latency
from limbeck.compress.int8 import Quantized, require_fused
from limbeck.compress.quantize import Convert, Prepare, Quantize
from limbeck.errors import LimbeckError
from limbeck.phase import Batch
from limbeck.processor import bf16_unit


@pytest.fixture(scope="module")
def x():
    return torch.randn(4, 1, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(0)
    return models.build("digits_cnn_thin", classes=10).eval()


@pytest.fixture(scope="module")
def small(net, x):
    return Quantize()(net, example=x, calibration=[Batch(x)])


def test_kernels_are_fused_and_right(small, net, x, tmp_path):
    fast = small.compiled(x)
    kernels = require_fused(fast.kernels)
    assert len(kernels) == 4, "three convolutions and a linear layer"
    assert sum("qconv" in name for name in kernels) == 3
    assert sum("qlinear" in name for name in kernels) == 1
    assert torch._inductor.config.freezing
    slow = small(x)
    assert float((fast(x) - slow).norm() / slow.norm()) < 0.02
    assert fast(x[:1]).shape == (1, 10), "another shape is compiled when it comes"
    assert not fast(x).requires_grad
    assert not fast.train()(x).requires_grad
    small.save(tmp_path / "n")
    assert len(require_fused(Quantized.load(tmp_path / "n").fused(x))) == 4, "after a file, too"


class Around(nn.Module):
    """A sum right after an activation, as in ResNet-9; torchao 0.18 fails to compile the ReLU's."""

    def __init__(self, activation):
        super().__init__()
        self.first, self.second, self.last = (
            nn.Conv2d(1, 8, 3, padding=1),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.Linear(8, 3),
        )
        self.one, self.two = activation(), activation()

    def forward(self, x):
        before = self.one(self.first(x))
        return self.last((before + self.two(self.second(before))).mean((2, 3)))


@pytest.mark.parametrize("activation", [nn.ReLU, lambda: nn.ReLU(inplace=True), nn.ReLU6, nn.SiLU])
def test_a_sum_after_an_activation(x, activation):
    torch.manual_seed(0)
    made = Quantize()(Around(activation), example=x, calibration=[Batch(x)])
    before = str(made.body.graph)
    fast = made.compiled(x)
    assert len(require_fused(fast.kernels)) == 3
    assert float((fast(x) - made(x)).norm() / made(x).norm()) < 0.02
    assert str(made.body.graph) == before, "what is compiled is a copy"


class Rows(nn.Module):
    """Attention behind a convolution of rows, whose answer goes on turned round; see `_rows_as_pictures`."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv1d(3, 16, 5, stride=2, padding=1, dilation=2)
        self.behind, self.last = nn.TransformerEncoderLayer(16, 2, 16, batch_first=True), nn.Linear(16, 3)

    def forward(self, x):
        return self.last(self.behind(self.conv(x).relu_().transpose(1, 2)).mean(1))


def test_a_convolution_of_rows_has_a_kernel():
    torch.manual_seed(0)
    x, model = torch.randn(4, 3, 40), Rows().eval()
    made = Quantize()(model, example=x, calibration=[Batch(x)])
    before = str(made.body.graph)
    fast, slow = made.compiled(x), made(x)
    assert sum("qconv" in name for name in require_fused(fast.kernels)) == 1
    assert float((fast(x) - slow).norm() / slow.norm()) < 1e-3
    assert str(made.body.graph) == before, "what is compiled is a copy"


def test_trained_weights_of_one_sign_have_no_zero_point():
    """The kernels know none: a channel whose weights have one sign, as happens with few of them, came out wrong in the fast form."""
    torch.manual_seed(0)
    x, model = torch.randn(8, 3, 6, 6), nn.Sequential(nn.Conv2d(3, 3, 3, groups=3), nn.Flatten(), nn.Linear(48, 3))
    with torch.no_grad():
        model[0].weight[0].abs_().add_(0.1)
        model[0].weight[1].abs_().add_(0.1).neg_()
    how = Quantize(mode="qat")
    ready = Prepare(settings=how)(model, example=x, calibration=[Batch(x)]).train()
    rounding = next(part for name, part in ready.body.named_modules() if getattr(part, "is_per_channel", False))
    ready(x).square().mean().backward()
    w = model[0].weight.detach().amax((1, 2, 3)), model[0].weight.detach().amin((1, 2, 3))
    assert torch.allclose(rounding.scale, torch.maximum(w[0] / 127, w[1] / -128))
    made = Convert(settings=how)(ready.eval(), example=x)
    zeros = [value for name, value in made.state_dict().items() if name.split(".")[-1].startswith("_zero_point_")]
    assert zeros
    assert not any(zero.any() for zero in zeros)
    slow, fast, trained = made(x), made.compiled(x), ready(x).detach()
    assert float((slow - trained).norm() / slow.norm()) < 1e-3
    assert len(require_fused(fast.kernels)) == 2
    assert float((fast(x) - slow).norm() / slow.norm()) < 1e-3


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_kernels_compute_with_small_scales(mode):
    torch.manual_seed(0)
    mlp, x = nn.Sequential(nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3)), 1e-3 * torch.randn(16, 64)
    with torch.no_grad():
        for p in mlp.parameters():
            p.mul_(1e-2)
    made = Quantize(mode=mode)(mlp, example=x, calibration=[Batch(x)])
    fast = made.compiled(x)
    assert len(require_fused(fast.kernels)) == 2
    assert float((fast(x) - made(x)).norm() / made(x).norm()) < 0.02


def test_dynamic_kernels(x):
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
    made = Quantize(mode="dynamic")(mlp, example=x)
    fast = made.compiled(x)
    assert len(require_fused(fast.kernels)) == 2
    assert float((fast(x) - made(x)).norm() / made(x).norm()) < 0.02


def test_weights_alone_have_no_kernels(net, x):
    made = Quantize(mode="weights")(net, example=x)
    with pytest.raises(LimbeckError, match="the compiled graph holds no int8 kernel: it computes in float"):
        require_fused(made.fused(x))


def test_forms_that_are_timed(net, x):
    torch.manual_seed(0)
    mlp = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 3))
    state = copy.deepcopy(mlp.state_dict())
    numbers = torch.get_rng_state()
    found = forms.latency_forms(mlp, x)
    assert torch.equal(torch.get_rng_state(), numbers)
    assert mlp.training
    assert all(torch.equal(state[k], v) for k, v in mlp.state_dict().items())
    assert {"eager", "compiled", "int8 compiled"} <= set(found)
    assert ("bf16 compiled" in found) == (bf16_unit() is not None)
    expected = mlp(x).detach()
    near = {"eager": 1e-6, "compiled": 1e-4, "bf16 compiled": 0.03, "int8 compiled": 0.05}
    near |= {"onnxruntime": 1e-4, "openvino": 1e-4, "openvino bf16": 0.03}
    for name, form in found.items():
        assert float((form(x).float() - expected).norm() / expected.norm()) < near[name], name
    timed = latency(found, x, repeats=3, warmup=1)
    assert all(line.median_ms > 0 for line in timed.values())


def test_a_form_that_is_missing_says_why(monkeypatch, x):
    monkeypatch.setattr(forms, "bf16_unit", lambda: None)
    with pytest.raises(LimbeckError, match=r"does not multiply in bfloat16 \(that takes AMX or AVX512-BF16"):
        forms.compiled_bf16(nn.Linear(2, 2), torch.zeros(1, 2))
