"""A trimmed vocabulary: the same pieces, the same rows, the same bits; other texts fall into smaller pieces."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from atb_export.dense import DenseModel, load_dense, save_dense
from atb_export.errors import ExportError
from atb_export.vocabulary import trim, trim_to
from supernet.batches import tokenize

Dense = Callable[..., DenseModel]
WORDS = ("good", "film", "films", "plot", "dull", "warm", "fine", "the", "is")
LETTERS = "abcdefghijklmnopqrstuvwxyz."
TEXTS = ("the film is good", "Dull plots.", "the warmest plot")


def wordpiece(*, shift: int = 0, **settings: Any) -> PreTrainedTokenizerFast:
    """Words, letters and parts of words; the special tokens stand after `shift` unused rows."""
    pieces = [f"[unused{i}]" for i in range(shift)] + ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    pieces += [*WORDS, "##s", "##est", *LETTERS, *(f"##{x}" for x in LETTERS if x != "s"), "fi", "##lm"]
    ids = {text: i for i, text in enumerate(pieces)}
    backend = Tokenizer(models.WordPiece(vocab=ids, unk_token="[UNK]"))
    backend.normalizer = normalizers.BertNormalizer(lowercase=True)
    backend.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    ends = [(x, ids[x]) for x in ("[CLS]", "[SEP]")]
    if settings.pop("bert", False):
        backend.post_processor = processors.BertProcessing(ends[1], ends[0])
    else:
        backend.post_processor = processors.TemplateProcessing(
            single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=ends
        )
    names = ("unk", "sep", "pad", "cls", "mask")
    return PreTrainedTokenizerFast(tokenizer_object=backend, **{f"{x}_token": f"[{x.upper()}]" for x in names})


@pytest.fixture
def dense(make_dense: Dense) -> DenseModel:
    return replace(make_dense(seed=7), tokenizer=wordpiece())


@torch.no_grad()
def logits(model: DenseModel, text: Any) -> Any:
    row = tokenize(model.tokenizer, [(text,) if isinstance(text, str) else text], max_length=48)
    return model.net(**row.batch([0])).logits


def test_texts_whose_tokens_are_kept_answer_the_same_bits(dense: DenseModel) -> None:
    small, kept = trim(dense, TEXTS)
    assert len(kept) == small.net.facts.vocab_size == len(small.tokenizer) < len(dense.tokenizer)
    assert {dense.tokenizer.convert_ids_to_tokens(x) for x in kept}.isdisjoint({"fine", "films", "fi", "##lm"})
    for text in (*TEXTS, "good film. the plots", "", "warm"):
        assert small.tokenizer.tokenize(text) == dense.tokenizer.tokenize(text)
        assert torch.equal(logits(small, text), logits(dense, text))


def test_the_rows_are_the_old_ones(dense: DenseModel) -> None:
    small, kept = trim(dense, TEXTS)
    assert list(kept) == sorted(set(kept))
    assert torch.equal(small.net.word_embeddings.weight, dense.net.word_embeddings.weight[list(kept)])
    old, new = dense.tokenizer(list(TEXTS))["input_ids"], small.tokenizer(list(TEXTS))["input_ids"]
    assert [[kept[x] for x in row] for row in new] == old


def test_other_texts_fall_into_shorter_pieces(dense: DenseModel) -> None:
    small = trim(dense, TEXTS).dense
    assert dense.tokenizer.tokenize("fine films") == ["fine", "films"]
    assert small.tokenizer.tokenize("fine films") == ["f", "##i", "##n", "##e", "film", "##s"]
    assert small.tokenizer.tokenize("映画 fine") == ["[UNK]", "[UNK]", *small.tokenizer.tokenize("fine")]
    assert torch.isfinite(logits(small, "fine films 映画")).all()


@pytest.mark.parametrize("bert", [False, True])
def test_special_tokens_move_wherever_they_are_named(make_dense: Dense, bert: bool) -> None:
    """Padding and [CLS] have other ids afterwards, in the facts, the post-processor and the settings."""
    model = replace(make_dense(seed=7), tokenizer=wordpiece(shift=9, bert=bert))
    model = replace(model, net=type(model.net)(shape=model.net.shape, facts=replace(model.net.facts, pad_token_id=9)))
    small, kept = trim(model, TEXTS)
    assert (kept[0], small.net.facts.pad_token_id, small.tokenizer.pad_token_id) == (9, 0, 0)
    both = tokenize(small.tokenizer, [(x,) for x in TEXTS], max_length=48)
    assert {row[0] for row in both.input_ids} == {small.tokenizer.cls_token_id} == {2}
    assert {row[-1] for row in both.input_ids} == {3}
    assert both.pad_token_id == 0
    pair = ("the film", "dull")
    assert torch.equal(logits(small, pair), logits(model, pair))


def test_it_is_read_back_from_disk(dense: DenseModel, tmp_path: Path) -> None:
    small = trim(dense, TEXTS).dense
    save_dense(small, tmp_path / "model")
    read = load_dense(tmp_path / "model")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "model")
    plain = Tokenizer.from_file(str(tmp_path / "model" / "tokenizer.json"))
    for text in (*TEXTS, "fine films 映画"):
        assert torch.equal(logits(read, text), logits(small, text))
        ids = small.tokenizer(text)["input_ids"]
        assert ids == tokenizer(text)["input_ids"] == plain.encode(text).ids
    assert len(tokenizer) == json.loads((tmp_path / "model" / "config.json").read_text())["vocab_size"]


def test_rare_tokens_may_go_too(dense: DenseModel) -> None:
    every, frequent = trim(dense, TEXTS), trim(dense, TEXTS, least=2)
    assert set(frequent.kept_ids) < set(every.kept_ids)
    assert frequent.dense.tokenizer.tokenize("plots good") == ["plot", "##s", "g", "##o", "##o", "##d"]
    assert torch.equal(logits(frequent.dense, "the plot"), logits(dense, "the plot"))


def test_trimming_twice_changes_nothing(dense: DenseModel) -> None:
    once = trim(dense, TEXTS)
    again = trim(once.dense, TEXTS)
    assert again.kept_ids == tuple(range(len(once.kept_ids)))


def test_another_kind_of_tokenizer_is_named(dense: DenseModel) -> None:
    backend = Tokenizer(models.BPE(vocab={"a": 0, "b": 1, "ab": 2}, merges=[("a", "b")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel()
    model = replace(dense, tokenizer=PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="a"))
    with pytest.raises(ExportError, match=r"tokenizer is byte-level BPE.*only WordPiece"):
        trim(model, ["ab"])


def test_what_cannot_be_trimmed_to_is_told(dense: DenseModel) -> None:
    with pytest.raises(ExportError, match="none are given"):
        trim(dense, [])
    with pytest.raises(ExportError, match="least times, which is 1 or more, got 0"):
        trim(dense, TEXTS, least=0)
    with pytest.raises(ExportError, match="token id 200 is outside of the table"):
        trim_to(dense, [200])
    with pytest.raises(ExportError, match="either every text is a pair or none is"):
        trim(dense, ["a", ("a", "b")])
