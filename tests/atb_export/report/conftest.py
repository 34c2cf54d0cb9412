"""A result as `atb run` and `atb compare` leave it: the size and spread of a real one, made by arithmetic."""

from __future__ import annotations

import copy
import math
from random import Random
from typing import Any

import pytest

from supernet.space import SearchSpace, SubnetConfig

TEACHER = SubnetConfig.uniform(hidden_size=384, depth=6, heads=12, ffn_size=1536)
SPACE = SearchSpace.of_depths(
    source_layers=6,
    depths=[2, 3],
    hidden_sizes=(384,),
    heads=(4, 6, 8, 12),
    head_sizes=(32,),
    ffn_sizes=(256, 512, 768, 1024, 1536),
)
LIMIT_MS = 0.46


def flops(subnet: SubnetConfig, length: int = 64) -> float:
    """Multiply-adds times two of the encoder for one text."""
    return 2.0 * sum(
        length * (4 * subnet.hidden_size * x.qkv_size + 2 * subnet.hidden_size * x.ffn_size + 2 * length * x.qkv_size)
        for x in subnet.layers
    )


def _latency(subnet: SubnetConfig, rng: Random) -> float:
    return 0.06 + 0.046 * subnet.depth + flops(subnet) / 1.05e9 * rng.uniform(0.82, 1.25)


def _model(
    name: str, subnet: SubnetConfig, accuracy: float, ms: float, about: str, bundle: int | None
) -> dict[str, Any]:
    params = 30522 * subnet.hidden_size + sum(
        4 * subnet.hidden_size * x.qkv_size + 2 * subnet.hidden_size * x.ffn_size for x in subnet.layers
    )
    return {
        "name": name,
        "description": about,
        "accuracy": accuracy,
        "accuracy_se": math.sqrt(accuracy * (1 - accuracy) / 1800),
        "latency_ms": ms,
        "latency_ci_ms": [ms * 0.985, ms * 1.02],
        "params": params,
        "flops": flops(subnet),
        "bundle_bytes": bundle,
        "subnet": subnet.to_json(),
    }


def _candidates(rng: Random, engines: int) -> list[dict[str, Any]]:
    shapes = {SPACE.sample(rng) for _ in range(engines)}
    made = []
    for i, subnet in enumerate(sorted(shapes)):
        ms = _latency(subnet, rng)
        one = {
            "subnet": subnet.to_json(),
            "flops": flops(subnet),
            "status": "measured",
            "reason": None,
            "front": False,
        }
        one |= {"latency_ms": ms, "latency_ci_ms": [ms * 0.97, ms * 1.04]}
        one["accuracy"] = 0.62 + 0.2 * (1 - math.exp(-flops(subnet) / 2.2e8)) + rng.gauss(0, 0.012)
        if i % 17 == 5:
            one |= {"status": "failed", "accuracy": None, "latency_ms": None, "latency_ci_ms": None}
            one["reason"] = "openvino-CPU-bf16: worst logit differs by 0.31 (tolerance 0.08)"
        made.append(one)
    measured = [c for c in made if c["status"] == "measured"]
    for c in measured:
        c["front"] = not any(o["accuracy"] >= c["accuracy"] and o["latency_ms"] < c["latency_ms"] for o in measured)
    return made


def _sweep() -> list[dict[str, Any]]:
    rows = []
    for model, base, slope in (("winner", 0.14, 0.0042), ("teacher", 0.38, 0.0165)):
        for batch in (1, 4, 16):
            for length in (16, 32, 64, 128):
                ms = base + slope * length * batch**0.93
                row = {"model": model, "batch": batch, "length": length, "p50_ms": ms, "p90_ms": 1.12 * ms}
                rows.append({**row, "p99_ms": 1.5 * ms, "throughput_per_s": 1000 * batch / ms})
    return rows


def _parity() -> list[dict[str, Any]]:
    stages = (
        ("dense", 2.4e-6, 1e-4),
        ("onnx", 3.1e-6, 1e-4),
        ("openvino-CPU-f32-b1-l64-t1", 4.4e-6, 1e-4),
        ("openvino-CPU-bf16-b1-l64-t1", 0.021, 0.08),
        ("onnxruntime-CPU-f32-b1-l64-t1", 3.9e-6, 1e-4),
    )
    rows: list[dict[str, Any]] = [
        {
            "model": "winner",
            "stage": stage,
            "max_abs_error": error,
            "tolerance": tolerance,
            "label_agreement": 1.0,
            "rows": 64,
            "passed": True,
            "skipped": None,
        }
        for stage, error, tolerance in stages
    ]
    nothing = {"max_abs_error": None, "tolerance": None, "label_agreement": None, "rows": None}
    reason = "built for sm_89 and sm_120; this machine has no NVIDIA driver to run it"
    rows.append(
        {
            "model": "winner",
            "stage": "tensorrt-sm_89,sm_120-f32-b1-l64",
            **nothing,
            "passed": None,
            "skipped": reason,
        }
    )
    rows.append({**rows[3], "model": "cut2", "max_abs_error": 0.12, "label_agreement": 0.969, "passed": False})
    return rows


@pytest.fixture(scope="session")
def full_result() -> dict[str, Any]:
    """For tests that only read; the others take `result`."""
    return sample(engines=14)


@pytest.fixture
def result(full_result: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(full_result)


def sample(engines: int = 52) -> dict[str, Any]:
    """A complete result, with baselines."""
    rng = Random(7)
    candidates = _candidates(rng, engines)
    fitting = [c for c in candidates if c["front"] and c["latency_ms"] <= LIMIT_MS]
    best = max(fitting, key=lambda c: c["accuracy"])
    cheap = min(candidates, key=lambda c: abs(c["flops"] - best["flops"] * 1.1))
    cut2 = SubnetConfig.uniform(hidden_size=384, depth=2, heads=12, ffn_size=1536, sources=(1, 5))
    cut3 = SubnetConfig.uniform(hidden_size=384, depth=3, heads=12, ffn_size=1536, sources=(1, 3, 5))
    tiny = SubnetConfig.uniform(hidden_size=312, depth=4, heads=12, ffn_size=1200)
    return {
        "schema": 1,
        "recipe": "quickstart",
        "seed": 1,
        "created": "2026-11-21T12:00:00+00:00",
        "task": {
            "name": "rotten_tomatoes",
            "kind": "classification",
            "metric": "accuracy",
            "labels": ["neg", "pos"],
            "rows": {"train": 7830, "search_dev": 1000, "test": 1800},
            "transfer_texts": 30000,
        },
        "teacher": _model("teacher", TEACHER, 0.856, 1.38, "MiniLM-L6, fine-tuned", 93_000_000),
        "winner": _model(
            "winner",
            SubnetConfig.from_json(best["subnet"]),
            0.842,
            best["latency_ms"],
            "searched, then distilled",
            61_400_000,
        ),
        "baselines": [
            _model("tinybert4", tiny, 0.811, 0.83, "4 layers, hidden 312, 12 heads of 26, ffn 1200", 58_000_000),
            _model("cut3", cut3, 0.846, 0.69, "the teacher's layers 1, 3 and 5", 70_000_000),
            _model("cut2", cut2, 0.838, 0.474, "the teacher's second and last layer", 63_100_000),
        ],
        "engines_measured": sum(c["status"] == "measured" for c in candidates),
        "engines_failed": sum(c["status"] == "failed" for c in candidates),
        "candidates": candidates,
        "spearman_flops_latency": {
            "all": 0.9312,
            "band": 0.4127,
            "band_ms": [0.8 * LIMIT_MS, 1.25 * LIMIT_MS],
            "band_engines": 21,
        },
        "flops_choice": {
            "subnet": cheap["subnet"],
            "flops": cheap["flops"],
            "accuracy": cheap["accuracy"],
            "latency_ms": cheap["latency_ms"],
            "note": "It is over the limit, which FLOPs alone cannot tell.",
        },
        "constraint": {"max_ms": LIMIT_MS, "of_teacher": 0.3333, "statistic": "p50"},
        "target": {
            "backend": "openvino",
            "device": "CPU",
            "effective_precision": "bf16",
            "threads": 1,
            "shape": {"batch": 1, "length": 64},
        },
        "sweep": _sweep(),
        "parity": _parity(),
        "paired": [
            {
                "a": "winner",
                "b": "tinybert4",
                "difference": 0.031,
                "se": 0.0091,
                "p_value": 0.0008,
                "verdict": "winner is more accurate",
            },
            {
                "a": "winner",
                "b": "cut3",
                "difference": -0.004,
                "se": 0.0066,
                "p_value": 0.59,
                "verdict": "no difference that the test rows can show",
            },
            {
                "a": "winner",
                "b": "cut2",
                "difference": 0.004,
                "se": 0.0069,
                "p_value": 0.61,
                "verdict": "no difference that the test rows can show",
            },
        ],
        "environment": {
            "cpu": "Intel(R) Xeon(R) Processor @ 2.00GHz",
            "flags": ["avx2", "avx512f", "avx512_bf16", "amx_bf16", "amx_int8"],
            "cores": 2,
            "affinity": [0, 1],
            "cgroup_cpu_quota": None,
            "memory_bytes": 8_200_000_000,
            "os": "Linux 6.1 x86_64",
            "python": "3.11.7",
            "packages": {"torch": "2.13.0", "openvino": "2026.4.1", "onnx": "1.23.2"},
        },
        "seconds": {
            "teacher": 81.2,
            "supernet": 161.0,
            "search": 74.6,
            "distill": 158.4,
            "export": 9.3,
            "verify": 6.1,
            "bench": 21.0,
        },
    }
