"""Distilling from Python: any modules, any batches."""

from __future__ import annotations

import copy
import json
import random
from dataclasses import dataclass

import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import limbeck as lk
from limbeck.errors import DataError, HyperParameterError, LimbeckError, RunFolderError
from limbeck.methods import KD, NST, FitNets, LogitMatching, Supervised

CLASSES = 3


def rows(n=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(n, 4, generator=g)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0.5).long()


def pairs(n=24, size=6):
    x, y = rows(n)
    return [(x[i : i + size], y[i : i + size]) for i in range(0, n, size)]


def net(width=8, seed=0):
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(4, width), nn.ReLU(), nn.Linear(width, CLASSES))


def quick(teacher, student, batches, **more):
    return lk.distill(teacher, student, batches, quiet=True, device="cpu", **{"epochs": 2, **more})


def state(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


# -- other people's networks -------------------------------------------------------------------------


def images(size=64, n=2):
    g = torch.Generator().manual_seed(0)
    return [(torch.randn(n, 3, size, size, generator=g), torch.arange(n) % CLASSES)]


def big_and_small(library):
    if library == "torchvision":
        from torchvision.models import resnet18, resnet34

        return resnet34(num_classes=CLASSES), resnet18(num_classes=CLASSES)
    import timm

    return (timm.create_model(n, num_classes=CLASSES, pretrained=False) for n in ("convnext_atto", "resnet10t"))


@pytest.mark.parametrize("library", ["torchvision", "timm"])
def test_networks_of_other_libraries(library):
    torch.manual_seed(0)
    teacher, student = big_and_small(library)
    keys, before, own = list(student.state_dict()), state(teacher), state(student)
    back = quick(teacher, student, images(), method=NST(), epochs=1)
    assert back is student
    assert list(student.state_dict()) == keys
    assert same(before, state(teacher))
    assert not same(own, state(student))
    assert student.record.phases[0]["notes"][0].startswith("pairs")
    assert student.record.cost["student"]["parameters"] == sum(p.numel() for p in student.parameters())
    assert student.record.cost["student"]["macs"] > 1_000_000


@dataclass
class Output:
    logits: torch.Tensor
    loss: None = None
    hidden: tuple = ()


class Wrapped(nn.Module):
    """Returns its scores as Hugging Face models do, and takes keyword arguments as they do."""

    def __init__(self, wrap, seed=0, name="pixel_values"):
        super().__init__()
        self.body, self.wrap, self.name = net(seed=seed), wrap, name

    def forward(self, inputs=None, **named):
        return self.wrap(self.body(named[self.name] if inputs is None else inputs))


@pytest.mark.parametrize(
    "method", [KD(), LogitMatching(), FitNets(pair=("body.1", "body.1"))], ids=lambda m: type(m).__name__
)
@pytest.mark.parametrize(
    "wrap",
    [lambda y: {"logits": y, "other": 1}, lambda y: (y, None), lambda y: Output(y)],
    ids=["dict", "tuple", "object"],
)
def test_models_that_return_more_than_a_tensor(wrap, method):
    teacher, student = Wrapped(wrap, seed=1), Wrapped(wrap)
    plain_teacher, plain = net(seed=1), net()
    quick(teacher, student, pairs(), method=method, evaluate=pairs())
    if isinstance(method, FitNets):
        method = FitNets(pair=("1", "1"))
    quick(plain_teacher, plain, pairs(), method=method)
    assert same(state(plain), state(student.body))
    assert 0 <= student.record.after["student"]["accuracy"] <= 1


def forms():
    x, y = rows()
    return {
        "tuples": pairs(),
        "lists": [list(b) for b in pairs()],
        "dicts": [{"x": a, "y": b} for a, b in pairs()],
        "numpy": [(a.numpy(), b.numpy()) for a, b in pairs()],
        "batches": [lk.Batch(a, b) for a, b in pairs()],
        "loader": DataLoader(TensorDataset(x, y), batch_size=6),
        "dict loader": DataLoader([{"image": a, "label": b} for a, b in zip(x, y)], batch_size=6),
    }


@pytest.mark.parametrize("form", list(forms()))
def test_batches_in_any_form(form):
    wanted, found = net(), net()
    quick(net(seed=1), wanted, pairs())
    quick(net(seed=1), found, forms()[form], evaluate=forms()[form], validation=forms()[form])
    assert same(state(wanted), state(found))
    assert found.record.after["student"]["n"] == 24


def test_mappings_become_keyword_arguments():
    wanted, found = net(), Wrapped(lambda y: {"logits": y})
    quick(net(seed=1), wanted, pairs())
    named = [{"pixel_values": a, "labels": b} for a, b in pairs()]
    quick(Wrapped(lambda y: {"logits": y}, seed=1), found, named, evaluate=named)
    assert same(state(wanted), state(found.body))


def test_batches_without_labels():
    student = net()
    before = state(student)
    quick(net(seed=1), student, [a for a, _ in pairs()], method=KD(hard=0))
    assert not same(before, state(student))
    with pytest.raises(LimbeckError, match=r"hard = 0.1 needs labels, and this batch has none"):
        quick(net(seed=1), net(), [a for a, _ in pairs()])
    with pytest.raises(LimbeckError, match="these batches have no targets, so nothing can be measured"):
        quick(net(seed=1), net(), [a for a, _ in pairs()], method=KD(hard=0), evaluate=[a for a, _ in pairs()])


# -- what is refused ---------------------------------------------------------------------------------


def test_what_can_be_walked_only_once_is_refused():
    for once in ((b for b in pairs()), iter(pairs()), map(tuple, pairs())):
        with pytest.raises(
            DataError, match=r"the training batches are a \w+, which can be walked only once; give something that"
        ):
            quick(net(seed=1), net(), once)
    with pytest.raises(DataError, match="the evaluation batches are a generator, which can be walked only once"):
        quick(net(seed=1), net(), pairs(), evaluate=(b for b in pairs()))
    with pytest.raises(DataError, match="the validation batches are a list_iterator"):
        quick(net(seed=1), net(), pairs(), validation=iter(pairs()))
    with pytest.raises(
        DataError, match=r"the training batches are a int; an iterable of \(inputs, targets\) or of dicts is needed"
    ):
        quick(net(seed=1), net(), 3)


def test_an_iterable_that_runs_dry_is_named():
    class Once:
        def __init__(self):
            self.left = pairs()

        def __iter__(self):
            while self.left:
                yield self.left.pop()

    with pytest.raises(LimbeckError, match="has no batches; a loader must give them anew every epoch"):
        quick(net(seed=1), net(), Once())


def test_one_module_cannot_be_both():
    model = net()
    with pytest.raises(LimbeckError, match=r"teacher and student are the same module; give the student a copy"):
        quick(model, model, pairs())
    with pytest.raises(LimbeckError, match="teacher and student are the same module"):
        quick(torch.compile(model, backend="eager"), model, pairs())
    other = net(seed=1)
    other[0].weight = model[0].weight
    with pytest.raises(
        LimbeckError, match="teacher and student share 1 parameters; training one would change the other"
    ):
        quick(model, other, pairs())


def test_networks_that_score_different_classes():
    with pytest.raises(LimbeckError, match="the teacher scores 5 classes and the student 3"):
        quick(nn.Linear(4, 5), net(), pairs())


# -- what comes back ---------------------------------------------------------------------------------


def test_the_student_is_a_plain_module():
    student = net()
    keys = list(student.state_dict())
    found = quick(net(seed=1), student, pairs(), method=FitNets(), evaluate=pairs())
    assert found is student
    assert list(found.state_dict()) == keys
    twin = copy.deepcopy(found)
    assert same(state(twin), state(found))
    fresh = net(seed=5)
    fresh.load_state_dict(found.state_dict())
    assert torch.equal(fresh(torch.ones(2, 4)), found(torch.ones(2, 4)))
    assert all(p.requires_grad and p.grad is None for p in found.parameters())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in found.modules())
    assert found.training


def test_the_record():
    student = quick(
        net(seed=1, width=9), net(), pairs(), method=KD(temperature=2), evaluate=pairs(), validation=pairs(), seed=4
    )
    told = student.record
    assert (told.seed, told.epochs, told.device) == (4, 2, "cpu")
    assert told.method == repr(KD(temperature=2))
    assert told.before["teacher"] == told.after["teacher"]
    assert told.before["student"] != told.after["student"]
    assert 0 <= told.agreement <= 1
    assert told.best["epoch"] in (1, 2)
    assert [h["epoch"] for h in told.history] == [1, 2]
    assert told.cost["student"]["parameters"] == 4 * 8 + 8 + 8 * 3 + 3
    assert told.cost["teacher"]["macs"] == 4 * 9 + 9 * 3
    text = told.summary()
    head, one, two, last = text.splitlines()
    assert head.split()[:2] == ["network", "parameters"]
    assert one.split()[:2] == ["student", "67"]
    assert f"{100 * told.after['student']['accuracy']:.2f} %" in one
    assert two.split()[0] == "teacher"
    assert len({len(line) for line in (head, one, two)}) == 1, "columns are aligned"
    assert last.startswith("KD(temperature=2, soft=0.9, hard=0.1, label_smoothing=0.0), 2 epochs, ")
    assert "seed 4 (single run)" in last
    assert "measured on 24 samples" in last
    assert "student and teacher agree on" in last
    assert str(told) == text
    shown = told._repr_html_()
    assert shown.count("<tr>") == 3
    assert "<th scope='col'>parameters</th>" in shown
    assert f"{100 * told.after['student']['accuracy']:.2f} %" in shown
    json.dumps(told.cost)


def test_a_record_without_measures():
    told = quick(net(seed=1), net(), pairs()).record
    assert told.before == told.after == {}
    assert told.agreement is None
    assert "-" in told.summary().splitlines()[1].split()
    assert "<script" not in told._repr_html_()


def test_labels_alone():
    a, b = net(), net()
    lk.train(a, pairs(), epochs=2, quiet=True, device="cpu", evaluate=pairs())
    quick(net(seed=1), b, pairs(), method=Supervised())
    assert list(a.record.cost) == ["student"]
    assert same(state(a), state(b)), "the yardstick walks the same way"


def test_settings_come_together():
    student = net()
    training = lk.Training(epochs=7, clip=1.0)
    quick(net(seed=1), student, pairs(), training=training, epochs=1, optimizer=lk.Optimizer(lr=0.5))
    assert student.record.epochs == 1
    other = net()
    quick(
        net(seed=1),
        other,
        pairs(),
        training=lk.Training(epochs=1, clip=1.0, optimizer=lk.Optimizer(lr=0.5)),
        epochs=None,
    )
    assert same(state(student), state(other))


def test_a_plug_in_method_from_python():
    @dataclass(frozen=True)
    class Mine:
        def phases(self, cast):
            def step(models, batch, moment):
                gap = models["student"](batch.inputs).logits - models["teacher"](batch.inputs).logits
                yield lk.Update("student", {"gap": lk.Term(gap.abs().sum(1))})

            return [
                lk.Phase(
                    name="mine",
                    modules=cast.pick("student", "teacher"),
                    trains={"student": ("student",)},
                    taps={"student": (), "teacher": ()},
                    step=step,
                )
            ]

    student, teacher, (x, _) = net(), net(seed=1), rows()
    before = (student(x) - teacher(x)).abs().sum()
    quick(teacher, student, pairs(), method=Mine(), epochs=5)
    assert (student(x) - teacher(x)).abs().sum() < before


# -- random numbers ----------------------------------------------------------------------------------


def test_the_callers_random_numbers_are_left_alone():
    x, y = rows()
    loader = DataLoader(TensorDataset(x, y), batch_size=6, shuffle=True)
    torch.manual_seed(1)
    models = net(seed=1), net()
    torch.manual_seed(2)
    before, python = torch.random.get_rng_state(), random.getstate()
    quick(*models, loader, evaluate=loader, validation=loader)
    assert torch.equal(before, torch.random.get_rng_state())
    assert python == random.getstate()


def test_the_same_seed_gives_the_same_weights():
    x, y = rows()
    ends = []
    for caller, seed in ((1, 0), (2, 0), (2, 1)):
        teacher, student = net(seed=1), net()
        torch.manual_seed(caller)
        quick(
            teacher, student, DataLoader(TensorDataset(x, y), batch_size=6, shuffle=True), evaluate=pairs(), seed=seed
        )
        ends.append(state(student))
    assert same(ends[0], ends[1])
    assert not same(ends[0], ends[2])


# -- with a folder -----------------------------------------------------------------------------------


def test_a_call_that_is_made_again_goes_on_and_then_returns_at_once(tmp_path):
    class Breaks(list):
        def __init__(self, batches, at):
            super().__init__(batches)
            self.left = at

        def __iter__(self):
            for batch in super().__iter__():
                self.left -= 1
                if self.left < 0:
                    raise KeyboardInterrupt
                yield batch

    training = lk.Training(epochs=3, checkpoint=1e-6, optimizer=lk.Optimizer(lr=0.1))
    straight = net()
    quick(net(seed=1), straight, pairs(), training=training, epochs=None)
    for at in (4, 9):
        with pytest.raises(KeyboardInterrupt):
            quick(net(seed=1), net(), Breaks(pairs(), at), training=training, epochs=None, out=tmp_path)
    student = net()
    quick(net(seed=1), student, pairs(), training=training, epochs=None, out=tmp_path, evaluate=pairs())
    assert same(state(straight), state(student))
    assert {p.name for p in tmp_path.iterdir()} - {".lock"} == {
        "last.safetensors", "made_of.json", "record.json", "steps.jsonl"
    }  # fmt: skip
    again = net(seed=9)

    class Untouched(list):
        def __iter__(self):
            raise AssertionError("nothing is left to do")

    quick(
        net(seed=1),
        again,
        Untouched(pairs()),
        training=training,
        epochs=None,
        out=tmp_path,
        evaluate=Untouched(pairs()),
    )
    assert same(state(again), state(straight))
    assert again.record == student.record
    with pytest.raises(
        RunFolderError, match="holds a training with another method, settings or seed; choose another out"
    ):
        quick(net(seed=1), net(), pairs(), training=training, epochs=5, out=tmp_path)
    for data in (pairs(), Breaks(pairs(), 0)):  # finished, and stopped before its first checkpoint
        untouched = net()
        with pytest.raises(
            RunFolderError,
            match=rf"{tmp_path} holds what was made of another teacher, with other weights. Choose another out, or",
        ):
            quick(net(seed=2), untouched, data, training=training, epochs=None, out=tmp_path)
        assert same(state(untouched), state(net()))
        (tmp_path / "last.safetensors").unlink(missing_ok=True)
    quick(net(seed=1), again, pairs(), training=training, epochs=None, out=tmp_path)


def test_the_best_epoch_is_kept_beside_the_last(tmp_path):
    student = quick(net(seed=1), net(), pairs(), epochs=3, out=tmp_path, validation=pairs())
    assert (tmp_path / "best.safetensors").exists()
    last = net(seed=7)
    lk.load_weights(last, tmp_path / "last.safetensors")
    assert same(state(last), state(student))


def test_without_a_folder_the_best_epochs_weights_are_on_the_student():
    student = quick(net(seed=1), net(), pairs(), epochs=3, validation=pairs())
    assert student.best_state.keys() == student.state_dict().keys()
    best = net()
    best.load_state_dict(student.best_state)
    logits = torch.cat([best(x).detach() for x, _ in pairs()])
    right = (logits.argmax(1) == torch.cat([y for _, y in pairs()])).float().mean().item()
    assert right == pytest.approx(student.record.best["validation"]["accuracy"])


def test_compiled_networks_may_be_given(monkeypatch, tmp_path):
    torch._dynamo.reset()
    compiler = torch.compile
    monkeypatch.setattr(torch, "compile", lambda model, **options: compiler(model, **{**options, "backend": "eager"}))
    plain, student = net(), net()
    quick(net(seed=1), plain, pairs(), epochs=1)
    fast = torch.compile(student)
    back = quick(
        torch.compile(net(seed=1)), fast, pairs(), epochs=1, evaluate=pairs(), validation=pairs(), out=tmp_path
    )
    assert back is fast
    assert fast.record is student.record
    assert all(torch.allclose(v, state(student)[k], atol=1e-6) for k, v in state(plain).items())
    lk.load_weights(net(), tmp_path / "best.safetensors")
    torch._dynamo.reset()


# -- what a call is refused for ----------------------------------------------------------------------


@pytest.mark.parametrize("method", [KD, "kd"])
def test_a_method_is_an_instance(method):
    with pytest.raises(HyperParameterError, match=r"an instance with phases\(cast\), such as limbeck.KD"):
        quick(net(seed=1), net(), pairs(), method=method)


def test_patience_needs_validation():
    with pytest.raises(HyperParameterError, match=r"patience = 1: .* give them as validation="):
        quick(net(seed=1), net(), pairs(), training=lk.Training(epochs=2, patience=1))


# -- agreement where there are no classes to choose from ------------------------------------------------


@pytest.mark.parametrize("several", [False, True])
def test_agreement_of_yes_no_scores(several):
    """One logit has no arg max to agree on, and of several labels each counts."""
    x, y = rows()
    targets = torch.stack([y == c for c in range(CLASSES)], 1).long() if several else (y > 0).long()
    torch.manual_seed(0)
    teacher, student = (nn.Linear(4, CLASSES if several else 1) for _ in range(2))
    quick(teacher, student, [(x, targets)], method=lk.SigmoidKD(), evaluate=[(x, targets)])
    with torch.no_grad():
        wanted = ((teacher(x) > 0) == (student(x) > 0)).float().mean().item()
    assert student.record.agreement == pytest.approx(wanted)
    assert 0 < wanted < 1
