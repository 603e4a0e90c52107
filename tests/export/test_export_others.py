"""OpenVINO and ExecuTorch."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import limbeck as lk
from limbeck.errors import HyperParameterError
from limbeck.export.making import export
from limbeck.export.opening import open_export
from limbeck.export.to_others import _largest

for package in ("openvino", "executorch"):
    pytest.importorskip(package)


def network(name="digits_cnn_thin", channels=1, size=8):
    torch.manual_seed(0)
    net = lk.build(name, classes=10, in_channels=channels, size=size)
    with torch.no_grad():  # so that BatchNorm has statistics
        for _ in range(4):
            net(torch.randn(16, channels, size, size))
    return net.eval()


def answers(net, *inputs, **named):
    with torch.no_grad():
        return net(*inputs, **named)


class Both(nn.Module):
    """Two inputs."""

    def __init__(self):
        super().__init__()
        self.left, self.right = nn.Linear(5, 4), nn.Linear(3, 4)

    def forward(self, left, right):
        return self.left(left) + self.right(right)


@pytest.mark.parametrize(
    ("to", "name", "channels", "size"),
    [("openvino", "digits_cnn_thin", 1, 8), ("executorch", "resnet9", 3, 16)],  # with a maximum over all positions
)
def test_the_file_answers_as_the_network_for_any_number_of_rows(tmp_path, to, name, channels, size):
    net = network(name, channels, size)
    done = export(net, tmp_path / "net", to=to, example=torch.zeros(1, channels, size, size))
    assert done.file.exists()
    opened = open_export(done.folder)
    for rows in (1, 2, 5):
        x = torch.randn(rows, channels, size, size)
        torch.testing.assert_close(opened(x), answers(net, x), rtol=1e-4, atol=1e-4)
    told = json.loads((done.folder / "deploy.json").read_text())
    assert told["inputs"][0]["shape"] == ["batch" if to == "openvino" else 1, channels, size, size]


@pytest.mark.parametrize("to", ["openvino", "executorch"])
def test_several_inputs(tmp_path, to):
    torch.manual_seed(0)
    net, left, right = Both().eval(), torch.randn(3, 5), torch.randn(3, 3)
    done = export(net, tmp_path / "net", to=to, example=(left, right))
    torch.testing.assert_close(open_export(done.folder)(left, right), answers(net, left, right))


def test_int8_in_openvino_keeps_its_integers_and_executorch_says_why_not(tmp_path):
    from limbeck.compress.quantize import Quantize
    from limbeck.phase import Batch

    net, noise = network(), torch.Generator().manual_seed(1)
    rows = [Batch(torch.randn(32, 1, 8, 8, generator=noise), None, None) for _ in range(2)]
    program = Quantize("int8")(net, example=rows[0].inputs[:2], calibration=rows)
    example = torch.zeros(1, 1, 8, 8)
    done = export(program, tmp_path / "int8", to="openvino", example=example)
    written = done.file.read_text()
    assert written.count('element_type="i8"') >= 3  # the weights of its layers
    assert sorted(path.name for path in done.folder.iterdir()) == ["deploy.json", "model.bin", "model.xml"]
    x = torch.randn(64, 1, 8, 8, generator=noise)
    found, expected = open_export(done.folder)(x), answers(program, x)
    assert (found.argmax(1) == expected.argmax(1)).double().mean() > 0.9
    assert (found - expected).abs().max() < 0.1 * expected.abs().max()
    with pytest.raises(HyperParameterError, match="which ExecuTorch does not compute with; --to onnx or --to torch"):
        export(program, tmp_path / "pte", to="executorch", example=example)
    assert not (tmp_path / "pte").exists()


def test_adaptive_pooling_to_one_position_is_a_maximum():
    x = torch.randn(2, 3, 5, 4)
    assert torch.equal(_largest(x, (1, 1))[0], nn.functional.adaptive_max_pool2d(x, 1))
    assert _largest(x, (2, 2)) is NotImplemented
