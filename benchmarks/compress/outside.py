"""Beside torch-pruning: its own pruner and ours on the same network, at equal MACs, with the same training afterwards.

    pip install torch-pruning==1.6.1
    python benchmarks/compress/outside.py resnet56 0 1 2       # network and seeds; writes docs/results/compress-outside-resnet56.json
    python benchmarks/compress/outside.py resnet56 --page      # the page from what is there
    python benchmarks/compress/outside.py resnet56 OTHER.json  # the same, with seeds that were measured in another checkout

torch-pruning is called as its own examples call it: a pruner over the whole network, the classifier left out, widths rounded to
multiples of 8, its importance with its defaults; the ratio is searched until the MACs fit.  Ours is `Prune` at as many MACs as that
left: with its defaults, whose steps are finer in narrow layers; with `multiple=8`, which leaves nearly the same widths as
torch-pruning, so that only the choice of channels differs; and with one ranking of all channels.  All are then tuned from the labels
and with KD, on the same rows in the same order.
What was measured is kept, network by network (runs/compress/outside-NETWORK-SEED.json until the seed is done); a network that
torch-pruning cannot prune is reported with its error.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Iterator
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
sys.path.insert(0, str(Path(__file__).resolve().parent))

from records import seed_by_seed
from study import KD, ORIGINALS, ROOT, Budget, training

import limbeck as lk
from limbeck import record
from limbeck.compress.statistics import recalibrated
from limbeck.data import Loader, load
from limbeck.data.splits import subset
from limbeck.engine.evaluate import metrics, predictions
from limbeck.models import count_macs
from limbeck.phase import Batch
from limbeck.stats import paired, summarise

LEFT = 0.5  # of the MACs
SCORES = ("l1", "fpgm", "taylor", "random")
OURS = {
    "limbeck": {"scope": "layer"},
    "limbeck, multiple=8": {"scope": "layer", "multiple": 8},
    "limbeck, scope=global": {"scope": "global"},
}
OUTSIDE = "torch-pruning"
THEIRS = {  # the same scores, as torch-pruning calls them
    "l1": ("GroupMagnitudeImportance", {"p": 1}),
    "fpgm": ("FPGMImportance", {}),
    "taylor": ("GroupTaylorImportance", {}),
    "random": ("RandomImportance", {}),
}
SAMPLES = 512  # training rows that scores of the loss may look at, in both


class Epochs:
    """A loader whose every walk is the next epoch, from the first on."""

    def __init__(self, loader: Loader) -> None:
        self.loader, self.walks = loader, 0

    def __iter__(self) -> Iterator[Batch]:
        self.walks += 1
        return self.loader.epoch(self.walks)

    def __len__(self) -> int:
        return len(self.loader)


def theirs(model: nn.Module, by: str, x: torch.Tensor, y: torch.Tensor) -> nn.Module:
    """The network as torch-pruning prunes it, at the ratio whose MACs come nearest to what may be left."""
    import torch_pruning as tp  # pyright: ignore[reportMissingImports]

    kind, settings = THEIRS[by]
    whole = count_macs(model, x[:1])
    head = [part for part in model.modules() if isinstance(part, nn.Linear)][-1]

    def at(ratio: float) -> nn.Module:
        own = copy.deepcopy(model).eval()
        ignored = [dict(own.named_modules())[name] for name, part in model.named_modules() if part is head]
        pruner = tp.pruner.BasePruner(
            own, x[:1], importance=getattr(tp.importance, kind)(**settings),
            pruning_ratio=ratio, global_pruning=False, ignored_layers=ignored, round_to=8,
        )  # fmt: skip
        if by == "taylor":
            nn.functional.cross_entropy(own(x), y).backward()
        pruner.step()
        own.zero_grad(set_to_none=True)
        return own

    low, high, best = 0.0, 0.95, at(0.5)
    for _ in range(8):
        middle = (low + high) / 2
        tried = at(middle)
        macs = count_macs(tried, x[:1])
        if abs(macs / whole - LEFT) < abs(count_macs(best, x[:1]) / whole - LEFT):
            best = tried
        low, high = (middle, high) if macs > LEFT * whole else (low, middle)
    return best


def measured(network: str, seed: int, budget: Budget) -> dict[str, Any]:
    """Accuracies of one seed, in percent, and the part of the MACs that is left."""
    data = load(lk.Data(source=lk.CIFAR10(), validation=5000))
    rows = subset(data.train, budget.rows or len(data.train), seed)
    usual = {"mean": data.mean, "std": data.std, "channels_last": True}
    varied = {"batch_size": 128, "seed": seed, "augment": lk.Augment(crop=4, flip=True), **usual}
    test = Loader(images=data.test, batch_size=125, **usual)
    seen = Loader(images=subset(data.train, SAMPLES, seed), batch_size=128, **usual)
    original = lk.build(network, classes=10)
    lk.load_weights(original, ROOT / ORIGINALS[network])
    looked = list(seen.evaluation())
    x, y = (torch.cat([getattr(batch, part) for batch in looked]) for part in ("inputs", "targets"))

    def right(model: nn.Module) -> float:
        found = predictions(model, test.evaluation(), device=torch.device("cpu"), precision="bf16", channels_last=True)
        return 100 * metrics(*found)["accuracy"]

    whole = count_macs(original, x[:1])
    kept = ROOT / "runs" / "compress" / f"outside-{network}-{seed}.json"
    found: dict[str, Any] = json.loads(kept.read_text()) if kept.exists() else {"original": {"test": right(original)}}
    for by in SCORES:
        left = LEFT * whole
        for who in (OUTSIDE, *OURS):
            if (known := found.get(f"{by}, {who}")) is not None:
                left = round(known["macs"] * whole) if who == OUTSIDE and "macs" in known else left
                continue
            torch.manual_seed(seed)
            try:
                if who == OUTSIDE:
                    pruned = theirs(original, by, x, y)
                    left = count_macs(pruned, x[:1])
                else:
                    pruned = lk.Prune(macs=left, by=by, **OURS[who])(original, example=x[:2], calibration=looked)
            except Exception as error:  # torch-pruning raises many kinds
                found[f"{by}, {who}"] = {"error": f"{type(error).__name__}: {str(error)[:200]}"}
                continue
            line = {"macs": count_macs(pruned, x[:1]) / whole, "test": right(pruned)}
            if who == OUTSIDE:
                anew = copy.deepcopy(pruned)
                recalibrated(anew, looked)
                line["anew"] = right(anew)
            how = {"training": training(budget), "seed": seed, "quiet": True}
            line["labels"] = right(lk.train(copy.deepcopy(pruned), Epochs(Loader(images=rows, **varied)), **how))
            tuned = lk.distill(original, copy.deepcopy(pruned), Epochs(Loader(images=rows, **varied)), method=KD, **how)
            line["kd"] = right(tuned)
            found[f"{by}, {who}"] = line
            found["commits"] = sorted({*found.get("commits", ()), str(record.commit())})
            kept.parent.mkdir(parents=True, exist_ok=True)
            record.write_json(kept, found)
            print(f"seed {seed}, {by}, {who}: {line}", flush=True)
    return found


def page(told: dict[str, Any], target: Path) -> None:
    seeds = {int(seed): lines for seed, lines in told["seeds"].items()}

    def values(name: str, part: str) -> dict[int, float]:
        return {seed: lines[name][part] for seed, lines in seeds.items() if part in lines.get(name, {})}

    def cell(found: dict[int, float]) -> str:
        if not found:
            return "-"
        s = summarise(list(found.values()))
        return f"{s.mean:.2f}" + (f" ± {s.std:.2f} (n = {s.n})" if s.std is not None else " (single run)")

    table = [
        "| score, by whom | MACs left | as pruned, % | BatchNorm anew, % | from labels, % | with KD, % | with KD, against torch-pruning, points |",
        "|" + "---|" * 7,
    ]
    for by in SCORES:
        others = values(f"{by}, {OUTSIDE}", "kd")
        for who in (OUTSIDE, *OURS):
            name = f"{by}, {who}"
            ours = values(name, "kd")
            both = sorted(set(ours) & set(others))
            d = paired({s: ours[s] for s in both}, {s: others[s] for s in both}) if both and who != OUTSIDE else None
            errors = {lines[name]["error"] for lines in seeds.values() if "error" in lines.get(name, {})}
            gain = f"{d.mean:+.2f}" + (f" [{d.low:+.2f}, {d.high:+.2f}]" if d.low is not None else "") if d else ""
            cells = [cell(values(name, part)) for part in ("test", "anew", "labels", "kd")]
            left = values(name, "macs")
            share = f"{100 * summarise(list(left.values())).mean:.1f} %" if left else "-"
            table.append(
                f"| {name} | {share} | {' | '.join(cells)} | {gain} |"
                + (f" {'; '.join(sorted(errors))}" if errors else "")
            )
    base = next(iter(seeds.values()))["original"]["test"]
    body = [
        f"# {told['network']}, pruned by limbeck and by torch-pruning",
        "",
        f"{told['network']} ({base:.2f} % on CIFAR-10's test part) at about {100 * LEFT:.0f} % of its MACs, one shot, then {told['epochs']} epochs on "
        f"{told['rows']:,} rows at a peak rate of {told['rate']}; the same rows and order for both. torch-pruning {told['torch-pruning']} with its "
        f"defaults (each layer by the same ratio, widths in multiples of 8), ours at as many MACs, which estimates BatchNorm's statistics anew on {SAMPLES} "
        "rows; what that alone does for a network of torch-pruning stands beside it, and it is tuned as it came out. Seeds "
        f"{', '.join(map(str, sorted(seeds)))}; ± is the standard deviation over seeds, brackets are 95 % t intervals. Test accuracy in bf16, once.",
        "",
        *table,
        "",
        f"Commits {', '.join(sorted({*told['commits'], *(c for lines in seeds.values() for c in lines.get('commits', ()))}))}, torch {told['versions']['torch']}.",
        "",
    ]
    target.with_suffix(".md").write_text("\n".join(body))
    print("\n".join(body))


def main() -> None:
    network, *rest = sys.argv[1:] or [""]
    if network not in ORIGINALS:
        sys.exit(__doc__)
    target, budget = ROOT / "docs" / "results" / f"compress-outside-{network}.json", Budget()
    torch.set_num_threads(1)

    def about() -> dict[str, Any]:
        settings = {"epochs": budget.epochs, "rows": budget.rows, "rate": budget.rate}
        return settings | {"torch-pruning": version("torch-pruning")}

    for other in (Path(given) for given in rest if given.endswith(".json")):
        joined(target, json.loads(other.read_text()))
    seeds = [given for given in rest if not given.endswith(".json")]
    told = seed_by_seed(target, network, seeds, lambda seed: measured(network, seed, budget), about)
    page(told, target)


def joined(target: Path, other: dict[str, Any]) -> None:
    """Take seeds that were measured elsewhere into the file of results; what is there already is kept."""
    told = json.loads(target.read_text()) if target.exists() else other
    apart = [k for k in told if k not in ("seeds", "commits") and told[k] != other[k]]
    if apart:
        sys.exit(f"{target} and the other file differ in {', '.join(apart)}; they are not one study")
    seeds = other["seeds"] | told["seeds"]
    told |= {"seeds": dict(sorted(seeds.items())), "commits": sorted({*told["commits"], *other["commits"]})}
    record.write_json(target, told)


if __name__ == "__main__":
    main()
