"""Networks in int8 after training: as good as before, smaller, and whole after a trip through a file."""

from __future__ import annotations

import copy
import math
import random
import zipfile

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits
from torch import nn
from torch.nn import functional as F

from limbeck import models
from limbeck.compress.int8 import Quantized
from limbeck.compress.int8.prepare import converted, prepared
from limbeck.compress.quantize import Convert, Prepare, Quantize
from limbeck.compressor import findings
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, NonFiniteError, WeightsError
from limbeck.phase import Batch


@pytest.fixture(scope="module")
def digits():
    found = load_digits()
    x = torch.tensor(found.images, dtype=torch.float32).unsqueeze(1) / 16
    y = torch.tensor(found.target)
    return x[:1400], y[:1400], x[1400:], y[1400:]


@pytest.fixture(scope="module")
def net(digits):
    torch.manual_seed(0)
    model, (x, y, _, _) = models.build("digits_cnn", classes=10), digits
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(6):
        for rows in torch.randperm(len(x)).split(100):
            optimizer.zero_grad()
            F.cross_entropy(model(x[rows]), y[rows]).backward()
            optimizer.step()
    return model.eval()


@pytest.fixture(scope="module")
def batches(digits):
    return [Batch(rows) for rows in digits[0][:256].split(64)]


@pytest.fixture(scope="module")
def small(net, batches):
    return Quantize("int8")(net, example=batches[0].inputs, calibration=batches)


def accuracy(model, digits):
    with torch.no_grad():
        return float((model(digits[2]).argmax(1) == digits[3]).float().mean())


def drift(a, b, x):
    with torch.no_grad():
        return float((a(x) - b(x)).norm() / b(x).norm())


def test_a_trained_network_stays_as_good(net, small, digits):
    before = accuracy(net, digits)
    assert before > 0.9
    assert abs(accuracy(small, digits) - before) < 0.005
    assert 0 < drift(small, net, digits[2]) < 0.03
    assert small.facts["layers"] == {"int8": ["layer1.0", "layer2.0", "layer3.0", "fc"], "float": []}
    assert findings(small).notes == ["4 layers in int8"]


@pytest.mark.parametrize(("width", "times"), [(16, ""), (12, "1.8 times"), (24, "1.8 times"), (30, "")])
@pytest.mark.parametrize("mode", ["static", "qat"])
def test_widths_that_kernels_fill_up_are_told(width, times, mode):
    torch.manual_seed(0)
    inner = [nn.Conv2d(width, width, 3, padding=1), nn.ReLU()] * 2
    model = nn.Sequential(nn.Conv2d(3, width, 3), nn.ReLU(), *inner, nn.Flatten(), nn.Linear(36 * width, 5)).eval()
    x = torch.randn(4, 3, 8, 8)
    how = Quantize("int8", mode=mode)
    made = Prepare(settings=how)(model, example=x, calibration=[Batch(x)]) if mode == "qat" else model
    made = (Convert(settings=how) if mode == "qat" else how)(made, example=x, calibration=[Batch(x)])
    told = [note for note in findings(made).notes if "fill channels up to 16" in note]
    assert bool(told) == bool(times)
    assert all(f"to {times} the arithmetic" in note and "Prune(multiple=16, minimum=16)" in note for note in told)


def test_convolutions_that_stay_in_float_are_not_filled_up():
    layers = [nn.Conv2d(3, 12, 3), nn.Conv2d(12, 12, 3), nn.Conv2d(12, 12, 3), nn.Flatten(), nn.Linear(48, 5)]
    made = Quantize("int8", mode="dynamic")(nn.Sequential(*layers).eval(), example=torch.randn(4, 3, 8, 8))
    assert not [note for note in findings(made).notes if "fill channels up" in note]


def test_the_input_stays_as_it_is(net, batches):
    model = copy.deepcopy(net).train()
    model.layer1[1].eval()
    model.fc.weight.requires_grad_(False)
    model.fc.bias.grad = torch.ones(10)
    state = {key: (value, value.clone()) for key, value in model.state_dict(keep_vars=True).items()}
    seen = [(part.training, sorted(vars(part))) for part in model.modules()]
    numbers = torch.get_rng_state(), np.random.get_state()[1].copy(), random.getstate()  # type: ignore[index]
    made = Quantize(observer="minmax")(model, example=batches[0].inputs[:1], calibration=batches)
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert (np.random.get_state()[1] == numbers[1]).all()  # type: ignore[index]
    assert random.getstate() == numbers[2]
    assert [(part.training, sorted(vars(part))) for part in model.modules()] == seen
    for key, (value, copied) in state.items():
        assert model.state_dict(keep_vars=True)[key] is value
        assert torch.equal(value, copied)
    assert not model.fc.weight.requires_grad
    assert torch.equal(model.fc.bias.grad, torch.ones(10))
    assert made.training
    assert not any(p.requires_grad for p in made.parameters())


def test_any_batch_size_and_both_modes(small, digits):
    x = digits[2]
    whole = small.eval()(x)
    assert torch.allclose(small(x[:1]), whole[:1], atol=0.05)
    assert small(x[:3]).shape == (3, 10)
    assert torch.equal(small.train()(x), whole)
    assert small.training
    assert torch.equal(copy.deepcopy(small)(x), whole)
    small.eval()


def test_float_weights_are_gone(small, net):
    held = {key: value for key, value in small.state_dict().items() if value.is_floating_point() and value.ndim > 1}
    assert held == {}
    assert sum(v.numel() for v in small.state_dict().values() if v.dtype == torch.int8) == sum(
        p.numel() for p in net.parameters() if p.ndim > 1
    )
    floats = [
        value.numel() for key, value in small.state_dict().items() if "_scale_" not in key and value.is_floating_point()
    ]
    assert sum(floats) == 16 + 32 + 64 + 10, "BatchNorm became one bias per channel"
    assert small.float_parameters == sum(p.numel() for p in net.parameters())


def test_through_a_file(small, digits, tmp_path):
    small.save(tmp_path / "net.int8")
    assert [p.name for p in tmp_path.iterdir()] == ["net.int8"]
    assert (tmp_path / "net.int8").stat().st_size == small.file_bytes()
    again = Quantized.load(tmp_path / "net.int8")
    assert (again.facts, again.file_bytes()) == (small.facts, small.file_bytes())
    for rows in (1, 2, 37):
        assert torch.equal(again(digits[2][:rows]), small(digits[2][:rows]))
    again.train()
    copy.deepcopy(again).save(tmp_path / "twice.int8")
    assert torch.equal(Quantized.load(tmp_path / "twice.int8")(digits[2]), small(digits[2]))


def test_files_that_are_refused(small, tmp_path):
    with pytest.raises(WeightsError, match="no file of an int8 network at"):
        Quantized.load(tmp_path / "nothing")
    (tmp_path / "text").write_text("no archive")
    with pytest.raises(WeightsError, match="cannot be read as an int8 network"):
        Quantized.load(tmp_path / "text")
    with pytest.raises(WeightsError, match="cannot write the network to"):
        small.save(tmp_path / "no" / "such" / "folder")
    torch.export.save(torch.export.export(nn.Linear(2, 2), (torch.zeros(1, 2),)), tmp_path / "other.pt2")
    with pytest.raises(WeightsError, match="holds pickled objects"):  # its sample inputs
        Quantized.load(tmp_path / "other.pt2")
    small.save(tmp_path / "good")
    with zipfile.ZipFile(tmp_path / "good") as old, zipfile.ZipFile(tmp_path / "bad", "w") as new:
        for name in old.namelist():
            data = old.read(name)
            new.writestr(
                name, data.replace(b'"use_pickle": false', b'"use_pickle": true') if "config" in name else data
            )
    with pytest.raises(WeightsError, match="holds pickled objects"):
        Quantized.load(tmp_path / "bad")


def test_layers_that_stay_in_float(net, batches, digits):
    made = Quantize(skip=("layer2", "fc"))(net, example=batches[0].inputs, calibration=batches)
    assert made.facts["layers"] == {"int8": ["layer1.0", "layer3.0"], "float": ["layer2.0", "fc"]}
    assert findings(made).notes == ["2 layers in int8, 2 in float: layer2.0, fc"]
    assert drift(made, net, digits[2]) < 0.03


class Held(nn.Module):
    """Layers in holders whose own forward is not called, one under two names, one whose weight alone is used."""

    def __init__(self):
        super().__init__()
        self.list = nn.ModuleList([nn.Linear(6, 6) for _ in range(2)])
        self.walked = nn.Sequential(nn.Linear(6, 6), nn.ReLU())
        self.inside = nn.Module()
        self.inside.one = nn.Linear(6, 6)
        self.first = nn.Linear(6, 6)
        self.second = self.first
        self.lent = nn.Linear(6, 6)
        self.last = nn.Linear(6, 2)

    def forward(self, x):
        for part in (*self.list, *self.walked):
            x = part(x)
        return self.last(F.linear(self.second(self.inside.one(x)), self.lent.weight))


@pytest.mark.parametrize("mode", ["static", "dynamic", "weights", "qat"])
@pytest.mark.parametrize(
    ("skip", "kept"),
    [
        ("list", ["list.0", "list.1"]),
        ("walked", ["walked.0"]),
        ("inside", ["inside.one"]),
        ("first", ["second"]),
        ("second", ["second"]),
        ("lent", ["lent"]),
    ],
)
def test_holders_and_second_names_can_be_skipped(mode, skip, kept):
    torch.manual_seed(0)
    model, x = Held().eval(), torch.randn(8, 6)
    how = Quantize(mode=mode, skip=(skip,))
    ready = Prepare(settings=how)(model, example=x, calibration=[Batch(x)]) if mode == "qat" else model
    made = (Convert(settings=how) if mode == "qat" else how)(ready, example=x, calibration=[Batch(x)])
    assert made.facts["layers"]["float"] == kept
    assert len(made.facts["layers"]["int8"]) == 7 - len(kept)


class Rows(nn.Module):
    """A convolution of rows with a ReLU that is no module."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Conv1d(3, 4, 3), nn.Conv1d(4, 4, 3)

    def forward(self, x):
        return self.second(torch.relu(self.first(x)))


@pytest.mark.parametrize("mode", ["static", "qat"])
@pytest.mark.parametrize("skip", ["first", "second"])
def test_convolutions_of_rows_can_be_skipped(mode, skip):
    torch.manual_seed(0)
    model, x = Rows().eval(), torch.randn(4, 3, 12)
    how = Quantize(mode=mode, skip=(skip,))
    ready = Prepare(settings=how)(model, example=x, calibration=[Batch(x)]) if mode == "qat" else model
    made = (Convert(settings=how) if mode == "qat" else how)(ready, example=x, calibration=[Batch(x)])
    assert made.facts["layers"] == {"int8": [n for n in ("first", "second") if n != skip], "float": [skip]}


def test_a_weight_is_stored_only_for_those_that_are_not_skipped():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(6, 6, bias=False), nn.Linear(6, 6, bias=False)), torch.randn(8, 6)
    model[1].weight = model[0].weight
    made = Quantize(mode="weights", skip=("0",))(model, example=x)
    assert made.facts["layers"] == {"float": ["0"], "int8": ["1"]}
    rounded = Quantize(mode="weights")(nn.Sequential(model[1]), example=x)
    assert torch.allclose(made(x), rounded(model[0](x)), atol=1e-6)
    assert not torch.allclose(made(x), rounded(rounded(x)), atol=1e-6)


def test_what_is_rounded_all_the_same_is_told(monkeypatch):
    monkeypatch.setattr("limbeck.compress.int8.observers.X86InductorQuantizer.set_module_name_qconfig", lambda *_: None)
    x = torch.randn(8, 6)
    with pytest.raises(LimbeckError, match=r"skip: inside\.one cannot be left in float"):
        Quantize(skip=("inside",))(Held(), example=x, calibration=[Batch(x)])


def test_fewer_bits_or_scales_drift_more(net, small, batches, digits):
    x = digits[2]
    one = Quantize(per_channel=False)(net, example=batches[0].inputs, calibration=batches)
    seven = Quantize(reduce_range=True)(net, example=batches[0].inputs, calibration=batches)
    scales = [v for k, v in one.state_dict().items() if k.split(".")[-1].startswith("_scale_")]
    assert scales
    assert all(len(set(s.tolist())) == 1 for s in scales)
    assert drift(seven, net, x) > drift(small, net, x)
    assert drift(one, net, x) < 0.1


@pytest.mark.parametrize(("dtype", "bits"), [("int8", 8), ("int4", 4)])
def test_weights_alone(net, batches, digits, dtype, bits, tmp_path):
    made = Quantize(dtype, mode="weights", skip=("layer1",))(net, example=batches[0].inputs)
    assert made.facts["layers"] == {"float": ["layer1.0"], f"int{bits}": ["layer2.0", "layer3.0", "fc"]}
    expected = copy.deepcopy(net)
    for layer in (expected.layer2[0], expected.layer3[0], expected.fc):
        for row in layer.weight.data:
            step = float(row.abs().max()) / (2 ** (bits - 1) - 1)
            row.copy_(torch.round(row / step) * step)
    assert torch.allclose(made(digits[2]), expected(digits[2]), atol=1e-4)
    made.save(tmp_path / "w")
    again = Quantized.load(tmp_path / "w")
    assert torch.equal(again(digits[2]), made(digits[2]))
    assert again.float_parameters == sum(p.numel() for p in net.parameters())
    stored = sum(v.numel() * v.element_size() for k, v in made.state_dict().items() if k.endswith("values"))
    assert stored == sum(layer.weight.numel() for layer in (net.layer2[0], net.layer3[0], net.fc)) * bits // 8


def test_dynamic_is_for_linear_layers(digits):
    torch.manual_seed(0)
    mlp = models.build("digits_mlp", classes=10).eval()
    made = Quantize(mode="dynamic")(mlp, example=digits[0][:4])
    assert len(made.facts["layers"]["int8"]) == 3
    assert drift(made, mlp, digits[2]) < 0.03
    nothing = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten())
    with pytest.raises(LimbeckError, match=r"nothing was quantized: mode 'dynamic' finds no linear layers .*: 0"):
        Quantize(mode="dynamic")(nothing, example=digits[0][:4])


@pytest.mark.parametrize("mode", ["static", "dynamic", "weights"])
def test_the_layers_of_an_encoder_are_seen(mode):
    torch.manual_seed(0)
    model = nn.TransformerEncoder(nn.TransformerEncoderLayer(8, 2, 16, batch_first=True), 1)
    model.eval().requires_grad_(False)
    x = torch.randn(4, 5, 8)
    made = Quantize(mode=mode)(model, example=x, calibration=[Batch(x)])
    assert {"layers.0.linear1", "layers.0.linear2"} <= set(made.facts["layers"]["int8"])
    assert torch.backends.mha.get_fastpath_enabled()
    assert drift(made, model, x) < 0.03


class Causal(nn.Module):
    """Attention that looks back only: minus infinity for what comes later, in a buffer."""

    def __init__(self):
        super().__init__()
        self.qkv, self.fc = nn.Linear(8, 24), nn.Linear(8, 3)
        self.register_buffer("later", torch.full((5, 5), -math.inf).triu(1))

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        return self.fc(((q @ k.transpose(1, 2) + self.later).softmax(-1) @ v).mean(1))


@pytest.mark.parametrize("mode", ["static", "dynamic", "weights", "qat"])
def test_a_mask_of_infinities_is_no_broken_weight(mode):
    torch.manual_seed(0)
    model, x = Causal().eval().requires_grad_(False), torch.randn(8, 5, 8)
    if mode == "qat":
        made = converted(prepared(model.requires_grad_(True), x, [Batch(x)]), x)
    else:
        made = Quantize(mode=mode)(model, example=x, calibration=[Batch(x)])
    assert drift(made, model, x) < 0.03
    assert set(made.facts["layers"]["int8"]) == {"qkv", "fc"}


@pytest.mark.parametrize(
    ("mode", "around"), [("static", "reflect"), ("static", "replicate"), ("static", "circular"), ("qat", "reflect")]
)
def test_convolutions_that_do_not_pad_with_zeros(mode, around):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1, padding_mode=around), nn.BatchNorm2d(8), nn.ReLU(),
        nn.Conv2d(8, 8, (1, 3), padding=(0, 1), padding_mode=around), nn.Flatten(), nn.Linear(288, 3),
    ).eval()  # fmt: skip
    x = torch.randn(8, 3, 6, 6)
    if mode == "qat":
        made = converted(prepared(model, x, [Batch(x)]), x)
    else:
        made = Quantize()(model, example=x, calibration=[Batch(x)])
    assert drift(made, model.requires_grad_(False), x) < 0.03
    assert made.facts["layers"] == {"int8": ["0", "3", "5"], "float": []}


@pytest.mark.filterwarnings("ignore:Using padding='same' with even kernel")
@pytest.mark.parametrize("mode", ["static", "weights", "qat"])
@pytest.mark.parametrize(
    ("padding", "kernel", "dilation", "numbers"),
    [("same", 3, 2, (2, 2, 2, 2)), ("same", (2, 4), (3, 1), (1, 2, 1, 2)), ("valid", 3, 1, (0, 0, 0, 0))],
)
def test_padding_in_words(mode, padding, kernel, dilation, numbers):
    torch.manual_seed(0)
    conv = nn.Conv2d(2, 4, kernel, padding=padding, dilation=dilation)
    rest = [nn.BatchNorm2d(4), nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(16, 3)]
    same = nn.Conv2d(2, 4, kernel, dilation=dilation)
    same.load_state_dict(conv.state_dict())
    x = torch.randn(6, 2, 9, 8)
    how = Quantize(mode=mode, observer="minmax" if mode == "static" else "histogram")  # zeros move a histogram

    def made(model, x):
        ready = Prepare(settings=how)(model.eval(), example=x, calibration=[Batch(x)]) if mode == "qat" else model
        return (Convert(settings=how) if mode == "qat" else how)(ready.eval(), example=x, calibration=[Batch(x)])

    words = made(nn.Sequential(conv, *rest), x)
    assert words.facts["layers"] == {"int8": ["0", "5"], "float": []}
    padded = F.pad(x, numbers)
    assert torch.allclose(words(x), made(nn.Sequential(same, *rest), padded)(padded), atol=1e-5)
    assert drift(words, nn.Sequential(conv, *rest).eval(), x) < 0.05


@pytest.mark.parametrize("mode", ["static", "minmax", "dynamic"])
def test_small_numbers_have_eight_bits_too(mode):
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 32, bias=False)), 1e-3 * torch.randn(64, 64)
    with torch.no_grad():
        model[0].weight.mul_(1e-2)
    how = (
        Quantize(mode="dynamic")
        if mode == "dynamic"
        else Quantize(observer="minmax" if mode == "minmax" else "histogram")
    )
    made = how(model, example=x, calibration=[Batch(x)])
    (integers,) = [value for value in made.state_dict().values() if value.dtype == torch.int8]
    assert int(integers.int().abs().amax(1).min()) >= 127
    assert drift(made, model, x) < 0.02


def test_parameters_that_no_output_needs_count():
    x = torch.randn(8, 6)
    for mode in ("static", "dynamic", "weights"):
        made = Quantize(mode=mode)(Spare(), example=x, calibration=[Batch(x)])
        assert made.float_parameters == sum(p.numel() for p in Spare().parameters())


class Spare(nn.Module):
    """A head for training only, and a number that is the same for all samples."""

    def __init__(self):
        super().__init__()
        self.one, self.spare = nn.Linear(6, 4), nn.Linear(6, 9)

    def forward(self, x, scale=None):
        return self.one(x) if scale is None else self.one(x) * scale


def test_an_input_without_samples_goes_through_a_file(tmp_path):
    torch.manual_seed(0)
    inputs = {"x": torch.randn(8, 6), "scale": torch.tensor(2.0)}
    made = Quantize()(Spare(), example=inputs, calibration=[Batch(inputs)])
    assert made.example(3)["scale"].shape == ()
    made.save(tmp_path / "net")
    assert torch.equal(Quantized.load(tmp_path / "net")(**inputs), made(**inputs))


@pytest.mark.parametrize("mode", ["static", "dynamic"])
def test_double_precision_is_refused_with_the_remedy(mode):
    model, x = nn.Sequential(nn.Linear(6, 4)).double(), torch.randn(8, 6).double()
    with pytest.raises(LimbeckError, match=r"whose weights are float64 \(0.weight, 0.bias\): .* with \.float\(\)"):
        Quantize(mode=mode)(model, example=x, calibration=[Batch(x)])


class Several(nn.Module):
    """Two inputs by name, a ReLU that is called twice, and one layer used twice."""

    def __init__(self):
        super().__init__()
        self.one, self.two, self.relu = nn.Linear(6, 8), nn.Linear(8, 8), nn.ReLU()

    def forward(self, left, right=None):
        x = self.relu(self.one(left))
        x = self.relu(self.two(x)) + (0 if right is None else right)
        return {"logits": self.two(x)}


def test_mappings_and_modules_that_are_used_twice():
    torch.manual_seed(0)
    model = Several()
    inputs = {"left": torch.randn(16, 6), "right": torch.randn(16, 8)}
    made = Quantize()(model, example=inputs, calibration=[Batch(inputs)])
    found, expected = made(**inputs)["logits"].detach(), model(**inputs)["logits"].detach()
    assert float((found - expected).norm() / expected.norm()) < 0.03
    one = made(**{key: value[:1] for key, value in inputs.items()})["logits"]
    assert torch.allclose(one, found[:1], atol=0.02)
    assert made.example(3)["right"].shape == (3, 8)


def test_what_is_missing_or_bad(net, batches):
    x = batches[0].inputs
    with pytest.raises(HyperParameterError, match=r"static quantization measures .*: give calibration batches"):
        Quantize()(net, example=x)
    with pytest.raises(HyperParameterError, match="give calibration batches"):
        Quantize()(net, example=x, calibration=[])
    with pytest.raises(NameUnknown, match=r"skip: no layer 'layr1' in Sequential; near: layer1"):
        Quantize(skip=("layr1",))(net, example=x, calibration=batches)
    with pytest.raises(NonFiniteError, match="calibration batch 2: 'inputs' is non-finite"):
        Quantize()(net, example=x, calibration=[batches[0], Batch(torch.full_like(x, math.nan))])
    bad = copy.deepcopy(net)
    with torch.no_grad():
        bad.fc.weight[0, 0] = math.inf
    for mode in ("static", "weights"):
        with pytest.raises(NonFiniteError, match=r"fc.weight is non-finite: it holds 0 NaN and 1 inf among 640 values"):
            Quantize(mode=mode)(bad, example=x, calibration=batches)


class Branches(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x) if float(x.sum()) > 0 else self.fc(-x)


class Fixed(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(4, 2)

    def forward(self, x):
        return self.fc(x.reshape(2, 4))


@pytest.mark.parametrize(("model", "text"), [(Branches(), "must not branch on the values"), (Fixed(), "batch size")])
def test_networks_that_cannot_be_exported_are_explained(model, text):
    x = torch.randn(2, 4)
    with pytest.raises(
        LimbeckError, match=rf"torch.export cannot make a graph of {type(model).__name__}: (.|\n)*{text}"
    ):
        Quantize()(model, example=x, calibration=[Batch(x)])


def test_the_result_can_be_exported(small, digits):
    program = torch.export.export(small, (digits[2][:4],))
    assert torch.equal(program.module()(digits[2][:4]), small(digits[2][:4]))
