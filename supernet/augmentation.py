"""New rows from a task's own, words replaced by likely ones (TinyBERT, Jiao et al. 2020, algorithm 1).

Every word of one piece is replaced with one probability by one of its candidates: the masked language model's likeliest
words in its place, where the teacher has one, else the words whose vectors lie nearest to its own in the teacher's word
table. They are whole words of the vocabulary, never special tokens, punctuation, or the word itself. New rows have no
label: the teacher gives it.

Left as they are: words of several pieces, whose neighbours TinyBERT takes from GloVe, which no teacher carries (those
of the mean of their pieces' vectors are another word's: "austere" is near to "australia"), and what touches an
apostrophe, for the parts of a contraction are no words.

A row's variants follow from (seed, row number) and the row itself alone.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from random import Random
from typing import Any, Protocol

import torch
from torch import Tensor
from torch.nn import functional

from supernet.batches import TokenizedTexts
from supernet.errors import TeacherError
from supernet.token_cache import cached_tokens

# Raise it when rows are changed another way, so that none made before are taken for them.
MAKING = 1
_BLOCK = 256  # words of the vocabulary whose neighbours are found at once
_APOSTROPHES = {"'", "\u2019"}
_TRIES = 4  # draws for each variant, so that short texts do not repeat themselves


@dataclass(frozen=True, kw_only=True)
class AugmentPlan:
    """`variants` of each row, each word replaced with `probability` by one of its `candidates`."""

    variants: int = 20
    probability: float = 0.4
    candidates: int = 15
    seed: int = 1

    def __post_init__(self) -> None:
        if self.variants < 1 or self.candidates < 1 or not 0 < self.probability <= 1:
            raise ValueError(f"an augmentation has variants, candidates >= 1 and 0 < probability <= 1, got {self}")


@dataclass(frozen=True, kw_only=True)
class Word:
    """A word of one piece: characters `start` to `end` of the text `segment` of its row, and its place and number among
    the row's tokens, special ones included."""

    segment: int
    start: int
    end: int
    token: int
    piece: int


class Candidates(Protocol):
    """Where replacements come from."""

    def __call__(self, input_ids: Sequence[int], types: Sequence[int] | None, words: Sequence[Word]) -> list[list[str]]:
        """The candidates of each word of a row, best first; `input_ids` are the row's with special tokens."""
        ...


class Vocabulary:
    """The whole words of a tokenizer's vocabulary: what can stand alone between two spaces."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        entries = {i: piece for piece, i in tokenizer.backend_tokenizer.get_vocab(with_added_tokens=True).items()}
        special = {*tokenizer.all_special_tokens, *tokenizer.get_added_vocab()}
        plain = {i: piece for i, piece in entries.items() if piece not in special}
        lead = next((x for x in ("\u0120", "\u2581") if any(piece.startswith(x) for piece in plain.values())), "")
        # Byte-level BPE and SentencePiece mark the beginning of a word, WordPiece what continues one.
        named = {i: piece[len(lead) :] for i, piece in plain.items() if piece.startswith(lead)}
        self.words = {i: word for i, word in sorted(named.items()) if word.isalnum()}

    @cached_property
    def ids(self) -> Tensor:
        """Int64 [words], ascending."""
        return torch.tensor(list(self.words))

    def at_most(self, count: int) -> int:
        """So many candidates, or all other words; raises `TeacherError` where there is no other."""
        if len(self.words) < 2:
            raise TeacherError(
                "the teacher's vocabulary has less than two whole words of letters and digits, so no word can replace "
                "another: leave the augmentation out"
            )
        return min(count, len(self.words) - 1)

    def split(self, texts: tuple[str, ...], max_length: int) -> tuple[list[int], list[int] | None, list[Word]]:
        """A row's ids, segments (if it has any) and the words that can be replaced, cut to `max_length` tokens."""
        has_types = len(texts) == 2 and "token_type_ids" in self.tokenizer.model_input_names
        encoded = self.tokenizer(
            *texts,
            truncation=True,
            max_length=max_length,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=has_types,
        )
        ids: list[int] = encoded["input_ids"]
        owners = list(zip(encoded.sequence_ids(0), encoded.word_ids(0), strict=True))
        pieces = Counter(owners)
        words = [
            Word(segment=owner[0], start=start, end=end, token=token, piece=ids[token])
            for token, (owner, (start, end)) in enumerate(zip(owners, encoded["offset_mapping"], strict=True))
            if owner[0] is not None and pieces[owner] == 1 and _is_word(texts[owner[0]], start, end)
        ]
        return ids, encoded["token_type_ids"] if has_types else None, words


def _is_word(text: str, start: int, end: int) -> bool:
    """Whether these characters are letters and digits that touch no apostrophe."""
    return text[start:end].isalnum() and not {text[max(0, start - 1) : start], text[end : end + 1]} & _APOSTROPHES


class NearestWords:
    """The words whose vectors have the greatest cosine with a word's own."""

    def __init__(self, table: Tensor, vocabulary: Vocabulary, count: int) -> None:
        """`table` [V, N] is the teacher's, in any floating type."""
        self.vocabulary = vocabulary
        self.count = vocabulary.at_most(count)
        self._vectors = functional.normalize(table.detach().float(), dim=-1)[vocabulary.ids]
        self._place = {int(i): place for place, i in enumerate(vocabulary.ids)}
        self._near = lru_cache(maxsize=None)(self._block)

    @torch.no_grad()
    def _block(self, block: int) -> Tensor:
        """For so many words of the vocabulary at once, so that who asks first does not change an answer's last bits."""
        rows = slice(block * _BLOCK, (block + 1) * _BLOCK)
        likeness = self._vectors[rows] @ self._vectors.T
        own = torch.arange(len(likeness))
        likeness[own, own + rows.start] = -2.0
        return self.vocabulary.ids[likeness.topk(self.count, dim=-1).indices]

    def of(self, piece: int) -> list[str]:
        """The nearest words of a piece, best first; none where it is no whole word."""
        place = self._place.get(piece)
        if place is None:
            return []
        return [self.vocabulary.words[i] for i in self._near(place // _BLOCK)[place % _BLOCK].tolist()]

    def __call__(self, input_ids: Sequence[int], types: Sequence[int] | None, words: Sequence[Word]) -> list[list[str]]:
        """Of each word, wherever it stands."""
        return [self.of(word.piece) for word in words]


class LikelyWords:
    """What a masked language model puts in a word's place."""

    def __init__(self, model: Any, vocabulary: Vocabulary, count: int) -> None:
        """`model` is a masked language model of `transformers`."""
        self.model, self.vocabulary = model.eval(), vocabulary
        self.count = vocabulary.at_most(count)
        self.mask = vocabulary.tokenizer.mask_token_id
        if self.mask is None:
            raise TeacherError("the teacher has a masked language model, but its tokenizer names no mask token")

    @torch.no_grad()
    def __call__(self, input_ids: Sequence[int], types: Sequence[int] | None, words: Sequence[Word]) -> list[list[str]]:
        """One batch a row, without padding: the row once for each of its words."""
        each, places = torch.arange(len(words)), torch.tensor([word.token for word in words])
        ids = torch.tensor([list(input_ids)] * len(words))
        own = ids[each, places]
        ids[each, places] = self.mask
        batch = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        if types is not None:
            batch["token_type_ids"] = torch.tensor([list(types)] * len(words))
        logits = self.model(**batch).logits[each, places].float()
        logits[each, own] = -torch.inf
        best = logits[:, self.vocabulary.ids].topk(self.count, dim=-1).indices
        return [[self.vocabulary.words[i] for i in row] for row in self.vocabulary.ids[best].tolist()]


def candidates_of(model: Any, tokenizer: Any, plan: AugmentPlan, *, mlm: Any | None = None) -> Candidates:
    """Those of a teacher: of `mlm` (`supernet.teacher.load_mlm`) where it has one, else of `model`'s word table."""
    vocabulary = Vocabulary(tokenizer)
    if mlm is not None:
        return LikelyWords(mlm, vocabulary, plan.candidates)
    return NearestWords(model.get_input_embeddings().weight, vocabulary, plan.candidates)


def augment(
    rows: Iterable[tuple[str, ...]],
    vocabulary: Vocabulary,
    candidates: Candidates,
    plan: AugmentPlan,
    *,
    max_length: int,
) -> Iterator[tuple[str, ...]]:
    """`plan.variants` new rows of each row of one or two texts, in the order of the rows; not the rows themselves.

    Words beyond `max_length` tokens stay as they are. A row has fewer variants where its words allow no more, and none
    without a word that can be replaced.
    """
    for number, texts in enumerate(rows):
        ids, types, words = vocabulary.split(texts, max_length)
        choices = candidates(ids, types, words) if words else []
        open_words = [(word, found) for word, found in zip(words, choices, strict=True) if found]
        if not open_words:
            continue
        rng = Random(f"{plan.seed}-augment-{number}")
        seen = {texts}
        for _ in range(plan.variants):
            for _ in range(_TRIES):
                variant = _replaced(texts, open_words, plan.probability, rng)
                if variant not in seen:
                    seen.add(variant)
                    yield variant
                    break


def _replaced(
    texts: tuple[str, ...], words: Sequence[tuple[Word, list[str]]], probability: float, rng: Random
) -> tuple[str, ...]:
    parts: list[list[str]] = [[] for _ in texts]
    ends = [0] * len(texts)
    for word, found in words:
        if rng.random() >= probability:
            continue
        parts[word.segment] += [texts[word.segment][ends[word.segment] : word.start], rng.choice(found)]
        ends[word.segment] = word.end
    return tuple("".join([*part, text[end:]]) for part, text, end in zip(parts, texts, ends, strict=True))


def augmented_tokens(
    folder: Path,
    tokenizer: Any,
    rows: Sequence[tuple[str, ...]],
    candidates: Callable[[], Candidates],
    plan: AugmentPlan,
    *,
    teacher: str,
    max_length: int,
) -> TokenizedTexts:
    """The variants of all rows as tokens, in a file in `folder` that is named after what it holds.

    `candidates` is called only where the file has to be written; `teacher` names its weights (a sha256).
    """
    said = [list(map(list, rows)), asdict(plan), teacher, max_length, MAKING]
    name = hashlib.sha256(json.dumps(said).encode()).hexdigest()

    def made() -> Iterator[tuple[int, tuple[str, ...]]]:
        return enumerate(augment(rows, Vocabulary(tokenizer), candidates(), plan, max_length=max_length))

    path = folder / f"augmented-{name[:16]}.safetensors"
    found = cached_tokens(path, tokenizer, made, fingerprint=name, max_length=max_length)
    if not len(found):
        raise TeacherError("no row has a word that can be replaced, so there are no augmented rows; leave them out")
    return found
