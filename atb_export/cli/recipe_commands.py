"""Commands that take a recipe: the whole way, or up to a stage."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click

from atb_export.cli.output import emit, json_option, table
from atb_export.recipe import Recipe, load_recipe
from atb_export.ui import Ui


def recipe_command(function: Callable[..., Any]) -> Callable[..., Any]:
    """Arguments all of these commands share."""
    function = json_option(function)
    function = click.option(
        "--threads", type=click.IntRange(1), help="Threads of training; as many as there are CPUs by default."
    )(function)
    function = click.option("--resume", is_flag=True, help="Continue the run in the recipe's output folder.")(function)
    return click.argument("recipe", type=click.Path(path_type=Path))(function)


@contextmanager
def opened(recipe: Path, *, resume: bool, threads: int | None) -> Iterator[Any]:
    """A `Run` in its workspace. The recipe is checked whole before anything heavy is imported."""
    checked: Recipe = load_recipe(recipe)
    import torch

    from atb_export.stages import Run
    from atb_export.ui import quiet_libraries
    from atb_export.workspace import Workspace
    from runtime.engine import usable_cpus

    quiet_libraries()
    torch.set_num_threads(threads or usable_cpus())
    with Workspace.open(Path(checked.output), resume=resume) as workspace:
        yield Run(recipe=checked, workspace=workspace, ui=Ui())


def _row(model: dict[str, Any], teacher: dict[str, Any]) -> list[str]:
    low, high = model["latency_ci_ms"]
    return [
        model["name"],
        f"{model['accuracy']:.4f} ± {model['accuracy_se']:.4f}",
        f"{model['accuracy'] / teacher['accuracy']:.1%}",
        f"{model['latency_ms']:.3f} [{low:.3f}, {high:.3f}]",
        f"{model['latency_of_teacher']:.3f}",
        f"{model['params'] / 1e6:.1f} M",
        f"{model['bundle_bytes'] / 1e6:.0f} MB",
    ]


def show(result: dict[str, Any], folder: Path) -> None:
    """The result as a table, and where everything is."""
    target, teacher = result["target"], result["teacher"]
    click.echo(
        f"\n{target['backend']} {target['effective_precision']}, {target['threads']} thread(s), "
        f"batch {target['shape']['batch']}, length {target['shape']['length']}; "
        f"{result['engines_measured']} engines measured, {result['engines_failed']} failed; "
        f"accuracy on {result['task']['rows']['test']} test rows\n"
    )
    header = ["model", result["task"]["metric"], "of teacher", "p50 ms [95 %]", "of teacher", "params", "bundle"]
    table(header, [_row(x, teacher) for x in (teacher, result["winner"], *result["baselines"])])
    for pair in result["paired"]:
        click.echo(
            f"{pair['a']} - {pair['b']}: {pair['difference']:+.4f} (p = {pair['p_value']:.3f}): {pair['verdict']}"
        )
    click.echo(f"\nbundle  {folder / 'bundle'}\nreport  {folder / 'report.html'}\nresult  {folder / 'result.json'}")


def _finish(recipe: Path, *, resume: bool, threads: int | None, as_json: bool, compare: bool) -> None:
    with opened(recipe, resume=resume, threads=threads) as run:
        from atb_export.result import finish

        result = finish(run, compare=compare)
        show(result, run.workspace.folder)
        emit(result, as_json=as_json)


@click.command("run")
@recipe_command
def run_command(recipe: Path, resume: bool, threads: int | None, as_json: bool) -> None:
    """Do everything RECIPE describes, from the teacher to the bundle and the report.

    \b
    Example:
      atb run recipes/quickstart.toml
      atb run recipes/quickstart.toml --resume      after an interruption
    """
    _finish(recipe, resume=resume, threads=threads, as_json=as_json, compare=False)


@click.command("compare")
@recipe_command
def compare_command(recipe: Path, resume: bool, threads: int | None, as_json: bool) -> None:
    """Continue a run with the hand-designed baselines of RECIPE, distilled like the winner, and report again.

    \b
    Example:
      atb compare recipes/quickstart.toml --resume
    """
    _finish(recipe, resume=resume, threads=threads, as_json=as_json, compare=True)


@click.command("train")
@recipe_command
def train_command(recipe: Path, resume: bool, threads: int | None, as_json: bool) -> None:
    """Fine-tune the teacher of RECIPE and train its supernet.

    \b
    Example:
      atb train recipes/quickstart.toml
    """
    with opened(recipe, resume=resume, threads=threads) as run:
        stage = run.supernet_stage
        click.echo(f"supernet  {stage.folder / 'supernet.safetensors'}")
        emit({"supernet": str(stage.folder), "seconds": run.workspace.seconds, **stage.result}, as_json=as_json)


@click.command("search")
@recipe_command
def search_command(recipe: Path, resume: bool, threads: int | None, as_json: bool) -> None:
    """Search the space of RECIPE by the measured latency of compiled engines.

    Trains what is not trained yet.

    \b
    Example:
      atb search recipes/quickstart.toml --resume
    """
    with opened(recipe, resume=resume, threads=threads) as run:
        result = run.search_stage.result
        _show_front(result)
        emit(result, as_json=as_json)


def _front(result: dict[str, Any]) -> list[dict[str, Any]]:
    return sorted((x for x in result["candidates"] if x["front"]), key=lambda x: x["latency_ms"])


def _show_front(result: dict[str, Any]) -> None:
    from supernet.space import SubnetConfig

    rows = []
    for x in _front(result):
        subnet = SubnetConfig.from_json(x["subnet"])
        low, high = x["latency_ci_ms"]
        mark = "<- picked" if x["subnet"] == result["winner"]["subnet"] else ""
        rows.append(
            [subnet.key, f"{x['accuracy']:.4f}", f"{x['latency_ms']:.3f} [{low:.3f}, {high:.3f}]", f"{subnet} {mark}"]
        )
    click.echo(f"front at {result['effective_precision']}; constraint {result['constraint_ms']:.3f} ms\n")
    table(["key", "search-dev", "p50 ms [95 %]", "subnet"], rows)


@click.command("pick")
@recipe_command
@click.option("--max-ms", type=click.FloatRange(0, min_open=True), help="Another constraint than the recipe's.")
@click.option("--key", help="A subnet of the front by its key, instead of the most accurate that fits.")
@click.option("--out", type=click.Path(path_type=Path), help="Slice the subnet to a dense model in this new folder.")
def pick_command(
    recipe: Path,
    resume: bool,
    threads: int | None,
    as_json: bool,
    max_ms: float | None,
    key: str | None,
    out: Path | None,
) -> None:
    """Show the front of the search of RECIPE and pick one subnet; --out slices it with its inherited weights.

    \b
    Example:
      atb pick recipes/quickstart.toml --resume --max-ms 0.8 --out runs/picked
      atb export runs/picked --target openvino --out runs/picked-bundle
    """
    if out is not None and out.exists():
        raise click.ClickException(f"{out} exists already; name a new folder")
    with opened(recipe, resume=resume, threads=threads) as run:
        from atb_export.dense import DenseModel, save_dense
        from runtime.files import appearing
        from search.candidate import Candidate
        from search.front import pick
        from supernet.space import SubnetConfig

        result = run.search_stage.result
        _show_front(result)
        chosen = result["winner"]
        if key is not None:
            found = [x for x in _front(result) if SubnetConfig.from_json(x["subnet"]).key == key]
            if not found:
                raise click.ClickException(f"no subnet of the front has the key {key!r}; the table above has them all")
            chosen = found[0]
        elif max_ms is not None:
            plain = [{k: v for k, v in x.items() if k != "front"} for x in _front(result)]
            chosen = pick([Candidate.from_json(x) for x in plain], max_ms).to_json()
        subnet = SubnetConfig.from_json(chosen["subnet"])
        click.echo(f"\npicked  {subnet.key}  {subnet}")
        if out is not None:
            model = DenseModel(
                net=run.supernet.slice(subnet), tokenizer=run.teacher.tokenizer, labels=run.teacher.labels
            )
            with appearing(out) as aside:
                save_dense(model, aside)
            click.echo(f"dense   {out}")
        emit({**chosen, "key": subnet.key, "dense": str(out) if out is not None else None}, as_json=as_json)
