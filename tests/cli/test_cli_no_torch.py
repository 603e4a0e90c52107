"""What the command line says about names, recipes and runs, it says without torch (its import takes seconds)."""

from __future__ import annotations

import subprocess
import sys

import pytest

PROGRAM = """
import sys
from limbeck.cli import main
code = main(sys.argv[1:])
heavy = sorted({name.split(".")[0] for name in sys.modules} & {"torch", "torchvision", "lightning_fabric", "matplotlib", "sklearn", "pyarrow"})
print("heavy:", *heavy, file=sys.stderr)
sys.exit(code)
"""
RECIPE = "models: {s: resnet8}\nstages:\n  - {kind: train, name: a, model: s}\n"


@pytest.mark.parametrize(
    "words",
    [
        ["--help"],
        ["run", "--help"],
        ["methods"],
        ["methods", "fitnets"],
        ["methods", "--json"],
        ["new", "nst"],
        ["schema"],
        ["check", "--shape-only", "-"],
        ["check", "-", "--set", "stages.a.model=x"],
        ["report", "no-such-run"],
    ],
    ids=" ".join,
)
def test_no_torch(words):
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", PROGRAM, *words], input=RECIPE, capture_output=True, text=True
    )
    assert done.stderr.splitlines()[-1] == "heavy:", done.stderr
    wrong = "stages.a.model=x" in words or words[0] == "report"
    assert (done.returncode != 0) == wrong, done.stderr
    assert "Traceback" not in done.stderr


def test_the_package_runs_as_a_module():
    def module(*words):
        return subprocess.run([sys.executable, "-m", "limbeck", *words], capture_output=True, text=True)

    assert module("methods", "kd").stdout.startswith("kd")
    wrong = module("methods", "no-such-method")
    assert wrong.returncode == 2
    assert "no-such-method" in wrong.stderr
