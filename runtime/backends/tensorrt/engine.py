"""Runs a plan on the GPU: one context and one stream per engine, its work one CUDA graph where that can be."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from runtime.backends.tensorrt.caches import RuntimeCache
from runtime.backends.tensorrt.cuda import Buffer, cuda_runtime, done
from runtime.engine import EngineBase, FeedCheck, Feeds, engine_dims
from runtime.errors import AtbRuntimeError
from runtime.target import EngineTarget
from runtime.tensors import TensorSpec


@dataclass(frozen=True, kw_only=True, eq=False)
class Plan:
    """A deserialised plan: its weights are on the GPU once, for all engines of it, whatever their thread or profile.

    `keep` must not go first: its runtime and logger. `kernels` is the file of its runtime cache, or None.
    """

    trt: Any
    engine: Any
    effective_precision: str
    keep: object = None
    kernels: Path | None = None


class TensorRtEngine(EngineBase):
    """One execution context, with buffers that are reused by every call.

    `no_graph` is None where inference is the launch of one CUDA graph, else why it is not.
    """

    def __init__(self, plan: Plan, target: EngineTarget, profile: int, *, graphs: bool = True) -> None:
        self.target = target
        self.effective_precision = plan.effective_precision
        self.no_graph: str | None = "switched off"
        self._plan: Plan | None = plan
        self._profile = profile
        self._graphs = graphs
        self._cuda = cuda_runtime()
        self._stream: Any = None
        self._graph: Any = None
        self._buffers: dict[str, Buffer] = {}
        self._context, self._kernels = _new_context(plan)
        try:
            self._stream = done(self._cuda.cudaStreamCreate())
            self._prepare(plan)
            self._run()  # what is loaded or compiled at the first run is so now
            if self._kernels is not None:
                self._kernels.keep()
            if graphs:
                self.no_graph = self._capture()
        except BaseException:
            self.close()
            raise

    def _prepare(self, plan: Plan) -> None:
        engine, trt, stream = plan.engine, plan.trt, int(self._stream)
        if self._profile and not self._context.set_optimization_profile_async(self._profile, stream):
            raise AtbRuntimeError(f"TensorRT does not take profile {self._profile} of {self.target.label}")
        done(self._cuda.cudaStreamSynchronize(self._stream))
        names = [engine.get_tensor_name(i) for i in range(engine.num_io_tensors)]
        taken = [name for name in names if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT]
        for name in taken:
            self._set_shape(name, self.target.shape.dims)
        for name in names:
            dtype = np.dtype(trt.nptype(engine.get_tensor_dtype(name)))
            buffer = self._buffers[name] = Buffer(self._cuda, dtype, tuple(self._context.get_tensor_shape(name)))
            self._context.set_tensor_address(name, buffer.device)
        for name in taken:
            self._buffers[name].view[...] = 1  # the first run reads them; a mask of nothing would divide by zero
        self.inputs = tuple(
            TensorSpec(
                name=name,
                dtype=self._buffers[name].dtype.name,
                shape=engine_dims(name, tuple(engine.get_tensor_shape(name)), self.target),
            )
            for name in taken
        )
        self._outputs = [name for name in names if name not in taken]
        self._shape: tuple[int, ...] = self.target.shape.dims
        self._check = FeedCheck(self.inputs, self.target.shape)

    def infer(self, feeds: Feeds) -> dict[str, NDArray[Any]]:
        """Output name -> array that the caller owns; copying to and from the GPU is part of it."""
        self._refuse_closed()
        self._check(feeds)
        if self.target.dynamic and (shape := feeds[self.inputs[0].name].shape) != self._shape:
            self._reshape(shape)
        for x in self.inputs:
            np.copyto(self._buffers[x.name].view, feeds[x.name])
        self._run()
        return {name: self._buffers[name].view.copy() for name in self._outputs}

    def infer_many(self, feeds: Iterable[Feeds]) -> Iterator[dict[str, NDArray[Any]]]:
        """One after the other: tiny models are bound by what is launched, not by what is computed."""
        self._refuse_closed()
        return map(self.infer, feeds)

    def clone(self) -> TensorRtEngine:
        """Another context of the same plan, for another thread."""
        self._refuse_closed()
        assert self._plan is not None
        return TensorRtEngine(self._plan, self.target, self._profile, graphs=self._graphs)

    def _run(self) -> None:
        if self._graph is None:
            self._enqueue()
        else:
            done(self._cuda.cudaGraphLaunch(self._graph, self._stream))
        done(self._cuda.cudaStreamSynchronize(self._stream))

    def _enqueue(self) -> None:
        for x in self.inputs:
            self._buffers[x.name].upload(self._stream)
        if not self._context.execute_async_v3(int(self._stream)):
            raise AtbRuntimeError(f"TensorRT could not run the engine {self.target.label}")
        for name in self._outputs:
            self._buffers[name].download(self._stream)

    def _capture(self) -> str | None:
        """Makes copies and kernels one graph; returns the reason where that cannot be."""
        if self.target.dynamic:
            return "a graph is of one shape, and the target is dynamic"
        capturable = getattr(self._context, "is_stream_capturable", None)
        if capturable is not None and not capturable(int(self._stream)):
            return "TensorRT says that this plan cannot be captured"
        cuda, graph = self._cuda, None
        try:
            # Other threads may allocate meanwhile.
            done(cuda.cudaStreamBeginCapture(self._stream, cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal))
            try:
                self._enqueue()
            finally:
                graph = done(cuda.cudaStreamEndCapture(self._stream))
            self._graph = done(cuda.cudaGraphInstantiate(graph, 0))
            self._run()
        except AtbRuntimeError as error:
            self._drop_graph()
            return f"capturing failed: {error}"
        finally:
            if graph is not None:
                cuda.cudaGraphDestroy(graph)
        return None

    def _drop_graph(self) -> None:
        graph, self._graph = self._graph, None
        if graph is not None:
            self._cuda.cudaGraphExecDestroy(graph)

    def _reshape(self, shape: tuple[int, ...]) -> None:
        for x in self.inputs:
            self._set_shape(x.name, shape)
        for name, buffer in self._buffers.items():
            buffer.reshape(tuple(self._context.get_tensor_shape(name)))
        self._shape = shape

    def _set_shape(self, name: str, dims: tuple[int, ...]) -> None:
        if not self._context.set_input_shape(name, dims):
            raise AtbRuntimeError(f"TensorRT does not take {name} of shape {list(dims)} in {self.target.label}")

    def _refuse_closed(self) -> None:
        if self._context is None:
            raise AtbRuntimeError(f"the engine {self.target.label} is closed; open or load it again")

    def close(self) -> None:
        """Frees graph, context, memory and stream; the plan goes with its last engine. May be called twice."""
        if self._context is None:
            return
        self._drop_graph()
        self._context = self._kernels = self._plan = None
        for buffer in self._buffers.values():
            buffer.close()
        if self._stream is not None:
            self._cuda.cudaStreamDestroy(self._stream)


def _new_context(plan: Plan) -> tuple[Any, RuntimeCache | None]:
    """A context, and where the plan has a file for it the runtime cache it was made with."""
    kernels = None
    if plan.kernels is not None and hasattr(plan.engine, "create_runtime_config"):
        config = plan.engine.create_runtime_config()
        if hasattr(config, "create_runtime_cache"):
            kernels = RuntimeCache(config, plan.kernels)
        context = plan.engine.create_execution_context(config)
    else:
        context = plan.engine.create_execution_context()
    if context is None:
        raise AtbRuntimeError("TensorRT cannot make an execution context; is the GPU's memory full?")
    return context, kernels
