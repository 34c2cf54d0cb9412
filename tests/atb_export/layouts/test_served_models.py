"""The models that Triton runs in its Python backend, here without it: the same files, a stand-in for its one module."""

from __future__ import annotations

import importlib.util
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from atb_export.layouts.triton import TritonOptions, write_triton
from runtime.classifier import Classifier
from runtime.errors import BundleError
from runtime.manifest import Bundle
from runtime.target import EngineTarget, Shape

Make = Callable[..., Bundle]
TEXTS = ["", "good", "this film is superb and the story is warm , clever and all", "x" * 90, "🎬 映画"]
DTYPES = {"TYPE_INT64": np.int64, "TYPE_FP32": np.float32}


@dataclass(frozen=True)
class Tensor:
    name: str
    values: np.ndarray

    def as_numpy(self) -> np.ndarray:
        return self.values


@dataclass(frozen=True)
class Response:
    tensors: tuple[Tensor, ...] = ()
    error: str | None = None

    def __getitem__(self, name: str) -> np.ndarray:
        assert self.error is None, self.error
        return next(x.values for x in self.tensors if x.name == name)


@pytest.fixture(autouse=True)
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    """As much of `triton_python_backend_utils` as the models use."""
    module: Any = ModuleType("triton_python_backend_utils")
    module.Tensor = Tensor
    module.TritonError = str
    module.InferenceResponse = lambda tensors=(), error=None: Response(tuple(tensors), error)
    module.get_input_tensor_by_name = lambda request, name: Tensor(name, request[name])
    module.triton_string_to_numpy = DTYPES.__getitem__
    monkeypatch.setitem(sys.modules, module.__name__, module)


def of(name: str, length: int, **more: Any) -> EngineTarget:
    shape = Shape(batch=more.pop("batch", 1), length=length)
    return EngineTarget(backend=name, precision="f32", shape=shape, **more)


def load(folder: Path, config: dict[str, Any]) -> Any:
    """The model of a folder, initialised as Triton does."""
    spec = importlib.util.spec_from_file_location(f"served_{folder.name}", folder / "1" / "model.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    model = module.TritonPythonModel()
    model.initialize({"model_repository": str(folder), "model_version": "1", "model_config": json.dumps(config)})
    return model


@pytest.fixture(params=["static", "dynamic", "pairs"])
def case(request: pytest.FixtureRequest, make_bundle: Make, tmp_path: Path) -> Iterator[tuple[Bundle, Any, Any]]:
    """A bundle with its tokenizer model and engine model."""
    json_format = pytest.importorskip("google.protobuf.json_format")
    schema = pytest.importorskip("tritonclient.grpc.model_config_pb2", exc_type=ImportError)
    from google.protobuf import text_format

    targets, pairs = {
        "static": ([of("openvino", 16, batch=2), of("openvino", 32, batch=2)], False),
        "dynamic": ([of("onnxruntime", 32, batch=4, dynamic=True)], False),
        "pairs": ([of("onnxruntime", 24)], True),
    }[request.param]
    made = make_bundle(*targets, pairs=pairs)
    folder = write_triton(made, tmp_path / "out", TritonOptions(python_engine=True)).folder
    models = []
    for part in ("tokenizer", "engine"):
        config = text_format.Parse((folder / f"tiny_model_{part}" / "config.pbtxt").read_text(), schema.ModelConfig())
        plain = json_format.MessageToDict(config, preserving_proto_field_name=True)
        for x in plain.get("parameters", {}).values():
            x.setdefault("string_value", "")
        models.append(load(folder / f"tiny_model_{part}", plain))
    yield made, models[0], models[1]
    models[1].finalize()


def test_requests_of_any_texts_are_answered_as_the_classifier_answers(case: tuple[Bundle, Any, Any]) -> None:
    """Requests of one row, two and two at once; the engine is given those of one length together, as Triton does."""
    bundle, tokenizer, engine = case
    pairs = "token_type_ids" in tokenizer.inputs
    texts: list[Any] = [(x, "a dull plot.") for x in TEXTS] if pairs else TEXTS
    rows = [[y.encode() for y in ((x,) if isinstance(x, str) else x)] for x in texts]
    parts = (slice(0, 1), slice(1, 3), slice(3, 5))
    encoded = tokenizer.execute([{"TEXT": np.array(rows[x], object)} for x in parts])
    feeds = [{x.name: x.values for x in y.tensors} for y in encoded]
    assert all(x["input_ids"].shape[1] in tokenizer.lengths for x in feeds)
    answers: dict[int, np.ndarray] = {}
    for length in {x["input_ids"].shape[1] for x in feeds}:
        alike = [i for i, x in enumerate(feeds) if x["input_ids"].shape[1] == length]
        for i, response in zip(alike, engine.execute([feeds[i] for i in alike]), strict=True):
            answers[i] = response["logits"]
    with Classifier.from_bundle(bundle.folder) as classify:
        wanted = classify.logits(texts)
    np.testing.assert_allclose(np.concatenate([answers[i] for i in range(3)]), wanted, atol=2e-5)


def test_broken_utf8_is_text_too(case: tuple[Bundle, Any, Any]) -> None:
    _, tokenizer, _ = case
    width = 2 if "token_type_ids" in tokenizer.inputs else 1
    (answer,) = tokenizer.execute([{"TEXT": np.array([[b"\xff\xfe good"] * width], object)}])
    assert answer["attention_mask"].sum() > 2


def test_too_long_rows_are_an_answer_not_a_crash(case: tuple[Bundle, Any, Any]) -> None:
    _, tokenizer, engine = case
    length = tokenizer.lengths[-1] + 1
    answers = engine.execute([{x: np.ones((1, length), np.int64) for x in tokenizer.inputs}] * 2)
    assert len(answers) == 2
    assert all(f"{length} tokens are more than the longest engine takes" in x.error for x in answers)


def test_a_changed_bundle_is_not_loaded(bundle: Bundle, tmp_path: Path) -> None:
    folder = write_triton(bundle, tmp_path / "out", TritonOptions(python_engine=True)).folder / "tiny_model_engine"
    path = folder / "1" / "bundle" / "model.onnx"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(BundleError, match=r"model\.onnx has"):
        load(folder, {})
