from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends import onnxruntime as ort_module
from runtime.classifier import Classifier
from runtime.engine import backend
from runtime.errors import AtbRuntimeError, BackendUnavailable, BundleError, UnsupportedTarget
from runtime.manifest import EngineEntry, Manifest, ModelFacts, write_manifest
from runtime.onnx_file import TensorSpec
from runtime.target import EngineTarget, Shape

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")
tokenizers = pytest.importorskip("tokenizers")

WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "a", "good", "bad", "film", "very", "!", "##s"]


def _tokenizer(padding: bool = False) -> Any:
    tokenizer = tokenizers.Tokenizer(
        tokenizers.models.WordPiece({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]")
    )
    tokenizer.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    tokenizer.post_processor = tokenizers.processors.BertProcessing(("[SEP]", 3), ("[CLS]", 2))
    if padding:
        tokenizer.enable_padding(pad_id=10, pad_token="##s")
    return tokenizer


def _bundle(folder: Path, model: Any, *, task: str = "classification", batch: int = 2, max_length: int = 16) -> Path:
    entries = []
    for name, precision in (("openvino", "f32"), ("onnxruntime", "f32")):
        target = EngineTarget(backend=name, precision=precision, shape=Shape(batch=batch, length=8))
        artifact = backend(name).compile(model.onnx, target, folder / "engines" / target.label)
        entries.append(
            EngineEntry(target=target, artifact=artifact.relative_to(folder).as_posix(), effective_precision="f32")
        )
    _tokenizer().save(str(folder / "tokenizer.json"))
    labels = ("bad", "fair", "good") if task == "classification" else ("stars",)
    facts = ModelFacts(task=task, labels=labels, max_length=max_length)
    write_manifest(folder, Manifest(name="tiny", model=facts, engines=tuple(entries)))
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, make_tiny: Any) -> Path:
    return _bundle(tmp_path_factory.mktemp("bundle"), make_tiny())


@pytest.fixture(scope="module")
def expected(make_tiny: Any) -> Any:
    """Logits of token ids, computed in numpy without any padding."""
    model = make_tiny()

    def logits(*ids: int) -> Any:
        feeds = {"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)}
        return model.logits(feeds)[0]

    return logits


def test_one_text(folder: Path, expected: Any) -> None:
    with Classifier.from_bundle(folder) as classifier:
        scores = classifier("a GOOD film")
    want = np.exp(expected(2, 4, 5, 7, 3))
    want /= want.sum()
    assert [x["label"] for x in scores] == [("bad", "fair", "good")[i] for i in np.argsort(-want)]
    assert [x["score"] for x in scores] == pytest.approx(sorted(want, reverse=True), abs=1e-5)


@pytest.mark.parametrize("engine", ["openvino", "onnxruntime"])
def test_a_list_answers_what_its_texts_answer_alone(folder: Path, expected: Any, engine: str) -> None:
    texts = ["a film", "good", "very very bad !", "", "films"]
    ids = [(2, 4, 7, 3), (2, 5, 3), (2, 8, 8, 6, 9, 3), (2, 3), (2, 7, 10, 3)]
    with Classifier.from_bundle(folder, engine=engine) as classifier:
        assert classifier.engine.target.backend == engine
        got = classifier.logits(texts)
        assert got.shape == (5, 3)
        np.testing.assert_allclose(got, [expected(*row) for row in ids], atol=1e-4)
        together = classifier(texts)
        alone = [classifier(text) for text in texts]
        for a, b in zip(together, alone, strict=True):
            assert [x["label"] for x in a] == [x["label"] for x in b]
            assert [x["score"] for x in a] == pytest.approx([x["score"] for x in b], abs=1e-5)
        assert classifier([]) == []


def test_pairs_are_tuples_and_the_longest_is_cut_first(folder: Path, expected: Any) -> None:
    with Classifier.from_bundle(folder) as classifier:
        pair = classifier.logits([("good", "bad film")])[0]
        np.testing.assert_allclose(pair, expected(2, 5, 3, 6, 7, 3), atol=1e-4)
        cut = classifier.logits([("good", "bad film " * 9)])[0]
        np.testing.assert_allclose(cut, expected(2, 5, 3, 6, 7, 6, 7, 3), atol=1e-4)
        assert len(classifier(("good", "bad"))) == 3
        assert len(classifier([("good", "bad")])) == 1


def test_long_texts_are_cut_to_the_engine_and_to_the_model(
    folder: Path, expected: Any, make_tiny: Any, tmp_path: Path
) -> None:
    with Classifier.from_bundle(folder) as classifier:
        got = classifier.logits(["good " * 20_000])[0]
    np.testing.assert_allclose(got, expected(2, 5, 5, 5, 5, 5, 5, 3), atol=1e-4)
    with Classifier.from_bundle(_bundle(tmp_path, make_tiny(), max_length=4)) as classifier:
        got = classifier.logits(["good " * 9])[0]
    np.testing.assert_allclose(got, expected(2, 5, 5, 3), atol=1e-4)


def test_other_scripts_emoji_and_broken_surrogates(folder: Path, expected: Any) -> None:
    with Classifier.from_bundle(folder) as classifier:
        for text in ("хорошо", "👍", "\ud83d", "a\0b"):
            assert len(classifier(text)) == 3
        np.testing.assert_allclose(classifier.logits(["\ud83d\udc4d"]), classifier.logits(["👍"]))
        np.testing.assert_allclose(classifier.logits(["good 好"])[0], expected(2, 5, 1, 3), atol=1e-4)


@pytest.mark.parametrize("bad", [3, None, b"bytes", ("a", "b", "c"), ("a", 1), ["a", 1], [["a", "b"]]])
def test_what_is_not_text_is_refused(folder: Path, bad: Any) -> None:
    with Classifier.from_bundle(folder) as classifier, pytest.raises(TypeError, match="a text is a str"):
        classifier(bad)


def test_regression_gives_the_value_itself(make_tiny: Any, tmp_path: Path) -> None:
    model = make_tiny(labels=1)
    folder = _bundle(tmp_path, model, task="regression")
    with Classifier.from_bundle(folder) as classifier:
        (score,) = classifier("good")
    feeds = {"input_ids": np.array([[2, 5, 3]]), "attention_mask": np.ones((1, 3), np.int64)}
    assert score["label"] == "stars"
    assert score["score"] == pytest.approx(model.logits(feeds)[0, 0], abs=1e-4)


def test_token_types_are_fed_when_asked_for(make_tiny: Any, tmp_path: Path) -> None:
    model = make_tiny(token_types=True)
    with Classifier.from_bundle(_bundle(tmp_path, model)) as classifier:
        got = classifier.logits([("good", "bad")])
    feeds = {
        "input_ids": np.array([[2, 5, 3, 6, 3]]),
        "attention_mask": np.ones((1, 5), np.int64),
        "token_type_ids": np.array([[0, 0, 0, 1, 1]]),
    }
    np.testing.assert_allclose(got, model.logits(feeds), atol=1e-4)


def test_engines_are_chosen_by_label_backend_or_what_runs(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def opened(engine: str | None = None) -> str:
        with Classifier.from_bundle(folder, engine=engine) as classifier:
            return classifier.engine.target.backend

    assert opened() == "openvino"
    assert opened("onnxruntime-CPU-f32-b2-l8-t1") == "onnxruntime"
    with pytest.raises(UnsupportedTarget, match=r"no engine tensorrt.*openvino-CPU-f32-b2-l8-t1"):
        opened("tensorrt")
    monkeypatch.setattr(backend("openvino"), "can_run", lambda: "no openvino here")
    assert opened() == "onnxruntime"
    with pytest.raises(BackendUnavailable, match="no openvino here"):
        opened("openvino")
    monkeypatch.setattr(ort_module.BACKEND, "can_run", lambda: "nor this")
    with pytest.raises(BackendUnavailable, match=r"no openvino here.*nor this"):
        opened()


def test_a_changed_bundle_is_not_opened(make_tiny: Any, tmp_path: Path) -> None:
    folder = _bundle(tmp_path, make_tiny())
    (folder / "tokenizer.json").write_text((folder / "tokenizer.json").read_text() + " ")
    with pytest.raises(BundleError, match=r"tokenizer\.json has"):
        Classifier.from_bundle(folder)


def test_a_broken_tokenizer_is_told(make_tiny: Any, tmp_path: Path) -> None:
    folder = _bundle(tmp_path, make_tiny())
    (folder / "tokenizer.json").write_text("{}")
    entries = (
        EngineEntry(
            target=EngineTarget(backend="openvino", shape=Shape(batch=1, length=8)),
            artifact="tokenizer.json",
            effective_precision="f32",
        ),
    )
    facts = ModelFacts(task="classification", labels=("a", "b"), max_length=8)
    write_manifest(folder, Manifest(name="x", model=facts, engines=entries))
    with pytest.raises(BundleError, match="is not a tokenizer"):
        Classifier.from_bundle(folder)


def _open(model: Any, length: int = 8) -> Any:
    target = EngineTarget(backend="onnxruntime", shape=Shape(batch=1, length=length))
    return backend("onnxruntime").open(model.onnx, target)


def test_labels_must_be_as_many_as_logits(tiny: Any) -> None:
    facts = ModelFacts(task="classification", labels=("a", "b"), max_length=8)
    classifier = Classifier(engine=_open(tiny), tokenizer=_tokenizer(), model=facts)
    with classifier, pytest.raises(AtbRuntimeError, match="2 labels"):
        classifier("good")


def test_scores_of_extreme_logits_are_numbers(tiny: Any) -> None:
    facts = ModelFacts(task="classification", labels=("a", "b", "c"), max_length=8)
    with Classifier(engine=_open(tiny), tokenizer=_tokenizer(), model=facts) as classifier:
        scores = classifier._scores(np.array([-1e5, 1e5, 0], np.float32))
    assert [(x["label"], x["score"]) for x in scores] == [("b", 1.0), ("a", 0.0), ("c", 0.0)]


def test_inputs_that_no_text_gives_are_refused(tiny: Any) -> None:
    engine = _open(tiny)
    engine.inputs = (TensorSpec(name="pixels", dtype="int64", shape=(1, 8)),)
    facts = ModelFacts(task="classification", labels=("a", "b", "c"), max_length=8)
    with engine, pytest.raises(UnsupportedTarget, match="the engine takes pixels"):
        Classifier(engine=engine, tokenizer=_tokenizer(), model=facts)


def test_the_tokenizers_own_padding_is_kept(tiny: Any) -> None:
    facts = ModelFacts(task="classification", labels=("a", "b", "c"), max_length=8)
    with Classifier(engine=_open(tiny), tokenizer=_tokenizer(padding=True), model=facts) as classifier:
        assert classifier._tokenizer.encode("good").ids == [2, 5, 3] + [10] * 5


def test_a_tokenizer_without_padding_is_refused(tiny: Any) -> None:
    bare = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    facts = ModelFacts(task="classification", labels=("a", "b", "c"), max_length=8)
    with _open(tiny) as engine, pytest.raises(BundleError, match="no padding"):
        Classifier(engine=engine, tokenizer=bare, model=facts)


def test_an_engine_must_have_room_for_more_than_special_tokens(tiny: Any) -> None:
    facts = ModelFacts(task="classification", labels=("a", "b", "c"), max_length=8)
    with _open(tiny, length=3) as engine, pytest.raises(UnsupportedTarget, match="3 tokens: 3 are special"):
        Classifier(engine=engine, tokenizer=_tokenizer(), model=facts)
    with Classifier(engine=_open(tiny, length=4), tokenizer=_tokenizer(), model=facts) as classifier:
        assert len(classifier(("good", "bad"))) == len(classifier("a good film")) == 3
