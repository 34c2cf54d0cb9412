"""Triton Python model: texts to token ids, padded to the shortest served length that fits a request's longest text.

Needs numpy and tokenizers. Its config.pbtxt sets `lengths`, `max_length`, `pad_id` and `inputs`.
"""

import json
import os
from collections.abc import Sequence
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils  # type: ignore[import-not-found]
from tokenizers import Tokenizer

SOURCES = {"input_ids": "ids", "attention_mask": "attention_mask", "token_type_ids": "type_ids"}


class TritonPythonModel:
    """Reads `tokenizer.json` beside itself."""

    def initialize(self, args: dict[str, str]) -> None:
        """Once per instance."""
        config = json.loads(args["model_config"])
        said = {name: x["string_value"] for name, x in config["parameters"].items()}
        self.lengths = [int(x) for x in said["lengths"].split(",")]
        self.inputs = said["inputs"].split(",")
        self.dtypes = {x["name"]: pb_utils.triton_string_to_numpy(x["data_type"]) for x in config["output"]}
        self.pad_id = int(said["pad_id"])
        path = os.path.join(args["model_repository"], args["model_version"], "tokenizer.json")
        self.tokenizer = Tokenizer.from_file(path)
        self.tokenizer.no_padding()
        self.tokenizer.enable_truncation(min(self.lengths[-1], int(said["max_length"])), strategy="longest_first")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """All texts of all requests in one call of the tokenizer."""
        parts = [pb_utils.get_input_tensor_by_name(x, "TEXT").as_numpy() for x in requests]
        encoded = self.tokenizer.encode_batch([_text(row) for part in parts for row in part])
        responses, start = [], 0
        for part in parts:
            responses.append(self._response(encoded[start : start + len(part)]))
            start += len(part)
        return responses

    def _response(self, encoded: Sequence[Any]) -> Any:
        longest = max(len(x.ids) for x in encoded)
        length = next(x for x in self.lengths if x >= longest)
        tensors = []
        for name in self.inputs:
            values = np.full((len(encoded), length), self.pad_id if name == "input_ids" else 0, self.dtypes[name])
            for i, x in enumerate(encoded):
                values[i, : len(x.ids)] = getattr(x, SOURCES[name])
            tensors.append(pb_utils.Tensor(name, values))
        return pb_utils.InferenceResponse(tensors)


def _text(row: Sequence[bytes]) -> str | tuple[str, ...]:
    """One text, or a pair; bytes that are no UTF-8 are replaced."""
    texts = tuple(x.decode("utf-8", "replace") for x in row)
    return texts[0] if len(texts) == 1 else texts
