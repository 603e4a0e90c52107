"""The studies under benchmarks/: their recipes are recipes, and what is published is what was measured."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path

import pytest

from limbeck import config

ROOT = Path(__file__).parents[1]
CLAIMS = ROOT / "benchmarks" / "claims"
RESULTS = ROOT / "docs" / "results" / "claims"
SCRIPTS = sorted(CLAIMS.glob("c[0-9][0-9]_*.py"))


@pytest.fixture
def load(monkeypatch):
    """A script of a study as a module, with the folder that it is in on the path as it is when it runs."""

    def loaded(path):
        monkeypatch.syspath_prepend(str(path.parent))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        sys.modules[path.stem] = module  # dataclasses look themselves up there
        spec.loader.exec_module(module)
        return module

    before = set(sys.modules)
    yield loaded
    for name in set(sys.modules) - before:
        if str(getattr(sys.modules[name], "__file__", "")).startswith(str(ROOT / "benchmarks")):
            del sys.modules[name]


@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_a_claims_verdict_follows_from_its_figures(path, load):
    claim = load(path).CLAIM
    assert claim.number == int(path.name[1:3])
    kept = RESULTS / f"{claim.number:02d}.json"
    assert kept.exists(), f"measure it: python benchmarks/claims/run.py {claim.number}"
    told = json.loads(kept.read_text())
    figures = {int(seed): found for seed, found in told["figures"].items()}
    assert list(figures) == list(claim.seeds) == told["seeds"]
    assert claim.judge(figures) == (told["outcome"], told["sentence"])
    assert (told["claim"], told["setup"], told["settings"]) == (claim.claim, claim.setup, claim.settings)
    assert told["outcome"] in ("held", "did not hold", "inconclusive")


def test_every_published_claim_has_its_script_and_its_place_on_the_page(load):
    published = {int(path.stem) for path in RESULTS.glob("[0-9][0-9].json")}
    assert published <= {int(path.name[1:3]) for path in SCRIPTS}
    page = load(CLAIMS / "run.py").page()
    assert (ROOT / "docs" / "results" / "claims.md").read_text(encoding="utf-8") == page


@pytest.mark.parametrize("path", sorted((ROOT / "benchmarks").glob("*/*.yaml")), ids=lambda path: path.stem)
def test_the_recipes_of_studies_are_recipes(path):
    assert config.read_recipe(path).stages


def test_the_effects_study_gives_every_method_the_same_budget(load):
    study = load(ROOT / "benchmarks" / "effects" / "study.py")
    for name in study.STUDENTS:
        made = study.recipe(name, 3, study.Budget(epochs=10, rows=500))
        assert made.seeds == (3,)
        trained = [stage for stage in made.plan if hasattr(stage, "training")]
        assert {stage.rows for stage in trained} == {500}
        assert {stage.training.epochs for stage in trained if stage.name != "alone-long"} == {10}
        assert made.baseline == "alone"
        assert config.read(config.to_yaml(made)).recipe == made


@pytest.mark.parametrize(
    "data", sorted((ROOT / "docs" / "results").glob("compress-fast*.json")), ids=lambda path: path.stem
)
def test_the_page_of_a_fast_chain_is_made_of_its_data(data, load):
    """Every figure on it comes from the JSON beside it, and what was asked for was reached by what was timed."""
    speed = load(ROOT / "benchmarks" / "compress" / "speed.py")
    told = json.loads(data.read_text())
    assert data.stem == told["recipe"]["name"]
    assert speed.page(told) == data.with_suffix(".md").read_text()
    for batch, form, least in speed.NEEDED:
        networks = told["timed"]["times"][str(batch)]
        before = networks["resnet56"][form]["median_ms"]
        assert before / min(t["median_ms"] for f, t in networks["tuned"].items() if "int8" in f) >= least


@pytest.mark.parametrize("data", sorted((ROOT / "docs" / "results").glob("effects-*.json")), ids=lambda path: path.stem)
def test_the_effects_page_says_what_its_data_says(data, load):
    pytest.importorskip("matplotlib")
    found = json.loads(data.read_text())
    assert len({r["seed"] for stage in found["stages"] for r in stage["runs"]}) >= 3
    assert data.with_suffix(".md").read_text() == load(ROOT / "benchmarks" / "effects" / "publish.py").page(
        found, data.stem
    )


STUDIED = sorted(
    file for name in ("resnet56", "vgg16") for file in (ROOT / "docs" / "results").glob(f"compress-{name}-*.json")
)


@pytest.mark.parametrize("data", STUDIED, ids=lambda path: path.stem)
def test_the_page_of_a_compression_study_says_what_its_data_says(data, load):
    pytest.importorskip("matplotlib")
    publish = load(ROOT / "benchmarks" / "compress" / "publish.py")
    assert publish.page(json.loads(data.read_text()), data.stem) == data.with_suffix(".md").read_text()


def test_networks_are_compared_with_those_that_cost_as_much(load):
    pytest.importorskip("matplotlib")
    rivals = load(ROOT / "benchmarks" / "compress" / "publish.py").rivals

    def stages(**budgets):
        return [{"name": name, "how": {"macs": macs} if macs else {}} for name, macs in budgets.items()]

    several = stages(svd70=0.7, svd30=0.3, tucker70=0.7, tucker30=0.3, fastest=None)
    assert rivals(several, [s["name"] for s in several]) == {
        "svd70": "svd70", "svd30": "svd30", "tucker70": "svd70", "tucker30": "svd30", "fastest": None
    }  # fmt: skip
    assert rivals(several, ["tucker30", "svd30", "fastest"]) == dict.fromkeys(
        ("tucker30", "svd30", "fastest"), "tucker30"
    )
    one = [*stages(l1=0.5, fpgm=0.5), {"name": "labels"}]
    assert rivals(one, ["l1", "fpgm", "labels"]) == {"l1": "l1", "fpgm": "l1", "labels": "l1"}


def test_the_page_beside_torch_pruning_says_what_its_data_says(tmp_path, load):
    pytest.importorskip("matplotlib")
    data = ROOT / "docs" / "results" / "compress-outside-resnet56.json"
    told = json.loads(data.read_text())
    assert set(told["seeds"]) == {"0", "1", "2"}
    load(ROOT / "benchmarks" / "compress" / "outside.py").page(told, tmp_path / data.name)
    assert (tmp_path / data.with_suffix(".md").name).read_text() == data.with_suffix(".md").read_text()


def test_the_page_of_the_tickets_says_what_its_data_says(load):
    pytest.importorskip("matplotlib")
    data = ROOT / "docs" / "results" / "compress-tickets-resnet8.json"
    tickets = load(ROOT / "benchmarks" / "compress" / "tickets.py")
    about = json.loads(data.read_text())
    assert tickets.page(about, data.stem) == data.with_suffix(".md").read_text()
    stages = {s["name"]: s for s in about["stages"]}
    assert tickets.rounds(stages) == {0: 100, 1: 50, 2: 25, 3: 12.5, 4: 6.25, 5: pytest.approx(3.125, abs=0.01)}
    assert all(len(s["runs"]) == 3 for s in about["stages"])


def test_the_page_of_scopes_says_what_its_data_says(load):
    results = ROOT / "docs" / "results"
    assert load(ROOT / "benchmarks" / "compress" / "scopes.py").page() == (results / "compress-scopes.md").read_text()
    files = [json.loads(file.read_text()) for file in results.glob("compress-scopes-*.json")]
    cases = [case for file in files for found in file["seeds"].values() for case in found.values()]
    better = [
        (c["layer"]["moved"] < c["global"]["moved"]) == (c["layer"]["accuracy"] > c["global"]["accuracy"])
        for c in cases
    ]
    assert f"in each of {sum(better)} pairs" in (ROOT / "docs" / "compress" / "prune.md").read_text()
    assert len(better) == sum(better) == 108


def test_the_page_of_first_and_last_layers_says_what_its_data_says(load):
    results = ROOT / "docs" / "results"
    assert load(ROOT / "benchmarks" / "compress" / "ends.py").page() == (results / "compress-ends.md").read_text()
    for file in results.glob("compress-ends-*.json"):
        told = json.loads(file.read_text())
        assert set(told["seeds"]) == {"0", "1", "2"}
        for found in told["seeds"].values():
            for lines in (lines for name, lines in found.items() if name != "whole"):
                assert "fc" in lines["the default"]["whole"]
                assert "fc" not in lines["every layer"]["whole"]
                assert lines["the default"]["accuracy"] > lines["every layer"]["accuracy"]


def test_seeds_can_be_added_to_what_was_published(tmp_path, load):
    pytest.importorskip("matplotlib")
    publish = load(ROOT / "benchmarks" / "compress" / "publish.py")
    data = ROOT / "docs" / "results" / "compress-resnet56-scores-50.json"
    whole = json.loads(data.read_text())
    for name, kept in (("first", {0, 1}), ("later", {2})):
        part = json.loads(data.read_text())
        for stage in part["stages"]:
            stage["runs"] = [r for r in stage["runs"] if r["seed"] in kept]
        (tmp_path / f"{name}.json").write_text(json.dumps(part))
    publish.main(tmp_path / "both", [tmp_path / "first.json", tmp_path / "later.json"])
    assert json.loads((tmp_path / "both.json").read_text()) == whole
    assert (tmp_path / "both.png").stat().st_size > 10_000
