"""`limbeck search`, run: trials, sharing, going on after a stop, failures, the page."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import sys
from pathlib import Path

import pytest

from limbeck import config, record, runner
from limbeck.cli import main
from limbeck.errors import Interrupted, LimbeckError, RecipeError, RunFolderError
from limbeck.runner import run
from limbeck.runner import stages as runner_stages

pytest.importorskip("optuna")

from limbeck.search import search, whole

RECIPE = """
name: chain
data: {validation: 200}
models:
  big: {name: digits_mlp, options: {hidden: [24, 16]}}
stages:
- {kind: train, name: original, model: big, rows: 320, training: {epochs: 2, batch_size: 32, optimizer: {lr: 0.05}}}
- {kind: compress, name: low, model: original, calibration: 0, how: {kind: factorize, energy: 0.7, measured: false}}
- {kind: distill, name: tuned, student: low, teacher: original, method: kd, rows: 320,
   training: {epochs: 1, batch_size: 32, optimizer: {lr: 0.05}}}
"""
PAGE = Path(__file__).resolve().parents[2] / "docs" / "search.md"
TEXT = (
    RECIPE
    + """
search:
  trials: 4
  aim: bytes
  within: {points: 60, bytes: 9000}
  space:
    stages.low.how.energy: [0.5, 0.6, 1.7]
    stages.tuned.training.epochs: {low: 1, high: 2, whole: true}
"""
)


@pytest.fixture(scope="module")
def trained():
    """The names of the stages that were trained while a test ran."""
    return []


@pytest.fixture(autouse=True)
def watched(monkeypatch, trained):
    real = runner_stages.fit
    trained.clear()

    def fit(*arguments, **settings):
        trained.append(settings["name"])
        return real(*arguments, **settings)

    monkeypatch.setattr(runner_stages, "fit", fit)
    monkeypatch.setattr(
        runner, "write_report", lambda folder: folder
    )  # of each trial: charts, which cost more than the runs


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    said, counted, real = [], [], runner_stages.fit

    def fit(*arguments, **settings):
        counted.append(settings["name"])
        return real(*arguments, **settings)

    patch = pytest.MonkeyPatch()
    patch.setattr(runner_stages, "fit", fit)
    patch.setattr(runner, "write_report", lambda folder: folder)
    found = search(TEXT, out=tmp_path_factory.mktemp("search") / "done", say=said.append)
    patch.undo()
    return found, said, counted


def same(trial):
    """A trial without what is measured by the clock."""
    figures = {key: value for key, value in trial.figures.items() if key != "latency"}
    return trial.number, trial.settings, trial.status, trial.problem, figures


def weights(folder):
    return {
        str(path.relative_to(folder)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(folder.rglob("last.safetensors"))
    }


def test_every_trial_is_a_run_of_the_recipe_with_its_settings(done):
    found, said, _ = done
    assert [trial.number for trial in found.trials] == [1, 2, 3, 4]
    good = [trial for trial in found.trials if trial.status == "done"]
    assert len(good) >= 2
    for trial in good:
        folder = found.folder / "trials" / trial.name
        kept = config.read_recipe(folder / "recipe.yaml")
        assert kept.stages[1].how.energy == trial.settings["stages.low.how.energy"]
        assert kept.stages[2].training.epochs == trial.settings["stages.tuned.training.epochs"]
        line = next(s for s in record.read_json(folder / "run.json")["stages"] if s["name"] == "tuned")
        before = record.read_json(folder / "stages/original/seed-0/result.json")["last"]["validation"]["accuracy"]
        assert trial.figures["accuracy"] == line["runs"][0]["last"]["validation"]["accuracy"]
        assert trial.figures["points"] == pytest.approx(100 * (before - trial.figures["accuracy"]))
        assert trial.figures["bytes"] == (folder / "stages/tuned/seed-0/last.safetensors").stat().st_size
    assert sum(text.startswith("trial ") for text in said) == 4


def test_what_cannot_be_is_marked_and_the_search_goes_on(done):
    found = done[0]
    for trial in found.trials:
        wrong = trial.settings["stages.low.how.energy"] == 1.7
        assert (trial.status == "failed") == wrong
        if wrong:
            assert "stages.low.how.energy=1.7: stages[1].how.energy: energy = 1.7" in trial.problem
            assert not (found.folder / "trials" / trial.name).exists()


def test_the_best_is_within_the_budget_and_smallest(done):
    found = done[0]
    good = [t for t in found.trials if t.status == "done" and t.figures["points"] <= 60 and t.figures["bytes"] <= 9000]
    assert found.best is not None
    assert found.best.figures["bytes"] == min(t.figures["bytes"] for t in good)
    told = record.read_json(found.folder / "results.json")
    assert told["best"] == found.best.number
    assert set(told["fronts"]) == {"latency", "bytes"}
    assert found.best.number in told["fronts"]["bytes"]


def test_the_first_stages_are_trained_once(done):
    found, _, counted = done
    good = [trial for trial in found.trials if trial.status == "done"]
    assert counted.count("original") == 1
    assert counted.count("tuned") == len(good)
    first, *later = good
    assert first.shared == ()
    for trial in later:
        assert "original" in trial.shared
        place = "stages/original/seed-0/last.safetensors"
        giver, own = (found.folder / "trials" / t.name / place for t in (first, trial))
        assert giver.stat().st_ino == own.stat().st_ino


def test_sharing_changes_no_bit(done, tmp_path):
    found = done[0]
    trial = [trial for trial in found.trials if trial.status == "done"][-1]
    folder = found.folder / "trials" / trial.name
    alone = run(config.read_recipe(folder / "recipe.yaml"), out=tmp_path / "alone", quiet=True)
    assert weights(alone) == weights(folder)


def test_the_page_and_the_table(done):
    found = done[0]
    text = found.page.read_text()
    assert "Search: chain" in text
    assert "front-latency-title" in text
    assert "front-bytes-title" in text
    assert ("a part to keep, in (0, 1]" in text) == any(trial.status == "failed" for trial in found.trials)
    assert f"trial {found.best.number}" in found.text
    assert found.text.startswith("Best of 4 trials (")


def test_stopped_in_a_training_it_goes_on_to_the_same_trials(done, tmp_path, monkeypatch, trained):
    folder, real = tmp_path / "stopped", runner_stages.fit

    def stopping(method, models, loader, **settings):
        if settings["name"] == "tuned" and len(trained) >= 2:
            settings["stop"].asked = True
        return real(method, models, loader, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(runner_stages, "fit", stopping)
        with pytest.raises(Interrupted):
            search(TEXT, out=folder)
    kept = [json.loads(path.read_text())["status"] for path in sorted((folder / "trials").glob("*.json"))]
    assert kept[-1] == "running"
    trained.clear()
    again = search(TEXT, out=folder)
    assert "original" not in trained
    assert [same(trial) for trial in again.trials] == [same(trial) for trial in done[0].trials]
    assert weights(folder) == weights(done[0].folder)


def test_killed_between_run_and_file_it_goes_on_to_the_same_trials(done, tmp_path, trained):
    folder = tmp_path / "killed"
    shutil.copytree(done[0].folder, folder)
    for name in ("results.json", "search.html", "trials/004.json"):
        (folder / name).unlink()
    path = folder / "trials" / "003.json"
    told = json.loads(path.read_text())
    path.write_text(json.dumps({**told, "status": "running", "figures": {}, "problem": "", "shared": []}))
    again = search(TEXT, out=folder)
    assert trained == []  # their runs are there
    assert [same(trial) for trial in again.trials] == [same(trial) for trial in done[0].trials]


def test_more_trials_go_on_until_all_combinations_are_tried(done, tmp_path):
    folder, said = tmp_path / "more", []
    shutil.copytree(done[0].folder, folder)
    found = search(TEXT, out=folder, trials=50, say=said.append)
    assert len(found.trials) == 6
    assert [same(trial) for trial in found.trials[:4]] == [same(trial) for trial in done[0].trials]
    assert said[0] == "4 of 50 trials are there already"
    assert said[-1] == "all 6 combinations have been tried"


def test_a_budget_that_nobody_meets(done, tmp_path, trained):
    folder = tmp_path / "none"
    text = TEXT.replace("within: {points: 60, bytes: 9000}", "within: {bytes: 10}").replace("trials: 4", "trials: 2")
    found = search(text, out=folder, sets=["search.space={stages.low.how.energy: [0.5, 0.6]}"])
    assert found.best is None
    assert found.nearest is not None
    assert found.text.startswith("No network within the budget (at most 10 B) in 2 trials. Nearest: trial ")
    assert "over: bytes by" in found.text
    assert "No network within the budget" in found.page.read_text()


def test_all_trials_fail_and_still_share(tmp_path, trained):
    sets = ["search.space={stages.tuned.training.optimizer.lr: [1.0e+30, 1.0e+31]}", "search.trials=2"]
    with pytest.raises(LimbeckError, match=r"not one of 2 trials could be run; the first: .*non-finite"):
        search(TEXT, out=tmp_path / "fail", sets=sets)
    assert trained == ["original", "tuned", "tuned"]  # what was whole before the failure is not made again
    text = (tmp_path / "fail" / "search.html").read_text()
    assert "not one could be run" in text


def test_an_original_with_weights_is_measured_on_validation_rows(done, tmp_path):
    folder = done[0].folder / "trials" / next(t.name for t in done[0].trials if t.status == "done")
    file = folder / "stages/original/seed-0/last.safetensors"
    text = f"""
data: {{validation: 200}}
models: {{big: {{name: digits_mlp, options: {{hidden: [24, 16]}}, weights: {file}}}}}
stages:
- {{kind: compress, name: low, model: big, calibration: 0, how: {{kind: factorize, energy: 0.7, measured: false}}}}
search: {{aim: accuracy, trials: 2, within: {{points: 90}}, space: {{stages.low.how.energy: [0.5, 0.9]}}}}
"""
    found = search(text, out=tmp_path / "given")
    told = record.read_json(folder / "stages/original/seed-0/result.json")["last"]["validation"]["accuracy"]
    assert [trial.figures["original"] for trial in found.trials] == [told, told]
    assert found.best.settings == {"stages.low.how.energy": 0.9}


def test_another_search_or_something_else_in_the_folder_is_refused(done, tmp_path):
    with pytest.raises(RunFolderError, match=r"holds another search.*\n.*aim"):
        search(TEXT, out=done[0].folder, sets=["search.aim=macs"])
    (tmp_path / "letter.txt").write_text("dear")
    with pytest.raises(RunFolderError, match=r"holds no search and is not empty \(it holds letter.txt\)"):
        search(TEXT, out=tmp_path)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("search.aim=speed", "no aim 'speed'; there are: latency, bytes"),
        ("search.within.latancy=1", "no key 'latancy' in 'within'; near: latency"),
        ("search.within.latency=0", "latency = 0"),
        ("search.trials=0", "trials = 0: at least 1"),
        ("search.stge=low", "no key 'stge' in a search; near: stage"),
        ("search.stage=lw", "search.stage: no stage 'lw'.*near: low"),
        ("search.stage=original", "search.within.points: original is made of no other network"),
        ("search.space={}", "at least one setting that varies"),
        ("search.space={stages.low.how.energie: [0.5]}", "takes none of its values; with 0.5:.*no key 'energie'.*near: energy"),
        ("search.space={stages.lw.how.energy: [0.5]}", "no stage 'lw' in this recipe; near: low"),
        ("search.space={stages.low.how.energy: {low: 0.9, high: 0.5}}", "low = 0.9: below high, which is 0.5"),
        ("search.space={stages.low.how.energy: {low: 0, high: 0.5, log: true}}", "low = 0.0: above zero, since log"),
        ("search.space={stages.low.how.energy: {low: 0.1, hgh: 0.5}}", "no key 'hgh' in a range; near: high"),
        ("search.space={stages.low.how.energy: []}", "an empty list"),
        ("search.space={stages.low.how.energy: [1, 1]}", "the same choice twice"),
        (
            "search.space={stages.low.how.energy: [0.5, 0.6], stages.1.how.energy: [0.9]}",
            r"stages\.1\.how\.energy: is the same setting as stages\.low\.how\.energy",
        ),
        (
            "search.space={stages.low.how.energy: [0.5, 0.6], stages.low.how: [{kind: prune, macs: 0.5}]}",
            r"stages\.low\.how: and stages\.low\.how\.energy vary the same setting",
        ),
        ("search.space={stages.low.how.energy: 3}", "expected a list of choices, or {low"),
        ("search.space={seeds: [[0], [1]]}", "cannot vary: trials are compared over the same seeds"),
        ("stages.lw.model=big", "no stage 'lw'"),
    ],
)  # fmt: skip
def test_wrong_searches(change, told, tmp_path):
    with pytest.raises(LimbeckError, match=rf"(?s){told}"):
        search(TEXT, out=tmp_path / "new", sets=[change])
    assert not (tmp_path / "new").exists()


def test_a_recipe_alone_is_no_search():
    with pytest.raises(RecipeError, match="no section 'search' here"):
        whole.prepare(RECIPE)


def test_without_optuna_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "optuna", None)
    with pytest.raises(LimbeckError, match=r"needs optuna, which is not installed: pip install 'limbeck\[sweep\]'"):
        whole.prepare(TEXT)


def test_the_commands(tmp_path, capsys):
    file = tmp_path / "search.yaml"
    file.write_text(TEXT)
    assert main(["check", "--shape-only", str(file)]) == 2
    assert "search: this section belongs to `limbeck search`" in capsys.readouterr().err
    assert main(["search", str(file), "--check"]) == 0
    assert "fine (4 trials over stages.low.how.energy, " in capsys.readouterr().out
    assert main(["search", str(file)]) == 2
    assert "--out FOLDER" in capsys.readouterr().err
    command = [
        "search",
        str(file),
        "--out",
        str(tmp_path / "out"),
        "--trials",
        "1",
        "--set",
        "search.space={stages.low.how.energy: [0.6]}",
    ]
    assert main([*command, "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["best"] == 1
    assert told["trials"][0]["folder"] == "trials/001"
    assert main(command) == 0  # all is there
    out = capsys.readouterr().out
    assert "Best of 1 trials" in out
    assert "search.html" in out


def test_the_search_of_the_page_finds_something(tmp_path):
    """As it stands there, with fewer trials and seeds: a rate at which every trial breaks down would be found by readers."""
    recipe, section = re.findall(r"```yaml\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)[:2]
    file = tmp_path / "search.yaml"
    file.write_text(recipe + section)
    assert main(["search", str(file), "--out", str(tmp_path / "out"), "--trials", "2", "--set", "seeds=[0]"]) == 0
    results = record.read_json(tmp_path / "out" / "results.json")
    assert [trial["problem"] for trial in results["trials"]] == ["", ""]
    assert all(trial["figures"]["points"] < 10 for trial in results["trials"])
