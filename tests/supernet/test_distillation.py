"""One function teaches every stage: to the bit what today's recipes learn, and what each part of a stage claims."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, nn

import supernet.distillation
from supernet.batches import BatchOrder, TokenizedTexts
from supernet.distillation import Lessons, predict, teach
from supernet.facts import ModelFacts
from supernet.initial import random_supernet
from supernet.layer_map import LayerMap
from supernet.losses import UNLABELLED, attention_mse, hidden_mse, soft_label
from supernet.masking import Masking
from supernet.model import Supernet
from supernet.sampler import sandwich
from supernet.space import SearchSpace, SubnetConfig
from supernet.stage import LossWeights, Sampler, Stage
from supernet.training import TrainPlan, train

Make = Callable[..., Any]
SPACE = SearchSpace.of_depths(
    source_layers=4, depths=[1, 2, 4], hidden_sizes=(24, 48), heads=(2, 4), head_sizes=(6, 12), ffn_sizes=(10, 40)
)
ONLY = {"soft_label": 0.0, "hidden": 0.0, "attention": 0.0}
LATENT = LossWeights(soft_label=0.0, hidden=1.0, attention=1.0)
PLAN = TrainPlan(steps=5, learning_rate=1e-3)
STAGE = Stage(name="a", steps=5, learning_rate=1e-3, batch_size=8)
MASKING = Masking(mask_token_id=4, special_token_ids=(0, 1, 2, 3), vocab_size=100)
CUT = SubnetConfig.uniform(hidden_size=24, depth=2, heads=2, head_size=6, ffn_size=10, sources=[0, 2])


@pytest.fixture(scope="module")
def lessons() -> Lessons:
    """Texts of different lengths; every fourth has no label."""
    rng = Random(0)
    ids = tuple([2, *(rng.randrange(5, 100) for _ in range(rng.randint(1, 11))), 3] for _ in range(30))
    labels = torch.tensor([UNLABELLED if i % 4 == 0 else rng.randrange(3) for i in range(30)])
    return Lessons(texts=TokenizedTexts(input_ids=ids), labels=labels, masking=MASKING)


def same(one: nn.Module, other: nn.Module) -> list[str]:
    """The names of the weights that two networks do not share."""
    theirs = other.state_dict()
    return [name for name, value in one.state_dict().items() if not torch.equal(value, theirs[name])]


def by_hand(
    student: Supernet,
    teacher: Supernet,
    lessons: Lessons,
    subnets: Callable[[int], Sequence[SubnetConfig]],
    *,
    seed: int,
    dense: bool,
) -> None:
    """The default recipe written out: soft label 1, hidden 1, attention 0.1; a layer stands in for those dropped after
    it and attends as itself; word embeddings stay."""
    order = BatchOrder([len(ids) for ids in lessons.texts.input_ids], batch_size=8, seed=seed)

    def loss(step: int) -> Tensor:
        batch = lessons.texts.batch(order[step])
        mask = batch["attention_mask"]
        with torch.no_grad():
            wanted = teacher(**batch, hidden_states=True, attention_scores=True)
        terms = []
        for subnet in subnets(step):
            got = student(**batch, subnet=None if dense else subnet, hidden_states=True, attention_scores=True)
            reached = [*(source - 1 for source in subnet.sources[1:]), 3]
            hidden = [
                hidden_mse(x, wanted.hidden_states[i + 1], mask)
                for x, i in zip(got.hidden_states[1:], reached, strict=True)
            ]
            attention = [
                attention_mse(x, wanted.attention_scores[i], mask)
                for x, i in zip(got.attention_scores, subnet.sources, strict=True)
            ]
            total = soft_label(got.logits.float(), wanted.logits.float())
            total = total + torch.stack(hidden).mean()
            terms.append(total + 0.1 * torch.stack(attention).mean())
        return torch.stack(terms).mean()

    student.word_embeddings.weight.requires_grad_(False)
    train(student, loss, PLAN)
    student.word_embeddings.weight.requires_grad_(True)


def test_todays_supernet_training_to_the_bit(make_supernet: Make, lessons: Lessons) -> None:
    teacher = make_supernet()
    one, other = copy.deepcopy(teacher), copy.deepcopy(teacher)
    by_hand(
        one, teacher, lessons, seed=3, dense=False,
        subnets=lambda step: sandwich(SPACE, random_subnets=2, rng=Random(f"3-sandwich-{step}")),
    )  # fmt: skip
    teach(other, lessons, replace(STAGE, sampler=Sampler(random_subnets=2)), teacher=teacher, space=SPACE, seed=3)
    assert same(one, other) == []
    assert set(same(one, teacher)) == set(one.state_dict()) - {"word_embeddings.weight"}
    assert all(p.requires_grad for p in other.parameters())


def test_todays_further_distillation_to_the_bit(make_supernet: Make, lessons: Lessons) -> None:
    teacher = make_supernet()
    one, other = teacher.slice(CUT), teacher.slice(CUT)
    by_hand(one, teacher, lessons, lambda _: [CUT], seed=4, dense=True)
    teach(other, lessons, STAGE, teacher=teacher, subnet=CUT, seed=4)
    assert same(one, other) == []


# --- what a stage leaves as it is ------------------------------------------------------------------------------------


def test_a_stage_of_inner_values_leaves_the_head_untouched(make_supernet: Make, lessons: Lessons) -> None:
    """ERNIE-Tiny's head stays untrained until its last stage."""
    teacher, student = make_supernet(), make_supernet(1)
    before = copy.deepcopy(student)
    teach(student, lessons, replace(STAGE, losses=LATENT), teacher=teacher, space=SPACE, seed=0)
    head = {"pooler.weight", "pooler.bias", "classifier.weight", "classifier.bias"}
    assert set(same(student, before)) == set(student.state_dict()) - head
    assert student.classifier.weight.requires_grad
    answers = replace(STAGE, losses=replace(LATENT, hard_label=1.0))
    teach(student, lessons, answers, teacher=teacher, space=SPACE, seed=0)
    assert set(same(student, before)) == set(student.state_dict())


def test_ernie_tinys_stages_change_one_factor_each(make_supernet: Make, lessons: Lessons) -> None:
    """From one start, a stage that differs in its teacher, its texts or its losses alone ends elsewhere; one that
    differs in nothing ends in the same bits."""
    pretrained, tuned = make_supernet(1), make_supernet(2)
    task = Lessons(texts=lessons.texts.take(range(10)), labels=lessons.labels[:10])
    gd = replace(STAGE, losses=LATENT, layer_map=LayerMap("uniform"), projection="shared", steps=3)
    tsd = replace(gd, losses=replace(LATENT, soft_label=1.0, hard_label=1.0))
    start = make_supernet(3, shape=SubnetConfig.uniform(hidden_size=20, depth=2, heads=4, head_size=5, ffn_size=16))

    def ended(stage: Stage, texts: Lessons, teacher: Supernet) -> Supernet:
        student = copy.deepcopy(start)
        teach(student, texts, stage, teacher=teacher, seed=0)
        return student

    stages = [(gd, lessons, pretrained), (gd, lessons, tuned), (gd, task, tuned), (tsd, task, tuned)]
    ends = [ended(*stage) for stage in stages]
    assert same(ends[0], ended(*stages[0])) == []
    for one, other in pairwise(ends):
        assert "layers.1.query.weight" in same(one, other)
    assert [("classifier.weight" in same(end, start)) for end in ends] == [False, False, False, True]


@pytest.mark.parametrize("embedding", ["table", "trigram"])
def test_word_embeddings_learn_unless_they_are_the_teachers(
    make_supernet: Make, facts: ModelFacts, shape: SubnetConfig, lessons: Lessons, embedding: Any
) -> None:
    teacher = make_supernet()
    own = replace(facts, embedding=embedding, embedding_size=None if embedding == "table" else 16)
    for student, learns in ((random_supernet(shape, own, seed=0), True), (teacher.slice(CUT), False)):
        before = student.word_embeddings.weight.detach().clone()
        teach(student, lessons, STAGE, teacher=teacher, subnet=None if learns else CUT, seed=0)
        assert torch.equal(before, student.word_embeddings.weight) is not learns
    student = teacher.slice(CUT)
    teach(student, lessons, STAGE, teacher=teacher, subnet=CUT, seed=0, train_words=True)
    assert not torch.equal(teacher.word_embeddings.weight[:, :24], student.word_embeddings.weight)


def test_the_teacher_is_left_as_it_is(make_supernet: Make, lessons: Lessons) -> None:
    teacher = make_supernet()
    before = copy.deepcopy(teacher)
    teach(make_supernet(1), lessons, replace(STAGE, projection="layer"), teacher=teacher, space=SPACE, seed=0)
    assert same(teacher, before) == []
    assert all(p.grad is None for p in teacher.parameters())


# --- samplers --------------------------------------------------------------------------------------------------------


def gradients(
    monkeypatch: pytest.MonkeyPatch, student: Supernet, lessons: Lessons, stage: Stage, **more: Any
) -> dict[str, Tensor]:
    """Of the first step, without taking it."""
    found: dict[str, Tensor] = {}

    def look(model: nn.Module, loss: Callable[[int], Iterable[Tensor]], *_: Any, **__: Any) -> None:
        model.zero_grad(set_to_none=True)
        for term in loss(0):
            term.backward()
        found.update({name: p.grad for name, p in model.named_parameters() if p.grad is not None})

    with monkeypatch.context() as patch:
        patch.setattr(supernet.distillation, "train", look)
        teach(student, lessons, stage, seed=0, **more)
    return found


WEIGHTS = LossWeights(soft_label=1.0, hidden=1.0, attention=1.0, attention_kl=1.0, relations=1.0, embedding=1.0)
# The largest subnet is the whole network; all others leave the layers' second half of neurons alone.
NARROW = replace(
    SPACE,
    layer_sets=((0, 1, 2, 3),),
    ffn_sizes=(10, 40),
    hidden_sizes=(48,),
    heads=(4,),
    head_sizes=(12,),
    per_layer=False,
)


def test_in_place_the_others_learn_from_the_largest_and_it_learns_nothing_from_them(
    monkeypatch: pytest.MonkeyPatch, make_supernet: Make, lessons: Lessons
) -> None:
    student, other = make_supernet(), make_supernet(1)
    stage = replace(STAGE, losses=WEIGHTS, sampler=Sampler(random_subnets=0, in_place=True))
    # The teacher is the largest subnet: it has nothing to learn, and the smallest copies it.
    found = gradients(monkeypatch, student, lessons, stage, teacher=copy.deepcopy(student), space=NARROW)
    for name, part in found.items():
        if name.endswith("cells.0.intermediate.weight"):
            assert part[10:].abs().max() < 1e-4 * part[:10].abs().max(), name  # neurons that only the largest has
    # Another teacher: the largest's gradient is that of learning alone, halved for two subnets.
    alone = gradients(monkeypatch, student, lessons, replace(stage, sampler=Sampler("whole")), teacher=other)
    both = gradients(monkeypatch, student, lessons, stage, teacher=other, space=NARROW)
    plain = gradients(
        monkeypatch, student, lessons, replace(stage, sampler=Sampler(random_subnets=0)), teacher=other, space=NARROW
    )
    name = "layers.1.cells.0.intermediate.weight"
    torch.testing.assert_close(2 * both[name][10:], alone[name][10:], rtol=0.05, atol=1e-4)
    assert not torch.allclose(both[name][:10], plain[name][:10], rtol=0.05)  # the others' teacher makes a difference


def test_a_whole_supernet_learns_as_a_dense_student(make_supernet: Make, lessons: Lessons) -> None:
    """EfficientBERT's warm-up: the largest network first, as if there were no space."""
    teacher, one, other = make_supernet(), make_supernet(1), make_supernet(1)
    stage = replace(STAGE, sampler=Sampler("whole"), layer_map=LayerMap("uniform"))
    teach(one, lessons, stage, teacher=teacher, space=SPACE, seed=0)
    teach(other, lessons, stage, teacher=teacher, seed=0)
    assert same(one, other) == []


@pytest.mark.parametrize("kind", ["uniform", "sandwich", "attentive", "progressive"])
def test_every_sampler_teaches(make_supernet: Make, lessons: Lessons, kind: Any) -> None:
    teacher, student = make_supernet(), make_supernet(1)
    front = supernet.distillation.Front(cost=lambda x: float(x.hidden_size * x.depth), bounds=(50.0,))
    losses: list[float] = []
    stage = replace(
        STAGE, steps=30, learning_rate=3e-3, sampler=Sampler(kind, in_place=kind in ("sandwich", "progressive"))
    )
    before = (predict(student, lessons.texts) - predict(teacher, lessons.texts)).square().mean()
    teach(
        student, lessons, stage, teacher=teacher, space=SPACE, seed=0, front=front,
        watch=lambda _, loss: losses.append(loss) or "",
    )  # fmt: skip
    after = (predict(student, lessons.texts) - predict(teacher, lessons.texts)).square().mean()
    assert len(losses) == 30
    assert after < before


# --- other students, other heads -------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", ["shared", "layer"])
def test_a_student_of_any_shape_learns_through_a_projector(
    make_supernet: Make, lessons: Lessons, projection: Any
) -> None:
    """Narrower and shallower, wider and deeper than its teacher, with other heads."""
    teacher = make_supernet()
    weights = LossWeights(soft_label=1.0, hidden=1.0, attention=0.0, embedding=1.0, relations=1.0)
    stage = replace(
        STAGE, steps=40, learning_rate=3e-3, losses=weights, layer_map=LayerMap("uniform"), projection=projection
    )
    for hidden, depth in ((20, 2), (56, 6)):
        student = make_supernet(1, shape=SubnetConfig.uniform(hidden_size=hidden, depth=depth, heads=2, ffn_size=16))
        told: list[float] = []
        projector = teach(
            student, lessons, stage, teacher=teacher, seed=0, watch=lambda _, loss, told=told: told.append(loss) or ""
        )
        assert projector is not None
        assert len(projector.maps) == (1 if projection == "shared" else depth + 1)
        assert told[-1] < 0.8 * told[0]
        assert not hasattr(student, "projector")
        again = teach(student, lessons, replace(stage, steps=1), teacher=teacher, seed=0, projector=projector)
        assert again is projector


def test_subnets_use_the_map_of_the_layer_they_were_cut_from(
    monkeypatch: pytest.MonkeyPatch, make_supernet: Make, lessons: Lessons
) -> None:
    stage = replace(STAGE, losses=LossWeights(**ONLY | {"hidden": 1.0}), projection="layer", sampler=Sampler("uniform"))
    space = replace(SPACE, layer_sets=((1, 3),))
    found = gradients(monkeypatch, make_supernet(1), lessons, stage, teacher=make_supernet(), space=space)
    assert {name.split(".")[2] for name in found if name.startswith("projector.")} == {"2", "4"}


class Killed(Exception):
    """Stands for the power cut."""


def test_law_5_a_killed_and_resumed_stage_ends_with_the_same_bits(
    tmp_path: Path, make_supernet: Make, lessons: Lessons
) -> None:
    """Projector, masks, samples and the frozen head included."""
    facts = ModelFacts(vocab_size=100, max_position_embeddings=24, head="mlm")
    weights = LossWeights(soft_label=0.5, hidden=1.0, attention=0.0, mlm=1.0)
    stage = replace(STAGE, steps=9, losses=weights, projection="layer", checkpoint_every=2)
    teacher = make_supernet(facts=facts)

    def run(student: Supernet, checkpoint: Path | None, *, dies_at: int | None = None) -> Any:
        def watch(done: int, _: float) -> str:
            if done == dies_at:
                raise Killed
            return ""

        return teach(student, lessons, stage, teacher=teacher, space=SPACE, seed=5, checkpoint=checkpoint, watch=watch)

    straight, broken = make_supernet(1, facts=facts), make_supernet(1, facts=facts)
    projector, path = run(straight, None), tmp_path / "training.safetensors"
    with pytest.raises(Killed):
        run(broken, path, dies_at=7)
    assert any("projector.maps.0.weight" in name for name in load_file(path))
    assert all(p.requires_grad for p in broken.parameters())
    resumed = run(broken, path)
    assert same(straight, broken) == []
    assert same(projector, resumed) == []
    assert not path.exists()


def test_masked_words_are_learned_without_a_teacher(shape: SubnetConfig, lessons: Lessons) -> None:
    """AutoTinyBERT's first way: a random supernet, one subnet a step, the masked language model."""
    facts = ModelFacts(vocab_size=100, max_position_embeddings=24, head="mlm")
    few = TokenizedTexts(input_ids=tuple([2, *[7 + i % 3] * (3 + i % 5), 3] for i in range(30)))
    student, told = random_supernet(shape, facts, seed=0), []
    stage = replace(
        STAGE,
        steps=80,
        learning_rate=3e-3,
        teacher="none",
        losses=LossWeights(**ONLY, mlm=1.0),
        sampler=Sampler("uniform"),
    )
    teach(
        student, replace(lessons, texts=few), stage, teacher=None, space=SPACE, seed=0,
        watch=lambda _, loss: told.append(loss) or "",
    )  # fmt: skip
    assert told[0] > 4.0
    assert told[-1] < 0.6 * told[0]
    assert not torch.equal(student.word_embeddings.weight, random_supernet(shape, facts, seed=0).word_embeddings.weight)


@pytest.mark.parametrize("head", ["sequence", "token", "span", "mlm"])
@pytest.mark.parametrize("in_place", [False, True])
def test_two_parts_of_a_batch_learn_what_the_whole_batch_learns(
    make_supernet: Make, lessons: Lessons, head: Any, in_place: bool
) -> None:
    """Texts of different lengths, some without a label: the loss of each part is weighed by what its means are over."""
    facts = ModelFacts(vocab_size=100, max_position_embeddings=24, num_labels=2, head=head)
    positions = torch.stack([torch.arange(30) % 2, torch.ones(30, dtype=torch.long)], 1)
    tokens = torch.where(
        torch.arange(13)[None] < torch.tensor(lessons.texts.lengths)[:, None], torch.arange(13) % 2, UNLABELLED
    )
    labels = {"span": positions, "token": tokens, "sequence": torch.arange(30) % 2}.get(head, lessons.labels)
    labels = labels.clone()
    labels[::4] = UNLABELLED
    weights = LossWeights(
        soft_label=1.0, hidden=1.0, attention=1.0, attention_kl=1.0, relations=1.0, embedding=1.0,
        hard_label=0.0 if head == "mlm" else 1.0, mlm=1.0 if head == "mlm" else 0.0,
    )  # fmt: skip
    stage = replace(STAGE, steps=1, losses=weights, sampler=Sampler(in_place=in_place))
    told = []
    for changes in ({"batch_size": 32}, {"batch_size": 16, "accumulate": 2}, {"batch_size": 8, "accumulate": 4}):
        teach(
            make_supernet(1, facts=facts), replace(lessons, labels=labels), replace(stage, **changes),
            teacher=make_supernet(facts=facts), space=SPACE, seed=0, watch=lambda _, loss: told.append(loss) or "",
        )  # fmt: skip
    assert told[1:] == pytest.approx([told[0]] * 2, rel=3e-3)


@pytest.mark.parametrize(
    "term", ["soft_label", "hard_label", "hidden", "embedding", "attention", "attention_kl", "relations"]
)
def test_each_term_of_a_part_has_its_own_share(make_supernet: Make, term: str) -> None:
    """One text is far longer than the others, and some have no label."""
    ids = tuple([2, *range(9, 9 + length), 3] for length in (20, 9, 1, 1, 1, 4, 1, 1))
    labels = torch.tensor([0, UNLABELLED, 1, 2, UNLABELLED, UNLABELLED, 1, UNLABELLED])
    lessons = Lessons(texts=TokenizedTexts(input_ids=ids), labels=labels)
    told: list[float] = []
    stage = replace(STAGE, steps=1, losses=LossWeights(**ONLY | {term: 1.0}))
    for changes in ({"batch_size": 8}, {"batch_size": 2, "accumulate": 4}):
        student, teacher = make_supernet(1), make_supernet()
        watch = lambda _, loss: told.append(loss) or ""  # noqa: E731
        teach(student, lessons, replace(stage, **changes), teacher=teacher, space=SPACE, seed=0, watch=watch)
    assert told[1] == pytest.approx(told[0], rel=5e-3)


def test_in_place_within_a_space_that_never_has_all_layers(make_supernet: Make, lessons: Lessons) -> None:
    """The largest subnet's layers are counted, not the teacher's."""
    space = replace(SPACE, layer_sets=((0, 2), (1, 3), (1,), (2,)))
    stage = replace(STAGE, losses=WEIGHTS, sampler=Sampler(random_subnets=2, in_place=True), steps=8)
    for layer_map in (LayerMap(), LayerMap("uniform"), LayerMap("last"), LayerMap((1, 2, 3, 4))):
        student = make_supernet(1)
        teach(student, lessons, replace(stage, layer_map=layer_map), teacher=make_supernet(), space=space, seed=0)
        assert torch.isfinite(predict(student, lessons.texts)).all()


# --- texts -----------------------------------------------------------------------------------------------------------


def test_a_stage_cuts_texts_to_its_length_and_keeps_their_end(make_supernet: Make, lessons: Lessons) -> None:
    student, seen = make_supernet(1), []
    student.register_forward_pre_hook(lambda _, __, given: seen.append(given["input_ids"]), with_kwargs=True)
    teach(student, lessons, replace(STAGE, length=6, steps=4), teacher=make_supernet(), seed=0)
    assert max(ids.shape[1] for ids in seen) == 6
    for ids in (row for batch in seen for row in batch.tolist()):
        text = [i for i in ids if i]
        assert text[0] == 2
        assert text[-1] == 3


def test_kept_answers_teach_the_same(tmp_path: Path, make_supernet: Make, lessons: Lessons) -> None:
    teacher, found = make_supernet(), []
    stage = replace(STAGE, steps=12, losses=LossWeights(attention=0.0))
    for folder in (None, tmp_path):
        student = make_supernet(1)
        teach(student, lessons, stage, teacher=teacher, seed=0, answers=folder)
        found.append(predict(student, lessons.texts))
    assert list(tmp_path.glob("answers-*"))
    torch.testing.assert_close(found[0], found[1], rtol=0.1, atol=0.1)


@pytest.mark.parametrize("head", ["token", "span"])
def test_predictions_of_tokens_stand_where_the_tokens_stand(make_supernet: Make, lessons: Lessons, head: Any) -> None:
    facts = ModelFacts(vocab_size=100, max_position_embeddings=24, num_labels=2, head=head)
    model = make_supernet(facts=facts)
    found = predict(model, lessons.texts, batch_size=7)
    longest = max(lessons.texts.lengths)
    assert found.shape == (30, longest, 2)
    with torch.no_grad():
        for i, length in enumerate(lessons.texts.lengths):
            assert (found[i, length:] == 0).all()
            alone = model(**lessons.texts.batch([i])).logits[0]
            torch.testing.assert_close(found[i, :length], alone, rtol=0.05, atol=0.05)
