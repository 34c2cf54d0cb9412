"""Where a training runs: device, precision, processes and trackers, over Hugging Face Accelerate.

Accelerate finds the processes that `accelerate launch` or `torchrun` started and their devices, sums over them, and
speaks to trackers. Autocast and gradient scaling are PyTorch's own, as they are beneath Accelerate too: its precision
is one for the whole process, ours one for each engine.

A step's batch is cut into parts, one for each process and accumulation. All parts see the same subnets and other rows,
and their gradients are averaged. A mean over what some parts have more of (tokens, labels) is not the mean of the
parts' means, so each mean of a part is weighed (`Part.weight`). Then n processes train to the weights of one process
with n times the batch, but for rounding.
"""

from __future__ import annotations

import atexit
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, TypeAlias, TypeVar, get_args

import torch
from torch import Tensor, nn

from supernet.errors import ProcessesError, TrainingError
from supernet.health import is_out_of_memory
from supernet.processes import ALONE, Processes, launched

Precision: TypeAlias = Literal["auto", "no", "bf16", "fp16"]
Placed = TypeVar("Placed", Tensor, dict[str, Tensor], nn.Module)
Item = TypeVar("Item")
_TYPES = {"no": None, "bf16": torch.bfloat16, "fp16": torch.float16}
# Gradients are summed over processes in pieces of so many numbers: few messages, little memory beside them.
_PIECE = 8 * 2**20


def _leave() -> None:
    """A process that ends in a group of them leaves it first: its threads would mostly end the process otherwise.

    Seldom they do so even then (`atb_export.cli.main` says why); a program that must not end by it ends by `os._exit`.
    """
    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


@contextmanager
def _joined(processes: Processes) -> Iterator[None]:
    """Says of a collective that failed what it means; what else fails in one is memory."""
    try:
        yield
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise
        # "[SOURCE:LINE] what happened. Advice": the middle.
        reason = re.sub(r"^\[[^]]*\] *", "", str(error)).split("\n")[0].split(". ")[0] or type(error).__name__
        raise ProcessesError(
            f"process {processes.rank + 1} of {processes.count} lost the others: {reason}. One of them ended, or the "
            "network did; resume with --resume"
        ) from error


def autocast_type() -> torch.dtype | None:
    """bfloat16 where the CPU multiplies it natively (elsewhere it is emulated and slower than float32)."""
    capability = torch.backends.cpu.get_cpu_capability()
    if "AVX512" in capability and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return None


@dataclass(frozen=True, kw_only=True)
class Part:
    """One of `count` parts of a step's batch: its rows are `index`, `index + count`, ..."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(f"a part's index lies within its count, got {self}")

    def of(self, rows: Sequence[Item]) -> list[Item]:
        """This part of what the whole step has row by row; it may be empty where the step has fewer rows than parts."""
        return list(rows[self.index :: self.count])

    def weight(self, counts: Sequence[float] | Tensor) -> float:
        """What to multiply this part's mean with, so that the mean over parts is the mean over the step's rows.

        `counts` [rows of the whole step] tell how much each row has of what the mean is over: 1 each for rows, its
        tokens for tokens, their square for pairs of tokens, 0 or 1 for labels. Exactly 1 for the only part.
        """
        if self.count == 1:
            return 1.0
        every = [float(x) for x in counts]
        whole = sum(every)
        return self.count * sum(every[self.index :: self.count]) / whole if whole else 0.0


WHOLE = Part()


@dataclass(frozen=True, kw_only=True, eq=False)
class Engine:
    """How a training is run; made once and passed to every stage.

    `mixed_precision` `auto` is bf16 where the device multiplies it natively, else float32. `cpu` keeps off a GPU that
    is there. `compile` puts the forward of a model of one shape through `torch.compile`. `trackers` are Accelerate's
    by name (tensorboard, wandb, mlflow, ...); what they write to files goes to `log_folder`. `local` is this process
    alone on its CPU, whatever launched it, without Accelerate.
    """

    mixed_precision: Precision = "auto"
    cpu: bool = False
    compile: bool = False
    trackers: tuple[str, ...] = ()
    log_folder: Path | None = None
    local: bool = False

    def __post_init__(self) -> None:
        if self.mixed_precision not in get_args(Precision):
            raise ValueError(
                f"mixed_precision is one of {', '.join(get_args(Precision))}; got {self.mixed_precision!r}"
            )
        if self.local and self.trackers:
            raise ValueError("a local engine has no trackers")

    # --- where ---------------------------------------------------------------------------------------------------

    @cached_property
    def accelerator(self) -> Any:
        """Accelerate's, made on first use. Raises `TrainingError` for trackers that cannot be had."""
        from accelerate import Accelerator
        from accelerate.state import is_initialized

        if self.trackers:
            self._check_trackers()
        # Whether processes meet over gloo or NCCL is decided once in a process, by the first engine.
        alone = (self.cpu or not torch.accelerator.is_available()) and not is_initialized()
        found = Accelerator(
            mixed_precision="no", cpu=alone, log_with=list(self.trackers) or None, project_dir=self.log_folder
        )
        if self.trackers:
            found.init_trackers("atb")
        if found.num_processes != self.processes:
            raise TrainingError(
                f"the launcher speaks of {self.processes} processes, Accelerate finds {found.num_processes}: start "
                "them by torchrun or accelerate launch, which set LOCAL_RANK too"
            )
        if self.processes > 1:
            atexit.register(_leave)
        return found

    def _check_trackers(self) -> None:
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS, get_available_trackers

        here = {str(x) for x in get_available_trackers()}
        for name in self.trackers:
            if name not in LOGGER_TYPE_TO_CLASS:
                raise TrainingError(
                    f"there is no tracker {name!r}; known are {', '.join(sorted(LOGGER_TYPE_TO_CLASS))}"
                )
            if name not in here:
                extra = "atb-export[tensorboard]" if name == "tensorboard" else name.replace("_", "-")
                raise TrainingError(f"the tracker {name} is not installed. Install it: pip install '{extra}'")
            if LOGGER_TYPE_TO_CLASS[name].requires_logging_directory and self.log_folder is None:
                raise TrainingError(f"the tracker {name} writes files: give the engine a log_folder")

    @cached_property
    def _launched(self) -> Processes:
        return ALONE if self.local else launched()

    @property
    def processes(self) -> int:
        """How many train together."""
        return self._launched.count

    @property
    def rank(self) -> int:
        """This process among them."""
        return self._launched.rank

    @property
    def is_main(self) -> bool:
        """Whether this process is the one that writes files and tells of progress."""
        return self.rank == 0

    @cached_property
    def device(self) -> torch.device:
        """Where models and batches lie while they train."""
        if self.local or self.cpu or not torch.accelerator.is_available():
            return torch.device("cpu")
        if self.processes > 1:
            return torch.device(self.accelerator.device)
        kind = torch.accelerator.current_accelerator() or torch.device("cpu")
        return torch.device(kind.type, torch.accelerator.current_device_index())

    def place(self, value: Placed) -> Placed:
        """A tensor, a batch or a model on the engine's device; the model is moved itself."""
        if isinstance(value, dict):
            return {name: x.to(self.device, non_blocking=True) for name, x in value.items()}  # type: ignore[return-value]
        return value.to(self.device)

    # --- precision -----------------------------------------------------------------------------------------------

    @cached_property
    def dtype(self) -> torch.dtype | None:
        """What autocast multiplies in; None for float32."""
        if self.mixed_precision != "auto":
            return _TYPES[self.mixed_precision]
        if self.device.type == "cuda":
            return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else None
        return autocast_type() if self.device.type == "cpu" else None

    def autocast(self) -> AbstractContextManager[Any]:
        """Mixed precision within."""
        return torch.autocast(self.device.type, dtype=self.dtype or torch.bfloat16, enabled=self.dtype is not None)

    def scaler(self) -> torch.amp.GradScaler:
        """Keeps the gradients of float16 from vanishing; does nothing in other precisions."""
        return torch.amp.GradScaler(self.device.type, enabled=self.dtype == torch.float16)

    # --- processes -----------------------------------------------------------------------------------------------

    def parts(self, accumulate: int = 1) -> tuple[Part, ...]:
        """This process's parts of a step's batch, which has `count(accumulate)` batches in it."""
        count = self.count(accumulate)
        return tuple(Part(index=i, count=count) for i in range(self.rank, count, self.processes))

    def count(self, accumulate: int = 1) -> int:
        """How many batches a step takes, over all processes."""
        return self.processes * accumulate

    def total(self, value: Tensor) -> Tensor:
        """The sum over processes; each gets it."""
        if self.processes == 1:
            return value
        accelerator = self.accelerator
        with _joined(self._launched):
            found: Tensor = accelerator.reduce(value, reduction="sum")
        return found

    def agree(self, value: int, what: str) -> None:
        """Raises `TrainingError` in every process unless all have the same value."""
        values = torch.zeros(self.processes, dtype=torch.int64, device=self.device)
        values[self.rank] = value
        if len(found := set(self.total(values).tolist())) > 1:
            raise TrainingError(
                f"{self.processes} processes disagree about {what}: {sorted(found)}. They must see the same files: put "
                "the output on a folder that all machines share"
            )

    @torch.no_grad()
    def share_weights(self, model: nn.Module) -> None:
        """Every process takes the weights of the first."""
        if self.processes > 1:
            from accelerate.utils import broadcast

            _ = self.accelerator
            with _joined(self._launched):
                for tensor in (*model.parameters(), *model.buffers()):
                    tensor.copy_(broadcast(tensor.detach().clone()))

    @torch.no_grad()
    def sum_gradients(self, parameters: Iterable[nn.Parameter]) -> None:
        """Replaces every gradient by its sum over processes.

        A parameter that no process used has none afterwards, so that the optimiser leaves it alone as ever; one that
        only others used (rows without a label, an empty part) gets theirs.
        """
        if self.processes == 1:
            return
        every = list(parameters)
        used = self.total(torch.tensor([float(x.grad is not None) for x in every], device=self.device))
        chosen = [x for x, count in zip(every, used.tolist(), strict=True) if count]
        piece: list[Tensor] = []
        for parameter in chosen:
            if parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)
            piece.append(parameter.grad)
            if sum(x.numel() for x in piece) >= _PIECE or parameter is chosen[-1]:
                summed = self.total(torch.cat([x.flatten() for x in piece]))
                for mine, found in zip(piece, torch.split(summed, [x.numel() for x in piece]), strict=True):
                    mine.copy_(found.view_as(mine))
                piece = []

    def wait(self) -> None:
        """Until every process is here, however long the others take."""
        self._launched.wait()

    # --- trackers ------------------------------------------------------------------------------------------------

    def log(self, values: Mapping[str, float], *, step: int) -> None:
        """To the trackers, once; nothing where there are none."""
        if self.trackers:
            self.accelerator.log(dict(values), step=step)

    def close(self, *, failed: bool = False) -> None:
        """Ends the trackers' runs; with several processes, once all are here, their group too.

        After a failure the group stays: to leave it may mean to wait for the others, who wait for this process.
        """
        if "accelerator" not in self.__dict__:
            return
        if self.processes > 1 and failed:
            for tracker in self.accelerator.trackers:
                tracker.finish()
            return
        self.wait()
        self.accelerator.end_training()
