"""Factor transfer and FEED: who is trained when, and the published numbers."""

from __future__ import annotations

import dataclasses
from collections import OrderedDict

import pytest
import torch
from mini_driver import images, moment, net, run, stage
from torch import nn

from limbeck.course import TEACHER, is_taught, lessons_of
from limbeck.errors import HyperParameterError, ShapeError, TapError, TargetError, WeightsError
from limbeck.methods import FEED, FactorTransfer, FEEDSequence, preset
from limbeck.models import save_weights
from limbeck.phase import Batch, Cast
from limbeck.settings import Optimizer, divide_epochs
from limbeck.taps import look


class Says(nn.Module):
    """Its layer "maps" is always the same 1x2x2 map."""

    def __init__(self, *values):
        super().__init__()
        self.maps = nn.Identity()
        self.values = nn.Parameter(torch.tensor(values).reshape(1, 1, 2, 2))
        self.fc = nn.Linear(4, 3)

    def forward(self, x):
        return self.fc(self.maps(self.values.expand(len(x), -1, -1, -1)).flatten(1))


def golden(*teachers, **settings):
    """Everything between the maps is the identity, so that the factors are the maps."""
    models = {"student": Says(1.0, 2.0, 2.0, 0.0), **{name: Says(0.0, 0.0, 3.0, 4.0) for name in teachers}}
    cast = Cast(models=models, example=Batch(torch.zeros(2, 1, 2, 2), torch.tensor([0, 1])), classes=3)
    cls = FEED if len(teachers) > 1 else FactorTransfer
    phases = cls(pair=("maps", "maps"), rate=1.0, **settings).phases(cast)
    for name, module in phases[-1].modules.items():
        if name.startswith(("translator", "encoder")):
            with torch.no_grad():
                for conv in (m for m in module.modules() if isinstance(m, nn.Conv2d)):
                    conv.weight.zero_()[0, 0, 1, 1] = 1.0
                    conv.bias.zero_()
    return phases[-1], cast


@pytest.mark.parametrize(
    ("p", "form", "value"),
    [(1, "paper", 1.86666667), (1, "mean", 0.46666667), (2, "paper", 1.09544512)],
)
def test_golden_values_of_factor_transfer(p, form, value):
    phase, cast = golden("teacher", p=p, form=form)
    ((_, terms),) = run(phase, cast.example)
    assert terms["factor"].value.tolist() == pytest.approx([value] * 2, abs=1e-6)


@pytest.mark.parametrize("paraphrase", [False, True])
def test_two_teachers_add_up(paraphrase):
    phase, cast = golden("teacher1", "teacher2", paraphrase=paraphrase, weight=2.0)
    ((_, terms),) = run(phase, cast.example)
    assert set(terms) == {"ce", "factor/teacher1", "factor/teacher2"}
    whole = terms["factor/teacher1"].value + terms["factor/teacher2"].value
    assert whole.tolist() == pytest.approx([3.73333333] * 2, abs=1e-6)
    assert all(terms[f"factor/teacher{i}"].weight == 2.0 for i in (1, 2))


@pytest.mark.parametrize(
    ("p", "form", "weight"),
    [(1, "paper", 500 / 80), (2, "paper", 500 / 80**0.5), (1, "mean", 500), (1, "benchmark", 200)],
)
def test_the_usual_weight_is_the_authors_in_every_form(p, form, weight):
    cast = stage()  # the teacher's last map is 10x4x4: factors of 5 channels and 80 units
    phase = FactorTransfer(p=p, form=form).phases(cast)[-1]
    ((_, terms),) = run(phase, cast.example)
    assert terms["factor"].weight == pytest.approx(weight)


def test_paraphrasing_trains_the_paraphraser_alone_and_needs_no_labels():
    cast = stage()
    first, _ = FactorTransfer(hard=0.0).phases(dataclasses.replace(cast, example=images(labels=False)))
    assert set(first.modules) == {"teacher", "paraphraser"}
    assert first.trains == {"paraphraser": ("paraphraser",)}
    assert first.keeps == ("paraphraser",)
    assert first.stops == {"teacher"}
    ((player, terms),) = run(first, images(labels=False))
    assert (player, list(terms)) == ("paraphraser", ["reconstruction"])
    maps = look(cast.models["teacher"], cast.example.inputs, ["layer2"]).taps["layer2"]
    with torch.no_grad():
        back = first.modules["paraphraser"](maps)
    want = [((a - b) ** 2).mean().item() for a, b in zip(back, maps, strict=True)]
    assert terms["reconstruction"].value.tolist() == pytest.approx(want, rel=1e-5)


def test_reconstruction_falls_and_the_factor_has_the_rate_times_the_channels():
    cast = stage()
    for rate, channels in ((0.5, 5), (0.75, 7), (2, 20)):
        first, second = FactorTransfer(rate=rate).phases(cast)
        path = [run(first, cast.example, lr=0.5)[0][1]["reconstruction"].value.mean().item() for _ in range(60)]
        assert path[-1] < 0.9 * path[0]
        maps = torch.zeros(2, 10, 4, 4)
        assert second.modules["encoder"](maps).shape == (2, channels, 4, 4)
        assert second.modules["translator"](torch.zeros(2, 6, 4, 4)).shape == (2, channels, 4, 4)
        assert second.modules["encoder"] is first.modules["paraphraser"].encoder


def test_the_second_phase_leaves_the_paraphraser_as_it_is():
    cast = stage()
    first, second = FactorTransfer(layers="benchmark").phases(cast)
    run(first, cast.example, lr=0.1)
    first.modules["paraphraser"].zero_grad(set_to_none=True)
    before = {k: v.clone() for k, v in first.modules["paraphraser"].state_dict().items()}
    student = [p.detach().clone() for p in cast.models["student"].parameters()]
    translator = [p.detach().clone() for p in second.modules["translator"].parameters()]
    run(second, cast.example, lr=0.1)
    after = first.modules["paraphraser"].state_dict()
    assert all(torch.equal(before[k], after[k]) for k in before)
    assert all(p.grad is None for p in first.modules["paraphraser"].parameters())
    assert second.frozen == ("teacher", "encoder")
    for old, module in ((student, cast.models["student"]), (translator, second.modules["translator"])):
        assert any(not torch.equal(a, b) for a, b in zip(old, module.parameters(), strict=True))


def test_maps_of_different_size_are_compared_at_the_smaller():
    cast = stage()
    _, phase = FactorTransfer(pair=("layer1", "layer2")).phases(cast)  # 3x8x8 -> 10x4x4
    ((_, terms),) = run(phase, cast.example)
    assert torch.isfinite(terms["factor"].value).all()
    assert terms["factor"].weight == pytest.approx(500 / (5 * 16))


def test_epochs_of_the_paraphraser():
    assert divide_epochs(40, [p.share for p in FactorTransfer(paraphrase_share=0.25).phases(stage())]) == [10, 30]
    first, second = FactorTransfer(paraphrase_epochs=6, paraphrase_optimizer=Optimizer(lr=0.01)).phases(stage())
    assert (first.epochs, second.epochs, second.share) == (6, None, 1.0)
    assert first.optimizers == {"paraphraser": Optimizer(lr=0.01)}
    assert not second.optimizers


def test_a_trained_paraphraser_is_taken_from_its_file(tmp_path):
    cast = stage()
    first, second = FactorTransfer().phases(cast)
    for _ in range(5):
        run(first, cast.example, lr=0.1)
    path = tmp_path / "paraphraser.safetensors"
    save_weights(first.modules["paraphraser"], path)
    (alone,) = FactorTransfer(paraphraser=str(path)).phases(cast)
    assert alone.name == "distill"
    assert alone.share == 1.0
    assert any(f"paraphraser: from {path}" in note for note in alone.notes)
    alone.modules["translator"].load_state_dict(second.modules["translator"].state_dict())
    (_, a), (_, b) = run(alone, cast.example)[0], run(second, cast.example)[0]
    assert torch.equal(a["factor"].value, b["factor"].value)
    with pytest.raises(WeightsError, match=r"does not fit Paraphraser: .* mismatched"):
        FactorTransfer(paraphraser=str(path), rate=0.3).phases(cast)
    with pytest.raises(WeightsError, match="no file of weights at"):
        FactorTransfer(paraphraser=str(tmp_path / "nothing")).phases(cast)


# -- FEED ------------------------------------------------------------------------------------------------


def several(*widths, student=3, seed=0):
    torch.manual_seed(seed)
    models = {"student": net(student), **{f"teacher{i + 1}": net(width) for i, width in enumerate(widths)}}
    return Cast(models=models, example=images(), classes=3)


def test_one_teacher_is_factor_transfer():
    outs = []
    for method in (FactorTransfer(soft=0.3), FEED(paraphrase=True, soft=0.3)):
        cast = stage()
        torch.manual_seed(4)
        phases = method.phases(cast)
        found = [run(phase, cast.example, moment(step, 4), lr=0.01) for step in range(2) for phase in phases]
        outs.append([(player, {k: (v.value, v.weight) for k, v in terms.items()}) for ((player, terms),) in found])
        assert [p.name for p in phases] == ["paraphrase", "distill"]
    for (player, a), (other, b) in zip(*outs, strict=True):
        assert player == other
        assert a.keys() == b.keys()
        assert all(torch.equal(a[k][0], b[k][0]) and a[k][1] == b[k][1] for k in a)


def test_translators_share_nothing():
    cast = several(5, 4)
    (phase,) = FEED().phases(cast)
    assert phase.trains == {"student": ("student", "translator1", "translator2")}
    one, two = (phase.modules[f"translator{i}"] for i in (1, 2))
    assert not {id(p) for p in one.parameters()} & {id(p) for p in two.parameters()}
    ((_, terms),) = run(dataclasses.replace(phase, step=only(phase.step, "factor/teacher1")), cast.example)
    assert list(terms) == ["factor/teacher1"]
    assert all(p.grad is not None for p in one.parameters())
    assert all(p.grad is None for p in two.parameters())


def only(step, name):
    def narrowed(models, batch, when):
        for update in step(models, batch, when):
            yield update._replace(terms={name: update.terms[name]})

    return narrowed


def test_each_teacher_has_its_own_paraphraser():
    cast = several(5, 4)
    first, second = FEED(paraphrase=True).phases(cast)
    assert first.trains == {"paraphraser1": ("paraphraser1",), "paraphraser2": ("paraphraser2",)}
    assert first.keeps == ("paraphraser1", "paraphraser2")
    assert "student" not in first.modules
    assert [player for player, _ in run(first, cast.example)] == ["paraphraser1", "paraphraser2"]
    assert {"encoder1", "encoder2"} <= set(second.frozen)
    assert second.modules["encoder1"](torch.zeros(1, 10, 4, 4)).shape[1] == 5
    assert second.modules["encoder2"](torch.zeros(1, 8, 4, 4)).shape[1] == 4


def test_kd_beside_it_is_the_mean_over_the_teachers():
    cast = several(5, 4)
    (phase,) = FEED(soft=0.5, temperature=2.0).phases(cast)
    assert phase.stops == frozenset()
    ((_, terms),) = run(phase, cast.example)
    student = cast.models["student"].train()(cast.example.inputs).detach().double() / 2
    found = []
    for role in cast.teachers:
        with torch.no_grad():
            teacher = cast.models[role].eval()(cast.example.inputs).double() / 2
        p, q = teacher.softmax(1), student.softmax(1)
        found.append(4 * (p * (p / q).log()).sum(1))
    torch.testing.assert_close(terms["kd"].value.double(), sum(found) / 2, rtol=1e-4, atol=1e-6)


def test_bad_casts_of_feed(tmp_path):
    coarse = several(5, 4)
    torch.manual_seed(0)
    coarse.models["teacher2"] = net(4, shrink=4)
    with pytest.raises(
        ShapeError, match=r"teachers' maps differ in size \(teacher1 4x4, teacher2 2x2\); choose a layer"
    ):
        FEED(pair=("layer2", "layer2")).phases(coarse)
    with pytest.raises(ShapeError, match=r"same = True: teacher1 is not of the student's architecture; set same=False"):
        FEED(same=True).phases(several(5, 3))
    assert FEED(same=True).phases(several(3, 3))
    with pytest.raises(
        HyperParameterError, match=r"paraphrasers: 1 file\(s\) for 2 teacher\(s\) \(teacher1, teacher2\)"
    ):
        FEED(paraphrase=True, paraphrasers=("a",)).phases(several(5, 4))
    with pytest.raises(HyperParameterError, match=r"paraphrasers = .*: only with paraphrase=True"):
        FEED(paraphrasers=("a",))
    with pytest.raises(HyperParameterError, match=r"paraphrasers = 'a': a list of safetensors files"):
        FEED(paraphrase=True, paraphrasers="a")  # pyright: ignore[reportArgumentType]


# -- sequential FEED -------------------------------------------------------------------------------------


def test_every_round_learns_from_the_one_before():
    transfer = FactorTransfer(rate=0.75)
    lessons = lessons_of(FEEDSequence(rounds=3, transfer=transfer))
    assert [lesson.name for lesson in lessons] == ["1", "2", ""]
    assert [lesson.teachers for lesson in lessons] == [(TEACHER,), (".1",), (".2",)]
    assert [lesson.fresh for lesson in lessons] == [True, True, False]
    assert all(lesson.method is transfer and lesson.student == "student" for lesson in lessons)
    assert is_taught(FEEDSequence())


def test_one_round_is_factor_transfer():
    (lesson,) = lessons_of(FEEDSequence(rounds=1, transfer=FactorTransfer(paraphraser="file")))
    assert (lesson.method, lesson.teachers, lesson.fresh) == (FactorTransfer(paraphraser="file"), (TEACHER,), False)


def test_bad_settings_of_the_sequence():
    with pytest.raises(HyperParameterError, match="rounds = 0: at least 1"):
        FEEDSequence(rounds=0)
    with pytest.raises(HyperParameterError, match=r"rounds = 2.5: a whole number"):
        FEEDSequence(rounds=2.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(HyperParameterError, match=r"transfer.paraphraser = 'x': it fits one teacher"):
        FEEDSequence(rounds=2, transfer=FactorTransfer(paraphraser="x"))
    with pytest.raises(HyperParameterError, match=r"transfer = FEED.*the settings of a FactorTransfer"):
        FEEDSequence(transfer=FEED())  # pyright: ignore[reportArgumentType]


# -- bad input -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("cls", [FactorTransfer, FEED])
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"rate": 0}, "rate = 0: a paraphrase rate is more than zero"),
        ({"rate": -0.5}, "rate = -0.5"),
        ({"rate": float("nan")}, "rate = nan.*finite"),
        ({"p": 3}, "p = 3: 1 or 2"),
        ({"form": "papers"}, "form = 'papers': 'paper', 'mean' or 'benchmark'"),
        ({"layers": "x"}, "layers = 'x'"),
        ({"weight": -1.0}, "weight = -1.0: a loss weight is zero or more"),
        ({"weight": 0.0, "hard": 0.0}, "all are zero"),
        ({"paraphrase_share": 1.0}, r"paraphrase_share = 1.0: a part of the epochs, in \(0, 1\)"),
        ({"paraphrase_epochs": 0}, "paraphrase_epochs = 0: at least 1"),
        ({"temperature": 0.0}, "temperature = 0.0"),
        ({"pair": ("a",)}, "pair = .*: a pair is"),
    ],
)
def test_bad_settings(cls, settings, text):
    with pytest.raises(HyperParameterError, match=text):
        cls(**settings)


def test_bad_networks():
    with pytest.raises(HyperParameterError, match=r"rate = 0.05: of the 10 channels .* would leave none; at least 0.1"):
        FactorTransfer(rate=0.05).phases(stage())
    with pytest.raises(TapError, match=r"no layer 'layr2'.*near: layer2"):
        FactorTransfer(pair=("layer2", "layr2")).phases(stage())
    with pytest.raises(
        ShapeError, match=r"factor transfer compares feature maps .*; layer 'fc' of the student gives \[3\]"
    ):
        FactorTransfer(pair=("fc", "layer2")).phases(stage())
    with pytest.raises(TargetError, match=r"hard = 1.0 needs labels"):
        FactorTransfer().phases(stage(batch=images(labels=False)))
    flat = nn.Sequential(OrderedDict(flat=nn.Flatten(), fc=nn.Linear(64, 3)))
    with pytest.raises(TapError, match=r"returns no .* maps"):
        FactorTransfer().phases(stage(student=flat))
    with pytest.raises(ShapeError, match="N_t != N_s"):
        FactorTransfer(soft=1.0).phases(stage(teacher=net(5, 4)))


def test_presets_run():
    for method in (
        preset("factor_transfer", "paper"),
        preset("factor_transfer", "benchmark"),
        preset("feed", "benchmark"),
    ):
        cast = stage()
        for phase in method.phases(cast):
            assert run(phase, cast.example)
    assert preset("factor_transfer", "benchmark").paraphrase_epochs == 30
    assert preset("factor_transfer", "benchmark").weight == 200.0
    assert preset("feed_sequence", "benchmark").transfer == preset("factor_transfer", "benchmark")


@pytest.mark.parametrize("method", [FactorTransfer, FEED])
@pytest.mark.parametrize("p", [True, 1.0])
def test_the_norm_is_a_whole_number(method, p):
    with pytest.raises(HyperParameterError, match=f"p = {p}: a whole number"):
        method(p=p)
