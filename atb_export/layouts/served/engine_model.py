"""Triton Python model: the bundle's own engines, where Triton has no backend of its own for them.

Needs the package atb-export with the engine's extra. The bundle beside it is checked, file by file, when it is loaded.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from numpy.typing import NDArray

from runtime.engine import backend
from runtime.manifest import read_bundle


class TritonPythonModel:
    """One engine per length."""

    def initialize(self, args: dict[str, str]) -> None:
        """Once per instance."""
        bundle = read_bundle(Path(os.path.join(args["model_repository"], args["model_version"], "bundle")))
        self.engines = [
            backend(x.target.backend).load(bundle.artifact(x), x.target)
            for x in sorted(bundle.manifest.engines, key=lambda x: x.target.shape.length)
        ]

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """Triton hands over requests of one length; they are run together, the engine's batch at a time."""
        names = [x.name for x in self.engines[0].inputs]
        parts = [{n: pb_utils.get_input_tensor_by_name(x, n).as_numpy() for n in names} for x in requests]
        try:
            answers = self._run({n: np.concatenate([x[n] for x in parts]) for n in names})
        except Exception as error:
            failed = pb_utils.TritonError(f"{type(error).__name__}: {error}")
            return [pb_utils.InferenceResponse(error=failed) for _ in requests]
        responses, start = [], 0
        for part in parts:
            rows = len(part[names[0]])
            tensor = pb_utils.Tensor("logits", answers[start : start + rows])
            responses.append(pb_utils.InferenceResponse([tensor]))
            start += rows
        return responses

    def _run(self, feeds: dict[str, NDArray[Any]]) -> NDArray[Any]:
        rows, length = next(iter(feeds.values())).shape
        engine = next((x for x in self.engines if x.target.shape.length >= length), None)
        if engine is None:
            raise ValueError(f"{length} tokens are more than the longest engine takes: {self.engines[-1].target.label}")
        shape, found = engine.target.shape, []
        for start in range(0, rows, shape.batch):
            part = {n: x[start : start + shape.batch] for n, x in feeds.items()}
            have = len(next(iter(part.values())))
            if (
                not engine.target.dynamic
            ):  # the last batch is filled with its last row, short rows with padding that the mask hides
                more = ((0, shape.batch - have), (0, 0)), ((0, 0), (0, shape.length - length))
                part = {n: np.pad(np.pad(x, more[0], mode="edge"), more[1]) for n, x in part.items()}
            found.append(engine.infer(part)["logits"][:have])
        return np.concatenate(found)

    def finalize(self) -> None:
        """When the model is unloaded."""
        for engine in self.engines:
            engine.close()
