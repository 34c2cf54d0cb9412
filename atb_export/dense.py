"""Dense models on disk: a `transformers` folder, stock BERT where the shape allows it, else our class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from transformers import AutoConfig, AutoTokenizer, BertConfig, BertForSequenceClassification

from atb_export.errors import ExportError
from atb_export.modeling import AtbBertConfig, AtbBertForSequenceClassification
from supernet.errors import TeacherError
from supernet.model import Supernet
from supernet.names import stock_name
from supernet.teacher import load_teacher, supernet_from_bert


@dataclass(frozen=True, kw_only=True, eq=False)
class DenseModel:
    """A classifier ready to export: the network, its `transformers` tokenizer and its labels in logit order."""

    net: Supernet
    tokenizer: Any
    labels: tuple[str, ...]


def transformers_model(net: Supernet, labels: Sequence[str]) -> Any:
    """The network as a `transformers` classifier holding the same tensors."""
    facts, shape = net.facts, net.shape
    names: dict[str, Any] = {
        "id2label": dict(enumerate(labels)),
        "label2id": {label: i for i, label in enumerate(labels)},
    }
    if facts.num_labels == 1:
        names["problem_type"] = "regression"
    if not shape.is_stock_bert:
        config = AtbBertConfig(subnet=shape.to_json(), facts=facts.to_json(), **names)
        model = AtbBertForSequenceClassification(config)
        model.net.load_state_dict(net.state_dict())
        return model.eval()
    first = shape.layers[0]
    stock = BertForSequenceClassification(
        BertConfig(
            vocab_size=facts.vocab_size,
            hidden_size=shape.hidden_size,
            num_hidden_layers=shape.depth,
            num_attention_heads=first.heads,
            intermediate_size=first.ffn_size,
            max_position_embeddings=facts.max_position_embeddings,
            type_vocab_size=facts.type_vocab_size,
            layer_norm_eps=facts.layer_norm_eps,
            pad_token_id=facts.pad_token_id,
            **names,
        )
    )
    stock.load_state_dict({stock_name(name): tensor for name, tensor in net.state_dict().items()}, strict=False)
    return stock.eval()


def save_dense(model: DenseModel, folder: Path) -> None:
    """Writes config.json, model.safetensors and the tokenizer's files."""
    try:
        transformers_model(model.net, model.labels).save_pretrained(folder)
        model.tokenizer.save_pretrained(folder)
    except SafetensorError as error:  # what safetensors makes of a full disk
        raise ExportError(f"cannot write the model to {folder}: {error}. Free some space") from error


def load_dense(folder: Path) -> DenseModel:
    """Reads a classifier of our class or of stock BERT; raises `ExportError` for anything else."""
    if not (folder / "config.json").is_file():
        raise ExportError(f"{folder} is no model folder: it has no config.json")
    try:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise ExportError(f"{folder} has a configuration that cannot be read: {str(error).splitlines()[0]}") from error
    labels = tuple(str(config.id2label[i]) for i in sorted(config.id2label))
    if config.model_type == AtbBertConfig.model_type:
        try:
            model, info = AtbBertForSequenceClassification.from_pretrained(
                folder, use_safetensors=True, output_loading_info=True, dtype=torch.float32
            )
            tokenizer = AutoTokenizer.from_pretrained(folder, use_fast=True, trust_remote_code=False)
        except (OSError, ValueError, TypeError, RuntimeError, SafetensorError) as error:
            raise ExportError(f"the model in {folder} cannot be loaded: {str(error).splitlines()[0]}") from error
        missing, net = list(info["missing_keys"]), model.net.eval()
    else:
        try:
            teacher = load_teacher(str(folder), labels=labels, seed=0)
        except TeacherError as error:
            raise ExportError(str(error)) from error
        has_head = any("SequenceClassification" in x for x in config.architectures or ())
        missing = [] if has_head else ["classifier.weight"]
        net, tokenizer = supernet_from_bert(teacher.model), teacher.tokenizer
    if missing:
        raise ExportError(
            f"the model in {folder} lacks {', '.join(missing[:3])}: only a trained classifier is exported"
        )
    for name, tensor in net.state_dict().items():
        if not torch.isfinite(tensor).all():
            raise ExportError(f"{folder}: the weight {name} holds values that are not finite")
    return DenseModel(net=net, tokenizer=tokenizer, labels=labels)
