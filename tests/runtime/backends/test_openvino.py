from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from runtime.backends import openvino as module
from runtime.errors import CompileError, UnsupportedTarget

pytest.importorskip("openvino")
BACKEND = module.BACKEND


def _has(capability: str) -> bool:
    return capability in module._core().get_property("CPU", "OPTIMIZATION_CAPABILITIES")


def _error(tiny: Any, target: Any) -> tuple[str, float]:
    feeds = tiny.feeds(target.shape)
    with BACKEND.open(tiny.onnx, target) as engine:
        return engine.effective_precision, float(np.abs(engine.infer(feeds)["logits"] - tiny.logits(feeds)).max())


def test_the_precision_read_back_is_the_one_computed_in(tiny: Any, target_for: Any) -> None:
    precision, error = _error(tiny, target_for("openvino", precision="f32"))
    assert precision == "f32"
    assert error < 1e-4
    if not _has("BF16"):
        pytest.skip("this CPU has no bf16")
    precision, error = _error(tiny, target_for("openvino", precision="bf16"))
    assert precision == "bf16"
    assert 1e-3 < error < 1.0


def test_int8_is_read_from_the_kernels(quantised: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_EIGHT_BITS", set())
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
    precision, error = _error(tiny, target_for("openvino", precision="auto"))
    assert (precision == "f32") == (not _has("BF16") and not _has("FP16"))
    assert (error < 1e-4) == (precision == "f32")


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_a_precision_the_cpu_lacks_is_refused(
    precision: str, tiny: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(module, "_capabilities", lambda _: frozenset({"FP32", "INT8"}))
    for act in (BACKEND.open, lambda onnx, target: BACKEND.compile(onnx, target, tmp_path)):
        with pytest.raises(UnsupportedTarget, match=rf"no {precision} here; it has f32"):
            act(tiny.onnx, target_for("openvino", precision=precision))
    BACKEND.open(tiny.onnx, target_for("openvino", precision="f32")).close()


def test_a_backend_that_answers_another_precision_is_refused(
    tiny: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    if _has("FP16"):
        pytest.skip("this CPU computes in f16")
    # The CPU claims f16, then falls back in silence: the value read back tells.
    monkeypatch.setattr(module, "_capabilities", lambda _: frozenset({"FP16", "FP32"}))
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


def test_the_core_is_made_once() -> None:
    assert module._core() is module._core()


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


def test_an_answer_of_free_size_is_refused(target_for: Any) -> None:
    with pytest.raises(CompileError, match="keeps a free size"):
        BACKEND.open(_one_node("NonZero", onnx.TensorProto.INT64, ["a", "b"]), target_for("openvino"))


def test_errors_of_the_compiler_are_told(target_for: Any) -> None:
    bad = _one_node("Softmax", onnx.TensorProto.FLOAT, ["batch", "sequence"], domain="nowhere")
    with pytest.raises(CompileError, match=r"openvino-CPU-auto-b2-l8-t1|cannot read"):
        BACKEND.open(bad, target_for("openvino"))
    with pytest.raises(CompileError, match=r"cannot compile the model for openvino-CPU-auto-b2-l8-t1"):
        # Five rows cannot be added to two: the shapes clash only once they are fixed.
        BACKEND.open(_one_node("Add", onnx.TensorProto.INT64, ["batch", 8], five=True), target_for("openvino"))


def _one_node(kind: str, dtype: int, dims: list[Any], *, domain: str = "", five: bool = False) -> bytes:
    helper = onnx.helper
    five_rows = onnx.numpy_helper.from_array(np.ones((5, 8), np.int64), "five")
    node = helper.make_node(kind, ["input_ids", *["five"] * five], ["logits"], domain=domain)
    graph = helper.make_graph(
        [node],
        "one",
        [helper.make_tensor_value_info("input_ids", onnx.TensorProto.INT64, ["batch", "sequence"])],
        [helper.make_tensor_value_info("logits", dtype, dims)],
        [five_rows] * five,
    )
    opsets = [helper.make_opsetid("", 17)] + [helper.make_opsetid(domain, 1)] * bool(domain)
    return bytes(helper.make_model(graph, opset_imports=opsets, ir_version=9).SerializeToString())


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
