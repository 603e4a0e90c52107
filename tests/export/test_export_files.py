"""Torch's formats, weights with structure, and the folder around them."""

from __future__ import annotations

import json
import re
import shutil
import zipfile
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn
from torch.nn.utils import parametrize

import limbeck as lk
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, ShapeError, WeightsError
from limbeck.export import needs, to_weights
from limbeck.export.making import export
from limbeck.export.opening import open_export
from limbeck.export.targets import TARGETS, target
from limbeck.models.ensemble import Ensemble

EXAMPLE = torch.zeros(1, 1, 8, 8)


def network(seed=0, name="digits_cnn_thin"):
    torch.manual_seed(seed)
    net = lk.build(name, classes=10)
    with torch.no_grad():
        for _ in range(2):
            net(torch.randn(16, 1, 8, 8))
    return net


def rows(count=5):
    return torch.randn(count, 1, 8, 8, generator=torch.Generator().manual_seed(count))


def answers(net, x):
    net.eval()
    with torch.no_grad():
        return net(x)


# -- torch -----------------------------------------------------------------------------------------


def test_torch_export_takes_any_number_of_rows_and_tells_no_paths(tmp_path):
    net = network()
    done = export(net, tmp_path / "net", to="torch", example=EXAMPLE)
    assert done.max_difference == 0
    module = torch.export.load(done.file).module()
    for count in (1, 2, 9):
        assert torch.equal(module(rows(count)), answers(net, rows(count)))
    with zipfile.ZipFile(done.file) as archive:
        assert not [name for name in archive.namelist() if b".py" in archive.read(name)]
        assert not [n for n in archive.namelist() if "sample_inputs" in n and archive.getinfo(n).file_size]


class Halves(nn.Module):
    def forward(self, weight):
        return weight / 2


def test_masks_and_the_like_are_written_into_the_weights(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 4))
    parametrize.register_parametrization(net[1], "weight", Halves())
    done = export(net, tmp_path / "net", to="torch", example=EXAMPLE)
    program = torch.export.load(done.file)
    values = list(program.state_dict.values())
    assert sorted(tuple(value.shape) for value in values) == [(4,), (4, 64)]
    assert torch.equal(next(v for v in values if v.ndim == 2), net[1].parametrizations.weight.original / 2)
    assert parametrize.is_parametrized(net[1]), "the network stays as it is"


@pytest.mark.slow
def test_compiled_ahead_of_time(tmp_path):
    """Two layers only: the compiler takes seconds as it is."""
    try:
        needs.need_compiler()
    except LimbeckError:
        pytest.skip("no C++ compiler")
    torch.manual_seed(1)
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    done = export(net, tmp_path / "net", to="aot", example=EXAMPLE)
    assert done.told["details"]["processor"]
    opened = open_export(done.folder)
    for count in (1, 4):
        torch.testing.assert_close(opened(rows(count)), answers(net, rows(count)), atol=1e-5, rtol=0)


def test_without_a_compiler(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(LimbeckError, match=r"there is none here \(tried no-such-compiler\).*take --to torch"):
        export(network(), tmp_path / "net", to="aot", example=EXAMPLE)
    assert list(tmp_path.iterdir()) == []


# -- weights ---------------------------------------------------------------------------------------


def test_weights_and_structure_make_the_network_again(tmp_path):
    net = network(3)
    done = export(net, tmp_path / "net", to="safetensors", example=EXAMPLE)
    moved = shutil.copytree(done.folder, tmp_path / "elsewhere")
    assert torch.equal(open_export(moved)(rows()), answers(net, rows()))
    kept = load_file(done.file)
    assert set(kept) == set(net.state_dict())


def test_a_network_with_fewer_channels(tmp_path):
    net = network()
    convs = [name for name, part in net.named_modules() if isinstance(part, nn.Conv2d)]
    last = net.get_submodule(convs[0])
    norm = next(part for part in net.modules() if isinstance(part, nn.BatchNorm2d))
    following = net.get_submodule(convs[1])
    keep = torch.arange(last.out_channels - 1)
    last.weight, last.out_channels = nn.Parameter(last.weight.detach()[keep].clone()), len(keep)
    if last.bias is not None:
        last.bias = nn.Parameter(last.bias.detach()[keep].clone())
    for name in ("weight", "bias"):
        setattr(norm, name, nn.Parameter(getattr(norm, name).detach()[keep].clone()))
    for name in ("running_mean", "running_var"):
        setattr(norm, name, getattr(norm, name)[keep].clone())
    norm.num_features = len(keep)
    following.weight = nn.Parameter(following.weight.detach()[:, keep].clone())
    following.in_channels = len(keep)
    done = export(net, tmp_path / "net", to="safetensors", example=EXAMPLE)
    assert torch.equal(open_export(done.folder)(rows()), answers(net, rows()))


def test_an_ensemble(tmp_path):
    net = Ensemble([network(1), network(2, "digits_mlp")], averaging="geometric", weights=[3, 1])
    done = export(net, tmp_path / "net", to="safetensors", example=EXAMPLE)
    assert torch.equal(open_export(done.folder)(rows()), answers(net, rows()))


@pytest.mark.parametrize("how", [lk.Prune(keep=0.5), lk.Mask(sparsity=0.5), lk.Binarize(fewest=4)])
def test_what_a_chain_left(tmp_path, how):
    """What the zoo would build by the network's name is not it any more; what it was made of stays known."""
    net = lk.compress(network(), [how], [(rows(16), torch.arange(16) % 10)], quiet=True)
    assert getattr(net, "zoo_options", None) is None
    done = export(net, tmp_path / "net", to="safetensors", example=EXAMPLE)
    assert done.max_difference == 0
    assert not [key for key in load_file(done.file) if "parametrizations" in key]
    assert torch.equal(open_export(done.folder)(rows()), answers(net, rows()))


class Shifted(nn.Module):
    """A network with numbers that no file of weights holds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("shift", torch.arange(10.0), persistent=False)
        self.inner = network()

    def forward(self, x):
        return self.inner(x) + self.shift


def test_numbers_that_are_in_no_file_of_weights(tmp_path, monkeypatch):
    net = Shifted()
    net.zoo_options = {"name": "digits_cnn_thin", "classes": 10}
    monkeypatch.setattr(to_weights, "build", lambda **options: Shifted())
    done = export(net, tmp_path / "net", to="safetensors", example=EXAMPLE)
    assert torch.equal(open_export(done.folder)(rows()), answers(net, rows()))


def test_a_class_of_ones_own_leaves_its_weights(tmp_path):
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    done = export(net, tmp_path / "net", to="safetensors", example=EXAMPLE)
    assert done.max_difference is None, "there was nothing to run"
    assert {path.name for path in done.folder.iterdir()} == {"model.safetensors", "deploy.json"}
    with pytest.raises(
        LimbeckError, match=r"weights alone: torch\.nn\.modules\.container\.Sequential is no network that"
    ):
        open_export(done.folder)
    again = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    lk.load_weights(again, done.file)
    assert torch.equal(answers(again, rows()), answers(net, rows()))


def test_a_structure_that_makes_another_network_is_refused(tmp_path, monkeypatch):
    real = to_weights.described
    monkeypatch.setattr(
        to_weights, "described", lambda net: {**(real(net) or {}), "network": {**net.zoo_options, "name": "digits_cnn"}}
    )
    with pytest.raises(WeightsError, match="does not fit"):
        export(network(), tmp_path / "net", to="safetensors", example=EXAMPLE)
    assert list(tmp_path.iterdir()) == []


# -- the folder ------------------------------------------------------------------------------------


@pytest.fixture
def made(tmp_path):
    return export(network(), tmp_path / "net", to="safetensors", example=EXAMPLE)


def test_an_earlier_export_is_replaced(made):
    before = made.file.read_bytes()
    again = export(network(7), made.folder, to="torch", example=EXAMPLE)
    assert {path.name for path in again.folder.iterdir()} == {"model.pt2", "deploy.json"}
    assert [path.name for path in made.folder.parent.iterdir()] == ["net"]
    assert again.file.read_bytes() != before


def test_a_link_to_an_earlier_export_stays_one(made, tmp_path):
    (tmp_path / "link").symlink_to(made.folder)
    export(network(7), tmp_path / "link", to="torch", example=EXAMPLE)
    assert (tmp_path / "link").is_symlink()
    assert {path.name for path in made.folder.iterdir()} == {"model.pt2", "deploy.json"}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "net"]


def test_what_a_killed_export_put_aside_comes_back_or_goes(made):
    gone = next(number for number in range(100_000, 200_000) if not Path(f"/proc/{number}").exists())
    aside = made.folder.with_name(f".net.{gone}.old")
    made.folder.rename(aside)
    with pytest.raises(LimbeckError):
        export(nn.Dropout(), made.folder, to="torch", example=torch.zeros(3))
    export(network(), made.folder.with_name("net2"), to="safetensors", example=EXAMPLE)
    assert aside.exists()  # another export's
    export(network(7), made.folder, to="torch", example=EXAMPLE)
    assert sorted(path.name for path in made.folder.parent.iterdir()) == ["net", "net2"]


def test_and_stays_where_the_new_one_fails(made):
    before = {path.name: path.read_bytes() for path in made.folder.iterdir()}
    with pytest.raises(LimbeckError):
        export(nn.Dropout(), made.folder, to="torch", example=torch.zeros(3))
    assert {path.name: path.read_bytes() for path in made.folder.iterdir()} == before
    assert [path.name for path in made.folder.parent.iterdir()] == ["net"]


def test_other_folders_are_left_alone(made, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("x")
    with pytest.raises(LimbeckError, match=r"is not empty and no export \(it holds thesis\.txt\)"):
        export(network(), tmp_path / "mine", to="torch", example=EXAMPLE)
    (made.folder / "notes.txt").write_text("x")
    with pytest.raises(LimbeckError, match=r"an export and something else \(notes\.txt\)"):
        export(network(), made.folder, to="torch", example=EXAMPLE)
    with pytest.raises(LimbeckError, match="is a file; an export is a folder"):
        export(network(), tmp_path / "mine" / "thesis.txt", to="torch", example=EXAMPLE)
    with pytest.raises(LimbeckError, match="cannot write beside"):
        export(network(), tmp_path / "mine" / "thesis.txt" / "net", to="torch", example=EXAMPLE)


def test_files_that_were_changed_are_noticed(made):
    data = bytearray(made.file.read_bytes())
    data[-1] ^= 1
    made.file.write_bytes(bytes(data))
    with pytest.raises(LimbeckError, match=r"is not the file that deploy\.json speaks of"):
        open_export(made.folder)
    made.file.unlink()
    with pytest.raises(LimbeckError, match=r"speaks of model\.safetensors, which is not beside it"):
        open_export(made.folder)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{", "cannot be read"),
        ("[]", "has format None; this limbeck reads format 1"),
        ('{"format": 9}', "has format 9"),
        ('{"format": 1}', "says nothing of to, file, files, inputs, output"),
    ],
)
def test_a_deploy_json_that_is_none(made, text, said):
    (made.folder / "deploy.json").write_text(text)
    with pytest.raises(LimbeckError, match=re.escape(said)):
        open_export(made.folder)


def test_inputs_of_another_shape(made):
    with pytest.raises(ShapeError, match=r"takes \['batch', 1, 8, 8\]; got \[2, 3, 8, 8\]"):
        open_export(made.folder)(torch.zeros(2, 3, 8, 8))


def test_settings_that_do_not_fit(tmp_path):
    with pytest.raises(NameUnknown, match=re.escape("no format 'onx'; near: onnx")):
        export(network(), tmp_path / "net", to="onx", example=EXAMPLE)
    with pytest.raises(HyperParameterError, match="classes has 2 names, and the network gives 10 logits"):
        export(network(), tmp_path / "net", to="torch", example=EXAMPLE, classes=["a", "b"])
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(("to", "extra"), [("onnx", "onnx"), ("openvino", "openvino"), ("executorch", "executorch")])
def test_packages_that_are_missing(tmp_path, monkeypatch, to, extra):
    monkeypatch.setattr(needs, "find_spec", lambda name: None)
    with pytest.raises(LimbeckError, match=re.escape(f"not installed; try: pip install 'limbeck[{extra}]'")):
        export(network(), tmp_path / "net", to=to, example=EXAMPLE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", TARGETS)
def test_every_format_has_its_functions(name):
    assert callable(target(name).writer)
    assert callable(target(name).opener)


def test_the_room_is_the_function(tmp_path):
    done = lk.export(network(), str(tmp_path / "net"), to="safetensors", example=EXAMPLE, origin={"from": "a test"})
    assert json.loads((done.folder / "deploy.json").read_text())["origin"] == {"from": "a test"}
