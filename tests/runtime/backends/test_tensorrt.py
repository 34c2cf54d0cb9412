"""Plans are built for real, on any machine; loading and running them is tried as far as one without a GPU goes."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import onnx
import pytest

from runtime.backends.tensorrt import BACKEND, PlanRecord, TensorRtBackend, builder, no_gpu
from runtime.backends.tensorrt import backend as module
from runtime.backends.tensorrt.record import REBUILD
from runtime.errors import BackendUnavailable, BundleError, CompileError, UnsupportedTarget
from runtime.target import EngineTarget, Shape

trt = pytest.importorskip("tensorrt_rtx")
NO_GPU = no_gpu()
needs_no_gpu = pytest.mark.skipif(NO_GPU is None, reason="this machine has a GPU")


def test_precisions_are_known_without_a_gpu() -> None:
    assert BACKEND.precisions("sm_89,sm_120") == ("f32", "bf16", "f16", "int8")


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory, make_tiny: Any) -> tuple[Path, Any]:
    target = EngineTarget(backend="tensorrt", device="sm_89,sm_120", precision="f32", shape=Shape(batch=2, length=8))
    return BACKEND.compile(make_tiny().onnx, target, tmp_path_factory.mktemp("plan")), target


@pytest.fixture
def copied(plan: tuple[Path, Any], tmp_path: Path) -> Path:
    for path in plan[0].parent.iterdir():
        (tmp_path / path.name).write_bytes(path.read_bytes())
    return tmp_path / plan[0].name


def test_it_builds_here() -> None:
    assert BACKEND.unavailable() is None
    assert BACKEND.can_run() == NO_GPU


def test_the_record_tells_what_was_built(plan: tuple[Path, Any], tiny: Any) -> None:
    path, target = plan
    assert sorted(x.name for x in path.parent.iterdir()) == ["model.plan", "plan.json"]
    data = json.loads((path.parent / "plan.json").read_text())
    assert data["flavour"] == "tensorrt_rtx"
    assert data["version"] == trt.__version__
    assert data["compute_capabilities"] == ["sm_89", "sm_120"]
    assert data["effective_precision"] == "f32"
    (profile,) = data["profiles"]
    want = {"min": [2, 8], "opt": [2, 8], "max": [2, 8]}
    assert profile == {"shape": {"batch": 2, "length": 8}, "ranges": {"input_ids": want, "attention_mask": want}}
    free = {"dtype": "int64", "shape": ["batch", "sequence"]}
    assert data["inputs"] == [{"name": "input_ids", **free}, {"name": "attention_mask", **free}]
    assert data["outputs"] == [{"name": "logits", "dtype": "float32", "shape": ["batch", 3]}]
    assert data["plan_sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert data["plan_bytes"] == path.stat().st_size > 10_000
    assert data["onnx_sha256"] == hashlib.sha256(tiny.onnx).hexdigest()
    record = PlanRecord.read(path.parent / "plan.json")
    assert record.target == target
    assert PlanRecord.from_json(record.to_json()) == record


def test_nothing_is_printed(tiny: Any, target_for: Any, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    BACKEND.compile(tiny.onnx, target_for("tensorrt", device="sm_89"), tmp_path)
    with pytest.raises(CompileError):
        BACKEND.compile(b"rubbish", target_for("tensorrt", device="sm_89"), tmp_path)
    assert capfd.readouterr() == ("", "")


def test_a_file_builds_as_its_bytes_do(tiny: Any, target_for: Any, tmp_path: Path) -> None:
    (tmp_path / "m.onnx").write_bytes(tiny.onnx)
    path = BACKEND.compile(tmp_path / "m.onnx", target_for("tensorrt", device="sm_89"), tmp_path / "out")
    data = json.loads((path.parent / "plan.json").read_text())
    assert data["onnx_sha256"] == hashlib.sha256(tiny.onnx).hexdigest()


def test_named_gpus_reach_the_builder(tiny: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[Any] = []
    original = builder.name_devices

    def spy(package: Any, config: Any, target: Any) -> Any:
        found = original(package, config, target)
        seen.extend(config.get_compute_capability(i) for i in range(config.num_compute_capabilities))
        return found

    monkeypatch.setattr(builder, "name_devices", spy)
    BACKEND._build(tiny.onnx, target_for("tensorrt", device="sm_86,sm_120"))
    assert seen == [trt.ComputeCapability.SM86, trt.ComputeCapability.SM120]


@pytest.mark.parametrize(
    ("precision", "half", "flag", "effective"),
    [
        ("f32", False, False, "f32"),
        ("auto", False, True, "tf32"),
        ("auto", True, True, "f16"),
        ("f16", True, True, "f16"),
    ],
)
def test_precision_is_that_of_the_onnx(
    precision: str,
    half: bool,
    flag: bool,
    effective: str,
    make_tiny: Any,
    target_for: Any,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[bool] = []
    original = builder._add_profile

    def spy(maker: Any, network: Any, config: Any, *rest: Any) -> Any:
        seen.append(config.get_flag(trt.BuilderFlag.TF32))
        return original(maker, network, config, *rest)

    monkeypatch.setattr(builder, "_add_profile", spy)
    target = target_for("tensorrt", device="sm_89", precision=precision)
    _, record = BACKEND._build(make_tiny(half=half).onnx, target)
    assert record.effective_precision == effective
    assert seen == [flag]


@pytest.mark.parametrize(
    ("precision", "half", "has"), [("f16", False, "f32"), ("bf16", True, "f16"), ("f32", True, "f16")]
)
def test_a_precision_the_onnx_lacks_is_refused(
    precision: str, half: bool, has: str, make_tiny: Any, target_for: Any, tmp_path: Path
) -> None:
    target = target_for("tensorrt", device="sm_89", precision=precision)
    with pytest.raises(UnsupportedTarget, match=rf"asks for {precision}, but the ONNX model computes in {has}"):
        BACKEND.compile(make_tiny(half=half).onnx, target, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("device", ["CPU", "sm_90", "sm_89,sm_1", "89"])
def test_unknown_gpus_are_refused_with_those_there_are(device: str, tiny: Any, target_for: Any, tmp_path: Path) -> None:
    with pytest.raises(
        UnsupportedTarget, match=rf"does not build for {device.rpartition(',')[2]}; it does for .*sm_89"
    ):
        BACKEND.compile(tiny.onnx, target_for("tensorrt", device=device), tmp_path)


def test_the_gpu_of_this_machine_needs_one_and_stands_alone(
    tiny: Any, target_for: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(UnsupportedTarget, match="stands alone"):
        BACKEND.compile(tiny.onnx, target_for("tensorrt", device="current,sm_89"), tmp_path)
    monkeypatch.setattr(builder, "no_gpu", lambda: "there is no GPU")
    with pytest.raises(BackendUnavailable, match="there is no GPU"):
        BACKEND.compile(tiny.onnx, target_for("tensorrt", device="current"), tmp_path)


def test_errors_of_the_parser_are_told(target_for: Any, tmp_path: Path, tiny: Any) -> None:
    model = onnx.load_from_string(tiny.onnx)
    model.graph.node[0].op_type = "Addition"
    with pytest.raises(CompileError, match=r"cannot parse the ONNX model: Addition: .*not found"):
        BACKEND.compile(model.SerializeToString(), target_for("tensorrt", device="sm_89"), tmp_path)
    model.graph.node[0].domain = "my.own"
    model.opset_import.append(onnx.helper.make_opsetid("my.own", 1))
    with pytest.raises(CompileError, match=r"custom operators: my\.own::Addition"):
        BACKEND.compile(model.SerializeToString(), target_for("tensorrt", device="sm_89"), tmp_path)
    with pytest.raises(CompileError, match="is not an ONNX model, or was cut short"):
        BACKEND.compile(tiny.onnx[:-9], target_for("tensorrt", device="sm_89"), tmp_path)
    with pytest.raises(CompileError, match="no model file"):
        BACKEND.compile(tmp_path / "nowhere", target_for("tensorrt", device="sm_89"), tmp_path)


def test_errors_of_the_builder_are_told(tiny: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "_add_profile", lambda *_: ())  # free dimensions without a profile cannot be built
    with pytest.raises(CompileError, match="optimization profile"):
        BACKEND._build(tiny.onnx, target_for("tensorrt", device="sm_89"))


def test_a_fixed_model_of_another_shape_is_refused(make_tiny: Any, target_for: Any) -> None:
    with pytest.raises(UnsupportedTarget, match="model fixes input_ids at 4"):
        BACKEND._build(make_tiny(dims=(4, 8)).onnx, target_for("tensorrt", device="sm_89"))
    _, record = BACKEND._build(make_tiny(dims=(2, 8)).onnx, target_for("tensorrt", device="sm_89"))
    assert record.outputs[0].shape == (2, 3)


@needs_no_gpu
def test_loading_without_a_gpu_gives_the_reason(plan: tuple[Path, Any], tiny: Any) -> None:
    with pytest.raises(BackendUnavailable, match=r"NVIDIA|cuda-python"):
        BACKEND.load(*plan)
    with pytest.raises(BackendUnavailable, match=r"NVIDIA|cuda-python"):
        BACKEND.open(tiny.onnx, plan[1])


@needs_no_gpu
def test_opening_without_a_gpu_does_not_build_first(
    tiny: Any, plan: tuple[Path, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module.TensorRtBackend, "_build", lambda *_: pytest.fail("built a plan nobody can run"))
    with pytest.raises(BackendUnavailable):
        BACKEND.open(tiny.onnx, plan[1])


@pytest.fixture
def native(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """Pretends a GPU, and records what would be run as native code; nothing is deserialised."""
    given: list[bytes] = []

    class Runtime:
        def __init__(self, log: Any) -> None:
            self.log = log

        def deserialize_cuda_engine(self, data: bytes) -> None:
            given.append(data)
            self.log.log(trt.ILogger.Severity.ERROR, "cudaError 35")

    monkeypatch.setattr(module, "no_gpu", lambda: None)
    monkeypatch.setattr(module, "gpu", lambda: ("sm_89", "NVIDIA L4"))
    monkeypatch.setattr(trt, "Runtime", Runtime)
    return given


def test_only_the_recorded_bytes_reach_the_deserialiser(
    copied: Path, plan: tuple[Path, Any], native: list[bytes]
) -> None:
    with pytest.raises(UnsupportedTarget, match=f"cudaError 35; {REBUILD}"):
        BACKEND.load(copied, plan[1])
    assert native == [copied.read_bytes()]


def test_a_changed_plan_is_never_deserialised(copied: Path, plan: tuple[Path, Any], native: list[bytes]) -> None:
    data = bytearray(copied.read_bytes())
    data[len(data) // 2] ^= 1
    copied.write_bytes(data)
    with pytest.raises(BundleError, match="native code"):
        BACKEND.load(copied, plan[1])
    copied.unlink()
    with pytest.raises(BundleError, match="no plan"):
        BACKEND.load(copied, plan[1])
    assert native == []


def test_a_plan_without_a_sound_record_is_never_deserialised(
    copied: Path, plan: tuple[Path, Any], native: list[bytes]
) -> None:
    record = copied.with_name("plan.json")
    text = record.read_text()
    for bad in ("", "[]", "{}", text.replace('"schema": 2', '"schema": 3'), text.replace('"version"', '"v"')):
        record.write_text(bad)
        with pytest.raises(BundleError, match="not the record"):
            BACKEND.load(copied, plan[1])
    record.unlink()
    with pytest.raises(BundleError, match="vouches"):
        BACKEND.load(copied, plan[1])
    assert native == []


def test_another_version_or_flavour_is_told(copied: Path, plan: tuple[Path, Any], native: list[bytes]) -> None:
    record = copied.with_name("plan.json")
    text = record.read_text()
    record.write_text(text.replace(trt.__version__, "1.0.0.0"))
    with pytest.raises(BackendUnavailable, match=r"built by tensorrt_rtx 1\.0\.0\.0"):
        BACKEND.load(copied, plan[1])
    record.write_text(text.replace('"tensorrt_rtx"', '"tensorrt_of_old"'))
    with pytest.raises(BackendUnavailable, match="tensorrt_of_old is not installed"):
        BACKEND.load(copied, plan[1])
    assert native == []


def test_another_gpu_is_told(plan: tuple[Path, Any], native: list[bytes], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "gpu", lambda: ("sm_86", "NVIDIA A10"))
    with pytest.raises(
        UnsupportedTarget, match=rf"built for sm_89, sm_120; this GPU is sm_86 \(NVIDIA A10\): {REBUILD}"
    ):
        BACKEND.load(*plan)
    assert native == []


def test_engines_of_one_plan_share_it(
    plan: tuple[Path, Any], native: list[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TensorRtEngine", lambda loaded, target, profile, **_: SimpleNamespace(plan=loaded))
    monkeypatch.setattr(trt.Runtime, "deserialize_cuda_engine", lambda _, data: native.append(data) or object())
    first, second = BACKEND.load(*plan), BACKEND.load(*plan)
    assert first.plan is second.plan
    assert first.plan.effective_precision == "f32"
    assert len(native) == 1
    del first, second
    assert BACKEND.load(*plan).plan is not None
    assert len(native) == 2


def test_one_profile_for_each_bucket(tiny: Any, target_for: Any, tmp_path: Path) -> None:
    shapes = tuple(Shape(batch=2, length=length) for length in (4, 8, 16))
    target = target_for("tensorrt", device="sm_89", precision="f32")
    path = BACKEND.compile(tiny.onnx, target, tmp_path, shapes)
    record = PlanRecord.read(path.with_name("plan.json"))
    assert [profile.shape for profile in record.profiles] == list(shapes)
    for number, shape in enumerate(shapes):
        profile = record.profiles[number]
        assert {(x.min, x.opt, x.max) for x in profile.ranges.values()} == {(shape.dims,) * 3}
        assert record.profile_of(target_for("tensorrt", device="sm_89", precision="f32", length=shape.length)) == number
    with pytest.raises(UnsupportedTarget, match=r"batch x length: 2x4, 2x8, 2x16\), not for .*-l32-"):
        record.profile_of(target_for("tensorrt", device="sm_89", precision="f32", length=32))
    for wrong in ((Shape(batch=2, length=9),), (shapes[1], shapes[1])):
        with pytest.raises(UnsupportedTarget, match="different ones with the target's among them"):
            BACKEND.compile(tiny.onnx, target, tmp_path / "no", wrong)
    assert not (tmp_path / "no").exists()


def test_a_dynamic_plan_allows_all_up_to_its_shape(tiny: Any, make_tiny: Any, target_for: Any) -> None:
    target = target_for("tensorrt", device="sm_89", dynamic=True)
    _, record = BACKEND._build(tiny.onnx, target)
    assert {(x.min, x.opt, x.max) for x in record.profiles[0].ranges.values()} == {((1, 1), (2, 8), (2, 8))}
    _, record = BACKEND._build(make_tiny(dims=(2, "sequence")).onnx, target)
    assert {(x.min, x.max) for x in record.profiles[0].ranges.values()} == {((2, 1), (2, 8))}
    with pytest.raises(UnsupportedTarget, match=r"the plan was built for .*-dynamic"):
        record.profile_of(target_for("tensorrt", device="sm_89"))


def test_int8_is_read_from_what_products_take(quantised: Any, target_for: Any) -> None:
    """TensorRT takes symmetric int8 alone: the model's own activations are uint8 with a zero point."""
    target = target_for("tensorrt", device="sm_89", precision="int8")
    with pytest.raises(CompileError, match="zero point"):
        BACKEND._build(quantised.onnx, target)
    model = onnx.load_from_string(quantised.onnx)
    for stored in model.graph.initializer:
        if stored.name.endswith(".zero"):
            stored.CopyFrom(onnx.numpy_helper.from_array(np.array(0, np.int8), stored.name))
    _, record = BACKEND._build(model.SerializeToString(), target)
    assert record.effective_precision == "int8"
    with pytest.raises(UnsupportedTarget, match="asks for f32, but the ONNX model computes in int8"):
        BACKEND._build(model.SerializeToString(), target_for("tensorrt", device="sm_89", precision="f32"))


def test_no_file_of_timings_where_nothing_is_timed(tiny: Any, target_for: Any, tmp_path: Path) -> None:
    BACKEND.compile(tiny.onnx, target_for("tensorrt", device="sm_89"), tmp_path / "out", cache=tmp_path / "cache")
    assert sorted(x.name for x in tmp_path.rglob("*")) == ["model.plan", "out", "plan.json"]


def test_rtx_has_no_plans_for_other_releases(tiny: Any, target_for: Any, tmp_path: Path) -> None:
    with pytest.raises(UnsupportedTarget, match="TensorRT for RTX has no plans that load with other releases"):
        TensorRtBackend(version_compatible=True).compile(tiny.onnx, target_for("tensorrt", device="sm_89"), tmp_path)


def test_a_plan_serves_only_its_target(plan: tuple[Path, Any], target_for: Any, native: list[bytes]) -> None:
    for other in (
        target_for("tensorrt", device="sm_89", precision="f32", batch=4),
        target_for("tensorrt", device="sm_89", precision="auto"),
        target_for("tensorrt", device="sm_75", precision="f32"),
    ):
        with pytest.raises(UnsupportedTarget, match="the plan was built for tensorrt-sm_89"):
            BACKEND.load(plan[0], other)
    assert native == []
    for fitting in ("sm_120", "current"):
        with pytest.raises(UnsupportedTarget, match="cudaError 35"):
            BACKEND.load(plan[0], target_for("tensorrt", device=fitting, precision="f32"))
    assert len(native) == 2


def test_no_package_no_backend(monkeypatch: pytest.MonkeyPatch, tiny: Any, target_for: Any, tmp_path: Path) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _: None)
    for reason in (BACKEND.unavailable(), BACKEND.can_run()):
        assert reason is not None
        assert "pip install 'atb-export[tensorrt-rtx]'" in reason
    with pytest.raises(BackendUnavailable, match="pip install"):
        BACKEND.compile(tiny.onnx, target_for("tensorrt", device="sm_89"), tmp_path)


def test_a_package_that_does_not_import_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(_: str) -> Any:
        raise ImportError("libtensorrt.so is missing")

    monkeypatch.setattr("importlib.import_module", broken)
    assert "libtensorrt.so is missing" in str(BACKEND.unavailable())


def test_plain_tensorrt_needs_a_gpu_to_build(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "flavour", lambda: "tensorrt")
    monkeypatch.setattr(module, "no_gpu", lambda: "there is no GPU")
    assert "only beside a GPU, and there is no GPU" in str(BACKEND.unavailable())
    monkeypatch.setattr(module, "no_gpu", lambda: None)
    assert BACKEND.unavailable() is None


def test_plain_tensorrt_builds_around_the_gpu_it_sits_beside(target_for: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(builder, "gpu", lambda: ("sm_86", "NVIDIA A10"))
    plain = SimpleNamespace(__version__="10.1", HardwareCompatibilityLevel=SimpleNamespace(AMPERE_PLUS="ampere"))

    def found(device: str) -> tuple[Any, Any]:
        config = SimpleNamespace()  # no set_compute_capability, as in TensorRT 10
        return builder.name_devices(plain, config, target_for("tensorrt", device=device)), vars(config)

    for device in ("sm_86", "current"):
        assert found(device) == (builder.GpuRange(capabilities=("sm_86",), gpu="NVIDIA A10"), {})
    assert found("ampere_plus") == (
        builder.GpuRange(capabilities=("sm_80+",)),
        {"hardware_compatibility_level": "ampere"},
    )
    for device in ("sm_89", "same_capability"):  # this release has no such level
        with pytest.raises(UnsupportedTarget, match=rf"around this machine's GPU, sm_86; the target asks for {device}"):
            found(device)
    plain.HardwareCompatibilityLevel.SAME_COMPUTE_CAPABILITY = "same"
    assert found("same_capability") == (
        builder.GpuRange(capabilities=("sm_86",)),
        {"hardware_compatibility_level": "same"},
    )


def test_plain_tensorrt_is_asked_for_what_rtx_lacks(
    tiny: Any, target_for: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The other flavour's real builder under the name of this one, with a timing cache that it pretends to fill."""
    seen: dict[str, Any] = {"caches": []}

    class Timings:
        def serialize(self) -> bytes:
            return b"timed"

    class Config:
        def __init__(self, real: Any) -> None:
            self._real = real

        def __getattr__(self, name: str) -> Any:
            if name == "set_compute_capability":
                raise AttributeError(name)
            return getattr(self._real, name)

        def set_flag(self, flag: Any) -> None:
            seen["flag"] = flag

        def create_timing_cache(self, data: bytes) -> Any:
            seen["caches"].append(data)
            if data == b"spoilt":
                raise RuntimeError("not a cache")
            return Timings()

        def set_timing_cache(self, timings: Any, ignore_mismatch: bool) -> bool:
            return not ignore_mismatch

        def get_timing_cache(self) -> Any:
            return Timings()

    class Builder:
        def __init__(self, log: Any) -> None:
            self._real = trt.Builder(log)

        def __getattr__(self, name: str) -> Any:
            return getattr(self._real, name)

        def create_builder_config(self) -> Any:
            real = self._real.create_builder_config()
            real.num_compute_capabilities = 1
            real.set_compute_capability(trt.ComputeCapability.SM89, 0)
            return Config(real)

        def build_serialized_network(self, network: Any, config: Any) -> Any:
            return self._real.build_serialized_network(network, config._real)

    parts = {name: getattr(trt, name) for name in dir(trt) if not name.startswith("__")}
    plain = SimpleNamespace(**{**parts, "Builder": Builder, "__name__": "tensorrt", "__version__": "10.4.0"})
    monkeypatch.setattr(builder, "gpu", lambda: ("sm_89", "NVIDIA L4"))
    for name, wanted in (("absent", [b""]), ("fresh", [b"timed"]), ("spoilt", [b"spoilt", b""])):
        file = tmp_path / "tensorrt-10.4.0-current.timings"
        if name == "spoilt":
            file.write_bytes(b"spoilt")
        seen["caches"].clear()
        _, record = builder.build_plan(
            plain,
            tiny.onnx,
            target_for("tensorrt", device="current"),
            [Shape(batch=2, length=8)],
            version_compatible=True,
            cache=tmp_path,
        )
        assert seen == {"caches": wanted, "flag": trt.BuilderFlag.VERSION_COMPATIBLE}
        assert file.read_bytes() == b"timed"
    assert (record.flavour, record.version, record.version_compatible) == ("tensorrt", "10.4.0", True)
    assert (record.compute_capabilities, record.gpu) == (("sm_89",), "NVIDIA L4")
