"""The one place that knows how `transformers` names the weights of its BERT-like models. Standard library only."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from supernet.facts import Head

_EMBEDDINGS = {
    "word_embeddings.": "embeddings.word_embeddings.",
    "position_embeddings.": "embeddings.position_embeddings.",
    "token_type_embeddings.": "embeddings.token_type_embeddings.",
    "embedding_norm.": "embeddings.LayerNorm.",
}
_LAYER = {
    "query.": "attention.self.query.",
    "key.": "attention.self.key.",
    "value.": "attention.self.value.",
    "attention_output.": "attention.output.dense.",
    "attention_norm.": "attention.output.LayerNorm.",
    "cells.0.intermediate.": "intermediate.dense.",
    "cells.0.output.": "output.dense.",
    "cells.0.output_norm.": "output.LayerNorm.",
}
_DISTILBERT_LAYER = {
    "query.": "attention.q_lin.",
    "key.": "attention.k_lin.",
    "value.": "attention.v_lin.",
    "attention_output.": "attention.out_lin.",
    "attention_norm.": "sa_layer_norm.",
    "cells.0.intermediate.": "ffn.lin1.",
    "cells.0.output.": "ffn.lin2.",
    "cells.0.output_norm.": "output_layer_norm.",
}


@dataclass(frozen=True, kw_only=True)
class Names:
    """How the names of one architecture begin: `body` those of its encoder, `pooler` and `classifier` its head's.

    `layers` and what `embeddings` and `layer` map to follow the body's; `mlm` names its masked language model's head,
    and is empty where that is not ours.
    """

    body: str
    pooler: str
    classifier: str
    embeddings: Mapping[str, str]
    layers: str = "encoder.layer."
    layer: Mapping[str, str]
    mlm: Mapping[str, str] = field(default_factory=dict)

    def head(self, kind: Head) -> Mapping[str, str]:
        """How the names of a head begin, ours -> theirs."""
        heads: Mapping[Head, Mapping[str, str]] = {
            "sequence": {"pooler.": self.pooler, "classifier.": self.classifier},
            "token": {"classifier.": "classifier."},
            "span": {"classifier.": "qa_outputs."},
            "mlm": self.mlm,
        }
        return heads[kind]

    def of(self, name: str, head: Head = "sequence") -> str:
        """`layers.0.query.weight` -> `bert.encoder.layer.0.attention.self.query.weight`; `KeyError` if unknown.

        These models have one feed-forward cell a layer, so no name for those stacked on the first.
        """
        if name.startswith("layers."):
            _, index, rest = (*name.split(".", 2), "", "")[:3]
            table = {ours: f"{self.body}{self.layers}{index}.{theirs}" for ours, theirs in self.layer.items()}
        else:
            rest, table = name, {ours: self.body + theirs for ours, theirs in self.embeddings.items()}
            table |= self.head(head)
        for ours, theirs in table.items():
            if rest.startswith(ours):
                return theirs + rest.removeprefix(ours)
        raise KeyError(name)


BERT = Names(
    body="bert.",
    pooler="bert.pooler.dense.",
    classifier="classifier.",
    embeddings=_EMBEDDINGS,
    layer=_LAYER,
    mlm={
        "transform.": "cls.predictions.transform.dense.",
        "transform_norm.": "cls.predictions.transform.LayerNorm.",
        "word_bias": "cls.predictions.bias",
    },
)
ROBERTA = Names(
    body="roberta.",
    pooler="classifier.dense.",
    classifier="classifier.out_proj.",
    embeddings=_EMBEDDINGS,
    layer=_LAYER,
    mlm={"transform.": "lm_head.dense.", "transform_norm.": "lm_head.layer_norm.", "word_bias": "lm_head.bias"},
)
ELECTRA = Names(
    body="electra.",
    pooler="classifier.dense.",
    classifier="classifier.out_proj.",
    embeddings=_EMBEDDINGS,
    layer=_LAYER,
)
DISTILBERT = Names(
    body="distilbert.",
    pooler="pre_classifier.",
    classifier="classifier.",
    embeddings={ours: theirs for ours, theirs in _EMBEDDINGS.items() if ours != "token_type_embeddings."},
    layers="transformer.layer.",
    layer=_DISTILBERT_LAYER,
    mlm={
        "transform.": "vocab_transform.",
        "transform_norm.": "vocab_layer_norm.",
        "word_bias": "vocab_projector.bias",
    },
)
