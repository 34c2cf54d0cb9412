"""The `Backend` of TensorRT."""

from __future__ import annotations

import hashlib
import importlib
import json
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

from runtime.backends.tensorrt.builder import build_plan
from runtime.backends.tensorrt.caches import runtime_file
from runtime.backends.tensorrt.cuda import gpu, no_gpu
from runtime.backends.tensorrt.engine import Plan, TensorRtEngine
from runtime.backends.tensorrt.flavour import errors_of, flavour, new_log
from runtime.backends.tensorrt.record import PLAN_FILE, REBUILD, RECORD_FILE, PlanRecord
from runtime.engine import Hint, refuse_unknown_hint
from runtime.errors import BackendUnavailable, BundleError, UnsupportedTarget
from runtime.files import appearing
from runtime.onnx_reader import check_onnx
from runtime.target import EngineTarget, Shape

# Plans that are on the GPU now: engines of other buckets and threads are contexts of the same weights.
_LOADED: WeakValueDictionary[tuple[str, Path | None], Plan] = WeakValueDictionary()
_LOADING = threading.Lock()


@dataclass(frozen=True, kw_only=True)
class TensorRtBackend:
    """Strongly typed networks: precision lives in the ONNX, and a target that asks for another is refused.

    A target's device is one of `builder.PORTABLE` where the plan is to run on other GPUs than this (plain TensorRT).
    With `version_compatible` it is also to load with later releases of the same major version, and carries code for
    that. `cuda_graphs` False is for measuring what they are worth.
    """

    version_compatible: bool = False
    cuda_graphs: bool = True
    name: str = "tensorrt"

    def unavailable(self) -> str | None:
        """None where a plan can be built here, else the reason and how to get it."""
        try:
            found = flavour()
        except BackendUnavailable as error:
            return str(error)
        if found == "tensorrt" and (reason := no_gpu()) is not None:
            return f"tensorrt builds only beside a GPU, and {reason}; the extra tensorrt-rtx builds without one"
        return None

    def can_run(self) -> str | None:
        """None where a plan can run here, else the reason and how to get it."""
        try:
            flavour()
        except BackendUnavailable as error:
            return str(error)
        return no_gpu()

    def precisions(self, device: str) -> tuple[str, ...]:
        """All that a model may be written in, on whatever GPU; known without one."""
        return ("f32", "bf16", "f16", "int8")

    def compile(
        self,
        onnx: bytes | Path,
        target: EngineTarget,
        out: Path,
        shapes: tuple[Shape, ...] = (),
        *,
        cache: Path | None = None,
    ) -> Path:
        """Writes `model.plan` and `plan.json`, which names the plan's hash, into `out`; returns the first."""
        plan, record = self._build(onnx, target, shapes, cache=cache)
        with appearing(out) as aside:
            (aside / PLAN_FILE).write_bytes(plan)
            (aside / RECORD_FILE).write_text(json.dumps(record.to_json(), indent=2) + "\n", encoding="utf-8")
        return out / PLAN_FILE

    def load(
        self, artifact: Path, target: EngineTarget, *, cache: Path | None = None, hint: Hint = "latency"
    ) -> TensorRtEngine:
        """An engine from the plan that `compile` wrote, if its bytes are those `plan.json` vouches for.

        Engines of one plan share it as long as one of them is open.
        """
        record = PlanRecord.read(artifact.with_name(RECORD_FILE))
        if not artifact.is_file():
            raise BundleError(f"there is no plan {artifact}")
        plan = artifact.read_bytes()
        if hashlib.sha256(plan).hexdigest() != record.plan_sha256:
            raise BundleError(
                f"{artifact} is not the plan that its {RECORD_FILE} names: the bytes differ. "
                f"A plan is native code: it is not loaded. Fetch it again, or {REBUILD}"
            )
        return self._engine(plan, record, target, cache=cache, hint=hint)

    def open(self, onnx: bytes | Path, target: EngineTarget, *, hint: Hint = "latency") -> TensorRtEngine:
        """An engine compiled in memory; needs a GPU, unlike `compile`. Both hints are one to it."""
        if (reason := self.can_run()) is not None:
            raise BackendUnavailable(reason)
        plan, record = self._build(onnx, target)
        return self._engine(plan, record, target, hint=hint)

    def _build(
        self, onnx: bytes | Path, target: EngineTarget, shapes: tuple[Shape, ...] = (), *, cache: Path | None = None
    ) -> tuple[bytes, PlanRecord]:
        if (reason := self.unavailable()) is not None:
            raise BackendUnavailable(reason)
        check_onnx(onnx)
        if target.shape not in (wanted := shapes or (target.shape,)) or len(set(wanted)) < len(wanted):
            raise UnsupportedTarget(
                f"the shapes of a plan are different ones with the target's among them, got {wanted} for {target.label}"
            )
        trt = importlib.import_module(flavour())
        return build_plan(trt, onnx, target, wanted, version_compatible=self.version_compatible, cache=cache)

    def _engine(
        self, plan: bytes, record: PlanRecord, target: EngineTarget, *, hint: Hint, cache: Path | None = None
    ) -> TensorRtEngine:
        refuse_unknown_hint(hint)
        profile = record.profile_of(target)
        if (reason := self.can_run()) is not None:
            raise BackendUnavailable(reason)
        trt = importlib.import_module(flavour(record.flavour))
        record.refuse_version(trt.__version__)
        record.refuse_gpu(*gpu())
        with _LOADING:
            key = record.plan_sha256, cache
            loaded = _LOADED.get(key)
            if loaded is None:
                loaded = _LOADED[key] = _deserialize(trt, plan, record, cache)
        return TensorRtEngine(loaded, target, profile, graphs=self.cuda_graphs)


def _deserialize(trt: Any, plan: bytes, record: PlanRecord, cache: Path | None) -> Plan:
    log = new_log(trt)
    runtime = trt.Runtime(log)
    if record.version_compatible:
        runtime.engine_host_code_allowed = True  # such a plan brings the runtime of its own release
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None:
        raise UnsupportedTarget(
            f"{record.flavour} does not load the plan of {record.target.device} here: {errors_of(log)}; {REBUILD}"
        )
    kernels = None
    if cache is not None and record.flavour == "tensorrt_rtx":
        kernels = runtime_file(cache, trt, record.plan_sha256)
    return Plan(
        trt=trt,
        engine=engine,
        effective_precision=record.effective_precision,
        keep=(runtime, log),
        kernels=kernels,
    )


BACKEND = TensorRtBackend()
