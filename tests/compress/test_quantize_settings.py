"""What Quantize accepts, its lessons, and what it needs installed."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata

import pytest

from limbeck.compress.int8 import needs
from limbeck.compress.quantize import Convert, Prepare, Quantize
from limbeck.course import STUDENT, TEACHER, Lesson, Operation, lessons_of
from limbeck.errors import HyperParameterError, LimbeckError
from limbeck.methods import KD

BAD = {
    "dtype": ({"dtype": "int3"}, r"dtype = 'int3': one of int8, int4"),
    "mode": ({"mode": "fast"}, r"mode = 'fast': one of static, dynamic, weights, qat"),
    "observer": ({"observer": "mean"}, r"observer = 'mean': one of histogram, minmax"),
    "int4": ({"dtype": "int4"}, r'dtype = "int4" with mode = \'static\': 4 bits are for storage only'),
    "one scale": ({"mode": "qat", "per_channel": False}, r"per_channel = False .* per-channel scales only"),
    "skip": ({"skip": "fc"}, r"skip = 'fc': a list of names of layers, such as \['fc'\]"),
    "skip numbers": ({"skip": (3,)}, r"skip = \(3,\): a list of names of layers"),
    "batches": ({"calibration_batches": 0}, r"calibration_batches = 0: at least 1"),
    "epochs": ({"mode": "qat", "epochs": 0}, r"epochs = 0: at least 1"),
    "epochs elsewhere": ({"epochs": 3}, r'epochs is for mode = "qat"; mode \'static\' trains nothing'),
    "observer of weights": (
        {"mode": "weights", "observer": "minmax"},
        r'observer is for mode = "static"; mode \'weights\'',
    ),
    "observer of qat": ({"mode": "qat", "observer": "minmax"}, r"mode 'qat' finds no ranges that way"),
    "observer of dynamic": ({"mode": "dynamic", "observer": "minmax"}, r"mode 'dynamic' finds no ranges that way"),
    "batches for weights": (
        {"mode": "weights", "calibration_batches": 2},
        r'calibration_batches is for mode = "static" or "qat"; mode \'weights\' needs no calibration',
    ),
    "batches for dynamic": ({"mode": "dynamic", "calibration_batches": 2}, r"mode 'dynamic' needs no calibration"),
    "range of weights": ({"mode": "weights", "reduce_range": True}, r"mode 'weights' leaves activations in float"),
    "teacher elsewhere": ({"from_float": True}, r'from_float is for mode = "qat"'),
}


@pytest.mark.parametrize("case", list(BAD))
def test_settings_that_are_refused(case):
    settings, text = BAD[case]
    with pytest.raises(HyperParameterError, match=text):
        Quantize(**settings)


def test_modes_without_training_have_no_lessons():
    for mode in ("static", "dynamic", "weights"):
        assert Quantize("int8", mode=mode).lessons() == ()
    with pytest.raises(HyperParameterError, match="is a course: prepare, train, convert"):
        Quantize(mode="qat")(None, example=None)  # type: ignore[arg-type]


def test_the_lessons_of_training():
    plain = Quantize(mode="qat")
    first, middle, last = lessons_of(plain)
    assert isinstance(first, Operation)
    assert (first.name, first.how, first.student) == ("prepared", Prepare(settings=plain), STUDENT)
    assert isinstance(middle, Lesson)
    assert (middle.student, middle.teachers, middle.method, middle.training) == (".prepared", (TEACHER,), None, {})
    assert isinstance(last, Operation)
    assert (last.name, last.how, last.student) == ("", Convert(settings=plain), f".{middle.name}")
    _, middle, _ = lessons_of(Quantize(mode="qat", from_float=True, method=KD(temperature=2.0), epochs=3))
    assert isinstance(middle, Lesson)
    assert (middle.teachers, middle.method, middle.training) == ((STUDENT,), KD(temperature=2.0), {"epochs": 3})


def test_settings_need_no_torch():
    code = "import sys, limbeck.compress.quantize as q; q.Quantize(mode='qat').lessons(); print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "False"


@pytest.mark.parametrize(
    ("torch", "torchao", "text"),
    [
        ("2.15.0", None, r"int8 needs torchao 0.18 or newer, which is not installed: pip install 'torchao>=0.18'"),
        ("2.15.0", "0.9.1", r"int8 needs torchao 0.18 or newer; 0.9.1 is installed"),
        ("2.13.1+cpu", "0.18.0", r"int8 needs torch 2.14 or newer; 2.13.1\+cpu is installed"),
    ],
)
def test_what_is_needed(torch, torchao, text, monkeypatch):
    def version(name):
        found = {"torch": torch, "torchao": torchao}[name]
        if found is None:
            raise metadata.PackageNotFoundError(name)
        return found

    monkeypatch.setattr(needs, "version", version)
    with pytest.raises(LimbeckError, match=text):
        needs.require_installed()
