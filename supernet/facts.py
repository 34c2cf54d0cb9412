"""What a BERT checkpoint fixes besides its encoder's shape. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any, Literal, TypeAlias, get_args

PoolerActivation: TypeAlias = Literal["tanh", "relu", "gelu"]
"""What stands between pooler and classifier: BERT and RoBERTa have tanh, DistilBERT ReLU, ELECTRA the exact GELU."""

Head: TypeAlias = Literal["sequence", "token", "span", "mlm"]
"""What stands on the encoder: one answer a text, one a token, where an answer starts and ends, or each token's word."""

Embedding: TypeAlias = Literal["table", "factorised", "trigram"]
"""How words become vectors: rows as wide as the hidden size; narrower rows, projected (ALBERT); or the narrower rows of
the previous, this and the next token side by side, projected (MobileBERT)."""

_LEFT_OUT = {"pooler_activation": "tanh", "head": "sequence", "embedding": "table", "embedding_size": None}


@dataclass(frozen=True, kw_only=True)
class ModelFacts:
    """Sizes every subnet of one supernet shares; the names are those of `transformers`' BertConfig.

    `max_position_embeddings` counts tokens: RoBERTa's table is kept without the rows before its first position.
    `embedding_size` is the width of the word table where that is projected, else None.
    """

    vocab_size: int
    max_position_embeddings: int
    type_vocab_size: int = 2
    layer_norm_eps: float = 1e-12
    pad_token_id: int = 0
    num_labels: int = 2
    pooler_activation: PoolerActivation = "tanh"
    head: Head = "sequence"
    embedding: Embedding = "table"
    embedding_size: int | None = None

    def __post_init__(self) -> None:
        for name in ("vocab_size", "max_position_embeddings", "type_vocab_size", "num_labels"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be positive, got {getattr(self, name)}")
        if not 0 <= self.pad_token_id < self.vocab_size:
            raise ValueError(f"pad_token_id must be one of the {self.vocab_size} words, got {self.pad_token_id}")
        for name, kind in (("pooler_activation", PoolerActivation), ("head", Head), ("embedding", Embedding)):
            if (value := getattr(self, name)) not in (known := get_args(kind)):
                raise ValueError(f"{name} is one of {', '.join(known)}, got {value!r}")
        if self.head == "span" and self.num_labels != 2:
            raise ValueError(f"a span has 2 labels, where it starts and where it ends; num_labels is {self.num_labels}")
        projected = self.embedding != "table"
        if projected != (self.embedding_size is not None) or (projected and (self.embedding_size or 0) < 1):
            raise ValueError(
                f"embedding_size is the width of a word table that is projected (factorised, trigram), 1 or more, and "
                f"None otherwise; got {self.embedding_size!r} for {self.embedding}"
            )

    @property
    def num_logits(self) -> int:
        """Logits of one answer: the labels, or for the masked language model all words."""
        return self.vocab_size if self.head == "mlm" else self.num_labels

    @property
    def projected_size(self) -> int | None:
        """Width of what is projected to the hidden size; None for a word table of that size."""
        if self.embedding_size is None:
            return None
        return self.embedding_size * (3 if self.embedding == "trigram" else 1)

    def to_json(self) -> dict[str, Any]:
        """Plain data without what is as it always was; `from_json` reads it back to an equal object."""
        return {
            name: value for name, value in asdict(self).items() if name not in _LEFT_OUT or value != _LEFT_OUT[name]
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> ModelFacts:
        """Raises `ValueError` where a field is missing or unknown; what `to_json` leaves out may be."""
        known = {field.name for field in fields(cls)}
        if set(data) | set(_LEFT_OUT) != known:
            raise ValueError(f"model facts are {sorted(known)}, got {sorted(data)}")
        return cls(**data)
