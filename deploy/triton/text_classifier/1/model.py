"""Texts to labels inside Triton, by the engines of the bundle beside this file. Needs the package atb-export."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]

from runtime import Classifier


class TritonPythonModel:
    """One classifier for each instance, which is a process of its own."""

    def initialize(self, args: dict[str, str]) -> None:
        """Checks the bundle and compiles its engines: the model is ready when this returns."""
        parameters = json.loads(args["model_config"])["parameters"]
        folder = Path(args["model_repository"]) / args["model_version"] / parameters["bundle"]["string_value"]
        self.classify = Classifier.from_bundle(folder)

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """All texts of all requests in one call; whose text is wrong gets an error, the others their answers."""
        texts: list[str] = []
        sizes: list[int | str] = []
        for request in requests:
            rows = pb_utils.get_input_tensor_by_name(request, "text").as_numpy().reshape(-1)
            try:
                texts += [row.decode() for row in rows]
                sizes.append(len(rows))
            except UnicodeDecodeError as error:
                del texts[sum(x for x in sizes if isinstance(x, int)) :]
                sizes.append(f"a text is no UTF-8: {error}")
        found = self.classify(texts) if texts else []
        responses, at = [], 0
        for size in sizes:
            if isinstance(size, str):
                responses.append(pb_utils.InferenceResponse(error=pb_utils.TritonError(size)))
                continue
            best = [row[0] for row in found[at : at + size]]
            at += size
            label = np.array([[x["label"].encode()] for x in best], dtype=np.object_)
            score = np.array([[x["score"]] for x in best], dtype=np.float32)
            tensors = [pb_utils.Tensor("label", label), pb_utils.Tensor("score", score)]
            responses.append(pb_utils.InferenceResponse(output_tensors=tensors))
        return responses

    def finalize(self) -> None:
        """When the model is unloaded."""
        self.classify.close()
