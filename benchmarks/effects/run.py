"""The effects study, in pieces: every method on one student and one seed.

    python benchmarks/effects/run.py resnet8 0                    # a piece, into runs/effects/resnet8-0
    python benchmarks/effects/run.py resnet8 0 --out FOLDER       # ... or elsewhere
    python benchmarks/effects/run.py --list                       # the students, and what a piece trains

A piece that was stopped goes on with the same command.  Pieces of several seeds run side by side, one thread each; what
they found is put together by ``python benchmarks/effects/publish.py docs/results/effects-resnet8 runs/effects/resnet8-*``.
Run from the root of the checkout; the teacher is made by benchmarks/effects/teacher.yaml.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from study import STUDENTS, TEACHER, Budget, recipe

import limbeck as lk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("student", nargs="?", choices=list(STUDENTS))
    parser.add_argument("seed", nargs="?", type=int)
    parser.add_argument("--out", type=Path, help="folder; runs/effects/STUDENT-SEED by default")
    parser.add_argument("--epochs", type=int, default=Budget.epochs)
    parser.add_argument("--rows", type=int, default=Budget.rows, help="training rows; 0: all 45,000")
    parser.add_argument("--list", action="store_true", help="say what a piece trains")
    asked = parser.parse_args()
    budget = Budget(epochs=asked.epochs, rows=asked.rows or None)
    if asked.list or asked.student is None or asked.seed is None:
        for name in STUDENTS:
            print(f"{name}: {', '.join(stage.name for stage in recipe(name, 0, budget).plan)}")
        return
    if not TEACHER.exists():
        parser.error(f"no teacher at {TEACHER}: train it first, as benchmarks/effects/teacher.yaml says")
    out = asked.out or Path("runs/effects") / f"{asked.student}-{asked.seed}"
    lk.run(recipe(asked.student, asked.seed, budget), out=out, machine=lk.Machine(threads=1))


if __name__ == "__main__":
    main()
