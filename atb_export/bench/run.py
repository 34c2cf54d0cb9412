"""One interleaved run over variants, cells and scenarios."""

from __future__ import annotations

import gc
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from random import Random
from typing import Any

from atb_export.bench.errors import BenchError
from atb_export.bench.feeding import TextEngine, feeds_of, shortest_first
from atb_export.bench.result import (
    SCENARIOS,
    TITLES,
    BenchResult,
    Measured,
    OfflineRow,
    ServerRow,
    SingleStreamRow,
    Skipped,
)
from atb_export.bench.variants import Cell, Variant
from runtime.classifier import Text
from runtime.engine import Engine, Feeds
from runtime.environment import environment
from runtime.errors import AtbRuntimeError
from runtime.measure import MeasurePlan, measure
from runtime.scenarios import (
    Answer,
    OfflineReport,
    RateSearch,
    ServerReport,
    SystemTime,
    Time,
    offline,
    pooled,
    server,
)

_LEAST_QUERIES = 100  # of a round of Server: fewer have no 99th percentile
_PAUSE_NS = 5_000_000  # between two variants: threads of some runtimes spin on for a while
_GUESS_RUNS = 8
_GUESS_LOAD = 0.5


@dataclass(frozen=True, kw_only=True)
class BenchPlan:
    """What is measured.

    SingleStream takes `windows` windows of each variant; Offline and Server `rounds` rounds, together of `seconds`.
    Server runs at each of `rates_per_s`, and with `max_ms` also at the highest rate that keeps p99 within it. With
    `texts` every variant starts from text, else from made-up tokens that fill its shape.
    """

    scenarios: tuple[str, ...] = ("singlestream",)
    cells: tuple[Cell, ...] = (Cell(),)
    windows: int = 30
    seconds: float = 6.0
    rounds: int = 3
    rates_per_s: tuple[float, ...] = ()
    max_ms: float | None = None
    texts: tuple[Text, ...] = ()
    seed: int = 0

    def __post_init__(self) -> None:
        if not self.scenarios or (unknown := set(self.scenarios) - set(SCENARIOS)):
            raise ValueError(f"scenarios are some of {', '.join(SCENARIOS)}, got {', '.join(unknown) or 'none'}")
        for name in ("seconds", "max_ms"):
            value = getattr(self, name)
            if value is not None and not (value > 0 and math.isfinite(value)):
                raise ValueError(f"{name} must be more than 0, got {value!r}")
        for rate in self.rates_per_s:
            if not (rate > 0 and math.isfinite(rate)):
                raise ValueError(f"a rate is more than 0 queries per second, got {rate!r}")
        if ("server" in self.scenarios) != bool(self.rates_per_s or self.max_ms):
            raise ValueError("Server, and it alone, takes a rate or a bound (max_ms) to find the highest rate for")
        if self.windows < 2 or self.rounds < 1 or not self.cells:
            raise ValueError("at least 2 windows, 1 round and 1 cell are needed")

    def to_json(self) -> dict[str, Any]:
        """Plain data; the texts are counted."""
        return {
            "scenarios": list(self.scenarios),
            "windows": self.windows,
            "seconds": self.seconds,
            "rounds": self.rounds,
            "rates_per_s": list(self.rates_per_s),
            "max_ms": self.max_ms,
            "texts": len(self.texts),
            "seed": self.seed,
        }


@dataclass(frozen=True, kw_only=True, eq=False)
class _Opened:
    """A variant in one cell; `answer` takes numbers of queries, `samples` of them are one pass of Offline."""

    who: Measured
    engine: Engine
    feeds: Feeds
    answer: Answer
    offline: Answer
    samples: int


@dataclass(kw_only=True)
class _Rows:
    single_stream: list[SingleStreamRow] = field(default_factory=list)
    offline: list[OfflineRow] = field(default_factory=list)
    server: list[ServerRow] = field(default_factory=list)


def bench(
    variants: Mapping[str, Variant],
    plan: BenchPlan,
    *,
    say: Callable[[str], None] = lambda text: None,
    time: Time | None = None,
) -> BenchResult:
    """Every variant in every cell, side by side; the first variant is the reference.

    What does not open is an error where there is one cell; of a sweep it is skipped, and where it is the reference,
    there is nothing to compare with and the cell is left out.
    """
    clock = time or SystemTime()
    rows, skipped = _Rows(), []
    reference, failure = next(iter(variants)), None
    for cell in plan.cells:
        with ExitStack() as stack:
            opened: dict[str, _Opened] = {}
            for name, variant in variants.items():
                target = cell.of(variant.target)
                try:
                    opened[name] = _open(stack, name, variant, cell, plan.texts)
                except (AtbRuntimeError, BenchError) as error:
                    if len(plan.cells) == 1:
                        raise
                    failure = failure or error
                    skipped.append(Skipped(name=name, target=target.label, reason=str(error)))
                    if name == reference:
                        break
            if opened:
                _run_cell(opened, plan, rows, clock=clock, say=say)
    if failure is not None and not (rows.single_stream or rows.offline or rows.server):
        raise failure
    return BenchResult(
        reference=reference,
        single_stream=tuple(rows.single_stream),
        offline=tuple(rows.offline),
        server=tuple(rows.server),
        skipped=tuple(skipped),
        plan=plan.to_json(),
        environment=environment(),
    )


def _open(stack: ExitStack, name: str, variant: Variant, cell: Cell, texts: Sequence[Text]) -> _Opened:
    target = cell.of(variant.target)
    engine: Engine
    if texts:
        # A text is one query; how many are answered at once is the scenario's business.
        engine = stack.enter_context(variant.open_texts(target, texts))
    else:
        engine = stack.enter_context(variant.open(target))
    takes_text = isinstance(engine, TextEngine)
    fixed = () if texts and not variant.lengths else (engine.target.shape.length,)
    who = Measured(
        name=name,
        source=variant.source,
        target=engine.target,
        effective_precision=engine.effective_precision,
        takes="text" if takes_text else "tokens",
        lengths=variant.lengths if texts and cell.length is None else fixed,
    )
    batch = engine.target.shape.batch
    if not texts or not isinstance(engine, TextEngine):
        feeds: Feeds = {} if takes_text else feeds_of(engine)

        def run(queries: Sequence[int]) -> object:
            return engine.infer(feeds)

        return _Opened(who=who, engine=engine, feeds=feeds, answer=run, offline=run, samples=batch)
    drawn, ordered = list(texts), shortest_first(texts)
    return _Opened(
        who=who,
        engine=engine,
        feeds={},
        answer=partial(_chosen, engine.answer, drawn),
        offline=partial(_chosen, engine.answer, ordered),
        samples=len(ordered),
    )


def _chosen(answer: Callable[[list[Text]], Any], texts: list[Text], queries: Sequence[int]) -> object:
    return answer([texts[i % len(texts)] for i in queries])


def _run_cell(
    opened: Mapping[str, _Opened], plan: BenchPlan, rows: _Rows, *, clock: Time, say: Callable[[str], None]
) -> None:
    first = next(iter(opened.values())).who.target
    many = "" if first.threads == 1 else "s"
    cell = f"batch {first.shape.batch}, length {first.shape.length}, {first.threads} thread{many}"
    with _settled():
        for scenario in dict.fromkeys(plan.scenarios):
            say(f"{TITLES[scenario]}: {', '.join(opened)} at {cell}")
            if scenario == "singlestream":
                rows.single_stream += _single_stream(opened, plan)
            elif scenario == "offline":
                rows.offline += _offline(opened, plan, clock)
            else:
                for rate in plan.rates_per_s:
                    rows.server += _at_rate(opened, plan, rate, clock)
                if plan.max_ms is not None:
                    rows.server += _highest(opened, plan, plan.max_ms, clock, say)


def _single_stream(opened: Mapping[str, _Opened], plan: BenchPlan) -> list[SingleStreamRow]:
    reports = measure(
        {name: x.engine for name, x in opened.items()},
        {name: x.feeds for name, x in opened.items()},
        reference=next(iter(opened)),
        plan=MeasurePlan(windows=plan.windows, max_repeats=plan.windows),
    )
    return [SingleStreamRow(who=x.who, report=reports[name]) for name, x in opened.items()]


def _offline(opened: Mapping[str, _Opened], plan: BenchPlan, clock: Time) -> list[OfflineRow]:
    found: dict[str, list[tuple[int, float]]] = {name: [] for name in opened}
    for round_ in range(plan.rounds):
        for name in _rotated(opened, round_):
            x = opened[name]
            _settle(x, clock)
            least_s = plan.seconds / plan.rounds
            found[name].append(offline(x.offline, samples=x.samples, least_s=least_s, time=clock))
    return [
        OfflineRow(
            who=x.who,
            report=OfflineReport(
                samples=tuple(n for n, _ in found[name]),
                seconds=tuple(s for _, s in found[name]),
            ),
        )
        for name, x in opened.items()
    ]


def _at_rate(opened: Mapping[str, _Opened], plan: BenchPlan, rate: float, clock: Time) -> list[ServerRow]:
    """Rounds at one rate; in a round all variants meet the same arrivals."""
    found: dict[str, list[ServerReport]] = {name: [] for name in opened}
    for round_ in range(plan.rounds):
        for name in _rotated(opened, round_):
            found[name].append(_serve(opened[name], plan, rate, clock, seconds=plan.seconds / plan.rounds, draw=round_))
    return [ServerRow(who=x.who, report=pooled(found[name]), max_ms=plan.max_ms) for name, x in opened.items()]


def _highest(
    opened: Mapping[str, _Opened], plan: BenchPlan, max_ms: float, clock: Time, say: Callable[[str], None]
) -> list[ServerRow]:
    """The bisections of all variants, one probe of each at a time."""
    searches = {name: RateSearch(guess_per_s=_guess(x, clock)) for name, x in opened.items()}
    probes: dict[str, list[tuple[float, float]]] = {name: [] for name in opened}
    confirmed: dict[str, ServerReport] = {}
    turn = 0
    while any(x.rate_per_s is not None for x in searches.values()):
        for name in _rotated(opened, turn):
            search, x = searches[name], opened[name]
            if (rate := search.rate_per_s) is None:
                continue
            if search.confirming:
                parts = [
                    _serve(x, plan, rate, clock, seconds=plan.seconds / plan.rounds, draw=1000 * (turn + 1) + i)
                    for i in range(plan.rounds)
                ]
                report = pooled(parts)
            else:
                report = _serve(x, plan, rate, clock, seconds=plan.seconds / 2, draw=1000 * (turn + 1), max_ms=max_ms)
            probes[name].append((rate, report.p99_ms))
            search.tell(report.p99_ms <= max_ms)
            if search.found_per_s is not None:
                confirmed[name] = report
                say(f"  {name}: {rate:.4g} queries per second keep p99 within {max_ms:g} ms")
        turn += 1
    return [
        ServerRow(who=x.who, report=confirmed.get(name), max_ms=max_ms, highest=True, probes=tuple(probes[name]))
        for name, x in opened.items()
    ]


def _serve(
    x: _Opened,
    plan: BenchPlan,
    rate: float,
    clock: Time,
    *,
    seconds: float,
    draw: int,
    max_ms: float | None = None,
) -> ServerReport:
    _settle(x, clock)
    return server(
        x.answer,
        rate_per_s=rate,
        queries=max(_LEAST_QUERIES, round(rate * seconds)),
        rng=Random(f"{plan.seed}-{draw}"),
        time=clock,
        batch=x.who.target.shape.batch,
        max_ms=max_ms,
        patience_s=max(1.0, seconds),
    )


def _guess(x: _Opened, clock: Time) -> float:
    """Half of what it answers at once, one at a time: a rate to start from."""
    _settle(x, clock)
    begun = clock.now_ns()
    for i in range(_GUESS_RUNS):
        x.answer([i])
    return _GUESS_LOAD * _GUESS_RUNS * 1e9 / max(1, clock.now_ns() - begun)


def _settle(x: _Opened, clock: Time) -> None:
    """Lets the neighbour's threads go to sleep, and brings this variant's weights back into the caches."""
    clock.wait_until(clock.now_ns() + _PAUSE_NS)
    for _ in range(2):
        x.answer([0])


def _rotated(names: Mapping[str, Any], turn: int) -> list[str]:
    """No variant is always the one after the slowest."""
    listed = list(names)
    turn %= len(listed)
    return listed[turn:] + listed[:turn]


@contextmanager
def _settled() -> Iterator[None]:
    """Takes what is there already out of the garbage collector's sight: one framework's objects burden no other."""
    gc.collect()
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
