"""How ranks and kinds are chosen: by error, by arithmetic, by rank, by noise, and by the clock."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from limbeck import models
from limbeck.compress.cost import Latency
from limbeck.compress.factorize import Factorize
from limbeck.compress.lowrank import apply
from limbeck.compress.lowrank.fold import fold
from limbeck.compressor import findings, tell

COLUMNS = ["layer", "decision", "kind", "ranks", "error"]
COLUMNS += ["macs", "macs_after", "parameters", "parameters_after", "ms", "ms_after"]


def made(model, x, **options):
    new = Factorize(**{"measured": False, **options})(model, example=x)
    rows = {}
    for line in findings(new).details["layers"]:
        assert list(line) == COLUMNS
        pairs = {key: [line[key], line[f"{key}_after"]] for key in ("macs", "parameters", "ms")}
        rows[line["layer"]] = {**line, **pairs}
    return new, rows, findings(new)


def net(seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(
        nn.Conv2d(3, 16, 5, padding=2), nn.ReLU(), nn.Conv2d(16, 32, 3, stride=2), nn.Flatten(), nn.Linear(32 * 16, 30)
    )


X = torch.randn(2, 3, 10, 10, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("kind", ["auto", "svd", "tucker", "spatial", "dominant"])
def test_every_layer_keeps_the_energy_and_less_rank_would_not(kind):
    model = net()
    for energy in (0.3, 0.6, 0.8):
        new, rows, _ = made(model, X, energy=energy, kind=kind)
        assert len(rows) == (2 if kind == "dominant" else 3)
        for name, row in rows.items():
            if row["decision"] != "factorized":
                continue
            weight, got = model[int(name)].weight.detach(), fold(new[int(name)]).weight.detach()
            lost = float((weight - got).norm() / weight.norm())
            assert lost == pytest.approx(row["error"], abs=1e-5)
            assert lost**2 <= 1 - energy + 1e-6
            if row["kind"] in ("svd", "spatial", "dominant") and row["ranks"][0] > 1:
                less, _, _ = made(model, X, rank=row["ranks"][0] - 1, kind=row["kind"], layers=[name])
                less = fold(less[int(name)]).weight.detach()
                assert float((weight - less).norm() / weight.norm()) ** 2 > 1 - energy


def test_auto_takes_the_kind_with_the_least_arithmetic():
    model = net()
    with torch.no_grad():  # four columns and rows; one kernel per channel
        model[2].weight.copy_(torch.einsum("orx,riy->oiyx", torch.randn(32, 4, 3), torch.randn(4, 16, 3)))
        model[0].weight.copy_(torch.randn(16, 3, 1, 1) * torch.randn(1, 3, 5, 5))
    for energy in (0.3, 0.5, 0.9):
        every = {"energy": energy, "layers": ["0", "2", "4"]}  # whatever they save
        auto = made(model, X, **every)[1]
        each = [made(model, X, kind=kind, **every)[1] for kind in ("svd", "tucker", "spatial", "dominant")]
        for name, row in auto.items():
            assert row["macs"][1] == min(rows[name]["macs"][1] for rows in each if name in rows)
    assert [row["kind"] for row in auto.values()] == ["dominant", "spatial", "svd"]


def test_planted_low_ranks_are_found_with_all_the_energy():
    model = net()
    with torch.no_grad():
        model[4].weight.copy_(torch.randn(30, 4) @ torch.randn(4, 512))
        model[2].weight.copy_(
            torch.einsum("op,pqhw,iq->oihw", torch.randn(32, 5), torch.randn(5, 3, 3, 3), torch.randn(16, 3))
        )
    new, rows, _ = made(model, X, energy=1.0, kind="tucker")
    assert rows["4"]["ranks"] == [4]
    assert rows["2"]["ranks"] == [3, 5]
    assert rows["0"]["decision"] == "no less arithmetic"
    assert torch.allclose(new(X), model(X), rtol=1e-4, atol=1e-3)
    assert findings(new).details["output_error"] < 1e-5


@pytest.mark.parametrize("kind", ["auto", "svd", "tucker", "spatial"])
def test_all_of_the_energy_of_any_weights_changes_nothing(kind):
    model = net()
    new, _, told = made(model, X, energy=1.0, kind=kind)
    assert torch.allclose(new(X), model(X), atol=1e-5)
    assert told.details["output_error"] < 1e-5
    assert any("0 of 3 layers are factorized" in note for note in told.notes)
    assert any(note.startswith("left alone, since no split") and note.endswith("0, 2, 4") for note in told.notes)


def test_ranks_as_numbers_and_as_parts():
    model = net()
    _, rows, told = made(model, X, rank=4, kind="tucker")
    assert [row["ranks"] for row in rows.values()] == [[3, 4], [4, 4], [4]]
    assert any("rank = 4 is more than these layers can have" in note and "0 (3, 16)" in note for note in told.notes)
    _, rows, told = made(model, X, rank=0.5)
    assert [row["ranks"] for row in rows.values()] == [[2, 8], [8, 16], [15]]
    assert not any("more than" in note for note in told.notes)
    _, rows, _ = made(model, X, rank=0.25, kind="spatial")
    assert [row["ranks"] for row in rows.values()] == [[4], [12], [8]]  # of 15, 48 and 30
    _, rows, _ = made(model, X, rank=2, kind="dominant")
    assert list(rows) == ["0", "2"]
    # out 16 of 100 places: 3 channels with 2 kernels of 25, mixed into 16
    assert rows["0"]["macs"] == [100 * 16 * 75, 100 * (3 * 2 * 25 + 3 * 2 * 16)]
    _, rows, told = made(model, X, rank=1000, kind="svd")
    assert {row["decision"] for row in rows.values()} == {"no less arithmetic"}


def test_arithmetic_by_hand():
    _, rows, _ = made(net(), X, rank=4, kind="tucker", layers=["2"])
    # 10x10 in, 4x4 out; 1x1 from 16 to 4 at every input, 3x3 and 1x1 at every output
    assert rows["2"]["macs"] == [16 * 32 * 144, 100 * 16 * 4 + 16 * (4 * 4 * 9 + 4 * 32)]
    assert rows["2"]["parameters"] == [32 * 144 + 32, 16 * 4 + 4 * 4 * 9 + 4 * 32 + 32]
    _, rows, _ = made(net(), X, rank=4, kind="spatial", layers=["2"])
    assert rows["2"]["macs"][1] == 4 * 10 * (4 * 16 * 3) + 4 * 4 * (4 * 3 * 32)  # 4 high and 10 wide in between
    _, rows, _ = made(net(), X, rank=4, kind="svd", layers=["2", "4"])
    assert rows["2"]["macs"][1] == 16 * 4 * (144 + 32)
    assert rows["4"]["macs"] == [512 * 30, 4 * (512 + 30)]


@pytest.mark.parametrize("groups", [2, 4])
@pytest.mark.parametrize("kind", ["svd", "tucker", "spatial", "dominant"])
def test_arithmetic_is_what_is_counted_also_with_groups(kind, groups):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(16, 32, (3, 5), stride=(2, 1), padding=1, groups=groups), nn.Conv2d(32, 16, 1))
    new, rows, told = made(model, torch.randn(2, 16, 9, 9), rank=1, kind=kind, layers=["0"])
    assert rows["0"]["decision"] == "factorized"
    assert told.details["macs"]["after"] == rows["0"]["macs"][1] + 16 * 32 * 5 * 7
    assert all(part.groups in (groups, 16) for part in new[0])


def test_depthwise_convolutions_can_only_become_columns_and_rows():
    model = nn.Sequential(nn.Conv2d(16, 16, 3, groups=16), nn.Conv2d(16, 16, 1))
    for kind in ("svd", "tucker", "dominant"):
        _, rows, _ = made(model, torch.randn(2, 16, 9, 9), energy=0.1, kind=kind, layers=["0"])
        assert rows["0"]["decision"] == "no less arithmetic"
    _, rows, _ = made(model, torch.randn(2, 16, 9, 9), energy=0.1, layers=["0"])
    assert (rows["0"]["kind"], rows["0"]["ranks"]) == ("spatial", [1])


@pytest.mark.parametrize("part", [0.9, 0.5, 0.2])
def test_a_part_of_the_arithmetic(part):
    torch.manual_seed(0)
    model = models.build("resnet8", classes=10)
    x = torch.randn(2, 3, 32, 32)
    new, _, told = made(model, x, macs=part)
    whole = models.macs.count_macs(model, x)
    kept = models.macs.count_macs(new, x)
    assert kept <= part * whole
    assert kept > (part - 0.05) * whole
    # the energy that was found is the one that would have been given
    again = made(model, x, energy=told.details["energy"])[2].details
    assert again["macs"] == told.details["macs"]
    assert made(model, x, energy=told.details["energy"] + 0.02)[2].details["macs"]["after"] > part * whole


def test_noise_decides():
    model = net()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        planted = rng.standard_normal((30, 6)) @ rng.standard_normal((6, 512)) + 0.1 * rng.standard_normal((30, 512))
        model[4].weight.copy_(torch.from_numpy(planted))
        core = np.einsum(
            "op,pqhw,iq->oihw",
            rng.standard_normal((32, 7)),
            rng.standard_normal((7, 5, 3, 3)),
            rng.standard_normal((16, 5)),
        )
        model[2].weight.copy_(torch.from_numpy(core + 0.1 * rng.standard_normal(core.shape)))
    _, rows, told = made(model, X, vbmf=True)
    assert rows["4"]["ranks"] == [6]
    assert rows["2"]["ranks"] == [5, 7]
    (note,) = [note for note in told.notes if note.startswith("vbmf found a rank of 1")]
    assert note.endswith(": 0")  # never trained
    _, rows, _ = made(model, X, vbmf=True, weaken=0.5)
    assert rows["4"]["ranks"] == [18]
    assert rows["2"]["ranks"] == [5 + 6, 7 + 13]  # half of 11 and of 25 more, rounded up
    _, rows, _ = made(model, X, vbmf=True, weaken=1.0)
    assert {row["decision"] for row in rows.values()} == {"no less arithmetic"}


def test_where_no_rank_but_one_is_possible_it_says_nothing_of_noise():
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 16, 1), nn.Conv2d(16, 1, 1), nn.Flatten(), nn.Linear(100, 1), nn.Linear(1, 8))
    with torch.no_grad():
        model[0].weight.copy_(torch.outer(torch.randn(16), torch.randn(3)).view(16, 3, 1, 1))
    _, rows, told = made(model, X, vbmf=True)
    assert all(rows[name]["ranks"] == [1] for name in "0134")
    (note,) = [note for note in told.notes if note.startswith("vbmf found a rank of 1")]
    assert note.endswith(": 0")
    _, _, told = made(model, X, vbmf=True, ignore=["0"])
    assert not any("noise" in note for note in told.notes)


def small_ends():
    """A first layer and a classifier that hold next to nothing, and a wide layer that is hardly ever multiplied."""
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 32, 3, padding=1), nn.ReLU(), nn.Conv2d(32, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1),
        nn.AdaptiveAvgPool2d(4), nn.Flatten(), nn.Linear(1024, 64), nn.ReLU(), nn.Linear(64, 10),
    )  # fmt: skip


@pytest.mark.parametrize(
    ("target", "kind"), [({"energy": 0.6}, "auto"), ({"energy": 0.6}, "svd"), ({"macs": 0.5}, "spatial")]
)
def test_what_has_little_to_save_is_left_alone(target, kind):
    model, x = small_ends(), torch.randn(2, 3, 16, 16)
    new, rows, told = made(model, x, kind=kind, **target)
    assert {name: row["decision"] for name, row in rows.items()} == {
        "0": "little to save",  # a sixtieth of the arithmetic
        "2": "factorized",
        "4": "factorized",
        "7": "factorized",  # no arithmetic, but half of the weights
        "9": "little to save",
    }
    assert torch.equal(new[9].weight, model[9].weight)
    assert sum(note.startswith("left alone, since a split would save less than a fifth") for note in told.notes) == 1
    assert told.details["macs"]["after"] <= target.get("macs", 1.0) * told.details["macs"]["before"]
    if "energy" in target:  # who names it means it
        _, rows, _ = made(model, x, kind=kind, layers=["2", "9"], **target)
        assert {name: row["decision"] for name, row in rows.items()} == {"2": "factorized", "9": "factorized"}
    _, rows, _ = made(model, x, kind=kind, rank=2)
    assert {row["decision"] for row in rows.values()} == {"factorized"}


def test_a_layer_with_little_to_save_is_asked_for_by_any_of_its_names():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = small_ends()
            self.head = self.body[9]

        def forward(self, x):
            return self.body(x)

    _, rows, _ = made(Twice(), torch.randn(2, 3, 16, 16), energy=0.6, layers=["body.2", "head"])
    assert {name: row["decision"] for name, row in rows.items()} == {"body.2": "factorized", "body.9": "factorized"}


def test_the_mean_of_the_layers_in_question_counts():
    model, x = small_ends(), torch.randn(2, 3, 16, 16)
    _, rows, _ = made(model, x, energy=0.6, ignore=["2", "4", "7"])
    assert {name: row["decision"] for name, row in rows.items()} == {"0": "factorized", "9": "factorized"}


def test_layers_and_ignore_name_layers_and_what_holds_them():
    model = models.build("resnet8", classes=10)
    x = torch.randn(2, 3, 32, 32)
    _, rows, _ = made(model, x, energy=0.5, layers=["layer1", "fc"])
    assert rows.keys() == {name for name in rows if name.startswith("layer1.")} | {"fc"}
    assert len(rows) == 3
    _, every, _ = made(model, x, energy=0.5)
    _, rows, _ = made(model, x, energy=0.5, ignore=["layer1", "fc"])
    assert every.keys() - rows.keys() == {"layer1.0.conv1", "layer1.0.conv2", "fc"}


def times(**by_kind):
    """Latencies as if measured: of the layer 1, of its splits as given, told apart by the names of their parts."""

    def fake(both, x, *, repeats, warmup):
        kind = "/".join(name for name, _ in both["after"].named_children())
        asked.append((kind, tuple(x.shape)))
        ms = {"before": 1.0, "after": by_kind[kind.replace("/", "_")]}
        return {key: Latency(len(x), value, value, value, repeats, 1, "clock", "device") for key, value in ms.items()}

    asked = []
    return fake, asked


def test_what_is_not_faster_is_left_alone_and_other_kinds_are_tried(monkeypatch):
    fake, asked = times(down_up=0.5, down_core_up=1.0, vertical_horizontal=1.2, depthwise_pointwise=2.0)
    monkeypatch.setattr(apply, "latency", fake)
    model = net()
    new, rows, told = made(model, X, energy=0.5, measured=True)
    assert {row["kind"] for row in rows.values()} == {"svd"}  # the only kind that is faster
    assert all(row["decision"] == "factorized" and row["ms"] == [1.0, 0.5] for row in rows.values())
    assert {shape for _, shape in asked} == {(2, 3, 10, 10), (2, 16, 10, 10), (2, 512)}
    assert told.details["measured_on"] == {"device": "device", "clock": "clock", "threads": 1, "batch": 2}

    new, rows, told = made(model, X, energy=0.5, measured=True, kind="tucker")  # as fast is not faster
    assert [rows[name]["decision"] for name in ("0", "2", "4")] == [
        "not clearly faster",
        "not clearly faster",
        "factorized",
    ]
    assert type(new[0]) is nn.Conv2d
    assert torch.equal(new[0].weight, model[0].weight)
    assert any(
        note.startswith("left alone, since the split was measured") and note.endswith(": 0, 2") for note in told.notes
    )

    _, _, told = made(model, X, macs=0.3, measured=True, kind="tucker")
    assert any(note.startswith("macs = 0.3 is not met") for note in told.notes)


@pytest.mark.parametrize(
    ("svd", "tucker", "taken"),
    [(0.8, 0.5, "tucker"), (0.8, 0.78, "svd"), (0.96, 0.9, "tucker"), (0.96, 0.96, None), (1.2, 0.94, "tucker")],
)
def test_the_fastest_kind_is_taken_and_of_those_as_fast_the_cheapest(svd, tucker, taken, monkeypatch):
    fake, asked = times(down_up=svd, down_core_up=tucker, vertical_horizontal=0.99, depthwise_pointwise=2.0)
    monkeypatch.setattr(apply, "latency", fake)
    new, rows, _ = made(net(), X, energy=0.5, measured=True, layers=["2"])
    kinds = [name for name, _ in asked]
    assert kinds[0] == "down/up"  # the least arithmetic
    assert len(set(kinds)) == 4  # each kind was timed
    assert rows["2"]["decision"] == ("factorized" if taken else "not clearly faster")
    assert (type(new[2]) is nn.Conv2d) == (taken is None)
    assert rows["2"]["kind"] == (taken or "svd")
    assert rows["2"]["ms"] == [1.0, tucker if taken == "tucker" else svd]


def test_a_budget_of_arithmetic_takes_the_least_that_is_faster(monkeypatch):
    fake, asked = times(down_up=0.9, down_core_up=0.5, vertical_horizontal=0.5, depthwise_pointwise=0.5)
    monkeypatch.setattr(apply, "latency", fake)
    _, rows, told = made(net(), X, macs=0.5, measured=True)
    assert {row["kind"] for row in rows.values()} == {"svd"}
    assert {name for name, _ in asked} == {"down/up"}  # nothing else had to be timed
    assert told.details["macs"]["after"] <= 0.5 * told.details["macs"]["before"]


def test_the_batch_that_is_timed(monkeypatch):
    fake, asked = times(down_up=0.5)
    monkeypatch.setattr(apply, "latency", fake)
    _, _, told = made(net(), X, energy=0.5, measured=True, kind="svd", batch=5, layers=["4"])
    assert {shape for _, shape in asked} == {(5, 512)}
    assert told.details["measured_on"]["batch"] == 5
    assert told.details["macs"]["before"] == 100 * 16 * 75 + 16 * 32 * 144 + 512 * 30  # of one sample


def test_a_wide_linear_layer_really_is_faster():
    torch.manual_seed(0)
    _, rows, _ = made(nn.Sequential(nn.Linear(768, 768)), torch.randn(32, 768), rank=8, measured=True)
    assert rows["0"]["decision"] == "factorized"
    assert rows["0"]["ms"][1] < rows["0"]["ms"][0]


def test_what_was_told_before_is_forgotten_and_the_output_compared():
    model = net()
    tell(model, "something older")
    new, rows, told = made(model, X, rank=1)
    assert not any("older" in note for note in told.notes)
    with torch.no_grad():
        a, b = new.eval()(X).numpy(), model.eval()(X).numpy()
    assert told.details["output_error"] == pytest.approx(math.sqrt(((a - b) ** 2).sum() / (b**2).sum()), rel=1e-4)
    assert all(row["ms"] == [None, None] for row in rows.values())  # not measured


def test_the_same_call_gives_the_same_bits():
    one, two = (made(net(), X, macs=0.5)[0].state_dict() for _ in range(2))
    assert all(torch.equal(one[key], two[key]) for key in one)
