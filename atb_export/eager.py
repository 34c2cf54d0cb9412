"""Latency as others measure it, PyTorch's eager time of the uncompiled net: to be compared with, never reported."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from random import Random
from statistics import median

import torch

from atb_export.work import WorkInputs
from runtime.target import EngineTarget
from search.latency_model import LatencyModel
from supernet.model import Supernet
from supernet.space import SearchSpace, SubnetConfig

ENGINES = 64
"""Subnets an eager predictor is fitted to."""


@torch.inference_mode()
def eager_ms(net: Supernet, subnet: SubnetConfig, target: EngineTarget, *, runs: int = 7) -> float:
    """Milliseconds of one forward pass of the sliced dense net in float32, on the target's shape and threads."""
    dense = net.slice(subnet).eval()
    ids = torch.ones(target.shape.dims, dtype=torch.long)
    threads = torch.get_num_threads()
    torch.set_num_threads(target.threads)
    try:
        times = []
        for _ in range(runs + 2):
            begun = time.perf_counter()
            dense(ids, ids)
            times.append((time.perf_counter() - begun) * 1e3)
    finally:
        torch.set_num_threads(threads)
    return median(times[2:])


def eager_timings(
    inputs: WorkInputs, space: SearchSpace, target: EngineTarget, *, rng: Random
) -> list[tuple[SubnetConfig, float]]:
    """Random subnets with their eager milliseconds. Never twice the same: who resumes keeps them."""
    subnets = [space.sample(rng) for _ in range(ENGINES)]
    return [(x, eager_ms(inputs.supernet, x, target)) for x in subnets]


def eager_predictor(
    inputs: WorkInputs, space: SearchSpace, target: EngineTarget, *, rng: Random
) -> Callable[[SubnetConfig], float]:
    """AutoTinyBERT's way to know a latency: a model of eager timings of random subnets (Yin et al. 2021).

    Theirs is a network of 12 M weights fitted to thousands of timings; the analytic model needs few and errs less.
    """
    return fitted(eager_timings(inputs, space, target, rng=rng))


def fitted(timings: Sequence[tuple[SubnetConfig, float]]) -> Callable[[SubnetConfig], float]:
    """The model of these timings."""
    model = LatencyModel([x for x, _ in timings], [ms for _, ms in timings])
    return lambda subnet: float(model([subnet])[0][0])
