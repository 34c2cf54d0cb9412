"""Which lengths engines are built for: chosen from the user's own texts and what each length costs on this machine."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from atb_export.dense import DenseModel
from atb_export.graphs import graph_for
from atb_export.onnx.external import WeightFiles
from runtime.buckets import Buckets, choose_buckets
from runtime.engine import Engine, backend
from runtime.errors import UnsupportedTarget
from runtime.length_cost import grid, measure_length_cost
from runtime.target import EngineTarget, Shape
from supernet.batches import TokenizedTexts

_STEP = 8


def chosen_lengths(
    model: DenseModel,
    target: EngineTarget,
    texts: TokenizedTexts,
    *,
    most: int,
    pairs: bool,
    calibration: TokenizedTexts | None = None,
) -> Buckets:
    """At most `most` lengths that make the expected latency on `texts` smallest, the longest text's among them.

    The target's engines of a grid of lengths are timed in one interleaved run, and what a change from one to another
    costs: some seconds. Raises `UnsupportedTarget`
    where the target cannot run here.
    """
    maker = backend(target.backend)
    if (reason := maker.can_run()) is not None:
        raise UnsupportedTarget(f"lengths are chosen by measuring, and {target.label} cannot run here: {reason}")
    lengths = [len(ids) for ids in texts.input_ids]
    longest = min(-(-max(lengths) // _STEP) * _STEP, model.net.facts.max_position_embeddings)
    with tempfile.TemporaryDirectory(prefix="atb-") as folder:
        onnx = graph_for(model.net, None, target, token_types=pairs, calibration=calibration)
        path = WeightFiles(Path(folder)).write(onnx, "model.onnx")

        def opened(length: int) -> Engine:
            return maker.open(path, replace(target, shape=Shape(batch=target.shape.batch, length=length)))

        cost = measure_length_cost(opened, grid(longest))
    return choose_buckets(lengths, cost, max_length=longest, most=most, change_ms=cost.change_ms)
