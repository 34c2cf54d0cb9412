"""Clients of the Open Inference Protocol as their authors publish them: each gets the engine's own answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.classifier import Classifier

Conform = Callable[..., dict[str, Any]]
LABELS = ["neg", "neutral", "pos"]

# Status over HTTP and gRPC; what is not here and not answered is 400 INVALID_ARGUMENT.
REFUSED = {
    "unknown model": ("404", "NOT_FOUND"),
    "unknown version": ("404", "NOT_FOUND"),
    "version that is no number": ("404", "NOT_FOUND"),
    "a shape that overflows": ("413", "RESOURCE_EXHAUSTED"),
    "too many rows": ("413", "RESOURCE_EXHAUSTED"),
    "unknown model's metadata": ("404", "NOT_FOUND"),
    "unknown model's statistics": ("404", "NOT_FOUND"),
}
INVALID = {
    *("unknown input", "unknown output", "missing input", "texts and tokens", "text as numbers", "tokens as text"),
    *("three dimensions", "one row", "more shape than data", "less shape than data", "a negative dimension"),
    *("shapes that differ", "no rows", "a mask with holes", "an id outside of the vocabulary", "a negative id"),
    "more tokens than the model takes",
}


def hexes(values: Any) -> list[str]:
    return [np.float32(x).tobytes().hex() for x in np.asarray(values).reshape(-1)]


def outputs_of(logits: np.ndarray, names: tuple[str, ...]) -> list[list[Any]]:
    values = np.exp(logits.astype(np.float64) - logits.max(-1, keepdims=True))
    values /= values.sum(-1, keepdims=True)
    made = {
        "logits": ["logits", "FP32", list(logits.shape), hexes(logits)],
        "label": ["label", "BYTES", [len(logits)], [LABELS[x] for x in values.argmax(-1)]],
        "score": ["score", "FP32", [len(logits)], hexes(values.max(-1))],
    }
    return [made[x] for x in names]


@pytest.fixture(scope="module")
def expected(bundle: Path, rows: Path) -> dict[str, Any]:
    """Each case's outputs, by the engines as our portable classifier runs them."""
    asked = json.loads(rows.read_text())
    texts, every = asked["texts"], ("logits", "label", "score")
    with Classifier.from_bundle(bundle) as classify:
        logits = classify.logits(texts)
        pairs = classify.logits([tuple(x) for x in asked["pairs"]])
    most = np.resize(np.arange(len(texts)), asked["rows"])
    same = ("texts", "texts as a column", "tokens", "tokens with types", "an id", "version 1")
    return {
        **{x: outputs_of(logits, every) for x in same},
        "one text": outputs_of(logits[:1], every),
        "tokens without padding": outputs_of(logits[:1], every),
        "pairs": outputs_of(pairs, every),
        "logits alone": outputs_of(logits, ("logits",)),
        "outputs in an order": outputs_of(logits, ("score", "logits", "label")),
        "as many rows as may be": outputs_of(logits[most], ("logits",)),
    }


@pytest.fixture(scope="module")
def by_triton(server: Any, has_grpc: bool, conform: Conform) -> dict[str, Any]:
    if not has_grpc:
        pytest.skip("the server was built without gRPC")
    return conform("tritonclient", f"127.0.0.1:{server.port}", f"127.0.0.1:{server.grpc_port}", "tiny")


WAYS = ("http", "http json", "http asyncio", "grpc", "grpc asyncio")


@pytest.mark.parametrize("way", WAYS)
def test_tritonclient_gets_the_engines_answers(by_triton: dict[str, Any], expected: dict[str, Any], way: str) -> None:
    found = by_triton[way]
    for name, outputs in expected.items():
        answer = found[name]
        assert answer["outputs"] == outputs, name
        assert (answer["model"], answer["version"]) == ("tiny", "1"), name
        assert answer["id"] == ("request 7 é" if name == "an id" else ""), name


@pytest.mark.parametrize("way", WAYS)
def test_tritonclient_gets_the_right_refusals(by_triton: dict[str, Any], expected: dict[str, Any], way: str) -> None:
    by_grpc = way.startswith("grpc")
    refused = {**REFUSED, **dict.fromkeys(INVALID, ("400", "INVALID_ARGUMENT"))}
    for name, statuses in refused.items():
        assert by_triton[way][name] == {"error": statuses[by_grpc], "said": True}, name
    told = {"live", "ready", "model ready", "unknown model ready", "server", "model", "index", "statistics"}
    assert set(by_triton[way]) == set(refused) | set(expected) | told


@pytest.mark.parametrize("way", WAYS)
def test_tritonclient_is_told_of_server_and_model(by_triton: dict[str, Any], way: str) -> None:
    found = by_triton[way]
    assert found["live"] is found["ready"] is found["model ready"] is True
    assert found["unknown model ready"] is False
    assert found["server"] == {"fields": ["extensions", "name", "version"], "repository": True}
    assert found["model"]["versions"] == ["1"]
    assert found["model"]["inputs"] == {
        "text": ["BYTES", [-1]],
        "input_ids": ["INT64", [-1, -1]],
        "attention_mask": ["INT64", [-1, -1]],
        "token_type_ids": ["INT64", [-1, -1]],
    }
    assert found["model"]["outputs"] == {
        "logits": ["FP32", [-1, len(LABELS)]],
        "label": ["BYTES", [-1]],
        "score": ["FP32", [-1]],
    }
    assert found["index"] == [["tiny", "1", "READY"]]
    parts = ["compute_infer", "compute_input", "compute_output", "fail", "queue", "success"]
    assert found["statistics"] == {"name": "tiny", "version": "1", "parts": parts}


def test_kserves_clients(server: Any, has_grpc: bool, conform: Conform, expected: dict[str, Any]) -> None:
    if not has_grpc:
        pytest.skip("the server was built without gRPC")
    found = conform("kserve", f"127.0.0.1:{server.port}", f"127.0.0.1:{server.grpc_port}", "tiny")
    for way in ("rest", "rest json", "grpc"):
        for name in ("one text", "texts", "tokens"):
            assert found[way][name] == {"model": "tiny", "id": "7", "outputs": expected[name]}, (way, name)
        for name in ("unknown model", "unknown input", "no rows"):
            status = REFUSED.get(name, ("400", "INVALID_ARGUMENT"))[way == "grpc"]
            assert found[way][name] == {"error": status}, (way, name)
    for way in ("rest", "grpc"):
        assert found[way]["live"] is found[way]["ready"] is found[way]["model ready"] is True
