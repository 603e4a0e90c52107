"""One table, every compressor of the catalogue: what the runner, a chain and the user may count on.

A compressor that trains between its steps is walked through: each of its operations is held to the same, and a training is
a few steps of plain SGD here.
"""

from __future__ import annotations

import copy
import dataclasses
import json
import random
import subprocess
import sys
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from limbeck import catalog
from limbeck.compress import results
from limbeck.compress.binary import pack
from limbeck.compress.binary.layers import KINDS
from limbeck.compress.cost import cost
from limbeck.compressor import Compressor, findings, is_compressor, tell
from limbeck.course import STUDENT, Lesson, Operation, is_course, lessons_of
from limbeck.errors import DataError, HyperParameterError, LimbeckError, NonFiniteError
from limbeck.methods.presets import preset
from limbeck.phase import Batch

# Name -> settings under which it is tried.
TABLE: dict[str, list[dict[str, Any]]] = {
    "prune": [
        {"keep": 0.5},
        {"keep": 0.5, "by": "slimming", "scope": "global", "multiple": 1, "ignore": ("3", "7")},
        {"macs": 0.6, "by": "lasso", "multiple": 1},
        {"keep": 0.5, "steps": 2},
        {"keep": 0.5, "steps": 2, "soft": True},
    ],
    "mask": [{"density": 0.3}, {"sparsity": 0.5, "scope": "global", "steps": 2}],
    "lottery_ticket": [{"rounds": 1, "controls": ("random_reinit",)}],
    "supermask": [{"samples": 1}],
    "factorize": [{"energy": 0.5, "measured": False}],
    "quantize": [{"mode": "static"}, {"mode": "dynamic"}, {"mode": "weights", "dtype": "int4"}, {"mode": "qat"}],
    "binarize": [{}, {"form": "bwn"}, {"form": "bnn", "ends": True}],
}
ROWS = [pytest.param(name, k, id=f"{name}-{k}") for name, tries in TABLE.items() for k in range(len(tries))]
LOOKING = [("prune", 2), ("factorize", 0), ("quantize", 0), ("quantize", 3), ("binarize", 0)]  # look at batches
NEEDED = {"prune": {"keep": 0.5}}  # what a preset leaves to the user


def make(name, number=0):
    return catalog.find("compressor", name).load()(**TABLE[name][number])


def net(norm=True):
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 16, 3, padding=1),
        nn.BatchNorm2d(16) if norm else nn.Identity(),
        nn.ReLU(),
        nn.Conv2d(16, 16, 3, stride=2),
        nn.ReLU(),
        nn.Dropout(0.25),
        nn.Flatten(),
        nn.Linear(16 * 9, 24),
        nn.ReLU(),
        nn.Linear(24, 5),
    )
    if norm:
        nn.init.uniform_(model[1].weight, 0.5, 1.5)
    return model


def batches():
    torch.manual_seed(1)
    return [Batch(torch.randn(8, 1, 8, 8), torch.arange(8) % 5) for _ in range(2)]


DATA = batches()
X = DATA[0].inputs


def everything(model):
    """All of a model that a compressor could leave otherwise than it found it."""
    tensors = {key: value.detach().clone() for key, value in model.state_dict().items()}
    grads = {name: None if p.grad is None else p.grad.clone() for name, p in model.named_parameters()}
    switches = {name: p.requires_grad for name, p in model.named_parameters()}
    parts = {
        name: (
            part.training,
            sorted(key for key, value in vars(part).items() if value is not None),
            len(part._forward_hooks) + len(part._forward_pre_hooks) + len(part._backward_hooks),
        )
        for name, part in model.named_modules()
    }
    return tensors, grads, (switches, parts, findings(model).notes, findings(model).details)


def assert_same(before, after):
    for mine, theirs in zip(before[:2], after[:2], strict=True):
        assert mine.keys() == theirs.keys()
        for key, value in mine.items():
            assert (value is None and theirs[key] is None) or torch.equal(value, theirs[key]), key
    assert before[2] == after[2]


def seeds():
    """The states of the random numbers that a user shares with us, and the number of threads."""
    return torch.get_rng_state().tolist(), random.getstate(), np.random.get_state()[1].tolist(), torch.get_num_threads()


@dataclass(frozen=True)
class Step:
    """An operation, done once."""

    title: str
    how: Any
    before: nn.Module
    after: nn.Module
    beside: tuple[nn.Module, ...]

    @property
    def int8(self):
        return type(self.after).__name__ == "Quantized"

    def again(self, model, **further):
        return self.how(
            model, example=X, calibration=DATA, **({"beside": self.beside} if self.beside else {}), **further
        )


def done(title, how, before, beside):
    assert is_compressor(how)
    assert isinstance(how, Compressor)
    found, random_numbers = everything(before), seeds()
    others = [everything(model) for model in beside]
    after = how(before, example=X, calibration=DATA, **({"beside": beside} if beside else {}))
    assert seeds() == random_numbers, title
    assert_same(found, everything(before))
    for state, model in zip(others, beside, strict=True):
        assert_same(state, everything(model))
    assert not {id(p) for p in before.parameters()} & {id(p) for p in after.parameters()}
    return Step(title, how, before, after, beside)


def schooled(model):
    """Trained for a moment."""
    model = copy.deepcopy(model).train()
    torch.manual_seed(2)
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=0.05)
    for batch in DATA:
        optimizer.zero_grad()
        nn.functional.cross_entropy(model(batch.inputs), batch.targets).backward()
        optimizer.step()
    return model


def handed_over(model, place):
    """The length of the file in which a network is handed over, as `Cost` has it."""
    if any(isinstance(part, KINDS) for part in model.modules()):
        return len(pack(model))
    whole = place / results.PROGRAM
    return (whole if whole.exists() else place / results.WEIGHTS).stat().st_size


def walk(how):
    """Every operation of a compressor, in order, each on what came before it."""
    # torchao takes 20 seconds to take normalisation out of a trained program, be it large or small; tests/compress has that.
    model = net(norm=getattr(how, "mode", "") != "qat")
    model[1].eval()  # as somebody leaves it who trains with fixed statistics
    model[9].weight.requires_grad_(False)
    model[3].weight.grad = torch.ones_like(model[3].weight)
    if not is_course(how):
        return [done("", how, model, ())]
    shelf = {STUDENT: model}
    steps = []
    for part in lessons_of(how):
        if isinstance(part, Operation):
            steps.append(done(part.name, part.how, shelf[part.student], tuple(shelf[name] for name in part.beside)))
            shelf[f".{part.name}"] = steps[-1].after
        else:
            assert isinstance(part, Lesson)
            shelf[f".{part.name}"] = schooled(shelf[part.student])
    return steps


@pytest.fixture(scope="module")
def walked():
    """The operations of a row of the table; each row is walked once."""
    known: dict[tuple[str, int], list[Step]] = {}

    def of(name, number):
        if (name, number) not in known:
            known[name, number] = walk(make(name, number))
        return known[name, number]

    return of


def test_the_table_has_every_compressor_of_the_catalogue():
    assert set(TABLE) == {entry.name for entry in catalog.COMPRESSORS}


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_the_network_given_keeps_every_bit_and_the_new_one_has_its_modes(walked, name, number):
    for step in walked(name, number):
        assert step.after.training == step.before.training, step.title
        if not step.int8 and type(step.after).__name__ != "Prepared":
            kept = {path: part.training for path, part in step.before.named_modules()}
            for path, part in step.after.named_modules():
                assert part.training == kept.get(path, part.training), f"{step.title}: {path}"
        json.dumps(findings(step.after).details)
        assert all(type(value) is torch.Tensor for value in step.after.state_dict().values())


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_the_same_call_gives_the_same_bits(walked, name, number):
    for step in walked(name, number):
        torch.manual_seed(5)
        first = step.again(step.before).state_dict()
        torch.manual_seed(5)
        second = step.again(step.before).state_dict()
        assert first.keys() == second.keys()
        assert all(torch.equal(value, second[key]) for key, value in first.items()), step.title


@pytest.mark.parametrize(("name", "number"), LOOKING)
def test_calibration_batches_may_come_as_they_do_for_training(walked, name, number):
    step = walked(name, number)[0]
    rows = torch.utils.data.TensorDataset(*(torch.cat(parts) for parts in zip(*(batch[:2] for batch in DATA))))
    found = []
    for given in (DATA, [tuple(batch[:2]) for batch in DATA], torch.utils.data.DataLoader(rows, batch_size=8)):
        torch.manual_seed(5)
        found.append(step.how(step.before, example=X, calibration=given).state_dict())
    for state in found[1:]:
        assert all(torch.equal(value, state[key]) for key, value in found[0].items()), step.title
    for given, said in (
        (X, "the calibration batches are a single Tensor"),
        (DATA[0], "the calibration batches are a single Batch"),
        (iter(DATA), "the calibration batches are a list_iterator, which can be walked only once"),
    ):
        with pytest.raises(DataError, match=said):
            step.how(step.before, example=X, calibration=given)


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_an_example_that_the_network_does_not_take_is_refused(walked, name, number):
    step = walked(name, number)[0]
    further = {"beside": step.beside} if step.beside else {}
    for given, said in (
        (torch.zeros(4, 3, 8, 8), r"Sequential does not run on the example, a tensor \[4, 3, 8, 8\]: RuntimeError: "),
        (
            (X, DATA[0].targets),
            r"a tuple of a tensor \[8, 1, 8, 8\] and a tensor \[8\] int64: .*the inputs alone, example\[0\]",
        ),
        (X.numpy(), "does not run on the example, of type ndarray: TypeError: .* Give a batch of inputs"),
        (None, "does not run on the example, None: "),
        (X[:0], "the batch is empty"),
    ):
        with pytest.raises(LimbeckError, match=said):
            step.how(step.before, example=given, calibration=DATA, **further)


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_the_new_network_runs_trains_and_is_copied(walked, name, number):
    for step in walked(name, number):
        model = copy.deepcopy(step.after)
        for mode in (True, False):
            model.train(mode)
            assert torch.isfinite(model(X)).all(), step.title
            assert model(X[:3]).shape == (3, 5)
        twin = copy.deepcopy(model)
        assert torch.equal(twin(X), model(X))
        if step.int8:
            continue
        state = {key: value.clone() for key, value in model.state_dict().items()}
        nn.functional.cross_entropy(twin.train()(X), DATA[0].targets).backward()
        assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in twin.parameters()), step.title
        assert all(torch.equal(value, model.state_dict()[key]) for key, value in state.items())
        assert all(p.grad is None for name_, p in model.named_parameters() if not name_.startswith("3."))


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_torch_exports_it(walked, name, number):
    model = walked(name, number)[-1].after
    if not walked(name, number)[-1].int8:
        model = copy.deepcopy(model).eval()
    program = torch.export.export(model, (X,))
    assert torch.allclose(program.module()(X), model(X), atol=1e-5)


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_it_comes_back_from_its_folder(walked, name, number, tmp_path):
    for step in walked(name, number):
        place = tmp_path / (step.title or "last")
        place.mkdir()
        random_numbers = seeds()
        results.save(step.before, step.after, place)
        again = results.load(step.before, place, X)
        assert seeds() == random_numbers
        mine, theirs = step.after.state_dict(), again.state_dict()
        assert mine.keys() == theirs.keys(), step.title
        assert all(torch.equal(value, theirs[key]) for key, value in mine.items()), step.title
        assert torch.equal(copy.deepcopy(again).eval()(X), copy.deepcopy(step.after).eval()(X)), step.title
        if not step.int8:
            flags = [[(n, p.requires_grad) for n, p in one.named_parameters()] for one in (step.after, again)]
            assert flags[0] == flags[1], step.title  # in one order, too: an optimizer's state goes by it
            assert [part.training for part in again.modules()] == [part.training for part in step.after.modules()]
        for model in (step.after, again):
            assert cost(model, X).bytes == handed_over(model, place), step.title


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_weights_that_are_no_numbers_are_refused(walked, name, number):
    step = walked(name, number)[0]
    bad = copy.deepcopy(step.before)
    with torch.no_grad():
        bad[3].weight[0, 0, 0, 0] = float("nan")
    with pytest.raises(NonFiniteError):
        step.again(bad)


@pytest.mark.parametrize(("name", "number"), ROWS)
def test_it_is_a_frozen_record_that_can_be_compared_and_is_documented(name, number):
    how = make(name, number)
    assert how == make(name, number)
    assert catalog.name_of(how) == name
    assert eval(repr(how), {type(how).__name__: type(how)}) == how
    with pytest.raises(dataclasses.FrozenInstanceError):
        setattr(how, dataclasses.fields(how)[0].name, None)
    for field in dataclasses.fields(how):
        assert f"{field.name}" in (type(how).__doc__ or ""), f"{field.name} is not documented"


@pytest.mark.parametrize("name", TABLE)
def test_presets_are_valid(name):
    kind = catalog.find("compressor", name).load()
    for title, settings in getattr(kind, "presets", {}).items():
        made = preset(name, title, **{k: v for k, v in NEEDED.get(name, {}).items() if k not in settings})
        assert isinstance(made, kind)
        assert all(getattr(made, key) == value for key, value in settings.items())


@pytest.mark.parametrize("name", [name for name in TABLE if is_course(make(name, -1)) or name in ("lottery_ticket",)])
def test_what_trains_in_between_says_so_when_it_is_called(name):
    how = next(how for how in (make(name, k) for k in range(len(TABLE[name]))) if is_course(how))
    if name == "prune":  # called directly it removes at once, which its documentation says
        assert how(net(), example=X)[0].out_channels == 8
        return
    with pytest.raises((HyperParameterError, LimbeckError), match=r"limbeck\.compress"):
        how(net(), example=X, calibration=DATA)


def test_none_of_them_imports_torch():
    code = "import sys\nfrom limbeck import catalog\n" + "".join(
        f"catalog.find('compressor', {name!r}).load()(**{settings!r})\n"
        for name, tries in TABLE.items()
        for settings in tries
    )
    code += "sys.exit(', '.join({'torch', 'torchao', 'numpy'} & set(sys.modules)) or 0)"
    ended = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert ended.returncode == 0, ended.stderr


def test_nothing_is_left_of_what_an_earlier_compressor_said(walked):
    for name, tries in TABLE.items():
        for number in range(len(tries)):
            step = walked(name, number)[0]
            model = copy.deepcopy(step.before)
            tell(model, "said before", before=True)
            after = step.again(model)
            assert "said before" not in findings(after).notes, name
            assert "before" not in findings(after).details, name
