"""What the benchmarks of this folder share: the shapes, their nets, and how they end (`../search/outcome.py`)."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

sys.path.append(str(Path(__file__).resolve().parents[1] / "search"))
from outcome import finish, table, target

from runtime.engine import Feeds
from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.names import BERT
from supernet.space import SubnetConfig

__all__ = ["BASE", "FACTS", "TINY", "feeds", "finish", "net_of", "sizes", "stock_weights", "table", "target"]

FACTS = ModelFacts(vocab_size=30522, max_position_embeddings=512)
# Published tiny BERTs. KD-S1 and KD-S4 are AutoTinyBERT's (arXiv:2107.13686), whose heads are not hidden size / heads.
TINY: dict[str, SubnetConfig] = {
    "TinyBERT4": SubnetConfig.uniform(hidden_size=312, depth=4, heads=12, head_size=26, ffn_size=1200),
    "MiniLM-L6": SubnetConfig.uniform(hidden_size=384, depth=6, heads=12, head_size=32, ffn_size=1536),
    "KD-S1": SubnetConfig.uniform(hidden_size=564, depth=5, heads=12, head_size=44, ffn_size=1024),
    "KD-S4": SubnetConfig.uniform(hidden_size=256, depth=4, heads=12, head_size=16, ffn_size=480),
}
BASE = {"BERT-base": SubnetConfig.uniform(hidden_size=768, depth=12, heads=12, head_size=64, ffn_size=3072)}


@torch.no_grad()
def net_of(shape: SubnetConfig, facts: ModelFacts = FACTS, seed: int = 0) -> Supernet:
    """A dense net with random weights, LayerNorms and biases among them: time does not depend on the values."""
    net = Supernet(shape=shape, facts=facts).eval()
    rng = torch.Generator().manual_seed(seed)
    for name, x in net.named_parameters():
        noise = torch.randn(x.shape, generator=rng)
        if "norm" in name and name.endswith("weight"):
            x.copy_(1 + 0.1 * noise)
        else:
            x.copy_(0.1 * noise if x.dim() == 1 else 0.5 * noise * x.shape[1] ** -0.5)
    return net


def sizes(net: Supernet) -> dict[str, int]:
    """What `stock.bert` builds the same net from."""
    first = net.shape.layers[0]
    return {
        "hidden_size": net.shape.hidden_size,
        "depth": net.shape.depth,
        "heads": first.heads,
        "head_size": first.head_size,
        "ffn_size": first.ffn_size,
        "vocab_size": net.facts.vocab_size,
        "positions": net.facts.max_position_embeddings,
        "labels": net.facts.num_labels,
    }


def stock_weights(net: Supernet) -> dict[str, torch.Tensor]:
    """The net's tensors by the names of `transformers`."""
    return {BERT.of(name): tensor for name, tensor in net.state_dict().items()}


def feeds(batch: int, length: int, *, padded: bool = False, seed: int = 0) -> Feeds:
    """Random tokens in full rows, or in rows of which each ends somewhere in its second half."""
    rng = np.random.default_rng(seed)
    ends = rng.integers(length // 2, length + 1, batch) if padded else np.full(batch, length)
    mask = (np.arange(length)[None] < ends[:, None]).astype(np.int64)
    ids = rng.integers(1000, FACTS.vocab_size, (batch, length)) * mask
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}
