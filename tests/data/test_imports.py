"""The plain-data part of the room costs no import of torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

import limbeck.data


def test_specs_import_without_torch():
    code = "import sys, limbeck.data, limbeck.data.spec; limbeck.data.Digits(); sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_every_public_name_is_there():
    for name in limbeck.data.__all__:
        assert getattr(limbeck.data, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'lode'"):
        _ = limbeck.data.lode
