"""From text to labels with the engines of a bundle; needs neither torch nor transformers."""

from __future__ import annotations

import importlib
from bisect import bisect_left
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self, TypeAlias, TypedDict, overload

import numpy as np
from numpy.typing import NDArray

from runtime.engine import Engine, backend
from runtime.errors import AtbRuntimeError, BackendUnavailable, BundleError, UnsupportedTarget
from runtime.manifest import Bundle, EngineEntry, ModelFacts, read_bundle

Text: TypeAlias = str | tuple[str, str]
"""One text, or a pair of texts as a tuple."""


_INPUTS = ("input_ids", "attention_mask", "token_type_ids")
_PADS = ("[PAD]", "<pad>")  # of BERT's and of RoBERTa's vocabularies
_CHUNK = 1024  # texts that are tokenised at once: enough to fill batches, few enough to keep in memory


class Score(TypedDict):
    """A label and its probability; for regression the quantity's name and its value."""

    label: str
    score: float


@dataclass(frozen=True)
class _Row:
    """A tokenised text: its place in the answer, its ids and its segments, without padding."""

    place: int
    ids: list[int]
    types: list[int]


class Classifier:
    """`classifier("text")`, `classifier(("text", "other text"))`, or a list of either for a list of answers.

    Each text goes to the shortest engine that holds it, padded to its length; a dynamic engine takes it as it is.
    Texts longer than the longest are cut, the longest of a pair first. One thread at a time may use it.
    """

    def __init__(self, *, engines: Sequence[Engine], tokenizer: Any, model: ModelFacts) -> None:
        """Takes over `engines`, one for each length, and sets the padding and truncation of `tokenizer`."""
        self.engines = tuple(sorted(engines, key=lambda x: x.target.shape.length))
        self.model = model
        self._lengths = [x.target.shape.length for x in self.engines]
        if not self._lengths or len(set(self._lengths)) < len(self._lengths):
            raise UnsupportedTarget(f"one engine for each length is needed, got lengths {self._lengths}")
        length = min(self._lengths[-1], model.max_length)
        if length <= (special := tokenizer.num_special_tokens_to_add(True)):
            raise UnsupportedTarget(
                f"no pair of texts fits into {length} tokens: {special} are special; ask for a longer engine"
            )
        for engine in self.engines:
            if unknown := [x.name for x in engine.inputs if x.name not in _INPUTS]:
                raise UnsupportedTarget(f"the engine takes {', '.join(unknown)}; texts give only {', '.join(_INPUTS)}")
        self._names = [[x.name for x in engine.inputs] for engine in self.engines]
        self._pad_id = _pad_id(tokenizer)
        tokenizer.no_padding()  # rows are padded here, once their lengths have said for which engine
        tokenizer.enable_truncation(length, strategy="longest_first")
        self._tokenizer = tokenizer

    @property
    def engine(self) -> Engine:
        """The one that takes the longest texts."""
        return self.engines[-1]

    @classmethod
    def from_bundle(cls, path: str | Path, engine: str | None = None) -> Classifier:
        """Checks the bundle and loads engines of it that differ in length only, by default the first that run here.

        `engine` is a backend's name or an `EngineTarget.group`, for all lengths of it, or a target's label, for that
        engine alone. Raises `BundleError`, `BackendUnavailable` or `UnsupportedTarget`.
        """
        bundle = read_bundle(Path(path))
        tokenizers = importlib.import_module("tokenizers")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(bundle.tokenizer))
        except Exception as error:
            raise BundleError(f"{bundle.tokenizer} is not a tokenizer: {error}") from error
        with ExitStack() as stack:
            opened = [
                stack.enter_context(backend(x.target.backend).load(bundle.artifact(x), x.target))
                for x in _choose(bundle, engine)
            ]
            made = cls(engines=opened, tokenizer=tokenizer, model=bundle.manifest.model)
            stack.pop_all()
            return made

    @overload
    def __call__(self, texts: Text) -> list[Score]: ...

    @overload
    def __call__(self, texts: list[Text] | list[str] | list[tuple[str, str]]) -> list[list[Score]]: ...

    def __call__(self, texts: Text | list[Text] | list[str] | list[tuple[str, str]]) -> list[Score] | list[list[Score]]:
        """Scores of every label, best first. Raises `TypeError` for what is not text."""
        if isinstance(texts, list):
            return [self._scores(row) for row in self.logits(texts)]
        return self._scores(self.logits([texts])[0])

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """The model's raw answers, float32 [texts, labels], in the order of the texts."""
        cleaned = [clean(text) for text in texts]
        answers = np.empty((len(cleaned), len(self.model.labels)), np.float32)
        waiting: list[list[_Row]] = [[] for _ in self.engines]
        for start in range(0, len(cleaned), _CHUNK):
            for row in self._rows(cleaned[start : start + _CHUNK], start):
                waiting[bisect_left(self._lengths, len(row.ids))].append(row)
            for at, rows in enumerate(waiting):
                rows.sort(key=lambda row: len(row.ids))  # those of one batch of a dynamic engine are alike
                size = self.engines[at].target.shape.batch
                while len(rows) >= size:
                    self._answer(at, rows[:size], answers)
                    del rows[:size]
        self._join(waiting)
        for at, rows in enumerate(waiting):
            if rows:
                self._answer(at, rows, answers)
        return answers

    def _rows(self, texts: list[Text], start: int) -> list[_Row]:
        found = self._tokenizer.encode_batch_fast(texts)  # without places in the text, which nobody asks for
        return [_Row(start + i, row.ids, row.type_ids) for i, row in enumerate(found)]

    def _join(self, waiting: list[list[_Row]]) -> None:
        """Moves what is left of a bucket into a longer one whose last batch, run anyway, has room for all of it."""
        for at, rows in enumerate(waiting):
            for longer in range(at + 1, len(waiting)):
                target = self.engines[longer].target
                room = target.shape.batch - len(waiting[longer])
                if rows and waiting[longer] and len(rows) <= room and not target.dynamic:
                    waiting[longer] += rows
                    rows.clear()

    def _answer(self, at: int, rows: list[_Row], answers: NDArray[np.float32]) -> None:
        """Writes the answers of up to one batch; a static engine's is filled with the last row."""
        engine = self.engines[at]
        dims = engine.target.shape.dims
        if engine.target.dynamic:
            dims = len(rows), max(1, *(len(row.ids) for row in rows))
        feeds = {name: np.zeros(dims, np.int64) for name in self._names[at]}
        ids, mask, types = (feeds.get(name) for name in _INPUTS)
        if ids is not None:
            ids.fill(self._pad_id)
        for i, row in enumerate(rows):
            count = len(row.ids)
            if ids is not None:
                ids[i, :count] = row.ids
            if mask is not None:
                mask[i, :count] = 1
            if types is not None:
                types[i, :count] = row.types
        for array in feeds.values():
            array[len(rows) :] = array[len(rows) - 1]
        logits = engine.infer(feeds)["logits"]
        if logits.shape != (dims[0], len(self.model.labels)):
            raise AtbRuntimeError(
                f"the engine answers {logits.shape}, the bundle names {len(self.model.labels)} labels"
            )
        answers[[row.place for row in rows]] = logits[: len(rows)]

    def _scores(self, logits: NDArray[np.float32]) -> list[Score]:
        values = logits.astype(np.float64)
        if self.model.task == "classification":
            values = np.exp(values - values.max())
            values /= values.sum()
        pairs = [Score(label=x, score=float(v)) for x, v in zip(self.model.labels, values, strict=True)]
        return sorted(pairs, key=lambda pair: -pair["score"])

    def close(self) -> None:
        """Closes the engines; may be called twice."""
        for engine in self.engines:
            engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _choose(bundle: Bundle, wanted: str | None) -> tuple[EngineEntry, ...]:
    """The engine of that label, or the lengths of that group or backend; among several the first that can run here."""
    entries = bundle.manifest.engines
    choices = {x.target.label: (x,) for x in entries if wanted == x.target.label} or bundle.manifest.groups()
    fitting = {name: of for name, of in choices.items() if wanted in (None, name, of[0].target.backend)}
    if not fitting:
        have = ", ".join(x.target.label for x in entries) or "none"
        raise UnsupportedTarget(f"the bundle has no engine {wanted or ''}; it has {have}")
    reasons = {}
    for name, found in fitting.items():
        reason = backend(found[0].target.backend).can_run()
        if reason is None:
            return found
        reasons[name] = reason
    raise BackendUnavailable("; ".join(f"{name}: {reason}" for name, reason in reasons.items()))


def _pad_id(tokenizer: Any) -> int:
    """The id that rows are filled up with; which one matters to no answer, but it must be in the vocabulary."""
    if tokenizer.padding is not None:
        return int(tokenizer.padding["pad_id"])
    for name in _PADS:
        if (found := tokenizer.token_to_id(name)) is not None:
            return int(found)
    raise BundleError(f"the tokenizer has no padding section and no token {' or '.join(_PADS)}")


def clean(text: object) -> Text:
    """The text or pair itself, with lone surrogates (half an emoji, as broken JSON carries them) replaced."""
    if isinstance(text, tuple) and len(text) == 2:
        first, second = text
        return _clean_one(first), _clean_one(second)
    return _clean_one(text)


def _clean_one(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a text is a str, and a pair a tuple of two; got {type(text).__name__}")
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
