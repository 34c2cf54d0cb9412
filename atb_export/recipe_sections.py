"""The tables of a recipe. It may come from a stranger: every size is bounded, and nothing in it is run."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Mapping
from typing import Annotated, Any, Literal

from pydantic import BeforeValidator, Field

from atb_export.recipe_errors import Section, broken_rule, did_you_mean, nearest_of, repeated
from atb_export.recipe_values import BatchSize, Columns, Count, LearningRate, Length, Text, Where
from runtime.backends import BACKENDS
from runtime.target import PRECISIONS, EngineTarget, Precision, Shape
from search.phases import GENES
from search.plan import SearchPlan
from supernet.data.source import Source


def _one_or_more(value: object) -> tuple[str, ...]:
    """A precision, or a list of them to choose from."""
    names = [value] if isinstance(value, str) else value
    if not isinstance(names, list | tuple) or not 1 <= len(names) <= len(PRECISIONS):
        raise broken_rule('must be a precision, or a list of some to choose from, such as ["bf16", "int8"]')
    for name in names:
        if name not in PRECISIONS:
            known = ", ".join(f'"{x}"' for x in PRECISIONS)
            raise broken_rule(f"must be one of {known}{did_you_mean(str(name), PRECISIONS)}")
    return tuple(names)


Precisions = Annotated[tuple[Precision, ...], BeforeValidator(_one_or_more)]

_PATH = "a data file, a directory with one per split, package:NAME/file or a hub name; #split picks a split"
_WITH_SPLIT = re.compile(r"(.+)#([A-Za-z_]{1,32})")


class _Rows(Section):
    """How to read rows, whatever they are for."""

    where: Where = Field(default_factory=dict)
    text: Columns = ("text",)
    subset: Text | None = Field(default=None, description="the configuration of a hub data set")
    header: bool = Field(default=True, description="without one, columns are named by position: 0, 1, ...")

    def _source(self, path: str, *, split: str | None = None, **more: Any) -> Source:
        if (named := _WITH_SPLIT.fullmatch(path)) is not None:
            path, split = named[1], named[2]
        return Source(
            path=path, text=self.text, where=self.where, split=split, subset=self.subset, header=self.header, **more
        )


class OtherTask(_Rows):
    """Another task that a teacher of several is fine-tuned on; only its training rows are read."""

    kind: Literal["classification", "regression", "glue"] = "classification"
    name: Text | None = Field(default=None, description="of the GLUE task")
    label: Text = Field(default="label", description="the column of the labels")
    path: Text | None = Field(default=None, description=_PATH)

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Where its rows come from."""
        if data.get("kind") == "glue":
            if "name" not in data:
                yield "name", "is missing (the GLUE task, such as sst2)"
        elif "path" not in data:
            yield "path", f"is missing ({_PATH})"

    def source(self) -> Source:
        """Its training rows, unless it is GLUE's."""
        assert self.path is not None  # by the rules
        return self._source(self.path, split="train", label=self.label, numeric=self.kind == "regression")


class Teacher(Section):
    """The checkpoint to start from and its fine-tuning on the task; with no epochs it is taken as it is."""

    model: Text = Field(description="a model directory, package:NAME/directory or a hub name")
    epochs: int = Field(default=2, ge=0, le=1000)
    batch_size: BatchSize = 32
    learning_rate: LearningRate = 5e-5
    max_length: Length = Field(default=64, description="tokens of a text; longer ones are cut")
    tasks: tuple[OtherTask, ...] = Field(
        default=(), strict=False, max_length=64, description="what a teacher of several tasks learns beside this one"
    )


class Task(_Rows):
    """What the model is to tell: one set of rows, which is split, or a file for each split, or a known task by name."""

    kind: Literal["classification", "regression", "glue", "squad"] = "classification"
    label: Text = Field(default="label", description="the column of the labels")
    path: Text | None = Field(default=None, description=_PATH)
    train: Text | None = Field(default=None, description=_PATH)
    search_dev: Text | None = Field(default=None, description=_PATH)
    test: Text | None = Field(default=None, description=_PATH)
    search_dev_rows: Count | None = Field(default=None, description="rows the search compares subnets on")
    test_rows: Count | None = Field(default=None, description="rows every reported accuracy is measured on")
    name: Text | None = Field(default=None, description="of the GLUE task, such as sst2; path is then its folder")

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """Where each split comes from, once."""
        if data.get("kind") == "glue":
            yield from cls._glue_rules(data)
            return
        yield from cls._split_rules(data)
        yield from cls._squad_rules(data) if data.get("kind") == "squad" else cls._column_rules(data)

    @classmethod
    def _split_rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        files = [key for key in ("train", "search_dev", "test") if key in data]
        if "path" in data:
            if files:
                yield "path", f"give path with row counts or a file for each split, not both; drop path or {files}"
            for key in ("search_dev_rows", "test_rows"):
                if key not in data:
                    yield key, f"is missing ({cls.model_fields[key].description}, taken out of path)"
        elif not files:
            yield "", f"needs rows: path with search_dev_rows and test_rows, or train and test ({_PATH})"
        else:
            for key in ("train", "test"):
                if key not in data:
                    yield key, f"is missing ({_PATH}); with {', '.join(files)} the splits come from files"
            if ("search_dev" in data) == ("search_dev_rows" in data):
                yield "search_dev", "give exactly one of search_dev (a file) and search_dev_rows (taken out of train)"
            if "test_rows" in data:
                yield "test_rows", "goes with path; the rows of a test file are all used"

    @classmethod
    def _column_rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        text, label = data.get("text", ["text"]), data.get("label", "label")
        if isinstance(text, list) and label in text:
            yield "label", f"must not be one of the text columns, which are {text}"
        if "name" in data:
            yield "name", 'is of a GLUE task; write kind = "glue", or drop it'

    @classmethod
    def _glue_rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """GLUE says itself which columns and splits there are; its dev set is what is reported on."""
        if "name" not in data:
            yield (
                "name",
                "is missing (the GLUE task, such as sst2; path names its folder, without one the hub is asked)",
            )
        if "search_dev_rows" not in data:
            yield "search_dev_rows", "is missing (rows the search compares subnets on, taken out of train)"
        for key in sorted({"text", "label", "where", "subset", "header", "train", "search_dev", "test", "test_rows"}):
            if key in data:
                yield key, "does not go with a GLUE task, whose columns and splits are known; drop it"

    @classmethod
    def _squad_rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """SQuAD says itself where question, context and answers are."""
        for key in sorted({"text", "label", "where", "subset", "header", "name"}):
            if key in data:
                yield key, "does not go with SQuAD, whose json has question, context and answers; drop it"

    def sources(self) -> dict[str, Source]:
        """`{"all"}` where one set is to be split, else `{"train", "test"}` and maybe `"search_dev"`."""
        more: dict[str, Any] = {"label": self.label, "numeric": self.kind == "regression"}
        if self.path is not None:
            return {"all": self._source(self.path, **more)}
        paths = {"train": self.train, "search_dev": self.search_dev, "test": self.test}
        splits = {"search_dev": "dev"}
        return {
            name: self._source(path, split=splits.get(name, name), **more)
            for name, path in paths.items()
            if path is not None
        }


class Transfer(_Rows):
    """Unlabelled text whose sentences the students learn from, beside the task's own."""

    path: Text = Field(description=_PATH)
    min_words: int = Field(default=4, ge=1, le=1000)
    max_words: int = Field(default=40, ge=1, le=10_000)
    limit: Count = Field(default=30_000, description="sentences at most")
    confidence_quantile: float = Field(
        default=0.0,
        ge=0,
        lt=1,
        description="among rows and text, keep the sentences of which the teacher is at least as sure as of this share "
        "of its search-dev rows (0: keep all)",
    )
    wikitext: bool = Field(default=False, description="whether it is WikiText: its headings and marks are left out")

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """The range of words is one."""
        least, most = data.get("min_words", 4), data.get("max_words", 40)
        if type(least) is int and type(most) is int and least > most:
            yield "min_words" if "min_words" in data else "max_words", f"min_words ({least}) exceeds max_words ({most})"

    def source(self) -> Source:
        """Its rows have no label."""
        return self._source(self.path)


# Literal takes no values that are computed; a test holds it to GENES.
Gene = Literal["layers", "hidden_sizes", "heads", "head_sizes", "ffn_sizes", "ffn_stacks", "cells"]


class Phase(Section):
    """One search of several: only some genes are free, the others are as the winner of the one before has them."""

    name: Annotated[str, Field(max_length=32, pattern=r"^[a-z0-9][a-z0-9-]*$")] = Field(
        description="lower-case letters, digits and dashes; its folder is named after it"
    )
    free: Annotated[tuple[Gene, ...], Field(strict=False, min_length=1, max_length=len(GENES))] = Field(
        description=f"genes to search: {', '.join(GENES)}"
    )
    engines: int | None = Field(default=None, ge=1, le=100_000, description="designs to measure; as [search] has it")
    tuning_steps: int | None = Field(
        default=None, ge=0, le=1_000_000, description="training of each subnet before it is asked; as [search] has it"
    )


class Search(Section):
    """How many engines are built and measured, how the next ones are chosen, and where measurements are kept."""

    engines: int = Field(default=48, ge=1, le=100_000, description="designs to measure")
    method: Literal["nsga2", "random", "fast", "autotinybert"] = "nsga2"
    population: int = Field(default=16, ge=2, le=10_000)
    generation: int = Field(default=8, ge=1, le=10_000, description="designs evaluated before the next are chosen")
    mutation_rate: float = Field(default=0.2, gt=0, le=1)
    seconds: float | None = Field(default=None, gt=0, le=1e7, description="the search ends after so long, too")
    small: bool = Field(default=False, description="whether a smaller model counts as better")
    tuning_steps: int = Field(default=0, ge=0, le=1_000_000, description="training of each subnet before it is asked")
    store: Text | None = Field(default=None, description="the file of all measurements; beside the output if not named")
    phase: tuple[Phase, ...] = Field(
        default=(), strict=False, max_length=16, description="searches that narrow the space one after the other"
    )

    def late_rules(self) -> Iterator[tuple[str, str]]:
        """Every phase has a name of its own."""
        names = [x.name for x in self.phase]
        if twice := sorted({x for x in names if names.count(x) > 1}):
            yield "phase", f"two phases are named {', '.join(twice)}; give each a name of its own"

    def plan(self, engines: int | None = None) -> SearchPlan:
        """The same as the search has it, with the number of engines of a phase."""
        return SearchPlan(
            engines=engines or self.engines,
            population=self.population,
            generation=self.generation,
            mutation_rate=self.mutation_rate,
            seconds=self.seconds or math.inf,
        )


class Constraint(Section):
    """How fast the winner must be on the first target."""

    max_ms: float | None = Field(default=None, gt=0, le=3_600_000)
    of_teacher: float | None = Field(default=None, gt=0, le=1)
    statistic: Literal["p50"] = "p50"

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """One limit."""
        given = [key for key in ("max_ms", "of_teacher") if key in data]
        if len(given) != 1:
            yield (
                "",
                (
                    "needs exactly one of max_ms (milliseconds) and of_teacher (a fraction of the teacher's latency), "
                    f"got {' and '.join(given) or 'neither'}"
                ),
            )


class Target(Section):
    """One engine to build; the first of a recipe is the one the search measures."""

    backend: Text = Field(description=f"one of {', '.join(BACKENDS)}")
    device: Annotated[str, Field(max_length=256, pattern=r"^[A-Za-z0-9_.]+(,[A-Za-z0-9_.]+)*$")] = Field(
        default="CPU", description='a device, or names joined by commas such as "sm_89,sm_120"'
    )
    precision: Precisions = Field(
        default=("auto",), description='one, or for a searched target several to choose from: ["bf16", "int8"]'
    )
    batch: int = Field(default=1, ge=1, le=65_536)
    length: Length = Field(description="tokens per row")
    threads: int = Field(default=1, ge=1, le=1024)
    max_ms: float | None = Field(
        default=None, gt=0, le=3_600_000, description="a limit of its own: then it is searched"
    )
    of_teacher: float | None = Field(default=None, gt=0, le=1, description="the same, as a share of the teacher's time")
    searched: bool = Field(default=False, description="measured by the search though it has no limit")

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """The backend exists, TensorRT is told what to build for, a limit is given once, precisions differ."""
        if "max_ms" in data and "of_teacher" in data:
            yield "max_ms", "and of_teacher exclude each other; drop one"
        if twice := repeated(data.get("precision")):
            yield "precision", f"names {twice} more than once"
        backend = data.get("backend")
        if isinstance(backend, str) and backend and backend not in BACKENDS:
            yield "backend", f"unknown backend{nearest_of(backend, list(BACKENDS))}"
        if backend == "tensorrt" and data.get("device", "CPU") == "CPU":
            yield "device", 'TensorRT builds for compute capabilities such as "sm_89,sm_120", or for "current"'

    @property
    def precisions(self) -> tuple[Precision, ...]:
        """Those to choose from, the first of which every other model of the run is built in."""
        return self.precision

    @property
    def is_searched(self) -> bool:
        """Whether the search measures it though it is not the first."""
        return self.searched or self.max_ms is not None or self.of_teacher is not None

    def build(self, precision: Precision | None = None) -> EngineTarget:
        """The same as the runtime has it, in `precision` or the first it names."""
        return EngineTarget(
            backend=self.backend,
            device=self.device,
            precision=precision or self.precisions[0],
            shape=Shape(batch=self.batch, length=self.length),
            threads=self.threads,
        )


class Compare(Section):
    """Hand-designed shapes to distil like the winner and to set beside it."""

    baselines: tuple[Literal["tinybert4", "cut3", "cut2"], ...] = Field(
        default=(), strict=False, max_length=16, description="shapes of `atb compare`"
    )

    @classmethod
    def rules(cls, data: Mapping[str, Any]) -> Iterator[tuple[str, str]]:
        """No shape is named twice."""
        if twice := repeated(data.get("baselines")):
            yield "baselines", f"names {twice} more than once"
