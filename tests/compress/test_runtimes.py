"""Networks run by other programs than torch."""

from __future__ import annotations

import subprocess
import sys

import pytest

from limbeck.compress.runtimes import openvino_core

pytest.importorskip("openvino")

SIGNAL_AFTER_TWO_NETWORKS = """
import faulthandler, gc, os, signal
faulthandler.enable()  # gives signals memory of their own, as pytest and many a server do
import torch
from limbeck.compress.runtimes import openvino
x = torch.zeros(1, 4)
first = openvino(torch.nn.Linear(4, 2), x)
second = openvino(torch.nn.Linear(4, 3), x)
assert first(x).shape == (1, 2) and second(x).shape == (1, 3)
del first
gc.collect()
del second
gc.collect()
signal.signal(signal.SIGINT, lambda *_: print("asked to stop"))
os.kill(os.getpid(), signal.SIGINT)
"""


def test_signals_are_safe_after_networks_that_were_dropped():
    done = subprocess.run([sys.executable, "-c", SIGNAL_AFTER_TWO_NETWORKS], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "asked to stop"), done.stderr


def test_there_is_one_openvino():
    assert openvino_core() is openvino_core()
