"""What a BERT checkpoint fixes besides its encoder's shape. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

PoolerActivation: TypeAlias = Literal["tanh", "relu", "gelu"]
"""What stands between pooler and classifier: BERT and RoBERTa have tanh, DistilBERT ReLU, ELECTRA the exact GELU."""


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Sizes every subnet of one supernet shares; the names are those of `transformers`' BertConfig.

    `max_position_embeddings` counts tokens: RoBERTa's table is kept without the rows before its first position.
    """

    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    num_labels: int = 2
    pooler_activation: PoolerActivation = "tanh"

    def __post_init__(self) -> None:
        for name in ("vocab_size", "max_position_embeddings", "type_vocab_size", "num_labels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id must be one of the {self.vocab_size} words, got {self.pad_token_id}")
        if self.pooler_activation not in (known := get_args(PoolerActivation)):
            raise ValueError(f"pooler_activation is one of {', '.join(known)}, got {self.pooler_activation!r}")

    def to_json(self) -> dict[str, Any]:
        """Plain data, `pooler_activation` only where it is not BERT's; `from_json` reads it back to an equal object."""
        data = asdict(self)
        if self.pooler_activation == "tanh":
            del data["pooler_activation"]
        return data

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelFacts:
        """Raises `ValueError` where a field is missing or unknown; `pooler_activation` may be left out."""
        known = {field.name for field in fields(cls)}
        if set(data) | {"pooler_activation"} != known:
            raise ValueError(f"model facts are {sorted(known)}, got {sorted(data)}")
        return cls(**data)
