"""The stages of a run, each from files to files: teacher, supernet, search, distillation, bundle.

A stage's inputs are named by fingerprints, so that `Workspace.stage` can tell whether it is done.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from atb_export.course import Course
from atb_export.dense import DenseModel
from atb_export.executors.local import LocalExecutor
from atb_export.jobs import Executor
from atb_export.packing import Origin, Packed, pack
from atb_export.phases import search_in_phases
from atb_export.recipe import Recipe
from atb_export.recipe_sections import Phase
from atb_export.scoring import Tuning
from atb_export.searching import SearchJob, search_targets
from atb_export.starting import start_of, supernet_shape
from atb_export.task import TaskData
from atb_export.teaching import Student, collect, search_dev_score, taught
from atb_export.verify import Parity, compare, probe_texts, reference_logits, refuse
from atb_export.work import CALIBRATION_ROWS, WorkInputs
from atb_export.workspace import Stage
from runtime.files import sha256_of
from runtime.target import EngineTarget
from search.design import Design
from search.store import Store
from supernet.batches import TokenizedTexts
from supernet.checkpoint import load_supernet
from supernet.cost import flops, parameters
from supernet.families import shape_of
from supernet.layer_map import LayerMap
from supernet.model import Supernet
from supernet.sampler import Front
from supernet.space import SearchSpace, SubnetConfig


@dataclass(eq=False)
class Run(Course):
    """One recipe in one workspace. Stages are made on first use and read back when they are done."""

    recipe: Recipe
    executor: Callable[[WorkInputs], Executor] = LocalExecutor

    @cached_property
    def data(self) -> TaskData:
        """Rows: a recipe with a search has no other task."""
        found = super().data
        assert isinstance(found, TaskData)  # the recipe's own check
        return found

    # --- supernet ------------------------------------------------------------------------------------------------

    @cached_property
    def space(self) -> SearchSpace:
        """The recipe's space within the supernet."""
        teacher = shape_of(self.teacher.model.config)
        return self.recipe.space.build(supernet_shape(self.recipe.supernet.initial, teacher, self.recipe.space))

    @cached_property
    def supernet_stage(self) -> Stage:
        """The trained `supernet`."""
        student = self._supernet_student()
        found = taught(self, student, self.recipe.supernet.stages(self.skip))

        def make(folder: Path) -> dict[str, Any]:
            collect(student.start, found, folder / "supernet.safetensors")
            return {"space_size": self.space.size()}

        return self.workspace.stage("supernet", found.fingerprint, make)

    def _supernet_student(self) -> Student:
        """What the stages of the supernet teach."""
        part = self.recipe.supernet
        inputs = [self.ordered_stage.fingerprint, self.recipe.fingerprint("space"), part.initial, part.importance]

        def start() -> Supernet:
            shape = supernet_shape(part.initial, self.ordered.shape, self.recipe.space)
            self.ui.say(f"supernet: {self.space.size():,} subnets of {shape}")
            return start_of(part.initial, self.ordered, shape, seed=self.recipe.seed, labels=self.teacher.labels)

        share = self.recipe.constraint.of_teacher
        bound = share * self.flops(shape_of(self.teacher.model.config)) if share is not None else None
        front = None if bound is None else Front(cost=lambda subnet: float(self.flops(subnet)), bounds=(bound,))
        return Student(
            name="supernet", start=start, inputs=inputs, seed=self.recipe.seed, space=self.space, front=front
        )

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
        phases = self.recipe.search.phase
        if not phases:
            return self._search(folder, context, self.space)
        return search_in_phases(phases, self.space, self._search, folder=folder, context=context, say=self.ui.say)

    def _search(
        self,
        folder: Path,
        context: str,
        space: SearchSpace,
        phase: Phase | None = None,
        base: SubnetConfig | None = None,
    ) -> dict[str, Any]:
        part, inputs = self.recipe.search, self.work_inputs(None if phase is None else phase.tuning_steps)
        with closing(self.executor(inputs)) as executor, Store.open(self.recipe.store) as store:
            job = SearchJob(
                inputs=inputs,
                space=space,
                targets=search_targets(self.recipe),
                plan=part.plan(None if phase is None else phase.engines),
                method=part.method,
                small=part.small,
                seed=self.recipe.seed,
                flops=self.flops,
                executor=executor,
                store=store,
                ui=self.ui,
                base=base,
            )
            return job.run(folder, context)

    def work_inputs(self, tuning_steps: int | None = None) -> WorkInputs:
        """What candidates are measured and scored with."""
        part, seed = self.recipe.distill, self.recipe.seed
        steps = self.recipe.search.tuning_steps if tuning_steps is None else tuning_steps
        tuning = None
        if steps:
            tuning = Tuning(
                teacher=self.ordered,
                lessons=self.lessons,
                weights=part.loss.weights(),
                steps=steps,
                batch_size=part.batch_size,
                learning_rate=part.learning_rate,
                seed=seed,
                layer_map=LayerMap(part.layer_map),  # type: ignore[arg-type]  # checked by its validator
                projection=part.projection,
            )
        return WorkInputs(
            reference=self.ordered,
            supernet=self.supernet,
            texts=self.texts("search_dev"),
            labels=self.labels("search_dev"),
            calibration=self.calibration,
            tuning=tuning,
            metrics=self.data.metrics(self.teacher.labels),
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
        part = self.recipe.distill
        scratch = part.from_scratch and inherits
        is_cut = not scratch and (not inherits or self.recipe.supernet.initial != "random")
        student = Student(
            name=name,
            start=lambda: self._sliced(name, subnet, inherits=inherits, scratch=scratch)[0],
            inputs=[self.supernet_stage.fingerprint, subnet.to_json(), inherits, scratch],
            seed=self.recipe.seed + 1,
            subnet=subnet if is_cut and subnet.fits(self.ordered.shape) else None,
        )
        found = taught(self, student, part.stages(self.skip))

        def make(folder: Path) -> dict[str, Any]:
            collect(student.start, found, folder / "dense.safetensors")
            sliced = self._sliced(name, subnet, inherits=inherits, scratch=False)[1]
            net = load_supernet(folder / "dense.safetensors")
            return {"slice": sliced.to_json(), "search_dev": search_dev_score(self, net)}

        return self.workspace.stage(name, found.fingerprint, make)

    def _sliced(self, name: str, subnet: SubnetConfig, *, inherits: bool, scratch: bool) -> tuple[Supernet, Parity]:
        """The subnet as a network of its own, and how it was held against the network it was cut from."""
        source = self.supernet if inherits else self.ordered
        net = source.slice(subnet)
        probes = probe_texts(self.texts("search_dev"), length=self.length, count=8)
        parity = compare(
            name,
            "slice of the supernet",
            reference_logits(net, probes),
            reference_logits(source, probes, subnet),
            precision="f64",
        )
        refuse([parity])
        if scratch:
            net = start_of("random", self.ordered, net.shape, seed=self.recipe.seed + 1)
        return net, parity

    def dense(self, stage: Stage) -> DenseModel:
        """The dense model a student stage made."""
        net = load_supernet(stage.folder / "dense.safetensors")
        return self.dense_of(net)

    def teacher_dense(self) -> DenseModel:
        """The teacher itself, exported by the same way as its students."""
        return self.dense_of(self.ordered)

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
