"""How fast the networks of a run are, in every form that this machine can run, timed in turn."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from limbeck.compress import forms
from limbeck.compress.cost import Latency, is_program, latency, one_thread
from limbeck.compress.forms import FORMS
from limbeck.errors import LimbeckError, NameUnknown, unknown
from limbeck.export.making import export
from limbeck.export.runs import OpenRun, calibration, open_run
from limbeck.settings import require

BASELINE = "eager"
_FILES = {"onnxruntime int8": lambda file, inputs: forms.session(file), "openvino int8": forms.openvino}
_COMPILED = frozenset({"compiled", "bf16 compiled", "int8 compiled"})


@dataclass(frozen=True)
class Timed:
    """What was measured.

    Attributes:
        run, seed: which networks.
        original: the network that the others are compared with, in the form `against`.
        against: that form.
        times: batch size -> network -> form -> its time; all of one batch size took turns in one process.
        missing: network -> form -> why it could not be had here.
    """

    run: str
    seed: int
    original: str
    against: str
    times: Mapping[int, Mapping[str, Mapping[str, Latency]]]
    missing: Mapping[str, Mapping[str, str]]

    def faster(self, batch: int, network: str, form: str) -> float:
        """How many times faster than the original in its form, by the medians; below 1: slower."""
        return self.times[batch][self.original][self.against].median_ms / self.times[batch][network][form].median_ms


def time_run(
    folder: str | Path,
    *,
    models: Sequence[str] = (),
    seed: int | None = None,
    batches: Sequence[int] = (1, 32),
    only: Sequence[str] = (),
    against: str = BASELINE,
    repeats: int | None = None,
    say: Callable[[str], None] | None = None,
) -> Timed:
    """Time networks of a run in several forms, on one CPU thread, beside the original.

    "onnxruntime int8" is what ``limbeck export --to onnx-int8`` makes, calibrated with rows of the run; of a network that
    is in int8 already, its graph in ONNX.  "openvino int8" is the same file in OpenVINO.  "int8 compiled" of a float network is calibrated with the timed batch alone:
    its time is right, its answers are rough.

    Args:
        folder: of the run.
        models: names of its networks; none: the last one that it made.  The original comes along by itself.
        seed: the repetition; None: the first.
        batches: samples per forward, each 1 or more.
        only: forms out of `FORMS`; none: all that can be had.
        against: the form of the original that is the measure.
        repeats: forwards of each that count; None: 50 for one sample, fewer for many, 9 at least.
        say: called with a line before every step that takes seconds.

    Raises:
        NameUnknown: no such network, seed or form.
        HyperParameterError: a batch below 1.
        LimbeckError: the original cannot be had in the form that is the measure.
    """
    for name in (*only, against):
        if name not in FORMS:
            raise NameUnknown(unknown("form", name, FORMS))
    for batch in batches:
        require(batch >= 1, "batch", batch, "samples, 1 or more")
    say = say or (lambda text: None)
    run = open_run(folder, partly=bool(models))
    wanted = list(models) or [run.last]
    used = run.seed(wanted[-1], seed)
    original = run.original(wanted[-1]) or wanted[-1]
    names = list(dict.fromkeys([original, *wanted]))
    networks = {name: run.model(name, seed) for name in names}
    kept = set(only) | {against} if only else set(FORMS)
    times, missing = {}, {name: {} for name in names}
    with tempfile.TemporaryDirectory() as scratch, one_thread():
        files = {}
        if kept & _FILES.keys():
            for name, network in networks.items():
                say(f"writing {name} as ONNX in int8 ...")
                files[name] = _onnx_int8(run, network, used, Path(scratch) / name)
        for batch in batches:
            inputs = torch.randn(batch, *run.work.data.shape, generator=torch.Generator().manual_seed(0))
            made: dict[tuple[str, str], nn.Module] = {}
            # Compiled forms last of all: making an ONNX file throws away what torch compiled before.
            for some in (kept - _COMPILED, kept & _COMPILED):
                for name, network in networks.items():
                    if some & _COMPILED:
                        say(f"compiling {name} for batches of {batch} ...")
                    for form, found in _forms(network, inputs, some, files.get(name)):
                        if isinstance(found, str):
                            missing[name][form] = found
                        else:
                            made[name, form] = found
            if (original, against) not in made:
                why = missing[original].get(against, "there is no such form of this network")
                raise LimbeckError(f"{original} cannot be timed {against!r}, the measure of all others: {why}")
            say(f"timing {len(made)} in turn with batches of {batch} ...")
            count = repeats or max(9, min(50, 2000 // batch))
            keyed = latency({f"{n}\n{f}": m for (n, f), m in made.items()}, inputs, repeats=count)
            times[batch] = {n: {f: keyed[f"{n}\n{f}"] for f in FORMS if (n, f) in made} for n in names}
    return Timed(str(run.told.name), used, original, against, times, {n: m for n, m in missing.items() if m})


def _forms(
    network: nn.Module, inputs: Tensor, kept: set[str], file: Path | str | None
) -> Iterator[tuple[str, nn.Module | str]]:
    yield from forms.tried(network, inputs, kept)
    for form, make in _FILES.items():
        if form in kept and file is not None:
            try:
                yield form, make(file, inputs) if isinstance(file, Path) else file
            except LimbeckError as error:
                yield form, str(error).partition("\n")[0]


def _onnx_int8(run: OpenRun, network: nn.Module, seed: int, folder: Path) -> Path | str:
    """The file, or why there is none."""
    example: Any = torch.zeros(1, *run.work.data.shape)
    try:
        rows = [] if is_program(network) else calibration(run, seed)
        return export(network, folder, to="onnx-int8", example=example, calibration=rows).file
    except LimbeckError as error:
        return str(error).partition("\n")[0]
