"""What a benchmark feeds: made-up tokens that fill a shape, or real texts, one after the other."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
from numpy.typing import NDArray

from atb_export.bench.errors import BenchError
from runtime.classifier import Text
from runtime.engine import Engine, EngineBase, Feeds
from runtime.target import EngineTarget, Shape
from runtime.tensors import TensorSpec

SAMPLE = 256
"""As many texts of a file are one pass of Offline; SingleStream and Server draw from the same."""


def feeds_of(engine: Engine) -> dict[str, NDArray[np.int64]]:
    """Arrays of the target's shape. All positions are real tokens: a model's time does not depend on which ones."""
    dims = engine.target.shape.dims
    ids = (np.arange(dims[0] * dims[1]).reshape(dims) % 97 + 1).astype(np.int64)
    values = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    return {x.name: values.get(x.name, np.zeros_like(ids)) for x in engine.inputs}


def read_texts(path: Path, *, rng: Random, most: int = SAMPLE) -> list[Text]:
    """A text per line, or two with a tab between; at most `most` of them, drawn by `rng`. Raises `BenchError`."""
    try:
        lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]
    except (OSError, UnicodeDecodeError) as error:
        raise BenchError(f"{path} is no file of texts in UTF-8: {error}") from error
    if not lines:
        raise BenchError(f"{path} holds no text: one text per line is wanted, or two with a tab between")
    rows: list[Text] = []
    for line in rng.sample(lines, min(most, len(lines))):
        first, *rest = line.split("\t")
        if len(rest) > 1 or bool(rest) != ("\t" in lines[0]):
            raise BenchError(
                f"{path} mixes lines of one text and of more: {line[:60]!r}; all have one, or all have two"
            )
        rows.append((first, rest[0]) if rest else first)
    return rows


def shortest_first(texts: Sequence[Text]) -> list[Text]:
    """For Offline, where all are there at once: texts of like length share a batch."""
    return sorted(texts, key=lambda x: len(x) if isinstance(x, str) else len(x[0]) + len(x[1]))


class TextEngine(EngineBase):
    """Anything that answers lists of texts; each `infer` takes the next `target.shape.batch` of them."""

    inputs: tuple[TensorSpec, ...] = ()

    def __init__(
        self,
        answer: Callable[[list[Text]], Any],
        *,
        texts: Sequence[Text],
        target: EngineTarget,
        effective_precision: str,
        close: Callable[[], None] = lambda: None,
    ) -> None:
        self.target = target
        self.effective_precision = effective_precision
        self.answer = answer
        self._texts = list(texts)
        self._next = 0
        self._close = close

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Takes no arrays: the texts were given at the start."""
        count = self.target.shape.batch
        chosen = [self._texts[(self._next + i) % len(self._texts)] for i in range(count)]
        self._next = (self._next + count) % len(self._texts)
        self.answer(chosen)
        return {}

    def close(self) -> None:
        """Closes what answers; may be called twice."""
        self._close()


def padded(encodings: Sequence[Any], shape: Shape) -> dict[str, NDArray[np.int64]]:
    """Encodings of `tokenizers` as int64 [batch, length] arrays; rows that are missing repeat the last."""
    arrays = {x: np.zeros(shape.dims, np.int64) for x in ("input_ids", "attention_mask", "token_type_ids")}
    for row in range(shape.batch):
        encoding = encodings[min(row, len(encodings) - 1)]
        n = len(encoding.ids)
        arrays["input_ids"][row, :n] = encoding.ids
        arrays["attention_mask"][row, :n] = 1
        arrays["token_type_ids"][row, :n] = encoding.type_ids
    return arrays
