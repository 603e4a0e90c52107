from __future__ import annotations

import subprocess
import sys

import pytest
from mini_driver import run, stage

from limbeck import catalog
from limbeck.errors import HyperParameterError, NameUnknown
from limbeck.methods import KD, NST, AttentionTransfer, FitNets, preset
from limbeck.methods.presets import presets_of
from limbeck.settings import Optimizer, Ramp


def test_every_method_of_the_catalogue_has_both_presets():
    for entry in catalog.METHODS:
        assert {"paper", "benchmark"} <= set(presets_of(entry.load()))
        for name in presets_of(entry.load()):
            assert type(preset(entry.name, name)) is entry.load()


def test_published_numbers():
    assert preset("kd", "benchmark") == KD(temperature=4.0, soft=0.9, hard=0.1)
    assert preset(NST, "benchmark") == NST(form="benchmark", weight=50.0)
    assert preset("AttentionTransfer", "benchmark") == AttentionTransfer(form="benchmark", weight=1000.0)
    paper = preset(FitNets, "paper")
    assert (paper.temperature, paper.soft, paper.hint_weight) == (3.0, Ramp(start=4.0, end=1.0, epochs=500), 1.0)
    assert isinstance(paper.hint_optimizer, Optimizer)
    assert (paper.hint_optimizer.kind, paper.hint_optimizer.lr) == ("rmsprop", 0.005)
    assert preset(FitNets, "benchmark").hint_weight == 100.0
    assert preset(FitNets, "one_stage").stages == "one"


def test_changes_are_made_and_checked():
    assert preset("kd", "paper", temperature=8.0).temperature == 8.0
    with pytest.raises(HyperParameterError, match="temperature = 0"):
        preset("kd", "paper", temperature=0)
    with pytest.raises(NameUnknown, match="no field 'temprature' in KD; near: temperature"):
        preset("kd", "paper", temprature=3)


def test_unknown_names_have_near_ones():
    with pytest.raises(NameUnknown, match="no method 'fitnet'; near: fitnets"):
        preset("fitnet", "paper")
    with pytest.raises(NameUnknown, match="no preset 'papers' in KD; near: paper"):
        preset("kd", "papers")


@pytest.mark.parametrize("name", ["paper", "benchmark", "one_stage"])
def test_the_presets_of_fitnets_run(name):
    cast = stage()
    for phase in preset("fitnets", name).phases(cast):
        assert run(phase, cast.example)


def test_methods_need_no_torch_before_they_run():
    code = (
        "import sys; from limbeck.methods import *; from limbeck.methods import preset; FitNets(), NST(), KD();"
        "preset('fitnets', 'paper'); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
