"""New rows from a row's own words: which change, into what, and that nothing else does."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional
from transformers import AutoConfig, AutoModel, AutoModelForMaskedLM

from supernet.augmentation import (
    AugmentPlan,
    LikelyWords,
    NearestWords,
    Vocabulary,
    Word,
    augment,
    augmented_tokens,
    candidates_of,
)
from supernet.batches import tokenize
from supernet.errors import TeacherError
from supernet.teacher import load_mlm

PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[unused0]", "un", "##warm", "##s", ".", ",", "'"]
WORDS = ("film", "plot", "story", "warm", "cold", "good", "bad", "the", "is", "very", "42")
PLAN = AugmentPlan(variants=5, candidates=4, seed=3)


@pytest.fixture(scope="module")
def tokenizer() -> Any:
    from transformers import BertTokenizerFast

    return BertTokenizerFast(vocab={word: i for i, word in enumerate([*PIECES, *WORDS])})


@pytest.fixture(scope="module")
def vocabulary(tokenizer: Any) -> Vocabulary:
    return Vocabulary(tokenizer)


@pytest.fixture(scope="module")
def table() -> Tensor:
    return torch.randn(len(PIECES) + len(WORDS), 8, generator=torch.Generator().manual_seed(0))


class Fixed:
    """Candidates by word."""

    def __init__(self, *words: str) -> None:
        self.words = list(words)
        self.asked: list[int] = []

    def __call__(self, input_ids: Sequence[int], types: Sequence[int] | None, words: Sequence[Word]) -> list[list[str]]:
        self.asked += [word.piece for word in words]
        return [self.words for _ in words]


def made(
    vocabulary: Vocabulary, rows: list[tuple[str, ...]], plan: AugmentPlan = PLAN, source: Any = None
) -> list[Any]:
    return list(augment(rows, vocabulary, source or Fixed("x", "y", "z"), plan, max_length=32))


def test_whole_words_of_letters_and_digits(vocabulary: Vocabulary) -> None:
    assert tuple(vocabulary.words.values()) == ("un", *WORDS)


def test_words_of_other_vocabularies() -> None:
    from transformers import RobertaTokenizer

    pieces = [
        "<s>",
        "<pad>",
        "</s>",
        "<unk>",
        "\u0120",
        "g",
        "o",
        "d",
        "\u0120g",
        "\u0120go",
        "od",
        "\u0120good",
        "<mask>",
    ]
    merges = [("\u0120", "g"), ("\u0120g", "o"), ("o", "d"), ("\u0120go", "od")]
    found = Vocabulary(RobertaTokenizer(vocab={x: i for i, x in enumerate(pieces)}, merges=merges))
    assert tuple(found.words.values()) == ("g", "go", "good")
    _, _, words = found.split(("g  good!",), 16)
    assert [(word.start, word.end) for word in words] == [(0, 1), (3, 7)]


def test_only_words_change_and_all_else_stays(vocabulary: Vocabulary) -> None:
    row = ("The  Film; plot,\tun-warm.", "It is VERY 42!")
    found = made(vocabulary, [row], AugmentPlan(variants=200, probability=1.0, seed=1))
    marks = [[c for c in text if not c.isalnum()] for text in row]
    for variant in found:
        assert [[c for c in text if not c.isalnum()] for text in variant] == marks
        words = "".join(c if c.isalnum() else " " for text in variant for c in f"{text} ").split()
        assert all(word in "xyz" for word in words)
    assert len(found) == len(set(found)) == 200


def test_words_of_several_pieces_and_contractions_stay(vocabulary: Vocabulary, tokenizer: Any) -> None:
    source = Fixed("x")
    found = made(vocabulary, [("unwarms film's plot",)], AugmentPlan(variants=9, probability=1.0), source)
    assert found == [("unwarms film's x",)]
    assert source.asked == [tokenizer.convert_tokens_to_ids("plot")]


def test_each_word_is_replaced_with_the_probability(vocabulary: Vocabulary) -> None:
    row = " ".join(Random(0).choices(WORDS, k=25))
    found = made(vocabulary, [(row,)] * 8, AugmentPlan(variants=20, probability=0.4))
    changed = [sum(a != b for a, b in zip(row.split(), text.split(), strict=True)) for (text,) in found]
    assert len(found) == 160
    assert sum(changed) / (25 * 160) == pytest.approx(0.4, abs=0.03)


def test_variants_follow_from_seed_and_row_alone(vocabulary: Vocabulary) -> None:
    rows = [("the film is good",), ("the plot is bad",), ("the story is very warm",)]
    found = made(vocabulary, rows)
    assert found == made(vocabulary, rows)
    assert found[:5] == made(vocabulary, rows[:1])
    assert found[5:10] == made(vocabulary, [("another row",), rows[1]])[5:]
    assert found != made(vocabulary, rows, AugmentPlan(variants=5, candidates=4, seed=4))
    assert not set(found) & set(rows)


def test_rows_that_allow_no_more(vocabulary: Vocabulary) -> None:
    plan = AugmentPlan(variants=50, probability=0.9)
    assert sorted(made(vocabulary, [("...",), ("",), ("film.",)], plan)) == [("x.",), ("y.",), ("z.",)]
    assert made(vocabulary, [("...",), ("",)], plan) == []


def test_what_is_cut_off_stays(vocabulary: Vocabulary) -> None:
    plan = AugmentPlan(variants=3, probability=1.0)
    found = list(augment([("film " * 10,)], vocabulary, Fixed("x"), plan, max_length=6))
    assert found == [("x " * 4 + "film " * 6,)]


def test_nearest_by_cosine(vocabulary: Vocabulary, table: Tensor, tokenizer: Any) -> None:
    near = NearestWords(table * torch.rand(len(table), 1, generator=torch.Generator().manual_seed(1)), vocabulary, 4)
    unit = functional.normalize(table, dim=-1)
    film = tokenizer.convert_tokens_to_ids("film")
    likeness = {word: float(unit[i] @ unit[film]) for i, word in vocabulary.words.items() if i != film}
    assert near.of(film) == sorted(likeness, key=lambda x: -likeness[x])[:4]
    assert near.of(tokenizer.convert_tokens_to_ids("##s")) == []


def folder_of(path: Path, tokenizer: Any, kind: Any) -> Path:
    torch.manual_seed(0)
    sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
    settings = {"vocab_size": len(PIECES) + len(WORDS), "max_position_embeddings": 32, "initializer_range": 0.5} | sizes
    kind.from_config(AutoConfig.for_model("bert", **settings)).save_pretrained(path)
    tokenizer.save_pretrained(path)
    return path


def test_a_teacher_s_masked_language_model_is_asked(tmp_path: Path, tokenizer: Any, vocabulary: Vocabulary) -> None:
    assert load_mlm(str(folder_of(tmp_path / "encoder", tokenizer, AutoModel))) is None
    mlm = load_mlm(str(folder_of(tmp_path / "mlm", tokenizer, AutoModelForMaskedLM)))
    source = candidates_of(None, tokenizer, PLAN, mlm=mlm)
    assert isinstance(source, LikelyWords)
    texts = ("the film is unwarms .", "good plot")
    ids, types, words = vocabulary.split(texts, 32)
    found = source(ids, types, words)
    place = ids.index(tokenizer.convert_tokens_to_ids("film"))
    masked = torch.tensor([ids])
    masked[0, place] = tokenizer.mask_token_id
    assert mlm is not None
    with torch.no_grad():
        logits = mlm(input_ids=masked, token_type_ids=torch.tensor([types])).logits[0, place]
    likely = sorted((i for i in vocabulary.words if i != ids[place]), key=lambda i: -float(logits[i]))[:4]
    assert found[1] == [vocabulary.words[i] for i in likely]
    assert len(words) == len(found) == 5
    assert all(word not in found[i] for i, word in ((0, "the"), (1, "film"), (3, "good")))


def test_without_one_its_word_table_is(tmp_path: Path, tokenizer: Any) -> None:
    model = AutoModel.from_pretrained(folder_of(tmp_path, tokenizer, AutoModel))
    assert isinstance(candidates_of(model, tokenizer, PLAN), NearestWords)


def test_tokens_are_made_once(tmp_path: Path, tokenizer: Any, vocabulary: Vocabulary) -> None:
    rows = [("the film is good",), ("unwarms plot",)]
    calls = []

    def source() -> Fixed:
        calls.append(1)
        return Fixed("bad", "42")

    def tokens(teacher: str = "a", plan: AugmentPlan = PLAN) -> Any:
        return augmented_tokens(tmp_path, tokenizer, rows, source, plan, teacher=teacher, max_length=16)

    first, again = tokens(), tokens()
    assert list(first.input_ids) == list(again.input_ids)
    assert len(calls) == 1
    wanted = tokenize(tokenizer, made(vocabulary, rows, source=Fixed("bad", "42")), max_length=16)
    assert list(first.input_ids) == list(wanted.input_ids)
    tokens(teacher="b")
    tokens(plan=AugmentPlan(variants=2))
    assert len(calls) == 3


def test_it_is_streamed(vocabulary: Vocabulary) -> None:
    def endless() -> Iterator[tuple[str, ...]]:
        while True:
            yield ("the film is good",)

    stream = augment(endless(), vocabulary, Fixed("x", "y"), PLAN, max_length=16)
    assert len([next(stream) for _ in range(23)]) == 23


def test_what_cannot_be_augmented(tmp_path: Path, tokenizer: Any, table: Tensor) -> None:
    with pytest.raises(ValueError, match="0 < probability <= 1"):
        AugmentPlan(probability=0)
    with pytest.raises(ValueError, match="variants"):
        AugmentPlan(variants=0)
    with pytest.raises(TeacherError, match="no row has a word that can be replaced"):
        augmented_tokens(tmp_path, tokenizer, [("...",)], Fixed, PLAN, teacher="a", max_length=16)
    from transformers import BertTokenizerFast

    bare = Vocabulary(
        BertTokenizerFast(vocab={x: i for i, x in enumerate(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"])})
    )
    with pytest.raises(TeacherError, match="less than two whole words"):
        NearestWords(table, bare, 4)
