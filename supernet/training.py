"""The one training loop: AdamW, warm-up and linear decay, bf16 autocast where the CPU has it, checkpoint and resume.

What a step minimises is given to it as a callable, so that fine-tuning a teacher, training a supernet and
distilling a dense model are the same loop. Nothing random survives a step: a loss that needs randomness derives it
from the step, which is why a killed and resumed run ends with identical weights.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from supernet.checkpoint import load_training, save_training
from supernet.errors import TrainingError

Progress = Callable[[int, int, str], None]


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """How long and how fast; `fingerprint` names everything that decides the outcome, so that a checkpoint of
    another plan is never continued."""

    steps: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    checkpoint_every: int = 200
    fingerprint: str = ""

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0 or not 0 <= self.warmup <= 1 or self.checkpoint_every < 1:
            raise ValueError(f"a plan needs steps, checkpoint_every >= 1, learning_rate > 0, 0 <= warmup <= 1: {self}")

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then linear decay towards 0."""
        rising = (step + 1) / max(1.0, self.warmup * self.steps)
        return self.learning_rate * min(1.0, rising, (self.steps - step) / self.steps / max(1e-9, 1 - self.warmup))


def autocast_type() -> torch.dtype | None:
    """bfloat16 where the CPU multiplies it natively (elsewhere it is emulated and slower than float32)."""
    capability = torch.backends.cpu.get_cpu_capability()
    if "AVX512" in capability and torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return torch.bfloat16
    return None


def train(
    model: nn.Module,
    loss: Callable[[int], Tensor],
    plan: TrainPlan,
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
) -> None:
    """Minimises `loss(step)` over the trainable parameters of `model`, in place, and leaves it in eval mode.

    With `checkpoint` the state is saved every `plan.checkpoint_every` steps and continued from if present; the file
    is removed at the end. Raises `TrainingError` when the loss or a gradient stops being finite.
    """
    parameters = [p for p in model.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True)
    first = 0
    if checkpoint is not None:
        first = load_training(checkpoint, model, optimizer, fingerprint=plan.fingerprint)
    dtype = autocast_type()
    model.train()
    smooth = math.nan
    for step in range(first, plan.steps):
        for group in optimizer.param_groups:
            group["lr"] = plan.rate(step)
        with torch.autocast("cpu", dtype=dtype or torch.bfloat16, enabled=dtype is not None):
            value = loss(step)
        optimizer.zero_grad(set_to_none=True)
        torch.autograd.backward(value)
        norm = nn.utils.clip_grad_norm_(parameters, plan.max_gradient_norm)
        if not (torch.isfinite(value) and torch.isfinite(norm)):
            raise TrainingError(
                f"step {step}: loss {value.item():.4g}, gradient norm {norm.item():.4g} at learning rate "
                f"{plan.rate(step):.2g}. Lower learning_rate (a tenth is a good try) or look at the input texts."
            )
        optimizer.step()
        smooth = value.item() if math.isnan(smooth) else 0.98 * smooth + 0.02 * value.item()
        done = step + 1
        if checkpoint is not None and done % plan.checkpoint_every == 0 and done < plan.steps:
            save_training(checkpoint, model, optimizer, step=done, fingerprint=plan.fingerprint)
        if progress is not None:
            progress(done, plan.steps, f"loss {smooth:.3f}")
    if checkpoint is not None:
        checkpoint.unlink(missing_ok=True)
    model.eval()
