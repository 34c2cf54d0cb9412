"""Dense models on disk: a `transformers` folder, of its family's own class where that can express it, else of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import (
    MODEL_FOR_QUESTION_ANSWERING_MAPPING,
    MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
    AutoConfig,
    AutoModelForQuestionAnswering,
    AutoModelForSequenceClassification,
)

from atb_export.errors import ExportError
from atb_export.modeling import AtbBertConfig, AtbBertForQuestionAnswering, AtbBertForSequenceClassification
from supernet.errors import SupernetError, TeacherError
from supernet.facts import Head, ModelFacts
from supernet.families import FAMILIES, facts_of, filled, stock_settings, stock_weights, supernet_of
from supernet.model import Supernet
from supernet.pretrained import read_config, read_tokenizer, read_weights
from supernet.space import SubnetConfig

SPANS_STAY = (
    "it answers questions with spans of a context, and engines are built of classifiers only: it cannot be exported "
    "yet. It runs in transformers: AutoModelForQuestionAnswering.from_pretrained(FOLDER)"
)
"""Why a model with a span head has no engine."""

# What `transformers` calls a head's models: its Auto class, the classes of known families, our own.
_MODELS: Mapping[Head, tuple[Any, Any, Any]] = {
    "sequence": (
        AutoModelForSequenceClassification,
        MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING,
        AtbBertForSequenceClassification,
    ),
    "span": (AutoModelForQuestionAnswering, MODEL_FOR_QUESTION_ANSWERING_MAPPING, AtbBertForQuestionAnswering),
}


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseModel:
    """A network, its `transformers` tokenizer and its labels in logit order; a classifier is ready to export.

    `family` is the architecture it is written as where that can express it (`supernet.families`).
    """

    net: Supernet
    tokenizer: Any
    labels: tuple[str, ...]
    family: str = "bert"

    def __post_init__(self) -> None:
        if self.family not in FAMILIES:
            raise ValueError(f"family is one of {', '.join(FAMILIES)}, got {self.family!r}")

    @property
    def stays(self) -> str | None:
        """Why it cannot be exported; None where it can."""
        return None if self.net.facts.head == "sequence" else SPANS_STAY


def transformers_model(net: Supernet, labels: Sequence[str], family: str = "bert") -> Any:
    """The network as a model of `transformers`, which shares its tensors: a classifier, or who answers with spans."""
    _, known, own = _MODELS[net.facts.head]
    names: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    if net.facts.num_labels == 1:
        names["problem_type"] = "regression"
    settings = stock_settings(net, FAMILIES[family])
    if settings is None:
        config = AtbBertConfig(subnet=net.shape.to_json(), facts=net.facts.to_json(), **names)
        with torch.device("meta"):
            model = own(config)
        model.net.load_state_dict(net.state_dict(), assign=True)
        return model.eval()
    stock = AutoConfig.for_model(family, **settings, **names)
    weights = stock_weights(net, FAMILIES[family])
    return known[type(stock)].from_pretrained(None, config=stock, state_dict=weights, dtype=torch.float32)


def as_loaded(folder: Path, head: Head) -> Any:
    """The model in a folder, loaded as a user of `transformers` would, in float32."""
    return _MODELS[head][0].from_pretrained(folder, dtype=torch.float32).eval()


def save_dense(model: DenseModel, folder: Path) -> None:
    """Writes config.json, model.safetensors and the tokenizer's files.

    tokenizer.json says how to pad, and cuts nothing: a program without `transformers` reads only that file.
    """
    plain = model.tokenizer.backend_tokenizer  # whose settings `transformers` makes anew for every text
    plain.no_truncation()
    plain.enable_padding(pad_id=model.tokenizer.pad_token_id, pad_token=model.tokenizer.pad_token)
    try:
        transformers_model(model.net, model.labels, model.family).save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise ExportError(f"cannot write the model to {folder}: {error}. Free some space") from error


def load_dense(folder: Path) -> DenseModel:
    """Reads a classifier of our class or of a supported family; raises `ExportError` for anything else.

    Weights are read as they are on disk and mapped to ours, without a model of `transformers` in between.
    """
    if not (folder / "config.json").is_file():
        raise ExportError(f"{folder} is no model folder: it has no config.json")
    try:
        config = read_config(str(folder), where=str(folder))
        ours = config.model_type == AtbBertConfig.model_type
        facts = _facts(config, folder) if ours else facts_of(config)
        _refuse_other_heads(config, folder)
        weights = read_weights(folder)
        net = _ours(config, facts, weights, folder) if ours else supernet_of(config, weights, where=str(folder))
        tokenizer = read_tokenizer(str(folder), facts, where=str(folder))
    except SupernetError as error:
        raise ExportError(str(error)) from error
    labels = tuple(str(config.id2label[i]) for i in sorted(config.id2label))
    if len(labels) != facts.num_labels:
        raise ExportError(
            f"the configuration in {folder} names {len(labels)} labels, the network has {facts.num_labels}"
        )
    return DenseModel(net=net, tokenizer=tokenizer, labels=labels, family="bert" if ours else config.model_type)


def _refuse_other_heads(config: Any, folder: Path) -> None:
    """A head that is not trained, drawn at random, would be exported and verified without a complaint."""
    kinds: Sequence[str] = config.architectures or ()
    if any("QuestionAnswering" in kind for kind in kinds):
        raise TeacherError(f"the model in {folder} is a {kinds[0]}: {SPANS_STAY}")
    if kinds and not any("SequenceClassification" in kind for kind in kinds):
        raise TeacherError(
            f"the model in {folder} is a {kinds[0]}: only a trained classifier is exported "
            "(...ForSequenceClassification). Fine-tune it first"
        )


def _facts(config: AtbBertConfig, folder: Path) -> ModelFacts:
    try:
        return ModelFacts.from_json(config.facts or {})
    except (ValueError, TypeError) as error:
        raise TeacherError(f"the configuration in {folder} was not written by atb: {error}") from error


def _ours(config: AtbBertConfig, facts: ModelFacts, weights: dict[str, torch.Tensor], folder: Path) -> Supernet:
    """The network of a folder of our own class, whose weights have our names after `net.`."""
    try:
        with torch.device("meta"):
            net = Supernet(shape=SubnetConfig.from_json(config.subnet or {}), facts=facts)
    except ValueError as error:
        raise TeacherError(f"the configuration in {folder} was not written by atb: {error}") from error
    names = {name: f"net.{name}" for name in net.state_dict()}
    found = {name: weights.pop(theirs) for name, theirs in names.items() if theirs in weights}
    return filled(net, found, names=names, unknown=weights, where=str(folder))
