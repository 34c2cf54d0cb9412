"""The stages of a run, each from files to files: teacher, supernet, search, distillation, bundle.

A stage's inputs are named by fingerprints, so that `Workspace.stage` can tell whether it is done.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from atb_export.dense import DenseModel
from atb_export.executors.local import LocalExecutor
from atb_export.jobs import Executor
from atb_export.packing import Origin, Packed, pack
from atb_export.recipe import Recipe
from atb_export.recipe_sections import Distill
from atb_export.scoring import Tuning
from atb_export.searching import SearchJob, search_targets
from atb_export.task import TaskData, label_tensor, lessons, load_task, token_ids
from atb_export.ui import Ui
from atb_export.verify import compare, probe_texts, reference_logits, refuse
from atb_export.work import CALIBRATION_ROWS, WorkInputs
from atb_export.workspace import Stage, Workspace
from runtime.files import sha256_of
from runtime.target import EngineTarget
from search.design import Design
from search.store import Store
from supernet.batches import BatchOrder, TokenizedTexts
from supernet.checkpoint import load_supernet, save_supernet
from supernet.cost import flops, parameters
from supernet.distillation import Lessons, distill, predict, train_supernet
from supernet.families import shape_of
from supernet.importance import measure_importance, reorder
from supernet.metrics import score
from supernet.model import Supernet
from supernet.objective import LossWeights
from supernet.space import SearchSpace, SubnetConfig
from supernet.teacher import Teacher, fine_tune, load_teacher, save_teacher, supernet_from_bert
from supernet.training import TrainPlan


def train_plan(part: Distill, fingerprint: str) -> TrainPlan:
    """The recipe's section as the loop wants it."""
    return TrainPlan(
        steps=part.steps,
        learning_rate=part.learning_rate,
        checkpoint_every=part.checkpoint_every,
        fingerprint=fingerprint,
    )


@dataclass(eq=False)
class Run:
    """One recipe in one workspace. Stages are made on first use and read back when they are done."""

    recipe: Recipe
    workspace: Workspace
    ui: Ui
    executor: Callable[[WorkInputs], Executor] = LocalExecutor

    @cached_property
    def data(self) -> TaskData:
        """Rows and transfer sentences."""
        data = load_task(self.recipe)
        counts = ", ".join(f"{count:,} {name}" for name, count in data.counts().items())
        self.ui.say(f"data: {counts}, {len(data.transfer):,} transfer sentences; labels {', '.join(data.labels)}")
        return data

    # --- teacher -------------------------------------------------------------------------------------------------

    @cached_property
    def teacher_stage(self) -> Stage:
        """The teacher, fine-tuned on the task."""
        inputs = self.recipe.fingerprint("teacher", "task")
        return self.workspace.stage("teacher", inputs, lambda folder: self._make_teacher(folder, inputs))

    def _make_teacher(self, folder: Path, inputs: str) -> dict[str, Any]:
        part, data = self.recipe.teacher, self.data
        teacher = load_teacher(part.model, labels=data.labels, seed=self.recipe.seed)
        texts = token_ids(teacher, data.splits.train, max_length=part.max_length)
        labels = label_tensor(data.splits.train, teacher.labels)
        if part.epochs:
            plan = TrainPlan(
                steps=part.epochs * BatchOrder(_lengths(texts), batch_size=part.batch_size, seed=0).per_epoch,
                learning_rate=part.learning_rate,
                fingerprint=inputs,
            )
            with self.ui.progress("teacher") as progress:
                fine_tune(
                    teacher,
                    texts,
                    labels,
                    plan,
                    batch_size=part.batch_size,
                    seed=self.recipe.seed,
                    checkpoint=folder / "training.safetensors",
                    progress=progress,
                )
        save_teacher(teacher, folder / "model")
        return {"labels": list(teacher.labels)}

    @cached_property
    def teacher(self) -> Teacher:
        """The fine-tuned teacher, read back."""
        stage = self.teacher_stage
        return load_teacher(str(stage.folder / "model"), labels=stage.result["labels"], seed=self.recipe.seed)

    @cached_property
    def length(self) -> int:
        """Tokens a text is cut to: what both the teacher and the measured engine take."""
        return min(self.recipe.teacher.max_length, self.recipe.targets[0].length)

    def texts(self, split: str) -> TokenizedTexts:
        """The token ids of a split."""
        return token_ids(self.teacher, getattr(self.data.splits, split), max_length=self.length)

    def labels(self, split: str) -> Any:
        """The label tensor of a split."""
        return label_tensor(getattr(self.data.splits, split), self.teacher.labels)

    @cached_property
    def lessons(self) -> Lessons:
        """What every student learns from."""
        return lessons(self.teacher, self.data, max_length=self.length)

    # --- supernet ------------------------------------------------------------------------------------------------

    @cached_property
    def space(self) -> SearchSpace:
        """The recipe's space within the teacher."""
        return self.recipe.space.build(shape_of(self.teacher.model.config))

    @cached_property
    def supernet_stage(self) -> Stage:
        """`ordered.safetensors`, the teacher with its dims in order of importance, and the trained `supernet`."""
        inputs = [self.teacher_stage.fingerprint, self.recipe.fingerprint("space", "supernet", "transfer"), self.length]
        return self.workspace.stage("supernet", inputs, lambda folder: self._make_supernet(folder, str(inputs)))

    def _make_supernet(self, folder: Path, inputs: str) -> dict[str, Any]:
        part = self.recipe.supernet
        net = supernet_from_bert(self.teacher.model)
        self.ui.say(f"supernet: {self.space.size():,} subnets of {net.shape}")
        texts, labels = self.texts("train"), self.labels("train")
        order = BatchOrder(_lengths(texts), batch_size=part.batch_size, seed=self.recipe.seed)
        batches = ((texts.batch(order[i]), labels[order[i]]) for i in range(part.importance_batches))
        reorder(net, measure_importance(net, batches))
        save_supernet(folder / "ordered.safetensors", net)
        teacher = copy.deepcopy(net)
        with self.ui.progress("supernet") as progress:
            train_supernet(
                net,
                teacher,
                self.lessons,
                self.space,
                train_plan(part, inputs),
                weights=LossWeights(**part.loss.model_dump()),
                batch_size=part.batch_size,
                random_subnets=part.random_subnets,
                seed=self.recipe.seed,
                checkpoint=folder / "training.safetensors",
                progress=progress,
            )
        save_supernet(folder / "supernet.safetensors", net)
        return {"space_size": self.space.size()}

    @cached_property
    def ordered(self) -> Supernet:
        """The teacher as a supernet, in order of importance: what all students learn from and start as."""
        return load_supernet(self.supernet_stage.folder / "ordered.safetensors")

    @cached_property
    def supernet(self) -> Supernet:
        """The trained supernet."""
        return load_supernet(self.supernet_stage.folder / "supernet.safetensors")

    # --- search --------------------------------------------------------------------------------------------------

    @cached_property
    def search_stage(self) -> Stage:
        """Candidates, their front measured once more in one run, and the winner."""
        measured = [[x.target.to_json(), x.precisions, x.max_ms, x.of_reference] for x in search_targets(self.recipe)]
        inputs = [self.supernet_stage.fingerprint, self.recipe.fingerprint("search", "constraint"), measured]
        return self.workspace.stage("search", inputs, lambda folder: self._make_search(folder, str(inputs)))

    def _make_search(self, folder: Path, context: str) -> dict[str, Any]:
        part, inputs = self.recipe.search, self.work_inputs()
        with closing(self.executor(inputs)) as executor, Store.open(self.recipe.store) as store:
            job = SearchJob(
                inputs=inputs,
                space=self.space,
                targets=search_targets(self.recipe),
                plan=part.plan(),
                method=part.method,
                small=part.small,
                seed=self.recipe.seed,
                flops=self.flops,
                executor=executor,
                store=store,
                ui=self.ui,
            )
            return job.run(folder, context)

    def work_inputs(self) -> WorkInputs:
        """What candidates are measured and scored with."""
        part, seed = self.recipe.search, self.recipe.seed
        tuning = None
        if part.tuning_steps:
            tuning = Tuning(
                teacher=self.ordered,
                lessons=self.lessons,
                weights=LossWeights(**self.recipe.distill.loss.model_dump()),
                steps=part.tuning_steps,
                batch_size=self.recipe.distill.batch_size,
                learning_rate=self.recipe.distill.learning_rate,
                seed=seed,
            )
        return WorkInputs(
            reference=self.ordered,
            supernet=self.supernet,
            texts=self.texts("search_dev"),
            labels=self.labels("search_dev"),
            calibration=self.calibration,
            tuning=tuning,
        )

    @cached_property
    def calibration(self) -> TokenizedTexts:
        """Training texts whose activations tell an int8 engine its ranges."""
        texts = self.texts("train")
        return texts.take(range(min(CALIBRATION_ROWS, len(texts))))

    def flops(self, subnet: SubnetConfig) -> int:
        """Operations of one inference at the measured target's shape."""
        shape = self.recipe.targets[0]
        return flops(subnet, length=shape.length, batch=shape.batch, num_labels=len(self.teacher.labels))

    @property
    def winner(self) -> Design:
        """The most accurate design that met the limits."""
        return Design.from_json(self.search_stage.result["winner"]["design"])

    def engine_targets(self, design: Design | None = None) -> list[EngineTarget]:
        """What is built of a model: all targets, the searched ones in the precisions of the design."""
        chosen = list(design.precisions) if design is not None else []
        found = []
        for i, target in enumerate(self.recipe.targets):
            takes = chosen and (i == 0 or target.is_searched)
            found.append(target.build(chosen.pop(0) if takes else None))  # type: ignore[arg-type]
        return found

    # --- dense models --------------------------------------------------------------------------------------------

    def student_stage(self, name: str, subnet: SubnetConfig, *, inherits: bool) -> Stage:
        """A subnet sliced from the supernet (or, not `inherits`, from the untrained ordered teacher) and distilled."""
        inputs = [
            self.supernet_stage.fingerprint,
            self.recipe.fingerprint("distill", "transfer"),
            subnet.to_json(),
            inherits,
        ]
        return self.workspace.stage(
            name, inputs, lambda folder: self._make_student(folder, name, subnet, str(inputs), inherits=inherits)
        )

    def _make_student(
        self, folder: Path, name: str, subnet: SubnetConfig, inputs: str, *, inherits: bool
    ) -> dict[str, Any]:
        part = self.recipe.distill
        source = self.supernet if inherits else self.ordered
        net = source.slice(subnet)
        probes = probe_texts(self.texts("search_dev"), length=self.length, count=8)
        sliced = compare(
            name,
            "slice of the supernet",
            reference_logits(net, probes),
            reference_logits(source, probes, subnet),
            precision="f64",
        )
        refuse([sliced])
        with self.ui.progress(f"distil {name}") as progress:
            distill(
                net,
                self.ordered,
                self.lessons,
                train_plan(part, inputs),
                subnet=subnet,
                weights=LossWeights(**part.loss.model_dump()),
                batch_size=part.batch_size,
                seed=self.recipe.seed + 1,
                checkpoint=folder / "training.safetensors",
                progress=progress,
            )
        save_supernet(folder / "dense.safetensors", net)
        logits = predict(net, self.texts("search_dev"))
        return {"slice": sliced.to_json(), "search_dev": score(logits, self.labels("search_dev"))}

    def dense(self, stage: Stage) -> DenseModel:
        """The dense model a student stage made."""
        net = load_supernet(stage.folder / "dense.safetensors")
        return self._dense(net)

    def teacher_dense(self) -> DenseModel:
        """The teacher itself, exported by the same way as its students."""
        return self._dense(self.ordered)

    def _dense(self, net: Supernet) -> DenseModel:
        teacher = self.teacher
        return DenseModel(net=net, tokenizer=teacher.tokenizer, labels=teacher.labels, family=teacher.family)

    def bundle_stage(
        self, name: str, model: DenseModel, parent: Stage, subnet: SubnetConfig, design: Design | None = None
    ) -> Stage:
        """The verified bundle of a dense model, in the precisions of its design where it was searched."""
        targets = self.engine_targets(design)
        inputs = [parent.fingerprint, name, [x.to_json() for x in targets]]

        def make(folder: Path) -> dict[str, Any]:
            packed = self.pack(name, model, folder / "bundle", subnet=subnet, targets=targets)
            return {"bundle_bytes": packed.bundle_bytes, "parity": [x.to_json() for x in packed.parity]}

        return self.workspace.stage(f"bundle-{name}", inputs, make)

    @property
    def task_name(self) -> str:
        """The task in words, for the model card."""
        return f"{self.recipe.task.kind} into {', '.join(self.teacher.labels[:6])}"

    def pack(
        self, name: str, model: DenseModel, folder: Path, *, subnet: SubnetConfig, targets: Sequence[EngineTarget]
    ) -> Packed:
        """Exports, verifies and packs one model for all targets."""
        parents = {"supernet": self.supernet_stage.folder / "supernet.safetensors"}
        parents["teacher"] = self.teacher_stage.folder / "model" / "model.safetensors"
        return pack(
            model,
            folder,
            targets,
            texts=probe_texts(self.texts("search_dev"), length=self.length, count=16),
            calibration=self.calibration,
            origin=Origin(
                name=f"{self.recipe.name}-{name}",
                task=self.task_name,
                max_length=self.length,
                subnet=subnet.to_json(),
                parents={key: sha256_of(path) for key, path in parents.items()},
                numbers={
                    "parameters": parameters(model.net.shape, model.net.facts),
                    "shape": str(subnet),
                    "flops": self.flops(subnet),
                },
            ),
            say=lambda text: self.ui.say(f"bundle: {text}"),
        )


def _lengths(texts: TokenizedTexts) -> list[int]:
    return [len(ids) for ids in texts.input_ids]
