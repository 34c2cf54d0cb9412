"""Unlabelled text of any size as sentences: what `supernet.data.text.sentences` gives, without holding it in memory.

Sentences are sorted on disk, in runs that are merged, because which of them are taken and in which order depends on
all of them. What stays in memory is one run and eight bytes a sentence.
"""

from __future__ import annotations

import hashlib
import heapq
import json
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path
from random import Random

import numpy as np

from supernet.data.location import files_of, local_path
from supernet.data.rows import Row
from supernet.data.source import Source, iterate_rows
from supernet.data.text import check_words, excluded, nothing_left, pieces_of
from supernet.errors import DataError

# Raise it when sentences are cut another way, so that none cut before are taken for them.
SPLITTING = 1
_RUN_CHARACTERS = 16_000_000
_MOST_RUNS = 200
_HEADING = re.compile(r"\s*=.*=\s*")
_JOINED = re.compile(r" @([-,.])@ ")


@dataclass(frozen=True, kw_only=True)
class TransferText:
    """Text of the user's domain, and how it is cut: sentences of `min_words` to `max_words` words, each once, `limit`
    of them at most (None: all), in an order of `seed`.

    With `wikitext` headings are left out and WikiText's ` @-@ `, ` @,@ ` and ` @.@ ` become what they stand for.
    """

    source: Source
    min_words: int = 4
    max_words: int = 40
    limit: int | None = None
    seed: int = 1
    wikitext: bool = False

    def __post_init__(self) -> None:
        check_words(self.min_words, self.max_words, self.limit)
        if self.source.label is not None:
            raise DataError(f"transfer text has no labels, got the label column {self.source.label!r}; leave it out")

    def rows(self) -> Iterator[Row]:
        """The texts as they are read."""
        rows = iterate_rows(self.source)
        return _plain_wikitext(rows) if self.wikitext else rows

    def fingerprint(self) -> str:
        """Sha256 (hexadecimal) of the files' content and of how they are cut; a hub data set counts by its name."""
        source = self.source
        said: list[object] = [source.path, source.text, sorted(source.where.items()), source.split, source.subset]
        said += [source.header, source.skip_ragged]
        cut = [self.min_words, self.max_words, self.limit, self.seed, self.wikitext, SPLITTING]
        path = local_path(source.path)
        if path is not None:
            for file in files_of(path, source.split):
                with file.open("rb") as content:
                    said.append(hashlib.file_digest(content, "sha256").hexdigest())
            said[0] = ""  # the same text elsewhere is the same text
        return hashlib.sha256(json.dumps([said, cut]).encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Sentences:
    """What a stream gives: how many sentences, and each with its place among them, in the order they come in.

    Sorted by place they are what `supernet.data.text.sentences` returns.
    """

    count: int
    placed: Iterator[tuple[int, str]]


@contextmanager
def stream_sentences(text: TransferText, *, folder: Path, exclude: Iterable[Row] = ()) -> Iterator[Sentences]:
    """The sentences of the text, without those of the rows in `exclude`; runs are kept in `folder` meanwhile.

    Raises `DataError` where nothing is left.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".sentences-", dir=folder) as temporary:
        merged, count = _sort(text, excluded(exclude, text.max_words), Path(temporary))
        rng = Random(text.seed)
        draws = np.fromiter((rng.random() for _ in range(count)), dtype=np.float64, count=count)
        chosen = np.argsort(draws, kind="stable")[: text.limit]
        place = np.full(count, -1, dtype=np.int64)
        place[chosen] = np.arange(len(chosen))
        with merged.open(encoding="utf-8", newline="\n") as lines:
            placed = ((int(i), line.removesuffix("\n")) for i, line in zip(place, lines, strict=True) if i >= 0)
            yield Sentences(count=len(chosen), placed=placed)


def _sort(text: TransferText, seen: set[str], folder: Path) -> tuple[Path, int]:
    """A file of all sentences in the order of their keys, each once, one a line, and their number."""
    runs: list[Path] = []
    found: dict[str, str] = {}
    characters = texts = 0

    def finish(pieces: Iterable[str]) -> tuple[Path, int]:
        path = folder / f"{len(list(folder.iterdir()))}"
        count = 0
        with path.open("w", encoding="utf-8", newline="\n") as file:
            for count, piece in enumerate(pieces, 1):  # noqa: B007
                file.write(piece + "\n")
        return path, count

    def flush() -> None:
        nonlocal characters
        runs.append(finish(found[key] for key in sorted(found))[0])
        found.clear()
        characters = 0
        if len(runs) == _MOST_RUNS:  # as many files as are open at once
            merged = finish(_merged(runs))[0]
            for path in runs:
                path.write_bytes(b"")
            runs[:] = [merged]

    for row in text.rows():
        for one in row.texts:
            texts += 1
            for piece, words in pieces_of(one, text.max_words):
                if words >= text.min_words and (key := piece.casefold()) not in seen and key not in found:
                    found[key] = piece
                    characters += len(piece)
        if characters > _RUN_CHARACTERS:
            flush()
    flush()
    path, count = finish(_merged(runs))
    if not count:
        raise nothing_left(text.min_words, text.max_words, texts)
    return path, count


def _merged(runs: Sequence[Path]) -> Iterator[str]:
    """The pieces of sorted files in the order of their keys; of those with one key the first file's."""
    with ExitStack() as stack:
        files = [stack.enter_context(path.open(encoding="utf-8", newline="\n")) for path in runs]
        keyed = [((piece.casefold(), piece) for piece in _pieces(file)) for file in files]
        before: str | None = None
        for key, piece in heapq.merge(*keyed, key=itemgetter(0)):
            if key != before:
                yield piece
            before = key


def _pieces(lines: Iterable[str]) -> Iterator[str]:
    return (line.removesuffix("\n") for line in lines)


def _plain_wikitext(rows: Iterable[Row]) -> Iterator[Row]:
    for row in rows:
        kept = tuple(_JOINED.sub(r"\1", text) for text in row.texts if not _HEADING.fullmatch(text))
        if kept:
            yield Row(texts=kept)
