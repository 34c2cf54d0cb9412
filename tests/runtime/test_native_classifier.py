"""The native classifier answers what the portable one answers, bit for bit, and refuses what it refuses."""

from __future__ import annotations

import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pytest

import runtime
from runtime import classifier as portable
from runtime.backends.openvino import BACKEND
from runtime.errors import AtbRuntimeError, BundleError, FeedError, UnsupportedTarget
from runtime.manifest import EngineEntry, Manifest, ModelFacts, write_manifest
from runtime.target import EngineTarget, Shape

tokenizers = pytest.importorskip("tokenizers")
native = pytest.importorskip("runtime._native", reason="the native part was not built")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "film", "very", "!", "##s", "é", "好"]
LENGTHS = (8, 16, 32)


def _tokenizer() -> Any:
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({x: i for i, x in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.TemplateProcessing(
        single="[CLS] $A [SEP]", pair="[CLS] $A [SEP] $B:1 [SEP]:1", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    tokenizer.decoder = tokenizers.decoders.WordPiece()
    return tokenizer


def _write(folder: Path, model: Any, *, task: str = "classification", dynamic: bool = False, batch: int = 1) -> Path:
    folder.mkdir()
    (folder / "model.onnx").write_bytes(model.onnx)
    targets = [
        EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=batch, length=x), dynamic=dynamic)
        for x in (LENGTHS[-1:] if dynamic else LENGTHS)
    ]
    _tokenizer().save(str(folder / "tokenizer.json"))
    facts = ModelFacts(
        task=task, labels=("bad", "fair", "good") if task == "classification" else ("stars",), max_length=24
    )
    engines = tuple(EngineEntry(target=x, artifact="model.onnx", effective_precision="f32") for x in targets)
    write_manifest(folder, Manifest(name="tiny", model=facts, engines=engines))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_tiny: Any) -> Path:
    return _write(tmp_path_factory.mktemp("native") / "bundle", make_tiny(token_types=True))


def _texts(count: int, seed: int = 1) -> list[Any]:
    rng = Random(seed)

    def one() -> str:
        words = [
            rng.choice(["a", "Good", "BAD", "films", "very", "!", "É", "好好", "", "👍", "\n"])
            for _ in range(rng.randrange(30))
        ]
        return " ".join(words)

    return [one() if rng.random() < 0.7 else (one(), one()) for _ in range(count)]


def _same_bits(a: Any, b: Any) -> bool:
    return a.shape == b.shape and a.dtype == b.dtype and a.tobytes() == b.tobytes()


def test_three_lines(folder: Path) -> None:
    classifier = runtime.Classifier.from_bundle(folder)
    best = classifier("a good film")[0]
    assert best["label"] in ("bad", "fair", "good")
    assert classifier.labels == ("bad", "fair", "good")
    assert classifier.max_length == 24


@pytest.mark.parametrize("batches", [(), (4,), (2, 8)])
def test_answers_are_those_of_the_portable_classifier(folder: Path, batches: tuple[int, ...]) -> None:
    texts = _texts(300)
    with (
        portable.Classifier.from_bundle(folder) as there,
        runtime.Classifier.from_bundle(folder, batches=batches) as here,
    ):
        logits = here.logits(texts)
        assert _same_bits(logits, there.logits(texts))
        assert _same_bits(logits[:20], np.concatenate([here.logits([x]) for x in texts[:20]]))
        for ours, theirs in zip(here(texts), there(texts), strict=True):
            assert [x["label"] for x in ours] == [x["label"] for x in theirs]
            assert [x["score"] for x in ours] == pytest.approx([x["score"] for x in theirs], abs=1e-15)
        assert here(texts[0]) == here([texts[0]])[0]
        assert here(("good", "bad")) != here(("bad", "good"))
        assert here([]) == []
        assert here.logits([]).shape == (0, 3)


@pytest.mark.parametrize("options", [{"task": "regression"}, {"dynamic": True}, {"batch": 4}])
def test_other_bundles(tmp_path: Path, make_tiny: Any, options: dict[str, Any]) -> None:
    labels = 1 if options.get("task") == "regression" else 3
    folder = _write(tmp_path / "bundle", make_tiny(labels=labels), **options)
    texts = _texts(50, seed=2)
    with portable.Classifier.from_bundle(folder) as there, runtime.Classifier.from_bundle(folder) as here:
        np.testing.assert_allclose(here.logits(texts), there.logits(texts), atol=1e-6)
        assert [x[0]["label"] for x in here(texts)] == [x[0]["label"] for x in there(texts)]


def test_broken_surrogates_are_replaced(folder: Path) -> None:
    with portable.Classifier.from_bundle(folder) as there, runtime.Classifier.from_bundle(folder) as here:
        for text in ("\ud83d", "a \udc4d good", ("\ud83d", "good"), "\ud83d\udc4d"):
            assert here(text) == there(text)
        assert here(["good", "\ud83d"]) == there(["good", "\ud83d"])


@pytest.mark.parametrize("text", [None, 3, b"good", ("a",), ("a", "b", "c"), ("a", None), [None], [["a", "b"]]])
def test_what_is_not_text_is_refused(folder: Path, text: Any) -> None:
    with runtime.Classifier.from_bundle(folder) as here, pytest.raises(TypeError, match="a text is a str"):
        here(text)


def test_threads_share_one_classifier(folder: Path) -> None:
    texts = _texts(200, seed=3)
    with runtime.Classifier.from_bundle(folder, workers=2) as here:
        wanted = here.logits(texts)
        with ThreadPoolExecutor(8) as pool:
            singles = list(pool.map(lambda x: here.logits([x])[0], texts))
            lists = list(pool.map(lambda _: here.logits(texts), range(8)))
        assert _same_bits(np.array(singles), wanted)
        assert all(_same_bits(x, wanted) for x in lists)


def test_a_closed_classifier_says_so(folder: Path) -> None:
    here = runtime.Classifier.from_bundle(folder)
    here.close()
    here.close()
    with pytest.raises(AtbRuntimeError, match="closed"):
        here("good")


def test_errors_are_those_of_the_portable_classifier(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(BundleError, match=r"no manifest\.json"):
        runtime.Classifier.from_bundle(tmp_path)
    with pytest.raises(UnsupportedTarget, match="no engine tensorrt; it has openvino-CPU-f32-b1-l8-t1"):
        runtime.Classifier.from_bundle(folder, "tensorrt")


def test_an_engine_is_that_of_the_portable_runtime(folder: Path) -> None:
    bundle = native.Bundle.read(str(folder))
    assert bundle.engines == [f"openvino-CPU-f32-b1-l{x}-t1" for x in LENGTHS]
    target = EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=3, length=16))
    rng = np.random.default_rng(1)
    feeds = {name: rng.integers(0, top, (3, 16)) for name, top in (("input_ids", 13), ("token_type_ids", 2))}
    feeds["attention_mask"] = np.ones((3, 16), np.int64)
    engine = native.Engine.open(bundle, "openvino-CPU-f32-b1-l16-t1", batch=3)
    assert (engine.label, engine.effective_precision, engine.labels) == (target.label, "f32", 3)
    with BACKEND.load(folder / "model.onnx", target) as there:
        assert _same_bits(engine.infer(**feeds), there.infer(feeds)["logits"])
    for wrong in (
        {"attention_mask": None},
        {"input_ids": feeds["input_ids"][:2]},
        {"token_type_ids": np.zeros((3, 8), np.int64)},
    ):
        with pytest.raises(FeedError):
            engine.infer(**{**feeds, **wrong})
    for array in (feeds["input_ids"].astype(np.float32), feeds["input_ids"].T, [[1, 2]]):
        with pytest.raises(TypeError):
            engine.infer(array)


def test_the_tokenizer_is_that_of_hugging_face(folder: Path) -> None:
    ours, theirs = native.Tokenizer.from_file(str(folder / "tokenizer.json")), _tokenizer()
    theirs.enable_truncation(16, strategy="longest_first")
    for text in _texts(200, seed=4):
        pair = text if isinstance(text, tuple) else (text, None)
        ids, types = ours.encode(*pair, max_length=16)
        wanted = theirs.encode(*pair)
        assert (ids.tolist(), types.tolist()) == (wanted.ids, wanted.type_ids)
    assert ours.pad_id == 0
    assert ours.vocabulary_size == len(WORDS)


def test_without_the_native_part_the_error_says_what_is_missing() -> None:
    program = """
import sys
sys.modules["runtime._native"] = None
import runtime
try:
    runtime.Classifier.from_bundle("bundle")
except runtime.errors.BackendUnavailable as error:
    print(error)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert "C++20 compiler" in done.stdout
    assert "runtime.classifier.Classifier" in done.stdout
