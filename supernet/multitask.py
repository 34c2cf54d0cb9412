"""One encoder, several tasks, a head each: the teacher of ERNIE-Tiny's general-enhanced stage (Su et al. 2021)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from torch import Tensor, nn

from supernet.batches import BatchOrder, TokenizedTexts
from supernet.engine import Engine, Part
from supernet.errors import TeacherError
from supernet.teacher import Teacher, batch_loss, check_lengths
from supernet.training import Progress, TrainPlan, train


@dataclass(frozen=True, kw_only=True, eq=False)
class TaskRows:
    """One of the tasks: its teacher, whose head is trained and whose encoder becomes the common one, and its rows.

    `labels` [rows]: int64 classes or float32 targets, in the order of the teacher's labels.
    """

    name: str
    teacher: Teacher
    texts: TokenizedTexts
    labels: Tensor

    def __post_init__(self) -> None:
        if len(self.texts) != len(self.labels) or not len(self.texts):
            raise TeacherError(
                f"the task {self.name} needs rows and their labels, got {len(self.texts)} and {len(self.labels)}"
            )


def task_schedule(sizes: Sequence[int], *, steps: int, seed: int, power: float = 0.5) -> list[tuple[int, int]]:
    """For each step which task it is of, and how many steps of that task came before.

    Tasks are drawn in proportion to their rows to the `power`: 1 is as large as they are, 0 all alike. The first task
    is in no way special.
    """
    rng = Random(f"{seed}-tasks")
    weights = [size**power for size in sizes]
    counts = [0] * len(sizes)
    found = []
    for task in rng.choices(range(len(sizes)), weights, k=steps):
        found.append((task, counts[task]))
        counts[task] += 1
    return found


def fine_tune_many(
    tasks: Sequence[TaskRows],
    plan: TrainPlan,
    *,
    batch_size: int,
    seed: int,
    power: float = 0.5,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> None:
    """Trains one encoder on all tasks in place, each step on a batch of one task.

    The encoder of the first task's teacher becomes that of every teacher of `tasks`; afterwards each of them is a
    whole classifier of its own task, and `supernet_from_bert` of any has the common encoder. Word embeddings stay as
    they are. Raises `TeacherError` for less than two tasks, two of one name, teachers of several families or sizes, and
    texts longer than the position table.
    """
    names = [task.name for task in tasks]
    if len(tasks) < 2 or len(set(names)) < len(names):
        raise TeacherError(
            f"several tasks at once are two or more of different names, got {', '.join(names) or 'none'}"
        )
    models = [task.teacher.model for task in tasks]
    body = models[0].base_model
    shapes = {name: tensor.shape for name, tensor in body.state_dict().items()}
    for task, model in zip(tasks, models, strict=True):
        if {name: tensor.shape for name, tensor in model.base_model.state_dict().items()} != shapes:
            raise TeacherError(f"tasks share one encoder, but that of {task.name} is another than that of {names[0]}")
        check_lengths(model, task.texts)
        if model is not models[0]:
            setattr(model, model.base_model_prefix, body)
    engine = engine or Engine(local=True)
    size = batch_size * engine.count(plan.accumulate)
    orders = [BatchOrder(x.texts.lengths, batch_size=size, seed=seed) for x in tasks]
    schedule = task_schedule([len(x.texts) for x in tasks], steps=plan.steps, seed=seed, power=power)
    table = body.get_input_embeddings().weight
    table.requires_grad_(False)

    def loss(step: int, *, part: Part) -> Tensor:
        number, before = schedule[step]
        task, draw = tasks[number], seed * 1_000_003 + step
        rows = orders[number][before]
        return batch_loss(models[number], task.texts, task.labels, rows, part=part, draw=draw, engine=engine)

    try:
        train(nn.ModuleList(models), loss, plan, checkpoint=checkpoint, progress=progress, engine=engine)
    finally:
        table.requires_grad_(True)
