"""The dense nets of these benchmarks as the exporters people use know them: `transformers`' own BERT classifier.

    python stock.py FOLDER OUT      FOLDER (written by `write`) to OpenVINO IR in OUT, by optimum-intel

Stock BERT has heads of hidden size / heads; the published KD-S shapes have not. For those the linears of the attention
are replaced after construction, which the modelling code of `transformers` carries through: the same class, the same
code path, the same weights. This file needs torch, transformers and safetensors only, so that an interpreter with
optimum-intel, whose pins may differ from ours, can run it.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import nn
from transformers import BertConfig, BertForSequenceClassification

SIZES = ("hidden_size", "depth", "heads", "head_size", "ffn_size", "vocab_size", "positions", "labels")


def bert(sizes: dict[str, int], attention: str = "sdpa") -> Any:
    """A `BertForSequenceClassification` of `SIZES`, heads of any size."""
    n, heads, width = sizes["hidden_size"], sizes["heads"], sizes["heads"] * sizes["head_size"]
    config = BertConfig(
        vocab_size=sizes["vocab_size"],
        hidden_size=n,
        num_hidden_layers=sizes["depth"],
        num_attention_heads=heads,
        intermediate_size=sizes["ffn_size"],
        max_position_embeddings=sizes["positions"],
        num_labels=sizes["labels"],
        attn_implementation=attention,
    )
    if n % heads:
        config.embedding_size = n  # the constructor refuses such a size unless this is there; nothing else reads it
    model = BertForSequenceClassification(config)
    if width != n:
        for layer in model.bert.encoder.layer:
            own, back = layer.attention.self, layer.attention.output
            own.attention_head_size, own.all_head_size = sizes["head_size"], width
            own.scaling = sizes["head_size"] ** -0.5
            own.query, own.key, own.value = (nn.Linear(n, width) for _ in range(3))
            back.dense = nn.Linear(width, n)
    return model.eval()


def load(folder: Path, attention: str = "sdpa") -> Any:
    """What `write` wrote, weights included."""
    model = bert(json.loads((folder / "sizes.json").read_text()), attention)
    missing, unexpected = model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
    if unexpected or any("position_ids" not in name and "token_type_ids" not in name for name in missing):
        raise ValueError(f"{folder}: weights missing {missing}, unexpected {unexpected}")
    return model


def write(sizes: dict[str, int], weights: dict[str, torch.Tensor], folder: Path) -> None:
    """`weights` by the names of `transformers`."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "sizes.json").write_text(json.dumps(sizes))
    save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / "model.safetensors")


def main(source: str, out: str) -> None:
    """Exports by optimum-intel; prints its seconds and version as JSON."""
    import importlib.metadata

    from optimum.exporters.openvino import export_from_model

    model = load(Path(source))
    begun = time.perf_counter()
    export_from_model(model, Path(out), task="text-classification")
    versions = {name: importlib.metadata.version(name) for name in ("optimum-intel", "transformers", "openvino")}
    print(json.dumps({"seconds": time.perf_counter() - begun, **versions}))


if __name__ == "__main__":
    main(*sys.argv[1:])
