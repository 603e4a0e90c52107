"""Every kind of compressor, in recipes that are run: what ran, what the record says, and what is in the files."""

from __future__ import annotations

import json
import math
import re
import shutil

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

import limbeck as lk
from limbeck import checks, config, record
from limbeck.compress import results
from limbeck.config import read_recipe, to_yaml
from limbeck.errors import HyperParameterError, LimbeckError, RecipeError
from limbeck.models import build
from limbeck.phase import seed_for
from limbeck.report.ledger import ledger
from limbeck.report.read import read_run
from limbeck.runner import run

T = "training: {epochs: 1, batch_size: 32, optimizer: {lr: 0.05}}, rows: 320"
HEAD = "data: {validation: 200}\nmodels:\n"
CNN = f"""
name: maps
{HEAD}  net: {{name: digits_cnn}}
stages:
- {{kind: train, name: original, model: net, {T}}}
- {{kind: train, name: slim, model: original, method: slimming, {T}}}
- {{kind: compress, name: l1, model: original, how: {{kind: prune, keep: 0.5, by: l1}}}}
- {{kind: compress, name: slimmed, model: slim, how: {{kind: prune, keep: 0.5, by: slimming, scope: global, multiple: 1}}}}
- {{kind: compress, name: lasso, model: original, calibration: 64, how: {{kind: prune, keep: 0.5, by: lasso}}}}
- {{kind: compress, name: twice, model: original, teacher: original, how: {{kind: prune, macs: 0.4, steps: 2}}, {T}}}
- {{kind: compress, name: soft, model: original, how: {{kind: prune, keep: 0.5, steps: 2, soft: true}}, {T}}}
- {{kind: compress, name: low, model: original, how: {{kind: factorize, energy: 0.6, measured: false}}}}
- {{kind: distill, name: tuned, student: l1, teacher: original, method: kd, {T}}}
- {{kind: compress, name: int8, model: tuned, calibration: 64, how: {{kind: quantize}}}}
- {{kind: distill, name: through, student: {{from: original, prune: {{keep: 0.5}}}}, teacher: original, method: kd, {T}}}
- {{kind: evaluate, name: end}}
"""
MLP = f"""
name: rows
{HEAD}  net: {{name: digits_mlp, options: {{hidden: [24, 16]}}}}
stages:
- {{kind: train, name: original, model: net, {T}}}
- {{kind: compress, name: thin, model: original, how: {{kind: mask, density: 0.3}}}}
- {{kind: distill, name: thin-tuned, student: thin, teacher: original, method: kd, {T}}}
- {{kind: compress, name: steps, model: original, beside: [net], how: {{kind: mask, sparsity: 0.75, steps: 2, by: movement}}, {T}}}
- kind: compress
  name: ticket
  model: net
  how: {{kind: lottery_ticket, rounds: 2, rate: 0.5, rewind: 3, controls: [reinit, random], controlled: [2]}}
  training: {{epochs: 1, batch_size: 32, optimizer: {{lr: 0.05}}}}
  rows: 320
- {{kind: compress, name: chosen, model: net, how: {{kind: supermask, samples: 1}}, {T}}}
- {{kind: compress, name: signs, model: original, how: {{kind: binarize, form: bwn, fewest: 4}}, calibration: 64}}
- {{kind: distill, name: signs-tuned, student: signs, teacher: original, method: kd, {T}}}
- {{kind: compress, name: static, model: original, calibration: 64, how: {{kind: quantize}}}}
- {{kind: compress, name: few, model: original, how: {{kind: quantize, mode: weights, dtype: int4}}}}
- {{kind: compress, name: qat, model: original, teacher: original, calibration: 64, how: {{kind: quantize, mode: qat}}, {T}}}
- {{kind: evaluate, name: end}}
"""
TEXTS = {"cnn": CNN, "mlp": MLP}
PLANNED = {
    "cnn": (
        "original slim l1 slimmed lasso twice.prune1 twice.train1 twice.prune2 twice soft.zero1 soft.train1 soft low tuned "
        "int8 through.student through end"
    ),
    "mlp": (
        "original thin thin-tuned steps.mask1 steps.1 steps.mask2 steps ticket.0 ticket.mask1 ticket.1 ticket.mask2 "
        "ticket.mask2.reinit ticket.2.reinit ticket.mask2.random ticket.2.random ticket chosen.scores chosen.learned "
        "chosen.sample1 chosen signs signs-tuned static few qat.prepared qat.trained qat end"
    ),
}
BOTH = pytest.mark.parametrize("kind", TEXTS)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """The runs, each made when it is first asked for."""
    known = {}

    def of(kind):
        if kind not in known:
            known[kind] = run(config.read(TEXTS[kind]).recipe, out=tmp_path_factory.mktemp(kind) / "run", quiet=True)
        return known[kind]

    return of


def lines(folder):
    return {line["name"]: line for line in record.read_json(folder / "run.json")["stages"]}


def weights(folder, stage):
    return load_file(folder / "stages" / stage / "seed-0" / "last.safetensors")


@BOTH
def test_the_check_is_clean_and_the_file_says_it_again(kind):
    recipe = config.read(TEXTS[kind]).recipe
    assert checks.deep(recipe) == []
    assert read_recipe(to_yaml(recipe)) == recipe


@BOTH
def test_every_step_that_was_planned_is_done_and_on_record(folders, kind):
    told = record.read_json(folders(kind) / "run.json")
    assert told["status"] == "done"
    stages = lines(folders(kind))
    assert list(stages) == PLANNED[kind].split()
    for name, line in stages.items():
        if name == "end":
            continue
        (once,) = line["runs"]
        assert once["status"] == "done", name
        assert all(math.isfinite(value) for part in once["last"].values() for value in part.values())
        assert {p.name for p in (folders(kind) / once["folder"]).iterdir()} >= {"last.safetensors", "result.json"}
        assert not (folders(kind) / once["folder"] / "checkpoint.safetensors").exists()
        assert not any(p.name.startswith(".") for p in (folders(kind) / once["folder"]).iterdir()), name
        assert line["cost"]["parameters"] > 0
        assert line["cost"]["macs"] > 0, name
        assert line["cost"]["latency"]["median_ms"] > 0
        trains = line["kind"] in ("train", "distill")
        assert (once["epochs"] == 1) == trains, name
        assert (folders(kind) / once["folder"] / results.STRUCTURE).exists() != trains
        if name not in ("original", "slim", "ticket.0"):
            assert 0 <= once["original"]["agreement"] <= 1, name
    measured = stages["end"]["results"]
    for name in (n for n in stages if n != "end"):
        assert measured[name][0]["accuracy"] == stages[name]["runs"][0]["last"]["test"]["accuracy"]


@BOTH
def test_bytes_are_those_of_the_file(folders, kind):
    for name, line in lines(folders(kind)).items():
        place = folders(kind) / "stages" / name / "seed-0"
        if name == "end" or name.startswith("signs"):  # of signs: those of the packed file
            continue
        program = place / results.PROGRAM
        file = program if program.exists() else place / "last.safetensors"
        assert line["cost"]["bytes"] == file.stat().st_size, name


@BOTH
def test_the_report_has_a_line_for_every_network(folders, kind):
    text = (folders(kind) / "report.html").read_text()
    assert 'id="ledger"' in text
    for name in lines(folders(kind)):
        assert name in text
    assert not re.search(r"[>\s]nan\b", text, re.IGNORECASE)
    json.dumps(record.read_json(folders(kind) / "exhibits.json"))


def test_a_finished_run_is_not_done_again(folders):
    before = {p: p.stat().st_mtime_ns for p in folders("mlp").glob("stages/*/*/*")}
    run(config.read(MLP).recipe, out=folders("mlp"), quiet=True)
    assert {p: p.stat().st_mtime_ns for p in folders("mlp").glob("stages/*/*/*")} == before


def test_pruned_networks_are_smaller_and_stay_so_in_training(folders):
    found = {name: line["cost"] for name, line in lines(folders("cnn")).items() if name != "end"}
    for name in ("l1", "slimmed", "lasso", "twice", "soft", "through", "low"):
        assert found[name]["macs"] < found["original"]["macs"], name
        assert found[name]["parameters"] < found["original"]["parameters"], name
    assert found["twice"]["macs"] <= 0.4 * found["original"]["macs"] < found["twice.prune1"]["macs"]
    assert found["tuned"]["macs"] == found["l1"]["macs"]
    assert found["soft.train1"]["macs"] == found["original"]["macs"]
    assert found["int8"]["parameters"] == found["tuned"]["parameters"]
    assert found["original"]["latency"]["form"] == "eager"
    assert found["int8"]["latency"]["form"] == "int8, compiled"


def test_who_teaches(folders):
    stages = lines(folders("cnn"))
    assert stages["twice"]["kind"] == stages["twice.train1"]["kind"] == "distill"
    assert stages["soft.train1"]["kind"] == "train"
    assert lines(folders("mlp"))["qat.trained"]["kind"] == "distill"


@pytest.mark.parametrize(
    ("stage", "density"), [("thin-tuned", 0.3), ("steps", 0.25), ("steps.1", 0.5), ("ticket.1", 0.5), ("ticket", 0.25)]
)
def test_what_is_masked_is_exactly_zero_after_training(folders, stage, density):
    found = weights(folders("mlp"), stage)
    masks = {key: value.bool() for key, value in found.items() if key.endswith(".mask")}
    assert len(masks) == 3
    kept = {key: float(mask.float().mean()) for key, mask in masks.items()}
    if stage.startswith("ticket"):  # the output layer loses half as much in a round
        kept.pop(max(kept, key=lambda key: kept[key]))
    assert all(abs(share - density) < 0.02 for share in kept.values())

    recipe = config.read(MLP).recipe
    built = _rebuilt(folders("mlp"), recipe, stage)
    for path, mask in masks.items():
        layer = built.get_submodule(path.partition(".parametrizations")[0])
        assert torch.equal(layer.weight[~mask], torch.zeros(int((~mask).sum())))
        assert (layer.weight[mask] != 0).all()


def _rebuilt(folder, recipe, stage):
    """The network of a stage, from its files and the blueprint alone."""
    from limbeck.models import build, load_weights

    net = build("digits_mlp", classes=10, in_channels=1, size=8, **recipe.models["net"].options)
    holder = {
        "thin-tuned": "thin",
        "steps": "steps.mask2",
        "steps.1": "steps.mask1",
        "ticket.1": "ticket.mask1",
        "ticket": "ticket.mask2",
    }
    told = folder / "stages" / holder[stage] / "seed-0"
    if stage == "steps":  # its structure says how it differs from a network that had masks already
        net = results.load(net, folder / "stages" / "steps.mask1" / "seed-0", torch.zeros(2, 1, 8, 8))
    if stage == "ticket":
        net = results.load(net, folder / "stages" / "ticket.mask1" / "seed-0", torch.zeros(2, 1, 8, 8))
    made = results.load(net, told, torch.zeros(2, 1, 8, 8))
    load_weights(made, folder / "stages" / stage / "seed-0" / "last.safetensors")
    return made


def test_what_moves_least_goes_first_seen_from_the_first_weights(folders):
    torch.manual_seed(seed_for(0, "model", "net"))
    first = build("digits_mlp", classes=10, in_channels=1, size=8, hidden=[24, 16]).state_dict()
    trained, masked = weights(folders("mlp"), "original"), weights(folders("mlp"), "steps.mask1")
    masks = {key.partition(".parametrizations")[0]: m.bool() for key, m in masked.items() if key.endswith(".mask")}
    assert len(masks) == 3
    for path, mask in masks.items():
        moved = (trained[f"{path}.weight"] - first[f"{path}.weight"]).abs()
        assert moved.max() > 0
        assert moved[mask].min() >= moved[~mask].max()


def test_the_ledger_names_the_steps_of_tickets_and_supermasks_in_words(folders):
    told = {name: line["network"] for name, line in lines(folders("mlp")).items() if name != "end"}
    assert told["ticket"] == "digits_mlp, ticket, ticket"
    assert told["ticket.2.random"] == "digits_mlp, ticket, ticket, ticket_control"
    assert told["chosen"] == "digits_mlp, mask_scores, learned_mask"
    found = ledger(read_run(folders("mlp")))
    notes = {cell.text: cell.note for cell in found.column("stage")}
    assert notes["ticket.mask1"].startswith("ticket.0 → ticket, rate 0.5")
    assert notes["ticket.mask2.random"] == "ticket.mask2 → ticket_control, keep rewind, sign yes, shuffle yes"
    (said,) = [note for note in found.notes if "masks alone save no time and no bytes" in note]
    assert said.startswith("thin, steps, ticket and chosen: zeros are stored")


@pytest.mark.parametrize(
    ("old", "new", "place", "said"),
    [
        (
            "rewind: 3",
            "rewind: 11",
            ("how", "rewind"),
            "rewind = 11: the training of 'ticket.0' has 10 steps (1 epochs of 10)",
        ),
        ("rows: 320\n", "rows: 64\n", ("how", "rewind"), "rewind = 3: the training of 'ticket.0' has 2 steps"),
        (
            "training: {epochs: 1, batch_size: 32, optimizer: {lr: 0.05}}\n  rows",
            "training: {epochs: 1, batch_size: 320, snapshots: [2], optimizer: {lr: 0.05}}\n  rows",
            ("how", "rewind"),
            "rewind = 3: the training of 'ticket.0' has 1 steps",
        ),
    ],
)
def test_a_rewind_that_cannot_be_is_told_before_anything_runs(tmp_path, old, new, place, said):
    assert old in MLP
    recipe = config.read(MLP.replace(old, new)).recipe
    where = ("stages", next(k for k, stage in enumerate(recipe.stages) if stage.name == "ticket"))
    found = checks.deep(recipe)
    assert [text for at, text in found if at == (*where, *place) and text.startswith(said)]
    assert all(at[:2] == where for at, _ in found)
    with pytest.raises(RecipeError, match=r"how\.rewind: rewind = "):
        run(recipe, out=tmp_path / "run", quiet=True)
    assert not (tmp_path / "run" / "stages").exists()


def test_snapshots_of_a_stage_of_its_own():
    text = MLP.replace(
        f"model: net, {T}}}", f"model: net, {T}}}".replace("epochs: 1,", "epochs: 2, snapshots: [20, 21],"), 1
    )
    assert checks.deep(config.read(text.replace("20, 21", "20")).recipe) == []
    ((at, said),) = checks.deep(config.read(text).recipe)
    assert at == ("stages", 0, "training", "snapshots")
    assert said.startswith("snapshots = 21: the training of 'original' has 20 steps (2 epochs of 10), so there are no")


def test_tickets_begin_where_the_first_training_was_after_three_steps(folders):
    origin = load_file(folders("mlp") / "stages" / "ticket.0" / "seed-0" / "step-3.safetensors")
    for stage in ("ticket.mask1", "ticket.mask2", "ticket.mask2.random"):
        found = weights(folders("mlp"), stage)
        for name, value in origin.items():
            now = found.get(name, found.get(name.replace(".weight", ".parametrizations.weight.original")))
            mask = found.get(name.replace(".weight", ".parametrizations.weight.0.mask"), torch.ones_like(value)).bool()
            assert torch.equal(now[mask], value[mask]), (stage, name)
    drawn = weights(folders("mlp"), "ticket.mask2.reinit")
    assert any(not torch.equal(drawn[k], v) for k, v in weights(folders("mlp"), "ticket.mask2").items())


def test_scores_learn_and_weights_do_not(folders):
    scores, learned = (weights(folders("mlp"), f"chosen.{name}") for name in ("scores", "learned"))
    for name, value in scores.items():
        moved = not torch.equal(value, learned[name])
        assert moved == name.endswith("scores"), name


def test_signs_stay_signs_in_training(folders):
    stages = lines(folders("mlp"))
    assert stages["signs"]["cost"]["bytes"] == stages["signs-tuned"]["cost"]["bytes"]
    assert stages["signs"]["cost"]["bytes"] < stages["original"]["cost"]["bytes"]


# -- what cannot be, and chains in Python ----------------------------------------------------------

QUIET = {"latency": False, "quiet": True, "device": "cpu"}
ONE = lk.Training(epochs=1, batch_size=16)


def small():
    torch.manual_seed(0)
    conv, norm = nn.Conv2d(1, 16, 3), nn.BatchNorm2d(16)
    return nn.Sequential(
        conv, norm, nn.ReLU(), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 4)
    )


def images():
    torch.manual_seed(1)
    return [(torch.randn(16, 1, 8, 8), torch.randint(0, 4, (16,))) for _ in range(3)]


@pytest.mark.parametrize(
    ("step", "title"),
    [
        (lk.Prune(keep=0.5), "Prune"),
        (lk.Factorize(energy=0.5, measured=False), "Factorize"),
        (lk.Quantize(), "Quantize"),
        (lk.Tune(epochs=1), "Tune"),
        (lk.LotteryTicket(rounds=1), "LotteryTicket"),
    ],
)
def test_nothing_comes_after_a_quantized_program(step, title):
    with pytest.raises(LimbeckError, match=f"{title} cannot change a network that Quantize made.*Quantize comes last"):
        lk.compress(small(), [lk.Quantize(mode="weights"), step], images(), **QUIET)


def test_nothing_comes_after_a_quantized_program_in_a_recipe():
    text = MLP + "- {kind: compress, name: worse, model: few, how: {kind: prune, keep: 0.5}}\n"
    found = checks.deep(config.read(text).recipe)
    assert any("Prune cannot change a network that Quantize made" in said for _, said in found)
    taught = MLP + f"- {{kind: distill, name: worse, student: few, teacher: original, method: kd, {T}}}\n"
    made = (
        MLP
        + f"- {{kind: distill, name: worse, student: {{from: original, quantize: {{}}}}, teacher: original, method: kd, {T}}}\n"
    )
    for text in (taught, made):
        ((place, said),) = [
            (place, said) for place, said in checks.deep(config.read(text).recipe) if "KD cannot change" in said
        ]
        assert place[-1] == "student"
        assert "a network that Quantize made" in said


def test_a_student_made_by_a_compressor_that_trains_is_told_where_it_stands():
    text = (
        MLP
        + f"- {{kind: distill, name: worse, student: {{from: original, lottery_ticket: {{}}}}, teacher: original, method: kd, {T}}}\n"
    )
    with pytest.raises(
        RecipeError, match=r"stages\[\d+\].student: LotteryTicket as it is set here trains between its steps"
    ):
        config.read(text)


def test_masks_are_written_out_where_integers_are_made():
    masked = lk.compress(small().eval(), lk.Mask(density=0.5), images(), **QUIET)
    int8 = lk.compress(masked, lk.Quantize(), images(), **QUIET)
    assert "3 layers in int8" in int8.ledger.rows[-1].notes
    x = images()[0][0]
    assert (int8(x) - masked(x)).abs().max() < 0.05
    with pytest.raises(LimbeckError, match=r'weights of 0, 5, 7 are computed.*use mode "static"'):
        lk.compress(masked, lk.Quantize(mode="qat"), images(), training=ONE, **QUIET)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"steps": []}, "steps is empty"),
        ({"steps": [lk.Prune]}, "step 1 is <class"),
        ({"steps": nn.Linear(2, 2)}, "step 1 is Linear"),
        ({"steps": lk.Prune(keep=0.5), "teacher": "original"}, "teacher = 'original': a module, or None"),
        ({"steps": lk.Prune(keep=0.5), "calibration": -1}, "calibration = -1: a number of samples"),
    ],
)
def test_nonsense_in_a_chain(settings, said):
    with pytest.raises(HyperParameterError, match=said):
        lk.compress(small(), settings.pop("steps"), images(), **QUIET, **settings)


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"epochs": 0}, "epochs = 0: 1 or more"),
        ({"method": lk.KD}, "method = <class.*an instance"),
        ({"method": lk.BornAgain()}, "method = BornAgain.*a course of several trainings"),
        ({"training": {"epochs": 1}}, "training = {'epochs': 1}: a limbeck.Training"),
    ],
)
def test_nonsense_in_a_tune(settings, said):
    with pytest.raises(HyperParameterError, match=said):
        lk.Tune(**settings)


@pytest.mark.parametrize(
    "steps",
    [
        [lk.Factorize(energy=0.5, measured=False), lk.Tune(epochs=1)],
        [lk.Binarize("bwn", fewest=4), lk.Mask(sparsity=0.7, steps=2)],
        [lk.Supermask(samples=1)],
        [lk.Prune(keep=0.5), lk.Quantize(mode="weights")],
    ],
    ids=["low", "signs", "chosen", "int8"],
)
def test_a_chain_that_goes_on_leaves_what_one_in_one_go_leaves(steps, tmp_path):
    net = small()
    net[5].weight.requires_grad_(False)  # it stays so in whatever the layer becomes, from a folder or not
    plain = lk.compress(net, steps, images(), training=ONE, **QUIET)
    for _ in range(2):
        kept = lk.compress(net, steps, images(), training=ONE, out=tmp_path / "chain", **QUIET)
        assert all(torch.equal(v, kept.state_dict()[k]) for k, v in plain.state_dict().items())
        assert [p.requires_grad for p in kept.parameters()] == [p.requires_grad for p in plain.parameters()]
        assert {p.training for p in kept.modules()} == {p.training for p in plain.modules()} == {True}
        last = sorted((tmp_path / "chain").glob("*/last.safetensors"))[-1]
        shutil.rmtree(last.parent)
