"""What every way of teaching shares: the recipe's rows, its teachers, and what students learn from.

Dims of all teachers are in one order, that of importance to the task, so that a cut keeps what matters and a student
that is cut from one can learn from another.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from atb_export.dense import DenseModel
from atb_export.examples import Examples, load_examples
from atb_export.lessons import augment_task, lessons, transfer_count, transfer_texts
from atb_export.recipe import BaseRecipe, Recipe
from atb_export.recipe_training import Supernet as SupernetPart
from atb_export.teachers import make_multitask, make_teacher
from atb_export.ui import Ui
from atb_export.workspace import Stage as Done
from atb_export.workspace import Workspace
from supernet.augmentation import AugmentPlan
from supernet.batches import BatchOrder, TokenizedTexts
from supernet.checkpoint import load_supernet, load_tensors, save_supernet, save_tensors
from supernet.confidence import confident
from supernet.distillation import Lessons
from supernet.engine import Engine
from supernet.errors import StageError, TeacherError
from supernet.importance import Importance, kept_layers, measure_importance, reorder
from supernet.model import Supernet
from supernet.space import SearchSpace
from supernet.stage import DataKind, Stage, TeacherKind
from supernet.teacher import Teacher, load_teacher, supernet_from_bert
from supernet.training import Watching
from supernet.watch import Watch, three_of

_WATCHED = 256  # rows: enough to see a training go wrong


@dataclass(eq=False)
class Course:
    """One recipe in one workspace. Stages are made on first use and read back when they are done."""

    recipe: BaseRecipe
    workspace: Workspace
    ui: Ui
    skip: frozenset[str] = field(default=frozenset(), kw_only=True)

    # --- examples ------------------------------------------------------------------------------------------------

    @cached_property
    def data(self) -> Examples:
        """Rows or questions, and transfer sentences."""
        data = load_examples(self.recipe)
        counts = ", ".join(f"{count:,} {name}" for name, count in data.counts().items())
        text = "" if data.text is None else f", transfer text of {data.text.source.path}"
        self.ui.say(f"data: {counts}{text}; labels {', '.join(data.labels)}")
        return data

    @cached_property
    def length(self) -> int:
        """Tokens a text is cut to: what both the teacher and the measured engine take."""
        longest = self.recipe.teacher.max_length
        return min(longest, self.recipe.targets[0].length) if isinstance(self.recipe, Recipe) else longest

    def of_split(self, split: str) -> Lessons:
        """The tokens of a split and their labels."""
        return self.data.of_split(self.teacher, split, max_length=self.length)

    def texts(self, split: str) -> TokenizedTexts:
        """The token ids of a split."""
        return self.of_split(split).texts

    def labels(self, split: str) -> Tensor:
        """The label tensor of a split: int64 classes or float32 targets of rows, int64 spans of windows."""
        return self.of_split(split).labels

    def scores(self, net: Supernet, split: str) -> dict[str, float]:
        """Every metric of a network on a split."""
        return self.data.scores(self.teacher, net, split, max_length=self.length)

    @cached_property
    def lessons(self) -> Lessons:
        """What every student learns from, unless its stage says otherwise."""
        return self._lessons("all", self.length)

    @property
    def _texts_folder(self) -> Path:
        """Where the tokens of transfer text and of augmented rows are kept."""
        return self.workspace.folder / "texts"

    @cached_property
    def transfer_texts(self) -> int:
        """Sentences of transfer text, from the file of their tokens."""
        return transfer_count(self.teacher, self.data, max_length=self.length, folder=self._texts_folder)

    def lessons_of(self, stage: Stage) -> Lessons:
        """What a stage learns from: its data, of the length it asks for, with the means to hide words where it must."""
        length = min(stage.length or self.length, self.ordered.facts.max_position_embeddings)
        found = self._lessons(stage.data, length)
        if stage.losses.mlm and found.masking is None:
            raise TeacherError("a masked language model needs a mask token, and the teacher's tokenizer has none")
        return found

    def _lessons(self, kind: DataKind, length: int) -> Lessons:
        kept = self._kept_text(length) if kind == "all" else None
        return self.workspace.first(
            f"texts {kind} {length}",
            lambda: lessons(
                self.teacher,
                self.data,
                max_length=length,
                kind=kind,
                folder=self._texts_folder,
                augmented=self._augmented(length) if kind == "augmented" else None,
                kept=kept,
            ),
        )

    def _kept_text(self, length: int) -> list[int] | None:
        """The sentences of transfer text of which the teacher is sure, by their places; None where all are kept."""
        if self.recipe.transfer is None or not (share := self.recipe.transfer.confidence_quantile):
            return None
        engine = self.engine  # made by all processes, though the first alone asks the teacher

        def make(folder: Path) -> dict[str, Any]:
            texts = transfer_texts(self.teacher, self.data, max_length=length, folder=self._texts_folder)
            own = self.data.of_split(self.teacher, "search_dev", max_length=length).texts
            with self.ui.progress("transfer text") as progress:
                kept, least = confident(self.ordered, texts, like=own, quantile=share, engine=engine, progress=progress)
            save_tensors(folder / "kept.safetensors", {"kept": torch.tensor(kept, dtype=torch.int64)}, {})
            self.ui.say(
                f"transfer text: {len(kept):,} of {len(texts):,} sentences kept, those whose class the teacher gives a "
                f"probability of at least {least:.2f}"
            )
            return {"kept": len(kept), "of": len(texts), "probability": least}

        inputs = [self.ordered_stage.fingerprint, length, self.recipe.fingerprint("task", "transfer")]
        stage = self.workspace.stage(f"transfer-{length}", inputs, make)
        kept: list[int] = load_tensors(stage.folder / "kept.safetensors")[0]["kept"].tolist()
        return kept

    def lesson_inputs(self, stage: Stage) -> list[object]:
        """What decides the lessons and the teacher of a stage beside the stage itself, as plain data."""
        text = ["transfer"] if stage.data in ("transfer", "all") else []
        text += ["augmentation"] if stage.data == "augmented" else []
        return [self.ordered_stage.fingerprint, self.length, self.recipe.fingerprint("task", *text), *self._precision]

    @property
    def _precision(self) -> list[str]:
        """What of the engine decides weights."""
        return [self.recipe.engine.mixed_precision, f"{self.workspace.trains} processes"]

    def _augmented(self, length: int) -> TokenizedTexts:
        part = self.recipe.augmentation
        assert part is not None  # the recipe's own check
        return augment_task(
            self.teacher,
            self.data,
            AugmentPlan(**part.model_dump(), seed=self.recipe.seed),
            checkpoint=self.recipe.teacher.model,
            max_length=length,
            folder=self._texts_folder,
        )

    def watch(self, net: Supernet, stage: Stage, folder: Path, space: SearchSpace | None) -> Watching | None:
        """Looks at the smallest, a middle and the largest subnet while they are taught, or at the dense network; at
        none where the stage is not about the task's answers."""
        if stage.losses.is_latent or stage.losses.mlm:
            return None
        every = self.of_split("search_dev")
        rows = range(min(_WATCHED, len(every.texts)))
        some = Lessons(texts=every.texts.take(rows), labels=every.labels[: len(rows)])
        watch = Watch(
            subnets={"search-dev": None} if space is None else three_of(space),
            texts=some.texts,
            labels=some.labels,
            log=folder / "curve.jsonl",
            judge=self.data.judge(some),
        )
        return watch.on(net, self.engine, name=stage.name)

    @cached_property
    def engine(self) -> Engine:
        """How training runs."""
        return self.recipe.engine.build(self.workspace.folder / "logs")

    def close(self, *, failed: bool = False) -> None:
        """Ends what training has open: trackers, a group of processes."""
        if "engine" in self.__dict__:
            self.engine.close(failed=failed)

    # --- teachers ------------------------------------------------------------------------------------------------

    @cached_property
    def teacher_stage(self) -> Done:
        """The teacher, fine-tuned on the task."""
        inputs = " ".join([self.recipe.fingerprint("teacher", "task"), *self._precision])
        return self.workspace.stage(
            "teacher", inputs, lambda folder: self._make(make_teacher, folder, inputs), together=True
        )

    @cached_property
    def teacher(self) -> Teacher:
        """The fine-tuned teacher, read back."""
        return self._read(self.teacher_stage)

    @cached_property
    def multitask_stage(self) -> Done:
        """The teacher, fine-tuned on the task and on others at once."""
        inputs = [self.recipe.fingerprint("teacher", "task"), "multitask", *self._precision]
        return self.workspace.stage(
            "teacher-multitask",
            inputs,
            lambda folder: self._make(make_multitask, folder, " ".join(inputs)),
            together=True,
        )

    def _make(self, make: Callable[..., dict[str, Any]], folder: Path, inputs: str) -> dict[str, Any]:
        return make(self.recipe, self.data, folder, inputs=inputs, ui=self.ui, engine=self.engine)

    def _read(self, stage: Done) -> Teacher:
        return self._load(str(stage.folder / "model"), stage.result["labels"])

    def _load(self, name: str, labels: Sequence[str]) -> Teacher:
        return load_teacher(name, labels=labels, seed=self.recipe.seed, head=self.data.head)

    # --- the same as networks with their dims in order -----------------------------------------------------------

    @property
    def _ordering(self) -> SupernetPart:
        """How dims are ordered."""
        return self.recipe.supernet if isinstance(self.recipe, Recipe) else SupernetPart()

    def importance(self, net: Supernet) -> Importance | None:
        """How much each dim of the fine-tuned teacher matters; None where it is not asked for."""
        part = self._ordering
        if part.importance == "none":
            return None
        lesson = self.of_split("train")
        order = BatchOrder(lesson.texts.lengths, batch_size=part.batch_size, seed=self.recipe.seed)
        batches = ((lesson.texts.batch(order[i]), lesson.labels[order[i]]) for i in range(part.importance_batches))
        return measure_importance(net, batches, by=part.importance)

    def kinds(self) -> set[TeacherKind]:
        """The teachers that stages ask for, beside the fine-tuned one."""
        stages = list(self.recipe.distill.stages(self.skip))
        if isinstance(self.recipe, Recipe):
            stages += self.recipe.supernet.stages(self.skip)
        return {x.teacher for x in stages} - {"task", "none"}

    @cached_property
    def ordered_stage(self) -> Done:
        """Every teacher as a network with its dims in order of importance to the task."""
        part, others = self._ordering, sorted(self.kinds())
        inputs: list[Any] = [self.teacher_stage.fingerprint, self.length, others]
        inputs += [part.importance, part.importance_batches, part.batch_size, "layers"]
        if "multitask" in others:
            inputs.append(self.multitask_stage.fingerprint)
        return self.workspace.stage("ordered", inputs, lambda folder: self._make_ordered(folder, others))

    def _make_ordered(self, folder: Path, others: list[TeacherKind]) -> dict[str, Any]:
        net = supernet_from_bert(self.teacher.model)
        scores = self.importance(net)
        for kind in ("task", *others):
            each = net if kind == "task" else supernet_from_bert(self._other_teacher(kind).model)
            if scores is not None:
                reorder(each, scores)
            save_supernet(folder / f"{kind}.safetensors", each)
        return {} if scores is None else {"layers": scores.layers.tolist()}

    def important_layers(self, depth: int) -> tuple[int, ...]:
        """The layers of the teacher that matter most to the task, from 1, ascending.

        Raises `StageError` where their importance is not measured, or the teacher has fewer.
        """
        scores = self.ordered_stage.result.get("layers")
        if scores is None:
            raise StageError('the importance of layers is not measured: drop importance = "none", or name the layers')
        if depth > len(scores):
            raise StageError(
                f"the student has {depth} layers and its teacher {len(scores)}: keep fewer, or start random"
            )
        return tuple(i + 1 for i in kept_layers(torch.tensor(scores), depth))

    def _other_teacher(self, kind: TeacherKind) -> Teacher:
        if kind == "pretrained":
            return self._load(self.recipe.teacher.model, self.data.labels)
        return self._read(self.multitask_stage)

    @cached_property
    def ordered(self) -> Supernet:
        """The fine-tuned teacher with its dims in order of importance: what students are cut from."""
        return load_supernet(self.ordered_stage.folder / "task.safetensors")

    def teacher_of(self, stage: Stage) -> Supernet | None:
        """Whom a stage learns from."""
        if stage.teacher == "none":
            return None
        if stage.teacher == "task":
            return self.ordered
        return load_supernet(self.ordered_stage.folder / f"{stage.teacher}.safetensors")

    def dense_of(self, net: Supernet) -> DenseModel:
        """A network with the teacher's tokenizer and labels, ready to export."""
        teacher = self.teacher
        return DenseModel(net=net, tokenizer=teacher.tokenizer, labels=teacher.labels, family=teacher.family)
