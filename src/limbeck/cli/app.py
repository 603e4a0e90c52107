"""The commands: what they are called, what they take, what their help says.  What they do is elsewhere."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import say
from limbeck.errors import RecipeError

app = typer.Typer(
    name="limbeck",
    help="Turn a big trained network into a small, fast one, and prove what that cost.",
    epilog="Start here: limbeck quickstart.  Help for one command: limbeck run --help.",
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # rich's help costs 0.1 s of start-up
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)

RecipeFile = Annotated[str, typer.Argument(metavar="RECIPE", help="a YAML file, or - for standard input")]
Sets = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="PATH=VALUE", help="change one setting, e.g. stages.1.method.temperature=8; repeatable"
    ),
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="print nothing")]
AsJson = Annotated[bool, typer.Option("--json", help="for programs")]


def _version(asked: bool) -> None:
    if asked:
        from importlib.metadata import version

        typer.echo(f"limbeck {version('limbeck')}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="the version, and stop")
    ] = False,
    debug: Annotated[
        bool, typer.Option("--debug", help="show the traceback of an error (anywhere in the line)")
    ] = False,
) -> None:
    del version, debug  # --debug is taken by `main`, wherever it stands


@app.command()
def quickstart(
    out: Annotated[Path, typer.Option("--out", "-o", help="folder for the run")] = Path("runs/quickstart"),
    seeds: Annotated[int, typer.Option(min=1, help="repetitions; three or more make a result")] = 5,
    quiet: Quiet = False,
) -> None:
    """Distil a small digits network in a minute.

    Needs no data, no network and no GPU. Prints what each method gained and writes report.html.

    \b
    Example:
      limbeck quickstart
      limbeck quickstart --out runs/first --seeds 3
    """
    from limbeck.quickstart import run

    run(out=out, seeds=seeds, quiet=quiet)


@app.command()
def run(
    recipe: RecipeFile,
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder for the run; runs/NAME by default")] = None,
    sets: Sets = None,
    devices: Annotated[int | None, typer.Option(min=1, help="processes, one device each")] = None,
    accelerator: Annotated[str | None, typer.Option(help="auto, cpu, cuda or mps")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="CPU threads per process")] = None,
    quiet: Quiet = False,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="start again, even if the folder has a run to continue")
    ] = False,
) -> None:
    """Run a recipe, and write a report.

    A run that was stopped goes on where it was when the same command is given again.

    \b
    Examples:
      limbeck run recipe.yaml --out runs/first
      limbeck run recipe.yaml --set stages.kd.method.temperature=8 --out runs/t8
      limbeck run recipe.yaml --set seeds=[0] --set data.validation=1000
    """
    from limbeck import config
    from limbeck.cli.fresh import clear
    from limbeck.cli.machine import choose, folder_for

    parsed = config.read(recipe, sets or ())
    machine = choose(parsed.machine, accelerator=accelerator, devices=devices, threads=threads)
    _refuse(config.check(parsed))
    from limbeck.runner import run as run_recipe

    folder = out if out is not None else folder_for(parsed)
    if fresh:
        clear(folder)
    run_recipe(parsed.recipe, out=folder, machine=machine, quiet=quiet, command=_command())


@app.command()
def check(
    recipe: RecipeFile,
    sets: Sets = None,
    shape_only: Annotated[
        bool, typer.Option("--shape-only", help="the file alone: no network is built, no weights are opened")
    ] = False,
) -> None:
    """Say everything that is wrong with a recipe.

    Each line has the file and line, the setting, and what is wrong with it.

    \b
    Examples:
      limbeck check recipe.yaml
      limbeck new nst | limbeck check -
    """
    from limbeck import config
    from limbeck.cli.machine import in_words

    parsed = config.read(recipe, sets or ())
    _refuse(config.check(parsed, shape_only=shape_only))
    say.line(in_words(parsed))


@app.command()
def methods(
    name: Annotated[
        str | None, typer.Argument(metavar="[NAME]", help="show this one: formula, paper, settings, presets")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """List the methods, or explain one.

    \b
    Examples:
      limbeck methods
      limbeck methods fitnets
      limbeck methods --json
    """
    from limbeck.cli.catalogue import print_methods

    print_methods(name, as_json=as_json)


@app.command()
def models(
    as_json: AsJson = False,
    classes: Annotated[int, typer.Option(min=1, help="how many classes the networks tell apart")] = 10,
) -> None:
    """List the networks and their sizes.

    \b
    Example:
      limbeck models --classes 100
    """
    from limbeck.cli.catalogue import print_models

    print_models(as_json=as_json, classes=classes)


@app.command()
def new(
    method: Annotated[str, typer.Argument(metavar="METHOD", help="a name from: limbeck methods")],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="write to this file, which must not exist yet")
    ] = None,
) -> None:
    """Write a commented recipe to start from.

    \b
    Examples:
      limbeck new fitnets > recipe.yaml
      limbeck new kd --out kd.yaml
    """
    from limbeck.starters import starter

    text = starter(method)
    if out is None:
        typer.echo(text, nl=False)
        return
    try:
        with out.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError:
        raise RecipeError(f"{out} exists already; choose another file") from None
    except OSError as error:
        raise RecipeError(f"cannot write {out}: {error.strerror or error}; choose another file") from None
    say.line(f"wrote {out}; next: limbeck run {out}")


@app.command()
def schema() -> None:
    """Print the JSON Schema of a recipe, and of what limbeck search reads, for editors.

    \b
    Example:
      limbeck schema > recipe.schema.json
    then, in the first line of a recipe:
      # yaml-language-server: $schema=recipe.schema.json
    """
    import json

    from limbeck.config import schema as make
    from limbeck.search.spec import SECTION, Search

    typer.echo(json.dumps(make({SECTION: Search}), indent=2))


@app.command()
def compare(
    runs: Annotated[list[Path], typer.Argument(metavar="RUNS...", help="folders of runs")],
    html: Annotated[Path | None, typer.Option(help="also write a page with the plot to this file")] = None,
) -> None:
    """Put runs side by side.

    Accuracy, parameters, multiply-accumulates, latency; with --html also a page with a plot.

    \b
    Example:
      limbeck compare runs/* --html compare.html
    """
    from limbeck.cli.reports import print_comparison

    print_comparison(runs, html)


@app.command()
def report(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run")],
    open_page: Annotated[bool, typer.Option("--open", help="show it in the browser")] = False,
) -> None:
    """Show the results of a run; write its page.

    \b
    Example:
      limbeck report runs/first --open
    """
    from limbeck.cli.reports import print_report

    print_report(run, open_page=open_page)


@app.command()
def search(
    file: Annotated[str, typer.Argument(metavar="FILE", help="a recipe with a section `search`")],
    out: Annotated[Path | None, typer.Option("--out", "-o", help="folder for the search and all its runs")] = None,
    trials: Annotated[int | None, typer.Option(min=1, help="how many trials, instead of what the file says")] = None,
    sets: Sets = None,
    only_check: Annotated[bool, typer.Option("--check", help="only say what is wrong with the file")] = False,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find the best chain under a budget.

    Each trial is an ordinary run of the recipe with other settings, judged on validation rows. A search that was stopped
    goes on where it was when the same command is given again; with more --trials, one that is done goes on too.

    \b
    Examples:
      limbeck search search.yaml --out searches/first
      limbeck search search.yaml --out searches/strict --trials 40 --set search.within.points=0.5
    """
    from limbeck.cli.search import print_search

    print_search(
        file,
        out=out,
        trials=trials,
        sets=sets or (),
        only_check=only_check,
        quiet=quiet,
        as_json=as_json,
        command=_command(),
    )


@app.command()
def export(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run")],
    to: Annotated[
        str, typer.Option("--to", help="onnx, onnx-int8, torch, aot, safetensors, openvino or executorch")
    ] = "onnx",
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="the stage whose network it is; by default the last")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="the repetition; by default the first")] = None,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the folder to make; RUN/exports/STAGE-seed-N-FORMAT by default")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Write a network of a run as files that run elsewhere.

    What was written is opened again and compared with the network; if it differs, nothing is kept. deploy.json beside it
    says how a picture becomes an input and what comes out.

    \b
    Examples:
      limbeck export runs/first --to onnx
      limbeck export runs/first --model kd --to onnx-int8 --out deploy
    """
    from limbeck.cli.export import print_export

    print_export(run, to=to, model=model, seed=seed, out=out, quiet=quiet, as_json=as_json)


@app.command()
def latency(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run")],
    model: Annotated[
        list[str] | None,
        typer.Option("--model", "-m", help="a stage whose network is timed; repeatable; by default the last"),
    ] = None,
    batch: Annotated[
        list[int] | None,
        typer.Option("--batch", "-b", min=1, help="samples per forward; repeatable; by default 1 and 32"),
    ] = None,
    form: Annotated[
        list[str] | None,
        typer.Option(
            "--form", help="'eager', 'compiled', 'bf16 compiled', 'int8 compiled', ...; repeatable; by default all"
        ),
    ] = None,
    against: Annotated[str, typer.Option(help="the form of the original that the others are compared with")] = "eager",
    seed: Annotated[int | None, typer.Option(help="the repetition; by default the first")] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Time networks of a run beside the original, in every form that this machine can run.

    Eager, compiled, bfloat16, int8, onnxruntime in float and int8: on one thread of the CPU, taking turns. Making the forms takes
    most of the time, up to a minute for each network and batch size.

    \b
    Examples:
      limbeck latency runs/first
      limbeck latency runs/first --model pruned --model int8 --batch 1 --batch 128 --against onnxruntime
    """
    from limbeck.cli.latency import print_latency

    print_latency(
        run,
        models=model or (),
        seed=seed,
        batches=batch or (1, 32),
        only=form or (),
        against=against,
        quiet=quiet,
        as_json=as_json,
    )


@app.command()
def sensitivity(
    run: Annotated[Path, typer.Argument(metavar="RUN", help="folder of a run")],
    model: Annotated[
        str | None,
        typer.Option("--model", "-m", help="the stage whose network it is; by default the last that is in float"),
    ] = None,
    seed: Annotated[int | None, typer.Option(help="the repetition; by default the first")] = None,
    to: Annotated[str, typer.Option("--to", help="prune or int8")] = "prune",
    by: Annotated[
        str | None, typer.Option(help="prune: the score of a channel: l1, l2, fpgm, taylor, ...; by default l1")
    ] = None,
    part: Annotated[
        list[float] | None,
        typer.Option("--part", help="prune: of a layer's channels; repeatable; by default 0.1 0.25 0.5 0.75 0.9"),
    ] = None,
    others: Annotated[
        bool, typer.Option("--others", help="int8: all layers but one are in int8, instead of one alone")
    ] = False,
    rows: Annotated[int, typer.Option(help="validation rows to judge by")] = 1000,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="the page; RUN/sensitivity-STAGE-... .html by default")
    ] = None,
    quiet: Quiet = False,
    as_json: AsJson = False,
) -> None:
    """Find the layers that bear pruning, or suffer from int8.

    One layer at a time is compressed, without training, and accuracy is measured on validation rows. Prints a table, and what
    to write into a recipe; the page has a chart.

    \b
    Examples:
      limbeck sensitivity runs/first
      limbeck sensitivity runs/first --model teacher --by fpgm --part 0.25 --part 0.5
      limbeck sensitivity runs/first --to int8
    """
    from limbeck.cli.sensitivity import print_sensitivity

    print_sensitivity(
        run,
        model=model,
        seed=seed,
        to=to,
        by=by,
        parts=part or (),
        quantized="others" if others else None,
        rows=rows,
        out=out,
        quiet=quiet,
        as_json=as_json,
        command=_command(),
    )


@app.command()
def predict(
    run: Annotated[Path, typer.Argument(metavar="FOLDER", help="of a run, or of an exported network")],
    pictures: Annotated[list[Path], typer.Argument(metavar="PICTURES...", help="image files")],
    model: Annotated[
        str | None, typer.Option("--model", "-m", help="the stage whose network is asked; by default the last")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="the repetition; by default the first")] = None,
    top: Annotated[int, typer.Option(min=1, help="how many classes to show")] = 5,
    as_json: AsJson = False,
) -> None:
    """Ask networks about pictures: the original beside the small one.

    \b
    Examples:
      limbeck predict runs/first cat.png dog.jpg
      limbeck predict runs/first --model kd --top 3 cat.png
      limbeck predict runs/first/exports/kd-seed-0-onnx cat.png
    """
    from limbeck.cli.predict import print_predictions

    print_predictions(run, pictures, model=model, seed=seed, top=top, as_json=as_json)


def _refuse(found: list[str]) -> None:
    if found:
        raise RecipeError("\n".join(found), tuple(found))


def _command() -> str:
    """The command line as it was typed, for the record."""
    import shlex

    from limbeck.cli import typed

    return shlex.join(["limbeck", *typed()])
