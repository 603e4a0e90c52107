from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from limbeck import models
from limbeck.errors import HyperParameterError
from limbeck.models import Bottleneck, fold, students


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def test_the_papers_numbers():
    with torch.device("meta"):
        assert count(Bottleneck(1845, 30_000, 250, bias=False)) == 7_961_250
        assert count(Bottleneck(1845, 30_000, 250)) == 7_961_250 + 30_000
        assert count(nn.Linear(1845, 30_000, bias=False)) == 55_350_000


def test_it_is_the_product_of_two_matrices():
    torch.manual_seed(0)
    layer = Bottleneck(5, 4, 2).double()
    with torch.no_grad():
        layer.up.bias.normal_()
    x = torch.randn(3, 5, dtype=torch.float64)
    u, v, b = (p.detach().numpy() for p in (layer.up.weight, layer.down.weight, layer.up.bias))
    assert torch.allclose(layer(x), torch.tensor(x.numpy() @ (u @ v).T + b), atol=1e-12)
    assert (layer(2 * x) - layer.up.bias).allclose(2 * (layer(x) - layer.up.bias))
    assert models.count_macs(layer, x) == 2 * (5 + 4)


def test_what_goes_in_keeps_its_size_at_the_start():
    torch.manual_seed(0)
    layer = Bottleneck(400, 300, 100)
    assert layer(torch.randn(200, 400)).std().item() == pytest.approx(1.0, rel=0.1)


@pytest.mark.parametrize("numbers", [(4, 3, 0), (0, 3, 2), (4, -1, 2), (4, 3, 2.0)])
def test_bad_numbers(numbers):
    with pytest.raises(HyperParameterError, match="a whole number, 1 or more"):
        Bottleneck(*numbers)


def test_a_wide_bottleneck_says_that_it_is_pointless():
    assert Bottleneck(4, 3, 3).note is None
    assert Bottleneck(4, 3, 4).note == "a bottleneck of 4 between 4 and 3 adds nothing that one of 3 has not"


@pytest.mark.parametrize("convs", [0, 1])
def test_folding_keeps_the_outputs_and_the_old_network(convs):
    torch.manual_seed(0)
    net = models.build("mimic", classes=5, in_channels=2, size=8, convs=convs, width=4, bottleneck=6, hidden=50)
    for p in net.parameters():
        nn.init.normal_(p, std=0.3)
    before = copy.deepcopy(net.state_dict())
    state = torch.get_rng_state()
    net.eval()
    folded = fold(net)
    assert torch.equal(torch.get_rng_state(), state)
    x = torch.randn(7, 2, 8, 8)
    assert torch.allclose(folded(x), net(x), rtol=1e-4, atol=1e-4)
    assert not any(isinstance(part, Bottleneck) for part in folded.modules())
    assert isinstance(folded.get_submodule(f"layer{convs + 1}.0"), nn.Linear)
    assert not any(part.training for part in folded.modules())
    assert net.state_dict().keys() == before.keys()
    assert all(torch.equal(value, before[key]) for key, value in net.state_dict().items())
    mine = {p.data_ptr() for p in net.parameters()}
    assert not any(p.data_ptr() in mine for p in folded.parameters())


def test_folding_in_float64_is_exact_to_rounding():
    torch.manual_seed(0)
    layer, x = Bottleneck(9, 7, 3, bias=False).double(), torch.randn(4, 9, dtype=torch.float64)
    folded = fold(layer)
    assert isinstance(folded, nn.Linear)
    assert folded.bias is None
    assert folded.weight.dtype == torch.float64
    assert torch.allclose(folded(x), layer(x), rtol=0, atol=1e-13)


def test_folding_keeps_what_is_frozen_and_shared():
    frozen = Bottleneck(4, 4, 2).requires_grad_(False)
    net = nn.Sequential(frozen, nn.ReLU(), frozen, Bottleneck(4, 3, 2))
    folded = fold(net)
    assert folded[0] is folded[2]
    assert [p.requires_grad for p in folded[0].parameters()] == [False, False]
    assert [p.requires_grad for p in folded[3].parameters()] == [True, True]
    plain = nn.Sequential(nn.Linear(2, 2))
    assert fold(plain) is not plain
    assert torch.equal(fold(plain)[0].weight, plain[0].weight)


def test_the_mimic_network_by_hand():
    conv = 3 * 25 * 64 + 64
    features = 64 * 16 * 16
    wide = 256 * (features + 4096) + 4096
    entry = models.zoo()["mimic"]
    assert entry.parameters == conv + wide + 4096 * 10 + 10
    assert entry.macs == 3 * 25 * 64 * 32 * 32 + 256 * (features + 4096) + 4096 * 10
    with torch.device("meta"):
        full = models.build("mimic", classes=10, convs=0, bottleneck=None, hidden=100)
        assert count(full) == 3072 * 100 + 100 + 100 * 10 + 10
        three = models.build("mimic", classes=10, size=9, convs=3, width=8, hidden=10, bottleneck=2)
        assert three(torch.empty(2, 3, 9, 9)).shape == (2, 10)
        assert three.get_submodule("layer4.0.down").in_features == 8 * 2 * 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convs": 4}, "convs = 4: 0, 1, 2 or 3 convolutions"),
        ({"convs": -1}, "convs = -1"),
        ({"width": 0}, "width = 0: a whole number, 1 or more"),
        ({"kernel": 4}, "kernel = 4: an odd number"),
        ({"bottleneck": 0}, "bottleneck = 0: a whole number, 1 or more"),
        ({"hidden": 0}, "hidden = 0: a whole number, 1 or more"),
        ({"depth": 1}, "its options: convs, width, kernel, bottleneck, hidden"),
    ],
)
def test_bad_options_are_named(options, message):
    with pytest.raises(HyperParameterError) as caught:
        models.build("mimic", classes=10, **options)
    assert message in str(caught.value)


@pytest.mark.parametrize(
    ("budget", "images"),
    [
        (300_000, {}),
        (1_000_000, {}),
        (3_160_000, {"classes": 100}),
        (20_000, {"in_channels": 1, "size": 8, "width": 8}),
    ],
)
def test_students_of_equal_size(budget, images):
    found = students(budget, **images)
    assert list(found) == ["convs_0", "convs_1", "convs_2", "convs_3"]
    shape = {"classes": 10, "in_channels": 3, "size": 32, **images}
    shape.pop("width", None)
    for k, options in enumerate(found.values()):
        assert options["convs"] == k
        with torch.device("meta"):
            net = models.build("mimic", **shape, **options)
        assert abs(count(net) - budget) <= 0.05 * budget
        assert sum(isinstance(part, nn.Conv2d) for part in net.modules()) == k
        assert all(part.note is None for part in net.modules() if isinstance(part, Bottleneck))


def test_looking_for_students_moves_no_random_numbers():
    before = torch.get_rng_state()
    assert list(students(100_000, convs=(2, 0))) == ["convs_2", "convs_0"]
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"budget": 20_000},
            "budget = 20,000: a student with 2 convolution(s) of width 32 comes no nearer than 30,133",
        ),
        ({"budget": 1000, "convs": (0,)}, "a student with 0 convolution(s)"),
        ({"budget": 10_000, "convs": (0,), "tolerance": 1e-6}, "or a tolerance above 1e-06"),
        ({"budget": 0}, "budget = 0: a whole number, 1 or more"),
        ({"tolerance": 0}, "tolerance = 0: a part of the budget, in (0, 1)"),
        ({"convs": ()}, "convs = (): numbers from 0 to 3, each once"),
        ({"convs": (1, 1)}, "convs = (1, 1): numbers from 0 to 3, each once"),
        ({"convs": (5,)}, "convs = 5: 0, 1, 2 or 3 convolutions"),
        ({"classes": 0}, "classes = 0"),
    ],
)
def test_impossible_students(options, message):
    with pytest.raises(HyperParameterError) as caught:
        students(**{"budget": 300_000, **options})
    assert message in str(caught.value)
