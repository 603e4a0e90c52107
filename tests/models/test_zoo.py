from __future__ import annotations

import subprocess
import sys

import pytest
import torch
from torch import nn

from limbeck import models
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown

# Parameters at 100 classes, at 10 classes (None: not in the reference table), and the maps from stem to pool.
SMALL = [(16, 32, 32), (16, 32, 32), (32, 16, 16), (64, 8, 8), (64,)]
BIG = [(32, 32, 32), (64, 32, 32), (128, 16, 16), (256, 8, 8), (256,)]
WIDE = [(16, 32, 32), (32, 32, 32), (64, 16, 16), (128, 8, 8), (128,)]
VGG = [(64, 32, 32), (128, 16, 16), (256, 8, 8), (512, 4, 4), (512, 4, 4), (512,)]
REFERENCE = {
    "resnet8": (83_892, 78_042, SMALL),
    "resnet14": (181_108, 175_258, SMALL),
    "resnet20": (278_324, 272_474, SMALL),
    "resnet32": (472_756, None, SMALL),
    "resnet44": (667_188, None, SMALL),
    "resnet56": (861_620, 855_770, SMALL),
    "resnet110": (1_736_564, 1_730_714, SMALL),
    "resnet8x4": (1_233_540, 1_210_410, BIG),
    "resnet32x4": (7_433_860, None, BIG),
    "wrn_16_1": (180_916, 175_066, SMALL),
    "wrn_40_1": (569_780, 563_930, SMALL),
    "wrn_16_2": (703_284, 691_674, WIDE),
    "wrn_40_2": (2_255_156, 2_243_546, WIDE),
    "vgg8": (3_965_028, 3_918_858, VGG),
    "vgg11": (9_277_284, None, VGG),
    "vgg13": (9_462_180, None, VGG),
    "vgg16": (14_774_436, None, VGG),
    "resnet50": (23_705_252, None, [(64, 32, 32), (256, 32, 32), (512, 16, 16), (1024, 8, 8), (2048, 4, 4), (2048,)]),
    "mobilenet_v2": (812_836, None, [(16, 16, 16), (12, 16, 16), (16, 8, 8), (48, 4, 4), (160, 2, 2), (1280,)]),
    "shufflenet_v1": (949_258, None, [(24, 32, 32), (240, 16, 16), (480, 8, 8), (960, 4, 4), (960,)]),
    "shufflenet_v2": (1_355_528, None, [(24, 32, 32), (116, 16, 16), (232, 8, 8), (464, 4, 4), (1024,)]),
}


def parameters(name: str, classes: int) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in models.build(name, classes=classes).parameters())


def watched(net: nn.Module, inputs: torch.Tensor) -> tuple[torch.Tensor, dict[str, list[torch.Tensor]], dict]:
    """Run a network; every module's outputs, and copies of them made at once."""
    seen: dict[str, list[torch.Tensor]] = {}
    copies: dict[str, list[torch.Tensor]] = {}

    def note(name: str):
        def hook(_module, _args, output):
            seen.setdefault(name, []).append(output)
            copies.setdefault(name, []).append(output.detach().clone())

        return hook

    hooks = [part.register_forward_hook(note(name)) for name, part in net.named_modules() if name]
    out = net(inputs)
    for hook in hooks:
        hook.remove()
    return out, seen, copies


@pytest.mark.parametrize("name", REFERENCE)
def test_parameter_counts_are_those_of_the_reference_table(name):
    hundred, ten, _ = REFERENCE[name]
    assert parameters(name, 100) == hundred
    if ten is not None:
        assert parameters(name, 10) == ten
        assert models.zoo()[name].parameters == ten


@pytest.mark.parametrize("name", REFERENCE)
def test_taps_have_the_shapes_of_the_reference_table(name):
    shapes = REFERENCE[name][2]
    taps = ["stem", *(f"layer{k}" for k in range(1, len(shapes) - 1)), "pool"]
    with torch.device("meta"):
        _, seen, _ = watched(models.build(name, classes=100), torch.empty(2, 3, 32, 32))
    assert [tuple(seen[tap][0].shape[1:]) for tap in taps] == shapes
    assert "layer5" not in seen


@pytest.mark.parametrize("name", models.names())
def test_forward_and_backward_at_its_own_size(name):
    torch.manual_seed(0)
    entry = models.zoo()[name]
    net = models.build(name, classes=7)
    assert net.training
    out, seen, copies = watched(net, torch.randn(3, *entry.input_shape))
    assert out.shape == (3, 7)
    assert out.isfinite().all()
    out.square().mean().backward()
    without = [p for p, value in net.named_parameters() if value.grad is None or not value.grad.isfinite().all()]
    assert without == []
    # a tap may hold any of these: called once, and not changed afterwards
    assert {part: len(outputs) for part, outputs in seen.items() if len(outputs) != 1} == {}
    changed = [part for part, outputs in seen.items() if not torch.equal(outputs[0], copies[part][0])]
    assert changed == []
    assert len(seen) == len([part for part, _ in net.named_modules() if part])


@pytest.mark.parametrize("name", [n for n in models.names() if n not in ("resnet110", "resnet50")])
@pytest.mark.parametrize(("channels", "size"), [(1, 8), (2, 45)])
def test_other_channels_and_sizes(name, channels, size):
    with torch.device("meta"):
        net = models.build(name, classes=5, in_channels=channels, size=size).eval()
        assert net(torch.empty(2, channels, size, size)).shape == (2, 5)


def test_a_big_picture_is_halved_once_more_by_vgg():
    with torch.device("meta"):
        _, seen, _ = watched(models.build("vgg8", classes=5, size=64).eval(), torch.empty(1, 3, 64, 64))
    assert seen["layer4"][0].shape[-2:] == (4, 4)


@pytest.mark.parametrize("name", ["resnet20", "vgg8", "shufflenet_v2", "digits_cnn", "nin_thin"])
def test_maps_are_taken_after_the_last_relu(name):
    torch.manual_seed(1)
    net = models.build(name, classes=10).eval()
    _, seen, _ = watched(net, torch.randn(2, *models.zoo()[name].input_shape))
    layers = [part for part in seen if part.startswith("layer") and "." not in part]
    assert len(layers) >= 3
    assert all(seen[part][0].min() == 0 for part in layers)


def test_maps_of_a_wide_network_are_sums():
    torch.manual_seed(1)
    _, seen, _ = watched(models.build("wrn_16_1", classes=10).eval(), torch.randn(2, 3, 32, 32))
    assert seen["layer2"][0].min() < 0
    assert seen["relu"][0].min() == 0


@pytest.mark.parametrize(
    "name",
    [
        *("resnet8", "wrn_16_1", "mobilenet_v2", "shufflenet_v1", "plain_4", "digits_mlp"),
        *("fitnet1", "nin_thin", "highway", "mimic"),
    ],
)
def test_the_global_seed_decides_the_weights(name):
    def make(seed: int) -> dict[str, torch.Tensor]:
        torch.manual_seed(seed)
        return models.build(name, classes=10).state_dict()

    first, again, other = make(3), make(3), make(4)
    assert all(torch.equal(first[key], again[key]) for key in first)
    assert not torch.equal(first["fc.weight"], other["fc.weight"])


def test_looking_at_the_zoo_moves_no_random_numbers():
    before = torch.get_rng_state()
    entry = models.zoo()["plain_6"]
    assert entry.parameters > 0
    assert entry.macs > 0
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("name", ["resnet56", "wrn_40_2", "vgg16", "resnet50"])
def test_convolutions_start_as_he_has_it(name):
    torch.manual_seed(0)
    net = models.build(name, classes=10)
    big = [part for part in net.modules() if isinstance(part, nn.Conv2d) and part.weight.numel() > 20_000]
    for part in big:
        wanted = (2 / (part.kernel_size[0] ** 2 * part.out_channels)) ** 0.5
        assert abs(part.weight.std().item() / wanted - 1) < 0.03
    assert len(big) > 5


def test_a_shuffle_deals_channels_out():
    from limbeck.models.shufflenet import Shuffle

    x = torch.arange(6.0).view(1, 6, 1, 1)
    assert Shuffle(2)(x).flatten().tolist() == [0, 3, 1, 4, 2, 5]
    assert Shuffle(3)(x).flatten().tolist() == [0, 2, 4, 1, 3, 5]


def test_plain_networks_have_the_documented_widths():
    for count in range(1, 11):
        net = models.build(f"plain_{count}", classes=10)
        convs = [part.out_channels for part in net.modules() if isinstance(part, nn.Conv2d)]
        assert convs == [16, 16, 32, 32, 64, 64, 128, 128, 128, 128][:count]
    bare = models.build("plain_4", classes=10, norm=False, width=8, grid=1)
    assert not any(isinstance(part, nn.BatchNorm2d) for part in bare.modules())
    assert [p.out_channels for p in bare.modules() if isinstance(p, nn.Conv2d)] == [8, 8, 16, 16]
    assert bare.get_submodule("fc").in_features == 16


def test_fully_connected_networks_are_as_deep_and_thin_as_asked():
    net = models.build("mlp", classes=3, in_channels=30, size=1, hidden=[12] * 14)
    widths = [(part.in_features, part.out_features) for part in net.modules() if isinstance(part, nn.Linear)]
    assert widths == [(30, 12)] + [(12, 12)] * 13 + [(12, 3)]
    assert net(torch.zeros(2, 30)).shape == (2, 3)
    assert len(list(models.build("mlp", classes=3, hidden=[], size=2).parameters())) == 2
    assert any(isinstance(p, nn.Dropout) for p in models.build("digits_mlp", classes=3, dropout=0.5).modules())


def test_wide_networks_take_dropout():
    net = models.build("wrn_10_1", classes=10, dropout=0.3)
    assert len([part for part in net.modules() if isinstance(part, nn.Dropout)]) == 3


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("resnet21", "no network 'resnet21' in the zoo; near: resnet"),
        ("Resnet20", "no network 'Resnet20' in the zoo; near: resnet20"),
        ("wrn_17_2", "the depth of a wide residual network is 6n + 4 (10, 16, 22, 28, 40 ...), not 17"),
        ("wrn_16_0", "the width of a wide residual network is 1 or more, not 0"),
        ("plain_11", "a plain network has 1 to 10 convolutions, not 11"),
        ("timm:", "the name of a network belongs behind the colon, as in 'timm:resnet18'"),
        ("torchvision:resnet19", "no network 'resnet19' in torchvision; near: resnet1"),
        ("timm:resnet19", "no network 'resnet19' in timm; near: resnet1"),
        ("torchvision:fasterrcnn_resnet50_fpn", "no network 'fasterrcnn_resnet50_fpn' in torchvision"),
    ],
)
def test_unknown_names_are_named_with_near_ones(name, message):
    if name.startswith("timm:"):
        pytest.importorskip("timm")
    with pytest.raises(NameUnknown) as caught:
        models.build(name, classes=10)
    assert message in str(caught.value)


def test_names_are_checked_by_their_form():
    fine = [*models.names(), "wrn_28_10", "plain_3", "torchvision:resnet18", "timm:vit_tiny_patch16_224"]
    assert {name: models.problem(name) for name in fine if models.problem(name)} == {}
    assert "near: wrn_16_2" in str(models.problem("wrn16_2"))
    assert "not 3" in str(models.problem(3))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("wrn_16_1", {"drop": 0.1}, "no option 'drop' in network 'wrn_16_1'; its options: dropout"),
        ("resnet20", {"width": 2}, "no option 'width' in network 'resnet20'; its options: none"),
        ("plain_2", {"depth": 2}, "no option 'depth' in network 'plain_2'; its options: width, norm, grid"),
        ("wrn_16_1", {"dropout": 1.0}, "dropout = 1.0: a probability from 0 to below 1"),
        ("plain_2", {"width": 0}, "width = 0: channels, 1 or more"),
        ("plain_2", {"norm": "no"}, "norm = 'no': true or false"),
        ("plain_2", {"grid": 0}, "grid = 0: positions, 1 or more"),
        ("mlp", {"hidden": 64}, "hidden = 64: a list of widths, each a whole number of 1 or more"),
        ("mlp", {"hidden": [8, 0]}, "hidden = [8, 0]: a list of widths"),
        ("resnet8", {"classes": 0}, "classes = 0: a whole number, 1 or more"),
        ("resnet8", {"in_channels": 0}, "in_channels = 0: a whole number, 1 or more"),
        ("resnet8", {"size": 1.5}, "size = 1.5: a whole number, 1 or more"),
        ("torchvision:resnet18", {"wdth": 3}, "network 'torchvision:resnet18' cannot be built with wdth=3: "),
        (
            "torchvision:resnet18",
            {"weights": "DEFAULT"},
            "option 'weights' of network 'torchvision:resnet18' is set by",
        ),
    ],
)
def test_bad_options_are_named(name, options, message):
    with pytest.raises(HyperParameterError) as caught:
        models.build(name, **{"classes": 10, **options})
    assert message in str(caught.value)


def test_networks_of_torchvision():
    net = models.build("torchvision:resnet18", classes=4, in_channels=1, size=32).eval()
    assert net(torch.zeros(2, 1, 32, 32)).shape == (2, 4)
    with torch.device("meta"):
        vit = models.build("torchvision:vit_b_16", classes=4, size=32).eval()
        assert vit(torch.empty(2, 3, 32, 32)).shape == (2, 4)


def test_networks_of_timm():
    pytest.importorskip("timm")
    with torch.device("meta"):
        net = models.build("timm:vit_tiny_patch16_224", classes=4, in_channels=1, size=32).eval()
        assert net(torch.empty(2, 1, 32, 32)).shape == (2, 4)


def test_a_missing_timm_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(LimbeckError, match=r"network 'timm:resnet18' needs timm: pip install 'limbeck\[timm\]'"):
        models.build("timm:resnet18", classes=10)


def test_names_need_no_torch():
    code = (
        "import sys; from limbeck import models; from limbeck.models.names import problem;"
        "assert len(models.names()) > 20 and problem('resnet20') is None and problem('resnt20');"
        "assert 'torch' not in sys.modules and 'numpy' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
