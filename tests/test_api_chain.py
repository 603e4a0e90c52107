"""Chains in Python: what comes back, what its ledger says, what goes on after a stop."""

from __future__ import annotations

import copy
import json
import shutil
from dataclasses import dataclass

import pytest
import torch
from torch import nn

import limbeck as lk
from limbeck.errors import DataError, HyperParameterError, LimbeckError, RunFolderError, ShapeError
from limbeck.models.macs import count_macs

ONE = lk.Training(epochs=1, optimizer=lk.Optimizer(lr=0.05))
QUIET = {"quiet": True, "latency": False, "training": ONE}


def net() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 16), nn.ReLU(), nn.Linear(16, 4))


def rows(count=4, seed=1):
    random = torch.Generator().manual_seed(seed)
    found = []
    for _ in range(count):
        x = torch.randn(16, 1, 8, 8, generator=random)
        found.append((x, x.flatten(1)[:, :4].argmax(1)))
    return found


def bits(model):
    return {k: v.clone() for k, v in model.state_dict().items()}


def same(one, other):
    return one.keys() == other.keys() and all(torch.equal(one[k], other[k]) for k in one)


def accuracy(model, data):
    model = copy.deepcopy(model).eval()
    with torch.no_grad():
        right = [(model(x).argmax(1) == y) for x, y in data]
    return float(torch.cat(right).double().mean())


def test_a_chain_leaves_the_model_and_the_random_numbers_alone():
    model, data = net().eval(), rows()
    model[1].weight.grad = torch.ones(32, 64)
    before, drawn = bits(model), torch.get_rng_state()
    small = lk.compress(model, [lk.Prune(keep=0.5), lk.Tune(epochs=1), lk.Mask(density=0.5)], data, **QUIET)
    assert same(before, bits(model))
    assert torch.equal(drawn, torch.get_rng_state())
    assert not model.training
    assert torch.equal(model[1].weight.grad, torch.ones(32, 64))
    assert small is not model
    assert (small[1].out_features, small[3].out_features, small[5].out_features) == (16, 8, 4)


def test_the_ledger_says_what_the_networks_are():
    model, data, test = net(), rows(), rows(seed=2)
    steps = [lk.Prune(keep=0.5), lk.Tune(epochs=1), lk.Quantize("int8")]
    small = lk.compress(model, steps, data, evaluate=test, **QUIET)
    first, pruned, tuned, int8 = small.ledger.rows
    assert [row.name for row in small.ledger.rows] == ["original", "1 prune", "2 tune", "3 quantize"]
    assert first.parameters == sum(p.numel() for p in model.parameters())
    assert first.macs == count_macs(model, test[0][0][:1]) == 64 * 32 + 32 * 16 + 16 * 4
    assert pruned.macs == tuned.macs == 64 * 16 + 16 * 8 + 8 * 4
    assert pruned.parameters == tuned.parameters == int8.parameters == 64 * 16 + 16 + 16 * 8 + 8 + 8 * 4 + 4
    assert first.measured["accuracy"] == pytest.approx(accuracy(model, test))
    halved = lk.Prune(keep=0.5)(model, example=data[0][0])
    assert pruned.measured["accuracy"] == pytest.approx(accuracy(halved, test))
    with torch.no_grad():
        alike = torch.cat([small(x).argmax(1) == model(x).argmax(1) for x, _ in test]).double().mean()
    assert int8.agreement == pytest.approx(float(alike))
    assert first.agreement is None
    assert "3 layers in int8" in int8.notes
    text = small.summary()
    assert "original" in text
    assert "a single run" in text
    assert f"{first.macs:,}" in text
    assert "<table>" in small.ledger._repr_html_()


def test_times_are_measured_of_every_network():
    small = lk.compress(net(), lk.Prune(keep=0.5), rows(), quiet=True)
    for row in small.ledger.rows:
        assert (row.latency["batch"], row.latency_32["batch"], row.form) == (1, 32, "eager")
        assert row.latency["median_ms"] > 0
    assert "networks in turn" in small.summary()


@pytest.mark.parametrize(
    ("steps", "names"),
    [
        ([lk.Factorize(rank=4, measured=False), lk.Tune(epochs=1)], ["1 factorize", "2 tune"]),
        ([lk.Tune(epochs=1), lk.Prune(keep=0.5, steps=2, epochs=1), lk.Quantize("int8")],
         ["1 tune", "2 prune.prune1", "2 prune.train1", "2 prune.prune2", "2 prune", "3 quantize"]),
        ([lk.Prune(keep=0.5), lk.Factorize(rank=4, measured=False), lk.Quantize(mode="weights")],
         ["1 prune", "2 factorize", "3 quantize"]),
        ([lk.Quantize(mode="qat", epochs=1)], ["1 quantize.prepared", "1 quantize.trained", "1 quantize"]),
        ([lk.Binarize("bwn", fewest=4), lk.Tune(epochs=1)], ["1 binarize", "2 tune"]),
    ],
    ids=["low rank", "iterative", "three families", "qat", "signs"],
)  # fmt: skip
def test_sequences(steps, names):
    small = lk.compress(net(), steps, rows(), **QUIET)
    assert [row.name for row in small.ledger.rows] == ["original", *names]
    assert small(rows()[0][0]).shape == (16, 4)


def test_masks_hold_through_tuning():
    small = lk.compress(net(), [lk.Mask(density=0.25), lk.Tune(epochs=2)], rows(), **QUIET)
    for layer, after in ((1, True), (3, True)):
        share = float((small[layer].weight == 0).double().mean())
        assert (share >= 0.7) == after


def test_who_teaches_a_tune():
    model, data = net(), rows()
    asked = []

    class Teacher(nn.Module):
        def forward(self, x):
            asked.append(self.training)
            return x.flatten(1)[:, :4] * 3

    lk.compress(model, [lk.Prune(keep=0.5), lk.Tune(epochs=1, teacher=Teacher())], data, **QUIET)
    assert len(asked) >= 4
    assert not any(asked), "a teacher is frozen"
    learnt = lk.compress(model, [lk.Prune(keep=0.5), lk.Tune(epochs=1)], data, **QUIET)
    alone = lk.compress(model, [lk.Prune(keep=0.5), lk.Tune(epochs=1, teacher=None)], data, **QUIET)
    assert not same(bits(learnt), bits(alone)), "the original teaches unless somebody else is named"


def test_another_student():
    torch.manual_seed(5)
    shallow = nn.Sequential(nn.Flatten(), nn.Linear(64, 8), nn.ReLU(), nn.Linear(8, 4))
    before = bits(shallow)
    small = lk.compress(net(), [lk.Tune(student=shallow, epochs=1), lk.Quantize("int8")], rows(), **QUIET)
    assert same(before, bits(shallow)), "it is a copy that learns"
    assert [row.name for row in small.ledger.rows] == ["original", "1 tune", "2 quantize"]
    assert small.ledger.rows[1].parameters == 64 * 8 + 8 + 8 * 4 + 4


def test_equal_seeds_give_equal_bits():
    steps = [lk.Prune(keep=0.5, by="random"), lk.Tune(epochs=1)]
    one, two = (lk.compress(net(), steps, rows(), seed=3, **QUIET) for _ in range(2))
    other = lk.compress(net(), steps, rows(), seed=4, **QUIET)
    assert same(bits(one), bits(two))
    assert not same(bits(one), bits(other))


class Stops(Exception):
    pass


def test_a_chain_that_was_stopped_goes_on_to_the_same_bits(tmp_path):
    steps = [lk.Prune(keep=0.5), lk.Tune(epochs=2), lk.Factorize(rank=4, measured=False), lk.Tune(epochs=2)]
    whole = lk.compress(net(), steps, rows(), **QUIET)
    walked = []

    class Batches:
        """Like a loader; breaks off in the middle of the last training."""

        broken = True

        def __iter__(self):
            for batch in rows():
                walked.append(1)
                if self.broken and len(walked) > 20:
                    raise Stops
                yield batch

        def __len__(self):
            return 4

    data = Batches()
    with pytest.raises(Stops):
        lk.compress(net(), steps, data, out=tmp_path / "chain", **QUIET)
    done = {p.parent.name for p in (tmp_path / "chain").glob("*/last.safetensors")}
    assert {"1-prune", "2-tune", "3-factorize"} <= done
    data.broken = False
    small = lk.compress(net(), steps, data, out=tmp_path / "chain", **QUIET)
    assert same(bits(small), bits(whole))
    before = len(walked)
    again = lk.compress(net(), steps, data, out=tmp_path / "chain", **QUIET)
    assert same(bits(again), bits(whole))
    assert len(walked) - before <= 8, "nothing was trained again; batches were only looked at"
    kept = json.loads((tmp_path / "chain" / "ledger.json").read_text())
    assert [row["name"] for row in kept["rows"]] == [row.name for row in small.ledger.rows]


def test_a_folder_of_another_chain(tmp_path):
    lk.compress(net(), lk.Prune(keep=0.5), rows(), out=tmp_path, **QUIET)
    with pytest.raises(
        RunFolderError, match=r"another chain: its step 1 is Prune\(keep=0.5.*this one's Prune\(keep=0.25"
    ):
        lk.compress(net(), lk.Prune(keep=0.25), rows(), out=tmp_path, **QUIET)
    with pytest.raises(RunFolderError, match="its step 2 is nothing, this one's Tune"):
        lk.compress(net(), [lk.Prune(keep=0.5), lk.Tune()], rows(), out=tmp_path, **QUIET)
    with pytest.raises(RunFolderError, match="its seed is 0, this one's 1"):
        lk.compress(net(), lk.Prune(keep=0.5), rows(), out=tmp_path, seed=1, **QUIET)


def test_a_folder_of_something_else_or_where_nothing_can_be_written(tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "ledger.json").write_text("mine")
    with pytest.raises(RunFolderError, match=r"holds no chain and is not empty \(it holds ledger\.json\)"):
        lk.compress(net(), lk.Prune(keep=0.5), rows(), out=tmp_path / "mine", **QUIET)
    assert [path.read_text() for path in (tmp_path / "mine").iterdir()] == ["mine"]
    for place in (tmp_path / "mine" / "ledger.json", tmp_path / "mine" / "ledger.json" / "in"):
        with pytest.raises(RunFolderError, match=r"cannot write in .*; choose another folder with out"):
            lk.compress(net(), lk.Prune(keep=0.5), rows(), out=place, **QUIET)


def test_a_step_whose_weights_are_gone_is_done_again_to_the_same_bits(tmp_path):
    steps = [lk.Prune(keep=0.5), lk.Tune(epochs=1)]
    first = bits(lk.compress(net(), steps, rows(), out=tmp_path, **QUIET))
    (left,) = (tmp_path / "2-tune").glob("*.safetensors")
    left.unlink()
    assert same(bits(lk.compress(net(), steps, rows(), out=tmp_path, **QUIET)), first)
    assert left.exists()


def test_a_step_that_came_out_otherwise_does_not_go_with_later_ones(tmp_path):
    made = []

    @dataclass(frozen=True, kw_only=True)
    class Louder:
        """Comes out otherwise each time."""

        def __call__(self, model, *, example, calibration=()):
            new = copy.deepcopy(model)
            made.append(1)
            with torch.no_grad():
                for weight in new.parameters():
                    weight.mul_(1 + len(made))
            return new

    for later in (lk.Tune(epochs=1), lk.Prune(keep=0.5)):
        out = tmp_path / type(later).__name__
        first = bits(lk.compress(net(), [Louder(), later], rows(), out=out, **QUIET))
        assert same(bits(lk.compress(net(), [Louder(), later], rows(), out=out, **QUIET)), first)
        (first_step,) = out.glob("1-*")
        shutil.rmtree(first_step)
        (second,) = out.glob("2-*")
        for _ in range(2):
            with pytest.raises(
                RunFolderError, match=rf"{second} holds what was made of another network, with other wei"
            ):
                lk.compress(net(), [Louder(), later], rows(), out=out, **QUIET)
        shutil.rmtree(second)
        assert not same(bits(lk.compress(net(), [Louder(), later], rows(), out=out, **QUIET)), first)


def test_a_network_that_answers_with_one_number_cannot_be_measured():
    class Sums(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = net()

        def forward(self, x):
            return self.body(x).sum()

    with pytest.raises(ShapeError, match="a single number for a batch"):
        lk.compress(Sums(), lk.Prune(keep=0.5), rows(), evaluate=rows(), **QUIET)


def other(seed=7):
    """A network of the same build with other weights."""
    model = net()
    torch.manual_seed(seed)
    for part in (model[1], model[3], model[5]):
        part.reset_parameters()
    return model


def test_a_folder_of_another_network_teacher_or_calibration(tmp_path):
    steps = [lk.Prune(keep=0.5, steps=2, epochs=1)]
    given = {"teacher": other(8), "out": tmp_path / "chain", **QUIET}
    first = lk.compress(net(), steps, rows(), **given)
    with pytest.raises(RunFolderError, match="holds another chain: its model has other weights, or is built otherwise"):
        lk.compress(other(), steps, rows(), **given)
    with pytest.raises(RunFolderError, match="its teacher has other weights, or is built otherwise, than this one's"):
        lk.compress(net(), steps, rows(), **{**given, "teacher": other(9)})
    with pytest.raises(RunFolderError, match="it has a teacher, this one none"):
        lk.compress(net(), steps, rows(), **{**given, "teacher": None})
    with pytest.raises(RunFolderError, match="its calibration holds other samples than this one's"):
        lk.compress(net(), steps, rows(), calibration=rows(seed=5), **given)
    built = nn.Sequential(*net()[:4], nn.GELU(), net()[5])
    with pytest.raises(RunFolderError, match="its model"):
        lk.compress(built, steps, rows(), **given)
    assert same(bits(lk.compress(net(), steps, rows(), **given)), bits(first))


def test_a_folder_with_another_network_inside_a_step(tmp_path):
    def chain(seed):
        return [lk.Tune(student=other(seed), teacher=other(8), epochs=1)]

    lk.compress(net(), chain(3), rows(), out=tmp_path, **QUIET)
    lk.compress(net(), chain(3), rows(seed=9), out=tmp_path, **QUIET)  # nothing looks at a calibration
    with pytest.raises(RunFolderError, match="its student of step 1 has other weights"):
        lk.compress(net(), chain(4), rows(), out=tmp_path, **QUIET)


def test_a_folder_of_an_older_version_is_taken_as_it_is(tmp_path):
    lk.compress(net(), lk.Prune(keep=0.5), rows(), out=tmp_path, **QUIET)
    old = {
        key: value
        for key, value in json.loads((tmp_path / "chain.json").read_text()).items()
        if key in ("steps", "seed")
    }
    (tmp_path / "chain.json").write_text(json.dumps(old))
    (tmp_path / "1-prune" / "told.json").unlink()
    again = lk.compress(net(), lk.Prune(keep=0.5), rows(), out=tmp_path, **QUIET)
    assert again.ledger.rows[1].notes == []
    assert json.loads((tmp_path / "chain.json").read_text()) == old
    with pytest.raises(RunFolderError, match="its seed is 0"):
        lk.compress(net(), lk.Prune(keep=0.5), rows(), out=tmp_path, seed=1, **QUIET)


def test_what_was_said_and_how_long_it_took_is_read_back(tmp_path):
    steps = [lk.Prune(keep=0.5, steps=2, epochs=1), lk.Mask(sparsity=0.5), lk.Tune(epochs=1)]
    first = lk.compress(net(), steps, rows(), out=tmp_path, **QUIET)
    kept = (tmp_path / "ledger.json").read_text()
    again = lk.compress(net(), steps, rows(), out=tmp_path, **QUIET)
    told = {row.name: (row.notes, row.seconds) for row in first.ledger.rows}
    assert {row.name: (row.notes, row.seconds) for row in again.ledger.rows} == told
    assert (tmp_path / "ledger.json").read_text() == kept
    assert any("masks by themselves save no time" in note for note in told["2 mask"][0])
    parts = [seconds for name, (_, seconds) in told.items() if name.startswith("1 prune.")]
    assert told["1 prune"][1] >= sum(parts), "the line of a whole step has the time of all its parts"


def counted():
    walked = []

    class Batches:
        def __iter__(self):
            for batch in rows():
                walked.append(1)
                yield batch

        def __len__(self):
            return 4

    return Batches(), walked


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (
            lk.LotteryTicket(rounds=1, rewind=2),
            "step 2, LotteryTicket, asks for the weights of a training after 2 steps",
        ),
        (lk.Mask(by="movement"), "step 2, Mask, looks at the weights from before training"),
        (lk.Mask(by="large_init_same_sign", steps=2), "step 2, Mask, looks at the weights from before training"),
    ],
)
def test_what_only_a_run_can_do_is_told_before_anything_is_trained(step, said):
    data, walked = counted()
    with pytest.raises(LimbeckError, match=f"{said}.*use a recipe"):
        lk.compress(net(), [lk.Tune(epochs=20), step], data, **QUIET)
    assert walked == []


@pytest.mark.parametrize("steps", [lk.Mask(), [lk.Prune(keep=0.5), lk.Tune(epochs=1)]])
def test_a_teacher_whom_nobody_learns_from(steps):
    with pytest.raises(HyperParameterError, match="teacher: no step of this chain learns from it"):
        lk.compress(net(), steps, rows(), teacher=other(), **QUIET)


def test_what_is_missing():
    with pytest.raises(DataError, match="give batches, or example="):
        lk.compress(net(), lk.Prune(keep=0.5), **QUIET)
    with pytest.raises(LimbeckError, match=r"does not run on the example, a tensor \[3, 2, 8, 8\]: RuntimeError"):
        lk.compress(net(), [lk.Prune(keep=0.5)], [torch.zeros(3, 2, 8, 8)], quiet=True)
    with pytest.raises(DataError, match="2-tune: this step trains, and there are no batches"):
        lk.compress(net(), [lk.Prune(keep=0.5), lk.Tune()], example=rows()[0][0], **QUIET)
    with pytest.raises(LimbeckError, match="calibration"):
        lk.compress(net(), lk.Quantize("int8"), example=rows()[0][0], **QUIET)
    small = lk.compress(net(), lk.Prune(keep=0.5), example=rows()[0][0], **QUIET)
    assert small[1].out_features == 16, "weights alone need no data"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"seed": 0.5}, r"seed = 0\.5: a whole number"),
        ({"seed": "a"}, "seed = 'a': a whole number"),
        ({"calibration": True}, "calibration = True: a number of samples"),
        ({"calibration": 1.5}, r"calibration = 1\.5: a number of samples"),
    ],
)
def test_numbers_of_another_kind(given, said):
    with pytest.raises(HyperParameterError, match=said):
        lk.compress(net(), lk.Prune(keep=0.5), rows(), **given, **QUIET)


def test_inputs_by_name():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = net()

        def forward(self, pixels):
            return self.net(pixels)

    data = [({"pixels": x}, y) for x, y in rows()]
    small = lk.compress(Named(), [lk.Prune(keep=0.5), lk.Tune(epochs=1)], data, evaluate=data, **QUIET)
    assert small(**data[0][0]).shape == (16, 4)
    assert small.ledger.rows[-1].measured["n"] == 64
