"""What is wrong with a recipe: all of it at once, each with its line."""

from __future__ import annotations

import pytest

from limbeck.config import read, read_recipe
from limbeck.errors import RecipeError

GOOD = """\
name: good
seeds: [0, 1]
models:
  student: resnet8
  teacher: {name: wrn_16_2, weights: t.safetensors}
stages:
  - kind: train
    name: alone
    model: student
  - kind: distill
    name: kd
    student: student
    teacher: teacher
    method: {kind: kd, temperature: 4}
  - kind: evaluate
    name: test
    models: [teacher, alone, kd]
"""


def problems(text: str, sets=()) -> tuple[str, ...]:
    with pytest.raises(RecipeError) as caught:
        read(text, sets)
    return caught.value.problems


def test_the_good_recipe_is_good():
    recipe = read_recipe(GOOD)
    assert [stage.name for stage in recipe.stages] == ["alone", "kd", "test"]
    assert recipe.stages[1].method.temperature == 4.0


# (what is replaced in GOOD, by what, the one problem that this makes)
ONE_BY_ONE = [
    ("name: good", "name: 3", "<text>:1: name: expected text, got the number 3"),
    ("name: good", "nmae: good", "<text>:1: nmae: no key 'nmae' in a recipe; near: name"),
    ("seeds: [0, 1]", "seeds: []", "<text>:2: seeds: a recipe needs at least one seed"),
    ("seeds: [0, 1]", "seeds: 0", "<text>:2: seeds: expected a list of whole numbers, got the number 0; write [0]"),
    ("seeds: [0, 1]", "seeds: [0, 1.5]", "<text>:2: seeds[1]: expected a whole number, got the number 1.5"),
    ("seeds: [0, 1]", "seeds: [0, true]", "<text>:2: seeds[1]: expected a whole number, got true"),
    ("student: resnet8", "student: resnt8", "<text>:4: models.student.name: no network 'resnt8' in the zoo; near: resnet8"),
    ("student: resnet8", "student: 8", "<text>:4: models.student: expected a mapping (name, weights, options)"),
    ("weights: t", "weihgts: t", "<text>:5: models.teacher.weihgts: no key 'weihgts' in 'teacher'; near: weights"),
    (", weights: t.safetensors", "", "<text>:13: stages[1].teacher: 'teacher' is untrained here"),
    ("kind: train", "kind: trian", "<text>:7: stages[0].kind: no stage 'trian'; near: train"),
    ("kind: train\n    ", "", "<text>:7: stages[0]: which stage? The key 'kind' is missing"),
    ("kind: kd, ", "", "<text>:14: stages[1].method: which method? The key 'kind' is missing"),
    ("{kind: kd, temperature: 4}", "[kd]", "<text>:14: stages[1].method.methods: methods = (KD(temperature=4.0"),
    (
        "{kind: kd, temperature: 4}",
        "{kind: fitnets, hint_optimizer: rmsprop}",
        "<text>:14: stages[1].method.hint_optimizer: expected a mapping (kind, lr, ",
    ),
    (
        "{kind: kd, temperature: 4}",
        "{kind: feed_sequence, transfer: {preset: benchmrk}}",
        "<text>:14: stages[1].method.transfer.preset: no preset",
    ),
    ("{kind: kd, temperature: 4}", "at", "<text>:14: stages[1].method: no method 'at'; near: attention_transfer"),
    ("{kind: kd, temperature: 4}", "knd", "<text>:14: stages[1].method: no method 'knd'; near: kd"),
    ("kind: kd,", "kind: kdd,", "<text>:14: stages[1].method.kind: no method 'kdd'; near: kd"),
    ("kind: kd,", "kind: 4,", "<text>:14: stages[1].method.kind: expected the name of a method, got the number 4"),
    ("temperature: 4", "temperature: hot", "<text>:14: stages[1].method.temperature: expected a number, got the text 'hot'"),
    ("temperature: 4", "temperature: '4'", "<text>:14: stages[1].method.temperature: expected a number, got the text '4'"),
    ("temperature: 4", "temperature: true", "<text>:14: stages[1].method.temperature: expected a number, got true"),
    ("temperature: 4", "temperature: -4", "<text>:14: stages[1].method.temperature: temperature = -4.0:"),
    ("temperature: 4", "temperature: .nan", "<text>:14: stages[1].method.temperature: temperature = nan:"),
    ("temperature: 4", "temprature: 4", "<text>:14: stages[1].method.temprature: no key 'temprature' in method 'kd'; near: temperature"),
    ("temperature: 4", "preset: papre", "<text>:14: stages[1].method.preset: no preset 'papre' in KD; near: paper"),
    ("temperature: 4", "preset: 4", "<text>:14: stages[1].method.preset: expected the name of a preset, got the number 4"),
    ("temperature: 4", "soft: {start: 1}", "<text>:14: stages[1].method.soft.end: 'soft' needs the key 'end'"),
    ("    teacher: teacher\n", "", "<text>:10: stages[1].teacher: stage 'distill' needs the key 'teacher': an earlier result"),
    ("teacher: teacher", "teacher: taecher", "<text>:13: stages[1].teacher: no model 'taecher' in this recipe before that stage; near: teacher"),
    ("teacher: teacher", "teacher: student", "is both student and teacher"),
    ("name: kd", "name: alone", "<text>:11: stages[1].name: stage name 'alone' is used twice"),
    ("name: kd", "name: k/d", "<text>:11: stages[1].name: stage name 'k/d': letters, digits"),
    ("name: kd", "name: ..", "<text>:11: stages[1].name: stage name '..': at most 100 characters, and no '.' in front"),
    ("name: kd", "name: " + "x" * 101, "<text>:11: stages[1].name: stage name 'xxxxxxxxxxxxxxxxxxxx...': at most 100 characters"),
    ("name: kd", "name: Alone", "<text>:11: stages[1].name: stage name 'Alone' is 'alone' but for its case"),
    ("models: [teacher, alone, kd]", "models: [alone, alone]", "<text>:17: stages[2].models[1]: 'alone' is there twice; once is enough"),
    ("models: [teacher, alone, kd]", "split: tset", "<text>:17: stages[2].split: no split 'tset'; there are: test, validation; near: test"),
    ("name: good", "name: good\nbaseline: alnoe", "<text>:2: baseline: no stage 'alnoe' in this recipe; near: alone"),
    ("name: good", "data: {source: cifar}", "<text>:1: data.source: no source 'cifar'; near: cifar10"),
    ("name: good", "data: {source: {kind: parquet}}", "<text>:1: data.source.train: source 'parquet' needs the key 'train'"),
    ("name: good", "data: {validation: 0}", "<text>:1: data.validation: validation = 0.0:"),
    ("name: good", "data: [digits]", "<text>:1: data: expected a mapping (source, validation"),
    ("name: good", "machine: {threads: 0}", "<text>:1: machine.threads: threads = 0: at least 1"),
    ("name: good", "machine: {accelerator: gpu}", "<text>:1: machine.accelerator: no accelerator 'gpu'; there are: auto, cpu, cuda, mps"),
    ("model: student", "model: student\n    training: {optimizer: {nesterov: yes}}", "got the text 'yes'; write true or false"),
    ("model: student", "model: student\n    training: {optimizer: {betas: [0.9]}}", "expected a list of 2 entries"),
    ("model: student", "model: student\n    training: {batch_size: 1e2}", "expected a whole number, got the number 100.0; write 100"),
    ("model: student", "model: student\n    training: {optimizer: {lr: .inf}}", "lr = inf: more than zero, and finite"),
    ("kind: kd, temperature: 4", "kind: nst, pairs: [layer1]", "stages[1].method.pairs[0]: expected a list of 2 entries, each text, got the text 'layer1'"),
    ("model: student", "model: student\n    training: {precision: fp16}", "<text>:10: stages[0].training.precision: no precision 'fp16'"),
]  # fmt: skip


# What breaks a name or a model also breaks whatever refers to it: so many problems in all.
TWO = {"name: alone", "name: k/d", "name: ..", "name: " + "x" * 101, "name: Alone", "teacher: student"}


@pytest.mark.parametrize(
    ("old", "new", "message"), ONE_BY_ONE, ids=[f"{old}->{new}"[:60] for old, new, _ in ONE_BY_ONE]
)
def test_one_mistake_gives_one_line(old, new, message):
    assert old in GOOD
    found = problems(GOOD.replace(old, new, 1))
    assert sum(message in line for line in found) == 1, found
    assert len(found) == (2 if new in TWO or "is untrained" in message else 1), found


def test_advice_that_would_not_help_is_not_given():
    (line,) = problems(GOOD.replace("kind: kd, temperature: 4", "kind: nst, pairs: [layer1]"))
    assert "write" not in line


def test_an_evaluation_of_nothing():
    found = problems("models: {a: digits_mlp}\nstages:\n  - {kind: evaluate, name: e}\n")
    assert found == (
        "<text>:3: stages[0].models: there is nothing to evaluate: no train or distill stage before this one, "
        "and no model with 'weights'",
    )


def test_every_problem_at_once_in_the_order_of_the_file():
    text = """\
name: [x]
models:
  student: resnt8
stages:
  - kind: train
    name: alone
    model: stduent
    training: {epochs: 0, batch_size: big, optimizer: {lr: -1, momentum: 2}}
  - kind: distill
    name: alone
    student: student
    method: {kind: kd, temperature: -1, soft: -2}
"""
    found = problems(text)
    assert [line.split(": ")[1] for line in found] == [
        "name",
        "models.student.name",
        "stages[0].model",
        "stages[0].training.batch_size",
        "stages[0].training.optimizer.lr",
        "stages[0].training.optimizer.momentum",
        "stages[0].training.epochs",
        "stages[1].teacher",
        "stages[1].name",
        "stages[1].method.temperature",
        "stages[1].method.soft",
    ]
    lines = [int(line.split(":")[1]) for line in found]
    assert lines == [1, 3, 7, 8, 8, 8, 8, 9, 10, 12, 12]


def test_a_broken_section_hides_no_other_and_invents_nothing():
    found = problems("models: resnet8\nstages:\n  - {kind: train, name: a, model: student}\nseeds: [x]\n")
    assert [line.split(": ")[1] for line in found] == ["models", "seeds[0]"]


def test_missing_sections_are_named():
    found = problems("name: x\nseeds: [0]\n")
    assert [line.split(": ", 1)[1] for line in found] == [
        "models: a recipe needs the key 'models'",
        "stages: a recipe needs the key 'stages'",
    ]


def test_a_later_stage_may_refer_to_a_broken_one():
    found = problems(GOOD.replace("temperature: 4", "temperature: -4"))
    assert len(found) == 1


@pytest.mark.parametrize("text", ["- a\n- b\n", "just some\nprose\n", "3\n...\n"])
def test_a_file_that_is_no_mapping(text):
    (found,) = problems(text)
    assert found.startswith("<text>:1: a recipe is a mapping with the keys models and stages; this is")


def test_a_key_with_control_characters_is_shown_escaped():
    (found,) = problems(GOOD + '"\\e[31mred": 1\n')
    assert "\x1b" not in found
    assert "no key '\\x1b[31mred'" in found


def test_a_method_with_its_own_kind_calls_it_variant():
    text = GOOD.replace("{kind: kd, temperature: 4}", "{kind: attention_transfer, variant: max_pow}")
    assert read_recipe(text).stages[1].method.kind == "max_pow"
    (found,) = problems(text.replace("max_pow", "max_pwo"))
    assert (
        found
        == "<text>:14: stages[1].method.variant: no variant 'max_pwo'; there are: sum, sum_pow, max_pow; near: max_pow, sum_pow"
    )


def test_a_preset_is_a_start_that_settings_change():
    recipe = read_recipe(GOOD.replace("temperature: 4", "preset: paper, soft: 0.7"))
    method = recipe.stages[1].method
    assert (method.temperature, method.soft, method.hard) == (20.0, 0.7, 0.5)


def test_a_setting_out_of_range_beside_a_preset():
    (found,) = problems(GOOD.replace("temperature: 4", "preset: paper, temperature: 0"))
    assert found.startswith("<text>:14: stages[1].method.temperature: temperature = 0.0:")


def test_files_that_cannot_be_read(tmp_path):
    def message(path) -> str:
        with pytest.raises(RecipeError) as caught:
            read(path)
        (line,) = caught.value.problems
        return line.replace(str(tmp_path), "TMP")

    (tmp_path / "recipe.yaml").write_text(GOOD)
    (tmp_path / "empty.yaml").write_text("")
    (tmp_path / "binary.yaml").write_bytes(b"models: \xff\xfe\x00")
    (tmp_path / "latin.yaml").write_bytes(b"name: x\nmodels: caf\xe9\n")
    assert message(tmp_path / "recpe.yaml") == "TMP/recpe.yaml: there is no such file; near: recipe.yaml"
    assert message(tmp_path / "sub" / "a.yaml") == "TMP/sub/a.yaml: there is no such file"
    assert (
        message(tmp_path) == "TMP: is a folder, not a recipe; in it: binary.yaml, empty.yaml, latin.yaml, recipe.yaml"
    )
    assert message(tmp_path / "empty.yaml").startswith("TMP/empty.yaml: is empty; a recipe is a mapping")
    assert message(tmp_path / "binary.yaml") == "TMP/binary.yaml:1: not YAML: not UTF-8 text (byte 0xff)"
    assert message(tmp_path / "latin.yaml") == "TMP/latin.yaml:2: not YAML: not UTF-8 text (byte 0xe9)"
    assert read_recipe(tmp_path / "recipe.yaml") == read_recipe(GOOD)


def test_a_byte_order_mark_is_no_part_of_the_text(tmp_path):
    (tmp_path / "bom.yaml").write_bytes(b"\xef\xbb\xbf" + GOOD.encode())
    assert read_recipe(tmp_path / "bom.yaml") == read_recipe(GOOD)


def test_the_error_is_one_message_with_all_lines():
    with pytest.raises(RecipeError) as caught:
        read(GOOD.replace("name: good", "name: 3").replace("seeds: [0, 1]", "seeds: []"))
    assert str(caught.value).splitlines() == list(caught.value.problems)
    assert len(caught.value.problems) == 2


def test_a_course_says_once_what_all_its_lessons_lack():
    text = (
        GOOD
        + "  - {kind: compress, name: less, model: alone, teacher: nobody, how: {kind: prune, macs: 0.5, steps: 3}}\n"
    )
    (told,) = problems(text)
    assert "no model 'nobody'" in told
    assert "less." not in told
