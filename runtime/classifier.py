"""From text to labels with an engine of a bundle; needs neither torch nor transformers."""

from __future__ import annotations

import importlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self, TypeAlias, TypedDict, overload

import numpy as np
from numpy.typing import NDArray

from runtime.engine import Engine, backend
from runtime.errors import AtbRuntimeError, BackendUnavailable, BundleError, UnsupportedTarget
from runtime.manifest import Bundle, EngineEntry, ModelFacts, read_bundle

Text: TypeAlias = str | tuple[str, str]
"""One text, or a pair of texts as a tuple."""


class Score(TypedDict):
    """A label and its probability; for regression the quantity's name and its value."""

    label: str
    score: float


class Classifier:
    """`classifier("text")`, `classifier(("text", "other text"))`, or a list of either for a list of answers.

    Texts longer than the engine's length are cut, the longest of a pair first. One thread at a time may
    use it.
    """

    def __init__(self, *, engine: Engine, tokenizer: Any, model: ModelFacts) -> None:
        """Takes over `engine`, and sets the padding and truncation of `tokenizer`."""
        self.engine = engine
        self.model = model
        shape = engine.target.shape
        pad = tokenizer.padding or {}
        pad_id = pad.get("pad_id", tokenizer.token_to_id("[PAD]"))
        if pad_id is None:
            raise BundleError("the tokenizer has no padding and no [PAD] token")
        length = min(shape.length, model.max_length)
        if length <= (special := tokenizer.num_special_tokens_to_add(True)):
            raise UnsupportedTarget(
                f"no pair of texts fits into {length} tokens: {special} are special; ask for a longer engine"
            )
        tokenizer.enable_truncation(length, strategy="longest_first")
        tokenizer.enable_padding(
            length=shape.length, pad_id=pad_id, pad_type_id=0, pad_token=pad.get("pad_token", "[PAD]")
        )
        self._tokenizer = tokenizer
        known = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}
        if unknown := [x.name for x in engine.inputs if x.name not in known]:
            raise UnsupportedTarget(f"the engine takes {', '.join(unknown)}; texts give only {', '.join(known)}")
        self._sources = [(x.name, known[x.name]) for x in engine.inputs]

    @classmethod
    def from_bundle(cls, path: str | Path, engine: str | None = None) -> Classifier:
        """Checks the bundle and loads one engine of it, by default the first that runs here.

        `engine` is a target's label or a backend's name. Raises `BundleError`, `BackendUnavailable` or
        `UnsupportedTarget`.
        """
        bundle = read_bundle(Path(path))
        tokenizers = importlib.import_module("tokenizers")
        try:
            tokenizer = tokenizers.Tokenizer.from_file(str(bundle.tokenizer))
        except Exception as error:
            raise BundleError(f"{bundle.tokenizer} is not a tokenizer: {error}") from error
        entry = _choose(bundle, engine)
        opened = backend(entry.target.backend).load(bundle.artifact(entry), entry.target)
        return cls(engine=opened, tokenizer=tokenizer, model=bundle.manifest.model)

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
        """The model's raw answers, float32 [texts, labels]; the last batch is filled with its last text."""
        rows = [_clean(text) for text in texts]
        size = self.engine.target.shape.batch
        parts = [np.empty((0, len(self.model.labels)), np.float32)]
        for start in range(0, len(rows), size):
            chunk = rows[start : start + size]
            filled = chunk + chunk[-1:] * (size - len(chunk))
            encoded = self._tokenizer.encode_batch(filled)
            feeds = {
                name: np.array([getattr(row, source) for row in encoded], dtype=np.int64)
                for name, source in self._sources
            }
            logits = self.engine.infer(feeds)["logits"]
            if logits.shape != (size, len(self.model.labels)):
                raise AtbRuntimeError(
                    f"the engine answers {logits.shape}, the bundle names {len(self.model.labels)} labels"
                )
            parts.append(logits[: len(chunk)])
        return np.concatenate(parts)

    def _scores(self, logits: NDArray[np.float32]) -> list[Score]:
        values = logits.astype(np.float64)
        if self.model.task == "classification":
            values = np.exp(values - values.max())
            values /= values.sum()
        pairs = [Score(label=x, score=float(v)) for x, v in zip(self.model.labels, values, strict=True)]
        return sorted(pairs, key=lambda pair: -pair["score"])

    def close(self) -> None:
        """Closes the engine; may be called twice."""
        self.engine.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _choose(bundle: Bundle, wanted: str | None) -> EngineEntry:
    """The engine of that label or backend, else the first; among several the first that can run here."""
    entries = bundle.manifest.engines
    fitting = [x for x in entries if wanted in (None, x.target.label, x.target.backend)]
    if not fitting:
        have = ", ".join(x.target.label for x in entries) or "none"
        raise UnsupportedTarget(f"the bundle has no engine {wanted or ''}; it has {have}")
    reasons = {}
    for entry in fitting:
        reason = backend(entry.target.backend).can_run()
        if reason is None:
            return entry
        reasons[entry.target.label] = reason
    raise BackendUnavailable("; ".join(f"{label}: {reason}" for label, reason in reasons.items()))


def _clean(text: object) -> Text:
    """The text or pair itself, with lone surrogates (half an emoji, as broken JSON carries them) replaced."""
    if isinstance(text, tuple) and len(text) == 2:
        first, second = text
        return _clean_one(first), _clean_one(second)
    return _clean_one(text)


def _clean_one(text: object) -> str:
    if not isinstance(text, str):
        raise TypeError(f"a text is a str, and a pair a tuple of two; got {type(text).__name__}")
    return text if text.isascii() else text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
