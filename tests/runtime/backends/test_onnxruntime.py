from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends.onnxruntime import BACKEND, FreeSession, session
from runtime.engine import infer_many
from runtime.errors import AtbRuntimeError, CompileError, UnsupportedTarget
from runtime.target import Shape

pytest.importorskip("onnxruntime")


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_floats_are_f32(precision: str, tiny: Any, target_for: Any) -> None:
    with pytest.raises(UnsupportedTarget, match=f"in f32 or int8 on CPU, got {precision}"):
        BACKEND.open(tiny.onnx, target_for("onnxruntime", precision=precision))
    with BACKEND.open(tiny.onnx, target_for("onnxruntime", precision="auto")) as engine:
        assert engine.effective_precision == "f32"


def test_products_of_int8_stay_int8_at_a_fixed_shape(quantised: Any, target_for: Any, monkeypatch: Any) -> None:
    """ONNX Runtime's own fusion of a product with its bias would undo them; what is read back tells."""
    BACKEND.open(quantised.onnx, target_for("onnxruntime", precision="int8")).close()
    monkeypatch.setattr(session, "_KEEPS_INT8_APART", [])
    with pytest.raises(UnsupportedTarget, match=r"runs 0 products of this model in int8 and dequantises \d+ tensors"):
        BACKEND.open(quantised.onnx, target_for("onnxruntime", precision="int8"))


def test_no_profile_is_left(quantised: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    target = target_for("onnxruntime", precision="int8")
    with BACKEND.open(quantised.onnx, target) as engine:
        engine.infer(quantised.feeds(target.shape))
    assert list(tmp_path.iterdir()) == []


def test_a_free_session_takes_any_shape(tiny: Any, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(tiny.onnx)
    for free in (FreeSession(tiny.onnx, optimised=True), FreeSession(tmp_path / "m.onnx", optimised=False)):
        assert free.inputs == ("input_ids", "attention_mask")
        for batch, length in ((1, 5), (3, 8)):
            feeds = tiny.feeds(Shape(batch=batch, length=length))
            np.testing.assert_allclose(free.run(feeds)["logits"], tiny.logits(feeds), atol=1e-4, rtol=1e-5)
    with pytest.raises(CompileError, match="is not an ONNX model"):
        FreeSession(b"nothing", optimised=False)


def test_threads_are_explicit_and_do_not_spin(tiny: Any, target_for: Any) -> None:
    engine = BACKEND.open(tiny.onnx, target_for("onnxruntime", threads=1))
    options = engine._session.get_session_options()
    assert options.intra_op_num_threads == 1
    assert options.inter_op_num_threads == 1
    assert options.get_session_config_entry("session.intra_op.allow_spinning") == "0"
    assert engine._session.get_providers() == ["CPUExecutionProvider"]


def test_free_dimensions_are_fixed_inside_the_session(tiny: Any, target_for: Any) -> None:
    engine = BACKEND.open(tiny.onnx, target_for("onnxruntime", batch=2, length=8))
    assert [tuple(x.shape) for x in engine._session.get_inputs()] == [(2, 8), (2, 8)]


def test_the_artifact_is_the_onnx_itself(tiny: Any, target_for: Any, tmp_path: Path) -> None:
    assert BACKEND.compile(tiny.onnx, target_for("onnxruntime"), tmp_path).read_bytes() == tiny.onnx


def test_weights_outside_the_file_are_refused(tiny: Any, target_for: Any, tmp_path: Path) -> None:
    import onnx

    model = onnx.load_from_string(tiny.onnx)
    path = tmp_path / "m.onnx"
    onnx.save_model(model, path, save_as_external_data=True, location="m.data", size_threshold=64)
    assert (tmp_path / "m.data").is_file()
    for act in (BACKEND.open, BACKEND.load):
        with act(path, target_for("onnxruntime")) as engine:
            assert engine.infer(tiny.feeds(engine.target.shape))["logits"].shape == (2, 3)
    for source in (path, path.read_bytes()):  # neither a copy in another folder nor bytes bring them along
        with pytest.raises(CompileError, match=r"'m\.data', which does not come with it"):
            BACKEND.compile(source, target_for("onnxruntime"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


class _Cuda:
    """ONNX Runtime as it is where CUDA is: a session that is asked for it says so; the CPU computes."""

    def __init__(self, real: Any, *, falls_back: bool = False) -> None:
        self._real, self.falls_back, self.asked = real, falls_back, []

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    def get_available_providers(self) -> list[str]:
        return ["CUDAExecutionProvider", "CPUExecutionProvider"]

    def InferenceSession(self, source: Any, options: Any, *, providers: list[Any], **rest: Any) -> Any:
        self.asked.append(providers)
        found = self._real.InferenceSession(source, options, providers=providers[-1:], **rest)
        if len(providers) > 1 and not self.falls_back:
            found.get_providers = lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"]
            found.get_provider_options = lambda: {providers[0][0]: providers[0][1], "CPUExecutionProvider": {}}
        return found


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> _Cuda:
    pretended = _Cuda(session.onnxruntime())
    monkeypatch.setattr(session, "onnxruntime", lambda: pretended)
    return pretended


@pytest.mark.parametrize(
    ("asked", "half", "effective", "tf32"),
    [("f32", False, "f32", "0"), ("auto", False, "tf32", "1"), ("f16", True, "f16", "0"), ("auto", True, "f16", "1")],
)
def test_cuda_says_what_it_rounds_to(
    asked: str, half: bool, effective: str, tf32: str, cuda: _Cuda, make_tiny: Any, target_for: Any
) -> None:
    assert BACKEND.precisions("CUDA") == ("f32", "bf16", "f16")
    target = target_for("onnxruntime", device="CUDA", precision=asked, threads=500)  # threads are the CPU's
    with BACKEND.open(make_tiny(half=half, scale=0.3).onnx, target) as engine:
        assert engine.effective_precision == effective
    assert all(x[0] == ("CUDAExecutionProvider", {"device_id": "0", "use_tf32": tf32}) for x in cuda.asked)


def test_cuda_is_never_replaced_by_the_cpu(
    cuda: _Cuda, tiny: Any, quantised: Any, make_tiny: Any, target_for: Any
) -> None:
    with pytest.raises(UnsupportedTarget, match=r"asked for f16, but the model's weights are f32"):
        BACKEND.open(tiny.onnx, target_for("onnxruntime", device="CUDA", precision="f16"))
    with pytest.raises(UnsupportedTarget, match=r"asked for f32, but the model's weights are f16"):
        BACKEND.open(make_tiny(half=True).onnx, target_for("onnxruntime", device="CUDA", precision="f32"))
    with pytest.raises(UnsupportedTarget, match="no int8 products on CUDA"):
        BACKEND.open(quantised.onnx, target_for("onnxruntime", device="CUDA"))
    cuda.falls_back = True
    with pytest.raises(UnsupportedTarget, match="answers a request for CUDA with CPUExecutionProvider"):
        BACKEND.open(tiny.onnx, target_for("onnxruntime", device="CUDA"))


def test_a_package_without_cuda_says_which_has_it(tiny: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "devices", lambda: ("CPU",))
    assert BACKEND.precisions("CUDA") == ()
    with pytest.raises(UnsupportedTarget, match=r"has no CUDA, it has CPU: pip install onnxruntime-gpu"):
        BACKEND.open(tiny.onnx, target_for("onnxruntime", device="CUDA"))


def test_many_answers_and_clones(tiny: Any, target_for: Any) -> None:
    target = target_for("onnxruntime")
    feeds = [tiny.feeds(target.shape, seed=seed) for seed in range(3)]
    engine = BACKEND.open(tiny.onnx, target)
    with engine.clone() as other:
        engine.close()
        for got, one in zip(infer_many(other, feeds), feeds, strict=True):
            np.testing.assert_allclose(got["logits"], tiny.logits(one), atol=1e-4, rtol=1e-5)
    with pytest.raises(AtbRuntimeError, match="is closed"):
        engine.clone()


def test_int8_of_any_shape(quantised: Any, target_for: Any) -> None:
    target = target_for("onnxruntime", precision="int8", batch=4, length=8, dynamic=True)
    with BACKEND.open(quantised.onnx, target) as engine:
        assert engine.effective_precision == "int8"
        for shape in (Shape(batch=1, length=3), Shape(batch=4, length=8)):
            feeds = quantised.feeds(shape)
            np.testing.assert_allclose(engine.infer(feeds)["logits"], quantised.logits(feeds), atol=1e-4, rtol=1e-4)
