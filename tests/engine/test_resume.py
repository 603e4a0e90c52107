"""Interrupted and gone on with equals straight through, bit for bit."""

from __future__ import annotations

import copy
import json

import pytest
import torch
from engine_small import Noisy, Seeking, StopAt, conv_net, same, state
from safetensors.torch import load_file
from torch.utils.data import DataLoader, TensorDataset

from limbeck.api import Batches
from limbeck.engine import checkpoint, loop
from limbeck.engine.loop import fit
from limbeck.engine.roles import Stop
from limbeck.engine.team import Team
from limbeck.errors import Interrupted, RunFolderError
from limbeck.methods import KD, FitNets, LogitMatching, Supervised
from limbeck.settings import Optimizer, Training

CPU = Team(torch.device("cpu"))
SGD = Optimizer(lr=0.02)  # with momentum, Nesterov and decay
ADAM = Optimizer(kind="adamw", lr=0.003)


def pair():
    teacher = conv_net(5, seed=1)
    with torch.no_grad():
        teacher.fc.weight *= 10
    return {"student": conv_net(3), "teacher": teacher}


class Measure:
    """Depends on the weights, so that the best epoch is one of them."""

    def __call__(self, model):
        return {
            "accuracy": float(model.fc.bias.detach().double().sum()),
            "loss": float(model.fc.weight.detach().norm()),
        }


def go(method, folder, *, data=None, stop_at=None, training=None, models=None, validate=True, seed=0):
    models, stop = models or pair(), Stop()
    data = data or Seeking()
    if stop_at is not None:
        data = StopAt(data, stop, stop_at)
    settings = Training(**{"epochs": 4, "batch_size": 6, "optimizer": SGD, "checkpoint": 1000.0, **(training or {})})
    try:
        found = fit(
            method,
            models,
            data,
            training=settings,
            seed=seed,
            name="stage",
            team=CPU,
            folder=folder,
            classes=3,
            validate=Measure() if validate else None,
            stop=stop,
        )
    except Interrupted as error:
        return str(error), models
    return found, models


def told(folder):
    """The log, but for the times."""
    rows = [json.loads(line) for line in (folder / "steps.jsonl").read_text().splitlines()]
    return [{k: v for k, v in row.items() if k != "seconds"} for row in rows]


def equal(a, b, folder_a, folder_b):
    (one, models_a), (two, models_b) = a, b
    assert same(state(models_a["student"]), state(models_b["student"]))
    assert one.history == two.history
    assert one.best == two.best
    assert one.before == two.before
    assert (one.epochs, one.images, one.phases) == (two.epochs, two.images, two.phases)
    assert told(folder_a) == told(folder_b)
    if one.best:
        assert same(load_file(folder_a / "best.safetensors"), load_file(folder_b / "best.safetensors"))


CASES = {
    "kd": (KD(), {}, 16),
    "kd-adamw-clip": (KD(), {"optimizer": ADAM, "clip": 0.5}, 16),
    "kd-ema": (KD(), {"ema": 0.9}, 16),
    "fitnets": (FitNets(hint_share=0.5), {}, 16),
    "fitnets-ema-own-optimizer": (
        FitNets(hint_share=0.5, hint_optimizer=Optimizer(kind="rmsprop", lr=1e-3)),
        {"ema": 0.9},
        16,
    ),
    "logit-matching": (LogitMatching(), {"optimizer": ADAM}, 20),
    "noise": (Noisy(), {"accumulate": 2}, 16),
}


@pytest.mark.parametrize("stop_at", [1, 3, 4, 7, 9, 13, 15])
@pytest.mark.parametrize("case", list(CASES))
def test_a_run_that_was_stopped_goes_on_to_the_same_bits(case, stop_at, tmp_path):
    method, training, _ = CASES[case]
    straight = go(method, tmp_path / "a", training=training)
    text, left = go(method, tmp_path / "b", training=training, stop_at=stop_at)
    assert isinstance(text, str)
    assert text.startswith("stopped at stage, ")
    assert not same(state(left["student"]), state(straight[1]["student"]))
    again = go(method, tmp_path / "b", training=training)
    equal(straight, again, tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("case", list(CASES))
def test_a_run_that_was_stopped_at_every_step_ends_the_same(case, tmp_path):
    method, training, steps = CASES[case]
    straight = go(method, tmp_path / "a", training=training)
    for _ in range(steps):
        found = go(method, tmp_path / "b", training=training, stop_at=1)
        assert isinstance(found[0], str)
    again = go(method, tmp_path / "b", training=training)
    equal(straight, again, tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("lost", [1, 6, 10, 14])
def test_a_killed_run_goes_on_from_its_last_checkpoint(lost, tmp_path):
    """No clean stop: what came after the last checkpoint is done again, and the log does not show it twice."""

    class Killed(Exception):
        pass

    class Kills(Seeking):
        left = lost

        def epoch(self, epoch, rank=0, world=1, skip=0):
            for batch in super().epoch(epoch, rank, world, skip):
                self.left -= 1
                if self.left < 0:
                    raise Killed
                yield batch

    method = FitNets(hint_share=0.5)
    straight = go(method, tmp_path / "a")
    with pytest.raises(Killed):
        go(method, tmp_path / "b", data=Kills())
    (tmp_path / "b").mkdir(exist_ok=True)  # killed before anything was written
    (tmp_path / "b" / ".checkpoint.safetensors.writing").write_bytes(b"half a file")
    with (tmp_path / "b" / "steps.jsonl").open("a") as file:
        file.write('{"kind": "step", "phase": "distill", "st')
    again = go(method, tmp_path / "b")
    equal(straight, again, tmp_path / "a", tmp_path / "b")


def test_checkpoints_in_between_change_nothing(tmp_path):
    straight = go(KD(), tmp_path / "a")
    often = go(KD(), tmp_path / "b", training={"checkpoint": 1e-9})
    equal(straight, often, tmp_path / "a", tmp_path / "b")
    kept = go(KD(), None)
    assert same(state(kept[1]["student"]), state(straight[1]["student"])), "nor does keeping nothing"


def test_early_stopping_is_remembered(tmp_path):
    class Falls:
        def __init__(self):
            self.left = 100

        def __call__(self, model):
            self.left -= 1
            return {"accuracy": self.left / 100, "loss": 1.0}

    def run(folder, stop_at=None):
        models, stop = pair(), Stop()
        data = Seeking() if stop_at is None else StopAt(Seeking(), stop, stop_at)
        training = Training(epochs=9, batch_size=6, optimizer=SGD, patience=1)
        return fit(KD(), models, data, training=training, team=CPU, folder=folder, validate=Falls(), stop=stop), models

    found, models = run(tmp_path)
    assert found.epochs == 2
    again, others = run(tmp_path)
    assert again.history == found.history
    assert same(state(others["student"]), state(models["student"]))


def test_a_finished_stage_is_not_trained_again(tmp_path):
    first = go(KD(), tmp_path)

    class Refuses(Seeking):
        looks = 0

        def epoch(self, epoch, rank=0, world=1, skip=0):
            self.looks += 1
            assert self.looks == 1, "one look at an example, no more"
            return super().epoch(epoch, rank, world, skip)

    again = go(KD(), tmp_path, data=Refuses())
    assert same(state(first[1]["student"]), state(again[1]["student"]))


# -- loaders that cannot be entered in the middle ---------------------------------------------------


class RandomRows(TensorDataset):
    """Augmentation as users write it: drawn from torch's global numbers."""

    def __getitem__(self, index):
        x, y = super().__getitem__(index)
        return x + 0.1 * torch.randn(x.shape), y


@pytest.mark.parametrize("stop_at", [2, 4, 5, 11])
def test_a_users_shuffled_loader_is_walked_to_the_same_place(stop_at, tmp_path):
    def loader():
        data = Seeking()
        return Batches(DataLoader(RandomRows(data.x, data.y), batch_size=6, shuffle=True))

    straight = go(KD(), tmp_path / "a", data=loader())
    torch.manual_seed(99)
    text, _ = go(KD(), tmp_path / "b", data=loader(), stop_at=stop_at)
    assert isinstance(text, str)
    again = go(KD(), tmp_path / "b", data=loader())
    equal(straight, again, tmp_path / "a", tmp_path / "b")


# -- what cannot be gone on with --------------------------------------------------------------------


@pytest.mark.parametrize(
    "change", [{"method": KD(temperature=5)}, {"seed": 1}, {"training": {"clip": 1.0}}, {"training": {"epochs": 5}}]
)
def test_another_stages_checkpoint_is_refused(change, tmp_path):
    go(KD(), tmp_path, stop_at=3)
    with pytest.raises(
        RunFolderError, match=r"checkpoint.safetensors belongs to another stage or other settings; choose another"
    ):
        go(**{"method": KD(), "folder": tmp_path, **change})


def test_how_often_checkpoints_are_written_may_change(tmp_path):
    straight = go(KD(), tmp_path / "a")
    go(KD(), tmp_path / "b", stop_at=6)
    again = go(KD(), tmp_path / "b", training={"checkpoint": 7.0})
    equal(straight, again, tmp_path / "a", tmp_path / "b")


@pytest.mark.parametrize("damage", ["empty", "half", "text"])
def test_a_damaged_checkpoint_is_named(damage, tmp_path):
    go(KD(), tmp_path, stop_at=3)
    path = tmp_path / "checkpoint.safetensors"
    whole = path.read_bytes()
    path.write_bytes({"empty": b"", "half": whole[: len(whole) // 2], "text": b"no tensors here"}[damage])
    with pytest.raises(
        RunFolderError, match=r"the checkpoint .* cannot be read \(.*\); remove it to train this stage anew"
    ):
        go(KD(), tmp_path)
    path.unlink()
    fresh, _ = go(KD(), tmp_path)
    assert fresh.epochs == 4


def test_a_log_that_lost_its_end_is_not_filled_with_nothing(tmp_path):
    go(KD(), tmp_path, stop_at=9)
    log = tmp_path / "steps.jsonl"
    log.write_text("".join(log.read_text().splitlines(keepends=True)[:2]))
    go(KD(), tmp_path)
    assert b"\0" not in log.read_bytes()
    assert told(tmp_path)


# -- the file itself --------------------------------------------------------------------------------


def test_modules_and_optimizers_go_through_a_file(tmp_path):
    model = conv_net(3)
    tied = torch.nn.Linear(4, 4)
    tied.second = tied.weight
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.randn(4, 1, 8, 8)).sum().backward()
    optimizer.step()
    tensors, numbers = checkpoint.pack({"student": model, "tied": tied}, {"student": optimizer})
    place = checkpoint.Position(
        phase=1, epoch=2, step=3, best={"epoch": 1}, history=[{"a": 1}], waiting=[(4, {"x": 0.1})]
    )
    checkpoint.save(tmp_path / "c.safetensors", place, tensors, numbers, "who")
    assert [p.name for p in tmp_path.iterdir()] == ["c.safetensors"]
    found, tensors, numbers = checkpoint.load(tmp_path / "c.safetensors", "who", torch.device("cpu"))
    assert found == checkpoint.Position(
        phase=1, epoch=2, step=3, best={"epoch": 1}, history=[{"a": 1}], waiting=[[4, {"x": 0.1}]]
    )
    other, also = conv_net(3, seed=8), torch.nn.Linear(4, 4)
    also.second = also.weight
    fresh = torch.optim.AdamW(other.parameters(), lr=0.3)
    checkpoint.unpack(tensors, numbers, {"student": other, "tied": also}, {"student": fresh})
    assert same(state(model), state(other))
    assert same(state(tied), state(also))
    assert also.second is also.weight
    a, b = optimizer.state_dict(), fresh.state_dict()
    assert a["state"].keys() == b["state"].keys()
    for index, entry in a["state"].items():
        assert all(torch.equal(torch.as_tensor(v), torch.as_tensor(b["state"][index][k])) for k, v in entry.items())
    assert b["param_groups"][0]["lr"] == 0.3
    assert checkpoint.load(tmp_path / "nothing", "who", torch.device("cpu")) is None


def test_nothing_of_a_checkpoint_depends_on_the_place_in_memory(tmp_path):
    """Non-contiguous weights (channels_last) come back as they were."""
    straight = go(KD(), tmp_path / "a", training={"channels_last": True})
    go(KD(), tmp_path / "b", training={"channels_last": True}, stop_at=5)
    again = go(KD(), tmp_path / "b", training={"channels_last": True})
    equal(straight, again, tmp_path / "a", tmp_path / "b")


def test_two_phases_may_call_different_modules_by_one_name(tmp_path):
    class Renames:
        """Each of its phases has a head of its own, and both are called so."""

        def __repr__(self):
            return "Renames()"

        def phases(self, cast):
            from limbeck.phase import Phase, Term, Update

            def step(models, batch, moment):
                out = models["head"](models["student"](batch.inputs))
                yield Update("student", {"ce": Term(torch.nn.functional.cross_entropy(out, batch.targets))})

            heads = [torch.nn.Linear(3, 3) for _ in range(2)]
            return [
                Phase(
                    name=name,
                    modules={"student": cast.models["student"], "head": head},
                    trains={"student": ("student", "head")},
                    taps={},
                    step=step,
                )
                for name, head in zip("ab", heads)
            ]

    straight = go(Renames(), tmp_path / "a")
    for stop_at in (3, 7, 5):
        go(Renames(), tmp_path / "b", stop_at=stop_at)
    again = go(Renames(), tmp_path / "b")
    equal(straight, again, tmp_path / "a", tmp_path / "b")


def test_the_models_of_the_caller_are_not_needed_twice(tmp_path):
    """A second call may come with networks in any state: the checkpoint has the weights."""
    straight = go(KD(), tmp_path / "a")
    _, left = go(KD(), tmp_path / "b", stop_at=6)
    again = go(KD(), tmp_path / "b", models=copy.deepcopy(left))
    assert same(state(straight[1]["student"]), state(again[1]["student"]))


def test_supervised_needs_no_teacher_to_go_on(tmp_path):
    def one():
        return {"student": conv_net(3)}

    straight = go(Supervised(), tmp_path / "a", models=one())
    go(Supervised(), tmp_path / "b", models=one(), stop_at=5)
    equal(straight, go(Supervised(), tmp_path / "b", models=one()), tmp_path / "a", tmp_path / "b")


def test_identity_is_of_the_stage_and_its_settings():
    base = ("stage", 0, KD(), Training())
    assert loop.identity(*base) == loop.identity("stage", 0, KD(), Training(checkpoint=1.0))
    others = [
        ("other", 0, KD(), Training()),
        ("stage", 1, KD(), Training()),
        ("stage", 0, KD(soft=1), Training()),
        ("stage", 0, KD(), Training(epochs=3)),
    ]
    assert len({loop.identity(*o) for o in (base, *others)}) == 5


def test_lines_of_the_log_that_tell_of_several_steps_stay_whole(tmp_path):
    """A line is the mean of the steps since the last one, whether a checkpoint came in between or a night."""

    def long():
        return Seeking(rows=120, size=2)  # 60 steps: a line for every second one

    training = {"epochs": 1}
    straight = go(KD(), tmp_path / "a", data=long(), training=training)
    often = go(KD(), tmp_path / "b", data=long(), training={**training, "checkpoint": 1e-9})
    text, _ = go(KD(), tmp_path / "c", data=long(), training=training, stop_at=31)
    assert text == "stopped at stage, distill, epoch 1, step 31"
    again = go(KD(), tmp_path / "c", data=long(), training=training)
    equal(straight, often, tmp_path / "a", tmp_path / "b")
    equal(straight, again, tmp_path / "a", tmp_path / "c")
    assert [row["step"] for row in told(tmp_path / "a") if row["kind"] == "step"] == list(range(2, 61, 2))
