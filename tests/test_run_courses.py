"""Recipes with courses, ensembles and students that learn together: run, resumed, reported."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from limbeck import checks, config, record
from limbeck.errors import Interrupted
from limbeck.report.read import read_run
from limbeck.report.tables import measure
from limbeck.report.verdict import headline
from limbeck.runner import run
from limbeck.runner import stages as runner_stages

TEXT = """
name: courses
data: {validation: 200}
models:
  big: {name: digits_mlp, options: {hidden: [16]}}
  thin: {name: digits_mlp, options: {hidden: [6]}}
stages:
- {kind: train, name: teacher, model: big, per_seed: false, rows: 320, training: {epochs: 2, batch_size: 32, optimizer: {lr: 0.05}}}
- {kind: train, name: other, model: big, init: b, per_seed: false, rows: 320, training: {epochs: 2, batch_size: 32, optimizer: {lr: 0.05}}}
- {kind: ensemble, name: both, members: [teacher, other], per_seed: false}
- {kind: train, name: alone, model: thin, rows: 320, training: {epochs: 2, batch_size: 32, optimizer: {lr: 0.05}}}
- {kind: distill, name: two, student: thin, teacher: [teacher, other], method: ensemble_kd, rows: 320, training: {epochs: 1, batch_size: 32, optimizer: {lr: 0.05}}}
- {kind: distill, name: one, student: thin, teacher: both, method: [kd, logit_matching], rows: 320, training: {epochs: 1, batch_size: 32, optimizer: {lr: 0.05}}}
- {kind: distill, name: ban, student: thin, teacher: teacher, method: {kind: born_again, generations: 2}, rows: 320, training: {epochs: 1, batch_size: 32, optimizer: {lr: 0.05}}}
- {kind: together, name: dml, students: [thin, thin], method: mutual_learning, rows: 320, training: {epochs: 1, batch_size: 32, optimizer: {lr: 0.05}}}
- {kind: evaluate, name: end, models: [both, ban.ensemble, dml.2]}
seeds: [0, 1]
"""


def recipe():
    return config.read(TEXT).recipe


def weights(folder, stage, seed=0):
    return load_file(Path(folder) / "stages" / stage / f"seed-{seed}" / "last.safetensors")


def digests(folder):
    return {
        str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(Path(folder).glob("stages/*/*/last.safetensors"))
    }


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    folder = tmp_path_factory.mktemp("courses") / "done"
    return run(recipe(), out=folder, quiet=True)


def test_the_check_goes_through():
    assert checks.deep(recipe()) == []


def test_every_part_is_on_the_shelf(done):
    told = record.read_json(done / "run.json")
    lines = {line["name"]: line for line in told["stages"]}
    assert list(lines) == [
        "teacher", "other", "both", "alone", "two", "one", "ban.1", "ban", "ban.ensemble", "dml", "dml.2", "end",
    ]  # fmt: skip
    assert [line["kind"] for line in lines.values()] == [
        "train", "train", "ensemble", "train", "distill", "distill", "distill", "distill", "ensemble", "together", "peer",
        "evaluate",
    ]  # fmt: skip
    assert {name: len(line["runs"]) for name, line in lines.items() if name != "end"} == {
        name: 1 if name in ("teacher", "other", "both") else 2 for name in lines if name != "end"
    }
    assert lines["both"]["network"] == "ensemble of digits_mlp, digits_mlp"
    assert lines["both"]["cost"]["parameters"] == 2 * lines["teacher"]["cost"]["parameters"]
    assert lines["two"]["teacher"] == ["teacher", "other"]
    assert all(line["cost"]["latency"] for name, line in lines.items() if name != "end")
    assert {name: len(found) for name, found in lines["end"]["results"].items()} == {
        "both": 1,
        "ban.ensemble": 2,
        "dml.2": 2,
    }
    assert lines["end"]["results"]["dml.2"][1]["accuracy"] == lines["dml.2"]["runs"][1]["last"]["test"]["accuracy"]


def test_equal_blueprints_start_apart_where_they_should(done):
    first, second = weights(done, "teacher"), weights(done, "other")
    assert not any(torch.equal(first[k], second[k]) for k in first)
    a, b = weights(done, "dml"), weights(done, "dml.2")
    assert not any(torch.equal(a[k], b[k]) for k in a)


def test_an_ensemble_is_its_members(done):
    both = weights(done, "both")
    assert {k.split(".", 2)[-1] for k in both} >= {k.split(".", 2)[-1] for k in weights(done, "teacher")}
    for k, value in weights(done, "other").items():
        assert any(torch.equal(value, v) for name, v in both.items() if name.endswith(k))


def test_the_headline_is_about_what_the_recipe_names(done):
    read = read_run(done)
    assert {s.name: s.part_of for s in read.stages if s.part_of} == {
        "ban.1": "ban",
        "ban.ensemble": "ban",
        "dml.2": "dml",
    }
    chosen = headline(read, measure(read))
    assert chosen is not None
    assert chosen.name in {"two", "one", "ban", "dml"}


def test_the_report_compares_what_was_taught(done):
    measured = {m.name: m for m in measure(read_run(done))}
    assert {name for name, m in measured.items() if m.difference} == {
        "two", "one", "ban.1", "ban", "ban.ensemble", "dml", "dml.2",
    }  # fmt: skip
    page = (done / "report.html").read_text()
    assert "taught by teacher, other" in page
    assert "ban.ensemble" in page


@pytest.mark.parametrize("after", ["ban.1", "dml"])
def test_a_run_that_stops_between_lessons_ends_in_the_same_bits(done, tmp_path, monkeypatch, after):
    keep = runner_stages._keep

    def stopping(work, stage, seed, *rest, **more):
        found = keep(work, stage, seed, *rest, **more)
        if (stage.name, seed) == (after, 1):
            raise Interrupted("stopped for the test")
        return found

    monkeypatch.setattr(runner_stages, "_keep", stopping)
    with pytest.raises(Interrupted):
        run(recipe(), out=tmp_path / "run", quiet=True)
    monkeypatch.undo()
    assert digests(run(recipe(), out=tmp_path / "run", quiet=True)) == digests(done)


def test_finished_parts_are_not_done_again(done, monkeypatch):
    def refuse(*_args, **_more):
        raise AssertionError("something was trained again")

    monkeypatch.setattr(runner_stages, "fit", refuse)
    (done / "run.json").write_text(json.dumps({**json.loads((done / "run.json").read_text()), "status": "running"}))
    run(recipe(), out=done, quiet=True)


def test_init_changes_the_weights_and_nothing_else(tmp_path):
    text = """
models: {thin: {name: digits_mlp, options: {hidden: [6]}}}
data: {validation: 200}
stages:
- {kind: train, name: a, model: thin, rows: 320, training: {epochs: 1, optimizer: {lr: 1e-9}}}
- {kind: train, name: b, model: thin, init: x, rows: 320, training: {epochs: 1, optimizer: {lr: 1e-9}}}
- {kind: train, name: c, model: thin, init: x, rows: 320, training: {epochs: 1, optimizer: {lr: 1e-9}}}
"""
    folder = run(config.read(text).recipe, out=tmp_path / "run", quiet=True)
    a, b, c = (weights(folder, name) for name in "abc")
    key = next(k for k in a if k.endswith("weight"))
    assert not torch.allclose(a[key], b[key], atol=1e-4)
    torch.testing.assert_close(b[key], c[key], atol=1e-6, rtol=0)
