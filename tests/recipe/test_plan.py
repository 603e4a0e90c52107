"""What runs: courses become stages, students that learn together become results of their own."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from limbeck import config
from limbeck.compress import LotteryTicket, Mask, Prune
from limbeck.course import Gathering, Lesson, is_course, lessons_of
from limbeck.errors import LimbeckError, RecipeError
from limbeck.methods import KD, NST, BornAgain, DefensiveDistillation, MutualLearning, Sum, TeacherAssistant
from limbeck.recipe import (
    Compress,
    Distill,
    Ensemble,
    Evaluate,
    Model,
    Peer,
    Recipe,
    Together,
    Train,
    baseline_of,
    cast_of,
    expand,
)

MODELS = {"big": Model(name="digits_cnn"), "mid": Model(name="plain_2"), "thin": Model(name="digits_cnn_thin")}
TEACHER = Train(name="teacher", model="big", per_seed=False)


def recipe(*stages, models=MODELS, **more):
    return Recipe(models=models, stages=stages, **more)


def names(stages):
    return [stage.name for stage in stages]


def test_most_stages_stand_for_themselves():
    for stage in (TEACHER, Distill(name="kd", student="thin", teacher="teacher", method=KD()), Evaluate(name="end")):
        assert expand(stage) == (stage,)


def test_born_again_is_a_stage_per_generation_and_their_average():
    stage = Distill(name="ban", student="big", teacher="teacher", method=BornAgain(generations=3), rows=100)
    first, second, last, ensemble = expand(stage)
    assert names(expand(stage)) == ["ban.1", "ban.2", "ban", "ban.ensemble"]
    assert [s.teacher for s in (first, second, last)] == ["teacher", "ban.1", "ban.2"]
    assert {s.student for s in (first, second, last)} == {"big"}
    assert {s.rows for s in (first, second, last)} == {100}
    assert ensemble == Ensemble(name="ban.ensemble", members=("ban.1", "ban.2", "ban"))
    assert len({s.init for s in (first, second, last)}) == 3, "each generation starts from weights of its own"
    other = Distill(name="control", student="big", teacher="teacher", method=BornAgain(generations=3, control="dkpp"))
    assert [s.init for s in expand(other)[:3]] == [s.init for s in (first, second, last)], "variants stay paired"


def test_a_chain_goes_from_each_to_the_next():
    stage = Distill(name="ta", student="thin", teacher="teacher", method=TeacherAssistant(assistants=("mid",)))
    hop, last = expand(stage)
    assert (hop.name, hop.student, hop.teacher) == ("ta.mid", "mid", "teacher")
    assert (last.name, last.student, last.teacher) == ("ta", "thin", "ta.mid")
    assert hop.method == last.method == KD()
    (plain,) = expand(Distill(name="ta", student="thin", teacher="teacher", method=TeacherAssistant()))
    assert plain == Distill(name="ta", student="thin", teacher="teacher", method=KD())


def test_a_course_may_train_its_own_teacher():
    first, last = expand(Train(name="safe", model="thin", method=DefensiveDistillation()))
    assert isinstance(first, Train)
    assert isinstance(last, Distill)
    assert (first.name, last.name, last.teacher) == ("safe.teacher", "safe", "safe.teacher")


def test_students_that_learn_together_have_names_and_roles():
    stage = Together(name="dml", students=("thin", "thin", "mid"), method=MutualLearning())
    assert expand(stage) == (
        stage,
        Peer(name="dml.2", student="thin", of="dml", place=2),
        Peer(name="dml.3", student="mid", of="dml", place=3),
    )
    assert cast_of(stage) == {"student": "thin", "peer2": "thin", "peer3": "mid"}


def test_the_plan_is_what_later_stages_may_name():
    ban = Distill(name="ban", student="big", teacher="teacher", method=BornAgain(generations=2))
    after = Distill(name="kd", student="thin", teacher="ban.ensemble", method=KD())
    made = recipe(TEACHER, ban, after, Evaluate(name="end", models=("ban.1", "kd")))
    assert names(made.plan) == ["teacher", "ban.1", "ban", "ban.ensemble", "kd", "end"]
    with pytest.raises(RecipeError, match=r"no model 'ban\.3' in this recipe before that stage; near: .*ban\.1"):
        recipe(TEACHER, ban, Distill(name="kd", student="thin", teacher="ban.3", method=KD()))


def test_the_baseline_is_the_plain_student():
    alone = Train(name="alone", model="thin")
    together = Together(name="dml", students=("thin", "thin"), method=MutualLearning())
    assert baseline_of(recipe(TEACHER, alone, together)) == "alone"
    assert baseline_of(recipe(TEACHER, together)) is None


WRONG = [
    (
        Train(name="ban", model="thin", method=BornAgain()),
        "BornAgain learns from a teacher: use a stage of kind distill",
    ),
    (
        Distill(name="safe", student="thin", teacher="teacher", method=DefensiveDistillation()),
        "DefensiveDistillation trains its own teacher: use a stage of kind train",
    ),
    (
        Together(name="all", students=("thin", "mid"), method=BornAgain()),
        "BornAgain is several trainings in a row, each of one student; use a distill stage",
    ),
    (
        Distill(name="ta", student="thin", teacher="teacher", method=TeacherAssistant(assistants=("middle",))),
        "no model 'middle' in this recipe before that stage",
    ),
    (
        Distill(name="ban", student="teacher", teacher="teacher", method=BornAgain()),
        "BornAgain draws new weights for each lesson; name a blueprint",
    ),
    (Distill(name="kd", student="thin", teacher=("teacher", "teacher"), method=KD()), "'teacher' is there twice"),
    (Distill(name="kd", student="thin", teacher=("teacher", "mid"), method=KD()), "'mid' is untrained here"),
    (Ensemble(name="both", members=("teacher", "thin")), "'thin' is untrained here"),
    (Ensemble(name="both", members=("teacher", "teacher")), "'teacher' is there twice"),
    (Train(name="more", model="teacher", init="b"), "it continues from trained weights, so there are none to draw"),
    (
        Together(name="dml", students=("teacher", "teacher"), method=MutualLearning()),
        "'teacher' is there twice, and trained: both would start from the same weights",
    ),
    (Together(name="dml", students=("thin", "nobody"), method=MutualLearning()), "no model 'nobody'"),
]


@pytest.mark.parametrize(("stage", "text"), WRONG, ids=[text[:40] for _, text in WRONG])
def test_what_does_not_fit_is_said_once(stage, text):
    with pytest.raises(RecipeError) as caught:
        recipe(TEACHER, stage)
    assert str(caught.value).count(text) == 1, caught.value


def test_new_weights_are_drawn_only_where_there_are_none():
    shadow = Train(name="thin", model="thin")
    ban = Distill(name="ban", student="thin", teacher="teacher", method=BornAgain(generations=2))
    with pytest.raises(RecipeError, match="BornAgain draws new weights for each lesson; name a blueprint"):
        recipe(TEACHER, shadow, ban)
    given = {**MODELS, "tuned": Model(name="digits_cnn", weights="t.safetensors")}
    with pytest.raises(RecipeError, match="it continues from trained weights, so there are none to draw"):
        recipe(Train(name="more", model="tuned", init="b"), models=given)
    with pytest.raises(RecipeError, match="both would start from the same weights"):
        recipe(Together(name="dml", students=("tuned", "tuned"), method=MutualLearning()), models=given)


def test_assistants_are_no_plain_students():
    mid, alone = Train(name="plain-mid", model="mid"), Train(name="alone", model="thin")
    ta = Distill(name="ta", student="thin", teacher="teacher", method=TeacherAssistant(assistants=("mid",)))
    assert baseline_of(recipe(TEACHER, mid, alone, ta)) == "alone"


def test_stages_with_too_few_networks():
    with pytest.raises(ValueError, match=r"students = .*at least two networks"):
        Together(name="dml", students=("thin",), method=MutualLearning())
    with pytest.raises(ValueError, match=r"members = .*at least one network"):
        Ensemble(name="none", members=())
    with pytest.raises(ValueError, match=r"teacher = .*at least one"):
        Distill(name="kd", student="thin", teacher=(), method=KD())


def test_generated_names_do_not_hide_others():
    with pytest.raises(RecipeError, match=r"stage name 'ban\.1' is used twice"):
        recipe(
            TEACHER,
            Train(name="ban.1", model="thin"),
            Distill(name="ban", student="thin", teacher="teacher", method=BornAgain(generations=2)),
        )


# -- networks beside


@pytest.mark.parametrize("steps", [1, 3])
def test_masks_that_look_back_see_the_network_that_the_stage_names(steps):
    how = Mask(by="movement", steps=steps)
    made = recipe(TEACHER, Compress(name="s", model="teacher", how=how, beside=("big",)))
    parts = [stage for stage in made.plan if isinstance(stage, Compress)]
    assert [stage.beside for stage in parts] == [("big",)] * steps
    with pytest.raises(
        RecipeError, match=r"Mask as it is set here looks at the weights from before training: name that"
    ):
        recipe(TEACHER, Compress(name="s", model="teacher", how=how))


@pytest.mark.parametrize(
    "how", [Prune(keep=0.5), Prune(keep=0.5, steps=2), Mask(), Mask(steps=2), LotteryTicket(rounds=1)]
)
def test_a_network_beside_that_nobody_looks_at(how):
    with pytest.raises(RecipeError, match="as it is set here looks at no network but its own; leave beside out"):
        recipe(TEACHER, Compress(name="s", model="teacher", how=how, beside=("big",)))


# -- courses themselves


@dataclass(frozen=True)
class Given:
    parts: tuple

    def lessons(self):
        return self.parts


@pytest.mark.parametrize(
    ("parts", "text"),
    [
        ((), "the last lesson, and no other, has an empty name"),
        ((Lesson(name="a", method=KD()),), "the last lesson, and no other, has an empty name"),
        ((Lesson(method=KD()), Lesson(method=KD())), "the last lesson, and no other, has an empty name"),
        ((Lesson(method=KD(), teachers=(".a",)),), r"'the last lesson' refers to '\.a', which no lesson before leaves"),
        (
            (Lesson(name="a", method=KD()), Lesson(name="a", method=KD()), Lesson(method=KD())),
            "two lessons are called 'a'",
        ),
        ((Lesson(method=KD()), Gathering(name="g", members=(".b",))), r"'g' refers to '\.b'"),
        (
            (Lesson(method=KD()), Gathering(name="g", members=("b",))),
            r"members are results of lessons, written '\.NAME'",
        ),
        ((Lesson(name="../x", method=KD()), Lesson(method=KD())), r"lesson name '\.\./x'"),
        ((Lesson(method=BornAgain()),), "the method of a lesson is no course"),
    ],
)
def test_lessons_that_do_not_fit_together(parts, text):
    with pytest.raises(LimbeckError, match=text):
        lessons_of(Given(parts))
    stage = Distill(name="x", student="thin", teacher="teacher", method=Given(parts))
    with pytest.raises(RecipeError, match=text):
        recipe(TEACHER, stage)


def test_what_is_a_course():
    assert is_course(BornAgain())
    assert not is_course(KD())
    assert not is_course(BornAgain)


# -- in YAML

TEXT = """
models: {big: digits_cnn, mid: plain_2, thin: digits_cnn_thin}
stages:
- {kind: train, name: teacher, model: big}
- {kind: train, name: second, model: big, init: b}
- {kind: ensemble, name: both, members: [teacher, second]}
- {kind: distill, name: ens, student: thin, teacher: [teacher, second], method: ensemble_kd}
- {kind: distill, name: sum, student: thin, teacher: both, method: [kd, {kind: nst, weight: 5}]}
- kind: distill
  name: weighted
  student: thin
  teacher: both
  method: {kind: sum, methods: [kd, nst], weights: [1, {start: 1, end: 0}], hard: 0.5}
- {kind: together, name: dml, students: [thin, mid], method: mutual_learning}
- {kind: distill, name: ban, student: big, teacher: teacher, method: {kind: born_again, generations: 2}}
"""


def test_yaml_there_and_back():
    made = config.read(TEXT).recipe
    stages = {stage.name: stage for stage in made.stages}
    assert stages["ens"].teachers == ("teacher", "second")
    assert stages["sum"].method == Sum(KD(), NST(weight=5.0))
    assert stages["weighted"].method.hard == 0.5
    again = config.read(config.to_yaml(made)).recipe
    assert again == made
    assert config.recipe_hash(again) == config.recipe_hash(made)
    assert config.to_data(made)["stages"][4]["method"] == ["kd", {"kind": "nst", "weight": 5.0}]


def test_a_field_of_one_class_takes_no_other_method():
    text = TEXT.replace("{kind: born_again, generations: 2}", "{kind: feed_sequence, transfer: {kind: %s}}")
    assert config.read(text % "factor_transfer").recipe
    with pytest.raises(RecipeError, match=r"method\.transfer\.kind: no 'nst' here: it must be a FactorTransfer"):
        config.read(text % "nst")


def test_yaml_mistakes_inside_a_sum():
    def said(old, new):
        assert old in TEXT
        with pytest.raises(RecipeError) as caught:
            config.read(TEXT.replace(old, new))
        return str(caught.value)

    assert "stages[4].method.methods[1].weigth: no key 'weigth' in method 'nst'; near: weight" in said(
        "{kind: nst, weight: 5}", "{kind: nst, weigth: 5}"
    )
    assert "no method 'nstt'; near: nst" in said("[kd, nst]", "[kd, nstt]")
    assert "two or more; one method needs no sum" in said("[kd, {kind: nst, weight: 5}]", "[kd]")
    assert "a course, which is several trainings, cannot be part of a sum" in said("[kd, nst]", "[kd, born_again]")
    assert "one weight for each of the 2 methods" in said("weights: [1, {start: 1, end: 0}]", "weights: [1]")
