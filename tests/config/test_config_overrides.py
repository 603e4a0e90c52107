"""``--set path=value``."""

from __future__ import annotations

import pytest

from limbeck.config import read, read_recipe
from limbeck.errors import RecipeError
from limbeck.recipe import Distill, Train

TEXT = """\
models:
  student: resnet8
  teacher: {name: wrn_16_2, weights: t.safetensors}
stages:
  - kind: train
    name: alone
    model: student
    training: &t {epochs: 3}
  - kind: distill
    name: kd.v1
    student: student
    teacher: teacher
    method: kd
    training: *t
"""


def changed(*sets: str):
    return read_recipe(TEXT, sets)


@pytest.mark.parametrize("path", ["stages.1", "stages[1]", "stages.kd.v1"])
def test_a_stage_goes_by_number_or_name(path):
    stage = changed(f"{path}.method.temperature=8").stages[1]
    assert isinstance(stage, Distill)
    assert stage.method.temperature == 8.0


def test_a_section_that_is_not_there_is_made():
    stage = changed("stages.alone.training.optimizer.lr=1e-3").stages[0]
    assert isinstance(stage, Train)
    assert stage.training.optimizer.lr == 1e-3
    assert stage.training.epochs == 3
    assert changed("data.augment.flip=true").data.augment.flip is True


def test_an_alias_changes_alone():
    recipe = changed("stages.alone.training.epochs=9")
    assert [stage.training.epochs for stage in recipe.stages if not hasattr(stage, "split")] == [9, 3]


def test_short_forms_grow():
    assert changed("models.student.options={dropout: 0.1}").models["student"].options == {"dropout": 0.1}
    assert changed("data.source=cifar10", "data.source.download=false").data.source.download is False
    summed = changed("stages.kd.v1.method=[kd, nst]", "stages.kd.v1.method.0.temperature=7").stages[1]
    assert isinstance(summed, Distill)
    assert summed.method.methods[0].temperature == 7.0
    small = changed(
        "stages.0={kind: compress, name: alone, model: student, how: quantize}", "stages.0.how.mode=dynamic"
    )
    assert small.stages[0].how.mode == "dynamic"


def test_values_are_yaml():
    recipe = changed("seeds=[3, 4]", "name=no", "baseline=", "models.student.weights='7'")
    assert recipe.seeds == (3, 4)
    assert recipe.name == "no"
    assert recipe.baseline is None
    assert recipe.models["student"].weights == "7"


def test_a_later_one_wins_and_a_list_entry_goes_by_number():
    assert changed("seeds=[3, 4]", "seeds.1=9").seeds == (3, 9)


def test_the_machine_can_be_set():
    assert read(TEXT, ["machine.threads=2"]).machine.threads == 2


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("stages.kdv1.method.temperature=8", "--set stages.kdv1.method.temperature=8: no stage 'kdv1' in this recipe; near: kd.v1"),
        ("stages.7.name=x", "--set stages.7.name=x: stages has 2 entries, counted from 0"),
        ("seeds", "--set seeds: expected PATH=VALUE"),
        ("=3", "--set =3: expected PATH=VALUE"),
        ("name=[1", "--set name=[1: not YAML"),
        ("stages.0.model.x=1", "--set stages.0.model.x=1: stages.0.model is the text 'student'; it has no parts"),
        ("seeds=!!python/name:os.system", "!!python/name:os.system is not read"),
        ("stages.1.method.temprature=8", "--set stages.1.method.temprature=8: stages[1].method.temprature: no key 'temprature' in method 'kd'; near: temperature"),
        ("stages.1.method.temperature=-8", "--set stages.1.method.temperature=-8: stages[1].method.temperature: temperature = -8.0"),
        ("modles.student=resnet20", "--set modles.student=resnet20: modles: no key 'modles' in a recipe; near: models"),
    ],
)  # fmt: skip
def test_a_wrong_one_is_named(given, message):
    with pytest.raises(RecipeError) as caught:
        changed(given)
    assert len(caught.value.problems) == 1, caught.value.problems
    assert message in caught.value.problems[0]


def test_all_wrong_ones_are_told_with_those_of_the_file():
    with pytest.raises(RecipeError) as caught:
        read(TEXT.replace("epochs: 3", "epochs: 0"), ["stages.x.name=1", "nothing", "seeds=7"])
    told = caught.value.problems
    assert any(line.startswith("--set stages.x.name=1: no stage") for line in told)
    assert any(line.startswith("--set nothing: expected") for line in told)
    assert any(line.startswith("--set seeds=7: seeds: expected a list") for line in told)
    assert any(line.startswith("<text>:8: stages[0].training.epochs") for line in told)
