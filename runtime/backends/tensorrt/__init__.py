"""TensorRT, both flavours: `tensorrt` (10, 11) and `tensorrt_rtx`, which builds plans without a GPU."""

from runtime.backends.tensorrt.backend import BACKEND, TensorRtBackend
from runtime.backends.tensorrt.cuda import no_gpu
from runtime.backends.tensorrt.record import PLAN_FILE, RECORD_FILE, PlanRecord

__all__ = ["BACKEND", "PLAN_FILE", "RECORD_FILE", "PlanRecord", "TensorRtBackend", "no_gpu"]
