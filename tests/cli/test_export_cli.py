"""``limbeck export`` and ``limbeck predict``."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

import limbeck as lk
from limbeck import config, record
from limbeck.cli import main
from limbeck.data import load
from limbeck.data.spec import Data
from limbeck.methods import KD
from limbeck.recipe import Distill, Machine, Model, Recipe, Train
from limbeck.runner import run
from limbeck.settings import Optimizer, Training

pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

DATA = Data(validation=200)
SHORT = "training: {epochs: 1, batch_size: 64, optimizer: {lr: 0.05}}, rows: 192"
SMALLER = f"""
name: smaller
data: {{source: digits, validation: 200}}
models: {{net: {{name: digits_mlp, options: {{hidden: [24, 16]}}}}}}
stages:
- {{kind: train, name: o, model: net, {SHORT}}}
- {{kind: distill, name: masked, student: {{from: o, mask: {{density: 0.3}}}}, teacher: o, method: kd, {SHORT}}}
- {{kind: compress, name: pruned, model: o, calibration: 64, how: {{kind: prune, keep: 0.5}}}}
- {{kind: compress, name: low, model: masked, calibration: 64, how: {{kind: factorize, energy: 0.6, measured: false}}}}
- {{kind: compress, name: bits, model: o, calibration: 64, how: {{kind: binarize, fewest: 4}}}}
- {{kind: compress, name: ticket, model: net, how: {{kind: lottery_ticket, rounds: 1, controls: []}}, {SHORT}}}
"""
GROUPS = [[0, 10], [1, 11], [2, 12], [3, 13], [4, 14], [5, 15], [6, 16], [7, 17], [8, 18], [9, 19]]
GROUPED = """
name: groups
data: {{source: digits, validation: 200}}
models:
  fine: {{name: digits_mlp, options: {{hidden: [24], classes: 20}}, weights: fine.safetensors}}
  small: {{name: digits_mlp, options: {{hidden: [8]}}}}
stages:
- {{kind: compress, name: low, model: fine, calibration: 64, how: {{kind: prune, keep: 0.5}}}}
- {{kind: distill, name: s, student: small, teacher: fine, method: {{kind: grouped_kd, groups: {groups}}}, {short}}}
"""


def ran(text, out):
    return run(config.read(text).recipe, out=out, machine=Machine(accelerator="cpu"), quiet=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    training = Training(epochs=3, batch_size=32, optimizer=Optimizer(lr=0.1))
    recipe = Recipe(
        name="cli",
        models={
            "big": Model(name="digits_mlp", options={"hidden": [32]}),
            "thin": Model(name="digits_mlp", options={"hidden": [16]}),
        },
        data=DATA,
        stages=(
            Train(name="teacher", model="big", training=training),
            Distill(name="kd", student="thin", teacher="teacher", method=KD(), training=training),
        ),
    )
    return run(recipe, out=tmp_path_factory.mktemp("cli") / "run", machine=Machine(accelerator="cpu"), quiet=True)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Twenty digits of the test part as PNG, and their labels."""
    place, test = tmp_path_factory.mktemp("pictures"), load(DATA).test
    paths = []
    for row in range(20):
        light = (test.pixels[row, 0].double() / 16 * 255).round().byte().numpy()
        Image.fromarray(light).save(place / f"digit-{row}.png")
        paths.append(str(place / f"digit-{row}.png"))
    return paths, test.labels[:20].tolist()


def answers(capsys, *words):
    assert main(["predict", *map(str, words), "--json"]) == 0
    return json.loads(capsys.readouterr().out)


def accuracy(told, labels, name):
    chosen = [next(a for a in line["answers"] if a["name"] == name)["top"][0]["class"] for line in told]
    return float(np.mean([int(c) == label for c, label in zip(chosen, labels)]))


def test_pictures_are_seen_as_the_data_was(folder, pictures, capsys):
    """Trained networks know the digits; with another scale, or in negative, they do not."""
    paths, labels = pictures
    told = answers(capsys, folder, *paths)
    assert [line["picture"] for line in told] == paths
    assert [(a["name"], a["role"], a["network"]) for a in told[0]["answers"]] == [
        ("teacher", "original", "digits_mlp"),
        ("kd", "network", "digits_mlp"),
    ]
    for name in ("teacher", "kd"):
        assert accuracy(told, labels, name) >= 0.7
    top = told[0]["answers"][0]["top"]
    assert len(top) == 5
    values = [entry["probability"] for entry in top]
    assert values == sorted(values, reverse=True)
    assert 0 < sum(values) <= 1 + 1e-6
    everything = answers(capsys, folder, paths[0], "--top", 99)[0]["answers"][1]["top"]
    assert sorted(entry["class"] for entry in everything) == list("0123456789")
    assert sum(entry["probability"] for entry in everything) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("to", ["onnx", "torch", "safetensors"])
def test_an_exported_folder_alone_answers_as_the_run(folder, pictures, tmp_path, monkeypatch, capsys, to):
    paths, _ = pictures
    before = answers(capsys, folder, *paths[:3])
    assert main(["export", str(folder), "--to", to, "--out", str(tmp_path / "made")]) == 0
    said = capsys.readouterr().out
    assert f"kd (seed 0), digits_mlp, as {to}: " in said
    assert "largest difference from the network: " in said
    moved = shutil.move(tmp_path / "made", tmp_path / "moved")
    monkeypatch.setattr("limbeck.export.runs.open_run", None)  # nothing but the folder is looked at
    told = answers(capsys, moved, *paths[:3])
    for line, was in zip(told, before):
        (found,), expected = line["answers"], was["answers"][1]
        assert (found["name"], found["role"]) == ("kd", "exported")
        assert [e["class"] for e in found["top"]] == [e["class"] for e in expected["top"]]
        assert [e["probability"] for e in found["top"]] == pytest.approx(
            [e["probability"] for e in expected["top"]], abs=1e-5
        )


@pytest.fixture(scope="module")
def smaller(tmp_path_factory):
    return ran(SMALLER, tmp_path_factory.mktemp("smaller") / "run")


@pytest.mark.parametrize("name", ["masked", "pruned", "low", "bits", "ticket"])
def test_weights_of_a_network_that_was_made_smaller(smaller, pictures, tmp_path, capsys, name):
    paths, _ = pictures
    expected = answers(capsys, smaller, *paths[:3], "--model", name)
    made = tmp_path / "made"
    assert main(["export", str(smaller), "--to", "safetensors", "--model", name, "--out", str(made)]) == 0
    assert "largest difference from the network: " in capsys.readouterr().out
    assert (made / "structure.json").is_file()
    assert not [key for key in load_file(made / "model.safetensors") if "parametrizations" in key]
    for line, was in zip(answers(capsys, made, *paths[:3]), expected):
        found, before = line["answers"][0]["top"], was["answers"][-1]["top"]
        assert [e["class"] for e in found] == [e["class"] for e in before]
        assert [e["probability"] for e in found] == pytest.approx([e["probability"] for e in before], abs=1e-5)


def test_weights_that_nothing_can_be_built_for(folder, pictures, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("limbeck.export.to_weights.described", lambda network: None)
    made = tmp_path / "made"
    assert main(["export", str(folder), "--to", "safetensors", "--out", str(made)]) == 0
    said = capsys.readouterr().out
    assert "weights alone, not compared: " in said
    assert "limbeck predict" not in said
    assert json.loads((made / "deploy.json").read_text())["check"]["max_difference"] is None
    assert main(["predict", str(made), pictures[0][0]]) == 1
    assert "has weights alone" in capsys.readouterr().err


# -- networks of finer classes, and such that came with weights ------------------------------------


@pytest.fixture(scope="module")
def made_here(tmp_path_factory):
    here = tmp_path_factory.mktemp("grouped") / "here"
    here.mkdir()
    torch.manual_seed(0)
    fine = lk.build("digits_mlp", hidden=[24], classes=20)
    with torch.no_grad():
        list(fine.parameters())[-1][10:] += 5  # class 10 and those behind it are the likely ones
    lk.save_weights(fine, here / "fine.safetensors")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(here)
        ran(GROUPED.format(groups=GROUPS, short=SHORT), here / "run")
    return here


@pytest.fixture
def grouped(made_here, tmp_path, monkeypatch):
    """A run in ``here/run``, called in ``here``, whose teacher has 20 classes and came from ``here/fine.safetensors``."""
    monkeypatch.chdir(shutil.copytree(made_here, tmp_path / "here"))
    return tmp_path / "here" / "run"


def fine_of(folder):
    fine = lk.build("digits_mlp", hidden=[24], classes=20)
    lk.load_weights(fine, folder.parent / "fine.safetensors")
    return fine.eval()


def test_finer_classes_are_summed_as_the_run_sums_them(grouped, pictures, capsys):
    from limbeck.export.pictures import prepared
    from limbeck.export.runs import open_run

    paths, _ = pictures
    told = answers(capsys, grouped, *paths[:3], "--top", 20)
    inputs = prepared(paths[:3], open_run(grouped).preprocessing)
    with torch.no_grad():
        summed = fine_of(grouped)(inputs).softmax(1).unflatten(1, (2, 10)).sum(1)
    for line, row in zip(told, summed.tolist()):
        fine, small = line["answers"]
        assert (fine["name"], small["name"]) == ("fine", "s")
        assert len(fine["top"]) == len(small["top"]) == 10
        assert {e["class"]: e["probability"] for e in fine["top"]} == pytest.approx(
            dict(zip("0123456789", row)), abs=1e-5
        )
    assert main(["predict", str(grouped), *paths[:2]]) == 0
    assert "fine and s choose the same class on " in capsys.readouterr().out


def test_classes_that_are_not_those_of_the_data_are_numbered(grouped, pictures, tmp_path, monkeypatch, capsys):
    with monkeypatch.context() as patched:
        patched.setattr("limbeck.runner.shelf.Work.partitions", [])
        assert main(["predict", str(grouped), *pictures[0][:2], "--top", "1"]) == 0
        said = capsys.readouterr().out
        assert "class 1" in said
        assert "choose the same class" not in said
    made = tmp_path / "made"
    assert main(["export", str(grouped), "--to", "onnx-int8", "--model", "fine", "--out", str(made), "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["classes"] is None
    assert "accuracy" not in told["check"], "the labels are of other classes"
    assert len(answers(capsys, made, pictures[0][0], "--top", 99)[0]["answers"][0]["top"]) == 20


def test_weights_are_found_from_another_folder(grouped, pictures, tmp_path, monkeypatch, capsys):
    paths, _ = pictures
    here = answers(capsys, grouped, paths[0])
    monkeypatch.chdir(tmp_path)
    assert answers(capsys, grouped, paths[0]) == here
    (tmp_path / "fine.safetensors").write_bytes(b"another")
    assert answers(capsys, grouped, paths[0]) == here, "a file of that name that the run did not see"
    assert main(["export", str(grouped), "--to", "safetensors", "--model", "fine", "--quiet"]) == 0


def test_a_network_of_the_run_needs_no_file_elsewhere(grouped, pictures, capsys):
    """Its weights are in the run; those that it began with, or its teacher's, need not be there any more."""
    small = answers(capsys, grouped, pictures[0][0])[0]["answers"][1]
    (grouped.parent / "fine.safetensors").unlink()
    assert main(["predict", str(grouped), pictures[0][0], "--json"]) == 0
    said = capsys.readouterr()
    assert json.loads(said.out)[0]["answers"] == [small]
    assert "note: the original cannot be shown: no file of weights at fine.safetensors" in said.err
    for name in ("s", "low"):
        assert main(["export", str(grouped), "--to", "safetensors", "--model", name, "--quiet"]) == 0
    assert main(["export", str(grouped), "--to", "safetensors", "--model", "fine", "--quiet"]) == 1
    assert "Call it from the folder in which the run was made" in capsys.readouterr().err


def test_weights_that_are_another_file_now(grouped, pictures, capsys):
    other = lk.build("digits_mlp", hidden=[24], classes=20)
    lk.save_weights(other, grouped.parent / "fine.safetensors")
    assert main(["predict", str(grouped), pictures[0][0]]) == 0
    said = capsys.readouterr()
    assert "is not the file that network fine of the run had (SHA-256 " in said.err
    assert "(original)" not in said.out
    assert main(["predict", str(grouped), pictures[0][0], "--model", "fine"]) == 1
    assert "is not the file that network fine of the run had" in capsys.readouterr().err


def test_as_a_table(folder, pictures, capsys):
    paths, _ = pictures
    assert main(["predict", str(folder), *paths[:2], "--top", "2"]) == 0
    out = capsys.readouterr().out
    assert out.count("teacher (original)") == 2
    assert all(path in out for path in paths[:2])
    assert "%" in out
    assert "teacher and kd choose the same class on " in out
    assert main(["predict", str(folder), paths[0], "--model", "teacher"]) == 0
    out = capsys.readouterr().out
    assert "original" not in out
    assert "kd" not in out


def test_export_as_json_and_quietly(folder, capsys):
    assert main(["export", str(folder), "--to", "safetensors", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["folder"] == str(folder / "exports" / "kd-seed-0-safetensors")
    assert told["check"]["max_difference"] == 0
    assert main(["export", str(folder), "--to", "safetensors", "--quiet"]) == 0
    assert capsys.readouterr().out == ""


def test_int8_says_what_it_costs(folder, tmp_path, capsys):
    assert main(["export", str(folder), "--to", "onnx-int8", "--out", str(tmp_path / "made")]) == 0
    said = capsys.readouterr().out
    assert "int8 beside float on 597 test rows: the same class on " in said
    assert "accuracy on them: " in said
    assert " in float)" in said


def test_what_cannot_be_done(folder, pictures, tmp_path, capsys):
    paths, _ = pictures

    def fails(code, text, *words):
        assert main(list(map(str, words))) == code
        said = capsys.readouterr()
        assert text in said.err
        assert said.out == ""

    (tmp_path / "no.png").write_bytes(b"x")
    fails(1, "no picture", "predict", folder, tmp_path / "none.png")
    fails(1, "is no picture that can be read", "predict", folder, paths[0], tmp_path / "no.png")
    fails(2, "no network 'teachr'", "predict", folder, paths[0], "--model", "teachr")
    fails(2, "there are: 0", "predict", folder, paths[0], "--seed", 7)
    fails(1, "neither a run (it has no run.json) nor an exported network", "predict", tmp_path, paths[0])
    fails(1, "no run folder", "predict", tmp_path / "nowhere", paths[0])
    fails(2, "no format 'onix'; near: onnx", "export", folder, "--to", "onix")
    fails(2, "no network 'kdd'", "export", folder, "--to", "torch", "--model", "kdd")
    fails(1, "is not empty and no export", "export", folder, "--to", "torch", "--quiet", "--out", tmp_path)
    assert not list(folder.rglob("*.part"))
    half = shutil.copytree(folder, tmp_path / "half")
    kept = record.read_json(half / "run.json")
    record.write_json(half / "run.json", {**kept, "status": "interrupted"})
    fails(1, "is not done (its status is 'interrupted')", "predict", half, paths[0])
    fails(1, "is not done (its status is 'interrupted')", "export", half, "--to", "torch")


def test_one_exported_network_has_no_stages(folder, pictures, capsys):
    assert main(["export", str(folder), "--to", "safetensors", "--quiet"]) == 0
    made = folder / "exports" / "kd-seed-0-safetensors"
    assert main(["predict", str(made), pictures[0][0], "--model", "kd"]) == 2
    assert "holds one exported network; --model and --seed are for the folder of a run" in capsys.readouterr().err


def test_a_picture_whose_name_is_no_text(folder, pictures, tmp_path):
    odd = tmp_path / os.fsdecode(b"\xff\xfe.png")
    odd.write_bytes(Path(pictures[0][0]).read_bytes())
    for more in ([], ["--json"]):
        told = subprocess.run([sys.executable, "-m", "limbeck", "predict", folder, odd, *more], capture_output=True)
        assert (told.returncode, told.stderr) == (0, b"")
        assert b".png" in told.stdout
