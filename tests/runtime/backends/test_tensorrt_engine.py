"""The running half against a pretended CUDA whose device memory is real memory: addresses and sizes must be right."""

from __future__ import annotations

import ctypes
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from runtime.backends import tensorrt_engine as module
from runtime.errors import AtbRuntimeError, BackendUnavailable, FeedError
from runtime.target import EngineTarget, Shape

TARGET = EngineTarget(backend="tensorrt", device="sm_89", precision="f32", shape=Shape(batch=2, length=4))


class Cuda:
    """Copies are queued, as on a stream, and happen when the engine runs or the stream is waited for."""

    cudaMemcpyKind = SimpleNamespace(cudaMemcpyHostToDevice="up", cudaMemcpyDeviceToHost="down")
    cudaDeviceAttr = SimpleNamespace(
        cudaDevAttrComputeCapabilityMajor="major", cudaDevAttrComputeCapabilityMinor="minor"
    )

    def __init__(self) -> None:
        self.memory: dict[int, Any] = {}
        self.queue: list[Any] = []
        self.streams = 0
        self.devices: tuple[int, int] = (0, 1)
        self.failing = ""

    def _answer(self, call: str, *values: Any) -> tuple[Any, ...]:
        return (2 if call == self.failing else 0, *values)

    def cudaGetDeviceCount(self) -> tuple[int, int]:
        return self.devices

    def cudaDeviceGetAttribute(self, attribute: str, device: int) -> tuple[Any, ...]:
        return self._answer("attribute", {"major": 8, "minor": 9}[attribute])

    def cudaStreamCreate(self) -> tuple[Any, ...]:
        self.streams += self.failing != "stream"
        return self._answer("stream", 77)

    def cudaStreamDestroy(self, stream: int) -> tuple[Any, ...]:
        self.streams -= 1
        return self._answer("destroy")

    def cudaMalloc(self, size: int) -> tuple[Any, ...]:
        if self.failing == "malloc" and len(self.memory) == 1:
            return self._answer("malloc", 0)
        buffer = ctypes.create_string_buffer(size)
        self.memory[ctypes.addressof(buffer)] = buffer
        return 0, ctypes.addressof(buffer)

    def cudaFree(self, address: int) -> tuple[Any, ...]:
        del self.memory[address]
        return self._answer("free")

    def cudaMemcpyAsync(self, to: int, source: int, size: int, kind: str, stream: int) -> tuple[Any, ...]:
        device = to if kind == "up" else source
        if stream != 77 or size != len(self.memory[device]):
            pytest.fail("a copy of the wrong size, or on another stream")
        self.queue.append(lambda: ctypes.memmove(to, source, size))
        return self._answer("copy")

    def cudaStreamSynchronize(self, stream: int) -> tuple[Any, ...]:
        self.drain()
        return self._answer("synchronize")

    def drain(self) -> None:
        for job in self.queue:
            job()
        self.queue.clear()


class Context:
    def __init__(self, cuda: Cuda) -> None:
        self.cuda = cuda
        self.addresses: dict[str, int] = {}
        self.works = True

    def set_input_shape(self, name: str, dims: tuple[int, ...]) -> None:
        if name == "logits" or dims != (2, 4):
            pytest.fail("inputs take the target's shape")

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (2, 3) if name == "logits" else (2, 4)

    def set_tensor_address(self, name: str, address: int) -> None:
        self.addresses[name] = address

    def execute_async_v3(self, stream: int) -> bool:
        self.cuda.queue.append(self._compute)
        return self.works and stream == 77

    def _read(self, name: str) -> Any:
        return np.frombuffer(self.cuda.memory[self.addresses[name]], np.int64).reshape(2, 4)

    def _compute(self) -> None:
        total = (self._read("input_ids") * self._read("attention_mask")).sum(1, keepdims=True)
        logits = (total * [[1.0, 2.0, 3.0]]).astype(np.float32)
        ctypes.memmove(self.addresses["logits"], logits.ctypes.data, logits.nbytes)


class PlanEngine:
    num_io_tensors = 3

    def __init__(self, context: Context | None) -> None:
        self.context = context

    def get_tensor_name(self, i: int) -> str:
        return ("attention_mask", "logits", "input_ids")[i]

    def get_tensor_mode(self, name: str) -> str:
        return "out" if name == "logits" else "in"

    def get_tensor_dtype(self, name: str) -> str:
        return "float32" if name == "logits" else "int64"

    def create_execution_context(self) -> Context | None:
        return self.context


TRT = SimpleNamespace(TensorIOMode=SimpleNamespace(INPUT="in"), nptype=lambda name: np.dtype(name).type)


@pytest.fixture
def cuda(monkeypatch: pytest.MonkeyPatch) -> Cuda:
    pretended = Cuda()
    monkeypatch.setattr(module, "_cuda", lambda: pretended)
    monkeypatch.setattr(module.ctypes, "CDLL", lambda _: None)
    return pretended


def _engine(cuda: Cuda) -> tuple[module.TensorRtEngine, Context]:
    context = Context(cuda)
    return module.TensorRtEngine(TRT, PlanEngine(context), TARGET, "f32", keep="runtime"), context


def _feeds(seed: int = 0) -> dict[str, Any]:
    rng = np.random.default_rng(seed)
    return {"input_ids": rng.integers(0, 9, (2, 4)), "attention_mask": rng.integers(0, 2, (2, 4))}


def _want(feeds: dict[str, Any]) -> Any:
    return (feeds["input_ids"] * feeds["attention_mask"]).sum(1, keepdims=True) * [[1.0, 2.0, 3.0]]


def test_answers_come_from_what_was_fed(cuda: Cuda) -> None:
    engine, _ = _engine(cuda)
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
    with pytest.raises(FeedError, match="input_ids is missing"):
        engine.infer({"attention_mask": _feeds()["attention_mask"]})


def test_closing_gives_everything_back_once(cuda: Cuda) -> None:
    engine, _ = _engine(cuda)
    assert len(cuda.memory) == 3
    engine.close()
    engine.close()
    assert cuda.memory == {}
    assert cuda.streams == 0
    with pytest.raises(AtbRuntimeError, match="closed"):
        engine.infer(_feeds())


@pytest.mark.parametrize("call", ["copy", "synchronize"])
def test_errors_of_cuda_are_raised(cuda: Cuda, call: str) -> None:
    engine, _ = _engine(cuda)
    cuda.failing = call
    with pytest.raises(AtbRuntimeError, match="CUDA answers 2"):
        engine.infer(_feeds())


@pytest.mark.parametrize("call", ["stream", "malloc"])
def test_errors_while_opening_are_raised(cuda: Cuda, call: str) -> None:
    cuda.failing = call
    with pytest.raises(AtbRuntimeError, match="CUDA answers 2"):
        _engine(cuda)
    assert cuda.memory == {}
    assert cuda.streams == 0


def test_an_engine_that_does_not_start_is_told(cuda: Cuda) -> None:
    engine, context = _engine(cuda)
    context.works = False
    with pytest.raises(AtbRuntimeError, match="could not run"):
        engine.infer(_feeds())
    with pytest.raises(AtbRuntimeError, match="memory full"):
        module.TensorRtEngine(TRT, PlanEngine(None), TARGET, "f32")


def test_the_gpu_is_looked_for_step_by_step(cuda: Cuda, monkeypatch: pytest.MonkeyPatch) -> None:
    assert module.no_gpu() is None
    assert module.compute_capability() == "sm_89"
    cuda.devices = (0, 0)
    assert module.no_gpu() == "the NVIDIA driver sees no GPU"
    cuda.devices = (35, 0)
    assert "answers 35" in str(module.no_gpu())
    with pytest.raises(BackendUnavailable, match="answers 35"):
        module.compute_capability()

    def no_cuda() -> Any:
        raise ImportError

    monkeypatch.setattr(module, "_cuda", no_cuda)
    assert "pip install cuda-python" in str(module.no_gpu())

    def no_driver(_: str) -> Any:
        raise OSError

    monkeypatch.setattr(module.ctypes, "CDLL", no_driver)
    assert "no NVIDIA driver" in str(module.no_gpu())


def test_both_layouts_of_cuda_python_are_found(monkeypatch: pytest.MonkeyPatch) -> None:
    def importer(*known: str) -> Any:
        def find(name: str) -> str:
            if name not in known:
                raise ImportError(name)
            return name

        return find

    importlib = SimpleNamespace()
    monkeypatch.setattr(module, "importlib", importlib)
    importlib.import_module = importer("cuda.bindings.runtime", "cuda.cudart")
    assert module._cuda() == "cuda.bindings.runtime"
    importlib.import_module = importer("cuda.cudart")
    assert module._cuda() == "cuda.cudart"
    importlib.import_module = importer()
    with pytest.raises(ImportError):
        module._cuda()
