"""Sentences every export is verified on when the user gives none: several lengths, scripts and oddities."""

from __future__ import annotations

from collections.abc import Sequence

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
