"""Texts an export is verified on: the user's, ours of several lengths, scripts and oddities, and adversarial ones."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

from atb_export.verify import probe_texts
from supernet.batches import TokenizedTexts

_SENTENCES = (
    "",
    "good",
    "A quiet film.",
    "the plot is thin , but the actors make every scene worth watching .",
    "I did not like it; nobody I know did, and the second half is worse than the first.",
    "Über alles: naïve, café, jalapeño, 100 % - \u201cquoted\u201d \u2014 and done!",
    "這部電影很好看。 映画は楽しかった。",
    "فيلم رائع جدا",
    "🎬🍿 loved it!!! 😍",
    "x" * 300,
    "If you have two hours to spare and nothing better to do, this is a decent way of spending them, as long as you "
    "bring no hopes, no questions about the plot, and above all no memory of the book it claims to be made from.",
    " ".join(f"word{i}" for i in range(400)),
)


def probe_sentences(given: Sequence[str]) -> tuple[str, ...]:
    """The user's sentences and ours."""
    return (*given, *_SENTENCES)


def adversarial(texts: TokenizedTexts, *, length: int) -> TokenizedTexts:
    """Rows of one token, two, one less than `length`, and exactly `length`: what an engine of that length must bear.

    They are cut from an endless repetition of the longest text.
    """
    source = max(range(len(texts)), key=lambda i: len(texts.input_ids[i]))
    counts = sorted({1, min(2, length), max(1, length - 1), length})

    def rows(values: Sequence[int]) -> tuple[list[int], ...]:
        return tuple(list(islice(cycle(values), n)) for n in counts)

    types = texts.token_type_ids
    return replace(
        texts,
        input_ids=rows(texts.input_ids[source]),
        token_type_ids=None if types is None else rows(types[source]),
    )


def engine_probes(texts: TokenizedTexts, *, length: int) -> TokenizedTexts:
    """All texts, cut to `length`, and the adversarial ones, short and long by turns so that every batch mixes them."""
    found = probe_texts(texts, length=length, count=len(texts)) + adversarial(texts, length=length)
    order = sorted(range(len(found)), key=lambda i: len(found.input_ids[i]))
    mixed = [order.pop(0 if i % 2 else -1) for i in range(len(order))]
    return found.take(mixed)
