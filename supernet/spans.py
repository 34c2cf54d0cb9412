"""Questions as overlapping windows of tokens, and the answers that logits over them give (Devlin et al. 2019)."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from supernet.batches import TokenizedTexts
from supernet.data.squad import Question
from supernet.errors import DataError
from supernet.losses import hard_span
from supernet.model import Supernet
from supernet.ragged import Ragged
from supernet.space import SubnetConfig
from supernet.training import autocast_type

LABELS = ("start", "end")
"""Of the two logits of every token."""

_QUESTIONS = 500  # tokenised at a time


@dataclass(frozen=True, kw_only=True, eq=False)
class SpanFeatures:
    """Windows: question and a part of its context each, in the order of the questions.

    `question` [windows] is the place of each one's question; `spans` [windows, 2] int64 the first and last token of the
    (first) true answer, (0, 0) where the window does not hold it; `offsets` per window int32 [tokens, 2], the first
    character and the one after the last in the context, -1 for tokens outside of it; none where not asked for.
    """

    texts: TokenizedTexts
    question: NDArray[np.int64]
    spans: Tensor
    offsets: tuple[NDArray[np.int32], ...]

    def __len__(self) -> int:
        return len(self.texts)


def span_features(
    tokenizer: Any,
    questions: Sequence[Question],
    *,
    max_length: int = 384,
    doc_stride: int = 128,
    max_question: int = 64,
    offsets: bool = True,
) -> SpanFeatures:
    """Every question in as many windows of `max_length` tokens as its context needs.

    `doc_stride` is how many tokens of the context two neighbouring windows share, as in the examples of
    `transformers`; questions are cut after `max_question` tokens. Raises `DataError` where a window has no room left
    that is larger than the overlap.
    """
    if not questions:
        raise DataError("windows need questions, got none")
    special = tokenizer.num_special_tokens_to_add(pair=True)
    room = max_length - max_question - special
    if doc_stride < 0 or max_question < 1 or room <= doc_stride:
        raise DataError(
            f"a window of max_length = {max_length} tokens has {room} left for the context beside a question of "
            f"max_question = {max_question} and {special} special tokens: more than doc_stride = {doc_stride} are "
            "needed. Raise max_length or lower doc_stride"
        )
    has_types = "token_type_ids" in tokenizer.model_input_names
    ids: list[NDArray[np.int32]] = []
    types: list[NDArray[np.int32]] = []
    places: list[NDArray[np.int32]] = []
    owner: list[int] = []
    spans: list[tuple[int, int]] = []
    numbered = iter(enumerate(questions))
    while some := list(islice(numbered, _QUESTIONS)):
        encoded = tokenizer(
            _cut_questions(tokenizer, [x.question for _, x in some], max_question),
            [x.context for _, x in some],
            truncation="only_second",
            max_length=max_length,
            stride=doc_stride,
            return_overflowing_tokens=True,
            return_offsets_mapping=True,
            return_attention_mask=False,
            return_token_type_ids=has_types,
        )
        for i, of in enumerate(encoded["overflow_to_sample_mapping"]):
            number, question = some[of]
            chars = np.array(encoded["offset_mapping"][i], dtype=np.int32).reshape(-1, 2)
            chars[[x != 1 for x in encoded.sequence_ids(i)]] = -1
            ids.append(np.array(encoded["input_ids"][i], dtype=np.int32))
            if has_types:
                types.append(np.array(encoded["token_type_ids"][i], dtype=np.int32))
            owner.append(number)
            spans.append(_span(chars, question))
            if offsets:
                places.append(chars)
    texts = TokenizedTexts(
        input_ids=_ragged(ids),
        token_type_ids=_ragged(types) if has_types else None,
        pad_token_id=int(tokenizer.pad_token_id or 0),
    )
    return SpanFeatures(
        texts=texts,
        question=np.array(owner, dtype=np.int64),
        spans=torch.tensor(spans, dtype=torch.int64),
        offsets=tuple(places),
    )


def _ragged(rows: Sequence[NDArray[np.int32]]) -> Ragged:
    """One array of them all: lists of a hundred thousand windows would take gigabytes."""
    counts = np.array([len(x) for x in rows], dtype=np.int32)
    return Ragged(np.concatenate(rows), np.cumsum(counts, dtype=np.int64) - counts, counts)


def _cut_questions(tokenizer: Any, texts: Sequence[str], tokens: int) -> list[str]:
    """The questions as text, each cut after so many tokens."""
    encoded = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, return_attention_mask=False)
    return [
        text if len(places) <= tokens else text[: places[tokens - 1][1]]
        for text, places in zip(texts, encoded["offset_mapping"], strict=True)
    ]


def _span(chars: NDArray[np.int32], question: Question) -> tuple[int, int]:
    """First and last token of the first answer, or (0, 0) where the window does not hold all of it."""
    if question.is_impossible:
        return 0, 0
    answer = question.answers[0]
    inside = np.flatnonzero((chars[:, 1] > answer.start) & (chars[:, 0] < answer.end) & (chars[:, 0] >= 0))
    if not len(inside) or chars[inside[0], 0] > answer.start or chars[inside[-1], 1] < answer.end:
        return 0, 0
    return int(inside[0]), int(inside[-1])


@torch.no_grad()
def span_logits(
    model: Supernet, texts: TokenizedTexts, *, subnet: SubnetConfig | None = None, batch_size: int = 32
) -> list[NDArray[np.float32]]:
    """For each window the logits [tokens, 2] of starting and ending an answer, without padding."""
    dtype = autocast_type()
    found: list[NDArray[np.float32]] = [np.zeros((0, 2), dtype=np.float32)] * len(texts)
    with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
        for rows, batch in texts.in_order(batch_size):
            logits = model(**batch, subnet=subnet).logits.float().cpu().numpy()
            for row, answer, count in zip(rows, logits, batch["attention_mask"].sum(1).tolist(), strict=True):
                found[row] = answer[:count].copy()
    return found


def loss_and_exact(lengths: Sequence[int]) -> Callable[[Tensor, Tensor], dict[str, float]]:
    """What `supernet.watch` tells of windows with so many tokens: from float logits [windows, S, 2] and int64 spans
    [windows, 2] the loss, and the share of windows whose start and end are both the likeliest."""

    def judge(logits: Tensor, spans: Tensor) -> dict[str, float]:
        mask = (torch.arange(logits.shape[1])[None] < torch.tensor(lengths)[:, None]).long()
        best = logits.masked_fill(mask[..., None] == 0, -math.inf).argmax(1)
        exact = (best == spans).all(1).float().mean().item()
        return {"loss": hard_span(logits, spans, mask).item(), "exact": exact}

    return judge


@dataclass(frozen=True, kw_only=True)
class SpanAnswer:
    """What a model answers: `text`, empty for no answer; `best` the likeliest texts with their probability, no answer
    among them where that was allowed; `null_margin` by how much no answer beats the best text."""

    text: str
    best: tuple[tuple[str, float], ...]
    null_margin: float


def decode_spans(
    features: SpanFeatures,
    logits: Sequence[NDArray[np.float32]],
    questions: Sequence[Question],
    *,
    n_best: int = 20,
    max_answer: int = 30,
    allow_null: bool | None = None,
    null_threshold: float = 0.0,
) -> dict[str, SpanAnswer]:
    """The answer to every question by its id.

    Of each window the `n_best` starts and ends are paired where they are of the context, in order and at most
    `max_answer` tokens long; the best sum over all windows wins. With `allow_null` (by default where some question is
    impossible) the answer is none where the first token's sum, least over the windows, beats it by more than
    `null_threshold`.
    """
    if len(logits) != len(features) or len(features.offsets) != len(features):
        raise DataError(
            f"answers need logits and offsets for each of {len(features)} windows, got {len(logits)} and "
            f"{len(features.offsets)}"
        )
    nulls = any(x.is_impossible for x in questions) if allow_null is None else allow_null
    windows: list[list[int]] = [[] for _ in questions]
    for i, owner in enumerate(features.question.tolist()):
        windows[owner].append(i)
    found = {}
    for question, mine in zip(questions, windows, strict=True):
        null = min((float(logits[i][0].sum()) for i in mine), default=0.0)
        scored: dict[str, float] = {}
        for i in mine:
            for first, last, score in _pairs(logits[i], features.offsets[i], n_best, max_answer):
                text = question.context[first:last]
                scored[text] = max(score, scored.get(text, -math.inf))
        best = sorted(scored.items(), key=lambda x: -x[1])[:n_best]
        margin = null - best[0][1] if best else math.inf
        text = best[0][0] if best and not (nulls and margin > null_threshold) else ""
        listed = sorted([*best, ("", null)], key=lambda x: -x[1]) if nulls else best
        found[question.id] = SpanAnswer(text=text, best=_probabilities(listed), null_margin=margin)
    return found


def _pairs(
    logits: NDArray[np.float32], offsets: NDArray[np.int32], n_best: int, max_answer: int
) -> Iterator[tuple[int, int, float]]:
    """First character, the one after the last, and score of the window's likeliest answers."""
    inside = np.flatnonzero(offsets[:, 0] >= 0)
    starts, ends = (inside[np.argsort(-logits[inside, k], kind="stable")[:n_best]] for k in (0, 1))
    length = ends[None, :] - starts[:, None] + 1
    for a, b in zip(*np.nonzero((length >= 1) & (length <= max_answer)), strict=True):
        start, end = starts[a], ends[b]
        yield int(offsets[start, 0]), int(offsets[end, 1]), float(logits[start, 0] + logits[end, 1])


def _probabilities(scored: Sequence[tuple[str, float]]) -> tuple[tuple[str, float], ...]:
    if not scored:
        return ()
    top = max(score for _, score in scored)
    total = sum(math.exp(score - top) for _, score in scored)
    return tuple((text, math.exp(score - top) / total) for text, score in scored)
