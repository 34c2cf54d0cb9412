"""The predictor others use: fitted to eager timings, and to nothing else."""

from __future__ import annotations

from random import Random
from typing import Any

import pytest
import torch

import atb_export.eager
from atb_export.eager import ENGINES, eager_ms, eager_timings, fitted
from atb_export.work import WorkInputs
from runtime.target import EngineTarget, Shape
from supernet.cost import flops
from supernet.space import SearchSpace, SubnetConfig

TARGET = EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=1, length=16))
SPACE = SearchSpace.of_depths(
    source_layers=4,
    depths=[1, 2, 3, 4],
    hidden_sizes=(16, 24, 32),
    heads=(1, 2, 4),
    head_sizes=(4, 8),
    ffn_sizes=(16, 64),
)


def test_it_times_the_cut_net_on_the_targets_shape_and_threads(
    work_inputs: WorkInputs, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Any, ...]] = []
    subnet = SPACE.smallest()
    real = type(work_inputs.supernet).forward

    def forward(self: Any, ids: Any, mask: Any, **more: Any) -> Any:
        seen.append((self.shape, tuple(ids.shape), torch.get_num_threads()))
        return real(self, ids, mask, **more)

    monkeypatch.setattr(type(work_inputs.supernet), "forward", forward)
    before = torch.get_num_threads()
    target = EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=3, length=8), threads=2)
    assert eager_ms(work_inputs.supernet, subnet, target, runs=3) > 0
    assert set(seen) == {(subnet.renumbered(), (3, 8), 2)}
    assert torch.get_num_threads() == before


def test_the_model_is_of_those_timings(work_inputs: WorkInputs, monkeypatch: pytest.MonkeyPatch) -> None:
    """With timings that follow the operations its guesses do, too, on subnets it never saw."""

    def cost(subnet: SubnetConfig) -> float:
        return 0.1 + flops(subnet, length=16, batch=1, num_labels=2) / 1e6

    monkeypatch.setattr(atb_export.eager, "eager_ms", lambda net, subnet, target: cost(subnet))
    timings = eager_timings(work_inputs, SPACE, TARGET, rng=Random(0))
    assert len(timings) == ENGINES
    assert all(SPACE.contains(x) for x, _ in timings)
    predict = fitted(timings)
    known, rng = {x for x, _ in timings}, Random(1)
    errors = [abs(predict(x) / cost(x) - 1) for x in (SPACE.sample(rng) for _ in range(40)) if x not in known]
    assert len(errors) > 20
    assert sum(errors) / len(errors) < 0.1
