"""Our search against others at equal wall time, on one trained supernet.

    .venv/bin/python benchmarks/search/search_quality.py            about 45 minutes on 2 quiet cores, once trained
    .venv/bin/python benchmarks/search/search_quality.py --quick    one seed, short searches; 5 minutes, once trained
    .venv/bin/python benchmarks/search/search_quality.py --single   subnets only, all in the backend's own precision
    .venv/bin/python benchmarks/search/search_quality.py --resume   keeps the searches a killed one finished

Contestants: ours (NSGA-II on measured engines, sifted by models); random search on measured engines; AutoTinyBERT's
evolver with a predictor of eager timings; our own evolution with FLOPs for its latency; plain layer cuts. Each gets the
same seconds, the same accuracy oracle with the same racing, and a store of its own that starts empty; what is not known
when the time is up does not count. Those that guess latencies stop early enough to measure their supposed front within
their time; eager timings are not charged. `hypervolume` is the area (accuracy above chance x ms below the limit) their
measured candidates dominate. The best subnet of each within the limit is then distilled alike and asked on test rows.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random
from typing import Any

import torch
from outcome import finish, table, target

from atb_export.eager import eager_predictor
from atb_export.evaluation import Evaluation, Reference, Subject, find_reference
from atb_export.executors.local import LocalExecutor
from atb_export.jobs import Failed, Measured, MeasureJob, Scored, ScoreJob
from atb_export.measuring import open_engine
from atb_export.opening import hand_made_cuts
from atb_export.recipe import load_recipe
from atb_export.searching import content_hash
from atb_export.stages import Run
from atb_export.ui import Ui, quiet_libraries
from atb_export.verify import engine_logits
from atb_export.work import engine_graph
from atb_export.workspace import Workspace, write_json
from runtime.engine import usable_cpus
from runtime.environment import environment, runtime_version
from search.candidate import Candidate
from search.design import Design, DesignSpace
from search.errors import NothingFits
from search.front import front, hypervolume, most_accurate
from search.goals import Goals
from search.loop import search
from search.plan import SearchPlan
from search.statistics import mcnemar, spearman
from search.store import EngineKey, Store
from search.strategies.autotinybert import AutoTinyBert
from search.strategies.evolution import Evolution
from search.strategies.random_search import RandomSearch
from search.strategy import Proposal, Strategy
from supernet.distillation import predict
from supernet.space import SubnetConfig

RECIPE = Path(__file__).with_name("quality.toml")
FOCUS = 0.1  # the hypervolume counts the fast end, too
Key = tuple[str, int]
"""(method, seed)."""
METHODS = ("ours", "random", "autotinybert", "flops", "cuts")


class Timed:
    """A history in memory that knows when each candidate came."""

    def __init__(self) -> None:
        self._begun = time.monotonic()
        self.rows: list[tuple[float, dict[str, Any]]] = []

    def replay(self, position: int, **_: Any) -> None:
        """There is nothing to replay."""

    def append(self, candidate: dict[str, Any]) -> None:
        """Keeps it with its time."""
        self.rows.append((time.monotonic() - self._begun, candidate))

    def within(self, seconds: float) -> list[Candidate]:
        """The candidates known by then."""
        return [Candidate.from_json(row) for at, row in self.rows if at <= seconds]


class Guessing:
    """An executor that never builds an engine: `guess(subnet)` ms stands for the measurement."""

    def __init__(self, inner: LocalExecutor, guess: Callable[[SubnetConfig], float], hardware: str) -> None:
        self._inner, self._guess, self._hardware = inner, guess, hardware

    def measure(self, jobs: Sequence[MeasureJob]) -> Iterator[Measured | Failed]:
        """Guesses."""
        for job in jobs:
            assert job.subnet is not None
            ms = self._guess(job.subnet)
            key = EngineKey(
                graph="0" * 64, target=job.target.label, effective_precision="guess", batch=job.target.shape.batch,
                length=job.target.shape.length, threads=job.target.threads,
                runtime=runtime_version(job.target.backend), hardware=self._hardware,
            )  # fmt: skip
            # Each guess is its own key: the store of a guesser must not hand one out for another subnet.
            key = EngineKey(**{**key.to_json(), "graph": job.subnet.key.ljust(64, "0")})
            yield Measured(key=key, ms=ms, ci_ms=(ms, ms), model_bytes=1, report={})

    def score(self, jobs: Sequence[ScoreJob]) -> Iterator[Scored | Failed]:
        """For real."""
        return self._inner.score(jobs)

    def close(self) -> None:
        """Nothing to free."""


@dataclass(kw_only=True, eq=False)
class Arena:
    """What all contestants share."""

    run: Run
    executor: LocalExecutor
    reference: Reference
    goals: Goals
    subject: Subject
    space: DesignSpace
    seconds: float
    eager: Callable[[SubnetConfig], float]

    @property
    def limit_ms(self) -> float:
        """The constraint."""
        return self.goals.constraints_ms[0] or 0.0

    def evaluation(self, store: Store, executor: Any = None) -> Evaluation:
        """Measures and scores, by `executor` instead of for real where one is given."""
        return Evaluation(
            executor=executor or self.executor, store=store, goals=self.goals, slack=1.25,
            references=[self.reference], subject=self.subject, flops=self.run.flops,
        )  # fmt: skip

    def contest(self, method: str, seed: int, folder: Path) -> list[Candidate]:
        """All measured candidates of one contestant."""
        rng, plan = Random(seed), SearchPlan(engines=10**6, seconds=self.seconds)
        plain = hand_made_cuts(self.space.subnets)
        cuts = [self.space.of(x) for x in plain]
        guess: Callable[[SubnetConfig], float] | None = None
        strategy: Strategy

        def by_flops(subnet: SubnetConfig) -> float:
            return self.reference.ms * self.run.flops(subnet) / self.run.flops(self.run.ordered.shape)

        def rough_load(subnet: SubnetConfig) -> float:
            return by_flops(subnet) / self.limit_ms

        if method == "ours":
            strategy = Evolution(self.space, self.goals, plan, rng, opening=cuts, rough_load=rough_load)
        elif method == "flops":
            guess = by_flops
            strategy = Evolution(self.space, self.goals, plan, rng, opening=cuts, rough_load=rough_load)
        elif method == "autotinybert":
            scale = self.reference.ms / self.eager(self.run.ordered.shape)
            guess = lambda x: scale * self.eager(x)  # noqa: E731
            strategy = AutoTinyBert(self.space, plan, rng, predict=guess, constraint_ms=self.limit_ms)
        else:
            strategy = RandomSearch(self.space, plan, rng)
        with Store.open(folder / f"{method}-{seed}.sqlite") as store:
            if method == "cuts":
                every = [Design(subnet=x, precisions=(p,)) for x in plain for p in self.space.precisions[0]]
                return list(self.evaluation(store)([Proposal(design=x) for x in every], ()))
            executor = None if guess is None else Guessing(self.executor, guess, self.reference.hardware)
            history = Timed()
            with suppress(NothingFits):
                search(strategy, self.evaluation(store, executor), goals=self.goals, plan=plan, history=history)
        if guess is None:
            return history.within(self.seconds)
        with Store.open(folder / f"{method}-{seed}-measured.sqlite") as store:
            return self._measured_in_time(method, history, self.evaluation(store))

    def _measured_in_time(self, method: str, history: Timed, real: Evaluation) -> list[Candidate]:
        """What a guesser's front turns out to be, had it stopped early enough to measure it within its time."""
        took: dict[Design, tuple[Candidate, float]] = {}
        for share in (x / 20 for x in range(20, 0, -1)):
            known = history.within(share * self.seconds)
            supposed = [x for x in front(known) if self.goals.fits(x)]
            for x in supposed:
                if x.design not in took:
                    (candidate,) = real([Proposal(design=x.design)], ())
                    engine_s = sum(s for name, s in candidate.seconds.items() if name != "accuracy")
                    took[x.design] = candidate, engine_s
            spent = sum(took[x.design][1] for x in supposed)
            if share * self.seconds + spent <= self.seconds:
                print(f"  {method}: asked {len(known)} subnets, measured its front of {len(supposed)} in {spent:.0f} s")
                return [took[x.design][0] for x in supposed]
        return []


def distilled(arena: Arena, designs: dict[str, Design]) -> dict[str, list[bool]]:
    """Which test rows each design gets right after the same further distillation; equal subnets are trained once.

    An int8 design is asked as the engine it would be shipped as: rounding is part of its answer.
    """
    run = arena.run
    labels, texts = run.labels("test"), run.texts("test")
    inputs = run.work_inputs()
    right: dict[str, list[bool]] = {}
    for name, design in designs.items():
        net = run.dense(run.student_stage(f"quality-{design.subnet.key}", design.subnet, inherits=True)).net
        if design.precisions[0] == "int8":
            target = replace(arena.reference.target, precision="int8")
            pairs = texts.token_type_ids is not None
            with open_engine(net, target, pairs=pairs, calibration=inputs.calibration) as engine:
                answers = torch.from_numpy(engine_logits(engine, texts))
        else:
            answers = predict(net, texts)
        right[name] = (answers.argmax(-1) == labels).tolist()
    return right


def _oracle(best: dict[Key, Candidate | None], right: dict[Key, list[bool]]) -> float | None:
    """How well the oracle's accuracies rank what distillation makes of the subnets, each counted once."""
    pairs = {
        pick.subnet: (pick.accuracy or 0.0, sum(right[key]) / len(right[key]))
        for key, pick in best.items()
        if pick is not None and key in right
    }
    return spearman([a for a, _ in pairs.values()], [b for _, b in pairs.values()])


def make_arena(run: Run, seconds: float, folder: Path, *, single: bool) -> Arena:
    """The trained supernet, the reference's latency and the limit; nothing of it is on anybody's clock."""
    run.supernet_stage  # noqa: B018 - trains what is not trained yet
    inputs = run.work_inputs()
    executor = LocalExecutor(inputs)
    (target,) = run.recipe.targets
    engine = target.build()
    pairs = inputs.texts.token_type_ids is not None
    net = inputs.reference
    graph = engine_graph(net.shape, net.facts, token_types=pairs, precision=engine.precision)
    with Store.open(folder / "reference.sqlite") as store:
        reference = find_reference(executor, store, engine, graph=graph)
    limit_ms = (run.recipe.constraint.of_teacher or 0.25) * reference.ms
    return Arena(
        run=run,
        executor=executor,
        reference=reference,
        goals=Goals(constraints_ms=(limit_ms,), focus=FOCUS),
        subject=Subject(
            checkpoint=content_hash(inputs.supernet),
            data=content_hash(inputs.texts, inputs.labels),
            facts=inputs.supernet.facts,
            token_types=pairs,
        ),
        space=DesignSpace(subnets=run.space, precisions=((engine.precision,) if single else target.precisions,)),
        seconds=seconds,
        eager=eager_predictor(inputs, run.space, engine, rng=Random(0)),
    )


def compete(
    arena: Arena, seeds: Sequence[int], folder: Path, kept: Path
) -> tuple[dict[Key, float], dict[Key, Candidate | None]]:
    """Hypervolume and best candidate of every method and seed; the methods take turns, seed by seed.

    What is done is in `kept` at once, and what is there already is not done again.
    """
    volumes: dict[Key, float] = {}
    best: dict[Key, Candidate | None] = {}
    chance = 1 / len(arena.run.teacher.labels)
    rows = []
    done: dict[str, Any] = json.loads(kept.read_text()) if kept.is_file() else {}
    for seed in seeds:
        for method in METHODS:
            name, key = f"{seed} {method}", (method, seed)
            if name not in done:
                found = arena.contest(method, seed, folder)
                volume = hypervolume(found, accuracy=chance, latency_ms=arena.limit_ms) / arena.limit_ms
                pick = None
                with suppress(NothingFits):
                    pick = most_accurate(found, arena.goals).to_json()
                done[name] = {"measured": sum(x.is_measured for x in found), "volume": volume, "best": pick}
                write_json(kept, done)
            volumes[key] = done[name]["volume"]
            best[key] = winner = None if done[name]["best"] is None else Candidate.from_json(done[name]["best"])
            numbers = ["-", "-", "-"] if winner is None else [winner.accuracy, winner.ms[0], str(winner.design)]
            rows.append([name, done[name]["measured"], volumes[key], *numbers])
            print("  ".join(str(x) for x in rows[-1]), flush=True)
    print(f"\n{arena.reference.target.label} in {arena.reference.effective_precision}, {usable_cpus()} cores\n")
    table(["seed, method", "measured", "hypervolume", "search-dev", "ms", "best within the limit"], rows)
    return volumes, best


def judge(
    seeds: Sequence[int], volumes: dict[Key, float], right: dict[Key, list[bool]]
) -> tuple[list[dict[str, Any]], list[list[object]]]:
    """The targets, and a table of accuracies after distillation with McNemar's p against ours."""
    targets, rows = [], []
    for seed in seeds:
        mine = right.get(("ours", seed))
        for method in METHODS:
            theirs = right.get((method, seed))
            score = None if theirs is None else sum(theirs) / len(theirs)
            p_value = None
            if theirs is not None and mine is not None:
                both = list(zip(mine, theirs, strict=True))
                p_value = mcnemar(sum(a and not b for a, b in both), sum(b and not a for a, b in both))
            rows.append([f"{seed} {method}", "-" if score is None else score, "-" if p_value is None else p_value])
            if method != "ours":
                ahead = volumes["ours", seed] / max(volumes[method, seed], 1e-9)
                targets.append(target(f"hypervolume_ratio_{method}_seed{seed}", min(ahead, 1e6), ">", 1.0))
                gain = None if mine is None else sum(mine) / len(mine) - (score or 0.0)
                targets.append(target(f"accuracy_gain_{method}_seed{seed}", gain, ">=", 0.0))
    return targets, rows


def main() -> int:
    """Exit code 0 where all targets are met."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one seed, 25 s a search, a short distillation")
    parser.add_argument("--single", action="store_true", help="only the first precision of the recipe")
    parser.add_argument("--resume", action="store_true", help="keep the searches that a killed run finished")
    parser.add_argument("--seconds", type=float, help="wall time of each search")
    parser.add_argument("--seeds", type=int, help="how many seeds")
    parser.add_argument("--recipe", type=Path, default=RECIPE)
    options = parser.parse_args()
    seconds = options.seconds or (25.0 if options.quick else 90.0)
    seeds = range(1, 1 + (options.seeds or (1 if options.quick else 3)))
    recipe = load_recipe(options.recipe)
    if options.quick:
        short = recipe.distill.model_copy(update={"steps": 100})
        recipe = recipe.model_copy(update={"distill": short})
    quiet_libraries()
    torch.set_num_threads(usable_cpus())
    begun = time.monotonic()
    with Workspace.open(Path(recipe.output), resume=True) as workspace, tempfile.TemporaryDirectory() as scratch:
        run = Run(recipe=recipe, workspace=workspace, ui=Ui())
        arena = make_arena(run, seconds, Path(scratch), single=options.single)
        print(
            f"teacher {arena.reference.ms:.3f} ms, limit {arena.limit_ms:.3f} ms, {run.space.size():.3g} subnets, "
            f"{seconds:g} s each"
        )
        kept = Path(recipe.output) / f"searches{'-single' if options.single else ''}-{seconds:g}s.json"
        if not options.resume:
            kept.unlink(missing_ok=True)
        volumes, best = compete(arena, seeds, Path(scratch), kept)
        right: dict[Key, list[bool]] = {}
        for seed in seeds:
            picks = {method: best[method, seed] for method in METHODS}
            chosen = {method: pick.design for method, pick in picks.items() if pick is not None}
            right |= {(method, seed): answers for method, answers in distilled(arena, chosen).items()}
        arena.executor.close()
    print()
    targets, rows = judge(seeds, volumes, right)
    table(["after distillation", "test accuracy", "p against ours"], rows)
    oracle = _oracle(best, right)
    print(f"\nrank correlation of inherited accuracy (search-dev) with accuracy after distillation (test): {oracle}")
    return finish(
        "search/search_quality",
        targets,
        quick=options.quick,
        seconds=time.monotonic() - begun,
        seconds_each=seconds,
        precisions=arena.space.precisions[0],
        limit_ms=arena.limit_ms,
        oracle_spearman=oracle,
        hypervolumes={f"{method} {seed}": value for (method, seed), value in volumes.items()},
        environment=environment(),
    )


if __name__ == "__main__":
    sys.exit(main())
