"""Running recipes: once, twice, interrupted, killed, by two processes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console
from safetensors.torch import load_file

from limbeck import config, record
from limbeck.data.spec import Data
from limbeck.errors import Interrupted, LimbeckError, NonFiniteError, RecipeError, RunFolderError, WeightsError
from limbeck.export.runs import open_run
from limbeck.methods import KD, NST, AttentionTransfer, FitNets, LogitMatching, Supervised
from limbeck.models import build, save_weights
from limbeck.recipe import Distill, Evaluate, Machine, Model, Recipe, Train
from limbeck.report.read import read_run
from limbeck.report.tables import results
from limbeck.runner import run, show
from limbeck.runner import stages as runner_stages
from limbeck.runner.folder import open_folder
from limbeck.settings import Optimizer, Training

QUICK = Training(epochs=2, batch_size=32, optimizer=Optimizer(lr=0.05))
ONE = Machine(accelerator="cpu")
KD_ALONE = (("kd", KD()),)


def mlp(width):
    return Model(name="digits_mlp", options={"hidden": [width]})


def small(*, seeds=(0,), distill=KD_ALONE, training=QUICK, rows=320):
    return Recipe(
        name="small",
        models={"big": mlp(24), "thin": mlp(6)},
        data=Data(validation=200),
        seeds=seeds,
        stages=(
            Train(name="teacher", model="big", training=training, rows=rows, per_seed=False),
            Train(name="alone", model="thin", training=training, rows=rows),
            *(
                Distill(name=n, student="thin", teacher="teacher", method=m, training=training, rows=rows)
                for n, m in distill
            ),
            Evaluate(name="final"),
        ),
    )


def sha(folder, stage, seed=0):
    path = Path(folder) / "stages" / stage / f"seed-{seed}" / "last.safetensors"
    return hashlib.sha256(path.read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def done(tmp_path_factory):
    """A run with two seeds, straight through."""
    folder = tmp_path_factory.mktemp("run") / "done"
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    recipe = small(seeds=(0, 1), distill=(("kd", KD()), ("fitnets", FitNets())))
    assert run(recipe, out=folder, machine=ONE, quiet=True) == folder
    assert torch.equal(before, torch.random.get_rng_state()), "the caller's random numbers are its own"
    return folder, recipe


def test_a_run_leaves_its_record(done):
    folder, recipe = done
    told = record.read_json(folder / "run.json")
    assert told["status"] == "done"
    assert told["finished"] >= told["created"]
    assert told["recipe_hash"] == config.recipe_hash(recipe)
    assert config.recipe_hash(config.read_recipe(folder / "recipe.yaml")) == told["recipe_hash"]
    assert told["data"]["rows"] == {"train": 1000, "validation": 200, "test": 597}
    assert told["machine"]["devices"] == 1
    assert told["baseline"] == "alone"
    assert {"torch", "limbeck", "python"} <= set(told["versions"])
    stages = {s["name"]: s for s in told["stages"]}
    assert [len(stages[n]["runs"]) for n in ("teacher", "alone", "kd", "fitnets")] == [1, 2, 2, 2]
    for name in ("alone", "kd", "fitnets"):
        for seed, line in enumerate(stages[name]["runs"]):
            assert (line["seed"], line["status"], line["epochs"], line["rows"]) == (seed, "done", 2, 320)
            assert line["folder"] == f"stages/{name}/seed-{seed}"
            assert {p.name for p in (folder / line["folder"]).iterdir()} == {
                "best.safetensors",
                "last.safetensors",
                "result.json",
                "steps.jsonl",
            } | ({"made_of.json"} if name != "alone" else set())
            assert set(line["last"]) == {"validation", "test"}
            assert line["last"]["test"]["n"] == 597
            assert line["before"]["validation"]["n"] == 200
            assert line["best"]["epoch"] in (1, 2)
    assert stages["kd"]["runs"][0]["agreement"]["test"] > 0.1
    assert stages["alone"]["runs"][0]["agreement"] is None
    assert [p["name"] for p in stages["fitnets"]["runs"][0]["phases"]] == ["hint", "distill"]
    assert stages["kd"]["cost"]["parameters"] == 6 * 65 + 10 * 7
    assert stages["kd"]["cost"]["latency"]["median_ms"] > 0
    for name in ("teacher", "alone", "kd", "fitnets"):
        measured = stages["final"]["results"][name]
        assert [m["accuracy"] for m in measured] == [r["last"]["test"]["accuracy"] for r in stages[name]["runs"]]
    assert (folder / "report.html").stat().st_size > 10_000


def test_a_teacher_that_came_with_weights_is_measured_like_the_others(done, tmp_path):
    weights = done[0] / "stages" / "teacher" / "seed-0" / "last.safetensors"
    one = Training(epochs=1, batch_size=32)
    given = Recipe(
        name="given",
        models={"big": Model(name="digits_mlp", weights=str(weights), options={"hidden": [24]}), "thin": mlp(6)},
        data=Data(validation=200),
        stages=(
            Train(name="alone", model="thin", training=one, rows=64),
            Distill(name="kd", student="thin", teacher="big", method=KD(), training=one, rows=64),
        ),
    )
    run(given, out=tmp_path / "given", machine=ONE, quiet=True)
    told = record.read_json(tmp_path / "given" / "run.json")["models"]["big"]
    first = record.read_json(done[0] / "run.json")["stages"][0]
    assert told["test"]["accuracy"] == first["runs"][0]["last"]["test"]["accuracy"]
    assert told["cost"]["parameters"] == first["cost"]["parameters"] == 24 * 65 + 10 * 25
    assert told["cost"]["latency"]["median_ms"] > 0
    assert hashlib.sha256(weights.read_bytes()).hexdigest().startswith(told["sha256"])
    big, _, kd = results(read_run(tmp_path / "given")).rows
    assert big[0].text == "big"
    assert "fewer" in kd[3].note  # parameters, compared with the teacher's


def test_a_run_that_goes_on_takes_no_other_file_of_weights(done, tmp_path, monkeypatch):
    weights, folder = tmp_path / "big.safetensors", tmp_path / "given"
    right = (done[0] / "stages/teacher/seed-0/last.safetensors").read_bytes()
    save_weights(build("digits_mlp", hidden=[24], classes=10), weights)
    wrong = weights.read_bytes()
    weights.write_bytes(right)
    one = Training(epochs=1, batch_size=32)
    given = Recipe(
        name="given",
        models={"big": Model(name="digits_mlp", weights=str(weights), options={"hidden": [24]}), "thin": mlp(6)},
        data=Data(validation=200),
        stages=tuple(
            Distill(name=name, student="thin", teacher="big", method=KD(), training=one, rows=64)
            for name in ("kd", "later")
        ),
    )
    real = runner_stages.fit

    def stopping(method, models, loader, **settings):
        settings["stop"].asked = settings["name"] == "later"
        return real(method, models, loader, **settings)

    with monkeypatch.context() as patch:
        patch.setattr(runner_stages, "fit", stopping)
        with pytest.raises(Interrupted):
            run(given, out=folder, machine=ONE, quiet=True)
    weights.write_bytes(wrong)
    with pytest.raises(
        WeightsError, match=rf"{weights} is not the file that network big of the run had .* with --fresh"
    ):
        run(given, out=folder, machine=ONE, quiet=True)
    weights.write_bytes(right)
    run(given, out=folder, machine=ONE, quiet=True)
    run(given, out=tmp_path / "straight", machine=ONE, quiet=True)
    assert sha(folder, "later") == sha(tmp_path / "straight", "later")


def test_stages_from_one_blueprint_start_from_the_same_weights(done):
    folder, _ = done
    stages = {s["name"]: s for s in record.read_json(folder / "run.json")["stages"]}
    starts = [[r["before"]["validation"] for r in stages[n]["runs"]] for n in ("alone", "kd", "fitnets")]
    assert starts[0] == starts[1] == starts[2]
    assert starts[0][0] != starts[0][1], "seeds differ"


def test_inserting_a_stage_changes_no_other_stages_numbers(done, tmp_path):
    folder, _ = done
    run(small(distill=(("other", KD(temperature=2)), ("kd", KD()))), out=tmp_path / "b", machine=ONE, quiet=True)
    for stage in ("teacher", "alone", "kd"):
        assert sha(folder, stage) == sha(tmp_path / "b", stage)


def test_a_finished_run_is_not_repeated(done):
    folder, recipe = done
    before = {p: p.stat().st_mtime_ns for p in (folder / "stages").rglob("*") if p.is_file()}
    told = record.read_json(folder / "run.json")
    run(recipe, out=folder, machine=ONE, quiet=True)
    assert before == {p: p.stat().st_mtime_ns for p in (folder / "stages").rglob("*") if p.is_file()}
    again = record.read_json(folder / "run.json")
    assert again["stages"] == told["stages"]
    assert again["finished"] == told["finished"]


def test_a_lost_stage_is_trained_again_to_the_same_bits(done):
    folder, recipe = done
    before = sha(folder, "kd", 1)
    for path in (folder / "stages" / "kd" / "seed-1").iterdir():
        path.unlink()
    run(recipe, out=folder, machine=ONE, quiet=True)
    assert sha(folder, "kd", 1) == before


def test_damaged_files_say_what_mends_them(done, tmp_path):
    folder, recipe = tmp_path / "damaged", done[1]
    shutil.copytree(done[0], folder)
    before = sha(folder, "kd", 1)
    (folder / "run.json").write_text("xx")
    with pytest.raises(
        RunFolderError, match=r"cannot read .*run\.json.*; remove it, and the same command writes it again"
    ):
        run(recipe, out=folder, machine=ONE, quiet=True)
    (folder / "run.json").unlink()
    run(recipe, out=folder, machine=ONE, quiet=True)
    place = folder / "stages" / "kd" / "seed-1"
    (place / "last.safetensors").write_text("xx")
    with pytest.raises(WeightsError, match=rf"To have it made again, remove {place} and give `limbeck run` again"):
        open_run(folder).model("kd", 1)
    shutil.rmtree(place)
    run(recipe, out=folder, machine=ONE, quiet=True)
    assert sha(folder, "kd", 1) == before


def test_a_lock_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / ".lock").mkdir()
    with (
        pytest.raises(RunFolderError, match=r"cannot write in .*: Is a directory; choose another folder with --out"),
        record.locked(tmp_path),
    ):
        pass


# -- folders that are refused ------------------------------------------------------------------------


def test_another_recipe_in_the_same_folder_is_refused_with_what_differs(done):
    folder, _ = done
    whole = (folder / "run.json").read_bytes()
    other = small(seeds=(0, 2), distill=(("kd", KD(temperature=8)), ("fitnets", FitNets())))
    with pytest.raises(RunFolderError) as error:
        run(other, out=folder, machine=ONE, quiet=True)
    first, *rest = str(error.value).splitlines()
    assert (
        first == f"{folder} holds the run of another recipe; choose another --out, or remove the folder. What differs:"
    )
    assert sorted(line.strip() for line in rest) == ["seeds.1: 1 -> 2", "stages.2.method.temperature: 4.0 -> 8"]
    assert (folder / "run.json").read_bytes() == whole


def test_a_folder_with_something_else_is_refused(tmp_path):
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(
        RunFolderError, match=r"is no run folder and not empty \(it holds thesis.tex\); choose another --out"
    ):
        run(small(), out=tmp_path, machine=ONE, quiet=True)
    assert sorted(p.name for p in tmp_path.iterdir() if p.name != ".lock") == ["thesis.tex"]
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot write in .*file"):
        run(small(), out=tmp_path / "file", machine=ONE, quiet=True)


def test_a_folder_in_use_is_refused(tmp_path):
    with (
        record.locked(tmp_path / "r"),
        pytest.raises(RunFolderError, match=r"another process is running in .*; wait for it"),
    ):
        run(small(), out=tmp_path / "r", machine=ONE, quiet=True)


def test_a_method_that_no_catalogue_has_is_refused(tmp_path):
    class Mine(KD().__class__):
        pass

    with pytest.raises(LimbeckError, match=r"stage 'kd': Mine is in no catalogue, so a run folder could not name it"):
        run(small(distill=(("kd", Mine()),)), out=tmp_path / "r", machine=ONE, quiet=True)


def test_a_failure_is_in_the_record(tmp_path):
    bad = small(distill=(("nst", NST()),))
    with pytest.raises(LimbeckError, match=r"the student \(digits_mlp\) returns no"):
        run(bad, out=tmp_path / "r", machine=ONE, quiet=True)
    told = record.read_json(tmp_path / "r" / "run.json")
    assert told["status"] == "failed"
    assert told["error"].startswith("the student (digits_mlp) returns no")
    assert len(told["stages"][0]["runs"]) == 1


def test_what_the_data_does_not_allow_is_refused_before_the_first_stage(tmp_path):
    bad = small(rows=1001)
    with pytest.raises(RecipeError, match=r"stages\[0\].rows: a subset of 1001 rows: there are only 1000") as caught:
        run(bad, out=tmp_path / "r", machine=ONE, quiet=True)
    assert len(caught.value.problems) == 3
    assert not (tmp_path / "r" / "stages").exists()


def test_a_network_whose_scores_are_not_finite_is_no_result(tmp_path):
    """One huge step leaves weights that are finite and scores that are not."""
    wild = replace(QUICK, epochs=1, batch_size=320, optimizer=Optimizer(lr=1e30))
    with pytest.raises(NonFiniteError, match=r"teacher: the student's scores on the validation part are not finite"):
        run(small(training=wild), out=tmp_path / "r", machine=ONE, quiet=True)
    told = record.read_json(tmp_path / "r" / "run.json")
    assert (told["status"], told["stages"][0]["runs"]) == ("failed", [])
    assert not list((tmp_path / "r").rglob("last.safetensors"))


def test_what_a_killed_process_was_writing_is_cleared_away(tmp_path):
    """Also where it had no time for more: such a folder is new, not a stranger's."""
    folder = tmp_path / "r"
    (folder / "stages" / "teacher" / "seed-0").mkdir(parents=True)
    (tmp_path / "new").mkdir()
    open_folder(tmp_path / "new", small())
    place = folder / "stages" / "teacher" / "seed-0"
    left = [folder / ".recipe.yaml.7.writing", place / ".result.json.7.writing", place / ".best.safetensors.7.part"]
    for path in left:
        path.write_text("{")
    (folder / "recipe.yaml").write_bytes((tmp_path / "new" / "recipe.yaml").read_bytes())
    open_folder(folder, small())
    assert not any(path.exists() for path in left)
    (tmp_path / "cut").mkdir()
    (tmp_path / "cut" / ".recipe.yaml.7.writing").write_text("mod")
    open_folder(tmp_path / "cut", small())
    assert [path.name for path in (tmp_path / "cut").iterdir()] == ["recipe.yaml"]


def test_the_path_of_the_report_is_told_as_it_is(tmp_path, capsys, done):
    folder = tmp_path / "[red]t8[/red]"
    shutil.copytree(done[0], folder)
    show(folder, Console())
    assert f"report: {folder}/report.html" in capsys.readouterr().out


# -- stopped -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_stops_after_the_step_and_the_run_goes_on_later(number, done, tmp_path, monkeypatch):
    folder, _ = done
    from limbeck.runner import stages as module

    recipe = small(distill=(("kd", KD()), ("fitnets", FitNets())))
    fit, handlers = module.fit, [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)]

    class Signals:
        """A loader that sends the signal with its 13th batch."""

        def __init__(self, loader):
            self.loader, self.left, self.steps = loader, 13, loader.steps

        def epoch(self, *place):
            for batch in self.loader.epoch(*place):
                self.left -= 1
                if self.left == 0:
                    os.kill(os.getpid(), number)
                yield batch

    def watched(method, models, loader, **more):
        return fit(method, models, Signals(loader) if more["name"] == "kd" else loader, **more)

    monkeypatch.setattr(module, "fit", watched)
    with pytest.raises(Interrupted) as error:
        run(recipe, out=tmp_path / "r", machine=ONE, quiet=True, command="limbeck run x.yaml --out r")
    assert str(error.value) == "stopped at kd, distill, epoch 2, step 2; to go on: limbeck run x.yaml --out r"
    assert record.read_json(tmp_path / "r" / "run.json")["status"] == "interrupted"
    assert [signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)] == handlers
    monkeypatch.setattr(module, "fit", fit)
    run(recipe, out=tmp_path / "r", machine=ONE, quiet=True)
    for stage in ("teacher", "alone", "kd", "fitnets"):
        assert sha(folder, stage) == sha(tmp_path / "r", stage)
    a, b = ((f / "stages/kd/seed-0/steps.jsonl").read_text().splitlines() for f in (folder, tmp_path / "r"))
    assert [{**json.loads(x), "seconds": 0} for x in a] == [{**json.loads(x), "seconds": 0} for x in b]


def limbeck(*words):
    return subprocess.Popen(
        [Path(sys.executable).with_name("limbeck"), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        start_new_session=True,
    )


def wait_for(process, path, older_than=0.0):
    """Until the file is written anew."""
    end = time.monotonic() + 120
    while time.monotonic() < end:
        if path.exists() and path.stat().st_mtime > older_than:
            return
        if process.poll() is not None:
            raise AssertionError(f"it ended by itself: {process.communicate()}")
        time.sleep(0.005)
    process.kill()
    raise AssertionError(f"{path} was not written")


def test_killed_terminated_and_interrupted_processes_go_on_to_the_same_bits(tmp_path):
    """kill -9, then SIGTERM, then Ctrl-C, then to the end; against one that nobody disturbed."""
    long = Training(epochs=40, batch_size=16, optimizer=Optimizer(lr=0.02), checkpoint=0.05, ema=0.99)
    recipe = small(training=long)
    recipe = Recipe(**{**vars(recipe), "stages": (recipe.stages[0], recipe.stages[2])})
    straight, folder = tmp_path / "a", tmp_path / "b"
    run(recipe, out=straight, machine=Machine(accelerator="cpu", threads=1), quiet=True)
    file = tmp_path / "recipe.yaml"
    file.write_text(config.to_yaml(recipe))
    checkpoint = folder / "stages" / "kd" / "seed-0" / "checkpoint.safetensors"
    words = ("run", file, "--out", folder, "--accelerator", "cpu", "--threads", 1)

    def start():
        before = checkpoint.stat().st_mtime if checkpoint.exists() else 0.0
        process = limbeck(*words)
        wait_for(process, checkpoint, before)
        time.sleep(0.1)
        return process

    process = start()
    process.kill()
    assert process.wait() == -signal.SIGKILL
    process.communicate()
    assert record.read_json(folder / "run.json")["status"] == "running"
    assert not (checkpoint.parent / "last.safetensors").exists()
    for number in (signal.SIGTERM, signal.SIGINT):
        process = start()
        process.send_signal(number)
        out, err = process.communicate(timeout=60)
        assert process.returncode == 130, (out, err)
        wanted = f"; to go on: limbeck run {file} --out {folder} --accelerator cpu --threads 1"
        stopped = re.match(r"stopped at kd, distill, epoch (\d+), step ", err.splitlines()[-1])
        assert stopped
        assert err.splitlines()[-1].endswith(wanted)
        assert record.read_json(folder / "run.json")["status"] == "interrupted"
    process = limbeck(*words)
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, (out, err)
    assert ("kd, distill: goes on after epoch" in out) == (int(stopped[1]) > 1)  # a slow machine is still in its first
    for stage in ("teacher", "kd"):
        assert sha(straight, stage) == sha(folder, stage)
    a, b = (record.read_json(f / "stages/kd/seed-0/result.json") for f in (straight, folder))
    assert {**a, "seconds": 0} == {**b, "seconds": 0}
    assert not checkpoint.exists()


# -- two processes -----------------------------------------------------------------------------------


def plain(width, name="plain_4"):
    return Model(name=name, options={"norm": False, "width": width, "grid": 1})


def test_two_processes_equal_one(tmp_path):
    training = Training(epochs=2, batch_size=30, optimizer=Optimizer(lr=0.01), clip=1.0, accumulate=2)
    methods = {
        "kd": KD(),
        "fitnets": FitNets(),
        "at": AttentionTransfer(),
        "nst": NST(),
        "logits": LogitMatching(),
    }
    recipe = Recipe(
        models={"big": plain(6), "thin": plain(3, "plain_2"), "normed": Model(name="digits_cnn_thin")},
        data=Data(validation=200),
        stages=(
            Train(name="teacher", model="big", training=training, rows=150),
            *(
                Distill(name=n, student="thin", teacher="teacher", method=m, training=training, rows=150)
                for n, m in methods.items()
            ),
            Train(name="statistics", model="normed", method=Supervised(), training=training, rows=90),
        ),
    )
    run(recipe, out=tmp_path / "one", machine=ONE, quiet=True)
    run(recipe, out=tmp_path / "two", machine=Machine(accelerator="cpu", devices=2, threads=1), quiet=True)
    for stage in ("teacher", *methods):
        a, b = (load_file(tmp_path / n / "stages" / stage / "seed-0" / "last.safetensors") for n in ("one", "two"))
        for key, value in a.items():
            assert torch.allclose(b[key], value, rtol=1e-4, atol=1e-5), (stage, key)
    one, two = (record.read_json(tmp_path / n / "run.json") for n in ("one", "two"))
    assert one["notes"] == []
    assert two["machine"]["devices"] == 2
    assert len(two["notes"]) == 1
    assert two["notes"][0].startswith(
        "2 processes on a CPU: BatchNorm statistics are those of each process's share of a batch"
    )
    for a, b in zip(one["stages"], two["stages"]):
        assert [r["images"] for r in a["runs"]] == [r["images"] for r in b["runs"]]
    assert two["status"] == "done"


def test_finished_networks_are_measured_in_the_precision_asked_for(tmp_path, monkeypatch):
    from limbeck.runner import shelf

    seen = []

    def watched(model, batches, **how):
        seen.append((how["precision"], how["channels_last"]))
        return real(model, batches, **how)

    real = shelf.predictions
    monkeypatch.setattr(shelf, "predictions", watched)
    recipe = replace(small(), evaluation="bf16")
    folder = run(recipe, out=tmp_path / "run", machine=ONE, quiet=True)
    trained = small().stages[0].training
    assert trained.precision == "fp32"
    assert ("bf16", True) in seen  # of what was finished
    assert ("fp32", False) in seen  # the validation during a training has that training's precision
    told = record.read_json(folder / "run.json")
    assert told["notes"] == ["finished networks are measured in bf16, those in int8 as they are"]
    assert config.read_recipe(folder / "recipe.yaml").evaluation == "bf16"
    assert 0 < told["stages"][0]["runs"][0]["last"]["test"]["accuracy"] <= 1


@pytest.mark.parametrize(("unit", "notes"), [("AVX512-BF16", 0), (None, 1)])
def test_training_in_bf16_where_that_is_slow_is_told(unit, notes, tmp_path, monkeypatch):
    from limbeck.runner import stages as module

    monkeypatch.setattr(module, "bf16_unit", lambda: unit)
    recipe = small(training=Training(epochs=1, batch_size=64, precision="bf16"))
    recipe = Recipe(**{**vars(recipe), "stages": recipe.stages[:1]})
    told = record.read_json(run(recipe, out=tmp_path / "r", machine=ONE, quiet=True) / "run.json")
    slow = (
        "bf16 is likely slower than fp32 on a processor without AMX or AVX512-BF16 or Arm's BF16 (training.precision)"
    )
    assert told["notes"] == [slow] * notes


def test_of_very_many_networks_the_teachers_the_baseline_and_the_best_are_shown(tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.runner.finish._MOST", 3)
    recipe = small(distill=(("kd", KD()), ("flat", KD(temperature=20.0)), ("late", KD(soft=0.1, hard=0.9))))
    told = record.read_json(run(recipe, out=tmp_path / "run", machine=ONE, quiet=True) / "run.json")
    shown = record.read_json(tmp_path / "run" / "exhibits.json")
    reached = {line["name"]: line["runs"][0]["last"]["test"]["accuracy"] for line in told["stages"] if "runs" in line}
    best = max(("kd", "flat", "late"), key=lambda name: reached[name])
    assert list(shown["confusion"]) == list(shown["reliability"]) == ["teacher", "alone", best]
    assert {one["model"] for one in shown["attention"]} <= set(shown["confusion"])
    assert told["notes"][-1].startswith("calibration, confusions and attention are shown of 3 networks of 5: teachers")
    assert "flat" in (tmp_path / "run" / "report.html").read_text()


def test_nothing_is_measured_twice(tmp_path, monkeypatch):
    from limbeck.runner import shelf

    rows = []

    def watched(*given, **how):
        logits, targets = real(*given, **how)
        rows.append(len(logits))
        return logits, targets

    real = shelf.predictions
    monkeypatch.setattr(shelf, "predictions", watched)
    told = record.read_json(run(small(), out=tmp_path / "run", machine=ONE, quiet=True) / "run.json")
    validation = 200
    networks = ("teacher", "alone", "kd")
    # Before, after each of two epochs; "kd" begins with the weights of "alone"; the last epoch's weights are the result.
    assert rows.count(validation) == 3 + 3 + 2
    assert len(rows) - rows.count(validation) == len(networks)  # the test part, for the record and the exhibits alike
    lines = {line["name"]: line["runs"][0] for line in told["stages"] if "runs" in line}
    assert lines["alone"]["before"] == lines["kd"]["before"] != lines["teacher"]["before"]

    # The same as when each is measured anew.
    folder = tmp_path / "run" / "stages" / "kd" / "seed-0"
    before = record.read_json(folder / "result.json")
    for path in folder.iterdir():
        path.unlink()
    run(small(), out=tmp_path / "run", machine=ONE, quiet=True)
    again = record.read_json(folder / "result.json")
    for key in ("before", "best", "last", "agreement"):
        assert again[key] == before[key], key


def test_numbers_that_differ_in_one_place_have_another_fingerprint():
    from limbeck.runner.shelf import fingerprint

    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.BatchNorm2d(4))
    first = fingerprint(model)
    assert fingerprint(model) == first
    model[1].num_batches_tracked += 1
    second = fingerprint(model)
    assert second != first
    assert fingerprint(model.to(memory_format=torch.channels_last)) != second  # which may cost the last bits
    assert fingerprint(model.half()) != second


def test_scores_that_take_too_much_memory_are_computed_again(tmp_path, monkeypatch):
    monkeypatch.setattr("limbeck.runner.shelf._REMEMBERED", 0)
    few = record.read_json(run(small(), out=tmp_path / "few", machine=ONE, quiet=True) / "exhibits.json")
    monkeypatch.undo()
    assert few == record.read_json(run(small(), out=tmp_path / "all", machine=ONE, quiet=True) / "exhibits.json")


def test_a_teacher_may_be_what_a_stage_was_after_some_steps(tmp_path):
    early = replace(QUICK, snapshots=(3,))
    recipe = small(distill=(("kd", KD()),))
    teacher, alone, kd, final = recipe.stages
    recipe = replace(
        recipe,
        stages=(
            replace(teacher, training=early),
            alone,
            kd,
            replace(kd, name="from-early", teacher="teacher@3"),
            final,
        ),
    )
    told = record.read_json(run(recipe, out=tmp_path / "run", machine=ONE, quiet=True) / "run.json")
    agreed = {line["name"]: line["runs"][0]["agreement"] for line in told["stages"] if "runs" in line}
    assert agreed["from-early"] != agreed["kd"]
