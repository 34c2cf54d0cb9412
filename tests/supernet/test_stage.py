"""Stages as data."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest

from supernet.layer_map import LayerMap
from supernet.stage import LossWeights, Sampler, Stage

LATENT = LossWeights(soft_label=0.0, hidden=1.0, attention=1.0)
GENERAL = Stage(
    name="gd", teacher="pretrained", data="transfer", losses=LATENT, layer_map=LayerMap("uniform"), steps=9,
    learning_rate=1e-4, projection="shared", sampler=Sampler("uniform"), length=32, accumulate=2,
)  # fmt: skip


def test_json_reads_back_equal_and_is_json() -> None:
    for stage in (GENERAL, Stage(name="a", steps=1, learning_rate=0.1)):
        data = json.loads(json.dumps(stage.to_json()))
        assert Stage.from_json(data) == stage
        assert Stage.from_json(data).fingerprint == stage.fingerprint
    assert Stage.from_json({"name": "a", "steps": 1, "learning_rate": 0.1}) == Stage(
        name="a", steps=1, learning_rate=0.1
    )


def test_every_field_is_in_the_fingerprint() -> None:
    changes: dict[str, Any] = {
        "name": "x", "teacher": "task", "data": "task", "losses": replace(LATENT, mlm=0.5),
        "layer_map": LayerMap("last"), "projection": "layer", "sampler": Sampler("whole"), "steps": 10,
        "learning_rate": 2e-4, "batch_size": 8, "length": None, "warmup": 0.2, "checkpoint_every": 7, "accumulate": 1,
    }  # fmt: skip
    assert set(changes) == set(GENERAL.to_json())
    found = {replace(GENERAL, **{key: value}).fingerprint for key, value in changes.items()}
    assert len(found | {GENERAL.fingerprint}) == len(changes) + 1


def test_ernie_tiny_changes_one_factor_a_stage() -> None:
    """Su et al. 2021: GED only the teacher, TAD only the data, TSD only the loss."""
    ged = replace(GENERAL, teacher="task")
    tad = replace(ged, data="task")
    tsd = replace(tad, losses=replace(LATENT, soft_label=1.0, hard_label=1.0))

    def differs(a: Stage, b: Stage) -> set[str]:
        mine, other = a.to_json(), b.to_json()
        return {key for key in mine if mine[key] != other[key]}

    assert [differs(a, b) for a, b in ((GENERAL, ged), (ged, tad), (tad, tsd))] == [{"teacher"}, {"data"}, {"losses"}]
    assert [x.losses.is_latent for x in (GENERAL, ged, tad, tsd)] == [True, True, True, False]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"name": ""}, "needs a name"),
        ({"teacher": "parent"}, "teacher is one of task, pretrained, multitask, none; got 'parent'"),
        ({"data": "web"}, "data is one of"),
        ({"projection": "both"}, "projection is one of"),
        ({"steps": 0}, "steps must be 1 or more"),
        ({"accumulate": 0}, "accumulate must be 1 or more"),
        ({"batch_size": 0}, "batch_size must be 1 or more"),
        ({"length": 0}, "length is in tokens"),
        ({"learning_rate": 0.0}, "learning_rate must be positive"),
        ({"warmup": 1.5}, "warmup is a part of the steps"),
        ({"teacher": "none"}, "without a teacher only hard_label and mlm"),
        ({"losses": LossWeights(hidden=0.0)}, "a projection serves the hidden and embedding losses"),
    ],
)
def test_what_is_no_stage_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(GENERAL, **wrong)


@pytest.mark.parametrize(
    "wrong",
    [{}, {"name": "a", "steps": 1, "learning_rate": 0.1, "lr": 1}, {"name": "a", "steps": 1, "learning_rate": "x"}, []],
)
def test_json_of_no_stage_is_refused(wrong: Any) -> None:
    with pytest.raises(ValueError, match="stage"):
        Stage.from_json(wrong)


def test_losses_know_what_they_need() -> None:
    zero = {"soft_label": 0.0, "hidden": 0.0, "attention": 0.0}
    assert not LossWeights(**zero, mlm=1.0).needs_teacher
    assert not LossWeights(**zero, hard_label=1.0).needs_teacher
    assert LossWeights(**zero | {"soft_label": 1.0}).needs_teacher
    for name in ("hidden", "attention", "attention_kl", "relations", "embedding"):
        weights = LossWeights(**zero | {name: 1.0})
        assert weights.needs_teacher
        assert weights.is_latent
    assert not LossWeights(**zero, mlm=1.0).is_latent


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"kind": "random"}, "a sampler is one of"),
        ({"random_subnets": -1}, "random_subnets must be 0 or more"),
        ({"kind": "attentive", "draws": 0}, "draws must be 1 or more"),
        ({"kind": "uniform", "in_place": True}, "in_place needs the largest subnet beside others"),
        ({"kind": "whole", "in_place": True}, "in_place needs the largest subnet beside others"),
    ],
)
def test_what_is_no_sampler_is_refused(wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        Sampler(**wrong)
