from __future__ import annotations

import copy
import os
import subprocess
import sys
from collections import Counter
from random import Random
from typing import Any

import pytest
import torch
from transformers import RobertaTokenizer

from supernet.batches import BatchOrder, TokenizedTexts, tokenize

SINGLE = TokenizedTexts(input_ids=([2, 5, 3], [2, 3], [2, 6, 7, 8, 3]), pad_token_id=9)
PAIRS = TokenizedTexts(
    input_ids=([2, 5, 3, 6, 3], [2, 3, 3]), token_type_ids=([0, 0, 0, 1, 1], [0, 0, 1]), pad_token_id=9
)


def lengths(count: int) -> list[int]:
    rng = Random(1)
    return [rng.randint(2, 40) for _ in range(count)]


@pytest.mark.parametrize(("rows", "size", "pool"), [(97, 8, 50), (97, 8, 3), (16, 8, 1), (1, 8, 50), (5, 1, 2)])
def test_every_row_once_per_epoch(rows: int, size: int, pool: int) -> None:
    order = BatchOrder(lengths(rows), batch_size=size, seed=3, pool=pool)
    assert order.per_epoch == -(-rows // size)
    for epoch in range(3):
        batches = [order[epoch * order.per_epoch + i] for i in range(order.per_epoch)]
        assert Counter(row for batch in batches for row in batch) == Counter(range(rows))
        assert sorted(len(batch) for batch in batches)[1:] == [size] * (order.per_epoch - 1)


def test_order_follows_from_seed_and_step_alone() -> None:
    """Steps asked for backwards, or again, or of a fresh object: a resumed run needs only its step."""
    first, second = (BatchOrder(lengths(97), batch_size=8, seed=3) for _ in range(2))
    steps = range(3 * first.per_epoch)
    forwards = [first[i] for i in steps]
    assert [second[i] for i in reversed(steps)] == forwards[::-1]
    assert [first[i] for i in steps] == forwards
    other = BatchOrder(lengths(97), batch_size=8, seed=4)
    assert [other[i] for i in steps] != forwards
    n = first.per_epoch
    assert forwards[:n] != forwards[n : 2 * n] != forwards[2 * n :]


def test_order_is_the_same_in_another_process() -> None:
    code = (
        "from supernet.batches import BatchOrder; from random import Random; rng = Random(1);"
        "order = BatchOrder([rng.randint(2, 40) for _ in range(97)], batch_size=8, seed=3);"
        "print([order[i] for i in range(30)])"
    )
    here = BatchOrder(lengths(97), batch_size=8, seed=3)
    environment = os.environ | {"PYTHONHASHSEED": "12345"}
    there = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    assert there.stdout.strip() == str([here[i] for i in range(30)])


def test_batches_group_texts_of_like_length_but_come_in_mixed_order() -> None:
    sizes = lengths(400)
    order = BatchOrder(sizes, batch_size=8, seed=3, pool=50)
    batches = [[sizes[row] for row in order[i]] for i in range(50)]
    assert sum(max(batch) * 8 for batch in batches) < 1.05 * sum(sizes)
    assert [max(batch) for batch in batches] != sorted(max(batch) for batch in batches)


def test_no_rows_are_refused() -> None:
    with pytest.raises(ValueError, match="no rows"):
        BatchOrder([], batch_size=8, seed=3)


def test_padding() -> None:
    batch = SINGLE.batch([1, 2])
    assert batch["input_ids"].tolist() == [[2, 3, 9, 9, 9], [2, 6, 7, 8, 3]]
    assert batch["attention_mask"].tolist() == [[1, 1, 0, 0, 0], [1, 1, 1, 1, 1]]
    assert "token_type_ids" not in batch
    paired = PAIRS.batch([1, 0])
    assert paired["input_ids"].tolist() == [[2, 3, 3, 9, 9], [2, 5, 3, 6, 3]]
    assert paired["token_type_ids"].tolist() == [[0, 0, 1, 0, 0], [0, 0, 0, 1, 1]]
    assert all(x.dtype == torch.int64 for part in (batch, paired) for x in part.values())


def test_a_token_that_looks_like_padding_is_not_masked() -> None:
    assert TokenizedTexts(input_ids=([9, 1],), pad_token_id=9).batch([0])["attention_mask"].tolist() == [[1, 1]]


@pytest.mark.parametrize(("length", "ids"), [(7, [2, 6, 7, 8, 3, 9, 9]), (5, [2, 6, 7, 8, 3]), (4, [2, 6, 7, 8])])
def test_a_given_length_pads_or_cuts(length: int, ids: list[int]) -> None:
    batch = SINGLE.batch([2], length=length)
    assert batch["input_ids"].tolist() == [ids]
    assert batch["attention_mask"].sum() == min(5, length)


def test_in_order_gives_all_rows_once_shortest_first() -> None:
    found = list(SINGLE.in_order(2))
    assert [rows for rows, _ in found] == [[1, 0], [2]]
    for rows, batch in found:
        for row, ids, mask in zip(rows, batch["input_ids"], batch["attention_mask"], strict=True):
            assert ids[mask.bool()].tolist() == SINGLE.input_ids[row]


def test_joined_texts() -> None:
    both = SINGLE + SINGLE
    assert len(both) == 6
    assert both.token_type_ids is None
    for mixed, order in ((SINGLE + PAIRS, (SINGLE, PAIRS)), (PAIRS + SINGLE, (PAIRS, SINGLE))):
        assert mixed.input_ids == order[0].input_ids + order[1].input_ids
        assert mixed.token_type_ids is not None
        assert [len(ids) for ids in mixed.token_type_ids] == [len(ids) for ids in mixed.input_ids]
        assert mixed.pad_token_id == 9
        start = mixed.input_ids.index(PAIRS.input_ids[0])
        assert mixed.batch([start])["token_type_ids"].tolist() == [[0, 0, 0, 1, 1]]
        start = mixed.input_ids.index(SINGLE.input_ids[2])
        assert mixed.batch([start])["token_type_ids"].sum() == 0


@pytest.fixture(scope="module")
def tokenizer() -> object:
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "##s"]
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})


def test_tokenizing_one_segment(tokenizer: object) -> None:
    texts = tokenize(tokenizer, [("a good film",), ("films",), ("good " * 9,)], max_length=6)
    assert texts.input_ids[:2] == ([2, 5, 6, 8, 3], [2, 8, 9, 3])
    assert texts.input_ids[2] == [2, 6, 6, 6, 6, 3]
    assert texts.token_type_ids is None
    assert texts.pad_token_id == 0


def test_tokenizing_pairs_cuts_the_longer_segment(tokenizer: object) -> None:
    texts = tokenize(tokenizer, [("a", "bad film"), ("good " * 9, "bad film")], max_length=8)
    assert texts.input_ids == ([2, 5, 3, 7, 8, 3], [2, 6, 6, 6, 3, 7, 8, 3])
    assert texts.token_type_ids == ([0, 0, 0, 1, 1, 1], [0, 0, 0, 0, 0, 1, 1, 1])


def test_pairs_for_models_that_take_no_token_types(tokenizer: Any) -> None:
    tokenizer = copy.deepcopy(tokenizer)
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    texts = tokenize(tokenizer, [("a", "bad film")], max_length=8)
    assert texts.input_ids == ([2, 5, 3, 7, 8, 3],)
    assert texts.token_type_ids is None


def test_texts_are_padded_with_the_tokenizer_s_own_token() -> None:
    """RoBERTa's is 1, and 0 begins a text."""
    words = ["<s>", "<pad>", "</s>", "<unk>", "a", "b", "<mask>"]
    roberta = RobertaTokenizer(vocab={word: i for i, word in enumerate(words)}, merges=[])
    texts = tokenize(roberta, [("abab",), ("a",)], max_length=8)
    assert texts.pad_token_id == 1
    assert texts.batch([0, 1])["input_ids"].tolist() == [[0, 4, 5, 4, 5, 2], [0, 4, 2, 1, 1, 1]]
