"""A search on a Ray cluster of two nodes, one of which is killed half-way: it ends with the front it would have had.

    .venv/bin/python benchmarks/search/ray_loss.py            64 engines, some minutes
    .venv/bin/python benchmarks/search/ray_loss.py --quick    24 engines

A real search: subnets of a supernet made here (random weights, labels from its own largest net), compiled, verified and
timed by OpenVINO in the workers of a local Ray cluster. It runs twice with the same seed. Run 1 keeps both nodes and
records every measurement. In run 2 the second node is killed (SIGKILL to its raylet and all its workers at once, as
when its power fails) while a generation of the middle is being measured.

No latency is ever measured twice the same, so "the same front" can only mean: given the same measurements. Run 2 does
all its work on the workers again; then each latency is replaced by the one run 1 recorded for that engine. What
the loss could spoil is all still there: jobs that are lost, done twice, out of order or failed, and accuracies, which
are not replaced. An engine that run 1 never built has no record and counts as a departure. How far the fresh latencies
were from the recorded ones is shown beside it.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import signal
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from outcome import finish, table, target
from ray.cluster_utils import Cluster

from atb_export.evaluation import Evaluation, Reference, Subject, find_reference
from atb_export.executors.ray import RayExecutor
from atb_export.executors.ray_cluster import nodes
from atb_export.jobs import Failed, Measured, MeasureJob, Scored, ScoreJob
from atb_export.opening import hand_made_cuts
from atb_export.work import WorkInputs, engine_graph
from runtime.environment import environment
from runtime.target import EngineTarget, Shape
from search.design import DesignSpace
from search.goals import Goals
from search.loop import Result, search
from search.plan import SearchPlan
from search.store import Store
from search.strategies.evolution import Evolution
from supernet.batches import TokenizedTexts
from supernet.cost import flops
from supernet.distillation import predict
from supernet.facts import ModelFacts
from supernet.model import Supernet
from supernet.space import SearchSpace, SubnetConfig

LENGTH = 32
ROWS = 384
FACTS = ModelFacts(vocab_size=30522, max_position_embeddings=512)
WHOLE = SubnetConfig.uniform(hidden_size=384, depth=6, heads=6, head_size=64, ffn_size=1536)
SUBNETS = SearchSpace.of_depths(
    source_layers=6,
    depths=[1, 2, 3, 4, 5],
    hidden_sizes=tuple(range(96, 385, 32)),
    heads=tuple(range(2, 7)),
    head_sizes=(32, 64),
    ffn_sizes=tuple(range(192, 1537, 96)),
)
SPACE = DesignSpace(subnets=SUBNETS, precisions=(("f32",),))
TARGET = EngineTarget(backend="openvino", precision="f32", shape=Shape(batch=1, length=LENGTH))
NODE = {"num_cpus": 1, "resources": {"openvino-cpu": 1}, "object_store_memory": 400_000_000}
SEED = 7

Record = dict[str, Measured]


def made_inputs() -> WorkInputs:
    """A supernet, and rows whose labels are its largest net's own answers, half of them each."""
    torch.manual_seed(SEED)
    rng = Random(SEED)
    net = Supernet(shape=WHOLE, facts=FACTS).eval()
    rows = [[101, *(rng.randrange(1000, 30000) for _ in range(rng.randint(6, LENGTH - 2))), 102] for _ in range(ROWS)]
    texts = TokenizedTexts(input_ids=tuple(rows))
    logits = predict(net, texts)
    margin = logits[:, 1] - logits[:, 0]
    with torch.no_grad():
        net.classifier.bias[1] -= margin.median()
    labels = predict(net, texts).argmax(-1)
    return WorkInputs(reference=net, supernet=net, texts=texts, labels=labels, calibration=texts)


@contextlib.contextmanager
def two_nodes() -> Iterator[Cluster]:
    """A cluster on this machine; each node says it has the processor, once."""
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "include_dashboard": False})
    try:
        cluster.add_node(**NODE)
        yield cluster
    finally:
        cluster.shutdown()


def power_cut(cluster: Cluster) -> None:
    """Kills the raylet of the node that is not the head, and every process it started, at once."""
    (node,) = cluster.worker_nodes
    (raylet,) = [x.process.pid for x in node.all_processes["raylet"]]
    children = Path(f"/proc/{raylet}/task/{raylet}/children").read_text().split()
    for pid in (raylet, *map(int, children)):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)


@dataclass(kw_only=True, eq=False)
class Recorded:
    """An executor around another: records latencies by engine, or puts recorded ones in place of fresh ones.

    In the call of number `cut_in`, `cut` is called after the first result.
    """

    within: RayExecutor
    record: Record
    replay: bool
    cut_in: int | None = None
    cut: Callable[[], None] = lambda: None
    jobs: list[int] = field(default_factory=list)  # of each call; none where a generation was spared its engines
    departures: int = 0
    fresh_to_recorded: list[float] = field(default_factory=list)

    def measure(self, jobs: Sequence[MeasureJob]) -> Iterator[Measured | Failed]:
        """In order."""
        self.jobs.append(len(jobs))
        now = len(self.jobs) == self.cut_in
        for i, (job, result) in enumerate(zip(jobs, self.within.measure(jobs), strict=True)):
            yield self._kept(job, result)
            if now and i == 0:
                self.cut()

    def score(self, jobs: Sequence[ScoreJob]) -> Iterator[Scored | Failed]:
        """In order, as the workers answer."""
        return self.within.score(jobs)

    def close(self) -> None:
        """Closes the other."""
        self.within.close()

    def _kept(self, job: MeasureJob, result: Measured | Failed) -> Measured | Failed:
        if isinstance(result, Failed):
            return result
        name = f"{'reference' if job.subnet is None else job.subnet.key} {job.target.label}"
        if not self.replay:
            self.record[name] = result
            return result
        if name not in self.record:
            self.departures += 1
            return result
        known = self.record[name]
        if job.subnet is not None:
            self.fresh_to_recorded.append(result.ms / known.ms)
        return replace(result, ms=known.ms, ci_ms=known.ci_ms)


@dataclass(frozen=True, kw_only=True)
class Run:
    """What came of one search, and of the cluster it ran on."""

    result: Result
    jobs: tuple[int, ...]
    retried: int
    nodes_lost: int
    departures: int
    fresh_to_recorded: tuple[float, ...]
    seconds: float
    reference: Reference


def run(
    inputs: WorkInputs, folder: Path, *, engines: int, record: Record, replay: bool, cut_in: int | None = None
) -> Run:
    """One search on a cluster of its own, with a store of its own."""
    begun = time.monotonic()
    with two_nodes() as cluster, Store.open(folder / "store.sqlite") as store:
        ray_executor = RayExecutor(inputs, targets=[TARGET], address=cluster.address)
        executor = Recorded(
            within=ray_executor, record=record, replay=replay, cut_in=cut_in, cut=lambda: power_cut(cluster)
        )
        try:
            graph = engine_graph(WHOLE, FACTS, token_types=False, precision=TARGET.precision)
            reference = find_reference(executor, store, TARGET, graph=graph)
            goals = Goals(constraints_ms=(reference.ms / 2,))
            plan = SearchPlan(engines=engines, generation=8, population=12)
            opening = [SPACE.of(x) for x in hand_made_cuts(SUBNETS)]
            result = search(
                Evolution(SPACE, goals, plan, Random(SEED), opening=opening),
                Evaluation(
                    executor=executor,
                    store=store,
                    goals=goals,
                    slack=plan.slack,
                    references=[reference],
                    subject=Subject(checkpoint="0" * 64, data="rows", facts=FACTS, token_types=False),
                    flops=lambda x: flops(x, length=LENGTH),
                ),
                goals=goals,
                plan=plan,
                history=store.history("ray_loss", {"seed": SEED}),
                progress=lambda done, count, text: print(f"  {done}/{count}  {text}", file=sys.stderr),
            )
            # Ray counts a dead node as alive until its heartbeats are missed.
            until = time.monotonic() + (60 if cut_in is not None else 0)
            while len(nodes()) == 2 and time.monotonic() < until:
                time.sleep(0.5)
            lost = 2 - len(nodes())
        finally:
            executor.close()
    return Run(
        result=result,
        jobs=tuple(executor.jobs),
        retried=ray_executor.retried,
        nodes_lost=lost,
        departures=executor.departures,
        fresh_to_recorded=tuple(executor.fresh_to_recorded),
        seconds=time.monotonic() - begun,
        reference=reference,
    )


def middle(jobs: Sequence[int]) -> int:
    """The number of the call half-way among those that keep both nodes busy."""
    busy = [number for number, count in enumerate(jobs, 1) if count >= min(4, max(jobs))]
    return busy[len(busy) // 2]


def path(run: Run) -> list[Any]:
    """Everything a search decided on, in its order; not where the time went."""
    return [replace(x, seconds={}) for x in run.result.candidates]


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="24 engines")
    options = parser.parse_args()
    engines = 24 if options.quick else 64
    inputs, record = made_inputs(), Record()
    with tempfile.TemporaryDirectory() as one, tempfile.TemporaryDirectory() as two:
        print("run 1: two nodes to the end", file=sys.stderr)
        whole = run(inputs, Path(one), engines=engines, record=record, replay=False)
        print("run 2: one node killed half-way", file=sys.stderr)
        hurt = run(inputs, Path(two), engines=engines, record=record, replay=True, cut_in=middle(whole.jobs))
    table(
        ["", "run 1", "run 2"],
        [
            ["candidates", len(whole.result.candidates), len(hurt.result.candidates)],
            ["measured", len(whole.result.measured), len(hurt.result.measured)],
            ["failed", len(whole.result.failed), len(hurt.result.failed)],
            ["on the front", len(whole.result.front), len(hurt.result.front)],
            ["best accuracy", float(whole.result.best.accuracy or 0.0), float(hurt.result.best.accuracy or 0.0)],
            ["nodes lost", whole.nodes_lost, hurt.nodes_lost],
            ["jobs done again", whole.retried, hurt.retried],
            ["seconds", whole.seconds, hurt.seconds],
        ],
    )
    off = sorted(abs(x - 1) for x in hurt.fresh_to_recorded)
    fresh = {
        "engines_measured_again": len(off),
        "fresh_off_median": statistics.median(off) if off else None,
        "fresh_off_most": off[-1] if off else None,
    }
    print(f"\n{len(off)} engines measured again in run 2; fresh latencies were off the recorded ones by")
    print(f"{fresh['fresh_off_median'] or 0:.1%} in the median, {fresh['fresh_off_most'] or 0:.1%} at most")
    fronts = [[(x.design, x.ms, x.accuracy) for x in r.result.front] for r in (whole, hurt)]
    return finish(
        "search/ray_loss",
        [
            target("fronts_equal", int(fronts[0] == fronts[1]), "==", 1),
            target("paths_equal", int(path(whole) == path(hurt)), "==", 1),
            target("departures", hurt.departures, "==", 0),
            target("nodes_lost", hurt.nodes_lost, "==", 1),
            target("jobs_retried", hurt.retried, ">=", 1),
        ],
        engines=engines,
        front=[{"design": x.design.key, "ms": x.ms[0], "accuracy": x.accuracy} for x in hurt.result.front],
        reference_ms=whole.reference.ms,
        seconds=[whole.seconds, hurt.seconds],
        quick=options.quick,
        environment=environment(),
        **fresh,
    )


if __name__ == "__main__":
    sys.exit(main())
