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


TARGET = "openvino-CPU-bf16-b1-l64-t1"


def _candidates(rng: Random, engines: int, generations: int) -> list[dict[str, Any]]:
    """Each generation's designs are better guesses than the last's; some fail, some are stopped, some too slow."""
    made: list[dict[str, Any]] = []
    shapes: set[SubnetConfig] = set()
    while len(shapes) < engines:
        shapes.add(SPACE.sample(rng))
    for i, subnet in enumerate(sorted(shapes)):
        generation = i * 7 % generations
        precision, gain = ("bf16", 1.0) if i % 4 else ("f32", 1.9)
        ms = gain * _latency(subnet, rng)
        taught = 0.025 * math.log1p(generation)
        accuracy = 0.6 + taught + 0.2 * (1 - math.exp(-flops(subnet) / 2.2e8)) + rng.gauss(0, 0.012)
        error = rng.gauss(0, 0.09 / (1 + generation))
        one = {
            "design": {"subnet": subnet.to_json(), "precisions": [precision]},
            "accuracy": accuracy,
            "rows": 1000,
            "complete": True,
            "latencies": [{"ms": ms, "ci_ms": [ms * 0.97, ms * 1.04]}],
            "predicted_ms": None if generation == 0 else [ms * (1 + error)],
            "flops": int(flops(subnet)),
            "model_bytes": 40_000_000,
            "generation": generation,
            "seconds": {"graph": 0.06, "compile": 0.41, "verify": 0.12, "measure": 0.38, "accuracy": 0.9},
            "status": "measured",
            "reason": None,
            "front": False,
        }
        if i % 17 == 5:
            one |= {"status": "failed", "accuracy": None, "rows": 0, "latencies": []}
            one["seconds"] = {"graph": 0.06, "compile": 0.4, "verify": 0.12}
            one["reason"] = "openvino-CPU-bf16: worst logit differs by 0.31 (tolerance 0.08)"
        elif i % 13 == 3:
            one |= {"complete": False, "rows": 200, "accuracy": accuracy - 0.05}
        elif ms > 2 * LIMIT_MS:
            one |= {"accuracy": None, "rows": 0}
        made.append(one)
    made.sort(key=lambda c: c["generation"])
    points = [(c["latencies"][0]["ms"], c["accuracy"], c) for c in made if c["accuracy"] and c["complete"]]
    for ms, accuracy, c in points:
        c["front"] = not any(y >= accuracy and x < ms for x, y, _ in points)
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
    return sample(engines=24, generations=5)


@pytest.fixture(scope="session")
def double_result(full_result: dict[str, Any]) -> dict[str, Any]:
    """The same search on two targets."""
    return on_two_targets(full_result)


@pytest.fixture
def result(full_result: dict[str, Any]) -> dict[str, Any]:
    return copy.deepcopy(full_result)


SECOND = "tensorrt-cuda:0-fp16-b1-l64-t1"


def on_two_targets(result: dict[str, Any]) -> dict[str, Any]:
    """The same search on one more target, which is about four times as fast and ranks a little differently."""
    both, rng = copy.deepcopy(result), Random(11)
    both["search"] |= {"targets": [TARGET, SECOND], "constraints_ms": [LIMIT_MS, 0.12]}
    for c in both["candidates"]:
        c["design"]["precisions"].append("fp16")
        if c["status"] == "measured":
            ms = 0.045 + c["latencies"][0]["ms"] / 6 * rng.uniform(0.8, 1.2)
            c["latencies"].append({"ms": ms, "ci_ms": [0.99 * ms, 1.02 * ms]})
        if c["predicted_ms"]:
            c["predicted_ms"].append(0.13 if c["status"] == "failed" else ms * rng.uniform(0.95, 1.06))
    return both


def sample(engines: int = 60, generations: int = 9) -> dict[str, Any]:
    """A complete result, with baselines and a search of one target."""
    rng = Random(7)
    candidates = _candidates(rng, engines, generations)
    fitting = [c for c in candidates if c["front"] and c["latencies"][0]["ms"] <= LIMIT_MS]
    best = max(fitting, key=lambda c: c["accuracy"])
    others = [c for c in candidates if c["status"] == "measured" and c is not best]
    cheap = min(others, key=lambda c: abs(c["flops"] - best["flops"] * 1.1))
    cut2 = SubnetConfig.uniform(hidden_size=384, depth=2, heads=12, ffn_size=1536, sources=(1, 5))
    cut3 = SubnetConfig.uniform(hidden_size=384, depth=3, heads=12, ffn_size=1536, sources=(1, 3, 5))
    tiny = SubnetConfig.uniform(hidden_size=312, depth=4, heads=12, ffn_size=1200)
    return {
        "schema": 2,
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
            SubnetConfig.from_json(best["design"]["subnet"]),
            0.842,
            best["latencies"][0]["ms"],
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
        "search": {
            "targets": [TARGET],
            "constraints_ms": [LIMIT_MS],
            "method": "nsga2",
            "generations": generations,
            "stopped": "engines",
            "seconds": 1.13 * sum(sum(c["seconds"].values()) for c in candidates),
        },
        "spearman_flops_latency": {
            "all": 0.9312,
            "band": 0.4127,
            "band_ms": [0.8 * LIMIT_MS, 1.25 * LIMIT_MS],
            "band_engines": 21,
        },
        "flops_choice": {
            "subnet": cheap["design"]["subnet"],
            "flops": cheap["flops"],
            "accuracy": cheap["accuracy"],
            "latency_ms": cheap["latencies"][0]["ms"],
            "note": "most accurate measured candidate within a third of the teacher's FLOP",
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
