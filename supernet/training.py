"""The one training loop: AdamW, warm-up and linear decay, mixed precision, checkpoint and resume, on any `Engine`.

What a step minimises is given to it as a callable, so that fine-tuning a teacher, training a supernet and
distilling a dense model are the same loop. Nothing random survives a step: a loss that needs randomness derives it
from the step (rows, subnets, masks), and PyTorch's generator, which dropout draws from, is seeded by the step. So a
checkpoint holds the weights, the optimiser and the step, and a killed and resumed run ends with identical weights.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol, TypeAlias, cast

import torch
from torch import Tensor, nn

from supernet.checkpoint import load_training, save_training
from supernet.engine import Engine, Part, autocast_type
from supernet.errors import TrainingError
from supernet.health import Level, check_finite, check_level, is_out_of_memory, out_of_memory
from supernet.model import Supernet

__all__ = ["PartedLoss", "Progress", "TrainPlan", "Watching", "autocast_type", "train"]

Progress = Callable[[int, int, str], None]
Watching: TypeAlias = Callable[[int, float], str]
"""Called after each step with the steps done and the running loss; what it returns is shown beside the loss."""

# Trackers hear of every tenth step.
_LOG_EVERY = 10
# Below this scale float16 gradients are lost however they are scaled.
_LEAST_SCALE = 2.0**-10


class PartedLoss(Protocol):
    """A loss that can be asked for one part of a step's batch: `Part` says which rows, and how parts add up."""

    def __call__(self, step: int, *, part: Part) -> Tensor | Iterable[Tensor]:
        """The part's mean, weighed as `Part.weight` says; or the terms of which it is the sum."""


Loss: TypeAlias = Callable[[int], Tensor | Iterable[Tensor]] | PartedLoss
"""The loss of a step, or an iterator over terms of which it is the sum: the gradient of each is taken as it comes, so
that no more than one term's activations are in memory."""


@dataclass(frozen=True, kw_only=True)
class TrainPlan:
    """How long and how fast; `fingerprint` names everything that decides the outcome, so that a checkpoint of
    another plan is never continued.

    A step takes `accumulate` batches of each process. `patience` is how many steps the loss may be far off
    (`supernet.health`) before the training stops; None where it rises by plan. `name` is what trackers file it under.
    """

    steps: int
    learning_rate: float
    warmup: float = 0.1
    weight_decay: float = 0.01
    max_gradient_norm: float = 1.0
    checkpoint_every: int = 200
    fingerprint: str = ""
    accumulate: int = 1
    patience: int | None = 100
    name: str = "training"

    def __post_init__(self) -> None:
        if self.steps < 1 or self.learning_rate <= 0 or not 0 <= self.warmup <= 1 or self.checkpoint_every < 1:
            raise ValueError(f"a plan needs steps, checkpoint_every >= 1, learning_rate > 0, 0 <= warmup <= 1: {self}")
        if self.accumulate < 1 or (self.patience is not None and self.patience < 1):
            raise ValueError(f"a plan needs accumulate >= 1 and patience >= 1 or None: {self}")

    def rate(self, step: int) -> float:
        """Learning rate of a step: linear warm-up, then linear decay towards 0."""
        rising = (step + 1) / max(1.0, self.warmup * self.steps)
        return self.learning_rate * min(1.0, rising, (self.steps - step) / self.steps / max(1e-9, 1 - self.warmup))


def train(
    model: nn.Module,
    loss: Loss,
    plan: TrainPlan,
    *,
    checkpoint: Path | None = None,
    progress: Progress | None = None,
    engine: Engine | None = None,
    watch: Watching | None = None,
) -> None:
    """Minimises the loss over the trainable parameters of `model`, in place, and leaves it in eval mode.

    `loss(step)` is the loss of a whole step; one that takes `part` too can be trained by several processes and with
    accumulation. What is trained beside a student, a projector, is a part of `model`. Without an engine this process
    trains alone, on the CPU; with one, the model lies on the engine's device meanwhile and the loss places what else it
    uses.

    With `checkpoint` the state is saved every `plan.checkpoint_every` steps, by the first process, and continued from
    if present; the file is removed at the end. `progress` and `watch` are called in the first process alone. Raises
    `TrainingError` where the loss or a gradient stops being finite, where the loss ran away, and where memory ends.
    """
    home = next(model.parameters()).device
    training = _Training(model, loss, plan, engine or Engine(local=True), checkpoint)
    try:
        with training.compiled():
            training.run(progress, watch)
    except (RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(training.step, error) from error
        raise
    finally:
        model.to(home)
    model.eval()


class _Training:
    """One call of `train`."""

    def __init__(self, model: nn.Module, loss: Loss, plan: TrainPlan, engine: Engine, checkpoint: Path | None) -> None:
        self.model, self.loss, self.plan, self.engine, self.checkpoint = model, loss, plan, engine, checkpoint
        self.parts, self.count = engine.parts(plan.accumulate), engine.count(plan.accumulate)
        self.parted = "part" in inspect.signature(loss).parameters
        if self.count > 1 and not self.parted:
            raise TrainingError(
                f"this loss takes a step's whole batch: it cannot be shared by {self.count} parts ({engine.processes} "
                f"processes x accumulate = {plan.accumulate}). Train it in one process with accumulate = 1"
            )
        self.level = Level()
        self.step = 0

    @contextmanager
    def compiled(self) -> Iterator[None]:
        """Puts the forward of what is trained through `torch.compile`, where the engine says so."""
        chosen: list[nn.Module] = [x for x in self.model.modules() if isinstance(x, Supernet)] or [self.model]
        for module in chosen if self.engine.compile else []:
            module.compile(dynamic=True)
        try:
            yield
        finally:
            for module in chosen if self.engine.compile else []:
                module._compiled_call_impl = None  # as `nn.Module` has it before `compile`

    def run(self, progress: Progress | None, watch: Watching | None) -> None:
        """All steps that are left."""
        plan, engine = self.plan, self.engine
        engine.place(self.model)
        engine.share_weights(self.model)
        self.parameters = [p for p in self.model.parameters() if p.requires_grad]
        self.optimizer = torch.optim.AdamW(
            self.parameters, lr=plan.learning_rate, weight_decay=plan.weight_decay, fused=True
        )
        self.scaler = engine.scaler()
        first = self._resume()
        self.model.train()
        seen = ""
        for self.step in range(first, plan.steps):
            value = self._update()
            self.level.add(value)
            check_level(self.step, self.level, plan.patience, plan.rate(self.step))
            done = self.step + 1
            if done % plan.checkpoint_every == 0 and done < plan.steps:
                self._save(done)
            if done % _LOG_EVERY == 0 or done == plan.steps:
                engine.log({f"{plan.name}/loss": value, f"{plan.name}/learning_rate": plan.rate(self.step)}, step=done)
            if engine.is_main and watch is not None:
                seen = watch(done, self.level.running)
            if engine.is_main and progress is not None:
                progress(done, plan.steps, f"loss {self.level.running:.3f}{seen and ', '}{seen}")
        if self.checkpoint is not None and engine.is_main:
            self.checkpoint.unlink(missing_ok=True)
        engine.wait()

    def _update(self) -> float:
        """One step; returns the loss of the whole batch."""
        rate = self.plan.rate(self.step)
        for group in self.optimizer.param_groups:
            group["lr"] = rate
        self.optimizer.zero_grad(set_to_none=True)
        values = [self._part(part) for part in self.parts]
        self.engine.sum_gradients(self.parameters)
        self.scaler.unscale_(self.optimizer)
        norm = nn.utils.clip_grad_norm_(self.parameters, self.plan.max_gradient_norm)
        value, size = torch.stack([self.engine.total(torch.stack(values).sum()), norm.float()]).tolist()
        # A scaled gradient that is not finite is part of finding the scale: the scaler leaves the step out.
        scaled = self.scaler.is_enabled() and self.scaler.get_scale() > _LEAST_SCALE
        check_finite(self.step, value, 0.0 if scaled else size, rate)
        self.scaler.step(self.optimizer)
        self.scaler.update()
        return cast(float, value)

    def _part(self, part: Part) -> Tensor:
        """The gradients of one part, added up, and its share of the loss."""
        torch.manual_seed(self.step * 1_000_003 + part.index)  # what the loss draws follows from the step
        loss = cast(Callable[..., Tensor | Iterable[Tensor]], self.loss)
        with self.engine.autocast():
            value = loss(self.step, part=part) if self.parted else loss(self.step)
        terms = iter([value] if isinstance(value, Tensor) else value)
        total = torch.zeros((), device=self.engine.device)
        while True:
            with self.engine.autocast():
                term = next(terms, None)
            if term is None:
                return total
            if self.count > 1:
                term = term / self.count
            if self.count == 1 or term.requires_grad:  # the last batch of an epoch may leave a part without rows
                torch.autograd.backward(self.scaler.scale(term))
            total = total + term.detach().float().to(total.device)
            del term  # and with it what its gradient needed

    def _save(self, done: int) -> None:
        if self.checkpoint is not None and self.engine.is_main:
            notes: dict[str, Any] = {"count": self.count, "level": asdict(self.level)}
            if self.scaler.is_enabled():
                notes["scaler"] = self.scaler.state_dict()
            fingerprint = self.plan.fingerprint
            save_training(self.checkpoint, self.model, self.optimizer, step=done, fingerprint=fingerprint, notes=notes)

    def _resume(self) -> int:
        """The first step, after what the checkpoint holds; every process reads it."""
        if self.checkpoint is None:
            return 0
        saved = load_training(self.checkpoint, self.model, self.optimizer, fingerprint=self.plan.fingerprint)
        self.engine.agree(saved.step, f"the step after {self.checkpoint}")
        if saved.step and saved.notes.get("count", 1) != self.count:
            raise TrainingError(
                f"{self.checkpoint}: a step of this training took {saved.notes.get('count', 1)} batches, it would take "
                f"{self.count} now. Go on with as many processes x accumulate, or delete the file to start again"
            )
        if "level" in saved.notes:
            self.level = Level(**saved.notes["level"])
        if "scaler" in saved.notes and self.scaler.is_enabled():
            self.scaler.load_state_dict(saved.notes["scaler"])
        return saved.step
