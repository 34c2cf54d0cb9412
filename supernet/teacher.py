"""The teacher: any BERT checkpoint, fine-tuned on the task, and the supernet that starts as its equal."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import AutoConfig, AutoTokenizer, BertForSequenceClassification

from supernet.batches import BatchOrder, TokenizedTexts
from supernet.errors import SupernetError, TeacherError
from supernet.facts import ModelFacts
from supernet.losses import hard_label
from supernet.model import Supernet
from supernet.names import stock_name
from supernet.space import SubnetConfig
from supernet.training import Progress, TrainPlan, train


@dataclass(frozen=True, kw_only=True, eq=False)
class Teacher:
    """A BERT classifier and its tokenizer, as `transformers` has them; `labels` in the order of its logits."""

    model: Any
    tokenizer: Any
    labels: tuple[str, ...]


def find_teacher(name: str) -> str:
    """`package:NAME/FOLDER` to the folder inside that installed package; a folder or hub name as it is."""
    if not name.startswith("package:"):
        return name
    package, _, inside = name.removeprefix("package:").partition("/")
    spec = find_spec(package)  # finds without importing: some packages import half the world
    if spec is None or not spec.submodule_search_locations:
        raise TeacherError(f"the teacher {name} names the package {package!r}, which is not installed: pip install it")
    folder = Path(spec.submodule_search_locations[0], inside)
    if ".." in Path(inside).parts or not folder.is_dir():
        raise TeacherError(f"the package {package} has no folder {inside!r}")
    return str(folder)


def load_teacher(name: str, *, labels: Sequence[str], seed: int) -> Teacher:
    """A BERT encoder or classifier by hub name, folder or `package:` path; a missing head is drawn from `seed`.

    Raises `TeacherError` for another architecture, variants of BERT this family has no cut for, and a trained
    head that is not for these labels.
    """
    folder = find_teacher(name)
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise TeacherError(f"no model configuration is at {name!r}: {str(error).splitlines()[0]}") from error
    _refuse_strange(name, config)
    order = _label_order(name, config, labels)
    named = {"label2id": {x: i for i, x in enumerate(order)}, "id2label": dict(enumerate(order))}
    config.num_labels, config.id2label, config.label2id = len(order), named["id2label"], named["label2id"]
    if len(order) == 1:
        config.problem_type = "regression"
    torch.manual_seed(seed)
    # Its report of the fresh head is no news: the head is trained next.
    logger = logging.getLogger("transformers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        model, info = BertForSequenceClassification.from_pretrained(
            folder, config=config, use_safetensors=True, output_loading_info=True, dtype=torch.float32
        )
        tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
    except (OSError, ValueError, RuntimeError, SafetensorError) as error:
        raise TeacherError(f"the teacher at {name!r} cannot be loaded: {str(error).splitlines()[0]}") from error
    finally:
        logger.setLevel(level)
    fresh = () if _has_head(config) else ("classifier.", "bert.pooler.")
    if strange := [key for key in info["missing_keys"] if not key.startswith(fresh)]:
        raise TeacherError(f"the checkpoint {name!r} lacks {len(strange)} weights of a BERT, such as {strange[0]}")
    if len(tokenizer) > config.vocab_size:
        raise TeacherError(
            f"the tokenizer of {name!r} has {len(tokenizer)} entries, its embedding table {config.vocab_size}"
        )
    return Teacher(model=model.eval(), tokenizer=tokenizer, labels=order)


def _refuse_strange(name: str, config: Any) -> None:
    wanted = (
        ("model_type", "bert"),
        ("hidden_act", "gelu"),
        ("position_embedding_type", "absolute"),
        ("is_decoder", False),
        ("add_cross_attention", False),
    )
    for key, value in wanted:
        found = getattr(config, key, value)
        if found != value:
            raise TeacherError(
                f"the teacher {name!r} has {key} = {found!r}, but this family is BERT with {key} = {value!r}. "
                "Choose a BERT encoder or classifier (bert-base, MiniLM with a BERT body, TinyBERT, ...)"
            )


def _has_head(config: Any) -> bool:
    """Whether the checkpoint says that it is a trained classifier."""
    return any("SequenceClassification" in x for x in config.architectures or ())


def _label_order(name: str, config: Any, labels: Sequence[str]) -> tuple[str, ...]:
    """The task's labels, in the teacher's order where it has a trained head that names them."""
    if not _has_head(config):
        return tuple(labels)
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
) -> None:
    """Trains the teacher on the task in place. `labels` [rows]: int64 classes or float32 targets.

    Word embeddings stay as they are: on the few thousand rows of a task they hardly move, and their update costs
    as much as a layer.
    """
    model = teacher.model
    order = BatchOrder([len(ids) for ids in texts.input_ids], batch_size=batch_size, seed=seed)
    table = model.bert.embeddings.word_embeddings.weight
    table.requires_grad_(False)

    def loss(step: int) -> Tensor:
        rows = order[step]
        torch.manual_seed(seed * 1_000_003 + step)  # dropout follows from the step, so that a resumed run repeats it
        return hard_label(model(**texts.batch(rows)).logits.float(), labels[rows])

    try:
        train(model, loss, plan, checkpoint=checkpoint, progress=progress)
    finally:
        table.requires_grad_(True)


def save_teacher(teacher: Teacher, folder: Path) -> None:
    """A `transformers` folder: config, safetensors, tokenizer."""
    try:
        teacher.model.save_pretrained(folder)
        teacher.tokenizer.save_pretrained(folder)
    except (OSError, RuntimeError, SafetensorError) as error:
        raise SupernetError(f"cannot write the teacher to {folder}: {error}") from error


def shape_of(config: Any) -> SubnetConfig:
    """The shape of a BERT by its `transformers` configuration: one feed-forward cell a layer."""
    return SubnetConfig.uniform(
        hidden_size=config.hidden_size,
        depth=config.num_hidden_layers,
        heads=config.num_attention_heads,
        ffn_size=config.intermediate_size,
    )


def supernet_from_bert(model: Any) -> Supernet:
    """A supernet whose largest subnet computes what this BertForSequenceClassification computes (law 1)."""
    config = model.config
    facts = ModelFacts(
        vocab_size=config.vocab_size,
        max_position_embeddings=config.max_position_embeddings,
        type_vocab_size=config.type_vocab_size,
        layer_norm_eps=config.layer_norm_eps,
        pad_token_id=config.pad_token_id or 0,
        num_labels=config.num_labels,
    )
    net = Supernet(shape=shape_of(config), facts=facts)
    theirs = model.state_dict()
    try:
        net.load_state_dict({name: theirs[stock_name(name)] for name in net.state_dict()})
    except KeyError as error:
        raise TeacherError(f"the model lacks the weight {json.dumps(error.args[0])} of a BERT classifier") from error
    return net.eval()
