"""Runs a session of ONNX Runtime as an engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from numpy.typing import NDArray

from runtime.engine import EngineBase, FeedCheck, Feeds
from runtime.errors import AtbRuntimeError
from runtime.target import EngineTarget
from runtime.tensors import TensorSpec


class OnnxRuntimeEngine(EngineBase):
    """One session; its free dimensions are fixed to the target's shape, or bounded by it if the target is dynamic."""

    def __init__(
        self, session: Any, target: EngineTarget, effective_precision: str, inputs: tuple[TensorSpec, ...]
    ) -> None:
        self.target = target
        self.effective_precision = effective_precision
        self.inputs = inputs
        self._session = session
        self._check = FeedCheck(inputs, target.shape)
        self._outputs = [x.name for x in session.get_outputs()]

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Output name -> array that the caller owns. Raises `FeedError`."""
        self._refuse_closed()
        self._check(feeds)
        return dict(zip(self._outputs, self._session.run(self._outputs, feeds), strict=True))

    def infer_many(self, feeds: Iterable[Feeds]) -> Iterator[dict[str, NDArray[Any]]]:
        """One after the other: a session gives each answer all its threads."""
        self._refuse_closed()
        return map(self.infer, feeds)

    def clone(self) -> OnnxRuntimeEngine:
        """An engine of the same session, which several threads may run at once."""
        self._refuse_closed()
        return OnnxRuntimeEngine(self._session, self.target, self.effective_precision, self.inputs)

    def _refuse_closed(self) -> None:
        if self._session is None:
            raise AtbRuntimeError(f"the engine {self.target.label} is closed; open or load it again")

    def close(self) -> None:
        """Frees the session; may be called twice."""
        self._session = None
