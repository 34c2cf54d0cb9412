"""What it costs to turn a configuration into a measured engine, and where that time goes.

    .venv/bin/python benchmarks/search/cost_per_engine.py            48 engines, about a minute on 2 quiet cores
    .venv/bin/python benchmarks/search/cost_per_engine.py --quick    16 engines

Distinct subnets of 4 layers around TinyBERT4's sizes, with BERT's vocabulary, are cut from a supernet of BERT base's
size and go the way a search's candidates go: looked up in a store by their graph's hash, written as ONNX, compiled by
OpenVINO, verified against the supernet, timed beside the reference, stored. `ratio` is the whole time over what cannot
be saved: OpenVINO's reading and compiling, and the timed runs with their warm-up. Beside it, in the table, what two of
them cost with PyTorch's general exporter, where its packages are there.
"""

from __future__ import annotations

import argparse
import io
import logging
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, redirect_stderr, redirect_stdout
from pathlib import Path
from random import Random
from typing import Any
from unittest.mock import patch

import numpy as np
import torch
from outcome import finish, table, target

import atb_export.evaluation
import atb_export.work
import runtime.measure
from atb_export.evaluation import Evaluation, Subject, find_reference
from atb_export.executors.local import LocalExecutor
from atb_export.onnx.builder import GraphBuilder
from atb_export.word_files import WordFiles
from atb_export.work import Work, WorkInputs, engine_graph
from runtime.backends.openvino import BACKEND
from runtime.environment import environment
from runtime.target import EngineTarget, Shape
from search.design import Design
from search.goals import Goals
from search.store import Store
from search.strategy import Proposal
from supernet.batches import TokenizedTexts
from supernet.cost import flops
from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.space import SearchSpace, SubnetConfig

LENGTH = 32
FACTS = ModelFacts(vocab_size=30522, max_position_embeddings=512)
WHOLE = SubnetConfig.uniform(hidden_size=768, depth=12, heads=12, head_size=64, ffn_size=3072)
REFERENCE = SubnetConfig.uniform(hidden_size=312, depth=4, heads=12, ffn_size=1200)
SPACE = SearchSpace.of_depths(
    source_layers=12,
    depths=[4],
    hidden_sizes=tuple(range(252, 373, 4)),
    heads=tuple(range(8, 13)),
    head_sizes=tuple(range(20, 33, 4)),
    ffn_sizes=tuple(range(960, 1441, 4)),
)
# What is timed, as (where it lives, its name, its label). A part within another counts for the inner one alone.
PARTS: tuple[tuple[Any, str, str], ...] = (
    (atb_export.evaluation, "engine_graph", "hash of the graph"),
    (atb_export.work, "engine_graph", "hash of the graph"),
    (Work, "_write", "write"),
    (WordFiles, "file", "words"),
    (Work, "_parts", "graph"),
    (GraphBuilder, "to_parts", "serialise"),
    (type(BACKEND), "_read", "read"),
    (type(BACKEND), "_compile", "compile"),
    (Work, "_verify", "verify"),
    (runtime.measure._Session, "_warm_up", "warm-up"),
    (runtime.measure._Session, "run", "windows"),
    (Store, "add", "store"),
)
NEEDED = ("read", "compile", "warm-up", "windows")


class Ledger:
    """Seconds by label."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._inner = [0.0]

    @contextmanager
    def entry(self, label: str) -> Iterator[None]:
        """What is spent within belongs to `label`, except for entries within."""
        self._inner.append(0.0)
        begun = time.perf_counter()
        try:
            yield
        finally:
            spent = time.perf_counter() - begun
            self.seconds[label] = self.seconds.get(label, 0.0) + spent - self._inner.pop()
            self._inner[-1] += spent

    def watched(self, function: Callable[..., Any], label: str) -> Callable[..., Any]:
        """The function, with an entry for each call."""

        def call(*args: Any, **kwargs: Any) -> Any:
            with self.entry(label):
                return function(*args, **kwargs)

        return call


def texts(rows: int = 64) -> TokenizedTexts:
    """Random tokens, of 4 to `LENGTH` a text."""
    rng = np.random.default_rng(0)
    lengths = rng.integers(4, LENGTH + 1, rows)
    return TokenizedTexts(input_ids=tuple(rng.integers(1000, 30000, n).tolist() for n in lengths))


def evaluation_of(net: Supernet, store: Store, precision: str) -> Evaluation:
    """The search's own way to a latency; no candidate is fast enough to be asked for its accuracy."""
    rows = texts()
    torch.manual_seed(1)
    inputs = WorkInputs(
        reference=Supernet(shape=REFERENCE, facts=FACTS).eval(),
        supernet=net,
        texts=rows,
        labels=torch.zeros(len(rows), dtype=torch.long),
        calibration=rows,
    )
    engine = EngineTarget(backend="openvino", precision=precision, shape=Shape(batch=1, length=LENGTH))  # type: ignore[arg-type]
    executor = LocalExecutor(inputs)
    graph = engine_graph(REFERENCE, FACTS, token_types=False, precision=precision)
    return Evaluation(
        executor=executor,
        store=store,
        goals=Goals(constraints_ms=(1e-6,)),
        slack=1.0,
        references=[find_reference(executor, store, engine, graph=graph)],
        subject=Subject(checkpoint="random", data="none", facts=FACTS, token_types=False),
        flops=lambda x: flops(x, length=LENGTH),
    )


def exported(net: Supernet, subnets: list[SubnetConfig], precision: str) -> dict[str, float] | str:
    """Mean seconds of the general exporter's export and of compiling what it wrote; or why it cannot be had."""
    engine = EngineTarget(backend="openvino", precision=precision, shape=Shape(batch=1, length=LENGTH))  # type: ignore[arg-type]
    ids = torch.randint(1000, 2000, (2, LENGTH))
    free = {0: torch.export.Dim("batch"), 1: torch.export.Dim("sequence", max=FACTS.max_position_embeddings)}
    spent = {"export": 0.0, "compile": 0.0}

    class Logits(torch.nn.Module):
        def __init__(self, inner: Supernet) -> None:
            super().__init__()
            self.inner = inner

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            return self.inner(input_ids, attention_mask).logits

    logging.getLogger("torch.onnx").setLevel(logging.ERROR)
    for subnet in subnets:
        quiet = ExitStack()
        with quiet, tempfile.TemporaryDirectory() as folder, torch.no_grad():
            for redirect in (redirect_stdout, redirect_stderr):
                quiet.enter_context(redirect(io.StringIO()))
            quiet.enter_context(warnings.catch_warnings())
            warnings.simplefilter("ignore")
            path = Path(folder) / "model.onnx"
            begun = time.perf_counter()
            try:
                torch.onnx.export(
                    Logits(net.slice(subnet)).eval(),
                    (ids, torch.ones_like(ids)),
                    path,
                    dynamo=True,
                    external_data=False,
                    input_names=["input_ids", "attention_mask"],
                    output_names=["logits"],
                    dynamic_shapes={"input_ids": free, "attention_mask": free},
                )
            except ImportError as error:
                return str(error)
            spent["export"] += time.perf_counter() - begun
            begun = time.perf_counter()
            BACKEND.open(path, engine).close()
            spent["compile"] += time.perf_counter() - begun
    return {name: seconds / len(subnets) for name, seconds in spent.items()}


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="16 engines instead of 48")
    parser.add_argument("--precision", default="bf16", choices=["bf16", "f32"])
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = Supernet(shape=WHOLE, facts=FACTS).eval()
    rng = Random(0)
    subnets = list(dict.fromkeys(SPACE.sample(rng) for _ in range(18 if options.quick else 50)))
    ledger = Ledger()
    with ExitStack() as stack:
        store = stack.enter_context(
            Store.open(Path(stack.enter_context(tempfile.TemporaryDirectory())) / "store.sqlite")
        )
        evaluation = evaluation_of(net, store, options.precision)
        stack.callback(evaluation.executor.close)

        def measured(subnet: SubnetConfig) -> float:
            design = Design(subnet=subnet, precisions=(options.precision,))
            candidate = next(iter(evaluation([Proposal(design=design)], ())))
            if not candidate.is_measured:
                raise RuntimeError(f"{subnet}: {candidate.reason}")
            return candidate.ms[0]

        for subnet in subnets[:2]:  # the first ones also load libraries
            measured(subnet)
        for owner, name, label in PARTS:
            stack.enter_context(patch.object(owner, name, ledger.watched(getattr(owner, name), label)))
        begun = time.perf_counter()
        with ledger.entry("rest"):
            ms = [measured(subnet) for subnet in subnets[2:]]
        whole = time.perf_counter() - begun
    general = exported(net, subnets[2:4], options.precision)

    engines = len(ms)
    needed = sum(ledger.seconds[name] for name in NEEDED)
    print(f"\n{engines} engines of 4 layers, OpenVINO {options.precision}, batch 1, length {LENGTH}, 1 thread,")
    print(f"{min(ms):.2f} to {max(ms):.2f} ms an inference; * cannot be saved\n")
    rows: list[list[object]] = [
        [f"{name}{' *' if name in NEEDED else ''}", f"{seconds / engines * 1e3:.1f}", f"{seconds / whole:.1%}"]
        for name, seconds in ledger.seconds.items()
    ]
    table(["part", "ms an engine", "share"], [*rows, ["all", f"{whole / engines * 1e3:.1f}", "100.0%"]])
    if isinstance(general, str):
        print(f"\nPyTorch's general exporter cannot be had here: {general}")
    else:
        ours = sum(ledger.seconds[name] for name in ("graph", "serialise")) / engines
        print(
            f"\nPyTorch's general exporter: {general['export']:.2f} s a graph (ours {ours:.3f} s), and "
            f"{general['compile']:.2f} s to read and compile it (ours "
            f"{(ledger.seconds['read'] + ledger.seconds['compile']) / engines:.2f} s)"
        )
    wanted = [
        target(f"ratio_{options.precision}", whole / needed, "<=", 1.5),
        target(f"per_minute_{options.precision}", 60 * engines / whole, ">=", 60),
    ]
    return finish(
        "search/cost_per_engine",
        wanted,
        quick=options.quick,
        engines=engines,
        seconds_per_engine={name: seconds / engines for name, seconds in ledger.seconds.items()},
        general_exporter=general,
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
