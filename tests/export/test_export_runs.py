"""The networks of a run, from its folder alone."""

from __future__ import annotations

import json
import re
import shutil

import numpy as np
import pytest
import torch

from limbeck import record
from limbeck.data import load, normalise
from limbeck.data.spec import Data
from limbeck.errors import NameUnknown, RunFolderError
from limbeck.export.opening import open_export
from limbeck.export.runs import export_run, open_run
from limbeck.methods import KD
from limbeck.recipe import Distill, Ensemble, Evaluate, Machine, Model, Recipe, Train
from limbeck.runner import run
from limbeck.settings import Optimizer, Training

onnxruntime = pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")

DATA = Data(validation=200, mean=(0.3,), std=(0.4,))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two seeds, one epoch."""
    one = Training(epochs=1, batch_size=32, optimizer=Optimizer(lr=0.1))
    recipe = Recipe(
        name="two",
        models={
            "big": Model(name="digits_mlp", options={"hidden": [32]}),
            "thin": Model(name="digits_mlp", options={"hidden": [6]}),
        },
        data=DATA,
        seeds=(3, 5),
        stages=(
            Train(name="teacher", model="big", training=one, per_seed=False),
            Train(name="alone", model="thin", training=one),
            Ensemble(name="both", members=("teacher", "alone")),
            Distill(name="kd", student="thin", teacher="teacher", method=KD(), training=one),
            Evaluate(name="final"),
        ),
    )
    return run(recipe, out=tmp_path_factory.mktemp("run") / "two", machine=Machine(accelerator="cpu"), quiet=True)


def told(folder, stage, seed):
    stages = {line["name"]: line for line in record.read_json(folder / "run.json")["stages"]}
    return next(line for line in stages[stage]["runs"] if line["seed"] == seed)["last"]["test"]


def test_the_record_says_how_the_data_was_normalised(folder):
    kept = record.read_json(folder / "run.json")["data"]
    assert (kept["mean"], kept["std"], kept["shape"]) == ([0.3], [0.4], [1, 8, 8])


@pytest.mark.parametrize(("name", "seed"), [("kd", 3), ("kd", 5), ("alone", 5), ("teacher", 3), ("both", 5)])
def test_networks_are_those_that_the_run_measured(folder, name, seed):
    data = load(DATA)
    opened = open_run(folder)
    with torch.no_grad():
        logits = opened.model(name, seed)(normalise(data.test.pixels, mean=(0.3,), std=(0.4,), scale=16.0))
    assert float((logits.argmax(1) == data.test.labels).double().mean()) == pytest.approx(
        told(folder, name, seed)["accuracy"]
    )
    assert len(opened.work.data.train) == 0, "no data was loaded"


def test_an_onnx_file_reaches_the_accuracy_that_the_run_measured(folder, tmp_path):
    done = export_run(folder, to="onnx", model="kd", seed=5, out=tmp_path / "kd")
    deploy = json.loads((tmp_path / "kd" / "deploy.json").read_text())
    origin, steps = deploy["origin"], deploy["preprocessing"]
    assert (origin["run"], origin["stage"], origin["seed"], origin["network"]) == ("two", "kd", 5, "digits_mlp")
    kept = record.read_json(folder / "run.json")
    assert (origin["recipe_hash"], origin["commit"]) == (kept["recipe_hash"], kept["commit"])
    assert deploy["classes"] == list("0123456789")
    assert (steps["channels"], steps["size"], steps["mean"], steps["std"]) == ("grey", [8, 8], [0.3], [0.4])
    data = load(DATA)
    x = ((data.test.pixels.double().numpy() / 16 - steps["mean"][0]) / steps["std"][0]).astype(np.float32)
    session = onnxruntime.InferenceSession(str(done.file), providers=["CPUExecutionProvider"])
    chosen = session.run(None, {deploy["inputs"][0]["name"]: x})[0].argmax(1)
    assert (chosen == data.test.labels.numpy()).mean() == pytest.approx(told(folder, "kd", 5)["accuracy"])
    assert origin["test"]["accuracy"] == pytest.approx(told(folder, "kd", 5)["accuracy"])


def test_int8_is_calibrated_with_the_run_s_training_rows(folder, tmp_path):
    done = export_run(folder, to="onnx-int8", out=tmp_path / "kd")
    assert done.told["origin"]["stage"] == "kd"
    assert done.told["details"]["calibration_rows"] == 512
    check = done.told["check"]
    assert check["rows"] == 597
    assert check["accuracy"]["float"] == pytest.approx(told(folder, "kd", 3)["accuracy"])
    assert abs(check["accuracy"]["int8"] - check["accuracy"]["float"]) < 0.05


def test_where_an_export_goes_by_itself(folder):
    lines: list[str] = []
    done = export_run(folder, to="safetensors", model="teacher", seed=5, say=lines.append)
    assert done.folder == folder / "exports" / "teacher-seed-3-safetensors", "a stage that was done once, for all seeds"
    assert lines == ["writing weights and structure ...", "comparing it with the network ..."]
    x = torch.randn(4, 1, 8, 8)
    assert torch.equal(open_export(done.folder)(x), open_run(folder).model("teacher")(x))


def test_what_a_network_stands_for(folder):
    opened = open_run(folder)
    assert {name: opened.original(name) for name in opened.names} == {
        "teacher": None,
        "alone": None,
        "both": None,
        "kd": "teacher",
    }
    assert opened.last == "kd"


def test_names_and_seeds_that_are_not_there(folder):
    opened = open_run(folder)
    with pytest.raises(NameUnknown, match=r"no network 'teachr' in the run .*; near: teacher"):
        opened.model("teachr")
    with pytest.raises(NameUnknown, match=r"no network 'thin' in the run .*; there are: teacher, alone, both, kd"):
        opened.model("thin")
    with pytest.raises(NameUnknown, match=r"no seed 4 in the run .*; there are: 3, 5"):
        opened.model("kd", 4)


@pytest.fixture
def copied(folder, tmp_path):
    return shutil.copytree(folder, tmp_path / "copy")


def change(folder, edit):
    kept = record.read_json(folder / "run.json")
    edit(kept)
    record.write_json(folder / "run.json", kept)


def test_a_record_of_an_older_limbeck(copied):
    change(copied, lambda kept: [kept["data"].pop(key) for key in ("mean", "std")])
    opened = open_run(copied)
    assert opened.preprocessing["mean"] == [0.3]
    assert len(opened.work.data.train) == 1000, "the data says what the record does not"


def test_a_run_that_is_not_done(copied):
    change(copied, lambda kept: kept.update(status="interrupted", command="limbeck run two.yaml"))
    (copied / "stages" / "kd" / "seed-5" / "result.json").unlink()
    with pytest.raises(RunFolderError, match=r"is not done \(its status is 'interrupted'\); to go on: limbeck run two"):
        open_run(copied)
    with pytest.raises(RunFolderError, match=r"kd of the run .* is not done \(seed 5\); to go on: limbeck run two"):
        export_run(copied, to="safetensors", model="kd", seed=5)
    assert not (copied / "exports" / "kd-seed-5-safetensors").exists()
    assert export_run(copied, to="safetensors", model="kd", seed=3).file.is_file(), "what is done can be had"


def test_folders_that_are_no_run(copied, tmp_path):
    with pytest.raises(RunFolderError, match=re.escape("no run folder")):
        open_run(tmp_path / "nowhere")
    (copied / "recipe.yaml").unlink()
    with pytest.raises(RunFolderError, match=r"has no recipe\.yaml"):
        open_run(copied)
