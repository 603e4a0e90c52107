"""Recipe -> YAML -> Recipe is exact, and the hash depends on what a recipe says, not on how."""

from __future__ import annotations

import random

import pytest
import yaml

from limbeck import catalog
from limbeck.config import read, read_recipe, recipe_hash, to_data, to_yaml
from limbeck.data.spec import CIFAR10, Augment, Data, Digits, ImageFolder, Parquet
from limbeck.methods import KD, NST, AttentionTransfer, FactorTransfer, FitNets, Supervised, preset
from limbeck.recipe import Distill, Evaluate, Machine, Model, Recipe, Train
from limbeck.settings import Optimizer, Ramp, Schedule, Training

FULL = Recipe(
    name="all of it",
    models={
        "teacher": Model(name="wrn_16_2", weights="runs/t.safetensors"),
        "student": Model(name="resnet8", options={"width": 2, "flags": [True, None, "no"], "deep": {"x": 1e-9}}),
    },
    stages=(
        Train(name="alone", model="student", rows=200, method=Supervised(label_smoothing=0.1)),
        Distill(
            name="kd",
            student="student",
            teacher="teacher",
            method=KD(temperature=8, soft=Ramp(start=4, end=1, epochs=500)),
            training=Training(
                epochs=2,
                optimizer=Optimizer(kind="adamw", lr=1e-3, betas=(0.8, 0.95)),
                schedule=Schedule(kind="step", milestones=(0.5, 0.75)),
                clip=1.0,
                ema=0.999,
                precision="bf16",
            ),
            per_seed=False,
        ),
        Distill(
            name="fit",
            student="alone",
            teacher="teacher",
            method=FitNets(pair=("layer2", "layer2"), hint_optimizer=Optimizer(kind="rmsprop", lr=0.005)),
        ),
        Distill(name="at", student="student", teacher="teacher", method=AttentionTransfer(kind="max_pow", p=4)),
        Distill(name="nst", student="student", teacher="teacher", method=NST(pairs=(("a.b", "c"), ("d", "e.f.0")))),
        Evaluate(name="test", models=("kd", "teacher"), split="validation"),
    ),
    data=Data(source=CIFAR10(folder="x y", download=False), validation=5000, augment=Augment(crop=4, flip=True), mean=(0.5, 0.25, 1.0)),
    seeds=(0, 1, 7),
    baseline="alone",
)  # fmt: skip


@pytest.mark.parametrize("defaults", [False, True])
def test_round_trip_is_exact(defaults):
    machine = Machine(accelerator="cpu", threads=2)
    back = read(to_yaml(FULL, machine, defaults=defaults))
    assert back.recipe == FULL
    assert back.machine == machine
    assert recipe_hash(back.recipe) == recipe_hash(FULL)


def test_the_yaml_means_the_same_to_a_reader_of_yaml_1_1():
    assert yaml.safe_load(to_yaml(FULL)) == to_data(FULL)


def test_defaults_are_left_out_and_short_forms_used():
    recipe = Recipe(models={"s": Model(name="mlp")}, stages=(Train(name="a", model="s"),))
    assert to_data(recipe) == {
        "name": "run",
        "models": {"s": "mlp"},
        "stages": [{"kind": "train", "name": "a", "model": "s"}],
    }
    whole = to_data(recipe, Machine(), defaults=True)
    assert whole["stages"][0]["method"].items() >= {"kind": "supervised", "label_smoothing": 0.0}.items()
    assert whole["stages"][0]["training"]["optimizer"]["lr"] == 0.1
    assert whole["data"]["source"] == {"kind": "digits"}
    assert whole["machine"]["devices"] == 1


WORDS = ["no", "1e-3", "null", "~", "0x10", "012", "12:30", "- a", "#x", "", " x ", "a: b", "yes", "<<", "=", ".5", "é", "\n", "*a", "!t", "2026-01-31", "true", "tab\t"]  # fmt: skip


@pytest.mark.parametrize("seed", range(25))
def test_random_recipes_survive(seed):
    r = random.Random(seed)

    def number(low: float, high: float) -> float:
        return r.choice([r.uniform(low, high), float(r.randint(int(low) + 1, int(high) + 1)), low + 1e-7])

    def weight():
        return r.choice([number(0, 5), Ramp(start=number(0, 3), end=number(0, 3), epochs=r.choice([None, 1.5]))])

    methods = [
        KD(temperature=number(0, 9), soft=weight()),
        NST(pairs=tuple({r.choice(["a", "layer1", "no"]): "x"}.items()), weight=weight()),
        FitNets(pair=r.choice([None, ("1", "true")]), hard=weight()),
        Supervised(label_smoothing=r.random() * 0.9),
    ]
    sources = [
        Digits(),
        CIFAR10(),
        Parquet(train=r.choice(WORDS), size=r.choice([None, 32])),
        ImageFolder(train="a", test=r.choice(WORDS)),
    ]
    recipe = Recipe(
        name=r.choice(WORDS),
        models={"s": Model(name="resnet8", options={w: r.choice(WORDS) for w in r.sample(WORDS, 3)}), "t": Model(name="mlp", weights=r.choice(WORDS[:5]))},
        stages=tuple(Distill(name=f"stage-{i}", student="s", teacher="t", method=r.choice(methods), rows=r.choice([None, 5])) for i in range(r.randint(1, 3))),
        data=Data(source=r.choice(sources), validation=r.choice([0.25, 5000, 1e-4])),
        seeds=tuple(r.sample(range(-5, 2**40), r.randint(1, 3))),
    )  # fmt: skip
    text = to_yaml(recipe, defaults=r.random() < 0.5)
    assert read_recipe(text) == recipe
    assert recipe_hash(read_recipe(text)) == recipe_hash(recipe)


def test_the_hash_sees_every_setting_and_no_spelling():
    text = "models: {s: mlp}\nstages:\n  - {kind: train, name: a, model: s, training: {epochs: 3}}\n"
    same = "stages:\n- training: {epochs: 3, batch_size: 128}\n  model: s\n  name: a\n  kind: train\nmodels:\n  s: {name: mlp}\nseeds: [0]\n"
    other = text.replace("epochs: 3", "epochs: 4")
    first = recipe_hash(read_recipe(text))
    assert len(first) == 12
    assert set(first) <= set("0123456789abcdef")
    assert recipe_hash(read_recipe(same)) == first
    assert recipe_hash(read_recipe(other)) != first
    assert recipe_hash(read(text, ["machine.threads=2"]).recipe) == first


def test_every_method_and_source_has_a_name_that_comes_back():
    for kind in ("method", "source"):
        for name, entry in catalog.entries(kind).items():
            cls = entry.load()
            value = (
                cls(train="x")
                if name in ("parquet", "image_folder")
                else cls()
                if kind == "source"
                else preset(cls, "paper")
            )
            assert catalog.name_of(value) == name


@pytest.mark.parametrize("written", ["5000", "5000.0", "5e+3"])
def test_a_number_of_rows_is_written_as_one(written):
    text = f"models: {{s: mlp}}\ndata: {{validation: {written}}}\nstages: [{{kind: train, name: a, model: s}}]\n"
    assert "data: {validation: 5000}\n" in to_yaml(read_recipe(text))


def test_a_preset_within_a_method_of_another():
    text = """
models: {student: resnet8, teacher: {name: resnet20, weights: t.safetensors}}
stages:
  - {kind: distill, name: f, student: student, teacher: teacher, method: {kind: feed_sequence, transfer: {preset: benchmark, rate: 0.75}}}
"""
    (stage,) = read_recipe(text).stages
    assert stage.method.transfer == preset("factor_transfer", "benchmark", rate=0.75)
    assert stage.method.transfer != FactorTransfer(rate=0.75)
