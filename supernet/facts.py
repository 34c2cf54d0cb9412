"""What a BERT checkpoint fixes besides its encoder's shape. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Sizes every subnet of one supernet shares; the names are those of `transformers`' BertConfig."""

    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    num_labels: int = 2

    def __post_init__(self) -> None:
        for name in ("vocab_size", "max_position_embeddings", "type_vocab_size", "num_labels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")

    def to_json(self) -> dict[str, Any]:
        """Plain data; `from_json` reads it back to an equal object."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelFacts:
        """Raises `ValueError` where a field is missing or unknown."""
        known = {field.name for field in fields(cls)}
        if set(data) != known:
            raise ValueError(f"model facts are {sorted(known)}, got {sorted(data)}")
        return cls(**data)
