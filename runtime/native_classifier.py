"""`runtime.Classifier`: from text to labels in native code, with the answers of `runtime.classifier.Classifier`."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self, TypeVar, overload

import numpy as np
from numpy.typing import NDArray

from runtime.classifier import Score, Text, clean
from runtime.errors import BackendUnavailable

if TYPE_CHECKING:
    from runtime import _native

T = TypeVar("T")


class Classifier:
    """`classifier("text")`, `classifier(("text", "other text"))`, or a list of either for a list of answers.

    Each text goes to the shortest engine that holds it; longer ones than the longest are cut, the longest of a pair
    first. Any number of threads may use it: one text is answered on the thread that asks, lists by all workers.
    """

    def __init__(self, native: _native.Classifier) -> None:
        self._native = native

    @classmethod
    def from_bundle(
        cls,
        path: str | Path,
        engine: str | None = None,
        *,
        workers: int = 0,
        batches: Sequence[int] = (8,),
    ) -> Classifier:
        """Checks the bundle and loads engines of it that differ in length only, by default the first that run here.

        `engine` is a backend's name or an `EngineTarget.group`, for all lengths of it, or a target's label, for that
        engine alone. Lists are answered by `workers` threads, by default one for each core that may be used, and in
        `batches` of so many rows where they answer the same bits faster. Raises `BundleError`, `BackendUnavailable` or
        `UnsupportedTarget`.
        """
        return cls(native_module().Classifier.load(os.fspath(path), engine or "", workers, list(batches)))

    @property
    def labels(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return tuple(self._native.labels)

    @property
    def max_length(self) -> int:
        """Tokens; longer texts are cut."""
        return self._native.max_length

    @overload
    def __call__(self, texts: Text) -> list[Score]: ...

    @overload
    def __call__(self, texts: list[Text] | list[str] | list[tuple[str, str]]) -> list[list[Score]]: ...

    def __call__(self, texts: Text | list[Text] | list[str] | list[tuple[str, str]]) -> list[Score] | list[list[Score]]:
        """Scores of every label, best first. Raises `TypeError` for what is not text."""
        if isinstance(texts, list):
            return _with_clean(self._native.scores, texts)
        return _with_clean(self._native.scores, (texts,))[0]

    def logits(self, texts: Sequence[Text]) -> NDArray[np.float32]:
        """The model's raw answers, float32 [texts, labels], in the order of the texts."""
        return _with_clean(self._native.logits, texts)

    def close(self) -> None:
        """Ends the workers and frees the engines; may be called twice."""
        self._native.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


def _with_clean(ask: Callable[[Any], T], texts: Sequence[Any]) -> T:
    """Lone surrogates are rare: who meets one asks again with all of them replaced."""
    try:
        return ask(texts)
    except UnicodeEncodeError:
        return ask([clean(text) for text in texts])


def native_module() -> Any:
    """`runtime._native`. Raises `BackendUnavailable` saying what is missing where it was not built."""
    try:
        return importlib.import_module("runtime._native")
    except ModuleNotFoundError as error:
        raise BackendUnavailable(
            "the native part of runtime is not installed: it is built by `pip install` where there is a C++20 compiler "
            "(Debian, Ubuntu: apt-get install g++). runtime.classifier.Classifier answers the same without it"
        ) from error
    except ImportError as error:
        raise BackendUnavailable(
            f"the native part of runtime does not load: {error}. It was built for one version of openvino: "
            "pip install 'openvino==2026.4.1', or install this package again"
        ) from error
