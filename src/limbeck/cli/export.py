"""``limbeck export``: a network of a run as files that run elsewhere."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING

from limbeck.cli import say

if TYPE_CHECKING:
    from limbeck.export.making import Exported


def print_export(
    run: Path, *, to: str, model: str | None, seed: int | None, out: Path | None, quiet: bool, as_json: bool
) -> None:
    """Export, and print what was made and how far it is from the network."""
    from limbeck.export.targets import target

    target(to)  # a wrong word is told before anything heavy is imported
    from limbeck.export.runs import export_run

    silent = quiet or as_json
    done = export_run(run, to=to, model=model, seed=seed, out=out, say=None if silent else say.line)
    if as_json:
        say.line(json.dumps({"folder": str(done.folder), **done.told}, indent=2, ensure_ascii=False))
    elif not quiet:
        say.line("\n".join(_summary(done)))


def _summary(done: Exported) -> list[str]:
    from limbeck.report.words import size

    told = done.told
    origin, check, details = told["origin"], told["check"], told["details"]
    lines = [
        f"{origin['stage']} (seed {origin['seed']}), {origin['network']}, as {told['to']}: {done.file}, "
        f"{size(told['files'][told['file']]['bytes'])}"
    ]
    if "float_bytes" in details:
        lines[0] += f" ({size(details['float_bytes'])} in float)"
    if "agreement" in check:
        lines.append(
            f"int8 beside float on {check['rows']} test rows: the same class on {check['agreement']:.1%}, logits off by "
            f"{check['relative_difference']:.2%} of their norm"
        )
        if accuracy := check.get("accuracy"):
            lines.append(f"accuracy on them: {accuracy['float']:.2%} in float, {accuracy['int8']:.2%} in int8")
    elif check["max_difference"] is None:
        made = details.get("class", "a class of its own")
        lines.append(f"weights alone, not compared: {made} is no network that limbeck builds")
        return [*lines, f"what is known of it: {done.folder / 'deploy.json'}"]
    else:
        lines.append(
            f"largest difference from the network: {check['max_difference']:.2g} "
            f"(allowed {check['tolerance']:.2g}; batches of {', '.join(map(str, check['rows']))})"
        )
    return [
        *lines,
        f"how to use it: {done.folder / 'deploy.json'}; to try it: limbeck predict {shlex.quote(str(done.folder))} PICTURE",
    ]
