"""Networks as files that run elsewhere: made, opened again, and compared with the network before they get their name.

The room is the function, too: ``limbeck.export(model, "folder", to="onnx", example=batch)`` is `limbeck.export.making.export`.
Importing this package imports no torch; asking it for a function does.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import TYPE_CHECKING, Any

from limbeck.lazy import exports, fetch

if TYPE_CHECKING:
    from limbeck.export.making import export
    from limbeck.export.opening import open_export
    from limbeck.export.runs import export_run, open_run
    from limbeck.export.scan_page import write_scan
    from limbeck.export.scanning import scan_run
    from limbeck.export.timing import time_run

_HOME = {
    "export": "making",
    "export_run": "runs",
    "open_export": "opening",
    "open_run": "runs",
    "scan_run": "scanning",
    "time_run": "timing",
    "write_scan": "scan_page",
}

__all__ = ["export", "export_run", "open_export", "open_run", "scan_run", "time_run", "write_scan"]

__getattr__, __dir__ = exports(__name__, _HOME)


class _Room(ModuleType):
    """A module that can be called: ``limbeck.export`` is both, whichever of the two was asked for first."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return fetch("limbeck.export.making", "export")(*args, **kwargs)


sys.modules[__name__].__class__ = _Room
