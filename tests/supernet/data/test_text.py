from __future__ import annotations

import pytest

from supernet.data.rows import Row
from supernet.data.text import sentences
from supernet.errors import DataError


def cut(*texts: str, min_words: int = 2, max_words: int = 5, limit: int = 1000, seed: int = 1) -> list[str]:
    rows = [Row(texts=(text,)) for text in texts]
    return sentences(rows, min_words=min_words, max_words=max_words, limit=limit, seed=seed)


def test_texts_are_cut_at_the_ends_of_sentences() -> None:
    text = 'It was good.<br /><br />Was it?  "Yes it was!" she said. Version 1.5 is out\nNo. A last one'
    assert sorted(cut(text)) == [
        '"Yes it was!"',
        "A last one",
        "It was good.",
        "Version 1.5 is out",
        "Was it?",
        "she said.",
    ]


def test_long_sentences_are_cut_between_words() -> None:
    assert sorted(cut("a1 a2 a3 a4 a5 b1 b2 b3 b4 b5 c1")) == ["a1 a2 a3 a4 a5", "b1 b2 b3 b4 b5"]
    assert sorted(cut("é1 a2 a3 a4 a5 b1 b2")) == ["b1 b2", "é1 a2 a3 a4 a5"]


def test_scripts_without_spaces_have_words_too() -> None:
    assert sorted(cut("这部电影。很好看！")) == ["很好看！", "这部电影。"]
    assert sorted(cut("我们都喜欢这部很长的电影")) == sorted(["我们都喜欢", "这部很长的", "电影"])


def test_every_sentence_comes_once_in_an_order_of_the_seed() -> None:
    texts = [f"This is number {i}." for i in range(50)]
    found = cut(*texts, *(text.upper() for text in texts))
    assert sorted(found) == sorted(texts)
    assert found != texts
    assert cut(*texts) == found
    assert cut(*texts, limit=7) == found[:7]
    assert cut(*texts, seed=2) != found


def test_sentences_of_the_test_rows_are_left_out() -> None:
    rows = [Row(texts=("One is here. Two is there.", "Three is gone."))]
    test = [Row(texts=("Before it.  TWO is there.",), label="1")]
    found = sentences(rows, min_words=2, max_words=9, limit=9, seed=1, exclude=test)
    assert sorted(found) == ["One is here.", "Three is gone."]


def test_long_and_strange_texts_pass() -> None:
    assert len(cut("word and more. " * 7000)) == 1
    assert cut("x" * 100_000, "", "👍 👎") == ["👍 👎"]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"min_words": 0}, "1 <= min_words"),
        ({"min_words": 6}, "got 6 and 5"),
        ({"limit": 0}, "limit must be 1 or more"),
        ({"min_words": 4}, "no sentence of 4 to 5 words in 1 texts"),
    ],
)
def test_what_cannot_be_asked(changes: dict[str, int], message: str) -> None:
    with pytest.raises(DataError, match=message):
        cut("Too short.", **changes)
