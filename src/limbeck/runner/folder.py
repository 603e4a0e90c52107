"""The run folder: whose it is, and whether there is anything left to do."""

from __future__ import annotations

from pathlib import Path

from limbeck import catalog, config, record
from limbeck.errors import LimbeckError, RunFolderError
from limbeck.recipe import Compress, Recipe

# What `record.write_text`, checkpoints and weights write before they rename it.
_WRITING = (".*.writing", ".*.[0-9]*.part")


def require_catalogued(recipe: Recipe) -> None:
    """A run folder names its methods; one that no catalogue lists could not be read back."""
    for stage in recipe.stages:
        method = getattr(stage, "method", None)
        if method is not None and catalog.name_of(method) not in catalog.entries("method"):
            raise LimbeckError(
                f"stage {stage.name!r}: {type(method).__name__} is in no catalogue, so a run folder could not name it; "
                "register it under the entry-point group 'limbeck.methods', or train with limbeck.distill"
            )
        if isinstance(stage, Compress) and catalog.name_of(stage.how) not in catalog.entries("compressor"):
            raise LimbeckError(
                f"stage {stage.name!r}: {type(stage.how).__name__} is in no catalogue, so a run folder could not name it; "
                "call it from Python with limbeck.compress"
            )


def open_folder(folder: Path, recipe: Recipe) -> None:
    """Refuse a folder with another recipe's run; put the recipe into a new one."""
    kept = folder / "recipe.yaml"
    for kind in _WRITING:
        for left in (*folder.glob(kind), *(folder / "stages").rglob(kind)):
            left.unlink(
                missing_ok=True
            )  # of a process that was killed while it wrote: the folder is locked, and this ours
    if kept.exists():
        old = config.read_recipe(kept)
        if config.recipe_hash(old) != config.recipe_hash(recipe):
            lines = record.difference(config.to_data(old, defaults=True), config.to_data(recipe, defaults=True))
            raise RunFolderError(
                f"{folder} holds the run of another recipe; choose another --out, or remove the folder. What differs:\n"
                + "\n".join(f"  {line}" for line in lines[:20])
            )
        return
    strangers = [p.name for p in folder.iterdir() if p.name != ".lock"]
    if strangers:
        raise RunFolderError(
            f"{folder} is no run folder and not empty (it holds {', '.join(sorted(strangers)[:5])}); choose another --out"
        )
    record.write_text(kept, config.to_yaml(recipe))


def is_complete(folder: Path) -> bool:
    """Whether the run is done and all its weights are there: who removes a stage's folder wants it done again."""
    told = record.read_json(folder / "run.json") or {}
    places = [folder / line["folder"] for stage in told.get("stages", ()) for line in stage.get("runs", ())]
    return told.get("status") == "done" and all((place / "last.safetensors").exists() for place in places)
