"""The one table between our tensor names and those of `transformers`' BertForSequenceClassification."""

from __future__ import annotations

_TABLE: tuple[tuple[str, str], ...] = (
    ("word_embeddings.", "bert.embeddings.word_embeddings."),
    ("position_embeddings.", "bert.embeddings.position_embeddings."),
    ("token_type_embeddings.", "bert.embeddings.token_type_embeddings."),
    ("embedding_norm.", "bert.embeddings.LayerNorm."),
    ("pooler.", "bert.pooler.dense."),
    ("classifier.", "classifier."),
)
_LAYER_TABLE: tuple[tuple[str, str], ...] = (
    ("query.", "attention.self.query."),
    ("key.", "attention.self.key."),
    ("value.", "attention.self.value."),
    ("attention_output.", "attention.output.dense."),
    ("attention_norm.", "attention.output.LayerNorm."),
    ("cells.0.intermediate.", "intermediate.dense."),
    ("cells.0.output.", "output.dense."),
    ("cells.0.output_norm.", "output.LayerNorm."),
)


def stock_name(name: str) -> str:
    """`layers.0.query.weight` -> `bert.encoder.layer.0.attention.self.query.weight`; `KeyError` if unknown.

    Stock BERT has one feed-forward cell a layer, so no name for those stacked on the first.
    """
    prefix, table, rest = "", _TABLE, name
    if name.startswith("layers."):
        _, index, rest = (*name.split(".", 2), "", "")[:3]
        prefix, table = f"bert.encoder.layer.{index}.", _LAYER_TABLE
    for ours, theirs in table:
        if rest.startswith(ours):
            return prefix + theirs + rest.removeprefix(ours)
    raise KeyError(name)
