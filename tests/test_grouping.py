"""Networks and labels of finer and coarser classes: what is compared with what."""

from __future__ import annotations

import json

import pytest
import torch
from torch import nn

import limbeck as lk
from limbeck.data.spec import Data
from limbeck.grouping import alike, comparable
from limbeck.methods import KD, GroupedKD, Sum, Supervised
from limbeck.methods.grouped import labelled_by, partitions_of
from limbeck.recipe import Compress, Distill, Evaluate, Machine, Model, Recipe, Train
from limbeck.runner import run
from limbeck.settings import Optimizer, Training

HALVES = ((0, 2), (1, 3))
PARITY = ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9))
FINE = torch.tensor([[0.1, 0.5, 0.3, 0.1], [0.3, 0.4, 0.3, 0.0], [0.0, 0.2, 0.2, 0.6]]).log()  # by halves 0.4, 0.6, 0.2


def test_a_fine_network_beside_coarse_labels_is_summed():
    logits, targets = comparable(FINE, torch.tensor([1, 0, 1]), [HALVES], classes=2)
    torch.testing.assert_close(logits.softmax(1)[:, 0], torch.tensor([0.4, 0.6, 0.2]))
    assert targets.tolist() == [1, 0, 1]


def test_a_coarse_network_beside_fine_labels_has_them_grouped():
    scores = torch.randn(3, 2)
    logits, targets = comparable(scores, torch.tensor([3, 0, 2]), [HALVES], classes=4)
    assert logits is scores
    assert targets.tolist() == [1, 0, 0]


@pytest.mark.parametrize("shape", [(3, 4), (3, 7), (3, 1), (3,)])
def test_everything_else_stays_as_it_is(shape):
    scores, ids = torch.randn(shape), torch.tensor([3, 0, 2])
    assert comparable(scores, ids, [HALVES], classes=4) == (scores, ids)


def test_two_networks_are_compared_in_the_coarser_classes():
    ours, theirs = alike(torch.zeros(3, 2), FINE, [HALVES])
    assert ours.shape == theirs.shape == (3, 2)
    theirs, ours = alike(FINE, torch.zeros(3, 2), [HALVES])
    assert theirs.argmax(1).tolist() == [1, 0, 1]
    assert alike(torch.zeros(3, 5), FINE, [HALVES]) is None
    assert alike(FINE, FINE, []) == (FINE, FINE)


def test_which_method_groups():
    grouped = GroupedKD(groups=HALVES, labels="fine")
    assert partitions_of(KD()) == partitions_of(GroupedKD()) == ()
    assert partitions_of(Sum(Supervised(), grouped)) == (HALVES,)
    assert labelled_by(KD()) is None
    assert labelled_by(grouped) == ([HALVES], 4)
    assert labelled_by(Sum(KD(), GroupedKD(groups=HALVES))) == ([HALVES], 2)


@pytest.mark.parametrize("labels", ["coarse", "fine"])
def test_a_call_measures_the_teacher_by_its_sums(labels):
    torch.manual_seed(0)
    x, teacher, student = torch.randn(24, 4), nn.Linear(4, 4), nn.Linear(4, 2)
    fine = teacher(x).argmax(1)
    fine[:6] = (fine[:6] + 2) % 4  # wrong, and yet of the same half
    fine[6:12] = (fine[6:12] + 1) % 4  # of the other half
    batches = [(x, fine if labels == "fine" else fine % 2)]
    method = GroupedKD(groups=HALVES, labels=labels)
    found = lk.distill(
        teacher, student, batches, method=method, evaluate=batches, validation=batches, epochs=1, quiet=True
    )
    told = found.record
    summed = teacher(x).softmax(1)[:, 1::2].sum(1) > 0.5
    wanted = (summed == (fine % 2 == 1)).float().mean().item() if labels == "coarse" else 0.5
    assert told.after["teacher"]["accuracy"] == pytest.approx(wanted)
    ours = (found(x).argmax(1) == fine % 2).float().mean().item()
    assert told.after["student"]["accuracy"] == pytest.approx(ours)
    assert told.agreement == pytest.approx(((found(x).argmax(1) == 1) == summed).float().mean().item())
    assert told.best["epoch"] == 1


def test_a_recipe_goes_from_ten_classes_to_two(tmp_path):
    quick = Training(epochs=1, batch_size=64, optimizer=Optimizer(lr=0.05))
    two = Model(name="digits_mlp", options={"hidden": [6], "classes": 2})
    recipe = Recipe(
        models={"big": Model(name="digits_mlp", options={"hidden": [24]}), "thin": two},
        data=Data(validation=200),
        stages=(
            Train(name="teacher", model="big", training=quick),
            Distill(name="odd", student="thin", teacher="teacher", method=GroupedKD(groups=PARITY, labels="fine"), training=quick),
            Compress(name="masked", model="odd", how=lk.Mask(sparsity=0.5)),
            Evaluate(name="final"),
        ),
    )  # fmt: skip
    run(recipe, out=tmp_path / "run", machine=Machine(accelerator="cpu"), quiet=True)
    stages = {stage["name"]: stage for stage in json.loads((tmp_path / "run" / "run.json").read_text())["stages"]}
    (odd,), (teacher,), (masked,) = (stages[name]["runs"] for name in ("odd", "teacher", "masked"))
    assert odd["last"]["test"]["accuracy"] > 0.6, "of two classes, each half of the rows"
    assert odd["agreement"]["test"] > 0.6
    assert teacher["last"]["test"]["accuracy"] > 0.3, "of ten"
    assert masked["original"]["model"] == "teacher"
    assert 0.3 < masked["original"]["agreement"] <= 1, "by groups, since one has ten classes and the other two"
    assert 0.3 < masked["last"]["test"]["accuracy"] <= 1
    assert stages["final"]["results"]["odd"][0]["accuracy"] == odd["last"]["test"]["accuracy"]
    assert set(json.loads((tmp_path / "run" / "exhibits.json").read_text())["confusion"]) == {"teacher"}
