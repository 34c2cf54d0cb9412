"""Tokens in a file are the tokens in memory."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.numpy import load_file

from supernet import token_cache
from supernet.batches import BatchOrder, TokenizedTexts, tokenize
from supernet.data.source import Source
from supernet.data.stream import TransferText
from supernet.data.text import sentences
from supernet.errors import CheckpointError
from supernet.ragged import Chained, Ragged
from supernet.token_cache import cached_tokens, tokenizer_fingerprint, transfer_tokens

WORDS = ("a", "good", "bad", "film", "films", "story")
Texts = list[tuple[str, ...]]


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import BertTokenizerFast

    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "good", "bad", "film", "##s", "story"]
    return BertTokenizerFast(vocab={word: i for i, word in enumerate(words)})


@pytest.fixture(scope="module", params=[1, 2])
def texts(request: pytest.FixtureRequest) -> Texts:
    rng = Random(0)
    return [tuple(" ".join(rng.choices(WORDS, k=rng.randint(0, 12))) for _ in range(request.param)) for _ in range(61)]


def cached(
    path: Path, tokenizer: Any, texts: Texts, *, fingerprint: str = "x", shuffled: bool = True
) -> TokenizedTexts:
    def rows() -> Iterator[tuple[int, tuple[str, ...]]]:
        order = list(range(len(texts)))
        if shuffled:
            Random(1).shuffle(order)
        return ((i, texts[i]) for i in order)

    return cached_tokens(path, tokenizer, rows, fingerprint=fingerprint, max_length=16)


def same(one: TokenizedTexts, other: TokenizedTexts) -> bool:
    if (one.token_type_ids is None) is not (other.token_type_ids is None):
        return False
    types = one.token_type_ids is None or list(one.token_type_ids) == list(other.token_type_ids or ())
    return types and list(one.input_ids) == list(other.input_ids) and one.pad_token_id == other.pad_token_id


@pytest.mark.parametrize("chunk", [2000, 7])
def test_a_file_is_as_good_as_memory(
    tmp_path: Path, tokenizer: Any, texts: Texts, monkeypatch: pytest.MonkeyPatch, chunk: int
) -> None:
    monkeypatch.setattr(token_cache, "_CHUNK", chunk)
    wanted = tokenize(tokenizer, texts, max_length=16)
    found = cached(tmp_path / "a.safetensors", tokenizer, texts)
    assert isinstance(found.input_ids, Ragged)
    assert same(found, wanted)
    assert len(found) == 61
    assert found.lengths == wanted.lengths == [len(x) for x in wanted.input_ids]
    rows = [60, 0, -61, 5, 5]
    for key, value in wanted.batch(rows).items():
        assert torch.equal(found.batch(rows)[key], value)
    assert same(found.take([3, 2, 9]), wanted.take([3, 2, 9]))
    assert isinstance(found.take([3]).input_ids, Ragged)
    assert [rows for rows, _ in found.in_order(8)] == [rows for rows, _ in wanted.in_order(8)]
    steps = [BatchOrder(x.lengths, batch_size=8, seed=2)[9] for x in (found, wanted)]
    assert steps[0] == steps[1]
    assert list(found.input_ids[4:9]) == list(wanted.input_ids[4:9])
    with pytest.raises(IndexError):
        found.input_ids[61]
    assert same(pickle.loads(pickle.dumps(found)), wanted), "a worker elsewhere gets the tokens themselves"


def test_what_is_joined(tmp_path: Path, tokenizer: Any, texts: Texts) -> None:
    """A file with a table in memory, with or without segments, is what two tables would be."""
    wanted = tokenize(tokenizer, texts, max_length=16)
    found = cached(tmp_path / "a.safetensors", tokenizer, texts)
    single = tokenize(tokenizer, [("a film",), ("good",)], max_length=16)
    for mine, plain in (
        (found + single, wanted + single),
        (single + found, single + wanted),
        (found + found, wanted + wanted),
    ):
        assert isinstance(mine.input_ids, Chained)
        assert isinstance(plain.input_ids, tuple)
        assert same(mine, plain)
        assert mine.lengths == plain.lengths
        rows = [0, len(mine) - 1, 3]
        assert all(torch.equal(mine.batch(rows)[key], value) for key, value in plain.batch(rows).items())
    assert same((found + single).take([61, 0]), (wanted + single).take([61, 0]))


def test_it_is_a_safetensors_file(tmp_path: Path, tokenizer: Any, texts: Texts) -> None:
    cached(tmp_path / "a.safetensors", tokenizer, texts)
    arrays = load_file(tmp_path / "a.safetensors")
    assert set(arrays) == {"ids", "starts", "counts"} | ({"types"} if len(texts[0]) == 2 else set())
    start, count = int(arrays["starts"][7]), int(arrays["counts"][7])
    assert arrays["ids"][start : start + count].tolist() == tokenize(tokenizer, texts, max_length=16).input_ids[7]


def test_it_is_written_once(tmp_path: Path, tokenizer: Any, texts: Texts) -> None:
    path = tmp_path / "deep" / "a.safetensors"
    cached(path, tokenizer, texts)
    before = path.stat().st_mtime_ns

    def never() -> Any:
        raise AssertionError("read again")

    cached_tokens(path, tokenizer, never, fingerprint="x", max_length=16)
    assert path.stat().st_mtime_ns == before
    for change in ({"fingerprint": "y", "max_length": 16}, {"fingerprint": "x", "max_length": 15}):
        with pytest.raises(AssertionError, match="read again"):
            cached_tokens(path, tokenizer, never, **change)  # type: ignore[arg-type]
    assert [x.name for x in path.parent.iterdir()] == ["a.safetensors"]
    cased = copy.deepcopy(tokenizer)
    cased.backend_tokenizer.normalizer = None
    assert tokenizer_fingerprint(cased) != tokenizer_fingerprint(tokenizer)
    cached(path, tokenizer, texts[::-1], fingerprint="y")
    assert list(cached(path, tokenizer, [], fingerprint="y").input_ids) == list(
        tokenize(tokenizer, texts[::-1], max_length=16).input_ids
    )


def test_a_damaged_or_unfinished_file_is_written_again(tmp_path: Path, tokenizer: Any, texts: Texts) -> None:
    path = tmp_path / "a.safetensors"
    cached(path, tokenizer, texts)
    wanted = tokenize(tokenizer, texts, max_length=16)
    content = path.read_bytes()
    for broken in (b"", b"\x00" * 8, content[:100], content[:4096], content[:-40], b"{" + content[1:]):
        path.unlink()
        path.write_bytes(broken)
        assert same(cached(path, tokenizer, texts), wanted)
        assert path.read_bytes() == content


def test_a_reader_that_fails_leaves_nothing(tmp_path: Path, tokenizer: Any) -> None:
    def broken() -> Iterator[tuple[int, tuple[str, ...]]]:
        yield 0, ("a",)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        cached_tokens(tmp_path / "a.safetensors", tokenizer, broken, fingerprint="x", max_length=16)
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    with pytest.raises(CheckpointError, match=r"cannot write .*Free some space or choose another"):
        cached(tmp_path / "file" / "a.safetensors", tokenizer, [("a",)])


def test_transfer_text(tmp_path: Path, tokenizer: Any) -> None:
    path = tmp_path / "text.txt"
    path.write_text("\n".join(f"a good film . {'bad ' * (i % 9)} story ." for i in range(40)))
    text = TransferText(source=Source(path=str(path)), min_words=2, limit=20, seed=3)
    folder = tmp_path / "tokens"
    found = transfer_tokens(folder, tokenizer, text, max_length=8)
    cut = sentences(text.rows(), min_words=2, max_words=40, limit=20, seed=3)
    assert same(found, tokenize(tokenizer, [(x,) for x in cut], max_length=8))
    files = list(folder.iterdir())
    assert same(transfer_tokens(folder, tokenizer, text, max_length=8), found)
    assert list(folder.iterdir()) == files
    path.write_text(path.read_text() + "\na bad bad film .")
    assert len(transfer_tokens(folder, tokenizer, text, max_length=8)) == len(found) + 1
    assert len(list(folder.iterdir())) == 2
