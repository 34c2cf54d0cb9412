"""The training half of law 5 (interrupted and resumed = uninterrupted, to the bit), and the loop's own rules."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import supernet.engine
from supernet.batches import BatchOrder
from supernet.errors import TrainingError
from supernet.losses import soft_label
from supernet.model import Supernet
from supernet.objective import LossWeights, distillation_loss
from supernet.sampler import sandwich
from supernet.space import SearchSpace
from supernet.training import TrainPlan, train

Make = Callable[..., Any]
STEPS = 12


class Killed(Exception):
    """Stands for the power cut."""


SPACE = SearchSpace.of_depths(
    source_layers=4, depths=[1, 2], hidden_sizes=(24, 48), heads=(2, 4), head_sizes=(6, 12), ffn_sizes=(10, 40)
)


@pytest.fixture(params=[None, torch.bfloat16], ids=["float32", "bfloat16"])
def precision(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(supernet.engine, "autocast_type", lambda: request.param)
    return request.param


@pytest.fixture
def losses(make_supernet: Make, make_batch: Make) -> dict[str, Callable[[Supernet], Callable[[int], Tensor]]]:
    """Ways to train: the whole network, or sandwiches of subnets that leave some layers out at every step."""
    teacher = make_supernet(9)
    texts = make_batch(30, 9)
    order = BatchOrder(texts["attention_mask"].sum(1).tolist(), batch_size=4, seed=1, pool=2)

    def inputs(step: int) -> dict[str, Tensor]:
        return {name: ids[order[step]] for name, ids in texts.items()}

    def whole(model: Supernet) -> Callable[[int], Tensor]:
        def loss(step: int) -> Tensor:
            with torch.no_grad():
                wanted = teacher(**inputs(step)).logits
            return soft_label(model(**inputs(step)).logits.float(), wanted.float())

        return loss

    def sandwiches(model: Supernet) -> Callable[[int], Tensor]:
        def loss(step: int) -> Tensor:
            batch = inputs(step)
            with torch.no_grad():
                wanted = teacher(**batch, hidden_states=True, attention_scores=True)
            terms = [
                distillation_loss(
                    model(**batch, subnet=subnet, hidden_states=True, attention_scores=True),
                    wanted,
                    subnet=subnet,
                    teacher_depth=4,
                    mask=batch["attention_mask"],
                    weights=LossWeights(),
                )
                for subnet in sandwich(SPACE, random_subnets=1, rng=Random(f"7-{step}"))
            ]
            return torch.stack(terms).mean()

        return loss

    return {"whole": whole, "sandwiches": sandwiches}


def dying(loss: Callable[[int], Tensor], at: int) -> Callable[[int], Tensor]:
    def killed(step: int) -> Tensor:
        if step == at:
            raise Killed
        return loss(step)

    return killed


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("way", ["whole", "sandwiches"])
@pytest.mark.parametrize("deaths", [(3,), (5,), (11,), (4, 4, 9)])
def test_law_5_an_interrupted_training_ends_with_the_weights_of_an_uninterrupted_one(
    tmp_path: Path, make_supernet: Make, losses: Any, way: str, deaths: tuple[int, ...]
) -> None:
    plan = TrainPlan(steps=STEPS, learning_rate=3e-3, checkpoint_every=2, fingerprint="plan")
    straight = make_supernet()
    train(straight, losses[way](straight), plan, checkpoint=tmp_path / "straight.safetensors")
    path = tmp_path / "broken.safetensors"
    for at in deaths:
        model = make_supernet(at)  # weights of another start: all must come from the file, but for the first
        if at == deaths[0] and not path.exists():
            model = make_supernet()
        with pytest.raises(Killed):
            train(model, dying(losses[way](model), at), plan, checkpoint=path)
        assert path.exists()
    resumed = make_supernet(77)
    steps: list[int] = []
    loss = losses[way](resumed)
    train(resumed, lambda step: (steps.append(step), loss(step))[1], plan, checkpoint=path)
    assert steps == list(range(deaths[-1] // 2 * 2, STEPS))
    for (name, a), b in zip(straight.named_parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b), f"{name} differs by {(a - b).abs().max().item():.3g}"
    assert not list(tmp_path.iterdir())


@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("way", ["whole", "sandwiches"])
def test_law_5_the_same_training_twice_and_checkpoints_that_change_nothing(
    tmp_path: Path, make_supernet: Make, losses: Any, way: str
) -> None:
    found = []
    for checkpoint in (None, None, tmp_path / "training.safetensors"):
        model = make_supernet()
        plan = TrainPlan(steps=STEPS, learning_rate=3e-3, checkpoint_every=1)
        train(model, losses[way](model), plan, checkpoint=checkpoint)
        found.append(model.state_dict())
    for other in found[1:]:
        assert all(torch.equal(value, other[name]) for name, value in found[0].items())
    assert not all(torch.equal(value, found[0][name]) for name, value in make_supernet().state_dict().items())


class Line(nn.Module):
    """y = a x, whose training can be followed by hand; `b` is for freezing."""

    def __init__(self, a: float = 0.0) -> None:
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a))
        self.b = nn.Parameter(torch.tensor([1.0, 2.0]))

    def error(self, _step: int) -> Tensor:
        return (self.a * self.b.sum() - 6).square()


def test_a_checkpoint_of_another_plan_is_ignored(tmp_path: Path) -> None:
    path = tmp_path / "training.safetensors"
    plan = {"steps": 8, "learning_rate": 0.1, "checkpoint_every": 2}
    model = Line()
    with pytest.raises(Killed):
        train(model, dying(model.error, 5), TrainPlan(**plan, fingerprint="one"), checkpoint=path)
    fresh, continued, never = Line(), Line(), Line()
    copied = tmp_path / "copy.safetensors"
    copied.write_bytes(path.read_bytes())
    steps: dict[str, list[int]] = {"one": [], "two": []}
    for name, net, file in (("two", fresh, path), ("one", continued, copied)):
        counted = lambda step, net=net, name=name: (steps[name].append(step), net.error(step))[1]  # noqa: E731
        train(net, counted, TrainPlan(**plan, fingerprint=name), checkpoint=file)
    train(never, never.error, TrainPlan(**plan, fingerprint="two"))
    assert steps == {"two": list(range(8)), "one": [4, 5, 6, 7]}
    assert torch.equal(fresh.a, never.a)
    assert torch.equal(continued.a, never.a)


def test_checkpoints_are_written_when_the_plan_says(tmp_path: Path) -> None:
    path, seen = tmp_path / "training.safetensors", []
    model = Line()
    plan = TrainPlan(steps=7, learning_rate=0.1, checkpoint_every=3)
    train(model, model.error, plan, checkpoint=path, progress=lambda done, *_: seen.append((done, path.exists())))
    assert seen == [(1, False), (2, False), (3, True), (4, True), (5, True), (6, True), (7, True)]
    assert not path.exists()


def test_learning_rate_rises_then_falls() -> None:
    plan = TrainPlan(steps=10, learning_rate=1.0, warmup=0.4)
    wanted = [1 / 4, 2 / 4, 3 / 4, 1, 1, 5 / 6, 4 / 6, 3 / 6, 2 / 6, 1 / 6]
    assert [plan.rate(step) for step in range(10)] == pytest.approx(wanted)
    assert plan.rate(10) == 0
    without = TrainPlan(steps=4, learning_rate=2.0, warmup=0.0)
    assert [without.rate(step) for step in range(4)] == pytest.approx([2, 1.5, 1, 0.5])
    rising = TrainPlan(steps=4, learning_rate=2.0, warmup=1.0)
    assert [rising.rate(step) for step in range(4)] == pytest.approx([0.5, 1, 1.5, 2])


def test_every_step_uses_its_own_learning_rate() -> None:
    """Without decay and far from the goal, AdamW's first steps are the learning rate itself."""
    plan = TrainPlan(steps=4, learning_rate=0.01, warmup=0.5, weight_decay=0.0)
    model = Line()
    model.b.requires_grad_(False)
    at = []
    train(model, model.error, plan, progress=lambda *_: at.append(model.a.item()))
    moves = [b - a for a, b in zip([0.0, *at], at, strict=False)]
    assert moves == pytest.approx([plan.rate(step) for step in range(4)], rel=1e-2)


def test_training_lowers_the_loss_and_leaves_eval_mode(make_supernet: Make, losses: Any) -> None:
    model = make_supernet()
    loss, modes = losses["whole"](model), []
    before = sum(loss(i).item() for i in range(8))
    plan = TrainPlan(steps=40, learning_rate=3e-3)
    train(model, loss, plan, progress=lambda *_: modes.append(model.training))
    assert sum(loss(i).item() for i in range(8)) < 0.9 * before
    assert modes == [True] * 40
    assert not model.training


def test_progress_tells_steps_and_loss() -> None:
    model, told = Line(1.0), []
    train(model, model.error, TrainPlan(steps=3, learning_rate=0.1), progress=lambda *x: told.append(x))
    assert [x[:2] for x in told] == [(1, 3), (2, 3), (3, 3)]
    assert told[0][2] == "loss 9.000"


def test_frozen_parameters_stay(make_supernet: Make, losses: Any) -> None:
    model = make_supernet()
    model.word_embeddings.requires_grad_(False)
    model.layers[1].requires_grad_(False)
    before = copy.deepcopy(model.state_dict())
    train(model, losses["whole"](model), TrainPlan(steps=3, learning_rate=3e-3, weight_decay=0.5))
    for name, value in model.state_dict().items():
        frozen = name.startswith(("word_embeddings.", "layers.1."))
        assert torch.equal(value, before[name]) is frozen, name


def broken_loss(model: Line) -> Tensor:
    return model.error(0) * math.nan


def broken_gradient(model: Line) -> Tensor:
    return (model.a * 0).sqrt() + model.error(0)  # finite itself, but the root's slope at 0 is infinite


@pytest.mark.parametrize("broken", [broken_loss, broken_gradient])
def test_divergence_stops_before_it_spoils_the_weights(tmp_path: Path, broken: Callable[[Line], Tensor]) -> None:
    model, path, last = Line(1.0), tmp_path / "training.safetensors", [0.0]

    def loss(step: int) -> Tensor:
        last[0] = model.a.item()
        return broken(model) if step == 3 else model.error(step)

    plan = TrainPlan(steps=8, learning_rate=0.1, checkpoint_every=1)
    with pytest.raises(TrainingError, match=r"step 3: .*nan.*Lower learning_rate"):
        train(model, loss, plan, checkpoint=path)
    assert model.a.item() == last[0]
    assert math.isfinite(last[0])
    train(model, model.error, plan, checkpoint=path)  # what was saved is sound


def test_gradients_are_clipped_together() -> None:
    """AdamW hides the size of a first gradient, not the ratio of later ones: a clipped giant moves as a dwarf."""
    moves = []
    for scale in (1.0, 1e6):
        model = Line()
        model.b.requires_grad_(False)
        factors = [1.0, scale]
        train(
            model,
            lambda step, model=model, factors=factors: -model.a * factors[step],
            TrainPlan(steps=2, learning_rate=0.1, warmup=0.0, weight_decay=0.0),
        )
        moves.append(model.a.item())
    assert moves[0] == pytest.approx(moves[1], rel=1e-5)


@pytest.mark.parametrize(
    "wrong",
    [{"steps": 0}, {"learning_rate": 0.0}, {"warmup": 1.5}, {"warmup": -0.1}, {"checkpoint_every": 0}],
)
def test_plans_that_cannot_be_followed_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="a plan needs"):
        TrainPlan(**({"steps": 10, "learning_rate": 0.1} | wrong))


def test_autocast_type_is_bfloat16_or_none() -> None:
    assert supernet.engine.autocast_type() in (None, torch.bfloat16)


@pytest.mark.usefixtures("precision")
def test_terms_in_turn_are_the_gradient_of_their_sum_to_the_bit(make_supernet: Make, make_batch: Make) -> None:
    """Each term's gradient is taken before the next is made; last first, as one backward pass of all would add them."""
    teacher, batch, found, alive = make_supernet(9), make_batch(5, 9), [], []

    def terms(model: Supernet, step: int) -> Iterator[Tensor]:
        with torch.no_grad():
            wanted = teacher(**batch, hidden_states=True, attention_scores=True)
        subnets = sandwich(SPACE, random_subnets=2, rng=Random(f"7-{step}"))
        for subnet in reversed(subnets):
            alive.append(sum(x.grad is not None for x in model.parameters()))
            got = model(**batch, subnet=subnet, hidden_states=True, attention_scores=True)
            asked = {"subnet": subnet, "teacher_depth": 4, "mask": batch["attention_mask"], "weights": LossWeights()}
            yield distillation_loss(got, wanted, **asked) / len(subnets)

    def mean(model: Supernet, step: int) -> Tensor:
        """As one graph, subnets in their order."""
        with torch.no_grad():
            wanted = teacher(**batch, hidden_states=True, attention_scores=True)
        values = []
        for subnet in sandwich(SPACE, random_subnets=2, rng=Random(f"7-{step}")):
            got = model(**batch, subnet=subnet, hidden_states=True, attention_scores=True)
            asked = {"subnet": subnet, "teacher_depth": 4, "mask": batch["attention_mask"], "weights": LossWeights()}
            values.append(distillation_loss(got, wanted, **asked))
        return torch.stack(values).mean()

    plan = TrainPlan(steps=4, learning_rate=3e-3)
    for way in (terms, mean):
        model, told = make_supernet(), []
        alive.clear()
        train(
            model, lambda step, way=way, model=model: way(model, step), plan, progress=lambda *x, t=told: t.append(x[2])
        )
        found.append((model.state_dict(), told, sum(map(bool, alive))))
    assert found[0][1] == found[1][1]
    assert all(torch.equal(value, found[1][0][name]) for name, value in found[0][0].items())
    assert found[0][2] == 12  # of 4 x 4 terms, all but each step's first saw gradients before them


def test_a_step_without_terms_changes_nothing_but_the_count() -> None:
    model, told = Line(1.0), []
    train(model, lambda _: iter(()), TrainPlan(steps=2, learning_rate=0.1), progress=lambda *x: told.append(x[0]))
    assert told == [1, 2]
    assert model.a.item() == 1.0
