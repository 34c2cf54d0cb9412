from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from supernet.losses import UNLABELLED
from supernet.masking import Masking

MASK, SPECIAL = 4, (0, 1, 2, 3)
MASKING = Masking(mask_token_id=MASK, special_token_ids=SPECIAL, vocab_size=60)


def texts(rows: int = 400, length: int = 40) -> tuple[Tensor, Tensor]:
    rng = torch.Generator().manual_seed(0)
    ids = torch.randint(5, 60, (rows, length), generator=rng)
    ids[:, 0], ids[:, -5] = 2, 3
    mask = torch.ones_like(ids)
    mask[:, -4:] = 0
    ids[:, -4:] = 0
    return ids, mask


def test_fifteen_in_a_hundred_words_of_which_eighty_ten_ten() -> None:
    ids, mask = texts()
    masked, labels = MASKING(ids, mask, rows=range(400), seed=1, step=0)
    hidden = labels != UNLABELLED
    assert (hidden.sum(1) == round(0.15 * 34)).all()
    assert torch.equal(labels[hidden], ids[hidden])
    assert torch.equal(masked[~hidden], ids[~hidden])
    assert not hidden[(mask == 0) | torch.isin(ids, torch.tensor(SPECIAL))].any()
    now, was = masked[hidden], ids[hidden]
    masks, same = (now == MASK).float().mean(), (now == was).float().mean()
    assert masks.item() == pytest.approx(0.8, abs=0.04)
    assert same.item() == pytest.approx(0.1, abs=0.03)  # and one of 55 that stand in for a word is the word itself
    assert not torch.isin(now[now != MASK], torch.tensor(SPECIAL)).any()


def test_masks_follow_from_seed_step_and_row() -> None:
    ids, mask = texts(6)
    first = MASKING(ids, mask, rows=range(6), seed=1, step=3)
    assert all(map(torch.equal, first, MASKING(ids, mask, rows=range(6), seed=1, step=3)))
    for other in ({"seed": 2}, {"step": 4}, {"rows": range(6, 12)}):
        changed = MASKING(ids, mask, **({"rows": range(6), "seed": 1, "step": 3} | other))
        assert not torch.equal(first[1], changed[1])


def test_neither_neighbours_nor_padding_change_a_rows_masks() -> None:
    """So that a part of a batch has the masks of the whole."""
    ids, mask = texts(6)
    whole = MASKING(ids, mask, rows=range(6), seed=1, step=3)
    part = MASKING(ids[1::2, :36], mask[1::2, :36], rows=[1, 3, 5], seed=1, step=3)
    for x, y in zip(whole, part, strict=True):
        assert torch.equal(x[1::2, :36], y)


def test_one_word_at_least_and_none_where_there_is_none() -> None:
    ids = torch.tensor([[2, 9, 3, 0], [2, 3, 0, 0]])
    masked, labels = MASKING(ids, (ids != 0).long(), rows=[0, 1], seed=0, step=0)
    assert (labels != UNLABELLED).sum(1).tolist() == [1, 0]
    assert torch.equal(masked[1], ids[1])
    assert [MASKING.hides(row) for row in ([2, 9, 3], [2, 3], [2, *range(5, 45), 3])] == [1, 0, 6]


@pytest.mark.parametrize("wrong", [{"probability": 0.0}, {"probability": 1.0}, {"mask_token_id": 60}])
def test_what_cannot_be_masked_with_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="mask"):
        Masking(**({"mask_token_id": 4, "special_token_ids": SPECIAL, "vocab_size": 60} | wrong))
