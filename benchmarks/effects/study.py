"""What the effects study trains: every method on the same student, teacher, rows, epochs and seeds.

Settings are each method's preset "benchmark" (methods that have nothing published: their defaults), with ramps and
preparations that the benchmark gives in epochs scaled from its 240 to the study's own.  Nothing was tuned on the test part.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import limbeck as lk
from limbeck.recipe import Stage

HERE = Path(__file__).resolve().parent
TEACHER = HERE / "teacher.safetensors"
BENCHMARK_EPOCHS = 240


@dataclass(frozen=True, kw_only=True)
class Budget:
    """How much every training gets.

    Attributes:
        epochs, rows: of CIFAR-10's 45,000 training rows so many, stratified by the seed, so often.
    """

    epochs: int = 12
    rows: int | None = 5_000


@dataclass(frozen=True, kw_only=True)
class Student:
    """A network to train, and which of its layers face which of the teacher's.

    Attributes:
        model: its blueprint.
        pairs: (student layer, teacher layer) at 32x32, 16x16 and 8x8.
        long: how many times the epochs the plain student gets in ``alone-long``: as long as KD took, measured.
        own: settings that replace those of all students, by method.
        clip: the largest norm of the gradients, by method; the others' are not clipped.
    """

    model: lk.Model
    pairs: tuple[tuple[str, str], ...]
    long: float
    own: Mapping[str, Any] = field(default_factory=dict)
    clip: Mapping[str, float] = field(default_factory=dict)


STUDENTS: Mapping[str, Student] = {
    "resnet8": Student(
        model=lk.Model(name="resnet8"),
        pairs=(("layer1", "stem"), ("layer2", "layer1"), ("layer3", "layer2")),
        long=2.2,
    ),
    "resnet9-16": Student(
        model=lk.Model(name="resnet9", options={"width": 16}),
        pairs=(("stem", "stem"), ("layer1", "layer1"), ("layer2", "layer2")),
        long=2.1,
        # The plain half sum over 128 neurons is a loss of 27 beside the labels' 2; with it, training at this rate ended
        # in infinities (seed 0, epoch 6).  Here it is the mean over the neurons.
        own={"neurons": lk.NeuronSelection(weight=2 / 128)},
        # A loss of 53 to begin with: without this, chance level (seed 0) or infinities (seed 1).
        clip={"dkd": 1.0},
    ),
}


def training(budget: Budget, factor: float = 1.0) -> lk.Training:
    """How every network of the study trains."""
    return lk.Training(
        epochs=round(budget.epochs * factor),
        batch_size=128,
        optimizer=lk.Optimizer(kind="sgd", lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4),
        schedule=lk.Schedule(kind="onecycle"),
        precision="bf16",
        channels_last=True,
        compile=True,  # pays although the trainings are short: compiled code is kept on disk from one to the next
    )


def methods(student: Student, budget: Budget) -> dict[str, Any]:
    """The methods with one teacher, by the name of their stage."""
    pairs, last, middle = student.pairs, student.pairs[-1], student.pairs[1]
    part = budget.epochs / BENCHMARK_EPOCHS
    first: dict[str, Any] = {"paraphrase_epochs": max(1, round(30 * part))}
    found = {
        "kd": lk.preset("kd", "benchmark"),
        "logits": lk.LogitMatching(),
        "logits-cifar": lk.preset("logit_matching", "benchmark"),
        "noisy": lk.NoisyTeacher(form="kd", hard=0.1, soft=0.9, temperature=4.0),
        "dkd": lk.preset("dkd", "benchmark", soft=lk.Ramp(start=0.0, end=1.0, epochs=20 * part)),
        "static-labels": lk.preset("static_labels", "benchmark"),
        "cwtm": lk.ConfidenceWeighted(),
        "dkpp": lk.DarkKnowledgePermuted(temperature=4.0, soft=0.9, hard=0.1),
        "fitnets": lk.FitNets(pair=middle),
        "fitnets-one": lk.preset("fitnets", "benchmark", pair=middle),
        "pre-regression": lk.preset("pre_regression", "benchmark", pair=middle),
        "at": lk.preset("attention_transfer", "benchmark", pairs=pairs),
        "gradient-at": lk.GradientAttention(),
        "nst": lk.preset("nst", "benchmark", pairs=pairs),
        "nst-gan": lk.AdversarialNST(pairs=(last,)),
        "ft": lk.preset("factor_transfer", "benchmark", pair=last, **first),
        "ft-paper": lk.FactorTransfer(pair=last, **first),
        "neurons": lk.NeuronSelection(),
        "review": lk.preset(
            "review_kd", "benchmark", pairs=pairs, weight=lk.Ramp(start=0.0, end=5.0, epochs=20 * part)
        ),
        "vid": lk.preset("vid", "benchmark", pairs=pairs),
        "rkd": lk.preset("rkd", "benchmark"),
        "sp": lk.preset("similarity_preserving", "benchmark", pair=last),
        "pkt": lk.preset("pkt", "benchmark"),
        "cc": lk.preset("cc", "benchmark"),
        "crd": lk.preset("crd", "benchmark", count=4096),
        "kd+at": lk.Sum(lk.KD(soft=1.0, hard=0.0), lk.preset("attention_transfer", "benchmark", pairs=pairs)),
        "kd+nst": lk.Sum(lk.KD(soft=1.0, hard=0.0), lk.preset("nst", "benchmark", pairs=pairs)),
    }
    return {**found, **student.own}


def stages(student: Student, budget: Budget) -> tuple[Stage, ...]:
    """The two baselines, every method, and those with another cast or several trainings."""
    how = {"training": training(budget), "rows": budget.rows}
    taught: dict[str, Any] = {"student": "student", "teacher": "teacher", **how}
    found: list[Stage] = [
        lk.Train(name="alone", model="student", **how),
        lk.Train(name="alone-long", model="student", **{**how, "training": training(budget, student.long)}),
    ]
    for name, method in methods(student, budget).items():
        own = replace(taught["training"], clip=student.clip.get(name))
        found.append(lk.Distill(name=name.replace("+", "-"), method=method, **{**taught, "training": own}))
    found += [
        lk.Together(name="mutual", students=("student", "student"), method=lk.MutualLearning(), **how),
        lk.Together(name="cohort", students=("student", "student", "student"), method=lk.Cohort(), **how),
        lk.Distill(name="ban", student="student", teacher="alone", method=lk.BornAgain(generations=2, hard=1.0), **how),
        lk.Distill(name="refinery", method=lk.LabelRefinery(rounds=2), **taught),
        lk.Distill(name="assistant", method=lk.TeacherAssistant(assistants=("middle",)), **taught),
    ]
    return tuple(found)


def recipe(name: str, seed: int, budget: Budget) -> lk.Recipe:
    """One piece of the study: one student and one seed."""
    student = STUDENTS[name]
    return lk.Recipe(
        name=f"effects-{name}",
        data=lk.Data(source=lk.CIFAR10(), validation=5000, augment=lk.Augment(crop=4, flip=True)),
        seeds=(seed,),
        models={
            "teacher": lk.Model(name="resnet9", weights=str(TEACHER.relative_to(HERE.parents[1]))),
            "middle": lk.Model(name="resnet20"),
            "student": replace(student.model),
        },
        stages=stages(student, budget),
        baseline="alone",
    )
