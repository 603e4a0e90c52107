"""The compression studies, in pieces: scores, ranks, bits, chains, tickets, each on one network with one seed.

    python benchmarks/compress/run.py scores-50 resnet56 0                 # into runs/compress/resnet56-scores-50-0
    python benchmarks/compress/run.py chains vgg16 1 --out FOLDER          # ... or elsewhere
    python benchmarks/compress/run.py --list                               # the pieces, and what each makes

A piece that was stopped goes on with the same command.  What several seeds found is put together by
``python benchmarks/compress/publish.py docs/results/compress-resnet56-scores-50 runs/compress/resnet56-scores-50-*``, of tickets,
which begin with a small network's random weights, by tickets.py.
Run from the root of the checkout; the originals are made by original.yaml and original-vgg16.yaml.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from study import ORIGINALS, PIECES, ROOT, Budget, recipe

import limbeck as lk


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("piece", nargs="?", choices=list(PIECES))
    parser.add_argument("network", nargs="?", choices=list(ORIGINALS), default="resnet56")
    parser.add_argument("seed", nargs="?", type=int, default=0)
    parser.add_argument("--out", type=Path, help="folder; runs/compress/NETWORK-PIECE-SEED by default")
    parser.add_argument("--epochs", type=int, default=Budget.epochs, help="of the training afterwards")
    parser.add_argument("--rows", type=int, default=Budget.rows, help="training rows; 0: all 45,000")
    parser.add_argument("--list", action="store_true", help="say what the pieces make")
    asked = parser.parse_args()
    budget = Budget(epochs=asked.epochs, rows=asked.rows or None)
    if asked.list or asked.piece is None:
        for piece in PIECES:
            names = [stage.name for stage in recipe(piece, "resnet56", 0, budget).plan]
            print(f"{piece}: {', '.join(names)}")
        return
    if not (ROOT / ORIGINALS[asked.network]).exists():
        parser.error(
            f"no weights at {ORIGINALS[asked.network]}: train the original first, as benchmarks/README.md says"
        )
    out = asked.out or Path("runs/compress") / f"{asked.network}-{asked.piece}-{asked.seed}"
    lk.run(recipe(asked.piece, asked.network, asked.seed, budget), out=out, machine=lk.Machine(threads=1))


if __name__ == "__main__":
    main()
