from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends import onnxruntime as ort_module
from runtime.classifier import Classifier
from runtime.engine import EngineBase, backend
from runtime.errors import AtbRuntimeError, BackendUnavailable, BundleError, UnsupportedTarget
from runtime.manifest import EngineEntry, Manifest, ModelFacts, write_manifest
from runtime.target import EngineTarget, Shape
from runtime.tensors import TensorSpec

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


class NumpyEngine(EngineBase):
    """Computes in numpy, and notes what it is fed."""

    effective_precision = "f32"

    def __init__(self, model: Any, *, batch: int = 1, length: int = 8, dynamic: bool = False) -> None:
        self.target = EngineTarget(backend="numpy", shape=Shape(batch=batch, length=length), dynamic=dynamic)
        dims = ("batch", "sequence") if dynamic else (batch, length)
        names = ["input_ids", "attention_mask"] + ["token_type_ids"] * model.token_types
        self.inputs = tuple(TensorSpec(name=name, dtype="int64", shape=dims) for name in names)
        self.model = model
        self.fed: list[Any] = []
        self.closed = False

    def infer(self, feeds: Any) -> dict[str, Any]:
        dims = feeds["input_ids"].shape
        most = self.target.shape.dims
        assert dims[0] <= most[0] and dims[1] <= most[1] if self.target.dynamic else dims == most
        assert {x.shape for x in feeds.values()} == {dims}
        self.fed.append(feeds)
        return {"logits": self.model.logits(feeds).astype(np.float32)}

    def close(self) -> None:
        self.closed = True


def _alone(model: Any, *ids: int) -> Any:
    """The logits of one row of ids, without any padding."""
    return model.logits({"input_ids": np.array([ids]), "attention_mask": np.ones((1, len(ids)), np.int64)})[0]


def _open(model: Any, length: int = 8) -> Any:
    target = EngineTarget(backend="onnxruntime", shape=Shape(batch=1, length=length))
    return backend("onnxruntime").open(model.onnx, target)


def test_labels_must_be_as_many_as_logits(tiny: Any) -> None:
    facts = ModelFacts(task="classification", labels=("a", "b"), max_length=8)
    classifier = Classifier(engines=[_open(tiny)], tokenizer=_tokenizer(), model=facts)
    with classifier, pytest.raises(AtbRuntimeError, match="2 labels"):
        classifier("good")


def test_scores_of_extreme_logits_are_numbers(tiny: Any) -> None:
    facts = ModelFacts(task="classification", labels=("a", "b", "c"), max_length=8)
    with Classifier(engines=[_open(tiny)], tokenizer=_tokenizer(), model=facts) as classifier:
        scores = classifier._scores(np.array([-1e5, 1e5, 0], np.float32))
    assert [(x["label"], x["score"]) for x in scores] == [("b", 1.0), ("a", 0.0), ("c", 0.0)]


def test_inputs_that_no_text_gives_are_refused(tiny: Any) -> None:
    engine = _open(tiny)
    engine.inputs = (TensorSpec(name="pixels", dtype="int64", shape=(1, 8)),)
    facts = ModelFacts(task="classification", labels=("a", "b", "c"), max_length=8)
    with engine, pytest.raises(UnsupportedTarget, match="the engine takes pixels"):
        Classifier(engines=[engine], tokenizer=_tokenizer(), model=facts)


def test_the_tokenizers_own_padding_is_kept(tiny: Any) -> None:
    facts = ModelFacts(task="classification", labels=("a", "b", "c"), max_length=8)
    engine = NumpyEngine(tiny)
    with Classifier(engines=[engine], tokenizer=_tokenizer(padding=True), model=facts) as classifier:
        classifier("good")
    assert engine.fed[0]["input_ids"].tolist() == [[2, 5, 3] + [10] * 5]


def test_a_roberta_tokenizer_pads_with_its_own_token(tiny: Any) -> None:
    words = {word: i for i, word in enumerate(["<s>", "<pad>", "</s>", "<unk>", "good"])}
    tokenizer = tokenizers.Tokenizer(tokenizers.models.WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokenizer.post_processor = tokenizers.processors.RobertaProcessing(("</s>", 2), ("<s>", 0))
    facts = ModelFacts(task="classification", labels=("a", "b", "c"), max_length=8)
    engine = NumpyEngine(tiny)
    with Classifier(engines=[engine], tokenizer=tokenizer, model=facts) as classifier:
        pair = classifier.logits([("good", "good")])[0]
        np.testing.assert_allclose(classifier.logits(["good"])[0], _alone(tiny, 0, 4, 2), atol=1e-4)
    np.testing.assert_allclose(pair, _alone(tiny, 0, 4, 2, 2, 4, 2), atol=1e-4)
    assert engine.fed[1]["input_ids"].tolist() == [[0, 4, 2] + [1] * 5]
    assert engine.fed[1]["attention_mask"].tolist() == [[1] * 3 + [0] * 5]


def test_a_tokenizer_without_padding_is_refused(tiny: Any) -> None:
    bare = tokenizers.Tokenizer(tokenizers.models.WordPiece({"[UNK]": 0}, unk_token="[UNK]"))
    facts = ModelFacts(task="classification", labels=("a", "b", "c"), max_length=8)
    with _open(tiny) as engine, pytest.raises(BundleError, match="no padding"):
        Classifier(engines=[engine], tokenizer=bare, model=facts)


def test_an_engine_must_have_room_for_more_than_special_tokens(tiny: Any) -> None:
    facts = ModelFacts(task="classification", labels=("a", "b", "c"), max_length=8)
    with _open(tiny, length=3) as engine, pytest.raises(UnsupportedTarget, match="3 tokens: 3 are special"):
        Classifier(engines=[engine], tokenizer=_tokenizer(), model=facts)
    with Classifier(engines=[_open(tiny, length=4)], tokenizer=_tokenizer(), model=facts) as classifier:
        assert len(classifier(("good", "bad"))) == len(classifier("a good film")) == 3


# --- several lengths

FACTS = ModelFacts(task="classification", labels=("a", "b", "c"), max_length=24)
LENGTHS = (4, 8, 16, 24)


def _words(count: int) -> str:
    """A text of `count` tokens, [CLS] and [SEP] included."""
    return " ".join(["a", "good", "bad", "film", "very"][i % 5] for i in range(count - 2))


def _texts(rng: np.random.Generator, count: int) -> list[str]:
    return [_words(int(n)) for n in rng.integers(2, 33, size=count)]


def _counts(engine: NumpyEngine) -> list[list[int]]:
    """Tokens of each row of each batch."""
    return [feeds["attention_mask"].sum(axis=1).tolist() for feeds in engine.fed]


def test_each_text_goes_to_the_shortest_engine_that_holds_it(tiny: Any) -> None:
    engines = [NumpyEngine(tiny, length=n) for n in (16, 4, 24, 8)]
    with Classifier(engines=engines, tokenizer=_tokenizer(), model=FACTS) as classifier:
        assert [x.target.shape.length for x in classifier.engines] == [4, 8, 16, 24]
        assert classifier.engine is engines[2]
        classifier([_words(n) for n in (2, 4, 5, 8, 9, 16, 17, 24, 25, 99)])
        assert [_counts(x) for x in classifier.engines] == [
            [[2], [4]],
            [[5], [8]],
            [[9], [16]],
            [[17], [24], [24], [24]],
        ]
    assert all(x.closed for x in engines)


@pytest.mark.parametrize("dynamic", [False, True])
@pytest.mark.parametrize("batch", [1, 3, 8])
def test_a_list_is_answered_in_order_and_as_its_texts_alone(tiny: Any, batch: int, dynamic: bool) -> None:
    rng = np.random.default_rng(batch)
    engines = [NumpyEngine(tiny, batch=batch, length=n, dynamic=dynamic) for n in LENGTHS]
    single = Classifier(engines=[NumpyEngine(tiny, length=24)], tokenizer=_tokenizer(), model=FACTS)
    with Classifier(engines=engines, tokenizer=_tokenizer(), model=FACTS) as classifier:
        for count in (0, 1, 2, 5, 30):
            texts = _texts(rng, count)
            got = classifier.logits(texts)
            assert got.shape == (count, 3)
            for text, row in zip(texts, got, strict=True):
                np.testing.assert_allclose(row, classifier.logits([text])[0], atol=1e-5)
                np.testing.assert_allclose(row, single.logits([text])[0], atol=1e-5)


def test_lists_longer_than_what_is_tokenised_at_once(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runtime.classifier._CHUNK", 4)
    engines = [NumpyEngine(tiny, batch=3, length=n) for n in LENGTHS]
    texts = _texts(np.random.default_rng(5), 23)
    with Classifier(engines=engines, tokenizer=_tokenizer(), model=FACTS) as classifier:
        got = classifier.logits(texts)
        np.testing.assert_allclose(got, [classifier.logits([x])[0] for x in texts], atol=1e-5)


def test_batches_group_by_length_and_leftovers_join_a_longer_batch_with_room(tiny: Any) -> None:
    engines = [NumpyEngine(tiny, batch=4, length=n) for n in LENGTHS]
    with Classifier(engines=engines, tokenizer=_tokenizer(), model=FACTS) as classifier:
        classifier.logits([_words(n) for n in (3, 20, 3, 3, 21, 4, 4, 7)])
    # A full batch of the shortest; its fifth joins the one of length 8, and both the two of length 20 and 21.
    assert _counts(engines[0]) == [[3, 3, 3, 4]]
    assert _counts(engines[1]) == []
    assert sorted(_counts(engines[3])[0]) == [4, 7, 20, 21]
    with Classifier(engines=engines, tokenizer=_tokenizer(), model=FACTS) as classifier:
        classifier.logits([_words(n) for n in (3, 3, 22, 22, 22)])
    assert _counts(engines[0])[1:] == [[3, 3, 3, 3]]  # two do not fit beside three
    assert _counts(engines[3])[1:] == [[22, 22, 22, 22]]


def test_dynamic_engines_take_exact_lengths_and_alike_ones_together(tiny: Any) -> None:
    engine = NumpyEngine(tiny, batch=2, length=24, dynamic=True)
    with Classifier(engines=[engine], tokenizer=_tokenizer(), model=FACTS) as classifier:
        classifier("")
        classifier(_words(9))
        classifier.logits([_words(n) for n in (20, 3, 19, 4, 30)])
    shapes = [feeds["input_ids"].shape for feeds in engine.fed]
    assert shapes == [(1, 2), (1, 9), (2, 4), (2, 20), (1, 24)]


def test_token_types_of_pairs_reach_every_bucket(make_tiny: Any) -> None:
    model = make_tiny(token_types=True)
    engines = [NumpyEngine(model, batch=2, length=n) for n in LENGTHS]
    pairs = [("good", "bad"), ("a", "very " * 9), ("good film " * 5, "bad"), ("a " * 30, "bad " * 30)]
    single = Classifier(engines=[NumpyEngine(model, length=24)], tokenizer=_tokenizer(), model=FACTS)
    with Classifier(engines=engines, tokenizer=_tokenizer(), model=FACTS) as classifier:
        got = classifier.logits(pairs)
    np.testing.assert_allclose(got, single.logits(pairs), atol=1e-5)
    assert any(feeds["token_type_ids"].any() for x in engines for feeds in x.fed)


def test_one_engine_for_each_length(tiny: Any) -> None:
    for engines in ([], [NumpyEngine(tiny), NumpyEngine(tiny, batch=2)]):
        with pytest.raises(UnsupportedTarget, match="one engine for each length"):
            Classifier(engines=engines, tokenizer=_tokenizer(), model=FACTS)


@pytest.fixture(scope="module")
def buckets(tmp_path_factory: pytest.TempPathFactory, make_tiny: Any) -> Path:
    """OpenVINO and ONNX Runtime with three lengths each, OpenVINO in batches of two as well."""
    folder, model = tmp_path_factory.mktemp("buckets"), make_tiny()
    entries = []
    for name, batch, length in [
        ("openvino", 1, 24), ("openvino", 2, 24), ("openvino", 1, 8), ("openvino", 1, 16), ("openvino", 2, 8),
        ("onnxruntime", 3, 24), ("onnxruntime", 3, 16), ("onnxruntime", 3, 8),
    ]:  # fmt: skip
        target = EngineTarget(backend=name, precision="f32", shape=Shape(batch=batch, length=length))
        artifact = backend(name).compile(model.onnx, target, folder / name)
        entries.append(
            EngineEntry(target=target, artifact=artifact.relative_to(folder).as_posix(), effective_precision="f32")
        )
    _tokenizer().save(str(folder / "tokenizer.json"))
    write_manifest(folder, Manifest(name="tiny", model=FACTS, engines=tuple(entries)))
    return folder


@pytest.mark.parametrize(
    ("wanted", "labels"),
    [
        (None, [f"openvino-CPU-f32-b1-l{n}-t1" for n in (8, 16, 24)]),
        ("openvino", [f"openvino-CPU-f32-b1-l{n}-t1" for n in (8, 16, 24)]),
        ("openvino-CPU-f32-b2-t1", [f"openvino-CPU-f32-b2-l{n}-t1" for n in (8, 24)]),
        ("onnxruntime", [f"onnxruntime-CPU-f32-b3-l{n}-t1" for n in (8, 16, 24)]),
        ("openvino-CPU-f32-b1-l16-t1", ["openvino-CPU-f32-b1-l16-t1"]),
    ],
)
def test_all_lengths_of_the_chosen_engine_are_opened(buckets: Path, wanted: str | None, labels: list[str]) -> None:
    with Classifier.from_bundle(buckets, engine=wanted) as classifier:
        assert [x.target.label for x in classifier.engines] == labels


@pytest.mark.parametrize("name", ["openvino", "onnxruntime"])
def test_dynamic_engines_answer_what_static_ones_do(tiny: Any, name: str) -> None:
    target = EngineTarget(backend=name, precision="f32", shape=Shape(batch=4, length=24), dynamic=True)
    texts = _texts(np.random.default_rng(2), 11)
    reference = Classifier(engines=[NumpyEngine(tiny, length=24)], tokenizer=_tokenizer(), model=FACTS)
    opened = backend(name).open(tiny.onnx, target)
    with Classifier(engines=[opened], tokenizer=_tokenizer(), model=FACTS) as classifier:
        got = classifier.logits(texts)
        np.testing.assert_allclose(got, reference.logits(texts), atol=1e-4)
        np.testing.assert_allclose(got, [classifier.logits([x])[0] for x in texts], atol=1e-4)


@pytest.mark.parametrize("wanted", ["openvino", "openvino-CPU-f32-b2-t1", "onnxruntime"])
def test_every_length_answers_what_the_longest_does(buckets: Path, tiny: Any, wanted: str) -> None:
    texts = _texts(np.random.default_rng(1), 17)
    with Classifier.from_bundle(buckets, engine=wanted) as classifier:
        got = classifier.logits(texts)
        alone = [classifier.logits([x])[0] for x in texts]
        longest = Classifier(engines=[classifier.engine], tokenizer=_tokenizer(), model=FACTS)
        np.testing.assert_allclose(got, longest.logits(texts), atol=1e-4)
    np.testing.assert_allclose(got, alone, atol=1e-4)
    reference = Classifier(engines=[NumpyEngine(tiny, length=24)], tokenizer=_tokenizer(), model=FACTS)
    np.testing.assert_allclose(got, reference.logits(texts), atol=1e-4)


def test_an_engine_that_does_not_load_leaves_none_open(buckets: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[Any] = []
    load = ort_module.BACKEND.load

    def failing(artifact: Path, target: EngineTarget) -> Any:
        if target.shape.length == 24:
            raise BundleError("not this one")
        opened.append(load(artifact, target))
        return opened[-1]

    monkeypatch.setattr(ort_module.BACKEND, "load", failing)
    with pytest.raises(BundleError, match="not this one"):
        Classifier.from_bundle(buckets, engine="onnxruntime")
    assert len(opened) == 2
    for engine in opened:
        with pytest.raises(AtbRuntimeError, match="is closed"):
            engine.infer({})
