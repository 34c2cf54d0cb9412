"""Masked words for a masked language model (Devlin et al. 2019), drawn anew for each row and step."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from random import Random

import torch
from torch import Tensor

from supernet.losses import UNLABELLED

_MASKED, _REPLACED = 0.8, 0.1


@dataclass(frozen=True, kw_only=True)
class Masking:
    """Hides `probability` of a text's words, one at least: 80 % become the mask, 10 % another word, 10 % stay.

    `special_token_ids` are never hidden and never stand in for a word.
    """

    mask_token_id: int
    special_token_ids: tuple[int, ...]
    vocab_size: int
    probability: float = 0.15

    def __post_init__(self) -> None:
        if not 0 < self.probability < 1:
            raise ValueError(f"the probability of a mask lies between 0 and 1, got {self.probability}")
        if not all(0 <= i < self.vocab_size for i in (self.mask_token_id, *self.special_token_ids)):
            raise ValueError(f"mask and special tokens are among the {self.vocab_size} words, got {self}")

    @cached_property
    def _words(self) -> Tensor:
        special = {self.mask_token_id, *self.special_token_ids}
        return torch.tensor([i for i in range(self.vocab_size) if i not in special])

    @cached_property
    def _special(self) -> Tensor:
        return torch.tensor(sorted({self.mask_token_id, *self.special_token_ids}))

    def hides(self, input_ids: Iterable[int]) -> int:
        """How many words of a text it hides."""
        special = {self.mask_token_id, *self.special_token_ids}
        return self._count(sum(i not in special for i in input_ids))

    def _count(self, words: int) -> int:
        return max(1, round(self.probability * words)) if words else 0

    def __call__(
        self, input_ids: Tensor, attention_mask: Tensor, *, rows: Sequence[int], seed: int, step: int
    ) -> tuple[Tensor, Tensor]:
        """Masked ids and labels, both int64 [B, S]; labels are `UNLABELLED` where nothing was hidden.

        `rows` [B] number the texts: a row's masks follow from (seed, step, row), not from what stands beside it or how
        far it is padded.
        """
        masked, labels = input_ids.clone(), torch.full_like(input_ids, UNLABELLED)
        candidates = attention_mask.bool() & ~torch.isin(input_ids, self._special.to(input_ids.device))
        draw = torch.Generator()
        for i, row in enumerate(rows):
            places = candidates[i].nonzero()[:, 0].cpu()
            if not len(places):
                continue
            draw.manual_seed(Random(f"{seed}-masks-{step}-{row}").getrandbits(63))
            count = self._count(len(places))
            hidden = places[torch.randperm(len(places), generator=draw)[:count]].to(input_ids.device)
            fate = torch.rand(count, generator=draw)
            others = self._words[torch.randint(len(self._words), (count,), generator=draw)]
            own = input_ids[i, hidden]
            labels[i, hidden] = own
            fate, others = fate.to(own.device), others.to(own.device)
            kept = torch.where(fate < _MASKED + _REPLACED, others, own)
            masked[i, hidden] = torch.where(fate < _MASKED, torch.full_like(own, self.mask_token_id), kept)
        return masked, labels
