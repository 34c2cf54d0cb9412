"""The nine tasks of GLUE (Wang et al. 2019) by name, from the official folders or from the hub.

What the hub calls a label is its name here, whichever of the two it was read from: the official files of some tasks
hold numbers, of others names. Official test labels are not published, so the official dev set is what is reported on.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from supernet.data.rows import REGRESSION_LABEL, Row
from supernet.data.source import Source, read_rows
from supernet.errors import DataError

HUB_NAME = "nyu-mll/glue"
_ONE_DEV = {"dev": ("dev", "validation")}


@dataclass(frozen=True, kw_only=True)
class GlueTask:
    """One task: where its texts and labels are, and what it is scored by.

    `labels` in the order of the hub's numbers; `text` and `label` are columns of the official tsv, `hub_text` and
    `hub_label` of the hub. `devs` maps the name of a dev set to its file and its split of the hub; the first is the one
    models are compared on. `metrics` are the official ones, the one BERT's paper reports first; `positive` is the label
    F1 asks for. `folders` are the names its folder goes by.
    """

    name: str
    folders: tuple[str, ...]
    text: tuple[str, ...]
    hub_text: tuple[str, ...]
    label: str
    hub_label: str = "label"
    labels: tuple[str, ...]
    numbers: bool = False
    header: bool = True
    skip_ragged: bool = False
    metrics: tuple[str, ...] = ("accuracy",)
    positive: str | None = None
    devs: Mapping[str, tuple[str, str]] = field(default_factory=lambda: _ONE_DEV)

    @property
    def is_regression(self) -> bool:
        """Whether its labels are numbers."""
        return self.labels == (REGRESSION_LABEL,)


_PAIR = ("sentence1", "sentence2")
_ENTAILS = ("entailment", "not_entailment")
GLUE: Mapping[str, GlueTask] = {
    task.name: task
    for task in (
        GlueTask(
            name="cola",
            folders=("CoLA",),
            text=("3",),
            hub_text=("sentence",),
            label="1",
            labels=("unacceptable", "acceptable"),
            numbers=True,
            header=False,
            metrics=("matthews", "accuracy"),
        ),
        GlueTask(
            name="sst2",
            folders=("SST-2", "SST2"),
            text=("sentence",),
            hub_text=("sentence",),
            label="label",
            labels=("negative", "positive"),
            numbers=True,
        ),
        GlueTask(
            name="mrpc",
            folders=("MRPC",),
            text=("#1 String", "#2 String"),
            hub_text=_PAIR,
            label="Quality",
            labels=("not_equivalent", "equivalent"),
            numbers=True,
            metrics=("f1", "accuracy"),
            positive="equivalent",
        ),
        GlueTask(
            name="stsb",
            folders=("STS-B", "STSB"),
            text=_PAIR,
            hub_text=_PAIR,
            label="score",
            labels=(REGRESSION_LABEL,),
            metrics=("spearman", "pearson"),
        ),
        GlueTask(
            name="qqp",
            folders=("QQP",),
            text=("question1", "question2"),
            hub_text=("question1", "question2"),
            label="is_duplicate",
            labels=("not_duplicate", "duplicate"),
            numbers=True,
            skip_ragged=True,
            metrics=("f1", "accuracy"),
            positive="duplicate",
        ),
        GlueTask(
            name="mnli",
            folders=("MNLI",),
            text=_PAIR,
            hub_text=("premise", "hypothesis"),
            label="gold_label",
            labels=("entailment", "neutral", "contradiction"),
            devs={
                "matched": ("dev_matched", "validation_matched"),
                "mismatched": ("dev_mismatched", "validation_mismatched"),
            },
        ),
        GlueTask(
            name="qnli",
            folders=("QNLI",),
            text=("question", "sentence"),
            hub_text=("question", "sentence"),
            label="label",
            labels=_ENTAILS,
        ),
        GlueTask(name="rte", folders=("RTE",), text=_PAIR, hub_text=_PAIR, label="label", labels=_ENTAILS),
        GlueTask(
            name="wnli",
            folders=("WNLI",),
            text=_PAIR,
            hub_text=_PAIR,
            label="label",
            labels=_ENTAILS[::-1],
            numbers=True,
        ),
    )
}


def glue_task(name: str) -> GlueTask:
    """The task of that name, however it is written (`SST-2`, `sst2`); `DataError` names the nearest."""
    plain = name.lower().replace("-", "").replace("_", "")
    if plain in GLUE:
        return GLUE[plain]
    near = difflib.get_close_matches(plain, GLUE, n=1)
    hint = f'; did you mean "{near[0]}"?' if near else "."
    raise DataError(f"GLUE has no task {name!r}{hint} Its nine are {', '.join(GLUE)}")


def read_glue(name: str, split: str, *, path: str | None = None) -> list[Row]:
    """Rows of the split "train", or of a dev set ("dev"; of mnli "matched" and "mismatched").

    `path` is a folder in the official layout, of this task or of all nine; without one the rows come from the hub, for
    which the optional package `datasets` is needed. Raises `DataError` as `read_rows` does, for an unknown task or
    split, a folder without the task, and labels that are none of the task's.
    """
    task = glue_task(name)
    if split != "train" and split not in task.devs:
        raise DataError(f"{task.name} has the splits train, {', '.join(task.devs)}; got {split!r}")
    numeric = task.is_regression
    if path is None:
        wanted = "train" if split == "train" else task.devs[split][1]
        where = f"{HUB_NAME} {task.name} {wanted}"
        source = Source(
            path=HUB_NAME, subset=task.name, split=wanted, text=task.hub_text, label=task.hub_label, numeric=numeric
        )
    else:
        file = _folder(task, path) / f"{'train' if split == 'train' else task.devs[split][0]}.tsv"
        if not file.is_file():
            raise DataError(
                f"there is no {file}: the official layout of GLUE has train.tsv and "
                f"{', '.join(f'{x}.tsv' for x, _ in task.devs.values())} in {file.parent}"
            )
        where = str(file)
        source = Source(
            path=where,
            text=task.text,
            label=task.label,
            header=task.header,
            numeric=numeric,
            skip_ragged=task.skip_ragged,
        )
    rows = read_rows(source)
    return rows if numeric else _named(task, rows, where)


def _folder(task: GlueTask, path: str) -> Path:
    """The task's own folder: `path` itself where it holds a train.tsv, else the one in it that has the task's name."""
    base = Path(path).expanduser()
    if not base.is_dir():
        raise DataError(
            f"there is no folder {path!r} for GLUE's {task.name}; paths are relative to {Path.cwd()}. "
            "Leave the path out to read from the hub"
        )
    known = {x.lower() for x in (task.name, *task.folders)}
    for inner in sorted(base.iterdir()):
        if inner.is_dir() and inner.name.lower() in known:
            return inner
    if (base / "train.tsv").is_file():
        return base
    found = ", ".join(sorted(x.name for x in base.iterdir())[:12]) or "nothing"
    raise DataError(f"{base} holds neither {task.folders[0]}/ nor a train.tsv; it holds {found}")


def _named(task: GlueTask, rows: Sequence[Row], where: str) -> list[Row]:
    """The rows with the hub's names for labels, which the official files of some tasks number."""
    names = {x: x for x in task.labels}
    if task.numbers:
        names |= {str(i): x for i, x in enumerate(task.labels)}
    if strange := sorted({str(row.label) for row in rows} - set(names)):
        raise DataError(
            f"{where}: labels of {task.name} are {', '.join(names)}, got {', '.join(map(repr, strange[:10]))}; "
            "is this the official layout?"
        )
    return [replace(row, label=names[str(row.label)]) for row in rows]
