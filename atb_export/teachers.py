"""How a recipe's teachers are made: fine-tuned on its task, or on several tasks at once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from atb_export.examples import Examples
from atb_export.recipe import BaseRecipe
from atb_export.task import label_tensor, other_task, token_ids
from atb_export.ui import Ui
from supernet.batches import BatchOrder
from supernet.data.rows import Row
from supernet.engine import Engine
from supernet.multitask import TaskRows, fine_tune_many
from supernet.teacher import fine_tune, load_teacher, save_teacher
from supernet.training import TrainPlan

_CHECKPOINT, _MODEL = "training.safetensors", "model"


def make_teacher(
    recipe: BaseRecipe, data: Examples, folder: Path, *, inputs: str, ui: Ui, engine: Engine
) -> dict[str, Any]:
    """`model/` in the folder: the recipe's teacher, fine-tuned on the task unless it has no epochs; returns its labels.

    `inputs` name what decides it, so that the checkpoint of another is never continued.
    """
    part = recipe.teacher
    teacher = load_teacher(part.model, labels=data.labels, seed=recipe.seed, head=data.head)
    if part.epochs:
        lesson = data.of_split(teacher, "train", max_length=part.max_length)
        plan = TrainPlan(
            steps=part.epochs
            * BatchOrder(lesson.texts.lengths, batch_size=engine.count() * part.batch_size, seed=0).per_epoch,
            learning_rate=part.learning_rate,
            fingerprint=inputs,
        )
        with ui.progress("teacher") as progress:
            fine_tune(
                teacher,
                lesson.texts,
                lesson.labels,
                plan,
                batch_size=part.batch_size,
                seed=recipe.seed,
                checkpoint=folder / _CHECKPOINT,
                progress=progress,
                engine=engine,
            )
    if engine.is_main:
        save_teacher(teacher, folder / _MODEL)
    return {"labels": list(teacher.labels)}


def make_multitask(
    recipe: BaseRecipe, data: Examples, folder: Path, *, inputs: str, ui: Ui, engine: Engine
) -> dict[str, Any]:
    """The same of a teacher that is fine-tuned on the tasks of `[[teacher.tasks]]` beside this one."""
    part = recipe.teacher
    own = load_teacher(part.model, labels=data.labels, seed=recipe.seed, head=data.head)
    lesson = data.of_split(own, "train", max_length=part.max_length)
    tasks = [TaskRows(name="this task", teacher=own, texts=lesson.texts, labels=lesson.labels)]
    for i, other in enumerate(part.tasks):
        rows, labels = other_task(other, held_out=data.held_out)
        tasks.append(_task_rows(recipe, f"{i + 1}: {other.name or other.path}", rows, labels))
    per_epoch = sum(-(-len(x.texts) // (engine.count() * part.batch_size)) for x in tasks)
    plan = TrainPlan(steps=max(1, part.epochs) * per_epoch, learning_rate=part.learning_rate, fingerprint=inputs)
    with ui.progress(f"teacher of {len(tasks)} tasks") as progress:
        fine_tune_many(
            tasks,
            plan,
            batch_size=part.batch_size,
            seed=recipe.seed,
            checkpoint=folder / _CHECKPOINT,
            progress=progress,
            engine=engine,
        )
    if engine.is_main:
        save_teacher(own, folder / _MODEL)
    return {"labels": list(own.labels), "tasks": [x.name for x in tasks]}


def _task_rows(recipe: BaseRecipe, name: str, rows: Sequence[Row], labels: Sequence[str]) -> TaskRows:
    part = recipe.teacher
    teacher = load_teacher(part.model, labels=labels, seed=recipe.seed)
    texts = token_ids(teacher, rows, max_length=part.max_length)
    return TaskRows(name=name, teacher=teacher, texts=texts, labels=label_tensor(rows, teacher.labels))
