"""A small run folder in the format of the record, with made-up numbers whose statistics are known."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

CLASSES = ["zero", "one", "two", "three"]
ACCURACY = {
    "teacher": {0: 0.975},
    "alone": {0: 0.91, 1: 0.92, 2: 0.90},
    "kd": {0: 0.93, 1: 0.94, 2: 0.925},
    "nst": {0: 0.90, 1: 0.93, 2: 0.905},
}


def _steps(path: Path, terms: list[str], seed: int, epochs: int, phases: list[str]) -> None:
    path.mkdir(parents=True)
    lines = []
    for phase in phases:
        for step in range(10 * epochs):
            values = {
                f"student/{t}": (2.0 + k) * math.exp(-step / (8.0 * epochs))
                + 0.1 * math.sin(step * (seed + 1) * (k + 1.3)) ** 2
                for k, t in enumerate(terms)
            }
            epoch = step / 10
            total = sum(values.values())
            line = {"kind": "step", "phase": phase, "step": step, "epoch": epoch, "lr": {"student": 0.1}}
            lines.append({**line, "terms": values, "loss": {"student": total}})
            if (step + 1) % 10 == 0:
                done = (step + 1) / 10 / epochs
                found = {
                    "accuracy": 0.92 - 0.6 * math.exp(-4 * done) + 0.004 * seed,
                    "loss": 2.2 * math.exp(-2 * done),
                    "ece": 0.03,
                }
                lines.append(
                    {
                        "kind": "epoch",
                        "phase": phase,
                        "epoch": (step + 1) // 10,
                        "validation": found,
                        "train_loss": {},
                        "seconds": 1.0,
                    }
                )
    (path / "steps.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))


def _stage(name: str, kind: str, method: dict, accuracy: dict, parameters: int, phases: list[str]) -> dict:
    runs = [
        {
            "seed": seed,
            "status": "done",
            "folder": f"stages/{name}/seed-{seed}",
            "epochs": 6,
            "seconds": 12.3,
            "images": 32400,
            "phases": [{"name": p, "epochs": 6 / len(phases), "pairs": [], "notes": []} for p in phases],
            "before": {"validation": {"accuracy": 0.25, "loss": 1.4, "ece": 0.1}, "test": None},
            "best": {"epoch": 5, "validation": {"accuracy": value + 0.004, "loss": 0.2, "ece": 0.02}},
            "last": {
                "validation": {"accuracy": value + 0.003, "loss": 0.21, "ece": 0.02},
                "test": {"accuracy": value, "loss": 0.22, "ece": 0.012 + 0.002 * seed},
            },
            "agreement": {"test": value + 0.02} if kind == "distill" else None,
        }
        for seed, value in accuracy.items()
    ]
    cost = {
        "parameters": parameters,
        "macs": 3 * parameters,
        "bytes": 4 * parameters,
        "latency": {
            "batch": 1,
            "median_ms": parameters / 1e5,
            "p10_ms": parameters / 1.1e5,
            "p90_ms": parameters / 0.9e5,
            "n": 50,
            "threads": 1,
            "clock": "process_time",
        },
    }
    who = {"model": name, "teacher": None} if kind == "train" else {"student": "student", "teacher": "teacher"}
    if name == "alone":
        who["model"] = "student"
    return {
        "name": name,
        "kind": kind,
        "network": "digits_mlp",
        **who,
        "method": method,
        "training": {"epochs": 6},
        "rows": None,
        "per_seed": name != "teacher",
        "cost": cost,
        "runs": runs,
    }


def _exhibits(students: list[str]) -> dict:
    models = ["teacher", "alone", *students]
    samples = []
    for s in range(3):
        pixels = [
            int(255 * math.exp(-((x - 2 - s) ** 2 + (y - 3) ** 2) / 5))
            for y in range(8)
            for x in range(8)
            for _ in range(3)
        ]
        samples.append({"row": 17 + s, "label": s, "image": {"shape": [8, 8, 3], "pixels": pixels}})
    soft = [[0.85, 0.09, 0.05, 0.01], [0.06, 0.9, 0.02, 0.02], [0.05, 0.03, 0.72, 0.2], [0.01, 0.01, 0.11, 0.87]]
    bins = [
        {
            "low": i / 10,
            "high": (i + 1) / 10,
            "confidence": i / 10 + 0.06,
            "accuracy": min(1.0, i / 10 + 0.02),
            "count": 3 * i * i,
        }
        for i in range(10)
    ]
    confusion = [[30, 1, 0, 0], [0, 28, 0, 2], [1, 0, 25, 4], [0, 0, 3, 29]]
    attention = [
        {
            "sample": s,
            "model": model,
            "tap": tap,
            "shape": [side, side],
            "map": [
                int(
                    255
                    * math.exp(
                        -((x - (2 + s) * side / 8 - 0.3 * m) ** 2 + (y - 3 * side / 8) ** 2) / (side * (1 + m) / 3)
                    )
                )
                for y in range(side)
                for x in range(side)
            ],
        }
        for s in range(3)
        for m, model in enumerate(models)
        for tap, side in (("layer1", 8), ("layer2", 4))
    ]
    return {
        "classes": CLASSES,
        "samples": samples,
        "soft_labels": {"teacher": {"temperature": 4.0, "matrix": soft}},
        "reliability": {m: {"ece": 0.031, "bins": bins} for m in models},
        "confusion": dict.fromkeys(models, confusion),
        "attention": attention,
    }


@pytest.fixture
def make_run(tmp_path):
    """Make run folders below a temporary folder, see `maker`."""
    return maker(tmp_path)


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """One page of the whole run, for the tests that only read it."""
    from limbeck.report.page import write_report

    return write_report(maker(tmp_path_factory.mktemp("page"))())


def maker(root: Path):
    """A function that makes a run folder below ``root``; ``accuracy``: stage -> seed -> accuracy."""

    def make(
        where: str = "run",
        *,
        name: str = "digits-quickstart",
        accuracy: dict | None = None,
        exhibits: bool = True,
        curves: bool = True,
        status: str = "done",
        **changes,
    ) -> Path:
        folder = root / where
        folder.mkdir(parents=True)
        accuracy = accuracy or ACCURACY
        stages = []
        for stage, by_seed in accuracy.items():
            kind = "train" if stage in ("teacher", "alone") else "distill"
            method = (
                {"kind": "supervised", "label_smoothing": 0.0}
                if kind == "train"
                else {"kind": stage, "temperature": 4.0}
            )
            phases = ["hint", "distill"] if stage == "nst" else ["train" if kind == "train" else "distill"]
            stages.append(_stage(stage, kind, method, by_seed, 120_000 if stage == "teacher" else 10_000, phases))
            for seed in by_seed if curves else ():
                terms = ["ce"] if kind == "train" else ["ce", stage]
                _steps(folder / f"stages/{stage}/seed-{seed}", terms, seed, 6 // len(phases), phases)
        record = {
            "format": 1,
            "name": name,
            "status": status,
            "created": "2026-11-20T21:00:00Z",
            "finished": "2026-11-20T21:05:00Z" if status == "done" else None,
            "command": "limbeck run recipe.yaml --out runs/x",
            "recipe": {"name": name, "seeds": [0, 1, 2] if len(accuracy.get("alone", {})) > 1 else [0]},
            "recipe_hash": "3f2a00112233",
            "commit": "abc1234",
            "versions": {"limbeck": "0.1.0", "torch": "2.15.0", "python": "3.11.7"},
            "machine": {"device": "cpu", "processor": "Some Processor", "threads": 1, "devices": 1},
            "data": {
                "source": "digits",
                "classes": CLASSES,
                "rows": {"train": 1080, "validation": 120, "test": 597},
                "skipped": 0,
                "shape": [1, 8, 8],
            },
            "notes": ["a note of the run"],
            "stages": stages,
            "baseline": "alone",
            **changes,
        }
        (folder / "run.json").write_text(json.dumps(record))
        (folder / "recipe.yaml").write_text("name: digits-quickstart\n# <kept> & escaped\nseeds: [0, 1, 2]\n")
        if exhibits:
            students = [s for s in accuracy if s not in ("teacher", "alone")]
            (folder / "exhibits.json").write_text(json.dumps(_exhibits(students)))
        return folder

    return make
