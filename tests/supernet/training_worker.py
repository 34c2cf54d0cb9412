"""A training in a process of its own: what `test_engine.py` starts, kills and starts twice over.

python training_worker.py alone FOLDER [HANG_AT]     one process, with a checkpoint; stands still before that step
python training_worker.py together FOLDER            one of several processes, as `torchrun` starts them
"""

from __future__ import annotations

import contextlib
import copy
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from torch import Tensor

import supernet.training
from supernet.batches import BatchOrder, TokenizedTexts
from supernet.engine import WHOLE, Engine, Part
from supernet.errors import TrainingError
from supernet.facts import ModelFacts
from supernet.losses import UNLABELLED, attention_mse, hard_label, hidden_mse, labelled, soft_label
from supernet.model import Supernet
from supernet.sampler import sandwich
from supernet.space import SearchSpace, SubnetConfig
from supernet.training import TrainPlan, train

SHAPE = SubnetConfig.uniform(hidden_size=24, depth=2, heads=2, head_size=12, ffn_size=32)
SPACE = SearchSpace.of_depths(
    source_layers=2, depths=[1, 2], hidden_sizes=(16, 24), heads=(1, 2), head_sizes=(6, 12), ffn_sizes=(8, 32)
)
FACTS = ModelFacts(vocab_size=60, max_position_embeddings=16, num_labels=3)
# 9 rows in batches of 4: the third batch of an epoch has one row, which leaves the second of two parts empty.
ROWS, STEP_ROWS = 9, 4
PLAN = TrainPlan(steps=12, learning_rate=3e-3, checkpoint_every=2, fingerprint="worker")


class Killed(Exception):
    """Stands for the power cut."""


def make_model(seed: int = 0) -> Supernet:
    torch.manual_seed(seed)
    return Supernet(shape=SHAPE, facts=FACTS)


def make_texts() -> tuple[TokenizedTexts, Tensor]:
    rng = Random(5)
    ids = tuple([rng.randrange(1, 60) for _ in range(rng.randrange(2, 13))] for _ in range(ROWS))
    labels = [UNLABELLED if i % 3 else rng.randrange(3) for i in range(ROWS)]
    return TokenizedTexts(input_ids=ids), torch.tensor(labels)


def make_loss(model: Supernet, engine: Engine, *, dropout: float = 0.0) -> Callable[..., Tensor]:
    """Means over rows, labels, tokens and pairs of tokens, of a sandwich, each weighed as its own kind."""
    texts, labels = make_texts()
    teacher = engine.place(make_model(1).eval())
    order = BatchOrder([len(x) for x in texts.input_ids], batch_size=STEP_ROWS, seed=3)

    def loss(step: int, *, part: Part = WHOLE) -> Tensor:
        every = order[step]
        rows = part.of(every)
        if not rows:
            return torch.zeros(())
        lengths = [len(texts.input_ids[i]) for i in every]
        batch = engine.place(texts.batch(rows))
        wanted = labels[rows]
        with torch.no_grad():
            answer = teacher(**batch, hidden_states=True, attention_scores=True)
        terms = []
        for subnet in sandwich(SPACE, random_subnets=1, rng=Random(f"{step}")):
            got = model(**batch, subnet=subnet, hidden_states=True, attention_scores=True)
            mask, last = batch["attention_mask"], subnet.layers[-1].source
            logits = torch.nn.functional.dropout(got.logits, dropout)
            term = part.weight([1.0] * len(every)) * soft_label(logits, answer.logits)
            term = term + part.weight(lengths) * hidden_mse(got.hidden_states[-1], answer.hidden_states[-1], mask)
            term = term + part.weight([n * n for n in lengths]) * attention_mse(
                got.attention_scores[-1], answer.attention_scores[last], mask
            )
            if (known := labelled(wanted)).any():
                share = part.weight(labelled(labels[every]).float())
                term = term + share * hard_label(logits[known], wanted[known])
            terms.append(term)
        return torch.stack(terms).mean()

    return loss


def dying(loss: Callable[..., Tensor], at: int) -> Callable[..., Tensor]:
    def killed(step: int, *, part: Part = WHOLE) -> Tensor:
        if step == at:
            raise Killed
        return loss(step, part=part)

    return killed


def weights(model: Supernet) -> dict[str, Tensor]:
    return {name: x.detach().clone() for name, x in model.named_parameters()}


def alone(folder: Path, hang_at: int | None) -> None:
    engine, model = Engine(local=True, mixed_precision="no"), make_model()
    loss = make_loss(model, engine, dropout=0.1)

    def slow(step: int) -> Tensor:
        if step == hang_at:
            print("here", flush=True)
            time.sleep(600)
        return loss(step)

    train(model, slow, PLAN, checkpoint=folder / "training.safetensors", engine=engine)
    save_file(weights(model), folder / "end.safetensors")


def together(folder: Path) -> None:
    engine = Engine(mixed_precision="no", cpu=True)
    assert engine.processes == 2
    mine = folder / f"rank{engine.rank}"
    mine.mkdir()
    # Other weights in the second process: they are to be those of the first.
    model = make_model(engine.rank)
    train(model, make_loss(model, engine), PLAN, engine=engine)
    save_file(weights(model), mine / "straight.safetensors")

    real, path = supernet.training.save_training, folder / "training.safetensors"
    written: list[int] = []

    def save(*arguments: object, step: int, **more: object) -> None:
        written.append(step)
        real(*arguments, step=step, **more)  # type: ignore[arg-type]

    supernet.training.save_training = save  # type: ignore[assignment]
    model = make_model()
    try:
        train(model, dying(make_loss(model, engine), 5), PLAN, checkpoint=path, engine=engine)
    except Killed:
        engine.wait()
    assert path.exists()
    model = make_model(7)
    train(model, make_loss(model, engine), PLAN, checkpoint=path, engine=engine)
    save_file(weights(model), mine / "resumed.safetensors")
    told = []
    for message in (unshared(mine, engine), refused(copy.deepcopy(model), path, engine)):
        told.append(message)
    (mine / "told.txt").write_text("\n".join([str(written), *told]))


def unshared(mine: Path, engine: Engine) -> str:
    """Each process has a folder of its own, and only the first has been here before."""
    model, path = make_model(), mine / "training.safetensors"
    if engine.is_main:
        lonely = Engine(local=True, mixed_precision="no")
        with contextlib.suppress(Killed):
            train(model, dying(make_loss(model, lonely), 5), PLAN, checkpoint=path, engine=lonely)
    try:
        train(model, make_loss(model, engine), PLAN, checkpoint=path, engine=engine)
    except TrainingError as error:
        return str(error)
    return "nothing"


def refused(model: Supernet, path: Path, engine: Engine) -> str:
    """A file of a training in one process, found by two."""
    if engine.is_main:
        lonely = Engine(local=True, mixed_precision="no")
        with contextlib.suppress(Killed):
            train(model, dying(make_loss(model, lonely), 5), PLAN, checkpoint=path, engine=lonely)
    engine.wait()
    try:
        train(model, make_loss(model, engine), PLAN, checkpoint=path, engine=engine)
    except TrainingError as error:
        return str(error)
    return "nothing"


if __name__ == "__main__":
    torch.set_num_threads(1)
    if sys.argv[1] == "alone":
        alone(Path(sys.argv[2]), int(sys.argv[3]) if len(sys.argv) > 3 else None)
    else:
        together(Path(sys.argv[2]))
        # All is written. PyTorch 2.13's gloo threads end some processes by std::terminate while they leave.
        os._exit(0)
