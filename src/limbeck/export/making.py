"""Exporting a network: written beside its place, opened again, compared, and only then given its name."""

from __future__ import annotations

import glob
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from limbeck import record
from limbeck.data.iterables import Batches
from limbeck.errors import HyperParameterError, LimbeckError
from limbeck.export.checking import allowance, compared, doubt, quantized
from limbeck.export.deploy import FORMAT, NAME, is_export, read_deploy, sealed, write_deploy
from limbeck.export.subject import Subject, subject
from limbeck.export.targets import Target, target
from limbeck.phase import Batch
from limbeck.randomness import own_random_numbers
from limbeck.settings import finite, require

_PACKAGES = ("onnx", "onnxruntime", "onnxscript", "openvino", "executorch", "torchao")


@dataclass(frozen=True)
class Exported:
    """What an export left.

    Attributes:
        folder: where it is.
        told: what its ``deploy.json`` says.
    """

    folder: Path
    told: Mapping[str, Any]

    @property
    def file(self) -> Path:
        """The file to open."""
        return self.folder / self.told["file"]

    @property
    def max_difference(self) -> float | None:
        """The largest difference of a logit from the network's, on the batches of the check; None where nothing could run."""
        return self.told["check"]["max_difference"]

    @property
    def bytes(self) -> int:
        """Of all files together, ``deploy.json`` apart."""
        return sum(seal["bytes"] for seal in self.told["files"].values())


def export(
    model: nn.Module,
    path: str | os.PathLike[str],
    *,
    to: str = "onnx",
    example: Any,
    classes: Sequence[str] | None = None,
    preprocessing: Mapping[str, Any] | None = None,
    calibration: Iterable[Any] = (),
    test: Iterable[Any] = (),
    tolerance: float | None = None,
    origin: Mapping[str, Any] | None = None,
    say: Callable[[str], None] | None = None,
) -> Exported:
    """Write a network as files that run elsewhere, and make sure that they compute the same.

    The files are written into a folder beside ``path``, opened there, and run beside the network on batches of 1, 3 and 7
    rows.  Only then is the folder renamed; an export that differs leaves nothing behind.  The network stays as it is, bit by
    bit; a copy in eval mode, on the CPU, is what is written.

    Args:
        model: any network that returns logits, or what `limbeck.phase.logits_of` finds them in.
        path: the folder to make.  An earlier export there is replaced; anything else is left alone.
        to: "onnx", "onnx-int8", "torch", "aot", "safetensors", "openvino" or "executorch"; see docs/export.md.
        example: a batch as the network takes it: a tensor, a tuple of tensors, or a mapping for keyword arguments.
        classes: a list of their names, in the order of the logits.
        preprocessing: how a picture becomes an input, as `limbeck.export.pictures.preprocessing` says it; None: unknown.
        calibration: for "onnx-int8" of a float network: batches of data, as in training but without augmentation; anything
            that `limbeck.data.to_batch` understands.  Of several inputs: mappings with the example's names (``input1``, ``input2`` for
            a tuple).
        test: for "onnx-int8": batches on which int8 is compared with float; without any, the calibration batches.
        tolerance: the largest difference of a logit, as a part of the largest logit on the batches of the check.
            Default 1e-4; eight units in the last place for networks in half precision; 0.05 for networks that are int8 already, where values at the edge of a step may fall to either side.
        origin: plain data for ``deploy.json`` on where the network is from.
        say: called with a line before every step that may take seconds.

    Returns:
        The folder and what is told in its ``deploy.json``.

    Raises:
        NameUnknown: no such format.
        HyperParameterError: no calibration batches, classes or preprocessing that do not fit, what no JSON holds, or a
            tolerance below zero.
        LimbeckError: a package is missing, torch cannot export the network, or what came out differs.

    Example:
        >>> import tempfile, torch
        >>> net = nn.Sequential(nn.Flatten(), nn.Linear(4, 3))
        >>> done = export(net, tempfile.mkdtemp() + "/net", to="torch", example=torch.zeros(1, 1, 2, 2), classes=["a", "b", "c"])
        >>> done.file.name, done.max_difference < 1e-6
        ('model.pt2', True)
    """
    format = target(to)
    if tolerance is not None:
        require(finite(tolerance) and tolerance >= 0, "tolerance", tolerance, "zero or more")
    say = say or _nothing
    folder = Path(path)
    if folder.is_symlink():  # a link to an earlier export stays one
        folder = folder.resolve()
    _require_place(folder)
    with own_random_numbers():
        taken = subject(model, example)
        logits = taken(taken.example)
        _require_told(taken, logits, classes, preprocessing, origin)
        program = taken.in_int8
        if program and format.floats_only:
            raise HyperParameterError(f"{format.floats_only}; --to onnx or --to torch keep it whole")
        calibrated = format.calibrates and not program
        batches = _batches("calibration", calibration) if calibrated else []
        if calibrated and not batches:
            raise HyperParameterError(
                f"{to} of a float network looks at data: give calibration=..., batches of inputs as in training"
            )
        allowed = tolerance if tolerance is not None else 0.05 if program else allowance(logits)
        with _beside(folder) as place:
            say(f"writing {format.title} ...")
            if calibrated:
                details = format.writer(taken, place, batches)
            elif format.calibrates:
                details = target("onnx").writer(taken, place)  # it is int8 already
            else:
                details = format.writer(taken, place)
            if program:
                details = {**details, "int8": True}
            told = _told(taken, format, logits, classes, preprocessing, origin, details)
            if program and format.name == "aot":
                say("note: torch compiles no int8 kernels ahead of time; --to onnx is the fast form of this network")
            say("comparing it with the network ...")
            check = _checked(taken, format, place, told, _batches("test", test) or batches, calibrated, allowed)
            if (note := doubt(check)) is not None:
                say(f"note: {note}")
            told = {**told, "check": check, "files": sealed(place)}
            write_deploy(place, told)
            _rename(place, folder)
    return Exported(folder, told)


def _require_told(
    taken: Subject,
    logits: Tensor,
    classes: Sequence[str] | None,
    preprocessing: Mapping[str, Any] | None,
    origin: Mapping[str, Any] | None,
) -> None:
    """Refuse what cannot stand in ``deploy.json``, before anything is written."""
    if classes is not None:
        if isinstance(classes, (str, Mapping)) or not isinstance(classes, Iterable):
            raise HyperParameterError(
                f"classes is a {type(classes).__name__}: a list of names in the order of the logits; of a mapping from numbers to names "
                "[names[k] for k in sorted(names)]"
            )
        if len(classes) != (count := logits.shape[_axis(logits)]):
            raise HyperParameterError(
                f"classes has {len(classes)} names, and the network gives {count} logits; one name for each"
            )
    if (
        preprocessing is not None
        and len(taken.example) == 1
        and taken.example[0].dim() == 4
        and "size" in preprocessing
    ):
        picture = [1 if preprocessing.get("channels") == "grey" else 3, *preprocessing["size"]]
        if (shape := list(taken.example[0].shape[1:])) != picture:
            raise HyperParameterError(
                f"preprocessing makes inputs of {picture} (channels, height, width), and the example has {shape}"
            )
    try:
        json.dumps([preprocessing, origin], allow_nan=False)
    except (TypeError, ValueError) as error:
        raise HyperParameterError(f"preprocessing and origin are plain data, as JSON holds it: {error}") from error


def _axis(logits: Tensor) -> int:
    """Where the classes are: last, but for maps of scores ``[batch, classes, height, width]``."""
    return 1 if logits.dim() >= 4 else -1


_AXES = {1: "second", -1: "last"}


def _nothing(text: str) -> None:
    del text


def _batches(what: str, given: Iterable[Any]) -> list[Batch]:
    return list(Batches(list(given) if isinstance(given, Iterator) else given, f"the {what} batches"))


def _told(
    taken: Subject,
    format: Target,
    logits: Tensor,
    classes: Sequence[str] | None,
    preprocessing: Mapping[str, Any] | None,
    origin: Mapping[str, Any] | None,
    details: Mapping[str, Any],
) -> dict[str, Any]:
    rows = "batch" if format.open_rows else 1
    return {
        "format": FORMAT,
        "to": format.name,
        "file": format.file,
        "made": record.now(),
        "inputs": [
            {
                "name": name,
                "shape": [rows, *tensor.shape[1:]],
                "dtype": str(tensor.dtype).removeprefix("torch."),
                "layout": "NCHW" if tensor.dim() == 4 else None,
                "dynamic_batch": format.open_rows,
            }
            for name, tensor in zip(taken.names, taken.example)
        ],
        "output": {
            "name": taken.answer,
            "shape": [rows, *logits.shape[1:]],
            "dtype": str(logits.dtype).removeprefix("torch."),
            "meaning": f"logits: a score for each class; their softmax over the {_AXES[_axis(logits)]} axis is the probability of each",
        },
        "classes": None if classes is None else list(map(str, classes)),
        "preprocessing": None if preprocessing is None else dict(preprocessing),
        "origin": None if origin is None else dict(origin),
        "details": dict(details),
        "versions": {**record.versions(), **_versions()},
    }


def _versions() -> dict[str, str]:
    found = {}
    for name in _PACKAGES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _checked(
    taken: Subject,
    format: Target,
    place: Path,
    told: Mapping[str, Any],
    batches: Sequence[Batch],
    calibrated: bool,
    tolerance: float,
) -> dict[str, Any]:
    if format.name == "safetensors" and told["details"]["structure"] is None:
        return {"against": None, "max_difference": None}  # there is nothing to run
    run = format.opener(place, told)
    if calibrated:
        return quantized(taken, run, batches)
    return compared(taken, run, tolerance)


# -- the folder ------------------------------------------------------------------------------------


def _require_place(folder: Path) -> None:
    """A folder that is not there, is empty, or holds an export and nothing else."""
    if folder.is_dir():
        if not any(folder.iterdir()):
            return
        if not is_export(folder):
            held = sorted(path.name for path in folder.iterdir())
            raise LimbeckError(
                f"{folder} is not empty and no export (it holds {', '.join(held[:5])}); choose another folder"
            )
        strangers = _strangers(folder)
        if strangers:
            raise LimbeckError(
                f"{folder} holds an export and something else ({', '.join(strangers[:5])}); choose another folder"
            )
    elif folder.exists():
        raise LimbeckError(f"{folder} is a file; an export is a folder: choose another name")


def _strangers(folder: Path) -> list[str]:
    try:
        known = {NAME, *read_deploy(folder)["files"]}
    except LimbeckError:  # a damaged export is one that may be made again
        return []
    found = (path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sorted(name for name in found if name not in known)


@contextmanager
def _beside(folder: Path) -> Iterator[Path]:
    """A new folder beside another; gone afterwards, unless it was renamed."""
    place = folder.absolute().with_name(f".{folder.absolute().name}.{os.getpid()}.part")
    try:
        for left in place.parent.glob(f".{glob.escape(folder.absolute().name)}.*.*"):
            *_, number, kind = left.name.split(".")
            if kind not in ("part", "old") or _at_work(number):
                continue
            if kind == "old" and not folder.exists():  # killed between stepping aside and the new name
                left.rename(folder)
            shutil.rmtree(left, ignore_errors=True)
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(parents=True)
    except OSError as error:
        raise LimbeckError(f"cannot write beside {folder}: {error.strerror or error}; choose another folder") from error
    try:
        yield place
    except LimbeckError:
        raise
    except OSError as error:
        raise LimbeckError(f"cannot write {folder}: {error.strerror or error}; choose another folder") from error
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _at_work(number: str) -> bool:
    """Whether there is a process of this number."""
    try:
        os.kill(int(number), 0)
    except (ProcessLookupError, ValueError):
        return False
    except OSError:  # somebody else's
        return True
    return True


def _rename(place: Path, folder: Path) -> None:
    """Give the new folder its name; an earlier export under it steps aside first."""
    old = place.with_suffix(".old")
    if folder.exists():
        shutil.rmtree(old, ignore_errors=True)
        folder.rename(old)
    try:
        place.rename(folder)
    except OSError:
        if old.exists():
            old.rename(folder)
        raise
    shutil.rmtree(old, ignore_errors=True)
