"""``limbeck export`` and ``limbeck predict``."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
from PIL import Image

from limbeck import record
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
