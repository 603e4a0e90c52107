"""Times of the networks of a run, in their forms."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from limbeck.cli.app import app
from limbeck.compress import forms
from limbeck.compress.prune import Prune
from limbeck.data.spec import Data
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown
from limbeck.export import time_run
from limbeck.methods import KD
from limbeck.recipe import Compress, Distill, Machine, Model, Recipe, Train
from limbeck.runner import run
from limbeck.settings import Optimizer, Training

pytest.importorskip("onnxruntime")
pytest.importorskip("openvino")
pytest.importorskip("onnxscript")
QUICK = ("eager", "onnxruntime", "onnxruntime int8", "openvino int8")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    one = Training(epochs=1, batch_size=32, optimizer=Optimizer(lr=0.1))
    recipe = Recipe(
        name="timed",
        models={
            "big": Model(name="digits_mlp", options={"hidden": [64, 64]}),
            "thin": Model(name="digits_mlp", options={"hidden": [16]}),
        },
        data=Data(validation=200),
        seeds=(3, 5),
        stages=(
            Train(name="teacher", model="big", training=one, per_seed=False),
            Distill(name="kd", student="thin", teacher="teacher", method=KD(), training=one),
            Compress(name="half", model="kd", how=Prune(keep=0.5)),
        ),
    )
    return run(recipe, out=tmp_path_factory.mktemp("run") / "timed", machine=Machine(accelerator="cpu"), quiet=True)


def test_the_original_comes_along_and_is_the_measure(folder):
    told = time_run(folder, batches=(1, 5), only=QUICK, repeats=3)
    assert (told.run, told.seed, told.original, told.against) == ("timed", 3, "teacher", "eager")
    assert list(told.times) == [1, 5]
    for found in told.times.values():
        assert {name: tuple(forms) for name, forms in found.items()} == {"teacher": QUICK, "half": QUICK}
    assert {t.batch for forms in told.times[5].values() for t in forms.values()} == {5}
    assert all(t.n == 3 and t.threads == 1 and t.median_ms > 0 for f in told.times[1].values() for t in f.values())
    assert told.missing == {}
    assert told.faster(1, "teacher", "eager") == 1.0
    ratio = told.times[1]["teacher"]["eager"].median_ms / told.times[1]["half"]["onnxruntime"].median_ms
    assert told.faster(1, "half", "onnxruntime") == ratio


def test_other_networks_seeds_and_measures(folder):
    told = time_run(
        folder, models=("kd", "half"), seed=5, batches=(2,), only=("eager",), against="onnxruntime", repeats=3
    )
    assert told.seed == 5
    assert list(told.times[2]) == ["teacher", "kd", "half"]
    assert told.faster(2, "teacher", "onnxruntime") == 1.0
    assert told.faster(2, "kd", "eager") > 0


def test_a_form_that_cannot_be_had_says_why(folder, monkeypatch):
    def none(model, example):
        raise LimbeckError("no such thing here\nand more")

    monkeypatch.setattr(forms, "onnx", none)
    told = time_run(folder, batches=(1,), only=("eager", "onnxruntime"), repeats=1)
    assert told.missing == {n: {"onnxruntime": "no such thing here"} for n in ("teacher", "half")}
    assert list(told.times[1]["half"]) == ["eager"]
    with pytest.raises(
        LimbeckError, match="teacher cannot be timed 'onnxruntime', the measure of all others: no such thing"
    ):
        time_run(folder, batches=(1,), only=("eager",), against="onnxruntime", repeats=1)


def test_bad_input(folder):
    with pytest.raises(NameUnknown, match=r"no form 'compild'.*near: compiled"):
        time_run(folder, only=("compild",))
    with pytest.raises(HyperParameterError, match="batch = 0: samples, 1 or more"):
        time_run(folder, batches=(0,))
    with pytest.raises(NameUnknown, match="haf"):
        time_run(folder, models=("haf",))


def test_the_command(folder):
    arguments = ["latency", str(folder), "--batch", "1", "--form", "eager", "--form", "onnxruntime int8"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert "batches of 1, against teacher eager" in said.stdout
    assert "onnxruntime int8" in said.stdout
    assert "the same" in said.stdout
    assert "seed 3, 1 thread, process_time" in said.stdout
    told = json.loads(CliRunner().invoke(app, [*arguments, "--json"]).stdout)
    assert set(told["times"]["1"]["half"]) == {"eager", "onnxruntime int8"}
    assert told["clock"] == "process_time"
