"""`atb distill`: a teacher into a hand-written shape, in stages, over several seeds."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from atb_export.cli.output import emit, table
from atb_export.cli.recipe_commands import left, recipe_command, working
from atb_export.recipe import load_student_recipe
from atb_export.ui import Ui


def show(result: dict[str, Any], folder: Path) -> None:
    """Teacher and student side by side, what each stage came to, and where the model is."""
    teacher, student = result["teacher"], result["student"]
    metric = result["task"]["metric"]
    count = len(student["runs"])
    click.echo(f"\n{metric} on {result['task']['rows']['test']:,} test rows; {count} seed(s)\n")
    rows = []
    for name in teacher["test"]:
        mine = student["test"][name]
        spread = f" ± {mine['deviation']:.4f}" if count > 1 else ""
        share = f"{mine['mean'] / teacher['test'][name]:.1%}" if teacher["test"][name] else "-"
        rows.append([name, f"{teacher['test'][name]:.4f}", f"{mine['mean']:.4f}{spread}", share])
    table(["metric", "teacher", "student", "of teacher"], rows)
    click.echo()
    stages = [x["stages"] for x in student["runs"]]
    table(
        ["stage", "search-dev", "seconds"],
        [
            [
                steps[0]["name"],
                " ".join(f"{x['search_dev']:.4f}" for x in steps),
                f"{sum(x['seconds'] for x in steps):.0f}",
            ]
            for steps in zip(*stages, strict=True)
        ],
    )
    click.echo(
        f"\nparameters  teacher {teacher['params'] / 1e6:.1f} M, student {student['params'] / 1e6:.1f} M"
        f"\nmodel       {folder / 'model'}  (seed {student['model_seed']}, the best on search-dev)"
        f"\nresult      {folder / 'result.json'}"
    )


@click.command("distill")
@recipe_command
def distill_command(recipe: Path, resume: bool, threads: int | None, skipped: tuple[str, ...], as_json: bool) -> None:
    """Teach the hand-written student of RECIPE, stage by stage, once for each of its seeds.

    \b
    What appears in the recipe's output folder:
      model/        a transformers folder, held against the network it was made from; `atb export` takes it
      result.json   every metric of teacher and student, mean and deviation over the seeds, each stage's share

    \b
    Examples:
      atb distill recipes/tinybert.toml
      atb distill recipes/tinybert.toml --resume              after an interruption
      atb distill recipes/ernie-tiny.toml --skip-stage ged    what is a stage worth?
      atb export runs/tinybert/model --out runs/tinybert/bundle
      accelerate launch --num_processes 8 -m atb_export distill recipes/tinybert.toml
    """
    checked = load_student_recipe(recipe)
    with working(checked, resume=resume, threads=threads, skipped=skipped) as (final, workspace):
        from atb_export.distilling import Distillation

        ui = Ui(quiet=not workspace.is_main)
        distillation = Distillation(recipe=final, workspace=workspace, ui=ui, skip=frozenset(skipped))
        with left(distillation):
            if not workspace.is_main:
                return distillation.take_part()
            result = distillation.finish()
        show(result, workspace.folder)
        emit(result, as_json=as_json)
