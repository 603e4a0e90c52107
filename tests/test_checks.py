"""What `limbeck check` finds by building the networks and taking one dry step of every method."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from limbeck import Prune, checks
from limbeck.data.spec import CIFAR10, Augment, Data, Digits, ImageFolder
from limbeck.methods import KD, NST, RKD, AttentionTransfer, FitNets, GroupedKD, LogitMatching, SimilarityPreserving
from limbeck.models import build, save_weights
from limbeck.recipe import Compress, Distill, Evaluate, Model, Recipe, Train
from limbeck.settings import Training


def recipe(method, *, teacher=None, student=None, source=None, weights=None):
    big = teacher or Model(name="resnet20")
    return Recipe(
        models={"big": big, "thin": student or Model(name="resnet8")},
        data=Data(source=source or CIFAR10()),
        stages=(
            *(() if big.weights else (Train(name="teacher", model="big"),)),
            Distill(name="kd", student="thin", teacher="big" if big.weights else "teacher", method=method),
            Evaluate(name="final"),
        ),
    )


def digits(method, teacher, student="digits_cnn_thin"):
    return recipe(method, teacher=teacher, student=Model(name=student), source=Digits())


def written(tmp_path, name="digits_cnn", **options):
    path = tmp_path / "teacher.safetensors"
    save_weights(build(name, **{"classes": 10, "in_channels": 1, "size": 8, **options}), path)
    return str(path)


@pytest.mark.parametrize(
    "method", [KD(), FitNets(), NST(), AttentionTransfer(), LogitMatching()], ids=lambda m: type(m).__name__
)
def test_a_good_recipe_has_no_problems(method):
    before = torch.random.get_rng_state()
    assert checks.deep(recipe(method)) == []
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_layer_that_does_not_exist():
    found = checks.deep(recipe(NST(pairs=(("layer3", "layr3"),))))
    assert found == [(("stages", 1, "method"), "no layer 'layr3' in resnet20; near: layer3, layer3.2, layer3.1")]
    found = checks.deep(recipe(FitNets(pair=("lay2", "layer2"))))
    assert found == [(("stages", 1, "method"), "no layer 'lay2' in resnet8; near: layer2, layer2.0, layer3")]


def test_layers_that_cannot_be_compared():
    ((place, text),) = checks.deep(recipe(NST(pairs=(("fc", "fc"),))))
    assert place == ("stages", 1, "method")
    assert "layer 'fc' of the student gives [10] per sample. Name layers that give maps" in text
    ((place, text),) = checks.deep(recipe(NST(), student=Model(name="mlp")))
    assert "the student (mlp) returns no [batch, channels, height, width] maps" in text


def test_weights_that_cannot_be_read(tmp_path):
    missing = str(tmp_path / "nowhere.safetensors")
    ((place, text),) = checks.deep(digits(KD(), Model(name="digits_cnn", weights=missing)))
    assert place == ("models", "big", "weights")
    assert text == f"no file of weights at {missing}"
    (tmp_path / "x.safetensors").write_text("no tensors")
    ((place, text),) = checks.deep(digits(KD(), Model(name="digits_cnn", weights=str(tmp_path / "x.safetensors"))))
    assert "cannot be read as a safetensors file" in text
    path = written(tmp_path, "digits_cnn_thin")
    ((place, text),) = checks.deep(digits(KD(), Model(name="digits_cnn", weights=path)))
    assert place == ("models", "big", "weights")
    assert "does not fit" in text
    assert "mismatched: " in text


def test_a_teacher_of_other_classes(tmp_path):
    teacher = Model(name="digits_cnn", options={"classes": 7}, weights=written(tmp_path, classes=7))
    ((place, text),) = checks.deep(digits(KD(), teacher))
    assert place == ("stages", 0, "method")
    assert text == "N_t != N_s: the teacher scores 7 classes and the student 10; they must score the same ones"
    assert checks.deep(digits(NST(), teacher)) == [], "maps do not mind"


def test_options_that_a_network_does_not_take():
    found = checks.deep(recipe(KD(), student=Model(name="resnet8", options={"dept": 3})))
    assert found == [(("models", "thin"), "no option 'dept' in network 'resnet8'; its options: none")]
    found = checks.deep(recipe(KD(), student=Model(name="wrn_16_1", options={"dropout": 2.0})))
    assert found[0][0] == ("models", "thin")
    assert "dropout" in found[0][1]
    found = checks.deep(recipe(KD(), student=Model(name="torchvision:resnet18", options={"zero_init": 1})))
    assert "network 'torchvision:resnet18' cannot be built with zero_init=1" in found[0][1]
    found = checks.deep(recipe(KD(), student=Model(name="torchvision:resnet19")))
    assert "near: resnet18" in found[0][1]


def test_every_problem_at_once(tmp_path):
    teacher = Model(name="digits_cnn", weights=str(tmp_path / "nowhere"))
    found = checks.deep(digits(NST(pairs=(("layer9", "layer1"),)), teacher))
    assert [place for place, _ in found] == [("models", "big", "weights"), ("stages", 0, "method")]


def test_a_network_that_is_too_deep_for_the_images():
    """torch refuses it in its own way; the user is told which network, and what torch said."""
    ((place, text),) = checks.deep(digits(KD(), Model(name="digits_cnn"), "torchvision:alexnet"))[-1:]
    assert place == ("stages", 1)
    assert text.startswith(
        "one step of KD on images of [1, 8, 8] fails for student torchvision:alexnet, teacher digits_cnn: RuntimeError: Given"
    )


def test_data_that_cannot_be_read(tmp_path):
    ((place, text),) = checks.deep(recipe(KD(), source=ImageFolder(train=str(tmp_path / "nowhere"))))
    assert place == ("data",)
    assert "nowhere" in text


def test_what_the_data_does_not_allow():
    """Found before the first stage, not when its turn comes."""
    asked = recipe(KD(), source=Digits(), teacher=Model(name="digits_cnn"), student=Model(name="digits_cnn_thin"))
    teacher, kd, final = asked.stages
    stages = (replace(teacher, rows=1081), replace(kd, rows=9), final)
    wrong = replace(asked, stages=stages, data=Data(source=Digits(), augment=Augment(crop=8)))
    found = dict(checks.deep(wrong))
    assert found[("stages", 0, "rows")] == "a subset of 1081 rows: there are only 1080 training rows"
    assert found[("stages", 1, "rows")].startswith("a subset of 9 rows: there are 10 classes")
    assert found[("data", "augment", "crop")].startswith("crop = 8 on images of 8x8")
    assert len(found) == 3
    steps = Compress(name="steps", model="teacher", how=Prune(keep=0.5, steps=2), rows=1081)
    told = dict(checks.deep(replace(asked, stages=(teacher, steps, final))))
    assert told[("stages", 1, "rows")] == "a subset of 1081 rows: there are only 1080 training rows"
    fine = replace(wrong, stages=(replace(teacher, rows=1080), replace(kd, rows=10), final), data=asked.data)
    assert checks.deep(fine) == []
    ((place, text),) = checks.deep(replace(asked, data=Data(source=Digits(), mean=(0.5, 0.5))))
    assert (place, text) == (("data",), "mean has 2 numbers; the images have 1 channels")


def test_shapes_that_need_no_files():
    assert checks.data_shape(recipe(KD())) == ((3, 32, 32), 10)
    assert checks.data_shape(recipe(KD(), source=Digits())) == ((1, 8, 8), 10)


@pytest.mark.parametrize(
    ("method", "training", "text"),
    [
        (RKD(), Training(epochs=2, batch_size=4, accumulate=2), "needs a batch of at least 3; this one has 2"),
        (SimilarityPreserving(), Training(epochs=2, batch_size=1), "batch"),
        (FitNets(), Training(epochs=1), "training.epochs = 1: too few for the 2 phases of this method"),
        (
            FitNets(hint_share=0.5),
            Training(epochs=1),
            "nothing would be left for",
        ),
    ],
)
def test_training_that_leaves_a_method_too_little(method, training, text):
    """As many samples as a part of a batch will have, as many epochs as there will be."""
    whole = recipe(method, student=Model(name="resnet8"))
    stages = tuple(replace(s, training=training) if isinstance(s, Distill) else s for s in whole.stages)
    ((place, found),) = checks.deep(replace(whole, stages=stages))
    assert place == ("stages", 1, "method")
    assert text in found


def test_a_student_of_fewer_classes_than_the_labels():
    two = Model(name="digits_cnn_thin", options={"classes": 2})
    groups = ((0, 2, 4, 6, 8), (1, 3, 5, 7, 9))

    def found(labels):
        method = GroupedKD(groups=groups, labels=labels)
        return checks.deep(recipe(method, teacher=Model(name="digits_cnn"), student=two, source=Digits()))

    assert found("fine") == []
    ((_, text),) = found("coarse")
    assert text.endswith("in [0, 2). The labels of this data are of 10 classes (these are made up)")
