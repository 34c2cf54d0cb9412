"""The running half against a pretended CUDA whose device memory is real memory: addresses and sizes must be right."""

from __future__ import annotations

import ctypes
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.backends.tensorrt import cuda as cuda_module
from runtime.backends.tensorrt import engine as module
from runtime.backends.tensorrt.engine import Plan, TensorRtEngine
from runtime.engine import ParallelEngine, infer_many
from runtime.errors import AtbRuntimeError, BackendUnavailable, FeedError
from runtime.target import EngineTarget, Shape

TARGET = EngineTarget(backend="tensorrt", device="sm_89", precision="f32", shape=Shape(batch=2, length=4))
DYNAMIC = EngineTarget(
    backend="tensorrt", device="sm_89", precision="f32", shape=Shape(batch=2, length=4), dynamic=True
)


class Cuda:
    """Work is queued, as on a stream, and done when the stream is waited for; or captured, and done at every launch."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down")
    cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal="local")

    def __init__(self) -> None:
        self.device: dict[int, Any] = {}
        self.host: dict[int, Any] = {}
        self.queue: list[Any] = []
        self.captured: list[Any] | None = None
        self.graphs = self.launches = self.streams = 0
        self.devices: tuple[int, int] = (0, 1)
        self.failing = ""

    def _answer(self, call: str, *values: Any) -> tuple[Any, ...]:
        return (2 if call == self.failing else 0, *values)

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return self.devices

    def cudaGetDeviceProperties(self, device: int) -> tuple[Any, ...]:
        return self._answer("properties", SimpleNamespace(major=8, minor=9, name=b"NVIDIA L4\0\0\0"))

    def cudaStreamCreate(self) -> tuple[Any, ...]:
        self.streams += self.failing != "stream"
        return self._answer("stream", 77)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        self.streams -= 1
        return self._answer("destroy")

    def _allocate(self, memory: dict[int, Any], size: int, call: str) -> tuple[Any, ...]:
        if self.failing == call and len(memory) == 1:
            return self._answer(call, 0)
        buffer = ctypes.create_string_buffer(size)
        memory[ctypes.addressof(buffer)] = buffer
        return 0, ctypes.addressof(buffer)

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        return self._allocate(self.device, size, "malloc")

    def cudaMallocHost(self, size: int) -> tuple[Any, ...]:
        return self._allocate(self.host, size, "host")

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.device[address]
        return self._answer("free")

    def cudaFreeHost(self, address: int) -> tuple[Any, ...]:
        del self.host[address]
        return self._answer("free")

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: str, stream: int) -> tuple[Any, ...]:
        device, host = (to, source) if kind == "up" else (source, to)
        if stream != 77 or size > len(self.device[device]) or size > len(self.host[host]):
            pytest.fail("a copy beyond a buffer, from memory the device cannot read, or on another stream")
        self.add(lambda: ctypes.memmove(to, source, size))
        return self._answer("copy")

    def add(self, job: Any) -> None:
        (self.queue if self.captured is None else self.captured).append(job)

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        if self.captured is not None:
            pytest.fail("a stream that is captured cannot be waited for")
        for job in self.queue:
            job()
        self.queue.clear()
        return self._answer("synchronize")

    def cudaStreamBeginCapture(self, stream: int, mode: str) -> tuple[Any, ...]:
        self.captured = None if self.failing == "begin" else []
        return self._answer("begin")

    def cudaStreamEndCapture(self, stream: int) -> tuple[Any, ...]:
        jobs, self.captured = self.captured, None
        self.graphs += 1
        return self._answer("end", jobs)

    def cudaGraphInstantiate(self, graph: Any, flags: int) -> tuple[Any, ...]:
        self.graphs += self.failing != "instantiate"
        return self._answer("instantiate", list(graph))

    def cudaGraphLaunch(self, graph: Any, stream: int) -> tuple[Any, ...]:
        self.launches += 1
        self.queue += graph
        return self._answer("launch")

    def cudaGraphDestroy(self, graph: Any) -> tuple[Any, ...]:
        self.graphs -= 1
        return self._answer("drop")

    def cudaGraphExecDestroy(self, graph: Any) -> tuple[Any, ...]:
        self.graphs -= 1
        return self._answer("drop")


class Context:
    """Logits are 1, 2 and 3 times the sum of the ids that the mask leaves."""

    def __init__(self, cuda: Cuda, profiles: tuple[tuple[int, int], ...]) -> None:
        self.cuda, self.profiles = cuda, profiles
        self.addresses: dict[str, int] = {}
        self.dims: dict[str, tuple[int, ...]] = {}
        self.profile = 0
        self.works = self.capturable = True
        self.runs = 0

    def set_optimization_profile_async(self, number: int, stream: int) -> bool:
        self.profile = number
        return number < len(self.profiles) and stream == 77

    def set_input_shape(self, name: str, dims: tuple[int, ...]) -> bool:
        self.dims[name] = dims
        most = self.profiles[self.profile]
        return name != "logits" and all(have <= want for have, want in zip(dims, most, strict=True))

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (self.dims["input_ids"][0], 3) if name == "logits" else self.dims[name]

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def is_stream_capturable(self, stream: int) -> bool:
        return self.capturable

    def execute_async_v3(self, stream: int) -> bool:
        self.runs += 1
        self.cuda.add(self._compute)
        return self.works and stream == 77

    def _read(self, name: str) -> Any:
        dims = self.dims[name]
        memory = self.cuda.device[self.addresses[name]]
        return np.frombuffer(memory, np.int64, dims[0] * dims[1]).reshape(dims)

    def _compute(self) -> None:
        total = (self._read("input_ids") * self._read("attention_mask")).sum(1, keepdims=True)
        logits = (total * [[1.0, 2.0, 3.0]]).astype(np.float32)
        ctypes.memmove(self.addresses["logits"], logits.ctypes.data, logits.nbytes)


class PlanEngine:
    num_io_tensors = 3

    def __init__(self, cuda: Cuda, profiles: tuple[tuple[int, int], ...] = ((2, 4),)) -> None:
        self.cuda, self.profiles = cuda, profiles
        self.contexts: list[Context] = []
        self.configs: list[Any] = []
        self.full = False

    def get_tensor_name(self, i: int) -> str:
        return ("attention_mask", "logits", "input_ids")[i]

    def get_tensor_mode(self, name: str) -> str:
        return "out" if name == "logits" else "in"

    def get_tensor_dtype(self, name: str) -> str:
        return "float32" if name == "logits" else "int64"

    def get_tensor_shape(self, name: str) -> tuple[int, int]:
        return (-1, 3) if name == "logits" else (-1, -1)

    def create_runtime_config(self) -> Any:
        return RuntimeConfig()

    def create_execution_context(self, config: Any = None) -> Context | None:
        self.configs.append(config)
        if self.full:
            return None
        self.contexts.append(Context(self.cuda, self.profiles))
        return self.contexts[-1]


class RuntimeConfig:
    """As TensorRT for RTX has it; its cache grows by one kernel for each context."""

    def create_runtime_cache(self) -> Any:
        self.content = b""
        return self

    def deserialize(self, data: bytes) -> bool:
        if not data.startswith(b"kernel"):
            raise RuntimeError("no cache")
        self.content = data
        return True

    def set_runtime_cache(self, cache: Any) -> None:
        if cache is not self:
            pytest.fail("a cache of another configuration")

    def serialize(self) -> bytes:
        return self.content or b"kernel"


TRT = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in"), nptype=lambda name: np.dtype(name).type)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    pretended = Cuda()
    monkeypatch.setattr(cuda_module, "cuda_runtime", lambda: pretended)
    monkeypatch.setattr(module, "cuda_runtime", lambda: pretended)
    monkeypatch.setattr(cuda_module.ctypes, "CDLL", lambda _: None)
    return pretended


def _plan(cuda: Cuda, **rest: Any) -> Plan:
    return Plan(trt=TRT, engine=PlanEngine(cuda, **rest), effective_precision="f32", keep="runtime")


def _open(cuda: Cuda, target: EngineTarget = TARGET, **rest: Any) -> tuple[TensorRtEngine, Context]:
    plan = _plan(cuda)
    return TensorRtEngine(plan, target, 0, **rest), plan.engine.contexts[0]


def _feeds(seed: int = 0, dims: tuple[int, int] = (2, 4)) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"input_ids": rng.integers(0, 9, dims), "attention_mask": rng.integers(0, 2, dims)}


def _want(feeds: dict[str, Any]) -> Any:
    return (feeds["input_ids"] * feeds["attention_mask"]).sum(1, keepdims=True) * [[1.0, 2.0, 3.0]]


@pytest.mark.parametrize("graphs", [True, False])
def test_answers_come_from_what_was_fed(cuda: Cuda, graphs: bool) -> None:
    engine, _ = _open(cuda, graphs=graphs)
    assert isinstance(engine, ParallelEngine)
    assert [(x.name, x.dtype, x.shape) for x in engine.inputs] == [
        ("attention_mask", "int64", (2, 4)),
        ("input_ids", "int64", (2, 4)),
    ]
    first = engine.infer(_feeds(1))["logits"]
    turned = {key: np.asfortranarray(value) for key, value in _feeds(2).items()}
    second = engine.infer(turned)["logits"]
    assert first.dtype == np.float32
    np.testing.assert_array_equal(first, _want(_feeds(1)))
    np.testing.assert_array_equal(second, _want(_feeds(2)))
    for got, seed in zip(infer_many(engine, map(_feeds, range(3))), range(3), strict=True):
        np.testing.assert_array_equal(got["logits"], _want(_feeds(seed)))
    with pytest.raises(FeedError, match="input_ids is missing"):
        engine.infer({"attention_mask": _feeds()["attention_mask"]})


def test_inference_is_one_launch_once_captured(cuda: Cuda) -> None:
    engine, context = _open(cuda)
    assert engine.no_graph is None
    runs, launches = context.runs, cuda.launches
    for seed in range(5):
        engine.infer(_feeds(seed))
    assert (context.runs - runs, cuda.launches - launches) == (0, 5)
    plain, context = _open(cuda, graphs=False)
    assert plain.no_graph == "switched off"
    runs = context.runs
    plain.infer(_feeds())
    assert context.runs == runs + 1


@pytest.mark.parametrize(
    ("failing", "says"),
    [("begin", "CUDA answers 2"), ("end", "CUDA answers 2"), ("instantiate", "CUDA answers 2"), ("launch", "CUDA ans")],
)
def test_what_cannot_be_captured_is_run_and_the_reason_kept(cuda: Cuda, failing: str, says: str) -> None:
    cuda.failing = failing
    engine, _ = _open(cuda)
    assert engine.no_graph is not None
    assert engine.no_graph.startswith("capturing failed: " + says)
    np.testing.assert_array_equal(engine.infer(_feeds(3))["logits"], _want(_feeds(3)))
    engine.close()
    assert cuda.graphs == (1 if failing == "end" else 0)  # the pretended one counts even where it answers an error


def test_a_plan_that_says_it_cannot_be_captured_is_not(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Context, "is_stream_capturable", lambda *_: False)
    engine, _ = _open(cuda)
    assert "cannot be captured" in str(engine.no_graph)
    np.testing.assert_array_equal(engine.infer(_feeds(3))["logits"], _want(_feeds(3)))


def test_dynamic_engines_take_any_shape_up_to_theirs(cuda: Cuda) -> None:
    engine, _ = _open(cuda, DYNAMIC)
    assert [x.shape for x in engine.inputs] == [("batch", "sequence")] * 2
    assert "dynamic" in str(engine.no_graph)
    for dims in ((1, 1), (2, 4), (1, 3), (2, 4)):
        np.testing.assert_array_equal(engine.infer(_feeds(1, dims))["logits"], _want(_feeds(1, dims)))
    with pytest.raises(FeedError, match="batch up to 2 and sequence up to 4"):
        engine.infer(_feeds(1, (2, 5)))


def test_each_bucket_has_its_profile_of_one_plan(cuda: Cuda) -> None:
    plan = _plan(cuda, profiles=((2, 4), (2, 8)))
    long = EngineTarget(backend="tensorrt", device="sm_89", precision="f32", shape=Shape(batch=2, length=8))
    with TensorRtEngine(plan, TARGET, 0) as first, TensorRtEngine(plan, long, 1) as second:
        for engine, dims in ((first, (2, 4)), (second, (2, 8)), (first, (2, 4))):
            np.testing.assert_array_equal(engine.infer(_feeds(5, dims))["logits"], _want(_feeds(5, dims)))
    with pytest.raises(AtbRuntimeError, match="does not take profile 2"):
        TensorRtEngine(plan, long, 2)
    with pytest.raises(AtbRuntimeError, match=r"does not take attention_mask of shape \[2, 8\]"):
        TensorRtEngine(plan, long, 0)
    assert (cuda.device, cuda.host, cuda.streams, cuda.graphs) == ({}, {}, 0, 0)


def test_a_clone_has_a_context_of_its_own_on_the_same_plan(cuda: Cuda) -> None:
    plan = _plan(cuda)
    engine = TensorRtEngine(plan, TARGET, 0)
    with engine.clone() as other:
        assert len(plan.engine.contexts) == 2
        engine.close()
        np.testing.assert_array_equal(other.infer(_feeds(4))["logits"], _want(_feeds(4)))
    with pytest.raises(AtbRuntimeError, match="closed"):
        engine.clone()
    assert (cuda.device, cuda.host, cuda.streams, cuda.graphs) == ({}, {}, 0, 0)


def test_kernels_compiled_on_the_device_are_kept(cuda: Cuda, tmp_path: Path) -> None:
    file = tmp_path / "cache" / "x.kernels"
    engine = PlanEngine(cuda)
    plan = Plan(trt=TRT, engine=engine, effective_precision="f32", kernels=file)
    TensorRtEngine(plan, TARGET, 0).close()
    assert file.read_bytes() == b"kernel"
    file.write_bytes(b"kernel, kernel")
    TensorRtEngine(plan, TARGET, 0).close()
    assert file.read_bytes() == b"kernel, kernel"
    file.write_bytes(b"spoilt")
    TensorRtEngine(plan, TARGET, 0).close()
    assert file.read_bytes() == b"kernel"
    assert all(config is not None for config in engine.configs)
    unwritable = Plan(trt=TRT, engine=engine, effective_precision="f32", kernels=file / "of" / "no" / "folder")
    TensorRtEngine(unwritable, TARGET, 0).close()
    monkeyed = Plan(trt=TRT, engine=engine, effective_precision="f32")
    TensorRtEngine(monkeyed, TARGET, 0).close()
    assert engine.configs[-1] is None


def test_closing_gives_everything_back_once(cuda: Cuda) -> None:
    engine, _ = _open(cuda)
    assert (len(cuda.device), len(cuda.host), cuda.streams, cuda.graphs) == (3, 3, 1, 1)
    engine.close()
    engine.close()
    assert (cuda.device, cuda.host, cuda.streams, cuda.graphs) == ({}, {}, 0, 0)
    with pytest.raises(AtbRuntimeError, match="closed"):
        engine.infer(_feeds())


@pytest.mark.parametrize("call", ["launch", "synchronize"])
def test_errors_of_cuda_are_raised(cuda: Cuda, call: str) -> None:
    engine, _ = _open(cuda)
    cuda.failing = call
    with pytest.raises(AtbRuntimeError, match="CUDA answers 2"):
        engine.infer(_feeds())


@pytest.mark.parametrize("call", ["stream", "malloc", "host", "copy", "synchronize"])
def test_errors_while_opening_are_raised(cuda: Cuda, call: str) -> None:
    cuda.failing = call
    with pytest.raises(AtbRuntimeError, match="CUDA answers 2"):
        _open(cuda)
    assert (cuda.device, cuda.host, cuda.streams, cuda.graphs) == ({}, {}, 0, 0)


def test_an_engine_that_does_not_start_is_told(cuda: Cuda) -> None:
    engine, context = _open(cuda, graphs=False)
    context.works = False
    with pytest.raises(AtbRuntimeError, match="could not run"):
        engine.infer(_feeds())
    plan = _plan(cuda)
    plan.engine.full = True
    with pytest.raises(AtbRuntimeError, match="memory full"):
        TensorRtEngine(plan, TARGET, 0)


def test_the_gpu_is_looked_for_step_by_step(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    assert cuda_module.no_gpu() is None
    assert cuda_module.gpu() == ("sm_89", "NVIDIA L4")
    cuda.devices = (0, 0)
    assert cuda_module.no_gpu() == "the NVIDIA driver sees no GPU"
    cuda.devices = (35, 0)
    assert "answers 35" in str(cuda_module.no_gpu())
    with pytest.raises(BackendUnavailable, match="answers 35"):
        cuda_module.gpu()

    def no_cuda() -> Any:
        raise ImportError

    monkeypatch.setattr(cuda_module, "cuda_runtime", no_cuda)
    assert "pip install cuda-python" in str(cuda_module.no_gpu())

    def no_driver(_: str) -> Any:
        raise OSError

    monkeypatch.setattr(cuda_module.ctypes, "CDLL", no_driver)
    assert "no NVIDIA driver" in str(cuda_module.no_gpu())


def test_both_layouts_of_cuda_python_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def importer(*known: str) -> Any:
        def find(name: str) -> str:
            if name not in known:
                raise ImportError(name)
            return name

        return find

    importlib = SimpleNamespace()
    monkeypatch.setattr(cuda_module, "importlib", importlib)
    importlib.import_module = importer("cuda.bindings.runtime", "cuda.cudart")
    assert cuda_module.cuda_runtime() == "cuda.bindings.runtime"
    importlib.import_module = importer("cuda.cudart")
    assert cuda_module.cuda_runtime() == "cuda.cudart"
    importlib.import_module = importer()
    with pytest.raises(ImportError):
        cuda_module.cuda_runtime()
