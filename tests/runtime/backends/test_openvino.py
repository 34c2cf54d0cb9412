from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from runtime.backends.openvino import BACKEND, core, precision
from runtime.backends.openvino import backend as module
from runtime.engine import ParallelEngine, infer_many, usable_cpus
from runtime.errors import AtbRuntimeError, CompileError, FeedError, UnsupportedTarget
from runtime.target import Shape

pytest.importorskip("openvino")


def _has(capability: str) -> bool:
    return capability in core.capabilities("CPU")


def _error(tiny: Any, target: Any) -> tuple[str, float]:
    feeds = tiny.feeds(target.shape)
    with BACKEND.open(tiny.onnx, target) as engine:
        return engine.effective_precision, float(np.abs(engine.infer(feeds)["logits"] - tiny.logits(feeds)).max())


def test_the_precision_read_back_is_the_one_computed_in(tiny: Any, target_for: Any) -> None:
    found, error = _error(tiny, target_for("openvino", precision="f32"))
    assert found == "f32"
    assert error < 1e-4
    if not _has("BF16"):
        pytest.skip("this CPU has no bf16")
    found, error = _error(tiny, target_for("openvino", precision="bf16"))
    assert found == "bf16"
    assert 1e-3 < error < 1.0


def test_int8_is_read_from_the_kernels(quantised: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(precision, "_EIGHT_BITS", set())
    with pytest.raises(
        UnsupportedTarget, match="asked for int8, but CPU computes in f32: it reports int8 kernels for no more"
    ):
        BACKEND.open(quantised.onnx, target_for("openvino", precision="int8"))


def test_int8_weights_are_bytes_on_disk(quantised: Any, target_for: Any, tmp_path: Path) -> None:
    artifact = BACKEND.compile(quantised.onnx, target_for("openvino", precision="int8"), tmp_path)
    numbers = {name: quantised.weights[name].size for name in ("table", "w1", "w2")}
    size = artifact.with_name("model.bin").stat().st_size
    assert size < 4 * (numbers["table"] + 200) + numbers["w1"] + numbers["w2"]


def test_auto_says_what_it_became(tiny: Any, target_for: Any) -> None:
    found, error = _error(tiny, target_for("openvino", precision="auto"))
    assert (found == "f32") == (not _has("BF16") and not _has("FP16"))
    assert (error < 1e-4) == (found == "f32")


@pytest.mark.parametrize("lacked", ["bf16", "f16"])
def test_a_precision_the_cpu_lacks_is_refused(
    lacked: str, tiny: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(core, "capabilities", lambda _: frozenset({"FP32", "INT8"}))
    for act in (BACKEND.open, lambda onnx, target: BACKEND.compile(onnx, target, tmp_path)):
        with pytest.raises(UnsupportedTarget, match=rf"no {lacked} here; it has f32"):
            act(tiny.onnx, target_for("openvino", precision=lacked))
    BACKEND.open(tiny.onnx, target_for("openvino", precision="f32")).close()


def test_a_backend_that_answers_another_precision_is_refused(
    tiny: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if _has("FP16"):
        pytest.skip("this CPU computes in f16")
    # The CPU claims f16, then falls back in silence: the value read back tells.
    monkeypatch.setattr(core, "capabilities", lambda _: frozenset({"FP16", "FP32"}))
    with pytest.raises(UnsupportedTarget, match=r"asked for f16, but CPU computes in (f32|bf16)"):
        BACKEND.open(tiny.onnx, target_for("openvino", precision="f16"))


def test_threads_and_streams_are_the_targets(tiny: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = {}
    build = module.OpenVinoEngine

    def spy(compiled: Any, *rest: Any, **names: Any) -> Any:
        for name in ("INFERENCE_NUM_THREADS", "NUM_STREAMS", "PERFORMANCE_HINT", "ENABLE_CPU_PINNING"):
            seen[name] = compiled.get_property(name)
        return build(compiled, *rest, **names)

    monkeypatch.setattr(module, "OpenVinoEngine", spy)
    BACKEND.open(tiny.onnx, target_for("openvino", threads=1)).close()
    assert int(seen["INFERENCE_NUM_THREADS"]) == 1
    assert int(seen["NUM_STREAMS"]) == 1
    assert "LATENCY" in str(seen["PERFORMANCE_HINT"])
    assert seen["ENABLE_CPU_PINNING"] is False


def test_for_throughput_every_thread_is_a_stream(target_for: Any, tmp_path: Path) -> None:
    target = target_for("openvino", threads=6)
    options = core.compile_options(target, hint="throughput", cache=tmp_path)
    assert (options["PERFORMANCE_HINT"], options["INFERENCE_NUM_THREADS"], options["NUM_STREAMS"]) == (
        "THROUGHPUT",
        6,
        6,
    )
    assert options["CACHE_DIR"] == str(tmp_path)
    assert "CACHE_DIR" not in core.compile_options(target, hint="latency", cache=None)


@pytest.mark.parametrize("hint", ["latency", "throughput"])
def test_many_answers_come_in_order(hint: Any, tiny: Any, target_for: Any) -> None:
    target = target_for("openvino", precision="f32", threads=min(2, usable_cpus()))
    feeds = [tiny.feeds(target.shape, seed=seed) for seed in range(17)]
    with BACKEND.open(tiny.onnx, target, hint=hint) as engine:
        assert isinstance(engine, ParallelEngine)
        for _ in range(2):  # the second time with the requests of the first
            found = list(infer_many(engine, iter(feeds)))
            assert len(found) == len(feeds)
            for got, one in zip(found, feeds, strict=True):
                np.testing.assert_allclose(got["logits"], tiny.logits(one), atol=1e-4, rtol=1e-5)
        assert list(engine.infer_many([])) == []


def test_what_was_answered_before_a_wrong_feed_stays(tiny: Any, target_for: Any) -> None:
    target = target_for("openvino", precision="f32")
    good = tiny.feeds(target.shape)
    with BACKEND.open(tiny.onnx, target) as engine:
        answers = engine.infer_many([good] * 5 + [tiny.feeds(Shape(batch=1, length=8))])
        first = next(answers)
        with pytest.raises(FeedError):
            list(answers)
        for stopped in (engine.infer_many([good] * 9), engine.infer_many([good] * 9)):
            next(stopped)  # the caller leaves; what is in flight must not disturb the next
            stopped.close()
        for got in (first, *engine.infer_many([good] * 4), engine.infer(good)):
            np.testing.assert_allclose(got["logits"], tiny.logits(good), atol=1e-4, rtol=1e-5)


def test_unknown_hints_are_refused(tiny: Any, target_for: Any) -> None:
    with pytest.raises(UnsupportedTarget, match="hint is one of latency, throughput, got 'fast'"):
        BACKEND.open(tiny.onnx, target_for("openvino"), hint="fast")  # type: ignore[arg-type]


def test_a_named_cache_is_used_and_need_not_be_sound(tiny: Any, target_for: Any, tmp_path: Path) -> None:
    target = target_for("openvino", precision="f32")
    feeds = tiny.feeds(target.shape)
    artifact = BACKEND.compile(tiny.onnx, target, tmp_path / "out", cache=tmp_path / "cache")
    BACKEND.load(artifact, target).close()
    assert not (tmp_path / "cache").exists()
    for spoil in (None, lambda data: data, lambda data: data[: len(data) // 2], lambda _: b""):
        if spoil is not None:
            (blob,) = (tmp_path / "cache").glob("*.blob")
            blob.write_bytes(spoil(blob.read_bytes()))
        with BACKEND.load(artifact, target, cache=tmp_path / "cache") as engine:
            assert engine.effective_precision == "f32"
            np.testing.assert_allclose(engine.infer(feeds)["logits"], tiny.logits(feeds), atol=1e-4, rtol=1e-5)


def test_a_clone_outlives_its_original(tiny: Any, target_for: Any) -> None:
    target = target_for("openvino", precision="f32")
    feeds = tiny.feeds(target.shape)
    engine = BACKEND.open(tiny.onnx, target)
    with engine.clone() as other:
        engine.close()
        np.testing.assert_allclose(other.infer(feeds)["logits"], tiny.logits(feeds), atol=1e-4, rtol=1e-5)
    for act in (engine.clone, lambda: engine.infer_many([feeds])):
        with pytest.raises(AtbRuntimeError, match="is closed"):
            act()


def test_the_core_is_made_once() -> None:
    assert core.core() is core.core()


def test_weights_on_disk_are_not_rounded(tiny: Any, target_for: Any, tmp_path: Path) -> None:
    artifact = BACKEND.compile(tiny.onnx, target_for("openvino"), tmp_path)
    numbers = sum(value.size for value in tiny.weights.values())
    assert artifact.with_name("model.bin").stat().st_size >= 4 * numbers


def test_a_missing_weights_file_is_told(tiny: Any, target_for: Any, tmp_path: Path) -> None:
    target = target_for("openvino")
    artifact = BACKEND.compile(tiny.onnx, target, tmp_path)
    artifact.with_name("model.bin").unlink()
    with pytest.raises(CompileError, match="cannot"):
        BACKEND.load(artifact, target)


@pytest.mark.parametrize("name", ["model.xml", "model.bin"])
def test_a_file_cut_short_is_told(name: str, tiny: Any, target_for: Any, tmp_path: Path) -> None:
    artifact = BACKEND.compile(tiny.onnx, target_for("openvino"), tmp_path)
    path = artifact.with_name(name)
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(CompileError, match="cannot read"):
        BACKEND.load(artifact, target_for("openvino"))


def test_an_answer_of_free_size_is_refused(target_for: Any) -> None:
    with pytest.raises(CompileError, match="keeps a free size"):
        BACKEND.open(_one_node("NonZero", onnx.TensorProto.INT64, ["a", "b"]), target_for("openvino"))


def test_errors_of_the_compiler_are_told(target_for: Any) -> None:
    with pytest.raises(CompileError, match=r"openvino-CPU-auto-b2-l8-t1|cannot read"):
        BACKEND.open(_one_node("Softmaxest", onnx.TensorProto.FLOAT, ["batch", "sequence"]), target_for("openvino"))
    with pytest.raises(CompileError, match=r"cannot compile the model for openvino-CPU-auto-b2-l8-t1"):
        # Five rows cannot be added to two: the shapes clash only once they are fixed.
        BACKEND.open(_one_node("Add", onnx.TensorProto.INT64, ["batch", 8], five=True), target_for("openvino"))


def _one_node(kind: str, dtype: int, dims: list[Any], *, five: bool = False) -> bytes:
    helper = onnx.helper
    five_rows = onnx.numpy_helper.from_array(np.ones((5, 8), np.int64), "five")
    node = helper.make_node(kind, ["input_ids", *["five"] * five], ["logits"])
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", dtype, dims)],
        [five_rows] * five,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    return bytes(model.SerializeToString())


@pytest.mark.parametrize(
    ("node", "names", "want"),
    [
        ("input_ids", {"ids", "input_ids"}, "input_ids"),
        ("logits/sink_port_0", {"dense", "logits"}, "logits"),
        ("Result_7", {"logits", "z"}, "logits"),
        ("x", set(), "x"),
    ],
)
def test_names_are_those_of_the_onnx(node: str, names: set[str], want: str) -> None:
    port = SimpleNamespace(
        get_node=lambda: SimpleNamespace(get_friendly_name=lambda: node), get_names=lambda: names, any_name="ids"
    )
    assert module._name(port) == want
