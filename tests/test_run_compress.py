"""Recipes with compressions: run, resumed after a kill, rebuilt from their files, reported against the original."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from limbeck import checks, config, record
from limbeck.config import read_recipe, to_yaml
from limbeck.errors import Interrupted, RecipeError
from limbeck.report.ledger import ledger
from limbeck.report.page import page
from limbeck.report.read import read_run
from limbeck.report.verdict import verdict
from limbeck.runner import run
from limbeck.runner import stages as runner_stages
from limbeck.search.trial import original_of

TEXT = """
name: chain
data: {validation: 200}
models:
  big: {name: digits_mlp, options: {hidden: [24, 16]}}
  thin: {name: digits_mlp, options: {hidden: [6]}}
stages:
- {kind: train, name: original, model: big, rows: 320, training: {epochs: 2, batch_size: 32, optimizer: {lr: 0.05}}}
- kind: compress
  name: low
  model: original
  how: {kind: factorize, energy: 0.7, measured: false}
  calibration: 50
- {kind: distill, name: tuned, student: low, teacher: original, method: kd, rows: 320, training: {epochs: 2, batch_size: 32, optimizer: {lr: 0.05}}}
- kind: distill
  name: made
  student: {from: tuned, factorize: {energy: 0.6, measured: false}}
  teacher: original
  method: kd
  rows: 320
  training: {epochs: 1, batch_size: 32, optimizer: {lr: 0.05}}
- {kind: distill, name: thin, student: thin, teacher: original, method: kd, rows: 320, training: {epochs: 1, batch_size: 32, optimizer: {lr: 0.05}}}
- {kind: compress, name: thinner, model: thin, how: {kind: mask, density: 0.5}}
- {kind: evaluate, name: end, models: [low, tuned, thinner]}
seeds: [0, 1]
"""


def recipe():
    return config.read(TEXT).recipe


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(Path(folder).glob("stages/*/*/last.safetensors"))
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    return run(recipe(), out=tmp_path_factory.mktemp("chain") / "done", quiet=True)


def test_the_check_goes_through_and_the_file_says_it_again():
    assert checks.deep(recipe()) == []
    assert read_recipe(to_yaml(recipe())) == recipe()


def test_what_runs_is_every_step(done):
    lines = {line["name"]: line for line in record.read_json(done / "run.json")["stages"]}
    assert list(lines) == ["original", "low", "tuned", "made.student", "made", "thin", "thinner", "end"]
    assert lines["low"]["kind"] == "compress"
    assert lines["low"]["how"]["kind"] == "factorize"
    assert lines["made.student"]["part_of"] == "made"
    assert lines["low"]["network"] == lines["tuned"]["network"] == "digits_mlp, factorize"
    assert lines["made"]["network"] == "digits_mlp, factorize, factorize"
    assert (
        lines["low"]["cost"]["parameters"]
        == lines["tuned"]["cost"]["parameters"]
        < lines["original"]["cost"]["parameters"]
    )
    for name in ("low", "tuned", "thinner"):
        assert lines[name]["cost"]["latency"]["batch"] == 1
        assert lines[name]["cost"]["latency_32"]["batch"] == 32
        assert lines[name]["cost"]["latency"]["form"] == "eager"


def test_every_network_is_compared_with_the_one_at_the_beginning(done):
    lines = {line["name"]: line for line in record.read_json(done / "run.json")["stages"]}
    for name in ("low", "tuned", "made", "thin", "thinner"):
        assert [r["original"]["model"] for r in lines[name]["runs"]] == ["original", "original"], name
        assert all(0 <= r["original"]["agreement"] <= 1 for r in lines[name]["runs"])
    assert lines["original"]["runs"][0]["original"] is None


def test_a_chain_that_begins_with_training_given_weights_is_compared_with_them(done, tmp_path):
    """As one for slimming does: what that training loses is lost by the chain."""
    weights = done / "stages" / "original" / "seed-0" / "last.safetensors"
    text = f"""
name: readied
data: {{validation: 200}}
models: {{given: {{name: digits_mlp, options: {{hidden: [24, 16]}}, weights: "{weights}"}}}}
stages:
- {{kind: train, name: ready, model: given, rows: 320, training: {{epochs: 1, batch_size: 32, optimizer: {{lr: 0.05}}}}}}
- {{kind: compress, name: low, model: ready, how: {{kind: factorize, energy: 0.7, measured: false}}, calibration: 50}}
"""
    given = config.read(text).recipe
    assert original_of(given, "low") == original_of(given, "ready") == "given"
    assert original_of(recipe(), "original") is None  # weights that were drawn are no network to lose points against
    found = ledger(read_run(run(given, out=tmp_path / "run", quiet=True)))
    assert [cell.text for cell in found.column("stage")] == ["given", "ready", "low"]
    assert found.column("kept")[0].text == "original"


def test_bytes_are_those_of_the_file(done):
    lines = {line["name"]: line for line in record.read_json(done / "run.json")["stages"]}
    for name in ("original", "low", "tuned"):
        assert lines[name]["cost"]["bytes"] == (done / "stages" / name / "seed-0" / "last.safetensors").stat().st_size


def test_the_report_has_a_ledger(done):
    found = ledger(read_run(done))
    assert [cell.text for cell in found.column("stage")] == [
        "original", "low", "tuned", "made.student", "made", "thin", "thinner",
    ]  # fmt: skip
    assert found.column("kept")[0].text == "original"
    assert all("n = 2" in cell.note for cell in found.column("accuracy"))
    text = page(read_run(done))
    assert 'id="ledger"' in text
    assert "masks alone save no time" in text


def test_the_sentence_is_about_the_chain_with_the_best_end(done):
    told = record.read_json(done / "run.json")
    reached = {
        line["name"]: sum(r["last"]["validation"]["accuracy"] for r in line["runs"])
        for line in told["stages"]
        if "runs" in line
    }
    found = verdict(read_run(done))
    best, other = sorted(("made", "thinner"), key=lambda name: -reached[name])  # nothing goes on from these
    assert found.text.startswith(f"{best} reaches ")
    assert ", original " in found.text
    assert found.further.startswith(f"Of 2 chains that of {best} ends with the best network on the validation part.")
    size = {line["name"]: line["cost"]["bytes"] for line in told["stages"] if "runs" in line}
    assert ("The smallest" in found.further) == (size[other] < size[best])
    assert found.further.split(".")[0] + "." in page(read_run(done))


def test_a_run_without_compressions_has_no_ledger(tmp_path):
    text = (
        "models: {net: digits_mlp}\nstages:\n- {kind: train, name: one, model: net, rows: 100, training: {epochs: 1}}"
    )
    folder = run(config.read(text + "\n").recipe, out=tmp_path / "plain", quiet=True)
    assert ledger(read_run(folder)) is None
    assert 'id="ledger"' not in page(read_run(folder))


@pytest.mark.parametrize("missing", ["result.json", "last.safetensors"])
def test_a_compression_that_was_cut_off_is_made_again_to_the_same_bits(done, tmp_path, missing):
    folder = tmp_path / "again"
    shutil.copytree(done, folder)
    for stage in ("low", "tuned", "made.student", "made"):
        shutil.rmtree(folder / "stages" / stage / "seed-1")
    (folder / "stages" / "low" / "seed-0" / missing).unlink()
    told = record.read_json(folder / "run.json")
    (folder / "run.json").write_text(json.dumps({**told, "status": "interrupted"}))
    run(recipe(), out=folder, quiet=True)
    assert digests(folder) == digests(done)


def test_what_is_made_again_is_measured_again(done, tmp_path, monkeypatch):
    folder = tmp_path / "again"
    shutil.copytree(done, folder)
    told = record.read_json(folder / "run.json")
    (line,) = (line for line in told["stages"] if line["name"] == "low")
    right = {key: line["cost"][key] for key in ("parameters", "macs", "bytes")}
    line["cost"] |= dict.fromkeys(right, 1)  # as if it had come out otherwise the first time
    (folder / "run.json").write_text(json.dumps(told))
    shutil.rmtree(folder / "stages" / "low" / "seed-1")
    run(recipe(), out=folder, quiet=True)
    assert costs(folder)["low"]["macs"] == 1  # it belongs to the first seed
    exhibits = folder / "exhibits.json"
    shutil.rmtree(folder / "stages" / "low" / "seed-0")
    exhibits.write_text(json.dumps({**record.read_json(exhibits), "old": True}))

    def killed(*_):
        raise OSError("killed")

    with monkeypatch.context() as patch:
        patch.setattr(runner_stages, "_keep", killed)
        with pytest.raises(OSError, match="killed"):
            run(recipe(), out=folder, quiet=True)
    assert costs(folder)["low"] == {}  # already
    run(recipe(), out=folder, quiet=True)
    cost = costs(folder)["low"]
    assert {key: cost[key] for key in right} == right
    assert cost["latency"]["median_ms"] > 0
    assert "old" not in record.read_json(exhibits)
    assert digests(folder) == digests(done)
    assert not aside(folder)  # the same bits came out: what was made of them stays


def aside(folder):
    return {str(p.relative_to(folder / "stages")) for p in (folder / "stages").glob("*/*.replaced-*")}


def otherwise(monkeypatch, *names, stop=None):
    """Let stages of these names see their rows in another order, and stop in one."""
    real = runner_stages.fit

    def fit(method, models, loader, **settings):
        if settings["name"] == stop:
            settings["stop"].asked = True
        if settings["name"] in names:
            loader = replace(loader, seed=loader.seed + 7)
        return real(method, models, loader, **settings)

    monkeypatch.setattr(runner_stages, "fit", fit)


def test_what_was_made_of_another_network_is_made_again(done, tmp_path, monkeypatch):
    folder, straight = tmp_path / "again", tmp_path / "straight"
    shutil.copytree(done, folder)
    shutil.rmtree(folder / "stages" / "original" / "seed-0")
    otherwise(monkeypatch, "original")
    run(recipe(), out=folder, quiet=True)
    run(recipe(), out=straight, quiet=True)
    now, then, whole = digests(folder), digests(done), digests(straight)
    first = {file for file in then if "/seed-0/" in file}
    assert {file: now[file] for file in first} == {file: whole[file] for file in first}
    assert {file: now[file] for file in then if file not in first} == {
        file: then[file] for file in then if file not in first
    }
    behind = ("low", "tuned", "made.student", "made", "thin", "thinner")
    assert aside(folder) == {f"{name}/seed-0.replaced-1" for name in behind}
    for name in behind:  # nothing is lost
        assert (
            now[f"stages/{name}/seed-0.replaced-1/last.safetensors"] == then[f"stages/{name}/seed-0/last.safetensors"]
        )
    told, other = record.read_json(folder / "run.json"), record.read_json(straight / "run.json")
    assert [n for n in told["notes"] if n.startswith("tuned (seed 0)")] == [
        "tuned (seed 0) is made again: low, original are another network by now than it was made of. "
        "What it left is in stages/tuned/seed-0.replaced-1"
    ]
    for line, right in zip(told["stages"], other["stages"], strict=True):
        if "runs" in line:
            assert line["runs"][0]["last"] == right["runs"][0]["last"], line["name"]
            assert line["runs"][0]["original"] == right["runs"][0]["original"], line["name"]


def test_a_checkpoint_belongs_to_the_networks_that_its_training_began_with(done, tmp_path, monkeypatch):
    folder = tmp_path / "stopped"
    with monkeypatch.context() as patch:
        otherwise(patch, "original", stop="tuned")
        with pytest.raises(Interrupted):
            run(recipe(), out=folder, quiet=True)
    assert (folder / "stages" / "tuned" / "seed-0" / "checkpoint.safetensors").exists()
    shutil.rmtree(folder / "stages" / "original")
    run(recipe(), out=folder, quiet=True)
    assert aside(folder) == {"low/seed-0.replaced-1", "tuned/seed-0.replaced-1"}
    assert {file: told for file, told in digests(folder).items() if "replaced" not in file} == digests(done)


def test_results_of_versions_that_did_not_say_what_they_were_made_of_stay(done, tmp_path, monkeypatch):
    folder = tmp_path / "older"
    shutil.copytree(done, folder)
    for file in folder.rglob("made_of.json"):
        file.unlink()
    shutil.rmtree(folder / "stages" / "original" / "seed-0")
    otherwise(monkeypatch, "original")
    run(recipe(), out=folder, quiet=True)
    (other,) = {file for file, told in digests(folder).items() if digests(done)[file] != told}
    assert other == "stages/original/seed-0/last.safetensors"


def costs(folder):
    return {line["name"]: line["cost"] for line in record.read_json(folder / "run.json")["stages"] if "cost" in line}


def test_stopped_in_a_training_after_a_compression_it_goes_on_to_the_same_bits(done, tmp_path, monkeypatch):
    folder, real = tmp_path / "stopped", runner_stages.fit

    def stopping(method, models, loader, **settings):
        if settings["name"] == "tuned" and settings["seed"] == 1:
            settings["stop"].asked = True
        return real(method, models, loader, **settings)

    monkeypatch.setattr(runner_stages, "fit", stopping)
    with pytest.raises(Interrupted):
        run(recipe(), out=folder, quiet=True)
    monkeypatch.setattr(runner_stages, "fit", real)
    run(recipe(), out=folder, quiet=True)
    assert digests(folder) == digests(done)


def test_the_network_before_is_left_alone(done):
    from safetensors.torch import load_file

    told = record.read_json(done / "stages" / "original" / "seed-0" / "result.json")
    original = load_file(done / "stages" / "original" / "seed-0" / "last.safetensors")
    assert told["last"]["test"]["accuracy"] > 0.3
    assert sorted(tuple(v.shape) for k, v in original.items() if k.endswith("weight")) == [(10, 16), (16, 24), (24, 64)]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("calibration: 50", "teacher: original", "Factorize as it is set here trains nothing"),
        ("calibration: 50", "calibration: -1", "calibration = -1: a number of training rows, or 0"),
        ("kind: factorize, energy: 0.7", "kind: factorise, energy: 0.7", "no compressor 'factorise'"),
        ("model: original\n  how", "model: orginal\n  how", "no model 'orginal'"),
        ("{from: tuned, factorize", "{from: tunned, factorize", "no model 'tunned'"),
        ("{from: tuned, factorize", "{from: tuned, factorise", "no key 'factorise' in a network made from another"),
        ("{from: tuned, factorize: {energy: 0.6, measured: false}}", "{from: tuned}", "expected one compressor"),
        (
            "{from: tuned, factorize: {energy: 0.6, measured: false}}",
            "{factorize: {energy: 0.6}}",
            "the name of the network",
        ),
    ],
)
def test_what_is_wrong_is_said(old, new, said):
    assert old in TEXT
    with pytest.raises(RecipeError, match=said.replace("(", r"\(")):
        config.read(TEXT.replace(old, new))


def test_a_compressor_that_is_in_no_catalogue_needs_python(tmp_path):
    from dataclasses import dataclass, replace

    @dataclass(frozen=True)
    class Mine:
        def __call__(self, model: nn.Module, *, example: torch.Tensor, calibration=()) -> nn.Module:
            return model

    made = recipe()
    stages = (made.stages[0], replace(made.stages[1], how=Mine()))
    from limbeck.errors import LimbeckError

    with pytest.raises(LimbeckError, match=r"Mine is in no catalogue.*limbeck\.compress"):
        run(replace(made, stages=stages, baseline=None), out=tmp_path / "mine", quiet=True)
