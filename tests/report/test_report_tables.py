"""The table and the sentence: every figure with its n, no verdict without an interval."""

from __future__ import annotations

import io
import json

import pytest
import rich.console

from limbeck.errors import RunFolderError
from limbeck.report.compare import compare, write_compare
from limbeck.report.read import read_run
from limbeck.report.tables import against, measure, measured_on, render_text, results
from limbeck.report.verdict import verdict

WORSE = {"teacher": {0: 0.975}, "alone": {0: 0.93, 1: 0.94, 2: 0.92}, "kd": {0: 0.90, 1: 0.912, 2: 0.891}}
LEVEL = {"teacher": {0: 0.975}, "alone": {0: 0.91, 1: 0.92, 2: 0.90}, "kd": {0: 0.90, 1: 0.93, 2: 0.905}}
SINGLE = {"teacher": {0: 0.975}, "alone": {0: 0.91}, "kd": {0: 0.93}}


def by_stage(table, key):
    return {stage.text: cell for stage, cell in zip(table.column("stage"), table.column(key))}


def test_accuracy_has_mean_spread_and_n(make_run):
    cells = by_stage(results(read_run(make_run())), "accuracy")
    assert (cells["alone"].text, cells["alone"].note) == ("91.0 ± 1.0 %", "n = 3 seeds")
    assert (cells["teacher"].text, cells["teacher"].note) == ("97.5 %", "single run")
    assert cells["alone"].value.std == pytest.approx(0.01)


def test_differences_are_paired_by_seed_with_their_interval(make_run):
    cells = by_stage(results(read_run(make_run())), "difference")
    # kd - alone: 0.02, 0.02, 0.025; mean 0.021667, std 0.0028868, t(2) = 4.3027: 0.021667 +- 0.007171
    assert cells["kd"].text == "+2.2"
    assert "better" in cells["kd"].note
    assert "95 % interval +1.4 to +2.9, n = 3" in cells["kd"].note
    assert cells["nst"].note.startswith("no clear difference")
    assert cells["alone"].text == "baseline"
    assert cells["teacher"].text == "–"


def test_costs_are_compared_with_the_teacher(make_run):
    table = results(read_run(make_run()))
    assert by_stage(table, "parameters")["kd"].text == "10.0 k"
    assert by_stage(table, "parameters")["kd"].note == "12.0 times fewer"
    assert by_stage(table, "parameters")["teacher"].note == ""
    assert by_stage(table, "latency")["kd"].text == "0.100 ms"
    assert by_stage(table, "latency")["kd"].note == "[0.0909 to 0.111] n = 50, 12.0 times faster"
    assert by_stage(table, "bytes")["kd"].text == "39.1 KiB"


def test_every_mean_stands_beside_its_n(make_run):
    table = results(read_run(make_run()))
    for key in ("accuracy", "agreement", "ece"):
        for cell in table.column(key):
            assert cell.text == "–" or "n = 3" in cell.note or "single run" in cell.note


def test_the_text_table_shows_the_same(make_run):
    console = rich.console.Console(width=240, file=io.StringIO())
    console.print(render_text(results(read_run(make_run()))))
    text = console.file.getvalue()
    for part in (
        "91.0 ± 1.0 %",
        "n = 3 seeds",
        "single run",
        "[+1.4, +2.9]",
        "better, n = 3",
        "12.0× fewer",
        "All seeds share one teacher",
    ):
        assert part in text


def test_equal_sizes_and_times_are_called_equal(make_run):
    folder = make_run()
    file = folder / "run.json"
    file.write_text(file.read_text().replace("120000", "10000").replace("1.2,", "0.1,"))  # a teacher like its students
    console = rich.console.Console(width=240, file=io.StringIO())
    console.print(render_text(results(read_run(folder))))
    text = console.file.getvalue()
    assert "as many" in text
    assert "1× fewer" not in text
    assert "1.00× " not in text


@pytest.mark.parametrize(
    ("device", "said"),
    [
        (None, "cpu, Some Processor"),
        ("cpu (AVX512)", "cpu (AVX512), Some Processor"),
        ("cpu (Some Processor, AVX512)", "cpu (Some Processor, AVX512)"),
    ],
)
def test_the_processor_that_was_timed_is_named_once(device, said, make_run):
    run = read_run(make_run())
    assert measured_on(run, {"device": device}) == said
    assert any("Latency was measured on cpu, Some Processor, 1 thread" in note for note in results(run).notes)


def test_names_are_not_broken_in_two(make_run):
    console = rich.console.Console(width=150, file=io.StringIO())
    folder = make_run()
    told = (folder / "run.json").read_text().replace('"kind": "kd"', '"kind": "attention_transfer"')
    (folder / "run.json").write_text(told)
    console.print(render_text(results(read_run(folder)), width=150))
    assert "attention_transfer" in console.file.getvalue()


def test_one_difference_beside_a_mean_of_more_seeds_says_whose_it_is(make_run):
    folder = make_run()
    record = json.loads((folder / "run.json").read_text())
    for stage in record["stages"]:
        if stage["kind"] == "distill":
            stage["runs"] = stage["runs"][:1]
    (folder / "run.json").write_text(json.dumps(record))
    text = verdict(read_run(folder)).text
    assert "alone 91.0 ± 1.0 % (" in text
    assert "points at the one seed that both have, which is no result yet)" in text


@pytest.mark.parametrize(
    ("accuracy", "mood", "parts"),
    [
        (
            None,
            "good",
            ["kd lifts student from 91.0 ± 1.0 % to 93.2 ± 0.8 %", "n = 3 seeds", "12.0 times fewer parameters"],
        ),
        (WORSE, "bad", ["kd lowers student", "n = 3 seeds", "95 % interval"]),
        (LEVEL, "plain", ["No clear difference", "n = 3 seeds", "95 % interval"]),
        (SINGLE, "plain", ["Single run", "+2.0 points at one seed, which is no result yet"]),
    ],
)
def test_the_verdict_claims_no_more_than_the_seeds_carry(make_run, accuracy, mood, parts):
    sentence = verdict(read_run(make_run(accuracy=accuracy)))
    assert sentence.mood == mood
    for part in parts:
        assert part in sentence.text
    if mood == "plain":
        assert not {"lifts", "lowers", "better", "worse"} & set(sentence.text.replace(":", " ").split())


def test_the_chosen_network_is_the_best_on_validation_rows_not_on_test_rows(make_run):
    folder = make_run()
    record = json.loads((folder / "run.json").read_text())
    for run in record["stages"][3]["runs"]:  # nst: best on validation, not on test
        run["last"]["validation"]["accuracy"] = 0.99
    (folder / "run.json").write_text(json.dumps(record))
    sentence = verdict(read_run(folder))
    assert "nst" in sentence.text
    assert "better: kd" in sentence.further


def test_an_unfinished_run_says_so(make_run, tmp_path):
    assert verdict(read_run(make_run(status="interrupted"))).text.startswith("Not finished (interrupted).")
    (tmp_path / "run.json").write_text('{"format": 1, "name": "x", "status": "running"}')
    assert verdict(read_run(tmp_path)).text == "Not finished (running). Nothing has been measured yet."


def test_a_failed_repetition_is_left_out_and_named(make_run):
    folder = make_run()
    record = json.loads((folder / "run.json").read_text())
    record["stages"][2]["runs"][1]["status"] = "failed"
    (folder / "run.json").write_text(json.dumps(record))
    table = results(read_run(folder))
    assert by_stage(table, "accuracy")["kd"].note == "n = 2 of 3 seeds"
    assert any("kd seed 1 (failed)" in note for note in table.notes)


def test_validation_figures_are_labelled_as_such(make_run):
    folder = make_run()
    record = json.loads((folder / "run.json").read_text())
    for stage in record["stages"]:
        for run in stage["runs"]:
            run["last"]["test"] = None
    (folder / "run.json").write_text(json.dumps(record))
    table = results(read_run(folder))
    assert "measured on the validation part" in table.caption
    assert any("No test part was measured" in note for note in table.notes)
    assert by_stage(table, "accuracy")["kd"].value.mean == pytest.approx(0.93167 + 0.003, abs=1e-5)


def test_a_network_that_was_only_measured_has_a_row_with_n_one(make_run):
    folder = make_run()
    record = json.loads((folder / "run.json").read_text())
    lines = [{"seed": s, "accuracy": 0.88, "ece": 0.1} for s in (0, 1, 2)]
    record["stages"].append({"name": "final", "kind": "evaluate", "split": "test", "results": {"downloaded": lines}})
    (folder / "run.json").write_text(json.dumps(record))
    found = {m.name: m for m in measure(read_run(folder))}
    assert found["downloaded"].summary("accuracy").n == 1  # the same weights under three seeds are one measurement


def test_a_shared_network_is_one_measurement_even_when_each_seed_evaluates_it(make_run):
    folder = make_run()
    record = json.loads((folder / "run.json").read_text())
    lines = [{"seed": s, "accuracy": 0.975} for s in (0, 1, 2)]
    record["stages"].append({"name": "final", "kind": "evaluate", "split": "test", "results": {"teacher": lines}})
    (folder / "run.json").write_text(json.dumps(record))
    assert by_stage(results(read_run(folder)), "accuracy")["teacher"].note == "single run"


def test_missing_costs_are_dashes(make_run):
    folder = make_run()
    record = json.loads((folder / "run.json").read_text())
    for stage in record["stages"]:
        stage["cost"] = {"parameters": None, "latency": None}
    (folder / "run.json").write_text(json.dumps(record))
    table = results(read_run(folder))
    assert {c.text for c in table.column("latency")} == {c.text for c in table.column("parameters")} == {"–"}


def test_compared_runs_of_one_name_are_told_apart_by_folder(make_run):
    a, b, c = make_run("x/a"), make_run("x/b", accuracy=WORSE), make_run("c", name="other", accuracy=SINGLE)
    table = compare([a, b, c, a])
    names = list(dict.fromkeys(cell.text for cell in table.column("run")))
    assert names == ["digits-quickstart (a)", "digits-quickstart (b)", "other"]
    assert len(table.rows) == 4 + 3 + 3
    assert table.values()[0]["accuracy"].n == 1


def test_compare_warns_where_runs_do_not_compare(make_run):
    a, b = make_run("a"), make_run("b", data={"source": "cifar10", "rows": {"test": 10000}})
    assert any("not measured on the same data" in note for note in compare([a, b]).notes)
    assert not any("not measured on the same data" in note for note in compare([a]).notes)


def test_compare_names_every_folder_that_it_cannot_read(make_run, tmp_path):
    with pytest.raises(RunFolderError, match="no run folders given"):
        compare([])
    (tmp_path / "empty").mkdir()
    with pytest.raises(RunFolderError, match=r"empty.*gone|gone.*empty"):
        compare([make_run(), tmp_path / "empty", tmp_path / "gone"])


def test_the_comparison_is_a_page_with_a_pareto_plot(make_run, tmp_path):
    path = write_compare([make_run("a"), make_run("b", accuracy=WORSE)], tmp_path / "new" / "compare.html")
    text = path.read_text()
    assert "Accuracy against parameters" in text
    assert "kd, digits-quickstart (b)" in text
    assert text.count("<svg") == 3


def test_no_front_joins_networks_that_were_measured_on_other_data(make_run, tmp_path):
    a, b = make_run("a"), make_run("b", data={"source": "cifar10", "rows": {"test": 10000}})
    assert "Grey steps" in write_compare([a], tmp_path / "one.html").read_text()
    text = write_compare([a, b], tmp_path / "two.html").read_text()
    assert "No front: not the same data" in text
    assert "Grey steps" not in text


def test_one_baseline_for_all_seeds_is_compared_with_every_seed():
    ours, theirs = {"accuracy": {3: 0.48, 5: 0.47}}, {"accuracy": {3: 0.68}}
    shared = against(ours, theirs, shared=True)
    assert (shared.n, round(shared.mean, 4)) == (2, -0.205)
    assert against(ours, theirs, shared=False).n == 1  # its other seeds are not done yet
    assert against(ours, {"accuracy": {0: 0.7}}, shared=False) is None


def test_a_page_that_would_be_a_folder_is_refused_first(make_run, tmp_path, capsys):
    from limbeck.cli import main

    assert main(["compare", str(make_run("a")), "--html", str(tmp_path)]) == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert "is a folder; name a file in it" in told.err
