"""Unlabelled sentences to distil on, cut out of longer texts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from random import Random

from supernet.data.rows import Row
from supernet.errors import DataError

_BREAK = re.compile(r"<\s*(?:br|p)\s*/?\s*>|</\s*p\s*>", re.IGNORECASE)
# Ends of sentences: Latin, Arabic, Hindi ones before white space; those of scripts without spaces anywhere.
_STOP = r"[.!?\u2026\u061f\u06d4\u0964]"
_CLOSING = r"[\"'\u201d\u2019\u00bb)\]]"
_END = re.compile(rf"(?<={_STOP})\s+|(?<={_STOP}{_CLOSING})\s+|(?<=[\u3002\uff01\uff1f])|[\r\n]+")
# Characters that are words of their own, as BERT's tokenizer takes them: kana and Chinese ones.
_IDEOGRAPHS = r"\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_IDEOGRAPHS}]|[^\s{_IDEOGRAPHS}]+")


def sentences(
    rows: Iterable[Row],
    *,
    min_words: int,
    max_words: int,
    limit: int,
    seed: int,
    exclude: Iterable[Row] = (),
) -> list[str]:
    """Sentences of `min_words` to `max_words` words, each once, shuffled by `seed`; `limit` of them at most.

    Longer ones are cut after `max_words`. Text of the rows in `exclude` (those that accuracy is reported on)
    is left out. Raises `DataError` where nothing is left.
    """
    check_words(min_words, max_words, limit)
    seen = excluded(exclude, max_words)
    found: dict[str, str] = {}
    count = 0
    for row in rows:
        for text in row.texts:
            count += 1
            for piece, words in pieces_of(text, max_words):
                if words >= min_words and (key := piece.casefold()) not in seen:
                    found.setdefault(key, piece)
    if not found:
        raise nothing_left(min_words, max_words, count)
    rng = Random(seed)
    ordered = sorted(((rng.random(), found[key]) for key in sorted(found)), key=lambda pair: pair[0])
    return [sentence for _, sentence in ordered[:limit]]


def check_words(min_words: int, max_words: int, limit: int | None) -> None:
    """Raises `DataError` where these bounds let no sentence through."""
    if not 1 <= min_words <= max_words:
        raise DataError(f"words of a sentence: 1 <= min_words <= max_words, got {min_words} and {max_words}")
    if limit is not None and limit < 1:
        raise DataError(f"limit must be 1 or more sentences, got {limit}")


def excluded(rows: Iterable[Row], max_words: int) -> set[str]:
    """The keys (case-folded) of the texts and sentences of these rows."""
    rows = list(rows)
    seen = {text for row in rows for text in row.key}
    return seen | {p.casefold() for row in rows for text in row.texts for p, _ in pieces_of(text, max_words)}


def nothing_left(min_words: int, max_words: int, texts: int) -> DataError:
    """What to raise where no sentence is left of so many texts."""
    return DataError(
        f"no sentence of {min_words} to {max_words} words in {texts} texts; lower min_words or name another text column"
    )


def pieces_of(text: str, max_words: int) -> Iterator[tuple[str, int]]:
    """The sentences of a text and their words, white space made single; longer ones are cut between words."""
    for sentence in _END.split(_BREAK.sub("\n", text)):
        spaced = sentence.split()
        flat = " ".join(spaced)
        if flat.isascii() and len(spaced) <= max_words:
            if spaced:
                yield flat, len(spaced)
            continue
        words = list(_WORD.finditer(flat))
        for i in range(0, len(words), max_words):
            piece = words[i : i + max_words]
            yield flat[piece[0].start() : piece[-1].end()], len(piece)
