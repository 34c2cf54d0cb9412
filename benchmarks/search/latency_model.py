"""How well latencies of engines nobody measured are guessed, and what FLOPs, parameters and eager timings would guess.

    .venv/bin/python benchmarks/search/latency_model.py            about 25 minutes on 2 quiet cores
    .venv/bin/python benchmarks/search/latency_model.py --quick    bf16 only, fewer engines, under 5 minutes

Subnets are drawn uniformly from the preset spaces `autotinybert-kd` and `per-layer`. Each is built by the real path,
verified and timed beside a reference (TinyBERT4's shape), at batch 1, length 64, one thread. The model is then fitted
to one measurement of 64 of them and held against all others; twenty times, with other 64. All are measured twice, in
two passes of the whole space, and their means are what is to be guessed: a truth that is off as far as a guess would
blame the guess. `in_band` is the rank correlation among engines
of 0.8 to 1.25 times a constraint, mean over five constraints (the 20th to the 80th percentile of the latencies).
Measurements are kept in a store, so that a stopped run goes on where it was.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from random import Random

import numpy as np
import torch
from outcome import finish, table, target
from tqdm import tqdm

from atb_export.eager import eager_ms
from atb_export.evaluation import Evaluation, Subject, find_reference
from atb_export.executors.local import LocalExecutor
from atb_export.work import SEARCH_PLAN, WorkInputs, engine_graph
from runtime.environment import environment
from runtime.target import EngineTarget, Shape
from search.design import Design
from search.goals import Goals
from search.latency_model import LatencyModel
from search.regression import Array, RelativeLeastSquares
from search.statistics import band, spearman
from search.store import Store
from search.strategy import Proposal
from supernet.batches import TokenizedTexts
from supernet.cost import flops, parameters
from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.presets import preset
from supernet.space import SubnetConfig

FITTED = 64
SPLITS = 20
SPACES = ("autotinybert-kd", "per-layer")
LIMITS = {"mape": ("<=", 0.05), "spearman": (">=", 0.98), "in_band": (">=", 0.90)}
FACTS = ModelFacts(vocab_size=30522, max_position_embeddings=512)
REFERENCE = SubnetConfig.uniform(hidden_size=312, depth=4, heads=12, ffn_size=1200)
Predict = Callable[[Sequence[int], Sequence[int]], Array]


def random_texts(length: int, *, rows: int = 16) -> TokenizedTexts:
    """Token ids of full length: latency depends on nothing else."""
    rng = np.random.default_rng(0)
    return TokenizedTexts(input_ids=tuple(rng.integers(1000, 30000, length).tolist() for _ in range(rows)))


def measured(
    space: str, precisions: Sequence[str], count: int, folder: Path, *, passes: int, length: int
) -> tuple[list[SubnetConfig], dict[str, Array], list[float]]:
    """Subnets of a space, their ms [passes, subnets] by precision and their eager ms; what fails is left out and told.

    Each pass has a store of its own: a store would not let an engine be measured again.
    """
    choices = preset(space)
    rng = Random(f"latency model {space}")
    subnets = list(dict.fromkeys(choices.sample(rng) for _ in range(count)))
    torch.manual_seed(0)
    net = Supernet(shape=choices.largest().renumbered(), facts=FACTS).eval()
    texts = random_texts(length)
    inputs = WorkInputs(
        reference=Supernet(shape=REFERENCE, facts=FACTS).eval(),
        supernet=net,
        texts=texts,
        labels=torch.zeros(len(texts), dtype=torch.long),
        calibration=texts,
        plan=replace(SEARCH_PLAN, windows=10, window_ms=15.0, max_repeats=10),
    )
    executor = LocalExecutor(inputs)
    found: list[dict[str, dict[SubnetConfig, float]]] = []
    scale_ms: dict[str, float] = {}
    eager: dict[SubnetConfig, float] = {}
    for number in range(passes):
        with Store.open(folder / f"{space}-{number + 1}.sqlite") as store:
            evaluations = {x: _evaluation(executor, store, x, length) for x in precisions}
            ms: dict[str, dict[SubnetConfig, float]] = {x: {} for x in precisions}
            # Passes are compared by their ratios to the reference; ms are those of the first pass's calm reference.
            calm = {x: evaluation.references[0].ms for x, evaluation in evaluations.items()}
            scale_ms = scale_ms or calm
            for subnet in tqdm(subnets, desc=f"{space}, pass {number + 1} of {passes}"):
                for precision, evaluation in evaluations.items():
                    proposal = Proposal(design=Design(subnet=subnet, precisions=(precision,)))
                    (candidate,) = evaluation([proposal], ())
                    if candidate.is_measured:
                        ms[precision][subnet] = candidate.ms[0] * scale_ms[precision] / calm[precision]
                    else:
                        print(f"left out {subnet}: {candidate.reason}", file=sys.stderr)
                if number == 0:
                    eager[subnet] = eager_ms(net, subnet, evaluations[precisions[0]].references[0].target, runs=5)
            found.append(ms)
    executor.close()
    kept = [x for x in subnets if all(x in ms[precision] for ms in found for precision in precisions)]
    times = {p: np.array([[ms[p][x] for x in kept] for ms in found]) for p in precisions}
    return kept, times, [eager[x] for x in kept]


def _evaluation(executor: LocalExecutor, store: Store, precision: str, length: int) -> Evaluation:
    engine = EngineTarget(backend="openvino", precision=precision, shape=Shape(batch=1, length=length))  # type: ignore[arg-type]
    graph = engine_graph(REFERENCE, FACTS, token_types=False, precision=precision)
    return Evaluation(
        executor=executor,
        store=store,
        goals=Goals(constraints_ms=(1e-6,)),  # latencies only: nothing is near this limit
        slack=1.0,
        references=[find_reference(executor, store, engine, graph=graph)],
        subject=Subject(checkpoint="random", data="none", facts=FACTS, token_types=False),
        flops=lambda x: flops(x, length=length),
    )


def in_band(guess: Array, ms: Array) -> float:
    """Mean over five constraints of the rank correlation within 0.8 to 1.25 times each."""
    found = [
        band(guess.tolist(), ms.tolist(), constraint_ms=float(np.quantile(ms, q))).correlation
        for q in (0.2, 0.35, 0.5, 0.65, 0.8)
    ]
    return float(np.mean([x for x in found if x is not None]))


def scores(guess: Array, ms: Array) -> dict[str, float]:
    """The three figures of one held-out set."""
    return {
        "mape": float(np.abs(guess / ms - 1).mean()),
        "spearman": spearman(guess.tolist(), ms.tolist()) or 0.0,
        "in_band": in_band(guess, ms),
    }


def predictors(subnets: list[SubnetConfig], ms: Array, eager: list[float], *, length: int) -> dict[str, Predict]:
    """Each takes the rows to fit and the rows to guess."""

    def model(fit: Sequence[int], guess: Sequence[int]) -> Array:
        return LatencyModel([subnets[i] for i in fit], [float(ms[i]) for i in fit])([subnets[i] for i in guess])[0]

    def line(values: list[float]) -> Predict:
        x = np.column_stack([np.ones(len(values)), values])
        return lambda fit, guess: RelativeLeastSquares.fit(x[list(fit)], ms[list(fit)])(x[list(guess)])

    return {
        "ours": model,
        "FLOPs": line([float(flops(x, length=length)) for x in subnets]),
        "parameters": line([float(parameters(x, FACTS)) for x in subnets]),
        "PyTorch eager": line(eager),
    }


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="bf16 only, 104 engines a space")
    parser.add_argument("--folder", type=Path, default=Path("runs/latency-model"), help="keeps what was measured")
    options = parser.parse_args()
    precisions = ("bf16",) if options.quick else ("bf16", "f32")
    count, length = (104 if options.quick else 160), 64
    begun = time.monotonic()
    rows, targets, details = [], [], {}
    passes = 1 if options.quick else 2
    options.folder.mkdir(parents=True, exist_ok=True)
    for space in SPACES:
        subnets, by_precision, eager = measured(space, precisions, count, options.folder, passes=passes, length=length)
        for precision in precisions:
            once, ms = by_precision[precision][0], by_precision[precision].mean(axis=0)
            found: dict[str, list[dict[str, float]]] = {}
            rng = np.random.default_rng(0)
            for _ in range(SPLITS):
                order = rng.permutation(len(ms))
                fit, rest = order[:FITTED].tolist(), order[FITTED:].tolist()
                for name, predict in predictors(subnets, once, eager, length=length).items():
                    found.setdefault(name, []).append(scores(predict(fit, rest), ms[rest]))
            key = f"{space.removeprefix('autotinybert-').replace('-', '_')}_{precision}"
            for name, splits in found.items():
                mean = {x: float(np.mean([s[x] for s in splits])) for x in LIMITS}
                spread = {x: float(np.std([s[x] for s in splits])) for x in LIMITS}
                rows.append([f"{space} {precision}: {name}", *(f"{mean[x]:.3f} ± {spread[x]:.3f}" for x in LIMITS)])
                details[f"{key} {name}"] = {"mean": mean, "spread": spread}
                if name == "ours":
                    targets += [target(f"{x}_{key}", mean[x], *LIMITS[x]) for x in LIMITS]
            details[f"{key} engines"] = {
                "fitted": FITTED,
                "held_out": len(ms) - FITTED,
                "passes": passes,
                "ms": [ms.min(), ms.max()],
            }
    print(
        f"\nOpenVINO, batch 1, length {length}, 1 thread; fitted to {FITTED}, held against the rest; "
        f"{SPLITS} splits, ± their deviation\n"
    )
    table(["space, precision: predictor", "error", "rank correlation", "in band"], rows)
    return finish(
        "search/latency_model",
        targets,
        quick=options.quick,
        seconds=time.monotonic() - begun,
        details=details,
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
