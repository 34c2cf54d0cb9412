"""Text is kept where the teacher is as sure of it as of the task's own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch

from supernet.batches import TokenizedTexts
from supernet.confidence import confident
from supernet.engine import Engine
from supernet.model import Supernet

EXACT = Engine(local=True, mixed_precision="no")


def some(count: int, *, seed: int) -> TokenizedTexts:
    rng = torch.Generator().manual_seed(seed)
    lengths = torch.randint(2, 10, (count,), generator=rng).tolist()
    ids = tuple(torch.randint(1, 100, (n,), generator=rng).tolist() for n in lengths)
    return TokenizedTexts(input_ids=ids, token_type_ids=None)


def probabilities(teacher: Supernet, texts: TokenizedTexts) -> torch.Tensor:
    with torch.no_grad():
        found = [teacher(**texts.batch([i])).logits.softmax(-1).max() for i in range(len(texts))]
    return torch.stack(found)


@pytest.fixture
def teacher(make_supernet: Callable[..., Any]) -> Supernet:
    return make_supernet(3).eval()  # type: ignore[no-any-return]


@pytest.mark.parametrize("quantile", [0.0, 0.3, 0.9])
def test_a_text_is_kept_from_that_probability_on(teacher: Supernet, quantile: float) -> None:
    texts, like = some(40, seed=1), some(11, seed=2)
    told: list[int] = []
    kept, least = confident(
        teacher, texts, like=like, quantile=quantile, engine=EXACT, progress=lambda *x: told.append(x[0]), batch_size=7
    )
    assert told == [7, 14, 21, 28, 35, 40]
    assert least == pytest.approx(probabilities(teacher, like).quantile(quantile).item(), rel=1e-5)
    assert kept == [i for i, x in enumerate(probabilities(teacher, texts).tolist()) if x >= least]


def test_of_the_task_s_own_texts_the_share_asked_for_is_left(teacher: Supernet) -> None:
    like = some(21, seed=3)
    for quantile, left in ((0.0, 0), (0.25, 5), (0.5, 10)):
        kept, _ = confident(teacher, like, like=like, quantile=quantile, engine=EXACT)
        assert len(like) - len(kept) == left, quantile


def test_without_texts(teacher: Supernet) -> None:
    nothing = TokenizedTexts(input_ids=(), token_type_ids=None)
    assert confident(teacher, nothing, like=some(3, seed=1), quantile=0.5)[0] == []
    with pytest.raises(ValueError, match="no text of the task"):
        confident(teacher, some(3, seed=1), like=nothing, quantile=0.5)
