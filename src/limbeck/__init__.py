"""limbeck: turn a big trained network into a small, fast one, and prove what that cost.

>>> import limbeck as lk
>>> lk.KD(temperature=4)
KD(temperature=4, soft=0.9, hard=0.1, label_smoothing=0.0)

Names are loaded when they are asked for; ``import limbeck`` imports no torch.
"""

from __future__ import annotations

import importlib
from importlib.metadata import version as _version
from typing import TYPE_CHECKING, Any

from limbeck.catalog import COMPRESSORS, COURSES, METHODS
from limbeck.lazy import fetch

if TYPE_CHECKING:
    from limbeck import attacks, losses, methods, models, scores
    from limbeck.api import distill, train, train_together
    from limbeck.api.chain import Tune, compress
    from limbeck.compress import *  # noqa: F403
    from limbeck.data.spec import CIFAR10, Augment, Data, Digits, ImageFolder, Parquet
    from limbeck.errors import LimbeckError
    from limbeck.export import export
    from limbeck.methods import *  # noqa: F403
    from limbeck.methods.presets import preset
    from limbeck.models.byname import build
    from limbeck.models.weights import load_weights, save_weights
    from limbeck.phase import Batch, Cast, Moment, Phase, Seen, Term, Update
    from limbeck.recipe import Compress, Distill, Ensemble, Evaluate, Machine, Model, Recipe, Together, Train
    from limbeck.runner import run
    from limbeck.settings import Optimizer, Ramp, Schedule, Training
    from limbeck.taps import Tapped, capture, shapes

_HOME = {
    **dict.fromkeys(("distill", "train", "train_together"), "api"),
    **dict.fromkeys(("Tune",), "api.chain"),
    **dict.fromkeys([entry.attribute for entry in COMPRESSORS], "compress"),
    **dict.fromkeys(("CIFAR10", "Augment", "Data", "Digits", "ImageFolder", "Parquet"), "data.spec"),
    "LimbeckError": "errors",
    **dict.fromkeys((*(entry.attribute for entry in (*METHODS, *COURSES)), "preset"), "methods"),
    **dict.fromkeys(("build", "load_weights", "save_weights"), "models"),
    **dict.fromkeys(("Batch", "Cast", "Moment", "Phase", "Seen", "Term", "Update"), "phase"),
    **dict.fromkeys(
        ("Compress", "Distill", "Ensemble", "Evaluate", "Machine", "Model", "Recipe", "Together", "Train"), "recipe"
    ),
    "run": "runner",
    **dict.fromkeys(("Optimizer", "Ramp", "Schedule", "Training"), "settings"),
    **dict.fromkeys(("Tapped", "capture", "shapes"), "taps"),
}
_ROOMS = ("attacks", "compress", "export", "losses", "methods", "models", "scores")

__all__ = [  # pyright: ignore[reportUnsupportedDunderAll]
    "CIFAR10",
    "Augment",
    "Batch",
    "Cast",
    "Compress",
    "Data",
    "Digits",
    "Distill",
    "Ensemble",
    "Evaluate",
    "ImageFolder",
    "LimbeckError",
    "Machine",
    "Model",
    "Moment",
    "Optimizer",
    "Parquet",
    "Phase",
    "Ramp",
    "Recipe",
    "Schedule",
    "Seen",
    "Tapped",
    "Term",
    "Together",
    "Train",
    "Training",
    "Tune",
    "Update",
    "__version__",
    "attacks",
    "build",
    "capture",
    "compress",
    "distill",
    "export",
    "load_weights",
    "losses",
    "methods",
    "models",
    "preset",
    "run",
    "save_weights",
    "scores",
    "shapes",
    "train",
    "train_together",
    *(entry.attribute for entry in (*METHODS, *COURSES, *COMPRESSORS)),
]
__version__ = _version("limbeck")


def __getattr__(name: str) -> Any:
    if name in _ROOMS:
        return importlib.import_module(f"limbeck.{name}")
    if name not in _HOME:
        raise AttributeError(f"module 'limbeck' has no attribute {name!r}")
    found = fetch(f"limbeck.{_HOME[name]}", name)
    globals()[name] = found  # a submodule of the same name ("run") must not hide it
    return found


def __dir__() -> list[str]:
    return sorted(__all__)
