"""Test claims, and make the page of their verdicts.

    python benchmarks/claims/run.py            # every claim; what is measured already is kept
    python benchmarks/claims/run.py 3 21       # these
    python benchmarks/claims/run.py --page     # only the page, docs/results/claims.md

Every claim is a file ``cNN_*.py`` here with a ``CLAIM``; its figures go to docs/results/claims/NN.json, seed by seed, so
that a stopped run goes on.  One thread; minutes for each.
"""

from __future__ import annotations

import argparse
import importlib
import json
import sys
from pathlib import Path

import torch

HERE = Path(__file__).resolve().parent
RESULTS = HERE.parents[1] / "docs" / "results" / "claims"


def found() -> dict[int, str]:
    """The modules with experiments, by number."""
    return {int(path.name[1:3]): path.stem for path in sorted(HERE.glob("c[0-9][0-9]_*.py"))}


def page() -> str:
    """The table of all verdicts, and what each rests on."""
    told = [json.loads(path.read_text()) for path in sorted(RESULTS.glob("[0-9][0-9].json"))]
    told = [t for t in told if t["outcome"]]
    counts = {o: sum(t["outcome"] == o for t in told) for o in ("held", "did not hold", "inconclusive")}
    lines = [
        "# Claims, tested",
        "",
        'Small experiments on sentences that papers and lectures say about distillation and compression. "Held" and "did not hold" take an '
        "interval of three seeds or more that leaves zero out, or an exact fact; everything else is inconclusive. These are "
        "small networks and small data: a verdict is about the set-up beside it and no other.",
        "",
        ", ".join(f"{n} {o}" for o, n in counts.items()) + ".",
        "",
        "| # | claim | verdict |",
        "|---|---|---|",
        *(f"| [{t['number']}](#claim-{t['number']}) | {t['claim']} | {t['outcome']} |" for t in told),
    ]
    for t in told:
        seconds = sum(f.get("cpu_seconds", 0.0) for f in t["figures"].values())
        lines += [
            "",
            f"## Claim {t['number']}",
            "",
            f"*{t['claim']}* ({t['source']})",
            "",
            f"**{t['outcome'].capitalize()}.** {t['sentence']}",
            "",
            f"Set-up: {t['setup']}" + (f" Settings: {t['settings']}" if t["settings"] else ""),
            "",
            f"Seeds {', '.join(map(str, t['seeds']))}; commit {t['commit']}; torch {t['versions']['torch']}; {t['device']}; "
            f"{seconds:.0f} CPU seconds. Data: [{t['number']:02d}.json](claims/{t['number']:02d}.json).",
        ]
    return "\n".join([*lines, ""])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("numbers", nargs="*", type=int, help="claims to test; all by default")
    parser.add_argument("--page", action="store_true", help="only make the page")
    parser.add_argument("--fresh", action="store_true", help="measure again what is there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    sys.path.insert(0, str(HERE))
    if not asked.page:
        from common import perform

        known = found()
        unknown = [n for n in asked.numbers if n not in known]
        if unknown:
            parser.error(f"no claim {unknown[0]} here; there are: {', '.join(map(str, known))}")
        for number in asked.numbers or known:
            told = perform(importlib.import_module(known[number]).CLAIM, RESULTS, fresh=asked.fresh)
            print(f"claim {number}: {told['outcome']}. {told['sentence']}", flush=True)
    (RESULTS.parent / "claims.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main()
