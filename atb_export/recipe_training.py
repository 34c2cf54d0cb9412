"""The tables of a recipe that say how students are taught: losses, stages, the augmentation, the engine of training."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from atb_export.recipe_errors import Section, broken_rule, did_you_mean
from atb_export.recipe_values import BatchSize, Count, LearningRate, Length, Text, Weight
from supernet.layer_map import MAP_NAMES, LayerMap
from supernet.stage import LossWeights, Sampler, Stage

if TYPE_CHECKING:
    from supernet.engine import Engine as TrainingEngine  # torch: a recipe is read without it

StageName = Annotated[
    str,
    Field(
        max_length=32,
        pattern=r"^[a-z0-9][a-z0-9-]*$",
        description="lower-case letters, digits and dashes; its folder and --skip-stage are named after it",
    ),
]


def _layer_map(value: object) -> str | tuple[int, ...]:
    """A map's name, or the teacher's layer for each of the student's."""
    if isinstance(value, str):
        if value not in MAP_NAMES:
            names = ", ".join(f'"{x}"' for x in MAP_NAMES)
            raise broken_rule(
                f"must be one of {names} or a list of the teacher's layers{did_you_mean(value, MAP_NAMES)}"
            )
        return value
    if not isinstance(value, list | tuple) or not 1 <= len(value) <= 256:
        raise broken_rule('must be "span", "uniform", "last" or a list such as [2, 4, 6]')
    if not all(type(x) is int and x >= 0 for x in value) or not any(value):
        raise broken_rule("lists, for each layer of the student, the teacher's from 1, or 0 for none; one at least")
    return tuple(value)


LayerMapValue = Annotated[str | tuple[int, ...], BeforeValidator(_layer_map)]


class Loss(Section):
    """Weights of the terms of the distillation loss."""

    soft_label: Weight = 1.0
    hidden: Weight = 1.0
    attention: Weight = 0.1
    hard_label: Weight = 0.0
    attention_kl: Weight = 0.0
    relations: Weight = 0.0
    embedding: Weight = 0.0
    mlm: Weight = Field(default=0.0, description="predicting masked words")
    temperature: float = Field(default=1.0, gt=0, le=100)
    relation_heads: Count = 12

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Something is learnt."""
        terms = [key for key in cls.model_fields if key not in ("temperature", "relation_heads")]
        if all(data.get(key, cls.model_fields[key].default) == 0 for key in terms):
            yield "", f"at least one of {', '.join(terms)} must be more than 0"

    def weights(self) -> LossWeights:
        """The same as the training has it."""
        return LossWeights(**self.model_dump())


class StageLoss(Loss):
    """The loss of one stage: a term that is not named is 0."""

    soft_label: Weight = 0.0
    hidden: Weight = 0.0
    attention: Weight = 0.0


class _Teaching(Section):
    """How students are taught: who, on what, which losses, how long."""

    steps: Count = 1200
    batch_size: BatchSize = 32
    learning_rate: LearningRate = 2e-4
    checkpoint_every: Count = Field(default=200, description="steps between the points a killed run goes on from")
    loss: Loss = Field(default_factory=Loss)
    teacher: Literal["task", "pretrained", "multitask", "none"] = Field(
        default="task", description="fine-tuned on the task, as it came, fine-tuned on several tasks, or none"
    )
    data: Literal["task", "transfer", "augmented", "all"] = Field(
        default="all", description="the task's rows, unlabelled text, augmented rows, or the task's rows and the text"
    )
    layer_map: LayerMapValue = Field(default="span", description="which of the teacher's layers teaches which")
    projection: Literal["none", "shared", "layer"] = Field(
        default="none", description="a learned map from the student's hidden states to the teacher's"
    )
    length: Length | None = Field(default=None, description="tokens of a text; as the task has it if not named")
    warmup: float = Field(default=0.1, ge=0, le=1, description="part of the steps in which the learning rate rises")
    accumulate: int = Field(default=1, ge=1, le=4096, description="batches to a step")

    def sampler_of(self) -> Sampler:
        """Of a dense student: the whole of it."""
        return Sampler("whole")

    def as_stage(self, name: str) -> Stage:
        """The same as the training has it; raises `ValueError` for what cannot be taught together."""
        return Stage(
            name=name,
            teacher=self.teacher,
            data=self.data,
            losses=self.loss.weights(),
            layer_map=LayerMap(self.layer_map),  # type: ignore[arg-type]  # checked by its validator
            projection=self.projection,
            sampler=self.sampler_of(),
            steps=self.steps,
            learning_rate=self.learning_rate,
            batch_size=self.batch_size,
            length=self.length,
            warmup=self.warmup,
            checkpoint_every=self.checkpoint_every,
            accumulate=self.accumulate,
        )


class _Sampling(_Teaching):
    """The same of a supernet: which subnets a step teaches."""

    learning_rate: LearningRate = 3e-4
    random_subnets: int = Field(default=1, ge=0, le=64, description="per step, beside the smallest and the largest")
    sampler: Literal["uniform", "sandwich", "attentive", "progressive", "whole"] = Field(
        default="sandwich", description="which subnets a step teaches"
    )
    in_place: bool = Field(default=False, description="whether smaller subnets learn from the largest, not the teacher")
    draws: int = Field(default=8, ge=1, le=1024, description="subnets an attentive sampler chooses each from")

    def sampler_of(self) -> Sampler:
        """As named."""
        return Sampler(self.sampler, random_subnets=self.random_subnets, in_place=self.in_place, draws=self.draws)


class DistillStage(_Teaching):
    """One stage of a student; what it does not name is as `[distill]` has it, and its loss has no defaults."""

    name: StageName
    loss: StageLoss = Field(default_factory=lambda: StageLoss(soft_label=1.0))


class SupernetStage(_Sampling):
    """One stage of the supernet; what it does not name is as `[supernet]` has it, and its loss has no defaults."""

    name: StageName
    loss: StageLoss = Field(default_factory=lambda: StageLoss(soft_label=1.0))


def _stages(section: _Teaching, listed: tuple[DistillStage | SupernetStage, ...], name: str) -> tuple[Stage, ...]:
    """Each stage with what it leaves to its section; a section without stages is one itself."""
    if not listed:
        return (section.as_stage(name),)
    found = []
    for part in listed:
        named = {key: getattr(part, key) for key in part.model_fields_set if key != "name"}
        found.append(section.model_copy(update=named).as_stage(part.name))
    return tuple(found)


def _stage_rules(section: _Teaching, listed: tuple[DistillStage | SupernetStage, ...]) -> Iterator[tuple[str, str]]:
    names = [x.name for x in listed]
    if twice := sorted({x for x in names if names.count(x) > 1}):
        yield "stage", f"two stages are named {', '.join(twice)}; give each a name of its own"
    try:
        _stages(section, listed, "alone")
    except ValueError as error:
        yield ("stage" if listed else ""), str(error).replace("stage 'alone': ", "")


class Distill(_Teaching):
    """The distillation of the winner, of the baselines, or of a hand-written student; in stages where it lists some."""

    from_scratch: bool = Field(
        default=False, description="whether the winner starts from random weights, not from those of the supernet"
    )
    stage: tuple[DistillStage, ...] = Field(
        default=(), strict=False, max_length=16, description="what is learnt one after the other"
    )

    def late_rules(self) -> Iterator[tuple[str, str]]:
        """Every stage can be taught, and has a name of its own."""
        yield from _stage_rules(self, self.stage)

    def stages(self, skip: Collection[str] = ()) -> tuple[Stage, ...]:
        """All that are not skipped, in their order."""
        return tuple(x for x in _stages(self, self.stage, "distill") if x.name not in skip)


class Supernet(_Sampling):
    """The training of the supernet, from which subnets inherit their weights; in stages where it lists some."""

    importance_batches: int = Field(default=16, ge=1, le=100_000)
    importance: Literal["taylor", "activation", "none"] = Field(
        default="taylor", description="by what heads, neurons and dims are ordered, so that cuts keep the best"
    )
    initial: Text = Field(
        default="teacher", description='"teacher", "random", or the file of another supernet: what it starts as'
    )
    stage: tuple[SupernetStage, ...] = Field(
        default=(), strict=False, max_length=16, description="what is learnt one after the other"
    )

    def late_rules(self) -> Iterator[tuple[str, str]]:
        """Every stage can be taught, and has a name of its own."""
        yield from _stage_rules(self, self.stage)

    def stages(self, skip: Collection[str] = ()) -> tuple[Stage, ...]:
        """All that are not skipped, in their order."""
        return tuple(x for x in _stages(self, self.stage, "supernet") if x.name not in skip)


class Augmentation(Section):
    """New rows from the task's own, words replaced by likely ones (TinyBERT), for stages whose data is augmented."""

    variants: int = Field(default=20, ge=1, le=1000, description="new rows of each row")
    probability: float = Field(default=0.4, gt=0, le=1, description="of each word to be replaced")
    candidates: int = Field(default=15, ge=1, le=1000, description="likely words that each is drawn from")


class Engine(Section):
    """How training runs; none of it changes what is learnt but for rounding."""

    mixed_precision: Literal["auto", "no", "bf16", "fp16"] = Field(
        default="auto", description="auto is bf16 where the processor multiplies it natively"
    )
    compile: bool = Field(default=False, description="dense students through torch.compile")
    trackers: tuple[Text, ...] = Field(
        default=(), strict=False, max_length=8, description='where curves go, such as ["tensorboard"]'
    )

    def build(self, log_folder: Path) -> TrainingEngine:
        """The same as the training has it."""
        from supernet.engine import Engine as TrainingEngine

        return TrainingEngine(
            mixed_precision=self.mixed_precision,
            compile=self.compile,
            trackers=self.trackers,
            log_folder=log_folder if self.trackers else None,
        )
