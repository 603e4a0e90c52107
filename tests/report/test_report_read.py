"""Reading a run folder: forgiving about what is missing, clear about what is broken."""

from __future__ import annotations

import json

import pytest

from limbeck.errors import RunFolderError
from limbeck.report.read import number, read_curves, read_run


def edit(folder, **changes):
    path = folder / "run.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def test_everything_in_the_record_is_read(make_run):
    run = read_run(make_run())
    assert [s.name for s in run.stages] == ["teacher", "alone", "kd", "nst"]
    kd = run.stage("kd")
    assert (kd.teacher, kd.model, kd.method["temperature"]) == ("teacher", "student", 4.0)
    assert kd.runs[1].last["test"]["accuracy"] == 0.94
    assert kd.runs[1].agreement == pytest.approx(0.96)
    assert kd.runs[0].folder.is_dir()
    assert "<kept>" in run.recipe_text
    assert run.baseline == "alone"
    assert run.exhibits["classes"][2] == "two"


def test_a_folder_that_is_not_there_says_what_is_beside_it(make_run):
    folder = make_run("here")
    with pytest.raises(RunFolderError, match=r"no run folder .*gone'; .* has: here/"):
        read_run(folder.parent / "gone")


def test_a_folder_without_a_record_says_what_it_has(tmp_path):
    (tmp_path / "notes.txt").write_text("")
    with pytest.raises(RunFolderError, match=r"no run\.json; there is: notes\.txt.*limbeck run"):
        read_run(tmp_path)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("{half", "cannot be read"),
        ("[1]", "holds a list"),
        ('{"format": 9}', "format 9; this limbeck reads format 1"),
        ('{"name": "x"}', "format None"),
    ],
)
def test_a_broken_record_is_named(tmp_path, text, said):
    (tmp_path / "run.json").write_text(text)
    with pytest.raises(RunFolderError, match=said):
        read_run(tmp_path)


def test_a_file_is_refused_but_the_record_itself_will_do(make_run):
    folder = make_run()
    assert read_run(folder / "run.json").folder == folder
    with pytest.raises(RunFolderError, match="is a file"):
        read_run(folder / "recipe.yaml")


def test_an_empty_unfinished_record_can_be_read(tmp_path):
    (tmp_path / "run.json").write_text('{"format": 1, "name": "x", "status": "running"}')
    run = read_run(tmp_path)
    assert (run.stages, run.notes, run.finished_well, run.recipe_text) == ((), (), False, "")
    assert "no exhibits.json" in run.exhibits_problem


def test_without_a_recipe_file_the_record_s_own_recipe_is_shown(make_run):
    folder = make_run()
    (folder / "recipe.yaml").unlink()
    assert read_run(folder).recipe_text == "name: digits-quickstart\nseeds:\n- 0\n- 1\n- 2\n"


def test_numbers_that_are_none_or_not_finite_are_left_out(make_run):
    folder = make_run()
    record = json.loads((folder / "run.json").read_text())
    record["stages"][2]["runs"][0]["last"]["test"] = {"accuracy": None, "loss": float("nan"), "ece": 0.1}
    (folder / "run.json").write_text(json.dumps(record))
    assert read_run(folder).stage("kd").runs[0].last["test"] == {"ece": 0.1}
    assert number(float("inf")) is None


def test_a_half_written_last_line_is_ignored_and_counted(make_run):
    folder = make_run() / "stages/kd/seed-0"
    whole = read_curves(folder)
    with (folder / "steps.jsonl").open("a") as file:
        file.write('{"kind": "step", "phase": "distill", "st')
    cut = read_curves(folder)
    assert cut.steps == whole.steps
    assert (whole.ignored, cut.ignored) == (0, 1)
    assert len(whole.steps) == 60
    assert len(whole.epochs) == 6


def test_a_step_that_was_repeated_after_a_resume_counts_once(tmp_path):
    lines = [
        {"kind": "step", "phase": "a", "step": s, "epoch": s / 2, "terms": {"student/ce": v}, "loss": {}}
        for s, v in ((0, 3.0), (1, 2.0), (1, 1.5), (2, 1.0))
    ]
    (tmp_path / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert [s.terms["student/ce"] for s in read_curves(tmp_path).steps] == [3.0, 1.5, 1.0]


def test_no_curves_is_no_error(tmp_path):
    assert read_curves(tmp_path).phases == ()
