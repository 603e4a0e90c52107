"""What an export is given: layouts, types, orders and names of inputs; and what is told of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import limbeck as lk
from limbeck.errors import HyperParameterError, LimbeckError, ShapeError, TensorTypeError
from limbeck.export import open_export
from limbeck.export.pictures import preprocessing


def small() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 4)).eval()


X = torch.randn(5, 3, 8, 8, generator=torch.Generator().manual_seed(0))
LAYOUTS = {
    "channels_last": X.contiguous(memory_format=torch.channels_last),
    "transposed": X.mT.contiguous().mT,
    "sliced": torch.cat([X, X], 3)[..., :8],
    "learns": X.clone().requires_grad_(),
}


# -- layouts -----------------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["torch", "aot", "onnx", "openvino", "executorch"])
def test_the_layout_in_memory_does_not_matter(tmp_path: Path, to: str) -> None:
    net = small()
    # The layout of the weights and of the example must not get into the file either.
    lk.export(net.to(memory_format=torch.channels_last), tmp_path / "e", to=to, example=LAYOUTS["channels_last"])
    run, expected = open_export(tmp_path / "e"), net(X).detach()
    for name, given in {"usual": X, **LAYOUTS}.items():
        torch.testing.assert_close(run(given), expected, atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.parametrize(
    ("given", "kind", "text"),
    [
        (X.double(), TensorTypeError, r"takes float32; got float64: convert them, as with \.to\(torch\.float32\)"),
        (X.to(torch.uint8), TensorTypeError, "takes float32; got uint8"),
        (X.half(), TensorTypeError, "takes float32; got float16"),
        (X.numpy(), TensorTypeError, "takes tensors; got a ndarray"),
        (X[:0], ShapeError, "one row or more"),
        (X[:, :1], ShapeError, r"takes \['batch', 3, 8, 8\]; got \[5, 1, 8, 8\]"),
    ],
    ids=["float64", "uint8", "float16", "numpy", "empty", "grey"],
)
def test_other_inputs_are_refused(tmp_path: Path, given: Any, kind: type[Exception], text: str) -> None:
    lk.export(small(), tmp_path / "e", to="torch", example=X)
    with pytest.raises(kind, match=text):
        open_export(tmp_path / "e")(given)


@pytest.mark.parametrize(("to", "dtype"), [("onnx", torch.float16), ("torch", torch.bfloat16)], ids=str)
def test_half_precision_is_measured_by_its_own_last_place(tmp_path: Path, to: str, dtype: torch.dtype) -> None:
    net = small().to(dtype)
    done = lk.export(net, tmp_path / "e", to=to, example=X.to(dtype))
    assert done.told["inputs"][0]["dtype"] == str(dtype).removeprefix("torch.")
    torch.testing.assert_close(
        open_export(tmp_path / "e")(X.to(dtype)), net(X.to(dtype)).detach(), atol=0.05, rtol=0.05
    )


# -- several inputs ----------------------------------------------------------------------------


class Two(nn.Module):
    """Something else of each of its two inputs."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.left, self.right, self.out = nn.Linear(6, 32), nn.Linear(6, 32), nn.Linear(32, 3)

    def forward(self, a: Tensor, b: Tensor) -> Tensor:
        return self.out(F.relu(self.left(a)) - 3 * F.relu(self.right(b)))


def pairs(count: int = 4) -> list[dict[str, Tensor]]:
    numbers = torch.Generator().manual_seed(0)
    return [
        {"a": torch.randn(64, 6, generator=numbers), "b": 5 * torch.rand(64, 6, generator=numbers)}
        for _ in range(count)
    ]


def test_calibration_goes_by_name(tmp_path: Path) -> None:
    net, batches = Two().eval(), pairs()
    turned = [{"b": batch["b"], "a": batch["a"]} for batch in batches]
    done = lk.export(net, tmp_path / "e", to="onnx-int8", example=batches[0], calibration=turned)
    assert done.told["check"]["agreement"] > 0.9
    fresh = {"a": torch.randn(256, 6), "b": 5 * torch.rand(256, 6)}
    got = open_export(tmp_path / "e")(fresh["a"], fresh["b"])
    assert float((got.argmax(1) == net(**fresh).argmax(1)).float().mean()) > 0.9


def test_calibration_with_other_inputs_is_refused(tmp_path: Path) -> None:
    batches = pairs()
    for wrong in ([{**b, "c": b["a"]} for b in batches], [{"a": b["a"]} for b in batches]):
        with pytest.raises(LimbeckError, match="and the example of this network a, b;"):
            lk.export(Two(), tmp_path / "e", to="onnx-int8", example=batches[0], calibration=wrong)
    assert not list(tmp_path.iterdir())


def test_inputs_in_a_row_are_calibrated_by_their_numbers(tmp_path: Path) -> None:
    batches = pairs()
    named = [{"input1": b["a"], "input2": b["b"], "labels": torch.zeros(64, dtype=torch.int64)} for b in batches]
    done = lk.export(
        Two(), tmp_path / "e", to="onnx-int8", example=(batches[0]["a"], batches[0]["b"]), calibration=named
    )
    assert done.told["check"]["accuracy"]["rows"] == 256


def test_an_input_may_be_called_like_what_comes_out(tmp_path: Path) -> None:
    class Second(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(4, 2)

        def forward(self, logits: Tensor) -> Tensor:
            return self.fc(logits)

    done = lk.export(Second(), tmp_path / "e", to="onnx", example={"logits": torch.randn(2, 4)})
    assert done.told["output"]["name"] == "logits_out"
    assert open_export(tmp_path / "e")(torch.randn(3, 4)).shape == (3, 2)


# -- what cannot run ---------------------------------------------------------------------------


def test_a_network_that_needs_several_rows_is_explained(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Linear(4, 4), nn.BatchNorm1d(4, track_running_stats=False), nn.Linear(4, 2))
    with pytest.raises(
        LimbeckError, match=r"the network does not run on a batch of \[1, 4\] float32: .*more than 1 value"
    ):
        lk.export(net, tmp_path / "e", to="torch", example=torch.randn(8, 4))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("wrong", [torch.randn(4, 7), torch.zeros(0, 6)], ids=["size", "empty"])
def test_rows_to_measure_on_that_do_not_fit(tmp_path: Path, wrong: Tensor) -> None:
    net = nn.Sequential(nn.Linear(6, 8), nn.ReLU(), nn.Linear(8, 3))
    batches = [torch.randn(32, 6)]
    with pytest.raises(LimbeckError, match=r"does not run on a batch of|is empty"):
        lk.export(net, tmp_path / "e", to="onnx-int8", example=batches[0], calibration=batches, test=[wrong])
    assert not list(tmp_path.iterdir())


def test_networks_that_are_compiled_are_exported_as_they_are_inside(tmp_path: Path) -> None:
    net = small()
    lk.export(torch.compile(net), tmp_path / "own", to="safetensors", example=X)
    again = small()
    with torch.no_grad():
        again[0].weight.zero_()
    lk.load_weights(again, tmp_path / "own" / "model.safetensors")
    assert torch.equal(again(X), net(X))
    zoo = lk.build("digits_mlp", classes=4, in_channels=3, size=8).eval()
    lk.export(torch.compile(zoo), tmp_path / "zoo", to="safetensors", example=X)
    assert torch.equal(open_export(tmp_path / "zoo")(X), zoo(X).detach())


# -- what is told ------------------------------------------------------------------------------


@pytest.mark.parametrize("classes", ["abcd", {0: "a", 1: "b", 2: "c", 3: "d"}, 4], ids=["text", "mapping", "number"])
def test_classes_are_a_list(tmp_path: Path, classes: Any) -> None:
    with pytest.raises(HyperParameterError, match="a list of names in the order of the logits"):
        lk.export(small(), tmp_path / "e", to="torch", example=X, classes=classes)


def test_what_the_file_tells_is_looked_at_before_it_is_made(tmp_path: Path) -> None:
    grey = preprocessing((1, 8, 8), (0.5,), (0.5,))
    with pytest.raises(
        HyperParameterError, match=r"preprocessing makes inputs of \[1, 8, 8\] .* the example has \[3, 8, 8\]"
    ):
        lk.export(small(), tmp_path / "e", to="torch", example=X, preprocessing=grey)
    for odd in (float("nan"), object()):
        with pytest.raises(HyperParameterError, match="plain data, as JSON holds it"):
            lk.export(small(), tmp_path / "e", to="torch", example=X, origin={"odd": odd})
    assert not list(tmp_path.iterdir())


def test_maps_of_scores_have_their_classes_second(tmp_path: Path) -> None:
    net = nn.Sequential(nn.Conv2d(3, 2, 1))
    done = lk.export(net, tmp_path / "e", to="torch", example=X, classes=["cell", "none"])
    assert "over the second axis" in done.told["output"]["meaning"]
    assert json.loads((tmp_path / "e" / "deploy.json").read_text())["classes"] == ["cell", "none"]


def test_what_a_killed_export_left_is_swept(tmp_path: Path) -> None:
    left = tmp_path / ".e.999999999.part"
    left.mkdir()
    (left / "model.pt2").write_bytes(b"half")
    other = tmp_path / ".f.999999999.part"
    other.mkdir()
    lk.export(small(), tmp_path / "e", to="torch", example=X)
    assert sorted(path.name for path in tmp_path.iterdir()) == [".f.999999999.part", "e"]


def test_predict_with_a_network_in_half_precision(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    from PIL import Image

    from limbeck.cli import main

    told = preprocessing((3, 8, 8), (0.5, 0.5, 0.5), (0.5, 0.5, 0.5))
    lk.export(small().half(), tmp_path / "e", to="torch", example=X.half(), preprocessing=told)
    Image.new("RGB", (8, 8), "red").save(tmp_path / "red.png")
    assert main(["predict", str(tmp_path / "e"), str(tmp_path / "red.png")]) == 0
    assert "%" in capsys.readouterr().out


# -- how many rows -------------------------------------------------------------------------------


class Counting(nn.Module):
    """Sums that know how many there are."""

    def __init__(self, most: int | None = None, *, by_len: bool = False) -> None:
        super().__init__()
        self.fc, self.most, self.by_len = nn.Linear(6, 3), most, by_len

    def forward(self, x: Tensor) -> Tensor:
        rows = len(x) if self.by_len else x.shape[0]
        x = x.view(rows, 2, 3).transpose(1, 2).reshape(rows, 6)
        return self.fc(x) if self.most is None or rows <= self.most else self.fc(-x)


@pytest.mark.parametrize("to", ["torch", "aot", "onnx"])
def test_len_leaves_the_rows_open(tmp_path: Path, to: str) -> None:
    torch.manual_seed(0)
    net, x = Counting(by_len=True).eval(), torch.randn(40, 6)
    lk.export(net, tmp_path / "e", to=to, example=x[:3])
    torch.testing.assert_close(open_export(tmp_path / "e")(x), net(x).detach(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("by_len", [False, True])
@pytest.mark.parametrize("to", ["torch", "aot", "onnx"])
def test_what_counts_its_rows_is_refused(tmp_path: Path, to: str, by_len: bool) -> None:
    # No batch of the comparison has so many: a file without the condition would pass it, and be wrong from 101 rows on.
    with pytest.raises(LimbeckError, match=r"(hold for 1 to 100 rows only|does not take this network.*number of rows)"):
        lk.export(Counting(100, by_len=by_len).eval(), tmp_path / "e", to=to, example=torch.randn(3, 6))
    assert not (tmp_path / "e").exists()
