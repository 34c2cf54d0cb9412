"""What is seen of three subnets while they train, and that looking changes nothing."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from supernet.batches import TokenizedTexts
from supernet.engine import Engine
from supernet.losses import hard_label
from supernet.metrics import score
from supernet.model import Supernet
from supernet.space import SearchSpace
from supernet.training import TrainPlan, train
from supernet.watch import Watch, three_of

Make = Callable[..., Any]
SPACE = SearchSpace.of_depths(
    source_layers=4,
    depths=[1, 2, 4],
    hidden_sizes=(24, 36, 48),
    heads=(1, 2, 4),
    head_sizes=(6, 12),
    ffn_sizes=(10, 40),
)
EXACT = Engine(local=True, mixed_precision="no")


@pytest.fixture(scope="module")
def rows() -> tuple[TokenizedTexts, Tensor]:
    rng = torch.Generator().manual_seed(0)
    ids = tuple(torch.randint(1, 100, (n,), generator=rng).tolist() for n in [5, 9, 2, 7, 3, 8, 4, 6, 9, 2])
    return TokenizedTexts(input_ids=ids), torch.randint(0, 3, (10,), generator=rng)


def make_loss(model: Supernet, rows: tuple[TokenizedTexts, Tensor]) -> Callable[[int], Tensor]:
    texts, labels = rows
    return lambda step: hard_label(model(**texts.batch([step % 10, 3])).logits.float(), labels[[step % 10, 3]])


def test_three_subnets_lie_in_the_space_in_order() -> None:
    three = three_of(SPACE)
    assert list(three) == ["smallest", "middle", "largest"]
    assert all(SPACE.contains(x) for x in three.values())
    assert (three["smallest"], three["largest"]) == (SPACE.smallest(), SPACE.largest())
    middle = three["middle"]
    assert (middle.hidden_size, middle.depth) == (36, 2)
    assert middle.sources == (0, 2)  # (0, 1) and (2, 3) lie less evenly
    assert (middle.layers[0].heads, middle.layers[0].ffn_size) == (2, 40)


def test_figures_are_those_of_each_subnet_on_all_rows(make_supernet: Make, rows: Any) -> None:
    texts, labels = rows
    model = make_supernet().train()
    watch = Watch(subnets={**three_of(SPACE), "whole": None}, texts=texts, labels=labels, batch_size=3)
    figures = watch.figures(model, EXACT)
    assert model.training
    for name, subnet in watch.subnets.items():
        with torch.no_grad():
            logits = model.eval()(**texts.batch(range(10)), subnet=subnet).logits
        assert figures[name]["accuracy"] == score(logits, labels)
        assert figures[name]["loss"] == pytest.approx(hard_label(logits, labels).item(), rel=1e-5)
    assert len({x["loss"] for x in figures.values()}) >= 3


def test_looking_changes_no_weight_and_is_told_when_it_is_due(make_supernet: Make, rows: Any, tmp_path: Path) -> None:
    texts, labels = rows
    plan, found, told = TrainPlan(steps=7, learning_rate=3e-3), [], []
    for watched in (False, True):
        model = make_supernet()
        watch = Watch(
            subnets=three_of(SPACE), texts=texts, labels=labels, every=3, log=tmp_path / "logs" / "watch.jsonl"
        )
        look = watch.on(model, EXACT) if watched else None
        train(
            model,
            make_loss(model, rows),
            plan,
            engine=EXACT,
            watch=look,
            progress=lambda *x: told.append(x[2]),
        )
        found.append(model.state_dict())
    assert all(torch.equal(value, found[1][name]) for name, value in found[0].items())
    lines = [json.loads(x) for x in (tmp_path / "logs" / "watch.jsonl").read_text().splitlines()]
    assert [x["step"] for x in lines] == [3, 6]
    assert set(lines[0]) == {"step", "loss", "smallest", "middle", "largest"}
    assert lines[0]["largest"] != lines[1]["largest"]
    mine = told[7:]
    assert [", smallest" in x for x in mine] == [False, False, True, True, True, True, True]
    shown = [f"{name} {lines[0][name]['accuracy']:.3f}" for name in ("smallest", "middle", "largest")]
    assert mine[3].endswith(", ".join(shown))


def test_a_resumed_training_has_one_line_a_look(make_supernet: Make, rows: Any, tmp_path: Path) -> None:
    texts, labels = rows
    log, path = tmp_path / "watch.jsonl", tmp_path / "training.safetensors"
    log.write_text('{"step": 500, "loss": 0.1}\n')  # of another training, before this one
    plan = TrainPlan(steps=8, learning_rate=3e-3, checkpoint_every=3)

    def run(dies: int | None) -> None:
        model = make_supernet()
        watch = Watch(subnets={"whole": None}, texts=texts, labels=labels, every=2, log=log)
        inner = make_loss(model, rows)

        def loss(step: int) -> Tensor:
            if step == dies:
                raise KeyboardInterrupt
            return inner(step)

        train(model, loss, plan, checkpoint=path, engine=EXACT, watch=watch.on(model, EXACT))

    with pytest.raises(KeyboardInterrupt):
        run(5)
    assert [json.loads(x)["step"] for x in log.read_text().splitlines()] == [2, 4]
    with log.open("a") as file:
        file.write('{"step": 6, "lo')  # what a kill left of a line
    run(None)
    lines = [json.loads(x) for x in log.read_text().splitlines()]
    assert [x["step"] for x in lines] == [2, 4, 6, 8]
    log.unlink()
    run(None)
    assert [json.loads(x) for x in log.read_text().splitlines()] == lines


def test_a_watch_without_rows_is_refused(rows: Any) -> None:
    texts, labels = rows
    for wrong in (
        {"labels": labels[:3]},
        {"texts": texts.take([]), "labels": labels[:0]},
        {"subnets": {}},
        {"every": 0},
    ):
        with pytest.raises(ValueError, match="a watch needs"):
            Watch(**({"subnets": {"whole": None}, "texts": texts, "labels": labels} | wrong))
