"""Networks asked together, and networks asked for coarser classes."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn

from limbeck.errors import HyperParameterError, ShapeError
from limbeck.models import Ensemble, GroupedHead, load_weights, save_weights
from limbeck.taps import Tapped


def two(classes=3, seed=0):
    torch.manual_seed(seed)
    return [nn.Linear(4, classes), nn.Sequential(nn.Linear(4, 5), nn.BatchNorm1d(5), nn.ReLU(), nn.Linear(5, classes))]


def softmax(z):
    e = np.exp(z - z.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


class Says(nn.Module):
    """Fixed probabilities, as logits in a form of its own."""

    def __init__(self, p, form=lambda z: z):
        super().__init__()
        self.z, self.form = nn.Parameter(torch.tensor([p]).log()), form

    def forward(self, x):
        return self.form(self.z.expand(len(x), -1))


@pytest.mark.parametrize(("averaging", "p"), [("arithmetic", (0.7, 0.3)), ("geometric", (0.75, 0.25))])
def test_golden_means(averaging, p):
    net = Ensemble([Says((0.9, 0.1)), Says((0.5, 0.5))], averaging)
    assert net(torch.zeros(1, 1)).softmax(1)[0].tolist() == pytest.approx(p)


@pytest.mark.parametrize("weights", [None, (3.0, 1.0), (0.0, 1.0)])
def test_means_against_numpy(weights):
    members, x = two(), torch.randn(6, 4)
    w = np.asarray(weights or (1.0, 1.0)) / sum(weights or (1.0, 1.0))
    with torch.no_grad():
        z = [m.eval()(x).double().numpy() for m in members]
        arithmetic = Ensemble(members, weights=weights).eval()(x).numpy()
        geometric = Ensemble(members, "geometric", weights=weights).eval()(x).numpy()
    assert np.allclose(np.exp(arithmetic), sum(a * softmax(b) for a, b in zip(w, z)), atol=1e-6)
    assert np.allclose(geometric, sum(a * b for a, b in zip(w, z)), atol=1e-6)


def test_one_member_is_itself():
    member, x = two()[0], torch.randn(6, 4)
    assert torch.equal(Ensemble([member], "geometric")(x), member(x))
    assert torch.allclose(Ensemble([member])(x).softmax(1), member(x).softmax(1), atol=1e-6)


def test_outputs_in_any_form():
    forms = [lambda z: (z, 1), lambda z: {"logits": z}, lambda z: SimpleNamespace(logits=z)]
    net = Ensemble([Says((0.9, 0.1), form) for form in forms])
    assert net(torch.zeros(2, 1)).exp()[1].tolist() == pytest.approx([0.9, 0.1])


def test_keyword_inputs_reach_the_members():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.fc = nn.Linear(4, 3)

        def forward(self, *, pixels):
            return self.fc(pixels)

    x, member = torch.randn(2, 4), Named()
    seen = Tapped(Ensemble([member, member], "geometric"))({"pixels": x})
    assert torch.allclose(seen.logits, member.fc(x))


def test_keys_files_and_copies(tmp_path):
    net = Ensemble(two())
    assert {key.split(".")[0] for key in net.state_dict()} == {"member0", "member1"}
    assert "member1.3.bias" in net.state_dict()
    assert net.members == (net.member0, net.member1)
    save_weights(net, tmp_path / "e.safetensors")
    other = Ensemble(two(seed=5))
    load_weights(other, tmp_path / "e.safetensors")
    x = torch.randn(3, 4)
    assert torch.equal(other.eval()(x), net.eval()(x))
    assert torch.equal(copy.deepcopy(net)(x), net(x))
    assert "arithmetic, weights 0.5, 0.5" in repr(net)


def test_modes_are_the_members_own_until_the_whole_is_told():
    members = two()
    members[0].eval()
    net = Ensemble(members)
    assert [m.training for m in members] == [False, True]
    assert Ensemble(members, "geometric")(torch.randn(3, 4)).shape == (3, 3)
    assert [m.training for m in members] == [False, True]
    net.eval()
    assert [m.training for m in members] == [False, False]
    net.train()
    assert [m.training for m in members] == [True, True]


def test_taps_reach_into_a_member():
    seen = Tapped(Ensemble(two()).eval(), ["member1.2"])(torch.randn(3, 4))
    assert seen.taps["member1.2"].shape == (3, 5)


@pytest.mark.parametrize("averaging", ["arithmetic", "geometric"])
def test_it_can_be_exported(averaging):
    net, x = Ensemble(two(), averaging, weights=(2, 1)).eval(), torch.randn(3, 4)
    exported = torch.export.export(net, (x,)).module()
    assert torch.allclose(exported(x), net(x), atol=1e-6)


def test_half_precision_is_averaged_in_full():
    net = Ensemble(two()).eval()
    x = torch.randn(3, 4)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = net(x)
    assert z.dtype == torch.float32
    assert torch.allclose(z.exp().sum(1), torch.ones(3), atol=1e-6)


def test_bad_members():
    with pytest.raises(HyperParameterError, match="an ensemble needs one network at least, and this list is empty"):
        Ensemble([])
    with pytest.raises(HyperParameterError, match=r"members\[1\] is a str; a member is a torch.nn.Module"):
        Ensemble([nn.Linear(2, 2), "resnet20"])
    with pytest.raises(HyperParameterError, match="averaging = 'mean': one of arithmetic, geometric"):
        Ensemble(two(), "mean")
    with pytest.raises(HyperParameterError, match="1 for 2 teachers"):
        Ensemble(two(), weights=[1.0])
    with pytest.raises(ShapeError, match=r"these give member0 \[2, 3\], member1 \[2, 4\]"):
        Ensemble([nn.Linear(4, 3), nn.Linear(4, 4)])(torch.zeros(2, 4))
    with pytest.raises(ShapeError, match=r'the members give \[2, 1\]. averaging="geometric" takes the mean'):
        Ensemble([nn.Linear(4, 1)] * 2)(torch.zeros(2, 4))
    assert Ensemble([nn.Linear(4, 1)] * 2, "geometric")(torch.zeros(2, 4)).shape == (2, 1)


# -- grouped heads --------------------------------------------------------------------------------------


def test_probabilities_are_summed():
    torch.manual_seed(0)
    member, x = nn.Linear(4, 6), torch.randn(5, 4)
    p = softmax(member(x).detach().double().numpy())
    coarse = GroupedHead(member, [(0, 4), (1, 3, 5), (2,)])
    wanted = np.stack([p[:, [0, 4]].sum(1), p[:, [1, 3, 5]].sum(1), p[:, 2]], 1)
    assert np.allclose(coarse(x).softmax(1).detach().numpy(), wanted, atol=1e-6)
    assert list(coarse.state_dict()) == ["model.weight", "model.bias"]
    assert torch.allclose(torch.export.export(coarse, (x,)).module()(x), coarse(x))
    assert "groups=((0, 4), (1, 3, 5), (2,))" in repr(coarse)


def test_groups_that_do_not_fit():
    with pytest.raises(HyperParameterError, match="twice: 1"):
        GroupedHead(nn.Linear(4, 3), [(0, 1), (1, 2)])
    with pytest.raises(HyperParameterError, match="left out: 1"):
        GroupedHead(nn.Linear(4, 3), [(0,), (2,)])
    with pytest.raises(ShapeError, match=r"are of 4 classes, and the model gives logits \[2, 3\]"):
        GroupedHead(nn.Linear(4, 3), [(0, 1), (2, 3)])(torch.zeros(2, 4))
