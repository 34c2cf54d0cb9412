"""The teacher: a checkpoint of any supported family, fine-tuned on the task; the supernet that starts as its equal."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoModelForMaskedLM, AutoModelForQuestionAnswering, AutoModelForSequenceClassification

from supernet.batches import BatchOrder, TokenizedTexts
from supernet.data.location import PACKAGE_PREFIX, package_path
from supernet.engine import Engine, Part
from supernet.errors import DataError, SupernetError, TeacherError
from supernet.facts import Head
from supernet.families import FAMILIES, Family, facts_of, family_of, supernet_of
from supernet.losses import hard_label, hard_span
from supernet.model import Supernet
from supernet.pretrained import read_config, read_tokenizer, refuse_pickle
from supernet.training import Progress, TrainPlan, train

_ARCHITECTURES: Mapping[Head, tuple[str, Any]] = {
    "sequence": ("SequenceClassification", AutoModelForSequenceClassification),
    "span": ("QuestionAnswering", AutoModelForQuestionAnswering),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A classifier of texts, or who answers with spans of them, and its tokenizer, as `transformers` has them; `labels`
    in the order of its logits."""

    model: Any
    tokenizer: Any
    labels: tuple[str, ...]

    @property
    def family(self) -> str:
        """Its name in `supernet.families`."""
        return str(self.model.config.model_type)

    @property
    def head(self) -> Head:
        """What it answers."""
        return head_of(self.model)


def head_of(model: Any) -> Head:
    """What a model of `transformers` answers: a label of a text, or a span of its tokens."""
    return "span" if hasattr(model, "qa_outputs") else "sequence"


def logits_of(output: Any) -> Tensor:
    """[B, labels] of a classifier of `transformers`; [B, S, 2], start and end, of who answers with spans."""
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], -1)
    logits: Tensor = output.logits
    return logits


def find_teacher(name: str) -> str:
    """`package:NAME/FOLDER` to the folder inside that installed package; a folder or hub name as it is."""
    if not name.startswith(PACKAGE_PREFIX):
        return name
    try:
        return str(package_path(name))
    except DataError as error:
        raise TeacherError(f"there is no teacher {name}: {error}") from error


def load_teacher(name: str, *, labels: Sequence[str], seed: int, head: Head = "sequence") -> Teacher:
    """An encoder of a supported family by hub name, folder or `package:` path, under a head of texts or of spans.

    What the checkpoint has of other heads is left aside; a missing head is drawn from `seed`. `labels` are the
    classes, or of spans `supernet.spans.LABELS`.

    Raises `TeacherError` for what `family_of` and `read_tokenizer` refuse, for weights that are missing, left over or
    not finite, and for a trained head that is not for these labels.
    """
    kind, loader = _ARCHITECTURES[head]
    folder = find_teacher(name)
    config = read_config(folder, where=name)
    family = family_of(config, where=name)
    refuse_pickle(Path(folder))
    trained = any(kind in x for x in config.architectures or ())
    order = _label_order(name, config, labels) if trained and head == "sequence" else tuple(labels)
    named = {"label2id": {x: i for i, x in enumerate(order)}, "id2label": dict(enumerate(order))}
    config.num_labels, config.id2label, config.label2id = len(order), named["id2label"], named["label2id"]
    if len(order) == 1:
        config.problem_type = "regression"
    elif head == "span":
        config.problem_type = None
    torch.manual_seed(seed)
    try:
        with _quiet():
            model, info = loader.from_pretrained(
                folder,
                config=config,
                use_safetensors=True,
                trust_remote_code=False,
                output_loading_info=True,
                dtype=torch.float32,
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise TeacherError(f"the teacher at {name!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    fresh = () if trained else tuple(family.names.head(head).values())
    if missing := sorted(key for key in info["missing_keys"] if not key.startswith(fresh)):
        raise TeacherError(f"the teacher at {name!r} lacks {len(missing)} of its weights, such as {missing[0]}")
    if extra := sorted(key for key in info["unexpected_keys"] if not _ignored(family, key, head)):
        raise TeacherError(
            f"the teacher at {name!r} has {len(extra)} weights that its configuration does not speak of, such as "
            f"{extra[0]}: what they do would be left out. Correct config.json, or drop them from the checkpoint"
        )
    for key, weight in model.named_parameters():
        if not torch.isfinite(weight).all():
            raise TeacherError(f"the teacher at {name!r}: its weight {key} holds values that are not finite")
    tokenizer = read_tokenizer(folder, facts_of(config), where=name)
    return Teacher(model=model.eval(), tokenizer=tokenizer, labels=order)


def _ignored(family: Family, key: str, head: Head) -> bool:
    """Whether a weight is of another head; an encoder saved alone has its pooler without the body's name."""
    return family.ignores(key, head) or (head != "sequence" and family.ignores(f"{family.names.body}{key}", head))


def _label_order(name: str, config: Any, labels: Sequence[str]) -> tuple[str, ...]:
    """The task's labels in the order of the teacher's trained head, where it names them."""
    theirs = [str(config.id2label[i]) for i in sorted(config.id2label)]
    if len(theirs) != len(labels):
        raise TeacherError(
            f"the teacher {name!r} has a head for {len(theirs)} labels ({', '.join(theirs[:10])}), the task has "
            f"{len(labels)} ({', '.join(list(labels)[:10])}). Use an encoder without a head, or a matching data set"
        )
    if all(x == f"LABEL_{i}" for i, x in enumerate(theirs)):
        return tuple(labels)
    if set(theirs) != set(labels):
        raise TeacherError(
            f"the teacher {name!r} answers {', '.join(theirs[:10])}, the task's labels are "
            f"{', '.join(list(labels)[:10])}. Rename the data's labels to the teacher's"
        )
    return tuple(theirs)


def fine_tune(
    teacher: Teacher,
    texts: TokenizedTexts,
    labels: Tensor,
    plan: TrainPlan,
    *,
    batch_size: int,
    seed: int,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
) -> None:
    """Trains the teacher on the task in place. `labels` [rows]: int64 classes or float32 targets; of spans [rows, 2]:
    int64 places of the first and the last token.

    Each of the engine's processes takes `batch_size` rows a step. Word embeddings stay as they are: on the few thousand
    rows of a task they hardly move, and their update costs as much as a layer. Raises `TeacherError` for texts longer
    than the position table.
    """
    model = teacher.model
    check_lengths(model, texts)
    engine = engine or Engine(local=True)
    order = BatchOrder(texts.lengths, batch_size=batch_size * engine.count(plan.accumulate), seed=seed)
    table = model.get_input_embeddings().weight
    table.requires_grad_(False)

    def loss(step: int, *, part: Part) -> Tensor:
        return batch_loss(model, texts, labels, order[step], part=part, draw=seed * 1_000_003 + step, engine=engine)

    try:
        train(model, loss, plan, checkpoint=checkpoint, progress=progress, engine=engine)
    finally:
        table.requires_grad_(True)


def batch_loss(
    model: Any, texts: TokenizedTexts, labels: Tensor, every: Sequence[int], *, part: Part, draw: int, engine: Engine
) -> Tensor:
    """A teacher's loss on a part of a step's rows; 0 without a gradient where it has none.

    Dropout follows from `draw`, so that a resumed run repeats it, and differs from part to part.
    """
    if not (rows := part.of(every)):
        return torch.zeros(())
    torch.manual_seed(draw + 7_919 * part.index)
    batch = engine.place(texts.batch(rows))
    logits, wanted = logits_of(model(**batch)).float(), engine.place(labels[rows])
    of_spans = head_of(model) == "span"
    loss = hard_span(logits, wanted, batch["attention_mask"]) if of_spans else hard_label(logits, wanted)
    return part.weight([1.0] * len(every)) * loss


def check_lengths(model: Any, texts: TokenizedTexts) -> None:
    """Raises `TeacherError` for texts longer than the position table."""
    longest, limit = max(texts.lengths, default=0), facts_of(model.config).max_position_embeddings
    if longest > limit:
        raise TeacherError(
            f"a text has {longest} tokens, the teacher's position table ends at {limit}: lower max_length to it"
        )


def load_mlm(name: str) -> Any | None:
    """The masked language model of an encoder's checkpoint; None where its head was not saved with it.

    ELECTRA's has none: its checkpoints are those of discriminators.
    """
    folder = find_teacher(name)
    config = read_config(folder, where=name)
    if family_of(config, where=name) is FAMILIES["electra"]:
        return None
    refuse_pickle(Path(folder))
    try:
        with _quiet():
            model, info = AutoModelForMaskedLM.from_pretrained(
                folder, use_safetensors=True, trust_remote_code=False, output_loading_info=True, dtype=torch.float32
            )
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise TeacherError(f"the teacher at {name!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    return None if info["missing_keys"] else model.eval()


@contextmanager
def _quiet() -> Iterator[None]:
    """Without the report of a fresh head, which is no news."""
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def save_teacher(teacher: Teacher, folder: Path) -> None:
    """A `transformers` folder: config, safetensors, tokenizer."""
    try:
        teacher.model.save_pretrained(folder)
        teacher.tokenizer.save_pretrained(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise SupernetError(f"cannot write the teacher to {folder}: {error}") from error


def supernet_from_bert(model: Any) -> Supernet:
    """A supernet whose largest subnet computes what this model of a supported family computes (law 1)."""
    where = model.config.name_or_path or type(model).__name__
    return supernet_of(model.config, model.state_dict(), where=where, head=head_of(model))
