"""Tokenised texts in padded, length-grouped batches whose order follows from the seed and the step alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from random import Random
from typing import Any

import torch
from torch import Tensor

from supernet.ragged import Ragged, Rows, Zeros, chained, lengths_of


@dataclass(frozen=True, kw_only=True, eq=False)
class TokenizedTexts:
    """Token ids per text, special tokens included, and the segment of each token for pairs.

    In memory (tuples), or in a file that is read row by row (`supernet.token_cache`).
    """

    input_ids: Rows
    token_type_ids: Rows | None = None
    pad_token_id: int = 0

    def __len__(self) -> int:
        return len(self.input_ids)

    @property
    def lengths(self) -> list[int]:
        """Tokens of each text; of a file without reading the texts."""
        return lengths_of(self.input_ids)

    def __add__(self, other: TokenizedTexts) -> TokenizedTexts:
        if self.pad_token_id != other.pad_token_id:
            raise ValueError(
                f"texts of two tokenizers do not mix: {self.pad_token_id} and {other.pad_token_id} pad them"
            )
        types = None
        if self.token_type_ids is not None or other.token_type_ids is not None:
            types = chained(self._types(), other._types())
        return TokenizedTexts(
            input_ids=chained(self.input_ids, other.input_ids), token_type_ids=types, pad_token_id=self.pad_token_id
        )

    def _types(self) -> Rows:
        if self.token_type_ids is not None:
            return self.token_type_ids
        zeros = Zeros(self.input_ids)
        return tuple(zeros) if isinstance(self.input_ids, tuple) else zeros

    def take(self, rows: Sequence[int]) -> TokenizedTexts:
        """These rows only, in this order."""

        def taken(values: Rows) -> Rows:
            return values.take(rows) if isinstance(values, Ragged) else tuple(values[i] for i in rows)

        types = self.token_type_ids
        return TokenizedTexts(
            input_ids=taken(self.input_ids),
            token_type_ids=None if types is None else taken(types),
            pad_token_id=self.pad_token_id,
        )

    def batch(self, rows: Sequence[int], *, length: int | None = None) -> dict[str, Tensor]:
        """int64 [rows, length] `input_ids`, `attention_mask` (and `token_type_ids`), padded to the longest."""
        chosen = [self.input_ids[i] for i in rows]
        width = length or max(map(len, chosen))

        def padded(values: Sequence[list[int]], fill: int) -> Tensor:
            return torch.tensor([ids[:width] + [fill] * (width - len(ids)) for ids in values])

        batch = {"input_ids": padded(chosen, self.pad_token_id)}
        lengths = torch.tensor([min(len(ids), width) for ids in chosen])
        batch["attention_mask"] = (torch.arange(width)[None] < lengths[:, None]).long()
        if self.token_type_ids is not None:
            batch["token_type_ids"] = padded([self.token_type_ids[i] for i in rows], 0)
        return batch

    def in_order(self, batch_size: int) -> Iterator[tuple[list[int], dict[str, Tensor]]]:
        """All rows once, shortest first (least padding), as (row numbers, batch)."""
        rows = sorted(range(len(self)), key=self.lengths.__getitem__)
        for start in range(0, len(rows), batch_size):
            chosen = rows[start : start + batch_size]
            yield chosen, self.batch(chosen)


def tokenize(tokenizer: Any, texts: Sequence[tuple[str, ...]], *, max_length: int) -> TokenizedTexts:
    """`texts` of one or two segments through a `transformers` tokenizer, cut to `max_length` longest-first.

    Pairs have token types where the tokenizer says that its model takes them: DistilBERT and RoBERTa do not.
    """
    pairs = bool(texts) and len(texts[0]) == 2
    types = pairs and "token_type_ids" in tokenizer.model_input_names
    segments = [[text[i] for text in texts] for i in range(2 if pairs else 1)]
    encoded = tokenizer(
        *segments, truncation=True, max_length=max_length, return_attention_mask=False, return_token_type_ids=types
    )
    return TokenizedTexts(
        input_ids=tuple(encoded["input_ids"]),
        token_type_ids=tuple(encoded["token_type_ids"]) if types else None,
        pad_token_id=int(tokenizer.pad_token_id or 0),
    )


class BatchOrder:
    """Step -> row numbers. Stateless but for a cache, so that a resumed run needs only its step.

    Each epoch shuffles all rows, sorts within pools of `pool` batches by length, and shuffles the batches.
    """

    def __init__(self, lengths: Sequence[int], *, batch_size: int, seed: int, pool: int = 50) -> None:
        if not lengths:
            raise ValueError("there are no rows to train on")
        self.per_epoch = -(-len(lengths) // batch_size)

        @lru_cache(maxsize=1)
        def epoch(number: int) -> list[list[int]]:
            rng = Random(f"{seed}-{number}")
            rows = list(range(len(lengths)))
            rng.shuffle(rows)
            batches = []
            for start in range(0, len(rows), batch_size * pool):
                part = sorted(rows[start : start + batch_size * pool], key=lambda i: lengths[i])
                batches += [part[i : i + batch_size] for i in range(0, len(part), batch_size)]
            rng.shuffle(batches)
            return batches

        self._epoch = epoch

    def __getitem__(self, step: int) -> list[int]:
        return self._epoch(step // self.per_epoch)[step % self.per_epoch]
