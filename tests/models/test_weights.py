from __future__ import annotations

import pytest
import torch
from safetensors import safe_open
from torch import nn

from limbeck import models
from limbeck.errors import WeightsError


def state(model: nn.Module) -> dict[str, torch.Tensor]:
    return {key: value.clone() for key, value in model.state_dict().items()}


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    return a.keys() == b.keys() and all(torch.equal(a[key], b[key]) for key in a)


class Tied(nn.Module):
    def __init__(self):
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def test_round_trip_is_exact(tmp_path):
    net = models.build("resnet8", classes=10)
    net(torch.randn(4, 3, 32, 32))  # buffers that are not at their start
    models.save_weights(net, tmp_path / "w.safetensors")
    other = models.build("resnet8", classes=10)
    assert not same(state(net), state(other))
    models.load_weights(other, tmp_path / "w.safetensors")
    assert same(state(net), state(other))
    assert int(other.state_dict()["stem.1.num_batches_tracked"]) == 1
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_layout_in_memory_does_not_matter(tmp_path):
    net = models.build("resnet8", classes=10).to(memory_format=torch.channels_last)
    models.save_weights(net, tmp_path / "w.safetensors")
    other = models.build("resnet8", classes=10)
    models.load_weights(other, tmp_path / "w.safetensors")
    assert same(state(net), state(other))


def test_tied_tensors_are_stored_once_and_stay_tied(tmp_path):
    net = Tied()
    models.save_weights(net, tmp_path / "w.safetensors")
    with safe_open(tmp_path / "w.safetensors", "pt") as file:
        assert list(file.keys()) == ["embed.weight"]
    other = Tied()
    models.load_weights(other, tmp_path / "w.safetensors")
    assert same(state(net), state(other))
    assert other.head.weight is other.embed.weight


def test_another_precision_is_converted(tmp_path):
    net = nn.Linear(2, 2).to(torch.float64)
    models.save_weights(net, tmp_path / "w.safetensors")
    other = nn.Linear(2, 2)
    models.load_weights(other, tmp_path / "w.safetensors")
    assert torch.equal(other.weight, net.weight.float())


def test_a_failed_write_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "w.safetensors"
    models.save_weights(nn.Linear(2, 2), path)
    before = path.read_bytes()

    def full(*_args):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(WeightsError, match=r"cannot write the weights to .*w.safetensors: No space left on device"):
        models.save_weights(nn.Linear(2, 2), path)
    assert path.read_bytes() == before
    assert [p.name for p in tmp_path.iterdir()] == ["w.safetensors"]


def test_a_missing_folder_is_said(tmp_path):
    with pytest.raises(WeightsError, match=r"cannot write the weights to .*nowhere.*: No such file or directory"):
        models.save_weights(nn.Linear(2, 2), tmp_path / "nowhere" / "w.safetensors")


def test_another_network_is_refused_with_the_keys_and_nothing_is_changed(tmp_path):
    models.save_weights(models.build("resnet14", classes=100), tmp_path / "w.safetensors")
    net = models.build("resnet8", classes=10)
    before = state(net)
    with pytest.raises(WeightsError) as caught:
        models.load_weights(net, tmp_path / "w.safetensors")
    text = str(caught.value)
    assert "does not fit Sequential: " in text
    assert "36 unexpected: layer1.1.bn1.bias [16], layer1.1.bn1.num_batches_tracked [] int64, " in text
    assert " and 32 more; " in text
    fc = "fc.weight [100, 64] in the file, [10, 64] in the network, fc.bias [100] in the file, [10] in the network"
    assert text.endswith(f"2 mismatched: {fc}")
    assert same(state(net), before)


def test_missing_keys_are_named_with_their_shapes(tmp_path):
    models.save_weights(nn.Sequential(nn.Linear(2, 3)), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"2 missing: 1.weight \[4, 3\], 1.bias \[4\]$"):
        models.load_weights(nn.Sequential(nn.Linear(2, 3), nn.Linear(3, 4)), tmp_path / "w.safetensors")


def test_whole_numbers_do_not_fit_fractions(tmp_path):
    class Count(nn.Module):
        def __init__(self, kind):
            super().__init__()
            self.register_buffer("n", torch.zeros(2, dtype=kind))

    models.save_weights(Count(torch.int64), tmp_path / "w.safetensors")
    with pytest.raises(WeightsError, match=r"1 mismatched: n \[2\] int64 in the file, \[2\] in the network"):
        models.load_weights(Count(torch.float32), tmp_path / "w.safetensors")


def test_unreadable_files(tmp_path):
    net = nn.Linear(2, 2)
    with pytest.raises(WeightsError, match=r"no file of weights at .*none.safetensors$"):
        models.load_weights(net, tmp_path / "none.safetensors")
    with pytest.raises(WeightsError, match=r"no file of weights at .* \(that is a folder\)"):
        models.load_weights(net, tmp_path)
    (tmp_path / "bad.safetensors").write_bytes(b"not weights at all")
    with pytest.raises(WeightsError, match=r"bad.safetensors cannot be read as a safetensors file: "):
        models.load_weights(net, tmp_path / "bad.safetensors")
    models.save_weights(net, tmp_path / "cut.safetensors")
    whole = (tmp_path / "cut.safetensors").read_bytes()
    (tmp_path / "cut.safetensors").write_bytes(whole[:-5])
    with pytest.raises(WeightsError, match=r"cut.safetensors cannot be read as a safetensors file: "):
        models.load_weights(net, tmp_path / "cut.safetensors")


def test_a_state_that_is_no_tensor_is_refused(tmp_path):
    class Extra(nn.Module):
        def get_extra_state(self):
            return {"a": 1}

        def set_extra_state(self, state):
            pass

    with pytest.raises(WeightsError, match="_extra_state of Extra is a dict; only tensors can be stored"):
        models.save_weights(Extra(), tmp_path / "w.safetensors")
