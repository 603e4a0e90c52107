"""Chains and trainings from Python with loaders, networks and folders that are out of the ordinary."""

from __future__ import annotations

import copy
import io
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

import limbeck as lk
from limbeck.compressor import findings
from limbeck.errors import DataError, HyperParameterError, LimbeckError, RunFolderError

QUIET = {"quiet": True, "latency": False}


@dataclass(frozen=True, kw_only=True)
class Copy:
    """The same network again."""

    def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = ()) -> nn.Module:
        return copy.deepcopy(model)


def net(seed: int = 0) -> nn.Sequential:
    torch.manual_seed(seed)
    return nn.Sequential(nn.Linear(8, 32), nn.ReLU(), nn.Linear(32, 32), nn.ReLU(), nn.Linear(32, 3))


def data(rows: int = 64) -> tuple[Tensor, Tensor]:
    torch.manual_seed(1)
    x = torch.randn(rows, 8)
    return x, (x[:, 0] > 0).long() + (x[:, 1] > 0).long()


X, Y = data()
BATCHES = [(X[i : i + 16], Y[i : i + 16]) for i in range(0, len(X), 16)]


def shuffled() -> DataLoader:
    return DataLoader(TensorDataset(X, Y), batch_size=16, shuffle=True)


# -- agreement ---------------------------------------------------------------------------------


def test_a_copy_agrees_with_its_original_however_the_rows_are_shuffled() -> None:
    small = lk.compress(net(), Copy(), BATCHES, evaluate=shuffled(), **QUIET)
    first, second = small.ledger.rows
    assert second.agreement == 1.0
    assert first.measured["accuracy"] == pytest.approx(second.measured["accuracy"])


def test_agreement_with_a_teacher_does_not_depend_on_the_order_of_rows() -> None:
    def agreement(evaluate: Iterable[Any]) -> float:
        return lk.distill(net(), net(1), BATCHES, epochs=1, evaluate=evaluate, quiet=True).record.agreement

    assert agreement(shuffled()) == pytest.approx(agreement(BATCHES))


# -- networks ----------------------------------------------------------------------------------


class Named(nn.Module):
    """Layers and methods with names that limbeck would use."""

    def __init__(self) -> None:
        super().__init__()
        self.record, self.ledger = nn.Linear(8, 16), nn.Linear(16, 3)
        self.lessons = ["one"]

    def summary(self) -> str:
        return "mine"

    def forward(self, x: Tensor) -> Tensor:
        return self.ledger(self.record(x).relu())


def test_what_a_network_calls_its_own_stays() -> None:
    model = Named()
    with pytest.warns(UserWarning, match="this Named has a record of its own, so limbeck's is called limbeck_record"):
        lk.train(model, BATCHES, epochs=1, quiet=True)
    assert model(X).shape == (64, 3)
    assert model.limbeck_record.epochs == 1
    with pytest.warns(UserWarning, match="of its own") as told:
        small = lk.compress(model, Copy(), BATCHES, **QUIET)
    assert [str(w.message).rpartition(" ")[2] for w in told] == ["limbeck_ledger", "limbeck_summary"]
    assert small(X).shape == (64, 3)
    assert small.summary() == "mine"
    assert len(small.limbeck_ledger.rows) == 2


def test_a_second_training_hangs_its_record_in_the_place_of_the_first(recwarn: pytest.WarningsRecorder) -> None:
    model = net()
    lk.train(model, BATCHES, epochs=1, quiet=True)
    first = model.record
    lk.train(model, BATCHES, epochs=2, quiet=True)
    assert (first.epochs, model.record.epochs) == (1, 2)
    assert not [w for w in recwarn if "limbeck" in str(w.message)]


class Frames(nn.Module):
    """Four rows at a time are one film."""

    def __init__(self) -> None:
        super().__init__()
        self.look, self.out = nn.Linear(8, 32), nn.Linear(32, 3)

    def forward(self, x: Tensor) -> Tensor:
        return self.out(self.look(x).relu().view(-1, 4, 32).mean(1)).repeat_interleave(4, 0)


def test_networks_that_do_not_take_one_sample() -> None:
    model = Frames()
    lk.train(model, BATCHES, epochs=1, quiet=True)
    assert model.record.cost["student"]["macs"] == 8 * 32 + 32 * 3 // 4
    small = lk.compress(model, lk.Factorize(rank=2, measured=False), BATCHES, evaluate=BATCHES, quiet=True)
    first, last = small.ledger.rows
    assert first.macs == 8 * 32 + 32 * 3 // 4
    assert last.macs < first.macs
    assert first.latency is None
    assert "1 sample at a time is no batch that these networks take, so it is not timed" in first.notes
    assert last.latency_32["batch"] == 32
    assert "times: median of 10 forwards, 1 thread" in small.summary()


def test_inputs_with_a_number_of_their_own() -> None:
    class Scaled(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 3)

        def forward(self, x: Tensor, scale: Tensor) -> Tensor:
            return self.fc(x * scale)

    batches = [{"x": x, "scale": torch.tensor(2.0), "labels": y} for x, y in BATCHES]
    model = Scaled()
    lk.train(model, batches, epochs=1, quiet=True)
    assert model.record.cost["student"]["macs"] == 24


def test_networks_that_keep_what_they_computed_are_explained() -> None:
    class Keeps(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.fc = nn.Linear(8, 3)

        def forward(self, x: Tensor) -> Tensor:
            self.last = self.fc(x)
            return self.last

    model = Keeps()
    model(X)
    with pytest.raises(LimbeckError, match=r"keeps tensors that were computed with gradients: last"):
        lk.compress(model, Copy(), BATCHES, **QUIET)


# -- arguments ---------------------------------------------------------------------------------


@pytest.mark.parametrize("calibration", [0, []])
def test_without_calibration_the_first_batch_still_shows_how_the_network_is_called(calibration: Any) -> None:
    small = lk.compress(net(), lk.Factorize(rank=2, measured=False), BATCHES, calibration=calibration, **QUIET)
    assert isinstance(small[2], nn.Sequential)


@pytest.mark.parametrize(
    ("model", "sample"), [(net(), X[0]), (nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU()), torch.zeros(3, 8, 8))]
)
def test_a_sample_alone_is_no_batch(model: nn.Module, sample: Tensor) -> None:
    with pytest.raises(DataError, match=r"example is one sample, a tensor \[.*\]: give a batch"):
        lk.compress(model, Copy(), example=sample, **QUIET)


def test_training_is_one() -> None:
    with pytest.raises(HyperParameterError, match=r"training = 5: a limbeck\.Training"):
        lk.compress(net(), lk.Tune(), BATCHES, training=5, **QUIET)


# -- folders -----------------------------------------------------------------------------------

IMAGES = [(torch.randn(16, 1, 8, 8), torch.randint(0, 3, (16,))) for _ in range(2)]


def pictures(
    *, stride: int = 1, dilation: int = 1, mode: str = "zeros", rate: float = 0.1, frozen: bool = False
) -> Any:
    torch.manual_seed(0)
    made = nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=dilation, dilation=dilation, padding_mode=mode),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=stride, padding=1),
        nn.Dropout(rate),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, 3),
    )
    made[0].requires_grad_(not frozen)
    return made


def factorized(out: Path, model: nn.Module, **others: Any) -> nn.Module:
    return lk.compress(model, lk.Factorize(rank=0.5, measured=False), out=out, **{"batches": IMAGES, **QUIET, **others})


@pytest.mark.parametrize(
    "other", [{"stride": 2}, {"dilation": 2}, {"mode": "circular"}, {"rate": 0.9}, {"frozen": True}], ids=str
)
def test_a_folder_knows_the_settings_of_the_layers(tmp_path: Path, other: dict[str, Any]) -> None:
    factorized(tmp_path / "c", pictures())
    factorized(tmp_path / "c", pictures())
    with pytest.raises(RunFolderError, match="holds another chain: a layer of its networks has other settings"):
        factorized(tmp_path / "c", pictures(**other))


def test_a_folder_knows_the_settings_of_another_student(tmp_path: Path) -> None:
    def run(rate: float) -> None:
        step = lk.Tune(epochs=1, student=pictures(rate=rate))
        lk.compress(pictures(), step, IMAGES, out=tmp_path / "c", **QUIET)

    run(0.1)
    with pytest.raises(RunFolderError, match=r"its step 1 is|a layer of its networks"):
        run(0.5)


def test_a_folder_knows_the_example(tmp_path: Path) -> None:
    here = {"batches": None, "example": torch.zeros(4, 1, 8, 8)}
    factorized(tmp_path / "c", pictures(), **here)
    factorized(tmp_path / "c", pictures(), **{**here, "example": torch.zeros(2, 1, 8, 8)})
    with pytest.raises(
        RunFolderError, match=r"its example is a tensor \[batch, 1, 8, 8\], this one's a tensor \[batch, 1, 24, 24\]"
    ):
        factorized(tmp_path / "c", pictures(), **{**here, "example": torch.zeros(4, 1, 24, 24)})


def test_details_are_read_back(tmp_path: Path) -> None:
    first, again = (factorized(tmp_path / "c", pictures()) for _ in range(2))
    assert findings(again).details == findings(first).details != {}


def test_a_compressor_of_ones_own_may_tell_what_no_file_holds(tmp_path: Path) -> None:
    @dataclass(frozen=True, kw_only=True)
    class Tells:
        def __call__(self, model: nn.Module, *, example: Any, calibration: Iterable[Any] = ()) -> nn.Module:
            from limbeck.compressor import tell

            new = copy.deepcopy(model)
            tell(new, "told", odd=object(), width=3)
            return new

    run: Callable[[], nn.Module] = lambda: lk.compress(net(), Tells(), BATCHES, out=tmp_path / "c", **QUIET)  # noqa: E731
    run()
    assert findings(run()).details == {"width": 3}


class Sparse(nn.Module):
    """Weights that are mostly nothing, kept as such."""

    def __init__(self, seed: int) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.register_buffer("weight", torch.randn(3, 8).relu().to_sparse())

    def forward(self, x: Tensor) -> Tensor:
        return torch.sparse.mm(self.get_buffer("weight"), x.t()).t()


def in_integers(seed: int) -> nn.Module:
    quantization = pytest.importorskip("torchao.quantization")
    model = net(seed).eval()
    quantization.quantize_(model, quantization.Int8WeightOnlyConfig())
    return model


@pytest.mark.parametrize("make", [Sparse, in_integers])
def test_teachers_whose_weights_are_no_plain_tensors(make: Callable[[int], nn.Module], tmp_path: Path) -> None:
    teacher, student = make(1), net()
    lk.distill(teacher, student, BATCHES, epochs=1, quiet=True, out=tmp_path)
    file = io.BytesIO()
    torch.save(teacher.state_dict(), file)
    assert student.record.cost["teacher"]["bytes"] == len(file.getvalue())
    again = net(2)
    lk.distill(make(1), again, [(X, Y)], epochs=1, quiet=True, out=tmp_path)
    assert torch.equal(again[0].weight, student[0].weight)
    with pytest.raises(RunFolderError, match="what was made of another teacher, with other weights"):
        lk.distill(make(2), net(), BATCHES, epochs=1, quiet=True, out=tmp_path)
    with pytest.raises(LimbeckError, match=r"weight of \w+ is a .*; only plain tensors can be stored"):
        lk.save_weights(teacher, tmp_path / "teacher.safetensors")
