"""A student taught by a list of stages, each a stage of the workspace: done once, resumed in its middle, reused by runs
that differ only in what comes after it."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from atb_export.course import Course
from atb_export.workspace import Stage as Done
from supernet.checkpoint import load_supernet, load_tensors, save_supernet, save_tensors
from supernet.distillation import teach
from supernet.heads import head_axes
from supernet.model import Supernet
from supernet.projection import Projector
from supernet.sampler import Front
from supernet.space import SearchSpace, SubnetConfig
from supernet.stage import Stage

_NET, _HEAD, _MAPS = "net.safetensors", "words.safetensors", "maps.safetensors"


@dataclass(frozen=True, kw_only=True, eq=False)
class Student:
    """Who is taught: a supernet where there is a `space`, else a dense network.

    `start()` makes it as it is before its first stage; `inputs` name, as plain data, everything that decides it.
    `subnet` says as what it was cut from the teacher, where it was.
    """

    name: str
    start: Callable[[], Supernet]
    inputs: Sequence[object]
    seed: int
    space: SearchSpace | None = None
    subnet: SubnetConfig | None = None
    front: Front | None = None


@dataclass(frozen=True, kw_only=True)
class Taught:
    """What the stages left: the file of the network, and the fingerprint of all that made it."""

    net: Path | None
    fingerprint: object
    stages: tuple[dict[str, Any], ...]


def taught(course: Course, student: Student, stages: Sequence[Stage]) -> Taught:
    """Runs the stages that are not done. Each lies in the folder `STUDENT-STAGE` of the workspace."""
    before: Done | None = None
    told = []
    fingerprint: object = [list(student.inputs), student.seed]
    for stage in stages:
        inputs = [fingerprint, stage.fingerprint, course.lesson_inputs(stage)]
        previous = before

        def make(folder: Path, stage: Stage = stage, previous: Done | None = previous, inputs: Any = inputs) -> Any:
            return _teach(course, student, stage, folder, previous, str(inputs))

        before = course.workspace.stage(f"{student.name}-{stage.name}", inputs, make, together=True)
        fingerprint = before.fingerprint
        told.append({"name": stage.name, "seconds": before.seconds, **before.result})
    return Taught(net=None if before is None else before.folder / _NET, fingerprint=fingerprint, stages=tuple(told))


def collect(start: Callable[[], Supernet], found: Taught, file: Path) -> None:
    """The network after the stages, in `file`; the one it starts as where all of them are skipped."""
    if found.net is None:
        save_supernet(file, start())
    else:
        shutil.copyfile(found.net, file)


def _teach(
    course: Course, student: Student, stage: Stage, folder: Path, previous: Done | None, inputs: str
) -> dict[str, Any]:
    net = student.start() if previous is None else load_supernet(previous.folder / _NET)
    teacher = course.teacher_of(stage)
    learner = _under_words(net, previous, student.seed) if stage.losses.mlm else net
    projector = None
    if teacher is not None and stage.projection != "none" and previous is not None:
        projector = _maps_of(previous, net, teacher, stage, student.seed)
    with course.ui.progress(f"{student.name}: {stage.name}") as progress:
        trained = teach(
            learner,
            course.lessons_of(stage),
            stage,
            teacher=teacher,
            space=student.space,
            subnet=student.subnet,
            seed=student.seed,
            fingerprint=inputs,
            checkpoint=folder / "training.safetensors",
            progress=progress,
            engine=course.engine,
            front=student.front,
            projector=projector,
            watch=None if learner is not net else course.watch(net, stage, folder, student.space),
            answers=folder / "answers",
        )
    if not course.workspace.is_main:
        return {}  # it has helped to train; the first process writes
    shutil.rmtree(folder / "answers", ignore_errors=True)
    if learner is not net:
        _take_encoder(net, learner)
        head = {name: learner.get_parameter(name) for name in head_axes(learner.facts)}
        save_tensors(folder / _HEAD, head, {})
    elif previous is not None and (previous.folder / _HEAD).is_file():
        shutil.copyfile(previous.folder / _HEAD, folder / _HEAD)
    if trained is not None:
        save_tensors(folder / _MAPS, trained.state_dict(), {})
    save_supernet(folder / _NET, net)
    return {} if student.space is not None else {"search_dev": search_dev_score(course, net)}


def search_dev_score(course: Course, net: Supernet) -> float:
    """How good a network is on the rows a search sees."""
    return course.scores(net, "search_dev")[course.data.primary]


def _under_words(net: Supernet, previous: Done | None, seed: int) -> Supernet:
    """The same encoder under a masked language model's head: that of the stage before, or a new one, whose decoder is
    the word table itself."""
    found = net.with_head("mlm", seed=seed)
    if previous is not None and (previous.folder / _HEAD).is_file():
        found.load_state_dict(load_tensors(previous.folder / _HEAD)[0], strict=False)
    return found


def _take_encoder(net: Supernet, learner: Supernet) -> None:
    """Everything but the head."""
    head = set(head_axes(learner.facts))
    net.load_state_dict({k: v for k, v in learner.state_dict().items() if k not in head}, strict=False)


def _maps_of(previous: Done, net: Supernet, teacher: Supernet, stage: Stage, seed: int) -> Projector | None:
    """The maps of the stage before, where they fit: TinyBERT's stay with the student from stage to stage."""
    if not (previous.folder / _MAPS).is_file():
        return None
    found = Projector(
        student_size=net.shape.hidden_size,
        teacher_size=teacher.shape.hidden_size,
        depth=net.shape.depth,
        shared=stage.projection == "shared",
        seed=seed,
    )
    kept = load_tensors(previous.folder / _MAPS)[0]
    if {name: x.shape for name, x in kept.items()} != {name: x.shape for name, x in found.state_dict().items()}:
        return None
    found.load_state_dict(kept)
    return found
