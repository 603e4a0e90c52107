"""A disk that is full, or refuses: an error in words, and what was there before is whole."""

from __future__ import annotations

import json
import os
import resource
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from engine_small import Seeking, StopAt, conv_net, same, state
from safetensors.torch import load_file

from limbeck import record
from limbeck.engine import checkpoint
from limbeck.engine.loop import fit
from limbeck.engine.roles import Stop
from limbeck.engine.team import Team
from limbeck.errors import Interrupted, LimbeckError, RunFolderError
from limbeck.methods import KD
from limbeck.settings import Training

CPU = Team(torch.device("cpu"))


@contextmanager
def disk_of(size):
    """No file may grow beyond ``size`` bytes: what a full disk looks like to those who write."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@contextmanager
def refusing(monkeypatch, what, error):
    def refuse(*_, **__):
        raise error

    with monkeypatch.context() as patch:
        patch.setattr(what[0], what[1], refuse)
        yield


READ_ONLY = OSError(30, "Read-only file system")


def train(folder, *, stop_at=None, validate=None):
    models, stop = {"student": conv_net(3), "teacher": conv_net(5, seed=1)}, Stop()
    data = Seeking() if stop_at is None else StopAt(Seeking(), stop, stop_at)
    training = Training(epochs=3, batch_size=6)
    return fit(KD(), models, data, training=training, team=CPU, folder=folder, stop=stop, validate=validate), models


def small_checkpoint(path, value=1.0):
    checkpoint.save(path, checkpoint.Position(step=int(value)), {"x": torch.full((100,), value)}, {}, "me")


def test_a_checkpoint_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "checkpoint.safetensors"
    small_checkpoint(path, 1.0)
    whole = path.read_bytes()
    with disk_of(64), pytest.raises(RunFolderError) as error:
        small_checkpoint(path, 2.0)
    text = str(error.value)
    assert text.startswith(f"cannot write {path}: ")
    assert "File too large" in text
    assert text.endswith(
        "What was there before is unchanged; make room or choose another --out, and start the same command again to go on"
    )
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == [path.name], "nothing half-written is left"
    with (
        refusing(monkeypatch, (Path, "replace"), READ_ONLY),
        pytest.raises(RunFolderError, match="Read-only file system"),
    ):
        small_checkpoint(path, 2.0)
    assert path.read_bytes() == whole
    assert [p.name for p in tmp_path.iterdir()] == [path.name]
    small_checkpoint(path, 2.0)
    assert checkpoint.load(path, "me", torch.device("cpu"))[0].step == 2


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(RunFolderError, match=r"cannot write .*/file/deep/c.safetensors: .*Not a directory"):
        small_checkpoint(tmp_path / "file" / "deep" / "c.safetensors")


@pytest.mark.parametrize("size", [300, 3000], ids=["log", "checkpoint"])
def test_training_on_a_full_disk_stops_in_words_and_goes_on_later(size, tmp_path):
    straight, models = train(tmp_path / "a")
    with pytest.raises(Interrupted):
        train(tmp_path / "b", stop_at=5)
    before = (tmp_path / "b" / "checkpoint.safetensors").read_bytes()
    with (
        disk_of(size),
        pytest.raises(RunFolderError, match=r"cannot write .*(steps.jsonl|checkpoint.safetensors): .*File too large"),
    ):
        train(tmp_path / "b")
    assert (tmp_path / "b" / "checkpoint.safetensors").read_bytes() == before
    again, others = train(tmp_path / "b")
    assert same(state(models["student"]), state(others["student"]))
    assert straight.history == again.history
    for line in (tmp_path / "b" / "steps.jsonl").read_text().splitlines():
        json.loads(line)


def test_best_weights_that_cannot_be_written_leave_the_old_ones(tmp_path):
    scores = iter([0.1, 0.2, 0.9])

    def validate(model):
        value = next(scores)
        if value == 0.9:
            resource.setrlimit(resource.RLIMIT_FSIZE, (600, resource.getrlimit(resource.RLIMIT_FSIZE)[1]))
        return {"accuracy": value, "loss": 1.0}

    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(LimbeckError, match=r"cannot write the weights to .*best.safetensors: File too large"):
            train(tmp_path, validate=validate)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert load_file(tmp_path / "best.safetensors").keys() == conv_net(3).state_dict().keys()
    assert not [p for p in tmp_path.iterdir() if p.name.startswith(".best")]


# -- the record --------------------------------------------------------------------------------------


def test_a_record_that_cannot_be_written_leaves_the_old_one(tmp_path, monkeypatch):
    path = tmp_path / "run.json"
    record.write_json(path, {"status": "running"})
    with (
        disk_of(10),
        pytest.raises(RunFolderError, match=r"cannot write .*run.json: File too large. What was there before is"),
    ):
        record.write_json(path, {"status": "done", "more": "x" * 100})
    assert record.read_json(path) == {"status": "running"}
    with (
        refusing(monkeypatch, (Path, "replace"), READ_ONLY),
        pytest.raises(RunFolderError, match="Read-only file system"),
    ):
        record.write_json(path, {"status": "done"})
    assert record.read_json(path) == {"status": "running"}
    assert [p.name for p in tmp_path.iterdir()] == ["run.json"]


def test_a_record_that_cannot_be_read_is_named(tmp_path):
    path = tmp_path / "run.json"
    assert record.read_json(path) is None
    path.write_text('{"status": ')
    with pytest.raises(RunFolderError, match=r"cannot read .*run.json: Expecting value"):
        record.read_json(path)
    path.write_text("[1]")
    with pytest.raises(RunFolderError, match=r"run.json holds a list, not a record"):
        record.read_json(path)
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(RunFolderError, match="cannot read"):
        record.read_json(path)
    path.unlink()
    path.mkdir()
    with pytest.raises(RunFolderError, match=r"cannot read .*Is a directory"):
        record.read_json(path)


def test_a_folder_has_one_run_at_a_time(tmp_path, monkeypatch):
    folder = tmp_path / "deep" / "run"
    with (
        record.locked(folder),
        pytest.raises(
            RunFolderError, match=r"another process is running in .*run; wait for it, or choose another --out"
        ),
    ):
        record.locked(folder).__enter__()
    with record.locked(folder):
        pass
    (tmp_path / "file").write_text("")
    with pytest.raises(RunFolderError, match=r"cannot write in .*: Not a directory; choose another folder with --out"):
        record.locked(tmp_path / "file" / "run").__enter__()
    with (
        refusing(monkeypatch, (Path, "mkdir"), READ_ONLY),
        pytest.raises(RunFolderError, match=r"cannot write in .*: Read-only file system"),
    ):
        record.locked(tmp_path / "new").__enter__()


def test_the_lock_goes_with_the_process_that_had_it(tmp_path):
    """A killed run leaves its .lock file, and locks nobody out."""
    child = os.fork()
    if child == 0:
        record.locked(tmp_path).__enter__()
        os._exit(0)
    os.waitpid(child, 0)
    assert (tmp_path / ".lock").exists()
    with record.locked(tmp_path):
        pass


def test_differences_of_recipes_are_shown_by_their_places():
    old = {"a": 1, "stages": [{"name": "x", "t": 4.0}, {"name": "y"}], "gone": None}
    new = {"a": 1, "stages": [{"name": "x", "t": 8.0}], "new": [1]}
    assert record.difference(old, new) == [
        "stages.0.t: 4.0 -> 8.0",
        'stages.1: {"name": "y"} -> "(not there)"',
        'gone: null -> "(not there)"',
        'new: "(not there)" -> [1]',
    ]
    assert record.difference(old, old) == []
