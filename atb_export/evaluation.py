"""One generation of a search, evaluated: what the store knows is reused, the rest is handed to the executor."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from atb_export.jobs import Executor, Failed, Measured, MeasureJob, Scored, ScoreJob
from atb_export.work import engine_graph
from runtime.target import EngineTarget
from search.candidate import Candidate, Timing
from search.design import Design
from search.errors import SearchError
from search.goals import Goals
from search.store import Accuracy, EngineKey, Failure, Measurement, Store
from search.strategy import Proposal
from supernet.facts import ModelFacts
from supernet.space import SubnetConfig

_Scores = dict[tuple[SubnetConfig, str], Scored | Failed]


@dataclass(frozen=True, kw_only=True)
class Reference:
    """The engine a target's candidates are timed beside: what it was built for, its graph, calm time and machine."""

    target: EngineTarget
    graph: str
    ms: float
    effective_precision: str
    runtime: str
    hardware: str


@dataclass(frozen=True, kw_only=True)
class Subject:
    """What accuracies hold for: the weights (a sha256), the rows they are asked on, and how."""

    checkpoint: str
    data: str
    facts: ModelFacts
    token_types: bool


def find_reference(executor: Executor, store: Store, target: EngineTarget, *, graph: str) -> Reference:
    """Measures the reference on the target, and learns from it which machine that is.

    Its calm time is the lower quartile of all times this machine ever took for it: a busy hour must not change the
    scale. Raises `SearchError` where it cannot be measured.
    """
    (result,) = executor.measure([MeasureJob(subnet=None, target=target, reference=target)])
    if isinstance(result, Failed):
        raise SearchError(f"the reference engine for {target.label} cannot be measured: {result.reason}")
    store.add(_row(result, None, None, graph, result.ms))
    key = result.key
    known = store.measurements(
        graph=graph, target=target.label, hardware=key.hardware, runtime=key.runtime, reports=False
    )
    # A candidate may have the reference's graph; its time is on some search's scale.
    times = sorted(row.ms for row in known if row.subnet is None)
    return Reference(
        target=target,
        graph=graph,
        ms=times[(len(times) - 1) // 4],
        effective_precision=key.effective_precision,
        runtime=key.runtime,
        hardware=key.hardware,
    )


@dataclass(kw_only=True, eq=False)
class Evaluation:
    """Evaluates proposals for `search.loop`. `spent` counts what was really done, and what was reused."""

    executor: Executor
    store: Store
    goals: Goals
    slack: float
    references: Sequence[Reference]
    subject: Subject
    flops: Callable[[SubnetConfig], int]
    spent: dict[str, int] = field(default_factory=lambda: {"measured": 0, "scored": 0, "reused": 0})

    def __call__(self, proposals: Sequence[Proposal], known: Sequence[Candidate]) -> Iterator[Candidate]:
        """First the accuracies of those whose latency can be foreseen; then the engines of all that may stand on the
        front; then the accuracies still missing of those that are fast enough to matter."""
        foreseen = {
            x.design: x.least_ms
            for x in proposals
            if x.least_ms is not None and self.goals.load(x.least_ms) <= self.slack
        }
        scores = self._scored({d: self._rival(ms, known) for d, ms in foreseen.items()})
        spared = {d for d, ms in foreseen.items() if self._hopeless(self._answers(d, scores), ms, known)}
        built = [x for x in proposals if x.design not in spared]
        timed = dict(zip((x.design for x in built), self._measured([x.design for x in built]), strict=True))
        rivals = {}
        for design, results in timed.items():
            ms = [x.ms for x in results if isinstance(x, Measured)]
            if design not in foreseen and not _failures(results) and self.goals.load(ms) <= self.slack:
                rivals[design] = self._rival(ms, known)
        scores |= self._scored(rivals)
        for proposal in proposals:
            yield self._candidate(proposal, timed.get(proposal.design), scores)

    # --- latency -------------------------------------------------------------------------------------------------

    def _targets(self, design: Design) -> list[EngineTarget]:
        pairs = zip(self.references, design.precisions, strict=True)
        return [replace(reference.target, precision=precision) for reference, precision in pairs]  # type: ignore[arg-type]

    def _measured(self, designs: Sequence[Design]) -> list[list[Measured | Failed]]:
        """Per design and target what the store knows or the executor found; everything new is stored at once.

        Subnets of other layers but the same shape are one engine, which is measured once.
        """
        results: dict[tuple[str, EngineTarget], Measured | Failed] = {}
        jobs: dict[tuple[str, EngineTarget], tuple[MeasureJob, Reference]] = {}
        places: list[list[tuple[str, EngineTarget]]] = []
        for design in designs:
            places.append([])
            for target, reference in zip(self._targets(design), self.references, strict=True):
                graph = engine_graph(
                    design.subnet, self.subject.facts, token_types=self.subject.token_types, precision=target.precision
                )
                place = (graph, target)
                places[-1].append(place)
                if place in results or place in jobs:
                    continue
                if (found := self._stored(graph, target, reference)) is not None:
                    results[place] = found
                    self.spent["reused"] += 1
                    continue
                job = MeasureJob(
                    subnet=design.subnet,
                    target=target,
                    reference=reference.target,
                    reference_ms=reference.ms,
                    hardware=reference.hardware,
                )
                jobs[place] = (job, reference)
        done = self.executor.measure([job for job, _ in jobs.values()])
        for (place, (job, reference)), result in zip(jobs.items(), done, strict=True):
            results[place] = result
            self._keep(result, job, place[0], reference)
        return [[_taken(results, place) for place in mine] for mine in places]

    def _stored(self, graph: str, target: EngineTarget, reference: Reference) -> Measured | Failed | None:
        label, hardware, runtime = target.label, reference.hardware, reference.runtime
        for row in self.store.measurements(
            graph=graph, target=label, hardware=hardware, runtime=runtime, reports=False
        ):
            if row.reference != reference.graph:
                continue
            # One scale for all: the ratio to the reference counts, whatever its calm time was then.
            scale = reference.ms / row.reference_ms
            return Measured(
                key=row.key,
                ms=row.ms * scale,
                ci_ms=(row.ci_ms[0] * scale, row.ci_ms[1] * scale),
                model_bytes=row.model_bytes or 0,
                report={},
            )
        failure = self.store.failure(graph=graph, target=label, hardware=hardware, runtime=runtime)
        return None if failure is None else Failed(reason=failure.reason)

    def _keep(self, result: Measured | Failed, job: MeasureJob, graph: str, reference: Reference) -> None:
        self.spent["measured"] += 1
        if isinstance(result, Measured):
            self.store.add(_row(result, job.subnet, self.flops, reference.graph, reference.ms))
        elif result.lasting:
            shape = job.target.shape
            key = EngineKey(
                graph=graph,
                target=job.target.label,
                effective_precision="unknown",
                batch=shape.batch,
                length=shape.length,
                threads=job.target.threads,
                runtime=reference.runtime,
                hardware=reference.hardware,
            )
            self.store.add(Failure(key=key, reason=result.reason))

    # --- accuracy ------------------------------------------------------------------------------------------------

    def _hopeless(
        self, answers: Sequence[Scored | Failed], least_ms: Sequence[float], known: Sequence[Candidate]
    ) -> bool:
        """Whether somebody known is at least as accurate, and at least as fast as this one could be at best."""
        scored = [x for x in answers if isinstance(x, Scored)]
        if self.goals.small or len(scored) < len(answers):  # bytes are known of a built engine only
            return False
        faster = [
            x.accuracy or 0.0 for x in known if x.is_scored and all(a <= b for a, b in zip(x.ms, least_ms, strict=True))
        ]
        if not faster:
            return False
        return not all(x.complete for x in scored) or min(x.accuracy for x in scored) <= max(faster)

    def _rival(self, ms: Sequence[float], known: Sequence[Candidate]) -> bytes | None:
        """Which rows the most accurate candidate got right that is at least as fast everywhere."""
        faster = [x for x in known if x.is_scored and all(a <= b for a, b in zip(x.ms, ms, strict=True))]
        if not faster:
            return None
        best = max(faster, key=lambda x: (x.accuracy or 0.0, x.design.key))
        rows = [self._known_score(best.design, precision) for precision in self._questions(best.design)]
        answered = [row for row in rows if row is not None]
        return min(answered, key=lambda x: x.accuracy).correct if answered else None

    def _known_score(self, design: Design, precision: str) -> Accuracy | None:
        return self.store.accuracy(
            checkpoint=self.subject.checkpoint,
            subnet=design.subnet.to_json(),
            precision=precision,
            data=self.subject.data,
        )

    def _questions(self, design: Design) -> dict[str, EngineTarget | None]:
        """How many ways a design's weights are rounded: all float precisions answer alike, int8 engines do not."""
        return {
            f"int8 {target.label}" if target.precision == "int8" else "float": (
                target if target.precision == "int8" else None
            )
            for target in self._targets(design)
        }

    def _answers(self, design: Design, scores: _Scores) -> list[Scored | Failed]:
        return [scores[design.subnet, p] for p in self._questions(design) if (design.subnet, p) in scores]

    def _scored(self, rivals: Mapping[Design, bytes | None]) -> _Scores:
        """Of each design what its weights answer, asked no further where its rival is surely ahead."""
        scores: _Scores = {}
        jobs: dict[tuple[SubnetConfig, str], ScoreJob] = {}
        for design in rivals:
            for precision, quantised in self._questions(design).items():
                place = (design.subnet, precision)
                if place in scores or place in jobs:
                    continue
                row = self._known_score(design, precision)
                if row is not None and row.complete:
                    scores[place] = Scored(
                        accuracy=row.accuracy, rows=row.rows, complete=row.complete, correct=row.correct
                    )
                    self.spent["reused"] += 1
                else:
                    jobs[place] = ScoreJob(subnet=design.subnet, quantised=quantised, rival=rivals[design])
        done = self.executor.score(list(jobs.values()))
        for place, result in zip(jobs, done, strict=True):
            scores[place] = result
            self.spent["scored"] += 1
            if isinstance(result, Scored):
                self.store.add(
                    Accuracy(
                        checkpoint=self.subject.checkpoint,
                        subnet=place[0].to_json(),
                        precision=place[1],
                        data=self.subject.data,
                        rows=result.rows,
                        complete=result.complete,
                        accuracy=result.accuracy,
                        correct=result.correct,
                    )
                )
        return scores

    # --- both ----------------------------------------------------------------------------------------------------

    def _candidate(self, proposal: Proposal, results: Sequence[Measured | Failed] | None, scores: _Scores) -> Candidate:
        """Without `results` no engine was built."""
        design, flops = proposal.design, self.flops(proposal.design.subnet)
        answers = self._answers(design, scores)
        if reasons := _failures([*(results or ()), *answers]):
            return Candidate(design=design, flops=flops, status="failed", reason="; ".join(reasons))
        timed = [x for x in results or () if isinstance(x, Measured)]
        # The least accurate of its engines is what a user of all targets gets.
        worst = min((x for x in answers if isinstance(x, Scored)), key=lambda x: x.accuracy, default=None)
        seconds: dict[str, float] = {}
        for spent in (*(x.seconds for x in timed), *(x.seconds for x in answers if isinstance(x, Scored))):
            for name, value in spent.items():
                seconds[name] = seconds.get(name, 0.0) + value
        return Candidate(
            design=design,
            flops=flops,
            latencies=tuple(Timing(ms=x.ms, ci_ms=x.ci_ms) for x in timed),
            accuracy=None if worst is None else worst.accuracy,
            rows=0 if worst is None else worst.rows,
            complete=all(x.complete for x in answers if isinstance(x, Scored)),
            model_bytes=sum(x.model_bytes for x in timed) or None,
            predicted_ms=proposal.predicted_ms,
            seconds=seconds,
            status="spared" if results is None else "measured",
        )


def _taken(
    results: dict[tuple[str, EngineTarget], Measured | Failed], place: tuple[str, EngineTarget]
) -> Measured | Failed:
    """The result; the time it took counts for the first who takes it."""
    result = results[place]
    if isinstance(result, Measured):
        results[place] = replace(result, seconds={})
    return result


def _failures(results: Sequence[Measured | Scored | Failed]) -> list[str]:
    return list(dict.fromkeys(x.reason for x in results if isinstance(x, Failed)))


def _row(
    result: Measured,
    subnet: SubnetConfig | None,
    flops: Callable[[SubnetConfig], int] | None,
    reference: str,
    reference_ms: float,
) -> Measurement:
    return Measurement(
        key=result.key,
        ms=result.ms,
        ci_ms=result.ci_ms,
        subnet=None if subnet is None else subnet.to_json(),
        reference=reference,
        reference_ms=reference_ms,
        report=dict(result.report),
        flops=None if subnet is None or flops is None else flops(subnet),
        model_bytes=result.model_bytes,
    )
