"""`atb distill`: a hand-written student, taught once for each seed; the best on search-dev becomes a dense model."""

from __future__ import annotations

import shutil
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path
from typing import Any

from atb_export.course import Course
from atb_export.dense import save_dense
from atb_export.parity import Verifier
from atb_export.recipe import Recipe, StudentRecipe
from atb_export.recipe_student import Student as StudentPart
from atb_export.starting import start_of
from atb_export.teaching import Student, Taught, collect, search_dev_score, taught
from atb_export.verify import probe_texts, refuse
from atb_export.workspace import Stage, write_json
from runtime.environment import environment
from supernet.checkpoint import load_supernet
from supernet.cost import flops, parameters
from supernet.facts import ModelFacts
from supernet.metrics import over_runs
from supernet.model import Supernet
from supernet.subnet import SubnetConfig

SCHEMA = 1
_PROBES = 16
_ANY = ModelFacts(vocab_size=1, max_position_embeddings=1)  # stands for a teacher where only the embedding is asked


def even_layers(depth: int, teacher_depth: int) -> tuple[int, ...]:
    """Every T/S-th layer of T, from 1; of a student deeper than its teacher all, to be refused by who cuts."""
    if depth > teacher_depth:
        return tuple(range(1, depth + 1))
    return tuple((i + 1) * teacher_depth // depth for i in range(depth))


def cut_of(shape: SubnetConfig, layers: tuple[int, ...]) -> SubnetConfig:
    """A student's shape as a cut of its teacher that keeps these layers of it, from 1."""
    sources = [i - 1 for i in layers]
    return SubnetConfig(
        hidden_size=shape.hidden_size,
        layers=tuple(replace(layer, source=source) for layer, source in zip(shape.layers, sources, strict=True)),
    )


@dataclass(eq=False)
class Distillation(Course):
    """One recipe's student in one workspace."""

    recipe: StudentRecipe | Recipe

    @property
    def part(self) -> StudentPart:
        """The recipe's `[student]`."""
        assert self.recipe.student is not None  # `load_student_recipe` saw to it
        return self.recipe.student

    @property
    def seeds(self) -> tuple[int, ...]:
        """One student each."""
        return self.recipe.seeds or (self.recipe.seed,)

    @cached_property
    def cut(self) -> SubnetConfig:
        """The student as what it is cut from its teacher as; of other students the shape alone."""
        part, shape = self.part, self.part.shape
        if part.initial == "random" or (part.initial != "teacher" and part.layers == "even"):
            return shape
        if part.layers == "even":
            return cut_of(shape, even_layers(shape.depth, self.ordered.shape.depth))
        return cut_of(shape, self.important_layers(shape.depth) if part.layers == "important" else part.layers)

    def start(self, seed: int) -> Supernet:
        """The student before its first stage."""
        facts = self.part.facts(self.ordered.facts)
        return start_of(self.part.initial, self.ordered, self.cut, seed=seed, labels=self.teacher.labels, facts=facts)

    def student(self, seed: int) -> Taught:
        """The student of one seed, taught by all stages that are not skipped."""
        part = self.part

        student = Student(
            name=f"student-{seed}",
            start=lambda: self.start(seed),
            inputs=[self.ordered_stage.fingerprint, self.cut.to_json(), part.initial, part.facts(_ANY).to_json()],
            seed=seed,
            subnet=self.cut if part.initial == "teacher" else None,
        )
        stages = self.recipe.distill.stages(self.skip)
        return taught(self, student, stages)

    def scored(self, seed: int) -> Stage:
        """The student of one seed with its scores."""
        found = self.student(seed)

        def make(folder: Path) -> dict[str, Any]:
            collect(lambda: self.start(seed), found, folder / "dense.safetensors")
            net = load_supernet(folder / "dense.safetensors")
            test = self.scores(net, "test")
            return {"search_dev": search_dev_score(self, net), "test": test, "stages": list(found.stages)}

        return self.workspace.stage(f"student-{seed}", found.fingerprint, make)

    @cached_property
    def teacher_scores(self) -> Stage:
        """The teacher on the same rows."""
        inputs = [self.ordered_stage.fingerprint, "scores"]
        return self.workspace.stage("teacher-scores", inputs, lambda _: {"test": self.scores(self.ordered, "test")})

    def model_stage(self, students: dict[int, Stage]) -> Stage:
        """`model/`, the student that does best on search-dev, held against its network."""
        best = max(students, key=lambda seed: (students[seed].result["search_dev"], -seed))

        def make(folder: Path) -> dict[str, Any]:
            dense = self.dense_of(load_supernet(students[best].folder / "dense.safetensors"))
            save_dense(dense, folder / "model")
            probes = probe_texts(self.texts("search_dev"), length=self.length, count=_PROBES)
            parity = Verifier(dense, probes, name=self.recipe.name).dense(folder / "model")
            refuse(parity)
            return {"seed": best, "parity": [x.to_json() for x in parity]}

        return self.workspace.stage("model", [best, students[best].fingerprint], make)

    def take_part(self) -> None:
        """What `finish` trains, in the processes that are not the first: the rest is done by that one."""
        for seed in self.seeds:
            self.student(seed)

    def finish(self) -> dict[str, Any]:
        """Runs what is left, writes `model/` and `result.json`; returns the document."""
        students = {seed: self.scored(seed) for seed in self.seeds}
        teacher, model = self.teacher_scores, self.model_stage(students)
        net = load_supernet(students[model.result["seed"]].folder / "dense.safetensors")
        primary = self.data.primary
        runs = over_runs([x.result["test"] for x in students.values()])
        if (stays := self.dense_of(net).stays) is not None:
            self.ui.say(f"model: {stays}")
        result = {
            "schema": SCHEMA,
            "recipe": self.recipe.name,
            "created": datetime.now(UTC).isoformat(timespec="seconds"),
            "task": {
                "kind": self.recipe.task.kind,
                "metric": primary,
                "labels": list(self.teacher.labels),
                "rows": self.data.counts(),
            },
            "skipped": sorted(self.skip),
            "teacher": {
                "model": self.recipe.teacher.model,
                "params": parameters(self.ordered.shape, self.ordered.facts),
                "flops": self._flops(self.ordered),
                "test": teacher.result["test"],
            },
            "student": {
                "shape": self.cut.to_json(),
                "params": parameters(net.shape, net.facts),
                "flops": self._flops(net),
                "test": {name: {"mean": x.mean, "deviation": x.deviation} for name, x in runs.items()},
                "of_teacher": runs[primary].mean / whole if (whole := teacher.result["test"][primary]) else None,
                "runs": [{"seed": seed, **x.result} for seed, x in students.items()],
                "model_seed": model.result["seed"],
            },
            "parity": model.result["parity"],
            **({} if stays is None else {"not_exported": stays}),
            "environment": environment(),
            "seconds": dict(self.workspace.seconds),
        }
        self._publish(model, result)
        return result

    def _flops(self, net: Supernet) -> int:
        return flops(net.shape, length=self.length, facts=net.facts)

    def _publish(self, model: Stage, result: dict[str, Any]) -> None:
        """Each whole or not at all."""
        folder = self.workspace.folder
        aside = folder / ".model-aside"
        shutil.rmtree(aside, ignore_errors=True)
        shutil.copytree(model.folder / "model", aside)
        shutil.rmtree(folder / "model", ignore_errors=True)
        aside.replace(folder / "model")
        write_json(folder / "result.json", result)
