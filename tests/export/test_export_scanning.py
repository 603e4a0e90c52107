"""Which layers of a network of a run bear pruning, and which suffer from int8."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace

import pytest
import torch
import yaml
from typer.testing import CliRunner

from limbeck import cli
from limbeck.cli.app import app
from limbeck.compress.int8 import sensitivity
from limbeck.compress.prune import Prune
from limbeck.compress.quantize import Quantize
from limbeck.data.spec import Data
from limbeck.errors import HyperParameterError, LimbeckError, NameUnknown, RunFolderError
from limbeck.export import open_run, scan_page, scan_run, scanning, write_scan
from limbeck.export.runs import calibration
from limbeck.models import save_weights
from limbeck.recipe import Compress, Machine, Model, Recipe, Train
from limbeck.runner import run
from limbeck.settings import Optimizer, Training


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A trained network, half of whose first hidden units are zero, pruned, and in int8."""
    pytest.importorskip("torchao")
    one = Training(epochs=4, batch_size=32, optimizer=Optimizer(lr=0.1))
    recipe = Recipe(
        name="scanned",
        models={"big": Model(name="digits_mlp", options={"hidden": [32, 16]})},
        data=Data(validation=300),
        seeds=(3, 5),
        stages=(
            Train(name="net", model="big", training=one),
            Compress(name="small", model="net", how=Prune(keep=0.75)),
            Compress(name="int8", model="small", how=Quantize()),
        ),
    )
    place = run(recipe, out=tmp_path_factory.mktemp("run") / "scanned", machine=Machine(accelerator="cpu"), quiet=True)
    network = open_run(place).model("net", 3)
    first = next(part for part in network.modules() if isinstance(part, torch.nn.Linear))
    with torch.no_grad():
        first.weight[::2] = 0
        first.bias[::2] = 0
    save_weights(network, place / "stages" / "net" / "seed-3" / "last.safetensors")
    return place


def names(network):
    return [name for name, part in network.named_modules() if isinstance(part, torch.nn.Linear)]


def accuracy(network, rows, opened):
    right = 0
    for batch in opened.batches(rows):
        with torch.no_grad():
            out = network(batch.inputs)
        right += int((getattr(out, "logits", out).argmax(1) == batch.targets).sum())
    return right / len(rows)


def test_a_layer_that_is_half_zero_bears_the_half(folder):
    told = scan_run(folder, model="net", parts=(0.5, 0.25, 0.9))
    first, second, _ = names(open_run(folder).model("net", 3))
    assert list(told.lines) == [first, second]
    assert told.channels == {first: 32, second: 16}
    assert [part for part, _ in told.lines[first]] == [0.0, 0.25, 0.5, 0.9]
    assert [value for _, value in told.lines[first]][:3] == [told.whole] * 3
    assert told.lines[first][3][1] < told.whole - 0.1
    assert told.lines[second][3][1] < told.whole - 0.1
    assert (told.stage, told.seed, told.to, told.how, told.passed_over) == ("net", 3, "prune", "l1", None)
    line = told.lines[first]
    assert scan_page.bears(line, scan_page.limit(told)) == 0.5
    assert scan_page.settings(told)["layers"][first] == 0.5
    assert f"{first} bears 50 % or more" in scan_page.advice(told)
    how = yaml.safe_load(scan_page.recipe_line(told))["how"]
    assert how.pop("kind") == "prune"
    made = Prune(**how)(open_run(folder).model("net", 3), example=open_run(folder).work.example(2))
    assert dict(made.named_modules())[first].out_features == 16


def test_validation_rows_judge_and_no_test_row_is_touched(folder, monkeypatch):
    """The figure for the whole network is counted by hand; with a test part of noise it stays the same."""
    opened = open_run(folder)
    network = opened.model("net", 3)
    told = scan_run(folder, model="net", parts=(0.5,))
    assert (told.part, told.rows) == ("validation", 300)
    assert told.whole == pytest.approx(accuracy(network, opened.data.validation, opened), abs=1e-7)
    assert told.whole != pytest.approx(accuracy(network, opened.data.test, opened), abs=1e-4)
    other = scanning.open_run

    def without_test(*args, **kwargs):
        made = other(*args, **kwargs)
        made.__dict__["data"] = replace(made.data, test=None)
        return made

    monkeypatch.setattr(scanning, "open_run", without_test)
    assert scan_run(folder, model="net", parts=(0.5,)) == told


def test_some_rows_are_always_the_same_and_have_all_classes(folder):
    opened = open_run(folder)
    where, few = scanning._rows(opened, 50)
    assert (where, len(few)) == ("validation", 50)
    assert set(few.labels.tolist()) == set(range(10))
    assert set(few.rows.tolist()) <= set(opened.data.validation.rows.tolist())
    assert torch.equal(few.rows, scanning._rows(open_run(folder), 50)[1].rows)
    told = scan_run(folder, model="net", rows=50, parts=(0.5,))
    assert told.whole == pytest.approx(accuracy(opened.model("net", 3), few, opened), abs=1e-7)
    assert "One row is 2 points" in " ".join(scan_page.remarks(told))


def test_without_validation_rows_training_rows_judge_and_that_is_said(folder, monkeypatch):
    other = scanning.open_run

    def without_validation(*args, **kwargs):
        made = other(*args, **kwargs)
        nothing = made.data.validation.take(torch.arange(0))
        made.__dict__["data"] = replace(made.data, validation=nothing)
        return made

    monkeypatch.setattr(scanning, "open_run", without_validation)
    told = scan_run(folder, model="net", rows=60, parts=(0.5,))
    assert (told.part, told.rows) == ("training", 60)
    assert "this run holds no rows out for validation" in scan_page.remarks(told)[0]


def test_the_float_network_behind_an_int8_program(folder):
    told = scan_run(folder, parts=(0.5,), by="taylor", seed=5)
    assert (told.stage, told.passed_over, told.seed, told.how) == ("small", "int8", 5, "taylor")
    assert "int8 is in int8 already; small, of which it was made, was taken." in scan_page.remarks(told)
    with pytest.raises(LimbeckError, match=r"int8 of the run .* is in int8, a finished program.*--model small"):
        scan_run(folder, model="int8")


@pytest.mark.parametrize("quantized", ["only", "others"])
def test_int8_is_what_the_function_says(folder, quantized):
    opened = open_run(folder)
    network, rows = opened.model("net", 3), calibration(opened, 3)

    def measure(found):
        return accuracy(found, opened.data.validation, opened)

    direct = sensitivity(network, rows[0].inputs, rows, measure, quantized=quantized)
    seen = []
    told = scan_run(
        folder, model="net", to="int8", quantized=quantized, progress=lambda done, total: seen.append((done, total))
    )
    assert seen == [(i, 5) for i in range(6)]
    assert list(told.single) == names(network)
    assert told.single == pytest.approx({row["layer"]: row["measure"] for row in direct["layers"]}, abs=1e-7)
    assert (told.whole, told.int8) == pytest.approx((direct["float"], direct["int8"]), abs=1e-7)
    for row in direct["layers"]:
        wanted = row["measure"] - direct["int8"] if quantized == "others" else row["loss"]
        assert scan_page.blame(told, row["layer"]) == pytest.approx(wanted, abs=1e-6)


INT8 = scanning.Scanned(
    "r", "net", 0, "resnet8", None, "int8", "only", "validation", 1000, 0.9,
    single={"a": 0.9, "b": 0.85, "2": 0.89}, int8=0.84, paths={"a": "a", "b": "b", "2": "2"},
)  # fmt: skip
PRUNE = scanning.Scanned(
    "r", "net", 0, "resnet8", None, "prune", "fpgm", "validation", 1000, 0.9,
    lines={
        "1": [(0.0, 0.9), (0.25, 0.6), (0.5, 0.9)],
        "b#2": [(0.0, 0.9), (0.25, 0.9), (0.5, 0.89)],
        "b": [(0.0, 0.9), (0.25, 0.88), (0.5, 0.7)],
        "c": [(0.0, 0.9), (0.25, 0.91), (0.5, 0.9)],
    },
    channels={"1": 8, "b#2": 8, "b": 8, "c": 8}, along={"1": ("x", "y")}, paths={"1": "1", "b#2": "b", "b": "b", "c": "c"},
)  # fmt: skip


def test_what_follows_for_int8():
    assert scan_page.ordered(INT8) == ["b", "2", "a"]
    assert scan_page.recipe_line(INT8) == "how: {kind: quantize, skip: [b, '2']}"
    assert "lose 6.00 points; int8 costs more than 0.5 points in b, 2." in scan_page.advice(INT8)
    rows = [[cell.text for cell in row] for row in scan_page.table(INT8).rows]
    assert rows[:3] == [["no layer: float", "90.0", "0.00"], ["all layers", "84.0", "6.00"], ["b", "85.0", "5.00"]]
    fine = replace(INT8, int8=0.897)
    assert scan_page.recipe_line(fine) == "how: {kind: quantize}"
    assert "no layer need be skipped" in scan_page.advice(fine)
    nobody = replace(INT8, single={"a": 0.9, "b": 0.899, "2": 0.9})
    assert scan_page.recipe_line(nobody) == "how: {kind: quantize, mode: qat}"
    assert "no single layer is to blame" in scan_page.advice(nobody)
    others = replace(INT8, how="others")
    assert scan_page.ordered(others) == ["a", "2", "b"]
    assert [cell.text for cell in scan_page.table(others).rows[2]] == ["a", "90.0", "0.00", "6.00"]
    assert "float wins back more than 0.5 points in a, 2, b" not in scan_page.advice(others), "all of them is none"
    few = replace(INT8, rows=100)
    assert scan_page.limit(few) == 0.02, "two rows"
    assert scan_page.settings(few)["skip"] == ["b"]


def test_what_follows_for_pruning():
    assert scan_page.ordered(PRUNE) == ["1", "b", "b#2", "c"]
    line = "how: {kind: prune, keep: 0.75, by: fpgm, ignore: ['1'], layers: {c: 0.5}}"
    assert scan_page.recipe_line(PRUNE) == line
    said = scan_page.advice(PRUNE)
    assert said.startswith("1 loses more than 2 points at 25 % already; c bears 50 % or more. Each was measured alone")
    table = scan_page.table(PRUNE)
    assert [cell.text for cell in table.rows[0]] == ["1", "8", "0 %", "90.0", "60.0", "90.0"]
    assert (table.rows[0][0].note, table.rows[0][0].brief) == ("with x, y", "and 2 more")
    assert [cell.text for cell in table.column("bears")] == ["0 %", "25 %", "50 %", "50 %"]
    fragile = replace(PRUNE, lines={"1": PRUNE.lines["1"]}, paths={"1": "1"})
    assert scan_page.recipe_line(fragile) == "how: {kind: prune, keep: 0.8, by: fpgm, steps: 4, epochs: 2}"
    assert "Every layer loses more than 2 points at 25 % already" in scan_page.advice(fragile)
    even = replace(PRUNE, how="l1", lines={"b": PRUNE.lines["b"]}, paths={"b": "b"})
    assert scan_page.recipe_line(even) == "how: {kind: prune, keep: 0.75}"
    assert scan_page.advice(even).startswith("No layer stands out.")
    Prune(**{k: v for k, v in scan_page.settings(fragile).items() if k != "kind"})


def test_bad_input(folder, tmp_path):
    with pytest.raises(NameUnknown, match=r"no form of compression 'int'.*near: int8"):
        scan_run(folder, to="int")
    with pytest.raises(NameUnknown, match=r"no score 'fpgn'.*near: fpgm"):
        scan_run(folder, by="fpgn")
    with pytest.raises(NameUnknown, match=r"no network 'smal' in the run .*; near: small"):
        scan_run(folder, model="smal")
    with pytest.raises(NameUnknown, match=r"no seed 4 .*there are: 3, 5"):
        scan_run(folder, seed=4)
    for part in (1.0, -0.1, float("nan")):
        with pytest.raises(HyperParameterError, match=r"part = .*of the channels of a layer, in \[0, 1\)"):
            scan_run(folder, parts=(0.5, part))
    with pytest.raises(HyperParameterError, match="rows = 0: to judge by, 1 or more"):
        scan_run(folder, rows=0)
    with pytest.raises(HyperParameterError, match="int8 has neither"):
        scan_run(folder, to="int8", by="l1")
    with pytest.raises(
        HyperParameterError, match=r"quantized = 'others' \(--others\) is for int8.*or say to = 'int8' \(--to int8\)"
    ):
        scan_run(folder, quantized="others")
    with pytest.raises(RunFolderError):
        scan_run(tmp_path)
    undone = shutil.copytree(folder, tmp_path / "undone")
    told = json.loads((undone / "run.json").read_text())
    (undone / "run.json").write_text(json.dumps({**told, "status": "running"}))
    with pytest.raises(RunFolderError, match=r"is not done .*--model"):
        scan_run(undone)
    (undone / "stages" / "small" / "seed-3" / "result.json").unlink()
    with pytest.raises(RunFolderError, match=r"small of the run .* is not done \(seed 3\)"):
        scan_run(undone, model="small")


def test_networks_with_nothing_to_remove_or_to_quantize(folder, monkeypatch):
    class Fixed(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.scale = torch.nn.Parameter(torch.ones(10))

        def forward(self, x):
            return x.flatten(1)[:, :10] * self.scale

    monkeypatch.setattr("limbeck.export.runs.OpenRun.model", lambda *_: Fixed().eval())
    with pytest.raises(LimbeckError, match="no channel of this Fixed can be removed"):
        scan_run(folder, model="net")
    with pytest.raises(LimbeckError, match="net, a Fixed, has no convolution and no linear layer to quantize"):
        scan_run(folder, model="net", to="int8")


def test_the_command(folder, tmp_path):
    before = (folder / "run.json").read_bytes()
    arguments = ["sensitivity", str(folder), "--model", "net", "--part", "0.5", "--rows", "100"]
    said = CliRunner().invoke(app, arguments)
    assert said.exit_code == 0, said.output
    assert "net (seed 3), digits_mlp: channels removed by l1" in said.stdout
    assert "50 %" in said.stdout
    assert "in a recipe:  how: {kind: prune" in said.stdout
    assert "the same 100 validation rows throughout; no test row was looked at" in said.stdout
    assert "measuring: 0 of 3" in said.stderr
    page = (folder / "sensitivity-net-seed-3-prune-l1.html").read_text()
    assert page.count("<svg") == 1
    assert "Sensitivity to pruning" in page
    assert (folder / "run.json").read_bytes() == before
    out = tmp_path / "page.html"
    told = CliRunner().invoke(
        app, ["sensitivity", str(folder), "--to", "int8", "--others", "--json", "--out", str(out)]
    )
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout)
    assert (found["stage"], found["passed_over"], found["how"], found["page"]) == ("small", "int8", "others", str(out))
    assert found["settings"]["kind"] == "quantize"
    assert "Won back by one layer in float" in out.read_text()
    quiet = CliRunner().invoke(app, [*arguments, "--quiet", "--out", str(out)])
    assert (quiet.exit_code, quiet.output) == (0, "")
    assert "Sensitivity to pruning" in out.read_text()
    assert [path.name for path in tmp_path.iterdir()] == ["page.html"]


def test_the_command_says_what_it_cannot_do_and_leaves_nothing(folder, tmp_path, monkeypatch, capsys):
    arguments = ["sensitivity", str(folder), "--model", "net", "--part", "0.5", "--out"]
    with pytest.raises(RunFolderError, match=r"there is no folder .*nowhere; make it first"):
        write_scan(INT8, folder, tmp_path / "nowhere" / "page.html")
    assert cli.main([*arguments, str(tmp_path)]) == 1
    assert "is a folder; name a file in it" in capsys.readouterr().err
    assert cli.main(["sensitivity", str(folder), "--part", "1.5"]) == 2
    assert "part = 1.5: of the channels of a layer, in [0, 1)" in capsys.readouterr().err

    def stopped(*args, **kwargs):
        raise KeyboardInterrupt

    monkeypatch.setattr(scanning, "_accuracy", stopped)
    assert cli.main([*arguments, str(tmp_path / "page.html")]) == 130
    assert "interrupted; nothing was written" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
