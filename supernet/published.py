"""Models that papers publish, by name: shapes and embeddings, whose parameters are those of the papers.

Standard library only. TinyBERT: Jiao et al. 2020; MiniLM: Wang et al. 2020; BERT miniatures: Turc et al. 2019;
AutoTinyBERT: Yin et al. 2021; EfficientBERT: Dong et al. 2021, with the cells its search found and MobileBERT's
embedding of trigrams, 128 wide.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from supernet.cells import Cell
from supernet.facts import Embedding, ModelFacts
from supernet.subnet import LayerConfig, SubnetConfig


@dataclass(frozen=True, kw_only=True)
class Published:
    """A network of its own, and how it embeds words."""

    shape: SubnetConfig
    embedding: Embedding = "table"
    embedding_size: int | None = None

    def facts(self, other: ModelFacts) -> ModelFacts:
        """Words, labels and all else of another model, such as its teacher's, with this one's embedding."""
        return replace(other, embedding=self.embedding, embedding_size=self.embedding_size)


EFFICIENTBERT_CELLS = tuple(
    map(
        Cell.parse,
        (
            "tanh(linear2(gelu(linear1(x))))",
            "elu(linear2(gelu(linear1(x))))",
            "sigmoid(linear2(relu(linear1(x))))",
            "linear2(gelu(linear1(max(x, tanh(x)))))",
            "linear2(relu(mul(cut(x), linear1(x))))",
            "leaky_relu(linear2(gelu(linear1(x))))",
        ),
    )
)
"""What each of EfficientBERT's layers computes."""

_EFFICIENTBERT_STACKS = ((4, 2), (2, 1), (1, 2), (2, 2), (1, 2), (2, 3))  # cells, and the hidden size by their width


def _efficientbert(hidden_size: int) -> Published:
    layers = (
        LayerConfig(source=i, heads=12, head_size=hidden_size // 12, ffn_size=hidden_size // by, ffn_stack=k, cell=cell)
        for i, ((k, by), cell) in enumerate(zip(_EFFICIENTBERT_STACKS, EFFICIENTBERT_CELLS, strict=True))
    )
    shape = SubnetConfig(hidden_size=hidden_size, layers=tuple(layers))
    return Published(shape=shape, embedding="trigram", embedding_size=128)


def _bert(depth: int, hidden_size: int, ffn_size: int, heads: int, qkv_size: int | None = None) -> Published:
    head_size = (qkv_size or hidden_size) // heads
    return Published(
        shape=SubnetConfig.uniform(
            hidden_size=hidden_size, depth=depth, heads=heads, head_size=head_size, ffn_size=ffn_size
        )
    )


PUBLISHED: Mapping[str, Published] = MappingProxyType(
    {
        "tinybert4": _bert(4, 312, 1200, 12),
        "tinybert6": _bert(6, 768, 3072, 12),
        "minilm-l6": _bert(6, 384, 1536, 12),
        "minilm-l12": _bert(12, 384, 1536, 12),
        "bert-tiny": _bert(2, 128, 512, 2),
        "bert-mini": _bert(4, 256, 1024, 4),
        "bert-small": _bert(4, 512, 2048, 8),
        "bert-medium": _bert(8, 512, 2048, 8),
        "bert-base": _bert(12, 768, 3072, 12),
        "autotinybert-s1": _bert(5, 564, 1054, 8, 512),
        "autotinybert-s2": _bert(4, 396, 624, 6, 384),
        "autotinybert-s3": _bert(4, 432, 384, 4, 256),
        "autotinybert-s4": _bert(3, 320, 608, 4, 256),
        "autotinybert-kd-s1": _bert(5, 564, 1024, 12, 528),
        "autotinybert-kd-s2": _bert(5, 324, 600, 12, 324),
        "autotinybert-kd-s3": _bert(5, 280, 512, 12, 276),
        "autotinybert-kd-s4": _bert(4, 256, 480, 12, 192),
        "efficientbert": _efficientbert(540),
        "efficientbert-tiny": _efficientbert(360),
    }
)
