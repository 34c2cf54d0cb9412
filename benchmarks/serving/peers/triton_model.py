"""Triton's Python backend, as its documentation has a model: TEXT in, label and score out, batches by Triton."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from inference import load


class TritonPythonModel:
    """What Triton asks for."""

    def initialize(self, args: dict[str, str]) -> None:
        """Once."""
        self.model = load()

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """All texts of all requests at once."""
        parts = [pb_utils.get_input_tensor_by_name(x, "text").as_numpy().reshape(-1) for x in requests]
        found = self.model([x.decode() for part in parts for x in part])
        answers, at = [], 0
        for part in parts:
            rows = found[at : at + len(part)]
            at += len(part)
            label = np.array([[x["label"].encode()] for x in rows], dtype=np.object_)
            score = np.array([[x["score"]] for x in rows], dtype=np.float32)
            tensors = [pb_utils.Tensor("label", label), pb_utils.Tensor("score", score)]
            answers.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return answers
