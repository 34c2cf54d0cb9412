"""When a training is to stop, and what its user is to change: values that are not finite, a lost loss, memory."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

from supernet.errors import TrainingError

# A step's loss is far off when it is so many times the lowest running mean ...
FACTOR = 3.0
# ... and above the running mean of the first steps, of which there are so many ...
FIRST_STEPS = 50
# ... and not small in itself: what is left of a solved task may well triple.
SMALL = 0.01

_KEPT = 0.98
_NO_MEMORY = ("can't allocate memory", "cannot allocate memory", "not enough memory", "out of memory", "bad allocation")


@dataclass(kw_only=True)
class Level:
    """The running mean of a loss (each step keeps 98 % of it), and how many more steps have been `far` off than not, of
    late: one step up, one step down, never below 0. Plain data: a resumed training goes on with it."""

    steps: int = 0
    running: float = 0.0
    first: float = 0.0
    lowest: float = 0.0
    far: int = 0

    def add(self, value: float) -> None:
        """The loss of one more step."""
        self.running = _KEPT * self.running + (1 - _KEPT) * value if self.steps else value
        self.steps += 1
        if self.steps <= FIRST_STEPS:
            self.first, self.lowest = max(self.first, self.running), self.running
        self.lowest = min(self.lowest, self.running)
        far = value > max(FACTOR * self.lowest, self.first, SMALL)
        self.far = max(0, self.far + (1 if far else -1))


def check_finite(step: int, value: float, norm: float, rate: float) -> None:
    """Raises `TrainingError` unless loss and gradient norm are finite."""
    if not (math.isfinite(value) and math.isfinite(norm)):
        raise TrainingError(
            f"step {step}: loss {value:.4g}, gradient norm {norm:.4g} at learning rate {rate:.2g}. Lower learning_rate "
            "(a tenth is a good try) or look at the input texts."
        )


def check_level(step: int, level: Level, patience: int | None, rate: float) -> None:
    """Raises `TrainingError` where `patience` more steps than not have been far off; None never does."""
    if patience is not None and level.far >= patience:
        raise TrainingError(
            f"step {step}: the loss diverged: its running mean is {level.running:.4g}, was {level.lowest:.4g} at its "
            f"lowest and {level.first:.4g} at first, and {level.far} steps have been above both {FACTOR:g} times the "
            f"lowest and the first, at learning rate {rate:.2g}. Lower learning_rate (a third is a good try), or take "
            "a longer warmup or a larger batch_size."
        )


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU's, the CPU's or Python's allocator gave up."""
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(x in str(error).lower() for x in _NO_MEMORY)


def out_of_memory(step: int, error: BaseException) -> TrainingError:
    """The error that says what takes less."""
    said = (str(error) or type(error).__name__).splitlines()[0][:200]
    return TrainingError(
        f"step {step}: out of memory ({said}). Half the batch_size with twice the accumulate trains alike in about "
        "half the memory; shorter texts (length, max_length) and fewer random_subnets take less too."
    )
