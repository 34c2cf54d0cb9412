from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from runtime.backends import onnxruntime as module
from runtime.errors import CompileError, UnsupportedTarget

pytest.importorskip("onnxruntime")
BACKEND = module.BACKEND


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_floats_are_f32(precision: str, tiny: Any, target_for: Any) -> None:
    with pytest.raises(UnsupportedTarget, match=f"in f32 on the CPU, got {precision}"):
        BACKEND.open(tiny.onnx, target_for("onnxruntime", precision=precision))
    with BACKEND.open(tiny.onnx, target_for("onnxruntime", precision="auto")) as engine:
        assert engine.effective_precision == "f32"


def test_products_of_int8_stay_int8_at_a_fixed_shape(quantised: Any, target_for: Any, monkeypatch: Any) -> None:
    """ONNX Runtime's own fusion of a product with its bias would undo them; what is read back tells."""
    BACKEND.open(quantised.onnx, target_for("onnxruntime", precision="int8")).close()
    monkeypatch.setattr(module, "_KEEPS_INT8_APART", [])
    with pytest.raises(UnsupportedTarget, match=r"runs 0 products of this model in int8 and dequantises \d+ tensors"):
        BACKEND.open(quantised.onnx, target_for("onnxruntime", precision="int8"))


def test_no_profile_is_left(quantised: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(module.tempfile, "tempdir", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    target = target_for("onnxruntime", precision="int8")
    with BACKEND.open(quantised.onnx, target) as engine:
        engine.infer(quantised.feeds(target.shape))
    assert list(tmp_path.iterdir()) == []


def test_a_free_session_takes_any_shape(tiny: Any, tmp_path: Path) -> None:
    from runtime.target import Shape

    (tmp_path / "m.onnx").write_bytes(tiny.onnx)
    for session in (
        module.FreeSession(tiny.onnx, optimised=True),
        module.FreeSession(tmp_path / "m.onnx", optimised=False),
    ):
        assert session.inputs == ("input_ids", "attention_mask")
        for batch, length in ((1, 5), (3, 8)):
            feeds = tiny.feeds(Shape(batch=batch, length=length))
            np.testing.assert_allclose(session.run(feeds)["logits"], tiny.logits(feeds), atol=1e-4, rtol=1e-5)
    with pytest.raises(CompileError, match="cannot open the model"):
        module.FreeSession(b"nothing", optimised=False)


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
    onnx.save_model(model, path, save_as_external_data=True, location="m.data", size_threshold=0)
    assert (tmp_path / "m.data").is_file()
    with pytest.raises(CompileError, match="cannot open"):
        BACKEND.compile(path, target_for("onnxruntime"), tmp_path / "out")
    assert not (tmp_path / "out").exists()
