"""The command line: what it prints, and its exit codes."""

from __future__ import annotations

import io
import json
import re
import shlex
import sys
from types import ModuleType

import pytest

from limbeck import catalog
from limbeck.cli import main
from limbeck.config import read, read_recipe
from limbeck.errors import Interrupted, RunFolderError
from limbeck.starters import starter

METHODS = list(catalog.entries("method"))
RECIPE = "models: {s: digits_cnn_thin}\nstages:\n  - {kind: train, name: a, model: s}\n"


def pipe(monkeypatch, text: str) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))


@pytest.mark.parametrize("name", METHODS)
def test_a_starter_passes_the_check(name, monkeypatch, capsys):
    assert main(["new", name]) == 0
    text = capsys.readouterr().out
    assert text == starter(name)
    pipe(monkeypatch, text)
    assert main(["check", "-", "--shape-only"]) == 0
    assert capsys.readouterr().out.startswith("<stdin>: fine (")


@pytest.mark.parametrize("name", METHODS)
def test_what_a_starter_shows_is_the_default(name):
    """Uncommenting every setting of a starter changes nothing but what the starter itself sets."""
    text = starter(name)
    lines = text.splitlines()
    kind = next(i for i, line in enumerate(lines) if line == f"      kind: {name}")
    opened = [
        line.replace("# ", "", 1) if i > kind and re.match(r"      # (?!preset)\w", line) else line
        for i, line in enumerate(lines)
    ]
    assert opened != lines
    assert read_recipe("\n".join(opened)) == read_recipe(text)


def test_a_starter_goes_to_a_new_file_only(tmp_path, capsys):
    path = tmp_path / "kd.yaml"
    assert main(["new", "kd", "--out", str(path)]) == 0
    assert path.read_text() == starter("kd")
    path.write_text("mine")
    assert main(["new", "kd", "-o", str(path)]) == 2
    assert path.read_text() == "mine"
    assert f"{path} exists already" in capsys.readouterr().err
    path = tmp_path / "nowhere" / "kd.yaml"
    assert main(["new", "kd", "-o", str(path)]) == 2
    assert f"cannot write {path}: No such file or directory; choose another file" in capsys.readouterr().err


def test_methods_as_json(capsys):
    assert main(["methods", "--json"]) == 0
    listed = json.loads(capsys.readouterr().out)
    assert [line["name"] for line in listed] == [*METHODS, *catalog.entries("compressor")]
    for line in listed:
        assert {"name", "kind", "paper", "year", "family", "status"} <= set(line)
        assert line["kind"] == ("method" if line["name"] in METHODS else "compressor")
        assert line["paper"]
        assert line["year"] > 1990


def test_methods_as_a_table(capsys):
    assert main(["methods"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in METHODS)


@pytest.mark.parametrize("name", METHODS)
def test_one_method_is_explained(name, capsys):
    assert main(["methods", name]) == 0
    page = capsys.readouterr().out
    entry = catalog.find("method", name)
    assert page.startswith(f"{name}: {entry.title}")
    assert entry.paper in page
    assert "Settings" in page
    assert "Presets" in page
    assert "L = " in page or "CE(" in page, "the formula"
    assert main(["methods", name, "--json"]) == 0
    (line,) = json.loads(capsys.readouterr().out)
    assert line["settings"]
    assert all(setting["text"] for setting in line["settings"]), "every setting says what it is"
    assert "paper" in line["presets"]
    assert line["sources_of_presets"], "where the numbers come from"
    assert line["deviations"]
    assert "Deviations from the source" in page
    assert " ".join(
        line["deviations"].replace("`", "").replace("*recalled*", "recalled").replace("**", "").split()
    ) in " ".join(page.split())


def test_unknown_names_have_near_ones(capsys):
    assert main(["methods", "fitnet"]) == 2
    assert "no method or compressor 'fitnet'; near: fitnets" in capsys.readouterr().err
    assert main(["new", "ntst"]) == 2
    assert "near: nst" in capsys.readouterr().err


def test_models_as_json(capsys):
    assert main(["models", "--json", "--classes", "100"]) == 0
    found = {line["name"]: line for line in json.loads(capsys.readouterr().out)}
    # 0.28 M parameters (He et al., CVPR 2016, table 6) at 10 classes; 90 more classes of 64 weights and a bias each
    assert found["resnet20"]["parameters"] == 272_474 + 90 * 65
    assert found["resnet20"]["macs"] > 40e6


def test_schema_is_json(capsys):
    assert main(["schema"]) == 0
    assert json.loads(capsys.readouterr().out)["$schema"].endswith("2020-12/schema")


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("limbeck ")


@pytest.mark.parametrize(
    "command", ["quickstart", "run", "check", "methods", "models", "new", "schema", "compare", "report"]
)
def test_every_command_has_help_with_an_example(command, capsys):
    assert main([command, "--help"]) == 0
    assert f"  limbeck {command}" in capsys.readouterr().out or command == "check"


@pytest.mark.parametrize(
    "words",
    [["runn"], ["run"], ["check"], ["methods", "--nope"], ["models", "--classes", "0"], ["check", "nowhere.yaml"]],
)
def test_a_wrong_command_line_ends_with_2(words, capsys):
    assert main(words) == 2
    assert "Traceback" not in capsys.readouterr().err


@pytest.fixture
def fake_run(monkeypatch):
    """Stands for `limbeck.runner`: remembers what it was called with, or raises."""
    calls: list[dict] = []
    module = ModuleType("limbeck.runner")

    def run(recipe, **options):
        calls.append({"recipe": recipe, **options})
        if error is not None:
            raise error

    error: BaseException | None = None

    def fail_with(value: BaseException) -> None:
        nonlocal error
        error = value

    module.run = run  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "limbeck.runner", module)
    monkeypatch.setattr("limbeck.config.check", lambda parsed, **_: [])
    return calls, fail_with


def test_run_hands_everything_over(fake_run, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE + "machine: {threads: 3, accelerator: cpu}\n")
    given = [
        "run",
        str(tmp_path / "r.yaml"),
        "--out",
        str(tmp_path / "o"),
        "--set",
        "seeds=[5]",
        "--devices",
        "2",
        "-q",
    ]
    assert main(given) == 0
    (call,) = fake_run[0]
    assert call["recipe"] == read(RECIPE, ["seeds=[5]"]).recipe
    assert (call["machine"].threads, call["machine"].devices, call["machine"].accelerator) == (3, 2, "cpu")
    assert call["out"] == tmp_path / "o"
    assert call["quiet"] is True
    assert call["command"] == shlex.join(["limbeck", *given])  # what this call was given, not what the process was


def test_run_refuses_an_accelerator_that_is_none(fake_run, tmp_path, capsys):
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert main(["run", str(tmp_path / "r.yaml"), "--accelerator", "gpu"]) == 2
    assert "--accelerator gpu: there are: auto, cpu, cuda, mps" in capsys.readouterr().err
    assert fake_run[0] == []


@pytest.mark.parametrize("name", ["", ".", "..", "../up", "/top", "a/b", r"a\nb"])
def test_a_name_that_is_none_for_a_folder_needs_an_out(fake_run, name, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "r.yaml").write_text(f'{RECIPE}name: "{name}"\n')
    assert main(["run", "r.yaml"]) == 2
    assert re.match(r"r.yaml:4: name: '.*' cannot name a folder below runs/; give --out", capsys.readouterr().err)
    assert fake_run[0] == []
    assert main(["run", "r.yaml", "--out", "here"]) == 0


def test_an_accelerator_that_is_not_there(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert main(["run", "r.yaml", "--accelerator", "cuda", "--out", "o"]) == 2
    assert "accelerator 'cuda' with 1 device: this machine has no cuda device that torch" in capsys.readouterr().err
    assert not (tmp_path / "o").exists()


def test_fresh_removes_the_old_run_and_nothing_else(fake_run, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    folder = tmp_path / "o"
    (folder / "stages" / "a").mkdir(parents=True)
    for name in ("recipe.yaml", "run.json", "sensitivity-a-seed-0-int8.html", "notes.txt"):
        (folder / name).write_text("x")
    assert main(["run", str(tmp_path / "r.yaml"), "--out", str(folder)]) == 0
    assert (folder / "run.json").exists()
    assert main(["run", str(tmp_path / "r.yaml"), "--out", str(folder), "--fresh"]) == 0
    assert {path.name for path in folder.iterdir()} - {".lock"} == {"notes.txt"}


def test_fresh_leaves_a_folder_without_a_run_alone(fake_run, tmp_path):
    (tmp_path / "r.yaml").write_text(RECIPE)
    folder = tmp_path / "o"
    (folder / "stages").mkdir(parents=True)
    assert main(["run", str(tmp_path / "r.yaml"), "--out", str(folder), "--fresh"]) == 0
    assert (folder / "stages").exists()


@pytest.mark.parametrize(
    ("error", "code", "text"),
    [
        (RunFolderError("another process is running in o"), 1, "error: another process is running in o"),
        (Interrupted("stopped at step 7; to go on: limbeck run r.yaml"), 130, "stopped at step 7; to go on"),
        (KeyboardInterrupt(), 130, "interrupted"),
        (PermissionError(13, "Permission denied", "o"), 1, "error: [Errno 13] Permission denied: 'o'"),
    ],
)
def test_exit_codes_of_a_run(fake_run, tmp_path, capsys, error, code, text):
    fake_run[1](error)
    (tmp_path / "r.yaml").write_text(RECIPE)
    assert main(["run", str(tmp_path / "r.yaml")]) == code
    err = capsys.readouterr().err
    assert err.startswith(text)
    assert "Traceback" not in err


def test_a_report_of_a_run_that_was_cut_off_says_so(tmp_path, capsys):
    (tmp_path / "run.json").write_text('{"format": 1, "name": "x", "status": "running"}')
    assert main(["report", str(tmp_path)]) == 0
    assert "Not finished (running). Nothing has been measured yet." in capsys.readouterr().out


def test_debug_shows_the_traceback(tmp_path, capsys):
    assert main(["check", str(tmp_path / "none.yaml"), "--debug"]) == 2
    err = capsys.readouterr().err
    assert "Traceback" in err
    assert "there is no such file" in err


def test_a_bug_keeps_its_traceback(fake_run, tmp_path):
    fake_run[1](ZeroDivisionError("a bug"))
    (tmp_path / "r.yaml").write_text(RECIPE)
    with pytest.raises(ZeroDivisionError):
        main(["run", str(tmp_path / "r.yaml")])
