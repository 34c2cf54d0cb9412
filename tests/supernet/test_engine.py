"""Parts of a batch and how they add up; one, two and killed processes; what an engine refuses."""

from __future__ import annotations

import math
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

from supernet.engine import Engine, Part
from supernet.errors import TrainingError
from supernet.training import TrainPlan, train

sys.path.append(str(Path(__file__).parent))
from training_worker import PLAN, make_loss, make_model, weights

# AdamW divides a gradient by its size, so that the rounding of one that is nearly 0 shows; a step moves by 3e-3.
ROUNDING = 1e-4
WORKER = Path(__file__).with_name("training_worker.py")


def apart(a: dict[str, Tensor], b: dict[str, Tensor]) -> float:
    """The largest difference of any weight."""
    assert a.keys() == b.keys()
    return max((a[name] - b[name]).abs().max().item() for name in a)


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, str(WORKER), *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(Path(__file__).parents[2])} | environment,
    )


def ended(process: subprocess.Popen[str]) -> None:
    _, errors = process.communicate(timeout=120)
    assert process.returncode == 0, errors[-2000:]


@pytest.fixture(scope="module")
def whole() -> dict[str, Tensor]:
    """The weights after one process took each step's batch at once."""
    engine, model = Engine(local=True, mixed_precision="no"), make_model()
    train(model, make_loss(model, engine), PLAN, engine=engine)
    return weights(model)


# --- parts -----------------------------------------------------------------------------------------------------------


def test_parts_hold_every_row_once_and_processes_share_them() -> None:
    rows = list(range(10, 17))
    for count in (1, 2, 3, 9):
        parts = [Part(index=i, count=count).of(rows) for i in range(count)]
        assert sorted(row for part in parts for row in part) == rows
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert Part(index=1, count=3).of(rows) == [11, 14]
    with pytest.raises(ValueError, match="within its count"):
        Part(index=2, count=2)


@pytest.mark.parametrize("kind", ["rows", "tokens", "pairs", "labels"])
def test_weighed_means_of_parts_average_to_the_mean_of_the_whole(kind: str) -> None:
    lengths = [3, 11, 2, 7, 5]
    counts = {
        "rows": [1.0] * 5,
        "tokens": [float(x) for x in lengths],
        "pairs": [float(x * x) for x in lengths],
        "labels": [0.0, 1.0, 1.0, 1.0, 0.0],
    }[kind]
    values = [0.3, 1.5, -2.0, 0.7, 4.0]  # of each row, per token, pair or label
    whole = sum(v * n for v, n in zip(values, counts, strict=True)) / sum(counts)
    parts = [Part(index=i, count=2) for i in range(2)]
    means = []
    for part in parts:
        mine = list(zip(part.of(values), part.of(counts), strict=True))
        means.append(part.weight(counts) * sum(v * n for v, n in mine) / sum(n for _, n in mine))
    assert sum(means) / 2 == pytest.approx(whole)
    assert Part().weight(counts) == 1.0
    assert parts[0].weight([0.0] * 5) == 0.0


def accumulated(accumulate: int) -> dict[str, Tensor]:
    engine, model = Engine(local=True, mixed_precision="no"), make_model()
    plan = TrainPlan(steps=PLAN.steps, learning_rate=PLAN.learning_rate, accumulate=accumulate)
    train(model, make_loss(model, engine), plan, engine=engine)
    return weights(model)


def test_accumulation_ends_with_the_weights_of_the_whole_batch(
    whole: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert apart(accumulated(2), whole) < ROUNDING
    assert apart(accumulated(3), whole) < ROUNDING
    real = Part.weight
    monkeypatch.setattr(Part, "weight", lambda part, counts: real(part, [1.0] * len(counts)))  # as if all were of rows
    assert apart(accumulated(2), whole) > 100 * ROUNDING


def test_a_loss_of_whole_batches_cannot_be_shared() -> None:
    model = nn.Linear(2, 1)
    with pytest.raises(TrainingError, match=r"2 parts .*accumulate = 2.*Train it in one process"):
        train(model, lambda step: model(torch.ones(1, 2)).sum(), TrainPlan(steps=1, learning_rate=1, accumulate=2))


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def pair(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes left that trained together over gloo."""
    folder = tmp_path_factory.mktemp("together")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    processes = [
        start(
            "together",
            folder,
            RANK=str(i),
            LOCAL_RANK=str(i),
            WORLD_SIZE="2",
            LOCAL_WORLD_SIZE="2",
            MASTER_ADDR="127.0.0.1",
            MASTER_PORT=port,
        )
        for i in range(2)
    ]
    try:
        for process in processes:
            ended(process)
    finally:
        for process in processes:
            process.kill()
    return folder


def test_two_processes_end_with_the_weights_of_one_with_the_doubled_batch(pair: Path, whole: dict[str, Tensor]) -> None:
    first, second = (load_file(pair / f"rank{i}" / "straight.safetensors") for i in range(2))
    assert apart(first, second) == 0
    assert apart(first, whole) < ROUNDING
    assert apart(first, accumulated(2)) < ROUNDING


def test_law_5_two_processes_interrupted_and_resumed(pair: Path) -> None:
    for i in range(2):
        straight, resumed = (load_file(pair / f"rank{i}" / f"{x}.safetensors") for x in ("straight", "resumed"))
        assert apart(straight, resumed) == 0


def test_only_the_first_process_writes_and_all_refuse_what_does_not_fit(pair: Path) -> None:
    first, second = ((pair / f"rank{i}" / "told.txt").read_text().splitlines() for i in range(2))
    assert (first[0], second[0]) == ("[2, 4, 6, 8, 10, 2, 4, 2, 4]", "[]")
    for told in (first, second):
        assert "2 processes disagree about the step" in told[1]
        assert "[0, 4]" in told[1]
        assert "took 1 batches, it would take 2 now" in told[2]


def test_law_5_a_killed_process_goes_on_to_the_same_bits(tmp_path: Path) -> None:
    engine, model = Engine(local=True, mixed_precision="no"), make_model()
    train(model, make_loss(model, engine, dropout=0.1), PLAN, engine=engine)
    process = start("alone", tmp_path, 7)
    assert process.stdout is not None
    assert process.stdout.readline() == "here\n", process.communicate()[1][-2000:]
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
    assert [x.name for x in tmp_path.iterdir()] == ["training.safetensors"]
    ended(start("alone", tmp_path))
    assert [x.name for x in tmp_path.iterdir()] == ["end.safetensors"]
    assert apart(load_file(tmp_path / "end.safetensors"), weights(model)) == 0


# --- one process -----------------------------------------------------------------------------------------------------


def test_an_engine_of_one_process_does_what_no_engine_does() -> None:
    found = []
    for engine in (None, Engine(cpu=True), Engine(local=True)):
        model = make_model()
        loss = make_loss(model, Engine(local=True))
        train(model, lambda step, loss=loss: loss(step), TrainPlan(steps=4, learning_rate=1e-2), engine=engine)
        found.append(weights(model))
    assert apart(found[0], found[1]) == apart(found[0], found[2]) == 0


def test_precision_is_the_engines() -> None:
    seen: list[torch.dtype] = []
    layer = nn.Linear(4, 4)

    def loss(step: int) -> Tensor:
        value = layer(torch.ones(1, 4))
        seen.append(value.dtype)
        return value.float().sum()

    for precision in ("no", "bf16", "fp16"):
        train(layer, loss, TrainPlan(steps=1, learning_rate=1e-3), engine=Engine(local=True, mixed_precision=precision))  # type: ignore[arg-type]
    assert seen == [torch.float32, torch.bfloat16, torch.float16]
    with pytest.raises(ValueError, match="one of auto, no, bf16, fp16; got 'fp8'"):
        Engine(mixed_precision="fp8")  # type: ignore[arg-type]


def test_float16_leaves_out_steps_until_its_scale_is_found_and_resumes_with_it(tmp_path: Path) -> None:
    """Times the first scales, 65536 and 32768, a gradient of 2 is beyond float16's 65504; the next is not."""

    class Half(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.Parameter(torch.zeros(1))

    def loss_of(model: Half, dies: int | None = None) -> Any:
        def loss(step: int) -> Tensor:
            if step == dies:
                raise KeyboardInterrupt
            return (model.a.half() * 2.0).float().sum()

        return loss

    engine, path = Engine(local=True, mixed_precision="fp16"), tmp_path / "training.safetensors"
    plan = TrainPlan(steps=5, learning_rate=0.1, warmup=0.0, weight_decay=0.0, checkpoint_every=1)
    straight, at = Half(), []
    train(straight, loss_of(straight), plan, engine=engine, progress=lambda *_: at.append(straight.a.item()))
    assert at[:2] == [0, 0]
    assert at[2] < 0
    broken = Half()
    with pytest.raises(KeyboardInterrupt):
        train(broken, loss_of(broken, 2), plan, engine=engine, checkpoint=path)
    again = Half()
    train(again, loss_of(again), plan, engine=engine, checkpoint=path)
    assert torch.equal(again.a, straight.a)


def test_trackers_hear_of_loss_and_rate(tmp_path: Path) -> None:
    events = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    engine = Engine(cpu=True, trackers=("tensorboard",), log_folder=tmp_path)
    model = nn.Linear(2, 1)
    plan = TrainPlan(steps=12, learning_rate=0.1, name="supernet")
    train(model, lambda step: model(torch.ones(1, 2)).square().sum(), plan, engine=engine)
    engine.close()
    found = events.EventAccumulator(str(tmp_path / "atb")).Reload()
    assert {"supernet/loss", "supernet/learning_rate"} <= set(found.Tags()["scalars"])
    rates = found.Scalars("supernet/learning_rate")
    assert [x.step for x in rates] == [10, 12]
    assert [x.value for x in rates] == pytest.approx([plan.rate(9), plan.rate(11)])


def test_trackers_that_cannot_be_had_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(TrainingError, match=r"no tracker 'tensorbord'; known are .*tensorboard.*wandb"):
        _ = Engine(trackers=("tensorbord",), log_folder=tmp_path).accelerator
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    with pytest.raises(TrainingError, match=r"tensorboard is not installed.*pip install 'atb-export\[tensorboard\]'"):
        _ = Engine(trackers=("tensorboard",), log_folder=tmp_path).accelerator
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", lambda: ["tensorboard"])
    with pytest.raises(TrainingError, match="give the engine a log_folder"):
        _ = Engine(trackers=("tensorboard",)).accelerator
    with pytest.raises(ValueError, match="no trackers"):
        Engine(trackers=("tensorboard",), local=True)


def test_what_is_trained_is_compiled_meanwhile_where_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """With a stand-in for the compiler, which takes longer than all other tests."""
    calls: list[dict[str, Any]] = []

    def compiler(function: Any, **options: Any) -> Any:
        def compiled(*arguments: Any, **more: Any) -> Any:
            calls.append(options)
            return function(*arguments, **more)

        return compiled

    monkeypatch.setattr("torch.compile", compiler)
    found = []
    for compile in (False, True):
        model = make_model()
        both = nn.ModuleDict({"student": model, "projector": nn.Linear(2, 2)})
        engine = Engine(local=True, mixed_precision="no", compile=compile)
        loss = make_loss(model, engine)
        calls.clear()
        train(both, lambda step, loss=loss: loss(step), TrainPlan(steps=2, learning_rate=1e-3), engine=engine)
        found.append(weights(model))
        assert calls == [{"dynamic": True}] * (6 if compile else 0)  # 2 steps of 3 subnets
        calls.clear()
        make_loss(model, engine)(0)
        assert not calls
    assert apart(*found) == 0


def test_what_is_placed_lies_on_the_device() -> None:
    engine = Engine(local=True)
    batch = engine.place({"input_ids": torch.ones(2, 3)})
    assert batch["input_ids"].device == engine.device == torch.device("cpu")
    assert engine.total(torch.tensor(3.0)).item() == 3
    assert engine.parts(2) == (Part(index=0, count=2), Part(index=1, count=2))
    assert math.prod([engine.processes, engine.count(3)]) == 3
