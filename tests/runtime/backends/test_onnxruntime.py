from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from runtime.backends import onnxruntime as module
from runtime.errors import CompileError, UnsupportedTarget

pytest.importorskip("onnxruntime")
BACKEND = module.BACKEND


@pytest.mark.parametrize("precision", ["bf16", "f16"])
def test_only_f32_is_offered(precision: str, tiny: Any, target_for: Any) -> None:
    with pytest.raises(UnsupportedTarget, match=f"in f32 on the CPU, got {precision}"):
        BACKEND.open(tiny.onnx, target_for("onnxruntime", precision=precision))
    with BACKEND.open(tiny.onnx, target_for("onnxruntime", precision="auto")) as engine:
        assert engine.effective_precision == "f32"


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
