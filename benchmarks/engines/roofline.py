"""How much of this machine's matrix peak and memory bandwidth each shape reaches, and where the rest goes.

    .venv/bin/python benchmarks/engines/roofline.py            4 minutes on 2 quiet cores
    .venv/bin/python benchmarks/engines/roofline.py --quick    lengths 16 and 128 on one thread, 1 minute

The peak is the most that OpenVINO itself reaches in one product of 512 rows with constant weights of 512 x 512 to
2048 x 2048, in the same precision and on as many threads; the bandwidth is that of summing 512 MB of float32 with
torch. Work is the graph's own matrix products (`supernet.cost.flops`); traffic is every weight once in the engine's
precision and the looked-up rows of the word table in float32. "roof" is the larger of work / peak and traffic /
bandwidth, and its share of the measured time is the achieved fraction. Above 100 % of the bandwidth, weights stay in
the caches from one inference to the next. Times are lower quartiles of plain runs. The shares by operator are from a
second engine with OpenVINO's counters on, which count whole microseconds and slow small nodes down: "elsewhere" is
what no operator has of that engine's time.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import openvino as ov
import torch
from common import TINY, feeds, finish, net_of, table
from openvino import opset13 as ops

from atb_export.onnx.graph import graph_bytes
from runtime.environment import environment
from supernet.cost import flops
from supernet.model import Supernet
from supernet.space import SubnetConfig

CORE = ov.Core()
BYTES = {"f32": 4, "bf16": 2}
SHARES = ("FullyConnected", "Subgraph", "MatMul", "Transpose", "MVN", "Reorder")


def compiled(model: Any, precision: str, threads: int, *, counters: bool = False) -> Any:
    """As the backend compiles it."""
    options = {
        "PERFORMANCE_HINT": "LATENCY",
        "INFERENCE_NUM_THREADS": threads,
        "NUM_STREAMS": 1,
        "ENABLE_CPU_PINNING": False,
        "INFERENCE_PRECISION_HINT": precision,
        "PERF_COUNT": counters,
    }
    return CORE.compile_model(model, "CPU", options).create_infer_request()


def quartile_s(call: Callable[[], Any], *, seconds: float) -> float:
    """Seconds of a call, lower quartile over about so many seconds of calls."""
    for _ in range(3):
        call()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while len(times) < 5 or time.perf_counter() < end:
        begun = time.perf_counter()
        call()
        times.append(time.perf_counter() - begun)
    return float(np.quantile(times, 0.25))


def peak_flops_per_s(precision: str, threads: int, *, seconds: float) -> float:
    """Of the best of some large products."""
    rows, found = 512, 0.0
    for n in (512, 1024, 2048):
        x = ops.parameter([rows, n], np.float32)
        weights = np.random.default_rng(0).normal(size=(n, n)).astype(np.float32)
        request = compiled(ov.Model([ops.matmul(x, ops.constant(weights), False, True)], [x]), precision, threads)
        call = partial(request.infer, share_outputs=True)
        found = max(found, 2 * rows * n * n / quartile_s(call, seconds=seconds / 3))
    return found


def bandwidth_bytes_per_s(threads: int, *, seconds: float) -> float:
    """Of reading memory that no cache holds."""
    torch.set_num_threads(threads)
    values = torch.ones(128 * 2**20)
    return values.nbytes / quartile_s(values.sum, seconds=seconds)


def traffic_bytes(subnet: SubnetConfig, *, batch: int, length: int, precision: str) -> int:
    """Weights of the products once, and the rows looked up."""
    n, weights = subnet.hidden_size, 0
    for layer in subnet.layers:
        weights += 4 * n * layer.qkv_size + 2 * n * layer.ffn_size * layer.ffn_stack
    return (weights + n * n) * BYTES[precision] + (batch + 1) * length * n * 4


def by_operator(net: Supernet, precision: str, threads: int, given: Any, *, seconds: float) -> dict[str, float]:
    """Share of the time by OpenVINO's names of what it made of the graph."""
    model = CORE.read_model(graph_bytes(net))
    model.reshape({x: list(given["input_ids"].shape) for x in model.inputs})
    request = compiled(model, precision, threads, counters=True)
    fed = {name: given[name] for name in ("input_ids", "attention_mask")}
    whole = []
    end = time.perf_counter() + seconds
    while len(whole) < 20 or time.perf_counter() < end:
        begun = time.perf_counter()
        request.infer(fed, share_outputs=True)
        whole.append(time.perf_counter() - begun)
    found: dict[str, float] = defaultdict(float)
    for x in request.get_profiling_info():  # means over all runs so far
        found[x.node_type] += x.real_time.total_seconds() / float(np.mean(whole))
    return {kind: share for kind, share in sorted(found.items(), key=lambda x: -x[1]) if share >= 0.001}


def main() -> int:
    """Always 0: there is nothing to reach, only something to know."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer lengths, one thread")
    options = parser.parse_args()
    seconds = 0.15 if options.quick else 0.4
    all_threads = [1] if options.quick else [1, 2]
    shapes = [(1, n) for n in ((16, 128) if options.quick else (16, 32, 64, 128))] + [(8, 64)]
    peaks = {(p, t): peak_flops_per_s(p, t, seconds=5 * seconds) for p in BYTES for t in all_threads}
    bandwidths = {t: bandwidth_bytes_per_s(t, seconds=5 * seconds) for t in all_threads}
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    for name, subnet in TINY.items():
        net = net_of(subnet)
        for (precision, threads), peak in peaks.items():
            for batch, length in shapes:
                given = feeds(batch, length)
                model = CORE.read_model(graph_bytes(net))
                model.reshape({x: [batch, length] for x in model.inputs})
                request = compiled(model, precision, threads)
                fed = {key: given[key] for key in ("input_ids", "attention_mask")}
                request.infer(fed)
                spent = quartile_s(partial(request.infer, share_outputs=True), seconds=seconds)
                work = flops(subnet, length=length, batch=batch)
                traffic = traffic_bytes(subnet, batch=batch, length=length, precision=precision)
                ideal = max(work / peak, traffic / bandwidths[threads])
                rows.append(
                    {
                        "net": name,
                        "precision": precision,
                        "threads": threads,
                        "batch": batch,
                        "length": length,
                        "ms": spent * 1e3,
                        "of_peak": work / spent / peak,
                        "of_bandwidth": traffic / spent / bandwidths[threads],
                        "of_roof": ideal / spent,
                        "shares": by_operator(net, precision, threads, given, seconds=seconds),
                    }
                )
    print()
    table(
        ["measured here", "GFLOP/s", "GB/s"],
        [
            [f"{p}, {t} thread{'s' * (t > 1)}", f"{peak / 1e9:.0f}", f"{bandwidths[t] / 1e9:.1f}"]
            for (p, t), peak in peaks.items()
        ],
    )
    print()
    lines: list[list[object]] = []
    for row in rows:
        shares = row["shares"]
        named = [f"{shares.get(kind, 0):.0%}" for kind in SHARES]
        other = sum(share for kind, share in shares.items() if kind not in SHARES)
        what = f"{row['net']} {row['precision']} {row['batch']}x{row['length']} {row['threads']}t"
        fractions = [f"{row[key]:.0%}" for key in ("of_peak", "of_bandwidth", "of_roof")]
        rest = max(0.0, 1 - sum(shares.values()))
        lines.append([what, f"{row['ms']:.3f}", *fractions, *named, f"{other:.0%}", f"{rest:.0%}"])
    table(["", "ms", "of peak", "of GB/s", "of roof", *SHARES, "others", "elsewhere"], lines)
    print(
        "\nFullyConnected: products with weights; Subgraph: attention and fused elementwise; MatMul: the last layer's"
    )
    return finish(
        "engines/roofline",
        [],
        quick=options.quick,
        peaks_flops_per_s={f"{p}-t{t}": x for (p, t), x in peaks.items()},
        bandwidths_bytes_per_s={f"t{t}": x for t, x in bandwidths.items()},
        rows=rows,
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
