"""What makes token ids the first hidden states: a table as wide as them, or a narrower one that is projected.

`factorised` projects each word's row (ALBERT, Lan et al. 2020); `trigram` the rows of the previous, this and the next
token side by side (MobileBERT, Sun et al. 2020, and EfficientBERT). Positions, token types and LayerNorm are as wide as
the hidden states and are cut with them; a projected word table is not cut, its projection is.

Shapes in the comments: B batch, S sequence, V words, N hidden size, E the word table's own width.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from supernet.facts import ModelFacts
from supernet.layer import Linear, cut_norm


class EmbeddingWeights(NamedTuple):
    """Embedding tables and LayerNorm, cut to the subnet's hidden size; `projection` [N, E or 3E] where there is one."""

    word: Tensor
    position: Tensor
    token_type: Tensor
    norm: Linear
    projection: Linear | None = None


def embedding_axes(facts: ModelFacts) -> Mapping[str, tuple[int, ...]]:
    """Name of each of the embeddings' parameters -> its axes that are hidden dims, which a cut shortens."""
    axes: dict[str, tuple[int, ...]] = {
        "word_embeddings.weight": (1,),
        "position_embeddings.weight": (1,),
        "token_type_embeddings.weight": (1,),
        "embedding_norm.weight": (0,),
        "embedding_norm.bias": (0,),
    }
    if facts.embedding != "table":
        axes["word_embeddings.weight"] = ()
        axes |= {"embedding_projection.weight": (0,), "embedding_projection.bias": (0,)}
    return axes


def trigrams(words: Tensor, mask: Tensor) -> Tensor:
    """[B, S, E] of words to [B, S, 3E]: the previous, this and the next token's, zeros where the text has none.

    `mask` [B, S] is 0 on padding, which is no neighbour: so a text answers alike in every batch.
    """
    words = words * mask[..., None].to(words.dtype)
    before = functional.pad(words[:, :-1], (0, 0, 1, 0))
    after = functional.pad(words[:, 1:], (0, 0, 0, 1))
    return torch.cat([before, words, after], dim=-1)


class Embeddings(nn.Module):
    """The tables with their largest sizes, as a part of `Supernet`, whose names of weights they are."""

    facts: ModelFacts

    def make_embeddings(self, n: int) -> None:
        """Adds the modules for hidden size `n`."""
        facts = self.facts
        width = facts.projected_size
        self.word_embeddings = nn.Embedding(facts.vocab_size, facts.embedding_size or n, padding_idx=facts.pad_token_id)
        self.position_embeddings = nn.Embedding(facts.max_position_embeddings, n)
        self.token_type_embeddings = nn.Embedding(facts.type_vocab_size, n)
        self.embedding_norm = nn.LayerNorm(n, eps=facts.layer_norm_eps)
        self.embedding_projection = None if width is None else nn.Linear(width, n)

    def embedding_weights(self, n: int) -> EmbeddingWeights:
        """The tables' first `n` columns; a word table that is projected is whole."""
        projection = self.embedding_projection
        return EmbeddingWeights(
            word=self.word_embeddings.weight[:, : n if projection is None else None],
            position=self.position_embeddings.weight[:, :n],
            token_type=self.token_type_embeddings.weight[:, :n],
            norm=cut_norm(self.embedding_norm, n),
            projection=None if projection is None else (projection.weight[:n], projection.bias[:n]),
        )

    def embed(self, input_ids: Tensor, attention_mask: Tensor, token_type_ids: Tensor | None, n: int) -> Tensor:
        """int64 [B, S] each to the first hidden states [B, S, n]."""
        w = self.embedding_weights(n)
        words: Tensor = self.word_embeddings(input_ids)
        if w.projection is None:
            words = words[..., :n]  # whole rows are looked up and cut afterwards: cutting the table would copy it
        else:
            if self.facts.embedding == "trigram":
                words = trigrams(words, attention_mask)
            words = functional.linear(words, *w.projection)
        hidden = words + w.position[: input_ids.shape[1]]
        if token_type_ids is None:
            hidden = hidden + w.token_type[0]
        else:
            hidden = hidden + self.token_type_embeddings(token_type_ids)[..., :n]
        return functional.layer_norm(hidden, (n,), *w.norm, eps=self.facts.layer_norm_eps)
