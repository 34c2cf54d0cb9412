"""When a training stops by itself, and when it must not."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from pathlib import Path
from random import Random

import pytest
import torch
from torch import Tensor, nn

from supernet.errors import TrainingError
from supernet.health import Level, check_level, is_out_of_memory
from supernet.training import TrainPlan, train


def steps_until_stop(losses: list[float], patience: int | None = 100) -> int | None:
    level = Level()
    for step, value in enumerate(losses):
        level.add(value)
        try:
            check_level(step, level, patience, 1e-3)
        except TrainingError:
            return step
    return None


def falling(steps: int, *, to: float = 0.1, noise: float = 0.5) -> list[float]:
    rng = Random(0)
    return [(to + (2 - to) * math.exp(-i / 60)) * (1 + noise * rng.uniform(-1, 1)) for i in range(steps)]


def test_a_loss_that_ran_away_stops_after_patience() -> None:
    good = falling(300)
    stopped = steps_until_stop(good + [5.0] * 400)
    assert stopped is not None
    assert stopped == 399
    assert steps_until_stop(good + [5.0] * 400, patience=None) is None
    assert steps_until_stop(good + [5.0] * 50 + good) is None
    some = Random(1)
    often = [5.0 if some.random() < 0.8 else 0.1 for _ in range(400)]
    assert steps_until_stop(good + often) is not None


@pytest.mark.parametrize(
    "losses",
    [
        falling(2000),
        falling(2000, noise=0.95),
        falling(800) + [0.9] * 600,  # a harder part of the data: three times the lowest, still better than at first
        [1e-4] * 200 + [5e-3] * 1000,  # what is left of a solved task
        [0.01] * 500 + [3.0] * 3 + [0.01] * 500,  # one bad batch
    ],
)
def test_a_healthy_training_goes_on(losses: list[float]) -> None:
    assert steps_until_stop(losses) is None


def test_a_level_is_plain_data_and_goes_on() -> None:
    losses = falling(120) + [4.0] * 90
    straight, resumed = Level(), Level()
    for i, value in enumerate(losses):
        straight.add(value)
        if i == 130:
            resumed = Level(**json.loads(json.dumps(asdict(resumed))))
        resumed.add(value)
    assert straight == resumed
    assert straight.far > 0


def test_divergence_in_the_loop_says_what_to_change(tmp_path: Path) -> None:
    """A resumed training stops at the step at which an uninterrupted one stops."""
    model = nn.Linear(1, 1)

    def loss(step: int) -> Tensor:
        return model(torch.ones(1, 1)).sum() * 0 + (1.0 if step < 60 else 50.0)

    plan = TrainPlan(steps=500, learning_rate=0.1, checkpoint_every=70, patience=40)
    path, told = tmp_path / "training.safetensors", []
    for _ in range(2):
        with pytest.raises(TrainingError, match=r"diverged: .*Lower learning_rate .*longer warmup or a larger") as e:
            train(model, loss, plan, checkpoint=path)
        told.append(str(e.value))
        assert path.exists()
    assert told[0] == told[1]


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:114] DefaultCPUAllocator: can't allocate memory: you tried 9 bytes"
        ),
        MemoryError(),
    ],
)
def test_out_of_memory_says_what_takes_less(error: Exception) -> None:
    model = nn.Linear(1, 1)

    def loss(step: int) -> Tensor:
        if step == 2:
            raise error
        return model(torch.ones(1, 1)).sum()

    with pytest.raises(TrainingError, match=r"step 2: out of memory .*batch_size .*accumulate.*length") as caught:
        train(model, loss, TrainPlan(steps=5, learning_rate=0.1))
    assert caught.value.__cause__ is error


def test_memory_that_ends_for_real_is_recognised() -> None:
    with pytest.raises(RuntimeError) as caught:
        torch.empty(2**55, dtype=torch.uint8)
    assert is_out_of_memory(caught.value)


def test_other_errors_pass() -> None:
    model = nn.Linear(1, 1)

    def loss(_: int) -> Tensor:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        train(model, loss, TrainPlan(steps=5, learning_rate=0.1))
