"""ONNX: the file computes what the network computes, for any number of rows, and one that does not is refused."""

from __future__ import annotations

import copy
import json

import numpy as np
import pytest
import torch
from torch import nn

import limbeck as lk
from limbeck.errors import DataError, HyperParameterError, LimbeckError, ShapeError, TensorTypeError
from limbeck.export import to_onnx
from limbeck.export.making import export
from limbeck.export.opening import open_export

onnx = pytest.importorskip("onnx")
onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


class Net(nn.Module):
    """A convolution with batch statistics, a dropout, and a head."""

    def __init__(self, width=6):
        super().__init__()
        self.conv = nn.Conv2d(1, width, 3, padding=1)
        self.norm = nn.BatchNorm2d(width)
        self.drop = nn.Dropout(0.5)
        self.head = nn.Linear(width, 5)

    def forward(self, x):
        return self.head(self.drop(torch.relu(self.norm(self.conv(x))).mean((2, 3))))


@pytest.fixture(scope="module")
def net():
    torch.manual_seed(4)
    made = Net()
    for _ in range(3):
        made(torch.randn(32, 1, 8, 8) * 2 + 1)  # batch statistics that are not those of a new network
    return made


@pytest.fixture(scope="module")
def made(net, tmp_path_factory):
    folder = tmp_path_factory.mktemp("onnx") / "net"
    torch.manual_seed(11)
    before, random = copy.deepcopy(net.state_dict()), torch.random.get_rng_state()
    done = lk.export(net, folder, to="onnx", example=torch.zeros(1, 1, 8, 8), classes=list("abcde"))
    assert torch.equal(random, torch.random.get_rng_state()), "the caller's random numbers are its own"
    assert net.training, "as it was"
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(parameter.requires_grad and parameter.grad is None for parameter in net.parameters())
    return done


def by_hand(net, x):
    """The same network in NumPy and float64."""
    w, b = net.conv.weight.detach().double().numpy(), net.conv.bias.detach().double().numpy()
    x = np.pad(np.asarray(x, dtype=np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x[:, 0], (3, 3), axis=(1, 2))
    out = np.einsum("nhwij,oij->nohw", windows, w[:, 0]) + b[None, :, None, None]
    n = net.norm
    mean, var = n.running_mean.double().numpy(), n.running_var.double().numpy()
    gain, shift = n.weight.detach().double().numpy(), n.bias.detach().double().numpy()
    out = (out - mean[:, None, None]) / np.sqrt(var + n.eps)[:, None, None] * gain[:, None, None] + shift[:, None, None]
    pooled = np.maximum(out, 0).mean((2, 3))
    return pooled @ net.head.weight.detach().double().numpy().T + net.head.bias.detach().double().numpy()


@pytest.mark.parametrize("rows", [1, 2, 5, 64])
def test_the_file_computes_what_the_network_does(net, made, rows):
    x = np.random.default_rng(rows).normal(size=(rows, 1, 8, 8)).astype(np.float32) * 2
    session = onnxruntime.InferenceSession(str(made.file), providers=["CPUExecutionProvider"])
    (logits,) = session.run(["logits"], {"input": x})
    np.testing.assert_allclose(logits, by_hand(net, x), atol=2e-5)


def test_the_file_is_whole_and_names_its_rows(made):
    model = onnx.load(str(made.file))
    onnx.checker.check_model(model, full_check=True)
    shape = [d.dim_param or d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim]
    assert shape == ["batch", 1, 8, 8]
    assert not {"Dropout"} & {node.op_type for node in model.graph.node}, "eval mode"
    data = made.file.read_bytes()
    assert b".py" not in data, "lines of source files, with the paths that they have on this machine"


def test_what_is_told_of_it(made):
    told = json.loads((made.folder / "deploy.json").read_text())
    assert told == made.told
    assert told["inputs"] == [
        {"name": "input", "shape": ["batch", 1, 8, 8], "dtype": "float32", "layout": "NCHW", "dynamic_batch": True}
    ]
    assert told["output"]["shape"] == ["batch", 5]
    assert told["classes"] == list("abcde")
    assert told["preprocessing"] is None
    assert told["check"]["rows"] == [1, 3, 7]
    assert 0 <= made.max_difference <= told["check"]["tolerance"] < 1e-3
    assert set(told["files"]) == {"model.onnx"}
    assert told["files"]["model.onnx"]["bytes"] == made.file.stat().st_size == made.bytes
    assert {"torch", "onnx", "onnxruntime", "limbeck"} <= set(told["versions"])


def off_by(amount, write):
    """`write`, and then one bias of the file is changed."""

    def wrong(subject, folder, *more):
        details = write(subject, folder, *more)
        model = onnx.load(str(folder / "model.onnx"))
        place = next(t for t in model.graph.initializer if list(t.dims) == [5])
        values = onnx.numpy_helper.to_array(place).copy()
        values[3] += amount
        place.CopyFrom(onnx.numpy_helper.from_array(values, place.name))
        onnx.save(model, str(folder / "model.onnx"))
        return details

    return wrong


@pytest.mark.parametrize("amount", [1e-3, float("nan")])
def test_a_file_that_differs_is_refused_and_nothing_is_kept(net, tmp_path, monkeypatch, amount):
    monkeypatch.setattr(to_onnx, "write", off_by(amount, to_onnx.write))
    with pytest.raises(LimbeckError, match=r"differs from the network: by .* where .* is allowed \(batches of 1, 3, 7"):
        export(net, tmp_path / "net", to="onnx", example=torch.zeros(1, 1, 8, 8))
    assert list(tmp_path.iterdir()) == []


def test_how_much_may_differ_is_a_setting(net, tmp_path, monkeypatch):
    monkeypatch.setattr(to_onnx, "write", off_by(1e-2, to_onnx.write))
    done = export(net, tmp_path / "net", to="onnx", example=torch.zeros(1, 1, 8, 8), tolerance=0.1)
    assert done.max_difference == pytest.approx(1e-2, rel=0.01)
    with pytest.raises(HyperParameterError, match=r"tolerance = -1: zero or more"):
        export(net, tmp_path / "other", to="onnx", example=torch.zeros(1, 1, 8, 8), tolerance=-1)


class Noisy(nn.Module):
    def forward(self, x):
        return x.flatten(1) + torch.randn_like(x.flatten(1))


def test_a_network_that_draws_random_numbers_is_refused(tmp_path):
    with pytest.raises(LimbeckError, match="draws random numbers in eval mode"):
        export(Noisy(), tmp_path / "net", to="torch", example=torch.zeros(1, 1, 2, 2))
    assert list(tmp_path.iterdir()) == []


class Decides(nn.Module):
    def forward(self, x):
        return x * 2 if x.sum() > 0 else x


def test_a_network_that_torch_cannot_follow_is_explained(tmp_path):
    with pytest.raises(LimbeckError, match="torch cannot write this network as ONNX: "):
        export(Decides(), tmp_path / "net", to="onnx", example=torch.zeros(1, 3))
    assert list(tmp_path.iterdir()) == []


class Pair(nn.Module):
    """Two inputs, one of them class ids, and a dict as output."""

    def __init__(self):
        super().__init__()
        self.words, self.rest, self.head = nn.Embedding(7, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def forward(self, ids, extra):
        return {"logits": self.head(self.words(ids).mean(1) + self.rest(extra)), "hidden": ids}


@pytest.mark.parametrize("by_name", [True, False])
def test_several_inputs_and_outputs_in_a_dict(tmp_path, by_name):
    net = Pair().eval()
    ids, extra = torch.tensor([[1, 2], [3, 6], [0, 1]]), torch.randn(3, 3)
    example = {"extra": extra, "ids": ids} if by_name else (ids, extra)
    done = export(net, tmp_path / "net", to="onnx", example=example)
    names = ["extra", "ids"] if by_name else ["input1", "input2"]
    assert [entry["name"] for entry in done.told["inputs"]] == names
    inputs = (extra, ids) if by_name else (ids, extra)
    torch.testing.assert_close(open_export(done.folder)(*inputs), net(ids, extra)["logits"], atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("example", "kind", "text"),
    [
        ("x", TensorTypeError, "inputs are a tensor, a tuple of tensors or a mapping of them; got example: str"),
        ((), TensorTypeError, "got nothing"),
        (
            torch.zeros(0, 1, 8, 8),
            ShapeError,
            r"every input has the same number of rows, one or more; got input \[0, 1",
        ),
        (torch.zeros(2, 3, 8, 8), LimbeckError, r"does not run on the example \(input \[2, 3, 8, 8\] float32\)"),
    ],
)
def test_examples_that_are_none(net, tmp_path, example, kind, text):
    with pytest.raises(kind, match=text):
        export(net, tmp_path / "net", to="onnx", example=example)
    assert list(tmp_path.iterdir()) == []


# -- int8 ------------------------------------------------------------------------------------------


def batches(count=4, scale=1.0):
    random = torch.Generator().manual_seed(3)
    x = [torch.randn(32, 1, 8, 8, generator=random) * scale for _ in range(count)]
    return [(one, one.flatten(1).argmax(1) % 5) for one in x]


def test_int8_is_int8_and_near(net, tmp_path):
    done = export(
        net, tmp_path / "net", to="onnx-int8", example=torch.zeros(1, 1, 8, 8), calibration=batches(), test=batches(6)
    )
    graph = onnx.load(str(done.file)).graph
    kinds = [node.op_type for node in graph.node]
    assert kinds.count("DequantizeLinear") >= 4
    conv = next(t for t in graph.initializer if list(t.dims) == [6, 1, 3, 3])
    assert conv.data_type == onnx.TensorProto.INT8
    points = [t for t in graph.initializer if t.name == "input_zero_point"]
    assert [t.data_type for t in points] == [onnx.TensorProto.UINT8], (
        "x86 has fast kernels for unsigned activations only"
    )
    check = done.told["check"]
    x = torch.cat([x for x, _ in batches(6)])
    labels = torch.cat([y for _, y in batches(6)])
    session = onnxruntime.InferenceSession(str(done.file), providers=["CPUExecutionProvider"])
    found = torch.from_numpy(session.run(None, {"input": x.numpy()})[0]).double()
    expected = torch.from_numpy(by_hand(net, x.numpy()))
    assert check["rows"] == 192
    assert check["relative_difference"] == pytest.approx(float((found - expected).norm() / expected.norm()), rel=1e-3)
    assert 0 < check["relative_difference"] < 0.1
    assert check["agreement"] == pytest.approx(float((found.argmax(1) == expected.argmax(1)).double().mean()))
    assert check["accuracy"]["int8"] == pytest.approx(float((found.argmax(1) == labels).double().mean()))
    assert check["accuracy"]["float"] == pytest.approx(float((expected.argmax(1) == labels).double().mean()))
    assert done.told["details"]["calibration_rows"] == 128
    assert {path.name for path in done.folder.iterdir()} == {"model.onnx", "deploy.json"}


class Hourglass(nn.Module):
    """Down, up in two ways, and both together: onnxruntime's own symbolic shapes fail on it."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(1, 6, 3, stride=2, padding=1), nn.ConvTranspose2d(6, 6, 2, stride=2)
        self.pool, self.fc = nn.AdaptiveMaxPool2d(1), nn.Linear(12, 5)

    def forward(self, x):
        y = self.down(x).relu()
        larger = nn.functional.interpolate(y, scale_factor=2.0)[..., : x.shape[-2], : x.shape[-1]]
        return self.fc(self.pool(torch.cat([larger, self.up(y)], dim=1)).flatten(1))


def test_int8_of_a_network_without_symbolic_shapes_leaves_nothing_where_one_stands(tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    torch.manual_seed(0)
    done = export(
        Hourglass(),
        tmp_path / "net",
        to="onnx-int8",
        example=torch.zeros(1, 1, 8, 8),
        calibration=batches(),
        test=batches(6),
    )
    assert done.told["check"]["relative_difference"] < 0.1
    assert list(here.iterdir()) == []


def test_int8_that_lost_the_network_is_refused(net, tmp_path):
    """Ranges of activations from inputs a thousand times too small cut off all that comes later."""
    example = torch.zeros(1, 1, 8, 8)
    small, large = batches(2, scale=1e-3), batches(2, scale=30.0)
    with pytest.raises(LimbeckError, match=r"in int8 the logits are off by .* on 64 rows; that is another network"):
        export(net, tmp_path / "net", to="onnx-int8", example=example, calibration=small, test=large)
    assert list(tmp_path.iterdir()) == []


def test_int8_needs_data(net, tmp_path):
    with pytest.raises(HyperParameterError, match="onnx-int8 of a float network looks at data: give calibration="):
        export(net, tmp_path / "net", to="onnx-int8", example=torch.zeros(1, 1, 8, 8))
    with pytest.raises(DataError, match="the calibration batches are a int; an iterable of"):
        export(net, tmp_path / "net", to="onnx-int8", example=torch.zeros(1, 1, 8, 8), calibration=5)


def test_a_network_in_int8_keeps_its_integers(tmp_path):
    pytest.importorskip("torchao")
    from limbeck.compress.quantize import Quantize
    from limbeck.phase import Batch

    torch.manual_seed(0)
    net = Net().eval()
    calibration = [Batch(x, y) for x, y in batches()]
    program = Quantize("int8")(net, example=calibration[0].inputs[:2], calibration=calibration)
    done = export(program, tmp_path / "onnx", to="onnx-int8", example=torch.zeros(1, 1, 8, 8))
    graph = onnx.load(str(done.file)).graph
    kinds = {tuple(t.dims): t.data_type for t in graph.initializer}
    assert kinds[6, 1, 3, 3] == onnx.TensorProto.INT8
    assert {"QuantizeLinear", "DequantizeLinear"} <= {node.op_type for node in graph.node}
    x = batches()[0][0]
    off = open_export(done.folder)(x) - program(x)
    assert float(off.norm() / program(x).norm()) < 0.02
    with pytest.raises(HyperParameterError, match="an int8 program is a graph, no weights in a structure"):
        export(program, tmp_path / "weights", to="safetensors", example=torch.zeros(1, 1, 8, 8))
    done = export(program, tmp_path / "torch", to="torch", example=torch.zeros(1, 1, 8, 8))
    assert done.max_difference == 0
