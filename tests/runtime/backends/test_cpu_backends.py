"""What OpenVINO and ONNX Runtime must do alike, on a real small model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from runtime.engine import Engine, backend, infer_many, usable_cpus
from runtime.errors import AtbRuntimeError, BackendUnavailable, CompileError, FeedError, UnsupportedTarget
from runtime.target import PRECISIONS, Shape

NAMES = ("openvino", "onnxruntime")


@pytest.fixture(params=NAMES)
def name(request: pytest.FixtureRequest) -> str:
    pytest.importorskip(request.param)
    return str(request.param)


def test_they_work_here(name: str) -> None:
    assert backend(name).unavailable() is None
    assert backend(name).can_run() is None


@pytest.mark.parametrize(("batch", "length"), [(1, 8), (3, 8), (2, 5)])
def test_engines_answer_what_the_model_answers(name: str, tiny: Any, target_for: Any, batch: int, length: int) -> None:
    target = target_for(name, precision="f32", batch=batch, length=length)
    feeds = tiny.feeds(target.shape)
    with backend(name).open(tiny.onnx, target) as engine:
        assert isinstance(engine, Engine)
        assert engine.target == target
        assert engine.effective_precision == "f32"
        assert [(x.name, x.dtype, x.shape) for x in engine.inputs] == [
            ("input_ids", "int64", (batch, length)),
            ("attention_mask", "int64", (batch, length)),
        ]
        outputs = engine.infer(feeds)
    assert set(outputs) == {"logits"}
    assert outputs["logits"].dtype == np.float32
    np.testing.assert_allclose(outputs["logits"], tiny.logits(feeds), atol=1e-4, rtol=1e-5)


def test_a_batch_answers_what_its_rows_answer_alone(name: str, tiny: Any, target_for: Any) -> None:
    feeds = tiny.feeds(Shape(batch=4, length=8))
    with backend(name).open(tiny.onnx, target_for(name, precision="f32", batch=4)) as engine:
        together = engine.infer(feeds)["logits"]
    with backend(name).open(tiny.onnx, target_for(name, precision="f32", batch=1)) as engine:
        alone = [engine.infer({k: v[i : i + 1] for k, v in feeds.items()})["logits"][0] for i in range(4)]
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_answers_stay_when_the_engine_runs_again(name: str, tiny: Any, target_for: Any) -> None:
    target = target_for(name)
    with backend(name).open(tiny.onnx, target) as engine:
        first = engine.infer(tiny.feeds(target.shape, seed=1))["logits"]
        kept = first.copy()
        second = engine.infer(tiny.feeds(target.shape, seed=2))["logits"]
    np.testing.assert_array_equal(first, kept)
    assert np.abs(second - first).max() > 0.1


def test_feeds_need_not_be_contiguous_and_are_not_changed(name: str, tiny: Any, target_for: Any) -> None:
    target = target_for(name)
    feeds = tiny.feeds(target.shape)
    turned = {key: np.asfortranarray(value) for key, value in feeds.items()}
    for value in turned.values():
        value.flags.writeable = False
    with backend(name).open(tiny.onnx, target) as engine:
        np.testing.assert_array_equal(engine.infer(feeds)["logits"], engine.infer(turned)["logits"])


def test_compiled_files_answer_the_same(name: str, tiny: Any, target_for: Any, tmp_path: Path) -> None:
    target = target_for(name, precision="f32")
    feeds = tiny.feeds(target.shape)
    artifact = backend(name).compile(tiny.onnx, target, tmp_path / "out")
    assert artifact.parent == tmp_path / "out"
    want = {"openvino": ["model.bin", "model.xml"], "onnxruntime": ["model.onnx"]}[name]
    assert sorted(path.name for path in artifact.parent.iterdir()) == want
    with backend(name).load(artifact, target) as loaded, backend(name).open(tiny.onnx, target) as opened:
        assert loaded.effective_precision == "f32"
        # Weights rounded to half precision on the way to the disk would differ by a hundred times more.
        np.testing.assert_allclose(loaded.infer(feeds)["logits"], opened.infer(feeds)["logits"], atol=1e-5)


def test_compiled_files_serve_other_shapes_too(name: str, tiny: Any, target_for: Any, tmp_path: Path) -> None:
    artifact = backend(name).compile(tiny.onnx, target_for(name, batch=1, length=16), tmp_path)
    other = target_for(name, precision="f32", batch=3, length=6)
    feeds = tiny.feeds(other.shape)
    with backend(name).load(artifact, other) as engine:
        np.testing.assert_allclose(engine.infer(feeds)["logits"], tiny.logits(feeds), atol=1e-4, rtol=1e-5)


def test_a_file_opens_as_its_bytes_do(name: str, tiny: Any, target_for: Any, tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    path.write_bytes(tiny.onnx)
    target = target_for(name)
    feeds = tiny.feeds(target.shape)
    with backend(name).open(path, target) as a, backend(name).open(tiny.onnx, target) as b:
        np.testing.assert_array_equal(a.infer(feeds)["logits"], b.infer(feeds)["logits"])
    assert backend(name).compile(path, target, tmp_path / "out").is_file()


def test_wrong_feeds_are_refused(name: str, tiny: Any, target_for: Any) -> None:
    target = target_for(name)
    feeds = tiny.feeds(target.shape)
    with backend(name).open(tiny.onnx, target) as engine:
        for wrong in (
            tiny.feeds(Shape(batch=1, length=8)),
            tiny.feeds(Shape(batch=2, length=9)),
            {**feeds, "input_ids": feeds["input_ids"].astype(np.int32)},
            {**feeds, "extra": feeds["input_ids"]},
            {"input_ids": feeds["input_ids"]},
        ):
            with pytest.raises(FeedError, match="the engine takes input_ids"):
                engine.infer(wrong)
        assert engine.infer(feeds)["logits"].shape == (2, 3)


def test_a_closed_engine_says_so(name: str, tiny: Any, target_for: Any) -> None:
    target = target_for(name)
    engine = backend(name).open(tiny.onnx, target)
    engine.close()
    engine.close()
    with pytest.raises(AtbRuntimeError, match=rf"{target.label} is closed"):
        engine.infer(tiny.feeds(target.shape))


@pytest.mark.parametrize("bad", [b"", b"rubbish", "half"])
def test_what_is_not_onnx_is_refused(name: str, tiny: Any, target_for: Any, tmp_path: Path, bad: Any) -> None:
    content = tiny.onnx[: len(tiny.onnx) // 2] if bad == "half" else bad
    with pytest.raises(CompileError):
        backend(name).open(content, target_for(name))
    with pytest.raises(CompileError):
        backend(name).compile(content, target_for(name), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*")) if (tmp_path / "out").exists() else True


def test_a_missing_file_is_told(name: str, target_for: Any, tmp_path: Path) -> None:
    for act in (backend(name).open, backend(name).load):
        with pytest.raises(CompileError, match=r"no model file .*nowhere\.onnx"):
            act(tmp_path / "nowhere.onnx", target_for(name))
    with pytest.raises(CompileError, match=r"no model file .*nowhere\.onnx"):
        backend(name).compile(tmp_path / "nowhere.onnx", target_for(name), tmp_path / "out")


def test_a_model_with_fixed_dimensions(name: str, make_tiny: Any, target_for: Any) -> None:
    fixed = make_tiny(dims=(2, 8))
    target = target_for(name, precision="f32", batch=2, length=8)
    feeds = fixed.feeds(target.shape)
    with backend(name).open(fixed.onnx, target) as engine:
        np.testing.assert_allclose(engine.infer(feeds)["logits"], fixed.logits(feeds), atol=1e-4, rtol=1e-5)
    with pytest.raises(UnsupportedTarget, match="sequence 16, but the model fixes input_ids at 8"):
        backend(name).open(fixed.onnx, target_for(name, batch=2, length=16))


def test_token_types_are_an_input_like_others(name: str, make_tiny: Any, target_for: Any) -> None:
    model = make_tiny(token_types=True)
    target = target_for(name, precision="f32")
    feeds = model.feeds(target.shape)
    with backend(name).open(model.onnx, target) as engine:
        np.testing.assert_allclose(engine.infer(feeds)["logits"], model.logits(feeds), atol=1e-4, rtol=1e-5)
        with pytest.raises(FeedError, match="token_type_ids is missing"):
            engine.infer({key: value for key, value in feeds.items() if key != "token_type_ids"})


def test_more_threads_than_cpus_are_refused(name: str, tiny: Any, target_for: Any) -> None:
    with pytest.raises(UnsupportedTarget, match="threads"):
        backend(name).open(tiny.onnx, target_for(name, threads=usable_cpus() + 1))


def test_int8_is_computed_as_the_graph_says(name: str, quantised: Any, target_for: Any, tmp_path: Path) -> None:
    target = target_for(name, precision="int8")
    feeds = quantised.feeds(target.shape)
    artifact = backend(name).compile(quantised.onnx, target, tmp_path / "out")
    for engine in (backend(name).open(quantised.onnx, target), backend(name).load(artifact, target)):
        with engine:
            assert engine.effective_precision == "int8"
            np.testing.assert_allclose(engine.infer(feeds)["logits"], quantised.logits(feeds), atol=1e-4, rtol=1e-4)


def test_int8_needs_a_quantised_model(name: str, tiny: Any, target_for: Any, tmp_path: Path) -> None:
    for act in (backend(name).open, lambda onnx, target: backend(name).compile(onnx, target, tmp_path / "out")):
        with pytest.raises(UnsupportedTarget, match=r"asked for int8.*carries no QuantizeLinear"):
            act(tiny.onnx, target_for(name, precision="int8"))
    assert not (tmp_path / "out").exists()


def test_a_quantised_model_is_not_passed_off_as_a_float_one(name: str, quantised: Any, target_for: Any) -> None:
    with pytest.raises(UnsupportedTarget, match=r"asked for f32.*the model is quantised; ask for int8|: ask for int8"):
        backend(name).open(quantised.onnx, target_for(name, precision="f32"))
    with backend(name).open(quantised.onnx, target_for(name, precision="auto")) as engine:
        assert engine.effective_precision == "int8"


def test_precisions_offered_are_those_that_open(name: str, tiny: Any, quantised: Any, target_for: Any) -> None:
    offered = backend(name).precisions("CPU")
    assert {"f32", "int8"} <= set(offered)
    for precision in PRECISIONS:
        model = quantised if precision == "int8" else tiny
        if precision in (*offered, "auto"):
            with backend(name).open(model.onnx, target_for(name, precision=precision)) as engine:
                assert engine.effective_precision in offered
        else:
            with pytest.raises(UnsupportedTarget, match=precision):
                backend(name).open(model.onnx, target_for(name, precision=precision))
    assert backend(name).precisions("TPU") == ()


def test_dynamic_engines_take_any_shape_up_to_theirs(name: str, tiny: Any, target_for: Any, tmp_path: Path) -> None:
    target = target_for(name, precision="f32", batch=4, length=12, dynamic=True)
    artifact = backend(name).compile(tiny.onnx, target, tmp_path / "out")
    for engine in (backend(name).open(tiny.onnx, target), backend(name).load(artifact, target)):
        with engine:
            assert [x.shape for x in engine.inputs] == [("batch", "sequence")] * 2
            for dims in ((1, 1), (4, 12), (3, 5), (1, 12), (4, 12), (2, 7)):
                feeds = tiny.feeds(Shape(batch=dims[0], length=dims[1]))
                got = engine.infer(feeds)["logits"]
                np.testing.assert_allclose(got, tiny.logits(feeds), atol=1e-4, rtol=1e-5)
            shapes = [Shape(batch=1 + i % 4, length=4 + i) for i in range(9)]
            for got, shape in zip(infer_many(engine, map(tiny.feeds, shapes)), shapes, strict=True):
                np.testing.assert_allclose(got["logits"], tiny.logits(tiny.feeds(shape)), atol=1e-4, rtol=1e-5)
            for dims in ((5, 12), (4, 13)):
                with pytest.raises(FeedError, match="with batch up to 4 and sequence up to 12"):
                    engine.infer(tiny.feeds(Shape(batch=dims[0], length=dims[1])))
            mixed = {**tiny.feeds(Shape(batch=2, length=6)), "attention_mask": np.ones((2, 5), np.int64)}
            with pytest.raises(FeedError, match=r"attention_mask is int64.2, 5.*one size for all inputs"):
                engine.infer(mixed)


def test_of_a_dynamic_target_what_the_model_fixes_stays_fixed(name: str, make_tiny: Any, target_for: Any) -> None:
    fixed = make_tiny(dims=(2, "sequence"))
    target = target_for(name, precision="f32", batch=2, length=8, dynamic=True)
    with backend(name).open(fixed.onnx, target) as engine:
        assert [x.shape for x in engine.inputs] == [(2, "sequence")] * 2
        feeds = fixed.feeds(Shape(batch=2, length=5))
        np.testing.assert_allclose(engine.infer(feeds)["logits"], fixed.logits(feeds), atol=1e-4, rtol=1e-5)
        with pytest.raises(FeedError):
            engine.infer(fixed.feeds(Shape(batch=1, length=5)))


def test_custom_operators_never_reach_the_engine(
    name: str, tiny: Any, target_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = onnx.load_from_string(tiny.onnx)
    model.graph.node[0].domain = "my.own"
    model.opset_import.append(onnx.helper.make_opsetid("my.own", 1))
    given = {"openvino": "openvino.Core.read_model", "onnxruntime": "onnxruntime.InferenceSession"}[name]
    monkeypatch.setattr(given, lambda *_, **__: pytest.fail("the library was given it"))
    for act in (backend(name).open, lambda data, target: backend(name).compile(data, target, tmp_path / "out")):
        with pytest.raises(CompileError, match=r"custom operators: my\.own::Add; an engine takes those of ONNX"):
            act(model.SerializeToString(), target_for(name))


def test_unknown_devices_are_refused(name: str, tiny: Any, target_for: Any) -> None:
    with pytest.raises(UnsupportedTarget, match="TPU"):
        backend(name).open(tiny.onnx, target_for(name, device="TPU"))


def test_a_missing_package_says_how_to_get_it(
    name: str, tiny: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for reason in (backend(name).unavailable(), backend(name).can_run()):
        assert reason is not None
        assert f"pip install 'atb-export[{name}]'" in reason
    with pytest.raises(BackendUnavailable, match="pip install"):
        backend(name).open(tiny.onnx, target_for(name))
    with pytest.raises(BackendUnavailable, match="pip install"):
        backend(name).compile(tiny.onnx, target_for(name), tmp_path)


def test_a_package_that_does_not_start_is_unavailable(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: Any) -> Any:
        raise OSError("libstdc++ is too old")

    starts = {"openvino": "core.core", "onnxruntime": "session.onnxruntime"}[name]
    monkeypatch.setattr(f"runtime.backends.{name}.{starts}", broken)
    assert "libstdc++ is too old" in str(backend(name).unavailable())
